"""Strangers: whatever they send, how much and how slowly, the answer is short and right, and jobs go on running."""

from __future__ import annotations

import gc
import resource
import select
import socket
import threading
import time

import pytest

from jobdeck.core.http import cron
from jobdeck.core.http.clients.gate import Limits
from jobdeck.core.programme import webhooks
from jobdeck.core.registry import Done
from tests.core.cli.support import started
from tests.core.http.support import BEARER, FINE, SECRET, Open, answer_of, history, opened
from tests.support.queue import Connection
from tests.support.serving import ask
from tests.support.waiting import PATIENCE, until
from tests.support.working import job_type

POSTED = (cron.PATH, webhooks.SENDGRID_PATH, webhooks.TWILIO_PATH)
CHUNK = b"x" * 65_536


def post(door: Open, path: str, *, length: int, **headers: str) -> socket.socket:
    """The head of a POST that announces so many bytes."""
    connection = door.connect()
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{told}\r\n".encode())
    return connection


def status_line(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def signed_headers(door: Open) -> dict[str, str]:
    """Headers that let a request in as far as its body."""
    _, headers = door.vendor.signed([])
    return {name.replace("-", "_"): text for name, text in headers.items()}


class TestWhatIsNotServed:
    @pytest.mark.slow
    def test_paths_and_methods_that_are_not_there(self, database_url: str, conn: Connection) -> None:
        conn.add("fine")
        with opened(database_url) as door:
            for path in (
                "/", "/api", "/api/jobs/", "/api/jobs/run/", "/api/jobs/run/x", "//api/jobs/run", "/API/jobs/run",
                "/api/jobs/run%2f", "/../etc/passwd", "/%00", "/%ff%fe", "/api/jobs/run;x", "/docs", "/openapi.json",
            ):  # fmt: skip
                got = door.call("GET", path, headers=BEARER)
                assert (got.status, got.data["error"]) == (404, "Unknown path."), path
            for path, method in [(cron.PATH, "PUT"), (cron.PATH, "DELETE"), (cron.PATH, "OPTIONS"), (cron.PATH, "HEAD"),
                                 (webhooks.SENDGRID_PATH, "GET"), (webhooks.TWILIO_PATH, "GET"), ("/healthz", "POST"),
                                 (cron.PATH, "BREW"), ("/api/jobs", "GET")]:  # fmt: skip
                got = door.call(method, path, headers=BEARER)
                assert got.status == 405, (path, method)
                assert got.headers["allow"]
        assert conn.outcomes() == []

    def test_no_answer_says_what_serves_it_or_how_it_failed(
        self, database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError("a secret detail")

        with opened(database_url) as door:
            monkeypatch.setattr(cron, "_limit", broken)
            answers = [door.run(), door.call("GET", "/"), door.call("GET", "/healthz"), door.call("POST", cron.PATH)]
        assert [got.status for got in answers] == [500, 404, 200, 401]
        for got in answers:
            text = f"{got.headers} {got.body.decode()}".lower()
            for word in ("uvicorn", "starlette", "python", "h11", "traceback", "zerodivision", "secret detail"):
                assert word not in text
            assert "server" not in got.headers
        mark = answers[0].data["error"].split()[-1].rstrip(".")
        assert [record for record in caplog.records if mark in record.getMessage() and record.exc_info]
        assert conn.outcomes() == []

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"a" * 70_000,
            b"GET /" + b"a" * 70_000,
            b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        ],
        ids=["tls", "short", "negative", "two-lengths", "encoding", "long-header", "long-path", "header"],
    )
    def test_what_is_no_http_is_answered_with_an_error_and_hung_up_on(
        self, database_url: str, request_bytes: bytes
    ) -> None:
        with opened(database_url) as door, door.connect() as connection:
            connection.sendall(request_bytes)
            assert status_line(answer_of(connection)) in {400, 431, 501}
            assert door.call("GET", "/healthz").status == 200

    def test_a_chunked_body_that_is_garbage_hurts_nobody(self, database_url: str) -> None:
        with opened(database_url) as door, door.connect() as connection:
            connection.sendall(
                f"POST {cron.PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
                "Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode()
            )
            assert status_line(answer_of(connection)) == 400
            assert door.run().status == 200


