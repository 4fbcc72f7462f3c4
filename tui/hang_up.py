"""Notices that the terminal is gone where no SIGHUP says so.

Nobody sends one when the terminal did not control this process, or when somebody shielded it. Textual would then
read the end of its input over and over, and paint for nobody, for as long as the machine runs.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT = 0
OUTPUTS = (1, 2)


def watch(gone: Callable[[], None]) -> None:
    """Calls `gone` once, from a thread of its own, when the terminal on standard input has hung up."""
    threading.Thread(target=_wait, args=(gone,), name="jobdeck-terminal", daemon=True).start()


def _wait(gone: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(INPUT, 0)
    while not (found := poll.poll()):
        pass
    if found[0][1] & select.POLLNVAL:  # closed by ourselves, or a system that cannot watch terminals
        return
    _quieten()
    gone()


def _quieten() -> None:
    """Has what is still written go nowhere instead of failing, so that leaving can do as usual."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in OUTPUTS:
        os.dup2(nowhere, stream)
