"""What an installation changes in the original application's database, in sentences for `init --dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from jobdeck.core.schema import known_components
from jobdeck.core.schema.catalog import declared

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    Connection = psycopg.Connection[Any]

FUNCTIONS: Final = (
    "job_queue_claim(integer)",
    "job_queue_mark_succeeded(uuid, jsonb)",
    "job_queue_mark_failed(uuid, text, integer)",
    "job_queue_mark_failed(uuid, text, interval)",
    "job_queue_enqueue(text, jsonb, timestamptz, integer)",
    "job_queue_cleanup(interval)",
)
NULLABLE: Final = {
    ("alert_log", "channel"): "an alert to an admin has no channel",
    ("alert_log", "unread_count"): "an alert to an admin counts no messages",
    ("competitor_announcement_campaigns", "created_by"): "a campaign from a command has no signed-in user",
}
FILLED: Final = {
    ("competitors", "created_at"): "a row that is written without one gets the time of the statement",
    ("game_platform_sync_state", "needs_totals_refresh"): "a row that is written without one gets false",
}
STATUSES: Final = {
    "competitor_announcement_campaigns": "partially_failed",
    "competitor_announcement_recipients": "uncertain",
}


def changes(conn: Connection) -> list[str]:
    """What the first installation would change here, a sentence each; nothing once it is done."""
    if _is_installed(conn):
        return []
    found = [
        f"The function {name} would be replaced by one that does the same through this queue. Its text is kept, and "
        f"`jobdeck cutover undo` brings it back."
        for name in FUNCTIONS
        if _one(conn, "SELECT to_regprocedure(%s) IS NOT NULL", f"public.{name}")
    ]
    found += [
        f"{table}.{column} could be null: {why}."
        for (table, column), why in NULLABLE.items()
        if _is_not_null(conn, table, column) is True
    ]
    found += [
        f"{table}.{column} could no longer be null: {why}."
        for (table, column), why in FILLED.items()
        if _is_not_null(conn, table, column) is False
    ]
    found += [
        f"The check of {table}.status would allow more statuses, such as {status}."
        for table, status in STATUSES.items()
        if _allows(conn, table, status) is False
    ]
    found += _rows_that_change(conn)
    found += _tables(conn)
    dead = _dead_runs(conn)
    if dead:
        found.append(
            f"{dead} running jobs have not changed for 20 minutes, so their runs have died. The runner's next call "
            f"would return them to the queue. Before `jobdeck init`, cancel those that must not run again on the "
            f"original's page."
        )
    doubles = _surplus_stats(conn)
    if doubles:
        found.append(
            f"{doubles} rows of game_platform_stats, of competitors with more than one, would move to "
            f"game_platform_stats_duplicates."
        )
    return found


def _is_installed(conn: Connection) -> bool:
    if not _one(conn, "SELECT to_regclass('public.jobdeck_schema') IS NOT NULL"):
        return False
    return _one(
        conn,
        "SELECT EXISTS (SELECT FROM public.jobdeck_schema AS s WHERE s.version > 0 "
        "AND coalesce(to_jsonb(s) ->> 'component', 'competition') = 'competition')",
    )


def _is_not_null(conn: Connection, table: str, column: str) -> bool | None:
    """None when there is no such column."""
    return _maybe(
        conn,
        "SELECT a.attnotnull FROM pg_attribute AS a WHERE a.attrelid = to_regclass(%s) AND a.attname = %s",
        (f"public.{table}", column),
    )


def _allows(conn: Connection, table: str, status: str) -> bool | None:
    """None when the table has no check of its status."""
    return _maybe(
        conn,
        "SELECT bool_and(strpos(pg_get_constraintdef(k.oid), %s) > 0) FROM pg_constraint AS k "
        "WHERE k.conrelid = to_regclass(%s) AND k.contype = 'c' AND pg_get_constraintdef(k.oid) ~ '\\mstatus\\M'",
        (status, f"public.{table}"),
    )


def _rows_that_change(conn: Connection) -> list[str]:
    if not _has_queue(conn):
        return []
    endless = _count(
        conn,
        "SELECT count(*) FROM public.job_queue WHERE is_recurring AND coalesce(recurrence_interval_minutes, 0) <= 0 "
        "AND status IN ('pending', 'running')",
    )
    series = _count(
        conn,
        "SELECT count(*) FROM public.job_queue WHERE is_recurring AND recurrence_interval_minutes > 0 "
        "AND last_run_at IS NOT NULL AND status = 'pending'",
    )
    running = _count(conn, "SELECT count(*) FROM public.job_queue WHERE status = 'running'")
    said = {
        f"{endless} recurring jobs without an interval would fail, with a way out.": endless,
        f"{series} recurring jobs would be due one interval after their last run, with all their attempts.": series,
        f"{running} running jobs would get a lease of 20 minutes from their last change. A report that waits for "
        f"`jobdeck init` fails: pause the original, and wait until none of its jobs runs.": running,
    }
    return [sentence for sentence, count in said.items() if count]


def _tables(conn: Connection) -> list[str]:
    names = sorted({name for one in known_components() for name in declared(one).tables})
    there = conn.execute(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s) "
        "AND relkind IN ('r', 'p') ORDER BY 1",
        [names],
    ).fetchall()
    if not there:
        return []
    return [
        f"Columns, triggers, constraints and indexes would be added to {', '.join(name for (name,) in there)}.",
        f"{len(names) - len(there)} tables would be added.",
    ]


def _has_queue(conn: Connection) -> bool:
    return _one(conn, "SELECT to_regclass('public.job_queue') IS NOT NULL")


def _dead_runs(conn: Connection) -> int:
    if not _has_queue(conn):
        return 0
    return _count(
        conn,
        "SELECT count(*) FROM public.job_queue WHERE status = 'running' AND updated_at < now() - interval '20 minutes'",
    )


def _surplus_stats(conn: Connection) -> int:
    if not _one(conn, "SELECT to_regclass('public.game_platform_stats') IS NOT NULL"):
        return 0
    return _count(conn, "SELECT count(*) - count(DISTINCT competitor_id) FROM public.game_platform_stats")


def _count(conn: Connection, statement: LiteralString) -> int:
    row = conn.execute(statement).fetchone()
    return int(row[0]) if row else 0


def _one(conn: Connection, statement: LiteralString, *given: object) -> bool:
    return bool(_maybe(conn, statement, given))


def _maybe(conn: Connection, statement: LiteralString, given: Sequence[object]) -> bool | None:
    row = conn.execute(statement, given or None).fetchone()
    return None if row is None or row[0] is None else bool(row[0])
