"""What lies under the queue, as Postgres tells it: indexes, roles, dead rows, open transactions, the clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    import psycopg

GROUPS: Final = ("viewer", "operator", "worker")
"""What the names of the group roles end with."""
_DENIED: Final = re.compile(r"permission denied for (function|table|view) (\w+)")


@dataclass(frozen=True, slots=True)
class TableHealth:
    """One table of the queue: its rows, dead ones among them, by the server's estimate."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """Another session's transaction. The older it is, the more dead rows it keeps from being removed."""

    pid: int
    application: str
    role: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The facts, unjudged. `indexes_broken` exist but are not usable."""

    indexes_missing: tuple[str, ...]
    indexes_broken: tuple[str, ...]
    roles_missing: tuple[str, ...]
    tables: tuple[TableHealth, ...]
    oldest: OpenTransaction | None


def group_roles(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    """The names of the queue's group roles; read from the catalog, which takes no right on the queue."""
    row = conn.execute(
        """
        SELECT substring(pg_get_function_sqlbody(to_regprocedure('job_roles_prefix()')) FROM $$'([^']*)'$$)
        """
    ).fetchone()
    prefix = row[0] if row and row[0] is not None else "job_"
    return tuple(prefix + group for group in GROUPS)


def notify(conn: psycopg.Connection[Any], channel: str) -> None:
    """Sends one empty notification."""
    conn.execute("SELECT pg_notify(%s, '')", (channel,))


def diagnose(conn: psycopg.Connection[Any], indexes: Collection[str]) -> Diagnosis:
    """Looks at the server under an installed schema, which is to have these indexes."""
    expected = set(indexes)
    present = dict(
        conn.execute(
            """
            SELECT c.relname, i.indisvalid AND i.indisready
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE c.relnamespace = current_schema()::regnamespace
            """
        ).fetchall()
    )
    wanted = group_roles(conn)
    roles = {name for (name,) in conn.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(wanted),))}
    return Diagnosis(
        indexes_missing=tuple(sorted(expected - present.keys())),
        indexes_broken=tuple(sorted(name for name in expected & present.keys() if not present[name])),
        roles_missing=tuple(role for role in wanted if role not in roles),
        tables=_tables(conn),
        oldest=_oldest(conn),
    )


@dataclass(frozen=True, slots=True)
class Denial:
    """A right that a role lacks.

    `groups` are those it is in, of all `known`; `holders` those that have the right, None where that is not known.
    """

    role: str
    groups: tuple[str, ...]
    holders: tuple[str, ...] | None
    known: tuple[str, ...]


def denial(conn: psycopg.Connection[Any], said: str) -> Denial:
    """Who might have done what this connection may not; `said` is what the server said of it.

    The server names the function or table and not the right. Whoever reads a table whole and is refused wanted to write
    it, which no group may where this one may not.
    """
    found, known = _DENIED.search(said), group_roles(conn)
    kind, name = found.groups() if found else ("", "")
    rows = conn.execute(
        """
        SELECT current_user::text, g.rolname, pg_has_role(current_user, g.oid, 'usage'), CASE
            WHEN %(kind)s = 'function' THEN EXISTS (
                SELECT FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = %(name)s
                    AND has_function_privilege(g.oid, p.oid, 'execute'))
            ELSE EXISTS (
                SELECT FROM pg_class AS c WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = %(name)s
                    AND has_table_privilege(g.oid, c.oid, 'select')
                    AND NOT has_table_privilege(c.oid, 'select')) END
        FROM (SELECT) AS one LEFT JOIN pg_roles AS g ON g.rolname = ANY(%(groups)s) ORDER BY g.rolname
        """,
        {"kind": kind, "name": name, "groups": list(known)},
    ).fetchall()
    return Denial(
        rows[0][0],
        tuple(group for _, group, member, _ in rows if group and member),
        tuple(group for _, group, _, holds in rows if group and holds) if found else None,
        known,
    )


def _tables(conn: psycopg.Connection[Any]) -> tuple[TableHealth, ...]:
    with conn.cursor(row_factory=class_row(TableHealth)) as cursor:
        cursor.execute(
            """
            SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead,
                greatest(last_vacuum, last_autovacuum) AS vacuumed_at
            FROM pg_stat_user_tables
            WHERE schemaname = current_schema()
                AND relname IN ('job_queue', 'job_runs', 'job_worker_runs', 'job_workers')
            ORDER BY relname
            """
        )
        return tuple(cursor.fetchall())


def _oldest(conn: psycopg.Connection[Any]) -> OpenTransaction | None:
    with conn.cursor(row_factory=class_row(OpenTransaction)) as cursor:
        cursor.execute(
            """
            SELECT pid, application_name AS application, coalesce(usename, '') AS role,
                coalesce(state, '') AS state,
                extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
            FROM pg_stat_activity
            WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
                AND backend_type = 'client backend'
            ORDER BY xact_start LIMIT 1
            """
        )
        return cursor.fetchone()
