"""Applications that enqueue, one for each kind of connection, all with the same steps.

Connections of async libraries are driven by an event loop that the application has for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import django
import psycopg
import sqlalchemy
from django.conf import settings as django_settings
from django.db import connection as django_connection
from django.db import connections as django_connections
from django.db import transaction as django_transaction
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row, tuple_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

import jobdeck
from tests.support.queue import Connection


class Application:
    """An application with one connection, which `conn` is; `address` is that of its database."""

    conn: Any
    begins_by_itself = True
    """Whether a statement begins a transaction by itself, as the Python standard for databases says."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        self.address = conninfo_to_dict(address)
        self.text = address
        self.stack = stack

    def enqueue(self, *args: Any, **options: Any) -> jobdeck.Ticket:
        return jobdeck.enqueue(self.conn, *args, **options)

    def enqueue_many(self, *args: Any, **options: Any) -> list[UUID]:
        return jobdeck.enqueue_many(self.conn, *args, **options)

    def enqueue_flow(self, flow: jobdeck.Flow, **options: Any) -> jobdeck.FlowTicket:
        return jobdeck.enqueue_flow(self.conn, flow, **options)

    def transaction(self) -> AbstractContextManager[Any]:
        """A transaction that the application begins, commits, and rolls back after an exception."""
        found: AbstractContextManager[Any] = self.conn.transaction()
        return found

    def savepoint(self) -> AbstractContextManager[Any]:
        """A savepoint in a transaction, to which an exception rolls back."""
        return self.transaction()

    def value(self, statement: str) -> Any:
        """The only value of a statement, run by the application itself."""
        return psycopg.Cursor(self.conn, row_factory=tuple_row).execute(statement.encode()).fetchall()[0][0]

    def rollback(self) -> None:
        self.conn.rollback()


class Psycopg(Application):
    def __init__(self, address: str, stack: ExitStack, **options: Any) -> None:
        super().__init__(address, stack)
        self.conn = stack.enter_context(Connection.connect(address, **options))


class PsycopgAutocommit(Psycopg):
    begins_by_itself = False

    def __init__(self, address: str, stack: ExitStack) -> None:
        super().__init__(address, stack, autocommit=True)


