"""The text of a plugin's page, as lines. Pure; every text of the plugin is cleaned and masked here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len

from jobdeck.tui.format import fit, one_line
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.tui.actions import Situation

GAP = 2


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Entry]:
    """A heading and a line for each row; the key of a line is its row."""
    texts = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = _widths([list(columns), *texts], width - 1)
    head = entry((f" {_line(columns, widths)}", "head"))
    if not rows:
        return [head, entry((" No rows.", "muted"))]
    listed = [
        entry((f" {_line(text, widths)}", "text"), key=("row", tuple(row)))
        for row, text in zip(rows, texts, strict=True)
    ]
    return [head, *listed]


def refusing(situation: Situation, *, acts: bool, row: Sequence[str] | None) -> Situation:
    """The situation, with the reason if no action can be taken on the row."""
    if not acts:
        reason = "This page is read-only."
    elif row is None:
        reason = "There is no row under the cursor."
    else:
        return situation
    return replace(situation, refused={"table.act": reason})


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width of each column's longest text; the widest columns shrink until all fit in `room` cells."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while widths and max(widths) > 1 and sum(widths) + GAP * (len(widths) - 1) > room:
        widths[widths.index(max(widths))] -= 1
    return widths
