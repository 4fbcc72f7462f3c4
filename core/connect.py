"""Opens the configured database, or the embedded one with its schema."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import ConfigurationError, SchemaMismatch, UsageError
from jobdeck.core.postgres.database import EMBEDDED_LABEL, Database, use_schema
from jobdeck.core.schema import holdings, install_schema, is_current, unreleased_version
from jobdeck.core.settings import DATABASES, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psycopg

    from jobdeck.core.postgres.embedded import EmbeddedPostgres

NO_ADDRESS: Final = (
    "No database is named, so there is no queue whose jobs could be run. Set DATABASE_URL. For a private Postgres of "
    "this account, as that of the dashboard without DATABASE_URL, use the option --embedded."
)


@contextmanager
def open_database(
    settings: Settings,
    *,
    application_name: str,
    read_only: bool = False,
    max_size: int = 4,
    connect: bool = True,
    embedded: bool = False,
) -> Iterator[Database]:
    """The configured database; closed at the end.

    Args:
        settings: the source of `DATABASE_URL` and the state folder.
        application_name: see `Database`, also for the next two.
        read_only: whether the server refuses writes.
        max_size: the maximum number of pooled connections.
        connect: whether to connect at once, so that a wrong address is an error here.
        embedded: whether to start this account's own Postgres, with the schema installed, where the settings name no
            database.

    Raises:
        ConfigurationError: the address is invalid, the server is too old, there is no address, or several databases are
            listed and none is chosen.
        DatabaseUnreachable: no Postgres answers at the address.
        EmbeddedPostgresError: the embedded server does not start.
        SchemaMismatch: the embedded database has a schema from before the first release, or a newer one.
    """
    open_at = partial(
        Database,
        application_name=application_name,
        schema=settings.database_schema,
        read_only=read_only,
        max_size=max_size,
    )
    if settings.database_url is not None:
        with open_at(settings.database_url.get_secret_value()) as database:
            if connect:
                database.probe()
            yield database
        return

    if settings.databases:
        raise ConfigurationError(
            f"{DATABASES} lists several databases, and this works on one. Give its address with --database-url or "
            "DATABASE_URL."
        )
    if not embedded:
        raise ConfigurationError(NO_ADDRESS)
    with (
        _embedded_server(settings) as server,
        open_at(server.url, label=EMBEDDED_LABEL, revive=server.ensure_running) as database,
    ):
        yield database


@contextmanager
def _embedded_server(settings: Settings) -> Iterator[EmbeddedPostgres]:
    """The running embedded server, whose schema is installed and current."""
    if sys.platform == "win32":
        raise ConfigurationError("On Windows there is no embedded Postgres. Set DATABASE_URL to a Postgres.")
    from jobdeck.core.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415 -- imported on first use

    with EmbeddedPostgres.open(settings.state_dir) as server:
        with server.connect() as connection:
            use_schema(connection, settings.database_schema)
            _refuse_unreleased(connection)
            if not is_current(connection):
                install_schema(connection, schema=settings.database_schema, repair=True)
        yield server


def _refuse_unreleased(connection: psycopg.Connection[Any]) -> None:
    version = unreleased_version(holdings(connection))
    if version is not None:
        raise SchemaMismatch(
            f"The embedded database has schema version {version}, from before 0.3.0, the first release, and nothing "
            f"upgrades that: `jobdeck init --fresh` keeps its data as data.old and makes a new one.",
            f"version {version} is from before the first release",
        )


def set_embedded_aside(settings: Settings) -> Path | None:
    """Stops the embedded server and keeps its data beside the new one that `open_database` makes. Returns that folder.

    Raises:
        UsageError: the settings name another database.
        ConfigurationError: there is none on Windows.
        EmbeddedPostgresError: data that was set aside before is there, or the server does not stop.
    """
    if settings.database_url is not None or settings.databases:
        name = DATABASES if settings.databases and settings.database_url is None else "DATABASE_URL"
        raise UsageError(f"--fresh is for the embedded database, and {name} names another one.")
    if sys.platform == "win32":
        raise ConfigurationError("On Windows there is no embedded Postgres. Set DATABASE_URL to a Postgres.")
    from jobdeck.core.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415 -- imported on first use

    return EmbeddedPostgres.set_aside(settings.state_dir)
