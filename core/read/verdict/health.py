"""The health verdict: whether the queue does its work and, if not, what is wrong and since when.

The thresholds come from the queue's specification, section 8.7. They are multiples of the interval at which a scheduler
should call: 5 minutes, unless the database has another value. `jobdeck.core.read.scheduler_health` judges the
scheduler, if one has ever called.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Finding, Health, Verdict
from jobdeck.core.plugins import load_plugins, off_here
from jobdeck.core.read import history
from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.sentences import DUE, sentence
from jobdeck.core.read.stats import figures
from jobdeck.core.read.stats.figures import OUTCOMES
from jobdeck.core.read.verdict import cannot_run, failing_types, scheduler_health, upkeep_health
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.model import WorkerRun
    from jobdeck.core.read.rows import Row
    from jobdeck.core.read.verdict.cannot_run import Obstacle

TICK: Final = timedelta(minutes=5)
OVERDUE: Final = timedelta(minutes=15)
OVER: Final = timedelta(seconds=30)
"""The time that a run gets to stop at its timeout, before health names it."""
STREAK: Final = 3
SILENT_NAMED: Final = 5
DRY_NAMED: Final = 5
USED_UP: Final = 0.8
MOST_RUNNING: Final = 500
"""How many running jobs are looked at, the longest runs first."""
SEVERITY: Final = (Verdict.OK, Verdict.PAUSED, Verdict.WARNING, Verdict.CRITICAL)

_FACTS: Final = """
WITH aside AS (SELECT task_type FROM job_paused_types WHERE set_aside),
off AS (SELECT DISTINCT component FROM jobdeck_schema WHERE component <> 'queue' AND component <> ALL (%(on)s))
SELECT now() AS at,
    (SELECT coalesce(processing_enabled OR resume_at <= now(), false) FROM job_queue_settings WHERE id = 1) AS enabled,
    (SELECT held_by FROM job_queue_settings WHERE id = 1) AS held_by,
    (SELECT paused_at FROM job_queue_settings WHERE id = 1) AS paused_at,
    (SELECT paused_by FROM job_queue_settings WHERE id = 1) AS paused_by,
    (SELECT paused_reason FROM job_queue_settings WHERE id = 1) AS paused_reason,
    coalesce((SELECT make_interval(mins => trigger_minutes) FROM job_queue_settings WHERE id = 1),
        interval '5 minutes') AS tick,
    job_queue_oldest_due() AS oldest_due,
    (SELECT count(*) FROM job_workers WHERE job_worker_is_alive(heartbeat_at, now())) AS workers,
    (SELECT max(heartbeat_at) FROM job_workers) AS last_heartbeat,
    (SELECT max(heartbeat_at) FROM job_workers WHERE mode <> 'cycle') AS died_at,
    (SELECT max(completed_at) FROM (SELECT completed_at FROM job_worker_runs
        WHERE status IN ('ok', 'paused') AND (source IN ('worker', 'embedded') OR job_is_scheduled(source))
        ORDER BY started_at DESC LIMIT 50) AS recent) AS last_good_tick,
    (SELECT count(*) FROM job_list WHERE status = 'running' AND lease_expires_at <= now()) AS stuck,
    (SELECT min(lease_expires_at) FROM job_list WHERE status = 'running' AND lease_expires_at <= now()) AS stuck_since,
    (SELECT count(*) FROM job_list
        WHERE is_recurring AND status IN ('pending', 'running') AND consecutive_failures >= 1
            AND task_type NOT IN (SELECT task_type FROM aside)) AS failing,
    (SELECT max(consecutive_failures) FROM job_list
        WHERE is_recurring AND status IN ('pending', 'running')
            AND task_type NOT IN (SELECT task_type FROM aside)) AS streak,
    EXISTS (SELECT FROM job_list WHERE is_recurring AND status IN ('pending', 'running')) AS recurring,
    (SELECT count(*) FROM job_list WHERE is_recurring AND status IN ('pending', 'running') AND last_run_dry) AS dry,
    ARRAY(SELECT DISTINCT task_type FROM job_list
        WHERE is_recurring AND status IN ('pending', 'running') AND last_run_dry ORDER BY 1 LIMIT 6) AS dry_types,
    (SELECT task_type FROM job_list
        WHERE is_recurring AND status IN ('pending', 'running') AND consecutive_failures >= 1
            AND task_type NOT IN (SELECT task_type FROM aside)
        ORDER BY consecutive_failures DESC, run_at LIMIT 1) AS failing_type,
    ARRAY(SELECT task_type FROM aside ORDER BY task_type) AS aside,
    ARRAY(SELECT component FROM off ORDER BY component) AS plugins_off,
    (SELECT coalesce(sum(permanent), 0) FROM job_stat_list
        WHERE minutes = 1 AND bucket > now() - interval '1 hour' AND NOT dry_run) AS failed_last_hour,
    (SELECT count(*) FROM job_worker_runs
        WHERE completed_at IS NULL AND source NOT IN ('worker', 'embedded') AND worker_id IS NOT NULL
        AND started_at BETWEEN now() - interval '1 day' AND now() - interval '15 minutes') AS crashed,
    (SELECT count(*) FROM job_worker_runs WHERE completed_at IS NULL AND source <> 'worker' AND worker_id IS NULL
        AND started_at BETWEEN now() - interval '1 day' AND now() - interval '15 minutes') AS crashed_elsewhere,
    greatest((SELECT max(started_at) FROM job_list WHERE status = 'running'),
        (SELECT started_at FROM job_run_list ORDER BY run_token DESC LIMIT 1)) AS last_claim,
    ARRAY(SELECT s.id || ' for ' || s.minutes || 'm (' || s.jobs || CASE s.jobs WHEN 1 THEN ' job)' ELSE ' jobs)' END
        FROM (
            SELECT w.id, w.heartbeat_at, extract(epoch FROM now() - w.heartbeat_at)::integer / 60 AS minutes,
                (SELECT count(*) FROM job_list AS j WHERE j.status = 'running' AND j.locked_by = w.id)
                + (SELECT count(DISTINCT j.id) FROM job_run_list AS r JOIN job_list AS j ON j.id = r.job_id
                    WHERE r.outcome = 'lost' AND r.finished_at > w.heartbeat_at AND r.worker_id = w.id
                        AND j.status = 'pending' AND j.last_outcome = 'lost') AS jobs
            FROM job_workers AS w
            WHERE w.heartbeat_at >= now() - interval '1 hour' AND NOT job_worker_is_alive(w.heartbeat_at, now())
            ORDER BY w.heartbeat_at LIMIT 50
        ) AS s
        WHERE s.jobs > 0 ORDER BY s.heartbeat_at LIMIT 6) AS silent
