"""The verdict of health: is the queue doing its work, and if not, what and since when.

Thresholds are those of the specification of the queue, section 8.7; the tick they count in is 5 minutes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row

from core.model import Finding, Health, Verdict, WorkerRun

if TYPE_CHECKING:
    import psycopg

TICK: Final = timedelta(minutes=5)
OVERDUE: Final = timedelta(minutes=15)
STREAK: Final = 3
SEVERITY: Final = (Verdict.OK, Verdict.PAUSED, Verdict.WARNING, Verdict.CRITICAL)

_FACTS: Final = """
SELECT now() AS at,
    (SELECT coalesce(processing_enabled OR resume_at <= now(), false) FROM job_queue_settings WHERE id = 1) AS enabled,
    (SELECT paused_at FROM job_queue_settings WHERE id = 1) AS paused_at,
    (SELECT paused_by FROM job_queue_settings WHERE id = 1) AS paused_by,
    (SELECT paused_reason FROM job_queue_settings WHERE id = 1) AS paused_reason,
    job_queue_oldest_due() AS oldest_due,
    (SELECT count(*) FROM job_workers WHERE heartbeat_at > now() - interval '2 minutes') AS workers,
    (SELECT max(heartbeat_at) FROM job_workers) AS last_heartbeat,
    (SELECT max(completed_at) FROM (SELECT completed_at FROM job_worker_runs
        WHERE status = 'ok' AND source IN ('cron_http', 'worker', 'embedded', 'vercel_cron_secret')
        ORDER BY started_at DESC LIMIT 50) AS recent) AS last_good_tick,
    (SELECT count(*) FROM job_list WHERE status = 'running' AND lease_expires_at <= now()) AS stuck,
    (SELECT min(lease_expires_at) FROM job_list WHERE status = 'running' AND lease_expires_at <= now()) AS stuck_since,
    (SELECT count(*) FROM job_list WHERE is_recurring AND status = 'pending' AND consecutive_failures >= 1) AS failing,
    (SELECT max(consecutive_failures) FROM job_list WHERE is_recurring AND status = 'pending') AS streak,
    (SELECT task_type FROM job_list WHERE is_recurring AND status = 'pending' AND consecutive_failures >= 1
        ORDER BY consecutive_failures DESC, run_at LIMIT 1) AS failing_type,
    (SELECT coalesce(sum(failed), 0) FROM job_throughput WHERE minute > now() - interval '1 hour') AS failed_last_hour,
    (SELECT count(*) FROM job_worker_runs WHERE completed_at IS NULL AND source <> 'worker'
        AND started_at BETWEEN now() - interval '1 day' AND now() - interval '15 minutes') AS crashed
"""

_RATES: Final = """
SELECT coalesce(sum(t.succeeded + t.troubled + t.failed), 0)::integer AS finished
FROM generate_series(date_trunc('minute', now()) - interval '14 minutes', date_trunc('minute', now()),
    interval '1 minute') AS m (minute)
LEFT JOIN job_throughput AS t ON t.minute = m.minute
GROUP BY m.minute ORDER BY m.minute
"""

_LAST_TRIGGER: Final = """
SELECT id, started_at, completed_at, source, http_method, http_status, status, processed,
    coalesce(succeeded, 0) AS succeeded, coalesce(failed, 0) AS failed, released, claimed, due_before, worker_id,
    message, error_message
