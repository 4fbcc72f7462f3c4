"""Judges the external scheduler: its last call, gaps between its calls, and due jobs that its calls left unclaimed.

`jobdeck.core.read.health` reads the facts and passes them on. Calls by hand and running workers do not count.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.report_types import Counts
from jobdeck.core.read.sentences import amount

DAY: Final = timedelta(days=1)
FLAPPING: Final = 3
IN_A_ROW: Final = 3

CALLS: Final = """
WITH trigger AS (
    SELECT coalesce((SELECT make_interval(mins => trigger_minutes) FROM job_queue_settings WHERE id = 1),
        interval '5 minutes') AS tick
), outside AS (
    -- The scheduler of another runner, whose calls name no worker, may stop once that runner has no jobs.
    SELECT EXISTS (SELECT FROM job_queue_settings WHERE held_by IS NOT NULL)
        OR EXISTS (SELECT FROM job_paused_types WHERE set_aside) AS expected
), calls AS (
    SELECT started_at, completed_at, status, http_status, claimed, due_before FROM job_worker_runs
    WHERE job_is_scheduled(source) AND (worker_id IS NOT NULL OR (SELECT expected FROM outside))
    ORDER BY started_at DESC LIMIT 300
), good AS (
    SELECT started_at, completed_at, started_at - lag(completed_at) OVER (ORDER BY started_at) AS silence
    FROM calls WHERE status IN ('ok', 'paused') AND completed_at IS NOT NULL
), gaps AS (
    SELECT started_at AS ended_at, silence FROM good
    WHERE silence > 3 * (SELECT tick FROM trigger) AND started_at > now() - interval '1 day'
), newest AS (
    SELECT claimed, due_before FROM calls WHERE status = 'ok' ORDER BY started_at DESC LIMIT 3
)
SELECT (SELECT max(completed_at) FROM good) AS last_good,
    (SELECT max(started_at) FROM calls) AS last_any,
    (SELECT status FROM calls ORDER BY started_at DESC LIMIT 1) AS last_status,
    (SELECT http_status FROM calls ORDER BY started_at DESC LIMIT 1) AS last_http_status,
    (SELECT min(started_at) FROM calls HAVING bool_and(completed_at IS NULL)) AS first_open,
    (SELECT count(*) FROM gaps) AS gaps,
    (SELECT max(silence) FROM gaps) AS longest,
    (SELECT ended_at FROM gaps ORDER BY ended_at DESC LIMIT 1) AS back_at,
    (SELECT silence FROM gaps ORDER BY ended_at DESC LIMIT 1) AS back_after,
    ARRAY(SELECT claimed FROM newest) AS claimed,
    ARRAY(SELECT coalesce(due_before, 0) FROM newest) AS due_before,
    (SELECT message FROM job_worker_runs
        WHERE source = 'door' AND started_at > now() - interval '1 hour'
            AND coalesce(noted_at, completed_at) > coalesce((SELECT max(completed_at) FROM good), '-infinity')
        ORDER BY started_at DESC LIMIT 1) AS refused
"""


def judge(facts: dict[str, Any], calls: dict[str, Any]) -> list[Finding]:
    """The findings about the scheduler; none if it never called, or if a worker has replaced it for a day."""
    if calls["last_any"] is None:
        return []
    if facts["workers"] and facts["at"] - calls["last_any"] > DAY:
        return []
    return [_trigger(facts, calls), *_left_lying(calls)]


def span(length: timedelta) -> str:
    """A duration in its largest one or two units, such as `45s`, `12m` or `3h 5m`."""
    seconds = max(0, int(length.total_seconds()))
    minutes = seconds // 60
    if minutes < 1:
        return f"{seconds}s"
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h {minutes % 60}m"


def _trigger(facts: dict[str, Any], calls: dict[str, Any]) -> Finding:
    at, tick, last = facts["at"], facts["tick"], calls["last_good"]
    every = f"expected every {span(tick)}"
    first = calls["first_open"]
    if last is None and first is not None and at - first <= 2 * tick and not calls["refused"]:
        return Finding("trigger", Verdict.OK, f"The scheduler has begun to call; its first call still runs; {every}.")
    if last is None:
        words = f"The scheduler calls, but no call has succeeded yet; {every}{_trouble(calls)}."
        return Finding("trigger", Verdict.CRITICAL, words, calls["last_any"])
    silent = at - last
    if silent > 2 * tick:
        has = "has stopped" if silent > 3 * tick else "is late"
        words = f"The scheduler {has}: last good call {span(silent)} ago, {every}{_trouble(calls)}."
        worst = Verdict.WARNING if facts["workers"] else Verdict.CRITICAL
        return Finding("trigger", worst if silent > 3 * tick else Verdict.WARNING, words, last)
    words = f"The scheduler calls every {span(tick)} as expected; last good call {span(silent)} ago."
    if not calls["gaps"]:
        return Finding("trigger", Verdict.OK, words)
    back = f" It recovered {span(at - calls['back_at'])} ago, after {span(calls['back_after'])} without a call."
    if calls["gaps"] < FLAPPING:
        return Finding("trigger", Verdict.OK, words + back)
    often = f" It stopped {calls['gaps']} times in the last day, for up to {span(calls['longest'])}."
    return Finding("trigger", Verdict.WARNING, words + back + often)


def _trouble(calls: dict[str, Any]) -> str:
    """The reason why the latest calls did not succeed, if one is known."""
    if calls["last_status"] == "error":
        return f"; the latest call ended in an error (HTTP {calls['last_http_status'] or 'unknown'})"
    if calls["refused"]:
        return f"; {calls['refused']}"
    return ""


def _left_lying(calls: dict[str, Any]) -> list[Finding]:
    """A finding if the latest calls succeeded but left due jobs unclaimed."""
    left = [max(due - claimed, 0) for due, claimed in zip(calls["due_before"], calls["claimed"], strict=True)]
    if len(left) < IN_A_ROW or not all(left):
        return []
    lying = amount(left[0], at_least=calls["due_before"][0] > Counts.LIMIT)
    if not any(calls["claimed"]):
        words = f"The last {IN_A_ROW} calls succeeded but claimed no job, although {lying} jobs were due."
        return [Finding("left lying", Verdict.CRITICAL, words)]
    words = (
        f"Each of the last {IN_A_ROW} calls left due jobs unclaimed, the latest {lying}. "
        "Raise its limit, call more often, or run a worker."
    )
    return [Finding("left lying", Verdict.WARNING, words)]
