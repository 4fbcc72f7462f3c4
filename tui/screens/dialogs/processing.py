"""Pausing and resuming, of everything, one task type or a queue: which dialog asks, and what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from jobdeck.core.model import arguments
from jobdeck.core.plugins import Found
from jobdeck.core.read.operators.hold import condition_words
from jobdeck.core.redact import scrub_field
from jobdeck.core.times import parse_ahead
from jobdeck.core.words.plain import pauses
from jobdeck.tui.commands import hold_twin, pause_twin, resume_twin
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.form.widgets import PickField
from jobdeck.tui.format import age, count, one_line, plural
from jobdeck.tui.screens.dialogs.choosing import Picker
from jobdeck.tui.screens.dialogs.confirm import Question, ask
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog, answer_with, send_with
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.pause_banner import pause_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.screen import Screen

    from jobdeck.core.model import Filter, Job, Processing
    from jobdeck.core.read.operators.hold import Hold
    from jobdeck.core.read.pages.outlook import Outlook
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.deck import Deck

EVERYTHING: Final = "Everything (Automatic Processing)"
PAUSE: Final = "pause"
RESUME_ALL: Final = "resume"
RESUME: Final = "resume "
QUEUE: Final = "queue "
HOLD: Final = "hold"
RELEASE: Final = "release "
"""The ids in the list of what can be paused and resumed. The name of the type or queue, or the number, follows."""
KEPT: Final = "No job is lost: those that wait are kept, unless their own expiry comes first."


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """The reason of a pause, and the duration or time after which it ends; None until someone resumes.

    `task_type` or `queue` is what is paused, and without both everything.
    """

    reason: str | None
    until: timedelta | datetime | None
    task_type: str | None = None
    queue: str | None = None
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Jobs of a type with a value in their payload."""

    task_type: str
    key: str
    value: Any

    @property
    def assignment(self) -> str:
        """`KEY=VALUE`, as `jobdeck hold` reads it, unless the value has to be masked."""
        key = json.dumps(self.key) if "=" in self.key or self.key.startswith('"') else self.key
        return f"{key}={json.dumps(scrub_field(self.key, self.value))}"

    @property
    def words(self) -> str:
        """The type and the value, which is masked as in a payload."""
        return f"{one_line(self.task_type)} {condition_words(self.key, json.dumps(self.value))}"


def condition_of(wanted: Filter, jobs: Sequence[Job]) -> Condition | None:
    """What a filter by a payload key says of the first job: its type and its value under the key; None without one."""
    named = wanted.payload_is or wanted.payload
    job = next(iter(jobs), None)
    if named is None or job is None or named[0] not in arguments(job.payload):
        return None
    return Condition(job.task_type, named[0], job.payload[named[0]])


