"""The page of one job: facts, why it is or is not running, error, progress, payload, and every run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple
from uuid import UUID

from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.format import middle, short_id
from jobdeck.tui.screens.dialogs.choosing import Picker
from jobdeck.tui.screens.dialogs.confirm import ask
from jobdeck.tui.screens.dialogs.dialog import answer_with
from jobdeck.tui.screens.dialogs.questions import cancel_flow_question, restore_question
from jobdeck.tui.screens.nouns import open_noun
from jobdeck.tui.screens.page import Page
from jobdeck.tui.text import job_detail, playbook
from jobdeck.tui.text.nouns import named
from jobdeck.tui.widgets import status_bar
from jobdeck.tui.widgets.ink import Line, width_of
from jobdeck.tui.widgets.pane import GAP, ROOMY, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult

    from jobdeck.core.model import Job
    from jobdeck.core.plugins import Found, Recipients
    from jobdeck.core.read.pages.flows import FlowTree
    from jobdeck.core.read.report_types import JobDetail
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span

SELDOM_EVERY = 10.0
LEAST_NAME = 12
"""The cells of the task type that are always kept in the heading."""
OF_A_JOB = ("job.retry", "job.retry_with", "job.cancel", "job.delete")


class Reading(NamedTuple):
    """The data of a job's page. `recipients` and `flow` are read less often than the rest; `seldom_at` is when."""

    detail: JobDetail | None
    recipients: Recipients | None
    flow: FlowTree | None
    seldom_at: float


