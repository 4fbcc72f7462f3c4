"""The body of Create Job: the rows of the fields and the schedule, the JSON that follows them, and the preview."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from textual import on
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Static, TextArea

from jobdeck.core import plugins
from jobdeck.core.plugins import Found
from jobdeck.tui.deck import deck_of
from jobdeck.tui.form import form as forms
from jobdeck.tui.form import wording
from jobdeck.tui.form.fields import UNSET
from jobdeck.tui.form.form import TYPE
from jobdeck.tui.form.lookup import Lookup, Offer, among
from jobdeck.tui.form.widgets import PickField, Segments
from jobdeck.tui.form.wording import RECURRING
from jobdeck.tui.widgets.editor import Editor
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.ink import Line, PlainLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from textual.app import ComposeResult
    from textual.widget import Widget

    from jobdeck.core.registry import JobType
    from jobdeck.tui.backend.protocol import Rehearsal
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.form.fields import Field
    from jobdeck.tui.form.form import Form

JSON: Final = "json"
LEAST: Final = 28
"""The least width of a widget, so that the notes are aligned."""
MOST_OF_ROW: Final = "20fr"
"""The share of a row that a widget may take from its note."""
AROUND: Final = 5
"""Cells around the chosen value of a list: blanks and the arrow."""
LABELS: Final = (14, 27)
"""The least and the greatest width of the labels."""
LONGEST_CHOICE: Final = 44
SWITCH: Final = (("false", "off"), ("true", "on"))
WORDS: Final = {UNSET: "unset", "false": "off", "true": "on"}


class Row(Horizontal):
    """One field on one line. `field` is its name in the payload or the schedule."""

    def __init__(self, field: str, label: str, widget: Widget, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id, classes="row")
        self.field = field
        self.label = label
        self.widget = widget
        self._noted = PlainLine(classes="note")
        if isinstance(widget, Segments):
            widget.styles.width = max(Segments.width_of(widget.choices), LEAST)

    def compose(self) -> ComposeResult:
        label = PlainLine(classes="label")
        label.show([(self.label, "muted")])
        yield label
        yield self.widget
        yield self._noted

    def set_label_width(self, cells: int) -> None:
        self.query_one(".label").styles.width = cells

    def show(self, note: str, problem: str) -> None:
        """Shows the problem, otherwise the note."""
        self._noted.show([(f" ✗ {problem}", "bad") if problem else (f" {note}", "muted")])


class FormBody(Horizontal):
    """Fields on the left or above, JSON and preview on the right or below.

    Everything typed goes into `form` and is shown in the other fields; then `edited` is called.
    """

    class Picking(Message):
        """A field wants an item of a list; `take` is called with it, or with None."""

        def __init__(self, offer: Offer, take: Callable[[Found | None], None]) -> None:
            super().__init__()
            self.offer = offer
            self.take = take

    def __init__(
        self, form: Form, types: Mapping[str, JobType], lookup: Lookup, edited: Callable[[], None], *, id: str  # noqa: A002 -- Textual's name
    ) -> None:  # fmt: skip
        super().__init__(id=id)
        self.form = form
        self._types = types
        self._lookup = lookup
        self._on_edited = edited

    @property
    def deck(self) -> Deck:
        return deck_of(self)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, from top to bottom."""
        return list(self.query(Row))

    def compose(self) -> ComposeResult:
        form = self.form
        with Vertical(id="form"):
            if not form.editing:
                yield _type_row(form, self._types)
            with Vertical(id="fields"):
                yield from self._field_rows()
            yield Line(id="divider")
            yield from _schedule_rows(form)
        with Vertical(id="side"):
            yield Line(id="json-title")
            yield self._editor()
            yield Static(id="effects")

    def on_mount(self) -> None:
        self._align()
        self._name_ids()

    def redraw(self, problems: Mapping[str, str], rehearsal: Rehearsal | None, now: datetime) -> None:
        """Shows the problem or the note of each field, the state of the JSON, and the preview."""
        form = self.form
        for row in self.rows:
            row.show(wording.note(form, row.field, now), problems.get(row.field, ""))
        self.query_one("#json-title", Line).show([wording.json_title(form)])
        self.query_one("#divider", Line).show([("Schedule", "strong"), ("  times are UTC", "muted")])
        self.query_one("#effects", Static).update(wording.rehearsed(rehearsal))

    def name_of(self, widget: Widget | None) -> str | None:
        """The field of a widget, or None."""
        return next((row.field for row in self.rows if row.widget is widget), None)

    def go_to(self, fields: Mapping[str, str]) -> None:
        """Focuses the first of these fields, or the JSON where none of them has a row."""
        wrong = (row.widget for row in self.rows if row.field in fields)
        next(wrong, self.query_one(f"#field-{JSON}")).focus()

    def show_effects(self) -> None:
        """Scrolls to the preview."""
        self.query_one("#effects").scroll_visible(animate=False, top=True)

    @on(Input.Changed)
    def take_text(self, event: Input.Changed) -> None:
        """Takes a typed text into the form; the JSON follows."""
        name = self.name_of(event.input)
        if name is not None and self.form.text(name) != event.value:
            self.form.set_text(name, event.value, self.deck.now())
            self._edited(name)

    @on(Segments.Changed)
    def take_choice(self, event: Segments.Changed) -> None:
        """Takes a choice into the form; the JSON follows."""
        name = self.name_of(event.segments)
        if name == RECURRING:
            self.form.recurring = event.segments.value == "true"
        elif name is not None:
            self.form.set_text(name, event.segments.value, self.deck.now())
        self._edited(name)

    @on(TextArea.Changed)
    def take_json(self, event: TextArea.Changed) -> None:
        """Takes typed JSON into the form; the fields follow."""
        if event.text_area.text != self.form.json_text:
            self.form.set_json(event.text_area.text)
            self._edited(JSON)
            self._name_ids()

    @on(PickField.Opened)
    def open_list(self, event: PickField.Opened) -> None:
        """Offers the task types, or the look-up of a field."""
        name = self.name_of(event.field)
        if name == TYPE:
            found = [Found(known.task_type, known.task_type, known.purpose) for known in self._types.values()]
            chosen = self.form.job_type.task_type if self.form.job_type else ""
            offer = Offer("Task type", among(found), typed=event.typed, chosen=chosen)
            self.post_message(self.Picking(offer, self._take_type))
        elif name is not None:
            self._open_field(name, event.typed)

    @on(PickField.Cleared)
    def leave_out(self, event: PickField.Cleared) -> None:
        name = self.name_of(event.field)
        if name is not None and name != TYPE:
            self._take_found(name, Found("", ""))

    def _edited(self, name: str | None) -> None:
        """Shows the new payload in every other field and in the JSON."""
        form = self.form
        editor = self.query_one(f"#field-{JSON}", TextArea)
        if name != JSON and editor.text != form.json_text:
            editor.load_text(form.json_text)
        for row in self.rows:
            row.display = _is_shown(form, row.field)
            if row.field not in {name, TYPE, RECURRING}:
                self._show_in(row.widget, row.field)
        self._on_edited()

    def _show_in(self, widget: Widget, name: str) -> None:
        text = self.form.text(name)
        widget.disabled = text is None
        if isinstance(widget, Segments):
            widget.set_value(text or "")
        elif isinstance(widget, PickField):
            widget.set_label(self._lookup.name(text or ""))
        elif isinstance(widget, OneLine) and widget.value != (text or ""):
            widget.value = text or ""

    def _take_type(self, chosen: Found | None) -> None:
        known = self._types.get(chosen.id) if chosen else None
        if known is None or known is self.form.job_type:
            return
        self.form = self.form.turned_into(known)
        self.query_one(f"#field-{TYPE}", PickField).set_label(known.task_type)
        self.run_worker(self._replace_fields(), exclusive=True)

    async def _replace_fields(self) -> None:
        fields = self.query_one("#fields")
        await fields.remove_children()
        await fields.mount(*self._field_rows())
        self.query_one(f"#field-{JSON}", TextArea).read_only = False
        self._align()
        self._edited(None)
        self._name_ids()

    def _align(self) -> None:
        """Makes all labels as wide as the longest."""
        width = _label_width(row.label for row in self.rows)
        for row in self.rows:
            row.set_label_width(width)

    def _field_rows(self) -> Sequence[Row]:
        return [
            Row(one.name, _label_of(one), _widget_of(one, self.form.text(one.name), f"field-{number}"))
            for number, one in enumerate(self.form.fields)
        ]

    def _editor(self) -> TextArea:
        editor = Editor(self.form.json_text, soft_wrap=True, tab_behavior="focus", id=f"field-{JSON}")
        editor.cursor_blink = editor.match_cursor_bracket = False
        editor.read_only = self.form.job_type is None
        return editor

    def _open_field(self, name: str, typed: str) -> None:
        one = next(one for one in self.form.fields if one.name == name)
        search = plugins.searches()[name]
        empty = "" if one.required else search.empty
        chosen = self.form.text(name) or ""
        offer = Offer(search.noun.capitalize(), self._lookup.fetch(name), typed=typed, empty=empty, chosen=chosen)
        self.post_message(self.Picking(offer, partial(self._take_found, name)))

    def _take_found(self, name: str, found: Found | None) -> None:
        if found is not None:
            self._lookup.keep(found)
            self.form.set_text(name, found.id, self.deck.now())
            self._edited(None)

    def _name_ids(self) -> None:
        """Shows the names of the payload's ids as soon as they are known."""

        def found() -> None:
            if self.is_attached:
                for row in self.rows:
                    if isinstance(row.widget, PickField) and row.field != TYPE:
                        self._show_in(row.widget, row.field)

        self._lookup.look_up(self.form, found)


