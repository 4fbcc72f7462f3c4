"""Requests under way in threads, so many at a time; what becomes of each is handled in the caller's thread."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from core.programme.policy import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")


class Parallel(Generic[T]):
    """A bounded number of calls, each with a tag to know it by.

    Leaving the context awaits what runs and drops what has not begun.
    """

    def __init__(self, workers: int, *, at_a_time: int | None = None, tick: Callable[[], None] = lambda: None) -> None:
        """Starts nothing yet.

        Args:
            workers: calls that run at the same moment.
            at_a_time: calls that are taken on, those that wait for a thread among them; `workers` where None.
            tick: called now and then while nothing is completed.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="metactf")
        self._at_a_time = at_a_time or workers
        self._tick = tick
        self._running: dict[Future[Any], T] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def full(self) -> bool:
        """Whether no more calls are taken on until one is completed."""
        return len(self._running) >= self._at_a_time

    def start(self, tag: T, call: Callable[[], Any]) -> None:
        """Takes a call on."""
        self._running[self._pool.submit(call)] = tag

    def completed(self) -> list[tuple[T, Future[Any]]]:
        """Waits until at least one call is completed, and gives those that are; empty when none is under way."""
        while self._running:
            done, _ = wait(self._running, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
            if done:
                return [(self._running.pop(future), future) for future in done]
            self._tick()
        return []
