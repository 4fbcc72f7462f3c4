"""Requests with events that are not ours: handed on byte by byte, later than the answer, and not lost meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import email_wire
from jobdeck.core.settings import Settings
from tests.core.http.support import PUBLIC, opened
from tests.core.http.test_webhooks import accepted, event, sign, state
from tests.support.health import findings
from tests.support.people import make_groups
from tests.support.queue import Connection
from tests.support.serving import Quiet, serving
from tests.support.waiting import PATIENCE, until

Json = dict[str, Any]

TOKEN = "zztoken"
KEPT = "SELECT count(*) FROM provider_requests"
REFUSED = "attempts = 1 AND next_at < now() + interval '1 minute'"


class Receiver:
    """The second receiver: keeps what it gets, and answers as told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.held = threading.Event()
        self.held.set()
        receiver = self

        class Answers(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
                receiver.held.wait(PATIENCE)
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/sendgrid/events?token={TOKEN}"


@pytest.fixture
def other() -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.server):
        yield receiver
        receiver.held.set()


def foreign(**more: Any) -> Json:
    return event(email_type="competitor_certificate", certificate_id=str(uuid4()), **more)


def test_a_request_is_handed_on_byte_by_byte_with_its_signature(
    database_url: str, conn: Connection, other: Receiver
) -> None:
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        message = accepted(conn)
        body, headers = door.vendor.signed([event(outbox_id=message), foreign()])
        # A body that no program would write in the same way again.
        body = b" \n" + body.replace(b", ", b" ,\t")
        body, headers = sign(door, body)
        assert door.call("POST", "/api/sendgrid/events", body, headers).status == 200
        until(lambda: len(other.got) == 1, "handing on")
        until(lambda: conn.value(KEPT) == 0, "removing what was handed on")
        until(lambda: state(conn, message) == "delivered", "applying")
        path, got, same = other.got[0]
        assert path == f"/api/sendgrid/events?token={TOKEN}"
        assert same == body
        assert got["content-type"] == "application/json"
        assert email_wire.verified(door.vendor.public_key, got, same)


@pytest.mark.slow
def test_events_of_our_own_mail_are_not_handed_on(database_url: str, conn: Connection, other: Receiver) -> None:
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        ours = event(outbox_id=accepted(conn))
        nested = {**event(), "custom_args": {"outbox_id": str(uuid4())}}
        assert door.report([ours, nested]).status == 200
        assert conn.value(KEPT) == 0
        assert door.report([ours, event(outbox_id="none")]).status == 200
        until(lambda: len(other.got) == 1, "handing on")


def test_without_a_second_receiver_nothing_is_kept(database_url: str, conn: Connection) -> None:
    with opened(database_url) as door:
        assert door.report([foreign()]).data["new"] == 1
    assert conn.value(KEPT) == 0


def test_the_answer_does_not_wait_for_the_second_receiver(database_url: str, conn: Connection, other: Receiver) -> None:
    other.held.clear()
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        assert door.report([foreign()]).status == 200
        until(lambda: len(other.got) == 1, "handing on")
        assert door.report([foreign()]).status == 200
        assert conn.value(KEPT) == 2
        other.held.set()
        until(lambda: conn.value(KEPT) == 0, "handing on both")


