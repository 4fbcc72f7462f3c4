"""Async handlers on a real queue: in flight together, cancelled, timed out, handed back, and apart from the threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdeck.core.errors import (
    ConfigurationError,
    LeaseLost,
    PermanentError,
    RetryLater,
    Snooze,
)
from jobdeck.core.model import NewJob, RunOutcome
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.registry import Continue, Done, job
from jobdeck.core.worker.context import RunContext, Stop
from jobdeck.core.worker.executor import thread_position
from jobdeck.core.worker.fetcher import SHARED_SECONDS
from jobdeck.core.worker.shadow.preview import effects
from jobdeck.core.worker.slots.loop import LoopSlots
from tests.core.worker.test_canaries import ask, ended
from tests.core.worker.test_executor import runner_of
from tests.core.worker.test_worker import expire
from tests.support.examples import examples
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, bury, worker_process
from tests.support.working import (
    ACTOR,
    a_worker,
    claimed,
    enqueue,
    job_type,
    last_run,
    outcomes,
    quick_settings,
    status_of,
    working,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jobdeck.core.model import FinishedRun

Conn = psycopg.Connection[Any]


class Gate:
    """An async handler that says when it runs, and waits until it is let go, without a thread and without polling."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.inside = 0
        self.most = 0
        self._stubborn = stubborn
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._open = False

    async def __call__(self, params: Any, _ctx: Any) -> Done:
        mine = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), mine))
        if self._open:
            mine.set()
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        try:
            while not mine.is_set():
                try:
                    await mine.wait()
                except asyncio.CancelledError:
                    self.cancelled.release()
                    if not self._stubborn:
                        raise
        finally:
            self.inside -= 1
        return Done({"number": params.number})

    def wait_for(self, runs: int = 1) -> None:
        for _ in range(runs):
            assert self.entered.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._open = True
        for loop, mine in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(mine.set)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def stubborn() -> Iterator[Gate]:
    gate = Gate(stubborn=True)
    yield gate
    gate.open()


def report_of(handler: Callable[[Any, Any], Any], context: RunContext | None = None) -> FinishedRun:
    """The report of an async handler that runs without worker and database."""
    runner = runner_of(handler)
    run = context or RunContext(claimed(), runner.resources, 0.0, float("inf"))
    return asyncio.run(runner.run_async(run, run, None))  # type: ignore[arg-type]


def all_async(conn: Conn, name: str, jobs: int) -> None:
    producer.enqueue_many(conn, [NewJob(name, {"number": number}) for number in range(jobs)], actor=ACTOR)


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


# Running


def test_two_thousand_jobs_are_in_flight_at_once(database_url: str, conn: Conn, gate: Gate) -> None:
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


def test_no_more_jobs_are_in_flight_than_the_setting_says(database_url: str, conn: Conn, gate: Gate) -> None:
    all_async(conn, "gate", 30)
    with working(database_url, job_type("gate", gate), settings=quick_settings(async_concurrency=7)) as worker:
        gate.wait_for(7)
        assert conn.execute("SELECT count(*) FROM job_queue WHERE status = 'running'").fetchone() == (7,)
        gate.open()
        until(lambda: worker.status.succeeded == 30, "the rest")
    assert gate.most == 7


def test_async_jobs_take_no_slot_of_threads_and_threads_none_of_them(database_url: str, conn: Conn, gate: Gate) -> None:
    all_async(conn, "gate", 3)
    enqueue(conn, "plain")
    settings = quick_settings(async_concurrency=3)
    with working(
        database_url, job_type("gate", gate), job_type("plain", lambda _p, _c: None), settings=settings, concurrency=1
    ) as worker:
        gate.wait_for(3)
        until(lambda: worker.status.succeeded == 1, "the thread's run")
        until(lambda: conn.execute("SELECT concurrency FROM job_workers").fetchall() == [(4,)], "the worker's row")
        gate.open()


def test_a_worker_without_async_types_has_no_loop_and_one_fetcher(database_url: str, conn: Conn) -> None:
    job = enqueue(conn, "plain")
    with working(database_url, job_type("plain", lambda _p, _c: None), worker_id="w8"):
        until(lambda: status_of(conn, job.id) is None, "the run")
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("w8")]
    assert sum("fetcher" in name for name in names) == 1
    assert not any("loop" in name for name in names)


