"""The connection and the task types with which a test works."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import tuple_row

from jobdeck.core.errors import UnknownTaskType, UsageError, meant
from jobdeck.core.plugins import load_plugins
from jobdeck.core.postgres.database import Connection, Database, in_schema
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import JobType, Registry, registrations
from jobdeck.core.schema.components import queue_component
from jobdeck.core.schema.versions import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobdeck.core.settings import Settings

    Handler = Callable[..., Any]

APPLICATION: Final = "jobdeck.testing"
JSONB: Final = psycopg.postgres.types["jsonb"].oid


def known_types() -> Registry:
    """The task types that imported modules of this process registered; of several with one name, the last one."""
    owners = [(module, plugin.name) for plugin in load_plugins() for module in plugin.handlers]
    found: dict[str, JobType] = {}
    for one in registrations:
        names = [f"{name}." for name in one.modules]
        plugin = next((plugin for module, plugin in owners if any(n.startswith(f"{module}.") for n in names)), "")
        found[one.job_type.task_type] = replace(one.job_type, plugin=plugin)
    return Registry(found.values())


def job_type_of(handler: Handler | str) -> JobType:
    """The job type of a name or of a function with `@job`, which may be wrapped by other decorators.

    Raises:
        UnknownTaskType: no imported module registered it, or the function is registered under several names.
    """
    known = known_types()
    if isinstance(handler, str):
        found = known.get(handler)
        if found is not None:
            return found
        raise UnknownTaskType(
            f'No imported module registers the task type "{safe_error(handler)}"{meant(handler, known.names)} '
            "Import the module with its @job first."
        )
    name = getattr(handler, "__qualname__", type(handler).__name__)
    plain = inspect.unwrap(handler)
    types = [one for one in known if one.run is handler or inspect.unwrap(one.run) is plain]
    if len(types) > 1:
        several = ", ".join(sorted(one.task_type for one in types))
        raise UnknownTaskType(f"{name} is the handler of several task types: {several}. Give the name of one instead.")
    if not types:
        raise UnknownTaskType(
            f"{name} is not the handler of a task type. Decorate it with @job, or give the name of a task type."
        )
    return types[0]


@contextmanager
def borrowed(target: psycopg.Connection[Any] | str, settings: Settings) -> Iterator[Connection]:
    """A connection for the queue's calls: the test's own, which is given back as it was, or a new one to an address.

    Raises:
        UsageError: it is neither, or the connection cannot be used.
        DatabaseUnreachable, ConfigurationError: the address leads nowhere, or is none.
        SchemaMismatch: the database does not hold the queue.
    """
    with ExitStack() as stack:
        if isinstance(target, str):
            database = Database(target, application_name=APPLICATION, schema=settings.database_schema)
            conn = stack.enter_context(closing(stack.enter_context(database).connect()))
        else:
            conn = usable(target)
            stack.enter_context(plain_rows(conn))
            # On a connection of Django, handlers also find the tables of their models, in the path of the application.
            stack.enter_context(in_schema(conn, settings.database_schema, keep_own=of_django(conn)))
        check_schema(conn, [queue_component()])
        yield conn


def usable(conn: object) -> Connection:
    """Returns the connection.

    Raises:
        UsageError: it is no connection of psycopg, is closed, or its transaction has failed.
    """
    if not isinstance(conn, psycopg.Connection):
        raise UsageError(
            f"A test needs a psycopg.Connection or the address of a database, not a value of the type "
            f"{type(conn).__name__}. From "
            "SQLAlchemy, pass session.connection().connection.driver_connection; beside an async connection, pass "
            "the address."
        )
    if conn.closed:
        raise UsageError("The connection is closed. Pass an open one, or the address of the database.")
    if conn.info.transaction_status is TransactionStatus.INERROR:
        raise UsageError("A statement in the connection's transaction has failed. Roll it back first.")
    return conn


def of_django(conn: Connection) -> bool:
    """Whether values of jsonb are texts on this connection, as they are on those of Django."""
    return conn.adapters.get_loader(JSONB, Format.TEXT) is not psycopg.adapters.get_loader(JSONB, Format.TEXT)


class QueueCursor(psycopg.Cursor[Any]):
    """A cursor that reads values as the queue's calls expect them, whatever the connection of an application does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in ("json", "jsonb", "timestamptz"):
            for format_ in (Format.TEXT, Format.BINARY):
                loader = psycopg.adapters.get_loader(psycopg.postgres.types[name].oid, format_)
                if loader is not None:
                    self.adapters.register_loader(name, loader)


@contextmanager
def plain_rows(conn: Connection) -> Iterator[None]:
    """Rows as tuples, which the queue's calls and the handlers expect."""
    rows, cursors = conn.row_factory, conn.cursor_factory
    conn.row_factory, conn.cursor_factory = tuple_row, QueueCursor if of_django(conn) else psycopg.Cursor
    try:
        yield
    finally:
        conn.row_factory, conn.cursor_factory = rows, cursors
