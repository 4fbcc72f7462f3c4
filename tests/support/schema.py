"""Installs the database schema for the tests."""

from __future__ import annotations

from typing import Any

import psycopg

from jobdeck.core.schema import install_schema
from jobdeck.core.schema.components import queue_component


def install_queue(connection: psycopg.Connection[Any]) -> None:
    """Installs the queue alone into `public`."""
    install_schema(connection, components=(queue_component(),))


def install_everything(connection: psycopg.Connection[Any]) -> None:
    """Installs the queue and the loaded plugins into `public`, as `jobdeck init` does."""
    install_schema(connection)
