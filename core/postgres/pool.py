"""Pools of connections: one that threads share, and one for the tasks of an event loop.

A thread that needs a new connection opens it itself. So an unreachable server raises its error at once, and the first
try after it has recovered succeeds. A pool that connects in the background and backs off does neither.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus

from jobdeck.core.postgres.lent.loan import Loan, begin, begin_async, check, check_async, cleaned, cleaned_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
C = TypeVar("C", Connection, AsyncConnection)

WAIT_SECONDS = 30.0
TRUST_SECONDS = 30.0
SPARE_SECONDS = 60.0
_poll = getattr(select, "poll", None)


class _Spare(NamedTuple, Generic[C]):
    """An unused connection, since when it is that, and whether it was lent: it may have to be cleaned then."""

    connection: C
    since: float
    lent: bool


class _Place:
    """One use of a connection. It counts while it lives, so that a user who is interrupted at any step leaves it."""


class _Spares(Generic[C]):
    """The unused connections of a pool; the one returned last is used first.

    One that was lent to code of an application is only lent again. The pool's own users never get it.
    """

    def __init__(self, label: str, min_size: int, max_size: int) -> None:
        self._label = label
        self._min_size = min_size
        self._max_size = max_size
        self._lock = threading.Lock()
        self._idle: list[_Spare[C]] = []
        self._used: WeakSet[_Place] = WeakSet()
        self._closed = False

    def _pop(self, *, lent: bool) -> _Spare[C] | None:
        """An unused connection, to lend it or not; None if there is none.

        One that was lent is returned to the pool's own user where no other may be opened beside it: to be closed.

        Raises:
            psycopg.OperationalError: the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise psycopg.OperationalError(f"The connections to {self._label} are closed.")
            fitting = [place for place, spare in enumerate(self._idle) if lent or not spare.lent]
            # Those that were lent first: the pool's own users cannot have them.
            place = max(fitting, key=lambda place: (self._idle[place].lent, place), default=None)
            if place is None and self._idle and len(self._used) + len(self._idle) > self._max_size:
                place = 0
            return None if place is None else self._idle.pop(place)

    def _keep(self, connection: C, *, lent: bool = False) -> list[C]:
        """Takes back a connection; returns those to close. One that was lent is cleaned meanwhile, or closed."""
        now = time.monotonic()
        usable = not connection.closed if lent else connection.info.transaction_status is TransactionStatus.IDLE
        surplus = [connection]
        with self._lock:
            if not self._closed and usable:
                self._idle.append(_Spare(connection, now, lent))
                surplus = []
            if len(self._idle) > self._min_size and now - self._idle[0].since > SPARE_SECONDS:
                surplus.append(self._idle.pop(0).connection)
        return surplus

    def _empty(self) -> list[C]:
        """Lets no more connections be taken; returns those to close."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        return [spare.connection for spare in idle]

    def _all_taken(self) -> psycopg.OperationalError:
        return psycopg.OperationalError(
            f"All {self._max_size} connections to {self._label} have been in use for {WAIT_SECONDS:.0f} s."
        )


class Pool(_Spares[Connection]):
    """Up to `max_size` connections; the one returned last is used first."""

    def __init__(self, connect: Callable[[], Connection], *, label: str, min_size: int, max_size: int) -> None:
        """Opens no connection yet.

        Args:
            connect: opens a new connection.
            label: the name of the database in messages.
            min_size: the number of unused connections that stay open for longer than a minute.
            max_size: the maximum number of connections.
        """
        super().__init__(label, min_size, max_size)
        self._connect = connect
        self._freed = threading.Condition(self._lock)
        self._ahead: list[Future[Connection]] = []

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A working connection. It is closed if it is returned inside a transaction.

        Raises:
            psycopg.OperationalError: the connection failed, or none was free within 30 seconds.
        """
        with self._place():
            connection = self._take(lent=False)
            try:
                yield connection
            finally:
                self.take_in(connection)

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """A working connection for code of an application, which may change what it likes: see `Loan`.

        Raises:
            psycopg.OperationalError: the connection failed, or none was free within 30 seconds.
            LeftOpen: the block ended in a transaction in which it had written.
        """
        with self._place():
            connection = self._take(lent=True)
            loan = Loan(connection)
            try:
                begin(loan)
                yield loan.lent
                check(loan)
            finally:
                loan.end()
                for spare in self._keep(connection, lent=True):
                    spare.close()

    @contextmanager
    def _place(self) -> Iterator[None]:
        place, deadline = _Place(), time.monotonic() + WAIT_SECONDS
        try:
            with self._lock:
                while len(self._used) >= self._max_size:
                    if time.monotonic() >= deadline:
                        raise self._all_taken()
                    self._freed.wait(min(1.0, deadline - time.monotonic()))
                self._used.add(place)
            yield
        finally:
            with self._lock:
                self._used.discard(place)
                self._freed.notify()

    def take_in(self, connection: Connection) -> None:
        """Keeps a connection that the caller has opened, to give it out as its own."""
        for spare in self._keep(connection):
            spare.close()

    def close(self) -> None:
        """Closes unused connections now, and the others when they are returned. Closing twice is allowed."""
        for connection in self._empty():
            connection.close()
        with self._lock:
            unused, self._ahead = self._ahead, []
        for ahead in unused:
            ahead.add_done_callback(_close_opened)

    def take_ahead(self) -> Connection | None:
        """Waits for a connection that `open_ahead` has begun, and returns it. None if there is none, or all were taken.

        Raises:
            psycopg.OperationalError: the connection failed.
        """
        with self._lock:
            ahead = self._ahead.pop(0) if self._ahead else None
        return None if ahead is None else ahead.result()

    def open_ahead(self, connect: Callable[[], Connection]) -> None:
        """Starts to open a connection in a thread, for `take_ahead`. `close` closes it if nobody has taken it."""
        ahead: Future[Connection] = Future()
        with self._lock:
            self._ahead.append(ahead)

        def open_it() -> None:
            try:
                ahead.set_result(connect())
            except Exception as error:  # noqa: BLE001 -- raised where the connection is taken
                ahead.set_exception(error)

        # The program may end while a connection hangs.
        threading.Thread(target=open_it, name="jobdeck-connect", daemon=True).start()

    def _take(self, *, lent: bool) -> Connection:
        while (found := self._pop(lent=lent)) is not None:
            connection, since, was_lent = found
            fits = not was_lent or (lent and cleaned(connection))
            if fits and _is_alive(connection, time.monotonic() - since):
                return connection
            connection.close()
        return self._connect()


