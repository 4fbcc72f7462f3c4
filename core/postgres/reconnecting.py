"""A connection that belongs to one thread and is replaced when it is lost, and threads that work in rounds on one."""

from __future__ import annotations

import logging
import random
import threading
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
LONGEST_PAUSE = 1.0
"""A worker is back within a second of its database. A hundred workers try to connect some 400 times a second."""
FAILURES = (psycopg.Error, JobdeckError)
"""The errors that `Link.run` raises."""
LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""The errors of a lost connection, among others of the server: `Link.repeatable` decides by the SQLSTATE."""
_PASSING = ("08", "40", "53100", "53300", "55P03", "57P01", "57P02", "57P03", "58", "25006")
"""Beginnings of SQLSTATEs that say nothing about the statement: connection, deadlock and serialization, disk full, too
many connections, lock timeout, shutdown and start, files of the server, read-only server (appendix A of the manual)."""
_READ_ONLY = "25006"


class Link:
    """One connection, opened at first use, and again at the next use after it broke.

    It counts consecutive failures, for pauses that grow from 0.1 s to `longest`, and logs an outage once.
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
        """Opens the connection if it is not open.

        Raises:
            psycopg.Error, JobdeckError: the connection failed.
        """
        self.run(lambda _conn: None)

    def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Calls `work` with the connection.

        Raises:
            psycopg.Error: a statement failed; `repeatable` says whether it can be repeated.
            JobdeckError: the connection failed.
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
            event(log, logging.INFO, "the database works again", purpose=self._purpose)
        return result

    def repeatable(self, error: BaseException) -> bool:
        """Whether the statement that just failed with this error may succeed later, unchanged.

        An error without SQLSTATE is one of the connection if that is closed now, else one of the statement.
        """
        if isinstance(error, psycopg.Error) and error.sqlstate is not None:
            return error.sqlstate.startswith(_PASSING)
        return isinstance(error, (*LOST, JobdeckError)) and self._connection is None

    def pause(self) -> float:
        """Seconds to wait before the next try, with jitter so that many workers do not reconnect together."""
        longest = min(self._longest, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret depends on it

    def close(self) -> None:
        """Closes the connection; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        self.working = False
        # A server that has become read-only has handed its role to another one, which a new connection may find.
        read_only = isinstance(error, psycopg.Error) and error.sqlstate == _READ_ONLY
        if self._connection is not None and (read_only or self._connection.closed):
            self.close()
        if self._failures == 1:
            event(
                log,
                logging.WARNING,
                "the database failed; trying again until it works",
                purpose=self._purpose,
                error=safe_error(str(error)),
            )


class Rounds:
    """A thread that works in rounds, on a connection of its own, until it is stopped. No error ends it."""

    def __init__(
        self, database: Database, purpose: str, every: float, name: str, *, longest: float = LONGEST_PAUSE
    ) -> None:
        """Creates the thread without starting it.

        Args:
            database: the database of the connection.
            purpose: what the rounds are for, in the log.
            every: the seconds between two rounds. While the database does not work, the pauses of `Link` are between
                them, which grow up to `longest`.
            name: the name of the thread.
            longest: see `every`.
        """
        self._link = Link(database, purpose, longest)
        self._purpose = purpose
        self._every = every
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=name)

    def wake(self) -> None:
        """Makes the next round begin at once."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread after the current round."""
        self._ending.set()
        self._wake.set()

    def _round(self) -> None:
        """Does what is due."""
        raise NotImplementedError

    def _last(self) -> None:
        """Does what is left when the thread ends."""

    def _loop(self) -> None:
        try:
            while not self._ending.is_set():
                pause = self._step()
                # A round may have cleared what `stop` has set.
                if not self._ending.is_set():
                    self._wake.wait(pause)
                self._wake.clear()
            self._last()
        finally:
            self._link.close()

    def _step(self) -> float:
        """Carries out one round; returns the seconds until the next one."""
        try:
            self._round()
        except FAILURES:
            return self._link.pause()
        except Exception as error:  # noqa: BLE001 -- the next round must come after any error
            event(log, logging.ERROR, f"{self._purpose} failed", error=safe_error(repr(error)))
        return self._every
