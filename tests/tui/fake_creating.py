"""Making jobs in an in-memory queue, with task types that have every kind of field a payload can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import Field, StrictBool

from jobdeck.core.model import ActionResult, Enqueued, Job, Json, NewJob, Status
from jobdeck.core.plugins import Found, presets
from jobdeck.core.queue.requests import Wanted, changes, new_job
from jobdeck.core.registry import Done, JobContext, JobType, Payload, Registry
from jobdeck.tui.backend.parts import Creating
from jobdeck.tui.backend.protocol import QuickSync, Rehearsal

if TYPE_CHECKING:
    from tests.tui.fake import FakeBackend

ACTIVE = {Status.PENDING, Status.RUNNING}
COACH = "5d0c7f6a-8a55-4e4e-9a0e-000000000007"
CAMPAIGN = "0b7f2f7e-1f0c-4f5c-9a34-2f3e0f3f5a11"
FOUND: dict[str, tuple[Found, ...]] = {
    "coachId": (
        Found(COACH, "Amara Kim", "North High, 12 competitors"),
        Found("5d0c7f6a-8a55-4e4e-9a0e-000000000008", "Bo Lindqvist", "Eastside Academy, 3 competitors"),
        Found("5d0c7f6a-8a55-4e4e-9a0e-000000000009", "Chidi Kimani", "West College, 1 competitor, not on it yet"),
    ),
    "campaignId": (Found(CAMPAIGN, "Finals on Saturday", "pending, 3h ago, 640 of 655 left to mail"),),
}


class SyncParams(Payload):
    dry_run: StrictBool = Field(False, description="Say what would be done; change nothing")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors and teams")
    force_full_sync: StrictBool = Field(False, description="Fetch everyone's whole history")
    batch_size: int | None = Field(None, strict=True, ge=1, le=200, description="Competitors in each run of a wave")
    cursor: dict[str, Any] | None = Field(None, description="Where a wave starts")
    mode: Literal["wave", "full"] | None = Field(None, description="Everyone in one run, or in batches")
    sync_teams: StrictBool | None = Field(None, description="Sync teams; unset: at the end")


class OnboardParams(Payload):
    competitor_ids: list[UUID] = Field(default_factory=list, max_length=500, description="Only these competitors")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    only_active: StrictBool = Field(True, description="Only competitors who are active")
    source: Literal["bulk_import", "backfill", "manual"] | None = Field(None, description="Where the job comes from")


class DigestParams(Payload):
    roles: list[Literal["coach", "admin"]] | None = Field(None, description="Whom to tell")
    note: str | None = Field(None, max_length=40, description="A word to those who are told")
    hours: float | None = Field(None, ge=0, le=72, description="How far back to look")


class DispatchParams(Payload):
    campaign_id: UUID = Field(description="The campaign")
    dry_run: StrictBool = Field(False, description="Send and change nothing")


def run(_params: Any, _ctx: JobContext) -> Done:
    raise AssertionError("no run is started by a form")


def preview(params: SyncParams, _ctx: JobContext) -> Json:
    return {"competitors": {"total": 655, "odlFull": 655 if params.force_full_sync else 0, "sample": ["a", "b"]},
            "teams": {"total": 41, "toCreate": 0}}  # fmt: skip


def job_type(name: str, label: str, purpose: str, payload: type[Payload], **facts: Any) -> JobType:
    return JobType(name, run, label, purpose, payload, **facts)


REGISTRY = Registry([
    job_type("game_platform_sync", "Game Platform Sync", "Sync competitors and teams with MetaCTF", SyncParams,
             recurring=15, concurrency="type", preview=preview),
    job_type("game_platform_onboard_competitors", "Onboard Competitors", "Bulk add competitors to game platform",
             OnboardParams),
    job_type("sms_digest_processor", "SMS Digest", "Batch SMS/email notifications to coaches", DigestParams,
             recurring=60),
    job_type("competitor_announcement_dispatch", "Announcement Dispatch", "Send bulk email campaign via SendGrid",
             DispatchParams, max_attempts=25),
])  # fmt: skip


class FakeCreating(Creating):
    """Puts jobs into the list of a `FakeBackend`."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.registry = REGISTRY
        self.missing: dict[str, str] = {}
        self.held: Job | None = None
        self.searched: list[tuple[str, str]] = []

    def types(self) -> tuple[JobType, ...]:
        return tuple(self.registry)

    def find(self, key: str, text: str) -> tuple[Found, ...]:
        self.searched.append((key, text))
        if self.backend.failure is not None:
            raise self.backend.failure
        return tuple(one for one in FOUND[key] if text.lower() in f"{one.label} {one.detail} {one.id}".lower())

    def create(self, wanted: Wanted) -> Enqueued:
        self.backend.calls.append(("create", wanted))
        if self.backend.failure is not None:
            raise self.backend.failure
        new = new_job(self.registry, wanted, self.backend.at)
        if self.held is not None and wanted.dedupe_key:
            return Enqueued(self.held, created=False)
        made = self.backend.make(new)
        return Enqueued(made, created=True)

    def changes(self, job: Job, wanted: Wanted) -> Json:
        return changes(self.registry, job, wanted, job.run_at)

    def edit(self, job: Job, wanted: Wanted) -> ActionResult:
        made = changes(self.registry, job, wanted, self.backend.at)
        self.backend.calls.append(("edit", job.id, job.version, made))
        if self.backend.failure is not None:
            raise self.backend.failure
        held = next((one for one in self.backend.jobs if one.id == job.id), None)
        if held is None or held.version != job.version:
            return ActionResult(job.id, ok=False, message="It has changed meanwhile and is now running.")
        edited = replace(held, version=held.version + 1, payload=made.get("payload", held.payload))
        self.backend.jobs[self.backend.jobs.index(held)] = edited
        return ActionResult(job.id, ok=True, message="Changed.", status=held.status)

    def rehearse(self, wanted: Wanted, job: Job | None) -> Rehearsal:
        self.backend.calls.append(("rehearse", wanted, job.id if job else None))
        if self.backend.failure is not None:
            raise self.backend.failure
        known = self.registry.get(wanted.task_type)
        if known is None or known.preview is None:
            return Rehearsal("The job would be enqueued.", ok=True, remark="This type has no preview of its effects.")
        effects = known.preview(known.parse(wanted.payload), None)
        return Rehearsal("It would be changed." if job else "The job would be enqueued.", ok=True, effects=effects)

    def quick_syncs(self) -> tuple[QuickSync, ...]:
        return tuple(QuickSync(one, self.missing.get(name, "")) for name, one in presets().items())

    def quick_sync(self, kind: str) -> Sequence[Enqueued]:
        self.backend.calls.append(("quick_sync", kind))
        if self.backend.failure is not None:
            raise self.backend.failure
        done: list[Enqueued] = []
        for name in presets()[kind].task_types:
            key = f"quick-sync:{name}"
            there = next((job for job in self.backend.jobs if job.dedupe_key == key and job.status in ACTIVE), None)
            blocker = done[-1].job.id if done else None
            new = NewJob(name, {"dryRun": False}, dedupe_key=key, blocked_by=blocker)
            done.append(Enqueued(there or self.backend.make(new), created=there is None))
        return done
