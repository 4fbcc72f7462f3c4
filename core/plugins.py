"""The parts of a plugin, and the search for the plugins of this process.

A plugin is one `Plugin` value in a module. It is on where `JOBDECK_PLUGINS` names it. An entry point of the group
`jobdeck.plugins` gives it a short name and switches nothing on: a package that an application installs for itself must
not change what its queue does. The fields of a plugin are values, names, or functions that import their modules when
they are called, so that loading a plugin is cheap.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core import config_file
from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from importlib.resources.abc import Traversable
    from uuid import UUID

    import psycopg
    from pydantic_settings import BaseSettings

    from jobdeck.core.model import Finding, Json

    Connection = psycopg.Connection[Any]

GROUP: Final = "jobdeck.plugins"
SETTING: Final = "JOBDECK_PLUGINS"


@dataclass(frozen=True, slots=True)
class Found:
    """One result of a search: its id, its name, and a detail that tells apart results of the same name."""

    id: str
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A look-up for one payload key, in the Create Job form and in the filter.

    Args:
        noun: the name of one result, such as "customer".
        plural: the name of several results.
        find: `(connection, text)` to the results that contain the text or have it as id, best first.
        hint: help for the input, such as "a part of a customer's name, or the beginning of an id".
        empty: the text of an optional form field without a value.
    """

    noun: str
    plural: str
    find: Callable[[Connection, str], Sequence[Found]]
    hint: str = ""
    empty: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Jobs that one key enqueues together; each waits for the success of the one before it.

    Args:
        name: the argument of `jobdeck quick-sync`.
        key: its key in the dialog Quick Sync.
        label: its title in the dialog.
        description: its purpose, in a few words.
        task_types: the types of its jobs, in their order.
        payload: the payload of each job.
    """

    name: str
    key: str
    label: str
    description: str
    task_types: tuple[str, ...]
    payload: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextField:
    """A text that an action asks for, which must not be empty. `name` is its key in the answers."""

    name: str
    label: str
    example: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAction:
    """An action of a page that asks for texts first.

    Args:
        run: `(connection, row, answers)` to the sentence that says what was done. It refuses with a `JobdeckError`, and
            then has changed nothing.
        asks: the texts that its dialog asks for.
        about: `(row)` to the sentence at the top of the dialog.
        command: `(row, answers)` to the equivalent command.
        on_row: whether it needs a row under the cursor; without one, `row` is empty.
        reveals: whether its sentence has personal data, which a dialog shows unmasked.
    """

    run: Callable[[Connection, Sequence[str], Mapping[str, str]], str]
    asks: tuple[TextField, ...]
    about: Callable[[Sequence[str]], str]
    command: Callable[[Sequence[str], Mapping[str, str]], str]
    on_row: bool = True
    reveals: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A table of the dashboard.

    Args:
        title: its heading, and its name in the palette.
        key: the key that opens it.
        columns: the names of the columns.
        query: `(connection)` to the rows, each with one text per column; further texts are not shown and are for the
            actions. With a `search`, it also gets the id of what was found, empty for everything.
        actions: what can be done, by its name: a function `(connection, row)` to a sentence, or a `PageAction`.
        search: the look-up that narrows the page down.
        about: what it shows, for the help.
    """

    title: str
    key: str
    columns: tuple[str, ...]
    query: Callable[..., Sequence[Sequence[str]]]
    actions: Mapping[str, Callable[[Connection, Sequence[str]], str] | PageAction] = field(default_factory=dict)
    search: Search | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One person that a job wrote to or skipped: the masked address and the state of the message."""

    channel: str | None
    address: str
    state: str
    detail: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Recipients:
    """The people that a job wrote to: their number by state, and the first of them."""

    counts: tuple[tuple[str, int], ...]
    listed: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Periodic work of the HTTP server, in batches.

    Args:
        name: its name in the log; an endpoint wakes it by this name.
        every_seconds: its interval while no endpoint wakes it.
        run: `(connection, settings)`; carries out one batch and returns whether more is left.
    """

    name: str
    every_seconds: float
    run: Callable[[Connection, Any], bool]


