"""The operator of a sweep: keeps jobs waiting, and retries, cancels, edits, deletes and pauses some of them."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from bench.faults.stage import ROLE
from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.queue import operator, producer

if TYPE_CHECKING:
    import random
    from uuid import UUID

    from bench.faults.stage import Stage

ACTOR = "operator of the sweep"
BACKLOG = 400
PART = 200
KEYS = 20
SERIES = 3
PAUSE_SECONDS = 0.2
log = logging.getLogger(__name__)


def some_job(rng: random.Random) -> NewJob:
    """A job of 1 to 500 ms. Some have a key, some a priority, and some fail at first."""
    key = f"key {rng.randrange(KEYS)}" if rng.random() < 0.2 else ""
    payload = {"seconds": 0.5 ** (9 * rng.random()) / 2, "key": key, "failures": int(rng.random() < 0.05)}
    return NewJob(
        "sweep_work", payload, max_attempts=50, priority=rng.choice((0, 0, 0, 5)), concurrency_key=key or None
    )


class Operator:
    """A thread that acts until `stop`. `accepted` has the jobs whose enqueue was committed."""

    def __init__(self, stage: Stage, rng: random.Random, *, acts: bool) -> None:
        """Without `acts` it only enqueues, so that rates before and after a fault can be compared."""
        self.accepted: set[str] = set()
        self.actions = 0
        self._stage = stage
        self._rng = rng
        self._acts = acts
        self._ending = threading.Event()
        self._conn: psycopg.Connection[Any] | None = None
        self.thread = threading.Thread(target=self._loop, name="operator")

    def stop(self) -> None:
        """Ends the thread, and every pause."""
        self._ending.set()
        self.thread.join()
        with self._stage.server.connect(role=ROLE) as conn:
            operator.resume(conn, actor=ACTOR)
            with suppress(JobdeckError):
                operator.resume(conn, actor=ACTOR, task_type="sweep_work")

    def begin_series(self) -> None:
        """Enqueues series that are due each minute, the first within seconds."""
        with self._stage.server.connect(role=ROLE) as conn:
            for number in range(SERIES):
                due = datetime.now(UTC) + timedelta(seconds=3 + 5 * number)
                new = NewJob(
                    "sweep_series", {"seconds": 0.05}, max_attempts=50, run_at=due, recurrence_interval_minutes=1
                )
                self.accepted.add(str(producer.enqueue(conn, new, actor=ACTOR).job_id))

    def _loop(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            try:
                if self._conn is None:
                    self._conn = self._stage.server.connect(role=ROLE)
                    use_schema(self._conn, "public")
                self._step(self._conn)
            except (psycopg.Error, JobdeckError):
                # The faults reach the operator as well, and the queue refuses some actions.
                if self._conn is not None:
                    self._conn.close()
                self._conn = None
        if self._conn is not None:
            self._conn.close()

    def _step(self, conn: psycopg.Connection[Any]) -> None:
        row = conn.execute(
            "SELECT count(*) FROM (SELECT FROM job_queue WHERE status = 'pending' LIMIT %s) AS waiting", [BACKLOG]
        ).fetchone()
        if row and row[0] < BACKLOG:
            made = producer.enqueue_many(conn, [some_job(self._rng) for _ in range(PART)], actor=ACTOR)
            self.accepted.update(map(str, made))
        if self._acts:
            self._act(conn)

    def _act(self, conn: psycopg.Connection[Any]) -> None:
        rng = self._rng
        jobs: list[UUID] = [
            job
            for (job,) in conn.execute(
                "SELECT id FROM job_queue WHERE NOT is_recurring ORDER BY random() LIMIT %s", [rng.randint(1, 4)]
            )
        ]
        self.actions += 1
        choice = rng.random()
        if choice < 0.35:
            operator.retry(conn, jobs, actor=ACTOR)
        elif choice < 0.6:
            operator.cancel(conn, jobs, actor=ACTOR)
        elif choice < 0.85:
            for job in jobs:
                operator.edit(conn, job, changes={"priority": rng.randrange(10)}, actor=ACTOR)
        elif choice < 0.95:
            operator.delete(conn, jobs, actor=ACTOR)
        else:
            task_type = rng.choice((None, "sweep_work"))
            resume_at = datetime.now(UTC) + timedelta(seconds=1)
            operator.pause(conn, reason="a sweep", actor=ACTOR, resume_at=resume_at, task_type=task_type)
