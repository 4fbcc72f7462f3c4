"""Runs one handler with a real context and without a queue."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

from pydantic import BaseModel

from jobdeck.core import settings as configuration
from jobdeck.core.errors import UsageError
from jobdeck.core.model import ClaimedJob, Json
from jobdeck.core.postgres.jsonb import storable
from jobdeck.core.registry import JobType, Payload, Registry
from jobdeck.core.testing.borrowed import job_type_of, plain_rows, usable
from jobdeck.core.testing.result import JobResult, sequel
from jobdeck.core.testing.running import (
    NO_DATABASE,
    LentResources,
    LoneContext,
    RecordingExecutor,
    lent,
    raise_failure,
    result,
)
from jobdeck.core.worker.context import CHECKPOINT_BYTES, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.settings import Settings

STOPS: Final = {
    "cancelled": Stop.CANCELLED,
    "timed_out": Stop.TIMED_OUT,
    "released": Stop.RELEASED,
    "lease_lost": Stop.LOST,
}


def run_job(  # noqa: PLR0913 -- one keyword per circumstance of a run
    handler: Callable[..., Any] | str,
    payload: Payload | Json | None = None,
    *,
    attempt: int = 1,
    max_attempts: int | None = None,
    checkpoint: Json | None = None,
    dry_run: bool = False,
    settings: Settings | None = None,
    resources: object = None,
    db: psycopg.Connection[Any] | None = None,
    stop: Literal["cancelled", "timed_out", "released", "lease_lost"] | None = None,
    stop_after: int = 0,
    raise_errors: bool = False,
) -> JobResult:
    """Runs a handler once, in this thread, as a worker runs it, but with no queue and no database.

    What the handler raises is in the result, with what a worker does after it. Ctrl-C, `pytest.fail` and `pytest.skip`
    go through. A handler that does not return is not ended: only a worker watches the timeout of a type.

    Args:
        handler: the function with `@job`, or the name of its task type.
        payload: the type's payload model, or its JSON.
        attempt: which attempt of the job it is, from 1 on.
        max_attempts: how often the job is tried; None for the type's own value.
        checkpoint: the checkpoint with which the run begins.
        dry_run: sets the field `dry_run` of the payload, which makes a run a dry run.
        settings: the settings; None for those of this process.
        resources: `ctx.resources`; None for those of the type's plugin, if it has one.
        db: `ctx.db`. Without it, a handler that uses `ctx.db` is an error of the test.
        stop: why the run has to stop: an operator cancelled the job, it took too long, the worker is stopping, or the
            job was taken back.
        stop_after: how many checks of the handler come before that: its calls of `ctx.cancelled` and
            `ctx.raise_if_cancelled`, and for `lease_lost` also of `ctx.progress` and `ctx.save_checkpoint`.
        raise_errors: whether to raise the handler's exception if the run failed.

    Raises:
        UnknownTaskType: the function is no handler, or no imported module registers the type.
        InvalidPayload: the payload does not fit the type, so that the job could not be enqueued.
        UsageError: an option has an impossible value, or the handler used `ctx.db` and there is none.
    """
    job_type = job_type_of(handler)
    most = job_type.max_attempts if max_attempts is None else max_attempts
    job = _job(job_type, payload, attempt, most, checkpoint, dry_run=dry_run)
    if stop is not None and stop not in STOPS:
        raise UsageError(f"stop must be one of {', '.join(STOPS)}, not {stop!r}.")
    if stop_after < 0:
        raise UsageError(f"stop_after must be 0 or more, not {stop_after}.")
    used = settings or configuration.load()
    with closing(LentResources(used, None if db is None else usable(db), given=resources)) as shared:
        made = _run(job, job_type, shared, db, STOPS.get(stop or ""), stop_after)
    if raise_errors:
        raise_failure(made)
    return made


def _run(
    job: ClaimedJob, job_type: JobType, resources: LentResources, db: Connection | None, why: Stop | None, after: int
) -> JobResult:
    executor = RecordingExecutor(Registry([job_type]), resources)
    context = LoneContext(job, resources, why, after)
    with ExitStack() as stack:
        if db is not None:
            stack.enter_context(plain_rows(db))
            stack.enter_context(lent(db))
        finished = executor.run(job, context)
    if resources.missed:
        raise UsageError(NO_DATABASE) from executor.raised
    if context.stop is Stop.TIMED_OUT:
        # A worker reports the run at its timeout, whatever the handler does afterwards.
        finished = executor.timed_out(context)._replace(traceback=finished.traceback)
    return result(context, finished, executor, sequel(job, finished, context.stop, resources.settings))


def _job(
    job_type: JobType, payload: Payload | Json | None, attempt: int, max_attempts: int, checkpoint: Json | None, *,
    dry_run: bool,
) -> ClaimedJob:  # fmt: skip
    """The job as a worker would claim it."""
    if max_attempts < 1:
        raise UsageError(f"max_attempts must be 1 or more, not {max_attempts}.")
    if not 1 <= attempt <= max_attempts:
        raise UsageError(f"attempt must be from 1 to {max_attempts}, the maximum of this job, not {attempt}.")
    given = job_type.dump(payload) if isinstance(payload, BaseModel) else {} if payload is None else payload
    parsed = job_type.parse(given)
    if dry_run:
        field = job_type.payload.model_fields.get("dry_run")
        if field is None:
            raise UsageError(
                f"The payload of {job_type.task_type} has no field dry_run, so no run of it is a dry run. "
                "Add the field, or leave the option out."
            )
        parsed = job_type.parse({**job_type.dump(parsed), field.alias or "dry_run": True})
    now = datetime.now(UTC)
    kept: object = checkpoint
    if not isinstance(kept, dict | None):
        raise UsageError(f"checkpoint must be a JSON object, not a value of the type {type(kept).__name__}.")
    return ClaimedJob(
        uuid4(), 1, job_type.task_type, job_type.dump(parsed), attempt, max_attempts, now, now, is_recurring=False,
        checkpoint=None if kept is None else storable(kept, "checkpoint", CHECKPOINT_BYTES), cycle=0,
    )  # fmt: skip
