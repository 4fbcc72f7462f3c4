"""The parts a database's schema consists of: the queue, and one part for each plugin that is loaded."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Final, TypeAlias

from jobdeck.core.errors import SchemaMismatch
from jobdeck.core.plugins import Plugin, load_plugins

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from jobdeck.core.settings import Settings

QUEUE: Final = "queue"
_FIRST_LINE: Final = re.compile(r"-- jobdeck schema version (\d+)\s*\n")
_SERVES: Final = re.compile(r"^-- serves programs from (\d+(?:\.\d+)*)\s*$", re.MULTILINE)
_MIGRATION: Final = re.compile(r"(\d{3})_(before|after|online)_(\w+)\.sql")

Component: TypeAlias = Plugin
"""A part of the schema, as the installer sees it: the queue itself is described like a plugin."""


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """A step that runs once, on a database that has an earlier version than `version`, which its first line says.

    Its phase: `before` the SQL of the component, in its transaction; `after` it, once the last old worker has ended; or
    `online`, in transactions of its own before and after that, while jobs run: for what reads a whole table.
    """

    number: int
    name: str
    phase: str
    text: str
    version: int


def sql_folder() -> Traversable:
    """The folder with the parts of the queue's SQL, its migrations and the list of the parts."""
    return resources.files("jobdeck.core") / "schema"


def schema_files() -> tuple[Traversable, ...]:
    """The parts of the queue's SQL in their order, the one that `schema.sql` lists for psql.

    Raises:
        SchemaMismatch: when a part is missing, or there is one that `checksums.toml` does not list.
    """
    folder = sql_folder()
    listed = tomllib.loads((folder / "checksums.toml").read_text(encoding="utf-8"))[QUEUE]["parts"]
    files = {file.name: file for file in (folder / "sql").iterdir() if file.name.endswith(".sql")}
    odd = sorted(set(listed) ^ files.keys())
    if odd:
        what = "lacks a part of its SQL" if odd[0] in listed else "has a part of SQL that it does not list"
        raise SchemaMismatch(f"This installation of Jobdeck {what}, {odd[0]}. Install Jobdeck again.")
    return tuple(files[name] for name in listed)


def schema_text() -> str:
    """The parts of the queue's SQL as one text.

    Raises:
        SchemaMismatch: as `schema_files`.
    """
    return "".join(file.read_text(encoding="utf-8") for file in schema_files())


def schema_version() -> int:
    """The version of the queue's schema that this program needs, from the first line of its SQL.

    Raises:
        SchemaMismatch: when the SQL does not begin with it.
    """
    return _first_line(schema_text())


def queue_component() -> Component:
    """The queue itself."""
    return Plugin(name=QUEUE, version=schema_version(), sql=schema_files())


def known_components() -> tuple[Component, ...]:
    """The queue and the loaded plugins that have SQL, in the order in which they are installed."""
    return (queue_component(), *(plugin for plugin in load_plugins() if plugin.sql_before or plugin.sql))


def text_of(component: Component) -> str:
    """All SQL of a component, in the order in which it runs."""
    return "".join(file.read_text(encoding="utf-8") for file in (*component.sql_before, *component.sql))


def checksum(component: Component) -> str:
    """The SHA-256 of a component's SQL."""
    return hashlib.sha256(text_of(component).encode()).hexdigest()


def serves_from(component: Component) -> str:
    """The oldest program that works on this schema: its line "-- serves programs from …", else this program."""
    found = _SERVES.search(text_of(component))
    return found.group(1) if found else program_version()


@cache
def program_version() -> str:
    """The version of the installed package; "0" for a copy of the source that was never installed."""
    try:
        return metadata.version("jobdeck")
    except metadata.PackageNotFoundError:
        return "0"


def release_name(settings: Settings) -> str:
    """The release of the application that this process runs: SENTRY_RELEASE, else this package's version."""
    return settings.sentry_release or f"jobdeck@{program_version()}"


def release(version: str) -> tuple[int, ...]:
    """The numbers of a package version, to be compared: (0, 2, 0) of "0.2.0rc1"."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers.group().split("."))) if numbers else ()


def migrations(component: Component) -> tuple[Migration, ...]:
    """The migrations of a component by number. Plugins have none: their `sql_before` runs at each installation."""
    if component.name != QUEUE:
        return ()
    folder = sql_folder() / "migrations"
    found = []
    for file in folder.iterdir() if folder.is_dir() else ():
        match = _MIGRATION.fullmatch(file.name)
        if match is not None:
            number, phase, name = match.groups()
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(number), name, phase, text, _first_line(text)))
    return tuple(sorted(found))


def _first_line(text: str) -> int:
    """The version in the first line of the queue's SQL, and of each migration.

    Raises:
        SchemaMismatch: when the text does not begin with it.
    """
    match = _FIRST_LINE.match(text)
    if match is None:
        raise SchemaMismatch("The SQL of this installation names no version. Install Jobdeck again.")
    return int(match.group(1))
