"""Workers on a test's database, with handlers of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.model import ClaimedJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import Done, JobType, Payload, Registry
from jobdeck.core.settings import Settings
from jobdeck.core.worker.slots.pace import Pace
from jobdeck.core.worker.state import WorkerState
from jobdeck.core.worker.worker import Worker
from tests.support.waiting import PATIENCE


class Params(Payload):
    """The payload of the tests' task types."""

    number: int = 0
    dry_run: bool = False


def job_type(name: str, run: Callable[[Any, Any], Any], **facts: Any) -> JobType:
    """A task type that exists in one test only."""
    return JobType(task_type=name, run=run, label=name, purpose="", payload=Params, **facts)


def nothing(_params: object, _ctx: object) -> None:
    """A handler that succeeds."""


class Held:
    """A handler that says when it runs, and goes on when it is let go or asked to stop; a stubborn one when let go.

    The first `quick` runs end at once, and say nothing.
    """

    def __init__(self, *, stubborn: bool = False, quick: int = 0) -> None:
        self.entered = threading.Semaphore(0)
        self.asked_to_stop = threading.Event()
        self.threads: list[threading.Thread] = []
        self._let_go = threading.Event()
        self._stubborn = stubborn
        self._quick = threading.Semaphore(quick)

    def __call__(self, params: Any, ctx: Any) -> Done:
        if self._quick.acquire(blocking=False):
            return Done({"number": params.number})
        self.threads.append(threading.current_thread())
        self.entered.release()
        while not self._let_go.wait(None if self._stubborn else 0.01):
            if ctx.cancelled():
                self.asked_to_stop.set()
                ctx.raise_if_cancelled()
        return Done({"number": params.number})

    def wait_for(self, runs: int = 1) -> None:
        """Waits until so many more runs have begun."""
        for _ in range(runs):
            assert self.entered.acquire(timeout=PATIENCE)

    def let_go(self) -> None:
        """Lets all runs go on, also those that begin later."""
        self._let_go.set()


def claim_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any type short whose last runs have ended, however slow this machine is, and its jobs claimed far ahead."""
    monkeypatch.setattr(Pace, "SHORT_SECONDS", 3600.0)
    monkeypatch.setattr(Pace, "AHEAD_SECONDS", 3600.0)


def quick_settings(**changes: Any) -> Settings:
    """Settings whose times are short enough to test with, and long enough for a busy machine."""
    given: dict[str, Any] = {
        "lease_seconds": 20.0,
        "heartbeat_seconds": 0.2,
        "retry_base_seconds": 0.0,
        "drain_seconds": PATIENCE,
        **changes,
    }
    assert set(given) <= set(Settings.model_fields), "settings of a plugin are given with Settings.having"
    return Settings.model_validate(given)


def claimed(task_type: str = "test", payload: dict[str, Any] | None = None, **changes: Any) -> ClaimedJob:
    """A claimed job that no database knows."""
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    given: dict[str, Any] = {
        "id": uuid4(),
        "run_token": 7,
        "task_type": task_type,
        "payload": payload or {},
        "attempt": 1,
        "max_attempts": 5,
        "due_at": now,
        "claimed_at": now,
        "is_recurring": False,
        "checkpoint": None,
        "cycle": 0,
        **changes,
    }
    return ClaimedJob(**given)


@contextmanager
def a_worker(url: str, *types: JobType, settings: Settings | None = None, **facts: Any) -> Iterator[Worker]:
    """A worker that was not started; it is stopped at the end all the same."""
    with Database(url, application_name="test worker", max_size=8) as database:
        worker = Worker(database, Registry(types), settings or quick_settings(), **facts)
        try:
            yield worker
        finally:
            worker.stop()


@contextmanager
def working(url: str, *types: JobType, settings: Settings | None = None, **facts: Any) -> Iterator[Worker]:
    """A worker that runs."""
    with a_worker(url, *types, settings=settings, **facts) as worker:
        worker.start()
        yield worker


def drain(url: str, *types: JobType, **facts: Any) -> None:
    """Lets a worker run jobs until none is due."""
    with a_worker(url, *types, **facts) as worker:
        worker.run_until_idle()


@contextmanager
def a_state(database: Database, **changes: Any) -> Iterator[WorkerState]:
    """What the threads of a worker share, without the threads."""
    settings = quick_settings(**changes)
    state = WorkerState(
        database, Registry(()), settings, worker_id="w", task_types=(), concurrency=1, alerts=Alerts(settings)
    )
    try:
        yield state
    finally:
        state.close()
