"""Which rows of a table of cases `./test` tries: all of cheap ones, a few where each has a database or a picture.

A test that is parametrised is one behaviour with many rows. The rows that `./test` leaves out are marked slow, so
`./test --long` tries them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pytest

QUICK_ROWS: Final = 3
"""How many rows with a database or a picture `./test` tries of a table: the first, the last and the one between."""
DEAR: Final = {"postgres", "snap_compare"}
"""The fixtures that make a row cost more than the rest of its test."""


def quick_places(rows: int) -> set[int]:
    """The places, from 0, of the rows that `./test` tries, spread evenly over a table of `rows` rows."""
    if rows <= QUICK_ROWS:
        return set(range(rows))
    return {place * (rows - 1) // (QUICK_ROWS - 1) for place in range(QUICK_ROWS)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tables: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and DEAR & set(getattr(item, "fixturenames", ())):
            tables[item.nodeid.partition("[")[0]].append(item)
    for rows in tables.values():
        quick = quick_places(len(rows))
        for place, row in enumerate(rows):
            if place not in quick:
                row.add_marker(pytest.mark.slow)
