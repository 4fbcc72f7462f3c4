"""How each library's connections send a call of `producer`, and are read.

A call is sent inside the connection's transaction: through SQLAlchemy itself, and through Django's cursor. Otherwise
these libraries would not know of the statement, and would not begin a transaction before it or commit it afterwards.
`read` leaves nothing behind: it ends the transaction that it began, so call it only while none is open (see `busy`).
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from jobdeck.core.errors import Refused
from jobdeck.core.postgres.refusals import refusal, refusals
from jobdeck.core.queue import producer
from jobdeck.core.queue.calls import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from jobdeck.core.model import NewJob, Ticket
    from jobdeck.core.queue.producer import Call, Rows

    Names = dict[str, Any]
    """The actor, the schema and the span (`trace`) of all jobs of a call."""


class Psycopg:
    """A connection of psycopg."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    @property
    def busy(self) -> bool:
        return self._conn.info.transaction_status is not TransactionStatus.IDLE

    def fetch(self, call: Call) -> Rows:
        return producer.carried_out(self._conn, call, plain=True)

    def read(self, call: Call) -> Rows:
        rows = self.fetch(call)
        if not self._conn.autocommit:
            self._conn.rollback()
        return rows

    def enqueue_many(self, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
        begin(self._conn)  # otherwise the `conn.transaction()` of the producer would begin, and commit
        return producer.enqueue_many(self._conn, jobs, **names)

    def enqueue_each(self, jobs: Sequence[NewJob], names: Names) -> list[Ticket]:
        begin(self._conn)
        return producer.enqueue_each(self._conn, jobs, **names)


class _Library:
    """What connections of SQLAlchemy and Django share."""

    @property
    def at_once(self) -> bool:
        """Whether each statement commits at once, so that only one statement is all or none."""
        raise NotImplementedError

    def fetch(self, call: Call) -> Rows:
        raise NotImplementedError

    def enqueue_many(self, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
        parts = producer.parts(jobs, None if self.at_once else producer.BULK)
        return _ids(row for part in parts for row in self.fetch(producer.create_many(part, **names)))

    def enqueue_each(self, jobs: Sequence[NewJob], names: Names) -> list[Ticket]:
        together = len(jobs) <= producer.BULK and all(map(producer.is_for_bulk, jobs))
        if self.at_once and len(jobs) > 1 and not (together and all(new.dedupe_key is None for new in jobs)):
            raise Refused(
                "This connection commits each statement by itself, so that jobs with keys or options of their own "
                "would not be all or none. Begin a transaction first. Nothing was enqueued."
            )
        return producer.drive(producer.each(jobs, **names), self.fetch)


class Alchemy(_Library):
    """An SQLAlchemy `Connection`, or a session. A session is not read itself, because that would expire its objects."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    @property
    def _own(self) -> Any:
        """The connection of the session's transaction, or the connection itself."""
        conn = self._conn.connection() if hasattr(self._conn, "get_bind") else self._conn
        if conn.dialect.driver not in {"psycopg", "psycopg_async", "asyncpg"}:
            raise Refused(
                f"This SQLAlchemy connection uses {conn.dialect.name} with the driver {conn.dialect.driver}. Jobs are "
                "enqueued with the drivers psycopg (version 3) and asyncpg: let the engine's address begin with "
                "postgresql+psycopg:// or postgresql+asyncpg://."
            )
        return conn

    @property
    def busy(self) -> bool:
        bind = self._bind
        return bool(self._conn.in_transaction() or (hasattr(bind, "in_transaction") and bind.in_transaction()))

    @property
    def at_once(self) -> bool:
        return bool(self._own.connection.dbapi_connection.autocommit)

    @property
    def _bind(self) -> Any:
        return self._conn.get_bind() if hasattr(self._conn, "get_bind") else self._conn

    def fetch(self, call: Call) -> Rows:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 -- only those have it who use it

        conn = self._own
        statement = numbered(call.statement) if conn.dialect.driver == "asyncpg" else call.statement.decode()
        with _refusals_of(DBAPIError):
            rows: Rows = conn.exec_driver_sql(statement, call.params).fetchall()
        return rows

    def read(self, call: Call) -> Rows:
        bind = self._bind
        if hasattr(bind, "in_transaction"):  # a connection; otherwise an engine
            rows = Alchemy(bind).fetch(call)
            bind.rollback()
            return rows
        with bind.connect() as conn:
            return Alchemy(conn).fetch(call)


class Django(_Library):
    """A connection of Django."""

    def __init__(self, conn: Any) -> None:
        if conn.Database.__name__ != "psycopg":
            raise Refused(
                f"This Django connection uses {conn.vendor} with the driver {conn.Database.__name__}. Jobs are "
                "enqueued with Postgres and psycopg 3: install psycopg, which Django then prefers to psycopg2."
            )
        self._conn = conn

    @property
    def at_once(self) -> bool:
        return bool(self._conn.get_autocommit())

    @property
    def busy(self) -> bool:
        return bool(self._conn.in_atomic_block or not self.at_once)

    def fetch(self, call: Call) -> Rows:
        from django.db import Error  # noqa: PLC0415 -- only those have it who use it

        statement = call.statement.decode()
        with _refusals_of(Error), self._conn.cursor() as cursor:
            cursor.execute(statement, call.params)
            rows: Rows = cursor.fetchall()
        return rows

    def read(self, call: Call) -> Rows:
        return self.fetch(call)


class _Async:
    """What async connections share. psycopg and asyncpg name a transaction, or a savepoint in an open one, alike."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def fetch(self, call: Call) -> Rows:
        raise NotImplementedError

    async def enqueue_many(self, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
        rows: list[Any] = []
        async with self._conn.transaction():
            for part in producer.parts(jobs, producer.BULK):
                rows += await self.fetch(producer.create_many(part, **names))
        return _ids(rows)

    async def enqueue_each(self, jobs: Sequence[NewJob], names: Names) -> list[Ticket]:
        calls = producer.each(jobs, **names)
        rows: Any = None
        async with self._conn.transaction():
            while True:
                try:
                    call = calls.send(rows)
                except StopIteration as ended:
                    tickets: list[Ticket] = ended.value
                    return tickets
                rows = await self.fetch(call)


class AsyncPsycopg(_Async):
    """An async connection of psycopg."""

    @property
    def busy(self) -> bool:
        return self._conn.info.transaction_status is not TransactionStatus.IDLE

    async def fetch(self, call: Call) -> Rows:
        # Not `conn.execute`, because the connection of an application may have rows or cursors of another kind.
        with refusals(producer.LOCKED):
            async with psycopg.AsyncCursor(self._conn, row_factory=tuple_row) as cursor:
                await cursor.execute(*call)
                return await cursor.fetchall()

    async def read(self, call: Call) -> Rows:
        rows = await self.fetch(call)
        if not self._conn.autocommit:
            await self._conn.rollback()
        return rows

    async def enqueue_many(self, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
        if not self._conn.autocommit and not self.busy:
            await self._conn.execute("SELECT")  # begins; otherwise `transaction()` would, and commit
        return await super().enqueue_many(jobs, names)

    async def enqueue_each(self, jobs: Sequence[NewJob], names: Names) -> list[Ticket]:
        if not self._conn.autocommit and not self.busy:
            await self._conn.execute("SELECT")
        return await super().enqueue_each(jobs, names)


class Asyncpg(_Async):
    """A connection of asyncpg, also one that a pool lent."""

    @property
    def busy(self) -> bool:
        return bool(self._conn.is_in_transaction())

    async def fetch(self, call: Call) -> Rows:
        from asyncpg import PostgresError  # noqa: PLC0415 -- only those have it who use it

        with _refusals_of(PostgresError):
            rows: Rows = await self._conn.fetch(numbered(call.statement), *call.params)
        return rows

    async def read(self, call: Call) -> Rows:
        return await self.fetch(call)


class AsyncAlchemy(_Async):
    """An SQLAlchemy async session or connection, used through the sync one below it."""

    @property
    def busy(self) -> bool:
        return Alchemy(getattr(self._conn, "sync_session", None) or self._conn.sync_connection).busy

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        return await self._conn.run_sync(lambda sync: work(Alchemy(sync), *given))

    async def fetch(self, call: Call) -> Rows:
        rows: Rows = await self._run(Alchemy.fetch, call)
        return rows

    async def read(self, call: Call) -> Rows:
        rows: Rows = await self._run(Alchemy.read, call)
        return rows

    async def enqueue_many(self, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
        ids: list[UUID] = await self._run(Alchemy.enqueue_many, jobs, names)
        return ids

    async def enqueue_each(self, jobs: Sequence[NewJob], names: Names) -> list[Ticket]:
        tickets: list[Ticket] = await self._run(Alchemy.enqueue_each, jobs, names)
        return tickets


@cache
def numbered(statement: bytes) -> str:
    """The statement with `$1`, `$2`, … for its parameters, as asyncpg wants it."""
    first, *others = statement.decode().split("%s")
    return first + "".join(f"${place}{text}" for place, text in enumerate(others, 1))


@contextmanager
def _refusals_of(errors: type[Exception]) -> Iterator[None]:
    """Raises `Refused` as `refusals` does, for errors of another library than psycopg.

    The error of Postgres is at the end of the chain: the libraries wrap that of their driver.
    """
    try:
        yield
    except errors as error:
        last: BaseException = error
        while (inner := getattr(last, "orig", None) or last.__cause__) is not None:
            last = inner
        message = last.diag.message_primary if isinstance(last, psycopg.Error) else getattr(last, "message", None)
        refused = refusal(getattr(last, "sqlstate", None), message, producer.LOCKED)
        if refused is None:
            raise
        raise refused from None


def _ids(rows: Iterable[Sequence[Any]]) -> list[UUID]:
    return [producer.plain_id(job_id) for (job_id,) in rows]
