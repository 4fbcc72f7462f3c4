"""Async handlers that do not behave, and how a worker gives them up and runs the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.errors import JobdeckError, LeaseLost
from jobdeck.core.logs import running
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer
from jobdeck.core.registry import Done, Registry
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import thread_position
from jobdeck.core.worker.slots import loop
from jobdeck.core.worker.slots.loop import GOES_ON, LOST_GOES_ON, LoopSlots
from jobdeck.core.worker.slots.loop_context import OpenedOnLoop
from jobdeck.core.worker.slots.threads import ThreadSlots
from jobdeck.core.worker.state import WorkerState
from jobdeck.core.worker.watchdog import Watchdog
from tests.core.worker.async_handlers import Gate, gate, stubborn
from tests.core.worker.test_executor import runner_of
from tests.core.worker.test_worker import expire
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT
from tests.support.working import (
    ACTOR,
    a_worker,
    claimed,
    enqueue,
    job_type,
    last_run,
    outcomes,
    quick_settings,
    working,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

__all__ = ["gate", "stubborn"]

Conn = psycopg.Connection[Any]


class Place:
    """The slots of a loop without a worker, and the runs in them."""

    def __init__(self, handler: Callable[[Any, Any], Any], database: Database, *, keeps: bool = True) -> None:
        self.runner = runner_of(handler)
        self.done: SimpleQueue[Any] = SimpleQueue()
        self.slots = LoopSlots(self.runner, self.done, "test", database, quick_settings(), keeps=keeps)

    def run(self, number: int) -> RunContext:
        job = claimed(run_token=number, payload={"number": number})
        return RunContext(job, self.runner.resources, 0.0, float("inf"))

    def put(self, *numbers: int) -> list[RunContext]:
        contexts = [self.run(number) for number in numbers]
        self.slots.put(contexts)
        return contexts

    def ended(self, runs: int) -> dict[int, str]:
        """What the next runs that end are reported as, by number."""
        found = [self.done.get(timeout=PATIENCE) for _ in range(runs)]
        return {run.job.run_token: run.result.outcome.value for run in found}

    def look_later(self, seconds: float = 60.0) -> None:
        """What the watchdog does when so many seconds have passed."""
        now = time.monotonic()
        for passed in (0.0, seconds, 2 * seconds):
            self.slots.look(now + passed)


@pytest.fixture
def place() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []
    with Database("host=/nowhere", application_name="test") as database:

        def make(handler: Callable[[Any, Any], Any], **facts: Any) -> Place:
            made.append(Place(handler, database, **facts))
            return made[-1]

        yield make
        for one in made:
            one.slots.close()


# Handlers that do not stop


@pytest.mark.parametrize("way", ["cycle", "until idle"])
def test_a_worker_that_ends_by_itself_does_not_wait_for_a_handler_that_swallows_its_cancellation(
    database_url: str, conn: Conn, stubborn: Gate, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(loop, "STUBBORN_SECONDS", 0.1)
    monkeypatch.setattr(loop, "LAST_SECONDS", 0.1)
    job = enqueue(conn, "gate", max_attempts=1)
    with a_worker(database_url, job_type("gate", stubborn, timeout=0.2), mode="cycle", source="cli") as worker:
        run: Callable[[], object] = worker.run_cycle if way == "cycle" else worker.run_until_idle
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE)
        ended = not thread.is_alive()
        stubborn.open()
        thread.join()
    assert ended
    assert (outcomes(conn, job.id), last_run(conn, job.id)["error_kind"]) == (["failed"], "timeout")


def test_a_worker_that_ends_by_itself_does_not_wait_for_a_handler_that_blocks_the_loop(
    database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STUBBORN_SECONDS", 0.1)
    monkeypatch.setattr(loop, "LAST_SECONDS", 0.1)
    entered, go_on = threading.Event(), threading.Event()

    async def blocks(params: Any, _ctx: Any) -> None:
        if params.number == 0:
            entered.set()
            go_on.wait()

    first = enqueue(conn, "blocks", payload={"number": 0}, max_attempts=1)
    with a_worker(database_url, job_type("blocks", blocks, timeout=0.2)) as worker:
        thread = threading.Thread(target=worker.run_until_idle)
        thread.start()
        assert entered.wait(PATIENCE)
        second = enqueue(conn, "blocks", payload={"number": 1})
        thread.join(PATIENCE)
        ended = not thread.is_alive()
        go_on.set()
        thread.join()
    assert ended
    assert outcomes(conn, first.id) == ["failed"]
    assert set(outcomes(conn, second.id)) <= {"released"}


def test_a_handler_that_swallows_the_loss_of_its_job_is_cancelled(
    database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.slots.loop_context.ROLL_BACK_SECONDS", 0.05)
    entered, lost = threading.Event(), threading.Event()

    async def saves(_params: Any, ctx: Any) -> None:
        entered.set()
        await asyncio.to_thread(lost.wait, PATIENCE)
        with contextlib.suppress(LeaseLost):
            await ctx.save_checkpoint({"page": 1})
        await asyncio.Event().wait()

    job = enqueue(conn, "saves", max_attempts=1)
    settings = quick_settings(lease_seconds=3600.0, heartbeat_seconds=1200.0)
    with working(database_url, job_type("saves", saves), settings=settings):
        assert entered.wait(PATIENCE)
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        lost.set()
        until(lambda: outcomes(conn, job.id) == ["lost", "abandoned"], "both records")


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
def test_another_worker_runs_the_jobs_that_wait_for_a_blocked_loop(database_url: str, conn: Conn) -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def blocks(params: Any, _ctx: Any) -> None:
        if params.number == 0 and not entered.is_set():
            entered.set()
            go_on.wait()

    kind = job_type("blocks", blocks)
    enqueue(conn, "blocks", payload={"number": 0})
    settings = quick_settings(lease_seconds=120.0)
    with working(database_url, kind, settings=settings) as worker:
        assert entered.wait(PATIENCE)
        producer.enqueue_many(conn, [NewJob("blocks", {"number": 1})] * 10, actor=ACTOR)
        with working(database_url, kind, settings=settings):
            until(lambda: outcomes(conn).count("succeeded") == 10, "the runs of the other worker")
        assert worker.status.running == 1
        go_on.set()
        enqueue(conn, "blocks", payload={"number": 1})
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


# Resources


def test_resources_on_the_loop_are_left_before_their_own_tasks_are_cancelled_and_belong_to_no_run(
    database_url: str, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    @asynccontextmanager
    async def opens(_settings: Any, _database: Any) -> AsyncIterator[str]:
        ending = asyncio.Event()

        async def flush() -> None:
            said.append(f"of the run {running.get()}")
            await ending.wait()
            said.append("flushed")

        task = asyncio.create_task(flush())
        yield "the client"
        ending.set()
        await task

    async def uses(_params: Any, ctx: Any) -> Done:
        return Done({"got": ctx.resources})

    job = enqueue(conn, "uses")
    with a_worker(database_url, job_type("uses", uses, resources=opens)) as worker:
        worker.run_until_idle()
    assert last_run(conn, job.id)["output"] == {"got": "the client"}
    assert said == ["of the run None", "flushed"]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_resources_that_open_slowly_delay_no_run_that_does_not_need_them(
    database_url: str, conn: Conn, kind: str
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    @contextmanager
    def slow(_settings: Any, _database: Any) -> Iterator[str]:
        entered.set()
        go_on.wait(PATIENCE)
        yield "slow"

    @contextmanager
    def quick(_settings: Any, _database: Any) -> Iterator[str]:
        yield "quick"

    def uses(_params: Any, ctx: Any) -> Done:
        return Done({"got": ctx.resources})

    async def uses_on_loop(params: Any, ctx: Any) -> Done:
        return uses(params, ctx)

    handler = {"thread": uses, "async": uses_on_loop}[kind]
    types = job_type("slow", handler, resources=slow), job_type("quick", handler, resources=quick)
    first = enqueue(conn, "slow")
    with working(database_url, *types, settings=quick_settings(lease_seconds=120.0)):
        assert entered.wait(PATIENCE)
        second = enqueue(conn, "quick")
        until(lambda: outcomes(conn, second.id) == ["succeeded"], "the other run")
        go_on.set()
        until(lambda: outcomes(conn, first.id) == ["succeeded"], "the first run")
    assert last_run(conn, first.id)["output"] == {"got": "slow"}


async def test_resources_whose_task_is_cancelled_before_it_begins_fail_the_run_and_are_opened_by_the_next() -> None:
    @asynccontextmanager
    async def opens(_settings: Any, _database: Any) -> AsyncIterator[str]:
        yield "the client"

    opened = OpenedOnLoop(RunResources(quick_settings(), None))
    first = asyncio.create_task(opened.of(opens))
    await asyncio.sleep(0)
    for task in list(opened._tasks):
        task.cancel()
    with pytest.raises(JobdeckError, match="cancelled before it began"):
        await asyncio.wait_for(first, PATIENCE)
    assert await opened.of(opens) == "the client"
    await opened.close()


# Threads of the worker


def test_a_place_that_a_timeout_frees_wakes_the_fetchers(database_url: str, conn: Conn) -> None:
    del conn
    entered, go_on = threading.Event(), threading.Event()

    def hangs(_params: Any, _ctx: Any) -> None:
        entered.set()
        go_on.wait(PATIENCE)

    woken: list[int] = []
    settings = quick_settings()
    with Database(database_url, application_name="test") as database:
        state = WorkerState(
            database, Registry([job_type("hangs", hangs, timeout=0.0)]), settings,
            worker_id="w", task_types=["hangs"], concurrency=1, alerts=Alerts(settings),
        )  # fmt: skip
        state.start_slots()
        state.take([claimed("hangs")], time.monotonic())
        assert entered.wait(PATIENCE)
        watchdog = Watchdog(state, on_exit=lambda: None, on_room=lambda: woken.append(1))
        for _ in range(2):
            watchdog.look()
        go_on.set()
        context = state.done.get(timeout=PATIENCE)
        state.close_slots()
        state.close()
    assert woken == [1]
    assert context is not None
    assert context.result is not None
    assert context.result.error_kind == "timeout"


def test_a_run_whose_thread_has_died_is_reported_at_its_timeout() -> None:
    runner = runner_of(lambda _params, _ctx: None)
    done: SimpleQueue[Any] = SimpleQueue()
    slots = ThreadSlots(runner, done, 1, "test")
    run = RunContext(claimed(), runner.resources, 0.0, float("inf"))
    slots.running[run] = threading.Thread()
    assert "is abandoned" in str(slots.time_out(run))
    assert done.get(timeout=PATIENCE).result.error_kind == "timeout"
    # The thread that took the slot of the dead one works.
    slots.put([RunContext(claimed(), runner.resources, 0.0, float("inf"))])
    assert done.get(timeout=PATIENCE).result.outcome == "succeeded"
    slots.close()


def test_a_run_over_its_timeout_keeps_its_slot_while_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def hangs(_params: Any, _ctx: Any) -> None:
        entered.release()
        go_on.wait(PATIENCE)

    def no_thread(_line: object) -> None:
        raise RuntimeError("can't start new thread")

    runner = runner_of(hangs)
    done: SimpleQueue[Any] = SimpleQueue()
    slots = ThreadSlots(runner, done, 1, "test")
    slots.start()
    first, second = (RunContext(claimed(run_token=token), runner.resources, 0.0, float("inf")) for token in (1, 2))
    slots.put([first, second])
    assert entered.acquire(timeout=PATIENCE)
    with monkeypatch.context() as patched:
        patched.setattr(slots, "_start_thread", no_thread)
        assert "keeps its slot" in str(slots.time_out(first))
        assert slots.time_out(first) is None
        assert slots.occupied == 1
    assert "another thread takes its slot" in str(slots.time_out(first))
    assert entered.acquire(timeout=PATIENCE)
    assert slots.time_out(first) is None
    go_on.set()
    ended = {run.job.run_token: run.result for run in (done.get(timeout=PATIENCE) for _ in range(2))}
    assert (ended[1].error_kind, ended[2].outcome) == ("timeout", "succeeded")
    slots.close()


def test_a_run_over_its_timeout_that_loses_its_lease_as_well_is_reported() -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def hangs(_params: Any, _ctx: Any) -> None:
        entered.release()
        go_on.wait(PATIENCE)

    runner = runner_of(hangs)
    done: SimpleQueue[Any] = SimpleQueue()
    slots = ThreadSlots(runner, done, 1, "test")
    slots.start()
    run = RunContext(claimed(), runner.resources, 0.0, float("inf"))
    slots.put([run])
    assert entered.acquire(timeout=PATIENCE)
    assert "another thread takes its slot" in str(slots.time_out(run))
    run.stop = Stop.LOST
    assert "is abandoned" in str(slots.time_out(run))
    assert done.get(timeout=PATIENCE) is run
    assert (slots.occupied, slots.time_out(run)) == (0, None)
    go_on.set()
    slots.close()


def test_jobs_for_a_loop_that_cannot_start_are_handed_back_and_the_next_ones_run(
    database_url: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    del conn

    async def returns(_params: Any, _ctx: Any) -> None: ...

    def no_thread(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    settings = quick_settings()
    with Database(database_url, application_name="test") as database:
        state = WorkerState(
            database, Registry([job_type("returns", returns)]), settings,
            worker_id="w", task_types=["returns"], concurrency=1, alerts=Alerts(settings),
        )  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                state.take([claimed("returns")], time.monotonic())
        first = state.done.get(timeout=PATIENCE)
        state.take([claimed("returns", run_token=8)], time.monotonic())
        second = state.done.get(timeout=PATIENCE)
        state.close_slots()
        state.close()
    found = [run.result.outcome for run in (first, second) if run is not None and run.result is not None]
    assert found == ["released", "succeeded"]


PROGRAM = """
import asyncio, sys
from pathlib import Path
from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import JobType, NoArguments, Registry
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

async def reads(params, ctx):
    await asyncio.to_thread(Path(sys.argv[2]).read_text)

reads = JobType(task_type="reads", run=reads, label="", purpose="", payload=NoArguments)
worker = Worker(Database(sys.argv[1], application_name="test", max_size=8), Registry([reads]), Settings())
worker.start()
assert sys.stdin.readline()
"""


def test_a_worker_whose_main_thread_has_ended_hands_back_a_run_that_waits_for_a_thread(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    program, pipe = tmp_path / "program.py", tmp_path / "pipe"
    program.write_text(PROGRAM)
    os.mkfifo(pipe)
    job = enqueue(conn, "reads")
    process = subprocess.Popen(
        [sys.executable, str(program), database_url, str(pipe)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        text=True,
    )
    writers: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # nobody reads the pipe yet
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    try:
        until(is_read, "the run")
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.close()
        until(lambda: outcomes(conn, job.id) == ["released"], "the end of the run")
        os.close(writers[0])
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
