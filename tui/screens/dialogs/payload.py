"""The dialog that retries a job with another payload: JSON to edit, checked before anything changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static, TextArea

from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Json
from jobdeck.core.queue.operators.payload_change import difference
from jobdeck.core.redact import harmless_json
from jobdeck.tui.commands import twin_with_payload
from jobdeck.tui.format import one_line, short_id
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.widgets.fields import Editor, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.model import Job


class PayloadEditor(Dialog[Json | None]):
    """Returns a payload that is valid for the job's type, or None. It shows the stored payload unmasked."""

    DIALOG: ClassVar[str] = "payload"

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def compose(self) -> ComposeResult:
        copied = self.job.removed
        what = "enqueues a copy with this payload" if copied else "becomes due with this payload"
        verb = "Run again" if copied else "Retry"
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content(f"{verb} {short_id(self.job.id)} with another payload")
            yield Static(Content(f"{one_line(self.job.task_type)}: {what}. Viewing this is recorded in the audit log."))
            area = Editor(harmless_json(self.job.payload, indent=2), id="json", compact=True)
            area.cursor_blink = False
            yield area
            yield Static(id="diff")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Cancel"), id="no")
                yield Button(Content(verb), id="yes")
                yield self.hint(("retry", "runs it again" if copied else "retries"), ("close", "cancels"))

    def on_mount(self) -> None:
        self.query_one("#json", TextArea).focus()
        self._draw_twin()

    def on_text_area_changed(self) -> None:
        self._say("")
        self._draw_twin()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "yes":
            self.action_submit()
        else:
            self.dismiss(None)

    def action_submit(self) -> None:
        """Checks the payload in the background and closes the dialog with a valid one."""
        try:
            payload: Any = json.loads(self.query_one("#json", TextArea).text)
        except json.JSONDecodeError as error:
            self._say(f"Line {error.lineno}, column {error.colno}: {error.msg}.")
            return
        if not isinstance(payload, dict):
            self._say("A payload must be a JSON object: { … }.")
            return
        deck = self.deck

        def checked(problem: Exception | None) -> None:
            if not deck.shows(self):
                return
            if problem is None:
                self.dismiss(payload)
            else:
                self._say(str(problem) if isinstance(problem, JobdeckError) else type(problem).__name__)

        deck.background(lambda: deck.reach().check_payload(self.job.task_type, payload), checked)

    def _draw_twin(self) -> None:
        """Shows the equivalent command and what the new payload changes; neither while the JSON is invalid."""
        try:
            payload: Any = json.loads(self.query_one("#json", TextArea).text)
        except json.JSONDecodeError:
            payload = None
        changed = isinstance(payload, dict)
        self.query_one(Twin).show(twin_with_payload(self.job, payload) if changed else "")
        lines = difference(self.job.payload, payload).lines if changed else []
        shown = self.query_one("#diff", Static)
        shown.display = bool(lines)
        shown.update(Content.styled("\n".join(lines), "$ink-muted"))

    def _say(self, problem: str) -> None:
        self.query_one("#problem", Static).update(Content.styled(one_line(problem), "$error"))
