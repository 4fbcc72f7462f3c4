"""How each kind of connection reads a job again and again, and what it does between two readings.

A connection of the caller is only read: nothing is left on it, neither a transaction nor a LISTEN. A connection to an
address is our own, so that it listens: the report of a worker notifies those that wait for its job.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from jobdeck.core.errors import Refused
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.database import TRANSPORT, Unreachable
from jobdeck.core.queue.producers import kinds, senders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from jobdeck.core.queue.producer import Call
    from jobdeck.core.queue.producers.senders import Rows

IN_TRANSACTION: Final = (
    "This connection is inside a transaction. Commit it before you wait for a job: workers do not see a job before the "
    "commit, and a transaction that is open for long holds up the upkeep of the database."
)
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


class Reader(Protocol):
    """A sync connection. `wait` returns after `seconds`, or earlier if the job may have ended."""

    def fetch(self, call: Call) -> Rows: ...
    def wait(self, seconds: float) -> None: ...


class AsyncReader(Protocol):
    """The same for an async connection."""

    async def fetch(self, call: Call) -> Rows: ...
    async def wait(self, seconds: float) -> None: ...


@contextmanager
def opened(where: object, wanted: Wanted) -> Iterator[Reader]:
    """The reader of an address, whose connection is closed at the end, or of a sync connection.

    Raises:
        Refused: the connection is in a transaction, or of another kind.
        DatabaseUnreachable: no Postgres answers at the address.
    """
    if not isinstance(where, str):
        yield _made(_READERS, where)
        return
    address = Address.parse(where)
    with _reaching(address):
        conn = psycopg.connect(**_given(address), autocommit=True, prepare_threshold=None)
    with conn:
        yield _Listening(conn, wanted)


@asynccontextmanager
async def aopened(where: object, wanted: Wanted) -> AsyncIterator[AsyncReader]:
    """The same for an address or an async connection."""
    if not isinstance(where, str):
        yield _made(_ASYNC_READERS, where)
        return
    address = Address.parse(where)
    with _reaching(address):
        conn = await psycopg.AsyncConnection.connect(**_given(address), autocommit=True, prepare_threshold=None)
    async with conn:
        yield _AsyncListening(conn, wanted)


class _Polling:
    """A psycopg connection."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        if conn.info.transaction_status is not TransactionStatus.IDLE:
            raise Refused(IN_TRANSACTION)
        self._conn = conn

    def fetch(self, call: Call) -> Rows:
        with psycopg.Cursor(self._conn, row_factory=tuple_row) as cursor:
            rows = cursor.execute(*call).fetchall()
        if not self._conn.autocommit:
            self._conn.rollback()  # nothing was written, and the connection must not stay in a transaction
        return rows

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class _Listening(_Polling):
    """A connection of our own. It begins to listen with the first wait, since most jobs that have ended need none."""

    def __init__(self, conn: psycopg.Connection[Any], wanted: Wanted) -> None:
        super().__init__(conn)
        self._wanted = wanted
        self._listens: bool | None = None

    def wait(self, seconds: float) -> None:
        if self._listens is None:
            self._listens = self._listen()
            if self._listens:
                return  # the job may have ended before
        if not self._listens:
            super().wait(seconds)
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


class _Alchemy:
    """An SQLAlchemy session or connection. A session is not used itself, because a reading would expire its objects."""

    def __init__(self, conn: Any) -> None:
        bind = conn.get_bind() if hasattr(conn, "get_bind") else conn
        self._engine = bind if not kinds.ALCHEMY.fits(bind) else None
        self._conn = bind
        if conn.in_transaction() or (self._engine is None and bind.in_transaction()):
            raise Refused(IN_TRANSACTION)

    def fetch(self, call: Call) -> Rows:
        if self._engine is not None:
            with self._engine.connect() as conn:
                return senders.Alchemy(conn).fetch(call)
        rows = senders.Alchemy(self._conn).fetch(call)
        self._conn.rollback()
        return rows

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class _Django:
    """A connection of Django."""

    def __init__(self, conn: Any) -> None:
        if conn.in_atomic_block or not conn.get_autocommit():
            raise Refused(IN_TRANSACTION)
        self._django = senders.Django(conn)

    def fetch(self, call: Call) -> Rows:
        return self._django.fetch(call)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class _AsyncPolling:
    """A connection of psycopg or asyncpg."""

    def __init__(self, conn: Any, kind: kinds.Kind) -> None:
        self._conn = conn
        self._kind = kind
        if kind is kinds.ASYNCPG:
            busy = bool(conn.is_in_transaction())
        else:
            busy = conn.info.transaction_status is not TransactionStatus.IDLE
        if busy:
            raise Refused(IN_TRANSACTION)

    async def fetch(self, call: Call) -> Rows:
        rows = await senders.fetch(self._conn, self._kind, call)
        if self._kind is kinds.ASYNC_PSYCOPG and not self._conn.autocommit:
            await self._conn.rollback()
        return rows

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _AsyncListening(_AsyncPolling):
    """An async connection of our own."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], wanted: Wanted) -> None:
        super().__init__(conn, kinds.ASYNC_PSYCOPG)
        self._wanted = wanted
        self._listens: bool | None = None

    async def wait(self, seconds: float) -> None:
        if self._listens is None:
            self._listens = await self._listen()
            if self._listens:
                return
        if not self._listens:
            await super().wait(seconds)
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


class _AsyncAlchemy:
    """An SQLAlchemy async session or connection, through the sync one below it."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._sync = _Alchemy(conn.sync_session if hasattr(conn, "sync_session") else conn.sync_connection)

    async def fetch(self, call: Call) -> Rows:
        rows: Rows = await self._conn.run_sync(lambda _sync: self._sync.fetch(call))
        return rows

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_READERS: Final[dict[kinds.Kind, Any]] = {
    kinds.PSYCOPG: _Polling,
    kinds.SESSION: _Alchemy,
    kinds.SCOPED_SESSION: lambda conn: _Alchemy(conn()),
    kinds.ALCHEMY: _Alchemy,
    kinds.DJANGO: _Django,
    kinds.DJANGO_ALIAS: _Django,
}
_ASYNC_READERS: Final[dict[kinds.Kind, Any]] = {
    kinds.ASYNC_PSYCOPG: partial(_AsyncPolling, kind=kinds.ASYNC_PSYCOPG),
    kinds.ASYNCPG: partial(_AsyncPolling, kind=kinds.ASYNCPG),
    kinds.ASYNC_SESSION: _AsyncAlchemy,
    kinds.ASYNC_SCOPED: lambda conn: _AsyncAlchemy(conn()),
    kinds.ASYNC_ALCHEMY: _AsyncAlchemy,
}


def _made(known: dict[kinds.Kind, Any], conn: object) -> Any:
    """The reader of a connection, by its kind."""
    for kind, make in known.items():
        if kind.fits(conn):
            return make(conn)
    *words, last = (kind.words for kind in known)
    raise Refused(
        f"To wait for a job, pass the address of the database, like postgresql://host/name, or {', '.join(words)} or "
        f"{last}."
    )


def _given(address: Address) -> dict[str, Any]:
    return {**TRANSPORT, **address.parameters, "application_name": "jobdeck result"}


@contextmanager
def _reaching(address: Address) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        address.refuse_bad_value(error)
        raise Unreachable(address.unreachable(error)) from None
