"""What a run or a worker will do before it happens: a task type's own preview, and the slots of a worker."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

from jobdeck.core.model import ClaimedJob, Json
from jobdeck.core.read import jobs
from jobdeck.core.worker.context import RunContext, RunResources

if TYPE_CHECKING:
    from jobdeck.core.postgres.database import Connection, Database
    from jobdeck.core.read.pages.outlook import Slots
    from jobdeck.core.registry import JobContext, JobType, Registry
    from jobdeck.core.settings import Settings

DENIED: Final = "This role may not read the tables that the preview needs. Connect as a member of job_worker."
"""What is said where a preview raises `InsufficientPrivilege`."""


def slots_of(registry: Registry, settings: Settings, concurrency: int | None = None) -> Slots:
    """The kind and the number of slots that a worker to come has for each task type."""
    sizes = {
        "thread": concurrency or settings.concurrency, "async": settings.async_concurrency,
        "process": settings.process_concurrency,
    }  # fmt: skip
    kinds = {name: registry.require(name).kind for name in registry.names}
    return {name: (kind, sizes[kind]) for name, kind in kinds.items()}


def effects(job_type: JobType, payload: Json, *, settings: Settings, database: Database) -> Json | None:
    """Runs the type's preview read-only and returns the effects; None if the type has no preview.

    Raises:
        InvalidPayload: the payload does not fit.
        JobFailure: the preview refuses the payload, with the message with which a run would fail.
    """
    if job_type.preview is None:
        return None
    params = job_type.parse(payload)
    with database.lend() as conn, closing(RunResources(settings, database)) as resources:
        conn.read_only = True
        with conn.transaction():
            return job_type.preview(params, _preview_context(conn, job_type, payload, resources))


class _PreviewContext(RunContext):
    """The context of a preview: a dry run on one read-only connection."""

    dry_run = True

    def __init__(self, job: ClaimedJob, resources: RunResources, conn: Connection) -> None:
        moment = time.monotonic()
        super().__init__(job, resources, moment, moment)
        self._conn = conn

    @property
    def db(self) -> Connection:
        return self._conn


def _preview_context(conn: Connection, job_type: JobType, payload: Json, resources: RunResources) -> JobContext:
    now = jobs.clock().run(conn)
    job = ClaimedJob(
        uuid4(), 0, job_type.task_type, payload, 1, job_type.max_attempts, now, now, is_recurring=False,
        checkpoint=None, cycle=0,
    )  # fmt: skip
    context = _PreviewContext(job, resources, conn)
    context.plugin = job_type.plugin
    return cast("JobContext", context)
