"""Workers on a queue with limits: the effects of their handlers, and of processes that are killed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from jobdeck.core.registry import load
from tests.chaos.test_chaos import processes
from tests.core.worker.async_handlers import Gate
from tests.core.worker.process_handlers import MODULE
from tests.core.worker.test_processes import is_gone, noted
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import Params, job_type, quick_settings, working


class Effects:
    """What the handlers of one process do at the same time. `most` is the highest number since it was reset."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.active = self.most = self.ran = 0
        self.gate = threading.Event()

    def __call__(self, _params: Params, _ctx: Any) -> None:
        with self.mutex:
            self.active += 1
            self.most = max(self.most, self.active)
        self.gate.wait(0.01)
        with self.mutex:
            self.active -= 1
            self.ran += 1


def limit(conn: Connection, task_type: str, **changes: int | None) -> None:
    operator.set_type(conn, task_type, changes=changes, actor=ACTOR, reason=None)


def left(conn: Connection) -> int:
    row = conn.execute("SELECT count(*) FROM job_queue").fetchone()
    return int(row[0]) if row else 0


def running(conn: Connection) -> list[UUID]:
    return [job_id for (job_id,) in conn.execute("SELECT id FROM job_queue WHERE status = 'running'")]


@pytest.mark.slow
def test_two_workers_never_run_more_than_the_limit_and_reach_it(conn: Connection, database_url: str) -> None:
    effects = Effects()
    kind = job_type("limited", effects)
    limit(conn, "limited", max_running=3)
    producer.enqueue_many(conn, [NewJob("limited")] * 300, actor=ACTOR)
    with working(database_url, kind, concurrency=4), working(database_url, kind, concurrency=4):
        until(lambda: effects.ran > 100, "a third of the jobs")
        assert effects.most == 3
        limit(conn, "limited", max_running=6)
        until(lambda: not left(conn), "the rest")
    assert 3 < effects.most <= 6
    assert effects.ran == 300


@pytest.mark.slow
def test_a_place_is_used_again_as_soon_as_the_worker_has_reported_the_run(conn: Connection, database_url: str) -> None:
    effects = Effects()
    effects.gate.set()
    limit(conn, "limited", max_running=1)
    # More than seconds that the test would wait: a worker that only polled would not come to the end.
    producer.enqueue_many(conn, [NewJob("limited")] * 300, actor=ACTOR)
    with working(database_url, job_type("limited", effects), concurrency=4):
        until(lambda: not left(conn), "the end of all jobs")
    assert effects.most == 1


@pytest.mark.slow
def test_a_limited_type_does_not_hold_the_jobs_of_others(conn: Connection, database_url: str) -> None:
    held, effects = Effects(), Effects()
    release = threading.Event()
    limit(conn, "limited", max_running=1)
    producer.enqueue_many(conn, [NewJob("limited", priority=9)] * 50, actor=ACTOR)
    producer.enqueue_many(conn, [NewJob("free")] * 200, actor=ACTOR)

    def hold(params: Params, ctx: Any) -> None:
        release.wait()
        held(params, ctx)

    kinds = (job_type("limited", hold), job_type("free", effects))
    with working(database_url, *kinds, concurrency=4, settings=quick_settings()):
        until(lambda: effects.ran == 200, "the jobs of the other type")
        assert held.ran == 0
        release.set()
        until(lambda: not left(conn), "the limited jobs")


class Held(Effects):
    """A handler that goes on until it is let go, whatever it is asked."""

    def __call__(self, _params: Params, _ctx: Any) -> None:
        with self.mutex:
            self.active += 1
            self.most = max(self.most, self.active)
        self.gate.wait()
        with self.mutex:
            self.active -= 1
            self.ran += 1


@pytest.mark.slow
def test_runs_that_go_on_after_their_timeout_keep_their_places_until_they_end(
    conn: Connection, database_url: str
) -> None:
    held, free = Held(), Effects()
    free.gate.set()
    limit(conn, "limited", max_running=2)
    producer.enqueue_many(conn, [NewJob("limited", priority=9, max_attempts=1)] * 6, actor=ACTOR)
    kinds = (job_type("limited", held, timeout=1.0), job_type("free", free))
    try:
        with working(database_url, *kinds, concurrency=4):
            late = "SELECT count(*) FROM job_queue WHERE progress ->> 'log' LIKE '%goes on%'"
            until(lambda: conn.execute(late).fetchone() == (2,), "both to be over their timeout")
            # Their slots belong to other threads now, and the worker claims what is due.
            producer.enqueue_many(conn, [NewJob("free")] * 50, actor=ACTOR)
            until(lambda: left(conn) == 6, "the jobs of the other type")
            assert (held.most, held.ran, free.ran) == (2, 0, 50)
            held.gate.set()
            until(lambda: held.ran == 6, "the other jobs")
            assert held.most == 2
    finally:
        held.gate.set()


