"""What makes a dashboard cheap to start and certain to be waited for, in a process that starts a thousand of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from textual import app as textual_app
from textual import pilot as textual_pilot
from textual.css.stylesheet import Stylesheet

from jobdeck.tui import app as jobdeck_app
from jobdeck.tui.terminal import type_ahead

if TYPE_CHECKING:
    import pytest
    from textual.css.model import RuleSet

SOON = 0.02
QUIET_ROUNDS = 3
REPEATS = 50


async def idle(_min_sleep: float = 0.0, _max_sleep: float = 0.0) -> None:
    """Returns once nothing is left to do on the event loop, and no timer is due within 20 ms.

    Textual's own `wait_for_idle` takes a process that uses no CPU for 20 ms to be idle. Beside ten busy processes
    it is not: it merely does not get its turn. A timer that fires again and again is waited for 50 times.
    """
    loop: Any = asyncio.get_running_loop()
    quiet, timers = 0, REPEATS
    while quiet < QUIET_ROUNDS:
        await asyncio.sleep(0)
        if loop._ready:
            quiet = 0
            continue
        quiet += 1
        due = [timer.when() for timer in loop._scheduled if not timer.cancelled()]
        if due and quiet == QUIET_ROUNDS and timers and min(due) <= loop.time() + SOON:
            await asyncio.sleep(max(0.0, min(due) - loop.time()))
            quiet, timers = 0, timers - 1


_parsed: dict[tuple[Any, ...], list[RuleSet]] = {}
_parse = Stylesheet._parse_rules


def _parse_once(sheet: Stylesheet, css: str, read_from: Any, *facts: Any, **more: Any) -> list[RuleSet]:
    """Rules are never changed once they are parsed, so all apps of a test process can share them."""
    key = (css, read_from, facts, *more.items(), *sheet._variables.items())
    if key not in _parsed:
        _parsed[key] = _parse(sheet, css, read_from, *facts, **more)
    return _parsed[key]


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts all of it in its place for as long as the patch lasts."""
    patch.setattr(textual_pilot, "wait_for_idle", idle)
    patch.setattr(textual_app, "wait_for_idle", idle)
    patch.setattr(Stylesheet, "_parse_rules", _parse_once)
    # A dashboard sets aside what there is once it has started. In one process with a thousand others that are over,
    # none of those would ever be let go of.
    patch.setattr(jobdeck_app, "gc", SimpleNamespace(collect=lambda: None, freeze=lambda: None))
    # A process that does not get its turn must not take a key for one whose way is cut off.
    patch.setattr(type_ahead, "PATIENCE", 60.0)
