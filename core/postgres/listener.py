"""Waits for NOTIFY on its own connection, which it replaces when it is lost."""

from __future__ import annotations

import math
import random
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from jobdeck.core.errors import JobdeckError

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_DELAY = 0.25
LONGEST_DELAY = 30.0
MOST_PAYLOADS = 1000


class Listener:
    """Listens on one channel in its own thread. Any thread may call `wait`, `wake` and `close`.

    Notifications that are sent while the connection is down are lost. So `wait` returns one empty payload after a
    reconnection, as if there had been a notification.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any] | None], channel: str, *, at_once: bool = False
    ) -> None:
        """Connects and starts to listen; repeats that until it succeeds, while `wait` gets no notifications.

        Args:
            connect: returns a new autocommit connection, or None if LISTEN does not work with this server.
            channel: the channel's name, taken literally.
            at_once: whether to return before it listens. `wait` then returns an empty payload as soon as it does.
        """
        self._connect = connect
        self._command = sql.SQL("LISTEN {}").format(sql.Identifier(channel))
        self._condition = threading.Condition()
        self._payloads: deque[str] = deque(maxlen=MOST_PAYLOADS)
        self._woken = False
        self._connected = False
        self.round_trip = math.inf
        """How long the last LISTEN took, in seconds: one round trip, and little else."""
        self._closing = threading.Event()
        self._tried = threading.Event()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"listen {channel}", daemon=True)
        if at_once:
            self._tried.set()
        self._thread.start()
        self._tried.wait()

    @property
    def connected(self) -> bool:
        """Whether notifications are received now; always False through a transaction-mode pooler."""
        return self._connected

    def wait(self, timeout: float) -> list[str]:
        """Waits up to `timeout` seconds for notifications and returns their payloads; empty if none came.

        `wake` and `close` end the wait at once. A lost connection neither ends it nor raises.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._payloads or self._woken or self._closing.is_set(), timeout)
            payloads = list(self._payloads)
            self._payloads.clear()
            self._woken = False
            return payloads

    def wake(self) -> None:
        """Ends the current wait, or the next one if no thread waits now."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def close(self) -> None:
        """Ends a wait, the thread and the connection. Closing twice is allowed."""
        self._closing.set()
        # Closing it is not enough: a process that was forked meanwhile has it as well.
        with suppress(OSError):
            self._stop.shutdown(socket.SHUT_RDWR)
        self._stop.close()
        self.wake()
        self._thread.join()
        self._stopped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._closing.is_set():
            try:
                connection = self._connect()
                if connection is None:
                    break
                with connection:
                    began = time.monotonic()
                    connection.execute(self._command)
                    self.round_trip = time.monotonic() - began
                    delay = FIRST_DELAY
                    self._hear(connection)
            except (psycopg.Error, JobdeckError):
                self._connected = False
                self._tried.set()
                self._closing.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads reconnects
                delay = min(delay * 2, LONGEST_DELAY)
        self._connected = False
        self._tried.set()

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        """Collects payloads until the listener closes; a lost connection raises OperationalError."""
        self._connected = True
        if self._tried.is_set():
            self._pass_on([""])
        self._tried.set()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stopped, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            # What came with the answer of LISTEN, psycopg has kept.
            self._pass_on([notify.payload for notify in connection.notifies(timeout=0)])
            while not self._closing.is_set():
                self._pass_on(_received(connection))
                selector.select()

    def _pass_on(self, payloads: list[str]) -> None:
        if payloads:
            with self._condition:
                self._payloads.extend(payloads)
                self._condition.notify_all()


def _received(connection: psycopg.Connection[Any]) -> list[str]:
    """The payloads of the notifications that have come. `Connection.notifies` takes twenty times as long for none.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    payloads = []
    with connection.lock:
        connection.pgconn.consume_input()
        while (notify := connection.pgconn.notifies()) is not None:
            payloads.append(notify.extra.decode())
    return payloads
