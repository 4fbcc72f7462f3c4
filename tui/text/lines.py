"""Lines that several pages have: a described table, and names with values. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from rich.cells import cell_len

from jobdeck.core.words.tables import Amount, Column, Seconds, Share, Value
from jobdeck.tui.format import DASH, age, fit, middle, one_line, short_name, wrapped
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

T = TypeVar("T")
LABEL = 14


def heading(columns: Iterable[Column[T]], *, roomy: bool = True) -> str:
    """The names of the columns that the dashboard shows, each behind a blank, above their values."""
    return "".join(f" {one.name:{'<' if one.left else '>'}{one.cells}}" for one in _shown(columns, roomy=roomy))


def cells(columns: Iterable[Column[T]], row: T, *, roomy: bool = True) -> list[Span]:
    """The values of one row below `heading`."""
    return [
        (f" {written(one.value(row), one.cells):>{one.cells}}", one.colour(row)) for one in _shown(columns, roomy=roomy)
    ]


def width_of(columns: Iterable[Column[T]], *, roomy: bool = True) -> int:
    """The cells of a row."""
    return sum(one.cells + 1 for one in _shown(columns, roomy=roomy))


def named(task_type: str, room: int, fronts: Sequence[str]) -> list[Span]:
    """A task type in exactly `room` cells: without the front that several share, otherwise cut in its middle."""
    name = one_line(task_type)
    fits = cell_len(name) <= room or any(name.startswith(front) for front in fronts)
    spans = short_name(name, room, fronts) if fits else ((middle(name, room), "text"),)
    return [*spans, (" " * max(room - sum(cell_len(text) for text, _ in spans), 0), "text")]


def written(value: Value, room: int) -> str:
    """A value in few cells."""
    match value:
        case Amount():
            return value.within(room)
        case Share():
            return value.brief
        case Seconds():
            return value.words(age)
        case timedelta():
            return age(value)
        case str():
            return fit(one_line(value), room)
        case _:
            return DASH


def facts(pairs: Iterable[tuple[str, str, str]], width: int, *, most: int | None = None) -> list[Entry]:
    """A line for each name, value and ink; a long value goes on below, and is cut on the last of `most` lines."""
    room = max(width - LABEL - 2, 20)
    return [
        entry((f" {'' if number else name:<{LABEL}}", "muted"), (part, ink))
        for name, text, ink in pairs
        for number, part in enumerate(_at_most(wrapped(text, room), room, most))
    ]


def _at_most(parts: Sequence[str], room: int, most: int | None) -> Sequence[str]:
    if most is None or len(parts) <= most:
        return parts
    return [*parts[: most - 1], fit(" ".join(parts[most - 1 :]), room).rstrip()]


def _shown(columns: Iterable[Column[T]], *, roomy: bool) -> Sequence[Column[T]]:
    return [one for one in columns if one.cells and (roomy or not one.roomy)]
