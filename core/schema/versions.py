"""Compares the versions of the schema in a database with those that this program needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from jobdeck.core.errors import SchemaMismatch
from jobdeck.core.plugins import off_here
from jobdeck.core.postgres.address import Address
from jobdeck.core.read.batch import Answer, Batch, Query, select
from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import Record
from jobdeck.core.schema.components import (
    QUEUE,
    checksum,
    known_components,
    program_version,
    release,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.schema.components import Component

FIRST_VERSION: Final = 6
"""The version of the queue's schema in 0.3.0, the first release."""


# Each function of the queue is bound to the schema by its search path, which ALTER SCHEMA RENAME leaves as it was.
_HELD: Final = """
SELECT to_jsonb(s) - 'catalog' || jsonb_build_object('bound', nullif(b.bound, quote_ident(current_schema()))) AS held
FROM jobdeck_schema AS s LEFT JOIN (
    SELECT substring(setting FROM '^search_path=("(?:[^"]|"")*"|[^,]*)') AS bound
    FROM pg_catalog.pg_proc AS p, unnest(p.proconfig) AS setting
    WHERE p.proname = 'job_queue_claim' AND p.pronamespace = quote_ident(current_schema())::regnamespace
        AND starts_with(setting, 'search_path=') LIMIT 1
) AS b ON true
ORDER BY s.version
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """A component as the database holds it.

    `serves_from` is the oldest program that works on it. It and `checksum` are None when psql installed it.
    `migrations` are the numbers of those that were run or were not needed.
    """

    component: str
    version: int
    checksum: str | None = None
    serves_from: str | None = None
    migrations: tuple[int, ...] = ()

    @property
    def serves_this_program(self) -> bool:
        """Whether a program that was made for an earlier version still works on it."""
        return self.serves_from is not None and release(self.serves_from) <= release(program_version())


@dataclass(frozen=True, slots=True)
class Holdings:
    """What `jobdeck_schema` says; `begun` when the table is there, even if it says nothing of the queue.

    `renamed_from` is the schema that the functions of the queue look into, where that is not the one they are in.
    """

    begun: bool
    components: Mapping[str, Installed]
    renamed_from: str | None = None

    @property
    def queue(self) -> Installed | None:
        """The queue itself; None when it was never installed, or not to the end."""
        return self.components.get(QUEUE)


def holdings(conn: psycopg.Connection[Any]) -> Holdings:
    """Reads the newest version of each component in the connection's schema.

    A table from before 0.3.0 lacks some of the columns.
    """
    there = conn.execute(
        "SELECT to_regclass(quote_ident(current_schema()) || '.jobdeck_schema') IS NOT NULL"
    ).fetchone()
    if there is None or not there[0]:
        return Holdings(False, {})
    return _holdings([row for (row,) in conn.execute(_HELD).fetchall()])


def _holdings(rows: Sequence[Mapping[str, Any]]) -> Holdings:
    found = [
        Installed(
            row.get("component", QUEUE),
            row["version"],
            row.get("checksum"),
            row.get("serves_from"),
            tuple(row.get("migrations") or ()),
        )
        for row in rows
    ]
    names = {row["bound"] for row in rows} - {None}
    return Holdings(True, {installed.component: installed for installed in found}, next(iter(names), None))


HELD: Final = select(
    _HELD,
    read=lambda rows: _holdings([row["held"] for row in rows]),
)
"""The same as a query that fails without the table."""


def records(conn: psycopg.Connection[Any]) -> dict[str, Record]:
    """The objects of each component as they were last installed; a component that psql installed has no record."""
    rows = conn.execute(
        "SELECT to_jsonb(s) ->> 'component', to_jsonb(s) -> 'catalog' FROM jobdeck_schema AS s ORDER BY s.version"
    ).fetchall()
    return {component: Record.read(catalog) for component, catalog in rows if catalog}


def installed_version(conn: psycopg.Connection[Any]) -> int | None:
    """The version of the queue's schema in the database; None when it holds none."""
    queue = holdings(conn).queue
    return None if queue is None else queue.version


def check_schema(conn: psycopg.Connection[Any], components: Sequence[Component] | None = None) -> None:
    """Returns when this program works on the database's schema.

    Raises:
        SchemaMismatch: when it is missing, older, or newer and serves this program no more; with the way out.
    """
    check_held(conn, holdings(conn), components)


def check_held(conn: psycopg.Connection[Any], held: Holdings, components: Sequence[Component] | None = None) -> None:
    """`check_schema` of what was read before. The connection is used only to explain a mismatch."""
    refuse_unreleased(conn, held)
    refuse_newer(conn, held, components)
    for component in known_components() if components is None else components:
        installed = held.components.get(component.name)
        if installed is None:
            raise SchemaMismatch(_missing(conn, held, component), "no schema; run `jobdeck init` there")
        if installed.version < component.version:
            raise SchemaMismatch(
                f"{database_at(conn)} has {_version(installed)}, and this program needs {component.version}. "
                f"Run `jobdeck init` to upgrade it.",
                f"version {installed.version}, needs {component.version}; run `jobdeck init` there",
            )
    if held.renamed_from is not None:
        raise SchemaMismatch(renamed(conn, held), "the schema was renamed; run `jobdeck init --repair` there")