class Pause(FieldsDialog[PauseAnswer]):
    """Asks what to pause, why, and until when. Nothing is paused until the button Pause is pressed."""

    DIALOG: ClassVar[str] = "pause"
    FIELDS: ClassVar[tuple[str, ...]] = ("reason", "until")

    def __init__(
        self, waiting: int, types: Sequence[str] = (), task_type: str | None = None, condition: Condition | None = None
    ) -> None:
        """`types` are those to choose from, and `task_type` the one that is chosen first, None for everything.

        With a `condition`, jobs are held by it until another choice.
        """
        super().__init__()
        self.condition = condition
        self.waiting = waiting
        self.types = types
        self.task_type = task_type
        self.queue: str | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", classes="-warn", can_focus=False):
            yield Static(id="effect")
            yield Static(Content(f"What  {self.key('previous')} and enter choose another"), classes="label")
            yield PickField("", id="what")
            reason = "Reason (optional), for other operators"
            yield from self.field(reason, "reason", example="e.g. vendor outage, INC-123")
            yield Static(id="resumes", classes="label")
            yield OneLine("", example="2h, 1d, tomorrow 9:00 (UTC)", id="until")
            yield from self.ending("Pause", no="Keep running", danger=True)

    def on_pick_field_opened(self, event: PickField.Opened) -> None:
        """Opens the list of task types and queues."""
        from jobdeck.core.read.type_settings import queue_names  # noqa: PLC0415 -- the first frame needs no driver

        chosen = f"{QUEUE}{self.queue}" if self.queue else self.task_type or ""

        def show(queues: Sequence[str]) -> None:
            types = [Found(name, name) for name in self.types]
            labels = [Found(f"{QUEUE}{name}", f"queue {name}", "its types, also those to come") for name in queues]
            offer = Offer("Pause", among([*types, *labels]), event.typed, EVERYTHING, chosen)
            self.app.push_screen(Picker(offer), self._choose)

        read = partial(self.deck.reach().read, queue_names)
        self.deck.operations.run("look for the queues", read, show, opens=True)

    def on_pick_field_cleared(self) -> None:
        self._choose(Found("", EVERYTHING))

    def _choose(self, found: Found | None) -> None:
        if found is not None:
            is_queue = found.id.startswith(QUEUE)
            self.queue = found.id.removeprefix(QUEUE) if is_queue else None
            self.task_type = None if is_queue else found.id or None
            self.condition = None
            self.query_one("#reason").focus()
            self.draw()

    def twin(self, answer: PauseAnswer) -> str:
        held = answer.condition
        if held is not None:
            return hold_twin(held.task_type, held.assignment, answer.reason, answer.until)
        return pause_twin(answer.reason, answer.until, answer.task_type, answer.queue)

    def explain(self, answer: PauseAnswer | None) -> None:
        """Shows what is paused, and the time in full."""
        self._draw_effect()
        at = "" if answer is None else "leave empty to stay paused until someone resumes"
        if answer is not None and answer.until:
            at = self._in_full(answer.until)
        self.query_one("#resumes", Static).update(Content.assemble("Resume time", (f"  {at}", "$ink-muted")))

    def _draw_effect(self) -> None:
        held = self.condition
        if held is not None:
            self.query_one("#box").border_title = Content(f"Hold {held.words}")
            self.query_one("#what", PickField).set_label(f"Jobs of {held.words}")
            said = "No worker will start a job with this value, also those to come. Running jobs finish; others go on."
            self.query_one("#effect", Static).update(Content(f"{said} {KEPT}"))
            return
        name = f"queue {one_line(self.queue)}" if self.queue else one_line(self.task_type or "")
        self.query_one("#box").border_title = Content(f"Pause {name or 'Automatic Processing'}")
        self.query_one("#what", PickField).set_label(name or EVERYTHING)
        of_it = " of this queue" if self.queue else " of this type" if name else ""
        pending = "" if name else f" Pending now: {count(self.waiting)}."
        said = f"No worker will take another job{of_it}. Running jobs finish; jobs can still be added."
        self.query_one("#effect", Static).update(Content(f"{said} {KEPT}{pending}"))

    def _in_full(self, until: timedelta | datetime) -> str:
        now = self.deck.now()
        moment = until if isinstance(until, datetime) else now + until
        return f"= {moment:%Y-%m-%d %H:%M}Z, in {age(moment - now)}"

    def read(self) -> PauseAnswer:
        """The answer of the fields.

        Raises:
            UsageError: the time cannot be read, or is past.
        """
        text = self.text("until")
        until = parse_ahead(text, self.deck.now(), what="time to resume") if text else None
        return PauseAnswer(self.text("reason") or None, until, self.task_type, self.queue, self.condition)

    def refuse(self, problem: str) -> None:
        super().refuse(problem)
        self.query_one("#until", Input).focus()


