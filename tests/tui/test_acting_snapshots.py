"""How the screens for acting look: few pictures, from the same sample data at a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, make_app
from tests.tui.test_snapshots import walk

if TYPE_CHECKING:
    from tests.tui.test_snapshots import SnapCompare

SCREENS = {
    "create": ("n", "tab", "tab", "tab", "right", "tab", *"900", "tab", "tab", "tab", "tab", *"tomorrow 9:00", "tab",
               "right"),
    "dry_run": ("n", "tab", "tab", "tab", "right", "ctrl+t"),
    "edit": ("j", "j", "j", "j", "E"),
    "picker": ("n", "tab", "tab", *"kim"),
    "quick_sync": ("Q", "f"),
    "filter": ("slash", *"error:429 st"),
    "choice": ("A", "D"),
    "bulk": ("A", "D", "right", "enter", "b"),
}  # fmt: skip


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "200x50"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(sample()), terminal_size=size, run_before=walk(*SCREENS[screen]))
