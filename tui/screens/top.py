"""The part of the first screen above the tabs: the box `now` and the plot of the last hour."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from textual.message import Message

from jobdeck.tui.deck import deck_of
from jobdeck.tui.format import fit, one_line
from jobdeck.tui.shape import MINUTES
from jobdeck.tui.text.first.now import FAILURES, SIGNS, with_error
from jobdeck.tui.text.first.top import top
from jobdeck.tui.widgets.ink import changed_cells
from jobdeck.tui.widgets.pane import Entry, Pane
from jobdeck.tui.widgets.status_bar import dimmed

if TYPE_CHECKING:
    from datetime import datetime

    from textual.events import Click

    from jobdeck.core.model import Finding
    from jobdeck.core.read.stats.minutes import LastMinutes
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.shape import Shape

LONGEST: Final = 40
"""Cells of a value in `now`: a UUID is whole."""


class Top(Pane, can_focus=False):
    """Draws what was read with the list. The minutes of the plot are read after it, once in every minute."""

    class Led(Message):
        """A line of `now` was clicked, which leads to an action."""

        def __init__(self, action_id: str) -> None:
            super().__init__()
            self.action_id = action_id

    def __init__(self) -> None:
        super().__init__(cursor=False, id="now")
        self._minutes: LastMinutes | None = None
        self._asked: datetime | None = None
        """The minute for which the plot was read last."""
        self._actions: list[str] = []
        self._shape: Shape | None = None
        self._stale = False
        self._values: dict[str, tuple[str, str]] = {}
        """By failing task type, what its finding says without the value of a payload key, and with it."""
        self._errors: dict[str, str] = {}
        """By failing task type, the most common error of its newest failed runs."""
        self._explained: tuple[datetime, frozenset[object]] | None = None
        """The minute and the verdicts for which the values and errors were read last."""

    @property
    def text(self) -> str:
        """The lines without colours."""
        return "\n".join("".join(text for text, _ in one.spans).rstrip() for one in self.entries)

    def draw(self, shape: Shape, *, stale: bool) -> None:
        """Draws what is known, in grey if it is `stale`; only cells that differ are repainted."""
        if shape.too_small:
            return
        self._shape, self._stale = shape, stale
        deck = deck_of(self)
        rows, self._actions = top(self._named(deck.view), self._minutes, shape, took=deck.poller.took, key=deck.key)
        if self.styles.height is None or self.styles.height.value != len(rows):
            self.styles.height = len(rows)
        self.show([Entry(tuple(dimmed(row, but="line")) if stale else row) for row in rows])
        self._read()

    def on_click(self, event: Click) -> None:
        action = self._actions[event.y] if event.y < len(self._actions) else ""
        if action and self._shape is not None and event.x < self._shape.parts()["now"].width:
            self.post_message(self.Led(action))

    def _difference(self, before: tuple[Entry, bool], after: tuple[Entry, bool]) -> tuple[int, int]:
        return changed_cells(before[0].spans, after[0].spans, self.size.width)

    def _read(self) -> None:
        """Reads the minutes if the plot is shown and a minute has ended since the last reading."""
        deck = deck_of(self)
        self._read_causes(deck)
        if deck.view is None or self._shape is None or not self._shape.minutes or self._stale:
            return
        minute = deck.view.snapshot.at.replace(second=0, microsecond=0)
        if minute != self._asked:
            from jobdeck.core.read.stats.minutes import last_minutes  # noqa: PLC0415 -- not for the first frame

            self._asked = minute
            deck.background(lambda: deck.reach().read(last_minutes, MINUTES), self._answered)

    def _named(self, view: View | None) -> View | None:
        """What was read; findings of failing types have an error, and the values of payload keys that may be seen."""
        if view is None or not (self._values or self._errors):
            return view
        health = view.snapshot.health
        findings = tuple(self._told(one) if one.signal == FAILURES else one for one in health.findings)
        return replace(view, snapshot=replace(view.snapshot, health=replace(health, findings=findings)))

    def _told(self, one: Finding) -> Finding:
        evidence = one.evidence
        if one.subject in self._values:
            evidence = evidence.replace(*self._values[one.subject], 1)
        if one.subject in self._errors:
            width = self._shape.parts()["now"].width if self._shape is not None else 0
            evidence = with_error(evidence, self._errors[one.subject], width)
        return replace(one, evidence=evidence)

    def _read_causes(self, deck: Deck) -> None:
        """Reads the values and errors of failing types once in every minute, and when a verdict changes."""
        if deck.view is None or self._stale:
            return
        failing = [one for one in deck.view.snapshot.health.findings if one.signal == FAILURES and one.verdict in SIGNS]
        minute = deck.view.snapshot.at.replace(second=0, microsecond=0)
        wanted = minute, frozenset((one.subject, one.since, one.verdict) for one in failing)
        if failing and wanted != self._explained:
            from jobdeck.core.read.verdict.failing_types import causes  # noqa: PLC0415 -- not for the first frame

            self._explained = wanted
            deck.background(lambda: deck.reach().read(causes), self._took_causes)

    def _took_causes(self, answer: tuple[dict[str, tuple[str, Any]], dict[str, str]] | Exception) -> None:
        """Takes the values and errors. After a failed reading nothing is shown of them, until the next minute."""
        if not self.is_attached or self._shape is None:
            return
        from jobdeck.core.read.verdict.failing_types import facet_words  # noqa: PLC0415 -- not for the first frame
        from jobdeck.core.words.facets import masked  # noqa: PLC0415 -- not for the first frame

        values, self._errors = ({}, {}) if isinstance(answer, Exception) else answer
        self._values = {}
        for task_type, (key, value) in values.items():
            text = one_line(masked(key, value))
            words = facet_words(key), facet_words(key, fit(text, min(cell_len(text), LONGEST)))
            hidden, shown = (f"{task_type}: {part} fails" for part in words)
            self._values[task_type] = hidden, shown
        self.draw(self._shape, stale=self._stale)

    def _answered(self, answer: LastMinutes | Exception) -> None:
        """Takes the minutes. After an error they are read again in the next minute; the list says what is wrong."""
        if isinstance(answer, Exception) or not self.is_attached or self._shape is None:
            return
        self._minutes = answer
        self.draw(self._shape, stale=self._stale)
