"""An in-memory queue that serves hostile text in every field that a producer can write, other text at each reading."""

# ruff: noqa: ARG002 -- the answers are hostile whatever was asked

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from jobdeck.core.errors import InvalidPayload
from jobdeck.core.model import (
    ActionResult,
    Enqueued,
    Filter,
    Finding,
    Health,
    Job,
    Json,
    Processing,
    Run,
    RunOutcome,
    Status,
    TypePause,
    Verdict,
    Worker,
)
from jobdeck.core.plugins import Found, Recipient, Recipients
from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice
from jobdeck.core.queue.requests import Wanted
from jobdeck.core.read.pages.flows import FlowLine, FlowMember, FlowTree
from jobdeck.core.read.report_types import AuditEntry, Clause, JobDetail
from jobdeck.core.worker.oneshot import CycleResult
from jobdeck.tui.backend.protocol import EmbeddedWorker, Rehearsal, Request, Verb, View
from tests.tui.fake import NOW, FakeBackend, job_id, make_job, minutes
from tests.tui.fake_bulk import FakeBulk
from tests.tui.fake_creating import FakeCreating
from tests.tui.hostile import Fuzz
from tests.tui.sample import trend, worker_run

JOBS: Final = 120
KNOWN: Final = "game_platform_sync"
FIELDS: Final = ("coachId", "batchSize", "mode", "cursor", "dryRun", "syncTeams")
SHOWN: Final = 60
"""So long may a name be for a dialog to have room for what it says of it."""
OUTCOMES: Final = tuple(RunOutcome)


class FuzzedBulk(FakeBulk):
    """Actions on many jobs whose words, actors and answers are hostile."""

    def __init__(self, backend: FakeBackend, fuzz: Fuzz) -> None:
        super().__init__(backend)
        self.fuzz = fuzz

    def choose(self, wanted: Filter) -> Choice | None:
        found = super().choose(wanted)
        return replace(found, bulk=self._written(found.bulk)) if found else None

    def start(self, bulk_id: UUID, verb: BulkVerb, reason: str | None = None) -> Bulk:
        return self._written(super().start(bulk_id, verb, reason))

    def step(self, bulk_id: UUID) -> Bulk:
        return self._written(super().step(bulk_id))

    def newest(self) -> Sequence[Bulk]:
        return [self._written(bulk) for bulk in super().newest()]

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        text = self.fuzz.text
        found = super().answers(bulk_id, refused=refused, after=after)
        return [replace(one, task_type=text(), message=text()) for one in found]

    def _written(self, bulk: Bulk) -> Bulk:
        text = self.fuzz.text
        return replace(bulk, words=text(), actor=text(), reason=text(), driver=text(), stopped_by=text(),
                       trouble=text())  # fmt: skip


class FuzzedCreating(FakeCreating):
    """People with hostile names, and answers that quote what was stored."""

    def __init__(self, backend: FuzzedBackend) -> None:
        super().__init__(backend)
        self.fuzz = backend.fuzz

    def find(self, key: str, text: str) -> tuple[Found, ...]:
        return tuple(Found(str(job_id(number)), self.fuzz.text(), self.fuzz.text()) for number in range(30))

    def create(self, wanted: Wanted) -> Enqueued:
        made = self.backend.make_hostile(self.backend.jobs[0])  # type: ignore[attr-defined]
        return Enqueued(made, created=True)

    def changes(self, job: Job, wanted: Wanted) -> Json:
        return {"payload": wanted.payload, "priority": 3}

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        return ActionResult(job.id, ok=False, message=self.fuzz.text())

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        return Rehearsal(self.fuzz.text(), ok=True, effects=self.fuzz.json(), remark=self.fuzz.text())

    def quick_sync(self, kind: str) -> Sequence[Enqueued]:
        made = self.backend.make_hostile(self.backend.jobs[0])  # type: ignore[attr-defined]
        hostile = replace(made, task_type=made.task_type[:SHOWN])
        return [Enqueued(hostile, created=True), Enqueued(hostile, created=False)]


class AllAlike(dict[tuple[str, str], tuple["UUID", ...]]):
    """Whatever a group of errors was called when it was seen, the same jobs are in it."""

    def __init__(self, ids: Iterable[UUID]) -> None:
        super().__init__()
        self.ids = tuple(ids)

    def get(self, _key: object, _default: object = None) -> Any:
        return self.ids


