"""What an installation would do to a database, found out from its catalog alone, and why it must not be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.plugins import off_here
from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import Index, compare, indexes, invalid_indexes
from jobdeck.core.schema.components import QUEUE, Migration, migrations
from jobdeck.core.schema.creators import refuse_other_creators
from jobdeck.core.schema.script import HISTORY
from jobdeck.core.schema.versions import (
    Holdings,
    database_at,
    holdings,
    not_loaded,
    records,
    refuse_newer,
    refuse_unreleased,
    renamed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from jobdeck.core.schema.catalog import Record
    from jobdeck.core.schema.components import Component

LARGE_BYTES: Final = 16 * 1024**2
"""From this size of its table on, an index is built while the queue goes on; a smaller one takes milliseconds."""

_REPLACEABLE: Final = ("function", "view", "trigger", "index")


@dataclass(frozen=True, slots=True)
class Plan:
    """`later` are the indexes to be built after the transaction, `unusable` those to be dropped and built again.

    `restored` are objects that are missing and will be made again, `overwritten` those that were altered.
    """

    before: Holdings
    steps: tuple[Migration, ...]
    later: tuple[Index, ...]
    unusable: tuple[Index, ...]
    restored: tuple[str, ...]
    overwritten: tuple[str, ...]


def plan_installation(
    conn: psycopg.Connection[Any],
    components: Sequence[Component],
    *,
    schema: str,
    repair: bool = False,
    large_bytes: int = LARGE_BYTES,
) -> Plan:
    """Looks at the database and changes nothing.

    Raises:
        SchemaMismatch: when a component is newer than this program, or the schema is from before the first release.
        Refused: when the database holds a component whose plugin is not loaded, an object was altered by hand and
            `repair` is not asked for or cannot put it back, or others than the queue's owner can create in its schema.
    """
    held = holdings(conn)
    refuse_unreleased(conn, held)
    refuse_newer(conn, held, components, serving=False)
    if off := not_loaded(held):
        raise Refused(f"{off_here(off)} Nothing was changed.")
    refuse_other_creators(conn, components, schema)
    if held.renamed_from is not None and not repair:
        raise Refused(f"{renamed(conn, held)} Nothing was changed.")
    kept = records(conn) if held.components else {}
    restored, overwritten = _alterations(conn, schema, kept, was=held.renamed_from, repair=repair)
    if held.renamed_from is not None:
        overwritten = (f"all functions, which looked into the schema {clean(held.renamed_from)}", *overwritten)
    all_indexes = [index for component in components for index in indexes(component)]
    unusable = set(invalid_indexes(conn, schema, [index.name for index in all_indexes]))
    return Plan(
        before=held,
        steps=_steps(held, components),
        later=large_indexes(conn, schema, components, large_bytes),
        unusable=tuple(index for index in all_indexes if index.name in unusable),
        restored=restored,
        overwritten=overwritten,
    )


def _alterations(
    conn: psycopg.Connection[Any], schema: str, kept: Mapping[str, Record], *, was: str | None, repair: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The objects that are missing, and those that were altered and will be overwritten."""
    restored: list[str] = []
    overwritten: list[str] = []
    for record in kept.values():
        found = compare(conn, schema, record, was=was)
        for key, (before, now) in found.changed.items():
            if key.startswith(_REPLACEABLE) and repair:
                overwritten.append(key)
            else:
                raise Refused(_altered(conn, key, before, now))
        for key in found.missing:
            if not key.startswith((*_REPLACEABLE, "sequence", "type")) and not _gone_with_its_table(key, found.missing):
                raise Refused(_lost(conn, key, record.objects[key]))
            restored.append(key)
    return tuple(restored), tuple(overwritten)


def _gone_with_its_table(key: str, missing: Sequence[str]) -> bool:
    kind, _, name = key.partition(" ")
    return kind == "table" or f"table {name.partition('.')[0]}" in missing


