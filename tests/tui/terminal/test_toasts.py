"""Toasts: short enough for the smallest terminal, whatever the texts in them are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from jobdeck.tui.format import within
from tests.tui.support import LARGE, SMALL, dashboard, failed


@given(st.lists(st.text(alphabet="ab漢 ", max_size=900), min_size=1, max_size=8))
def test_lines_that_fit_stay_and_of_others_the_longest_are_cut(lines: list[str]) -> None:
    shown = within(lines, 640)
    if sum(map(cell_len, lines)) <= 640:
        assert shown == lines
        return
    assert sum(map(cell_len, shown)) <= 640
    cut = [cell_len(line) for line, before in zip(shown, lines, strict=True) if line != before]
    whole = [cell_len(line) for line, before in zip(shown, lines, strict=True) if line == before]
    assert cut
    assert all("…" in line for line, before in zip(shown, lines, strict=True) if line != before)
    assert max(whole, default=0) <= max(cut) + 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("long", ["a" * 5_000, "漢字" * 2_000, "words " * 900], ids=["letters", "wide", "words"])
async def test_what_a_toast_begins_and_ends_with_is_seen_however_long_the_names_in_it_are(
    long: str, size: tuple[int, int]
) -> None:
    async with dashboard(failed(1), size=size, toasts=True) as deck:
        deck.app.say(f"Enqueued {long} as 12345678.\njobdeck enqueue {long} --yes")
        await deck.pilot.pause()
        await deck.pilot.pause()
        shown = " ".join(deck.screen_text().split())
        for words in ("Enqueued ", "as 12345678.", "jobdeck enqueue ", "--yes"):
            assert words in shown
