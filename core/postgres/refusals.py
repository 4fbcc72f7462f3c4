"""What the functions of the schema refuse, as errors of Jobdeck."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from jobdeck.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED: Final = "JD001"
"""The SQLSTATE of a function that refuses with a sentence."""


@contextmanager
def refusals() -> Iterator[None]:
    """Raises as `Refused` what the database refuses with a sentence, and values that it cannot store."""
    try:
        yield
    except (psycopg.DataError, UnicodeEncodeError) as error:
        reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        raise Refused(f"What was given cannot be stored: {reason or error}. Nothing was changed.") from None
    except psycopg.Error as error:
        if error.sqlstate == REFUSED:
            raise Refused(error.diag.message_primary or "The database refused.") from None
        raise
