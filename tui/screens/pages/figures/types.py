"""The page of task types: jobs, wait, rate and failures of each; pauses, thresholds and mutes are set here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.read.pages.overview import TypeReport
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.dialogs.processing import switch
from jobdeck.tui.screens.pages.figures import operations
from jobdeck.tui.screens.pages.figures.split import SplitPage
from jobdeck.tui.screens.pages.figures.trends import Trends
from jobdeck.tui.screens.pages.figures.type_settings import SettingsAnswer, TypeSettings
from jobdeck.tui.text.figures import types
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.read.pages.overview import TypeFigures
    from jobdeck.tui.actions import Scope, Situation
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span


class Types(SplitPage[TypeReport]):
    """The task types by name, and the details of the one under the cursor."""

    SCOPE: ClassVar[Scope] = "types"
    HEADING: ClassVar[str] = "Types"
    EVERY: ClassVar[float] = 5.0

    @property
    def current(self) -> TypeFigures | None:
        """The type under the cursor."""
        found = self.data.types if self.data is not None else ()
        return next((one for one in found if ("type", one.line.task_type) == self.key_of_line), None)

    def read(self, backend: Backend) -> TypeReport:
        return backend.figures.types()

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"type.settings": self._change, "type.trends": self._open_trends}

    def situation(self) -> Situation:
        if self.current is not None:
            return super().situation()
        reason = "No task type under the cursor."
        return replace(super().situation(), refused=dict.fromkeys(("type.settings", "type.trends"), reason))

    def switch_processing(self) -> None:
        """Proposes the type under the cursor."""
        current = self.current
        switch(self, self.deck, current.line.task_type if current else None, first=True)

    def columns(self, width: int) -> str:
        return types.columns(width)

    def entries(self, data: TypeReport, width: int) -> Sequence[Entry]:
        if not data.types:
            return [entry((" No task types yet: no job, no worker, no settings.", "muted"))]
        return [types.line(one, data.at, width) for one in data.types]

    def about(self, data: TypeReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        current = self.current
        if current is None:
            return [], []
        return [(f" {one_line(current.line.task_type)} ", "tab")], types.about(current, data.at, width)

    def summary(self, data: TypeReport) -> list[Span]:
        return types.summary(data)

    def on_pane_chosen(self) -> None:
        self.action_do("type.trends")

    def _open_trends(self) -> None:
        if self.current is not None:
            self.app.switch_screen(Trends(self.current.line.task_type))

    def _change(self) -> None:
        current = self.current
        if current is None:
            return
        name = current.line.task_type

        def answered(answer: SettingsAnswer | None) -> None:
            if answer is not None:
                operations.set_type(self.deck, name, answer.changes, answer.reason)

        self.app.push_screen(TypeSettings(current.line), answered)
