"""Lines that several pages have."""

from __future__ import annotations

import pytest

from jobdeck.tui.text.lines import LABEL, facts

WORDS = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("most", "shown"),
    [
        (None, ["one two three four", "five six seven eight", "nine ten"]),
        (3, ["one two three four", "five six seven eight", "nine ten"]),
        (2, ["one two three four", "five six seven eigh…"]),
        (1, ["one two three four…"]),
    ],
)
def test_a_fact_that_is_longer_than_its_lines_ends_with_an_ellipsis(most: int | None, shown: list[str]) -> None:
    found = facts([("name", WORDS, "text")], LABEL + 2 + 20, most=most)
    assert [entry.spans[1][0] for entry in found] == shown
