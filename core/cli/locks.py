"""How long a command waits for sessions that have locked the queue's tables, and how it names such a session."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from jobdeck.core.postgres.database import Database

LOCK_SECONDS = 5.0
"""How long a statement of a command waits for a lock. Many functions of the queue have a shorter limit of their own."""


@contextmanager
def limited_waits(database: Database, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Limits the waits of a command's connection, which is closed when the command ends.

    Raises:
        Refused: a session held a table of the queue for longer. The message names the session.
    """
    from psycopg.errors import LockNotAvailable  # noqa: PLC0415 -- imported on first use

    from jobdeck.core.errors import Locked, Refused  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.postgres.database import limit_waits  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.schema import known_components  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.schema.turn import holder  # noqa: PLC0415 -- imported on first use

    # A database that was opened with the limit has it already. A pooler would keep the setting for other programs.
    if database.lock_seconds is None and database.probe().listens:
        limit_waits(conn, LOCK_SECONDS)
    try:
        yield
    except (Locked, LockNotAvailable) as error:
        # A call of a function of the queue has converted the error already, and takes the lock for that of a row.
        converted = isinstance(error, Locked)
        who = holder(conn, database.schema, known_components(), whole_tables=converted)
        if converted and not who:
            raise
        raise Refused(
            f"Another session has locked the queue's tables{f' ({who})' if who else ''}. "
            f"Try again once its transaction has ended."
        ) from None
