"""The pages for operators: the audit log below the digest of the same period, and the playbook."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jobdeck.core.queue.operators import notes
from jobdeck.core.read import reports
from jobdeck.core.read.report_types import AuditReport
from jobdeck.core.times import format_duration
from jobdeck.core.words.shift import markdown
from jobdeck.tui.commands import acknowledge_twin, note_twin
from jobdeck.tui.screens.dialogs.confirm import ask
from jobdeck.tui.screens.dialogs.dialog import send_with
from jobdeck.tui.screens.dialogs.shift import LeaveNote, NoteAnswer, note_question
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.terminal.output import copy
from jobdeck.tui.text import audit, playbook
from jobdeck.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.read.operators.notes import Note
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

PERIODS: Final = (timedelta(hours=8), timedelta(hours=24), timedelta(days=7), timedelta(hours=1))


class Audit(ListPage[AuditReport]):
    """The last 8 hours, or another period."""

    SCOPE: ClassVar[Scope] = "audit"
    EVERY: ClassVar[float] = 15.0
    QUERY = staticmethod(reports.audit)

    def __init__(self) -> None:
        super().__init__()
        self.period = PERIODS[0]

    @property
    def heading(self) -> str:
        if self.data is None:
            return "Audit"
        hours = round((self.data.digest.at - self.data.digest.since) / timedelta(hours=1))
        return f"Audit: last {hours} h" if hours <= 24 else f"Audit: last {hours // 24} d"

    def given(self) -> dict[str, Any]:
        return {"since": self.period, "production": self.deck.options.production}

    def entries(self, data: AuditReport, width: int) -> Sequence[Entry]:
        return audit.lines(data, width)

    def summary(self, data: AuditReport) -> list[Span]:
        """The equivalent command."""
        word = format_duration(data.digest.at - data.digest.since)
        return [(f"jobdeck digest --since {word.replace(' ', '')}", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self._open, "period": self._next_period, "copy.digest": self._copy_digest,
            "note.leave": self._leave_note, "note.acknowledge": self._open,
        }  # fmt: skip

    @property
    def note(self) -> Note | None:
        """The note under the cursor."""
        found = self.data.digest.notes if self.data is not None else ()
        return next((note for note in found if ("note", note.id) == self.pane.current), None)

    def refused(self) -> dict[str, str]:
        return {} if self.note is not None else {"note.acknowledge": "No note on this line."}

    def _open(self) -> None:
        """Opens the job on this line, or shows the note, which can be acknowledged then."""
        note, deck = self.note, self.deck
        if note is None:
            key = self.pane.current
            if isinstance(key, tuple) and key[0] == audit.MANY:
                deck.say(f"This line is about many jobs. {deck.key('page.bulk')} lists the bulk actions.")
            else:
                self.open_chosen()
            return
        question = note_question(note, deck.now(), read_only=deck.read_only_reason)
        work, said = partial(notes.acknowledge, note_id=note.id), f"Note {note.id} acknowledged."
        what, twin = f"acknowledge note {note.id}", acknowledge_twin(note)
        ask(self, question, lambda: deck.operations.change(what, work, lambda _: said, twin))

    def _leave_note(self) -> None:
        deck = self.deck

        def send(answer: NoteAnswer, ended: Callable[[str], None]) -> None:
            def said(note_id: int) -> str:
                return f"Note {note_id} is left for {answer.days} d. {deck.key('page.audit')} shows it."

            work = partial(notes.add, note=answer.text, days=answer.days)
            deck.operations.change("leave the note", work, said, note_twin(answer.text, answer.days), ended)

        send_with(self, LeaveNote(), send)

    def _copy_digest(self) -> None:
        """Copies the digest of the period as Markdown."""
        if self.data is None:
            self.deck.say("The digest is still being read. Try again.")
            return
        said = copy(self.app, markdown(self.data.digest))
        hours = max(round((self.data.digest.at - self.data.digest.since) / timedelta(hours=1)), 1)
        self.deck.say(f"{said}\njobdeck digest --since {hours}h --markdown")

    def _next_period(self) -> None:
        self.period = PERIODS[(PERIODS.index(self.period) + 1) % len(PERIODS)]
        self.reread()


class Playbook(ListPage[bool]):
    """Shows docs/operations.md. It needs no database."""

    SCOPE: ClassVar[Scope] = "playbook"
    HEADING: ClassVar[str] = "Playbook"

    def __init__(self) -> None:
        super().__init__()
        self.data = True

    def make_pane(self) -> Pane:
        return Pane(id="pane", cursor=False)

    def read(self, backend: Backend) -> bool:
        del backend
        return True

    def fetch(self) -> None:
        """Reads nothing."""

    def entries(self, data: bool, width: int) -> Sequence[Entry]:
        del data
        return playbook.entries(width)

    def summary(self, data: bool) -> list[Span]:
        """The section at the top of the pane."""
        del data
        return [(self._sections()[self._here()][1], "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "section.next": lambda: self._go(self._here() + 1),
            "section.previous": lambda: self._go(self._here() - (self._sections()[self._here()][0] == self.pane.top)),
        }

    def _sections(self) -> list[tuple[int, str]]:
        names = set(playbook.sections())
        found = [(at, str(one.key)) for at, one in enumerate(self.pane.entries) if one.key in names]
        return [(0, ""), *found]

    def _here(self) -> int:
        return max(number for number, (at, _) in enumerate(self._sections()) if at <= self.pane.top)

    def _go(self, section: int) -> None:
        sections = self._sections()
        self.pane.move_to(sections[min(max(section, 0), len(sections) - 1)][0])
