"""Connections to one Postgres: pooled, dedicated and listening ones, and what the server can do."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads

from jobdeck.core.errors import ConfigurationError, DatabaseUnreachable, EmbeddedPostgresError
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.jsonb import read
from jobdeck.core.postgres.listener import Listener
from jobdeck.core.postgres.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from jobdeck.core.settings import Settings

Connection = psycopg.Connection[Any]

OLDEST_SERVER = 15
POOLER_PORT = 6543
"""Where Supabase's transaction-mode pooler listens (its documentation, "Connect to your database")."""
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
    """A connection could not be made: a sentence for commands, an OperationalError for whoever tries again."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server at the other end can do. `server_version` is a number such as 180004."""

    server_version: int
    listens: bool
    prepared_statements: bool
    role: str
    database: str


class Database:
    """One Postgres address under one application name. Threads may share it.

    Every connection is in autocommit mode and has a connect timeout and TCP keepalives. The first one made
    finds out what the server can do. A connection that cannot be made raises `DatabaseUnreachable` with a
    sentence, which is also a `psycopg.OperationalError`, the class of every connection lost later.
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
        """Connects to nothing yet.

        Args:
            url: the address, as libpq reads it. A secret: it is never printed.
            application_name: what `pg_stat_activity` shows.
            schema: where the queue is; the only one that the connections look into.
            read_only: whether the server is to refuse writes.
            min_size: how many unused connections are kept open.
            max_size: how many pooled connections there are at most; whoever wants more waits.
            label: what to call the database instead of `host/dbname`.
            revive: called when no connection can be made, before it is tried once more.

        Raises:
            ConfigurationError: when the address cannot be read.
        """
        self.url = url
        self._address = Address.parse(url, label)
        self.label = self._address.label
        self.schema = schema
        self.read_only = read_only
        self._application_name = application_name
        self._revive = revive
        self._capabilities: Capabilities | None = None
        self._startup_options = True
        self._pool = Pool(self.connect, label=self.label, min_size=min_size, max_size=max_size)

    @property
    def channel(self) -> str:
        """Where the queue says that there is something to do."""
        return f"{self.schema}.job_queue"

    def connection(self) -> AbstractContextManager[Connection]:
        """A connection from the pool, seen to work; one given back inside a transaction is closed.

        Raises:
            psycopg.OperationalError: when none can be made, or none became free within 30 seconds.
        """
        return self._pool.connection()

    def connect(self) -> Connection:
        """A dedicated connection, which the caller closes.

        Raises:
            psycopg.OperationalError: when it cannot be made.
            ConfigurationError: when the server is older than Postgres 15.
        """
        try:
            connection = self._open()
        except Unreachable:
            if self._revive is None:
                raise
            try:
                self._revive()
            except EmbeddedPostgresError as error:
                raise Unreachable(str(error)) from error
            connection = self._open()
        try:
            if self._capabilities is None:
                self._capabilities = self._examine(connection)
            if not self._capabilities.prepared_statements:
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, channel: str, *, at_once: bool = False) -> Listener:
        """A listener with a connection of its own. Through a pooler it hears nothing, and only waits.

        With `at_once` it may not listen yet; it says an empty payload when it does.
        """
        return Listener(self._connect_to_listen, channel, at_once=at_once)

    def probe(self) -> Capabilities:
        """What the server can do; asked once, then remembered.

        Raises:
            psycopg.OperationalError: when it does not answer.
            ConfigurationError: when it is older than Postgres 15.
        """
        if self._capabilities is None:
            with self.connection():
                pass
        if self._capabilities is None:
            raise psycopg.OperationalError(f"The connection to {self.label} was lost before it was examined.")
        return self._capabilities

    def close(self) -> None:
        """Closes the unused connections, and those in use as they come back. Closing twice is allowed."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.label}>"

    def _open(self) -> Connection:
        given = {**TRANSPORT, **self._address.parameters, "application_name": self._application_name}
        if self._startup_options:
            ours = (
                f"-c search_path={_escaped(sql.Identifier(self.schema).as_string())}",
                READ_ONLY if self.read_only else "",
            )
            given["options"] = " ".join(filter(None, (given.get("options"), *ours)))
        try:
            connection = psycopg.connect(**given, autocommit=True, prepare_threshold=PREPARE_AFTER)
        except psycopg.OperationalError as error:
            if self._startup_options and "unsupported startup parameter" in str(error):
                # A pooler whose sessions are shared by strangers: only transactions can be marked as read-only there,
                # and only the role's own search path finds the schema, which _examine checks.
                self._startup_options = False
                return self._open()
            raise Unreachable(self._address.unreachable(error)) from None
        set_json_loads(read, connection)
        if self.read_only:
            connection.read_only = True
        return connection

    def _examine(self, connection: Connection) -> Capabilities:
        """Finds out what is at the other end.

        A pooler invents the process id it greets its clients with, so it shows when the server process names
        another. Whether it pools by transaction cannot be seen reliably, so every pooler is taken for one.
        """
        connection.prepare_threshold = None
        row = connection.execute(
            """
            SELECT pg_backend_pid(), current_setting('server_version_num')::int, current_user, current_database(),
                coalesce((SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = to_regclass('jobdeck_schema')), current_schema())
            """
        ).fetchone()
        if row is None:
            raise psycopg.OperationalError(f"The database at {self.label} gave no answer about itself.")
        pid, version, role, database, schema = row
        if version < OLDEST_SERVER * 10_000:
            raise ConfigurationError(
                f"The database at {self.label} is Postgres {version // 10_000}, "
                f"and Jobdeck needs {OLDEST_SERVER} or newer."
            )
        if not self._startup_options and schema != self.schema:
            # Set for the session, a search path would stay with the pooler's connection, and meet other programs.
            raise ConfigurationError(
                f"The pooler at {self.label} lets no program choose its schema, and the role {role} looks into "
                f"{schema}. Run this once: ALTER ROLE {role} IN DATABASE {database} SET search_path = {self.schema}. "
                f"Or connect to Postgres without the pooler."
            )
        direct = pid == connection.info.backend_pid and connection.info.port != POOLER_PORT
        connection.prepare_threshold = PREPARE_AFTER if direct else None
        return Capabilities(version, listens=direct, prepared_statements=direct, role=role, database=database)

    def _connect_to_listen(self) -> Connection | None:
        connection = self.connect()
        if self.probe().listens:
            return connection
        connection.close()
        return None


def use_schema(connection: Connection, schema: str) -> None:
    """Has a connection look into one schema, for as long as it is open."""
    connection.execute("SELECT set_config('search_path', %s, false)", [sql.Identifier(schema).as_string()])


def _escaped(value: str) -> str:
    """A value as the startup option `-c` takes it."""
    return re.sub(r"([\\\s])", r"\\\1", value)


def database_label(settings: Settings) -> str:
    """What the database that the settings name is called, which is known before it answers.

    Raises:
        ConfigurationError: when its address cannot be read.
    """
    if settings.database_url is None:
        return EMBEDDED_LABEL
    return Address.parse(settings.database_url.get_secret_value()).label


def actor() -> str:
    """Who acts, for the audit: the account of the operating system and the address an SSH session came from."""
    user = os.environ.get("USERNAME") or "unknown"
    with contextlib.suppress(ImportError, KeyError):
        import pwd  # noqa: PLC0415 -- POSIX only

        user = pwd.getpwuid(os.getuid()).pw_name
    client = os.environ.get("SSH_CONNECTION", os.environ.get("SSH_CLIENT", "")).split(" ")[0]
    try:
        return f"{user}@{ip_address(client)}"
    except ValueError:
        return f"{user}@local"
