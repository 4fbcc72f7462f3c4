"""Lends a connection to code of an application, and takes it back without what that code changed.

Handlers may set anything on `ctx.db`: autocommit, row factories, parameters of the session, a role, LISTEN, advisory
locks, temporary tables. The next run must find none of it.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.generators import execute
from psycopg.pq import ExecStatus, PGconn, PipelineStatus, TransactionStatus, abc

from jobdeck.core.errors import JobdeckError

C = TypeVar("C", psycopg.Connection[Any], psycopg.AsyncConnection[Any])

_CLEAN = b"RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; SELECT pg_advisory_unlock_all()"
"""`DISCARD ALL` does this as well, but drops all prepared statements and cached plans."""
_DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
_WROTE = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
_GONE = PGconn.connect_start(b"no address")
"""A connection that was never opened: what a borrower's object has after the end of its loan."""
CLOSED: psycopg.Connection[Any] = psycopg.Connection(_GONE)
"""What a run's context has after its end, for a thread that asks it for a connection then."""
_TRANSACTION = (
    "A transaction was left open on the connection, so what was written in it is rolled back. Commit it, or write "
    "within a block of conn.transaction()."
)
_STATEMENT = (
    "A statement was still running on the connection, and it was cut off, so nobody knows whether it took effect. "
    "Wait for it before the connection is returned."
)


class LeftOpen(JobdeckError):
    """A borrower returned a connection in a transaction in which it had written, or in the middle of a statement."""


class Loan(Generic[C]):
    """One connection while a borrower has it.

    The borrower gets an object of its own for the session. So what it sets on that object goes with it, and a thread
    that it left behind finds the connection closed instead of working within the next run's transaction.
    """

    def __init__(self, own: C) -> None:
        self.own: C = own
        self._session_user = own.pgconn.parameter_status(b"session_authorization")
        self._prepare_threshold, self._prepared_max = own.prepare_threshold, own.prepared_max
        lent = type(own)(own.pgconn)
        # psycopg has no public way to make a second object for a session: the names of the statements that are prepared
        # in it, and the conversions of the pool's own object.
        lent._prepared = own._prepared  # noqa: SLF001
        lent._adapters = AdaptersMap(own.adapters)  # noqa: SLF001
        # `check` asks through the pool's own object, and a thread that was left must not use the session meanwhile.
        lent.lock = own.lock
        self.lent: C = lent

    @property
    def status(self) -> TransactionStatus:
        """The state of the transaction that the borrower may have left."""
        return TransactionStatus(self.lent.pgconn.transaction_status)

    @property
    def busy(self) -> bool:
        """Whether something that the borrower left is in the middle of a statement."""
        return self.own.lock.locked() or self.own.pgconn.transaction_status == TransactionStatus.ACTIVE

    def end(self) -> None:
        """Takes the connection from its borrower, and starts to clean it. It is closed where that is not possible."""
        pgconn, self.lent.pgconn = self.lent.pgconn, _GONE
        if self.busy:
            # To close it would free the memory with which a thread still works, and give the number of its socket to
            # another connection: that thread would read the answers for others. So the last user frees it.
            self.own.pgconn = _GONE
            with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)
            return
        usable = (
            pgconn.transaction_status == TransactionStatus.IDLE
            and pgconn.pipeline_status == PipelineStatus.OFF
            and pgconn.parameter_status(b"session_authorization") == self._session_user
        )
        if not usable:
            pgconn.finish()
            return
        self.own.prepare_threshold, self.own.prepared_max = self._prepare_threshold, self._prepared_max
        try:
            # The answer is read before the next loan, so that no run waits for it.
            pgconn.send_query(_CLEAN)
        except psycopg.Error:
            pgconn.finish()


def begin(loan: Loan[psycopg.Connection[Any]]) -> None:
    """Begins a loan in the mode of the pool's own object."""
    loan.lent.autocommit, loan.lent.read_only = loan.own.autocommit, loan.own.read_only


async def begin_async(loan: Loan[psycopg.AsyncConnection[Any]]) -> None:
    """The same for a borrower on an event loop."""
    await loan.lent.set_autocommit(loan.own.autocommit)
    await loan.lent.set_read_only(loan.own.read_only)


def check(loan: Loan[psycopg.Connection[Any]]) -> None:
    """Checks what a borrower leaves that believes it has succeeded.

    Raises:
        LeftOpen: what it wrote is rolled back with its transaction, or may be.
    """
    if loan.busy:
        raise LeftOpen(_STATEMENT)
    wrote = loan.status is TransactionStatus.INERROR
    if loan.status is TransactionStatus.INTRANS:
        wrote = loan.own.execute(_WROTE).fetchone() == (True,)
    if wrote:
        raise LeftOpen(_TRANSACTION)


async def check_async(loan: Loan[psycopg.AsyncConnection[Any]]) -> None:
    """The same for a borrower on an event loop."""
    if loan.busy:
        raise LeftOpen(_STATEMENT)
    wrote = loan.status is TransactionStatus.INERROR
    if loan.status is TransactionStatus.INTRANS:
        wrote = await (await loan.own.execute(_WROTE)).fetchone() == (True,)
    if wrote:
        raise LeftOpen(_TRANSACTION)


def cleaned(own: psycopg.Connection[Any]) -> bool:
    """Waits until a connection is clean after its last loan; False if it is lost."""
    try:
        clean = _cleaned_already(own.pgconn)
        return _all_done(own.wait(execute(own.pgconn))) if clean is None else clean
    except psycopg.Error:
        return False


async def cleaned_async(own: psycopg.AsyncConnection[Any]) -> bool:
    """Waits until a connection is clean after its last loan; False if it is lost."""
    try:
        clean = _cleaned_already(own.pgconn)
        return _all_done(await own.wait(execute(own.pgconn))) if clean is None else clean
    except psycopg.Error:
        return False


def _cleaned_already(pgconn: abc.PGconn) -> bool | None:
    """Whether a connection is clean, without a wait; None where the server has not answered yet.

    The answer is there as a rule, and this is half of the work of a wait for it.
    """
    done = True
    pgconn.consume_input()
    while done and not pgconn.is_busy():
        result = pgconn.get_result()
        if result is None:
            # What the last borrower listened for is not for the next one.
            while pgconn.notifies() is not None:
                pass
            return True
        done = result.status in _DONE
    return None if done else False


def _all_done(results: list[Any]) -> bool:
    return all(result.status in _DONE for result in results)