def _altered(conn: psycopg.Connection[Any], key: str, was: str, now: str) -> str:
    way_out = "`jobdeck init --repair` puts the installed one back"
    if not key.startswith(_REPLACEABLE):
        way_out = "put it back by ALTER TABLE, then run `jobdeck init` again"
    quoted = "" if was.startswith("md5 ") or now.startswith("md5 ") else f": it was ({was}) and is ({now})"
    return (
        f"{database_at(conn)}: the {clean(key)} differs from what Jobdeck installed{clean(quoted)}. "
        f"Nothing was changed; {way_out}."
    )


def _lost(conn: psycopg.Connection[Any], key: str, was: str) -> str:
    return (
        f"{database_at(conn)}: the {clean(key)} that Jobdeck installed is gone; it was ({clean(was)}). "
        f"Nothing was changed; add it by ALTER TABLE, then run `jobdeck init` again."
    )


def _steps(held: Holdings, components: Sequence[Component]) -> tuple[Migration, ...]:
    """The migrations that a database of an earlier version has not seen."""
    found: list[Migration] = []
    for component in components:
        installed = held.components.get(component.name)
        if installed is None and not (component.name == QUEUE and held.begun):
            continue
        done = installed.migrations if installed else ()
        found.extend(step for step in migrations(component) if step.number not in done)
    return tuple(found)


def large_indexes(
    conn: psycopg.Connection[Any], schema: str, components: Sequence[Component], large_bytes: int
) -> tuple[Index, ...]:
    """The indexes that are missing or not usable and whose table is large.

    A unique one is not among them: functions rely on it from the moment they are installed.
    """
    wanted = [index for component in components for index in indexes(component) if not index.unique]
    rows = conn.execute(
        """
        SELECT c.relname, c.relkind = 'i' AND x.indisvalid AND x.indisready,
            CASE WHEN c.relkind IN ('r', 'p') THEN pg_relation_size(c.oid) END
        FROM pg_class AS c LEFT JOIN pg_index AS x ON x.indexrelid = c.oid
        WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s)
        """,
        [schema, [*(index.name for index in wanted), *(index.table for index in wanted)]],
    ).fetchall()
    usable = {name for name, valid, _ in rows if valid}
    sizes = {name: size for name, _, size in rows if size}
    return tuple(index for index in wanted if index.name not in usable and sizes.get(index.table, -1) >= large_bytes)


def partition_indexes(conn: psycopg.Connection[Any], schema: str, components: Sequence[Component]) -> list[Index]:
    """The indexes of the partitions of the history that belong to an index which the whole history lacks."""
    wanted = [
        index for component in components for index in indexes(component) if index.table == HISTORY and not index.unique
    ]
    rows = conn.execute(
        """
        SELECT c.relname, w.name FROM pg_inherits AS i CROSS JOIN unnest(%(names)s::text[]) AS w (name)
        JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = to_regclass(quote_ident(%(schema)s) || '.' || %(history)s)
            AND NOT EXISTS (SELECT FROM pg_class AS x WHERE x.relnamespace = c.relnamespace AND x.relname = w.name)
        ORDER BY c.oid, w.name
        """,
        {"names": [index.name for index in wanted], "schema": schema, "history": HISTORY},
    ).fetchall()
    named = {index.name: index for index in wanted}
    return [named[name].of_partition(partition) for partition, name in rows]


def running_jobs(conn: psycopg.Connection[Any], schema: str) -> int:
    """The number of running jobs in the table of the queue, which may be the original application's; 0 without it."""
    table = sql.Identifier(schema, "job_queue")
    row = conn.execute("SELECT to_regclass(quote_ident(%s) || '.job_queue') IS NULL", [schema]).fetchone()
    if row is None or row[0]:
        return 0
    row = conn.execute(sql.SQL("SELECT count(*) FROM {} WHERE status = 'running'").format(table)).fetchone()
    return int(row[0]) if row else 0
