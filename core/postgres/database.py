"""Connections to one database (pooled, dedicated, listening) and the capabilities of its server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from copy import copy
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.json import set_json_loads

from jobdeck.core.errors import DatabaseUnreachable, EmbeddedPostgresError
from jobdeck.core.postgres.address import DEFAULTS, Address, Capabilities, examination, judge, reason_of
from jobdeck.core.postgres.jsonb import read
from jobdeck.core.postgres.lent.forks import keep_from_forks
from jobdeck.core.postgres.listener import Listener
from jobdeck.core.postgres.pool import Pool
from jobdeck.core.postgres.refusals import pipelined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from jobdeck.core.settings import Settings

T = TypeVar("T")
Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]

EMBEDDED_LABEL = "embedded/jobdeck"
PREPARE_AFTER = 5
TRANSPORT = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
READ_ONLY = "-c default_transaction_read_only=on"


class Unreachable(DatabaseUnreachable, psycopg.OperationalError):
    """A connection failed. Callers that retry catch an OperationalError. `reason` is that of libpq, without address."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Database:
    """One database and its connections. Threads may share it.

    Every connection is in autocommit mode, with a connect timeout and TCP keepalives. The first one detects the
    server's capabilities. A failed connection raises `DatabaseUnreachable`, which is also a
    `psycopg.OperationalError`, the class of an error when a connection is lost later.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        schema: str = "public",
        read_only: bool = False,
        min_size: int = 1,
        max_size: int = 4,
        label: str | None = None,
        revive: Callable[[], None] | None = None,
    ) -> None:
        """Opens no connection yet.

        Args:
            url: the address, as libpq parses it. It is a secret and never printed.
            application_name: the name shown in `pg_stat_activity`.
            schema: the schema of the queue, and the only one on the search path.
            read_only: whether the server refuses writes.
            min_size: the number of unused connections that stay open.
            max_size: the maximum number of pooled connections; further callers wait.
            label: a name for the database instead of `host/dbname`.
            revive: called when a connection fails, before one more try.

        Raises:
            ConfigurationError: the address is invalid.
        """
        self.url = url
        self._address = Address.parse(url, label)
        self.label = self._address.label
        self.schema = schema
        self.read_only = read_only
        self.lock_seconds: float | None = None
        """How long statements of new connections wait for a lock. A pooler may not accept it."""
        self._application_name = application_name
        self._revive = revive
        self._capabilities: Capabilities | None = None
        self._startup_options = True
        self._pool = Pool(self.connect, label=self.label, min_size=min_size, max_size=max_size)

    @property
    def channel(self) -> str:
        """The channel on which the queue sends notifications about new jobs and cancellations."""
        return f"{self.schema}.job_queue"

    def connection(self) -> AbstractContextManager[Connection]:
        """A working connection from the pool. It is closed if it is returned inside a transaction.

        Raises:
            psycopg.OperationalError: the connection failed, or none was free within 30 seconds.
        """
        return self._pool.connection()

    def lend(self) -> AbstractContextManager[Connection]:
        """The same for code of an application, such as a handler. What it changes of it, nobody else finds."""
        return self._pool.lend()

    def for_application(self) -> Self:
        """The same database and pool for functions of an application: what they borrow is lent (see `lend`)."""
        view = copy(self)
        vars(view)["connection"] = self.lend
        return view

    def connect(self) -> Connection:
        """A dedicated connection, which the caller closes.

        Raises:
            psycopg.OperationalError: the connection failed.
            ConfigurationError: the server is older than Postgres 15.
        """
        connection = self._open_or_revive()
        try:
            if self._capabilities is None:
                self._capabilities = self._examine(connection)
            if not self._capabilities.prepared_statements:
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection

    def first(self, ask: Callable[[Connection], T]) -> T:
        """Sends the statements of `ask` with those that examine the server, so that both take one round trip.

        They may only read. They share one transaction, and have their results when this returns. A pooler that accepts
        no options is examined before, because other tables may have the queue's names on its search path.

        Raises:
            psycopg.Error: the connection or a statement failed.
            ConfigurationError: the server is older than Postgres 15.
        """
        if self._capabilities is not None:
            with self.connection() as known:
                return _read_together(known, ask)
        connection = self._open_or_revive()
        try:
            if self._startup_options:
                asked = self._examine_with(connection, ask)
            else:
                self._capabilities = self._examine(connection)
                asked = _read_together(connection, ask)
        except BaseException:
            connection.close()
            raise
        self._pool.take_in(connection)
        return asked

    def connect_ahead(self) -> None:
        """Starts to open the next new connection in a thread. The call that uses it gets its error, if there is one."""
        self._pool.open_ahead(self._open)

    async def connect_async(self) -> AsyncConnection:
        """A dedicated connection for the running event loop, which the caller closes; otherwise as `connect`."""
        # The first connection finds out what the server can do, and which of our options a pooler accepts.
        # Later ones ask for no thread of `to_thread`, which handlers may keep busy; only a host that is given by name
        # is resolved in one.
        capabilities = self._capabilities
        if capabilities is None:
            capabilities = await asyncio.to_thread(self.probe)
        prepare_after = PREPARE_AFTER if capabilities.prepared_statements else None
        try:
            connection = await psycopg.AsyncConnection.connect(
                **self._parameters(), autocommit=True, prepare_threshold=prepare_after
            )
        except psycopg.OperationalError as error:
            raise Unreachable(self._address.unreachable(error), reason_of(error)) from None
        keep_from_forks(connection)
        set_json_loads(read, connection)
        if self.read_only:
            await connection.set_read_only(True)
        return connection

    def listen(self, channel: str, *, at_once: bool = False) -> Listener:
        """A listener with its own connection. Through a pooler it receives no notifications and only waits.

        With `at_once` it returns before it listens, and gives an empty payload as soon as it does.
        """
        return Listener(self._connect_to_listen, channel, at_once=at_once)

    def probe(self) -> Capabilities:
        """The server's capabilities, detected once.

        Raises:
            psycopg.OperationalError: the server does not answer.
            ConfigurationError: the server is older than Postgres 15.
        """
        if self._capabilities is None:
            with self.connection():
                pass
        if self._capabilities is None:
            raise psycopg.OperationalError(f"The connection to {self.label} was lost before it was examined.")
        return self._capabilities

    def close(self) -> None:
        """Closes unused connections now, and the others when they are returned. Closing twice is allowed."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.label}>"

    def _parameters(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            **TRANSPORT, **self._address.parameters, "application_name": self._application_name
        }  # fmt: skip
        if self._startup_options:
            ours = (
                f"-c search_path={_escaped(sql.Identifier(self.schema).as_string())}",
                *(f"-c {name}={_escaped(value)}" for name, value in DEFAULTS.items()),
                READ_ONLY if self.read_only else "",
                f"-c lock_timeout={self.lock_seconds}s" if self.lock_seconds else "",
            )
            given["options"] = " ".join(filter(None, (given.get("options"), *ours)))
        return given

    def _open_or_revive(self) -> Connection:
        try:
            return self._pool.take_ahead() or self._open()
        except Unreachable:
            if self._revive is None:
                raise
            try:
                self._revive()
            except EmbeddedPostgresError as error:
                raise Unreachable(str(error)) from error
            return self._open()

    def _open(self) -> Connection:
        try:
            connection = psycopg.connect(**self._parameters(), autocommit=True, prepare_threshold=PREPARE_AFTER)
        except psycopg.OperationalError as error:
            if self._startup_options and "unsupported startup parameter" in str(error):
                # A pooler in transaction mode: there, only transactions can be marked as read-only, and only the
                # role's own search path can find the schema, which _examine checks.
                self._startup_options = False
                return self._open()
            self._address.refuse_bad_value(error)
            raise Unreachable(self._address.unreachable(error), reason_of(error)) from None
        keep_from_forks(connection)
        set_json_loads(read, connection)
        if self.read_only:
            connection.read_only = True
        return connection

    def _examine(self, connection: Connection) -> Capabilities:
        connection.prepare_threshold = None
        return self._judge(connection, examination(connection).fetchone())

    def _examine_with(self, connection: Connection, ask: Callable[[Connection], T]) -> T:
        examined: list[psycopg.Cursor[Any]] = []

        def both(asked: Connection) -> T:
            examined.append(examination(asked))
            return ask(asked)

        connection.prepare_threshold = None
        try:
            return _read_together(connection, both)
        finally:
            # Also after an error of another statement: an old server lacks what that one needs.
            if examined and examined[0].pgresult is not None:
                self._capabilities = self._judge(connection, examined[0].fetchone())

    def _judge(self, connection: Connection, row: tuple[Any, ...] | None) -> Capabilities:
        found = judge(connection, row, label=self.label, schema=self.schema, options_accepted=self._startup_options)
        connection.prepare_threshold = PREPARE_AFTER if found.prepared_statements else None
        return found

    def _connect_to_listen(self) -> Connection | None:
        connection = self.connect()
        if self.probe().listens:
            return connection
        connection.close()
        return None


