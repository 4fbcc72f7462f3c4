"""`jobdeck web` beside strangers: the person with the cookie gets in, and the log stays small."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.web.gate import MOST, Strangers
from tests.core.http.support import answer_of
from tests.core.web.site import Site, person, site
from tests.support.waiting import PATIENCE

FILES = 128
"""The descriptors that the server may open here. A shell of macOS allows 256."""


@contextmanager
def few_files() -> Iterator[None]:
    """Processes that are started in the block may open few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def served(database_url: str, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        with few_files():
            here = stack.enter_context(site(database_url, tmp_path))
        yield here


def opened(of: Site) -> socket.socket:
    host, port = of.origin.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def half_open(of: Site) -> socket.socket:
    """A connection whose request never ends."""
    line = opened(of)
    with suppress(ConnectionError):
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    return line


@pytest.mark.slow
async def test_half_open_connections_keep_the_person_with_the_cookie_in_and_the_log_small(served: Site) -> None:
    async with person(served) as somebody:
        with ExitStack() as lines:
            for _ in range(3 * FILES):
                lines.enter_context(half_open(served))
            for _ in range(3):
                async with somebody.get(served.page, headers={"Connection": "close"}) as answered:
                    assert answered.status == 200
    async with person(served):
        pass
    assert len(served.log) < 20_000


@pytest.mark.slow
async def test_a_connection_that_has_shown_the_cookie_stays_beside_strangers(served: Site) -> None:
    async with person(served) as somebody:
        (cookie,) = somebody.cookie_jar
    host, path = served.origin.removeprefix("http://"), served.page.removeprefix(served.origin)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie.key}={cookie.value}\r\n"
    with opened(served) as line, ExitStack() as lines:
        line.sendall(f"{request}\r\n".encode())
        assert line.recv(20).startswith(b"HTTP/1.1 200")
        for _ in range(3 * FILES):
            lines.enter_context(half_open(served))
        line.sendall(f"{request}Connection: close\r\n\r\n".encode())
        assert answer_of(line).count(b"HTTP/1.1 200") == 1


@pytest.mark.slow
async def test_a_stranger_is_disconnected_after_an_answer(served: Site) -> None:
    with opened(served) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        assert answer_of(line).count(b"HTTP/1.1 403") == 1


@pytest.mark.slow
async def test_a_connection_without_the_cookie_is_closed_after_a_time(served: Site) -> None:
    with opened(served) as silent, half_open(served) as slow:
        assert (answer_of(silent), answer_of(slow)) == (b"", b"")
    async with person(served) as somebody, somebody.get(served.page) as answered:
        assert answered.status == 200


class Line:
    """A connection, as the strangers of a server know it."""

    def __init__(self) -> None:
        self.transport: object | None = object()

    def force_close(self) -> None:
        self.transport = None


class Server:
    """A server that keeps its connections in the order in which they came."""

    def __init__(self) -> None:
        self.connections: list[Line] = []

    def __call__(self) -> Line:
        self.connections.append(Line())
        return self.connections[-1]


async def test_a_stranger_beyond_the_most_closes_the_oldest_and_nobody_with_the_cookie() -> None:
    server: Any = Server()
    strangers = Strangers(server)
    most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    strangers.knows(strangers())
    for _ in range(most + 2):
        strangers()
    is_open = [one.transport is not None for one in server.connections]
    assert is_open == [True, False, False, *[True] * most]


async def test_as_shipped_400_strangers_are_connected_at_most_and_half_of_the_files_are_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for files, most in ((FILES, FILES // 2), (100_000, 400)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, files=files: (files, files))
        server: Any = Server()
        strangers = Strangers(server)
        for _ in range(500):
            strangers()
        assert sum(one.transport is not None for one in server.connections) == most
