"""Create Job: fields made from the payload's model, the schedule, the same as JSON, and what would come of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, cast

from textual import on
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static, TextArea

from core.errors import JobdeckError
from tui import form as forms
from tui import form_text
from tui.clipboard import copy
from tui.creating import Found
from tui.form import Form
from tui.form_lookup import Lookup
from tui.form_rows import Row, label_of, schedule_rows, widget_of
from tui.form_text import RECURRING, TYPE
from tui.form_widgets import Editor, OneLine, PickField, Segments
from tui.format import fit, one_line, short_id
from tui.ink import Line
from tui.operations import failure
from tui.screens.picker import Picker, among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import DescendantFocus, Resize
    from textual.widget import Widget

    from core.creating import Wanted
    from core.model import ActionResult, Enqueued, Job, Json
    from core.registry import JobType
    from tui.app import JobdeckApp
    from tui.creating import Creating, Rehearsal, Searched

WIDE: Final = 130
FIRST_TYPE: Final = "game_platform_sync"
JSON: Final = "json"


class CreateJob(ModalScreen[None]):
    """The form. It begins empty, as the copy of a job, or as the job that it changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "leave", "leave"),
        ("ctrl+s", "create", "create"),
        ("ctrl+t", "rehearse", "dry run"),
        ("ctrl+y", "copy", "copy the command"),
        ("up", "app.focus_previous", "previous"),
        ("down", "app.focus_next", "next"),
        ("pagedown", "scroll(8)", "down"),
        ("pageup", "scroll(-8)", "up"),
    ]

    def __init__(self, creating: Creating, *, job: Job | None = None, editing: bool = False) -> None:
        super().__init__()
        self.creating = creating
        self.types = {known.task_type: known for known in creating.types()}
        usual = self.types.get(FIRST_TYPE) or next(iter(self.types.values()), None)
        self.form = Form.begin(self.types.get(job.task_type) if job else usual, job=job, editing=editing)
        self.lookup = Lookup(creating, lambda: self.deck.background)
        self.busy = ""
        self.said = ""
        self.rehearsal: Rehearsal | None = None
        self._discarding = False

    def compose(self) -> ComposeResult:
        """Fields on the left or above, JSON and what would come of it on the right or below, the foot."""
        form = self.form
        with Vertical(id="box", classes="-form") as box:
            box.border_title = Content(form.title)
            with Horizontal(id="halves"):
                with Vertical(id="form"):
                    if not form.editing:
                        yield Row(TYPE, "task type", PickField(self._type_label(), id=f"field-{TYPE}"))
                    with Vertical(id="fields"):
                        yield from self._field_rows()
                    yield Line(id="divider")
                    yield from schedule_rows(form)
                with Vertical(id="side"):
                    yield Line(id="json-title")
                    yield self._editor()
                    yield Static(id="effects")
            yield Line(id="help")
            yield Line(id="runs")
            yield Static(id="twin")
            with Horizontal(id="buttons"):
                yield Button(Content(f"{'Save changes' if form.editing else 'Create job'} ctrl+s"), id="yes")
                yield Button(Content("Dry run ctrl+t"), id="try")
                yield Button(Content("Cancel esc"), id="no")
                yield Static(Content("ctrl+y copies"), id="hint")

    @property
    def deck(self) -> JobdeckApp:
        """The application, as what it is."""
        return cast("JobdeckApp", self.app)

    def on_mount(self) -> None:
        """The first thing to decide has the focus; what only the database knows is asked for."""
        self._lay_out(self.app.size.width)
        self.query(Row).first().widget.focus()
        self._name_ids()

    def on_resize(self, event: Resize) -> None:
        """Two columns where there is room."""
        self._lay_out(event.size.width)

    def redraw(self) -> None:
        """Says everything anew that follows from what was typed."""
        if not self.is_attached:
            return
        now, form = self.deck.now(), self.form
        problems = form.check(now)
        for row in self.query(Row):
            row.show(form_text.note(form, row.field, now), problems.get(row.field, ""))
        trouble = problems.get(JSON, "")
        title = "Payload as JSON, in step with the fields"
        self.query_one("#json-title", Line).show([(f"✗ {trouble}", "bad") if trouble else (title, "strong")])
        self.query_one("#divider", Line).show([("Schedule", "strong"), ("  times are UTC", "muted")])
        told = form_text.mending(form)
        self.query_one("#runs", Line).show([(told, "bad") if told else (form_text.runs(form, now), "run")])
        self.query_one("#effects", Static).update(form_text.rehearsed(self.rehearsal))
        self._draw_help()
        self._draw_twin()
        for button in ("#yes", "#try"):
            self.query_one(button, Button).disabled = bool(self.busy)

    def on_descendant_focus(self, _event: DescendantFocus) -> None:
        """The help is about the field that has the focus."""
        self._draw_help()

    @on(Input.Changed)
    def take_text(self, event: Input.Changed) -> None:
        """What is typed into a field; the JSON follows."""
        name = self._name_of(event.input)
        if name is not None and self.form.text(name) != event.value:
            self.form.set_text(name, event.value, self.deck.now())
            self._edited(name)

    @on(Input.Submitted)
    def go_on(self) -> None:
        """Enter goes to the next field."""
        self.focus_next()

    @on(Segments.Changed)
    def take_choice(self, event: Segments.Changed) -> None:
        """What is chosen; the JSON follows."""
        name = self._name_of(event.segments)
        if name == RECURRING:
            self.form.recurring = event.segments.value == "true"
            for row in self.query(Row):
                if row.field in {forms.EVERY, forms.LASTING}:
                    row.display = self.form.recurring
        elif name is not None:
            self.form.set_text(name, event.segments.value, self.deck.now())
        self._edited(name)

    @on(TextArea.Changed)
    def take_json(self, event: TextArea.Changed) -> None:
        """What is typed as JSON; the fields follow."""
        if event.text_area.text != self.form.json_text:
            self.form.set_json(event.text_area.text)
            self._edited(JSON)
            self._name_ids()

    @on(PickField.Opened)
    def open_list(self, event: PickField.Opened) -> None:
        """Offers task types, coaches or campaigns."""
        name = self._name_of(event.field)
        if name == TYPE:
            found = [Found(known.task_type, known.task_type, known.purpose) for known in self.types.values()]
            chosen = self.form.job_type.task_type if self.form.job_type else ""
            self.deck.push_screen(Picker("Task type", among(found), typed=event.typed, chosen=chosen), self._take_type)
        elif name is not None:
            self._open_field(name, event.typed)

    @on(PickField.Cleared)
    def leave_out(self, event: PickField.Cleared) -> None:
        """Leaves a field out."""
        name = self._name_of(event.field)
        if name is not None and name != TYPE:
            self._take_found(name, Found("", ""))

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
        self._say("Esc once more throws away what you typed.")

    def action_scroll(self, lines: int) -> None:
        """Scrolls what does not fit: all of it where it stands in one column, else what a run would do."""
        name = "#halves" if self.has_class("-narrow") else "#effects"
        self.query_one(name).scroll_relative(y=lines, animate=False)

    def action_copy(self) -> None:
        """Copies the command that does the same."""
        wanted = self._wanted()
        if wanted is not None:
            self.deck.say(copy(self.deck, self._twin(wanted)))

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
        told, good = (failure(what, answer), False) if isinstance(answer, Exception) else form_text.outcome(answer)
        if not good:
            self._say(told)
            return
        self.deck.say(f"{told}\n{twin}")
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
            self.call_after_refresh(self.query_one("#effects").scroll_visible, animate=False, top=True)

    def _lay_out(self, width: int) -> None:
        self.set_class(width < WIDE, "-narrow")
        self.call_after_refresh(self.redraw)

    def _wanted(self) -> Wanted | None:
        """What is asked for; where something is wrong, the focus goes there."""
        wanted = self.form.wanted(self.deck.now())
        if wanted is None:
            self.redraw()
            wrong = (row.widget for row in self.query(Row) if row.field in self.form.problems)
            next(wrong, self.query_one(f"#field-{JSON}")).focus()
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

    def _edited(self, name: str | None) -> None:
        """Shows in every other field, and in the JSON, what the payload has become."""
        self._discarding, self.said, self.rehearsal = False, "", None
        form = self.form
        editor = self.query_one(f"#field-{JSON}", TextArea)
        if name != JSON and editor.text != form.json_text:
            editor.load_text(form.json_text)
        for row in self.query(Row):
            if row.field not in {name, TYPE, RECURRING}:
                self._show_in(row.widget, row.field)
        self.redraw()

    def _show_in(self, widget: Widget, name: str) -> None:
        text = self.form.text(name)
        widget.disabled = text is None
        if isinstance(widget, Segments):
            widget.set_value(text or "")
        elif isinstance(widget, PickField):
            widget.set_label(self.lookup.name(text or ""))
        elif isinstance(widget, OneLine) and widget.value != (text or ""):
            widget.value = text or ""

    def _take_type(self, chosen: Found | None) -> None:
        known = self.types.get(chosen.id) if chosen else None
        if known is None or known is self.form.job_type:
            return
        self.form = self.form.turned_into(known)
        self.query_one(f"#field-{TYPE}", PickField).set_label(self._type_label())
        self.run_worker(self._replace_fields(), exclusive=True)

    async def _replace_fields(self) -> None:
        fields = self.query_one("#fields")
        await fields.remove_children()
        await fields.mount(*self._field_rows())
        self._edited(None)
        self._name_ids()

    def _field_rows(self) -> Sequence[Row]:
        return [
            Row(one.name, label_of(one), widget_of(one, self.form.text(one.name), f"field-{number}"))
            for number, one in enumerate(self.form.fields)
        ]

    def _editor(self) -> TextArea:
        editor = Editor(self.form.json_text, soft_wrap=True, tab_behavior="focus", id=f"field-{JSON}")
        editor.cursor_blink = editor.match_cursor_bracket = False
        editor.read_only = self.form.job_type is None
        return editor

    def _name_of(self, widget: Widget | None) -> str | None:
        return next((row.field for row in self.query(Row) if row.widget is widget), None)

    def _type_label(self) -> str:
        known: JobType | None = self.form.job_type
        return known.task_type if known else ""

    def _draw_help(self) -> None:
        """What is going on, what went wrong, or what the field in focus is for, with all its words."""
        line = self.query_one("#help", Line)
        if self.busy or self.said:
            line.show([(self.busy or self.said, "run" if self.busy else "warn")])
            return
        name = self._name_of(self.focused)
        problem = self.form.problems.get(name or JSON, "")
        in_json = "tab goes on; what is typed here shows in the fields"
        note = form_text.note(self.form, name, self.deck.now()) if name else in_json
        line.show([(f"✗ {problem}", "bad") if problem else (note if self.focused else "", "muted")])

    def _draw_twin(self) -> None:
        form = self.form
        wanted = None if form.problems else form.wanted(self.deck.now())
        text = self._twin(wanted) if wanted is not None and (not form.editing or form.changed) else ""
        line = self.query_one("#twin", Static)
        room = max(line.size.width * line.size.height - 2, 20)
        line.update(Content.styled(text if len(text) <= room else fit(text, room), "$accent"))

    def _open_field(self, name: str, typed: str) -> None:
        one = next(one for one in self.form.fields if one.name == name)
        kind: Searched = "coach" if one.kind == "coach" else "campaign"
        empty = "" if one.required else "all coaches" if kind == "coach" else "none"
        chosen = self.form.text(name) or ""
        picker = Picker(kind.capitalize(), self.lookup.fetch(kind), typed=typed, empty=empty, chosen=chosen)
        self.deck.push_screen(picker, partial(self._take_found, name))

    def _take_found(self, name: str, found: Found | None) -> None:
        if found is not None:
            self.lookup.keep(found)
            self.form.set_text(name, found.id, self.deck.now())
            self._edited(None)

    def _name_ids(self) -> None:
        """Shows what the ids of the payload are called, as soon as it is known."""

        def found() -> None:
            if self.is_attached:
                for row in self.query(Row):
                    if isinstance(row.widget, PickField) and row.field != TYPE:
                        self._show_in(row.widget, row.field)

        self.lookup.look_up(self.form, found)
