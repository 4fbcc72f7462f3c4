"""The dashboard's arguments, and the checks of terminal and environment before Textual is imported."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

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
  --database-url URL Given more than once, it opens a page with a line for each database. Enter opens one.
  --read-only        Disable all changes.
  --worker           Run a worker inside the dashboard. With the embedded database there always is one.
  --mouse            Use the mouse: click, double click, wheel.
  --refresh SECONDS  Seconds between two reads of the database (default 2).
  --calm             With demo: without the incident that begins after a minute.
Environment: NO_COLOR, JOBDECK_THEME (dark, light, contrast, ansi-dark, ansi-light; the last two use the terminal's
own 16 colours, and are the default on terminals with 16 colours).
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    database_urls: tuple[str, ...] = ()
    handlers: str | None = None
    read_only: bool = False
    worker: bool = False
    mouse: bool = False
    refresh: float = 2.0

    def settings(self) -> Settings:
        """The settings; these arguments take precedence, but for several databases.

        Raises:
            ConfigurationError: a setting is invalid.
        """
        url = self.database_urls[0] if len(self.database_urls) == 1 else None
        return configuration.load(database_url=url, handlers=self.handlers or None)

    def names_fleet(self, settings: Settings) -> bool:
        """Whether the databases are several: more than one is given, or none and the settings list them."""
        one = bool(self.database_urls) or settings.database_url is not None
        return len(self.database_urls) > 1 or (not one and bool(settings.databases))

    def shared(self) -> list[str]:
        """The arguments that commands have too."""
        given = (*(("--database-url", url) for url in self.database_urls), ("--handlers", self.handlers))
        return [word for name, value in given if value for word in (name, value)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See `jobdeck --help`.")


def command_of(arguments: Sequence[str]) -> str | None:
    """The command: the first word that is not an option of the dashboard or its value. None means the dashboard."""
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
        UsageError: an argument is unknown or invalid.
    """
    parser = _Parser(prog="jobdeck", add_help=False, allow_abbrev=False)
    parser.add_argument("--database-url", action="append", default=[], dest="database_urls")
    parser.add_argument("--handlers")
    parser.add_argument("--refresh", type=_seconds, default=2.0)
    for flag in ("--read-only", "--worker", "--mouse"):
        parser.add_argument(flag, action="store_true")
    found = vars(parser.parse_args(list(arguments)))
    return Arguments(**{**found, "database_urls": tuple(filter(None, found["database_urls"]))})


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.5 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0.5 to 3600")
    return value


def terminal_is_fit() -> bool:
    """Whether stdin, stdout and stderr are a terminal that can position its cursor.

    Textual reads from stdin and writes to stderr.
    """
    named = os.environ.get("TERM", "")
    return named not in {"", "dumb", "unknown"} and all(os.isatty(number) for number in (0, 1, 2))


def prepare_environment(environ: MutableMapping[str, str], configured: str = "") -> str:
    """Sets the environment variables that Textual reads when it is imported, and returns the theme.

    `configured` is the setting JOBDECK_THEME; TEXTUAL_THEME takes precedence over it. With `NO_COLOR` the theme is
    one of the two that Textual can show without any colour. Two things must not stay in the environment: the name of
    a theme of Jobdeck, which Textual does not know before the app registers it, and a size exported by a shell, which
    Textual would use instead of the terminal's real size.
    """
    for name in ("COLUMNS", "LINES"):
        environ.pop(name, None)
    environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    # The effect of a key waits for up to two frames. At Textual's 60 frames per second that is most of its latency.
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


def has_256_colours(environ: Mapping[str, str]) -> bool:
    """Whether the terminal has 256 colours and no more, judged as Textual does: as over SSH in tmux."""
    if "COLORTERM" in environ and environ["COLORTERM"].lower() in {"truecolor", "24bit"}:
        return False
    return environ.get("TERM", "").endswith(("-256color", "-kitty"))


def _has_16_colours(environ: Mapping[str, str]) -> bool:
    """Whether the terminal has only 16 colours, judged as Textual does."""
    term = environ.get("TERM", "")
    if not term or environ.get("COLORTERM", "").lower() in {"truecolor", "24bit"}:
        return False
    return not term.endswith(("-256color", "-kitty", "-direct"))