class PsycopgOfDicts(Psycopg):
    """With rows and cursors of another kind than psycopg's own."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        super().__init__(address, stack, row_factory=dict_row, cursor_factory=psycopg.ClientCursor)


class Alchemy(Application):
    """An SQLAlchemy `Session`."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        super().__init__(address, stack)
        engine = sqlalchemy.create_engine(alchemy_address(address, "psycopg"), poolclass=NullPool)
        stack.callback(engine.dispose)
        self.conn = self.open(engine)
        stack.callback(self.conn.close)

    def open(self, engine: sqlalchemy.Engine) -> Any:
        return Session(engine)

    def transaction(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self.conn.begin()
        return found

    def savepoint(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self.conn.begin_nested()
        return found

    def value(self, statement: str) -> Any:
        return self.conn.execute(sqlalchemy.text(statement)).scalar()


class AlchemyScoped(Alchemy):
    def open(self, engine: sqlalchemy.Engine) -> Any:
        return scoped_session(sessionmaker(engine))


class AlchemyConnection(Alchemy):
    def open(self, engine: sqlalchemy.Engine) -> Any:
        return engine.connect()


class AlchemyAutocommit(AlchemyConnection):
    begins_by_itself = False

    def open(self, engine: sqlalchemy.Engine) -> Any:
        return engine.execution_options(isolation_level="AUTOCOMMIT").connect()


class Django(Application):
    conn = django_connection
    begins_by_itself = False

    def __init__(self, address: str, stack: ExitStack) -> None:
        super().__init__(address, stack)
        django_settings_for(address)
        stack.callback(django_connections.close_all)

    def transaction(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = django_transaction.atomic()
        return found

    def value(self, statement: str) -> Any:
        with django_connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]


class AsyncApplication(Application):
    def __init__(self, address: str, stack: ExitStack) -> None:
        super().__init__(address, stack)
        self.runner = stack.enter_context(asyncio.Runner())
        self.conn = self.run(self.open())
        stack.callback(lambda: self.run(self.close()))

    async def open(self) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        await self.conn.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def enqueue(self, *args: Any, **options: Any) -> jobdeck.Ticket:
        made: jobdeck.Ticket = self.run(jobdeck.aenqueue(self.conn, *args, **options))
        return made

    def enqueue_many(self, *args: Any, **options: Any) -> list[UUID]:
        made: list[UUID] = self.run(jobdeck.aenqueue_many(self.conn, *args, **options))
        return made

    def enqueue_flow(self, flow: jobdeck.Flow, **options: Any) -> jobdeck.FlowTicket:
        made: jobdeck.FlowTicket = self.run(jobdeck.aenqueue_flow(self.conn, flow, **options))
        return made

    def transaction(self) -> AbstractContextManager[Any]:
        return self.through(self.conn.transaction)

    @contextmanager
    def through(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[None]:
        """An async context manager, entered and left from code that is not async."""

        async def make_it() -> AbstractAsyncContextManager[Any]:
            return make()

        manager = self.run(make_it())
        self.run(manager.__aenter__())
        try:
            yield
        except BaseException as error:
            self.run(manager.__aexit__(type(error), error, error.__traceback__))
            raise
        self.run(manager.__aexit__(None, None, None))

    def rollback(self) -> None:
        self.run(self.conn.rollback())


class AsyncPsycopg(AsyncApplication):
    async def open(self) -> Any:
        return await psycopg.AsyncConnection.connect(
            self.text, row_factory=dict_row, cursor_factory=psycopg.AsyncClientCursor
        )

    def value(self, statement: str) -> Any:
        async def fetch() -> Any:
            row = await (await self.conn.execute(statement)).fetchone()
            return next(iter(row.values()))

        return self.run(fetch())


class Asyncpg(AsyncApplication):
    begins_by_itself = False

    async def open(self) -> Any:
        conn = await asyncpg.connect(**asyncpg_address(self.text))
        await use_codecs(conn)
        return conn

    def value(self, statement: str) -> Any:
        return self.run(self.conn.fetchval(statement))


class AsyncpgPool(Asyncpg):
    """A connection that a pool lent."""

    async def open(self) -> Any:
        self.pool = await asyncpg.create_pool(**asyncpg_address(self.text), min_size=1, max_size=1)
        return await self.pool.acquire()

    async def close(self) -> None:
        await self.pool.release(self.conn)
        await self.pool.close()


class AsyncAlchemy(AsyncApplication):
    """An SQLAlchemy `AsyncSession` over asyncpg."""

    driver = "asyncpg"

    async def open(self) -> Any:
        self.engine = create_async_engine(alchemy_address(self.text, self.driver), poolclass=NullPool)
        return await self.connect()

    async def connect(self) -> Any:
        return AsyncSession(self.engine)

    async def close(self) -> None:
        await self.conn.close()
        await self.engine.dispose()

    def transaction(self) -> AbstractContextManager[Any]:
        return self.through(self.conn.begin)

    def savepoint(self) -> AbstractContextManager[Any]:
        return self.through(self.conn.begin_nested)

    def value(self, statement: str) -> Any:
        return self.run(self.conn.scalar(sqlalchemy.text(statement)))


class AsyncAlchemyPsycopg(AsyncAlchemy):
    driver = "psycopg"


class AsyncAlchemyScoped(AsyncAlchemy):
    async def connect(self) -> Any:
        return async_scoped_session(async_sessionmaker(self.engine), scopefunc=lambda: 1)


class AsyncAlchemyConnection(AsyncAlchemy):
    async def connect(self) -> Any:
        return await self.engine.connect()


class AsyncAlchemyConnectionPsycopg(AsyncAlchemyConnection):
    driver = "psycopg"


KINDS: Final[dict[str, type[Application]]] = {
    "psycopg": Psycopg,
    "psycopg-autocommit": PsycopgAutocommit,
    "psycopg-dicts": PsycopgOfDicts,
    "sqlalchemy-session": Alchemy,
    "sqlalchemy-scoped": AlchemyScoped,
    "sqlalchemy-connection": AlchemyConnection,
    "sqlalchemy-autocommit": AlchemyAutocommit,
    "django": Django,
    "async-psycopg": AsyncPsycopg,
    "asyncpg": Asyncpg,
    "asyncpg-pool": AsyncpgPool,
    "sqlalchemy-async-session": AsyncAlchemy,
    "sqlalchemy-async-session-psycopg": AsyncAlchemyPsycopg,
    "sqlalchemy-async-scoped": AsyncAlchemyScoped,
    "sqlalchemy-async-connection": AsyncAlchemyConnection,
    "sqlalchemy-async-connection-psycopg": AsyncAlchemyConnectionPsycopg,
}
ASYNC_KINDS: Final = tuple(name for name, kind in KINDS.items() if issubclass(kind, AsyncApplication))
WITH_TRANSACTIONS: Final = tuple(name for name in KINDS if name != "sqlalchemy-autocommit")


@contextmanager
def application(kind: str, address: str) -> Iterator[Any]:
    """An application of this kind, connected to the database at the address."""
    with ExitStack() as stack:
        yield KINDS[kind](address, stack)


def alchemy_address(address: str, driver: str) -> sqlalchemy.URL:
    parts = conninfo_to_dict(address)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=str(parts["user"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"]), "port": str(parts["port"])},
    )


def asyncpg_address(address: str) -> dict[str, Any]:
    parts = conninfo_to_dict(address)
    return {"user": parts["user"], "database": parts["dbname"], "host": parts["host"], "port": parts["port"]}


async def use_codecs(conn: Any) -> None:
    """Values as applications like them, and as Jobdeck must not depend on."""
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, schema="pg_catalog", encoder=repr, decoder=str)
    for name in ("uuid", "timestamptz", "int4"):
        await conn.set_type_codec(name, schema="pg_catalog", encoder=repr, decoder=str, format="text")


def django_settings_for(address: str) -> None:
    """Lets `django.db.connection` of this process lead to the database at the address."""
    parts = conninfo_to_dict(address)
    if not django_settings.configured:
        django_settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}}, USE_TZ=True)
        django.setup()
    django_connections.close_all()
    given = {"NAME": parts["dbname"], "USER": parts["user"], "HOST": parts["host"], "PORT": parts["port"]}
    django_connections["default"].settings_dict.update(given)