def _close_opened(ahead: Future[Connection]) -> None:
    if ahead.exception() is None:
        ahead.result().close()


def has_data(handle: int) -> bool:
    """Whether a socket has data to read, or was closed by the other side; does not wait."""
    if _poll is None:
        return bool(select.select([handle], [], [], 0)[0])
    # Without `selectors`, which costs four times as much, at each use of a connection.
    poll = _poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _is_fresh(connection: Connection | AsyncConnection, idle_seconds: float) -> bool:
    """Whether an unused connection is taken for working without a test.

    A server that closed the connection has left data to read. Without such data, the connection is trusted for 30
    seconds after its last use; later it is tested with an empty statement.
    """
    return idle_seconds < TRUST_SECONDS and not has_data(connection.fileno())


def _is_alive(connection: Connection, idle_seconds: float) -> bool:
    """Whether an unused connection still works."""
    if connection.closed or _is_fresh(connection, idle_seconds):
        return not connection.closed
    try:
        connection.execute("")
    except psycopg.Error:
        return False
    return True


async def _is_alive_async(connection: AsyncConnection, idle_seconds: float) -> bool:
    """Whether an unused connection still works."""
    if connection.closed or _is_fresh(connection, idle_seconds):
        return not connection.closed
    try:
        await connection.execute("")
    except psycopg.Error:
        return False
    return True


class AsyncPool(_Spares[AsyncConnection]):
    """Up to `max_size` connections; the one returned last is used first. All calls are made on one event loop."""

    def __init__(self, connect: Callable[[], Awaitable[AsyncConnection]], *, label: str, max_size: int) -> None:
        """Opens no connection yet.

        Args:
            connect: opens a new connection.
            label: the name of the database in messages.
            max_size: the maximum number of connections.
        """
        super().__init__(label, 1, max_size)
        self._connect = connect
        self._slots = asyncio.Semaphore(max_size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A working connection. It is closed if it is returned inside a transaction.

        Raises:
            psycopg.OperationalError: the connection failed, or none was free within 30 seconds.
        """
        async with self._slot():
            connection = await self._take(lent=False)
            try:
                yield connection
            finally:
                for spare in self._keep(connection):
                    await spare.close()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[AsyncConnection]:
        """A working connection for code of an application, which may change what it likes: see `Loan`.

        Raises:
            psycopg.OperationalError: the connection failed, or none was free within 30 seconds.
            LeftOpen: the block ended in a transaction in which it had written.
        """
        async with self._slot():
            connection = await self._take(lent=True)
            loan = Loan(connection)
            try:
                # A task may be cancelled here, as well as in the block.
                await begin_async(loan)
                yield loan.lent
                await check_async(loan)
            finally:
                loan.end()
                for spare in self._keep(connection, lent=True):
                    await spare.close()

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise self._all_taken() from None
        place = _Place()
        try:
            self._used.add(place)
            yield
        finally:
            self._used.discard(place)
            self._slots.release()

    async def close(self) -> None:
        """Closes unused connections now, and the others when they are returned. Closing twice is allowed."""
        for connection in self._empty():
            await connection.close()

    async def _take(self, *, lent: bool) -> AsyncConnection:
        while (found := self._pop(lent=lent)) is not None:
            connection, since, was_lent = found
            alive = False
            try:
                if not was_lent or (lent and await cleaned_async(connection)):
                    alive = await _is_alive_async(connection, time.monotonic() - since)
            finally:
                # Also where the wait was cancelled: the connection is in the middle of a statement then.
                if not alive:
                    await connection.close()
            if alive:
                return connection
        return await self._connect()