def switch(
    here: Screen[Any], deck: Deck, task_type: str | None, *, first: bool, condition: Condition | None = None
) -> None:
    """Asks what to pause or to resume. `task_type` is the type under the cursor; with `first` it is proposed.

    A `condition` proposes to hold the jobs of the list. Where one answer alone is possible it is asked about at once;
    while types are paused or jobs are held, a list says what is.
    """
    view = deck.view
    if view is None:
        return
    processing = view.snapshot.processing
    if pauses(processing) or view.snapshot.holds or (condition is not None and not processing.enabled):
        _choose(here, deck, view, task_type, first=first, condition=condition)
    elif condition is not None:
        _pause(here, deck, view, task_type, first=first, condition=condition)
    elif processing.enabled:
        _pause(here, deck, view, task_type, first=first)
    else:
        _resume(here, deck, view, None)


def _choose(
    here: Screen[Any], deck: Deck, view: View, task_type: str | None, *, first: bool, condition: Condition | None
) -> None:
    def chosen(found: Found) -> None:
        if found.id in {PAUSE, HOLD}:
            _pause(here, deck, view, task_type, first=first, condition=condition if found.id == HOLD else None)
        elif found.id.startswith(RELEASE):
            _release(here, deck, next(one for one in view.snapshot.holds if f"{RELEASE}{one.number}" == found.id))
        elif found.id.startswith(QUEUE):
            _resume_queue(here, deck, found)
        else:
            _resume(here, deck, view, found.id.removeprefix(RESUME) if found.id.startswith(RESUME) else None)

    found = choices(view.snapshot.processing, deck.now(), view.snapshot.holds, condition)
    wanted = f"{RESUME}{task_type}" if first and task_type else ""
    answer_with(here, Picker(Offer("Pause or resume", among(found), chosen=wanted)), chosen)


def choices(
    processing: Processing, now: datetime, held: Sequence[Hold] = (), condition: Condition | None = None
) -> list[Found]:
    """What is paused or held, each with since when, who, until when and why, and what else can be."""
    listed = [Found(HOLD, f"Hold {condition.words}", "these jobs alone")] if condition is not None else []
    if not processing.enabled:
        words = _paused(processing.paused_by, processing.paused_at, processing.paused_reason, processing.resume_at, now)
        listed.append(Found(RESUME_ALL, "Resume everything", words))
    for pause in pauses(processing):
        words = _paused(pause.paused_by, pause.paused_at, pause.reason, pause.resume_at, now)
        what = f"{QUEUE}{pause.queue}" if pause.queue else f"{RESUME}{pause.task_type}"
        listed.append(Found(what, f"Resume {pause.task_type}", words))
    for hold in held:
        words = _paused(hold.held_by, hold.held_at, hold.reason, hold.until, now, "held")
        listed.append(Found(f"{RELEASE}{hold.number}", f"Release {hold.words}", words))
    if processing.enabled:
        listed.append(Found(PAUSE, "Pause more…", "everything, a queue, or another task type"))
    return listed


def _paused(
    by: str | None, at: datetime | None, reason: str | None, until: datetime | None, now: datetime, verb: str = "paused"
) -> str:
    """The reason comes last, because the end of the line may be cut."""
    who, length, why, end = pause_words(by, at, reason, until, now)
    return f"{verb}{length}{who}{end}{why}"


def _resume_queue(here: Screen[Any], deck: Deck, found: Found) -> None:
    """Asks before the types of a queue are resumed."""
    queue = found.id.removeprefix(QUEUE)
    name, twin = f"queue {one_line(queue)}", resume_twin(queue=queue)

    body = Content(f"{one_line(found.detail).capitalize()}\n\nTypes of it that are paused by themselves stay paused.")
    ask(
        here,
        Question(f"Resume {name}", body, "Resume", word="resume", twin=twin),
        lambda: deck.operations.resume(queue=queue),
    )


