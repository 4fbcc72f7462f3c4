"""Removes what Jobdeck has put into a database, by the record of its installation and never by a pattern of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import present_keys
from jobdeck.core.schema.components import known_components
from jobdeck.core.schema.install import LOCK_SECONDS, schema_of
from jobdeck.core.schema.turn import holder, take_turn
from jobdeck.core.schema.versions import database_at, holdings, records

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTED_ROWS: Final = 100_000
"""Up to here rows are counted; above, the server's estimate serves."""

_KINDS: Final = ("trigger", "view", "function", "table", "sequence", "type")


@dataclass(frozen=True, slots=True)
class Owned:
    """What would be removed: objects as "kind name", and each table's rows. `left` are tables of another owner."""

    schema: str
    objects: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]
    left: tuple[str, ...]

    def named(self, kind: str) -> list[str]:
        """The objects of one kind."""
        return [key.partition(" ")[2] for key in self.objects if key.startswith(f"{kind} ")]


def owned_objects(conn: psycopg.Connection[Any]) -> Owned:
    """What Jobdeck owns in the connection's schema.

    Raises:
        Refused: when the database holds no schema, or no record of what was installed.
    """
    held = holdings(conn)
    if not held.begun:
        raise Refused(f"{database_at(conn)} holds no Jobdeck schema. There is nothing to remove.")
    kept = records(conn)
    if held.components.keys() - kept.keys():
        raise Refused(
            f"{database_at(conn)} has no record of what was installed, because a program before 0.2.0 or psql did it. "
            f"Nothing was removed. Run `jobdeck init`, which writes the record, then `jobdeck drop` again."
        )
    schema = schema_of(conn)
    adopted = {table for record in kept.values() for table in record.adopted}
    objects: dict[str, None] = {}
    for record in kept.values():
        for key in present_keys(conn, schema, record):
            if key.partition(" ")[0] in _KINDS and key.removeprefix("table ") not in adopted:
                objects[key] = None
    tables = sorted(key.removeprefix("table ") for key in objects if key.startswith("table "))
    return Owned(schema, tuple(objects), _row_counts(conn, schema, tables), tuple(sorted(adopted)))


def drop_schema(conn: psycopg.Connection[Any]) -> Owned:
    """Removes it all in one transaction, and returns what it was. Roles and tables of another owner stay.

    Raises:
        Refused: when another's object depends on one of them, or another session holds the tables.
    """
    schema = schema_of(conn)
    try:
        with conn.transaction():
            take_turn(conn, schema)
            conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_SECONDS}s"])
            owned = owned_objects(conn)
            _drop_all(conn, owned)
    except psycopg.errors.LockNotAvailable as error:
        who = holder(conn, schema, known_components())
        raise Refused(
            f"Nothing was removed: another session holds the queue's tables{f' ({who})' if who else ''}. "
            f"Stop the workers, and try again once its transaction has ended."
        ) from error
    return owned


def _drop_all(conn: psycopg.Connection[Any], owned: Owned) -> None:
    """Goes over the objects until none is left: what another of them depends on goes in a later round."""
    left = sorted(owned.objects, key=lambda key: _KINDS.index(key.partition(" ")[0]))
    while left:
        kept, reason = _round(conn, owned.schema, left)
        if len(kept) == len(left):
            raise Refused(
                f"Nothing was removed: {clean(reason)}. Remove that or have it use something else, then run "
                f"`jobdeck drop` again."
            )
        left = kept


def _round(conn: psycopg.Connection[Any], schema: str, keys: Sequence[str]) -> tuple[list[str], str]:
    """Drops what can be dropped; returns the rest, and what depends on the last of it."""
    kept: list[str] = []
    reason = ""
    for key in keys:
        statement = _statement(schema, key)
        try:
            with conn.transaction():
                conn.execute(statement)
        except psycopg.errors.DependentObjectsStillExist as error:
            kept.append(key)
            reason = (error.diag.message_detail or str(error)).splitlines()[0]
    return kept, reason


def _statement(schema: str, key: str) -> sql.Composed:
    kind, _, name = key.partition(" ")
    if kind == "trigger":
        table, _, trigger = name.partition(".")
        return sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), sql.Identifier(schema, table))
    if kind == "function":
        function, _, arguments = name.partition("(")
        # The arguments are Postgres's own wording of the signature, and hold quoted names where these need it.
        return sql.SQL("DROP FUNCTION IF EXISTS {}({}").format(
            sql.Identifier(schema, function),
            sql.SQL(arguments),
        )
    statement = {
        "view": sql.SQL("DROP VIEW IF EXISTS {}"),
        "table": sql.SQL("DROP TABLE IF EXISTS {}"),
        "sequence": sql.SQL("DROP SEQUENCE IF EXISTS {}"),
        "type": sql.SQL("DROP TYPE IF EXISTS {}"),
    }[kind]
    return statement.format(sql.Identifier(schema, name))


def _row_counts(conn: psycopg.Connection[Any], schema: str, tables: Sequence[str]) -> tuple[tuple[str, int], ...]:
    counts = []
    for table in tables:
        row = conn.execute(
            sql.SQL(
                "SELECT CASE WHEN n <= {limit} THEN n ELSE greatest(n, (SELECT sum(reltuples)::bigint FROM pg_class "
                "WHERE oid = {name}::regclass OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = "
                "{name}::regclass))) END FROM (SELECT count(*) AS n FROM (SELECT FROM {table} "
                "LIMIT {limit} + 1) AS first_rows) AS counted"
            ).format(
                limit=COUNTED_ROWS,
                name=sql.Literal(sql.Identifier(schema, table).as_string(conn)),
                table=sql.Identifier(schema, table),
            )
        ).fetchone()
        counts.append((table, row[0] if row else 0))
    return tuple(counts)
