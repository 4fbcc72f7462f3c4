"""Opens the database that the settings name, or the embedded one with its schema."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.postgres.database import EMBEDDED_LABEL, Database, use_schema
from jobdeck.core.schema import install_schema, is_current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.settings import Settings


@contextmanager
def open_database(
    settings: Settings,
    *,
    application_name: str,
    read_only: bool = False,
    min_size: int = 1,
    max_size: int = 4,
    connect: bool = True,
) -> Iterator[Database]:
    """The database that the settings name, else the embedded one with the schema installed; closed at the end.

    Args:
        settings: where `DATABASE_URL` and the state folder come from.
        application_name: see `Database`, like the other three.
        read_only: whether the server is to refuse writes.
        min_size: how many unused connections are kept.
        max_size: how many pooled connections there are at most.
        connect: whether to make the first connection right away, so that a wrong address shows here.

    Raises:
        ConfigurationError: when the address cannot be read, the server is too old, or there is no address on
            Windows.
        DatabaseUnreachable: when nobody answers there.
        EmbeddedPostgresError: when the embedded server cannot be started.
    """
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        with Database(
            url,
            application_name=application_name,
            schema=settings.database_schema,
            read_only=read_only,
            min_size=min_size,
            max_size=max_size,
        ) as database:
            if connect:
                database.probe()
            yield database
        return

    if sys.platform == "win32":
        raise ConfigurationError("On Windows Jobdeck starts no Postgres of its own. Set DATABASE_URL to one.")
    from jobdeck.core.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415 -- imported on first use

    with EmbeddedPostgres.open(settings.state_dir) as server:
        with server.connect() as connection:
            use_schema(connection, settings.database_schema)
            if not is_current(connection):
                install_schema(connection, schema=settings.database_schema, repair=True)
        with Database(
            server.url,
            application_name=application_name,
            schema=settings.database_schema,
            read_only=read_only,
            min_size=min_size,
            max_size=max_size,
            label=EMBEDDED_LABEL,
            revive=server.ensure_running,
        ) as database:
            yield database