def _read_together(connection: Connection, ask: Callable[[Connection], T]) -> T:
    """Calls `ask` in a pipeline. Its statements share a read-only transaction, and have their results at the end."""
    with pipelined(connection):
        connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        asked = ask(connection)
        connection.execute("COMMIT")
    return asked


def use_schema(connection: Connection, schema: str) -> None:
    """Sets the search path of a connection to one schema, until it is closed."""
    connection.execute("SELECT set_config('search_path', %s, false)", [sql.Identifier(schema).as_string()])


@contextlib.contextmanager
def in_schema(connection: Connection, schema: str, *, keep_own: bool = False) -> Iterator[None]:
    """Sets the search path of a connection to one schema, and back to its own at the end.

    With `keep_own`, its own path comes after the schema.
    """
    (before,) = connection.execute("SELECT current_setting('search_path')").fetchone() or ("",)
    use_schema(connection, schema)
    if keep_own and before:
        connection.execute(
            "SELECT set_config('search_path', current_setting('search_path') || ', ' || %s, false)", [before]
        )
    try:
        yield
    finally:
        # In a failed transaction, the rollback restores it.
        if not connection.closed and connection.info.transaction_status is not TransactionStatus.INERROR:
            connection.execute("SELECT set_config('search_path', %s, false)", [before])


async def connect_beside(connection: Connection) -> AsyncConnection:
    """A connection for the running event loop to the database of another one, with the search path of that one.

    Raises:
        psycopg.OperationalError: the connection failed.
    """
    info = connection.info
    address = psycopg.conninfo.make_conninfo(info.dsn, password=info.password or None)
    with connection.cursor(row_factory=tuple_row) as cursor:
        (path,) = cursor.execute("SELECT current_setting('search_path')").fetchone() or ("",)
    beside = await psycopg.AsyncConnection.connect(address, autocommit=True)
    set_json_loads(read, beside)
    await beside.execute("SELECT set_config('search_path', %s, false)", [path])
    return beside


def limit_waits(connection: Connection, seconds: float) -> None:
    """Limits how long statements wait for a lock, until the connection is closed."""
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{seconds}s"])


def _escaped(value: str) -> str:
    """Escapes a value for the startup option `-c`."""
    return re.sub(r"([\\\s])", r"\\\1", value)


def database_label(settings: Settings) -> str:
    """The label of the configured database, without connecting to it.

    Raises:
        ConfigurationError: its address is invalid.
    """
    if settings.database_url is None:
        return EMBEDDED_LABEL
    return Address.parse(settings.database_url.get_secret_value()).label
