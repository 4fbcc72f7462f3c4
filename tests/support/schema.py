"""Installs the database schema for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.schema import install_schema

if TYPE_CHECKING:
    import psycopg


def install_everything(connection: psycopg.Connection[Any]) -> None:
    """Installs the queue and the competition into `public`."""
    install_schema(connection)