def _label_width(labels: Iterable[str]) -> int:
    """The width of the longest label and a blank, within the limits."""
    least, most = LABELS
    return min(max(least, *(cell_len(label) + 1 for label in labels)), most)


def _type_row(form: Form, types: Iterable[str]) -> Row:
    """The row of the task type, wide enough for the longest name where there is room."""
    chosen = PickField(form.job_type.task_type if form.job_type else "", empty="choose one", id=f"field-{TYPE}")
    chosen.styles.width = MOST_OF_ROW
    chosen.styles.max_width = max(LEAST, *(cell_len(name) + AROUND for name in types))
    return Row(TYPE, "task type", chosen)


def _label_of(field: Field) -> str:
    """The label of a field; a star marks a required field."""
    return f"{field.label} *" if field.required else field.label


def _widget_of(field: Field, text: str | None, name: str) -> Widget:
    """The widget for a field. Without a text the value can be edited in the JSON only, so it is disabled."""
    made = _widget(field, text or "", name)
    made.disabled = text is None
    return made


def _schedule_rows(form: Form) -> Iterator[Row]:
    """The rows of the schedule, and of the other options of a job."""
    yield _typed(form, forms.AT)
    switch = Segments(SWITCH, str(form.recurring).lower(), id=f"field-{RECURRING}")
    yield Row(RECURRING, RECURRING, switch, id=f"row-{RECURRING}")
    for name in (forms.EVERY, forms.ZONE, forms.LASTING, forms.CATCH_UP):
        row = _typed(form, name)
        row.display = _is_shown(form, name)
        yield row
    for name in forms.ALONE:
        if not form.editing or forms.OFFERED[name].edit is not None:
            yield _typed(form, name)


