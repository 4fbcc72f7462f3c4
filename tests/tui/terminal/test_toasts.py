"""Toasts: short enough for the smallest terminal, whatever the texts in them are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.widgets._toast import Toast

from jobdeck.tui.format import within
from jobdeck.tui.widgets.pane import Lines
from tests.tui.figures_sample import incident
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, (120, 35), LARGE])
@pytest.mark.parametrize("keys", ["t", "i", "c", "m", "e", "h", "o", ("enter",)], ids=lambda keys: keys[0])
async def test_a_toast_on_a_page_covers_no_figure(keys: Sequence[str], size: tuple[int, int]) -> None:
    async with dashboard(incident(), *keys, size=size, toasts=True) as deck:
        deck.app.say("Enqueued nightly_report as 12345678.\njobdeck enqueue nightly_report --yes")
        await deck.pilot.pause()
        await deck.pilot.pause()
        (toast,) = deck.app.screen.query(Toast)
        lines = deck.app.screen.query(Lines)
        assert "jobdeck enqueue nightly_report --yes" in deck.screen_text()
        assert len(lines) > 0
        assert not [one for one in lines if one.region.intersection(toast.region)]
