"""How tests wait: for a condition, and so long that only something that never comes about reaches the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.examples import THOROUGH

PATIENCE = 180.0 if THOROUGH else 50.0
"""Within the limit of a test (`tests.support.limits`), so that a wait in vain fails with its own message."""
PAUSE = 0.01


def until(condition: Callable[[], Any], what: str | Callable[[], str] = "the condition") -> None:
    """Waits until the condition holds. `what`, or what it returns, is in the message of a test that waits in vain."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, _in_vain(what)
        pause.wait(PAUSE)


async def becomes(condition: Callable[[], Any], what: str | Callable[[], str] = "the condition") -> None:
    """The same while an event loop goes on."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, _in_vain(what)
        await asyncio.sleep(PAUSE)


def rounds(what: str | Callable[[], str], *, pause: float = 0.0) -> Iterator[None]:
    """The rounds of a loop that leaves when what it waits for is there, or that waits in a way of its own."""
    deadline = time.monotonic() + PATIENCE
    between = threading.Event()
    while time.monotonic() < deadline:
        yield
        between.wait(pause)
    raise AssertionError(_in_vain(what))


@contextmanager
def beside(*calls: Callable[[], object]) -> Iterator[None]:
    """Runs each call in a thread of its own beside the block, and waits for the ends of all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def together(*calls: Callable[[], object]) -> None:
    """Runs each call in a thread of its own, and returns when all have ended."""
    with beside(*calls):
        pass


def _in_vain(what: str | Callable[[], str]) -> str:
    return f"{what if isinstance(what, str) else what()} did not come about within {PATIENCE:.0f} s"
