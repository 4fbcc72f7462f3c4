"""What makes a dashboard cheap to start and certain to be waited for, in a process that starts a thousand of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from textual import app as textual_app
from textual import pilot as textual_pilot
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.notifications import Notification
from textual.screen import UPDATE_PERIOD
from textual.widgets._toast import Toast

from jobdeck.tui import app as jobdeck_app
from jobdeck.tui.screens import follower
from jobdeck.tui.terminal import type_ahead

# A screen paints with its update timer. A timer that is behind leaves a tick out: it is due after two periods then.
SOON = 2.5 * UPDATE_PERIOD
QUIET_ROUNDS = 3
REPEATS = 50


async def drained() -> None:
    """Returns once nothing on the event loop can go on: every message has been seen to, and what it set off."""
    loop: Any = asyncio.get_running_loop()
    quiet = 0
    while quiet < QUIET_ROUNDS:
        await asyncio.sleep(0)
        quiet = 0 if loop._ready else quiet + 1


async def idle(_min_sleep: float = 0.0, _max_sleep: float = 0.0) -> None:
    """The same, and no timer is due that paints a screen; one that fires again and again is waited for 50 times.

    Textual's own `wait_for_idle` takes a process that uses no CPU for 20 ms to be idle. Beside ten busy processes
    it is not: it merely does not get its turn.
    """
    loop: Any = asyncio.get_running_loop()
    for _ in range(REPEATS):
        await drained()
        due = [timer.when() for timer in loop._scheduled if not timer.cancelled()]
        if not due or min(due) > loop.time() + SOON:
            return
        await asyncio.sleep(max(0.0, min(due) - loop.time()))


async def _screen_seen_to(_pilot: textual_pilot.Pilot[Any]) -> bool:
    """Textual's own asks every widget in turn, and gives up after 30 s."""
    await drained()
    return True


_pause = textual_pilot.Pilot.pause


async def _paused(pilot: textual_pilot.Pilot[Any], delay: float | None = None) -> None:
    """Textual's own ends with a refresh of the screen, and does not wait for what that sets off."""
    await _pause(pilot, delay)
    if delay is None:
        await idle()


_parsed: dict[tuple[Any, ...], list[RuleSet]] = {}
_parse = Stylesheet._parse_rules


def _parse_once(sheet: Stylesheet, css: str, read_from: Any, *facts: Any, **more: Any) -> list[RuleSet]:
    """Rules are never changed once they are parsed, so all apps of a test process can share them."""
    key = (css, read_from, facts, *more.items(), *sheet._variables.items())
    if key not in _parsed:
        _parsed[key] = _parse(sheet, css, read_from, *facts, **more)
    return _parsed[key]


def _stays(_toast: Toast, _event: Any) -> None:
    """Starts no timer: a toast ends by the clock on the wall, which runs while the process stands still."""


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts all of it in its place for as long as the patch lasts."""
    patch.setattr(textual_pilot, "wait_for_idle", idle)
    patch.setattr(textual_app, "wait_for_idle", idle)
    patch.setattr(textual_pilot.Pilot, "_wait_for_screen", _screen_seen_to)
    patch.setattr(textual_pilot.Pilot, "pause", _paused)
    patch.setattr(Stylesheet, "_parse_rules", _parse_once)
    # A dashboard sets aside what there is once it has started. In one process with a thousand others that are over,
    # none of those would ever be let go of.
    patch.setattr(jobdeck_app, "gc", SimpleNamespace(collect=lambda: None, freeze=lambda: None))
    # The history beside the list is read at every move, not once the cursor has rested.
    patch.setattr(follower, "REST", 0.0)
    # A process that does not get its turn must not take a key for one whose way is cut off.
    patch.setattr(type_ahead, "PATIENCE", 60.0)
    patch.setattr(Notification, "has_expired", False)
    patch.setattr(Toast, "_on_mount", _stays)
