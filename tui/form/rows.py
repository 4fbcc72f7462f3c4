"""The rows of a form: a label, a widget, and a note or an error beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from textual.containers import Horizontal

from jobdeck.core import plugins
from jobdeck.tui.form import form as forms
from jobdeck.tui.form.fields import UNSET
from jobdeck.tui.form.widgets import PickField, Segments
from jobdeck.tui.form.wording import RECURRING, TYPE
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.ink import PlainLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from textual.app import ComposeResult
    from textual.widget import Widget

    from jobdeck.tui.form.fields import Field
    from jobdeck.tui.form.form import Form

LEAST: Final = 28
"""The least width of a widget, so that the notes are aligned."""
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


def label_width(labels: Iterable[str]) -> int:
    """The width of the longest label and a blank, within the limits."""
    least, most = LABELS
    return min(max(least, *(cell_len(label) + 1 for label in labels)), most)


def type_row(form: Form, types: Iterable[str]) -> Row:
    """The row of the task type, wide enough for the longest name."""
    chosen = PickField(form.job_type.task_type if form.job_type else "", id=f"field-{TYPE}")
    chosen.styles.width = max(LEAST, *(cell_len(name) + AROUND for name in types))
    return Row(TYPE, "task type", chosen)


def label_of(field: Field) -> str:
    """The label of a field; a star marks a required field."""
    return f"{field.label} *" if field.required else field.label


def widget_of(field: Field, text: str | None, name: str) -> Widget:
    """The widget for a field. Without a text the value can be edited in the JSON only, so it is disabled."""
    made = _widget(field, text or "", name)
    made.disabled = text is None
    return made


def schedule_rows(form: Form) -> Iterator[Row]:
    """The rows of the schedule, and of the other options of a job."""
    yield _typed(form, forms.AT)
    switch = Segments(SWITCH, str(form.recurring).lower(), id=f"field-{RECURRING}")
    yield Row(RECURRING, RECURRING, switch, id=f"row-{RECURRING}")
    for name in (forms.EVERY, forms.ZONE, forms.LASTING, forms.CATCH_UP):
        row = _typed(form, name)
        row.display = is_shown(form, name)
        yield row
    for name in forms.ALONE:
        if not form.editing or forms.OFFERED[name].edit is not None:
            yield _typed(form, name)


def is_shown(form: Form, field: str) -> bool:
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
