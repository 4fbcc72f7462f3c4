"""The kinds of connections that can enqueue, and how each is recognised without importing its library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import psycopg

from jobdeck.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable


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


class AsyncAlchemy(Protocol):
    """An SQLAlchemy `AsyncSession`, `async_scoped_session` or `AsyncConnection`."""

    def run_sync(self, fn: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


SyncConnection = psycopg.Connection[Any] | AlchemyConnection | AlchemySession | DjangoConnection
AsyncConnection = psycopg.AsyncConnection[Any] | AsyncpgConnection | AsyncAlchemy


class Kind(NamedTuple):
    """A kind of connection: its name in sentences, and the class that its connections have."""

    words: str
    module: str
    name: str

    def fits(self, conn: object) -> bool:
        """Whether this is such a connection. If its module is not loaded, no object of the class exists."""
        loaded = sys.modules.get(self.module)
        return loaded is not None and isinstance(conn, getattr(loaded, self.name, ()))


PSYCOPG: Final = Kind("a psycopg Connection", "psycopg", "Connection")
SESSION: Final = Kind("an SQLAlchemy Session", "sqlalchemy.orm", "Session")
SCOPED_SESSION: Final = Kind("an SQLAlchemy scoped_session", "sqlalchemy.orm", "scoped_session")
ALCHEMY: Final = Kind("an SQLAlchemy Connection", "sqlalchemy.engine", "Connection")
DJANGO: Final = Kind("django.db.connection", "django.utils.connection", "ConnectionProxy")
DJANGO_ALIAS: Final = Kind("one of django.db.connections", "django.db.backends.base.base", "BaseDatabaseWrapper")
SYNC: Final = (PSYCOPG, SESSION, SCOPED_SESSION, ALCHEMY, DJANGO, DJANGO_ALIAS)

ASYNC_PSYCOPG: Final = Kind("a psycopg AsyncConnection", "psycopg", "AsyncConnection")
ASYNCPG: Final = Kind("an asyncpg Connection", "asyncpg", "Connection")
ASYNC_SESSION: Final = Kind("an SQLAlchemy AsyncSession", "sqlalchemy.ext.asyncio", "AsyncSession")
ASYNC_SCOPED: Final = Kind("an SQLAlchemy async_scoped_session", "sqlalchemy.ext.asyncio", "async_scoped_session")
ASYNC_ALCHEMY: Final = Kind("an SQLAlchemy AsyncConnection", "sqlalchemy.ext.asyncio", "AsyncConnection")
ASYNC_OF_ALCHEMY: Final = (ASYNC_SESSION, ASYNC_SCOPED, ASYNC_ALCHEMY)
ASYNC: Final = (ASYNC_PSYCOPG, ASYNCPG, ASYNC_SESSION, ASYNC_SCOPED, ASYNC_ALCHEMY)


def sync_kind(conn: object) -> Kind:
    """The kind of a connection for the sync functions.

    Raises:
        Refused: it is of another kind; the message lists those that can be used.
    """
    return _kind(conn, SYNC, ASYNC, "This connection is async. Await jobdeck.aenqueue or jobdeck.aenqueue_many.")


def async_kind(conn: object) -> Kind:
    """The kind of a connection for the async functions.

    Raises:
        Refused: it is of another kind; the message lists those that can be used.
    """
    return _kind(conn, ASYNC, SYNC, "This connection is not async. Call jobdeck.enqueue or jobdeck.enqueue_many.")


def _kind(conn: object, known: tuple[Kind, ...], others: tuple[Kind, ...], otherwise: str) -> Kind:
    for kind in known:
        if kind.fits(conn):
            return kind
    if any(kind.fits(conn) for kind in others):
        raise Refused(otherwise)
    listed = ", ".join(kind.words for kind in known[:-1])
    raise Refused(
        f"A value of the class {type(conn).__module__}.{type(conn).__qualname__} is no connection through which jobs "
        f"are enqueued. Pass {listed} or {known[-1].words}."
    )
