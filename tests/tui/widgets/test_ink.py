"""The inks: those of a theme in which the dashboard starts are those that it has after a change to this theme."""

from __future__ import annotations

import pytest
from rich.segment import Segment

from jobdeck.tui.widgets.ink import Inked
from tests.tui.sample import sample
from tests.tui.support import Deck, dashboard


def painted(deck: Deck) -> list[list[Segment]]:
    return [list(strip) for strip in deck.app.screen._compositor.render_strips()]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["jobdeck-dark", "jobdeck-light", "ansi-dark"])
@pytest.mark.parametrize("after", ["jobdeck-dark", "jobdeck-light", "ansi-dark"])
async def test_a_change_of_the_theme_repaints_every_line_in_its_colours(before: str, after: str) -> None:
    async with dashboard(sample(), theme=after) as fresh:
        wanted = painted(fresh)
    async with dashboard(sample(), theme=before) as deck:
        deck.app.theme = after
        await deck.pilot.pause()
        assert painted(deck) == wanted


async def test_no_line_has_component_classes_that_each_opening_of_a_screen_would_have_to_match() -> None:
    async with dashboard(sample()) as deck:
        lines = deck.app.screen.query(Inked)
        assert len(lines) > 3
        assert not any(line._get_component_classes() for line in lines)