"""

_LATE_SERIES: Final = """
WITH trigger AS (
    SELECT coalesce((SELECT make_interval(mins => trigger_minutes) FROM job_queue_settings WHERE id = 1),
        interval '5 minutes') AS tick
)
SELECT task_type, count(*) AS late, min(greatest(run_at, created_at)) AS since,
    (SELECT count(*) = 500 FROM (SELECT FROM job_list
        WHERE is_recurring AND status IN ('pending', 'running') AND run_at <= now() - (SELECT tick FROM trigger)
        LIMIT 500) AS found) AS at_least
FROM (
    SELECT status, blocked_by, in_line, run_at, created_at, task_type FROM job_list
    WHERE is_recurring AND status IN ('pending', 'running') AND run_at <= now() - (SELECT tick FROM trigger)
    ORDER BY run_at LIMIT 500
) AS j
WHERE status = 'pending' AND blocked_by IS NULL AND NOT in_line
    AND NOT EXISTS (SELECT FROM job_paused_types AS t
        WHERE t.task_type = j.task_type AND (t.resume_at IS NULL OR t.resume_at > now()))
GROUP BY task_type ORDER BY since
"""

_RUNNING: Final = """
SELECT task_type, locked_by, extract(epoch FROM now() - started_at)::double precision AS seconds, timeout_seconds
FROM job_list
WHERE status = 'running' AND started_at IS NOT NULL AND lease_expires_at > now() ORDER BY started_at LIMIT %(most)s
"""


def health(*, timeouts: Mapping[str, float] | None = None, production: bool = False) -> Query[Health]:
    """The verdict, with the worst finding first, and the figures of the dashboard's health line.

    Some findings always appear, others only when there is a problem. With `timeouts` (seconds by task type),
    there is a finding about runs that have used most of their timeout; with `production`, one about recurring jobs
    whose last run was a dry run.
    """

    def read(
        facts: Row, rates: list[Row], triggers: tuple[WorkerRun, ...], late: list[Row], calls: Row, parts: list[Row],
        failing: list[Row], *rest: Any,
    ) -> Health:  # fmt: skip
        run_out, cannot, *running = rest
        findings = _findings(facts, calls, cannot, late)
        findings += _long_runs(next(iter(running), []), timeouts or {})
        findings += upkeep_health.judge(facts, parts)
        findings += failing_types.judge(failing)
        findings += upkeep_health.run_out(run_out)
        findings += _dry_series(facts) if production else []
        findings.sort(key=lambda finding: -SEVERITY.index(finding.verdict))
        return Health(
            verdict=findings[0].verdict,
            findings=tuple(findings),
            oldest_due=facts["oldest_due"],
            finished_per_minute=tuple(row["succeeded"] + row["failed"] for row in rates),
            failed_per_minute=tuple(row["failed"] for row in rates),
            failed_last_hour=int(facts["failed_last_hour"]),
            last_trigger=next(iter(triggers), None),
        )

    return combine(
        select(_FACTS, {"on": [plugin.name for plugin in load_plugins()]}, read=_only),
        select(figures.MINUTES, OUTCOMES, read=list),
        history.worker_runs(limit=1, but="door"),
        select(_LATE_SERIES, read=list),
        select(scheduler_health.CALLS, read=_only),
        select(upkeep_health.PARTS, upkeep_health.LIMITS, read=list),
        select(failing_types.TYPES, read=list),
        select(upkeep_health.RUN_OUT, read=_only),
        cannot_run.obstacles(),
        *([select(_RUNNING, {"most": MOST_RUNNING}, read=list)] if timeouts else []),
        read=read,
    )


def _only(rows: list[Row]) -> Row:
    return rows[0]


def _findings(facts: Row, calls: Row, cannot: tuple[Obstacle, ...], late: list[Row]) -> list[Finding]:
    order = next((one for one in cannot if one.cause == "order"), None)
    held = {one.task_type for one in cannot if one.cause not in cannot_run.IN_ORDER}
    return [
        # First among findings that are as bad: with the plugin off, the others may not say what is wrong.
        *_plugins_off(facts, cannot),
        _switch(facts),
        # A scheduler that stopped is the cause of what follows.
        *scheduler_health.judge(facts, calls),
        _workers(facts, calls),
        *cannot_run.judge(cannot, facts["at"], enabled=facts["enabled"], lateness=partial(_lateness, facts)),
        cannot_run.in_line(cannot, facts["at"]) if order is None else _due(facts, order),
        _stuck(facts),
        _series(facts),
        _crashed(facts),
        *_set_aside(facts),
        *_stalled(facts, order),
        *_late_series(facts, [one for one in late if one["task_type"] not in held]),
        *_silent(facts),
    ]


def typical_seconds() -> Query[dict[str, float]]:
    """The 90th percentile of the run time in seconds, by task type, over the latest 1,000 runs."""
    return select(
        """
        SELECT task_type, percentile_cont(0.9) WITHIN GROUP (ORDER BY seconds) AS most FROM (
            SELECT task_type, extract(epoch FROM finished_at - started_at)::double precision AS seconds
            FROM job_run_list ORDER BY run_token DESC LIMIT 1000
        ) AS latest
        GROUP BY task_type
        """,
        read=lambda rows: {row["task_type"]: row["most"] for row in rows},
    )


def _ago(at: datetime, since: datetime) -> str:
    return scheduler_health.span(at - since)


def _switch(facts: dict[str, Any]) -> Finding:
    if facts["enabled"] and facts["held_by"] is not None:
        return Finding("processing", Verdict.OK, sentence("queue-held", {"who": facts["held_by"]}))
    if facts["enabled"]:
        return Finding("processing", Verdict.OK, "Automatic processing is on.")
    if facts["enabled"] is None:
        return Finding("processing", Verdict.CRITICAL, "The settings row is missing, so no job is claimed.")
    reason = f": {facts['paused_reason']}" if facts["paused_reason"] else ""
    who = f" by {facts['paused_by']}" if facts["paused_by"] else ""
    words = f"Automatic processing was turned off{who}{reason}."
    return Finding("processing", Verdict.PAUSED, words, facts["paused_at"])


def _workers(facts: dict[str, Any], calls: dict[str, Any]) -> Finding:
    if facts["workers"]:
        noun = "worker" if facts["workers"] == 1 else "workers"
        return Finding("workers", Verdict.OK, f"{facts['workers']} {noun} alive.")
    at, tick, called = facts["at"], facts["tick"], calls["last_good"]
    last_seen = max((t for t in (facts["last_good_tick"], facts["last_heartbeat"], called) if t), default=None)
    if last_seen is None:
        words = 'No worker has connected yet, and no scheduler has called. Start one: "jobdeck worker".'
        return Finding("workers", Verdict.CRITICAL, words)
    if called and at - called <= 2 * tick:
        every = f"called {_ago(at, called)} ago and is expected every {scheduler_health.span(tick)}"
        return Finding("workers", Verdict.OK, f"The scheduler, which {every}, does the work; no worker is connected.")
    silent = at - last_seen
    if last_seen == facts["died_at"]:
        # A worker that ends removes its row.
        words = f"No worker is alive; the last one died {_ago(at, last_seen)} ago."
        return Finding("workers", Verdict.CRITICAL if silent > 3 * tick else Verdict.WARNING, words, last_seen)
    if silent <= 2 * tick:
        usual = f"up to {scheduler_health.span(2 * tick)} is normal"
        return Finding("workers", Verdict.OK, f"The last worker was active {_ago(at, last_seen)} ago; {usual}.")
    words = f"No worker is alive; the last one was active {_ago(at, last_seen)} ago."
    return Finding("workers", Verdict.CRITICAL if silent > 3 * tick else Verdict.WARNING, words, last_seen)


def _due(facts: dict[str, Any], order: Obstacle) -> Finding:
    """The job that has waited longest for nothing but its turn. Those that cannot start are other findings."""
    late = facts["at"] - order.since
    words = f"Oldest job waiting {scheduler_health.span(late)}: {cannot_run.turn(order)}"
    if not facts["enabled"]:
        return Finding(DUE, Verdict.PAUSED, words, order.since)
    return Finding(DUE, _lateness(facts, late), words, order.since)


def _lateness(facts: dict[str, Any], late: timedelta) -> Verdict:
    if late >= max(OVERDUE, 3 * facts["tick"]):
        return Verdict.CRITICAL
    return Verdict.WARNING if late >= facts["tick"] else Verdict.OK


def _stalled(facts: dict[str, Any], order: Obstacle | None) -> list[Finding]:
    """A finding if jobs are due and processing is on, but no job has been claimed for long."""
    if order is None or not facts["enabled"]:
        return []
    at, since = facts["at"], max(order.since, facts["last_claim"] or order.since)
    if at - since < max(OVERDUE, 3 * facts["tick"]):
        return []
    words = f"No job was claimed for {_ago(at, since)}, although jobs are due and processing is on."
    return [Finding("claims", Verdict.CRITICAL, words, since)]


def _late_series(facts: dict[str, Any], late: list[Row]) -> list[Finding]:
    """A finding if series are late; those that cannot start are other findings."""
    if not late:
        return []
    since: datetime = late[0]["since"]
    number = sum(one["late"] for one in late)
    counted = f"At least {number}" if late[0]["at_least"] else number
    words = f"{counted} late, {late[0]['task_type']} the longest: {_ago(facts['at'], since)}."
    verdict = _lateness(facts, facts["at"] - since) if facts["enabled"] else Verdict.PAUSED
    return [Finding("late series", verdict, words, since)]


def _set_aside(facts: dict[str, Any]) -> list[Finding]:
    if not facts["aside"]:
        return []
    return [Finding("set aside", Verdict.OK, f"Left to another runner: {', '.join(facts['aside'])}.")]


def _plugins_off(facts: dict[str, Any], cannot: tuple[Obstacle, ...]) -> list[Finding]:
    """The plugins of this database that are off in this process. Jobs that no worker handles are another finding.

    While there are any, it is critical: they may be the plugins', and nobody starts a worker that has one of these.
    """
    if not facts["plugins_off"]:
        return []
    stranded = facts["enabled"] and any(one.cause == "no worker" for one in cannot)
    verdict = Verdict.CRITICAL if stranded else Verdict.WARNING
    return [Finding("plugins", verdict, off_here([clean(name) for name in facts["plugins_off"]]))]


def _silent(facts: dict[str, Any]) -> list[Finding]:
    """Workers that died and left jobs; they are no finding once other workers have started these."""
    if not facts["silent"]:
        return []
    others = " and others" if len(facts["silent"]) > SILENT_NAMED else ""
    named = ", ".join(facts["silent"][:SILENT_NAMED])
    words = f"Some jobs of silent workers have not started again: {named}{others}."
    return [Finding("silent workers", Verdict.WARNING, words)]


def _long_runs(running: list[dict[str, Any]], timeouts: Mapping[str, float]) -> list[Finding]:
    def allowed(run: Row) -> float:
        return run["timeout_seconds"] or timeouts.get(run["task_type"], math.inf)

    long = [run for run in running if run["seconds"] > USED_UP * allowed(run)]
    if not long:
        return []
    number = f"At least {len(long)}" if len(running) == MOST_RUNNING else len(long)
    many = f"{number} runs have" if len(long) > 1 else "1 run has"
    words = f"{many} used more than 80 % of the timeout; the longest is of {long[0]['task_type']}."
    over = [run for run in long if run["seconds"] > allowed(run) + OVER.total_seconds()]
    if over:
        first = over[0]
        words += (
            f" {len(over)} did not stop at it; the longest is of {first['task_type']} on {first['locked_by']}: "
            "restart that worker to end the run."
        )
    return [Finding("long runs", Verdict.WARNING, words)]


def _stuck(facts: dict[str, Any]) -> Finding:
    if not facts["stuck"]:
        return Finding("running jobs", Verdict.OK, "All running jobs have a valid lease.")
    return Finding("running jobs", Verdict.CRITICAL, _stuck_words(facts), facts["stuck_since"])


def _stuck_words(facts: dict[str, Any]) -> str:
    """Ends with the event to which the finding's `since` belongs, because it is shown behind this text."""
    one = facts["stuck"] == 1
    jobs = "1 running job" if one else f"{facts['stuck']} running jobs"
    lease = "its lease expired" if one else "the first lease expired"
    if facts["workers"]:
        return f"{jobs} {'waits' if one else 'wait'} for a live worker to take {'it' if one else 'them'} back: {lease}."
    return f"{jobs} {'is' if one else 'are'} stuck (start a worker, or run `jobdeck cleanup`): {lease}."


