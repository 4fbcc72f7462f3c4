"""The pages of settings and the file of settings for services, from the settings and their docstrings."""

from __future__ import annotations

import ast
import inspect
import shlex
import textwrap
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.settings import OtelSettings, Settings

HEAD: Final = """# Configuration

The settings of the queue, from `core/settings.py`; `python -m tests.package.pages` writes this page. The competition
has [its own](competition/configuration.md). `deploy/jobdeck.env.example` has all of them as a file for services.

The environment takes precedence over the configuration file, a TOML file whose keys are these names. An empty variable
counts as unset. Numbers of seconds may be fractions.

"""
BESIDE: Final = {
    "JOBDECK_CONFIG": "The configuration file. Unset: `~/.config/jobdeck/config.toml`",
    "XDG_CONFIG_HOME": "Where `jobdeck/config.toml` is looked for. Unset: `~/.config`",
    "XDG_STATE_HOME": "Where the state folder `jobdeck` is, except for root. Unset: `~/.local/state`",
    "JOBDECK_PLUGINS": (
        "Plugins, comma separated: names, or `package.module:attribute`; empty for none. May be in the file too. "
        "A plugin that is installed and not named here is off"
    ),
    "JOBDECK_TEST_DATABASE_URL": "The server on which the fixtures of `jobdeck.testing` make their databases",
    "TRACEPARENT": "The span in which `jobdeck enqueue` and `jobdeck enqueue-many` enqueue",
    "NO_COLOR": "Set: the dashboard without colours of its own",
}
TAIL: Final = """
## Keys of the dashboard

The keys can be moved in the configuration file: in a table `[keys]` the id of an action on the left, its new keys on
the right, separated by blanks. Two actions of one page cannot share a key. The ids, also those of dialogs, are in
[operations.md](operations.md#keys-and-the-mouse).

```toml
JOBDECK_THEME = "light"

[keys]
"page.health" = "f2 h"
"job.delete" = "ctrl+d"
"move.half_down" = "pgdn"
```
"""
COMPETITION: Final = """# Configuration of the competition

The settings of the plugin, from `core/programme/settings.py`; `python -m tests.package.pages` writes this page. They
are read as [those of the queue](../configuration.md) are. Addresses are https; http is accepted for this machine only.

"""
SERVICES: Final = """\
# Settings of all of Jobdeck's services on this machine: /etc/jobdeck/jobdeck.env, readable for root and the service's
# account only (mode 0640, group jobdeck). Read by systemd and by a shell: NAME=value, without spaces around "=", and a
# value with "&" or spaces in single quotes. A line that begins with #NAME= is off: it shows the default, or an example
# where there is none. `python -m tests.package.pages` writes this file.
"""
PLUGINS: Final = """\
# The plugins of this queue, comma separated. Leave it empty for the queue alone.
JOBDECK_PLUGINS=competition
"""
ON: Final = {
    "DATABASE_URL": "postgresql://jobdeck_worker:CHANGE-ME@127.0.0.1:5432/jobdeck",
    "JOBDECK_ENV": "production",
    "JOBDECK_LOG_FORMAT": "json",
    "CRON_SECRET": "CHANGE-ME",
    "CRON_INTERVAL_MINUTES": "5",
    "JOBDECK_METRICS_ADDRESS": "127.0.0.1:9464",
}
"""What a service on one machine begins with."""
EXAMPLES: Final = {"JOBDECK_STATE_DIR": "/var/lib/jobdeck", "JOBDECK_DOOR_URL": "https://jobs.example.org"}


def queue() -> str:
    """The page of the queue's settings."""
    read = _table(Settings)
    beside = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in BESIDE.items())
    return f"{HEAD}{read}\n## Read beside these\n\n| variable | meaning |\n|---|---|\n{beside}\n{TAIL}"


def competition() -> str:
    """The page of the competition's settings."""
    return COMPETITION + _table(CompetitionSettings)


def services() -> str:
    """The file of settings for services: each with its meaning, on or with its default."""
    blocks = [SERVICES, PLUGINS]
    for title, kind in (("The queue", Settings), ("The competition", CompetitionSettings)):
        blocks.append(f"# --- {title} ".ljust(119, "-") + "\n")
        blocks += [_block(field, meaning) for field, meaning in _fields(kind)]
    return "\n".join(blocks)


def _block(field: FieldInfo, meaning: str) -> str:
    name = _variables(field)[0]
    given = ON.get(name) or EXAMPLES.get(name) or _default(field.default)
    values = "" if field.annotation is bool else _values(field)
    words = f"{meaning} ({values})." if values else f"{meaning}."
    words = words.replace("`", "")
    comment = textwrap.fill(words, 119, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    return f"{comment}\n{'' if name in ON else '#'}{name}={shlex.quote(given) if given else ''}\n"


def _table(kind: type[BaseSettings]) -> str:
    rows = [
        f"| {', '.join(f'`{name}`' for name in _variables(field))} | {_code(_default(field.default))} "
        f"| {_values(field)} | {meaning} |"
        for field, meaning in _fields(kind)
    ]
    return "\n".join(["| variable | default | values | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _fields(kind: type[BaseSettings]) -> list[tuple[FieldInfo, str]]:
    """Each field with its meaning, in the order of the source; those of a base class come last."""
    meanings = _meanings(kind) | (_meanings(OtelSettings) if issubclass(kind, OtelSettings) else {})
    return [(kind.model_fields[name], meaning) for name, meaning in meanings.items()]


def _variables(field: FieldInfo) -> list[str]:
    assert isinstance(field.validation_alias, AliasChoices)
    return [str(name) for name in field.validation_alias.choices]


def _meanings(kind: type[BaseSettings]) -> dict[str, str]:
    """The docstring of each field, which is the string after it, on one line and without its full stop."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split()).removesuffix(".")
    return found


def _default(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else _number(value).replace(",", "")


def _code(words: str) -> str:
    return f"`{words}`" if words else ""


def _values(field: FieldInfo) -> str:
    """What a setting may be: true or false, one of several words, or a number within its bounds."""
    if field.annotation is bool:
        return "`true`, `false`"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.annotation) if word)
    bounds = {type(one): one for one in field.metadata}
    above, least, most = bounds.get(Gt), bounds.get(Ge), bounds.get(Le)
    words = [f"more than {_number(above.gt)}"] if above else []
    words += [f"{_number(least.ge)} or more"] if least and not most else []
    words += [f"{_number(least.ge)} to {_number(most.le)}"] if least and most else []
    words += [f"at most {_number(most.le)}"] if most and not least else []
    return ", ".join(words)


def _number(value: Any) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)
