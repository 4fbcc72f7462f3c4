"""What an installation changes in the original application's database, in sentences for `init --dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.schema import known_components
from jobdeck.core.schema.catalog import declared

if TYPE_CHECKING:
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
ROWS: Final = {
    "{} recurring jobs without an interval would fail, with a way out.": (
        "job_queue",
        """
        SELECT count(*) FROM public.job_queue
        WHERE is_recurring AND coalesce(recurrence_interval_minutes, 0) <= 0 AND status IN ('pending', 'running')
        """,
    ),
    "{} recurring jobs would be due one interval after their last run, with all their attempts.": (
        "job_queue",
        """
        SELECT count(*) FROM public.job_queue
        WHERE is_recurring AND recurrence_interval_minutes > 0 AND last_run_at IS NOT NULL AND status = 'pending'
        """,
    ),
    "{} running jobs would get a lease of 20 minutes from their last change. A report that waits for `jobdeck init` "
    "fails: pause the original, and wait until none of its jobs runs.": (
        "job_queue",
        "SELECT count(*) FROM public.job_queue WHERE status = 'running'",
    ),
    "{} running jobs have not changed for 20 minutes, so their runs have died. The runner's next call would return "
    "them to the queue. Before `jobdeck init`, cancel those that must not run again on the original's page.": (
        "job_queue",
        "SELECT count(*) FROM public.job_queue WHERE status = 'running' AND updated_at < now() - interval '20 minutes'",
    ),
    "{} rows of game_platform_stats, of competitors with more than one, would move to "
    "game_platform_stats_duplicates.": (
        "game_platform_stats",
        "SELECT count(*) - count(DISTINCT competitor_id) FROM public.game_platform_stats",
    ),
}
"""The sentences about rows that change, each with their table and the statement that counts them."""


def changes(conn: Connection) -> list[str]:
    """What the first installation would change here, a sentence each; nothing once it is done."""
    if _is_installed(conn):
        return []
    found = [
        f"The function {name} would be replaced by one that does the same through this queue. Its text is kept, and "
        f"`jobdeck cutover undo` brings it back."
        for name in FUNCTIONS
        if _value(conn, "SELECT to_regprocedure(%s)::text", f"public.{name}")
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
    found += [
        sentence.format(count)
        for sentence, (table, statement) in ROWS.items()
        if _exists(conn, table) and (count := _value(conn, statement))
    ]
    return found + _tables(conn)


def _is_installed(conn: Connection) -> bool:
    return _exists(conn, "jobdeck_schema") and bool(
        _value(
            conn,
            "SELECT EXISTS (SELECT FROM public.jobdeck_schema AS s WHERE s.version > 0 "
            "AND coalesce(to_jsonb(s) ->> 'component', 'competition') = 'competition')",
        )
    )


def _is_not_null(conn: Connection, table: str, column: str) -> bool | None:
    """None when there is no such column."""
    found: bool | None = _value(
        conn,
        "SELECT a.attnotnull FROM pg_attribute AS a WHERE a.attrelid = to_regclass(%s) AND a.attname = %s",
        f"public.{table}",
        column,
    )
    return found


def _allows(conn: Connection, table: str, status: str) -> bool | None:
    """None when the table has no check of its status."""
    found: bool | None = _value(
        conn,
        "SELECT bool_and(strpos(pg_get_constraintdef(k.oid), %s) > 0) FROM pg_constraint AS k "
        "WHERE k.conrelid = to_regclass(%s) AND k.contype = 'c' AND pg_get_constraintdef(k.oid) ~ '\\mstatus\\M'",
        status,
        f"public.{table}",
    )
    return found


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


def _exists(conn: Connection, table: str) -> bool:
    return bool(_value(conn, "SELECT to_regclass(%s) IS NOT NULL", f"public.{table}"))


def _value(conn: Connection, statement: Any, *given: object) -> Any:
    """The first value of the first row; None without a row."""
    row = conn.execute(statement, given or None).fetchone()
    return row[0] if row else None