def test_a_worker_runs_until_idle_what_each_kind_enqueues_for_the_other(database_url: str, conn: Conn) -> None:
    def plain(params: Any, ctx: Any) -> None:
        if params.number:
            enqueue(ctx.db, "later", payload={"number": params.number - 1})

    async def later(params: Any, _ctx: Any) -> None:
        if params.number:
            await asyncio.to_thread(hand_on, params.number - 1)

    def hand_on(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as own:
            enqueue(own, "plain", payload={"number": number})

    enqueue(conn, "plain", payload={"number": 9})
    with a_worker(database_url, job_type("plain", plain), job_type("later", later)) as worker:
        worker.run_until_idle()
    assert outcomes(conn) == ["succeeded"] * 10


def test_a_cycle_runs_async_jobs_one_by_one(database_url: str, conn: Conn) -> None:
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


def test_a_canary_runs_while_all_places_are_taken_and_everything_is_paused(
    database_url: str, conn: Conn, gate: Gate
) -> None:
    enqueue(conn, "gate")
    settings = quick_settings(async_concurrency=1)
    with working(
        database_url, job_type("gate", gate), job_type("quick", _returns_nothing), settings=settings
    ) as worker:
        gate.wait_for()
        operator.pause(conn, reason=None, actor=ACTOR)
        waiting = enqueue(conn, "quick")
        assert ended(conn, ask(conn, waiting.id)).state == "succeeded"
        assert (gate.inside, worker.status.running) == (1, 1)


@pytest.mark.slow
def test_one_key_never_runs_in_a_thread_and_on_the_loop_at_once(database_url: str, conn: Conn) -> None:
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
    database_url: str, conn: Conn, tmp_path: Path, ends: str
) -> None:
    (tmp_path / "waiting_jobs.py").write_text(
        "import asyncio\n"
        "from jobdeck import job\n"
        "@job('waits')\n"
        "async def waits(params, ctx):\n"
        "    await asyncio.Event().wait()\n"
    )
    producer.enqueue_many(conn, [NewJob("waits")] * 200, actor=ACTOR)
    folder = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "JOBDECK_HANDLERS": "waiting_jobs", "JOBDECK_DRAIN_SECONDS": "0"}
    with worker_process(database_url, tmp_path, **folder, JOBDECK_ASYNC_CONCURRENCY="150") as process:
        running = "SELECT count(*) FROM job_queue WHERE status = 'running'"
        until(lambda: conn.execute(running).fetchone() == (150,), "150 runs")
        if ends == "killed":
            process.kill()
            process.wait()
            bury(database_url)
        else:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    if ends == "terminated":
        assert conn.execute("SELECT DISTINCT status, attempts FROM job_queue").fetchall() == [("pending", 0)]
    with working(database_url, job_type("waits", _returns_nothing)):
        until(lambda: conn.execute("SELECT count(*) FROM job_queue").fetchone() == (0,), "the end of all jobs")
    ended = dict(conn.execute("SELECT outcome, count(DISTINCT job_id) FROM job_runs GROUP BY 1").fetchall())
    assert ended == {"succeeded": 200, {"killed": "lost", "terminated": "released"}[ends]: 150}


def test_an_async_type_has_a_preview_as_any_type_has(database_url: str, conn: Conn) -> None:
    previewed = job_type("looks_ahead", _returns_nothing, preview=lambda params, _ctx: {"would send": params.number})
    with Database(database_url, application_name="test") as database:
        found = effects(previewed, {"number": 3}, settings=quick_settings(), database=database)
    assert found == {"would send": 3}


# How a run ends


