"""Runs a bounded number of requests in threads and hands their results to the caller's thread."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from jobdeck.core.programme.sync.rules import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Parallel(Generic[T]):
    """A bounded number of calls, each identified by a tag.

    Leaving the context waits for running calls and cancels those that have not started.
    """

    def __init__(self, workers: int, *, at_a_time: int | None = None, tick: Callable[[], None] = lambda: None) -> None:
        """Creates the thread pool.

        Args:
            workers: number of calls that run at the same time.
            at_a_time: number of calls accepted, running or waiting for a thread; `workers` if None.
            tick: called every `HEARTBEAT_SECONDS` in which no call completes.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="metactf")
        self._at_a_time = at_a_time or workers
        self._tick = tick
        self._running: dict[Future[Any], T] = {}
        self._completed: deque[tuple[T, Future[Any]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def full(self) -> bool:
        """Whether the limit is reached, so that `next` must be called before `start`."""
        return len(self._running) + len(self._completed) >= self._at_a_time

    def start(self, tag: T, call: Callable[[], Any]) -> None:
        """Submits a call."""
        self._running[self._pool.submit(call)] = tag

    def drop_waiting(self) -> list[T]:
        """Cancels the calls that have not started and returns their tags."""
        waiting = [future for future in self._running if future.cancel()]
        return [self._running.pop(future) for future in waiting]

    def next(self) -> tuple[T, Future[Any]] | None:
        """Waits for a call to complete and returns it; None if there is none."""
        while not self._completed and self._running:
            done, _ = wait(self._running, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
            self._completed.extend((self._running.pop(future), future) for future in done)
            if not done:
                self._tick()
        return self._completed.popleft() if self._completed else None
