"""The body of Create Job: the fields, the schedule, the JSON that follows them, and the preview."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from textual import on
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Static, TextArea

from jobdeck.core import plugins
from jobdeck.core.plugins import Found
from jobdeck.tui.deck import deck_of
from jobdeck.tui.form import wording
from jobdeck.tui.form.lookup import Lookup, Offer, among
from jobdeck.tui.form.rows import Row, is_shown, label_of, label_width, schedule_rows, type_row, widget_of
from jobdeck.tui.form.widgets import PickField, Segments
from jobdeck.tui.form.wording import RECURRING, TYPE
from jobdeck.tui.widgets.fields import Editor, OneLine
from jobdeck.tui.widgets.ink import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from textual.app import ComposeResult
    from textual.widget import Widget

    from jobdeck.core.registry import JobType
    from jobdeck.tui.backend.protocol import Rehearsal
    from jobdeck.tui.deck import Deck
    from jobdeck.tui.form.form import Form

JSON: Final = "json"


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
                yield type_row(form, self._types)
            with Vertical(id="fields"):
                yield from self._field_rows()
            yield Line(id="divider")
            yield from schedule_rows(form)
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
            row.display = is_shown(form, row.field)
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
        self._align()
        self._edited(None)
        self._name_ids()

    def _align(self) -> None:
        """Makes all labels as wide as the longest."""
        width = label_width(row.label for row in self.rows)
        for row in self.rows:
            row.set_label_width(width)

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
