"""The pictures of the documents show the current dashboard, and each is used in a document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobdeck.tui.text import playbook as text_playbook
from tests.tui.picture import FOLDER, PICTURES, draw

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@pytest.fixture(autouse=True)
def playbook() -> None:
    """The pictures show the real playbook."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture_in_the_documents_is_the_dashboard_of_today(name: str) -> None:
    """`python -m tests.tui.picture` redraws them."""
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == await draw(name)


def test_every_picture_stands_in_a_document_and_no_document_names_another() -> None:
    texts = [page.read_text(encoding="utf-8") for page in DOCUMENTS]
    shown = {Path(found).name for text in texts for found in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)}
    assert shown == {f"{name}.svg" for name in PICTURES} == {path.name for path in FOLDER.iterdir()}


def test_a_picture_fetches_nothing_from_elsewhere() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "url(http" not in text.replace('"', "")
        assert len(text) < 100_000


def test_a_picture_of_the_page_takes_no_room_in_a_terminal() -> None:
    blocks = list(text_playbook.parse("# Title\n\n![What it shows](images/x.svg)\n\nText.\n"))
    assert [block.text for block in blocks] == ["Title", "Text."]
