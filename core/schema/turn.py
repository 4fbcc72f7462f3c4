"""One installation at a time, and what keeps it waiting.

An installation claims its turn by a table that it creates and drops at once: until its transaction ends, another one
that creates a table of this name waits. Only who may create in the queue's schema can do that. An advisory lock could
be taken by every role, and before the first installation there is no table to lock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg import sql

from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import declared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from jobdeck.core.schema.components import Component

Result = TypeVar("Result")

ATTEMPT_SECONDS: Final = 2
"""How long one attempt waits for other sessions. Then it lets go of all that it holds."""
TABLES_SECONDS: Final = 0.25
"""How long an attempt to lock all tables waits for one of them, and workers with it."""
ALL_TABLES_SECONDS: Final = 0.5
"""How long such an attempt takes at most. `lock_timeout` limits the wait for each table, and not their sum."""
PAUSE_SECONDS: Final = 0.3
AUTOVACUUM_SECONDS: Final = 1.2

_CLAIM: Final = "jobdeck_installation"

# A session that has created a relation holds its lock until it commits. It may be another installation. A
# session that waits itself is named only when no other holds a lock: a role sees the times of its own sessions only.
_HOLDER: Final = """
SELECT l.pid, a.usename, a.application_name, a.xact_start, a.state
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN pg_class AS c ON c.oid = l.relation
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND (l.mode = 'AccessExclusiveLock' OR NOT %s)
    AND CASE WHEN c.oid IS NULL THEN l.mode = 'AccessExclusiveLock'
        ELSE c.relname = ANY (%s) AND c.relnamespace = to_regnamespace(quote_ident(%s)) END
ORDER BY EXISTS (SELECT FROM pg_locks AS w WHERE w.pid = l.pid AND NOT w.granted), a.xact_start LIMIT 1
"""


def use_schema(conn: psycopg.Connection[Any], schema: str) -> None:
    """Has the rest of the transaction work in a schema, which is created where it is missing."""
    name = sql.Identifier(schema)
    if conn.execute("SELECT to_regnamespace(quote_ident(%s)) IS NULL", [schema]).fetchone() == (True,):
        try:
            with conn.transaction():
                conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema):
            pass  # another installation has created it since
    conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(name))


def take_turn(conn: psycopg.Connection[Any], schema: str) -> None:
    """Keeps other installations out until the end of the transaction, which must not be nested.

    Raises:
        psycopg.errors.LockNotAvailable: when another is not over within `ATTEMPT_SECONDS`.
    """
    claim = sql.Identifier(schema, _CLAIM)
    conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{ATTEMPT_SECONDS}s"])
    conn.execute(sql.SQL("CREATE TABLE {} ()").format(claim))
    conn.execute(sql.SQL("DROP TABLE {}").format(claim))


def lock_tables(conn: psycopg.Connection[Any], schema: str, components: Sequence[Component]) -> None:
    """Locks tables and views all at once until the end of the transaction, in short attempts.

    A worker locks them in another order. Who waits for longer than `deadlock_timeout` (1 s) may be ended by the server,
    and that must not be a worker.

    Raises:
        psycopg.errors.LockNotAvailable: when no attempt succeeds within `ATTEMPT_SECONDS`.
    """
    names = sorted({relation for component in components for relation in declared(component).relations})
    rows = conn.execute(
        "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s)) "
        "AND relname = ANY (%s) AND relkind IN ('r', 'p', 'v') AND pg_has_role(relowner, 'usage') ORDER BY relname",
        [schema, names],
    ).fetchall()
    relations = [sql.Identifier(schema, name) for name, _ in rows]
    tables = [sql.Identifier(schema, name) for name, kind in rows if kind != "v"]
    began = time.monotonic()
    while rows:
        waited = time.monotonic() - began
        if _lock_at_once(conn, relations):
            break
        if waited > ATTEMPT_SECONDS:
            raise psycopg.errors.LockNotAvailable("another session has locked one of the tables")
        _interrupt_autovacuum(conn, tables, patient=waited < ATTEMPT_SECONDS / 2)
        # Workers waited as well. They claim and finish before the next attempt.
        conn.execute("SELECT pg_sleep(%s)", [PAUSE_SECONDS])
    conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{ATTEMPT_SECONDS}s"])


def _lock_at_once(conn: psycopg.Connection[Any], relations: Sequence[sql.Identifier]) -> bool:
    """Locks all tables, or none. Returns whether it did."""
    limits = {"lock_timeout": TABLES_SECONDS, "statement_timeout": ALL_TABLES_SECONDS}
    before = [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in limits]
    try:
        with conn.transaction():
            for name, seconds in limits.items():
                conn.execute("SELECT set_config(%s, %s, true)", [name, f"{seconds}s"])
            conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(relations)))
            for name, row in zip(limits, before, strict=True):
                conn.execute("SELECT set_config(%s, %s, true)", [name, row[0] if row else "0"])
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        return False
    return True


def _interrupt_autovacuum(conn: psycopg.Connection[Any], tables: Sequence[sql.Identifier], *, patient: bool) -> None:
    """Has the server end an autovacuum of these tables, which it does for a session that waits for `deadlock_timeout`.

    One table at a time, so that this session holds nothing that another waits for. A role that may not shorten
    `deadlock_timeout` waits for longer than its 1 s, and only when not `patient`.
    """
    row = conn.execute("SELECT has_parameter_privilege('deadlock_timeout', 'set')").fetchone()
    quick = row == (True,)
    if patient and not quick:
        return
    for table in tables:
        try:
            with conn.transaction(force_rollback=True):
                if quick:
                    conn.execute("SET LOCAL deadlock_timeout = '50ms'")
                wait = TABLES_SECONDS if quick else AUTOVACUUM_SECONDS
                conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{wait}s"])
                conn.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(table))
        except psycopg.errors.LockNotAvailable:
            continue


def patiently(
    conn: psycopg.Connection[Any],
    attempt: Callable[[], Result],
    *,
    seconds: float,
    waits: Callable[[], object],
) -> Result:
    """Runs an attempt in a transaction, and again while other sessions are in its way, for `seconds` at most.

    `waits` is called after each attempt that gave up, before the next.

    Raises:
        psycopg.errors.LockNotAvailable: when the time is over.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            with conn.transaction():
                return attempt()
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > until:
                raise
        waits()


def holder(
    conn: psycopg.Connection[Any], schema: str, components: Sequence[Component], *, whole_tables: bool = False
) -> str:
    """The session whose transaction has held the queue's tables for longest, in words: pid, role, application, since.

    Empty when there is none any more. With `whole_tables` only a session counts that lets nobody else read a table.
    """
    names = sorted({relation for component in components for relation in declared(component).relations})
    row = conn.execute(_HOLDER, [whole_tables, names, schema]).fetchone()
    return "" if row is None else _words(*row)


def _words(
    pid: int | None, role: str | None, application: str | None, since: datetime | None, state: str | None
) -> str:
    if pid is None:
        return "a prepared transaction"
    parts = [f"pid {pid}", f"role {clean(role or 'unknown')}", f"application {clean(application or 'unnamed')}"]
    if since is not None:
        parts.append(f"in a transaction since {since:%Y-%m-%d %H:%M:%S} ({clean(state or 'unknown')})")
    return ", ".join(parts)
