"""Installs the database schema for the tests."""

from __future__ import annotations

from jobdeck.core.schema import install_schema
from jobdeck.core.schema.components import queue_component
from tests.support.queue import Connection


def install_queue(connection: Connection) -> None:
    """Installs the queue alone into `public`."""
    install_schema(connection, components=(queue_component(),))


def install_everything(connection: Connection) -> None:
    """Installs the queue and the loaded plugins into `public`, as `jobdeck init` does."""
    install_schema(connection)
