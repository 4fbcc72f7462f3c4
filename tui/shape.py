"""How the first screen divides its terminal. Pure: the terminal's width and height, and three questions to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST: Final = (60, 12)
"""The columns and lines of the smallest terminal that shows the list."""
FRAMED: Final = 100
"""From this many columns on, parts have frames. Below, the title is a bar, and the columns of the sides are saved."""
TALL: Final = 30
"""From this many lines on there are the plot and the pane. Below, the list takes all."""
WIDE: Final = 150
"""From this many columns on, the pane is right of the list, else below it."""
MORE_LINES: Final = 45
"""From this many lines on, the plot also shows the jobs that wait."""
MORE_MINUTES: Final = 180
"""From this many columns on, the plot shows two hours."""
MINUTES: Final = 120
"""The most minutes of a plot."""
LEAST_NOW: Final = 40
"""The columns that the box `now` always keeps beside the plot."""
SHORT_NOW: Final = 2
"""The lines of `now` without a frame."""
GUTTER: Final = 12
"""The columns of a lane's name and scale."""
SIDES: Final = 4
"""The columns of a frame and of the blanks within."""


class Part(NamedTuple):
    """The place of one part of the screen, in cells."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The division of a terminal. `pane` is whether the person wants the pane."""

    width: int
    height: int
    pane: bool = True

    @property
    def too_small(self) -> bool:
        return self.width < LEAST[0] or self.height < LEAST[1]

    @property
    def framed(self) -> bool:
        return self.width >= FRAMED

    @property
    def tall(self) -> bool:
        return self.height >= TALL

    @property
    def pane_right(self) -> bool:
        return self.pane and self.tall and self.width >= WIDE

    @property
    def pane_below(self) -> bool:
        return self.pane and self.tall and self.width < WIDE

    @property
    def lanes(self) -> tuple[int, int, int]:
        """The lines of the lanes ok, failed and wait."""
        return (3, 2, 1) if self.height >= MORE_LINES else (3, 1, 0)

    @property
    def minutes(self) -> int:
        """The most minutes that the plot has room for; 0 without a plot."""
        if not self.tall:
            return 0
        if not self.framed:
            return min(60, self.width - GUTTER - 2)
        return MINUTES if self.width >= MORE_MINUTES else min(60, self.width - LEAST_NOW - GUTTER - SIDES)

    @property
    def plot_height(self) -> int:
        """The lines of the plot with its two lines of the axis, and with its frame or its bar."""
        return (sum(self.lanes) + 2 + (2 if self.framed else 1)) if self.tall else 0

    def parts(self) -> Mapping[str, Part]:
        """The places of all parts that this terminal shows, from top to bottom."""
        width, framed = self.width, self.framed
        found = {"header": Part(0, 0, width, 1)}
        at = 1
        if self.tall and framed:
            plot = self.minutes + GUTTER + SIDES
            found["now"] = Part(0, at, width - plot, self.plot_height)
            found["plot"] = Part(width - plot, at, plot, self.plot_height)
            at += self.plot_height
        else:
            found["now"] = Part(0, at, width, SHORT_NOW)
            at += SHORT_NOW
            if self.tall:
                found["plot"] = Part(0, at, width, self.plot_height)
                at += self.plot_height
        found["tabs"] = Part(0, at, width, 1)
        at += 1
        foot = 2
        room = self.height - at - foot
        right = width * 2 // 5 if self.pane_right else 0
        below = (6 if framed else 5) if self.pane_below else 0
        found["list"] = Part(0, at, width - right, room - below)
        if right:
            found["pane"] = Part(width - right, at, right, room)
        elif below:
            found["pane"] = Part(0, at + room - below, width, below)
        found["peek"] = Part(0, self.height - 2, width, 1)
        found["keys"] = Part(0, self.height - 1, width, 1)
        return found
