"""The pane with the details of the job under the cursor, right of the list or below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.containers import Vertical

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.deck import deck_of
from jobdeck.tui.format import one_line, plural
from jobdeck.tui.screens.follower import Follower
from jobdeck.tui.text.first.frames import lower, upper
from jobdeck.tui.widgets.ink import PlainLine
from jobdeck.tui.widgets.pane import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from jobdeck.core.model import Job
    from jobdeck.core.read.report_types import JobDetail
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.shape import Shape
    from jobdeck.tui.widgets.ink import Span

ROOMY: Final = 90
"""From this many columns on, what a job is and what became of it are side by side."""
EVERY: Final = 10.0
"""How many seconds pass before the history of a job that has not changed is read again."""


class Beside(Vertical):
    """Follows the cursor. What the list knows of a job is shown at once, its history below as soon as it is read.

    While the cursor moves fast, only the history of the first and of the last job is read.
    """

    def __init__(self) -> None:
        super().__init__(id="beside")
        self._wanted: bool | None = None
        self._job: Job | None = None
        self._detail: JobDetail | None = None
        self._following = False
        self._history: Follower[Job, JobDetail | None] = Follower(self, self._read, self._answered)

    @property
    def wanted(self) -> bool:
        """Whether the person wants the details, as chosen before; yes while the choice cannot be read."""
        if self._wanted is None:
            try:
                self._wanted = deck_of(self).options.preferences.beside()
            except JobdeckError:
                # The list says it, which reads its columns from the same file.
                self._wanted = True
        return self._wanted

    def toggle(self) -> None:
        """Shows or hides the details, and keeps the choice."""
        self._wanted = not self.wanted
        deck = deck_of(self)
        try:
            deck.options.preferences.show_beside(self._wanted)
        except JobdeckError as error:
            deck.say(one_line(str(error)), "warning")

    def compose(self) -> ComposeResult:
        yield PlainLine(id="beside-title")
        sheet = Sheet(roomy=ROOMY, id="beside-text")
        sheet.can_focus = False
        yield sheet
        yield PlainLine(id="beside-foot")

    def place(self, shape: Shape) -> None:
        """Takes the place that the shape of the screen gives it."""
        part = None if shape.too_small else shape.parts().get("pane")
        self.set_class(shape.framed, "-framed")
        if part is not None:
            self.styles.width = part.width
            self.styles.height = "1fr" if shape.pane_right else part.height

    @property
    def deck(self) -> Deck:
        return deck_of(self)

    def follow(self, job: Job | None) -> None:
        """Shows this job, and reads its history if it is another one, has changed, or was read long ago."""
        before, self._job, self._following = self._job, job, True
        if job is None or before is None or job.id != before.id:
            self._detail = None
            self.query_one(Sheet).move_to(0)
        self.draw()
        if job is None:
            self._history.leave()
        elif self._detail is None or job != before or self._history.is_old(EVERY):
            self._history.want(job)

    def leave(self) -> None:
        """Reads and draws nothing until a job is followed again."""
        self._following = False
        self._history.leave()

    def draw(self) -> None:
        """Draws what is known; only lines that differ are repainted."""
        job, now = self._job, self.deck.now()
        if job is None:
            self._title([], [])
            self.query_one(Sheet).show(())
            return
        from jobdeck.tui.text import job_detail, playbook  # noqa: PLC0415 -- not needed for the first paint

        runs = self._detail.runs if self._detail is not None else ()
        page = job_detail.Page(
            job, self._detail, now, width=self.query_one(Sheet).size.width, key=self.deck.key,
            advice=playbook.advice(job.task_type, runs[0].error_kind if runs else None) if self._detail else (),
            beside=True,
        )  # fmt: skip
        # Without the history the right column is left out: it would move down when the history comes.
        below = (job_detail.right(page),) if self._detail is not None else ()
        self.query_one(Sheet).show((job_detail.left(page), *below))
        self._title(*job_detail.title(job, now))

    def on_resize(self) -> None:
        if self._following:
            self.draw()

    def _title(self, left: Sequence[Span], right: Sequence[Span]) -> None:
        """Draws the title in the upper edge of the frame, or as a bar."""
        title, foot = self.query_one("#beside-title", PlainLine), self.query_one("#beside-foot", PlainLine)
        if not self.has_class("-framed"):
            title.show(left, right)
            return
        trimmed = [(text.strip() if at == 0 else text, ink) for at, (text, ink) in enumerate(left)]
        title.show(upper(trimmed, self.size.width, [span for span in right if span[0].strip()]))
        foot.show(lower(self._leading() if left else [], self.size.width))

    def _leading(self) -> list[Span]:
        """The key that leads to the page of the job, and how many lines of the text are below those shown."""
        sheet = self.query_one(Sheet)
        hidden = sheet.total - sheet.lines
        more: list[Span] = [(f"… {plural(hidden, 'more line')}  ", "muted")] if hidden > 0 else []
        return [*more, (self.deck.key("job.detail").replace("enter", "⏎"), "key"), (" whole page", "muted")]

    def _read(self, job: Job) -> JobDetail | None:
        return self.deck.reach().detail(job.id)

    def _answered(self, job: Job, answer: JobDetail | Exception | None) -> None:
        """Takes the history, unless the cursor is on another job by now. The list says that the connection is lost."""
        if self._job is None or self._job.id != job.id:
            return
        if answer is not None and not isinstance(answer, Exception):
            self._detail = answer
            if self._following:
                self.draw()
