"""A TCP proxy in front of a server that counts how often a client waits for an answer, by what the client sends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.support.postgres import PostgresServer

ENCRYPTION: Final = {80877103: "ask for TLS", 80877104: "ask for GSS"}
"""Codes of the packets after which a client waits before it sends its startup packet."""
CONNECTING: Final = ["connect", "ask for TLS", "start"]
"""What a client waits for until it is connected, without a password."""
PARSE, QUERY, SYNC, FLUSH, PASSWORD = b"P", b"Q", b"S", b"H", b"p"


class RoundTrips:
    """What clients waited for, in their order: the opening of a connection, and the statements of each round trip.

    A client waits after Query, after Sync and after Flush, so that the count depends on no clock. Statements that a
    pipeline sends together are one round trip.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.taken: list[str] = []
        self._allowed = threading.Event()
        self._allowed.set()

    def __len__(self) -> int:
        return len(self.taken)

    def since(self, before: int) -> list[str]:
        """The round trips after the first `before`."""
        return self.taken[before:]

    def hold(self) -> None:
        """Keeps back what servers answer, until `release`."""
        self._allowed.clear()

    def release(self) -> None:
        self._allowed.set()

    def serve(self, listener: socket.socket, target: str) -> None:
        """Accepts connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client, target), daemon=True).start()

    def _carry(self, client: socket.socket, target: str) -> None:
        self.taken.append("connect")
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(target)
            back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            back.start()
            reading = _Reading(self.taken)
            with suppress(OSError):
                while data := client.recv(65_536):
                    reading.feed(data)
                    server.sendall(data)
            with suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                self._allowed.wait()
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class _Reading:
    """Reads the packets of one client."""

    def __init__(self, taken: list[str]) -> None:
        self._taken = taken
        self._data = b""
        self._started = False
        self._statements: list[str] = []

    def feed(self, data: bytes) -> None:
        self._data += data
        while True:
            head = 1 if self._started else 0
            if len(self._data) < head + 4:
                return
            end = head + int.from_bytes(self._data[head : head + 4])
            if len(self._data) < end:
                return
            kind, body, self._data = self._data[:head], self._data[head + 4 : end], self._data[end:]
            self._read(kind, body)

    def _read(self, kind: bytes, body: bytes) -> None:
        if not self._started:
            encryption = ENCRYPTION.get(int.from_bytes(body[:4]))
            self._started = encryption is None
            self._taken.append(encryption or "start")
        elif kind == PARSE:
            self._statements.append(_shown(body.split(b"\0")[1]))
        elif kind == FLUSH and not self._statements:
            pass  # psycopg sends it with a Sync, and waits once for both
        elif kind in {QUERY, SYNC, FLUSH, PASSWORD}:
            self._statements += [_shown(body)] if kind == QUERY else []
            self._taken.append("password" if kind == PASSWORD else " | ".join(self._statements))
            self._statements = []


def _shown(statement: bytes) -> str:
    return " ".join(statement.rstrip(b"\0").decode().split())[:80]


@contextmanager
def round_trips(server: PostgresServer, database: str) -> Iterator[RoundTrips]:
    """Counts for clients of this database that connect to `url`."""
    listener = socket.create_server(("127.0.0.1", 0))
    counted = RoundTrips(f"postgresql://jobdeck@127.0.0.1:{listener.getsockname()[1]}/{database}")
    thread = threading.Thread(target=counted.serve, args=(listener, str(server.folder / ".s.PGSQL.5432")), daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        counted.release()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
