"""Limits beside claims, reports, lost leases, late reports and settings: never more than so many, and never too few.

What runs is known from the claims and reports themselves, not from the columns that the claim counts by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Final
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.queue import leases, operator, producer
from tests.support.examples import machine_settings
from tests.support.queue import ACTOR, Connection
from tests.support.queue_model import install_clock

TYPES: Final = ("alpha", "beta", "gamma")
WORKER: Final = "worker-1"
LEASE: Final = 60.0
DAY: Final = 86_400
DEEDS: Final = (
    "enqueue",
    "enqueue",
    "claim",
    "claim",
    "claim",
    "finish",
    "finish",
    "lose",
    "late",
    "set",
    "time",
    "all",
)
RATES: Final = ((None, None, None), (1, 10, None), (6, 60, 3), (5, 1, None), (30, 20, 40))
OUTCOMES: Final = ("succeeded", "succeeded", "failed", "snoozed", "released", "continued", "cancelled")
SLACK: Final = 0.01
"""Starts by which a rate may be above its bound, because times have microseconds."""


@dataclass
class Limits:
    """The limits of a type, and the starts since its rate was set, each with the claim's time."""

    max_running: int | None = None
    max_per_key: int = 1
    rate: tuple[int | None, int | None, int | None] = (None, None, None)
    starts: list[datetime] = field(default_factory=list)


