"""The dashboard's arguments, and what the terminal and its environment are asked before Textual is imported."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from pydantic import SecretStr

from jobdeck.core import settings as configuration
from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from jobdeck.core.settings import Settings

WITH_VALUE: Final = ("--database-url", "--handlers", "--refresh")
OWN: Final = (*WITH_VALUE, "--read-only", "--worker", "--mouse")
DEFAULT_THEME: Final = "jobdeck-dark"
HELP: Final = """
Options of the dashboard (jobdeck without a command, and jobdeck demo):
  --read-only        Change nothing, whatever the database allows.
  --worker           Run a worker inside the dashboard; the embedded database always has one.
  --mouse            Take the mouse: click, wheel, double click.
  --refresh SECONDS  How often to read the database; 2 where left out.
Environment: NO_COLOR, JOBDECK_THEME (dark, light, contrast, ansi-dark, ansi-light; the last two use the terminal's
own 16 colours, and are chosen on terminals that have no more).
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the dashboard was started with."""

    database_url: str | None = None
    handlers: str | None = None
    read_only: bool = False
    worker: bool = False
    mouse: bool = False
    refresh: float = 2.0

    def settings(self) -> Settings:
        """The settings, with these arguments over them.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        given: dict[str, object] = {}
        if self.database_url:
            given["database_url"] = SecretStr(self.database_url)
        if self.handlers:
            given["handlers"] = self.handlers
        return configuration.load().model_copy(update=given)

    def shared(self) -> list[str]:
        """Those of them that commands take as well."""
        given = (("--database-url", self.database_url), ("--handlers", self.handlers))
        return [word for name, value in given if value for word in (name, value)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See `jobdeck --help`.")


def command_of(arguments: Sequence[str]) -> str | None:
    """The first word that is no option of the dashboard and no option's value; None asks for the dashboard."""
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in OWN:
            return word
        if name in WITH_VALUE and not equals:
            next(words, None)
    return None


def parse(arguments: Sequence[str]) -> Arguments:
    """Reads the dashboard's arguments.

    Raises:
        UsageError: one is unknown or unreadable.
    """
    parser = _Parser(prog="jobdeck", add_help=False, allow_abbrev=False)
    parser.add_argument("--database-url")
    parser.add_argument("--handlers")
    parser.add_argument("--refresh", type=_seconds, default=2.0)
    for flag in ("--read-only", "--worker", "--mouse"):
        parser.add_argument(flag, action="store_true")
    return Arguments(**vars(parser.parse_args(list(arguments))))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3600:
        raise argparse.ArgumentTypeError("wants seconds from 0.5 to 3600")
    return value


def terminal_is_fit() -> bool:
    """Whether a dashboard can be shown: a terminal on all sides, and one that can place a cursor.

    Textual reads from stdin and paints on stderr.
    """
    named = os.environ.get("TERM", "")
    return named not in {"", "dumb", "unknown"} and all(os.isatty(number) for number in (0, 1, 2))


def prepare_environment(environ: MutableMapping[str, str], configured: str = "") -> str:
    """Sets what Textual reads when it is imported, and returns the theme to use.

    `configured` is what the setting JOBDECK_THEME says; TEXTUAL_THEME goes before it. With `NO_COLOR` it is one of
    the two themes that Textual can strip of every colour. A theme of Jobdeck's own is unknown to Textual until the
    app has registered it, so its name must not stay in the environment. Nor must a size, which a shell or a program
    with line editing may have exported: it would be believed before the terminal's own, whatever that is resized to.
    """
    for name in ("COLUMNS", "LINES"):
        environ.pop(name, None)
    environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    environ.setdefault("ESCDELAY", "250")
    # What a key changes waits for up to two frames: at Textual's 60 a second that is longer than the rest of its way.
    environ.setdefault("TEXTUAL_FPS", "120")
    theme = environ.pop("TEXTUAL_THEME", "") or _theme_of(configured)
    theme = theme or ("ansi-dark" if _has_16_colours(environ) else DEFAULT_THEME)
    if "NO_COLOR" in environ and not theme.startswith("ansi-"):
        theme = "ansi-dark"
    if theme.startswith("ansi-"):
        environ["TEXTUAL_THEME"] = theme if theme in {"ansi-dark", "ansi-light"} else "ansi-dark"
    return theme


def _theme_of(setting: str) -> str:
    return setting if setting.startswith("ansi-") or not setting else f"jobdeck-{setting}"


def _has_16_colours(environ: Mapping[str, str]) -> bool:
    """Whether the terminal says that it has no more colours, by the signs that Textual goes by."""
    term = environ.get("TERM", "")
    if not term or environ.get("COLORTERM", "").lower() in {"truecolor", "24bit"}:
        return False
    return not term.endswith(("-256color", "-kitty", "-direct"))
