"""Which rows of a table of cases each command tries.

A test that is parametrised is one behaviour with many rows. `./test` tries all rows of cheap tests, and three where
each has a database or a picture. `./test --long` tries a fourth of those that remain, and `./test --release` all.
`./test --server` tries one row, and only of tests with a database.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final
from zlib import crc32

import pytest

QUICK_ROWS: Final = 3
"""How many rows with a database or a picture `./test` tries of a table: the first, the last and the one between."""
LONG_ROWS: Final = 4
"""`./test --long` tries each fourth row of a long table, beside those that are quick."""
LONG: Final = ("slow", "installation", "thorough")
"""The marks of what `./test --long` tries."""
DATABASE: Final = "postgres"
PICTURE: Final = "snap_compare"


def quick_places(rows: int) -> set[int]:
    """The places, from 0, of the rows that `./test` tries, spread evenly over a table of `rows` rows."""
    if rows <= QUICK_ROWS:
        return set(range(rows))
    return {place * (rows - 1) // (QUICK_ROWS - 1) for place in range(QUICK_ROWS)}


def long_places(name: str, rows: int) -> set[int]:
    """The places of the rows that CI tries of the table of the test with this name: the same ones in each run.

    The name decides where they begin, so that several tests of the same rows try different ones.
    """
    return quick_places(rows) | set(range(crc32(name.encode()) % LONG_ROWS, rows, LONG_ROWS))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tables: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tables[item.nodeid.partition("[")[0]].append(item)
    for name, rows in tables.items():
        quick, long = quick_places(len(rows)), long_places(name, len(rows))
        for place, row in enumerate(rows):
            _mark(row, first=place == 0, quick=place in quick, long=place in long)


def _mark(row: pytest.Item, *, first: bool, quick: bool, long: bool) -> None:
    fixtures = set(getattr(row, "fixturenames", ()))
    if not quick and fixtures & {DATABASE, PICTURE}:
        row.add_marker(pytest.mark.slow)
    # A picture shows what no other row shows, so each is compared, as is each row of a table that says so.
    whole = PICTURE in fixtures or row.get_closest_marker("every_row") is not None
    if not long and not whole and any(row.get_closest_marker(mark) for mark in LONG):
        row.add_marker(pytest.mark.release)
    if first and DATABASE in fixtures:
        row.add_marker(pytest.mark.server)
