"""Pictures of the dialogs and bulk pages, from the same sample data at a fixed clock."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Filter, Processing
from tests.tui.fake import NOW, FakeBackend, minutes
from tests.tui.sample import sample
from tests.tui.screens.test_snapshots import SnapCompare, walk
from tests.tui.support import LARGE, SMALL, make_app

pytestmark = pytest.mark.slow

SYNC = "jjjjjjjjj"
"""Goes to a job of game_platform_sync."""
SCREENS = {
    "create": (*SYNC, "n", "tab", "tab", "tab", "right", "tab", *"900", "tab", "tab", "tab", "tab",
               *"tomorrow 9:00", "tab", "right"),
    "dry_run": (*SYNC, "n", "tab", "tab", "tab", "right", "ctrl+t"),
    "edit": ("j", "j", "j", "j", "E"),
    "edit_valid": (*SYNC, "E"),
    "picker": (*SYNC, "n", "tab", "tab", *"kim"),
    "quick_sync": ("Q", "f"),
    "filter": ("slash", *"error:429 st"),
    "choice": ("A", "D"),
    "bulk": ("A", "D", "right", "enter", "b"),
    "bulk_restore": ("A", "D", "right", "enter", "b", "u"),
    "bulk_stop": ("b", "H"),
    "leave": ("q",),
    "cleanup": ("K",),
    "purge": ("colon", *"purge", "enter"),
    "resume": ("P",),
    "run_again": ("4", "R"),
}  # fmt: skip


def prepared(screen: str) -> FakeBackend:
    """The sample, with what the screen is about."""
    backend = sample()
    if screen == "bulk_stop":
        choice = backend.bulk.choose(Filter())
        assert choice is not None
        backend.bulk.start(choice.bulk.id, "delete")
        backend.bulk.step(choice.bulk.id)
    elif screen == "cleanup":
        backend.evidence.stuck = tuple(job.id for job in backend.jobs[:2])
    elif screen == "purge":
        backend.evidence.old = 1240
    elif screen == "resume":
        backend.processing = Processing(
            enabled=False, paused_reason="MetaCTF is down", paused_by="bob@10.0.0.9", paused_at=NOW - minutes(12)
        )
    return backend


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(prepared(screen)), terminal_size=size, run_before=walk(*SCREENS[screen]))
