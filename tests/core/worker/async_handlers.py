"""Async handlers that the tests wait for and let go, and what is read of their runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from jobdeck.core.model import FinishedRun, NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer
from jobdeck.core.registry import Done
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.runs.loop_context import OnLoop
from jobdeck.core.worker.slots.loop import LoopSlots
from tests.core.worker.test_executor import runner_of
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE
from tests.support.working import claimed


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


def report_of(handler: Callable[[Any, Any], Any], context: RunContext | None = None) -> FinishedRun:
    """The report of an async handler that runs without worker and database."""
    runner = runner_of(handler)
    run = context or RunContext(claimed(), runner.resources, 0.0, float("inf"))

    async def reported() -> FinishedRun:
        return await runner.run_async(run, OnLoop(runner.resources))

    return asyncio.run(reported())


def all_async(conn: Connection, name: str, jobs: int) -> None:
    producer.enqueue_many(conn, [NewJob(name, {"number": number}) for number in range(jobs)], actor=ACTOR)


async def returns_nothing(_params: Any, _ctx: Any) -> None:
    return None


def threads_of(worker: str) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(worker)]


class Place:
    """The slots of a loop without a worker, and the runs in them."""

    def __init__(self, handler: Callable[[Any, Any], Any], database: Database, *, keeps: bool = True) -> None:
        self.runner = runner_of(handler, database)
        self.done: SimpleQueue[Any] = SimpleQueue()
        self.slots = LoopSlots(self.runner, self.done, "test", keeps=keeps)

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
        """What the watchdog does when this number of seconds has passed."""
        now = time.monotonic()
        for passed in (0.0, seconds, 2 * seconds):
            self.slots.look(now + passed)