FROM job_worker_runs ORDER BY started_at DESC LIMIT 1
"""


def health(conn: psycopg.Connection[Any]) -> Health:
    """The verdict, worst finding first, and the figures of the dashboard's line of health.

    `finished_per_minute` holds the last 15 minutes, oldest first, the current one unfinished.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        facts: dict[str, Any] = cursor.execute(_FACTS).fetchall()[0]
        rates = tuple(row["finished"] for row in cursor.execute(_RATES).fetchall())
        trigger = cursor.execute(_LAST_TRIGGER).fetchone()
    findings = sorted(
        (
            _switch(facts),
            _workers(facts),
            _due(facts),
            _stuck(facts),
            _series(facts),
            _crashed(facts),
        ),
        key=lambda finding: -SEVERITY.index(finding.verdict),
    )
    return Health(
        verdict=findings[0].verdict,
        findings=tuple(findings),
        oldest_due=facts["oldest_due"],
        finished_per_minute=rates,
        failed_last_hour=int(facts["failed_last_hour"]),
        last_trigger=WorkerRun(**trigger) if trigger else None,
    )


def _ago(at: datetime, since: datetime) -> str:
    minutes = int((at - since).total_seconds() // 60)
    if minutes < 1:
        return f"{max(0, int((at - since).total_seconds()))}s"
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h {minutes % 60}m"


def _switch(facts: dict[str, Any]) -> Finding:
    if facts["enabled"]:
        return Finding("processing", Verdict.OK, "Automatic processing is on.")
    if facts["enabled"] is None:
        return Finding("processing", Verdict.CRITICAL, "The settings row is missing, so nothing is claimed.")
    reason = f": {facts['paused_reason']}" if facts["paused_reason"] else ""
    who = f" by {facts['paused_by']}" if facts["paused_by"] else ""
    return Finding("processing", Verdict.PAUSED, f"Automatic processing is off{who}{reason}.", facts["paused_at"])


def _workers(facts: dict[str, Any]) -> Finding:
    if facts["workers"]:
        return Finding("workers", Verdict.OK, f"{facts['workers']} alive.")
    last_seen = max((t for t in (facts["last_good_tick"], facts["last_heartbeat"]) if t), default=None)
    if last_seen is None:
        return Finding("workers", Verdict.CRITICAL, "No worker has ever been heard of, and no trigger has run.")
    silent = facts["at"] - last_seen
    words = f"No worker is alive; the last sign of one was {_ago(facts['at'], last_seen)} ago."
    if silent > 3 * TICK:
        return Finding("workers", Verdict.CRITICAL, words, last_seen)
    return Finding("workers", Verdict.WARNING if silent > 2 * TICK else Verdict.OK, words, last_seen)


def _due(facts: dict[str, Any]) -> Finding:
    oldest = facts["oldest_due"]
    if oldest is None:
        return Finding("due jobs", Verdict.OK, "Nothing that is due is waiting.")
    words = f"The oldest due job has waited {_ago(facts['at'], oldest)}."
    late = facts["at"] - oldest
    if not facts["enabled"]:
        return Finding("due jobs", Verdict.PAUSED, words, oldest)
    if late >= OVERDUE:
        return Finding("due jobs", Verdict.CRITICAL, words, oldest)
    return Finding("due jobs", Verdict.WARNING if late >= TICK else Verdict.OK, words, oldest)


def _stuck(facts: dict[str, Any]) -> Finding:
    if not facts["stuck"]:
        return Finding("running jobs", Verdict.OK, "Every running job's lease is being renewed.")
    words = f"{facts['stuck']} running with an expired lease; a live worker takes them back."
    return Finding("running jobs", Verdict.CRITICAL, words, facts["stuck_since"])


def _series(facts: dict[str, Any]) -> Finding:
    if not facts["failing"]:
        return Finding("recurring jobs", Verdict.OK, "Each succeeded in its last cycle.")
    words = f"{facts['failing']} failing; {facts['failing_type']} for {facts['streak']} cycles in a row."
    return Finding("recurring jobs", Verdict.CRITICAL if facts["streak"] >= STREAK else Verdict.WARNING, words)


def _crashed(facts: dict[str, Any]) -> Finding:
    if not facts["crashed"]:
        return Finding("cycles", Verdict.OK, "Every cycle that began has ended.")
    return Finding("cycles", Verdict.WARNING, f"{facts['crashed']} began in the last day and never ended: crashed.")