async def _returns_nothing(_params: Any, _ctx: Any) -> None:
    return None


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
        _returns_nothing,
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
    database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
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
    job = enqueue(conn, "group")
    with working(database_url, job_type("group", group)) as worker:
        assert entered.wait(PATIENCE)
        assert not worker.drain(0)
    assert outcomes(conn, job.id) == ["released"]


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
    database_url: str, conn: Conn, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave(_params: Any, _ctx: Any) -> None:
        async def exits() -> None:
            raise SystemExit(1)

        asyncio.get_running_loop().left_behind = asyncio.create_task(exits())  # type: ignore[attr-defined]

    enqueue(conn, "gate")

    def lines() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]

    with working(database_url, job_type("gate", gate), job_type("leave", leave), worker_id="w10") as worker:
        gate.wait_for()
        enqueue(conn, "leave")
        until(lines, "the line about the exit")
        gate.open()
        until(lambda: worker.status.succeeded == 2, "both runs")
    until(lambda: not threads_of("w10"), "the end of the loop's thread")
    assert lines() == ["a task of a handler ended with an error"]


def test_a_handler_that_cancels_all_tasks_of_the_loop_ends_no_worker(database_url: str, conn: Conn, gate: Gate) -> None:
    async def cancels(_params: Any, _ctx: Any) -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    first = enqueue(conn, "gate", max_attempts=1)
    types = job_type("gate", gate), job_type("cancels", cancels), job_type("quick", _returns_nothing)
    with working(database_url, *types, worker_id="w11") as worker:
        gate.wait_for()
        enqueue(conn, "cancels")
        until(lambda: status_of(conn, first.id) == "failed", "the end of the run that was cancelled")
        enqueue(conn, "quick")
        until(lambda: worker.status.succeeded == 2, "the next run")
    until(lambda: not threads_of("w11"), "the end of the loop's thread")


def threads_of(worker: str) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(worker)]


def test_a_context_variable_of_one_run_is_not_seen_by_another(database_url: str, conn: Conn) -> None:
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
    assert outcomes(conn) == ["succeeded"] * 20
    assert set(seen) == {"nobody"}


def test_a_line_that_a_thread_of_an_async_run_logs_is_kept_with_the_run(database_url: str, conn: Conn) -> None:
    async def handler(_params: Any, ctx: Any) -> None:
        ctx.log.info("of the handler")
        await asyncio.to_thread(logging.getLogger("vendor").warning, "of the library")

    job = enqueue(conn, "logs")
    with a_worker(database_url, job_type("logs", handler)) as worker:
        worker.run_until_idle()
    log = last_run(conn, job.id)["log"]
    assert "of the handler" in log
    assert "of the library" in log


# Stopping


def test_an_operators_cancel_cancels_the_task(database_url: str, conn: Conn, gate: Gate) -> None:
    job = enqueue(conn, "gate")
    with working(database_url, job_type("gate", gate)):
        gate.wait_for()
        operator.cancel(conn, [job.id], actor=ACTOR)
        assert gate.cancelled.acquire(timeout=PATIENCE)
        until(lambda: status_of(conn, job.id) == "cancelled", "the end")
    assert outcomes(conn, job.id) == ["cancelled"]


def test_a_run_over_its_timeout_is_cancelled_and_reported_with_its_position(
    database_url: str, conn: Conn, gate: Gate
) -> None:
    job = enqueue(conn, "gate", max_attempts=1)
    with working(database_url, job_type("gate", gate, timeout=0.2)):
        until(lambda: status_of(conn, job.id) == "failed", "the failure")
    assert gate.cancelled.acquire(blocking=False)
    run = last_run(conn, job.id)
    assert run["error_kind"] == "timeout"
    assert run["error"] == "The run took longer than the 0.2 seconds that gate allows."
    assert "await mine.wait()" in run["traceback"]
    assert "run_async" not in run["traceback"]


