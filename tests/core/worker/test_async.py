"""Async handlers on a real queue: in flight together, beside those in threads, and how they are registered."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.errors import (
    ConfigurationError,
)
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import operator, producer
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.worker.runs.preview import effects
from tests.core.worker.async_handlers import Gate, all_async, returns_nothing
from tests.core.worker.test_canaries import ask, ended
from tests.core.worker.test_executor import runner_of
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, bury, worker_process
from tests.support.working import a_worker, claimed, job_type, nothing, quick_settings, working

# Running


@pytest.mark.slow
def test_two_thousand_jobs_are_in_flight_at_once(database_url: str, conn: Connection, gate: Gate) -> None:
    all_async(conn, "gate", 2000)
    settings = quick_settings(async_concurrency=2000, lease_seconds=120.0, heartbeat_seconds=5.0)
    before = threading.active_count()
    with working(database_url, job_type("gate", gate), settings=settings) as worker:
        gate.wait_for(2000)
        assert worker.status.running == 2000
        assert threading.active_count() < before + 20
        gate.open()
        until(lambda: worker.status.succeeded == 2000, "the end of all runs")
    assert conn.execute("SELECT count(*) FROM job_queue").fetchone() == (0,)
    assert conn.execute("SELECT count(*), count(DISTINCT job_id) FROM job_runs").fetchone() == (2000, 2000)


def test_no_more_jobs_are_in_flight_than_the_setting_says(database_url: str, conn: Connection, gate: Gate) -> None:
    all_async(conn, "gate", 30)
    with working(database_url, job_type("gate", gate), settings=quick_settings(async_concurrency=7)) as worker:
        gate.wait_for(7)
        assert conn.execute("SELECT count(*) FROM job_queue WHERE status = 'running'").fetchone() == (7,)
        gate.open()
        until(lambda: worker.status.succeeded == 30, "the rest")
    assert gate.most == 7


@pytest.mark.slow
def test_async_jobs_take_no_slot_of_threads_and_threads_none_of_them(
    database_url: str, conn: Connection, gate: Gate
) -> None:
    all_async(conn, "gate", 3)
    conn.add("plain")
    settings = quick_settings(async_concurrency=3)
    with working(
        database_url, job_type("gate", gate), job_type("plain", nothing), settings=settings, concurrency=1
    ) as worker:
        gate.wait_for(3)
        until(lambda: worker.status.succeeded == 1, "the thread's run")
        until(lambda: conn.execute("SELECT concurrency FROM job_workers").fetchall() == [(4,)], "the worker's row")
        gate.open()


def test_a_worker_without_async_types_has_no_loop_and_one_fetcher(database_url: str, conn: Connection) -> None:
    job = conn.add("plain")
    with working(database_url, job_type("plain", nothing), worker_id="w8"):
        until(lambda: conn.status_of(job.id) is None, "the run")
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("w8")]
    assert sum("fetcher" in name for name in names) == 1
    assert not any("loop" in name for name in names)


@pytest.mark.slow
def test_a_worker_runs_until_idle_what_each_kind_enqueues_for_the_other(database_url: str, conn: Connection) -> None:
    def plain(params: Any, ctx: Any) -> None:
        if params.number:
            producer.enqueue(ctx.db, NewJob("later", {"number": params.number - 1}), actor=ACTOR)

    async def later(params: Any, _ctx: Any) -> None:
        if params.number:
            await asyncio.to_thread(hand_on, params.number - 1)

    def hand_on(number: int) -> None:
        with Connection.connect(database_url, autocommit=True) as own:
            own.add("plain", payload={"number": number})

    conn.add("plain", payload={"number": 9})
    with a_worker(database_url, job_type("plain", plain), job_type("later", later)) as worker:
        worker.run_until_idle()
    assert conn.outcomes() == ["succeeded"] * 10


def test_a_cycle_runs_async_jobs_one_by_one(database_url: str, conn: Connection) -> None:
    inside = most = 0

    async def alone(_params: Any, _ctx: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(100):
            await asyncio.sleep(0)
        inside -= 1

    all_async(conn, "alone", 3)
    with a_worker(database_url, job_type("alone", alone), mode="cycle", source="cli") as worker:
        result = worker.run_cycle()
    assert (result.status, result.processed, result.succeeded) == ("ok", 3, 3)
    assert most == 1


@pytest.mark.slow
def test_a_canary_runs_while_all_places_are_taken_and_everything_is_paused(
    database_url: str, conn: Connection, gate: Gate
) -> None:
    conn.add("gate")
    settings = quick_settings(async_concurrency=1)
    with working(database_url, job_type("gate", gate), job_type("quick", returns_nothing), settings=settings) as worker:
        gate.wait_for()
        operator.pause(conn, reason=None, actor=ACTOR)
        waiting = conn.add("quick")
        assert ended(conn, ask(conn, waiting.id)).state == "succeeded"
        assert (gate.inside, worker.status.running) == (1, 1)


@pytest.mark.slow
def test_one_key_never_runs_in_a_thread_and_on_the_loop_at_once(database_url: str, conn: Connection) -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def enter() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)

    def leave() -> None:
        nonlocal inside
        with lock:
            inside -= 1

    def thread(_params: Any, ctx: Any) -> None:
        enter()
        ctx.db.execute("SELECT pg_sleep(0.005)")
        leave()

    async def loop(_params: Any, ctx: Any) -> None:
        enter()
        async with ctx.adb() as own:
            await own.execute("SELECT pg_sleep(0.005)")
        leave()

    jobs = [NewJob(name, concurrency_key="shared") for _ in range(30) for name in ("thread", "loop")]
    producer.enqueue_many(conn, jobs, actor=ACTOR)
    settings = quick_settings(lease_seconds=120.0)
    with (
        working(database_url, job_type("thread", thread), job_type("loop", loop), settings=settings) as worker,
        working(database_url, job_type("thread", thread), job_type("loop", loop), settings=settings) as other,
    ):
        until(lambda: worker.status.succeeded + other.status.succeeded == 60, "all runs")
    assert most == 1


@pytest.mark.parametrize("ends", ["killed", "terminated"])
@pytest.mark.slow
def test_the_jobs_in_flight_of_a_process_that_ends_run_again_and_none_is_lost(
    database_url: str, conn: Connection, tmp_path: Path, ends: str
) -> None:
    begun = tmp_path / "begun"
    begun.touch()
    (tmp_path / "waiting_jobs.py").write_text(
        "import asyncio\n"
        "from jobdeck import job\n"
        "@job('waits')\n"
        "async def waits(params, ctx):\n"
        f"    with open({str(begun)!r}, 'a') as file:\n"
        "        file.write('.')\n"
        "    await asyncio.Event().wait()\n"
    )
    producer.enqueue_many(conn, [NewJob("waits")] * 200, actor=ACTOR)
    folder = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "JOBDECK_HANDLERS": "waiting_jobs", "JOBDECK_DRAIN_SECONDS": "0"}
    with worker_process(database_url, tmp_path, **folder, JOBDECK_ASYNC_CONCURRENCY="150") as process:
        # A job that is claimed and has not begun leaves no run in the history.
        until(lambda: begun.stat().st_size == 150, "150 runs")
        if ends == "killed":
            process.kill()
            process.wait()
            bury(database_url)
        else:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    if ends == "terminated":
        assert conn.execute("SELECT DISTINCT status, attempts FROM job_queue").fetchall() == [("pending", 0)]
    with working(database_url, job_type("waits", returns_nothing)):
        until(lambda: conn.execute("SELECT count(*) FROM job_queue").fetchone() == (0,), "the end of all jobs")
    ended = dict(conn.execute("SELECT outcome, count(DISTINCT job_id) FROM job_runs GROUP BY 1").fetchall())
    assert ended == {"succeeded": 200, {"killed": "lost", "terminated": "released"}[ends]: 150}


def test_an_async_type_has_a_preview_as_any_type_has(database_url: str, conn: Connection) -> None:
    previewed = job_type("looks_ahead", returns_nothing, preview=lambda params, _ctx: {"would send": params.number})
    with Database(database_url, application_name="test") as database:
        found = effects(previewed, {"number": 3}, settings=quick_settings(), database=database)
    assert found == {"would send": 3}


# Registering


@pytest.mark.parametrize("name", ["preview", "admit"])
def test_a_preview_or_admission_that_is_async_is_refused_when_it_is_registered(name: str) -> None:
    async def ahead(_params: Any, _ctx: Any) -> dict[str, Any]:
        return {}

    facts: dict[str, Any] = {name: ahead}
    with pytest.raises(ConfigurationError, match=f"The {name} of looks_ahead is an async function"):
        job("looks_ahead", **facts)(nothing)


class _Callable:
    async def __call__(self, _params: Any, _ctx: Any) -> None: ...


async def _plain(_first: Any, _params: Any, _ctx: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(returns_nothing, True), (_Callable(), True), (functools.partial(_plain, 1), True), (nothing, False)],
    ids=["function", "object", "partial", "plain"],
)
def test_an_async_handler_is_known_as_one(handler: Callable[[Any, Any], Any], *, expected: bool) -> None:
    assert job_type("kind", handler).is_async is expected


def test_a_plain_function_that_returns_a_coroutine_is_told_to_be_async() -> None:
    def wraps(params: Any, ctx: Any) -> Any:
        return returns_nothing(params, ctx)

    report = runner_of(wraps).run(claimed())
    assert report.outcome == "failed"
    assert "declare the function with async def" in (report.error or "")
