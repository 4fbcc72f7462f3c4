"""The page of runs: whether a job may have acted twice, and the newest runs, of the queue or of a group of errors."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jobdeck.core.read.runs import ran_twice
from jobdeck.core.read.runs.ran_twice import RunReport
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(days=7)
"""As long as the page of errors looks back."""


class Runs(ListPage[RunReport]):
    """The runs of the last day, read again every few seconds; with a group of errors, its runs of the last week."""

    SCOPE: ClassVar[Scope] = "runs"
    EVERY: ClassVar[float] = 15.0
    QUERY = staticmethod(ran_twice.run_report)

    def __init__(self, group: ErrorGroup | None = None) -> None:
        super().__init__()
        self.group = group

    @property
    def heading(self) -> str:
        return f"Runs of {one_line(self.group.task_type)}" if self.group else "Runs"

    def given(self) -> dict[str, Any]:
        return {"since": WEEK, "group": self.group.key} if self.group else {"since": DAY}

    def entries(self, data: RunReport, width: int) -> Sequence[Entry]:
        return runs.lines(data, width, "" if self.group is None else self.group.sample)

    def summary(self, data: RunReport) -> list[Span]:
        del data
        of = f" --type {one_line(self.group.task_type)} --since 7d" if self.group else ""
        return [(f"jobdeck runs --twice{of}", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"open": self.open_chosen}
