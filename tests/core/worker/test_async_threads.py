"""Resources on the event loop, and what a worker does about its threads: of the loop, of slots, its main thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.errors import JobdeckError
from jobdeck.core.logs import running
from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import Done, Registry
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.runs.loop_context import OnLoop
from jobdeck.core.worker.slots.threads import ThreadSlots
from jobdeck.core.worker.state import WorkerState
from jobdeck.core.worker.watchdog import Watchdog
from tests.core.worker.test_executor import runner_of
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT
from tests.support.working import a_worker, claimed, job_type, nothing, quick_settings, working

# Resources


def test_resources_on_the_loop_are_left_before_their_own_tasks_are_cancelled_and_belong_to_no_run(
    database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
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

    job = conn.add("uses")
    with a_worker(database_url, job_type("uses", uses, resources=opens)) as worker:
        worker.run_until_idle()
    assert conn.last_run(job.id)["output"] == {"got": "the client"}
    assert said == ["of the run None", "flushed"]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_resources_that_open_slowly_delay_no_run_that_does_not_need_them(
    database_url: str, conn: Connection, kind: str
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
    first = conn.add("slow")
    with working(database_url, *types, settings=quick_settings(lease_seconds=120.0)):
        assert entered.wait(PATIENCE)
        second = conn.add("quick")
        until(lambda: conn.outcomes(second.id) == ["succeeded"], "the other run")
        go_on.set()
        until(lambda: conn.outcomes(first.id) == ["succeeded"], "the first run")
    assert conn.last_run(first.id)["output"] == {"got": "slow"}


async def test_resources_whose_task_is_cancelled_before_it_begins_fail_the_run_and_are_opened_by_the_next() -> None:
    @asynccontextmanager
    async def opens(_settings: Any, _database: Any) -> AsyncIterator[str]:
        yield "the client"

    opened = OnLoop(RunResources(quick_settings(), None))
    first = asyncio.create_task(opened.of(opens))
    await asyncio.sleep(0)
    for task in list(opened._tasks):
        task.cancel()
    with pytest.raises(JobdeckError, match="cancelled before it began"):
        await asyncio.wait_for(first, PATIENCE)
    assert await opened.of(opens) == "the client"
    await opened.close()


# Threads of the worker


def test_a_place_that_a_timeout_frees_wakes_the_fetchers(database_url: str, conn: Connection) -> None:
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
    runner = runner_of(nothing)
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


def test_a_run_over_its_timeout_that_ends_in_its_own_slot_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hangs(_params: Any, _ctx: Any) -> None:
        entered.set()
        go_on.wait(PATIENCE)

    runner = runner_of(hangs)
    done: SimpleQueue[Any] = SimpleQueue()
    slots = ThreadSlots(runner, done, 1, "test")
    slots.start()
    run = RunContext(claimed(), runner.resources, 0.0, float("inf"))
    slots.put([run])
    assert entered.wait(PATIENCE)
    monkeypatch.setattr(slots, "_starts", lambda _line: False)
    assert "keeps its slot" in str(slots.time_out(run))
    go_on.set()
    assert done.get(timeout=PATIENCE).result.error_kind == "timeout"
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
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.slow
def test_a_worker_whose_main_thread_has_ended_hands_back_a_run_that_waits_for_a_thread(
    database_url: str, conn: Connection, tmp_path: Path
) -> None:
    program, pipe = tmp_path / "program.py", tmp_path / "pipe"
    program.write_text(PROGRAM)
    os.mkfifo(pipe)
    job = conn.add("reads")
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
        until(lambda: conn.outcomes(job.id) == ["released"], "the end of the run")
        os.close(writers[0])
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