def _series(facts: dict[str, Any]) -> Finding:
    if not facts["recurring"]:
        return Finding("recurring jobs", Verdict.OK, "No recurring jobs.")
    if not facts["failing"]:
        return Finding("recurring jobs", Verdict.OK, "No recurring job failed in its last cycle.")
    since = "in its last cycle" if facts["streak"] == 1 else f"for {facts['streak']} cycles in a row"
    fail = "1 recurring job fails" if facts["failing"] == 1 else f"{facts['failing']:,} recurring jobs fail"
    words = f"{fail}: {facts['failing_type']} {since}."
    return Finding("recurring jobs", Verdict.CRITICAL if facts["streak"] >= STREAK else Verdict.WARNING, words)


def _dry_series(facts: dict[str, Any]) -> list[Finding]:
    """A finding about recurring jobs that run and change nothing, which look like success."""
    if not facts["dry"]:
        return []
    named, more = facts["dry_types"][:DRY_NAMED], " and others" if len(facts["dry_types"]) > DRY_NAMED else ""
    jobs = "1 recurring job runs" if facts["dry"] == 1 else f"{facts['dry']} recurring jobs run"
    words = f"{jobs} dry in production and {'changes' if facts['dry'] == 1 else 'change'} nothing: "
    return [Finding("dry runs", Verdict.WARNING, f"{words}{', '.join(named)}{more}. `jobdeck doctor` may say why.")]


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number:,} calls"


def _crashed(facts: dict[str, Any]) -> Finding:
    if not facts["crashed"] and facts["crashed_elsewhere"]:
        words = f"{_calls(facts['crashed_elsewhere'])} of another runner started in the last day and never ended."
        return Finding("cycles", Verdict.WARNING, f"{words} Jobs that it left running run again after 20 minutes.")
    if not facts["crashed"]:
        return Finding("cycles", Verdict.OK, "No call of a scheduler or a command was interrupted.")
    words = f"{_calls(facts['crashed'])} of a scheduler or a command crashed: begun in the last day and never ended."
    return Finding("cycles", Verdict.CRITICAL, words)
