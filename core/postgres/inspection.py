"""Reads the state of the server under the queue: indexes, roles, dead rows, transactions, missing rights, zones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from psycopg.rows import class_row, dict_row

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    import psycopg

GROUPS: Final = ("viewer", "operator", "worker")
"""The names of the group roles, without their prefix."""
_DENIED: Final = re.compile(r"permission denied for (function|table|view) (\w+)")
WEEKS: Final = 104
"""How far ahead the rules of zones are compared, a moment for each week."""
_ZONES: Final = """
SELECT DISTINCT l.schedule ->> 'zone' AS name, EXISTS (SELECT FROM pg_timezone_names AS z
    WHERE z.name = l.schedule ->> 'zone') AS known
FROM job_list AS l WHERE l.is_recurring AND l.status IN ('pending', 'running') AND l.schedule ? 'zone' ORDER BY 1
"""
_LOST_SERIES: Final = """
SELECT q.id, q.task_type FROM job_list AS q
WHERE q.is_recurring AND q.status = 'pending' AND starts_with(q.dedupe_key, 'schedule:')
    AND EXISTS (SELECT FROM job_workers AS w WHERE job_worker_is_alive(w.heartbeat_at, now()))
    AND NOT EXISTS (SELECT FROM job_workers AS w
        WHERE job_worker_is_alive(w.heartbeat_at, now()) AND q.task_type = ANY (w.task_types))
    AND NOT EXISTS (SELECT FROM job_stat_list AS s
        WHERE s.task_type = q.task_type AND s.minutes = 0 AND s.last_at > now() - interval '15 minutes')
ORDER BY q.run_at, q.id
"""
_CLOCKS: Final = """
SELECT z AS name, array_agg((m AT TIME ZONE z) - (m AT TIME ZONE 'UTC') ORDER BY m) AS offsets
FROM unnest(%(zones)s::text[]) AS z CROSS JOIN unnest(%(moments)s::timestamptz[]) AS m GROUP BY z
"""


@dataclass(frozen=True, slots=True)
class LostSeries:
    """A series that code declared, of a type that no live worker handles."""

    id: UUID
    task_type: str


@dataclass(frozen=True, slots=True)
class TableHealth:
    """One table of the queue, with the server's estimates of its live and dead rows."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """Another session's transaction. Dead rows newer than it cannot be removed."""

    pid: int
    application: str
    role: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The facts about the server. `indexes_broken` exist but are not usable.

    `hidden` is the number of sessions in this database whose transactions this role must not see. `writers` are the
    accounts that can sign in and change the queue's rows by hand, besides its owner and superusers.
    """

    indexes_missing: tuple[str, ...]
    indexes_broken: tuple[str, ...]
    roles_missing: tuple[str, ...]
    writers: tuple[str, ...]
    tables: tuple[TableHealth, ...]
    oldest: OpenTransaction | None
    hidden: int


def group_roles(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    """The names of the queue's group roles, read from the catalog, which needs no right on the queue."""
    row = conn.execute(
        """
        SELECT substring(pg_get_function_sqlbody(to_regprocedure('job_roles_prefix()')) FROM $$'([^']*)'$$)
        """
    ).fetchone()
    prefix = row[0] if row and row[0] is not None else "job_"
    return tuple(prefix + group for group in GROUPS)


def read_only_state(conn: psycopg.Connection[Any]) -> Literal["standby", "read-only"] | None:
    """Why this connection cannot change anything: a server in recovery, or its own setting; None if it can."""
    row = conn.execute(
        """
        SELECT CASE WHEN pg_is_in_recovery() THEN 'standby'
            WHEN current_setting('transaction_read_only')::boolean THEN 'read-only' END
        """
    ).fetchone()
    return row[0] if row else None


def notify(conn: psycopg.Connection[Any], channel: str) -> None:
    """Sends one empty notification."""
    conn.execute("SELECT pg_notify(%s, '')", (channel,))


def diagnose(conn: psycopg.Connection[Any], indexes: Collection[str]) -> Diagnosis:
    """Reads the state of the server under an installed schema, which should have these indexes."""
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
        writers=_writers(conn),
        tables=_tables(conn),
        oldest=_oldest(conn),
        hidden=_hidden_sessions(conn),
    )


