"""The dialogs that edit payloads: of one job before its retry, and of many jobs after a dry run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import JobdeckError, UsageError
from jobdeck.core.model import Json
from jobdeck.core.queue.operators.payload_change import PayloadChange, difference, parse_change
from jobdeck.core.redact import harmless_json
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.commands import edit_twin, options, twin_with_payload
from jobdeck.tui.format import one_line, plural, short_id
from jobdeck.tui.screens.dialogs.dialog import EditorDialog
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.model import Job
    from jobdeck.core.queue.bulk_model import Choice
    from jobdeck.core.queue.operators.payload_change import EditRehearsal

REFUSED: Final = 3
"""How many refused jobs the dry run names."""
NEEDED: Final = "Make a dry run of these changes first."


class PayloadEditor(EditorDialog[Json]):
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
            yield self.editor(harmless_json(self.job.payload, indent=2), "json")
            yield Static(id="diff")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Cancel"), id="no")
                yield Button(Content(verb), id="yes")
                yield self.hint(("retry", "runs it again" if copied else "retries"), ("close", "cancels"))

    def on_mount(self) -> None:
        self._draw_twin()

    def on_text_area_changed(self) -> None:
        self.say("")
        self._draw_twin()

    def action_submit(self) -> None:
        """Checks the payload in the background and closes the dialog with a valid one."""
        try:
            payload: Any = json.loads(self.typed)
        except json.JSONDecodeError as error:
            self.say(f"Line {error.lineno}, column {error.colno}: {error.msg}.")
            return
        if not isinstance(payload, dict):
            self.say("A payload must be a JSON object: { … }.")
            return
        deck = self.deck

        def checked(problem: Exception | None) -> None:
            if not deck.shows(self):
                return
            if problem is None:
                self.answer(payload)
            else:
                self.say(str(problem) if isinstance(problem, JobdeckError) else type(problem).__name__)

        deck.background(lambda: deck.reach().check_payload(self.job.task_type, payload), checked)

    def _draw_twin(self) -> None:
        """Shows the equivalent command and what the new payload changes; neither while the JSON is invalid."""
        try:
            payload: Any = json.loads(self.typed)
        except json.JSONDecodeError:
            payload = None
        changed = isinstance(payload, dict)
        self.query_one(Twin).show(twin_with_payload(self.job, payload) if changed else "")
        lines = difference(self.job.payload, payload).lines if changed else []
        shown = self.query_one("#diff", Static)
        shown.display = bool(lines)
        shown.update(Content.styled("\n".join(lines), "$ink-muted"))


@dataclass(frozen=True, slots=True)
class WantedEdit:
    """The change, which was shown in a dry run, and the reason for the audit log."""

    change: PayloadChange
    reason: str | None


class BulkEdit(EditorDialog[WantedEdit]):
    """Asks for a change of payload keys. It can be made only after a dry run of exactly this change."""

    DIALOG: ClassVar[str] = "bulk_edit"

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self._tried: PayloadChange | None = None
        self._busy = False

    def compose(self) -> ComposeResult:
        matching = one_line(self.choice.bulk.words or "everything in the queue")
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content(f"Edit the payloads of {plural(self.choice.bulk.total, 'job')}")
            yield Static(Content.styled(f"filter: {matching}", "$ink-muted"))
            yield Static(Content("One change per line: key=value, or -key to remove it. A value is JSON, else text."))
            yield self.editor("", "changes")
            yield OneLine("", example="Reason (optional), for the audit log", id="reason")
            yield Static(id="diff")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Cancel"), id="no")
                yield Button(Content("Dry run"), id="try")
                yield Button(Content("Edit"), id="yes", disabled=True)
                yield self.hint(("try", "dry run"), ("save", "edits"), ("close", "cancels"))

    def on_text_area_changed(self) -> None:
        """What was tried is not what is there any more."""
        self._tried = None
        self.query_one("#yes", Button).disabled = True
        self.query_one("#diff", Static).update("")
        self.say("")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Also runs `EditorDialog`'s handler, as Textual does for every class."""
        if event.button.id == "try":
            self.action_rehearse()

    def action_rehearse(self) -> None:
        """Shows what the change would do to the first jobs, and how many the task types refuse."""
        change = None if self._busy else self._change()
        if change is None:
            return
        deck, self._busy = self.deck, True
        self.say("Preparing the dry run…")

        def answered(answer: EditRehearsal | Exception) -> None:
            self._busy = False
            if not deck.shows(self):
                return
            if isinstance(answer, Exception):
                self.say(failure("prepare the dry run", answer))
            elif self._change() == change:
                self._show(change, answer)

        deck.background(lambda: deck.reach().bulk.rehearse_edit(self.choice.bulk.id, change), answered)

    def action_submit(self) -> None:
        """Closes the dialog with the change, if a dry run has shown it."""
        change = self._change()
        if change is not None and change == self._tried:
            self.dismiss(WantedEdit(change, self.query_one("#reason", Input).value.strip() or None))
        elif change is not None:
            self.say(NEEDED)

    def _show(self, change: PayloadChange, found: EditRehearsal) -> None:
        self._tried = change
        self.query_one("#yes", Button).disabled = not found.changed
        lines = [Content.styled(found.words, "bold")]
        for job, differs in found.first:
            lines.append(Content.styled(f"{short_id(job.id)}  {one_line(job.task_type)}", "$ink-muted"))
            lines += [Content(f"  {one_line(line)}") for line in differs.lines]
        for one in found.refused[:REFUSED]:
            lines.append(Content.styled(f"{short_id(one.job_id)} refused: {one_line(one.message)}", "$warning"))
        self.query_one("#diff", Static).update(Content("\n").join(lines))
        self.query_one(Twin).show(edit_twin(self.choice.bulk, options(change)))
        self.say("")

    def _change(self) -> PayloadChange | None:
        """The change that is typed; None if it cannot be read, which the dialog then says."""
        lines = [line.strip() for line in self.typed.splitlines() if line.strip()]
        unset = [line[1:].strip() for line in lines if line.startswith("-")]
        try:
            change = parse_change([line for line in lines if not line.startswith("-")], unset)
        except UsageError as error:
            self.say(str(error))
            return None
        if not lines:
            self.say("Nothing to change. Write a line like url=https://example.org.")
            return None
        return change
