"""The proxy of the fault sweep, before a server that sends back what it gets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.faults.proxy import Proxy


def _echo(listener: socket.socket) -> None:
    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(100):
                client.sendall(data)

    with suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    threading.Thread(target=_echo, args=(listener,), daemon=True).start()
    made = Proxy(tmp_path / "s")
    yield made
    made.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_it_passes_on_holds_back_and_cuts(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.hold()
        client.sendall(b"two")
        proxy.restore()
        assert client.recv(10) == b"two"
        proxy.cut()
        assert client.recv(10) == b""
    with socket.create_connection(("127.0.0.1", proxy.port)) as refused:
        assert refused.recv(10) == b""


def test_it_cuts_within_a_message(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.cut(in_a_message=True)
        client.sendall(b"four")
        # The server gets half of it. Half of its reply may come back before both sides end.
        assert b"".join(iter(lambda: client.recv(10), b"")) in {b"", b"f"}
