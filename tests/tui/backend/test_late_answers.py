"""Answers that come when one has gone elsewhere: they open nothing there, and nothing breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from jobdeck.core.model import Status
from jobdeck.tui.actions import ACTIONS, Action
from tests.tui.fake import NOW, FakeBackend, minutes
from tests.tui.sample import add_evidence, sample
from tests.tui.support import Held, dashboard

pytestmark = pytest.mark.slow

WAY: Final = {"list": (), "detail": ("enter",), "errors": ("e",), "health": ("h",), "bulk": ("b",), "workers": ("m",),
              "audit": ("o",), "playbook": ("p",), "log": ("l",)}  # fmt: skip
ANSWER: Final = "all that was asked is answered"
QUIET: Final = {"Move", "Mark", "Copy", "Leave"}
"""Groups of actions that ask nothing of the database."""


def asks(action: Action, scope: str) -> bool:
    """Pages read alike from wherever they were opened."""
    return action.changes or (action.group not in QUIET and (scope == "list" or action.group != "Pages"))


DIALOGS: Final = {
    "job.new": ("ctrl+t", "ctrl+s"), "job.duplicate": (ANSWER, "ctrl+t", ANSWER, "ctrl+s"),
    "job.edit": (ANSWER, "ctrl+t", ANSWER, "ctrl+s"), "job.retry_with": (ANSWER, "ctrl+s"), "quick.sync": ("f",),
    "filter": ("c", "o", "a", "c", "h", "colon", "b", "o", "enter"), "stuck.cleanup": (ANSWER, "y"),
    "errors.canary": (ANSWER, "y"), "errors.rest": (ANSWER, "y"), "mark.matching": (ANSWER, "C", ANSWER),
    "processing": ("enter", "enter", "enter"), "worker.cycle": (ANSWER, "enter"),
}  # fmt: skip
"""What can be pressed after a key where a dialog or a line has opened."""
TYPED: Final = {"filter", "processing"}


def queue_of_all_kinds() -> FakeBackend:
    """Something for each action to do: personal data in each payload, stuck jobs, an error that has a job."""
    backend = sample()
    add_evidence(backend)
    private = [replace(job, payload={**job.payload, "note": "kim@example.org"}) for job in backend.jobs]
    backend.jobs = sorted(private, key=lambda job: job.status is Status.FAILED)
    for at, job in enumerate(backend.jobs):
        backend.jobs[at] = replace(job, created_at=NOW - minutes(len(backend.jobs) - at))
    found = backend.evidence
    found.stuck, found.old = tuple(job.id for job in backend.jobs if job.status is Status.RUNNING), 3
    found.trends = tuple(reversed(found.trends[1:3]))
    return backend


def sequences() -> list[Any]:
    """Scope and keys: the first key of each action, and, marked as slow, what is pressed after it, step by step."""
    found: list[Any] = []
    for scope in WAY:
        for action in ACTIONS:
            if scope in action.scopes and action.keys and asks(action, scope):
                found.append((scope, action.keys[:1]))
                further = DIALOGS.get(action.id, ("y",) if action.changes else ())
                steps = range(1, len(further) + 1) if action.id not in TYPED else (len(further),)
                longer = [(scope, (action.keys[0], *further[:step])) for step in steps]
                found += [pytest.param(*one, marks=[pytest.mark.slow] if scope != "list" else []) for one in longer]
    return [*found, *((scope, ("colon", *"purge", "enter")) for scope in ("list", "audit"))]


@pytest.mark.parametrize(
    ("scope", "keys"), sequences(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
async def test_an_answer_that_comes_late_opens_nothing_elsewhere_and_breaks_nothing(
    scope: str, keys: tuple[str, ...]
) -> None:
    held, backend = Held(), queue_of_all_kinds()
    async with dashboard(backend, *WAY[scope], background=held) as deck:
        held.holding = True
        for key in keys:
            if key == ANSWER:
                held.let_these_go()
                await deck.pilot.pause()
            else:
                await deck.press(key)
        for _ in range(6):
            if deck.here != "Dashboard":
                await deck.press("escape")
        await deck.press("escape", "o")
        assert deck.here == "Audit"
        while held.kept:
            held.let_these_go()
            await deck.pilot.pause()
        await deck.pilot.pause()
        assert deck.here == "Audit"
        assert "Reading…" not in deck.screen_text()
