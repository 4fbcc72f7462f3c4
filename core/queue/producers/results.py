"""Waits for the result of a job: polls with growing pauses, which works behind every pooler."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from jobdeck.core import settings
from jobdeck.core.errors import JobNotFound, Refused, ResultTimeout
from jobdeck.core.model import RunOutcome, Status
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.database import TRANSPORT, Unreachable
from jobdeck.core.queue.producer import Call
from jobdeck.core.queue.producers import kinds, senders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.queue.producers.kinds import AsyncpgConnection
    from jobdeck.core.queue.producers.senders import Rows

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.5
_READ: Final = """
SELECT status, last_outcome, is_recurring, output::text, last_error FROM {schema}.job_list WHERE id = %s::text::uuid
UNION ALL
(SELECT 'succeeded', outcome, false, output::text, error FROM {schema}.job_run_list
    WHERE job_id = %s::text::uuid AND removed ORDER BY run_token DESC LIMIT 1)
"""
"""The job in the queue, if it is there, comes before a run with which it has left the queue."""
_ENDS: Final = {Status.FAILED: RunOutcome.FAILED, Status.CANCELLED: RunOutcome.CANCELLED}
_IN_TRANSACTION: Final = (
    "This connection is inside a transaction. Commit it before you wait for a job: workers do not see a job before the "
    "commit, and a transaction that is open for long holds up the upkeep of the database."
)
_NO_ADDRESS: Final = "Pass the address of the database, like postgresql://host/name, or "


@dataclass(frozen=True, slots=True)
class Result:
    """How a one-time job ended.

    `outcome` is `succeeded`, `partial` (some items failed), `failed` (for good) or `cancelled`. `output` is what the
    handler returned, None for a role that may not see it. `error` is the sentence of the last failure.
    """

    job_id: UUID
    outcome: RunOutcome
    output: Json | None
    error: str | None


def result(
    where: str | psycopg.Connection[Any], job_id: UUID, *, timeout: float = 30.0, schema: str | None = None
) -> Result:
    """Waits until a one-time job has ended, and returns how. A failed job is a result, not an exception.

    It reads after 50 ms, then after pauses that grow up to a second. The database role needs the rights of
    `job_viewer`; the output needs those of `job_operator`.

    Args:
        where: the address of the database, for a connection that is closed afterwards; or a psycopg connection that is
            in no transaction.
        job_id: the id of the job, whose enqueueing transaction has been committed.
        timeout: how many seconds to wait; 0 reads once.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Raises:
        ResultTimeout: the job has not ended within the timeout. It continues.
        JobNotFound: no job has this id, or the job was deleted while it was waited for.
        Refused: the job is recurring, so there is no end to wait for; or the connection is in a transaction.
        DatabaseUnreachable: no Postgres answers at the address.
    """
    watch = _Watch(job_id, timeout, schema)
    with _connection(where) as conn:
        while (found := watch.look(_fetch(conn, watch.call))) is None:
            time.sleep(watch.pause())
    return found


async def aresult(
    where: str | psycopg.AsyncConnection[Any] | AsyncpgConnection,
    job_id: UUID,
    *,
    timeout: float = 30.0,  # noqa: ASYNC109 -- `asyncio.timeout` around the call would lose the sentence
    schema: str | None = None,
) -> Result:
    """Does what `result` does, with the same errors; `where` is the address, or a psycopg or asyncpg connection."""
    watch = _Watch(job_id, timeout, schema)
    async with _async_connection(where) as (conn, kind):
        while (found := watch.look(await _afetch(conn, kind, watch.call))) is None:  # noqa: ASYNC110 -- it polls
            await asyncio.sleep(watch.pause())
    return found


class _Watch:
    """One job that is waited for: the statement that reads it, and how long to pause before the next reading."""

    def __init__(self, job_id: UUID, timeout: float, schema: str | None) -> None:
        if not timeout >= 0:
            raise Refused("A timeout is a number of seconds, 0 or more.")
        self._job_id = job_id
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = FIRST_PAUSE
        self._seen = False
        self.call = Call(_read(schema or settings.load().database_schema), (str(job_id), str(job_id)))

    def look(self, rows: Rows) -> Result | None:
        """The result in what was read, or None if the job has not ended yet."""
        if not rows and self._seen:
            raise JobNotFound(f"Job {self._job_id} was deleted while it was waited for.")
        if not rows:
            raise JobNotFound(
                f"There is no job {self._job_id} in the queue, nor in its history. The transaction that enqueued it is "
                "not committed, the job was deleted, or its history has been pruned."
            )
        self._seen = True
        status, last_outcome, recurring, output, error = rows[0]
        if recurring:
            raise Refused(
                f"Job {self._job_id} is recurring. A series has no result; `jobdeck job {self._job_id}` shows its runs."
            )
        if status in {Status.PENDING, Status.RUNNING}:
            return None
        succeeded = RunOutcome.PARTIAL if last_outcome == RunOutcome.PARTIAL else RunOutcome.SUCCEEDED
        outcome = _ENDS.get(Status(status), succeeded)
        return Result(self._job_id, outcome, None if output is None else json.loads(output), error)

    def pause(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ResultTimeout(f"Job {self._job_id} has not ended within {self._timeout:g} s. It goes on.")
        pause = min(self._pause, left)
        self._pause = min(self._pause * _GROWTH, LONGEST_PAUSE)
        return pause


@cache
def _read(schema: str) -> bytes:
    return sql.SQL(_READ).format(schema=sql.Identifier(schema)).as_bytes()


@contextmanager
def _connection(where: object) -> Iterator[psycopg.Connection[Any]]:
    if isinstance(where, str):
        address = Address.parse(where)
        with _reaching(address):
            opened = psycopg.connect(**_given(address), autocommit=True, prepare_threshold=None)
        with opened:
            yield opened
        return
    if not isinstance(where, psycopg.Connection):
        raise Refused(f"{_NO_ADDRESS}{kinds.PSYCOPG.words}, to wait for a job.")
    if where.info.transaction_status is not TransactionStatus.IDLE:
        raise Refused(_IN_TRANSACTION)
    yield where


@asynccontextmanager
async def _async_connection(where: Any) -> AsyncIterator[tuple[Any, kinds.Kind]]:
    if isinstance(where, str):
        address = Address.parse(where)
        with _reaching(address):
            opened = await psycopg.AsyncConnection.connect(**_given(address), autocommit=True, prepare_threshold=None)
        async with opened:
            yield opened, kinds.ASYNC_PSYCOPG
        return
    for kind in (kinds.ASYNC_PSYCOPG, kinds.ASYNCPG):
        if kind.fits(where):
            if _is_in_transaction(where, kind):
                raise Refused(_IN_TRANSACTION)
            yield where, kind
            return
    raise Refused(f"{_NO_ADDRESS}{kinds.ASYNC_PSYCOPG.words} or {kinds.ASYNCPG.words}, to wait for a job.")


def _is_in_transaction(conn: Any, kind: kinds.Kind) -> bool:
    if kind is kinds.ASYNCPG:
        return bool(conn.is_in_transaction())
    return conn.info.transaction_status is not TransactionStatus.IDLE


def _given(address: Address) -> dict[str, Any]:
    return {**TRANSPORT, **address.parameters, "application_name": "jobdeck result"}


@contextmanager
def _reaching(address: Address) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        address.refuse_bad_value(error)
        raise Unreachable(address.unreachable(error)) from None


def _fetch(conn: psycopg.Connection[Any], call: Call) -> Rows:
    with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
        rows = cursor.execute(*call).fetchall()
    if not conn.autocommit:
        conn.rollback()  # nothing was written, and the connection must not stay in a transaction during the pause
    return rows


async def _afetch(conn: Any, kind: kinds.Kind, call: Call) -> Rows:
    rows = await senders.fetch(conn, kind, call)
    if kind is kinds.ASYNC_PSYCOPG and not conn.autocommit:
        await conn.rollback()
    return rows