class JobDetailScreen(Page[Reading]):
    """One job, read as often as the list would be."""

    SCOPE: ClassVar[Scope] = "detail"

    def __init__(self, job: Job | UUID, run: int | None = None) -> None:
        super().__init__()
        self.job = None if isinstance(job, UUID) else job
        self.job_id = job if isinstance(job, UUID) else job.id
        self.gone = False
        self.revealed = False
        self.run_shown = run

    @property
    def pane(self) -> Sheet:
        return self.query_one("#page", Sheet)

    @property
    def detail(self) -> JobDetail | None:
        """The job with its history; None until it was read."""
        return self.data.detail if self.data is not None else None

    @property
    def in_trash(self) -> bool:
        return self.detail is not None and self.detail.in_trash

    def middle(self) -> ComposeResult:
        yield Line(id="revealed")
        yield Sheet(id="page")

    def targets(self) -> tuple[Job, ...]:
        """This job, unless it no longer exists."""
        return () if self.gone or self.job is None else (self.job,)

    def refused(self) -> dict[str, str]:
        """Refuses what the job's place, in the trash or the queue, does not allow."""
        refused: dict[str, str] = {}
        if self.in_trash:
            refused = dict.fromkeys(OF_A_JOB, f"This job is in the trash. {self.deck.key('job.restore')} restores it.")
        else:
            refused["job.restore"] = "This job is not in the trash."
        flow = self.data.flow if self.data is not None else None
        if flow is None:
            refused["flow.cancel"] = "This job is in no flow."
        elif flow.line.ended == len(flow.members):
            refused["flow.cancel"] = "All members of this flow have ended."
        if self.job is None:
            refused["job.reveal"] = "No job to reveal."
        if self.detail is None or len(self.detail.runs) < 2:
            refused |= dict.fromkeys(("run.older", "run.newer"), "There is no other run.")
        return refused

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self._open_noun,
            "job.restore": self._ask_to_restore,
            "flow.cancel": self._ask_to_cancel_flow,
            "job.reveal": self._reveal,
            "run.older": lambda: self._choose_run(1),
            "run.newer": lambda: self._choose_run(-1),
        }

    def read(self, backend: Backend) -> Reading:
        """Reads the job, and its recipients and its flow every 10 seconds."""
        now, before = self.deck.monotonic(), self.data
        detail = backend.detail(self.job_id)
        if before is not None and now - before.seldom_at < SELDOM_EVERY:
            return before._replace(detail=detail)
        return Reading(detail, backend.recipients(self.job_id), backend.flow(self.job_id), now)

    def arrived(self, data: Reading) -> None:
        """Takes the new state; a job that no longer exists is shown as it was last seen."""
        known = self.detail
        self.gone = data.detail is None
        if data.detail is None:
            self.data = data._replace(detail=known)
            self.trouble = "This job no longer exists, in the queue or in the history."
            return
        self.data, self.job = data, data.detail.job
        if data.detail.in_trash:
            restore = self.deck.key("job.restore")
            self.trouble = f"This job was deleted. It stays in the trash for 7 days; {restore} restores it."

    def redraw(self) -> None:
        if not self.is_there:
            return
        self.draw_banner()
        self._draw_revealed()
        self.draw_keys()
        self._draw_page()
        self.draw_title()

    def _draw_revealed(self) -> None:
        line = self.query_one("#revealed", Line)
        line.display = self.revealed
        line.show([(f" PERSONAL DATA SHOWN, {self.deck.key('job.reveal')} hides it", "alert")])

    def draw_title(self) -> None:
        left: list[Span] = [(f" Job {short_id(self.job_id)}", "strong")]
        right: list[Span] = []
        if self.job is not None:
            left, right = job_detail.title(self.job, self.deck.now())
        if self.size.width >= ROOMY:
            left.append((f"  jobdeck job {short_id(self.job_id)}", "muted"))
        right = [*right, *self.place(), *status_bar.environment(self.deck.options)]
        self.query_one("#title", Line).show(_shortened(left, self.size.width - width_of(right) - 1), right)

    def _draw_page(self) -> None:
        if (page := self._page()) is not None:
            self.pane.show((job_detail.left(page), job_detail.right(page)))

    def _page(self) -> job_detail.Page | None:
        if self.job is None:
            return None
        now = self.deck.now()
        runs = self.detail.runs if self.detail is not None else ()
        latest = runs[0].error_kind if runs else None
        return job_detail.Page(
            self.job,
            self.detail,
            now,
            width=self._column_width,
            revealed=self.revealed,
            run=next((at for at, run in enumerate(runs) if run.run_token == self.run_shown), None),
            recipients=self.data.recipients if self.data is not None else None,
            flow=self.data.flow if self.data is not None else None,
            advice=playbook.advice(self.job.task_type, latest),
            key=self.deck.key,
        )

    def _open_noun(self) -> None:
        """Offers what the page names, and opens what is chosen."""
        page = self._page()
        if page is None:
            self.deck.say("Nothing to open: the job was not read.")
            return
        keys = {found.id: (key, found) for key, found in named(page).items()}
        offer = Offer("Open", among([found for _, found in keys.values()]), example="What this page names")

        def chosen(found: Found) -> None:
            open_noun(self.deck, keys[found.id][0])

        answer_with(self, Picker(offer), chosen)

    @property
    def _column_width(self) -> int:
        width = self.pane.size.width
        return (width - GAP) // 2 if width >= ROOMY else width

    def _choose_run(self, by: int) -> None:
        runs = self.detail.runs if self.detail is not None else ()
        tokens = [run.run_token for run in runs]
        at = tokens.index(self.run_shown) if self.run_shown in tokens else 0
        self.run_shown = tokens[min(max(at + by, 0), len(tokens) - 1)]
        self.redraw()

    def _reveal(self) -> None:
        job = self.job
        if self.revealed or job is None:
            self.revealed = False
            self.redraw()
            return

        def revealed() -> None:
            self.revealed = True
            self.redraw()
            self.deck.say(f"Viewing this is recorded in the audit log.\njobdeck job {job.id} --reveal")

        self.deck.operations.reveal(job, revealed)

    def _ask_to_restore(self) -> None:
        jobs = self.targets()
        question = restore_question("", jobs)
        ask(self, question, lambda: self.deck.operations.act("restore", jobs))

    def _ask_to_cancel_flow(self) -> None:
        flow = self.data.flow if self.data is not None else None
        if flow is None:
            return

        def cancelled() -> None:
            if self.data is not None:
                self.data = self.data._replace(seldom_at=-math.inf)

        question = cancel_flow_question(flow)
        dialog = ask(
            self, question, lambda: self.deck.operations.cancel_flow(flow.line.id, dialog.reason, then=cancelled)
        )


def _shortened(left: Sequence[Span], room: int) -> list[Span]:
    """The heading in `room` cells; the task type is cut rather than the status."""
    (name, ink), *others = left
    return [(f" {middle(name[1:], max(room - width_of(others) - 1, LEAST_NAME))}", ink), *others]
