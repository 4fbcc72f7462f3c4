"""Notices that the terminal is gone where no SIGHUP says so.

Nobody sends one when the terminal did not control this process, or when somebody shielded it. Textual would then
read the end of its input over and over, and paint for nobody, for as long as the machine runs. Nor does anybody say
that the shell has died which gave this program its terminal, and that another has it now: both would write on it.
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
LOOK_EVERY = 1_000
"""Milliseconds between two looks at who has the terminal."""


def watch(gone: Callable[[], None]) -> None:
    """Calls `gone` once, from a thread of its own, when the terminal on standard input has hung up or was taken."""
    threading.Thread(target=_wait, args=(gone,), name="jobdeck-terminal", daemon=True).start()


def _wait(gone: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(INPUT, 0)
    starter = os.getppid()
    while not (found := poll.poll(LOOK_EVERY)):
        if os.getppid() != starter and _another_has_it():
            gone()  # it is there to be restored
            return
    if found[0][1] & select.POLLNVAL:  # closed by ourselves, or a system that cannot watch terminals
        return
    _quieten()
    gone()


def _another_has_it() -> bool:
    try:
        return os.tcgetpgrp(INPUT) != os.getpgrp()
    except OSError:  # it does not control this process
        return False


def _quieten() -> None:
    """Has what is still written go nowhere instead of failing, so that leaving can do as usual."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in OUTPUTS:
        os.dup2(nowhere, stream)
