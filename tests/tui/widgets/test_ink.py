"""The inks: those of a theme in which the dashboard starts are those that it has after a change to this theme."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from textual.app import App
from textual.color import Color
from textual.strip import Strip

from jobdeck.tui.widgets import ink
from jobdeck.tui.widgets.ink import Inked, cut
from jobdeck.tui.widgets.pane import Pane, entry
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard


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


async def test_the_cells_of_a_line_that_stays_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(sample()) as deck:
        compared: list[object] = []

        def noted(*lines: object) -> tuple[int, int]:
            compared.append(lines)
            return 0, 0

        monkeypatch.setattr(ink, "changed_cells", noted)
        await deck.refresh()
        assert not compared


async def test_no_line_has_component_classes_that_each_opening_of_a_screen_would_have_to_match() -> None:
    async with dashboard(sample()) as deck:
        lines = deck.app.screen.query(Inked)
        assert len(lines) > 3
        assert not any(line._get_component_classes() for line in lines)


@pytest.mark.parametrize(
    ("texts", "room", "shown"),
    [
        (("abc", "def"), 6, "abcdef"),
        (("abc", "def"), 8, "abcdef  "),
        (("abc", "def"), 5, "abcd…"),
        (("abc", "def"), 3, "ab…"),
        (("abc", "   "), 3, "abc"),
        (("abc", "   ", "d"), 5, "abc …"),
        (("ab", "日本"), 5, "ab日…"),
        (("ab", "日本"), 4, "ab …"),
        (("abc",), 1, "…"),
        (("abc",), 0, ""),
        ((), 2, "  "),
    ],
)
def test_what_does_not_fit_ends_with_an_ellipsis_wherever_its_spans_end(
    texts: tuple[str, ...], room: int, shown: str
) -> None:
    assert "".join(text for text, _ in cut([(text, "text") for text in texts], room)) == shown


async def test_a_line_of_a_list_that_is_wider_than_the_list_ends_with_an_ellipsis() -> None:
    async with dashboard(sample()) as deck:
        pane = Pane()
        await deck.app.screen.mount(pane)
        await deck.pilot.pause()
        pane.show([entry((" " + "word " * 60, "text"), ("end", "bad"))])
        assert pane.render_line(0).text.endswith("…")
        assert pane.render_line(0).cell_length == pane.size.width


@pytest.mark.parametrize(("theme", "unread"), [("ansi-dark", {"blue", "magenta"}), ("ansi-light", {"cyan"})])
async def test_in_16_colours_frames_are_grey_and_nothing_is_in_a_colour_that_is_hard_to_read(
    theme: str, unread: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the environment has Textual begin, before the application replaces the theme by one of the same name.
    monkeypatch.setattr(vars(App)["theme"], "_default", theme)
    async with dashboard(sample(), "enter", size=LARGE, theme=theme) as deck:
        colours = {part.style.color.name for line in painted(deck) for part in line if part.style and part.style.color}
        assert not colours & unread
        await deck.press("question_mark")
        assert deck.app.screen.query_one("#box").styles.border_left[1] == Color.parse("ansi_bright_black")


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
async def test_in_16_colours_and_in_none_the_field_with_the_focus_and_its_cursor_are_seen(theme: str) -> None:
    async with dashboard(sample(), "P", *"vendor", size=LARGE, theme=theme) as deck:
        place = deck.app.screen.query_one("#reason").region
        line = Strip(painted(deck)[place.y]).crop(place.x, place.right)
        reversed_cells = [bool(part.style and part.style.reverse) for part in line for _ in part.text]
        typed = line.text.index("vendor")
        assert all(reversed_cells[typed : typed + 6])
        assert not reversed_cells[typed + 6]
        assert all(reversed_cells[typed + 7 : -1])
