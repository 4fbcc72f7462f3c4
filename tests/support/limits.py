"""A limit of time for each test, as a plugin of pytest.

A test that hangs may wait where no exception reaches it. So a thread writes the stacks of all threads and ends the test
process. Under pytest-xdist the run goes on: the test has failed, by name, and another process takes what is left.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator
from typing import Final

import pytest

from tests.support.examples import THOROUGH, WANTED

SECONDS: Final = 60.0
LONG_SECONDS: Final = 300.0
"""The limit of a test marked `slow`, `installation` or `thorough`."""
PROPERTY_SECONDS: Final = 900.0 * max(int(WANTED) if WANTED.isdecimal() else 1, 1)
"""The limit of a property that is tried with all its examples, or with so many times all of them."""
_screen = pytest.StashKey[int]()


def limit_of(test: pytest.Item) -> float:
    """The seconds that a test may take, with its fixtures: those of its marker `limit`, or those of its kind."""

    def marked(*names: str) -> bool:
        return any(test.get_closest_marker(name) for name in names)

    chosen = test.get_closest_marker("limit")
    if THOROUGH and marked("hypothesis", "thorough"):
        return PROPERTY_SECONDS
    if chosen:
        (seconds,) = chosen.args
        return float(seconds)
    return LONG_SECONDS if marked("slow", "installation", "thorough") else SECONDS


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"limit(seconds): takes longer than {SECONDS:g} seconds on a busy machine")
    config.stash[_screen] = os.dup(2)  # while tests run, what they write to it is captured


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_screen])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Runs a test with its fixtures within its limit; with a debugger, it may take any time."""
    if item.config.getoption("usepdb"):
        return (yield)
    seconds = limit_of(item)
    timer = threading.Timer(seconds, _end, [item.nodeid, seconds, item.config.stash[_screen]])
    timer.name = "limit of the test"
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def _end(name: str, seconds: float, screen: int) -> None:
    """Says which test has reached its limit, and where its threads are, and ends this process."""
    try:
        said = f"\nFAILED {name}: it did not end within {seconds:g} s. Its threads:\n"
        os.write(screen, said.encode("utf-8", "backslashreplace"))
        faulthandler.dump_traceback(file=screen)
    finally:
        os._exit(1)
