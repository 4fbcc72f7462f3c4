"""The pages of settings, docs/configuration.md and that of the competition, from the settings and their docstrings."""

from __future__ import annotations

import ast
import inspect
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
        "Plugins, comma separated: names, or `package.module:attribute`; set and empty for none. May be in the file "
        "too. Unset: every installed one"
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


def queue() -> str:
    """The page of the queue's settings."""
    read = _table([*_rows(Settings, inherited=OtelSettings)])
    beside = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in BESIDE.items())
    return f"{HEAD}{read}\n## Read beside these\n\n| variable | meaning |\n|---|---|\n{beside}\n{TAIL}"


def competition() -> str:
    """The page of the competition's settings."""
    return COMPETITION + _table(_rows(CompetitionSettings))


def _table(rows: list[str]) -> str:
    return "\n".join(["| variable | default | values | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _rows(kind: type[BaseSettings], inherited: type[BaseSettings] | None = None) -> list[str]:
    """A row for each field, in the order of the source; those of a base class come last."""
    meanings = _meanings(kind) | (_meanings(inherited) if inherited else {})
    return [_row(kind.model_fields[name], meaning) for name, meaning in meanings.items()]


def _row(field: FieldInfo, meaning: str) -> str:
    assert isinstance(field.validation_alias, AliasChoices)
    variables = ", ".join(f"`{name}`" for name in field.validation_alias.choices)
    return f"| {variables} | {_default(field.default)} | {_values(field)} | {meaning} |"


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
    if value is None or value == "":
        return ""
    words = str(value).lower() if isinstance(value, bool) else _number(value).replace(",", "")
    return f"`{words}`"


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
