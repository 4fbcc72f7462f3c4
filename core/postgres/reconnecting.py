"""A connection that belongs to one thread and is replaced when it is lost."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from jobdeck.core.errors import JobdeckError
from jobdeck.core.logs import event
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.postgres.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
FAILURES = (psycopg.Error, JobdeckError)
"""What `Link.run` raises when the database does not do as it was asked."""
LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""Those after which the same statement may simply be sent again: connection lost, deadlock, shutdown."""


class Link:
    """One connection, made at first use, dropped when it breaks, made anew at the next use.

    It counts failures in a row, for pauses that grow from 0.1 s to `longest`, and logs an outage once.
    """

    def __init__(self, database: Database, purpose: str, longest: float = LONGEST_PAUSE) -> None:
        self._database = database
        self._purpose = purpose
        self._longest = longest
        self._connection: psycopg.Connection[Any] | None = None
        self._failures = 0
        self.working = False
        """Whether the last use succeeded."""

    def connect(self) -> None:
        """Makes the connection, if it is not there.

        Raises:
            psycopg.Error, JobdeckError: it cannot be made.
        """
        self.run(lambda _conn: None)

    def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Calls `work` with the connection.

        Raises:
            psycopg.Error: it failed; after one of `LOST` the same may be tried again.
            JobdeckError: no connection could be made.
        """
        try:
            if self._connection is None:
                self._connection = self._database.connect()
            result = work(self._connection)
        except FAILURES as error:
            self._failed(error)
            raise
        self.working = True
        if self._failures:
            self._failures = 0
            event(log, logging.INFO, "the database does its part again", purpose=self._purpose)
        return result

    def pause(self) -> float:
        """Seconds to wait before the next try; jittered, so that many workers do not come back at once."""
        longest = min(self._longest, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret depends on it

    def close(self) -> None:
        """Closes the connection; a later use makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        self.working = False
        if self._connection is not None and self._connection.closed:
            self.close()
        if self._failures == 1:
            event(
                log,
                logging.WARNING,
                "the database did not do as it was asked; trying again until it does",
                purpose=self._purpose,
                error=safe_error(str(error)),
            )