class FuzzedBackend(FakeBackend):
    """The ids stay, so that a cursor can follow its job; everything else changes at each reading."""

    def __init__(self, _jobs: object = (), *, seed: int = 8211) -> None:
        self.fuzz = Fuzz(seed)
        self.lock = threading.RLock()
        statuses = tuple(Status)
        super().__init__(make_job(at, statuses[at % len(statuses)]) for at in range(1, JOBS + 1))
        self.creating = FuzzedCreating(self)
        self.bulk = FuzzedBulk(self, self.fuzz)
        self.named = self.fuzz.text()

    def view(self, request: Request) -> View:
        with self.lock:
            self.write_anew()
            view, text = super().view(request), self.fuzz.text
        permissions = replace(view.session.permissions, role=text())
        session = replace(view.session, label=text(), actor=text(), permissions=permissions)
        return replace(view, session=session)

    def write_anew(self) -> None:
        """Replaces every text there is."""
        text, log = self.fuzz.text, logging.getLogger("jobdeck.fuzzed")
        self.jobs = [self.make_hostile(job) for job in self.jobs]
        pauses = tuple(TypePause(text(), text(), text(), NOW, None) for _ in range(2))
        self.processing = replace(self.processing, paused_types=pauses)
        if not self.processing.enabled:
            self.processing = replace(self.processing, paused_by=text(), paused_reason=text())
        trigger = worker_run(1, 4, source=text(), message=text(), worker_id=text(), http_method=text())
        findings = tuple(Finding(text(), verdict, text(), NOW) for verdict in Verdict)
        self.health = Health(Verdict.CRITICAL, findings, NOW, (1, 2), 3, trigger)
        held = text()
        self.workers = (self._one_worker(held), self._one_worker(text()))
        self.jobs[1] = replace(self.jobs[1], locked_by=held)
        self.embedded = EmbeddedWorker("running", 1, held)
        self._write_evidence()
        log.warning("%s", text(), extra={"fields": {"worker": text()}})
        log.error(text())

    def make_hostile(self, job: Job) -> Job:
        """The job with other texts in every field that has one; every third is of a type that has a form."""
        text, known = self.fuzz.text, job.id.int % 3 == 0
        return replace(
            job, task_type=KNOWN if known else text(), last_error=text(), output=self.fuzz.json(), dedupe_key=text(),
            payload={name: text() for name in FIELDS} | {text(): text()} if known else self.fuzz.json(),
            concurrency_key=text(), checkpoint=self.fuzz.json(), locked_by=text(), created_by=text(),
            progress={"done": 1, "total": 3, "message": text(), "log": [text(), text()], text(): text()},
            cancel_requested_by=text(), cancel_requested_at=NOW if known else None, consecutive_failures=2,
            last_outcome=RunOutcome.FAILED, last_run_at=NOW, lease_expires_at=NOW, started_at=NOW - minutes(30),
        )  # fmt: skip

    def detail(self, wanted: UUID) -> JobDetail | None:
        found = super().detail(wanted)
        if found is None:
            return None
        text = self.fuzz.text
        runs = tuple(self._run(found.job, number) for number in range(8))
        why = tuple(Clause(text(), holds, text()) for holds in (True, False))
        return JobDetail(found.job, runs, why, (self._entry(1, text()), self._entry(2, text())))

    def recipients(self, wanted: UUID) -> Recipients | None:
        text = self.fuzz.text
        people = tuple(Recipient(text(), text(), text(), text(), NOW) for _ in range(4))
        return Recipients(((text(), 3), (text(), 1)), people)

    def flow(self, wanted: UUID) -> FlowTree | None:
        text = self.fuzz.text
        first = FlowMember(wanted, text(), text(), "success", "failed", last_error=text())
        second = FlowMember(UUID(int=1), text(), text(), "end", "blocked", blockers=(wanted, UUID(int=2)))
        third = FlowMember(UUID(int=2), text(), text(), "success", "succeeded", blockers=(wanted,))
        return FlowTree(FlowLine(UUID(int=3), text(), NOW, text(), {"failed": 1, "blocked": 1}), (first, third, second))

    def check_payload(self, task_type: str, payload: dict[str, Any]) -> None:
        raise InvalidPayload(f"Does not fit: {self.fuzz.text()}")

    def cleanup(self, ids: Sequence[UUID] | None) -> list[ActionResult]:
        stuck = ids or [job.id for job in self.jobs[:4]]
        return [ActionResult(one, ok=ids is None, message=self.fuzz.text()) for one in stuck]

    def pause(
        self, reason: str | None, until: timedelta | datetime | None, task_type: str | None = None,
        queue: str | None = None,
    ) -> Processing:  # fmt: skip
        pause = TypePause(self.fuzz.text(), self.fuzz.text(), self.fuzz.text(), NOW, None)
        self.processing = Processing(enabled=False, paused_at=NOW, paused_types=(pause,))
        return self.processing

    def run_cycle(self, on_progress: Callable[[str], None]) -> CycleResult:
        on_progress("0 of 5 done")
        return CycleResult("error", 0, 0, 0, self.fuzz.text())

    def _act(self, verb: Verb | BulkVerb, seen: Job) -> ActionResult:
        with self.lock:
            return replace(super()._act(verb, seen), message=self.fuzz.text())

    def _write_evidence(self) -> None:
        text, found = self.fuzz.text, self.evidence
        found.runs = tuple(
            worker_run(number, number * 5, source=text(), status=status, message=text(), error_message=text(),
                       worker_id=text())
            for number, status in enumerate(("ok", "error", "paused", "ok"), start=1)
        )  # fmt: skip
        found.trends = tuple(
            replace(trend(job, text(), text()), task_type=text(), sample=text(), error_kind=text(), failed=1)
            for job in self.jobs[:6]
        )
        found.groups = AllAlike(job.id for job in self.jobs if job.status is Status.FAILED)
        found.unhandled = (text(), text())
        found.entries = tuple(self._entry(number, action) for number, action in enumerate(("pause", text(), "resume")))

    def _entry(self, number: int, action: str) -> AuditEntry:
        text = self.fuzz.text
        before, after = {"status": text(), "task_type": text()}, {"status": text(), text(): text(), "task_type": text()}
        return AuditEntry(number, NOW, text(), action, self.jobs[number].id, before, after, text())

    def _one_worker(self, name: str) -> Worker:
        text = self.fuzz.text
        return Worker(name, text(), 1, text(), text(), 4, (text(), text()), NOW, NOW, 1, alive=True)

    def _run(self, job: Job, number: int) -> Run:
        text, lines = self.fuzz.text, "\n".join(self.fuzz.text() for _ in range(5))
        return Run(
            number, job.id, text(), self.fuzz.json(), 1, text(), NOW, NOW, NOW, OUTCOMES[number], text(), text(), lines,
            self.fuzz.json(), lines, self.fuzz.json(),
        )  # fmt: skip