def test_async_runs_keep_the_limit_while_a_thousand_are_in_flight(conn: Connection, database_url: str) -> None:
    limited, free = Gate(), Gate()
    limit(conn, "limited", max_running=10)
    producer.enqueue_many(conn, [NewJob("limited", priority=9)] * 200, actor=ACTOR)
    producer.enqueue_many(conn, [NewJob("free")] * 1500, actor=ACTOR)
    kinds = (job_type("limited", limited), job_type("free", free))
    settings = quick_settings(async_concurrency=1000)
    try:
        with working(database_url, *kinds, settings=settings):
            until(lambda: (limited.inside, free.inside) == (10, 990), "a thousand runs")
            free.open()
            until(lambda: left(conn) == 200, "the end of all others")
            # A thousand places are free, of which the type may use ten.
            assert (limited.inside, limited.most) == (10, 10)
            limited.open()
            until(lambda: not left(conn), "the limited jobs")
    finally:
        free.open()
        limited.open()
    assert limited.most == 10


@pytest.mark.slow
def test_an_async_run_that_goes_on_after_its_timeout_keeps_its_place(conn: Connection, database_url: str) -> None:
    stubborn = Gate(stubborn=True)
    limit(conn, "limited", max_running=1)
    producer.enqueue_many(conn, [NewJob("limited", max_attempts=1)] * 2, actor=ACTOR)

    async def nothing(_params: Params, _ctx: Any) -> None: ...

    kinds = (job_type("limited", stubborn, timeout=0.5), job_type("free", nothing))
    try:
        with working(database_url, *kinds):
            stubborn.wait_for()
            assert stubborn.cancelled.acquire(timeout=PATIENCE)
            producer.enqueue_many(conn, [NewJob("free")] * 20, actor=ACTOR)
            until(lambda: left(conn) == 2, "the jobs of the other type")
            assert (stubborn.inside, stubborn.most) == (1, 1)
            stubborn.open()
            stubborn.wait_for()
            until(lambda: stubborn.inside == 0, "the end of both")
    finally:
        stubborn.open()
    assert stubborn.most == 1


@pytest.mark.slow
def test_runs_in_processes_keep_the_limit_and_a_place_is_free_when_the_process_is_gone(
    conn: Connection, database_url: str, tmp_path: Path
) -> None:
    note = tmp_path / "notes"
    note.touch()
    limit(conn, "p_spins", max_running=1)
    producer.enqueue_many(conn, [NewJob("p_spins", {"note": str(note)})] * 2, actor=ACTOR)
    settings = quick_settings(lease_seconds=120.0, process_concurrency=2)
    with working(database_url, *load([MODULE]), settings=settings) as worker:
        until(lambda: noted(note, "spins"), "the first run")
        first = noted(note, "spins")[0]
        other = producer.enqueue(conn, NewJob("p_done", {"number": 2}), actor=ACTOR).job_id
        until(lambda: conn.status_of(other) is None, "a job of another type in the other process")
        assert noted(note, "spins") == [first]
        operator.cancel(conn, running(conn), actor=ACTOR)
        until(lambda: len(noted(note, "spins")) == 2, "the second run")
        assert is_gone(first)
        assert not worker.drain(0)


@pytest.mark.slow
def test_processes_of_which_one_is_killed_keep_the_limit(conn: Connection, database_url: str, tmp_path: Path) -> None:
    def all_work() -> bool:
        if left(conn) < 30:
            producer.enqueue_many(conn, [NewJob("chaos_nap", {"seconds": 0.1})] * 60, actor=ACTOR)
        return conn.execute("SELECT count(*) FROM job_workers").fetchone() == (3,) and bool(killed.holds(conn))

    limit(conn, "chaos_nap", max_running=3)
    with processes(database_url, tmp_path, 3) as (killed, *_):
        until(all_work, "three workers, and work for the one to be killed")
        killed.signal(signal.SIGKILL)
        until(lambda: not left(conn), "the end of all jobs")
    runs = conn.execute("SELECT started_at, finished_at, outcome FROM job_runs WHERE NOT late").fetchall()
    edges = sorted([(at, 1) for at, _, _ in runs] + [(at, -1) for _, at, _ in runs])
    active = most = 0
    for _, change in edges:
        active += change
        most = max(most, active)
    assert most == 3
    assert {outcome for _, _, outcome in runs} <= {"succeeded", "lost"}