def _release(here: Screen[Any], deck: Deck, hold: Hold) -> None:
    """Asks before the jobs of a hold are released."""

    def sure() -> None:
        from jobdeck.core.queue.operators import holds  # noqa: PLC0415 -- the first frame needs no driver

        work, twin = partial(holds.release, number=hold.number), f"jobdeck release {hold.number}"
        deck.operations.change(
            f"release hold {hold.number}", work, lambda jobs: f"{plural(jobs, 'job')} released.", twin
        )

    jobs = "1 job waits" if hold.jobs == 1 else f"{hold.number_of_jobs} jobs wait"
    body = Content(f"{jobs} for {one_line(hold.words)}. They may start again at once.")
    ask(
        here,
        Question(f"Release hold {hold.number}", body, "Release", word="release", twin=f"jobdeck release {hold.number}"),
        sure,
    )


def _pause(
    here: Screen[Any], deck: Deck, view: View, task_type: str | None, *, first: bool, condition: Condition | None = None
) -> None:
    def send(answer: PauseAnswer, ended: Callable[[str], None]) -> None:
        held = answer.condition
        if held is not None:
            from jobdeck.core.queue.operators import holds  # noqa: PLC0415 -- the first frame needs no driver

            work = partial(
                holds.hold, task_type=held.task_type, key=held.key, value=held.value, reason=answer.reason,
                until=answer.until,
            )  # fmt: skip
            said = lambda made: f"Hold {made[0]} keeps {held.words}: {plural(made[1], 'job')} waiting."  # noqa: E731
            twin = hold_twin(held.task_type, held.assignment, answer.reason, answer.until)
            deck.operations.change("hold these jobs", work, said, twin, ended)
            return
        deck.operations.pause(answer.reason, answer.until, ended, task_type=answer.task_type, queue=answer.queue)

    known = sorted({*view.session.task_types, *([task_type] if task_type else [])})
    types = sorted(known, key=lambda name: name != task_type)
    dialog = Pause(view.snapshot.counts.pending, types, task_type if first else None, condition)
    send_with(here, dialog, send)


def _resume(here: Screen[Any], deck: Deck, view: View, task_type: str | None) -> None:
    """Asks with what will start, unless everything stays paused."""
    from jobdeck.core.read.pages.outlook import outlook  # noqa: PLC0415 -- the first frame needs no driver

    def asked(ahead: Outlook | None) -> None:
        question = resume_question(view, task_type, deck.now(), ahead)
        if question is not None and deck.shows(here):
            ask(here, question, lambda: deck.operations.resume(task_type))

    if task_type is not None and not view.snapshot.processing.enabled:
        asked(None)
        return
    types = None if task_type is None else [task_type]
    read = partial(deck.reach().read, outlook, types, resumed=task_type)
    deck.operations.run("look for what will start", read, asked, opens=True)


def resume_question(view: View, task_type: str | None, now: datetime, ahead: Outlook | None) -> Question | None:
    """The question before resuming everything, or one task type; None where the type is not paused.

    `ahead` is what will start.
    """
    processing = view.snapshot.processing
    pause = next((pause for pause in processing.paused_types if pause.task_type == task_type), None)
    if task_type is not None and pause is None:
        return None
    by, at, why = (
        (pause.paused_by, pause.paused_at, pause.reason)
        if pause is not None
        else (processing.paused_by, processing.paused_at, processing.paused_reason)
    )
    who = one_line(by) if by else "an unknown user"
    since = f" {age(now - at)} ago" if at else ""
    lines = [f"Paused by {who}{since}: {one_line(why) if why else 'no reason given'}", ""]
    lines += [one_line(ahead.words)] if ahead is not None else []
    lines.append("A recurring job runs once for the slots that it missed, unless it catches up on all.")
    others = [one_line(other.task_type) for other in pauses(processing)]
    if pause is None and others:
        lines.append(f"Still paused afterwards: {', '.join(others)}.")
    elif pause is not None and not processing.enabled:
        lines.append("Automatic Processing stays paused.")
    name = one_line(task_type) if task_type else "Automatic Processing"
    body = Content("\n".join(lines))
    return Question(f"Resume {name}", body, "Resume", word="resume", twin=resume_twin(task_type))