def test_a_run_that_goes_on_after_its_timeout_keeps_its_key_until_it_ends_and_is_shown(
    database_url: str, conn: Conn, stubborn: Gate
) -> None:
    first = enqueue(conn, "gate", concurrency_key="k", max_attempts=1)
    second = enqueue(conn, "gate", concurrency_key="k", max_attempts=1)
    settings = quick_settings(lease_seconds=120.0)
    with working(database_url, job_type("gate", stubborn, timeout=0.2), settings=settings):
        stubborn.wait_for()
        assert stubborn.cancelled.acquire(timeout=PATIENCE)
        ends = "SELECT lease_expires_at FROM job_queue WHERE id = %s"
        before = conn.execute(ends, (first.id,)).fetchone()
        shown = "SELECT progress ->> 'message', progress ->> 'log' FROM job_queue WHERE id = %s"
        until(lambda: "goes on" in str(conn.execute(shown, (first.id,)).fetchone()), "the notice")
        until(lambda: conn.execute(ends, (first.id,)).fetchone() > before, "another lease")  # type: ignore[operator]
        assert (status_of(conn, first.id), status_of(conn, second.id)) == ("running", "pending")
        assert (stubborn.inside, outcomes(conn)) == (1, [])
        stubborn.open()
        until(lambda: outcomes(conn, second.id), "the next run with the key")
    assert outcomes(conn, first.id) == ["failed"]
    run = last_run(conn, first.id)
    assert (run["error_kind"], run["output"]) == ("timeout", None)
    assert "its concurrency key" in run["log"]
    assert stubborn.most == 1


def test_draining_lets_async_runs_finish(database_url: str, conn: Conn, gate: Gate) -> None:
    all_async(conn, "gate", 5)
    with working(database_url, job_type("gate", gate), settings=quick_settings(async_concurrency=3)) as worker:
        gate.wait_for(3)

        def open_gate() -> None:
            until(lambda: worker.status.state == "draining")
            gate.open()

        helper = threading.Thread(target=open_gate)
        helper.start()
        assert worker.drain(PATIENCE)
        helper.join()
    assert outcomes(conn) == ["succeeded"] * 3
    assert conn.execute("SELECT status, sum(attempts), count(*) FROM job_queue GROUP BY 1").fetchall() == [
        ("pending", 0, 2)
    ]


