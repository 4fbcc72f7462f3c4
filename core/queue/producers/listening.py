"""Waits on a connection of our own, which listens: the report of a worker notifies those that wait for its job."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.database import TRANSPORT, Unreachable
from jobdeck.core.queue.producers.connections import ASYNC, SYNC, readable
from jobdeck.core.queue.producers.drivers import AsyncPsycopg, Psycopg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from uuid import UUID

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
