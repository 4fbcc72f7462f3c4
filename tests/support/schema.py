"""Installs the database schema for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

ROOT = Path(__file__).parents[2]


def install_everything(connection: psycopg.Connection[Any]) -> None:
    """Runs the schema's files in one transaction each."""
    for name in ("schema.sql", "schema_messaging.sql"):
        path = ROOT / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.strip():
            with connection.transaction():
                connection.execute(text)
