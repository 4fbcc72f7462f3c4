"""The dialog before every action on jobs: verb, count, breakdown, first ids, and Cancel in focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.model import Status
from jobdeck.tui.actions import BY_ID
from jobdeck.tui.commands import NAMED, frozen_twin, twin
from jobdeck.tui.format import badge, breakdown, fit, one_line, plural, short_id, words
from jobdeck.tui.screens.dialogs.dialog import Dialog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.events import Key
    from textual.screen import Screen
    from textual.widget import Widget

    from jobdeck.core.model import Job
    from jobdeck.core.queue.bulk_model import Bulk, Choice
    from jobdeck.tui.backend.protocol import Verb

FIRST: Final = 6
MANY: Final = 25
TYPES: Final = 4
DANGEROUS: Final = frozenset({"cancel", "delete"})
CONTINUES: Final = "It continues if you disconnect."


@dataclass(frozen=True, slots=True)
class Question:
    """The content of a dialog.

    Without `yes` there is only `no`. The `word` must be typed before the answer can be yes, in production and where
    the `number` of jobs is large. `twin` is the equivalent command; with `freezes` it is known only once the jobs are
    frozen. With `ready` the focus starts on yes, so that enter is enough where no word is asked. With `reasoned` the
    dialog asks for a reason, which may stay empty.
    """

    title: str
    body: Content
    yes: str
    no: str = "Cancel"
    word: str | None = None
    number: int = 0
    danger: bool = False
    twin: str = ""
    freezes: bool = False
    ready: bool = False
    reasoned: bool = False


def job_question(verb: Verb, jobs: Sequence[Job], *, left_out: str) -> Question:
    """The question before an action on jobs."""
    number = len(jobs)
    lines = [Content.styled(breakdown(jobs), "bold")]
    lines += [job_line(job, f"  {badge(job)}" if job.is_recurring else "") for job in jobs[:FIRST]]
    if number > FIRST:
        lines.append(Content.styled(f"and {number - FIRST} more", "$ink-muted"))
    lines += [Content(""), Content(_consequence(verb, jobs))]
    if left_out:
        lines.append(Content.styled(left_out, "$warning"))
    again = verb == "run-again"
    title = f"{verb.capitalize()} {plural(number, 'job')}"
    if again:
        title = f"Run again: {plural(number, 'job')}"
    elif verb == "retry" and all(job.status is Status.PENDING for job in jobs):
        title = f"Run {plural(number, 'job')} now"
    no = "Keep" if verb == "cancel" else "Cancel"
    freezes = number > NAMED and not again
    same = f"jobdeck {verb} --bulk … --yes" if freezes else twin(verb, jobs)
    if number > NAMED and not freezes:
        reads = "The command reads the ids from its input, one per line, as the list copies them."
        lines.append(Content.styled(reads, "$ink-muted"))
    body = Content("\n").join(lines)
    yes = "Run again" if again else title
    danger = verb in DANGEROUS
    return Question(title, body, yes, no, words(verb), number, danger, same, freezes=freezes, reasoned=True)


def job_line(job: Job, mark: str = "") -> Content:
    """One job that a question is about."""
    name = fit(f"{one_line(job.task_type)}{mark}", 40)
    return Content.assemble((f"{short_id(job.id)}  ", "$ink-muted"), name, (f"  {job.status.value}", "$ink-muted"))


def skipped(jobs: Sequence[Job], *, retried: bool) -> str:
    """Why these of the marked jobs are left out; empty where there are none."""
    succeeded = [job for job in jobs if retried and job.status is Status.SUCCEEDED]
    others = breakdown(job for job in jobs if job not in succeeded)
    parts = [f"Skipped, since their status does not allow it: {others}."] if others else []
    if succeeded:
        parts.append(f"Skipped: {breakdown(succeeded)}. Mark only those to run them again.")
    return " ".join(parts)


def choice_question(verb: Verb, choice: Choice) -> Question:
    """The question before an action on all chosen jobs: their number by status and type, and the first ids."""
    allowed = [status.value for status in BY_ID[f"job.{verb}"].states or ()]
    number = sum(choice.of(status) for status in allowed)
    statuses = {share.status: choice.of(share.status) for share in choice.shares}
    listed = ", ".join(f"{jobs:,} {status}" for status, jobs in statuses.items() if status in allowed)
    matching = one_line(choice.bulk.words or "everything in the queue")
    lines = [Content.styled(listed, "bold"), Content.styled(f"filter: {matching}", "$ink-muted")]
    types = _types(choice, allowed)
    lines += [Content(f"{jobs:>8,}  {fit(one_line(name or '?'), 44)}") for name, jobs in types[:TYPES]]
    if len(types) > TYPES:
        lines.append(Content.styled(f"          and {plural(len(types) - TYPES, 'more type')}", "$ink-muted"))
    first = " ".join(short_id(job.id) for job in choice.first)
    lines.append(Content.styled(f"first {first}{' …' if number > len(choice.first) else ''}", "$ink-muted"))
    lines += [Content(""), Content(_consequence(verb, choice.first) if number == 1 else _of_many(verb, choice))]
    left_out = {status: jobs for status, jobs in statuses.items() if status not in allowed}
    if left_out:
        refused = ", ".join(f"{jobs:,} {status or 'changed since'}" for status, jobs in left_out.items())
        lines.append(Content.styled(f"Will be refused: {refused}.", "$warning"))
    title = f"{verb.capitalize()} {plural(number, 'job')}"
    no = "Keep" if verb == "cancel" else "Cancel"
    same = frozen_twin(verb, choice.bulk)
    body = Content("\n").join(lines)
    return Question(title, body, title, no, verb, number, danger=verb in DANGEROUS, twin=same, reasoned=True)


def _types(choice: Choice, allowed: Sequence[str]) -> list[tuple[str | None, int]]:
    counted: dict[str | None, int] = {}
    for share in choice.shares:
        if share.status in allowed:
            counted[share.task_type] = counted.get(share.task_type, 0) + share.jobs
    return sorted(counted.items(), key=lambda item: -item[1])


def _of_many(verb: Verb, choice: Choice) -> str:
    if verb == "delete":
        return f"They go to the trash for 7 days; you can undo this. Series among them end. {CONTINUES}"
    if verb == "cancel":
        running = choice.of(Status.RUNNING.value)
        asked = f" {plural(running, 'job')} running will be asked to stop." if running else ""
        return f"They will not run again unless retried; series stop.{asked} {CONTINUES}"
    return f"They become due at once. {CONTINUES}"


def _consequence(verb: Verb, jobs: Sequence[Job]) -> str:
    one = len(jobs) == 1
    if verb == "delete":
        return f"{'It goes' if one else 'They go'} to the trash for 7 days; you can undo this.{_ends(jobs)}"
    if verb == "cancel":
        running = sum(job.status is Status.RUNNING for job in jobs)
        asked = f" {plural(running, 'running job')} will be asked to stop." if running else ""
        series = " A recurring series stops." if any(job.is_recurring for job in jobs) else ""
        return f"{'It' if one else 'They'} will not run again unless retried.{asked}{series}"
    return _of_retry(sum(not job.removed for job in jobs), sum(job.removed for job in jobs))


def _ends(jobs: Sequence[Job]) -> str:
    """How many series end with these jobs: the waiting job of a series is its only one."""
    series = sum(job.is_recurring and job.status is Status.PENDING for job in jobs)
    if not series:
        return ""
    if len(jobs) == 1:
        return " The series ends: it has no other job."
    return f" {series} series {'ends' if series == 1 else 'end'}."


def _of_retry(here: int, left: int) -> str:
    """The effect of a retry on `here` jobs in the queue and `left` jobs that left it."""
    if not left:
        return "It becomes due at once." if here == 1 else "They become due at once."
    copies = "a copy is" if left == 1 else "copies are"
    if not here:
        return f"{'It has' if left == 1 else 'They have'} left the queue: {copies} enqueued."
    runs = f"{plural(here, 'job')} {'becomes' if here == 1 else 'become'} due at once"
    return f"{runs}; of {left} that left the queue {copies} enqueued."


class Confirm(Dialog[bool]):
    """Asks a question, with the harmless answer in focus. `y` says yes, unless a word must be typed."""

    DIALOG: ClassVar[str] = "confirm"

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question
        self.reason: str | None = None
        """The reason that was typed, for the audit log."""
        self._twin = question.twin

    @property
    def word(self) -> str | None:
        """The word to type before the answer can be yes; None where `y` is enough."""
        needed = self.question.number > MANY or self.deck.options.production
        return self.question.word if needed else None

    def compose(self) -> ComposeResult:
        question, word = self.question, self.word
        with VerticalScroll(id="box", classes="-danger" if question.danger else "", can_focus=False) as box:
            box.border_title = Content(question.title)
            yield Static(question.body)
            if self._twin:
                yield Static(Content.styled(self._twin, "$accent"), id="twin")
            if question.reasoned:
                yield self._field("reason", "Reason (optional), for the audit log")
            if word:
                close = "-close" if question.reasoned else ""
                asked = Content.assemble("Type ", (word, "bold"), " to confirm:")
                yield Static(asked, id="ask", classes=close)
                yield self._field("word", "")
            with Horizontal(id="buttons"):
                yield Button(Content(question.no), id="no")
                if question.yes:
                    yield Button(
                        Content(question.yes),
                        id="yes",
                        classes="-danger" if question.danger else "",
                        disabled=word is not None,
                    )
                yield self.hint(*([("yes", "yes")] if question.yes and not word else []), ("close", "no"))

    def _field(self, name: str, example: str) -> Input:
        field = Input(id=name, placeholder=example, compact=True, select_on_focus=False)
        field.cursor_blink = False
        return field

    def name_twin(self, chosen: Bulk, verb: Verb) -> None:
        """Shows the command once the jobs are frozen."""
        self._twin = frozen_twin(verb, chosen)
        for line in self.query("#twin").results(Static):  # none before the first paint
            line.update(Content.styled(self._twin, "$accent"), layout=False)

    def on_mount(self) -> None:
        self.query_one("#yes" if self.question.ready and not self.word else "#no", Button).focus()

    def enter_on(self, widget: Widget) -> str:
        """On the word, the answer yes."""
        return self.question.yes if widget.id == "word" else super().enter_on(widget)

    def on_key(self, event: Key) -> None:
        """Sends typed characters to the word, wherever the focus is."""
        if self.word and event.character and event.is_printable and not isinstance(self.focused, Input):
            field = self.query_one("#word", Input)
            field.focus()
            field.insert_text_at_cursor(event.character)
            event.stop()
            event.prevent_default()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Keeps the reason, or enables the yes button once the word is right."""
        if event.input.id == "reason":
            self.reason = event.value.strip() or None
            return
        self.query_one("#yes", Button).disabled = event.value.strip().lower() != self.word

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Moves on from the reason. Confirms after the right word; otherwise says that the word is missing."""
        if event.input.id == "reason":
            self.focus_next()
        elif self.query_one("#yes", Button).disabled:
            keys = f"Type {self.word} to confirm, or press {self.key('close')} to close the dialog."
            self.deck.say(f"Nothing was changed. {keys}", "warning")
        else:
            self.dismiss(result=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_yes(self) -> None:
        if self.question.yes and self.word is None:
            self.dismiss(result=True)


def ask(here: Screen[Any], question: Question, then: Callable[[], object]) -> Confirm:
    """Asks a question over a screen, and calls `then` if the answer is yes."""

    def answered(yes: bool | None) -> None:
        if yes:
            then()

    dialog = Confirm(question)
    here.app.push_screen(dialog, answered)
    return dialog
