"""The signals that end a process, made into something a command can end in order by."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Stop:
    """What a standing process waits for: SIGTERM, SIGHUP or SIGINT, or a thread of its own that has it `end`.

    A signal's handler may come between any two steps of the main thread, so it takes no lock that the main thread
    may hold, and raises nothing where something is ended in order.
    """

    def __init__(self) -> None:
        self.interrupted = False
        """Whether one of the signals was SIGINT."""
        self._told: SimpleQueue[None] = SimpleQueue()
        self._signals = 0
        self._stands = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Is the handler of the signals. The second one interrupts a start that hangs."""
        del frame
        self._signals += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        self._told.put(None)
        if self._signals > 1 and not self._stands:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Ends the wait as a signal does."""
        self._told.put(None)

    def wait(self, seconds: float | None = None) -> None:
        """Waits for a signal, at most for a time."""
        self._stands = True
        with suppress(Empty):
            self._told.get(timeout=seconds)

    def in_order(self, drain: Callable[[], object], at_once: Callable[[], object]) -> None:
        """Ends something by `drain`, and by `at_once` from the next signal on; returns when `drain` does."""
        with ThreadPoolExecutor(1, thread_name_prefix="drain") as threads:
            draining = threads.submit(drain)
            draining.add_done_callback(lambda _done: self.end())
            self.wait()
            if not draining.done():
                at_once()
            draining.result()


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns the signals that end a process into a `Stop` while it lasts. For the main thread only."""
    stop = Stop()
    with _handled(stop):
        yield stop


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Makes each signal that ends a process a `KeyboardInterrupt`, for work that hands back when interrupted."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP"):
        numbers.append(signal.SIGHUP)
    before: dict[signal.Signals, Any] = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
