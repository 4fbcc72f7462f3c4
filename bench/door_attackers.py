"""Attacks on the HTTP server and on the browser's server, each as one process. `door_attack.py` measures beside them.

A connection that is closed is opened again at once. Attacks come from 127.0.0.2, so that a proxy with limits for each
address tells them from the calls.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

FROM = ("127.0.0.2", 0)
EVENTS, PRODUCERS = "/api/sendgrid/events", "/api/jobs"
DEAF = 400
CHUNKS_PER_SECOND = 700_000 // 6
SLOW = 900
ENDLESS = 32
ENDLESS_BYTES = 2 * 1024 * 1024 - 1000
GREEDY = 16
GREEDY_BODY = b"[" + b",".join([b'{"type": "door_nothing", "payload": {}}'] * 1000) + b"]"
HALF_OPEN = 1144
PAUSE = 0.01


@dataclass(frozen=True)
class Target:
    """What is attacked: a port of this machine, with the token of a producer whose rate is used up."""

    port: int
    token: str = ""

    def open(self) -> socket.socket:
        """A connection that does not block."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=30, source_address=FROM)
        line.setblocking(False)
        return line

    def head(self, path: str, *headers: str) -> bytes:
        """The head of a request with a body."""
        return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def pipeline(target: Target, ending: Any) -> None:
    """400 connections ask for /healthz without a pause and read nothing."""
    asking = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    selector = selectors.DefaultSelector()
    for _ in range(DEAF):
        selector.register(target.open(), selectors.EVENT_WRITE)
    while not ending.is_set():
        for key, _ in selector.select(0.1):
            line: Any = key.fileobj
            try:
                line.send(asking)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(line)
                line.close()
                selector.register(target.open(), selectors.EVENT_WRITE)


def chunks(target: Target, ending: Any) -> None:
    """One connection sends a body in chunks of one byte, 0.7 MB a second, to a webhook that needs the whole body."""
    each = CHUNKS_PER_SECOND // 100
    while not ending.is_set():
        with target.open() as line, suppress(OSError):
            line.setblocking(True)
            line.sendall(target.head(EVENTS, "Transfer-Encoding: chunked", *_unsigned()))
            while not ending.is_set():
                line.sendall(b"1\r\nx\r\n" * each)
                time.sleep(PAUSE)


def slow(target: Target, ending: Any) -> None:
    """One producer holds 900 connections, whose bodies get a byte a second."""
    bearer = (f"Authorization: Bearer {target.token}", "Content-Type: application/json", "Content-Length: 100000")
    _held(target, ending, SLOW, lambda: target.head(PRODUCERS, *bearer) + b"[", b" ")


def endless(target: Target, ending: Any) -> None:
    """32 webhooks without a secret send bodies of almost 2 MiB that never end."""
    length = f"Content-Length: {ENDLESS_BYTES + 1000}"
    _held(target, ending, ENDLESS, lambda: target.head(EVENTS, length, *_unsigned()) + b"x" * ENDLESS_BYTES, b"x")


def greedy(target: Target, ending: Any) -> None:
    """One producer that has used up its rate sends 16 lists of 1,000 jobs at a time."""
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}

    def run() -> None:
        line = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60, source_address=FROM)
        while not ending.is_set():
            try:
                line.request("POST", PRODUCERS, GREEDY_BODY, headers)
                line.getresponse().read()
            except (OSError, http.client.HTTPException):
                line.close()
                time.sleep(PAUSE)
        line.close()

    threads = [threading.Thread(target=run) for _ in range(GREEDY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def half_open(target: Target, ending: Any) -> None:
    """1,144 connections begin a head and do not end it."""
    _held(target, ending, HALF_OPEN, lambda: b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"x")


def _held(target: Target, ending: Any, count: int, begin: Callable[[], bytes], more: bytes) -> None:
    """Keeps this number of connections open. Each sends its beginning, then `more` once a second."""
    lines: list[tuple[socket.socket, bytearray]] = []
    again = 0.0
    while not ending.is_set():
        while len(lines) < count:
            with suppress(OSError):
                lines.append((target.open(), bytearray(begin())))
        due = time.monotonic() >= again
        again = time.monotonic() + 1.0 if due else again
        kept = []
        for line, left in lines:
            if due and not left:
                left += more
            if _sent(line, left):
                kept.append((line, left))
            else:
                line.close()
        lines = kept
        time.sleep(PAUSE)
    for line, _ in lines:
        line.close()


def _sent(line: socket.socket, left: bytearray) -> bool:
    """Sends what the connection takes; answers whether it is open still."""
    try:
        if left:
            del left[: line.send(left)]
        return line.recv(1000) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _unsigned() -> tuple[str, ...]:
    name = "X-Twilio-Email-Event-Webhook"
    return (f"{name}-Signature: AAAA", f"{name}-Timestamp: {time.time():.0f}")


ATTACKS: dict[str, Callable[[Target, Any], None]] = {
    "pipeline": pipeline,
    "chunks": chunks,
    "slow": slow,
    "endless": endless,
    "greedy": greedy,
}
"""Those on the HTTP server."""
