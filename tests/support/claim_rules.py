"""What a claim may take, by the contract and the rows before the claim, not by the functions of the claim."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from jobdeck.core.model import ClaimedJob
from tests.support.queue import Connection, Row

CANARY = 101
"""The priority under which a canary is claimed."""


@dataclass(frozen=True)
class Moment:
    """The queue just before a claim."""

    jobs: dict[UUID, Row]
    types: dict[str, Row]
    processing: bool
    canaries: frozenset[UUID]
    holds: tuple[Row, ...]
    paused_queues: frozenset[str]

    @classmethod
    def of(cls, conn: Connection) -> Moment:
        (settings,) = conn.rows("SELECT processing_enabled, held_by FROM job_queue_settings")
        return cls(
            {row["id"]: row for row in conn.rows("SELECT * FROM job_queue")},
            {row["task_type"]: row for row in conn.rows("SELECT * FROM job_types")},
            settings["processing_enabled"] and settings["held_by"] is None,
            frozenset(row["job_id"] for row in conn.rows("SELECT job_id FROM job_canaries WHERE run_token IS NULL")),
            tuple(conn.rows("SELECT * FROM job_holds")),
            frozenset(row["queue"] for row in conn.rows("SELECT queue FROM job_paused_queues")),
        )

    def is_held(self, job: Row) -> bool:
        """Whether a hold keeps the job: its payload has the value under the key."""
        payload = job["payload"]
        return any(
            hold["task_type"] == job["task_type"] and hold["key"] in payload and payload[hold["key"]] == hold["value"]
            for hold in self.holds
        )

    def is_open(self, task_type: str, at: datetime) -> bool:
        """Whether neither the type nor its queue is paused."""
        row = self.types.get(task_type)
        if ((row and row["queue"]) or "default") in self.paused_queues:
            return False
        return row is None or row["paused_at"] is None or (row["resume_at"] is not None and row["resume_at"] <= at)

    def is_limited(self, task_type: str) -> bool:
        row = self.types.get(task_type)
        return row is not None and bool(row["limited"])

    def may_start(self, job: Row, types: Sequence[str], at: datetime) -> bool:
        """Whether nothing but a limit or a key can keep the job from starting."""
        return (
            self.processing
            and job["status"] == "pending"
            and job["task_type"] in types
            and self.is_open(job["task_type"], at)
            and job["blocked_by"] is None
            and not self.is_held(job)
            and job["run_at"] <= at
            and (job["expires_at"] is None or job["expires_at"] > at)
        )


def order(job: Row) -> tuple[int, datetime, UUID]:
    """The order in which a claim takes jobs: the highest priority, then the earliest due time, then the id."""
    return -job["priority"], job["run_at"], job["id"]


def judge(before: Moment, got: Sequence[ClaimedJob], types: Sequence[str], limit: int, at: datetime) -> None:
    """Compares a claim, which no other transaction disturbed, with what the rules allow.

    Raises:
        AssertionError: the claim took too many jobs, one that it must not take, or not the best.
    """
    assert len(got) <= limit, f"{len(got)} of {limit} jobs that were asked for"
    if any(job.priority == CANARY for job in got):
        (canary,) = got
        assert canary.id in before.canaries
        return
    taken = [before.jobs[job.id] for job in got]
    for job in got:
        assert before.may_start(before.jobs[job.id], types, job.claimed_at), (job, before.jobs[job.id])
    _judge_limits(before, taken, got[0].claimed_at if got else at)
    left = [
        job
        for job in before.jobs.values()
        if before.may_start(job, types, at) and job["id"] not in {one.id for one in got}
    ]
    _judge_order(before, taken, left, limit)


def _judge_limits(before: Moment, taken: Iterable[Row], at: datetime) -> None:
    """No type gets more runs than its limit and its rate have places."""
    running = Counter(job["task_type"] for job in before.jobs.values() if job["status"] == "running")
    for task_type, number in Counter(job["task_type"] for job in taken).items():
        row = before.types.get(task_type)
        if row is None:
            continue
        if row["max_running"] is not None:
            assert running[task_type] + number <= row["max_running"], (task_type, row)
        if row["rate_runs"] is not None:
            assert number <= _rate_places(row, at), (task_type, row)


def _rate_places(row: Row, at: datetime) -> int:
    runs, seconds = int(row["rate_runs"]), int(row["rate_seconds"])
    burst = int(row["rate_burst"] or 0) or max(math.ceil(runs / seconds), 1)
    used = max((row["rate_until"] - at).total_seconds(), 0.0) if row["rate_until"] else 0.0
    if used > 60 + burst * seconds / runs:
        used = 0.0  # from before the clock was set back
    return math.floor(burst - used * runs / seconds + 0.001)


def _judge_order(before: Moment, taken: Sequence[Row], left: Sequence[Row], limit: int) -> None:
    """A claim takes the best jobs, and all of them where it asks for more."""

    def plain(jobs: Iterable[Row], *, limited: bool) -> list[Row]:
        return [
            job
            for job in jobs
            if job["concurrency_key"] is None
            and not job["is_recurring"]
            and before.is_limited(job["task_type"]) is limited
        ]

    free = plain(left, limited=False)
    # A claim gives back the jobs whose key or type turns out to have no place for them, and does not look again.
    doubtful = any(job["concurrency_key"] is not None or before.is_limited(job["task_type"]) for job in (*taken, *left))
    if len(taken) < limit and not doubtful:
        assert not free, f"{len(taken)} of {limit} jobs, although {len(free)} more could start"
    best = min(map(order, free), default=None)
    # Where a limited type has jobs of several priorities, a second look fills up, the best priority first.
    priorities = {(job["task_type"], job["priority"]) for job in (*taken, *left) if before.is_limited(job["task_type"])}
    exact = len(priorities) == len({task_type for task_type, _ in priorities})
    for job in plain(taken, limited=False):
        worse = best is not None and (order(job) > best if exact else -job["priority"] > best[0])
        assert not worse, "a job was taken before a better one"
    for job in plain(taken, limited=True):
        assert best is None or -job["priority"] <= best[0], "a limited type came before a higher priority"
        same = [one for one in plain(left, limited=True) if one["task_type"] == job["task_type"]]
        assert all(order(job) < order(one) for one in same), "not the first jobs of a limited type"
    if limit > 1:
        _judge_series(before, taken, left)


def _judge_series(before: Moment, taken: Sequence[Row], left: Sequence[Row]) -> None:
    """A claim of several jobs has a series, if one is due that no better job keeps back."""
    best = max((job["priority"] for job in (*taken, *left)), default=0)
    free = [
        job
        for job in left
        if job["is_recurring"]
        and job["priority"] == best
        and job["concurrency_key"] is None
        and not before.is_limited(job["task_type"])
    ]
    assert not free or any(job["is_recurring"] for job in taken), "no series was taken"
