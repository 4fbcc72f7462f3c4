"""An in-memory queue for the dashboard's tests and pictures: values of `jobdeck.core.model` at a fixed moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

from jobdeck.core import plugins
from jobdeck.core.errors import DatabaseUnreachable, InvalidPayload, JobdeckError, Refused
from jobdeck.core.model import (
    ActionResult,
    Filter,
    Health,
    Job,
    NewJob,
    Processing,
    Run,
    RunOutcome,
    Status,
    TypePause,
    Verdict,
    Worker,
    WorkerRun,
)
from jobdeck.core.plugins import Recipients
from jobdeck.core.queue import operator, service
from jobdeck.core.queue.bulk_model import BulkVerb
from jobdeck.core.queue.operators import holds, notes
from jobdeck.core.queue.operators.flows import FlowCancelled
from jobdeck.core.read import reports
from jobdeck.core.read.batch import Query
from jobdeck.core.read.canaries import CanaryAnswer, CanaryAsked
from jobdeck.core.read.operators.hold import Hold
from jobdeck.core.read.operators.notes import Mute, Note
from jobdeck.core.read.pages import jobs_and_runs, overview, series
from jobdeck.core.read.pages.flows import FlowTree
from jobdeck.core.read.pages.jobs_and_runs import JobsAndRuns
from jobdeck.core.read.pages.outlook import Outlook, outlook
from jobdeck.core.read.report_types import (
    ActionCount,
    AuditEntry,
    AuditLine,
    AuditReport,
    Backlog,
    Counts,
    CronReport,
    Digest,
    ErrorGroup,
    ErrorReport,
    JobDetail,
    Page,
    Permissions,
    Snapshot,
    Standing,
    TriggerCount,
    WorkerReport,
    overdue_by,
)
from jobdeck.core.read.runs.ran_twice import LostRuns, RanTwice, RunReport, SameContent, run_report
from jobdeck.core.read.stats import backlog, error_groups, facets
from jobdeck.core.read.stats.error_groups import Alike
from jobdeck.core.read.stats.minutes import last_minutes
from jobdeck.core.read.type_settings import queue_names
from jobdeck.core.read.verdict import failing_types
from jobdeck.core.registry import Registry
from jobdeck.core.worker.oneshot import CycleResult
from jobdeck.tui.actions import BY_ID, applicable
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Due, EmbeddedWorker, Request, Session, Verb, View, due_among
from jobdeck.tui.format import short_id
from tests.tui.fake_bulk import FakeBulk
from tests.tui.fake_creating import FakeCreating
from tests.tui.fake_figures import FakeFigures

T = TypeVar("T")
WAITING = {"pending", "blocked"}
ALICE = "alice@10.0.0.7"
NOW = datetime(2026, 7, 4, 12, 4, 31, tzinfo=UTC)
TYPES = (
    "admin_alert_dispatch",
    "competitor_announcement_dispatch",
    "game_platform_onboard_competitors",
    "game_platform_profile_refresh",
    "game_platform_sync",
    "game_platform_totals_sweep",
    "message_read_receipts_backfill",
    "release_parent_email_verification",
    "sms_digest_processor",
)


def job_id(number: int) -> UUID:
    return UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128))


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def make_job(number: int = 1, status: Status = Status.PENDING, **facts: Any) -> Job:
    """A one-time job created `number` minutes before NOW, unless `facts` say otherwise."""
    created = NOW - minutes(number)
    given: dict[str, Any] = {
        "task_type": "game_platform_sync",
        "payload": {},
        "run_at": created,
        "attempts": 0,
        "max_attempts": 5,
        "created_at": created,
        "updated_at": created,
        "version": 1,
        "started_at": created if status is Status.RUNNING else None,
    }
    return Job(id=job_id(number), status=status, **{**given, **facts})


def at_once(work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
    """Background work of tests: done before the call returns."""
    try:
        answer: T | Exception = work()
    except JobdeckError as error:
        answer = error
    done(answer)


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Evidence:
    """What the pages of evidence read; a test sets what it wants to see."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.runs: tuple[WorkerRun, ...] = ()
        self.backlog: tuple[Backlog, ...] = ()
        self.trends: tuple[ErrorGroup, ...] = ()
        self.groups: dict[tuple[str, str], tuple[UUID, ...]] = {}
        self.facets: dict[tuple[str, str], facets.Facets] = {}
        self.values: dict[str, tuple[str, Any]] = {}
        self.canaries: dict[int, CanaryAnswer] = {}
        self.entries: tuple[AuditEntry, ...] = ()
        self.many: dict[int, int] = {}
        """The number of jobs of an entry, by its id, where it is not one."""
        self.common_errors: dict[str, str] = {}
        self.unhandled: tuple[str, ...] = ()
        self.releases: dict[str, str] = {}
        self.recipients: dict[UUID, Recipients] = {}
        self.flows: dict[UUID, FlowTree] = {}
        self.stuck: tuple[UUID, ...] = ()
        self.old = 0
        self.reads: list[str] = []
        self.notes: tuple[Note, ...] = ()
        self.mutes: tuple[Mute, ...] = ()
        self.lost = LostRuns()
        self.same: tuple[SameContent, ...] = ()
        self.newest: tuple[Run, ...] = ()
        self.asked_runs: dict[str, Any] = {}

    def _read(self, what: str) -> None:
        self.reads.append(what)
        if self.backend.failure is not None:
            raise self.backend.failure

    def _running(self) -> tuple[Job, ...]:
        return tuple(job for job in self.backend.jobs if job.status is Status.RUNNING)

    def run_report(self, **given: Any) -> RunReport:
        self._read("runs")
        self.asked_runs = given
        twice = RanTwice(self.backend.at, self.backend.at - given["since"], self.lost, 0, 3, 1, None, self.same, False)
        return RunReport(twice, self.newest)

    def of_type(self, task_type: str) -> JobsAndRuns:
        """The jobs and runs of a type, as a page lists them where it has room."""
        return self._jobs_and_runs(
            task_type, [job for job in self.backend.jobs if job.task_type == task_type],
            lambda run: run.task_type == task_type,
        )  # fmt: skip

    def of_group(self, task_type: str, fingerprint: str) -> JobsAndRuns:
        ids = self.groups.get((task_type, fingerprint), ())
        return self._jobs_and_runs(
            f"{task_type} {fingerprint}", [job for job in self.backend.jobs if job.id in ids],
            lambda run: run.task_type == task_type and run.error is not None,
        )  # fmt: skip

    def of_worker(self, worker_id: str) -> JobsAndRuns:
        return self._jobs_and_runs(worker_id, [], lambda run: run.worker_id == worker_id)

    def of_series(self, job_id: UUID) -> JobsAndRuns:
        return self._jobs_and_runs(short_id(job_id), [], lambda run: run.job_id == job_id)

    def _jobs_and_runs(self, subject: str, jobs: Sequence[Job], wanted: Callable[[Run], bool]) -> JobsAndRuns:
        self._read(f"jobs and runs of {subject}")
        page = Page(tuple(jobs), None, standings={job.id: self.backend.stands(job) for job in jobs})
        return JobsAndRuns(self.backend.at, page, tuple(filter(wanted, self.newest)))

    def cron(self) -> CronReport:
        self._read("cron")
        deck, at = self.backend, self.backend.at
        late = [job for job in deck.jobs if job.status is Status.PENDING and overdue_by(job, at) >= minutes(5)]
        series = tuple(job for job in deck.jobs if job.is_recurring and job.status in {Status.PENDING, Status.RUNNING})
        return CronReport(
            at, minutes(5), deck.health, deck.processing, self.runs, deck.workers, self._running(),
            tuple(job for job in late if job.blocked_by is None),
            series, len(series), self._backlog(late),
        )  # fmt: skip

    def _backlog(self, late: Sequence[Job]) -> tuple[Backlog, ...]:
        """One line for each type with overdue jobs that wait for nothing but a worker."""
        lines = []
        for name in sorted({job.task_type for job in late if job.blocked_by is None}):
            since = [job.next_run_at or job.run_at for job in late if job.task_type == name and job.blocked_by is None]
            lines.append(Backlog(name, len(since), False, len(since), False, min(since)))
        return self.backlog or tuple(lines)

    def errors(self, canaries: Sequence[int]) -> ErrorReport:
        self._read("errors")
        return ErrorReport(self.backend.at, self.trends, tuple(self.canaries[one] for one in canaries),
                           len(self.trends), self.mutes)  # fmt: skip

    def alike(self, task_type: str, fingerprint: str, *, limit: int) -> Alike:
        self._read("alike")
        ids = self.groups.get((task_type, fingerprint), ())
        jobs = [job for wanted in ids for job in self.backend.jobs if job.id == wanted]
        return Alike(tuple(jobs[:limit]), len(jobs))

    def worker_report(self) -> WorkerReport:
        self._read("worker_report")
        return WorkerReport(self.backend.at, self.backend.workers, self._running(), self.unhandled, self.releases)

    def audit(self, since: timedelta) -> AuditReport:
        self._read("audit")
        deck, at = self.backend, self.backend.at
        entries = tuple(one for one in self.entries if one.at > at - since)
        done = sorted(Counter((one.actor, one.action) for one in entries).items())
        digest = Digest(
            at, at - since, at - min(since, timedelta(days=1)), 1240, 0, 0, 12, 5, deck.health,
            deck.counts or _count(deck.jobs), deck.processing,
            tuple(ActionCount(*key, count) for key, count in done),
            tuple(one for one in reversed(entries) if one.action in {"pause", "resume"}),
            tuple(TriggerCount(source, sum(run.source == source for run in self.runs), 0)
                  for source in sorted({run.source for run in self.runs})),
            tuple(trend for trend in self.trends if trend.last_seen > at - since),
            self.lost,
            notes=self.notes,
            mutes=self.mutes,
        )  # fmt: skip
        return AuditReport(tuple(AuditLine(one, self.many.get(one.id, 1)) for one in entries), digest)

    def leave_note(self, note: str, days: int) -> int:
        self.backend._reach(("leave note", note, days))
        note_id = max((note.id for note in self.notes), default=0) + 1
        at = self.backend.at
        self.notes = (Note(note_id, at, ALICE, note, at + timedelta(days=days)), *self.notes)
        return note_id

    def acknowledge(self, note_id: int) -> None:
        self.backend._reach(("acknowledge", note_id))
        if note_id not in {note.id for note in self.notes}:
            raise Refused(f"There is no open note {note_id}.")
        self.notes = tuple(note for note in self.notes if note.id != note_id)

    def mute(self, task_type: str, fingerprint: str, until: datetime, reason: str | None) -> None:
        self.backend._reach(("mute", task_type, fingerprint, until, reason))
        self.mutes = (Mute(task_type, fingerprint, until, reason, ALICE),)

    def unmute(self, task_type: str, fingerprint: str, reason: str | None) -> None:
        self.backend._reach(("unmute", task_type, fingerprint, reason))
        if not self.mutes:
            raise Refused("This group of errors is not muted.")
        self.mutes = ()


