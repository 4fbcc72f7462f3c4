"""A Postgres of a measurement's own, in a temporary folder, which it may restart."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.postgres.cluster import Cluster
from jobdeck.core.schema import install_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SETTINGS = {
    "fsync": "on",
    "shared_buffers": "512MB",
    "max_connections": "1000",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
"""Those of `setup.sh`, with more connections."""


@contextmanager
def own_server(changes: dict[str, str] | None = None, folder: Path | None = None) -> Iterator[Cluster]:
    """A server with the settings above and these, in a new folder in `folder`. It ends with the block."""
    with tempfile.TemporaryDirectory(prefix="jobdeck-bench-", dir=folder) as name:
        # As root, Postgres runs under another account, which has to get in.
        Path(name).chmod(0o755)
        state = Path(name, "state")
        state.mkdir(mode=0o755)
        server = Cluster(state)
        server.start()
        try:
            settle(server, SETTINGS | (changes or {}))
            yield server
        finally:
            server.stop()


def connected(server: Cluster, database: str) -> psycopg.Connection[tuple[object, ...]]:
    """An autocommit connection."""
    return psycopg.connect(server.url(database), autocommit=True)


def settle(server: Cluster, settings: Mapping[str, str | None]) -> None:
    """Changes settings of the server and starts it again; None stands for the setting from before."""
    with connected(server, "postgres") as admin:
        for name, value in settings.items():
            admin.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
    server.stop()
    server.start()


def make_queue(server: Cluster, name: str, **given: Any) -> str:
    """Makes a database with an empty queue, in place of an older one of that name; returns its address.

    `given` is for `install_schema`.
    """
    with connected(server, "postgres") as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    with connected(server, name) as conn:
        install_schema(conn, **given)
    return server.url(name)
