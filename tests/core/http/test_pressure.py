"""Clients that ask and do not read, or send bodies in the smallest pieces: calls with the secret are answered."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from jobdeck.core.http import cron, metrics, site
from jobdeck.core.http.clients.gate import Limits
from jobdeck.core.programme import webhooks
from tests.core.http.support import BEARER, METRICS, SECRET, Open, answer_of, opened
from tests.core.http.test_bad_input import signed_headers, status_line
from tests.core.http.test_webhooks import event
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, beside, rounds, until

ASKING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
ENDLESS = 1_000_000
"""More requests than a connection makes in these tests."""


def deaf(door: Open) -> socket.socket:
    """A connection that reads nothing and has room for little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE)
    connection.connect(door.address)
    return connection


@contextmanager
def pressed(door: Open, count: int) -> Iterator[None]:
    """So many connections ask without reading, as fast as they are let; each that is closed is opened again."""
    ending = threading.Event()
    lines = [deaf(door) for _ in range(count)]

    def run() -> None:
        while not ending.wait(0.001):
            for place in range(count):
                try:
                    lines[place].setblocking(False)
                    lines[place].send(ASKING * 400)
                except BlockingIOError:
                    continue
                except OSError:
                    lines[place].close()
                    lines[place] = deaf(door)
        for line in lines:
            line.close()

    with beside(run):
        try:
            yield
        finally:
            ending.set()


class TestWithoutReading:
    @pytest.mark.slow
    def test_calls_with_the_secret_are_answered_beside_connections_that_ask_and_do_not_read(
        self, database_url: str, conn: Connection
    ) -> None:
        with opened(database_url, limits=Limits(connections=100)) as door, pressed(door, 100):
            for _ in range(15):
                conn.add("fine")
                assert door.run().data["succeeded"] == 1
                assert door.report([]).status == 200
        assert len(conn.outcomes()) == 15

    @pytest.mark.slow
    def test_connections_that_are_blocked_in_writing_make_room_for_others(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(site, "SEND_BYTES", 2048)
        limits = Limits(connections=5, requests=ENDLESS, send_seconds=PATIENCE)
        with opened(database_url, limits=limits) as door, ExitStack() as lines:
            for line in [lines.enter_context(deaf(door)) for _ in range(5)]:
                fill(line)
            for _ in range(5):
                assert door.run().status == 200
                assert door.report([]).status == 200

    @pytest.mark.slow
    def test_a_client_that_does_not_read_is_disconnected_after_the_time_for_it(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(site, "SEND_BYTES", 2048)
        limits = Limits(send_seconds=0.3, requests=ENDLESS)
        with opened(database_url, limits=limits) as door, deaf(door) as connection:
            connection.settimeout(20)
            with pytest.raises(ConnectionError):
                ask_forever(connection)

    def test_a_client_that_reads_late_gets_the_whole_answer(self, database_url: str) -> None:
        with opened(database_url) as door, deaf(door) as connection:
            token = f"Authorization: Bearer {METRICS}"
            connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\r\n\r\n".encode())
            head, _, body = answer_of(connection).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head

    def test_a_connection_is_closed_after_its_last_request(self, database_url: str) -> None:
        with opened(database_url, limits=Limits(requests=3)) as door, door.connect() as connection:
            connection.sendall(ASKING * 3 + ASKING[:10])
            answers = answer_of(connection)
        assert answers.count(b"HTTP/1.1 200") == 3
        assert answers.count(b"connection: close") == 1
        assert answers.endswith(b'connection: close\r\n\r\n{"status": "ok"}')


@pytest.mark.slow
def test_a_connection_whose_last_request_had_the_secret_keeps_its_place_beside_strangers(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "KEEP_ALIVE_SECONDS", 3600)
    with opened(database_url, limits=Limits(connections=4)) as door, ExitStack() as lines:
        ours = lines.enter_context(closing(http.client.HTTPConnection(*door.address, timeout=PATIENCE)))

        def ask_with_secret() -> int:
            ours.request("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"})
            with ours.getresponse() as response:
                response.read()
                return response.status

        assert ask_with_secret() == 200
        for _ in range(6):
            line = lines.enter_context(door.connect())
            line.sendall(ASKING)
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
        assert ask_with_secret() == 200


def ask_forever(line: socket.socket) -> None:
    for _ in rounds("the end of the connection"):
        line.sendall(ASKING * 1000)


def fill(line: socket.socket) -> None:
    """Asks until the connection takes nothing more."""
    line.settimeout(0.3)
    with suppress(TimeoutError):
        ask_forever(line)


@pytest.mark.slow
def test_requests_without_a_proof_take_no_thread_of_those_with_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)
    answering = metrics.Healthz.handle

    def held(health: metrics.Healthz, call: Any) -> Any:
        begun.release()
        go.wait(PATIENCE)
        return answering(health, call)

    monkeypatch.setattr(metrics.Healthz, "handle", held)
    with opened(database_url) as door, beside(*[lambda: door.call("GET", "/healthz")] * 4):
        try:
            assert begun.acquire(timeout=PATIENCE)
            until(lambda: door.door._open._busy == 4, "four requests that wait")
            headers = {"Authorization": f"Bearer {METRICS}"}
            assert door.call("GET", "/metrics", headers=headers).status == 200
            assert door.run().status == 200
            assert door.report([]).status == 200
        finally:
            go.set()


class TestSmallChunks:
    def head(self, door: Open, path: str) -> bytes:
        headers = {**signed_headers(door), "Authorization": f"Bearer {SECRET}", "X_Twilio_Signature": "x"}
        told = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        return f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{told}\r\n".encode()

    @pytest.mark.parametrize("path", [cron.PATH, webhooks.SENDGRID_PATH, webhooks.TWILIO_PATH])
    def test_a_body_in_chunks_of_one_byte_is_refused_at_its_beginning(self, database_url: str, path: str) -> None:
        with opened(database_url) as door, door.connect() as connection:
            connection.sendall(self.head(door, path) + b"1\r\n1\r\n" * 100)
            assert status_line(answer_of(connection)) == 400
            assert door.run().status == 200

    def test_a_body_in_chunks_of_a_usual_size_is_taken(self, database_url: str) -> None:
        with opened(database_url) as door:
            body, headers = door.vendor.signed([event() for _ in range(200)])
            headers = {**headers, "Transfer-Encoding": "chunked"}
            chunks = (body[place : place + 1000] for place in range(0, len(body), 1000))
            connection = http.client.HTTPConnection(*door.address, timeout=PATIENCE)
            connection.request("POST", webhooks.SENDGRID_PATH, chunks, headers, encode_chunked=True)
            got = connection.getresponse()
            told = json.loads(got.read())
            connection.close()
        assert (got.status, told["new"]) == (200, 200)

    @pytest.mark.slow
    def test_calls_with_the_secret_are_answered_beside_bodies_in_small_chunks(
        self, database_url: str, conn: Connection
    ) -> None:
        ending = threading.Event()
        with opened(database_url) as door:

            def run() -> None:
                while not ending.is_set():
                    with door.connect() as connection:
                        try:
                            connection.sendall(self.head(door, webhooks.TWILIO_PATH))
                            while not ending.is_set():
                                connection.sendall(b"1\r\nx\r\n" * 1000)
                        except OSError:
                            continue

            with beside(run):
                try:
                    for _ in range(10):
                        conn.add("fine")
                        assert door.call("POST", cron.PATH, b'{"limit": 1}', BEARER).data["succeeded"] == 1
                finally:
                    ending.set()
