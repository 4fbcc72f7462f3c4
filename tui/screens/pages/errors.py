"""The page of errors in groups, with the playbook's advice. One job of a group is retried first, then the rest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from textual.content import Content

from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Filter
from jobdeck.core.queue import operator
from jobdeck.core.queue.operators import notes
from jobdeck.core.read.pages import jobs_and_runs
from jobdeck.core.read.pages.outlook import Outlook, outlook
from jobdeck.core.read.report_types import ErrorReport
from jobdeck.core.read.stats.error_groups import Alike, counted_alike
from jobdeck.core.read.stats.facets import of_group
from jobdeck.core.words.facets import filter_of
from jobdeck.tui.backend.protocol import Canary
from jobdeck.tui.commands import canary_twin, mute_twin, unmute_twin
from jobdeck.tui.format import fit, one_line, plural, shared_fronts, short_id
from jobdeck.tui.screens.below import Subject
from jobdeck.tui.screens.dialogs.confirm import Confirm, Question, ask, choice_question, job_question
from jobdeck.tui.screens.dialogs.dialog import send_with
from jobdeck.tui.screens.dialogs.processing import Condition
from jobdeck.tui.screens.dialogs.shift import SAMPLE, MuteAnswer, MuteErrors, unmute_question
from jobdeck.tui.screens.nouns import OPENS, open_noun
from jobdeck.tui.screens.page import SplitPage
from jobdeck.tui.screens.pages.runs import Runs
from jobdeck.tui.text import errors, facets, lines, playbook
from jobdeck.tui.widgets.pane import Entry, entry
from jobdeck.tui.widgets.pause_banner import pause_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import TypePause
    from jobdeck.core.queue.bulk_model import Choice
    from jobdeck.core.read.canaries import CanaryAsked
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.core.read.stats.facets import Facet, Facets
    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span

T = TypeVar("T")
FIRST_ALIKE: Final = 20
"""How many jobs of a group of errors are read before one of them is retried."""


class Errors(SplitPage[ErrorReport]):
    """The groups, and the details of the group under the cursor."""

    SCOPE: ClassVar[Scope] = "errors"
    OF_TYPES: ClassVar[bool] = True
    HEADING: ClassVar[str] = "Errors"
    EVERY: ClassVar[float] = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._looking = False
        self._sort = next(iter(errors.SORTS))
        self._sampling = False
        self._facets: dict[tuple[str, str], tuple[int, Facets | None]] = {}
        """The facets of each group that was looked at, and the number of its runs then."""

    @property
    def trend(self) -> ErrorGroup | None:
        trends = self.data.trends if self.data is not None else ()
        return next((trend for trend in trends if trend.key == self.key_of_line), None)

    @property
    def canary(self) -> Canary | None:
        """The canary of the group under the cursor."""
        return self.deck.canaries.get(self.trend.key) if self.trend is not None else None

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "errors.jobs": self._list_jobs,
            "errors.mute": self._mute,
            "errors.sort": self._next_sort,
            "errors.canary": lambda: self._look(_first_alike, self._ask_for_canary),
            "errors.rest": lambda: self._look(_rest, self._ask_for_rest),
        }

    @property
    def type_here(self) -> str | None:
        """The task type of the group under the cursor."""
        return self.trend.task_type if self.trend else None

    @property
    def subject_below(self) -> Subject | None:
        """The group under the cursor."""
        if self.trend is None:
            return None
        order = f"newest first, as {self.deck.key('errors.jobs').replace('enter', '⏎')} lists them"
        return Subject(jobs_and_runs.of_group, self.trend.key, order, ("task",), alike=True)

    @property
    def facets(self) -> Facets | None:
        """The facets of the group under the cursor; None until they are read."""
        return self._facets.get(self.trend.key, (0, None))[1] if self.trend is not None else None

    @property
    def facet(self) -> Facet | None:
        """The odd facet under the cursor; None unless the cursor is on one."""
        odd = self.facets.odd if self.facets is not None else ()
        return next((one for one in odd if self.key_of_detail == ("facet", "", one.key)), None)

    def condition_here(self) -> Condition | None:
        """The value of the facet under the cursor, otherwise of the first odd payload key that may be seen."""
        facet = self.facet or (self.facets.first_to_hold if self.facets is not None else None)
        if self.trend is None or facet is None or facet.kind != "payload" or facet.hidden:
            return None
        return Condition(self.trend.task_type, facet.key, facet.value)

    def read(self, backend: Backend) -> ErrorReport:
        """Reads the groups, and the canaries that have not finished."""
        return backend.errors([canary.request for canary in self.deck.canaries.values() if not canary.settled])

    def fetch(self) -> None:
        """Reads at every refresh while a canary has not finished."""
        if any(not canary.settled for canary in self.deck.canaries.values()):
            self._read_at = None
        super().fetch()

    def arrived(self, data: ErrorReport) -> None:
        """Takes the data; reports a finished canary, and the group under the cursor if it is no longer there."""
        held = self.trend
        self.data = data
        if held is not None and held.key not in {trend.key for trend in data.trends}:
            self.deck.say(f"The group under the cursor has no failed run in the last 7 days any more: "
                          f"{one_line(held.task_type)}, {fit(one_line(held.sample), SAMPLE).rstrip()}")  # fmt: skip
        for key, canary in self.deck.canaries.items():
            if canary.settled:
                continue
            now = canary.follow(data.canaries)
            self.deck.canaries[key] = now
            if now.settled:
                self._read_at = None
                fate = errors.fate(now, self.deck.key("errors.rest"))
                answer = one_line(now.answer.message) if now.answer is not None else ""
                calm = now.state == "succeeded"
                self.deck.say(f"Canary {short_id(now.job_id)} {fate}.\n{answer}", "information" if calm else "warning")

    def entries(self, data: ErrorReport, width: int) -> Sequence[Entry]:
        if not data.trends:
            return [entry(("  No run has failed in the last 7 days.", "good"))]
        shown, fronts = errors.layout(data.trends, width), shared_fronts([trend.task_type for trend in data.trends])
        return [
            errors.line(trend, data.at, shown, self.deck.canaries.get(trend.key), data.mute_of(trend), fronts)
            for trend in sorted(data.trends, key=errors.SORTS[self._sort], reverse=True)
        ]

    def _next_sort(self) -> None:
        orders = list(errors.SORTS)
        self._sort = orders[(orders.index(self._sort) + 1) % len(orders)]
        self.redraw()

    def summary(self, data: ErrorReport) -> list[Span]:
        failed = sum(trend.failed for trend in data.trends)
        of = f"{len(data.trends)} of " if data.total > len(data.trends) else ""
        groups = f"{of}{plural(max(data.total, len(data.trends)), 'group')}"
        return [(f"{groups} in 7 days, ", "muted"),
                (f"{plural(failed, 'job')} failed", "bad" if failed else "muted"),
                *self._marked(data),
                (f", sorted by {self._sort}", "muted"),
                ("  jobdeck errors", "muted")]  # fmt: skip

    def _marked(self, data: ErrorReport) -> list[Span]:
        """How many of the listed groups are new, and how many are muted."""
        muted = sum(data.mute_of(trend) is not None for trend in data.trends)
        fresh = sum(trend.is_new(data.at) and data.mute_of(trend) is None for trend in data.trends)
        spans: list[Span] = [(f", {fresh} new", "warn")] if fresh else []
        return [*spans, *([(f", {muted} muted", "muted")] if muted else [])]

    def columns(self, width: int) -> Sequence[Span]:
        trends = self.data.trends if self.data is not None else ()
        return errors.heading(errors.layout(trends, width), width).spans

    def on_pane_chosen(self) -> None:
        self.action_do("errors.jobs")

    def about(self, data: ErrorReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        trend = self.trend
        if trend is None:
            return [], []
        name = f" {one_line(trend.task_type)} "
        paused = self._pause_of(trend.task_type, width - len(name))
        advice = playbook.advice(trend.task_type, trend.error_kind)
        key, mute = self.deck.key("errors.rest"), data.mute_of(trend)
        hold = self.deck.key("processing")
        details = errors.about(trend, data.at, width, self.canary, advice, rest_key=key, mute=mute,
                               facets=_facets(self.facets, trend.count, width, hold))  # fmt: skip
        return [(name, "tab"), (paused, "warn")], details

    def doing(self) -> str:
        """What is being read, or how far a bulk action is."""
        telling = self.deck.operations.bulk.telling
        if self._looking:
            return " reading the jobs of this group… "
        return f" {telling}; {self.deck.key('page.bulk')} shows it " if telling else ""

    def _pause_of(self, task_type: str, room: int) -> str:
        """That a type is paused, with who, since when, why and until when; empty where it is not."""
        pause, left = self._paused(task_type), room - len(" PAUSED ")
        return f" PAUSED{pause_line(pause, self.deck.now(), room=left, named=False)} " if pause and left > 0 else ""

    def _paused(self, task_type: str) -> TypePause | None:
        types = self.deck.view.snapshot.processing.paused_types if self.deck.view else ()
        return next((pause for pause in types if pause.task_type == task_type), None)

    def refused(self) -> dict[str, str]:
        return self._refused_of_group() | {"job.retry_with": self._where_payloads_are_edited()}

    def _where_payloads_are_edited(self) -> str:
        edits, lists = self.deck.key("job.retry_with"), self.deck.key("errors.jobs")
        return f"Each job of a group has its own payload. {lists} lists them, and {edits} edits one there."

    def _refused_of_group(self) -> dict[str, str]:
        trend, canary = self.trend, self.canary
        if trend is None:
            reason = "No group under the cursor."
            return dict.fromkeys(("errors.canary", "errors.rest", "errors.jobs", "errors.mute"), reason)
        if not trend.failed and not trend.waiting:
            reason = (
                "No job is still in the state this error left it in: each was retried, has run again or was removed."
            )
            return {"errors.canary": reason, "errors.rest": reason}
        if canary is not None and not canary.settled:
            reason = f"Canary {short_id(canary.job_id)} has not finished. Wait for its result."
            return {"errors.canary": reason, "errors.rest": reason}
        return {}

    def draw_about(self) -> None:
        """Draws the details, and reads the facets of a group that are not known, or when it has twice as many runs."""
        super().draw_about()
        trend, deck = self.trend, self.deck
        if trend is None or self._sampling or trend.count < 2 * self._facets.get(trend.key, (0, None))[0]:
            return
        self._sampling = True

        def found(answer: Facets | Exception) -> None:
            self._sampling = False
            if self.is_attached and not isinstance(answer, Exception):
                self._facets[trend.key] = trend.count, answer
                self.draw_about()

        deck.background(lambda: deck.reach().read(of_group, *trend.key), found)

    def _look(
        self, read: Callable[[Backend, tuple[str, str]], T | None], then: Callable[[ErrorGroup, T], None]
    ) -> None:
        """Reads jobs of the group under the cursor and passes them to `then`, one reading at a time."""
        trend, deck = self.trend, self.deck
        if trend is None or self._looking:
            return
        self._looking = True

        def found(answer: T | Exception | None) -> None:
            self._looking = False
            if not deck.shows(self):
                return
            self.draw_about()
            if isinstance(answer, JobdeckError):
                deck.say(one_line(str(answer)), "error")
            elif isinstance(answer, Exception):
                deck.say(f"Could not read the jobs of this group: {type(answer).__name__}.", "error")
            elif answer is None or (isinstance(answer, Alike) and not answer.jobs):
                deck.say("No job is still in the state this error left it in.", "warning")
            else:
                then(trend, answer)

        self.draw_about()
        deck.background(lambda: read(deck.reach(), trend.key), deck.opening(found))

    def _mute(self) -> None:
        """Asks until when to mute the group under the cursor, or whether to unmute it."""
        trend, data, deck = self.trend, self.data, self.deck
        if trend is None or data is None:
            return
        mute, name = data.mute_of(trend), one_line(trend.task_type)
        group: dict[str, Any] = {"task_type": trend.task_type, "fingerprint": trend.fingerprint}

        def unmuted() -> None:
            work, twin = partial(notes.unmute, **group, reason=dialog.reason), unmute_twin(trend, dialog.reason)
            said = f"Errors of {name} are not muted any more."
            deck.operations.change("unmute these errors", work, lambda _: said, twin)

        def send(answer: MuteAnswer, ended: Callable[[str], None]) -> None:
            work = partial(notes.mute, **group, until=answer.until, reason=answer.reason)
            said = f"Errors of {name} muted until {answer.until:%m-%d %H:%M}Z."
            twin = mute_twin(trend, answer.typed, answer.reason)
            deck.operations.change("mute these errors", work, lambda _: said, twin, ended)

        if mute is None:
            send_with(self, MuteErrors(trend), send)
        else:
            dialog = ask(self, unmute_question(trend, mute, deck.now()), unmuted)

    def _list_jobs(self) -> None:
        """Lists the jobs of the group; on a facet only those with its value, if a filter can find them.

        On a worker or a release, opens it.

        Where no job is still as the error left it, opens the runs of the group.
        """
        trend, facet = self.trend, self.facet
        if trend is None:
            return
        if facet is not None and facet.kind in OPENS:
            open_noun(self.deck, (facet.kind, facet.value))
            return
        if not trend.jobs:
            self.app.push_screen(Runs(trend))
            return
        of_group = Filter(task_type=trend.task_type, fingerprint=trend.fingerprint)
        wanted = filter_of(of_group, facet) if facet is not None else None
        if wanted is None:
            self.deck.list_group(trend)
        else:
            self.deck.list_filter(wanted)

    def _ask_for_canary(self, trend: ErrorGroup, alike: Alike) -> None:
        job, rest = alike.jobs[0], alike.total - 1
        others = f"The other {rest:,} stay as they are" if rest > 1 else "The other one stays as it is"
        wait = f"Only this job is retried. {others} until you have seen the result."
        note = f"{wait if rest else 'This is the only job of this group.'} It runs next, also during a pause."

        def asked(answer: CanaryAsked) -> None:
            if answer.canary is not None:
                self.deck.canaries[trend.key] = Canary(job.id, answer.canary)
                self.redraw()

        def sure() -> None:
            self.deck.operations.change_one("run canary", job, operator.ask_canary, canary_twin(job), asked)

        question = job_question("retry", (job,), left_out="")
        question = replace(question, title="Retry 1 job as a canary", twin=canary_twin(job), reasoned=False)
        ask(self, _about(trend, question, note), sure)

    def _ask_for_rest(self, trend: ErrorGroup, rest: tuple[Choice, Outlook]) -> None:
        """Asks about all jobs of the group, which are frozen; they are dropped if the answer is no."""
        choice, ahead = rest
        canary, driver = self.deck.canaries.get(trend.key), self.deck.operations.bulk
        if canary is not None and canary.state == "succeeded":
            note = f"The canary {short_id(canary.job_id)} succeeded."
        elif canary is not None:
            note = f"Warning: the canary {short_id(canary.job_id)} {errors.CANARY_WORDS[canary.state][0]}."
        else:
            canary_key = self.deck.key("errors.canary")
            note = f"Warning: no job of this group has been tested. Press {canary_key} to retry one first."
        if self._paused(trend.task_type) is not None:
            note += f"\n{one_line(trend.task_type)} is paused: the jobs wait until it is resumed."
        else:
            note += f"\nWith what is due of this type: {one_line(ahead.words)}"

        def answered(yes: bool | None) -> None:
            if not yes:
                driver.discard(choice)
                return
            self.deck.canaries.pop(trend.key, None)
            driver.act_on(choice, "retry", reason=dialog.reason)
            self._read_at = None

        question = choice_question("retry", choice)
        question = replace(question, title=f"{question.title} of this group")
        dialog = Confirm(_about(trend, question, note))
        self.app.push_screen(dialog, answered)


def _rest(backend: Backend, key: tuple[str, str]) -> tuple[Choice, Outlook] | None:
    choice = backend.bulk.choose_alike(*key)
    if choice is None:
        return None
    return choice, backend.read(outlook, choice.types, retried=choice.bulk.id)


def _first_alike(backend: Backend, key: tuple[str, str]) -> Alike:
    return backend.read(counted_alike, *key, limit=FIRST_ALIKE)


def _facets(found: Facets | None, runs: int, width: int, hold_key: str) -> Sequence[Entry]:
    """The lines of the facets of a group with this many runs; none until they are read."""
    if found is None:
        return ()
    if not found.read:
        return lines.facts([("facets", "None of these runs is among the newest failed runs.", "text")], width)
    read = f"{found.read:,} of {plural(max(runs, found.read), 'run')} read"
    return facets.facet_lines(found, read, width, hold_key)


def _about(trend: ErrorGroup, question: Question, note: str) -> Question:
    """The question with the error above it and a note below."""
    sample = Content.styled(fit(one_line(trend.sample), SAMPLE).rstrip(), "$error")
    return replace(question, body=Content("\n").join([sample, question.body, Content(note)]))