class TestTooMuch:
    @pytest.mark.parametrize("path", POSTED)
    def test_a_hundred_megabytes_announced_are_refused_before_they_are_sent(self, database_url: str, path: str) -> None:
        with opened(database_url) as door:
            headers = {**signed_headers(door), "Authorization": f"Bearer {SECRET}", "X_Twilio_Signature": "x"}
            with post(door, path, length=100_000_000, **headers) as connection:
                connection.settimeout(20)
                assert status_line(connection.recv(1000)) == 413

    @pytest.mark.slow
    def test_a_hundred_megabytes_that_are_sent_all_the_same_get_the_answer_and_take_no_memory(
        self, database_url: str
    ) -> None:
        with opened(database_url) as door:
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for path in POSTED:
                headers = {**signed_headers(door), "Authorization": f"Bearer {SECRET}", "X_Twilio_Signature": "x"}
                with post(door, path, length=100_000_000, **headers) as connection:
                    flood(connection, 100_000_000 // len(CHUNK))
                    assert status_line(answer_of(connection)) == 413
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert door.call("GET", "/healthz").status == 200
        assert grown < 24 * 1024, f"{grown} KiB more at the peak"

    @pytest.mark.slow
    def test_a_body_without_an_announced_length_is_cut_where_it_is_too_long(self, database_url: str) -> None:
        with opened(database_url) as door, door.connect() as connection:
            connection.sendall(
                f"POST {cron.PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n".encode()
            )
            flood(connection, 50, chunked=True)
            assert status_line(answer_of(connection)) == 413

    def test_one_of_two_bodies_that_together_are_too_much_is_told_to_come_again(self, database_url: str) -> None:
        with opened(database_url, limits=Limits(held_bytes=100_000)) as door:
            first = post(door, webhooks.SENDGRID_PATH, length=150_000, **signed_headers(door))
            first.sendall(b"x" * 90_000)
            second = post(door, webhooks.SENDGRID_PATH, length=50_000, **signed_headers(door))
            with first, second:
                second.sendall(b"x" * 49_000)
                answered, _, _ = select.select([first, second], [], [], 20)
                assert status_line(answered[0].recv(100)) == 503
            until(lambda: door.report([]).status == 200, "room for a next body")


class TestTooSlow:
    SLOW = Limits(header_seconds=3.0, body_seconds=3.0)

    @pytest.mark.slow
    def test_a_body_that_drips_is_cut_off(self, database_url: str) -> None:
        with (
            opened(database_url, limits=self.SLOW) as door,
            post(door, cron.PATH, length=1000, Authorization=f"Bearer {SECRET}") as connection,
        ):
            connection.sendall(b'{"li')
            assert status_line(answer_of(connection)) == 408
        with (
            opened(database_url, limits=self.SLOW) as door,
            post(door, webhooks.SENDGRID_PATH, length=1000, **signed_headers(door)) as connection,
        ):
            assert status_line(answer_of(connection)) == 408

    @pytest.mark.slow
    def test_a_head_that_drips_is_cut_off_and_so_is_silence(self, database_url: str) -> None:
        with opened(database_url, limits=self.SLOW) as door, door.connect() as talking, door.connect() as silent:
            talking.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            assert status_line(answer_of(talking)) == 408
            assert answer_of(silent) == b""
            assert door.call("GET", "/healthz").status == 200

    @pytest.mark.slow
    def test_the_time_for_a_head_starts_anew_with_each_request_of_a_connection(self, database_url: str) -> None:
        with opened(database_url, limits=self.SLOW) as door, door.connect() as connection:
            answer = b""
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            while not (answer := answer + connection.recv(1000)).endswith(b'{"status": "ok"}'):
                assert answer
            assert status_line(answer) == 200
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
            assert status_line(answer_of(connection)) == 408

    @pytest.mark.slow
    def test_a_request_that_breaks_off_runs_nothing(self, database_url: str, conn: Connection) -> None:
        conn.add("fine")
        with opened(database_url) as door:
            with post(door, cron.PATH, length=1000, Authorization=f"Bearer {SECRET}") as connection:
                connection.sendall(b'{"limit": 1')
            until(lambda: any(one[0] == "door" for one in history(conn)), "the record")
        assert conn.outcomes() == []


class TestTooMany:
    @pytest.mark.slow
    def test_two_hundred_idle_connections_keep_nobody_out(self, database_url: str, conn: Connection) -> None:
        job = conn.add("fine")
        with opened(database_url, limits=Limits(header_seconds=60.0)) as door:
            idle = [door.connect() for _ in range(200)]
            try:
                assert door.run().data["processed"] == 1
                assert door.report([]).status == 200
            finally:
                for connection in idle:
                    connection.close()
        assert conn.status_of(job.id) is None

    def test_more_connections_than_there_is_room_for_drive_out_those_that_say_nothing(self, database_url: str) -> None:
        with opened(database_url, limits=Limits(header_seconds=60.0, connections=50)) as door:
            idle = [door.connect() for _ in range(120)]
            try:
                assert door.run().status == 200
                idle[0].settimeout(20)
                assert answer_of(idle[0]) == b""
            finally:
                for connection in idle:
                    connection.close()

    @pytest.mark.slow
    def test_a_burst_of_ten_thousand_is_refused_and_jobs_go_on_running(
        self, database_url: str, conn: Connection
    ) -> None:
        """Most are refused one way or another; the history holds one row of it, and the process no more memory."""
        rounds = job_type("rounds", lambda _p, _c: Done())
        with opened(database_url, FINE, rounds) as door:
            burst(door.address, 500)
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            threads = [threading.Thread(target=burst, args=(door.address, 1250)) for _ in range(8)]
            for thread in threads:
                thread.start()
            done = 0
            while any(thread.is_alive() for thread in threads):
                conn.add("rounds")
                done += door.run().data["succeeded"]
            for thread in threads:
                thread.join()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert done > 0
        refused = conn.rows("SELECT * FROM job_worker_runs WHERE source = 'door'")
        assert len(refused) == 1
        assert "10500" in refused[0]["message"] or sum_of(refused[0]["message"]) == 10_500
        assert refused[0]["status"] == "refused"
        assert conn.value("SELECT count(*) FROM provider_events") == 0
        assert grown < 24 * 1024, f"{grown} KiB more at the peak"


@pytest.mark.slow
def test_what_strangers_do_leaves_a_bounded_log(database_url: str) -> None:
    """A door as a process of its own, with everything that it writes."""
    arguments = ("serve", "--port", "0", "--handlers", "tests.core.cli.handlers")
    with started(*arguments, DATABASE_URL=database_url, CRON_SECRET=SECRET) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition("//")[2].partition(":")
        burst((host, int(port)), 2000)
        for _ in range(300):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                connection.sendall(b"nonsense\r\n\r\n")
                answer_of(connection)
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert len(log.splitlines()) < 30
    assert "requests refused" in log


def flood(connection: socket.socket, chunks: int, *, chunked: bool = False) -> None:
    """Sends and sends; the other side may hang up meanwhile."""
    part = f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n" if chunked else CHUNK
    try:
        for _ in range(chunks):
            connection.sendall(part)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
    except (ConnectionError, TimeoutError):
        return


def burst(address: tuple[str, int], calls: int) -> None:
    """Calls that are refused, in all the ways there are, as fast as they can be made."""
    kinds: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("GET", cron.PATH, None, {"User-Agent": "vercel-cron/1.0"}),
        ("POST", webhooks.SENDGRID_PATH, b"[]", {}),
        ("GET", f"/{time.monotonic_ns()}", None, {}),
        ("PUT", cron.PATH, b"{}", {}),
        ("POST", webhooks.TWILIO_PATH, b"Body=STOP", {"X-Twilio-Signature": "AAAA"}),
    ]
    for number in range(calls):
        assert ask(address, *kinds[number % len(kinds)]).status in {401, 404, 405, 503}


def sum_of(message: str) -> int:
    """The calls that a record of refusals speaks of."""
    return sum(int(part.split()[0]) for part in message.partition(": ")[2].split(", "))
