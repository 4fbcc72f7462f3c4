"""What a run would do, before there is one: a task type's own preview, on a connection that cannot write."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from jobdeck.core.model import ClaimedJob
from jobdeck.core.read import jobs
from jobdeck.core.worker.context import RunContext, RunResources

if TYPE_CHECKING:
    from jobdeck.core.model import Json
    from jobdeck.core.postgres.database import Connection, Database
    from jobdeck.core.registry import JobContext, JobType
    from jobdeck.core.settings import Settings


def effects(job_type: JobType, payload: Json, *, settings: Settings, database: Database) -> Json | None:
    """What a run would do, as the type's preview says; None for a type that has none. Nothing can be written meanwhile.

    Raises:
        InvalidPayload: the payload does not fit.
        JobFailure: the preview refuses it, with the sentence that a run would fail with.
    """
    if job_type.preview is None:
        return None
    params = job_type.parse(payload)
    with database.connection() as conn, closing(RunResources(settings, database)) as resources:
        conn.read_only = True
        try:
            with conn.transaction():
                return job_type.preview(params, _rehearsal(conn, job_type, payload, resources))
        finally:
            conn.read_only = None


class _Rehearsal(RunContext):
    """The context of a preview: a dry run on one connection that cannot write."""

    dry_run = True

    def __init__(self, job: ClaimedJob, resources: RunResources, conn: Connection) -> None:
        moment = time.monotonic()
        super().__init__(job, resources, moment, moment)
        self._conn = conn

    @property
    def db(self) -> Connection:
        return self._conn


def _rehearsal(conn: Connection, job_type: JobType, payload: Json, resources: RunResources) -> JobContext:
    now = jobs.clock().run(conn)
    job = ClaimedJob(
        uuid4(), 0, job_type.task_type, payload, 1, job_type.max_attempts, now, now, is_recurring=False,
        checkpoint=None, cycle=0,
    )  # fmt: skip
    context = _Rehearsal(job, resources, conn)
    context.plugin = job_type.plugin
    return cast("JobContext", context)
