"""Judges the upkeep of the queue: each part has to succeed again in time (`job_upkeep`), and cron series need slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.verdict.scheduler_health import span

if TYPE_CHECKING:
    from datetime import timedelta

    from jobdeck.core.read.rows import Row

PERIODS: Final = 3
"""The number of its periods after which a part that has not succeeded is late."""

PARTS: Final = """
WITH upkeep AS (
    -- Without a worker that runs all the time, upkeep is done by the calls of a scheduler. A minute more, because a
    -- scheduler that has stopped is a finding of its own.
    SELECT CASE WHEN EXISTS (SELECT FROM job_workers WHERE mode <> 'cycle' AND started_at < now() - interval '1 minute'
            AND job_worker_is_alive(heartbeat_at, now())) THEN interval '0'
        ELSE coalesce((SELECT make_interval(mins => trigger_minutes + 1) FROM job_queue_settings WHERE id = 1),
            interval '6 minutes') END AS least
)
SELECT part, succeeded_at, coalesce(trouble, '') AS trouble, set_aside, age, most, age > most AS late
FROM job_upkeep CROSS JOIN LATERAL (
    SELECT now() - succeeded_at AS age, %(periods)s * greatest(every, (SELECT least FROM upkeep)) AS most
) AS judged
ORDER BY succeeded_at
"""
LIMITS: Final = {"periods": PERIODS}

RUN_OUT: Final = """
SELECT count(*) AS series, min(updated_at) AS since, min(task_type) AS task_type FROM job_list
WHERE is_recurring AND status = 'pending' AND run_at >= '9999-12-30 00:00+00'
    AND updated_at < now() - interval '1 minute'
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of upkeep: the time since it last succeeded, and the time from which it is late."""

    part: str
    age: timedelta
    limit: timedelta


def upkeep_parts() -> Query[tuple[Part, ...]]:
    """All parts of upkeep, the one that succeeded longest ago first."""
    return select(PARTS, LIMITS, read=lambda rows: tuple(Part(row["part"], row["age"], row["most"]) for row in rows))


def judge(facts: dict[str, Any], parts: list[Row]) -> list[Finding]:
    """A finding if a part of upkeep is late, or has set jobs aside. Without any worker, the workers are the finding."""
    late = [part for part in parts if part["late"]]
    if late and facts["workers"]:
        names = ", ".join(part["part"] for part in late)
        trouble = next((part["trouble"] for part in late if part["trouble"]), "")
        words = f"Upkeep has not succeeded for {span(facts['at'] - late[0]['succeeded_at'])}: {names}."
        return [Finding("upkeep", Verdict.CRITICAL, f"{words} {trouble}".strip(), late[0]["succeeded_at"])]
    aside = sum(part["set_aside"] for part in parts)
    if aside:
        jobs = "1 job, which is" if aside == 1 else f"{aside:,} jobs, which are"
        first = next(part["trouble"] for part in parts if part["set_aside"])
        words = f"The database refuses to start or take back {jobs} set aside: {first}"
        return [Finding("upkeep", Verdict.CRITICAL, words)]
    return []


def run_out(found: Row) -> list[Finding]:
    """A finding about series for which no worker has written slots, though it does so within seconds."""
    if not found["series"]:
        return []
    one = found["series"] == 1
    words = (
        f"{found['series']} recurring {'job has' if one else 'jobs have'} no next slot, such as {found['task_type']}: "
        "no worker has written any. `jobdeck why ID` says more."
    )
    return [Finding("slots", Verdict.WARNING, words, found["since"])]
