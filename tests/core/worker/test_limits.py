"""Workers on a queue with limits: the effects of their handlers, and of processes that are killed."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.chaos.test_chaos import processes
from tests.support.waiting import until
from tests.support.working import ACTOR, Params, job_type, quick_settings, working

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg


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


def limit(conn: psycopg.Connection[Any], task_type: str, **changes: int | None) -> None:
    operator.set_type(conn, task_type, changes=changes, actor=ACTOR, reason=None)


def left(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM job_queue").fetchone()
    return int(row[0]) if row else 0


def test_two_workers_never_run_more_than_the_limit_and_reach_it(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
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


def test_a_place_is_used_again_as_soon_as_the_worker_has_reported_the_run(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
    effects = Effects()
    effects.gate.set()
    limit(conn, "limited", max_running=1)
    # More than seconds that the test would wait: a worker that only polled would not come to the end.
    producer.enqueue_many(conn, [NewJob("limited")] * 300, actor=ACTOR)
    with working(database_url, job_type("limited", effects), concurrency=4):
        until(lambda: not left(conn), "the end of all jobs")
    assert effects.most == 1


def test_a_limited_type_does_not_hold_the_jobs_of_others(conn: psycopg.Connection[Any], database_url: str) -> None:
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


@pytest.mark.slow
def test_processes_of_which_one_is_killed_keep_the_limit(
    conn: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    limit(conn, "chaos_nap", max_running=3)
    producer.enqueue_many(conn, [NewJob("chaos_nap", {"seconds": 0.1})] * 60, actor=ACTOR)
    with processes(database_url, tmp_path, 3) as (killed, *_):
        until(lambda: killed.holds(conn), "work for the one to be killed")
        killed.signal(signal.SIGKILL)
        until(lambda: not left(conn), "the end of all jobs")
    runs = conn.execute("SELECT started_at, finished_at, outcome FROM job_runs WHERE NOT late").fetchall()
    edges = sorted([(at, 1) for at, _, _ in runs] + [(at, -1) for _, at, _ in runs])
    active = most = 0
    for _, change in edges:
        active += change
        most = max(most, active)
    assert most == 3
    assert [outcome for _, _, outcome in runs].count("succeeded") == 60
