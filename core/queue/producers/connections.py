"""The connections of an application: their types, and how each kind is recognised without importing its library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import psycopg

from jobdeck.core.errors import Refused
from jobdeck.core.queue.producers.drivers import Alchemy, AsyncAlchemy, Asyncpg, AsyncPsycopg, Django, Psycopg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

IN_TRANSACTION: Final = (
    "This connection is inside a transaction. Commit it before you wait for a job: workers do not see a job before the "
    "commit, and a transaction that is open for long holds up the upkeep of the database."
)


class AlchemyConnection(Protocol):
    """An SQLAlchemy `Connection`."""

    dialect: Any

    def exec_driver_sql(self, statement: str, parameters: Any = None) -> Any: ...


class AlchemySession(Protocol):
    """An SQLAlchemy `Session` or `scoped_session`."""

    def connection(self) -> AlchemyConnection: ...


class DjangoConnection(Protocol):
    """`django.db.connection`, or one of `django.db.connections`."""

    alias: str
    vendor: str

    def cursor(self) -> Any: ...
    def get_autocommit(self) -> bool: ...


class AsyncpgConnection(Protocol):
    """An asyncpg `Connection`, also one that a pool lent."""

    def fetch(self, query: str, *args: Any) -> Awaitable[Any]: ...
    def transaction(self) -> Any: ...


class AsyncAlchemyConnection(Protocol):
    """An SQLAlchemy `AsyncSession`, `async_scoped_session` or `AsyncConnection`."""

    def run_sync(self, fn: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


SyncConnection = psycopg.Connection[Any] | AlchemyConnection | AlchemySession | DjangoConnection
AsyncConnection = psycopg.AsyncConnection[Any] | AsyncpgConnection | AsyncAlchemyConnection


class Kind(NamedTuple):
    """A kind of connection: its name in sentences, the class that its connections have, and what uses them."""

    words: str
    module: str
    name: str
    use: Callable[[Any], Any]

    def fits(self, conn: object) -> bool:
        """Whether this is such a connection. If its module is not loaded, no object of the class exists."""
        loaded = sys.modules.get(self.module)
        return loaded is not None and isinstance(conn, getattr(loaded, self.name, ()))


SYNC: Final = (
    Kind("a psycopg Connection", "psycopg", "Connection", Psycopg),
    Kind("an SQLAlchemy Session", "sqlalchemy.orm", "Session", Alchemy),
    Kind("an SQLAlchemy scoped_session", "sqlalchemy.orm", "scoped_session", lambda scoped: Alchemy(scoped())),
    Kind("an SQLAlchemy Connection", "sqlalchemy.engine", "Connection", Alchemy),
    Kind("django.db.connection", "django.utils.connection", "ConnectionProxy", Django),
    Kind("one of django.db.connections", "django.db.backends.base.base", "BaseDatabaseWrapper", Django),
)
ASYNC: Final = (
    Kind("a psycopg AsyncConnection", "psycopg", "AsyncConnection", AsyncPsycopg),
    Kind("an asyncpg Connection", "asyncpg", "Connection", Asyncpg),
    Kind("an SQLAlchemy AsyncSession", "sqlalchemy.ext.asyncio", "AsyncSession", AsyncAlchemy),
    Kind("an SQLAlchemy async_scoped_session", "sqlalchemy.ext.asyncio", "async_scoped_session",
         lambda scoped: AsyncAlchemy(scoped())),
    Kind("an SQLAlchemy AsyncConnection", "sqlalchemy.ext.asyncio", "AsyncConnection", AsyncAlchemy),
)  # fmt: skip


def sync(conn: object) -> Psycopg | Alchemy | Django:
    """What uses a connection, for the sync functions.

    Raises:
        Refused: it is of another kind; the message lists those that can be used.
    """
    used: Psycopg | Alchemy | Django = _used(
        conn, SYNC, ASYNC, "This connection is async. Await jobdeck.aenqueue or jobdeck.aenqueue_many."
    )
    return used


def asynchronous(conn: object) -> AsyncPsycopg | Asyncpg | AsyncAlchemy:
    """The same for the async functions."""
    used: AsyncPsycopg | Asyncpg | AsyncAlchemy = _used(
        conn, ASYNC, SYNC, "This connection is not async. Call jobdeck.enqueue or jobdeck.enqueue_many."
    )
    return used


def readable(conn: object, known: tuple[Kind, ...]) -> Any:
    """What reads a connection again and again.

    Raises:
        Refused: it is in a transaction, or of another kind.
    """
    kind = _kind(conn, known)
    if kind is None:
        raise Refused(
            "To wait for a job, pass the address of the database, like postgresql://host/name, or "
            f"{', '.join(one.words for one in known[:-1])} or {known[-1].words}."
        )
    reader = kind.use(conn)
    if reader.busy:
        raise Refused(IN_TRANSACTION)
    return reader


def _kind(conn: object, known: tuple[Kind, ...]) -> Kind | None:
    return next((kind for kind in known if kind.fits(conn)), None)


def _used(conn: object, known: tuple[Kind, ...], others: tuple[Kind, ...], otherwise: str) -> Any:
    if (kind := _kind(conn, known)) is not None:
        return kind.use(conn)
    if _kind(conn, others):
        raise Refused(otherwise)
    listed = ", ".join(kind.words for kind in known[:-1])
    raise Refused(
        f"A value of the class {type(conn).__module__}.{type(conn).__qualname__} is no connection through which jobs "
        f"are enqueued. Pass {listed} or {known[-1].words}."
    )
