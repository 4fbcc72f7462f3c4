"""Limits with several workers at the same time, lost leases, retries, and limits that change in the middle.

Each worker writes the effects of its runs to one log: a run begins when its claim has come back, and ends before its
report is sent or its lease is made to run out. So what the log has at one moment is a part of what the database lets
run.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, producer
from tests.support.queue import ACTOR, Connection, moment

LIMITED: Final = ("alpha", "beta")
TYPES: Final = (*LIMITED, "free")
JOBS: Final = 150
"""Of each type."""
LEASE: Final = 600.0


@dataclass
class Log:
    """The effects of all runs, and the limits of each type in their order; `settled` is the last that surely holds."""

    mutex: threading.Lock = field(default_factory=threading.Lock)
    active: Counter[str] = field(default_factory=Counter)
    bounds: dict[str, list[int]] = field(default_factory=lambda: {name: [3] for name in LIMITED})
    settled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITED, 0))
    highest: Counter[str] = field(default_factory=Counter)

    def may_hold(self) -> dict[str, int]:
        """Before a claim: the first of the limits that may hold for it."""
        with self.mutex:
            return dict(self.settled)

    def begin(self, jobs: Sequence[ClaimedJob], since: dict[str, int]) -> None:
        with self.mutex:
            for job in jobs:
                self.active[job.task_type] += 1
                self.highest[job.task_type] = max(self.highest[job.task_type], self.active[job.task_type])
            for name in LIMITED:
                if any(job.task_type == name for job in jobs):
                    assert self.active[name] <= max(self.bounds[name][since[name] :]), (name, self.bounds[name])

    def end(self, jobs: Sequence[ClaimedJob]) -> None:
        with self.mutex:
            self.active.subtract(job.task_type for job in jobs)


class Crowd:
    """Workers and an operator, each with a connection of its own and a die of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.seed, self.log = url, seed, Log()
        self.done = threading.Event()

    def work(self, number: int) -> int:
        try:
            return self.claim_and_report(number)
        finally:
            # Also after a failure, since the jobs that this worker holds would never end.
            self.done.set()

    def claim_and_report(self, number: int) -> int:
        die, worker, ran = Random(f"{self.seed} {number}"), f"worker-{number}", 0
        with Connection.connect(self.url, autocommit=True) as conn:
            while not self.done.is_set():
                since = self.log.may_hold()
                jobs = leases.claim(conn, worker, TYPES, die.choice((1, 3, 10)), LEASE)
                self.log.begin(jobs, since)
                ran += len(jobs)
                # Others claim meanwhile.
                self.done.wait(die.random() / 200)
                self.log.end(jobs)
                lost = [job for job in jobs if die.random() < 0.1]
                self.lose(conn, lost)
                self.report(conn, worker, [job for job in jobs if job not in lost or die.random() < 0.5], die)
                if not jobs:
                    # The reaper leaves a lost run to the pass of another worker, which may have looked before.
                    leases.reap(conn, retry_base=0, retry_cap=0)
                    self.done.wait(0.002)
                if not conn.value("SELECT count(*) FROM job_queue"):
                    self.done.set()
        return ran

    def lose(self, conn: Connection, lost: Sequence[ClaimedJob]) -> None:
        """As if the worker of these runs had been killed: its leases run out, and the reaper takes the jobs back."""
        for job in lost:
            conn.execute(
                "UPDATE job_queue SET lease_expires_at = clock_timestamp() WHERE run_token = %s", (job.run_token,)
            )
        if lost:
            leases.reap(conn, retry_base=0, retry_cap=0)

    def report(self, conn: Connection, worker: str, jobs: Sequence[ClaimedJob], die: Random) -> None:
        ways = ("succeeded", "succeeded", "succeeded", "failed", "released", "snoozed")
        runs = [
            FinishedRun(job.id, job.run_token, RunOutcome(die.choice(ways)), *moment(job), retry_after=0.0)
            for job in jobs
        ]
        while True:
            try:
                leases.finish(conn, worker, runs, retry_base=0, retry_cap=0)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                continue
            return

    def operate(self) -> None:
        """Changes limits while jobs run."""
        die = Random(self.seed)
        with Connection.connect(self.url, autocommit=True) as conn:
            while not self.done.wait(0.02):
                name, most = die.choice(LIMITED), die.choice((1, 2, 5, 8))
                with self.log.mutex:
                    self.log.bounds[name].append(most)
                    place = len(self.log.bounds[name]) - 1
                # On a busy machine a claim may hold the type for longer than a change waits.
                with suppress(Refused):
                    operator.set_type(conn, name, changes={"max_running": most}, actor=ACTOR, reason=None)
                    with self.log.mutex:
                        self.log.settled[name] = place


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_never_more_than_the_limit_run_at_any_moment(conn: Connection, database_url: str, seed: int) -> None:
    for name in LIMITED:
        operator.set_type(conn, name, changes={"max_running": 3, "max_per_key": 2}, actor=ACTOR, reason=None)
    for name in TYPES:
        keys = ("k", "l", None) if name == "beta" else (None,)
        for key in keys:
            new = NewJob(name, concurrency_key=key, max_attempts=1000)
            producer.enqueue_many(conn, [new] * (JOBS // len(keys)), actor=ACTOR)
    crowd = Crowd(database_url, seed)
    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(crowd.work, number) for number in range(4)]
        operating = pool.submit(crowd.operate)
        try:
            assert sum(worker.result(timeout=600) for worker in workers) >= JOBS * len(TYPES)
        finally:
            crowd.done.set()
        operating.result()
    # The limits were reached, and did not hold the type without one.
    assert crowd.log.highest["alpha"] > 1
    assert crowd.log.highest["free"] > 3
