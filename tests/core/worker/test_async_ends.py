"""How the run of an async handler ends, and that it ends no other."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobdeck.core.errors import LeaseLost, PermanentError, RetryLater, Snooze
from jobdeck.core.model import RunOutcome
from jobdeck.core.registry import Continue, Done
from tests.core.worker.async_handlers import Gate, all_async, report_of, returns_nothing, threads_of
from tests.core.worker.test_executor import runner_of
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import a_worker, claimed, job_type, quick_settings, working


class Unready(RetryLater):
    """Does not call the constructor of its base, and so has no seconds."""

    def __init__(self) -> None:
        pass


def test_an_exception_that_cannot_be_read_is_the_failure_of_its_run_alone() -> None:
    async def raises(_params: Any, _ctx: Any) -> None:
        raise Unready

    report = report_of(raises)
    assert report.outcome is RunOutcome.FAILED
    assert str(report.error).startswith("Unready was raised, and cannot be read")


@pytest.mark.parametrize(("done", "total"), [(object(), None), (float("nan"), None), (1, 10**400)])
def test_progress_that_no_heartbeat_can_store_is_a_failure_that_says_so(done: Any, total: Any) -> None:
    async def tells(_params: Any, ctx: Any) -> None:
        ctx.progress(done, total)

    report = report_of(tells)
    assert report.permanent
    assert str(report.error).startswith("The progress of a run is a number of done items and a total")


# How a run ends


async def _is_done(_params: Any, ctx: Any) -> Done:
    ctx.progress(1, 2, "half")
    ctx.log.info("a line")
    return Done({"sent": 1}, failed=1)


async def _continues(_params: Any, _ctx: Any) -> Continue:
    return Continue({"page": 2}, delay=5.0)


async def _returns_a_number(_params: Any, _ctx: Any) -> int:
    return 7


async def _returns_what_json_lacks(_params: Any, _ctx: Any) -> Done:
    return Done({"when": object()})


def _raiser(error: BaseException) -> Callable[[Any, Any], Any]:
    async def fail(_params: Any, _ctx: Any) -> None:
        await asyncio.sleep(0)
        raise error

    return fail


def _as_thread(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The same handler as a plain function."""

    def run(params: Any, ctx: Any) -> Any:
        coroutine = handler(params, ctx)
        while True:
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value

    return run


@pytest.mark.parametrize(
    "handler",
    [
        returns_nothing,
        _is_done,
        _continues,
        _returns_a_number,
        _returns_what_json_lacks,
        _raiser(ValueError("no")),
        _raiser(PermanentError("never")),
        _raiser(RetryLater(9.0, "later")),
        _raiser(Snooze(9.0, "closed")),
        _raiser(LeaseLost("gone")),
        _raiser(SystemExit(3)),
        _raiser(KeyboardInterrupt()),
        _raiser(ExceptionGroup("both", [ValueError("one"), PermanentError("two")])),
        _raiser(TimeoutError("the vendor is slow")),
    ],
    ids=lambda handler: handler.__name__,
)
def test_a_run_ends_as_that_of_a_thread_ends(handler: Callable[[Any, Any], Any]) -> None:
    there = runner_of(_as_thread(handler)).run(claimed())
    here = report_of(handler)
    for name in ("outcome", "output", "checkpoint", "delay", "retry_after", "permanent", "error_kind", "error"):
        assert getattr(here, name) == getattr(there, name), name
    assert (here.log is None) == (there.log is None)


def test_a_task_group_brings_the_errors_of_its_tasks_together_and_stops_the_others() -> None:
    stopped: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("waiter")

    async def fail() -> None:
        raise ValueError("no luck")

    async def both(_params: Any, _ctx: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail())

    report = report_of(both)
    assert (report.outcome, report.error_kind, stopped) == ("failed", "ExceptionGroup", ["waiter"])
    assert "no luck" in (report.traceback or "")


def test_a_cancelled_handler_that_leaves_through_a_task_group_is_cancelled_and_has_not_failed(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = threading.Event()

    async def member(ctx: Any) -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            ctx.raise_if_cancelled()

    async def group(_params: Any, ctx: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(member(ctx))

    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", PATIENCE)
    job = conn.add("group")
    with working(database_url, job_type("group", group)) as worker:
        assert entered.wait(PATIENCE)
        assert not worker.drain(0)
    assert conn.outcomes(job.id) == ["released"]


def test_a_handler_that_is_cancelled_from_inside_has_failed_and_the_error_says_so() -> None:
    async def inside(_params: Any, _ctx: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    report = report_of(inside)
    assert (report.outcome, report.error_kind) == ("failed", "CancelledError")
    assert "cancelled itself" in (report.error or "")


def test_exit_in_a_task_that_a_handler_left_behind_ends_no_other_run(
    database_url: str, conn: Connection, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind: list[asyncio.Task[None]] = []

    async def leave(_params: Any, _ctx: Any) -> None:
        async def exits() -> None:
            raise SystemExit(1)

        left_behind.append(asyncio.create_task(exits()))

    conn.add("gate")

    def lines() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]

    with working(database_url, job_type("gate", gate), job_type("leave", leave), worker_id="w10") as worker:
        gate.wait_for()
        conn.add("leave")
        until(lines, "the line about the exit")
        gate.open()
        until(lambda: worker.status.succeeded == 2, "both runs")
    until(lambda: not threads_of("w10"), "the end of the loop's thread")
    assert lines() == ["a task of a handler ended with an error"]
    # asyncio would log an error that nobody has asked for when the task is collected, perhaps in another test.
    assert isinstance(left_behind[0].exception(), SystemExit)


def test_a_handler_that_cancels_all_tasks_of_the_loop_ends_no_worker(
    database_url: str, conn: Connection, gate: Gate
) -> None:
    async def cancels(_params: Any, _ctx: Any) -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    first = conn.add("gate", max_attempts=1)
    types = job_type("gate", gate), job_type("cancels", cancels), job_type("quick", returns_nothing)
    with working(database_url, *types, worker_id="w11") as worker:
        gate.wait_for()
        conn.add("cancels")
        until(lambda: conn.status_of(first.id) == "failed", "the end of the run that was cancelled")
        conn.add("quick")
        until(lambda: worker.status.succeeded == 2, "the next run")
    until(lambda: not threads_of("w11"), "the end of the loop's thread")


def test_a_context_variable_of_one_run_is_not_seen_by_another(database_url: str, conn: Connection) -> None:
    seen: list[str] = []
    customer: contextvars.ContextVar[str] = contextvars.ContextVar("customer", default="nobody")

    async def serve(params: Any, _ctx: Any) -> None:
        seen.append(customer.get())
        customer.set(f"customer {params.number}")
        await asyncio.sleep(0)
        assert customer.get() == f"customer {params.number}"

    all_async(conn, "serve", 20)
    with a_worker(database_url, job_type("serve", serve), settings=quick_settings(async_concurrency=5)) as worker:
        worker.run_until_idle()
    assert conn.outcomes() == ["succeeded"] * 20
    assert set(seen) == {"nobody"}


@pytest.mark.slow
def test_a_line_that_a_thread_of_an_async_run_logs_is_kept_with_the_run(database_url: str, conn: Connection) -> None:
    async def handler(_params: Any, ctx: Any) -> None:
        ctx.log.info("of the handler")
        await asyncio.to_thread(logging.getLogger("vendor").warning, "of the library")

    job = conn.add("logs")
    with a_worker(database_url, job_type("logs", handler)) as worker:
        worker.run_until_idle()
    log = conn.last_run(job.id)["log"]
    assert "of the handler" in log
    assert "of the library" in log
