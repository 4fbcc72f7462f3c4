"""Whether the scheduler that calls from outside does so: how long ago, with what gaps, and what its calls left lying.

Rows of `health`, which asks the question and passes the facts on. Calls by hand and standing workers do not count.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from jobdeck.core.model import Finding, Verdict

DAY: Final = timedelta(days=1)
FLAPPING: Final = 3
IN_A_ROW: Final = 3

CALLS: Final = """
WITH trigger AS (
    SELECT coalesce((SELECT make_interval(mins => trigger_minutes) FROM job_queue_settings WHERE id = 1),
        interval '5 minutes') AS tick
), calls AS (
    SELECT started_at, completed_at, status, http_status, claimed, due_before FROM job_worker_runs
    WHERE job_is_scheduled(source)
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
    (SELECT count(*) FROM gaps) AS gaps,
    (SELECT max(silence) FROM gaps) AS longest,
    (SELECT ended_at FROM gaps ORDER BY ended_at DESC LIMIT 1) AS back_at,
    (SELECT silence FROM gaps ORDER BY ended_at DESC LIMIT 1) AS back_after,
    ARRAY(SELECT claimed FROM newest) AS claimed,
    ARRAY(SELECT coalesce(due_before, 0) FROM newest) AS due_before,
    (SELECT message FROM job_worker_runs
        WHERE source = 'door' AND started_at > now() - interval '1 hour'
            AND completed_at > coalesce((SELECT max(completed_at) FROM good), '-infinity')
        ORDER BY started_at DESC LIMIT 1) AS refused
"""


def judge(facts: dict[str, Any], calls: dict[str, Any]) -> list[Finding]:
    """The findings about the scheduler; none where it never called, or was given up for a standing worker."""
    if calls["last_any"] is None:
        return []
    if facts["workers"] and facts["at"] - calls["last_any"] > DAY:
        return []
    return [_trigger(facts, calls), *_left_lying(calls)]


def span(length: timedelta) -> str:
    """A length of time in the one or two units that matter."""
    seconds = max(0, int(length.total_seconds()))
    minutes = seconds // 60
    if minutes < 1:
        return f"{seconds}s"
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h {minutes % 60}m"


def _trigger(facts: dict[str, Any], calls: dict[str, Any]) -> Finding:
    at, tick, last = facts["at"], facts["tick"], calls["last_good"]
    every = f"one is expected every {span(tick)}"
    if last is None:
        words = f"The scheduler has called and no call has ended well; {every}{_trouble(calls)}."
        return Finding("trigger", Verdict.CRITICAL, words, calls["last_any"])
    silent = at - last
    if silent > 2 * tick:
        has = "has stopped" if silent > 3 * tick else "is late"
        words = f"The scheduler {has}: its last good call was {span(silent)} ago, and {every}{_trouble(calls)}."
        worst = Verdict.WARNING if facts["workers"] else Verdict.CRITICAL
        return Finding("trigger", worst if silent > 3 * tick else Verdict.WARNING, words, last)
    words = f"The scheduler calls as expected, every {span(tick)}; its last good call was {span(silent)} ago."
    if not calls["gaps"]:
        return Finding("trigger", Verdict.OK, words)
    back = f" It recovered {span(at - calls['back_at'])} ago, after {span(calls['back_after'])} without a call."
    if calls["gaps"] < FLAPPING:
        return Finding("trigger", Verdict.OK, words + back)
    often = f" It stopped {calls['gaps']} times in the last day, for up to {span(calls['longest'])}."
    return Finding("trigger", Verdict.WARNING, words + back + often)


def _trouble(calls: dict[str, Any]) -> str:
    """What is known of calls that came and did not count."""
    if calls["last_status"] == "error":
        return f"; the newest ended in an error (HTTP {calls['last_http_status'] or 'unknown'})"
    if calls["refused"]:
        return f"; {calls['refused']}"
    return ""


def _left_lying(calls: dict[str, Any]) -> list[Finding]:
    """Calls that were answered with 200 and did not do what was due."""
    left = [max(due - claimed, 0) for due, claimed in zip(calls["due_before"], calls["claimed"], strict=True)]
    if len(left) < IN_A_ROW or not all(left):
        return []
    if not any(calls["claimed"]):
        words = f"The last {IN_A_ROW} calls were answered well and claimed nothing, though {left[0]} jobs were due."
        return [Finding("left lying", Verdict.CRITICAL, words)]
    words = (
        f"Each of the last {IN_A_ROW} calls left due jobs lying, the newest {left[0]}. "
        "Raise its limit, call more often, or run a standing worker."
    )
    return [Finding("left lying", Verdict.WARNING, words)]
