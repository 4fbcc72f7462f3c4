"""Each page in each theme: every cell with a character can be read, and no state is told by its colour alone."""

from __future__ import annotations

import re
from typing import Final

import pytest
from rich.color import ColorType
from textual.color import Color
from textual.screen import ModalScreen

from jobdeck.tui.themes import CHOICES
from jobdeck.tui.widgets.pane import Pane
from tests.tui.figures_sample import incident
from tests.tui.sample import add_evidence, sample
from tests.tui.support import Deck, dashboard
from tests.tui.text.test_text import contrast

PAGES: Final = {
    "list": (), "job": ("enter",), "trends": ("t",), "types": ("i",), "series": ("c",), "workers": ("m",),
    "errors": ("e",), "health": ("h",), "audit": ("o",), "facets": ("f",), "help": ("?",), "pause": ("P",),
    "new job": ("n",), "columns": ("|",), "palette": (":",),
}  # fmt: skip
LEAST: Final = 2.9
"""The least contrast of a character on its ground; that of a muted one on the cursor's."""
DRAWN: Final = re.compile(r"[\s─-▟⠀-⣿·│]+")
"""Lines of frames, plots and gauges, which are no text."""


def unreadable(deck: Deck) -> list[str]:
    """The texts of the page or of the dialog above it that are not told apart from their ground."""
    found = []
    screen = deck.app.screen
    boxes = [box.region for box in screen.query("#box")] if isinstance(screen, ModalScreen) else [screen.region]
    strips = screen._compositor.render_strips(deck.app.size)
    for strip in (strips[y].crop(box.x, box.right) for box in boxes for y in range(box.y, box.bottom)):
        for text, style, _ in strip:
            if style is None or DRAWN.fullmatch(text):
                continue
            front, ground = style.color, style.bgcolor
            if front is None or ground is None or ColorType.DEFAULT in {front.type, ground.type}:
                continue
            if front.type is not ColorType.TRUECOLOR or ground.type is not ColorType.TRUECOLOR:
                if front == ground:
                    found.append(text)
            elif contrast(Color.from_rich_color(front), Color.from_rich_color(ground)) < LEAST:
                found.append(text)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("theme", CHOICES)
@pytest.mark.parametrize("page", PAGES)
async def test_every_text_of_a_page_can_be_read_in_every_theme(page: str, theme: str) -> None:
    backend = sample() if page in {"errors", "audit", "workers", "health"} else incident()
    async with dashboard(backend, size=(120, 35)) as deck:
        deck.app.theme = theme
        await deck.press(*PAGES[page])
        assert unreadable(deck) == []


SAID: Final = re.compile(
    r"[✗!‖⚠✓◌●○◦↻◆]|fail|lost|late|pause|mute|died|gone|stuck|over|ago|waiting|never|resume|\b(?:no|not|bad|new)\b",
    re.IGNORECASE,
)
"""A sign or a word that tells what is wrong without a colour."""


@pytest.mark.slow
@pytest.mark.parametrize("page", ["types", "series", "workers", "errors", "health", "trends"])
async def test_a_line_with_the_colour_of_a_problem_says_it_with_a_sign_or_a_word(page: str) -> None:
    for backend in (sample(), incident()):
        if not backend.evidence.runs:
            add_evidence(backend)
        async with dashboard(backend, *PAGES[page], size=(120, 35)) as deck:
            columns = deck.screen_text().splitlines()[1]
            for pane in deck.app.screen.query("#pane").results(Pane):
                for line in pane.entries:
                    whole = "".join(text for text, _ in line.spans)
                    coloured = [text for text, ink in line.spans if ink in {"bad", "warn", "danger"} and text.strip()]
                    figures = not any(re.search(r"[^\d\s,+%]", text) for text in coloured)
                    named = figures and re.search(r"\b(?:failed|bad)\b", columns) is not None
                    assert not coloured or named or SAID.search(whole), whole
