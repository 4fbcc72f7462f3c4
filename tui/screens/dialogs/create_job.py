"""Create Job: a form in a dialog, with the next runs, the equivalent command and the result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Enqueued
from jobdeck.core.queue.operators.payload_change import difference
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.form import wording
from jobdeck.tui.form.body import JSON, FormBody
from jobdeck.tui.form.form import Form
from jobdeck.tui.form.lookup import Lookup
from jobdeck.tui.format import one_line, short_id
from jobdeck.tui.screens.dialogs.choosing import Picker
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.terminal.output import copy
from jobdeck.tui.widgets.fields import Twin
from jobdeck.tui.widgets.ink import Line

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.events import DescendantFocus, Resize

    from jobdeck.core.model import ActionResult, Job, Json
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.tui.backend.parts import Creating
    from jobdeck.tui.backend.protocol import Rehearsal

WIDE: Final = 130
DIFFERING: Final = 3
"""The most keys of the payload that the form names as changed."""


class CreateJob(Dialog[None]):
    """A form: empty, of a type, filled in as a copy of a job, or to edit a job."""

    DIALOG: ClassVar[str] = "create"

    def __init__(
        self, creating: Creating, *, job: Job | None = None, editing: bool = False, task_type: str | None = None
    ) -> None:
        super().__init__()
        self.creating = creating
        types = {known.task_type: known for known in creating.types()}
        form = Form.begin(types.get(job.task_type if job else task_type or ""), job=job, editing=editing)
        lookup = Lookup(creating, lambda: self.deck.background)
        self.body = FormBody(form, types, lookup, self._edited, id="halves")
        self.busy = ""
        self.said = ""
        self.rehearsal: Rehearsal | None = None
        self._discarding = False

    def compose(self) -> ComposeResult:
        form = self.form
        with Vertical(id="box", classes="-form") as box:
            box.border_title = Content(form.title)
            yield self.body
            yield Line(id="help")
            yield Line(id="runs")
            if form.editing:
                yield Static(id="diff")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content(f"{'Save' if form.editing else 'Create job'} {self.key('create')}"), id="yes")
                yield Button(Content(f"Dry run {self.key('try')}"), id="try")
                yield Button(Content(f"Cancel {self.key('close')}"), id="no")
                yield self.hint(("copy", "copies"))

    @property
    def form(self) -> Form:
        """The values typed so far."""
        return self.body.form

    def on_mount(self) -> None:
        self._lay_out(self.app.size.width)
        self.body.rows[0].widget.focus()

    def on_resize(self, event: Resize) -> None:
        self._lay_out(event.size.width)

    def redraw(self) -> None:
        """Redraws whatever depends on the typed values."""
        if not self.is_attached:
            return
        now, form = self.deck.now(), self.form
        self.body.redraw(form.check(now), self.rehearsal, now)
        problems = wording.problems(form, self.key("create"))
        self.query_one("#runs", Line).show([(problems, "bad") if problems else (wording.runs(form, now), "run")])
        self._draw_help()
        self._draw_twin()
        self._draw_difference()
        for button in ("#yes", "#try"):
            self.query_one(button, Button).disabled = bool(self.busy)

    def on_descendant_focus(self, _event: DescendantFocus) -> None:
        self._draw_help()

    @on(Input.Submitted)
    def next_field(self) -> None:
        self.focus_next()

    @on(FormBody.Picking)
    def pick(self, event: FormBody.Picking) -> None:
        """Opens the list of a field."""
        self.app.push_screen(Picker(event.offer), event.take)

    @on(Button.Pressed)
    def press(self, event: Button.Pressed) -> None:
        if event.button.id == "yes":
            self.action_create()
        elif event.button.id == "try":
            self.action_rehearse()
        else:
            self.dismiss(None)

    def action_leave(self) -> None:
        """Closes the form; if anything was typed, only at the second key press."""
        if not self.form.changed or self._discarding:
            self.dismiss(None)
            return
        self._discarding = True
        key = self.key("close")
        self._say(f"Press {key} again to discard what you typed.")

    def action_scroll(self, lines: int) -> None:
        """Scrolls the form in one column, or the preview in two."""
        name = "#halves" if self.has_class("-narrow") else "#effects"
        self.query_one(name).scroll_relative(y=lines, animate=False)

    def action_copy(self) -> None:
        """Copies the equivalent command."""
        wanted = self._wanted()
        if wanted is not None:
            self.deck.say(copy(self.app, self._twin(wanted)))

    def action_create(self) -> None:
        """Creates the job or saves the changes, once; an error is shown beside its field."""
        wanted = None if self.busy else self._wanted()
        if wanted is None:
            return
        job = self.form.job if self.form.editing else None
        if job is not None and not self._changes(job, wanted):
            self._say("Nothing to save: the job has these values already.")
            return
        twin = self._twin(wanted)
        what = f"edit job {short_id(job.id)}" if job else "create the job"

        def work() -> Enqueued | ActionResult:
            return self.creating.edit(job, wanted) if job else self.creating.create(wanted)

        self.busy = "Saving…" if job else "Creating…"
        self.redraw()
        self.deck.background(work, partial(self._done, what, twin))

    def action_rehearse(self) -> None:
        """Shows a dry run in the form."""
        wanted = None if self.busy else self._wanted()
        if wanted is None:
            return
        self.busy, self.rehearsal = "Preparing the dry run…", None
        self.redraw()
        job = self.form.job if self.form.editing else None
        self.deck.background(lambda: self.creating.rehearse(wanted, job), self._rehearsed)

    def _done(self, what: str, twin: str, answer: Enqueued | ActionResult | Exception) -> None:
        self.busy = ""
        result, good = (failure(what, answer), False) if isinstance(answer, Exception) else wording.outcome(answer)
        if not good:
            self._say(result)
            return
        self.deck.say(f"{result}\n{twin}")
        if isinstance(answer, Enqueued):
            self.deck.seek(answer.job.id)
        self.deck.poller.poke()
        if self.is_attached:
            self.dismiss(None)

    def _rehearsed(self, answer: Rehearsal | Exception) -> None:
        self.busy = ""
        if isinstance(answer, Exception):
            self._say(failure("prepare the dry run", answer))
            return
        self.rehearsal = answer
        self.redraw()
        if self.is_attached:
            self.call_after_refresh(self.body.show_effects)

    def _lay_out(self, width: int) -> None:
        self.set_class(width < WIDE, "-narrow")
        self.call_after_refresh(self.redraw)

    def _wanted(self) -> Wanted | None:
        """The request; None where a field is wrong, which then gets the focus."""
        wanted = self.form.wanted(self.deck.now())
        if wanted is None:
            self.redraw()
            self.body.go_to(self.form.problems)
        return wanted

    def _twin(self, wanted: Wanted) -> str:
        job = self.form.job if self.form.editing else None
        return self.form.twin(wanted, self._changes(job, wanted) if job else None)

    def _changes(self, job: Job, wanted: Wanted) -> Json:
        try:
            return self.creating.changes(job, wanted)
        except JobdeckError as error:
            self.said = one_line(str(error))
            return {}

    def _say(self, text: str) -> None:
        if self.is_attached:
            self.said = text
            self.redraw()
        else:
            self.deck.say(text, "error")

    def _edited(self) -> None:
        self._discarding, self.said, self.rehearsal = False, "", None
        self.redraw()

    def _draw_help(self) -> None:
        """Shows the work in progress, the last error, or the help of the focused field in full."""
        line = self.query_one("#help", Line)
        if self.busy or self.said:
            line.show([(self.busy or self.said, "run" if self.busy else "warn")])
            return
        name = self.body.name_of(self.focused)
        problem = self.form.problems.get(name or JSON, "")
        in_json = "tab leaves the JSON; the fields show what you type here"
        note = wording.note(self.form, name, self.deck.now()) if name else in_json
        line.show([(f"✗ {problem}", "bad") if problem else (note if self.focused else "", "muted")])

    def _draw_difference(self) -> None:
        """Shows what saving changes in the payload, the first keys of it."""
        form = self.form
        if not form.editing or form.job is None:
            return
        wanted = None if form.problems else form.wanted(self.deck.now())
        lines = difference(form.job.payload, wanted.payload).lines if wanted is not None else []
        more = [f"and {len(lines) - DIFFERING} more"] if len(lines) > DIFFERING else []
        shown = self.query_one("#diff", Static)
        shown.display = bool(lines)
        shown.update(Content.styled("\n".join([*lines[:DIFFERING], *more]), "$ink-muted"))

    def _draw_twin(self) -> None:
        form = self.form
        wanted = None if form.problems else form.wanted(self.deck.now())
        text = self._twin(wanted) if wanted is not None and (not form.editing or form.changed) else ""
        self.query_one(Twin).show(text)