@dataclass(frozen=True, slots=True)
class Period:
    """The retention of a table's rows, in days, and the reason.

    The plugin's SQL has the function that keeps it, `NAME_retain(table, before, limit)`. It removes up to `limit` rows
    that are from before a time, and returns their number.
    """

    table: str
    days: int
    reason: str


@dataclass(frozen=True, slots=True)
class Erased:
    """A place of a person's data, and the number of its rows that an erasure changed, or that still have it."""

    place: str
    rows: int
    remains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """How a plugin erases a person.

    Args:
        people: what can identify a person, such as "customer", with a description of its value.
        run: `(connection, settings, kind, value, keep_shared, actor)` to the places in which it erased. It refuses with
            one sentence, and is called in a transaction that a dry run rolls back.
    """

    people: Mapping[str, str]
    run: Callable[..., Sequence[Erased]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """Findings of an option of `doctor`: `run` is `(database, settings, registry)` to them. All have to be ok."""

    help: str
    run: Callable[..., Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin. Only `name` and `version` are required.

    Args:
        name: the name of its entry point, its extra and its row in `jobdeck_schema`.
        version: the version of its part of the schema, from 1 on.
        requires: packages that it imports. If one is missing, the plugin is refused.
        sql_before: SQL that runs before schema.sql, to adapt objects of an earlier owner of the same names.
        sql: SQL that runs after schema.sql.
        handlers: modules with job types; a package means all its modules.
        settings: its settings; `Settings.of` returns them.
        resources: `(settings, database)` to a context manager, whose value is `ctx.resources` for its job types.
        commands: command to "package.module:function", in the order of the help.
        endpoints: `(host)` to the `Endpoint`s it adds to the HTTP server.
        openapi: returns the OpenAPI path items of those endpoints, by path.
        filters: filter key to the payload key that it compares.
        searches: payload key to its look-up.
        presets: the entries of Quick Sync.
        pages: tables of the dashboard.
        receipts: `(connection, job id)` to the part "Recipients" of a job's page.
        findings: `(settings)` to its findings for `doctor`.
        checklists: option of `doctor`, such as "cutover", to its `Checklist`.
        changes: `(connection)` to what an installation would change in another application's tables, in sentences.
        upkeep: periodic work of the HTTP server.
        wording: audited action to its word in a digest, such as "retried".
        quiet_loggers: loggers of its libraries whose lines below WARNING are dropped.
        retention: the retention of its rows.
        erase: the erasure of a person.
        playbook: its part of the operators' playbook, in Markdown.
        demo: `(settings, registry, calm=)` to a context manager with the settings of `jobdeck demo`; unless it is calm,
            something fails for a while.
    """

    name: str
    version: int
    requires: tuple[str, ...] = ()
    sql_before: tuple[Traversable, ...] = ()
    sql: tuple[Traversable, ...] = ()
    handlers: tuple[str, ...] = ()
    settings: type[BaseSettings] | None = None
    resources: Callable[..., AbstractContextManager[object]] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    endpoints: Callable[..., Iterable[Any]] | None = None
    openapi: Callable[[], Json] | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    searches: Mapping[str, Search] = field(default_factory=dict)
    presets: tuple[Preset, ...] = ()
    pages: tuple[Page, ...] = ()
    receipts: Callable[[Connection, UUID], Recipients | None] | None = None
    findings: Callable[..., Iterable[Finding]] | None = None
    checklists: Mapping[str, Checklist] = field(default_factory=dict)
    changes: Callable[[Connection], Sequence[str]] | None = None
    upkeep: tuple[Upkeep, ...] = ()
    wording: Mapping[str, str] = field(default_factory=dict)
    quiet_loggers: tuple[str, ...] = ()
    retention: tuple[Period, ...] = ()
    erase: Erasure | None = None
    playbook: Traversable | None = None
    demo: Callable[..., AbstractContextManager[Any]] | None = None


def lazy(target: str) -> Callable[..., Any]:
    """A function that imports "package.module:function" when it is called, and calls it."""

    def call(*given: Any, **named: Any) -> Any:
        return resolve(target)(*given, **named)

    return call


def resolve(target: str) -> Any:
    """Imports the value "package.module:attribute"."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def filters() -> dict[str, str]:
    """The filter keys of the plugins, with the payload key that each compares."""
    return {name: key for plugin in load_plugins() for name, key in plugin.filters.items()}


def searches() -> dict[str, Search]:
    """The look-ups of the plugins, by payload key."""
    return {key: search for plugin in load_plugins() for key, search in plugin.searches.items()}


def presets() -> dict[str, Preset]:
    """The presets of the plugins, by name."""
    return {preset.name: preset for plugin in load_plugins() for preset in plugin.presets}


def off_here(names: Sequence[str]) -> str:
    """What switches on plugins whose components a database holds and which are off in this process, in a sentence."""
    added = ",".join(names)
    way_out = f"Add {added} to {SETTING}" if load_plugins() else f"Set {SETTING}={added}"
    what = "these plugins, and they are" if len(names) > 1 else "this plugin, and it is"
    return f"{way_out}. The database holds {what} off in this program."


_loaded: tuple[Plugin, ...] | None = None


def load_plugins() -> tuple[Plugin, ...]:
    """The plugins of this process, found once.

    `JOBDECK_PLUGINS`, in the environment or the configuration file, names them: entry points or
    "package.module:attribute", separated by commas. Empty or not set, there are none.

    Raises:
        ConfigurationError: a plugin cannot be used; the message names it and the reason.
    """
    global _loaded  # noqa: PLW0603 -- found once per process
    if _loaded is None:
        _loaded = _find(_named())
    return _loaded


@contextmanager
def use_plugins(*plugins: Plugin) -> Iterator[None]:
    """Replaces the plugins of this process inside a `with` block, for tests."""
    global _loaded  # noqa: PLW0603 -- the one place that replaces them
    before, _loaded = _loaded, plugins
    try:
        yield
    finally:
        _loaded = before


def _named() -> list[str]:
    given: object = os.environ[SETTING] if SETTING in os.environ else config_file.content().get(SETTING, "")
    if not isinstance(given, str):
        raise ConfigurationError(
            f'{SETTING} in {config_file.path()} must be a string, like "name, package.module:plugin".'
        )
    return list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _find(named: list[str]) -> tuple[Plugin, ...]:
    if not named:
        return ()
    installed = {point.name: point for point in metadata.entry_points(group=GROUP)}
    plugins: list[Plugin] = []
    for name in named:
        if ":" not in name and name not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise ConfigurationError(
                f"There is no plugin {name} ({SETTING}). Installed plugins: {known}. "
                "Install its package, or name it as package.module:attribute."
            )
        point = installed.get(name)
        plugin = _load(name, point.value if point else name)
        if missing := [package for package in plugin.requires if find_spec(package) is None]:
            package = point.dist.name if point and point.dist else "jobdeck"
            raise ConfigurationError(
                f"The plugin {plugin.name} needs {' and '.join(missing)}, which cannot be imported. "
                f"Install its extra: pip install '{package}[{plugin.name}]'."
            )
        if any(plugin.name == other.name for other in plugins):
            raise ConfigurationError(f"Two plugins are called {plugin.name} ({SETTING}). Remove one of them.")
        plugins.append(plugin)
    return tuple(plugins)


def _load(name: str, target: str) -> Plugin:
    try:
        plugin = resolve(target)
    except Exception as error:
        raise ConfigurationError(
            f"The plugin {name} cannot be imported ({type(error).__name__}: {error}). Correct it, or take it "
            f"out of {SETTING}."
        ) from error
    if not isinstance(plugin, Plugin):
        raise ConfigurationError(
            f"The plugin {name} is of the type {type(plugin).__name__}, not jobdeck.core.plugins.Plugin."
        )
    version: object = plugin.version
    if not isinstance(version, int) or version < 1:
        raise ConfigurationError(f"The plugin {name} has no version. Its Plugin needs version=1 or above.")
    return plugin
