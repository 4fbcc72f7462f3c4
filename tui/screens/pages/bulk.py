"""The page of bulk actions: the progress of one action and the answer for each of its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.content import Content

from jobdeck.core.queue.bulk_model import UNDONE_BY
from jobdeck.tui.commands import bulk_twin, twin_on
from jobdeck.tui.format import ago, bar, fit, middle, one_line, progress, short_id, wrapped
from jobdeck.tui.screens.dialogs.confirm import Question, ask
from jobdeck.tui.screens.dialogs.questions import bulk_undo_question
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.terminal.output import copy
from jobdeck.tui.widgets.pane import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

TYPE_WIDTH: Final = 34
IDLE: Final = timedelta(seconds=10)
NEAR_END: Final = 100
MOST: Final = 20_000
"""Answers kept on this page; `jobdeck bulk show` prints more."""


@dataclass(frozen=True, slots=True)
class BulkReport:
    """The bulk actions, and the answers of the one that is shown."""

    bulks: tuple[Bulk, ...] = ()
    shown: Bulk | None = None
    answers: tuple[BulkAnswer, ...] = ()
    more: bool = False


@dataclass(slots=True)
class _Wish:
    """What to read next."""

    bulk_id: UUID | None = None
    refused: bool = False
    parts: int = 1


class BulkPage(ListPage[BulkReport]):
    """One bulk action at a time, the newest first."""

    SCOPE: ClassVar[Scope] = "bulk"
    HEADING: ClassVar[str] = "Bulk actions"

    def __init__(self) -> None:
        super().__init__()
        self.wish = _Wish()
        self._begun: tuple[UUID, bool] | None = None

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "bulk.refused": self._toggle_refused,
            "bulk.older": lambda: self._go(1),
            "bulk.newer": lambda: self._go(-1),
            "bulk.go_on": self._resume,
            "bulk.stop": self._stop,
            "bulk.undo": self._undo,
            "copy.twin": self._copy_twin,
        }

    def read(self, backend: Backend) -> BulkReport:
        """Reads the actions, and as many answers of one as the cursor has reached."""
        wish = self.wish
        bulks = tuple(backend.bulk.newest())
        shown = next((one for one in bulks if one.id == wish.bulk_id), bulks[0] if bulks else None)
        answers: list[BulkAnswer] = []
        more = shown is not None
        for _ in range(wish.parts):
            if shown is None or not more:
                break
            after = answers[-1].job_id if answers else None
            part = backend.bulk.answers(shown.id, refused=wish.refused, after=after)
            answers += part
            more = bool(part)
        return BulkReport(bulks, shown, tuple(answers), more)

    def refused(self) -> dict[str, str]:
        """Refuses to stop, resume or undo an action whose state does not allow it."""
        shown = self.data.shown if self.data else None
        return reasons(shown, self.deck.now(), mine=self._mine())

    def entries(self, data: BulkReport, width: int) -> Sequence[Entry]:
        """The progress and who started it, then the answers."""
        found = data.shown
        if found is None:
            key = self.deck.key("mark.matching")
            begins = f"No bulk actions in the last 30 days. On the list, {key} selects all jobs that match its filter."
            return [entry((f" {part}", "muted")) for part in wrapped(begins, max(width - 2, 20))]
        lines = heading(self._mine() or found, data, self.deck.now())
        if not data.answers:
            none = "No job was refused." if self.wish.refused else "No answers yet."
            return [*lines, entry((f" {none}", "muted"))]
        return [*lines, *(line for answer in data.answers for line in answer_lines(answer, width))]

    def redraw(self) -> None:
        """Redraws the page; the cursor starts on the first answer, since no job belongs to the lines above."""
        super().redraw()
        shown = self.data.shown if self.is_there and self.data else None
        if shown is None or self._begun == (shown.id, self.wish.refused):
            return
        first = next((at for at, line in enumerate(self.pane.entries) if line.key is not None), None)
        if first is not None:
            self._begun = shown.id, self.wish.refused
            self.pane.move_to(first)

    def summary(self, data: BulkReport) -> list[Span]:
        """The place of the shown action among all, and whether only refusals are listed."""
        if data.shown is None:
            return []
        place = data.bulks.index(data.shown) + 1
        others = f"  {self.deck.key('bulk.older')} older  {self.deck.key('bulk.newer')} newer"
        spans: list[Span] = [(f"{place} of {len(data.bulks)}", "muted"), (others, "muted")]
        if self.wish.refused:
            spans.append(("  refused only", "warn"))
        return spans

    def on_pane_moved(self) -> None:
        """Reads more answers near the end of the list."""
        data = self.data
        if data and data.more and len(data.answers) < MOST and self.pane.cursor >= len(self.pane.entries) - NEAR_END:
            self.wish.parts += 1
            self.reread()

    def _mine(self) -> Bulk | None:
        """The shown action as this dashboard's own steps have left it; None if another process runs it."""
        running = self.deck.operations.bulk.running
        shown = self.data.shown if self.data else None
        return running if running is not None and shown is not None and running.id == shown.id else None

    def _look(self, bulk_id: UUID | None, *, refused: bool) -> None:
        self.wish = _Wish(bulk_id, refused)
        self.pane.move_to(0)
        self.reread()

    def _toggle_refused(self) -> None:
        self._look(self.data.shown.id if self.data and self.data.shown else None, refused=not self.wish.refused)

    def _go(self, by: int) -> None:
        data = self.data
        if data is None or data.shown is None:
            return
        at = data.bulks.index(data.shown) + by
        if 0 <= at < len(data.bulks):
            self._look(data.bulks[at].id, refused=False)
        else:
            self.deck.say("This is the oldest bulk action." if by > 0 else "This is the newest bulk action.")

    def _resume(self) -> None:
        shown = self.data.shown if self.data else None
        if shown is None:
            return
        started = f"Started by {one_line(shown.actor)} {ago(shown.started_at, self.deck.now())}."
        body = f"{progress(shown).capitalize()}. {started} This dashboard will process the rest."
        word, left = shown.action or "resume", shown.total - shown.done
        same = twin_on("resume", shown)
        question = Question("Resume this bulk action", Content(body), "Resume", word=word, number=left, twin=same)
        self._ask(question, lambda: self.deck.operations.bulk.go_on(shown))

    def _stop(self) -> None:
        shown = self.data.shown if self.data else None
        if shown is None:
            return
        body = Content(f"{progress(shown).capitalize()}. Finished jobs keep their result; the rest stay as they are.")
        same = twin_on("stop", shown)
        question = Question("Stop this bulk action", body, "Stop", "Keep running", danger=True, twin=same)
        self._ask(question, lambda: self.deck.operations.bulk.stop(shown))

    def _undo(self) -> None:
        shown = self.data.shown if self.data else None
        if shown is None:
            return
        question = bulk_undo_question(shown)
        self._ask(question, lambda: self.deck.operations.bulk.undo(shown))

    def _ask(self, question: Question, then: Callable[[], object]) -> None:
        def sure() -> None:
            then()
            self.redraw()

        ask(self, question, sure)

    def _copy_twin(self) -> None:
        if self.data and self.data.shown:
            self.deck.say(copy(self.app, bulk_twin(self.data.shown)))


