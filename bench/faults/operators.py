"""The operator of a sweep: keeps jobs waiting, and retries, cancels, edits, deletes and pauses jobs of every state."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from bench.faults.judge import AT_ONCE, PER_SECOND
from bench.faults.misdeeds import DEEDS
from bench.faults.misdeeds import TYPES as DEED_TYPES
from bench.faults.server import ROLE
from bench.faults.vendors import TEXT_TYPE, campaign
from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.queue import operator, producer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from uuid import UUID

    from bench.faults.stage import Stage

ACTOR = "operator of the sweep"
BACKLOG = 2000
PART = 1000
KEYS = 20
KEYED = 0.1
"""Of all jobs. More would wait in ever longer lines, since each key runs one job at a time."""
SERIES = 3
PAUSE_SECONDS = 0.2
CAMPAIGN_SECONDS = 20.0
SPECIAL_TYPES = (*DEED_TYPES, "sweep_async", "sweep_process", "sweep_limited", "sweep_rated")
"""Of each of these some jobs wait at any time."""
SPECIAL, TOGETHER = 30, 10
LIMITS = {
    "sweep_limited": {"max_running": AT_ONCE},
    "sweep_rated": {"rate_runs": PER_SECOND, "rate_seconds": 1},
}
FLOWS = 0.2
"""The share of enqueues that begin a flow as well."""
FLOW = "SELECT name, job_id::text FROM job_flow_create('sweep', %s::jsonb, %s)"
PAUSES = 0.005
"""Of all actions. More would leave the workers idle for much of the time."""
ALIKE = "SELECT id, version FROM job_queue WHERE NOT is_recurring AND "
TARGETS = {
    # Most jobs end before an action reaches them, so those that take longest.
    "running": f"{ALIKE} status = 'running' AND (payload ->> 'seconds')::float8 > 0.2 ORDER BY random() LIMIT %s",
    "waiting": f"{ALIKE} status = 'pending' ORDER BY random() LIMIT %s",
    "ended": f"{ALIKE} status IN ('failed', 'cancelled') ORDER BY random() LIMIT %s",
    "succeeded": "SELECT job_id, NULL FROM job_runs WHERE removed ORDER BY run_token DESC LIMIT %s",
}
"""What an operator looks for: ids, and versions where there are any."""
WAITING = "SELECT task_type, count(*) FROM job_queue WHERE status = 'pending' AND task_type = ANY (%s) GROUP BY 1"
ACTIONS = {
    "running": ("cancel", "cancel", "cancel", "retry", "edit", "delete"),
    "waiting": ("cancel", "edit", "edit", "retry", "delete"),
    "ended": ("retry", "retry", "edit", "cancel", "delete", "canary"),
    "succeeded": ("run again", "retry"),
}


class Operator:
    """Two threads until `stop`: one enqueues, the other acts.

    `accepted` has the jobs whose enqueue was committed; `hits` counts the jobs by action and by the state in which it
    found them; `refused` counts what the queue refused, in the same way. `canaries` are those that were asked for,
    `joined` has the jobs of flows that wait for others, with these.
    """

    def __init__(self, stage: Stage, rng: random.Random, *, acts: bool) -> None:
        """Without `acts` it only enqueues, so that rates before and after a fault can be compared."""
        self.accepted: set[str] = set()
        self.hits: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.canaries: list[int] = []
        self.joined: dict[str, list[str]] = {}
        self._stage = stage
        self._rng = rng
        self._texts = 0
        self._next_campaign = 0.0
        self._ending = threading.Event()
        # An action may wait for a lock, and the workers must not run out of jobs meanwhile.
        steps = [self._enqueue, self._act] if acts else [self._enqueue]
        self._threads = [threading.Thread(target=self._loop, args=(step,), name="operator") for step in steps]

    def start(self) -> None:
        """Enqueues the series, and starts the threads."""
        self._begin_series()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, and every pause."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        with self._stage.server.connect(role=ROLE) as conn:
            operator.resume(conn, actor=ACTOR)
            with suppress(JobdeckError):
                operator.resume(conn, actor=ACTOR, task_type="sweep_work")

    def _begin_series(self) -> None:
        """Sets the limits, and enqueues series that are due each minute, the first within seconds."""
        with self._stage.server.connect(role=ROLE) as conn:
            for task_type, limits in LIMITS.items():
                operator.set_type(conn, task_type, changes=limits, actor=ACTOR, reason=None)
            for number in range(SERIES):
                due = datetime.now(UTC) + timedelta(seconds=3 + 5 * number)
                new = NewJob(
                    "sweep_series",
                    {"seconds": 0.05},
                    max_attempts=50,
                    run_at=due,
                    recurrence_interval_minutes=1,
                    dedupe_key=f"series {number}",
                )
                self.accepted.add(str(producer.enqueue(conn, new, actor=ACTOR).job_id))

    def _some_job(self) -> NewJob:
        """A job of 1 to 500 ms. Some have a key, some a priority, some fail, and some send a text."""
        rng = self._rng
        if rng.random() < 0.01:
            self._texts += 1
            return NewJob(TEXT_TYPE, {"number": self._texts}, max_attempts=50)
        key = f"key {rng.randrange(KEYS)}" if rng.random() < KEYED else ""
        payload = self._work() | {"key": key, "failures": int(rng.random() < 0.05)}
        attempts = 1 if rng.random() < 0.05 else 50
        return NewJob(
            "sweep_work", payload, max_attempts=attempts, priority=rng.choice((0, 0, 0, 5)), concurrency_key=key or None
        )

    def _work(self) -> dict[str, Any]:
        return {"seconds": 0.5 ** (9 * self._rng.random()) / 2, "writes": self._rng.random() < 0.3}

    def _enqueue_special(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueues jobs of the other types, where few wait, and now and then a flow."""
        counted: list[tuple[str, int]] = conn.execute(WAITING, [list(SPECIAL_TYPES)]).fetchall()
        waiting = dict(counted)
        few = [name for name in SPECIAL_TYPES if waiting.get(name, 0) < SPECIAL]
        jobs = [
            NewJob(name, {"deed": self._rng.randrange(DEEDS)}, max_attempts=3)
            if name in DEED_TYPES
            else NewJob(name, self._work(), max_attempts=50)
            for name in few * TOGETHER
        ]
        if jobs:
            self.accepted.update(map(str, producer.enqueue_many(conn, jobs, actor=ACTOR)))
        if self._rng.random() < FLOWS:
            parts = [f"part {number}" for number in range(3)]
            members: list[dict[str, Any]] = [{"name": name, "task_type": "sweep_work"} for name in parts]
            members.append({"name": "join", "task_type": "sweep_async", "after": parts})
            members.append({"name": "end", "task_type": "sweep_process", "after": [*parts, "join"], "needs": "end"})
            given = json.dumps([member | {"payload": self._work(), "max_attempts": 50} for member in members])
            made: list[tuple[str, str]] = conn.execute(FLOW, [given, ACTOR]).fetchall()
            jobs_of = dict(made)
            self.accepted.update(jobs_of.values())
            self.joined[jobs_of["join"]] = [jobs_of[name] for name in parts]

    def _loop(self, step: Callable[[psycopg.Connection[Any]], None]) -> None:
        conn: psycopg.Connection[Any] | None = None
        while not self._ending.wait(PAUSE_SECONDS):
            try:
                if conn is None:
                    conn = self._stage.server.connect(role=ROLE)
                    use_schema(conn, "public")
                step(conn)
            except (psycopg.Error, JobdeckError):
                # The faults reach the operator as well.
                _close(conn)
                conn = None
            except Exception as error:  # noqa: BLE001 -- in a thread, where nobody else would hear of it
                self._stage.troubles.append(f"the operator broke off: {error!r}")
                _close(conn)
                conn = None
        _close(conn)

    def _enqueue(self, conn: psycopg.Connection[Any]) -> None:
        # Jobs that wait for their key cannot run, and those enqueued while the clock was ahead are not due yet.
        row = conn.execute(
            "SELECT count(*) FROM (SELECT FROM job_queue WHERE status = 'pending' AND NOT in_line AND run_at <= now() "
            "LIMIT %s) AS waiting",
            [BACKLOG],
        ).fetchone()
        if row and row[0] < BACKLOG:
            made = producer.enqueue_many(conn, [self._some_job() for _ in range(PART)], actor=ACTOR)
            self.accepted.update(map(str, made))
        self._enqueue_special(conn)
        if time.monotonic() > self._next_campaign:
            self._next_campaign = time.monotonic() + CAMPAIGN_SECONDS
            self.accepted.add(campaign(conn, ACTOR))

    def _act(self, conn: psycopg.Connection[Any]) -> None:
        rng = self._rng
        if rng.random() < PAUSES:
            task_type = rng.choice((None, "sweep_work"))
            resume_at = datetime.now(UTC) + timedelta(seconds=1)
            operator.pause(conn, reason="a sweep", actor=ACTOR, resume_at=resume_at, task_type=task_type)
            self.hits["pause"] += 1
            return
        state = rng.choice(tuple(TARGETS))
        action = rng.choice(ACTIONS[state])
        found: list[tuple[UUID, int | None]] = conn.execute(TARGETS[state].encode(), [rng.randint(1, 4)]).fetchall()
        seen = {job: version for job, version in found if version is not None} if rng.random() < 0.5 else {}
        for answer in self._answers(conn, action, [job for job, _ in found], seen):
            (self.hits if answer.ok else self.refused)[f"{action} {state}"] += 1

    def _answers(
        self, conn: psycopg.Connection[Any], action: str, jobs: list[UUID], seen: dict[UUID, int]
    ) -> list[Any]:
        if action == "edit":
            changes = {"priority": self._rng.randrange(10)}
            return [operator.edit(conn, job, changes=changes, actor=ACTOR, version=seen.get(job)) for job in jobs]
        if action == "run again":
            return [operator.run_again(conn, job, actor=ACTOR, max_attempts=50) for job in jobs]
        if action == "canary":
            asked = [operator.ask_canary(conn, job, actor=ACTOR, version=seen.get(job)) for job in jobs]
            self.canaries += [one.canary for one in asked if one.canary is not None]
            return [one.result for one in asked]
        act = {"retry": operator.retry, "cancel": operator.cancel, "delete": operator.delete}[action]
        return act(conn, jobs, actor=ACTOR, versions=seen) if jobs else []


def _close(conn: psycopg.Connection[Any] | None) -> None:
    if conn is not None:
        conn.close()
