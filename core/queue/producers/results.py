"""Waits for the result of a job: polls with growing pauses, which a worker's report ends early."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg
from psycopg import sql

from jobdeck.core import settings
from jobdeck.core.errors import DatabaseUnreachable, JobNotFound, Refused, ResultTimeout, UsageError
from jobdeck.core.model import RunOutcome, Status
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.database import TRANSPORT, Unreachable
from jobdeck.core.queue.producer import Call
from jobdeck.core.queue.producers import connections
from jobdeck.core.queue.producers.connections import ASYNC, SYNC, readable
from jobdeck.core.queue.producers.drivers import AsyncPsycopg, Psycopg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import LiteralString

    from jobdeck.core.model import Json
    from jobdeck.core.queue.producer import Rows
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection

LONGEST_NOTE: Final = 3600.0
"""For how many seconds a report notifies the waiter; `job_queue_await` takes no longer ones. Later, it polls alone."""
_PROCESS: Final = "SELECT pg_backend_pid()"
_CANNOT_LISTEN: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.ReadOnlySqlTransaction,
)
"""A role without the rights of `job_viewer`, a schema of before, a standby: such a connection polls alone."""


class Wanted:
    """The job that is waited for, and how to hear of its end."""

    def __init__(self, job_id: UUID, timeout: float, schema: str) -> None:
        self.payload = str(job_id)
        self.listen = sql.SQL("LISTEN {}").format(sql.Identifier(f"{schema}.job_done"))
        self.note = sql.SQL("SELECT {}.job_queue_await(%s::uuid, %s)").format(sql.Identifier(schema))
        self.given = (str(job_id), min(timeout, LONGEST_NOTE))

    def is_meant(self, notifications: list[psycopg.Notify]) -> bool:
        return any(one.payload == self.payload for one in notifications)


@contextmanager
def opened(where: object, wanted: Wanted) -> Iterator[tuple[Any, Callable[[float], None]]]:
    """What reads an address, whose connection is closed at the end, or a sync connection; and what waits meanwhile.

    Raises:
        Refused: the connection is in a transaction, or of another kind.
        DatabaseUnreachable: no Postgres answers at the address, or its connection was lost.
    """
    if not isinstance(where, str):
        yield readable(where, SYNC), time.sleep
        return
    address = Address.parse(where)
    with _reaching(address):
        conn = psycopg.connect(**_given(address), autocommit=True, prepare_threshold=None)
    with _keeping(address, conn), conn:
        yield Psycopg(conn), _Listening(conn, wanted).wait


@asynccontextmanager
async def aopened(where: object, wanted: Wanted) -> AsyncIterator[tuple[Any, Callable[[float], Awaitable[None]]]]:
    """The same for an address or an async connection."""
    if not isinstance(where, str):
        yield readable(where, ASYNC), asyncio.sleep
        return
    address = Address.parse(where)
    with _reaching(address):
        conn = await psycopg.AsyncConnection.connect(**_given(address), autocommit=True, prepare_threshold=None)
    with _keeping(address, conn):
        async with conn:
            yield AsyncPsycopg(conn), _AsyncListening(conn, wanted).wait


class _Listening:
    """A connection of our own. It begins to listen with the first wait, since most jobs that have ended need none."""

    def __init__(self, conn: psycopg.Connection[Any], wanted: Wanted) -> None:
        self._conn = conn
        self._wanted = wanted
        self._listens: bool | None = None

    def wait(self, seconds: float) -> None:
        if self._listens is None:
            self._listens = self._listen()
            if self._listens:
                return  # the job may have ended before
        if not self._listens:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._wanted.is_meant(list(self._conn.notifies(timeout=left, stop_after=1))):
                return

    def _listen(self) -> bool:
        try:
            # A pooler invents the process id for its clients. What listens there is a connection of all.
            row = self._conn.execute(_PROCESS).fetchone()
            if row is None or row[0] != self._conn.info.backend_pid:
                return False
            self._conn.execute(self._wanted.listen)
            self._conn.execute(self._wanted.note, self._wanted.given)
        except _CANNOT_LISTEN:
            return False
        return True


class _AsyncListening:
    """An async connection of our own."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], wanted: Wanted) -> None:
        self._conn = conn
        self._wanted = wanted
        self._listens: bool | None = None

    async def wait(self, seconds: float) -> None:
        if self._listens is None:
            self._listens = await self._listen()
            if self._listens:
                return
        if not self._listens:
            await asyncio.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._wanted.is_meant([one async for one in self._conn.notifies(timeout=left, stop_after=1)]):
                return

    async def _listen(self) -> bool:
        try:
            row = await (await self._conn.execute(_PROCESS)).fetchone()
            if row is None or row[0] != self._conn.info.backend_pid:
                return False
            await self._conn.execute(self._wanted.listen)
            await self._conn.execute(self._wanted.note, self._wanted.given)
        except _CANNOT_LISTEN:
            return False
        return True


def _given(address: Address) -> dict[str, Any]:
    return {**TRANSPORT, **address.parameters, "application_name": "jobdeck result"}


@contextmanager
def _reaching(address: Address) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        address.refuse_bad_value(error)
        raise Unreachable(address.unreachable(error)) from None


