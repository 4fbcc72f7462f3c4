"""A transaction of the cut-over, which waits for other sessions only briefly."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.errors import Refused
from jobdeck.core.schema import known_components
from jobdeck.core.schema.turn import holder

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_SECONDS: Final = 2
"""How long a statement waits for a lock. All claims may wait meanwhile."""


@contextmanager
def brief(conn: psycopg.Connection[Any], *, dry_run: bool = False) -> Iterator[None]:
    """One transaction, which is taken back when a lock is not free in time.

    Raises:
        Refused: another session held the queue's tables. The message names the session.
    """
    try:
        with conn.transaction(force_rollback=dry_run):
            conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_SECONDS}s"])
            yield
    except (Refused, psycopg.errors.LockNotAvailable) as error:
        # A call of a function of the queue has converted the error already.
        if not isinstance(error.__context__ if isinstance(error, Refused) else error, psycopg.errors.LockNotAvailable):
            raise
        who = holder(conn, "public", known_components())
        raise Refused(
            f"Another session has held the queue's tables for {LOCK_SECONDS} s{f' ({who})' if who else ''}. "
            f"Nothing was changed. Try again once its transaction has ended."
        ) from None
