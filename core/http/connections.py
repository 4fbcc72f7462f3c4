"""Limits the number of connections and the time until the head of a request is complete.

uvicorn by itself waits forever for a request that never starts or never ends.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HEADER_SECONDS: Final = 10.0
MOST_CONNECTIONS: Final = 400
"""When there are more, the connection that has been without a complete request the longest is closed."""


class Gate:
    """Tracks all connections of one server. `refused` is called with the status of requests refused before routing."""

    def __init__(
        self,
        refused: Callable[[int], None],
        *,
        header_seconds: float = HEADER_SECONDS,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self.refused = refused
        self.header_seconds = header_seconds
        self._most = most
        self._waiting: dict[LimitedProtocol, None] = {}
        self._count = 0

    def enter(self, connection: LimitedProtocol) -> None:
        """Adds a connection, and closes the oldest idle one if there are too many."""
        self._count += 1
        self._waiting[connection] = None
        if self._count > self._most:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cut()

    def busy(self, connection: LimitedProtocol) -> None:
        """Marks a connection whose request is complete, so that it is not closed."""
        self._waiting.pop(connection, None)

    def idle(self, connection: LimitedProtocol) -> None:
        """Marks a connection that waits for its next request."""
        self._waiting[connection] = None

    def leave(self, connection: LimitedProtocol) -> None:
        self._count -= 1
        self._waiting.pop(connection, None)

    def protocol(self) -> type[LimitedProtocol]:
        """A protocol class whose connections belong to this gate."""
        return type("GatedProtocol", (LimitedProtocol,), {"gate": self})


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with a time limit for the head of a request."""

    gate: Gate

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.gate.enter(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.gate.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handles received bytes. The timer runs until the head of a request is complete."""
        super().data_received(data)
        if self._answering():
            self._stop_waiting()
            self._busy_if_whole()
        elif self._timer is None and not self.transport.is_closing():
            self._wait()

    def on_response_complete(self) -> None:
        """Marks the connection idle. uvicorn's keep-alive timer limits the wait for the next request."""
        self.gate.idle(self)
        super().on_response_complete()
        self._busy_if_whole()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not HTTP, and closes the connection."""
        self._refuse(400, msg)

    def cut(self) -> None:
        self.transport.abort()

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _busy_if_whole(self) -> None:
        if self._answering() and self.conn.their_state is not h11.SEND_BODY:
            self.gate.busy(self)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.gate.header_seconds, self._too_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._answering() or self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "The request took too long to arrive.")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self.gate.refused(status)
        with contextlib.suppress(h11.LocalProtocolError):
            content = message.encode()
            head = h11.Response(
                status_code=status,
                reason=HTTPStatus(status).phrase.encode(),
                headers=[
                    ("content-type", "text/plain; charset=utf-8"),
                    ("content-length", str(len(content))),
                    ("connection", "close"),
                ],
            )
            for part in (head, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
