"""A Postgres of a measurement's own, in a temporary folder, which it may restart."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from jobdeck.core.postgres.cluster import Cluster
from jobdeck.core.schema import install_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {
    "fsync": "on",
    "shared_buffers": "512MB",
    "max_connections": "1000",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
"""Those of `setup.sh`, with more connections."""


@contextmanager
def own_server() -> Iterator[Cluster]:
    """A server with these settings. It ends with the block."""
    with tempfile.TemporaryDirectory(prefix="jobdeck-bench-") as folder:
        if os.geteuid() == 0:
            Path(folder).chmod(0o755)  # the account of the server enters it
        state = Path(folder, "state")
        state.mkdir(mode=0o755)
        server = Cluster(state)
        server.start()
        try:
            with connected(server, "postgres") as admin:
                for name, value in SETTINGS.items():
                    admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            restart(server)
            yield server
        finally:
            server.stop()


def connected(server: Cluster, database: str) -> psycopg.Connection[tuple[object, ...]]:
    """An autocommit connection."""
    return psycopg.connect(server.url(database), autocommit=True)


def restart(server: Cluster) -> None:
    """Ends all connections, and returns when the server accepts new ones."""
    server.stop()
    server.start()


def make_queue(server: Cluster, name: str) -> str:
    """Makes a database with an empty queue, in place of an older one of that name; returns its address."""
    with connected(server, "postgres") as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    with connected(server, name) as conn:
        install_schema(conn)
    return server.url(name)
