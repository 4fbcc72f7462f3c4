"""Detects a closed terminal without SIGHUP.

The kernel sends no SIGHUP when the terminal did not control this process, and `nohup` blocks it. Textual would then
read end-of-file in a loop and use a whole core. Nor is there a signal when the shell that started this program has
died and another shell uses the terminal: both would write to it.
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
"""Milliseconds between two checks of the terminal's foreground process."""


def watch(gone: Callable[[], None], wanted: Callable[[], bool]) -> None:
    """Calls `gone` once, in its own thread, when the terminal on standard input is closed or used by another shell.

    It ends soon after it is no longer `wanted`.
    """
    threading.Thread(target=_wait, args=(gone, wanted), name="jobdeck-terminal", daemon=True).start()


def _wait(gone: Callable[[], None], wanted: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(INPUT, 0)
    starter = os.getppid()
    while not (found := poll.poll(LOOK_EVERY)):
        if not wanted():
            return
        if os.getppid() != starter and _another_has_it():
            gone()  # the terminal still exists and can be restored
            return
    if found[0][1] & select.POLLNVAL:  # closed by this process, or the system cannot poll terminals
        return
    _quieten()
    gone()


def _another_has_it() -> bool:
    try:
        return os.tcgetpgrp(INPUT) != os.getpgrp()
    except OSError:  # the terminal does not control this process
        return False


def _quieten() -> None:
    """Redirects all output to /dev/null, so that the normal shutdown does not fail when it writes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in OUTPUTS:
        os.dup2(nowhere, stream)
