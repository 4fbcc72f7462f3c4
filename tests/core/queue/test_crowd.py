"""Workers, operators and producers at the same time, each with a connection of its own: the promises hold.

Threads are let loose in rounds; between these, time passes and everything is compared. What each does is drawn from
a die of its own, so that a seed does the same again; in which order they come to act is the machine's affair.

`STATE_MACHINE_SEEDS=100` in the environment makes it look at that many crowds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Final
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, producer
from tests.support.queue import Connection, moment
from tests.support.queue_model import broken_promises, dangling, install_clock, read

TYPES: Final = ("alpha", "beta", "gamma")
WORKERS: Final = ("worker-a", "worker-b")
LEASE: Final = 60.0
BASE, CAP = 30.0, 3600.0
ACTOR: Final = "operator@local"


class Crowd:
    """Workers, an operator and a producer, each with a connection of its own and a die of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.seed = seed
        self.ids: list[UUID] = []
        self.claimed: list[tuple[UUID, int]] = []
        self.late: list[FinishedRun] = []
        self.deadlocks = 0

    def round(self, number: int) -> None:
        """Lets everybody act at once, each a number of times, and waits for them."""
        actors = (self.work, self.work, self.operate, self.operate, self.produce)
        with ThreadPoolExecutor(len(actors)) as pool:
            done = [
                pool.submit(self.act_as, actor, Random(f"{self.seed} {number} {place}"))
                for place, actor in enumerate(actors)
            ]
        for one in done:
            one.result()

    def act_as(self, actor: Callable[[Connection, Random], None], die: Random) -> None:
        with Connection.connect(self.url, autocommit=True) as conn:
            for _ in range(25):
                actor(conn, die)

    def some(self, die: Random, most: int) -> list[UUID]:
        """Some of the jobs that were ever enqueued, newer ones sooner than older ones."""
        ids = self.ids[-40:]
        return die.sample(ids, min(len(ids), die.randint(1, most)))

    def produce(self, conn: Connection, die: Random) -> None:
        new = [
            NewJob(
                task_type=die.choice(TYPES), priority=die.choice((0, 0, 5)),
                dedupe_key=die.choice((None, None, "d1", "d2", "d3")),
                concurrency_key=die.choice((None, "alpha:1", "beta:1", "beta:2", "gamma:1")),
                max_attempts=die.randint(1, 3),
            )
            for _ in range(die.randint(1, 5))
        ]  # fmt: skip
        if die.random() < 0.5:
            # A key that another session holds for long is one more refusal.
            with suppress(Refused):
                self.ids += producer.enqueue_many(conn, new, actor=ACTOR)
            return
        for job in new:
            blockers = self.some(die, 1) if die.random() < 0.4 else []
            minutes = die.choice((None, None, 15))
            blocked_by = blockers[0] if blockers else None
            with suppress(Refused):
                enqueued = producer.enqueue(
                    conn, job._replace(blocked_by=blocked_by, recurrence_interval_minutes=minutes), actor=ACTOR
                )
                self.ids += [enqueued.job_id] if enqueued.created else []

    def work(self, conn: Connection, die: Random) -> None:
        worker = die.choice(WORKERS)
        jobs = leases.claim(conn, worker, die.sample(TYPES, die.randint(1, 3)), die.randint(1, 8), LEASE)
        self.claimed += [(job.id, job.run_token) for job in jobs]
        leases.heartbeat(conn, worker, [(job.id, job.run_token, None) for job in jobs], LEASE)
        ways = ("succeeded", "succeeded", "failed", "failed", "continued", "released", "partial", "cancelled")
        runs = [
            FinishedRun(
                job.id, job.run_token, RunOutcome(die.choice(ways)), *moment(job),
                error="the vendor is down", retry_after=die.choice((None, 0.0)), permanent=die.random() < 0.2,
            )
            for job in jobs
        ]  # fmt: skip
        kept = [run for run in runs if die.random() < 0.85]
        self.late += [run for run in runs if run not in kept]
        kept += die.sample(self.late, min(len(self.late), 2))
        self.insist(lambda: leases.finish(conn, worker, kept, retry_base=BASE, retry_cap=CAP))
        if die.random() < 0.2:
            self.insist(lambda: leases.reap(conn, retry_base=BASE, retry_cap=CAP))

    def insist(self, call: Callable[[], object]) -> None:
        """Sends a worker's statement again, as the worker does: after a deadlock, or when a row was held for long."""
        for _ in range(50):
            try:
                call()
            except psycopg.errors.DeadlockDetected:
                self.deadlocks += 1
            except psycopg.errors.LockNotAvailable:
                continue
            else:
                return
        raise AssertionError("one deadlock or held row after the other")

    def operate(self, conn: Connection, die: Random) -> None:
        ids = self.some(die, 6)
        if not ids:
            return
        what = die.choice(("retry", "retry", "cancel", "delete", "restore", "edit"))
        if what == "edit":
            with suppress(Refused):
                operator.edit(conn, ids[0], changes={"priority": die.randint(-5, 5)}, actor=ACTOR)
        elif what == "restore":
            operator.restore(conn, ids, actor=ACTOR)
        else:
            {"retry": operator.retry, "cancel": operator.cancel, "delete": operator.delete}[what](
                conn, ids, actor=ACTOR
            )


