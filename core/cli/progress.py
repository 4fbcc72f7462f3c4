"""What a command shows on a terminal while it works: what is done, the rate and the time left. Nothing when piped."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.cli.output import LINE
from jobdeck.core.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SILENT_SECONDS: Final = 1.0
"""A command that ends before shows nothing."""
BETWEEN_SECONDS: Final = 0.2


class Progress:
    """Counts work whose amount is known. `done` is what was done before this command began."""

    def __init__(self, what: str, total: int, *, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._before = done
        self._clock = clock
        self._began = clock()
        self._shown = self._began + SILENT_SECONDS - BETWEEN_SECONDS
        LINE.is_counted = True

    def at(self, done: int) -> None:
        """Shows how much is done, if it is time to."""
        now = self._clock()
        if now - self._shown >= BETWEEN_SECONDS:
            self._shown = now
            LINE.show(self.text(done))

    def text(self, done: int) -> str:
        """The line: `delete: 12,500 of 100,000 jobs, 1,240/s, about 1m 10s left`."""
        counted = f"{self._what}: {done:,} of {self._total:,} jobs"
        spent = self._clock() - self._began
        if done <= self._before or spent <= 0:
            return counted
        rate = (done - self._before) / spent
        left = format_duration(timedelta(seconds=int((self._total - done) / rate) + 1))
        return f"{counted}, {rate:,.0f}/s" + (f", about {left} left" if done < self._total else "")


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Shows on a terminal how long the command has been working, until it ends or counts its work itself."""
    LINE.is_counted = False
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show_time, args=(name, ended), name="elapsed time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        LINE.clear()


def _show_time(name: str, ended: threading.Event) -> None:
    began = time.monotonic()
    while not ended.wait(SILENT_SECONDS):
        if not LINE.is_counted:
            LINE.show(f"{name}: working for {format_duration(timedelta(seconds=int(time.monotonic() - began)))}")