def hurry(conn: Connection) -> None:
    """Lets the time until the next attempt be over."""
    conn.execute("UPDATE provider_requests SET next_at = now()")
    conn.execute("UPDATE job_upkeep SET failed_at = NULL WHERE part = 'handing events on'")


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 401, 404, 302])
def test_what_the_second_receiver_does_not_take_is_kept_until_it_does(
    database_url: str, conn: Connection, other: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    other.status = status
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        assert door.report([foreign()]).data["new"] == 1
        until(lambda: conn.value(f"{KEPT} WHERE {REFUSED}") == 1, "a refusal")
        assert [path for path, _, _ in other.got] == [f"/api/sendgrid/events?token={TOKEN}"]
        other.status = 204
        hurry(conn)
        assert door.report([foreign()]).data["new"] == 1
        until(lambda: conn.value(KEPT) == 0, "handing on both")
    written = repr([vars(record) for record in caplog.records if not record.name.startswith("psycopg")])
    assert f"answered {status}" in written
    assert TOKEN not in written
    assert "kim@" not in written


@pytest.mark.slow
def test_a_second_receiver_that_is_away_loses_nothing(database_url: str, conn: Connection) -> None:
    receiver = Receiver()
    configured = settings(receiver.url)
    with opened(database_url, sendgrid_event_forward_url="http://127.0.0.1:1/") as door:
        assert [door.report([foreign()]).status for _ in range(3)] == [200] * 3
    assert conn.value(KEPT) == 3
    hurry(conn)
    with serving(receiver.server):
        assert [hand_on.hand_on_one(conn, configured) for _ in range(4)] == [True, True, True, False]
    assert len({body for _, _, body in receiver.got}) == 3


def test_attempts_get_rarer_and_one_request_holds_up_no_other(conn: Connection, other: Receiver) -> None:
    configured = settings(other.url)
    keep(conn, b"[1]")
    other.status = 500
    waits = []
    for _ in range(8):
        hurry(conn)
        assert not hand_on.hand_on_one(conn, configured)
        seconds = float(conn.value("SELECT extract(epoch FROM next_at - now()) FROM provider_requests"))
        waits.append(round(seconds, -1))
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    other.status = 200
    conn.execute("UPDATE job_upkeep SET failed_at = NULL WHERE part = 'handing events on'")
    keep(conn, b"[2]")
    assert hand_on.hand_on_one(conn, configured)
    assert conn.rows("SELECT body FROM provider_requests") == [{"body": b"[1]"}]


def test_after_a_failure_new_requests_bring_no_attempts_for_a_while(conn: Connection, other: Receiver) -> None:
    other.status = 500
    for number in range(5):
        keep(conn, b"[%d]" % number)
        assert not hand_on.hand_on_one(conn, settings(other.url))
    assert len(other.got) == 1
    conn.execute("UPDATE job_upkeep SET failed_at = now() - interval '11 seconds' WHERE part = 'handing events on'")
    assert not hand_on.hand_on_one(conn, settings(other.url))
    assert len(other.got) == 2


def test_a_request_that_another_server_sends_is_left_to_it(
    database_url: str, conn: Connection, other: Receiver
) -> None:

    keep(conn, b"[1]")
    assert conn.value("SELECT count(*) FROM outbox_request_take(60)") == 1
    with Connection.connect(database_url, autocommit=True) as second:
        assert not hand_on.hand_on_one(second, settings(other.url))
    assert other.got == []


def test_a_repeated_request_is_kept_once_with_the_newest_signature(database_url: str, conn: Connection) -> None:
    with opened(database_url, sendgrid_event_forward_url="http://127.0.0.1:1/") as door:
        sent = [foreign()]
        now = time.time()
        door.vendor.clock = lambda: now - 60
        assert door.report(sent).data["new"] == 1
        door.vendor.clock = lambda: now
        assert door.report(sent).data["new"] == 0
    assert conn.value("SELECT signed_at FROM provider_requests") == str(int(now))


def test_a_request_that_was_handed_on_is_not_handed_on_again(
    database_url: str, conn: Connection, other: Receiver
) -> None:
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        assert door.report([foreign()], **{hand_on.HANDED_ON: "1"}).data["new"] == 1
        assert conn.value(KEPT) == 0
        door.report([foreign()])
        until(lambda: len(other.got) == 1, "handing on")
    assert other.got[0][1][hand_on.HANDED_ON.lower()] == "1"


@pytest.mark.parametrize(
    "url", [f"{PUBLIC}/api/sendgrid/events", f"{PUBLIC}:443/api/sendgrid/events/?token=1",
            "https://JOBS.example.org./api/sendgrid/events"]
)  # fmt: skip
def test_a_server_that_would_hand_on_to_itself_does_not_start(database_url: str, url: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="SENDGRID_EVENT_FORWARD_URL is the address of this server itself"),
        opened(database_url, sendgrid_event_forward_url=url),
    ):
        pass


