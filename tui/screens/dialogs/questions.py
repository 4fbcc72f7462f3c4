"""Questions before a cycle or a start of the worker, a restore, the end of a flow, a cleanup, a purge, and leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from jobdeck.core.queue.bulk_model import Bulk
from jobdeck.tui.backend.undo import Awaited
from jobdeck.tui.commands import PURGE, RUN_WORKER, WORKER, cancel_flow_twin, cleanup_twin, twin, twin_on
from jobdeck.tui.format import fit, one_line, plural, short_id
from jobdeck.tui.screens.dialogs.confirm import FIRST, Question, ask, job_line
from jobdeck.tui.screens.dialogs.dialog import Dialog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from textual.app import ComposeResult
    from textual.screen import Screen

    from jobdeck.core.model import ActionResult, Job
    from jobdeck.core.read.pages.flows import FlowTree
    from jobdeck.tui.backend.protocol import Due
    from jobdeck.tui.backend.undo import Deletion
    from jobdeck.tui.deck import Deck

LISTED: Final = 6
LABEL: Final = 13


def ask_to_run_worker(here: Screen[Any], deck: Deck) -> None:
    """Reads what is due and asks whether to run a cycle of up to five jobs in this terminal's environment."""
    title = "Run Worker: one cycle of up to 5 jobs, here"
    _ask_to_work(here, deck, title, "run", RUN_WORKER, deck.operations.run_cycle)


def ask_to_toggle_worker(here: Screen[Any], deck: Deck) -> None:
    """Stops the worker in this dashboard, or reads what is due and asks whether to start it.

    It does not ask for a database of its own, where there always is a worker.
    """
    if deck.worker.state != "off" or deck.view is None or deck.view.session.embedded:
        deck.operations.toggle_worker()
    else:
        title = "Worker in this dashboard: all due jobs, here"
        _ask_to_work(here, deck, title, "start", WORKER, deck.operations.toggle_worker)


def _ask_to_work(
    here: Screen[Any], deck: Deck, title: str, verb: str, command: str, then: Callable[[], object]
) -> None:
    """Asks nothing if another screen was opened, or the worker in this dashboard has started, since the key."""
    state = deck.worker.state

    def found(due: Due) -> None:
        if deck.shows(here) and deck.worker.state == state:
            ask(here, _work_question(deck, due, title, verb, command), then)

    deck.operations.run("look for due jobs", lambda: deck.reach().due(), found)


def _work_question(deck: Deck, due: Due, title: str, verb: str, command: str) -> Question:
    view, options = deck.view, deck.options
    environment = one_line(options.environment) or "not named (JOBDECK_ENV)"
    style = "bold $error" if options.production else "bold" if options.environment else ""
    database = one_line(view.session.label) if view else ""
    lines = [
        _fact("database", database, "bold"),
        _fact("environment", environment, style),
        _fact("settings", "of this terminal, with its keys and addresses"),
        Content(""),
        *_due_lines(due),
    ]
    if due.ahead is not None and command == WORKER:
        lines += [Content(""), Content(one_line(due.ahead.words))]
    if view is not None and not view.snapshot.processing.enabled:
        resumes = f"Processing is paused, so no job would run. {deck.key('processing')} resumes it."
        lines += [Content(""), Content.styled(resumes, "$warning")]
    return Question(title, Content("\n").join(lines), verb.capitalize(), word=verb, twin=command, ready=True)


def _fact(name: str, value: str, style: str = "") -> Content:
    return Content.assemble((f"{name:<{LABEL}}", "$ink-muted"), (value, style))


def _due_lines(due: Due) -> list[Content]:
    if not due.types:
        return [_fact("due now", "no job that may run here")]
    jobs = sum(number for _, number in due.types)
    total = f"{plural(jobs, 'job')} of {plural(len(due.types), 'type')}"
    lines = [_fact("due now", total if due.counted else f"more than {total}", "bold")]
    lines += [
        Content(f"{number:>{LABEL - 2}}  {fit(one_line(name), 48).rstrip()}") for name, number in due.types[:LISTED]
    ]
    if len(due.types) > LISTED:
        lines.append(Content.styled(f"{'':{LABEL}}and {plural(len(due.types) - LISTED, 'more type')}", "$ink-muted"))
    return lines


UNDO: Final = "Undo the delete"


def undo_question(deletion: Deletion | Awaited) -> Question:
    """The question before a deletion of this session is undone."""
    if isinstance(deletion, Bulk):
        return bulk_undo_question(deletion)
    return restore_question(UNDO, deletion.jobs if isinstance(deletion, Awaited) else deletion)


def bulk_undo_question(bulk: Bulk) -> Question:
    """The question before deleted jobs are restored, or edited ones get their former payload back."""
    good = bulk.done - bulk.refused
    jobs = plural(good, "job")
    verb, title, text = "restore", UNDO, f"{jobs} will be restored from the trash, each as it was."
    if bulk.action == "edit":
        verb, title = "revert", "Undo this edit"
        text = f"Of {jobs}, those that were not changed or claimed since get their former payload back."
    same = twin_on("undo", bulk)
    return Question(title, Content(text), verb.capitalize(), word=verb, number=good, twin=same, ready=True)


def restore_question(title: str, jobs: Sequence[Job]) -> Question:
    """The question before these few jobs are restored from the trash."""
    one = len(jobs) == 1
    lines = [
        *map(job_line, jobs),
        Content(""),
        Content(f"{'It is' if one else 'They are'} restored from the trash, as {'it was' if one else 'they were'}."),
    ]
    title, same = title or f"Restore {plural(len(jobs), 'job')}", twin("restore", jobs)
    body = Content("\n").join(lines)
    return Question(title, body, "Restore", word="restore", number=len(jobs), twin=same, ready=True)


