"""The box `now` and the plot, as they are beside or below each other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.model import Verdict
from jobdeck.tui.shape import GUTTER, SIDES
from jobdeck.tui.text.first import lanes, now
from jobdeck.tui.text.first.frames import barred, beside, framed, merged

if TYPE_CHECKING:
    from jobdeck.core.read.stats.minutes import LastMinutes
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.shape import Shape
    from jobdeck.tui.text.first.frames import Row
    from jobdeck.tui.text.first.now import Named
    from jobdeck.tui.widgets.ink import Span


def top(
    view: View | None, minutes: LastMinutes | None, shape: Shape, *, took: float = 0.0, key: Named
) -> tuple[list[Row], list[str]]:
    """The lines above the tabs, and for each the action that its part of `now` leads to."""
    parts = shape.parts()
    there = parts["now"]
    if "plot" not in parts:
        rows, actions = now.lines(now.items(view, took), there.width - 2, there.height, key)
        return _padded([((" ", "text"), *row) for row in rows], there.height), actions
    count = lanes.fitting(minutes, shape.minutes)
    alarmed = view is not None and view.snapshot.health.verdict in {Verdict.CRITICAL, Verdict.WARNING}
    drawn = lanes.plot(minutes, count, shape.lanes, alarmed=alarmed)
    title: list[Span] = [(lanes.heading(count), "strong")]
    rates = now.rates(view, count + GUTTER - 5 - len(lanes.heading(count)))
    if rates:
        title.append((f"   {rates}", "muted"))
    found = now.items(view, took, figures=False)
    if not shape.framed:
        rows, actions = now.lines(found, there.width - 2, there.height, key)
        above = _padded([((" ", "text"), *row) for row in rows], there.height)
        return [*above, *barred(title, drawn, shape.width)], actions
    width = count + GUTTER + SIDES
    left = shape.width - width
    rows, actions = now.lines(found, left - SIDES, there.height - 2, key)
    both = beside(
        framed([("now", "strong")], rows, left, there.height),
        framed(title, drawn, width, there.height, lanes.legend(minutes, count, width - 8)),
    )
    return [merged(row) for row in both], ["", *actions]


def _padded(rows: list[Row], height: int) -> list[Row]:
    return [*rows, *[()] * (height - len(rows))]
