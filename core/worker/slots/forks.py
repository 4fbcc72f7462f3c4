"""What handlers leave behind: processes, which signals end, and threads. All end with their worker, and so does it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Final, Self

from jobdeck.core.logs import running
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

LEFT_SECONDS: Final = 5.0
"""How long a program that ends waits for the threads that handlers left."""
LAST_SECONDS: Final = 28.0
"""How long a worker may take to end after the time of its handlers: longer than all that it waits for together."""
SAY_SECONDS: Final = 2.0

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What this process handles in a way of its own, and its forks must not."""


class _Forks:
    """Lets a process that a handler forks be ended by a signal, as a pool of `multiprocessing` ends its own.

    Processes that something else forks, such as the application in which a worker runs, are left alone.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._hear)

    def _hold(self) -> None:
        # A signal that came before the new process hears it would be lost.
        self._own.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if running.get() is not None else None

    def _hear(self) -> None:
        if self._own.mask is None:
            return
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        self._let_go()

    def _let_go(self) -> None:
        if self._own.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._own.mask)


@cache
def install() -> None:
    """Makes this hold for all handlers of this process."""
    if hasattr(os, "register_at_fork"):
        _Forks()


class CutOff:
    """Ends this process within a time, whatever keeps it, unless its block has ended by then.

    A thread of a worker may wait for ever: for a server that was stopped and not closed, or for a lock that the
    interrupted thread of a handler has left, such as that of `logging` in Python 3.11 and 3.12.
    """

    def __init__(self) -> None:
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def within(self, seconds: float) -> None:
        """Ends the process with 1 after these seconds and `LAST_SECONDS`. Of several calls, the earliest end counts."""
        threading.Thread(target=self._wait, args=(seconds + LAST_SECONDS,), name="cut off", daemon=True).start()

    def _wait(self, seconds: float) -> None:
        if not self._over.wait(seconds):
            # Nobody may read what it says.
            saying = threading.Thread(target=_say_where, name="cut off", daemon=True)
            saying.start()
            saying.join(SAY_SECONDS)
            os._exit(1)


def _say_where() -> None:
    with open(2, "wb", buffering=0, closefd=False) as stream:  # `sys.stderr` has a lock
        stream.write(b"jobdeck: The worker does not end, so it is cut off. Its jobs run again after their lease.\n")
        faulthandler.dump_traceback(stream)


def end_left_behind(code: int, before: Container[threading.Thread]) -> None:
    """Kills the processes of `multiprocessing` that still run, when a program ends whose handlers began them.

    The interpreter waits for each of them before it ends, and nobody will ask for what they do. It also waits for
    threads. Those that were not there `before` get `LEFT_SECONDS`; then the program ends with this code.
    """
    if (module := sys.modules.get("multiprocessing")) is not None:
        for process in module.active_children():
            process.kill()
    left = [one for one in threading.enumerate() if not one.daemon and one not in before]
    if left:
        threading.Thread(target=_end_after, args=(left, code), name="end", daemon=True).start()


def _end_after(left: Sequence[threading.Thread], code: int) -> None:
    last = time.monotonic() + LEFT_SECONDS
    for thread in left:
        thread.join(max(last - time.monotonic(), 0.0))
    names = ", ".join(one.name for one in left if one.is_alive())
    if names:
        sys.stdout.flush()
        sys.stderr.write(f"jobdeck: The worker ends without the threads that its handlers left: {safe_error(names)}.\n")
        sys.stderr.flush()
        os._exit(code)