def renamed(conn: psycopg.Connection[Any], held: Holdings) -> str:
    """What to do about a queue whose schema has another name than when it was installed."""
    was = clean(held.renamed_from or "")
    return (
        f"{database_at(conn)}: the schema of the queue was renamed, and its functions still look into the schema "
        f"{was}. Run `jobdeck init --repair` with JOBDECK_SCHEMA set to the new name, and set it for all programs, or "
        f"give the schema its earlier name again."
    )


def unreleased_version(held: Holdings) -> int | None:
    """The version of a schema from before the first release, which no program upgrades; None for every other."""
    version = held.queue.version if held.queue else 0
    return version if 1 <= version < FIRST_VERSION else None


def refuse_unreleased(conn: psycopg.Connection[Any], held: Holdings) -> None:
    """Returns unless the database has a schema from before the first release.

    Raises:
        SchemaMismatch: otherwise.
    """
    version = unreleased_version(held)
    if version is not None:
        raise SchemaMismatch(
            f"{database_at(conn)} has schema version {version}, from before 0.3.0, the first release, and nothing "
            f"upgrades that. Install the queue into a new database, or into a schema of its own: "
            f"`jobdeck init --schema NAME`.",
            f"version {version} is from before the first release",
        )


def refuse_newer(
    conn: psycopg.Connection[Any],
    held: Holdings,
    components: Sequence[Component] | None = None,
    *,
    serving: bool = True,
) -> None:
    """Returns when no component is newer than this program, or `serving` and those that are still serve it.

    Raises:
        SchemaMismatch: otherwise.
    """
    for component in known_components() if components is None else components:
        installed = held.components.get(component.name)
        if installed is None or installed.version <= component.version:
            continue
        if not (serving and installed.serves_this_program):
            raise SchemaMismatch(
                f"{database_at(conn)} has {_version(installed)}, newer than this program's {component.version}. "
                f"Upgrade Jobdeck on this machine.",
                f"version {installed.version} is newer; upgrade Jobdeck here",
            )


def is_current(conn: psycopg.Connection[Any]) -> bool:
    """Whether an installation would change nothing: each component was installed from this very SQL, or a newer one."""
    held = holdings(conn).components
    for component in known_components():
        installed = held.get(component.name)
        if installed is None or installed.version < component.version:
            return False
        if installed.version == component.version and installed.checksum != checksum(component):
            return False
    return True


def not_loaded(held: Holdings) -> tuple[str, ...]:
    """The components that the database holds and whose plugins are not loaded, cleaned."""
    names = held.components.keys() - {component.name for component in known_components()} - {QUEUE}
    return tuple(sorted(map(clean, names)))


def database_at(conn: psycopg.Connection[Any]) -> str:
    """The start of a sentence, with the database's address: a program may have been pointed at the wrong one."""
    return f"The database at {clean(Address.parse(conn.info.dsn).label)}"


def _version(installed: Installed) -> str:
    if installed.component == QUEUE:
        return f"schema version {installed.version}"
    return f"version {installed.version} of the component {clean(installed.component)}"


def _missing(conn: psycopg.Connection[Any], held: Holdings, component: Component) -> str:
    if component.name != QUEUE and held.queue is not None:
        return f"{database_at(conn)} lacks the component {component.name}. Run `jobdeck init` to install it."
    if held.begun:
        return (
            f"{database_at(conn)} holds a part of a Jobdeck schema: the table jobdeck_schema names no version. "
            f"Run `jobdeck init` to complete it."
        )
    others = _elsewhere(conn)
    if others:
        return (
            f"{database_at(conn)} holds no Jobdeck schema where this program looks, but one in {', '.join(others)}. "
            f"Set JOBDECK_SCHEMA to that name, or run `jobdeck init` to install another one."
        )
    return f"{database_at(conn)} holds no Jobdeck schema. Run `jobdeck init` to install it."


def _elsewhere(conn: psycopg.Connection[Any]) -> list[str]:
    """The schemas of this database that hold a queue."""
    found = conn.execute(
        "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_catalog.pg_class "
        "WHERE relname = 'jobdeck_schema' AND relkind = 'r' ORDER BY 1"
    )
    return [clean(name) for (name,) in found]


T = TypeVar("T")
NOTHING: Final[Query[None]] = Query((), lambda _: None)


def open_checked(database: Database, query: Query[T], *, note: Callable[[str], None] = lambda _: None) -> T:
    """Connects, checks the schema and runs the query. Once the connection is made, all of it takes one round trip.

    `note` gets a sentence if the database holds components whose plugins are off in this process.

    Raises:
        SchemaMismatch: as `check_schema`; the query's result was not used.
        psycopg.Error: the connection or the query failed.
    """

    def ask(conn: psycopg.Connection[Any]) -> tuple[Answer[Holdings], Answer[T]]:
        batch = Batch(conn)
        return batch.add(HELD), batch.add(query)

    try:
        held, answer = database.first(ask)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        # The tables may be missing or those of another version. Then the check says so.
        with database.connection() as conn:
            check_schema(conn)
        raise
    with database.connection() as conn:
        found = held()
        check_held(conn, found)
    if missing := not_loaded(found):
        note(off_here(missing))
    return answer()
