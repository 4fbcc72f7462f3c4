"""Handling of SIGTERM, SIGHUP and SIGINT, so that a command can shut down in order."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Stop:
    """Lets a long-running command wait for SIGTERM, SIGHUP or SIGINT, or until a thread calls `end`.

    A signal handler runs between any two steps of the main thread. So it takes no lock that the main thread may hold,
    and raises nothing during an orderly shutdown.
    """

    def __init__(self) -> None:
        self.interrupted = False
        """Whether one of the signals was SIGINT."""
        self._events: SimpleQueue[None] = SimpleQueue()
        self._signals = 0
        self._started = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. A second signal interrupts a start-up that hangs."""
        del frame
        self._signals += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        self._events.put(None)
        if self._signals > 1 and not self._started:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._signals > 0

    def end(self) -> None:
        """Ends the wait, as a signal does."""
        self._events.put(None)

    def wait(self, seconds: float | None = None) -> None:
        """Waits for a signal, for at most `seconds`."""
        self._started = True
        with suppress(Empty):
            self._events.get(timeout=seconds)

    def in_order(self, drain: Callable[[], object], at_once: Callable[[], object]) -> None:
        """Runs `drain` in a thread until it returns. Calls `at_once` if another signal arrives before that."""
        with ThreadPoolExecutor(1, thread_name_prefix="drain") as threads:
            draining = threads.submit(drain)
            draining.add_done_callback(lambda _done: self.end())
            self.wait()
            if not draining.done():
                at_once()
            draining.result()


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Installs a `Stop` as the handler of the signals inside the block. For the main thread only."""
    stop = Stop()
    with _handled(stop):
        yield stop


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Turns the signals into `KeyboardInterrupt` inside the block, for work that returns its jobs when interrupted."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def interrupted_with(sentence: str) -> Iterator[None]:
    """Ends the command with this sentence when a signal arrives inside the block, whose statement is taken back.

    Raises:
        Interrupted: a signal arrived.
    """
    try:
        with interrupting_signals():
            yield
    except KeyboardInterrupt:
        raise Interrupted(sentence) from None


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