def test_draining_cancels_when_the_time_is_over_and_hands_back(
    database_url: str, conn: Conn, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", PATIENCE)
    all_async(conn, "gate", 50)
    with working(database_url, job_type("gate", gate)) as worker:
        gate.wait_for(50)
        assert not worker.drain(0)
        assert gate.inside == 0
    assert outcomes(conn) == ["released"] * 50
    assert conn.execute("SELECT DISTINCT status, attempts FROM job_queue").fetchall() == [("pending", 0)]


def test_draining_hands_back_what_will_not_stop(
    database_url: str, conn: Conn, stubborn: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("jobdeck.core.worker.slots.loop.LAST_SECONDS", 0.1)
    job = enqueue(conn, "gate")
    with working(database_url, job_type("gate", stubborn), worker_id="w9") as worker:
        stubborn.wait_for()
        assert not worker.drain(0)
        assert outcomes(conn, job.id) == ["released"]
        stubborn.open()
        until(lambda: not threads_of("w9"), "the last thread")
    assert outcomes(conn, job.id) == ["released"]


def test_draining_reports_what_is_over_its_timeout_and_will_not_stop_as_timed_out(
    database_url: str, conn: Conn, stubborn: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("jobdeck.core.worker.slots.loop.LAST_SECONDS", 0.1)
    job = enqueue(conn, "gate", max_attempts=1)
    with working(database_url, job_type("gate", stubborn, timeout=0.2)) as worker:
        assert stubborn.cancelled.acquire(timeout=PATIENCE)
        assert not worker.drain(0)
        stubborn.open()
    assert (status_of(conn, job.id), last_run(conn, job.id)["error_kind"]) == ("failed", "timeout")


def test_a_run_that_lost_its_lease_is_cancelled_and_its_result_is_discarded(
    database_url: str, conn: Conn, gate: Gate
) -> None:
    job = enqueue(conn, "gate", max_attempts=1)
    with working(database_url, job_type("gate", gate)):
        gate.wait_for()
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        assert gate.cancelled.acquire(timeout=PATIENCE)
        until(lambda: outcomes(conn, job.id) == ["lost", "abandoned"], "both records")
    assert status_of(conn, job.id) == "failed"


def test_a_run_that_must_stop_before_it_has_begun_is_handed_back() -> None:
    ran: list[int] = []

    async def handler(_params: Any, _ctx: Any) -> None:
        ran.append(1)

    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(handler)
    with Database("host=/nowhere", application_name="test") as database:
        slots = LoopSlots(runner, done, "test", database, quick_settings())
        contexts = [RunContext(claimed(run_token=token), runner.resources, 0.0, float("inf")) for token in (1, 2)]
        contexts[0].stop = Stop.RELEASED
        contexts[1].lease_end = 0.0
        slots.put(contexts)
        reports = [done.get(timeout=PATIENCE).result.outcome for _ in contexts]
        slots.close()
    assert (reports, ran) == (["released", "released"], [])


def test_a_run_that_is_stopped_between_its_start_and_its_first_step_is_handed_back() -> None:
    blocked, go_on = threading.Event(), threading.Event()

    async def handler(_params: Any, _ctx: Any) -> None:
        blocked.set()
        go_on.wait(PATIENCE)

    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(handler)
    first, second = (RunContext(claimed(run_token=token), runner.resources, 0.0, float("inf")) for token in (1, 2))
    with Database("host=/nowhere", application_name="test") as database:
        slots = LoopSlots(runner, done, "test", database, quick_settings())
        slots.put([first])
        assert blocked.wait(PATIENCE)
        slots.put([second])
        second.must_stop(Stop.RELEASED)
        go_on.set()
        reports = {run.job.run_token: run.result.outcome for run in (done.get(timeout=PATIENCE) for _ in range(2))}
        slots.close()
    assert reports == {1: "succeeded", 2: "released"}


BEHAVIOURS = ["returns", "raises", "exits", "waits", "swallows", "groups", "runs over its time"]


class Wild:
    """An async handler that does what the behaviour of its number says."""

    def __init__(self, behaviours: list[str]) -> None:
        self._behaviours = behaviours
        self.begun = 0

    async def __call__(self, params: Any, _ctx: Any) -> Done:
        behaviour = self._behaviours[params.number]
        try:
            await asyncio.sleep(0)
        finally:
            # After the pause: a run that returns has then ended before anybody can stop it.
            self.begun += 1
        if behaviour == "raises":
            raise ValueError("no luck")
        if behaviour == "exits":
            raise SystemExit(2)
        if behaviour in {"waits", "runs over its time"}:
            await asyncio.Event().wait()
        if behaviour == "swallows":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        if behaviour == "groups":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                group.create_task(asyncio.sleep(0))
        return Done({"number": params.number})


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    behaviours=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=25),
    cancelled=st.sets(st.integers(0, 24), max_size=8),
    patience=st.sampled_from([0.0, 0.3]),
)
def test_however_runs_are_stopped_each_claim_has_one_report_and_no_row_stays_running(
    database_url: str, behaviours: list[str], cancelled: set[int], patience: float
) -> None:
    wild = Wild(behaviours)
    limits = {name: 0.2 if name == "runs over its time" else 3600.0 for name in set(behaviours)}
    types = [job_type(name.replace(" ", "_"), wild, timeout=limit) for name, limit in limits.items()]
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("TRUNCATE job_queue, job_runs CASCADE")
        jobs = [
            enqueue(conn, name.replace(" ", "_"), payload={"number": number}, max_attempts=1)
            for number, name in enumerate(behaviours)
        ]
        with working(database_url, *types, settings=quick_settings(lease_seconds=120.0)) as worker:
            until(lambda: wild.begun >= len(jobs), "the start of all runs")
            operator.cancel(conn, [jobs[number].id for number in cancelled if number < len(jobs)], actor=ACTOR)
            worker.drain(patience)
        assert conn.execute("SELECT count(*) FROM job_queue WHERE status = 'running'").fetchone() == (0,)
        assert conn.execute("SELECT count(*), count(DISTINCT run_token) FROM job_runs").fetchone() == (
            len(jobs), len(jobs),
        )  # fmt: skip
        found: dict[int, str] = dict(
            conn.execute("SELECT (payload ->> 'number')::int, outcome FROM job_runs").fetchall()
        )
        for number, behaviour in enumerate(behaviours):
            if behaviour == "returns":
                assert found[number] in {"succeeded", "cancelled"}
            if behaviour in {"waits", "groups"}:
                assert found[number] in {"released", "cancelled"}


# The context


def test_checkpoints_are_saved_while_all_connections_are_taken(database_url: str, conn: Conn) -> None:
    async def handler(params: Any, ctx: Any) -> Done:
        async with ctx.adb() as own:
            await ctx.save_checkpoint({"page": params.number})
            cursor = await own.execute("SELECT checkpoint ->> 'page' FROM job_queue WHERE id = %s", (ctx.job.id,))
            stored = await cursor.fetchone()
        return Done({"stored": stored[0], "seen": ctx.checkpoint["page"]})

    all_async(conn, "saves", 40)
    settings = quick_settings(async_connections=2, lease_seconds=120.0, heartbeat_seconds=5.0)
    with a_worker(database_url, job_type("saves", handler), settings=settings) as worker:
        worker.run_until_idle()
    rows = conn.execute("SELECT outcome, output ->> 'stored' = payload ->> 'number' FROM job_runs").fetchall()
    assert rows == [("succeeded", True)] * 40


def test_async_runs_share_as_many_connections_as_the_setting_says(database_url: str, conn: Conn) -> None:
    servers: set[int] = set()

    async def handler(_params: Any, ctx: Any) -> None:
        async with ctx.adb() as own:
            cursor = await own.execute("SELECT pg_backend_pid(), pg_sleep(0.01)")
            servers.add((await cursor.fetchone())[0])

    all_async(conn, "reads", 40)
    with a_worker(database_url, job_type("reads", handler), settings=quick_settings(async_connections=3)) as worker:
        worker.run_until_idle()
    assert outcomes(conn) == ["succeeded"] * 40
    assert 1 <= len(servers) <= 3


def test_a_connection_of_a_cancelled_query_is_not_used_again_in_its_transaction(database_url: str, conn: Conn) -> None:
    async def sleeps(_params: Any, ctx: Any) -> None:
        async with ctx.adb() as own, own.transaction():
            await own.execute("SELECT pg_sleep(3600)")

    async def reads(_params: Any, ctx: Any) -> Done:
        async with ctx.adb() as own:
            cursor = await own.execute("SELECT count(*) FROM job_queue")
            return Done({"rows": (await cursor.fetchone())[0]})

    slow = enqueue(conn, "sleeps", max_attempts=1)
    settings = quick_settings(async_connections=1)
    with working(
        database_url, job_type("sleeps", sleeps, timeout=0.3), job_type("reads", reads), settings=settings
    ) as worker:
        until(lambda: outcomes(conn, slow.id) == ["failed"], "the timeout")
        enqueue(conn, "reads")
        until(lambda: worker.status.succeeded == 1, "the next run")


def test_the_connection_of_threads_is_refused_with_the_way_that_works(database_url: str, conn: Conn) -> None:
    async def handler(_params: Any, ctx: Any) -> None:
        ctx.db.execute("SELECT 1")

    job = enqueue(conn, "blocks", max_attempts=1)
    with a_worker(database_url, job_type("blocks", handler)) as worker:
        worker.run_until_idle()
    assert "async with ctx.adb() as conn" in last_run(conn, job.id)["error"]


def test_a_checkpoint_of_a_run_that_lost_its_job_is_refused(database_url: str, conn: Conn) -> None:
    entered, lost = threading.Event(), threading.Event()

    async def handler(_params: Any, ctx: Any) -> None:
        entered.set()
        await asyncio.to_thread(lost.wait, PATIENCE)
        await ctx.save_checkpoint({"page": 1})

    job = enqueue(conn, "late", max_attempts=1)
    settings = quick_settings(lease_seconds=120.0, heartbeat_seconds=60.0)
    with working(database_url, job_type("late", handler), settings=settings) as worker:
        assert entered.wait(PATIENCE)
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        lost.set()
        until(lambda: outcomes(conn, job.id) == ["lost", "abandoned"], "both records")
        figures = worker.figures()
    assert conn.execute("SELECT checkpoint FROM job_queue").fetchone() == (None,)
    assert figures is not None
    assert figures.lost_leases == 1


# The loop


def test_a_handler_that_blocks_the_loop_is_named_with_its_position_once(
    database_url: str, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def blocking_call() -> None:
        go_on.wait(PATIENCE)

    async def blocks(_params: Any, _ctx: Any) -> None:
        blocking_call()

    job = enqueue(conn, "blocks")

    def warnings() -> list[Any]:
        lines = [vars(one)["fields"] for one in caplog.records if "blocks the event loop" in one.getMessage()]
        # On a busy machine, the first import in the loop may take longer than a second too.
        return [fields for fields in lines if "in blocking_call" in fields["stack"]]

    with working(database_url, job_type("blocks", blocks), settings=quick_settings(lease_seconds=120.0)):
        until(warnings, "the warning")
        shown = "SELECT progress ->> 'log' FROM job_queue"
        until(lambda: "blocking_call" in str(conn.execute(shown).fetchone()), "the line in the dashboard")
        go_on.set()
        until(lambda: status_of(conn, job.id) is None, "the end")
    assert len(warnings()) == 1
    assert "blocks the event loop" in last_run(conn, job.id)["log"]


def test_a_loop_that_waits_is_not_said_to_be_blocked(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(gate)
    with Database("host=/nowhere", application_name="test") as database:
        slots = LoopSlots(runner, done, "test", database, quick_settings())
        slots.put([RunContext(claimed(), runner.resources, 0.0, float("inf"))])
        gate.wait_for()
        thread = slots._thread
        assert thread is not None
        until(lambda: "selectors.py" in thread_position(thread), "the loop's wait for events")
        # As on a machine that did not let the loop run for a minute.
        slots._pinged = time.monotonic() - 60
        slots.look(time.monotonic())
        assert not slots._blames
        gate.open()
        done.get(timeout=PATIENCE)
        slots.close()
    assert "blocks the event loop" not in caplog.text


def test_a_lane_without_jobs_does_not_claim_for_each_batch_of_another(
    database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[list[str]] = []
    claim = leases.claim

    def counted(conn: Any, worker: str, types: list[str], *more: Any) -> Any:
        claims.append(types)
        return claim(conn, worker, types, *more)

    monkeypatch.setattr(leases, "claim", counted)
    types = job_type("plain", lambda _p, _c: None), job_type("quick", _returns_nothing)
    with working(database_url, *types, concurrency=1) as worker:
        until(lambda: ["quick"] in claims, "the first claim of the loop's lane")
        began, before = time.monotonic(), claims.count(["quick"])
        for number in range(1, 101):
            enqueue(conn, "plain")
            until(lambda number=number: worker.status.succeeded == number, "the run")  # type: ignore[misc]
        seconds = time.monotonic() - began
    # Each insert wakes both lanes; beyond that, the loop's lane looks at most every `SHARED_SECONDS`.
    assert claims.count(["quick"]) - before <= 110 + seconds / SHARED_SECONDS


# Registering


@pytest.mark.parametrize("name", ["preview", "admit"])
def test_a_preview_or_admission_that_is_async_is_refused_when_it_is_registered(name: str) -> None:
    async def ahead(_params: Any, _ctx: Any) -> dict[str, Any]:
        return {}

    facts: dict[str, Any] = {name: ahead}
    with pytest.raises(ConfigurationError, match=f"The {name} of looks_ahead is an async function"):
        job("looks_ahead", **facts)(lambda _params, _ctx: None)


class _Callable:
    async def __call__(self, _params: Any, _ctx: Any) -> None: ...


async def _plain(_first: Any, _params: Any, _ctx: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(_returns_nothing, True), (_Callable(), True), (functools.partial(_plain, 1), True), (lambda _p, _c: None, False)],
    ids=["function", "object", "partial", "plain"],
)
def test_an_async_handler_is_known_as_one(handler: Callable[[Any, Any], Any], *, expected: bool) -> None:
    assert job_type("kind", handler).is_async is expected


def test_a_plain_function_that_returns_a_coroutine_is_told_to_be_async() -> None:
    def wraps(params: Any, ctx: Any) -> Any:
        return _returns_nothing(params, ctx)

    report = runner_of(wraps).run(claimed())
    assert report.outcome == "failed"
    assert "declare the function with async def" in (report.error or "")
