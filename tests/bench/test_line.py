"""The line of the benchmark of a far database, before a server that sends back what it gets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.line import line


def _echo(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client:
                while data := client.recv(65_536):
                    client.sendall(data)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


def _read(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += client.recv(65_536)
    return found


@pytest.mark.slow
def test_it_carries_everything_in_order(echo: str) -> None:
    sent = bytes(range(256)) * 4000
    with line(echo, 0.02) as (port, turns), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"first")
        assert _read(client, 5) == b"first"
        # One for the connection, and one for what it sent.
        assert turns[0] == 2
        sending = threading.Thread(target=client.sendall, args=(sent,))
        sending.start()
        assert _read(client, len(sent)) == sent
        sending.join()
        assert turns[0] > 2


@pytest.mark.slow
def test_each_question_after_an_answer_is_a_turn(echo: str) -> None:
    with line(echo, 0.0) as (port, turns), socket.create_connection(("127.0.0.1", port)) as client:
        for number in range(1, 6):
            client.sendall(b"?")
            assert _read(client, 1) == b"?"
            assert turns[0] == 1 + number


def test_the_client_sees_the_end_when_the_server_is_gone(tmp_path: Path) -> None:
    with (
        line(str(tmp_path / "nobody"), 0.0) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        assert client.recv(1) == b""
