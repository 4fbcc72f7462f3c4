"""uvicorn's protocol within limits: time for a head and for a response, requests, and the overhead of chunks.

uvicorn by itself waits forever for a request that never starts or never ends, and for a client that never reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from jobdeck.core.http.clients.gate import Gate, Rank

CONNECTION: Final = "jobdeck.connection"
"""The key of a request's scope under which its connection is."""
READ_BYTES: Final = 16 * 1024
"""How much is read from a connection at a time. It limits both the memory of a connection and the time of one turn."""
CLOSE: Final = (b"connection", b"close")

FREE_CHUNKS: Final = 64
CHUNK_BYTES: Final = 256
"""The bytes that every further chunk of a body must bring on average. A chunk costs the time of 16 KiB of body."""
FREE_BYTES: Final = 64 * 1024
"""Bytes around the body of one request, such as extensions of chunks; beyond them, at most as many as the body has."""


def limited(gate: Gate) -> type[LimitedProtocol]:
    """A protocol class whose connections belong to this gate."""
    return type("GatedProtocol", (LimitedProtocol,), {"gate": gate})


class FrugalConnection(h11.Connection):
    """h11's parser, which refuses a body in too many chunks, or with too many bytes around it."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self._received = self._body = self._chunks = 0

    def receive_data(self, data: bytes) -> None:
        self._received += len(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        """The next event of the request.

        Raises:
            h11.RemoteProtocolError: the request is not HTTP, or its body is not worth its cost.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._received = self._body = self._chunks = 0
        elif isinstance(event, h11.Data):
            self._body += len(event.data)
            self._chunks += event.chunk_start
            if self._chunks > FREE_CHUNKS + self._body // CHUNK_BYTES or self._received > FREE_BYTES + 2 * self._body:
                raise h11.RemoteProtocolError("The chunks of the body are too small.")
        return event


class ThriftyFlow(FlowControl):
    """uvicorn's flow control, which reads nothing more while a pipeline waits for the response to its last request."""

    def __init__(self, transport: asyncio.Transport, conn: h11.Connection) -> None:
        super().__init__(transport)
        self._conn = conn

    def resume_reading(self) -> None:
        if self._conn.their_state is not h11.DONE or not self._conn.trailing_data[0]:
            super().resume_reading()


class LimitedProtocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol, which reads in turn and within the limits of its gate."""

    gate: Gate

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn = FrugalConnection(self.config.h11_max_incomplete_event_size or READ_BYTES)
        self._buffer = bytearray(READ_BYTES)
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._requests = 0
        self._unproven = 0
        self._proven = False
        self.admitted = True
        """Whether the request is within the number of connections of its secret."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = ThriftyFlow(transport, self.conn)
        # With a limit of 0 the transport says exactly when a client has not read everything, and when it has.
        transport.set_write_buffer_limits(high=0)
        self.gate.place(self, Rank.WAITING)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_sending()
        self.gate.leave(self)
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def handle_events(self) -> None:
        """Handles what was received in turn.

        uvicorn calls this for received bytes, and after a response for the next request of a pipeline.
        """
        state = self.conn.their_state
        if state is h11.IDLE:
            head = self.conn.trailing_data[0]
            if not head:
                return
            self.gate.recognise(self, head)
        if state is h11.DONE:
            self.serve()
        else:
            self.flow.pause_reading()
            self.gate.ask(self, again=self._unproven > 0)

    def serve(self) -> None:
        """Handles what was received."""
        if self.transport.is_closing():
            return
        before = self.cycle
        if self.conn.their_state is h11.IDLE:
            self.admitted = self.gate.admits(self)
        self.flow.resume_reading()
        super().handle_events()
        if self.cycle is not before:
            self._begin()
        if self._answering():
            self._stop_waiting()
        elif self._timer is None and not self.transport.is_closing():
            self._wait()
        self._take_place()

    def proved(self) -> None:
        """Marks the present request as one that is complete and has shown a secret."""
        self._proven = True
        self._take_place()

    def pause_writing(self) -> None:
        """Limits the time in which the client must read."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.gate.limits.send_seconds, self.cut)
        self._take_place()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_sending()
        self._take_place()

    def on_response_complete(self) -> None:
        """Marks the connection idle. uvicorn's keep-alive timer limits the wait for the next request."""
        self._unproven = 0 if self._proven else self._unproven + 1
        self._proven = False
        self.gate.part(self)
        super().on_response_complete()
        self._take_place()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not HTTP, and closes the connection."""
        self._refuse(400, msg)

    def cut(self) -> None:
        self.transport.abort()

    def _begin(self) -> None:
        self._requests += 1
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        if self._requests >= self.gate.limits.requests:
            # As if the client had asked for it: the response says so, and the connection is closed after it.
            self.headers.append(CLOSE)

    def _take_place(self) -> None:
        if self.transport.is_closing():
            return
        if self._proven and self._answering():
            rank = Rank.PROVEN
        elif self.flow.write_paused:
            rank = Rank.BLOCKED
        elif self._answering() and self.gate.is_held(self):
            rank = Rank.SHOWN
        elif self._answering():
            rank = Rank.READING if self.conn.their_state is h11.SEND_BODY else Rank.ASKING
        else:
            rank = Rank.ASKED if self._unproven else Rank.WAITING
        self.gate.place(self, rank)

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.gate.limits.header_seconds, self._too_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_sending(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

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
