"""Actions on many jobs in an in-memory queue, batch by batch as the real one carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Filter, Job, Status
from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice, Share
from jobdeck.core.queue.operators.payload_change import EditRehearsal, PayloadChange, difference
from jobdeck.core.read.filters import format_filter
from jobdeck.tui.backend.parts import Bulks
from jobdeck.tui.backend.protocol import Request

if TYPE_CHECKING:
    from tests.tui.fake import FakeBackend


@dataclass
class Held:
    """One action with its jobs as they were seen, and its answers."""

    bulk: Bulk
    jobs: list[Job]
    answers: list[BulkAnswer] = field(default_factory=list)


class FakeBulk(Bulks):
    """Acts on the jobs of a `FakeBackend`, `batch` of them at a step. `failures` are raised by the next steps."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.batch = 10
        self.held: dict[UUID, Held] = {}
        self.failures: list[JobdeckError] = []
        self.steps = 0
        self.edits: list[PayloadChange] = []

    def choose(self, wanted: Filter) -> Choice | None:
        jobs = [job for job in self.backend.matching(Request(wanted)) if not job.removed]
        return self._keep(jobs, format_filter(wanted)) if jobs else None

    def choose_alike(self, task_type: str, fingerprint: str) -> Choice | None:
        if self.backend.failure is not None:
            raise self.backend.failure
        ids = self.backend.evidence.groups.get((task_type, fingerprint), ())
        held = [job for job in self.backend.jobs if job.id in ids]
        jobs = [job for job in held if job.status in {Status.FAILED, Status.PENDING}]
        return self._keep(jobs, f"type:{task_type} fingerprint:{fingerprint}") if jobs else None

    def choose_jobs(self, jobs: Sequence[Job]) -> Choice:
        return self._keep(list(jobs), None)

    def choose_undo(self, found: Bulk) -> Choice | None:
        held = self.held[found.id]
        good = {answer.job_id: answer for answer in held.answers if answer.ok}
        jobs = [job for job in held.jobs if job.id in good]
        if found.action == "edit":
            jobs = [replace(job, version=good[job.id].version or job.version) for job in jobs]
        if not jobs:
            return None
        choice = self._keep(jobs, held.bulk.words)
        if found.action == "edit":
            bulk = self.held[choice.bulk.id].bulk = replace(choice.bulk, reverts=found.id)
            return replace(choice, bulk=bulk)
        return choice

    def start(self, bulk_id: UUID, verb: BulkVerb, reason: str | None = None) -> Bulk:
        self.backend.reasons.append(reason)
        held = self.held[bulk_id]
        self.backend.calls.append((verb, tuple(job.id for job in held.jobs)))
        held.bulk = replace(held.bulk, state="running", action=verb, started_at=self.backend.at,
                            stepped_at=self.backend.at, driver=held.bulk.actor)  # fmt: skip
        return held.bulk

    def rehearse_edit(self, bulk_id: UUID, change: PayloadChange) -> EditRehearsal:
        jobs = self.held[bulk_id].jobs
        differs = [(job, difference(job.payload, change.apply(job.payload))) for job in jobs]
        first = tuple((job, found) for job, found in differs if found.keys)
        return EditRehearsal(len(jobs), len(first), len(jobs) - len(first), (), first[:6])

    def start_edit(self, bulk_id: UUID, change: PayloadChange, reason: str | None = None) -> Bulk:
        self.edits.append(change)
        return self.start(bulk_id, "edit", reason)

    def step(self, bulk_id: UUID) -> Bulk:
        self.steps += 1
        if self.failures:
            raise self.failures.pop(0)
        held = self.held[bulk_id]
        if held.bulk.state != "running":
            return held.bulk
        for job in held.jobs[held.bulk.done : held.bulk.done + self.batch]:
            result = self.backend.do(held.bulk.action or "retry", job)
            held.answers.append(
                BulkAnswer(job.id, job.task_type, result.ok, result.message, result.status, result.version)
            )
        done = len(held.answers)
        refused = sum(not answer.ok for answer in held.answers)
        held.bulk = replace(held.bulk, done=done, refused=refused, stepped_at=self.backend.at)
        if done == held.bulk.total:
            held.bulk = replace(held.bulk, state="finished", finished_at=self.backend.at)
        return held.bulk

    def stop(self, bulk_id: UUID) -> Bulk:
        held = self.held[bulk_id]
        if held.bulk.state == "running":
            held.bulk = replace(held.bulk, state="stopped", stopped_by="alice@10.0.0.7 (ops)")
        return held.bulk

    def drop(self, bulk_id: UUID) -> None:
        if self.held[bulk_id].bulk.state == "chosen":
            del self.held[bulk_id]

    def newest(self) -> Sequence[Bulk]:
        begun = [held.bulk for held in self.held.values() if held.bulk.state != "chosen"]
        return begun[::-1]

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        held = self.held[bulk_id]
        known = {answer.job_id: answer for answer in held.answers}
        waiting = BulkAnswer(held.jobs[0].id, None, None, None, None, None)
        listed = [known.get(job.id, replace(waiting, job_id=job.id, task_type=job.task_type)) for job in held.jobs]
        found = [answer for answer in listed if not refused or answer.ok is False]
        at = next((at + 1 for at, answer in enumerate(found) if answer.job_id == after), 0)
        return found[at : at + 200]

    def _keep(self, jobs: list[Job], words: str | None) -> Choice:
        bulk = Bulk(
            UUID(int=0xB0000000_0000_0000_0000_000000000000 + len(self.held) + 1), "chosen", None, words,
            "alice@10.0.0.7", None, len(jobs), 0, 0, self.backend.at, None, None, None, None, None, None,
        )  # fmt: skip
        self.held[bulk.id] = Held(bulk, jobs)
        shares: dict[tuple[str, str], int] = {}
        for job in jobs:
            shares[job.task_type, job.status.value] = shares.get((job.task_type, job.status.value), 0) + 1
        listed = tuple(Share(*of, number) for of, number in shares.items())
        return Choice(bulk, listed, tuple(jobs[:6]))
