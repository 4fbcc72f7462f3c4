"""Slots whose threads and tasks are interrupted from outside, and exceptions that cannot be read."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobdeck.core.worker import watchdog
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.slots.threads import ThreadSlots
from tests.support.interrupting import TookTooLong, interrupt
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import Held, job_type, nothing, quick_settings, working


def slots_of(worker_id: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"{worker_id} slot"]


def test_a_slot_that_is_interrupted_while_it_waits_runs_the_next_jobs(conn: Connection, database_url: str) -> None:
    with working(database_url, job_type("quick", nothing), concurrency=1) as worker:
        first = conn.add("quick").id
        until(lambda: conn.status_of(first) is None, "the end of the first job")
        for thread in slots_of(worker.worker_id):
            interrupt(thread.ident)
        jobs = [conn.add("quick").id for _ in range(5)]
        until(lambda: not any(conn.status_of(job) for job in jobs), "the end of the other jobs")
        assert len(slots_of(worker.worker_id)) == 2
    assert conn.outcomes() == ["succeeded"] * 6


def test_a_slot_that_is_interrupted_after_its_handler_returned_reports_a_failed_attempt(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = RunContext.close
    times = iter([True])

    def close(context: RunContext) -> None:
        closed(context)
        if next(times, False):
            raise TookTooLong

    monkeypatch.setattr(RunContext, "close", close)
    with working(database_url, job_type("quick", nothing), concurrency=1) as worker:
        job = conn.add("quick").id
        until(lambda: conn.status_of(job) is None, "the end of the job")
        assert len(slots_of(worker.worker_id)) == 2
    assert conn.outcomes(job) == ["retried", "succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize("began", [True, False])
def test_a_job_that_no_slot_has_any_more_is_given_back_and_named(
    conn: Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    began: bool,
) -> None:
    serve = ThreadSlots._serve
    times = iter([True])

    def drop(slots: ThreadSlots, context: RunContext, thread: threading.Thread) -> bool:
        if not next(times, False):
            return serve(slots, context, thread)
        if began:
            context.started = context.lease_end
        return True

    monkeypatch.setattr(watchdog, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(ThreadSlots, "_serve", drop)
    with working(database_url, job_type("quick", nothing), concurrency=1):
        job = conn.add("quick").id
        until(lambda: conn.status_of(job) is None, "the end of the job")
    assert conn.outcomes(job) == (["retried", "succeeded"] if began else ["succeeded"])
    assert "no slot has this job any more" in caplog.text


@pytest.mark.slow
def test_jobs_that_no_slot_takes_within_a_lease_are_given_back_and_named(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = ThreadSlots.start
    monkeypatch.setattr(watchdog, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(ThreadSlots, "start", lambda _slots: None)
    settings = quick_settings(lease_seconds=1.0, heartbeat_seconds=0.3)
    with working(database_url, job_type("quick", nothing), settings=settings, concurrency=1) as worker:
        job = conn.add("quick").id
        until(lambda: "no slot took these jobs within a lease" in caplog.text, "the watchdog")
        assert worker._state is not None
        (slots,) = (lane.slots for lane in worker._state.lanes)
        assert isinstance(slots, ThreadSlots)
        start(slots)
        until(lambda: conn.status_of(job) is None, "the end of the job")
    assert conn.outcomes(job) == ["succeeded"]


@pytest.mark.slow
def test_no_job_is_lost_while_slots_are_interrupted_at_any_step(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOST_SECONDS", 0.5)
    # An interrupted step may leave a file open. Python reports that in the interrupted thread, and pytest's hook there
    # is interrupted as well, which pytest counts as a failure of the test.
    monkeypatch.setattr(sys, "unraisablehook", lambda _unraisable: None)
    pause = threading.Event()
    jobs = [conn.add("short", max_attempts=1000).id for _ in range(300)]
    short = job_type("short", lambda _params, _ctx: threading.Event().wait(0.002) or None)
    with working(database_url, short, concurrency=3) as worker:
        for _ in range(200):
            for thread in slots_of(worker.worker_id):
                interrupt(thread.ident)
            pause.wait(0.005)
        until(lambda: not any(conn.status_of(job) for job in jobs), "the end of all jobs")
        assert len(slots_of(worker.worker_id)) >= 4
    assert conn.outcomes().count("succeeded") == len(jobs)


async def cancels_itself(_params: object, _ctx: object) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def test_an_async_handler_that_cancels_its_own_task_and_returns_has_failed(conn: Connection, database_url: str) -> None:
    job = conn.add("cancels", max_attempts=2).id
    with working(database_url, job_type("cancels", cancels_itself)):
        until(lambda: conn.status_of(job) == "failed", "the failure of the job")
    assert conn.outcomes(job) == ["retried", "failed"]
    assert conn.last_run(job)["error_kind"] == "CancelledError"


class Hostile(Exception):
    """Its methods end the thread that reads it."""

    def __str__(self) -> str:
        raise SystemExit("str")

    def __repr__(self) -> str:
        raise SystemExit("repr")


class NoCause(Exception):
    """The same of its cause."""

    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]
        raise SystemExit("cause")


class HostileExit(SystemExit):
    """What ends an event loop, and cannot be read."""

    __str__ = __repr__ = Hostile.__str__


@pytest.mark.parametrize("error", [Hostile, NoCause, HostileExit])
def test_an_exception_that_cannot_be_read_is_a_failed_attempt_and_ends_no_slot(
    conn: Connection, database_url: str, error: Callable[[], BaseException]
) -> None:
    def raises(_params: object, _ctx: object) -> None:
        raise error()

    async def raises_too(_params: object, _ctx: object) -> None:
        raise error()

    async def left(_params: object, _ctx: object) -> None:
        async def task() -> None:
            raise error()

        own = asyncio.get_running_loop().create_task(task())
        await asyncio.wait({own})
        assert own.exception() is not None

    async def quick(_params: object, _ctx: object) -> None:
        await asyncio.sleep(0)

    kinds: dict[str, Callable[[Any, Any], Any]] = {
        "raises": raises, "raises_too": raises_too, "left": left, "thread": nothing, "loop": quick
    }  # fmt: skip
    with working(database_url, *(job_type(name, run) for name, run in kinds.items()), concurrency=1):
        for name in kinds:
            job = conn.add(name, max_attempts=1).id
            until(lambda job=job: conn.status_of(job) in {None, "failed"}, name)  # type: ignore[misc]
    assert conn.outcomes() == ["failed", "failed", "succeeded", "succeeded", "succeeded"]


def test_a_held_handler_that_is_interrupted_is_a_failed_attempt(
    conn: Connection, database_url: str, held: Held
) -> None:
    job = conn.add("held", max_attempts=1).id
    with working(database_url, job_type("held", held), concurrency=1):
        held.wait_for()
        interrupt(held.threads[0].ident)
        until(lambda: conn.status_of(job) == "failed", "the failure")
    assert conn.last_run(job)["error_kind"] == "TookTooLong"