def reasons(shown: Bulk | None, now: datetime, *, mine: Bulk | None) -> dict[str, str]:
    """The reasons why an action is not available for the shown bulk action, by action id."""
    if shown is None:
        return dict.fromkeys(("bulk.go_on", "bulk.stop", "bulk.undo", "bulk.refused", "copy.twin", "open"),
                             "No bulk action to show.")  # fmt: skip
    found: dict[str, str] = {}
    if shown.state != "running":
        found["bulk.stop"] = f"It is {shown.state} already."
        found["bulk.go_on"] = f"It is {shown.state}; there is nothing left to do."
    elif mine is not None:
        found["bulk.go_on"] = "This dashboard is already running it."
    elif shown.stepped_at is not None and now - shown.stepped_at < IDLE:
        found["bulk.go_on"] = f"{one_line(shown.driver or 'Another process')} is running it."
    if shown.action not in UNDONE_BY:
        found["bulk.undo"] = "Only a deletion and an edit can be undone."
    elif shown.state == "running" or shown.done == shown.refused:
        found["bulk.undo"] = "It is still running." if shown.state == "running" else "It changed nothing."
    return found


def heading(found: Bulk, data: BulkReport, now: datetime) -> list[Entry]:
    """Progress, selection, who started it, who runs it, and the equivalent command."""
    ink = "run" if found.state == "running" else "warn" if found.refused or found.left else "good"
    share = found.done / found.total if found.total else 1.0
    lines = [entry((f" {bar(share, 20)} ", ink), (progress(found), ink))]
    words = "marked jobs" if found.words is None else f"filter: {one_line(found.words) or 'none'}"
    by = f" {words} · started by {one_line(found.actor)} {ago(found.started_at, now)}"
    lines.append(entry((by, "muted"), (f" · {one_line(found.reason)}" if found.reason else "", "muted")))
    if found.state == "running" and found.driver and found.driver != found.actor:
        lines.append(entry((f" running on {one_line(found.driver)}", "muted")))
    if found.stopped_by:
        lines.append(entry((f" stopped by {one_line(found.stopped_by)}", "warn")))
    if found.trouble:
        lines.append(entry((f" the last batch failed: {one_line(found.trouble)}", "bad")))
    lines.append(entry((f" {bulk_twin(found)}", "accent")))
    if len(data.answers) >= MOST:
        lines.append(entry((f" the first {MOST:,} answers; jobdeck bulk show {found.id.hex[-8:]} has more", "muted")))
    return [*lines, entry()]


def answer_lines(answer: BulkAnswer, width: int) -> list[Entry]:
    """The answer for one job. A refusal is wrapped, never cut, since its end gives the reason."""
    word, ink = {True: ("✓ done", "good"), False: ("✗ refused", "bad"), None: ("○ waiting", "muted")}[answer.ok]
    room = TYPE_WIDTH if width >= 110 else 20
    message, key = one_line(answer.message or ""), ("job", answer.job_id)
    rest = max(width - 24 - room, 8)
    lines = wrapped(message, rest) if answer.ok is False else [fit(message, rest).rstrip()]
    ink_of_text = "text" if answer.ok is False else "muted"
    first = entry(
        (f" {short_id(answer.job_id)}  ", "muted"),
        (f"{fit(word, 10)} ", ink),
        (f"{fit(middle(one_line(answer.task_type or '?'), room), room)}  ", "text"),
        (lines[0], ink_of_text),
        key=key,
    )
    return [first, *(entry((f"{'':{24 + room}}{line}", ink_of_text), key=key) for line in lines[1:])]
