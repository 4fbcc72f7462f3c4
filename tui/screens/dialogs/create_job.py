"""Create Job: a form in a dialog, the next runs, the command that does the same, and what came of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button, Input

from jobdeck.core import plugins
from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Enqueued
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.dialog_keys import bindings
from jobdeck.tui.form import wording
from jobdeck.tui.form.body import JSON, FormBody
from jobdeck.tui.form.form import Form
from jobdeck.tui.form.lookup import Lookup
from jobdeck.tui.format import one_line, short_id
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.screens.dialogs.picker import Picker
from jobdeck.tui.terminal.clipboard import copy
from jobdeck.tui.widgets.fields import Twin
from jobdeck.tui.widgets.ink import Line

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import DescendantFocus, Resize

    from jobdeck.core.model import ActionResult, Job, Json
    from jobdeck.core.queue.requests import Wanted
    from jobdeck.tui.backend.protocol import Creating, Rehearsal

WIDE: Final = 130


class CreateJob(Dialog[None]):
    """The form. It begins empty, as the copy of a job, or as the job that it changes."""

    DIALOG: ClassVar[str] = "create"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("create")]

    def __init__(
        self, creating: Creating, *, job: Job | None = None, editing: bool = False, task_type: str | None = None
    ) -> None:
        super().__init__()
        self.creating = creating
        types = {known.task_type: known for known in creating.types()}
        usual = types.get(task_type or _most_usual()) or next(iter(types.values()), None)
        form = Form.begin(types.get(job.task_type) if job else usual, job=job, editing=editing)
        lookup = Lookup(creating, lambda: self.deck.background)
        self.body = FormBody(form, types, lookup, self._edited, id="halves")
        self.busy = ""
        self.said = ""
        self.rehearsal: Rehearsal | None = None
        self._discarding = False

    def compose(self) -> ComposeResult:
        """The form, and below it what follows from it and the buttons."""
        form = self.form
        with Vertical(id="box", classes="-form") as box:
            box.border_title = Content(form.title)
            yield self.body
            yield Line(id="help")
            yield Line(id="runs")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content(f"{'Save' if form.editing else 'Create job'} {self.key('create')}"), id="yes")
                yield Button(Content(f"Dry run {self.key('try')}"), id="try")
                yield Button(Content(f"Cancel {self.key('close')}"), id="no")
                yield self.hint(("copy", "copies"))

    @property
    def form(self) -> Form:
        """What was typed so far."""
        return self.body.form

    def on_mount(self) -> None:
        """The first thing to decide has the focus."""
        self._lay_out(self.app.size.width)
        self.body.rows[0].widget.focus()

    def on_resize(self, event: Resize) -> None:
        """Two columns where there is room."""
        self._lay_out(event.size.width)

    def redraw(self) -> None:
        """Says everything anew that follows from what was typed."""
        if not self.is_attached:
            return
        now, form = self.deck.now(), self.form
        self.body.redraw(form.check(now), self.rehearsal, now)
        told = wording.mending(form, self.key("create"))
        self.query_one("#runs", Line).show([(told, "bad") if told else (wording.runs(form, now), "run")])
        self._draw_help()
        self._draw_twin()
        for button in ("#yes", "#try"):
            self.query_one(button, Button).disabled = bool(self.busy)

    def on_descendant_focus(self, _event: DescendantFocus) -> None:
        """The help is about the field that has the focus."""
        self._draw_help()

    @on(Input.Submitted)
    def go_on(self) -> None:
        """Enter goes to the next field."""
        self.focus_next()

    @on(FormBody.Picking)
    def pick(self, event: FormBody.Picking) -> None:
        """Opens the list that a field asks for."""
        self.app.push_screen(Picker(event.offer), event.take)

    @on(Button.Pressed)
    def press(self, event: Button.Pressed) -> None:
        """Creates, tries or leaves."""
        if event.button.id == "yes":
            self.action_create()
        elif event.button.id == "try":
            self.action_rehearse()
        else:
            self.dismiss(None)

    def action_leave(self) -> None:
        """Leaves; what was typed is not thrown away by one key."""
        if not self.form.changed or self._discarding:
            self.dismiss(None)
            return
        self._discarding = True
        key = self.key("close")
        self._say(f"{key[:1].upper()}{key[1:]} once more throws away what you typed.")

    def action_scroll(self, lines: int) -> None:
        """Scrolls what does not fit: all of it where it stands in one column, else what a run would do."""
        name = "#halves" if self.has_class("-narrow") else "#effects"
        self.query_one(name).scroll_relative(y=lines, animate=False)

    def action_copy(self) -> None:
        """Copies the command that does the same."""
        wanted = self._wanted()
        if wanted is not None:
            self.deck.say(copy(self.app, self._twin(wanted)))

    def action_create(self) -> None:
        """Creates the job or saves the changes, once; a mistake is shown beside its field."""
        wanted = None if self.busy else self._wanted()
        if wanted is None:
            return
        job = self.form.job if self.form.editing else None
        if job is not None and not self._changes(job, wanted):
            self._say("There is nothing to save: it is like this already.")
            return
        twin = self._twin(wanted)
        what = f"edit job {short_id(job.id)}" if job else "create the job"

        def work() -> Enqueued | ActionResult:
            return self.creating.edit(job, wanted) if job else self.creating.create(wanted)

        self.busy = "Saving…" if job else "Creating…"
        self.redraw()
        self.deck.background(work, partial(self._done, what, twin))

    def action_rehearse(self) -> None:
        """Says what would come of it, in place."""
        wanted = None if self.busy else self._wanted()
        if wanted is None:
            return
        self.busy, self.rehearsal = "Asking what it would do…", None
        self.redraw()
        job = self.form.job if self.form.editing else None
        self.deck.background(lambda: self.creating.rehearse(wanted, job), self._rehearsed)

    def _done(self, what: str, twin: str, answer: Enqueued | ActionResult | Exception) -> None:
        self.busy = ""
        told, good = (failure(what, answer), False) if isinstance(answer, Exception) else wording.outcome(answer)
        if not good:
            self._say(told)
            return
        self.deck.say(f"{told}\n{twin}")
        if isinstance(answer, Enqueued):
            self.deck.seek(answer.job.id)
        self.deck.poller.poke()
        if self.is_attached:
            self.dismiss(None)

    def _rehearsed(self, answer: Rehearsal | Exception) -> None:
        self.busy = ""
        if isinstance(answer, Exception):
            self._say(failure("try it", answer))
            return
        self.rehearsal = answer
        self.redraw()
        if self.is_attached:
            self.call_after_refresh(self.body.show_effects)

    def _lay_out(self, width: int) -> None:
        self.set_class(width < WIDE, "-narrow")
        self.call_after_refresh(self.redraw)

    def _wanted(self) -> Wanted | None:
        """What is asked for; where something is wrong, the focus goes there."""
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
        """What is going on, what went wrong, or what the field in focus is for, with all its words."""
        line = self.query_one("#help", Line)
        if self.busy or self.said:
            line.show([(self.busy or self.said, "run" if self.busy else "warn")])
            return
        name = self.body.name_of(self.focused)
        problem = self.form.problems.get(name or JSON, "")
        in_json = "tab goes on; what is typed here shows in the fields"
        note = wording.note(self.form, name, self.deck.now()) if name else in_json
        line.show([(f"✗ {problem}", "bad") if problem else (note if self.focused else "", "muted")])

    def _draw_twin(self) -> None:
        form = self.form
        wanted = None if form.problems else form.wanted(self.deck.now())
        text = self._twin(wanted) if wanted is not None and (not form.editing or form.changed) else ""
        self.query_one(Twin).show(text)


def _most_usual() -> str:
    """The task type that a form begins with: the first one of the first preset."""
    return next((preset.task_types[0] for preset in plugins.presets().values()), "")