def ask_to_clean_up(here: Screen[Any], deck: Deck) -> None:
    """Looks for stuck jobs and asks whether to mark them failed.

    If another screen was opened meanwhile, a toast reports them: a key meant for that screen must not answer.
    """

    def found(results: list[ActionResult]) -> None:
        if not results:
            deck.say("No stuck jobs: no job has been running for 20 minutes with an expired lease.\njobdeck cleanup")
            return
        if not deck.shows(here):
            deck.say(
                f"There {'is' if len(results) == 1 else 'are'} {plural(len(results), 'stuck job')}.\njobdeck cleanup"
            )
            return
        ids = [result.job_id for result in results]
        seen = deck.view.snapshot.page.jobs if deck.view else ()
        types = {job.id: job.task_type for job in seen}
        question = stuck_question(results, types)
        ask(here, question, lambda: deck.operations.cleanup(ids))

    deck.operations.run("look for stuck jobs", lambda: deck.reach().cleanup(None), found)


def stuck_question(results: Sequence[ActionResult], types: Mapping[UUID, str]) -> Question:
    """The question before stuck jobs are marked failed; `types` are the task types that are known."""
    number = len(results)
    lines = [
        Content.assemble(
            (f"{short_id(one.job_id)}  ", "$ink-muted"),
            (f"{one_line(types[one.job_id])}  " if one.job_id in types else "", "bold"),
            one_line(one.message),
        )
        for one in results[:FIRST]
    ]
    if number > FIRST:
        lines.append(Content.styled(f"and {number - FIRST} more", "$ink-muted"))
    lines += [
        Content(""),
        Content("A live worker recovers such jobs by itself. Jobs marked failed stay and can be retried or deleted; "
                "a recurring job runs again at its next slot."),
    ]  # fmt: skip
    title = f"Mark {plural(number, 'stuck job')} failed"
    same = cleanup_twin([one.job_id for one in results])
    body = Content("\n").join(lines)
    return Question(title, body, title, word="cleanup", number=number, danger=True, twin=same)


def cancel_flow_question(tree: FlowTree) -> Question:
    """The question before all members of a flow are cancelled."""
    states = tree.line.states
    number = len(tree.members) - tree.line.ended
    counts = ", ".join(
        f"{states[name]:,} {name}" for name in ("running", "claimed", "pending", "blocked") if name in states
    )
    running = states.get("running", 0)
    asked = f" {plural(running, 'running member')} will be asked to stop." if running else ""
    lines = [
        Content.styled(counts, "bold"),
        Content.styled(f"flow: {one_line(tree.line.name)}", "$ink-muted"),
        Content(""),
        Content(
            f"Members that wait will not run unless retried.{asked} Jobs outside the flow that wait for one of them "
            "are cancelled too. Members that have ended stay as they are."
        ),
    ]
    return Question(
        f"Cancel this flow: {plural(number, 'member')}",
        Content("\n").join(lines),
        "Cancel the flow",
        "Keep",
        "cancel",
        number,
        danger=True,
        twin=cancel_flow_twin(tree.line.id),
        reasoned=True,
    )


def ask_to_purge(here: Screen[Any], deck: Deck) -> None:
    """Counts old jobs and asks whether to purge them; a toast reports them if another screen was opened meanwhile."""

    def counted(number: int) -> None:
        if not number:
            deck.say("Nothing to purge: no succeeded or cancelled job ended more than 14 days ago.\njobdeck purge")
            return
        if not deck.shows(here):
            deck.say(f"{plural(number, 'old job')} can be moved to the trash.\njobdeck purge")
            return
        ask(here, purge_question(number), sure)

    def sure() -> None:
        deck.operations.do(
            "remove old jobs",
            lambda: deck.reach().purge(dry_run=False),
            lambda moved: f"{plural(moved, 'old job')} moved to the trash.",
            PURGE,
        )

    deck.operations.run("count old jobs", lambda: deck.reach().purge(dry_run=True), counted, opens=True)


def purge_question(number: int) -> Question:
    """The question before old jobs are moved to the trash."""
    title = f"Remove {plural(number, 'old job')}"
    body = Content(
        f"{plural(number, 'succeeded or cancelled job')} ended more than 14 days ago. They are moved to the trash, "
        "from which they can be restored for 7 days; their runs stay in the history for 30 days."
    )
    return Question(title, body, title, word="purge", number=number, danger=True, twin=PURGE)


class Leave(Dialog[str | None]):
    """Asks what to do with the jobs that run here: `finish`, `hand back`, or None to stay."""

    DIALOG: ClassVar[str] = "leave"

    def __init__(self, running: int, *, cycle: bool, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.running = running
        self.cycle = cycle

    def compose(self) -> ComposeResult:
        what = [plural(self.running, "job")] if self.running else []
        what += ["a cycle of Run Worker"] if self.cycle else []
        one = self.running == 1 and not self.cycle
        running, them = ("the running job", "it") if one else ("running jobs", "them")
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Leave Jobdeck")
            yield Static(
                Content(
                    f"{' and '.join(what).capitalize()} still running in this dashboard.\n\n"
                    f"Finish: take no new jobs; give {running} {self.patience:g} s, then return {them} to the queue.\n"
                    f"Return now: stop {them} and return {them} to the queue; the attempt does not count.\n"
                    "Stay: keep working."
                )
            )
            with Horizontal(id="buttons"):
                yield Button(Content("Stay"), id="stay")
                yield Button(Content("Finish"), id="finish")
                yield Button(Content("Return now"), id="back", disabled=not self.running)

    def on_mount(self) -> None:
        self.query_one("#stay", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss({"finish": "finish", "back": "hand back"}.get(event.button.id or ""))