LABEL = "db.example.org/queue"


class FakeBackend(LiveBackend):
    """Serves jobs from a list and does to them what the queue would, by the table of operators' actions.

    It has no database. What it does not replace would need one, and fails.
    """

    creating: FakeCreating
    bulk: FakeBulk

    def __init__(
        self, jobs: Iterable[Job] = (), *, operate: bool = True, work: bool = True, read_only: bool = False
    ) -> None:
        self.named = LABEL
        self.jobs = list(jobs)
        self.trash: list[Job] = []
        self.read_only = read_only
        self.operate, self.work = operate, work
        self.processing = Processing(enabled=True)
        self.health = Health(Verdict.OK, ())
        self.workers: tuple[Worker, ...] = ()
        self.holds: tuple[Hold, ...] = ()
        self.embedded = EmbeddedWorker()
        self.failure: JobdeckError | None = None
        self.cycle = CycleResult("ok", 0, 0, 0, "no jobs available")
        self.details: dict[UUID, JobDetail] = {}
        self.counts: Counts | None = None
        self.searched: int | None = None
        self.ahead = Outlook(1204, False, (("nightly_report", 13),), minutes(4), (60, 60), 5)
        self.queues: tuple[str, ...] = ()
        self.calls: list[tuple[Any, ...]] = []
        self.reasons: list[str | None] = []
        self.requests: list[Request] = []
        self.at = NOW
        self.evidence = Evidence(self)
        self.creating = FakeCreating(self)
        self.bulk = FakeBulk(self)
        self.figures = FakeFigures(self)

    @property
    def label(self) -> str:
        return self.named

    def read(self, query: Callable[..., Query[T]], *given: Any, **named: Any) -> T:
        reads: dict[Callable[..., Any], Callable[..., Any]] = {
            overview.types: self.figures.types,
            backlog.trend_report: self.figures.trends,
            last_minutes: self.figures.last_minutes,
            series.series: self.figures.series,
            reports.cron: lambda **_: self.evidence.cron(),
            run_report: self.evidence.run_report,
            reports.worker_report: lambda **_: self.evidence.worker_report(),
            reports.audit: lambda since, **_: self.evidence.audit(since),
            error_groups.counted_alike: self.evidence.alike,
            failing_types.causes: lambda: (self.evidence.values, self.evidence.common_errors),
            facets.of_jobs: lambda *_: facets.Facets(),
            facets.of_group: lambda *key: self.evidence.facets.get(key, facets.Facets()),
            jobs_and_runs.of_type: self.evidence.of_type,
            jobs_and_runs.of_group: self.evidence.of_group,
            jobs_and_runs.of_worker: self.evidence.of_worker,
            jobs_and_runs.of_series: self.evidence.of_series,
            outlook: lambda *_, **__: self.ahead,
            queue_names: lambda: self.queues,
        }
        return cast("T", reads[query](*given, **named))

    def first_jobs(self, wanted: Filter, limit: int) -> Page:
        return Page(tuple(self.matching(Request(wanted))[:limit]), None)

    def change(self, doing: str, work: Callable[..., T]) -> T:
        """Does what the function of the queue would do, by the function of the fake that has its place."""
        del doing
        assert isinstance(work, partial)
        changes: dict[tuple[Any, ...], Callable[..., Any]] = {
            _called(function): fake
            for function, fake in (
                (operator.ask_canary, self.ask_canary),
                (operator.skip, self.figures.skip),
                (operator.pause_series, self.figures.pause_series),
                (operator.resume_series, self.figures.pause_series),
                (service.set_type, self.figures.set_type),
                (notes.add, self.evidence.leave_note),
                (notes.acknowledge, self.evidence.acknowledge),
                (notes.mute, self.evidence.mute),
                (notes.unmute, self.evidence.unmute),
                (holds.hold, self.hold),
                (holds.release, self.release),
            )
        }
        return cast("T", changes[_called(work)](**work.keywords))

    @property
    def known(self) -> Registry:
        return self.creating.registry

    def notes(self) -> Sequence[Note]:
        return self.evidence.notes

    def matching(self, request: Request) -> list[Job]:
        if request.group is not None:
            ids = self.evidence.groups.get(request.group, ())
            return [job for job in self.jobs if job.id in ids]
        standing = request.filter.standing
        found = [job for job in self.jobs if _matches(job, request)]
        return [job for job in found if standing is None or self.stands(job) == standing]

    def make(self, new: NewJob) -> Job:
        every = new.recurrence_interval_minutes
        made = make_job(
            0, task_type=new.task_type, payload=new.payload, run_at=new.run_at or self.at, created_at=self.at,
            max_attempts=new.max_attempts, is_recurring=bool(every or new.schedule), recurrence_interval_minutes=every,
            schedule=new.schedule,
            expires_at=new.expires_at, priority=new.priority or 0, dedupe_key=new.dedupe_key, blocked_by=new.blocked_by,
        )  # fmt: skip
        made = replace(made, id=job_id(5_000 + len(self.jobs)))
        self.jobs.append(made)
        return made

    def do(self, verb: Verb | BulkVerb, seen: Job) -> ActionResult:
        return self._act(verb, seen)

    def stands(self, job: Job) -> Standing:
        """How a job stands, as the lists of the queue say it."""
        due = job.next_run_at or job.run_at
        paused = {pause.task_type for pause in self.processing.paused_types}
        if job.status is not Status.PENDING:
            return Standing(job.status.value)
        if job.is_paused or job.task_type in paused or (due <= self.at and not self.processing.enabled):
            return Standing.PAUSED
        if job.blocked_by is not None:
            return Standing.WAITING
        if job.attempts and job.last_outcome in {RunOutcome.RETRIED, RunOutcome.LOST}:
            return Standing.RETRYING
        return Standing.OVERDUE if due <= self.at - minutes(1) else Standing.PENDING

    def view(self, request: Request) -> View:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        found = self.matching(request)
        keys: dict[str, Callable[[Job], Any]] = {
            "natural": lambda job: job.created_at,
            "created": lambda job: job.created_at,
            "run_at": lambda job: job.run_at,
            "task": lambda job: job.task_type,
            "status": lambda job: job.status.value,
            "attempts": lambda job: job.attempts,
            "updated": lambda job: job.updated_at,
            "last_run": lambda job: (job.last_run_at is not None, job.last_run_at),
            "error": lambda job: job.last_error or "",
        }
        found.sort(key=lambda job: (keys[request.sort](job), job.id), reverse=request.descending)
        page = Page(tuple(found[: request.limit]), "more" if len(found) > request.limit else None,
                    total=len(found) if request.group else None, searched=self.searched,
                    standings={job.id: self.stands(job) for job in found})  # fmt: skip
        counts = self.counts or _count(self.jobs)
        session = Session(
            self.label,
            ALICE,
            Permissions(view=True, operate=self.operate, work=self.work, role="job_viewer"),
            TYPES,
            embedded=False,
        )
        seen = Snapshot(self.at, page, counts, self.processing, self.health, self.workers, holds=self.holds)
        return View(session, seen, self.embedded)

    def detail(self, wanted: UUID) -> JobDetail | None:
        if self.failure is not None:
            raise self.failure
        if wanted in self.details:
            return self.details[wanted]
        return next((JobDetail(job, (), ()) for job in self.jobs if job.id == wanted), None)

    def recipients(self, wanted: UUID) -> Recipients | None:
        return self.evidence.recipients.get(wanted)

    def flow(self, wanted: UUID) -> FlowTree | None:
        return self.evidence.flows.get(wanted)

    def timeouts(self) -> dict[str, float]:
        return dict.fromkeys(TYPES, 900.0)

    def errors(self, canaries: Sequence[int]) -> ErrorReport:
        return self.evidence.errors(canaries)

    def ask_canary(self, job_id: UUID, version: int) -> CanaryAsked:
        self._reach(("canary", job_id))
        held = next((one for one in self.jobs if one.id == job_id), None)
        if held is None or held.version != version:
            return CanaryAsked(ActionResult(job_id, ok=False, message="changed meanwhile"), None)
        request = len(self.evidence.canaries) + 1
        waiting = "Waiting for a worker to take it."
        self.evidence.canaries[request] = CanaryAnswer(request, job_id, "waiting", waiting, self.at)
        return CanaryAsked(ActionResult(job_id, ok=True, message="The next worker runs it."), request)

    def table(self, page: plugins.Page, wanted: str) -> Sequence[Sequence[str]]:
        nothing = cast("Any", None)
        return page.query(nothing, wanted) if page.search else page.query(nothing)

    def search_table(self, page: plugins.Page, text: str) -> Sequence[plugins.Found]:
        return page.search.find(cast("Any", None), text) if page.search else ()

    def act_on_row(self, page: plugins.Page, action: str, row: Sequence[str], answers: Mapping[str, str]) -> str:
        self.calls.append(("act on row", action, tuple(row)))
        found, nothing = page.actions[action], cast("Any", None)
        return found.run(nothing, row, answers) if isinstance(found, plugins.PageAction) else found(nothing, row)

    def reveal(self, wanted: UUID) -> None:
        self._reach(("reveal", wanted))

    def check_payload(self, task_type: str, payload: dict[str, Any]) -> None:
        if "wrong" in payload:
            raise InvalidPayload(f"The payload does not fit {task_type}: wrong: is not a field of this task type.")

    def retry_with(self, job: Job, payload: dict[str, Any]) -> ActionResult:
        self._reach(("retry with", job.id, payload))
        return ActionResult(job.id, ok=True, message="Due now.", status=Status.PENDING)

    def cleanup(self, ids: Sequence[UUID] | None) -> list[ActionResult]:
        self._reach(("cleanup", None if ids is None else tuple(ids)))
        stuck = [one for one in self.evidence.stuck if ids is None or one in ids]
        return [ActionResult(one, ok=True, message="Stuck since 11:40:00Z.") for one in stuck]

    def purge(self, *, dry_run: bool) -> int:
        self._reach(("purge", dry_run))
        return self.evidence.old

    def _reach(self, call: tuple[Any, ...]) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def act(self, verb: Verb, jobs: Sequence[Job], reason: str | None = None) -> list[ActionResult]:
        self.reasons.append(reason)
        self.calls.append((verb, tuple(job.id for job in jobs)))
        if self.failure is not None:
            raise self.failure
        return [self._act(verb, job) for job in jobs]

    def _act(self, verb: Verb | BulkVerb, seen: Job) -> ActionResult:
        if verb == "restore":
            self.jobs += [job for job in self.trash if job.id == seen.id]
            self.trash = [job for job in self.trash if job.id != seen.id]
            return ActionResult(seen.id, ok=True, message="restored")
        held = next((job for job in self.jobs if job.id == seen.id), None)
        if held is None or (verb == "retry" and held.removed):
            message = "no such job" if held is None else "It has succeeded and left the queue."
            return ActionResult(seen.id, ok=False, message=message)
        if held.version != seen.version:
            return ActionResult(seen.id, ok=False, message="changed meanwhile")
        if not applicable(BY_ID[{"run-again": "job.retry", "revert": "job.edit"}.get(verb, f"job.{verb}")], [held]):
            return ActionResult(seen.id, ok=False, message=f"It is {held.status.value}.", status=held.status)
        self.jobs.remove(held)
        if verb == "delete":
            self.trash.append(held)
            return ActionResult(seen.id, ok=True, message="deleted")
        status = Status.PENDING if verb in {"retry", "run-again"} else Status.CANCELLED
        status = held.status if verb in {"edit", "revert"} else status
        self.jobs.append(replace(held, status=status, version=held.version + 1))
        return ActionResult(seen.id, ok=True, message=f"now {status.value}", status=status, version=held.version + 1)

    def cancel_flow(self, flow_id: UUID, reason: str | None) -> FlowCancelled:
        self.reasons.append(reason)
        self._reach(("cancel flow", flow_id))
        ((shown, tree),) = self.evidence.flows.items()
        assert tree.line.id == flow_id
        left = Counter({state: number for state, number in tree.line.states.items() if state not in WAITING})
        waiting, running = tree.line.states.keys() & WAITING, left["running"]
        cancelled = sum(tree.line.states[state] for state in waiting)
        ended = left.total() - running
        left["cancelled"] += cancelled
        self.evidence.flows[shown] = replace(tree, line=replace(tree.line, states=dict(+left)))
        return FlowCancelled(cancelled, running, ended)

    def due(self) -> Due:
        self._reach(("due",))
        pending = tuple(job for job in self.jobs if job.status is Status.PENDING)
        counts = self.counts or _count(self.jobs)
        found = due_among(Snapshot(self.at, Page(pending, None), counts, self.processing, self.health, ()), TYPES)
        return replace(found, ahead=self.ahead)

    def pause(
        self, reason: str | None, until: timedelta | datetime | None, task_type: str | None = None,
        queue: str | None = None,
    ) -> Processing:  # fmt: skip
        self._reach(("pause", reason, until, *filter(None, [task_type, queue])))
        resume_at = self.at + until if isinstance(until, timedelta) else until
        by, types = ALICE, self.processing.paused_types
        if task_type:
            kept = (pause for pause in types if pause.task_type != task_type)
            types = (*kept, TypePause(task_type, reason, by, self.at, resume_at))
            self.processing = replace(self.processing, paused_types=types)
        else:
            self.processing = Processing(
                enabled=False, paused_reason=reason, paused_by=by, paused_at=self.at, resume_at=resume_at,
                paused_types=types,
            )  # fmt: skip
        return self.processing

    def hold(
        self, task_type: str, key: str, value: Any, reason: str | None, until: timedelta | datetime | None
    ) -> tuple[int, int]:
        self.calls.append(("hold", task_type, key, value, reason, until))
        self.holds = (Hold(7, task_type, key, json.dumps(value), reason, ALICE, self.at, None, 1),)
        return 7, 1

    def release(self, number: int) -> int:
        self.calls.append(("release", number))
        self.holds = ()
        return 1

    def resume(self, task_type: str | None = None, queue: str | None = None) -> Processing:
        self.calls.append(("resume", *filter(None, [task_type, queue])))
        types = self.processing.paused_types
        if task_type:
            left = tuple(pause for pause in types if pause.task_type != task_type)
            self.processing = replace(self.processing, paused_types=left)
        else:
            self.processing = Processing(enabled=True, paused_types=types)
        return self.processing

    def run_cycle(self, on_progress: Callable[[str], None]) -> CycleResult:
        self.calls.append(("cycle",))
        on_progress(f"{self.cycle.processed} of {self.cycle.processed} done")
        return self.cycle

    def start_worker(self) -> None:
        self.calls.append(("start",))
        self.embedded = EmbeddedWorker("running")

    def stop_worker(self, timeout: float | None) -> bool:
        self.calls.append(("stop", timeout))
        self.embedded = EmbeddedWorker()
        return True

    def worker(self) -> EmbeddedWorker:
        return self.embedded

    def close(self) -> None:
        self.calls.append(("close",))


def _called(function: Callable[..., Any]) -> tuple[Any, ...]:
    """A function with what it was given by place, as several functions of the queue are one with another statement."""
    return (function.func, *function.args) if isinstance(function, partial) else (function,)


def lost() -> DatabaseUnreachable:
    return DatabaseUnreachable(f"The database at {LABEL} does not answer (connection refused).")


def _matches(job: Job, request: Request) -> bool:
    wanted = request.filter
    return (
        wanted.status in {None, job.status}
        and (not job.removed or wanted.status is Status.SUCCEEDED)
        and (wanted.task_type is None or wanted.task_type in job.task_type)
        and (wanted.search is None or wanted.search in f"{job.id} {job.task_type} {job.last_error} {job.payload}")
        and (wanted.error is None or wanted.error in (job.last_error or ""))
        and (wanted.attempts_at_least is None or job.attempts >= wanted.attempts_at_least)
    )


def _count(jobs: Iterable[Job]) -> Counts:
    jobs = list(jobs)
    by_status = {status.value: sum(job.status is status and not job.removed for job in jobs) for status in Status}
    return Counts(**by_status, removed=sum(job.removed for job in jobs))
