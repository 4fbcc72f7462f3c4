"""Parts with a frame, beside each other, as lines of few spans. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from jobdeck.tui.shape import SIDES
from jobdeck.tui.widgets.ink import cut, width_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.tui.widgets.ink import Span

    Row = tuple[Span, ...]

GROUNDED: Final = frozenset({"head", "tab", "alert", "danger", "cursor", "field", "unset", "picked"})
"""Inks in which a blank is seen."""


def sides(left: Sequence[Span], right: Sequence[Span], width: int, *, ink: str = "text") -> Row:
    """Left and right in exactly `width` cells. The right one stays whole, a left one that is too long is cut."""
    room = width - width_of(right) - (1 if right else 0)
    used = width_of(left)
    if used > room:
        return (*cut(left, room), *([(" ", ink)] if right else []), *right)
    return (*left, (" " * (width - used - width_of(right)), ink), *right)


def framed(
    title: Sequence[Span], rows: Sequence[Sequence[Span]], width: int, height: int, foot: Sequence[Span] = ()
) -> list[Row]:
    """The rows in a round frame of `width` and `height`: the title is in its upper edge, `foot` in its lower one."""
    body = [tuple(row) for row in rows][: height - 2]
    body += [()] * (height - 2 - len(body))
    return [
        upper(title, width),
        *((("│ ", "line"), *sides(row, (), width - SIDES), (" │", "line")) for row in body),
        lower(foot, width),
    ]


def upper(title: Sequence[Span], width: int, right: Sequence[Span] = ()) -> Row:
    """The upper edge of a frame with its title, and what is said at its right end."""
    if not title:
        return (("╭" + "─" * (width - 2) + "╮", "line"),)
    end: list[Span] = [(" ", "line"), *right, (" ─╮", "line")] if right else [("─╮", "line")]
    named = _shortened(title, width - 4 - width_of(end))
    rest = width - width_of(named) - 4 - width_of(end)
    return (("╭─ ", "line"), *named, (f" {'─' * rest}", "line"), *end)


def lower(foot: Sequence[Span], width: int) -> Row:
    """The lower edge of a frame, with what is said at its right end."""
    said = _shortened(foot, width - 6)
    if not said:
        return (("╰" + "─" * (width - 2) + "╯", "line"),)
    return (("╰" + "─" * (width - width_of(said) - 5) + " ", "line"), *said, (" ─╯", "line"))


def barred(title: Sequence[Span], rows: Sequence[Sequence[Span]], width: int, foot: Sequence[Span] = ()) -> list[Row]:
    """The rows below a bar with the title and `foot`, for a terminal without room for frames."""
    inks = {"text": "field", "strong": "field", "muted": "unset"}
    named: list[Span] = [(" ", "field"), *((text, inks.get(ink, ink)) for text, ink in title)]
    said: list[Span] = [*((text, inks.get(ink, "field")) for text, ink in foot), (" ", "field")]
    bar = sides(named, said, width, ink="field")
    return [bar, *(((" ", "text"), *sides(row, (), width - 1)) for row in rows)]


def beside(left: Sequence[Row], right: Sequence[Row]) -> list[Row]:
    """Two parts of one height beside each other."""
    return [(*a, *b) for a, b in zip(left, right, strict=True)]


def merged(spans: Iterable[Span]) -> Row:
    """The same cells in as few spans as possible: over a slow line a span costs 40 bytes, a character 1 to 3.

    A blank without a ground has no ink of its own, so it joins its neighbour.
    """
    inked: list[Span] = []
    for text, ink in spans:
        blank = not text.strip(" ") and ink not in GROUNDED
        before = inked[-1][1] if inked else None
        inked.append((text, before if blank and before is not None and before not in GROUNDED else ink))
    return tuple(("".join(text for text, _ in run), ink) for ink, run in groupby(inked, key=lambda span: span[1]))


def _shortened(spans: Sequence[Span], room: int) -> Sequence[Span]:
    return spans if width_of(spans) <= room else cut(spans, room)
