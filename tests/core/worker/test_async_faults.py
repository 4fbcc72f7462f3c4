"""Async handlers that do not behave, and how a worker gives them up and runs the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from jobdeck.core.errors import LeaseLost
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.worker.context import Stop
from jobdeck.core.worker.slots import loop
from jobdeck.core.worker.slots.lane import thread_position
from jobdeck.core.worker.slots.loop import GOES_ON, LOST_GOES_ON
from tests.core.worker.async_handlers import Gate, Place
from tests.core.worker.test_worker import expire
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import a_worker, job_type, quick_settings, working

# Handlers that do not stop


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cycle", "until idle"])
def test_a_worker_that_ends_by_itself_does_not_wait_for_a_handler_that_swallows_its_cancellation(
    database_url: str, conn: Connection, stubborn: Gate, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(loop, "STUBBORN_SECONDS", 0.1)
    monkeypatch.setattr(loop, "LAST_SECONDS", 0.1)
    job = conn.add("gate", max_attempts=1)
    with a_worker(database_url, job_type("gate", stubborn, timeout=0.2), mode="cycle", source="cli") as worker:
        run: Callable[[], object] = worker.run_cycle if way == "cycle" else worker.run_until_idle
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE)
        ended = not thread.is_alive()
        stubborn.open()
        thread.join()
    assert ended
    assert (conn.outcomes(job.id), conn.last_run(job.id)["error_kind"]) == (["failed"], "timeout")


@pytest.mark.slow
def test_a_worker_that_ends_by_itself_does_not_wait_for_a_handler_that_blocks_the_loop(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STUBBORN_SECONDS", 0.1)
    monkeypatch.setattr(loop, "LAST_SECONDS", 0.1)
    entered, go_on = threading.Event(), threading.Event()

    async def blocks(params: Any, _ctx: Any) -> None:
        if params.number == 0:
            entered.set()
            go_on.wait()

    first = conn.add("blocks", payload={"number": 0}, max_attempts=1)
    with a_worker(database_url, job_type("blocks", blocks, timeout=0.2)) as worker:
        thread = threading.Thread(target=worker.run_until_idle)
        thread.start()
        assert entered.wait(PATIENCE)
        second = conn.add("blocks", payload={"number": 1})
        thread.join(PATIENCE)
        ended = not thread.is_alive()
        go_on.set()
        thread.join()
    assert ended
    assert conn.outcomes(first.id) == ["failed"]
    assert set(conn.outcomes(second.id)) <= {"released"}


def test_a_handler_that_swallows_the_loss_of_its_job_is_cancelled(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.runs.loop_context.ROLL_BACK_SECONDS", 0.05)
    entered, lost = threading.Event(), threading.Event()

    async def saves(_params: Any, ctx: Any) -> None:
        entered.set()
        await asyncio.to_thread(lost.wait, PATIENCE)
        with contextlib.suppress(LeaseLost):
            await ctx.save_checkpoint({"page": 1})
        await asyncio.Event().wait()

    job = conn.add("saves", max_attempts=1)
    settings = quick_settings(lease_seconds=3600.0, heartbeat_seconds=1200.0)
    with working(database_url, job_type("saves", saves), settings=settings):
        assert entered.wait(PATIENCE)
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        lost.set()
        until(lambda: conn.outcomes(job.id) == ["lost", "abandoned"], "both records")


def test_a_handler_that_cleans_up_after_a_cancellation_is_not_cancelled_again_at_its_timeout(
    place: Callable[..., Place],
) -> None:
    entered, cleaning, go_on = threading.Event(), threading.Event(), threading.Event()
    cleaned: list[str] = []

    async def cleans(_params: Any, _ctx: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.to_thread(go_on.wait, PATIENCE)
            cleaned.append("whole")

    runs = place(cleans)
    (run,) = runs.put(1)
    assert entered.wait(PATIENCE)
    run.must_stop(Stop.CANCELLED)
    assert cleaning.wait(PATIENCE)
    assert runs.slots.time_out(run) is not None
    go_on.set()
    assert runs.ended(1) == {1: "failed"}
    assert cleaned == ["whole"]


def test_what_is_shown_of_a_run_that_goes_on_says_whether_it_still_has_its_job(
    place: Callable[..., Place], stubborn: Gate
) -> None:
    runs = place(stubborn)
    kept, lost = runs.put(1, 2)
    stubborn.wait_for(2)
    kept.must_stop(Stop.TIMED_OUT)
    lost.must_stop(Stop.LOST)
    for _ in range(2):
        assert stubborn.cancelled.acquire(timeout=PATIENCE)
    runs.look_later()
    assert (kept.notice, lost.notice) == (GOES_ON, LOST_GOES_ON)
    assert str(lost.log_text()).count("result will be discarded") == 1
    # At its timeout, the run without a job frees its place, and the other one does not.
    assert runs.slots.time_out(kept) is None
    assert "is abandoned" in str(runs.slots.time_out(lost))
    assert (runs.ended(1), runs.slots.occupied) == ({2: "failed"}, 1)
    stubborn.open()
    assert runs.ended(1) == {1: "failed"}


def test_runs_whose_tasks_are_cancelled_before_their_first_step_are_handed_back(place: Callable[..., Place]) -> None:
    async def cancels(params: Any, _ctx: Any) -> None:
        assert params.number == 1
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    runs = place(cancels)
    runs.put(1, 2, 3)
    assert runs.ended(3) == {1: "succeeded", 2: "released", 3: "released"}
    assert runs.slots.occupied == 0


# A loop that is blocked


def test_jobs_behind_a_blocked_loop_are_handed_back_and_none_is_claimed_until_it_goes_on(
    place: Callable[..., Place],
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def blocks(params: Any, _ctx: Any) -> None:
        if params.number == 1:
            entered.set()
            go_on.wait(PATIENCE)

    runs = place(blocks)
    runs.put(1)
    assert entered.wait(PATIENCE)
    runs.put(2, 3)
    runs.look_later()
    assert runs.ended(2) == {2: "released", 3: "released"}
    assert (len(runs.slots.running), runs.slots.occupied) == (1, runs.slots.size)
    go_on.set()
    assert runs.ended(1) == {1: "succeeded"}
    until(lambda: runs.slots.occupied == 0, "the answer of the loop")
    runs.put(2)
    assert runs.ended(1) == {2: "succeeded"}


@pytest.mark.slow
def test_another_worker_runs_the_jobs_that_wait_for_a_blocked_loop(database_url: str, conn: Connection) -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def blocks(params: Any, _ctx: Any) -> None:
        if params.number == 0 and not entered.is_set():
            entered.set()
            go_on.wait()

    kind = job_type("blocks", blocks)
    conn.add("blocks", payload={"number": 0})
    settings = quick_settings(lease_seconds=120.0)
    with working(database_url, kind, settings=settings) as worker:
        assert entered.wait(PATIENCE)
        producer.enqueue_many(conn, [NewJob("blocks", {"number": 1})] * 10, actor=ACTOR)
        with working(database_url, kind, settings=settings):
            until(lambda: conn.outcomes().count("succeeded") == 10, "the runs of the other worker")
        assert worker.status.running == 1
        go_on.set()
        conn.add("blocks", payload={"number": 1})
        until(lambda: worker.status.succeeded >= 2, "the runs after the block")


def test_a_loop_with_many_short_steps_to_do_blames_none_of_them(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    turns = [threading.Event() for _ in range(5)]
    entered = threading.Semaphore(0)

    async def short(params: Any, _ctx: Any) -> None:
        entered.release()
        turns[params.number].wait(PATIENCE)

    runs = place(short)
    runs.put(0, 1, 2, 3, 4)
    now = time.monotonic()
    for seconds, turn in enumerate(turns):
        assert entered.acquire(timeout=PATIENCE)
        runs.slots.look(now + 60.0 * seconds)
        turn.set()
    assert runs.ended(5) == dict.fromkeys(range(5), "succeeded")
    assert "blocks the event loop" not in caplog.text


def test_a_handler_that_blocks_the_loop_in_a_select_of_its_own_is_blamed(
    place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = os.pipe()

    async def blocks(_params: Any, _ctx: Any) -> None:
        # As `subprocess.run` does that keeps the output.
        with selectors.DefaultSelector() as selector:
            selector.register(reader, selectors.EVENT_READ)
            selector.select()

    runs = place(blocks)
    runs.put(1)
    until(lambda: "in blocks" in thread_position(runs.slots._thread or threading.current_thread()), "the block")
    runs.look_later()
    os.write(writer, b".")
    assert runs.ended(1) == {1: "succeeded"}
    os.close(reader)
    os.close(writer)
    assert "blocks the event loop" in caplog.text
