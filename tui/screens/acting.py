"""The base of all pages: keys from the table of actions, and the actions on jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import BindingsMap

from jobdeck.core.redact import scrub
from jobdeck.tui.actions import (
    BY_ID,
    ON_ONE,
    PAGES,
    Scope,
    Situation,
    applicable,
    bindings,
    find,
    offered,
    page_bindings,
    runs_again,
    table_pages,
    unavailable,
)
from jobdeck.tui.deck import deck_of
from jobdeck.tui.format import job_json, plural
from jobdeck.tui.terminal.output import copy, is_copied
from jobdeck.tui.widgets import key_line
from jobdeck.tui.widgets.ink import PaintedOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobdeck.core.model import Job
    from jobdeck.tui.backend.protocol import Verb
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.screens.dialogs.confirm import Confirm, Question
    from jobdeck.tui.screens.dialogs.processing import Condition
    from jobdeck.tui.widgets.ink import Line


class Acting(PaintedOnce[None]):
    """A screen whose keys come from the table of actions. Subclasses add to `handlers`."""

    SCOPE: ClassVar[Scope] = "list"
    OF_TYPES: ClassVar[bool] = False
    """Whether a pause here begins with the type under the cursor, not with everything."""

    def __init_subclass__(cls, **options: bool) -> None:
        """Binds the keys of the scope."""
        if "SCOPE" in vars(cls):
            cls.BINDINGS = [*bindings(cls.SCOPE)]
        super().__init_subclass__(**options)

    def __init__(self) -> None:
        super().__init__()
        self._bindings = BindingsMap.merge([self._bindings, page_bindings()])

    @property
    def deck(self) -> Deck:
        return deck_of(self)

    def redraw(self) -> None:
        """Draws the data already read; only what differs is repainted."""
        raise NotImplementedError

    def tick(self) -> None:
        """Redraws what counts seconds."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Reads what the poller does not read."""

    @property
    def is_there(self) -> bool:
        """Whether the screen is mounted and was not left; answers may come before and after."""
        return self.is_mounted and self.is_attached

    def targets(self) -> tuple[Job, ...]:
        """The jobs that an action would apply to now."""
        raise NotImplementedError

    def handlers(self) -> dict[str, Callable[[], object]]:
        """The function of each action, by the action's id. Called once for a screen, at the first key press."""
        from jobdeck.tui.screens.dialogs.help import Help  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.questions import ask_to_run_worker  # noqa: PLC0415 -- not needed for the first paint

        return {
            "job.retry": lambda: self.ask("run-again" if runs_again(self.situation()) else "retry"),
            "job.cancel": lambda: self.ask("cancel"),
            "job.delete": lambda: self.ask("delete"),
            "processing": self.switch_processing,
            "worker.cycle": lambda: ask_to_run_worker(self, self.deck),
            "refresh": self.deck.poller.poke,
            "copy.id": self.copy_ids,
            "copy.json": self.copy_json,
            "job.new": lambda: self.open_form(task_type=self.type_here),
            "job.retry_with": self._retry_with,
            "job.duplicate": lambda: self.open_form(*self.subject()),
            "job.edit": lambda: self.open_form(*self.subject(), editing=True),
            **{f"page.{name}": partial(self.deck.open_page, name) for name in PAGES},
            **{name: partial(self.deck.open_table, page) for name, page in table_pages().items()},
            "palette": self.open_palette,
            "theme": self.deck.next_theme,
            "help": lambda: self.app.push_screen(Help(self.SCOPE, self.situation())),
        }

    @cached_property
    def _handlers(self) -> Mapping[str, Callable[[], object]]:
        return self.handlers()

    def situation(self) -> Situation:
        """The facts that decide which actions are available now."""
        return replace(self.deck.situation(self.targets()), refused=self.refused())

    def refused(self) -> dict[str, str]:
        """The screen's own reasons why actions are not available now, by the ids of the actions."""
        return {}

    def subject(self) -> tuple[Job, ...]:
        """The job for actions that take only one; empty where there is none."""
        return self.targets()[:1]

    @property
    def type_here(self) -> str | None:
        """The task type under the cursor: what a new job and a pause begin with."""
        return next((job.task_type for job in self.subject()), None)

    def open_form(self, job: Job | None = None, *, editing: bool = False, task_type: str | None = None) -> None:
        """Opens Create Job: empty, with a task type, as a copy of `job`, or to edit `job`."""
        from jobdeck.core.registry import NO_TYPES  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.create_job import CreateJob  # noqa: PLC0415 -- not needed for the first paint

        here = self.app.screen
        if not editing and not self.deck.reach().creating.types():
            self.deck.say(NO_TYPES, "warning")
            return

        def opened() -> None:
            creating = self.deck.reach().creating
            self.app.push_screen(CreateJob(creating, job=job, editing=editing, task_type=task_type))

        # The form shows the payload unmasked. If it holds personal data, viewing it is recorded in the audit log.
        if job is not None and scrub(job.payload) != job.payload:
            self.deck.operations.reveal(job, lambda: opened() if self.deck.shows(here) else None, opens=True)
        else:
            opened()

    def _retry_with(self) -> None:
        """Opens the editor of the payload with which one job is retried. Viewing it is recorded in the audit log."""
        job, deck, here = next(iter(self.subject()), None), self.deck, self.app.screen
        if job is None:
            return

        def allowed() -> None:
            from jobdeck.tui.screens.dialogs.dialog import send_with  # noqa: PLC0415 -- not needed for the first paint
            from jobdeck.tui.screens.dialogs.payloads import PayloadEditor  # noqa: PLC0415 -- not needed for the first paint

            if deck.shows(here):
                send_with(here, PayloadEditor(job), partial(deck.operations.retry_with, job))

        deck.operations.reveal(job, allowed, opens=True)

    def on_line_clicked(self, event: Line.Clicked) -> None:
        """Runs the action of the clicked key or figure."""
        action_id = key_line.action_at(event.line.id or "", event.line.spans, event.x, self.SCOPE, self.situation())
        if action_id is not None:
            self.action_do(action_id)

    def open_palette(self) -> None:
        """Opens the palette and runs the chosen action."""
        from jobdeck.tui.screens.dialogs.choosing import NEW, Palette  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.dialog import answer_with  # noqa: PLC0415 -- not needed for the first paint

        def chosen(action_id: str) -> None:
            if action_id.startswith(NEW):
                self.open_form(task_type=action_id.removeprefix(NEW))
            elif any(action.id == action_id for action in offered(self.SCOPE)):
                self.action_do(action_id)
            else:
                self.deck.act_on_list(action_id)

        types = self.deck.reach().creating.types() if self.deck.view is not None else ()
        answer_with(self, Palette(self.SCOPE, self.situation(), types), chosen)

    def action_do(self, action_id: str) -> None:
        """Runs an action, or says why it is not available. An id that is not offered does nothing."""
        action = find(action_id)
        if action is None:
            return
        situation = self.situation()
        if action_id in ON_ONE:
            situation = replace(situation, jobs=self.subject())
        reason = unavailable(action, situation)
        if reason is not None:
            self.deck.say(reason, "warning")
            return
        self._handlers[action_id]()

    def ask(self, verb: Verb) -> None:
        """Asks before an action on the current targets; the answer applies to exactly these jobs."""
        from jobdeck.tui.screens.dialogs.confirm import job_question, skipped  # noqa: PLC0415 -- not needed for the first paint

        chosen = self.targets()
        jobs = tuple(applicable(BY_ID["job.retry" if verb == "run-again" else f"job.{verb}"], chosen))
        left_out = skipped([job for job in chosen if job not in jobs], retried=verb == "retry")

        def sure() -> None:
            self.deck.operations.act(verb, jobs, reason=dialog.reason)
            self.acted()

        question = job_question(verb, jobs, left_out=left_out)
        dialog = self.ask_about(verb, jobs, question, sure)

    def ask_about(self, verb: Verb, jobs: Sequence[Job], question: Question, then: Callable[[], object]) -> Confirm:
        """Asks, and freezes the jobs meanwhile where the equivalent command cannot name them all."""
        from jobdeck.tui.screens.dialogs.confirm import ask  # noqa: PLC0415 -- not needed for the first paint

        dialog = ask(self, question, then)
        if question.freezes:
            self.deck.operations.bulk.freeze(jobs, lambda chosen: dialog.name_twin(chosen, verb))
        return dialog

    def acted(self) -> None:
        """Called when an action has been sent to the queue."""

    def switch_processing(self) -> None:
        """Asks what to pause, or what to resume."""
        from jobdeck.tui.screens.dialogs.processing import switch  # noqa: PLC0415 -- not needed for the first paint

        switch(self, self.deck, self.type_here, first=self.OF_TYPES, condition=self.condition_here())

    def condition_here(self) -> Condition | None:
        """What the filter says of the jobs, which `P` proposes to hold; None without a payload key."""
        from jobdeck.tui.screens.dialogs.processing import condition_of  # noqa: PLC0415 -- not needed for the first paint

        return condition_of(self.deck.poller.request.filter, self.subject())

    def copy_ids(self) -> None:
        """Copies the full ids, one per line."""
        self._copy("\n".join(str(job.id) for job in self.targets()))

    def copy_json(self) -> None:
        jobs = [job_json(job) for job in self.targets()]
        self._copy(json.dumps(jobs[0] if len(jobs) == 1 else jobs, indent=2, ensure_ascii=False))

    def _copy(self, text: str) -> None:
        jobs = self.targets()
        if not jobs:
            self.deck.say("No job to copy.")
            return
        more = f" {plural(len(jobs), 'job')}." if len(jobs) > 1 else ""
        if not is_copied(text):
            more = " Copy fewer jobs." if len(jobs) > 1 else f"\njobdeck job {jobs[0].id} --json"
        self.deck.say(f"{copy(self.app, text)}{more}")
