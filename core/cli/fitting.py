"""Fits a table into the width of a terminal: text is shortened first, then ids, then columns are left out."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GAP: Final = 2
KEPT: Final = 24
"""A column of this width or less, such as a time or a status, is shortened only where nothing else is enough."""
SHORTEST: Final = 12
SHORTEST_LAST: Final = 30
"""The last column, such as the error, tells rows apart: other columns give way to this much of it."""
MORE: Final = "…"
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORT_ID: Final = 8
"""Digits of a shortened id: its end, by which commands find the job too."""


@dataclass
class _Column:
    cells: list[str]
    shortest: int = SHORTEST
    kept: int = KEPT

    @property
    def width(self) -> int:
        return max(map(width_of, self.cells))

    @property
    def _shortest(self) -> int:
        return min(self.width, max(self.shortest, width_of(self.cells[0])))

    @property
    def has_ids(self) -> bool:
        return any(_ID.fullmatch(cell) for cell in self.cells)

    @property
    def least(self) -> int:
        """The width to which the column can be shortened."""
        return self.width if self.width <= self.kept or self.has_ids else self._shortest


def width_of(text: str) -> int:
    """The number of columns that a terminal needs for the text."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def fitted(table: Sequence[Sequence[str]], width: int, least: Sequence[str] = ()) -> list[list[str]]:
    """The table, whose first row is its header, with cells shortened until a row fits into `width`.

    The columns named in `least` are left out in this order where that is not enough; a last header … says so.
    """
    columns = [_Column(list(cells)) for cells in zip(*table, strict=True)]
    columns[-1].shortest = SHORTEST_LAST
    if _total(column.width for column in columns) <= width:
        return [list(row) for row in table]
    if _total(column.least for column in columns) > width:
        columns = [_with_short_ids(column) for column in columns]
    left_out = False
    for name in least:
        if _total(column.least for column in columns) + left_out * (GAP + 1) <= width:
            break
        columns = [column for column in columns if column.cells[0] != name]
        left_out = True
    if _total(column.least for column in columns) + left_out * (GAP + 1) > width:
        columns[-1].shortest = SHORTEST
    if _total(column.least for column in columns) + left_out * (GAP + 1) > width:
        for column in columns:
            column.kept = 0
    _share(columns, width - left_out * (GAP + 1))
    if left_out:
        columns.append(_Column([MORE, *[""] * (len(table) - 1)]))
    return [list(row) for row in zip(*(column.cells for column in columns), strict=True)]


def shortened(text: str, width: int) -> str:
    """The text, cut with … behind a word if one ends in its second half."""
    if width_of(text) <= width:
        return text
    kept, used = "", 0
    for letter in text:
        used += width_of(letter)
        if used > width - 1:
            break
        kept += letter
    word = re.match(r".*[\s_,;:/-]", kept, re.DOTALL)
    if word and width_of(word.group()) > width // 2:
        kept = word.group()
    return f"{kept.rstrip()}{MORE}"


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)


def _with_short_ids(column: _Column) -> _Column:
    cells = [f"{MORE}{cell[-_SHORT_ID:]}" if _ID.fullmatch(cell) else cell for cell in column.cells]
    return _Column(cells, column.shortest)


def _share(columns: list[_Column], width: int) -> None:
    """Shortens the cells; what is spare goes to the columns that need least first."""
    spare = max(0, width - _total(column.least for column in columns))
    waiting = sorted((column for column in columns if column.least < column.width), key=lambda column: column.width)
    while waiting:
        column = waiting.pop(0)
        wanted = column.least + min(column.width - column.least, spare // (len(waiting) + 1))
        spare -= wanted - column.least
        column.cells = [shortened(cell, wanted) for cell in column.cells]
