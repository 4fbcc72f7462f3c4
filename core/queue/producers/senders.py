"""Sends the calls of `producer` through an application's connection, inside its transaction.

SQLAlchemy's connections are used through SQLAlchemy itself and Django's through Django's cursor. Otherwise these
libraries would not know of the statement, and would not begin a transaction before it or commit it afterwards.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from jobdeck.core.errors import Refused
from jobdeck.core.model import Ticket
from jobdeck.core.postgres.database import begin
from jobdeck.core.postgres.refusals import refusal, refusals
from jobdeck.core.queue import producer
from jobdeck.core.queue.producers import kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from uuid import UUID

    from jobdeck.core.model import NewJob
    from jobdeck.core.queue.producer import Call
    from jobdeck.core.queue.producers.kinds import AsyncpgConnection, Kind, SyncConnection

    Rows = Sequence[Sequence[Any]]


class Names(NamedTuple):
    """The actor, the schema and the span of all jobs of a call."""

    actor: str
    schema: str
    trace: str | None = None


class Sender(Protocol):
    """A connection to which SQLAlchemy or Django send statements."""

    @property
    def at_once(self) -> bool:
        """Whether each statement commits at once, so that only one statement is all or none."""

    def fetch(self, call: Call) -> Rows: ...


class Alchemy:
    """An SQLAlchemy `Connection`; also that of an async one, inside its `run_sync`."""

    def __init__(self, conn: Any) -> None:
        if conn.dialect.driver not in {"psycopg", "psycopg_async", "asyncpg"}:
            raise Refused(
                f"This SQLAlchemy connection uses {conn.dialect.name} with the driver {conn.dialect.driver}. Jobs are "
                "enqueued with the drivers psycopg (version 3) and asyncpg: let the engine's address begin with "
                "postgresql+psycopg:// or postgresql+asyncpg://."
            )
        self._conn = conn
        self._numbered = conn.dialect.driver == "asyncpg"

    @property
    def at_once(self) -> bool:
        return bool(self._conn.connection.dbapi_connection.autocommit)

    def fetch(self, call: Call) -> Rows:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 -- only those have it who use it

        statement = numbered(call.statement) if self._numbered else call.statement.decode()
        with _refusals_of(DBAPIError):
            rows: Rows = self._conn.exec_driver_sql(statement, call.params).fetchall()
        return rows


class Django:
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

    def fetch(self, call: Call) -> Rows:
        from django.db import Error  # noqa: PLC0415 -- only those have it who use it

        statement = call.statement.decode()
        with _refusals_of(Error), self._conn.cursor() as cursor:
            cursor.execute(statement, call.params)
            rows: Rows = cursor.fetchall()
        return rows


def enqueue(conn: SyncConnection, kind: Kind, new: NewJob, names: Names) -> Ticket:
    if kind is kinds.PSYCOPG and isinstance(conn, psycopg.Connection):
        return producer.enqueue(conn, new, **names._asdict())
    return _ticket(sender(conn, kind).fetch(producer.create(new, **names._asdict())))


def enqueue_many(conn: SyncConnection, kind: Kind, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
    if kind is kinds.PSYCOPG and isinstance(conn, psycopg.Connection):
        # Otherwise the `conn.transaction()` of the producer would begin the transaction, and commit it.
        begin(conn)
        return producer.enqueue_many(conn, jobs, **names._asdict())
    made = sender(conn, kind)
    ids: list[UUID] = []
    for part in producer.parts(jobs, None if made.at_once else producer.BULK):
        ids += _ids(made.fetch(producer.create_many(part, **names._asdict())))
    return ids


async def aenqueue(conn: Any, kind: Kind, new: NewJob, names: Names) -> Ticket:
    if kind in kinds.ASYNC_OF_ALCHEMY:
        made: Ticket = await alchemy(conn, kind).run_sync(lambda sync: enqueue(sync, kinds.sync_kind(sync), new, names))
        return made
    return _ticket(await fetch(conn, kind, producer.create(new, **names._asdict())))


async def aenqueue_many(conn: Any, kind: Kind, jobs: Iterable[NewJob], names: Names) -> list[UUID]:
    if kind in kinds.ASYNC_OF_ALCHEMY:
        made: list[UUID] = await alchemy(conn, kind).run_sync(
            lambda sync: enqueue_many(sync, kinds.sync_kind(sync), jobs, names)
        )
        return made
    if kind is kinds.ASYNC_PSYCOPG and not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        await conn.execute("SELECT")
    ids: list[UUID] = []
    async with _transaction(conn):
        for part in producer.parts(jobs, producer.BULK):
            call = producer.create_many(part, **names._asdict())
            ids += _ids(await fetch(conn, kind, call))
    return ids


def send(conn: SyncConnection, kind: Kind, call: Call) -> Rows:
    """The rows of one call, which is all or none."""
    if kind is kinds.PSYCOPG and isinstance(conn, psycopg.Connection):
        with refusals(producer.LOCKED), psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
            return cursor.execute(*call).fetchall()
    return sender(conn, kind).fetch(call)


async def asend(conn: Any, kind: Kind, call: Call) -> Rows:
    """Does what `send` does, on an async connection."""
    if kind in kinds.ASYNC_OF_ALCHEMY:
        made: Rows = await alchemy(conn, kind).run_sync(lambda sync: send(sync, kinds.sync_kind(sync), call))
        return made
    return await fetch(conn, kind, call)


def sender(conn: Any, kind: Kind) -> Sender:
    """What sends statements through a connection of SQLAlchemy or Django.

    Raises:
        Refused: the connection uses another driver than psycopg or asyncpg.
    """
    if kind in {kinds.DJANGO, kinds.DJANGO_ALIAS}:
        return Django(conn)
    return Alchemy(conn if kind is kinds.ALCHEMY else conn.connection())


def alchemy(conn: Any, kind: Kind) -> Any:
    """The object with `run_sync`; that of an `async_scoped_session` is the session of this task."""
    return conn() if kind is kinds.ASYNC_SCOPED else conn


async def fetch(conn: Any, kind: Kind, call: Call) -> Rows:
    """The rows of a statement, sent through a connection of psycopg or asyncpg."""
    if kind is kinds.ASYNC_PSYCOPG:
        with refusals(producer.LOCKED):
            # Not `conn.execute`, because the connection of an application may have rows or cursors of another kind.
            async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
                await cursor.execute(*call)
                return await cursor.fetchall()
    return await _by_asyncpg(conn, call)


async def _by_asyncpg(conn: AsyncpgConnection, call: Call) -> Rows:
    from asyncpg import PostgresError  # noqa: PLC0415 -- only those have it who use it

    with _refusals_of(PostgresError):
        rows: Rows = await conn.fetch(numbered(call.statement), *call.params)
    return rows


def _transaction(conn: Any) -> AbstractAsyncContextManager[object]:
    """A transaction, or a savepoint inside an open one; psycopg and asyncpg name it alike."""
    found: AbstractAsyncContextManager[object] = conn.transaction()
    return found


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


def _ticket(rows: Rows) -> Ticket:
    job_id, created = rows[0]
    return Ticket(producer.plain_id(job_id), created)


def _ids(rows: Rows) -> list[UUID]:
    return [producer.plain_id(job_id) for (job_id,) in rows]
