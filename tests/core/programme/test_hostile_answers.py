"""Answers of vendors that never end, drip, or grow when they are opened: each client gives up in time and in memory."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, Final

import pytest

from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import Email, EmailClient
from jobdeck.core.programme.vendors.email_wire import Sent
from jobdeck.core.programme.vendors.errors import MessagingError, OutcomeUnknown
from jobdeck.core.programme.vendors.exchange import opened
from jobdeck.core.programme.vendors.metactf import MetaCtfClient
from jobdeck.core.programme.vendors.metactf_errors import ContractError, GamePlatformError, TransportError
from jobdeck.core.programme.vendors.metactf_wire import User
from jobdeck.core.programme.vendors.sms import Sms, SmsClient
from tests.core.handlers.mail_world import mail_settings
from tests.support.context import sandbox_settings
from tests.support.waiting import PATIENCE

MIB: Final = 1024 * 1024
DRIPS: Final = 400
EVERY: Final = 0.05
"""Seconds between two bytes: a dripped answer takes twenty seconds, and its client waits two or three."""
SENT: Final = {"sid": "SM1", "num_segments": "1", "status": "queued"}
USER: Final = {"syned_user_id": "c-1", "metactf_user_id": 1, "metactf_user_status": "approved", "metactf_username": "c"}


class Server:
    """Answers every request on loopback with the same pieces, until the client goes away."""

    def __init__(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.pieces = pieces
        self.sent = 0
        self.gone = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                for piece in self.pieces():
                    connection.sendall(piece)
                    self.sent += 1
            except OSError:
                pass
        self.gone.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@contextmanager
def serving(pieces: Callable[[], Iterator[bytes]]) -> Iterator[Server]:
    server = Server(pieces)
    try:
        yield server
    finally:
        server.close()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> Callable[[], Iterator[bytes]]:
    """An answer in one piece, sent as fast as it is taken."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    head = "".join(f"{line}\r\n" for line in lines)
    return lambda: iter([f"{head}\r\n".encode() + body])


def dripped(start: bytes) -> Callable[[], Iterator[bytes]]:
    """An answer whose rest comes byte by byte."""

    def pieces() -> Iterator[bytes]:
        yield start
        pause = threading.Event()
        for _ in range(DRIPS):
            pause.wait(EVERY)
            yield b"x"

    return pieces


HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPPED: Final = {
    "body": HEAD + b"Content-Length: 100000\r\n\r\n{",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n{",
    "chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0",
    "headers": HEAD + b"X-Long: ",
    "status": b"HTTP/1.1 200 ",
    "failure": b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n{",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Only lends its settings."""
    with Sandbox(people=False) as running:
        yield running


def ask_twilio(sandbox: Sandbox, url: str, seconds: float = 2) -> Sent:
    client = SmsClient(mail_settings(sandbox, TWILIO_API_BASE_URL=url, PROVIDER_TIMEOUT_SECONDS=seconds))
    try:
        return client.send(Sms("+15005550006", "text"))
    finally:
        client.close()


def ask_sendgrid(sandbox: Sandbox, url: str) -> None:
    client = EmailClient(mail_settings(sandbox, SENDGRID_API_BASE_URL=url, PROVIDER_TIMEOUT_SECONDS=2))
    client.send(Email("a@example.org", "s", "t"))


def ask_metactf(sandbox: Sandbox, url: str, seconds: float = 1) -> User:
    settings = sandbox_settings(sandbox, GAME_PLATFORM_API_BASE_URL=url, GAME_PLATFORM_TIMEOUT_SECONDS=seconds)
    with closing(MetaCtfClient(settings)) as client:
        return client.get_user("c-1")


CLIENTS: Final[dict[str, Callable[[Sandbox, str], object]]] = {
    "twilio": ask_twilio,
    "sendgrid": ask_sendgrid,
    "metactf": ask_metactf,
}
LIMITS: Final = {"twilio": 4 * MIB, "sendgrid": 4 * MIB, "metactf": 16 * MIB}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.slow
def test_a_dripped_answer_is_given_up_at_its_deadline(sandbox: Sandbox, name: str) -> None:
    def given_up(start: bytes) -> int:
        with serving(dripped(start)) as server:
            with pytest.raises((OutcomeUnknown, TransportError)):
                CLIENTS[name](sandbox, server.url)
            assert server.gone.wait(PATIENCE)
            return server.sent

    with ThreadPoolExecutor(len(DRIPPED)) as threads:
        sent = dict(zip(DRIPPED, threads.map(given_up, DRIPPED.values()), strict=True))
    assert {start: count for start, count in sent.items() if count > DRIPS / 2} == {}


@pytest.mark.parametrize("name", CLIENTS)
def test_an_answer_without_end_takes_no_more_memory_than_its_limit(sandbox: Sandbox, name: str) -> None:
    def flood() -> Iterator[bytes]:
        yield HEAD + b"\r\n"
        while True:
            yield b" " * MIB

    assert peak(sandbox, name, flood) < 3 * LIMITS[name] + 4 * MIB


@cache
def packed(encoding: str) -> bytes:
    """Much more than any limit, in a few kilobytes."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 15 if encoding == "deflate" else 31)
    content = b"".join([*(squeeze.compress(bytes(MIB)) for _ in range(96)), squeeze.flush()])
    return gzip.compress(content) if encoding == "gzip, gzip" else content


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "br"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_compressed_answer_takes_no_more_memory_than_its_limit(sandbox: Sandbox, name: str, encoding: str) -> None:
    bomb = packed(encoding)
    answer = whole(bomb, f"Content-Encoding: {encoding}")
    assert peak(sandbox, name, answer) < 3 * LIMITS[name] + 4 * MIB


def peak(sandbox: Sandbox, name: str, pieces: Callable[[], Iterator[bytes]]) -> int:
    """The most memory that a client takes for an answer, which it refuses; without what it loads on first use."""
    with serving(whole(b"{}", status="400 Bad")) as server, pytest.raises((MessagingError, GamePlatformError)):
        CLIENTS[name](sandbox, server.url)
    with serving(pieces) as server:
        tracemalloc.start()
        try:
            with pytest.raises((OutcomeUnknown, ContractError, GamePlatformError)):
                CLIENTS[name](sandbox, server.url)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("encoding", [None, "identity", "gzip", "deflate"])
def test_an_answer_within_the_limit_is_read_however_it_is_compressed(sandbox: Sandbox, encoding: str | None) -> None:
    pack: dict[str | None, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
    headers = [f"Content-Encoding: {encoding}"] if encoding else []

    def answer(value: Any, **more: str) -> Callable[[], Iterator[bytes]]:
        body = json.dumps(value | {"filler": "é" * 1000}, ensure_ascii=False).encode()
        return whole(pack.get(encoding, bytes)(body), *headers, **more)

    with serving(answer(SENT, status="201 Created")) as server:
        assert ask_twilio(sandbox, server.url, 60).provider_message_id == SENT["sid"]
    with serving(answer(USER)) as server:
        assert ask_metactf(sandbox, server.url, 60).raw() == USER | {"filler": "é" * 1000}


def test_what_is_opened_is_limited_and_whole() -> None:
    content = b"x" * 1000
    assert opened(content, "", 1000) == opened(gzip.compress(content), "GZIP ", 1000) == content
    assert opened(gzip.compress(content), "gzip", 999) is None
    for broken in (gzip.compress(content)[:-9], b"not compressed", b""):
        with pytest.raises(ValueError, match="compress"):
            opened(broken, "gzip", 1000)
