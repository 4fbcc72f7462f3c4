"""Installs the database schema for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

SCHEMA = Path(__file__).parents[2] / "schema.sql"


def install_everything(connection: psycopg.Connection[Any]) -> None:
    """Runs `schema.sql` in one transaction."""
    with connection.transaction():
        connection.execute(SCHEMA.read_text(encoding="utf-8"))
