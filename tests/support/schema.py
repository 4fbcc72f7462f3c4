"""Installs the database schema for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.schema import install_schema, schema_text

if TYPE_CHECKING:
    import psycopg


def install_queue(connection: psycopg.Connection[Any]) -> None:
    """Installs the queue alone into `public`."""
    with connection.transaction():
        connection.execute(schema_text())


def install_everything(connection: psycopg.Connection[Any]) -> None:
    """Installs the queue and the competition into `public`."""
    install_schema(connection)
