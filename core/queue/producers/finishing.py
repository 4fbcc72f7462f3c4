"""The end of a run inside the transaction of an application's own connection."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jobdeck.core.errors import Locked
from jobdeck.core.model import RunOutcome
from jobdeck.core.queue import leases, producer
from jobdeck.core.queue.producers import connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.model import FinishedRun
    from jobdeck.core.queue.producer import Call
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection

LOCKED: Final = "Another session has locked this job. Its end was not recorded: roll back, and the job runs again."
_FINISH: Final = """
SELECT recorded FROM {}(%s::text, ARRAY[%s::text::uuid], ARRAY[%s::text::bigint], ARRAY[%s::text],
    ARRAY[to_timestamp(%s::text::bigint * 1e-6::float8)], ARRAY[to_timestamp(%s::text::bigint * 1e-6::float8)],
    ARRAY[%s::text::jsonb], %s::text::float8, %s::text::float8)
"""


class Reporter(NamedTuple):
    """The worker that reports a run, the queue's schema, and the times of retries in seconds."""

    worker: str
    schema: str
    retry_base: float
    retry_cap: float


def record(connection: SyncConnection, run: FinishedRun, by: Reporter) -> RunOutcome:
    """Records the end of a run in the transaction of a connection. Returns what the database recorded.

    Raises:
        Refused: the connection is of a kind that cannot be used, or the database rejects the report.
        Locked: another session has held the job's row for half a second.
    """
    with _own_sentence():
        return _recorded(connections.sync(connection).fetch(_call(run, by)), run)


async def arecord(connection: AsyncConnection, run: FinishedRun, by: Reporter) -> RunOutcome:
    """The same in the transaction of an async connection."""
    with _own_sentence():
        return _recorded(await connections.asynchronous(connection).fetch(_call(run, by)), run)


@contextmanager
def _own_sentence() -> Iterator[None]:
    """Says what a locked row means here; the drivers say what it means for a job that is enqueued."""
    try:
        yield
    except Locked:
        raise Locked(LOCKED) from None


def _call(run: FinishedRun, by: Reporter) -> Call:
    times = (int(run.started * 1e6), int(run.finished * 1e6))
    facts = (by.worker, run.job_id, run.run_token, run.outcome, *times, leases.details(run))
    return producer.call(_FINISH, by.schema, "job_queue_finish", (*facts, by.retry_base, by.retry_cap))


def _recorded(rows: Any, run: FinishedRun) -> RunOutcome:
    # There is no row for a one-time job that succeeded and left the queue.
    return RunOutcome(rows[0][0]) if rows else RunOutcome(run.outcome)