@contextmanager
def _keeping(address: Address, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if not conn.closed:
            raise
        raise Unreachable(address.unreachable(error)) from None


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
_STATE: Final = """
SELECT (to_jsonb(j) || jsonb_build_object('runs', (
    SELECT coalesce(jsonb_agg(to_jsonb(r) - 'payload' - 'output' - 'log' - 'progress' ORDER BY r.run_token), '[]')
    FROM {schema}.job_run_list r WHERE r.job_id = j.id AND NOT r.late
)))::text FROM (
    SELECT id, task_type, payload, status, created_at, started_at, completed_at, locked_by, output
    FROM {schema}.job_list WHERE id = %s::text::uuid
    UNION ALL
    (SELECT id, task_type, payload, status, created_at, NULL, completed_at, NULL, output
        FROM {schema}.job_removed_list WHERE id = %s::text::uuid ORDER BY left_with DESC LIMIT 1)
    LIMIT 1
) j
"""
_ENDS: Final = {Status.FAILED: RunOutcome.FAILED, Status.CANCELLED: RunOutcome.CANCELLED}


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
    where: str | SyncConnection, job_id: UUID | str, *, timeout: float = 30.0, schema: str | None = None
) -> Result:
    """Waits until a one-time job has ended, and returns how. A failed job is a result, not an exception.

    It reads after 50 ms, then after pauses that grow up to a second. With an address, the report of the worker ends a
    pause at once, unless there is a pooler. The database role needs the rights of `job_viewer`; the output needs those
    of `job_operator`.

    Args:
        where: the address of the database, for a connection that is closed afterwards; or a connection that `enqueue`
            takes and that is in no transaction. A session of SQLAlchemy is not used itself: each reading takes a
            connection of its engine.
        job_id: the id of the job, also as text, whose enqueueing transaction has been committed.
        timeout: how many seconds to wait; 0 reads once.
        schema: the schema of the queue; None for the value of `JOBDECK_SCHEMA`.

    Raises:
        UsageError: `job_id` is the id of no job.
        ResultTimeout: the job has not ended within the timeout. It continues.
        JobNotFound: no job has this id, or the job was deleted while it was waited for.
        Refused: the job is recurring, so there is no end to wait for; or the connection is in a transaction.
        DatabaseUnreachable: no Postgres answers at the address. A connection that is lost after the first reading is
            made again until the timeout.
    """
    watch = _Watch(job_id, timeout, schema)
    while True:
        try:
            with opened(where, watch.wanted) as (reader, wait):
                while (found := watch.look(reader.read(watch.call))) is None:
                    wait(watch.pause())
                return found
        except DatabaseUnreachable:
            if (pause := watch.pause_without()) is None:
                raise
            time.sleep(pause)


async def aresult(
    where: str | AsyncConnection,
    job_id: UUID | str,
    *,
    timeout: float = 30.0,  # noqa: ASYNC109 -- `asyncio.timeout` around the call would lose the sentence
    schema: str | None = None,
) -> Result:
    """Does what `result` does, with the same errors; `where` is the address, or a connection that `aenqueue` takes."""
    watch = _Watch(job_id, timeout, schema)
    while True:
        try:
            async with aopened(where, watch.wanted) as (reader, wait):
                while (found := watch.look(await reader.read(watch.call))) is None:
                    await wait(watch.pause())
                return found
        except DatabaseUnreachable:
            if (pause := watch.pause_without()) is None:
                raise
            await asyncio.sleep(pause)


def state(conn: SyncConnection, job_id: UUID, *, schema: str | None = None) -> Json | None:
    """A job as it is now, with its columns and its `runs` from the first on, as JSON; None if there is none.

    Reads once, in the caller's transaction. Needs the rights of `result`.
    """
    name = schema or settings.load().database_schema
    rows = connections.sync(conn).fetch(Call(_of_schema(_STATE, name), (str(job_id), str(job_id))))
    found: Json | None = json.loads(rows[0][0]) if rows else None
    return found


class _Watch:
    """One job that is waited for: the statement that reads it, and how long to pause before the next reading."""

    def __init__(self, job_id: UUID | str, timeout: float, schema: str | None) -> None:
        if not timeout >= 0:
            raise Refused("A timeout is a number of seconds, 0 or more.")
        self._job_id = _read_id(job_id)
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = FIRST_PAUSE
        self._seen = False
        name = schema or settings.load().database_schema
        self.call = Call(_of_schema(_READ, name), (str(self._job_id), str(self._job_id)))
        self.wanted = Wanted(self._job_id, timeout, name)

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
        return self._next(left)

    def pause_without(self) -> float | None:
        """How long to pause before the next connection; None if there was none before, or the time is over."""
        left = self._deadline - time.monotonic()
        return self._next(left) if self._seen and left > 0 else None

    def _next(self, left: float) -> float:
        pause = min(self._pause, left)
        self._pause = min(self._pause * _GROWTH, LONGEST_PAUSE)
        return pause


def _read_id(job_id: UUID | str) -> UUID:
    try:
        return job_id if isinstance(job_id, UUID) else UUID(job_id)
    except (ValueError, AttributeError, TypeError):
        raise UsageError(
            "The id of a job is a UUID, as `enqueue` returns it and `jobdeck jobs` lists it. The given one is none."
        ) from None


@cache
def _of_schema(statement: LiteralString, schema: str) -> bytes:
    return sql.SQL(statement).format(schema=sql.Identifier(schema)).as_bytes()
