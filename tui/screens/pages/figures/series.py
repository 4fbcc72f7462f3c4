"""The page of series: recurring jobs with next and last run and streak; run one now, or skip its next run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content

from jobdeck.core.model import Status
from jobdeck.core.read.pages.series import SeriesReport
from jobdeck.tui.commands import pause_series_twin, skip_twin
from jobdeck.tui.format import one_line, short_id
from jobdeck.tui.screens.dialogs.confirm import Question, ask, needed_word
from jobdeck.tui.screens.dialogs.processing import switch
from jobdeck.tui.screens.pages.figures import operations
from jobdeck.tui.screens.pages.figures.split import SplitPage
from jobdeck.tui.text.figures import series
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Job, TypePause
    from jobdeck.core.read.pages.series import SeriesLine
    from jobdeck.tui.actions import Scope, Situation
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span


class Series(SplitPage[SeriesReport]):
    """The recurring jobs by task type, and the details of the one under the cursor."""

    SCOPE: ClassVar[Scope] = "series"
    HEADING: ClassVar[str] = "Series"
    EVERY: ClassVar[float] = 5.0

    @property
    def current(self) -> SeriesLine | None:
        """The series under the cursor."""
        found = self.data.series if self.data is not None else ()
        return next((one for one in found if ("job", one.job.id) == self.key_of_line), None)

    def targets(self) -> tuple[Job, ...]:
        """The job of the series under the cursor."""
        return (self.current.job,) if self.current is not None else ()

    def read(self, backend: Backend) -> SeriesReport:
        return backend.figures.series()

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "series.run": lambda: self.ask("retry"),
            "series.skip": self._skip,
            "series.pause": self._pause_series,
        }

    def situation(self) -> Situation:
        if self.current is None:
            reason = "No recurring job under the cursor."
            of_it = ("series.run", "series.skip", "series.pause", "open")
            return replace(super().situation(), refused=dict.fromkeys(of_it, reason))
        if self.current.job.status is Status.RUNNING:
            running = "It is running. Wait until this run has ended."
            return replace(super().situation(), refused=dict.fromkeys(("series.run", "series.skip"), running))
        if self.current.pause is not None:
            paused = f"It is paused. {self.deck.key('series.pause')} resumes it."
            return replace(super().situation(), refused=dict.fromkeys(("series.run", "series.skip"), paused))
        return super().situation()

    def switch_processing(self) -> None:
        """Proposes the type of the series under the cursor."""
        current = self.current
        switch(self, self.deck, current.job.task_type if current else None, first=True)

    def columns(self, width: int) -> str:
        return series.columns(width)

    def entries(self, data: SeriesReport, width: int) -> Sequence[Entry]:
        if not data.series:
            return [entry((" No recurring jobs.", "muted"))]
        held = not data.processing.enabled
        return [series.line(one, data.at, width, paused=held or self._pause(one) is not None) for one in data.series]

    def about(self, data: SeriesReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        current = self.current
        if current is None:
            return [], []
        details = series.about(current, self._pause(current), data.at, width)
        return [(series.name_of(current), "tab")], details

    def summary(self, data: SeriesReport) -> list[Span]:
        return series.summary(data)

    def _pause(self, one: SeriesLine) -> TypePause | None:
        pauses = self.data.processing.paused_types if self.data is not None else ()
        return next((pause for pause in pauses if pause.task_type == one.job.task_type), None)

    def _pause_series(self) -> None:
        current = self.current
        if current is None:
            return
        job = current.job
        name = f"{one_line(job.task_type)} {short_id(job.id)}"
        verb, text = (
            "Pause",
            f"{name} does not run at its slots until somebody resumes it. A running cycle ends as usual.",
        )
        if current.pause is not None:
            verb, text = "Resume", f"{name} runs at its next slot. The slots that it missed are not made up."
        word = needed_word(verb.lower(), 1, production=self.deck.options.production)
        question = Question(f"{verb} this series", Content(text), verb, word=word, twin=pause_series_twin(job))
        ask(self, question, lambda: operations.pause_series(self.deck, job))

    def _skip(self) -> None:
        current = self.current
        if current is None:
            return
        job = current.job
        name = f"{one_line(job.task_type)} {short_id(job.id)}"
        body = Content(f"{name} does not run at {job.run_at:%Y-%m-%d %H:%M}Z, but at the slot after it. "
                       "The series continues.")  # fmt: skip
        word = needed_word("skip", 1, production=self.deck.options.production)
        question = Question("Skip one run", body, "Skip one run", word=word, twin=skip_twin(job))
        ask(self, question, lambda: operations.skip(self.deck, job))
