"""Plots of braille dots, which read without a colour: an area, and a line over it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

DOTS: Final = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bits of the dots of a cell, by column, lowest dot first."""
BLANK: Final = 0x2800


def plot(area: Sequence[float | None], line: Sequence[float | None], width: int, height: int) -> list[str]:
    """`height` rows of `width` cells. Each value has as many dot columns as fit; None leaves a gap.

    Area and line have one scale from 0 to the greatest value. A value above 0 is at least one dot high.
    """
    top = greatest(area, line)
    cells = [[0] * width for _ in range(height)]
    columns, levels = width * 2, height * 4
    for x in range(columns):
        filled = _level(_at(area, x, columns), top, levels)
        above = _level(_at(line, x, columns), top, levels)
        lit = {*range(filled), *([above - 1] if above else [])}
        for y in lit:
            cells[height - 1 - y // 4][x // 2] |= DOTS[x % 2][y % 4]
    return ["".join(chr(BLANK + cell) if cell else " " for cell in row) for row in cells]


def greatest(*courses: Sequence[float | None]) -> float:
    """The greatest value, 0 without one."""
    return max((value for course in courses for value in course if value is not None), default=0.0)


def column_of(place: float, width: int) -> int:
    """The cell of a place between 0 and 1."""
    return min(max(int(place * width), 0), max(width - 1, 0))


def _at(values: Sequence[float | None], x: int, columns: int) -> float | None:
    return values[x * len(values) // columns] if values else None


def _level(value: float | None, top: float, levels: int) -> int:
    if not value or top <= 0:
        return 0
    return max(round(value / top * levels), 1)
