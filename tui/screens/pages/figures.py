"""The pages of figures, each a table above and the details of its current line below: types, trends and series."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.content import Content

from jobdeck.core.model import Status
from jobdeck.core.queue import operator, service
from jobdeck.core.read.pages import jobs_and_runs, overview
from jobdeck.core.read.pages import series as read_series
from jobdeck.core.read.pages.overview import TypeReport
from jobdeck.core.read.pages.series import SeriesReport
from jobdeck.core.read.stats import backlog
from jobdeck.core.read.stats.backlog import TrendReport
from jobdeck.core.words.tables import EVERYTHING
from jobdeck.tui.commands import pause_series_twin, skip_twin, type_twin
from jobdeck.tui.format import one_line, shared_fronts, short_id
from jobdeck.tui.screens.below import Subject
from jobdeck.tui.screens.dialogs.confirm import Question, ask
from jobdeck.tui.screens.dialogs.dialog import send_with
from jobdeck.tui.screens.dialogs.type_settings import SettingsAnswer, TypeSettings
from jobdeck.tui.screens.page import SplitPage
from jobdeck.tui.text.figures import series, trends, types
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Job, TypePause
    from jobdeck.core.read.pages.overview import TypeFigures
    from jobdeck.core.read.pages.series import SeriesLine
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.core.words.tables import Column, TypeRow
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.widgets.ink import Span

WINDOWS: Final = tuple(timedelta(hours=hours) for hours in (1, 6, 24, 7 * 24, 30 * 24))
FIRST: Final = WINDOWS[1]


class Types(SplitPage[TypeReport]):
    """The task types, what is wrong first, and the details of the one under the cursor."""

    SCOPE: ClassVar[Scope] = "types"
    OF_TYPES: ClassVar[bool] = True
    HEADING: ClassVar[str] = "Types"
    EVERY: ClassVar[float] = 5.0
    QUERY = staticmethod(overview.types)

    @property
    def current(self) -> TypeFigures | None:
        """The type under the cursor."""
        found = self.data.types if self.data is not None else ()
        return next((one for one in found if ("type", one.line.task_type) == self.key_of_line), None)

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "type.settings": self._change, "type.trends": self._open_trends, "type.jobs": self.open_chosen,
        }  # fmt: skip

    def refused(self) -> dict[str, str]:
        named = ("type.settings", "type.trends", "type.jobs") if self.current is None else ()
        return dict.fromkeys(named, "No task type under the cursor.")

    @property
    def type_here(self) -> str | None:
        """The type under the cursor."""
        return self.current.line.task_type if self.current else None

    @property
    def subject_below(self) -> Subject | None:
        order = f"what needs somebody first, {self.deck.key('type.jobs').replace('enter', '⏎')} lists all"
        of_type = jobs_and_runs.of_type
        return Subject(of_type, (self.type_here,), order, ("task",)) if self.type_here is not None else None

    def columns(self, width: int) -> Sequence[Span]:
        return [(types.columns(self._shown(width), width), "head")]

    def entries(self, data: TypeReport, width: int) -> Sequence[Entry]:
        if not data.types:
            return [entry((" No task types yet: no job, no worker, no settings.", "muted"))]
        fronts = shared_fronts([one.line.task_type for one in data.types])
        shown = self._shown(width)
        return [types.line(one, data.at, width, shown, fronts) for one in types.worst_first(data.types)]

    def _shown(self, width: int) -> Sequence[Column[TypeRow]]:
        return types.chosen(self.data.types, self.data.at, width) if self.data is not None else ()

    def about(self, data: TypeReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        current = self.current
        if current is None:
            return [], []
        return [(f" {one_line(current.line.task_type)} ", "tab")], types.about(current, data.at, width)

    def summary(self, data: TypeReport) -> list[Span]:
        return types.summary(data)

    def on_pane_chosen(self) -> None:
        self.action_do("type.jobs")

    def _open_trends(self) -> None:
        if self.current is not None:
            self.app.switch_screen(Trends(self.current.line.task_type))

    def _change(self) -> None:
        current = self.current
        if current is None:
            return
        name, known = current.line.task_type, self.deck.reach().known

        def said(line: TypeLine) -> str:
            return f"Settings of {one_line(name)} changed." + ("" if line.workers else "\nNo live worker handles it.")

        def send(wanted: SettingsAnswer, ended: Callable[[str], None]) -> None:
            changes, reason = wanted.changes, wanted.reason
            work = partial(service.set_type, registry=known, task_type=name, changes=changes, reason=reason)
            self.deck.operations.change(f"change {one_line(name)}", work, said, type_twin(name, changes, reason), ended)

        send_with(self, TypeSettings(current.line), send)


class Trends(SplitPage[TrendReport]):
    """All types in the first line, then the types by name; the plots are of the line under the cursor."""

    SCOPE: ClassVar[Scope] = "trends"
    HEADING: ClassVar[str] = "Trends"
    BESIDE: ClassVar[int] = 120
    EVERY: ClassVar[float] = 15.0
    QUERY = staticmethod(backlog.trend_report)

    def __init__(self, task_type: str | None = None) -> None:
        """With `task_type` the cursor begins on that type."""
        super().__init__(None if task_type is None else ("type", task_type))
        self.window = FIRST

    def given(self) -> dict[str, Any]:
        return {"window": self.window}

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"open": self.open_chosen, "window": self._next_window}

    def columns(self, width: int) -> Sequence[Span]:
        return [(trends.columns(width), "head")]

    def entries(self, data: TrendReport, width: int) -> Sequence[Entry]:
        window = data.trends
        names, fronts = [None, *sorted(window.types)], shared_fronts(window.types)
        return [trends.line(name, window.total(name), width, fronts) for name in names]

    def about(self, data: TrendReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        key = self.key_of_line
        name = key[1] if isinstance(key, tuple) else None
        height = self.query_one("#about", Pane).size.height
        shown = one_line(name) if name is not None else EVERYTHING
        return [(f" {shown} ", "tab")], trends.plots(data, name, width, height)

    def summary(self, data: TrendReport) -> list[Span]:
        return trends.summary(data, self.window)

    def _next_window(self) -> None:
        self.window = WINDOWS[(WINDOWS.index(self.window) + 1) % len(WINDOWS)]
        self.reread()


class Series(SplitPage[SeriesReport]):
    """The recurring jobs by task type, and the details of the one under the cursor."""

    SCOPE: ClassVar[Scope] = "series"
    OF_TYPES: ClassVar[bool] = True
    HEADING: ClassVar[str] = "Series"
    EVERY: ClassVar[float] = 5.0
    QUERY = staticmethod(read_series.series)

    @property
    def current(self) -> SeriesLine | None:
        """The series under the cursor."""
        found = self.data.series if self.data is not None else ()
        return next((one for one in found if ("job", one.job.id) == self.key_of_line), None)

    def targets(self) -> tuple[Job, ...]:
        """The job of the series under the cursor."""
        return (self.current.job,) if self.current is not None else ()

    @property
    def subject_below(self) -> Subject | None:
        """The series under the cursor."""
        known = tuple(job.id for job in self.targets())
        return Subject(jobs_and_runs.of_series, known, without=("task", "job")) if known else None

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "series.run": lambda: self.ask("retry"),
            "series.skip": self._skip,
            "series.pause": self._pause_series,
        }

    def refused(self) -> dict[str, str]:
        if self.current is None:
            of_it = ("series.run", "series.skip", "series.pause", "open")
            return dict.fromkeys(of_it, "No recurring job under the cursor.")
        if self.current.job.status is Status.RUNNING:
            running = "It is running. Wait until this run has ended."
            return dict.fromkeys(("series.run", "series.skip"), running)
        if self.current.pause is not None:
            paused = f"It is paused. {self.deck.key('series.pause')} resumes it."
            return dict.fromkeys(("series.run", "series.skip"), paused)
        return {}

    def columns(self, width: int) -> Sequence[Span]:
        return [(series.columns(width), "head")]

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
        verb, work = "Pause", operator.pause_series
        text = f"{name} does not run at its slots until somebody resumes it. A running cycle ends as usual."
        if current.pause is not None:
            verb, work = "Resume", operator.resume_series
            text = f"{name} runs at its next slot. The slots that it missed are not made up."
        same = pause_series_twin(job)
        question = Question(f"{verb} this series", Content(text), verb, word=verb.lower(), number=1, twin=same)
        ask(self, question, lambda: self.deck.operations.change_one(f"{verb.lower()} job", job, work, same))

    def _skip(self) -> None:
        current = self.current
        if current is None:
            return
        job = current.job
        name = f"{one_line(job.task_type)} {short_id(job.id)}"
        body = Content(f"{name} does not run at {job.run_at:%Y-%m-%d %H:%M}Z, but at the slot after it. "
                       "The series continues.")  # fmt: skip
        same = skip_twin(job)
        question = Question("Skip one run", body, "Skip one run", word="skip", number=1, twin=same)
        ask(self, question, lambda: self.deck.operations.change_one("skip a run of job", job, operator.skip, same))