@pytest.mark.parametrize("seed", range(int(os.environ.get("STATE_MACHINE_SEEDS", "3"))))
@pytest.mark.slow
def test_every_promise_holds_when_all_of_them_act_at_the_same_time(
    seed: int, conn: Connection, database_url: str
) -> None:
    install_clock(conn)
    crowd = Crowd(database_url, seed)
    for number in range(3):
        crowd.round(number)
        assert not broken_promises(conn, read(conn))
        conn.execute("SELECT move_clock(%s)", (timedelta(seconds=61),))
        leases.reap(conn, retry_base=BASE, retry_cap=CAP)
        # The next claim, of whatever types, tries the lines again whose lock was not free.
        leases.claim(conn, "worker-a", [], 1, LEASE)
        assert not _problems_at_rest(conn, crowd)

    _run_everything(conn)

    assert not _problems_at_rest(conn, crowd)
    assert all(row["status"] != "running" for row in read(conn).jobs.values())


def _run_everything(conn: Connection) -> None:
    """Lets one worker succeed with whatever can still be run."""
    for _ in range(40):
        while jobs := leases.claim(conn, "worker-a", TYPES, 100, LEASE):
            runs = [FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, *moment(job)) for job in jobs]
            leases.finish(conn, "worker-a", runs, retry_base=BASE, retry_cap=CAP)
        conn.execute("SELECT move_clock(%s)", (timedelta(hours=2),))
        leases.reap(conn, retry_base=BASE, retry_cap=CAP)
    left = [row for row in read(conn).jobs.values() if row["status"] == "pending" and not row["is_recurring"]]
    stuck = [row for row in left if row["blocked_by"] is None]
    assert not stuck, stuck


def _problems_at_rest(conn: Connection, crowd: Crowd) -> list[str]:
    """What is wrong once nobody acts and the reaper has been: lost jobs, forgotten tokens, lines without a head."""
    reading = read(conn)
    removed = {run["job_id"] for run in reading.runs.values() if run["removed"]}
    lost = set(crowd.ids) - set(reading.jobs) - set(reading.trash) - removed
    problems = broken_promises(conn, reading) + [f"job {job_id} is lost" for job_id in lost]
    tokens = [token for _, token in crowd.claimed]
    if len(tokens) != len(set(tokens)):
        problems.append("a token was given out twice")
    problems += [
        f"run {token} has no verdict and does not hold its job"
        for job_id, token in crowd.claimed
        if (token, False) not in reading.runs and not reading.holds(job_id, token)
    ]
    problems += [f"{job_id} waits for {blocker}, which is over" for job_id, blocker in dangling(reading)]
    rows = reading.claimable(at=reading.at, busy=reading.busy_keys()).values()
    keyed = {row["concurrency_key"] for row in rows} - {None}
    first = {row["concurrency_key"] for row in rows if not row["in_line"]}
    return problems + [f"nobody is first in the line of {key}" for key in keyed - first]