def _is_shown(form: Form, field: str) -> bool:
    """Whether a row of the schedule has a meaning: some belong to recurring jobs, one to cron expressions."""
    if field == forms.ZONE:
        return form.is_cron
    return form.recurring or field not in {forms.EVERY, forms.CATCH_UP, forms.LASTING}


def _typed(form: Form, name: str) -> Row:
    option, text = forms.OFFERED[name], form.texts[name]
    kept = name == forms.LASTING and form.editing and form.job is not None and form.job.expires_at is not None
    field: Widget
    if option.choices:
        field = Segments(tuple((word, word) for word in option.choices), text, id=f"field-{name}")
    else:
        field = OneLine(text, example="unchanged" if kept else option.example, id=f"field-{name}")
    return Row(name, option.label, field, id=f"row-{name}")


def _widget(field: Field, text: str, name: str) -> Widget:
    if field.kind == "search":
        empty = "choose one" if field.required else plugins.searches()[field.name].empty
        return PickField(text, empty=empty, id=name)
    if field.kind in {"switch", "choice", "words"}:
        choices = tuple((value, WORDS.get(value, value)) for value in field.choices)
        if Segments.width_of(choices) <= LONGEST_CHOICE:
            return Segments(choices, text, several=field.kind == "words", id=name)
    usual = "unset" if field.default is None else str(field.default)
    examples = {"ids": "ids, blanks or commas", "number": usual, "time": "tomorrow 9:00", "json": "JSON"}
    example = examples.get(field.kind, "unset")
    return OneLine(text, example=example, id=name)