def _writers(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    found = conn.execute(
        """
        SELECT r.rolname FROM pg_roles r JOIN pg_class c ON c.oid = to_regclass('job_queue')
        WHERE r.rolcanlogin AND NOT r.rolsuper AND r.oid <> c.relowner
            AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE')
        ORDER BY 1
        """
    ).fetchall()
    return tuple(name for (name,) in found)


def tokens_are_behind(conn: psycopg.Connection[Any]) -> bool:
    """Whether the history has later run tokens than the sequence, as after a restore of the rows alone."""
    row = conn.execute("SELECT (SELECT max(run_token) FROM job_run_list) > job_run_last_token()").fetchone()
    return row is not None and row[0] is True


def zone_differences(conn: psycopg.Connection[Any], now: datetime) -> list[str] | None:
    """What the database and Python know differently of the zones of active series; None if no series has a zone."""
    with conn.cursor(row_factory=dict_row) as cursor:
        zones = cursor.execute(_ZONES).fetchall()
        here = available_timezones()
        both = [zone["name"] for zone in zones if zone["known"] and zone["name"] in here]
        moments = [now.astimezone(UTC) + timedelta(weeks=week) for week in range(WEEKS)]
        clocks = cursor.execute(_CLOCKS, {"zones": both, "moments": moments}).fetchall()
    if not zones:
        return None
    return [
        *(f"Python does not know {zone['name']}" for zone in zones if zone["name"] not in here),
        *(f"the database does not know {zone['name']}" for zone in zones if not zone["known"]),
        *(
            f"{clock['name']} differs"
            for clock in clocks
            if clock["offsets"] != [moment.astimezone(ZoneInfo(clock["name"])).utcoffset() for moment in moments]
        ),
    ]


@dataclass(frozen=True, slots=True)
class Denial:
    """A right that a role lacks.

    `known` are all group roles, `groups` those of which the role is a member, and `holders` those that have the right
    (None if unknown).
    """

    role: str
    groups: tuple[str, ...]
    holders: tuple[str, ...] | None
    known: tuple[str, ...]


def denial(conn: psycopg.Connection[Any], message: str) -> Denial:
    """Finds the groups that have the right which this connection lacks, by the server's `message`.

    The message names the function or table but not the right. A role that can read a table and is refused wanted to
    write it, and no group can do that.
    """
    found, known = _DENIED.search(message), group_roles(conn)
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


def denied(conn: psycopg.Connection[Any], message: str) -> str:
    """The sentence for a missing right: the right, the role's groups, and the groups that have the right."""
    found = denial(conn, message)
    needs = "`jobdeck doctor` shows its rights"
    if found.holders is not None:
        holders = " or ".join(found.holders)
        needs = f"Only members of {holders} may" if holders else "Only the owner of the tables may"
    groups = " and ".join(found.groups) or f"none of {', '.join(found.known)}"
    return f"The database role {found.role} may not do this ({message}). {needs}; this role is a member of {groups}."


def _tables(conn: psycopg.Connection[Any]) -> tuple[TableHealth, ...]:
    with conn.cursor(row_factory=class_row(TableHealth)) as cursor:
        cursor.execute(
            """
            SELECT t.name, sum(s.n_live_tup)::bigint AS live, sum(s.n_dead_tup)::bigint AS dead,
                max(greatest(s.last_vacuum, s.last_autovacuum)) AS vacuumed_at
            FROM unnest(ARRAY['job_queue', 'job_runs', 'job_worker_runs', 'job_workers']) AS t (name)
            LEFT JOIN pg_inherits AS i ON i.inhparent = to_regclass(t.name)
            JOIN pg_stat_user_tables AS s ON s.relid = coalesce(i.inhrelid, to_regclass(t.name))
            WHERE s.schemaname = current_schema()
            GROUP BY t.name ORDER BY t.name
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


def _hidden_sessions(conn: psycopg.Connection[Any]) -> int:
    """Counts by the text with which Postgres replaces the query of a session that a role must not see."""
    row = conn.execute(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query = '<insufficient privilege>' AND pid <> pg_backend_pid()
        """
    ).fetchone()
    return row[0] if row else 0


def lost_series(conn: psycopg.Connection[Any]) -> list[LostSeries]:
    """The series that code declared and whose types no live worker handles, also before they are due.

    A worker cancels a series whose declaration is gone only if it knows the type.
    """
    return conn.cursor(row_factory=class_row(LostSeries)).execute(_LOST_SERIES).fetchall()
