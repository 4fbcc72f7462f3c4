"""The signals that end a process, made into something a command can end in order by."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Stop:
    """`asked` is set by the first SIGTERM, SIGHUP or SIGINT; the second raises `KeyboardInterrupt`, once.

    `interrupted` says that one of them was SIGINT.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.interrupted = False
        self._signals = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Is the handler of the signals."""
        del frame
        self._signals += 1
        self.interrupted = self.interrupted or number == signal.SIGINT
        self.asked.set()
        if self._signals == 2:
            raise KeyboardInterrupt


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