class LimitMachine(RuleBasedStateMachine):
    """Workers and an operator over one queue, `conn`."""

    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute("SELECT forget_everything()")
        self.running: dict[int, tuple[ClaimedJob, str | None]] = {}
        self.keys: dict[UUID, str | None] = {}
        self.limits = {name: Limits() for name in TYPES}
        self.moved = timedelta(0)
        self.lost: list[ClaimedJob] = []

    # What is so

    def types_running(self) -> Counter[str]:
        return Counter(job.task_type for job, _ in self.running.values())

    def keys_running(self) -> Counter[str]:
        return Counter(key for _, key in self.running.values() if key is not None)

    def check_rate(self, limits: Limits) -> None:
        """In no span of time did more jobs start than its burst and its rate allow."""
        runs, seconds, burst = limits.rate
        if runs is None or seconds is None:
            return
        most = burst or max(-(-runs // seconds), 1)
        for place, first in enumerate(limits.starts):
            for number, last in enumerate(limits.starts[place:], start=1):
                assert number <= most + (last - first).total_seconds() * runs / seconds + SLACK, limits

    # What happens

    @initialize(limits=st.lists(st.integers(1, 4), min_size=3, max_size=3))
    def start(self, limits: list[int]) -> None:
        for task_type, most in zip(TYPES, limits, strict=True):
            self.set(task_type, most, most % 3 + 1, (None, None, None))

    @rule(
        deed=st.sampled_from(DEEDS), task_type=st.sampled_from(TYPES), rate=st.sampled_from(RATES),
        key=st.sampled_from((None, None, "k", "l", "shared")), number=st.integers(0, 6),
        outcome=st.sampled_from(OUTCOMES), types=st.sets(st.sampled_from(TYPES), min_size=1),
        seconds=st.sampled_from((1, 5, 20, 70, DAY)),
    )  # fmt: skip
    def step(
        self, deed: str, task_type: str, key: str | None, number: int, rate: tuple[int | None, ...], outcome: str,
        types: set[str], seconds: int,
    ) -> None:  # fmt: skip
        """One rule for everything, since Hypothesis leaves out whole rules, and most need others before them."""
        match deed:
            case "enqueue":
                named = f"{task_type}:{key}" if key in {"k", "l"} else key
                self.enqueue(task_type, named, number + 1, number % 3)
            case "claim":
                self.claim(sorted(types), number + 1)
            case "finish":
                self.finish(number, outcome)
            case "lose":
                self.lose(number)
            case "late":
                self.late()
            case "set":
                self.set(task_type, number or None, number % 3 + 1, (rate[0], rate[1], rate[2]))
            case "time":
                self.time_passes(seconds)
            case _:
                self.claim_all()

    def enqueue(self, task_type: str, key: str | None, number: int, priority: int) -> None:
        job = NewJob(task_type, concurrency_key=key, priority=priority, max_attempts=50)
        ids = (
            producer.enqueue_many(self.conn, [job] * number, actor=ACTOR) if number > 1
            else [producer.enqueue(self.conn, job, actor=ACTOR).job_id]
        )  # fmt: skip
        self.keys.update(dict.fromkeys(ids, key))

    def claim(self, types: list[str], limit: int) -> list[ClaimedJob]:
        before, keys = self.types_running(), self.keys_running()
        got = leases.claim(self.conn, WORKER, types, limit, LEASE)
        assert len(got) <= limit
        for job in got:
            key = self.keys[job.id]
            assert job.run_token not in self.running
            assert job.id not in {one.id for one, _ in self.running.values()}
            self.running[job.run_token] = (job, key)
            self.limits[job.task_type].starts.append(job.claimed_at + self.moved)
        started, after = Counter(job.task_type for job in got), self.keys_running()
        for task_type, number in started.items():
            limits = self.limits[task_type]
            if limits.max_running is not None:
                assert before[task_type] + number <= limits.max_running
            self.check_rate(limits)
        for job in got:
            key = self.keys[job.id]
            most = max(self.limits[one.task_type].max_per_key for one in got if self.keys[one.id] == key)
            assert key is None or after[key] <= max(most, keys[key])
        return got

    def claim_all(self) -> None:
        """After a claim that finds no more, no job waits that could run."""
        self.conn.reap()
        # A lost run is tried again after a delay, which may end after the last claim.
        at = self.conn.now()
        while self.claim(list(TYPES), 50):
            pass
        types, keys = self.types_running(), self.keys_running()
        due = self.conn.rows("SELECT * FROM job_queue WHERE status = 'pending' AND run_at <= %s", at)
        closed = {
            name
            for name, one in self.limits.items()
            if one.rate[0] is not None or (one.max_running is not None and types[name] >= one.max_running)
        }
        # The first in the line of a key may wait for its own type, and the others of the line wait for it.
        shared = keys["shared"] > 0 or any(
            one["concurrency_key"] == "shared" and one["task_type"] in closed for one in due
        )
        for row in due:
            task_type, key = row["task_type"], row["concurrency_key"]
            # Of a key that types with different limits share, those that let more run may wait for the others.
            held = key is not None and (keys[key] >= self.limits[task_type].max_per_key or (key == "shared" and shared))
            assert task_type in closed or held, row

    def finish(self, place: int, outcome: str) -> None:
        for token in sorted(self.running)[place : place + 2]:
            job, _ = self.running.pop(token)
            answer = self.conn.finish_one(job, outcome, retry_after=0.0, delay=0.0)
            assert answer.recorded != "abandoned"

    def lose(self, place: int) -> None:
        """A worker dies or loses its connection: its lease runs out, and the run is taken back."""
        for token in sorted(self.running)[place : place + 1]:
            job, _ = self.running.pop(token)
            self.lost.append(job)
            self.conn.execute(
                "UPDATE job_queue SET lease_expires_at = clock_timestamp() WHERE run_token = %s", (token,)
            )
            assert self.conn.reap().lost == 1

    def late(self) -> None:
        for job in self.lost:
            assert self.conn.finish_one(job).recorded == "abandoned"
        self.lost.clear()

    def set(
        self, task_type: str, most: int | None, per_key: int, rate: tuple[int | None, int | None, int | None]
    ) -> None:
        runs, seconds, burst = rate
        changes = {
            "max_running": most, "max_per_key": per_key, "rate_runs": runs, "rate_seconds": seconds, "rate_burst": burst
        }  # fmt: skip
        operator.set_type(self.conn, task_type, changes=changes, actor=ACTOR, reason=None)
        limits = self.limits[task_type]
        limits.max_running, limits.max_per_key = most, per_key
        if limits.rate != rate:
            limits.rate, limits.starts = rate, []

    def time_passes(self, seconds: int) -> None:
        """Everything is put back, but leases and series, which other tests are about."""
        span = timedelta(seconds=seconds)
        self.conn.execute("SELECT move_clock(%s)", (span,))
        self.conn.execute(
            "UPDATE job_queue SET lease_expires_at = clock_timestamp() + interval '1 minute' WHERE status = 'running'"
        )
        self.moved += span


@pytest.mark.thorough
@pytest.mark.slow
def test_never_more_jobs_run_or_start_than_the_limits_of_their_type_and_key(conn: Connection) -> None:
    install_clock(conn)
    LimitMachine.conn = conn
    run_state_machine_as_test(LimitMachine, settings=machine_settings(200))
