"""The dialog that edits the payloads of many jobs: what to change, and a dry run with the differences of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static, TextArea

from jobdeck.core.errors import UsageError
from jobdeck.core.queue.operators.payload_change import PayloadChange, parse_change
from jobdeck.tui.backend.bulk_words import edit_twin, plural_of
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.commands import options
from jobdeck.tui.format import one_line, short_id
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.widgets.fields import Editor, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.queue.bulk_model import Choice
    from jobdeck.core.queue.operators.payload_change import EditRehearsal

REFUSED: Final = 3
"""How many refused jobs the dry run names."""
NEEDED: Final = "Make a dry run of these changes first."


@dataclass(frozen=True, slots=True)
class WantedEdit:
    """The change, which was shown in a dry run, and the reason for the audit log."""

    change: PayloadChange
    reason: str | None


class BulkEdit(Dialog[WantedEdit | None]):
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
            box.border_title = Content(f"Edit the payloads of {plural_of(self.choice.bulk.total)}")
            yield Static(Content.styled(f"filter: {matching}", "$ink-muted"))
            yield Static(Content("One change per line: key=value, or -key to remove it. A value is JSON, else text."))
            area = Editor("", id="changes", compact=True)
            area.cursor_blink = False
            yield area
            reason = Input(id="reason", placeholder="Reason (optional), for the audit log", compact=True)
            reason.cursor_blink = False
            yield reason
            yield Static(id="diff")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Cancel"), id="no")
                yield Button(Content("Dry run"), id="try")
                yield Button(Content("Edit"), id="yes", disabled=True)
                yield self.hint(("try", "dry run"), ("save", "edits"), ("close", "cancels"))

    def on_mount(self) -> None:
        self.query_one("#changes", TextArea).focus()

    def on_text_area_changed(self) -> None:
        """What was tried is not what is there any more."""
        self._tried = None
        self.query_one("#yes", Button).disabled = True
        self.query_one("#diff", Static).update("")
        self._say("")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "yes":
            self.action_submit()
        elif event.button.id == "try":
            self.action_rehearse()
        else:
            self.dismiss(None)

    def action_rehearse(self) -> None:
        """Shows what the change would do to the first jobs, and how many the task types refuse."""
        change = None if self._busy else self._change()
        if change is None:
            return
        deck, self._busy = self.deck, True
        self._say("Preparing the dry run…")

        def answered(answer: EditRehearsal | Exception) -> None:
            self._busy = False
            if not deck.shows(self):
                return
            if isinstance(answer, Exception):
                self._say(failure("prepare the dry run", answer))
            elif self._change() == change:
                self._show(change, answer)

        deck.background(lambda: deck.reach().bulk.rehearse_edit(self.choice.bulk.id, change), answered)

    def action_submit(self) -> None:
        """Closes the dialog with the change, if a dry run has shown it."""
        change = self._change()
        if change is not None and change == self._tried:
            self.dismiss(WantedEdit(change, self.query_one("#reason", Input).value.strip() or None))
        elif change is not None:
            self._say(NEEDED)

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
        self._say("")

    def _change(self) -> PayloadChange | None:
        """The change that is typed; None if it cannot be read, which the dialog then says."""
        lines = [line.strip() for line in self.query_one("#changes", TextArea).text.splitlines() if line.strip()]
        unset = [line[1:].strip() for line in lines if line.startswith("-")]
        try:
            change = parse_change([line for line in lines if not line.startswith("-")], unset)
        except UsageError as error:
            self._say(str(error))
            return None
        if not lines:
            self._say("Nothing to change. Write a line like url=https://example.org.")
            return None
        return change

    def _say(self, text: str) -> None:
        self.query_one("#problem", Static).update(Content.styled(one_line(text), "$error"))