@pytest.mark.parametrize(
    "url", ["http://other.example.org/events", "ftp://example.org/", "other.example.org", "https://",
            "https://a:zzsecret@example.org/", "https://example.org/#part", "https://exa mple.org/",
            "https://example.org:zzsecret/"]
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="sendgrid_event_forward_url") as refused:
        CompetitionSettings(sendgrid_event_forward_url=url)
    assert "zzsecret" not in str(refused.value)


def test_the_address_is_never_written_out() -> None:
    configured = CompetitionSettings(sendgrid_event_forward_url="https://example.org/?token=zzsecret")
    assert "zzsecret" not in repr(configured)
    assert CompetitionSettings(sendgrid_event_forward_url=" ").sendgrid_event_forward_url is None


@pytest.mark.slow
def test_a_second_receiver_that_drips_is_given_up(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.core.programme.test_hostile_answers import DRIPPED, dripped, serving  # noqa: PLC0415 -- here only

    monkeypatch.setattr(hand_on, "SECONDS", 1.0)
    keep(conn, b"[1]")
    for head in ("headers", "status"):
        hurry(conn)
        with serving(dripped(DRIPPED[head])) as server:
            assert not hand_on.hand_on_one(conn, settings(server.url))
            assert server.gone.wait(PATIENCE)
            assert server.sent < 300
    assert conn.value(KEPT) == 1


@pytest.mark.slow
def test_health_says_when_the_second_receiver_has_taken_nothing_for_three_minutes(
    conn: Connection, other: Receiver
) -> None:
    conn.insert("job_workers")
    hand_on.hand_on_one(conn, settings(other.url))
    assert trouble(conn) == []
    keep(conn, b"[1]")
    other.status = 503
    hand_on.hand_on_one(conn, settings(other.url))
    assert trouble(conn) == []
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '4 minutes' WHERE part = 'handing events on'")
    hand_on.hand_on_one(conn, settings(other.url))
    (said,) = trouble(conn)
    assert "handing events on" in said
    assert "the second receiver answered 503" in said
    other.status = 200
    hurry(conn)
    hand_on.hand_on_one(conn, settings(other.url))
    assert trouble(conn) == []
    hand_on.hand_on_one(conn, Settings())
    assert conn.value("SELECT count(*) FROM job_upkeep WHERE part = 'handing events on'") == 0


def test_a_request_that_cannot_be_kept_is_not_answered_as_if_it_were(
    database_url: str, conn: Connection, other: Receiver
) -> None:
    with opened(database_url, sendgrid_event_forward_url=other.url) as door:
        conn.execute("ALTER TABLE provider_requests RENAME TO gone")
        assert door.report([foreign()]).status >= 500
        assert conn.value("SELECT count(*) FROM provider_events") == 0
        conn.execute("ALTER TABLE gone RENAME TO provider_requests")
        assert door.report([foreign()]).status == 200


def test_the_role_of_the_worker_is_enough(conn: Connection, other: Receiver) -> None:
    make_groups(conn)
    conn.execute("SET ROLE job_worker")
    keep(conn, b"[1]")
    assert [hand_on.hand_on_one(conn, settings(other.url)) for _ in range(2)] == [True, False]
    assert [body for _, _, body in other.got] == [b"[1]"]


def trouble(conn: Connection) -> list[str]:
    return [one.evidence for one in findings(conn, "upkeep")]


def settings(url: str) -> Settings:
    return Settings().having(CompetitionSettings(sendgrid_event_forward_url=url))


def keep(conn: Connection, body: bytes) -> None:
    hand_on.keep(conn, hand_on.SignedRequest(body, "signature", "1", []))
