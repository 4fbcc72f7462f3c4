"""Async handlers that the tests wait for and let go, and what is read of their runs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.registry import Done
from jobdeck.core.worker.context import RunContext
from tests.core.worker.test_executor import runner_of
from tests.support.waiting import PATIENCE
from tests.support.working import ACTOR, claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


async def returns_nothing(_params: Any, _ctx: Any) -> None:
    return None


def threads_of(worker: str) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(worker)]
