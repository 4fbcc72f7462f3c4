"""The columns of the job table at each width."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `sort` is the sort key of its heading, `grow` its share of spare cells, `x` its first cell."""

    id: str
    title: str
    width: int
    sort: str | None = None
    grow: int = 0
    x: int = 0


FIRST_CELL: Final = 1
"""Where the signs are. The cell before them has the marks."""
ROOMY: Final = 132
"""From this width on, columns are two cells apart; below it, one."""
WIDE: Final = 150
"""From this width on, a list has the tries and the age of its jobs as well."""
HAS_IDS: Final = 110
HAS_TWO_TIMES: Final = 100
"""From this width on, a list has the last and the next run, below it one of the two."""
HAS_WHAT: Final = 56
LEAST: Final = 4
"""The cells to which a column that grows may shrink."""
ARGUMENTS: Final = "arguments"
ALWAYS: Final = "task"
"""The column that every list has, besides the signs."""
SIGN: Final = Column("sign", "", 1)
_EVERY: Final = {
    column.id: column
    for column in (
        Column("task", "task", 36, "task"),
        Column("what", "what", 20, "error", grow=1),
        Column("status", "status", 10, "status"),
        Column("attempts", "try", 4, "attempts"),
        Column("created", "created", 8, "created"),
        Column("started", "for", 5, "run_at"),
        Column("last", "last", 7, "last_run"),
        Column("next", "next", 10, "run_at"),
        Column("when", "when", 10, "run_at"),
        Column("progress", "progress", 25),
        Column("error", "error", 20, "error", grow=1),
        Column("id", "job", 8, "natural"),
    )
}
CATALOGUE: Final = {
    **{column.id: column.title for column in _EVERY.values()},
    "attempts": "attempts",
    "last": "last run",
    "next": "next scheduled",
    "started": "running for",
    "when": "when: the last run or the next",
    "what": "what: arguments, errors, reasons, progress",
}
"""What the columns that can be chosen are called in the dialog, in their order."""


def layout(
    width: int, status: Status | None = None, *, one_type: bool = False, chosen: Collection[str] = ()
) -> tuple[Column, ...]:
    """The columns for a table of `width` cells. One cell is kept for the mark and one at the right edge.

    `chosen` are those that the person chose for the tab, as many of them as fit; without them, the usual ones.

    They depend on the tab and the filter alone, never on the rows, so that no column comes or goes while an operator
    scrolls or the list is read again. With `one_type`, all jobs have one task type, which is not repeated.
    """
    gap = 1 if width < ROOMY else 2
    kept = [SIGN, *(_chosen(width, chosen, gap) if chosen else _sized(width, _of_tab(width, status)))]
    return _placed(_of_one_type(kept) if one_type else kept, width, gap)


def _of_tab(width: int, status: Status | None) -> list[str]:
    """The columns of a tab: none that would be equal in all its rows."""
    wide, two = width >= WIDE, width >= HAS_TWO_TIMES
    names = ["task", *(["what"] if width >= HAS_WHAT else [])]
    names += ["status"] if status in {None, Status.PENDING} else []
    names += ["attempts"] if wide or (two and status in {Status.FAILED, Status.RUNNING}) else []
    names += ["created"] if wide or (two and status in {Status.SUCCEEDED, Status.CANCELLED}) else []
    if status is Status.RUNNING:
        names += ["started", "next"]
    elif status in {None, Status.PENDING}:
        names += ["last", "next"] if two else ["when"]
    elif status is Status.SUCCEEDED and two:
        names += ["last", "next"]
    else:
        names += ["last"] if two else ["when"]
    return [*names, *(["id"] if width >= HAS_IDS else [])]


def _sized(width: int, names: Iterable[str]) -> list[Column]:
    task = 36 if width >= 116 else 33 if width >= HAS_TWO_TIMES else 27 if width >= 76 else 18
    columns = [replace(_EVERY[name], width=task) if name == "task" else _EVERY[name] for name in names]
    if any(column.grow for column in columns):
        return columns
    return [replace(column, grow=1, width=LEAST) if column.id == "task" else column for column in columns]


def _chosen(width: int, chosen: Collection[str], gap: int) -> list[Column]:
    """The chosen columns in the order of the catalogue, as wide as is usual at this width, while they fit."""
    kept: list[Column] = []
    room = width - FIRST_CELL - SIGN.width - 1
    for column in _sized(width, [name for name in _EVERY if name in chosen or name == ALWAYS]):
        room -= (LEAST if column.grow else column.width) + gap
        if room < 0:
            break
        kept.append(column)
    return kept


def _of_one_type(kept: Sequence[Column]) -> list[Column]:
    """Without the name; its badges go to what tells the jobs apart."""
    if all(column.id != "what" for column in kept):
        return [replace(one, id=ARGUMENTS, title="what", sort="error") if one.id == "task" else one for one in kept]
    rest = [column for column in kept if column.id != "task"]
    return [replace(one, id=ARGUMENTS) if one.id == "what" else one for one in rest]


def _placed(chosen: Sequence[Column], width: int, gap: int) -> tuple[Column, ...]:
    """The columns with their first cells; those that grow share the spare cells, the others end at the right edge."""
    gaps = 1 + gap * (len(chosen) - 2)
    spare = width - FIRST_CELL - 1 - sum(column.width for column in chosen) - gaps
    growing = [column for column in chosen if column.grow]
    placed, x, left = [], FIRST_CELL, max(spare, 0)
    for column in chosen:
        extra = 0
        if column.grow:
            extra = left if column is growing[-1] else max(spare, 0) // len(growing)
            left -= extra
        room = column.width + extra if spare >= 0 or not column.grow else max(column.width + spare, LEAST)
        placed.append(replace(column, width=room, x=x))
        x += room + (1 if column is chosen[0] else gap)
    return tuple(placed)
