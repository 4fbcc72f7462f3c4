"""The audit log, below the digest of the same period."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from jobdeck.core.cli.handover import markdown
from jobdeck.core.read.report_types import AuditReport
from jobdeck.core.times import format_duration
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.terminal.clipboard import copy
from jobdeck.tui.text import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.protocol import Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

PERIODS: Final = (timedelta(hours=8), timedelta(hours=24), timedelta(days=7), timedelta(hours=1))


class Audit(ListPage[AuditReport]):
    """The last 8 hours, or another period."""

    SCOPE: ClassVar[Scope] = "audit"
    EVERY: ClassVar[float] = 15.0

    def __init__(self) -> None:
        super().__init__()
        self.period = PERIODS[0]

    @property
    def heading(self) -> str:
        if self.data is None:
            return "Audit"
        hours = round((self.data.digest.at - self.data.digest.since) / timedelta(hours=1))
        return f"Audit: last {hours} h" if hours <= 24 else f"Audit: last {hours // 24} d"

    def read(self, backend: Backend) -> AuditReport:
        return backend.audit(self.period)

    def entries(self, data: AuditReport, width: int) -> Sequence[Entry]:
        return audit.lines(data, width)

    def summary(self, data: AuditReport) -> list[Span]:
        """The equivalent command."""
        word = format_duration(data.digest.at - data.digest.since)
        return [(f"jobdeck digest --since {word.replace(' ', '')}", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen, "period": self._next_period, "copy.digest": self._copy_digest,
        }  # fmt: skip

    def _copy_digest(self) -> None:
        """Copies the digest of the period as Markdown."""
        if self.data is None:
            self.deck.say("The digest is still being read. Try again.")
            return
        said = copy(self.app, markdown(self.data.digest))
        hours = max(round((self.data.digest.at - self.data.digest.since) / timedelta(hours=1)), 1)
        self.deck.say(f"{said}\njobdeck digest --since {hours}h --markdown")

    def _next_period(self) -> None:
        self.period = PERIODS[(PERIODS.index(self.period) + 1) % len(PERIODS)]
        self.reread()
