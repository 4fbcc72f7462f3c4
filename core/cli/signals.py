"""Handling of SIGTERM, SIGHUP and SIGINT, so that a command can shut down in order."""

from __future__ import annotations

import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from jobdeck.core.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

T = TypeVar("T")


class Stop:
    """Lets a long-running command wait for SIGTERM, SIGHUP or SIGINT, or until a thread calls `end`.

    A signal handler runs between any two steps of the main thread. So it takes no lock that the main thread may hold,
    and raises nothing during an orderly shutdown. The wait is one for a socket to which the interpreter writes the
    number of each signal: a signal that arrives just before the thread blocks would not end a wait for a lock.
    """

    def __init__(self) -> None:
        self.interrupted = False
        """Whether one of the signals was SIGINT."""
        self._events: SimpleQueue[None] = SimpleQueue()
        self._signals = 0
        self._started = False
        self._wakes, self._woken = socket.socketpair()
        self._wakes.setblocking(False)
        self._woken.setblocking(False)

    def close(self) -> None:
        """Closes the sockets; `end` may still be called, and does nothing."""
        self._wakes.close()
        self._woken.close()

    def fileno(self) -> int:
        """The socket to which the interpreter writes the signals."""
        return self._wakes.fileno()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. A second signal interrupts a start-up that hangs."""
        del frame
        self._signals += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        # Again, after the interpreter: a thread that waits may have read its number before this handler ran.
        self.end()
        if self._signals > 1 and not self._started:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._signals > 0

    def end(self) -> None:
        """Ends the wait, as a signal does."""
        self._events.put(None)
        with suppress(OSError):  # full, so the wait ends anyway; or closed, so nothing waits
            self._wakes.send(b"\0")

    def wait(self, seconds: float | None = None) -> None:
        """Waits for a signal, for at most `seconds`. Each call uses up one signal or one `end`."""
        self._started = True
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._took_one():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            if select.select([self._woken], [], [], left)[0]:
                self._woken.recv(4096)

    def _took_one(self) -> bool:
        try:
            self._events.get_nowait()
        except Empty:
            return False
        return True

    def in_order(self, drain: Callable[[], T], at_once: Callable[[], object]) -> T:
        """Runs `drain` in a thread and returns its result. Calls `at_once` if a signal arrives before that."""
        with ThreadPoolExecutor(1, thread_name_prefix="drain") as threads:
            draining = threads.submit(drain)
            draining.add_done_callback(lambda _done: self.end())
            self.wait()
            if not draining.done():
                at_once()
            return draining.result()


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Installs a `Stop` as the handler of the signals inside the block. For the main thread only."""
    stop = Stop()
    before = signal.set_wakeup_fd(stop.fileno(), warn_on_full_buffer=False)
    try:
        with _handled(stop):
            yield stop
    finally:
        signal.set_wakeup_fd(before)
        stop.close()


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
