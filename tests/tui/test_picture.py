"""The README's picture shows the dashboard as it is."""

from __future__ import annotations

from tests.tui.picture import PICTURE, draw


async def test_the_picture_in_the_documentation_is_the_dashboard_of_today() -> None:
    """`python -m tests.tui.picture` draws it anew."""
    assert PICTURE.read_text(encoding="utf-8") == await draw()
