"""Converts refusals of the schema's functions into `Refused`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from jobdeck.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED: Final = "JD001"
"""The SQLSTATE that the schema's functions raise with a message for the user."""


LOCKED: Final = "Another session has locked this job. Nothing was changed; try again."


@contextmanager
def refusals(locked: str = LOCKED) -> Iterator[None]:
    """Raises `Refused` for refusals of the schema's functions, values that cannot be stored, and locks (`locked`)."""
    try:
        yield
    except (psycopg.DataError, UnicodeEncodeError) as error:
        reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        raise Refused(f"The database cannot store this value: {reason or error}. Nothing was changed.") from None
    except psycopg.errors.LockNotAvailable:
        raise Refused(locked) from None
    except psycopg.Error as error:
        if error.sqlstate == REFUSED:
            raise Refused(error.diag.message_primary or "The database refused the action.") from None
        raise
