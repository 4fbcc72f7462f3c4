"""Errors of statements: refusals of the schema's functions become `Refused`, and a pipeline raises its first one."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from jobdeck.core.errors import Locked, Refused

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

REFUSED: Final = "JD001"
"""The SQLSTATE that the schema's functions raise with a message for the user."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
_DATA_ERRORS: Final = "22"
"""The class of SQLSTATEs for values that do not fit."""

_NO_FUNCTION: Final = "42883"
_NO_SCHEMA: Final = "3F000"
_OF_PRODUCERS: Final = re.compile(r"\bjob_(?:queue_create(?:_many|_once)?|series_create|flow_create)\(")
"""Found in the message in every language of the server: it quotes the call of the function that is not there."""

NOT_INSTALLED: Final = (
    "The queue was not found, so nothing was enqueued. Set JOBDECK_SCHEMA to its schema, as `jobdeck init --schema` "
    "was given it, or run `jobdeck init` first."
)
LOCKED: Final = "Another session has locked this job. Nothing was changed; try again."


def refusal(sqlstate: str | None, message: str | None, locked: str = LOCKED) -> Refused | None:
    """The refusal that an error of Postgres means, or None.

    It is one of the schema's functions, or means a value that cannot be stored, a lock (`locked`), or that an
    application enqueues where the queue is not installed.
    """
    if sqlstate == REFUSED:
        return Refused(message or "The database refused the action.")
    if sqlstate == _LOCK_NOT_AVAILABLE:
        return Locked(locked)
    if sqlstate == _NO_SCHEMA or (sqlstate == _NO_FUNCTION and _OF_PRODUCERS.search(message or "")):
        return Refused(NOT_INSTALLED)
    if sqlstate is not None and sqlstate.startswith(_DATA_ERRORS):
        return unstorable(message or "it is malformed")
    return None


def unstorable(reason: str) -> Refused:
    """The refusal of a value that Postgres cannot store."""
    return Refused(f"The database cannot store this value: {reason}. Nothing was changed.")


@contextmanager
def refusals(locked: str = LOCKED) -> Iterator[None]:
    """Raises `Refused` where `refusal` recognises an error of psycopg, and for values that psycopg cannot send."""
    try:
        yield
    except psycopg.Error as error:
        refused = refusal(error.sqlstate, error.diag.message_primary, locked)
        if refused is None and isinstance(error, psycopg.DataError):
            refused = unstorable(str(error))
        if refused is None:
            raise
        raise refused from None
    except UnicodeEncodeError as error:
        raise unstorable(str(error)) from None


@contextmanager
def pipelined(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """A pipeline that raises the error of the statement that failed first.

    If the server answers while statements are still sent, psycopg raises that error inside the block. It then logs a
    warning for each statement that Postgres left out, which says nothing new.
    """
    failed: psycopg.Error | None = None
    try:
        with conn.pipeline() as pipeline:
            _end_with_sync(pipeline)
            try:
                yield
            except psycopg.Error as error:
                failed = error
    except psycopg.Error:
        if failed is None:
            raise
    if failed is not None:
        raise failed


_PARTS_OF_THE_END: Final = ("_exit_gen", "_enqueue_sync", "_communicate_gen", "_fetch_gen")


def _end_with_sync(pipeline: psycopg.Pipeline) -> None:
    """Makes Sync the last message of a pipeline.

    psycopg sends a Flush after it, which gets no answer. By then, a pooler in transaction mode may have taken the
    server's connection back. It lends one for the Flush, and waits for an answer until the client's next statement.
    psycopg has no public way to end a pipeline otherwise. A release of it that has other parts ends it in its own way.
    """
    if not all(hasattr(pipeline, part) for part in _PARTS_OF_THE_END):
        return

    def leave() -> Generator[int, int, None]:
        try:
            pipeline._enqueue_sync()  # noqa: SLF001
            yield from pipeline._communicate_gen()  # noqa: SLF001
        finally:
            yield from pipeline._fetch_gen(flush=False)  # noqa: SLF001

    vars(pipeline)["_exit_gen"] = leave
