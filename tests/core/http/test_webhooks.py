"""Delivery events over HTTP: whose they are, what is kept, and what they do to messages and people."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from jobdeck.core.programme import webhooks
from jobdeck.core.programme.events import pull
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.sandbox.sendgrid import SendGrid
from jobdeck.core.programme.sandbox.twilio import ACCOUNT, TOKEN
from jobdeck.core.programme.vendors import email_wire, sms_wire
from jobdeck.core.programme.vendors.email_wire import SIGNATURE, TIMESTAMP
from tests.core.http.support import PUBLIC, Open, opened, waiting
from tests.support.queue import Connection
from tests.support.serving import Got
from tests.support.waiting import until

Json = dict[str, Any]

ADDRESS = "kim@example.org"
NUMBER = "+15005550123"
OURS = "+15005550006"
SID, INBOUND, LATER = (f"SM{digit * 32}" for digit in "abc")


def event(name: str = "delivered", **more: Any) -> Json:
    return {"event": name, "timestamp": int(time.time()), "sg_event_id": uuid4().hex, "email": ADDRESS, **more}


def accepted(conn: Connection, *, channel: str = "email", address: str = ADDRESS, key: str = "msg-1") -> str:
    """A message that the provider has taken."""
    return str(conn.insert(
        "outbox_messages", kind="unread_alert", channel=channel, recipient_ref=uuid4(), address=address,
        address_norm=address, dedupe_key=key, state="accepted", accepted_at="now", provider_message_id=key,
    ))  # fmt: skip


def state(conn: Connection, message: str) -> str:
    found: str = conn.value("SELECT state FROM outbox_messages WHERE id = %s", message)
    return found


def texted(door: Open, fields: dict[str, str], *, base: str | None = None, signature: str | None = None) -> Got:
    """One request of Twilio's, signed for the address under which it knows the door."""
    path = "/api/twilio/status"
    made = RequestValidator(TOKEN).compute_signature(f"{base or PUBLIC}{path}", fields)
    headers = {
        "X-Twilio-Signature": made if signature is None else signature,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return door.call("POST", path, urlencode(fields), headers)


class TestSendGrid:
    def test_events_are_kept_once_each_and_applied(self, database_url: str, conn: Connection) -> None:
        message = accepted(conn)
        sent = [event(outbox_id=message), event("open", outbox_id=message), event("bounce", outbox_id=message)]
        with opened(database_url) as door:
            got = door.report(sent)
            assert (got.status, got.data) == (200, {"ok": True, "processed": 3, "new": 3, "ignored": 0})
            assert door.report(sent).data["new"] == 0
            assert door.report([*sent, sent[0], event("open")]).data["new"] == 1
            until(lambda: waiting(conn) == 0, "applying")
        assert state(conn, message) == "bounced"
        assert conn.value("SELECT count(*) FROM provider_events") == 4
        assert conn.value("SELECT reason FROM email_suppressions") == "hard_bounce"

    @pytest.mark.parametrize("ours", [4711, "4711"])
    def test_only_the_unsubscribes_of_our_group_count(self, database_url: str, conn: Connection, ours: Any) -> None:
        bars = "SELECT count(*) FROM email_suppressions"
        with opened(database_url, sendgrid_unsubscribe_group_id=4711) as door:
            left, joined = event("group_unsubscribe", asm_group_id=5), event("group_resubscribe", asm_group_id=5)
            assert door.report([left]).data == {"ok": True, "processed": 0, "new": 0, "ignored": 1}
            door.report([event("group_unsubscribe", asm_group_id=ours)])
            until(lambda: waiting(conn) == 0, "applying")
            assert conn.value(bars) == 1
            assert door.report([joined | {"timestamp": int(time.time()) + 60}]).data["ignored"] == 1
            assert conn.value(bars) == 1
            door.report([event("group_resubscribe", asm_group_id=ours) | {"timestamp": int(time.time()) + 60}])
            until(lambda: conn.value(bars) == 0, "lifting")

    @pytest.mark.parametrize("more", [{}, {"asm_group_id": 5}])
    def test_without_a_group_of_our_own_every_unsubscribe_counts(
        self, database_url: str, conn: Connection, more: Json
    ) -> None:
        with opened(database_url) as door:
            door.report([event("group_unsubscribe", **more)])
            until(lambda: conn.value("SELECT count(*) FROM email_suppressions") == 1, "barring")

    def test_unknown_events_are_kept_and_change_nothing(self, database_url: str, conn: Connection) -> None:
        message = accepted(conn)
        with opened(database_url) as door:
            got = door.report([event("launched", outbox_id=message), event("processed", outbox_id=message)])
            assert got.data["new"] == 2
            until(lambda: waiting(conn) == 0, "applying")
        assert state(conn, message) == "accepted"
        assert conn.rows("SELECT event FROM provider_events ORDER BY event") == [
            {"event": "launched"}, {"event": "processed"},
        ]  # fmt: skip

    def test_no_address_stays_where_an_event_was_applied(self, database_url: str, conn: Connection) -> None:
        with opened(database_url) as door:
            door.report([event("spamreport", outbox_id=accepted(conn))])
            until(lambda: waiting(conn) == 0, "applying")
        assert ADDRESS not in repr(conn.rows("SELECT * FROM provider_events"))

    @pytest.mark.slow
    def test_what_is_not_signed_for_this_body_and_this_time_is_refused_and_nothing_is_kept(
        self, database_url: str, conn: Connection
    ) -> None:
        with opened(database_url) as door:
            body, good = door.vendor.signed([event()])
            other_body, other = door.vendor.signed([event()])
            _, foreign = SendGrid().signed([event()])
            now = int(time.time())
            wrong = [
                ({}, body),
                ({name: text for name, text in good.items() if name != SIGNATURE}, body),
                ({name: text for name, text in good.items() if name != TIMESTAMP}, body),
                (good | {SIGNATURE: foreign[SIGNATURE]}, body),
                (good | {SIGNATURE: other[SIGNATURE]}, body),
                (good | {SIGNATURE: "not base64 ~"}, body),
                (good | {SIGNATURE: ""}, body),
                (good | {TIMESTAMP: str(now - 1)}, body),
                (good | {TIMESTAMP: "soon"}, body),
                (good | {TIMESTAMP: "9" * 400}, body),
                (good, other_body),
                (good, body + b" "),
                (good, body[:-1]),
                (good, b""),
                (good, b"\xff\xfe\x00"),
            ]
            for headers, sent in wrong:
                assert door.call("POST", webhooks.SENDGRID_PATH, sent, headers).status == 401, headers
            assert door.call("POST", webhooks.SENDGRID_PATH, body, good).status == 200
        assert conn.value("SELECT count(*) FROM provider_events") == 1

    @pytest.mark.parametrize(
        ("age", "status"), [(0, 200), (550, 200), (650, 401), (86_400, 401), (-250, 200), (-400, 401)]
    )
    def test_a_signature_holds_for_ten_minutes(self, database_url: str, age: int, status: int) -> None:
        with opened(database_url) as door:
            door.vendor.clock = lambda: time.time() - age
            assert door.report([event()]).status == status

    @pytest.mark.parametrize(
        "body", [b"", b"[", b"null", b'"text"', b"[1]", b"[" * 100_000, b"[" * 900 + b"]" * 900], ids=repr
    )
    def test_a_signed_body_that_is_no_list_of_events_is_refused(self, database_url: str, body: bytes) -> None:
        with opened(database_url) as door:
            _, headers = sign(door, body)
            assert door.call("POST", webhooks.SENDGRID_PATH, body, headers).status == 400

    def test_one_event_unlike_anything_does_not_cost_the_others(self, database_url: str, conn: Connection) -> None:
        message = accepted(conn)
        strange: list[Any] = [
            event(reason={"a": []}), event(timestamp=1e300), event(timestamp=-1), event(timestamp=10**400),
            event(timestamp=None), event(event={"a": 1}), event(sg_event_id="\x00"), event(sg_event_id="\ud800"),
            event(sg_event_id=None, deep=[[[[]]]]), event(reason="\x00\ud800"), event(custom_args=[1]),
            event(email="\x00@example.org"), event(sg_message_id="m" * 100_000), event(outbox_id="no id"),
        ]  # fmt: skip
        with opened(database_url) as door:
            got = door.report([*strange, event(outbox_id=message)])
            assert got.status == 200
            assert got.data["processed"] + got.data["ignored"] == len(strange) + 1
            until(lambda: waiting(conn) == 0, "applying")
        assert state(conn, message) == "delivered"

    def test_an_explanation_that_is_no_text_is_passed_over(self, database_url: str, conn: Connection) -> None:
        message = accepted(conn)
        with opened(database_url) as door:
            got = door.report([event("bounce", outbox_id=message, reason={"a": []}, response=["b"], status="5.1.1")])
            assert got.data["processed"] == 1
            until(lambda: waiting(conn) == 0, "applying")
        assert conn.value("SELECT error_text FROM outbox_messages") == "5.1.1"
        assert email_wire.reason_text({"a": 1}, [], True, 550) == "550"
        assert email_wire.reason_text({}, None, "") is None

    @pytest.mark.slow
    def test_without_a_key_nothing_is_taken(self, database_url: str) -> None:
        for key in (None, "no key at all"):
            with opened(database_url, sendgrid_event_webhook_public_key=key) as door:
                assert door.report([event()]).status == 503

    @pytest.mark.slow
    def test_a_database_that_is_away_makes_the_provider_come_again(
        self, postgres: Any, database_url: str, conn: Connection
    ) -> None:
        conn.close()
        with opened(database_url) as door:
            sent = [event()]
            assert door.report([event()]).status == 200
            postgres.stop()
            try:
                got = door.report(sent)
                assert door.call("GET", "/healthz").status == 503
            finally:
                postgres.start()
            assert (got.status, got.headers["retry-after"]) == (503, "30")
            assert door.report(sent).data["new"] == 1


def sms(status: str, **more: str) -> dict[str, str]:
    """The fields of a callback about a message that we sent."""
    return {
        "AccountSid": ACCOUNT, "ApiVersion": "2010-04-01", "MessageSid": SID, "SmsSid": SID, "MessageStatus": status,
        "SmsStatus": status, "From": OURS, "To": NUMBER, **more,
    }  # fmt: skip


def answer(body: str, **more: str) -> dict[str, str]:
    """The fields of a person's message to us."""
    return {
        "AccountSid": ACCOUNT, "ApiVersion": "2010-04-01", "Body": body, "From": NUMBER, "FromCity": "NEW YORK",
        "FromCountry": "US", "FromState": "NY", "FromZip": "10001", "MessageSid": INBOUND, "NumMedia": "0",
        "NumSegments": "1", "SmsMessageSid": INBOUND, "SmsSid": INBOUND, "SmsStatus": "received", "To": OURS,
        "ToCity": "", "ToCountry": "US", "ToState": "", "ToZip": "", **more,
    }  # fmt: skip


def opted_out(conn: Connection) -> int:
    """How many numbers get no texts."""
    return int(conn.value("SELECT count(*) FROM sms_opt_outs WHERE cleared_at IS NULL"))


class TestTwilio:
    @pytest.mark.parametrize(
        ("status", "ends"),
        [("delivered", "delivered"), ("undelivered", "bounced"), ("failed", "bounced"), ("sent", "accepted")],
    )
    def test_a_status_moves_the_message_it_is_about(
        self, database_url: str, conn: Connection, status: str, ends: str
    ) -> None:
        message = accepted(conn, channel="sms", address=NUMBER, key=SID)
        fields = sms(status, ErrorCode="")
        with opened(database_url) as door:
            got = texted(door, fields)
            assert (got.status, got.headers["content-type"]) == (200, "text/xml; charset=utf-8")
            assert b"<Response/>" in got.body
            assert texted(door, fields).status == 200
            until(lambda: waiting(conn) == 0, "applying")
        assert state(conn, message) == ends
        assert conn.value("SELECT count(*) FROM provider_events") == int(status != "sent")

    @pytest.mark.slow
    def test_two_statuses_of_one_message_are_two_events(self, database_url: str, conn: Connection) -> None:
        with opened(database_url) as door:
            texted(door, sms("undelivered", ErrorCode="30003"))
            texted(door, sms("delivered"))
            until(lambda: waiting(conn) == 0, "applying")
        assert {row["event"] for row in conn.rows("SELECT event FROM provider_events")} == {"bounced", "delivered"}

    @pytest.mark.parametrize(
        ("said", "off"),
        [({"Body": " Stop "}, True), ({"Body": "STOP", "OptOutType": "STOP"}, True), ({"Body": "thanks"}, False)],
    )
    def test_stop_switches_the_preference_off(
        self, database_url: str, conn: Connection, said: dict[str, str], off: bool
    ) -> None:
        person = uuid4()
        conn.execute(
            "INSERT INTO profiles (id, email, full_name, first_name, last_name, school_name, mobile_number, "
            "sms_notifications_enabled) VALUES (%s, 'p@example.org', 'P', 'P', 'P', 'P', '(500) 555-0123', true)",
            (person,),
        )
        with opened(database_url) as door:
            assert texted(door, answer("") | said).status == 200
            until(lambda: waiting(conn) == 0, "applying")
            assert conn.value("SELECT sms_notifications_enabled FROM profiles WHERE id = %s", person) is not off
            assert opted_out(conn) == int(off)
            texted(door, answer("START", OptOutType="START", MessageSid=LATER))
            until(lambda: waiting(conn) == 0, "applying")
        assert opted_out(conn) == 0

    def test_a_message_refused_because_of_an_earlier_stop_switches_it_off_too(
        self, database_url: str, conn: Connection
    ) -> None:
        accepted(conn, channel="sms", address=NUMBER, key=SID)
        with opened(database_url) as door:
            texted(door, sms("failed", ErrorCode="21610"))
            until(lambda: waiting(conn) == 0, "applying")
        assert conn.value("SELECT source FROM sms_opt_outs") == "stop"

    def test_a_callback_that_comes_before_we_know_the_message_does_not_hide_it_from_pulling(
        self, database_url: str, conn: Connection
    ) -> None:
        with opened(database_url) as door:
            texted(door, sms("delivered"))
            until(lambda: waiting(conn) == 0, "applying")
        message = accepted(conn, channel="sms", address=NUMBER, key=SID)
        key = f"{SID}:delivered"
        pulled = {"provider": "twilio", "event_key": key, "event": "delivered", "occurred_at": time.time()}
        assert outbox.record_events(conn, [{**pulled, "outbox_id": message}]) == 1

    def test_what_twilio_has_not_signed_is_refused_and_nothing_is_kept(
        self, database_url: str, conn: Connection
    ) -> None:
        fields = answer("STOP")
        with opened(database_url) as door:
            good = RequestValidator(TOKEN).compute_signature(f"{PUBLIC}/api/twilio/status", fields)
            assert texted(door, fields, signature="").status == 401
            assert texted(door, fields, signature="AAAA").status == 401
            assert texted(door, fields, signature="\xe9").status == 401
            assert texted(door, fields | {"Body": "START"}, signature=good).status == 401
            assert texted(door, fields, base="https://elsewhere.example.org").status == 401
            headers = {"X-Twilio-Signature": good}
            assert door.call("POST", "/api/twilio/status?a=1", urlencode(fields), headers).status == 401
            assert door.call("POST", "/api/twilio/status", b"\xff\xfe", headers).status == 400
            assert door.call("POST", "/api/twilio/status", "a=1&" * 500, headers).status == 400
        assert conn.value("SELECT count(*) FROM provider_events") == 0

    def test_without_its_public_address_nothing_is_taken_whatever_host_a_request_names(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        with opened(database_url, door_url="") as door:
            host, port = door.address
            for base in (f"https://{host}:{port}", f"http://{host}:{port}", PUBLIC):
                assert texted(door, answer("STOP"), base=base).status == 503
        assert conn.value("SELECT count(*) FROM provider_events") == 0
        assert "JOBDECK_DOOR_URL is not set" in caplog.text

    @pytest.mark.parametrize("token", [None, "CHANGE-ME", "your_auth_token"])
    def test_without_a_token_or_with_a_placeholder_nothing_is_taken(self, database_url: str, token: str | None) -> None:
        with opened(database_url, twilio_auth_token=token) as door:
            made = RequestValidator(token or "").compute_signature(f"{PUBLIC}/api/twilio/status", answer("STOP"))
            assert texted(door, answer("STOP"), signature=made).status == 503


MOVED = [
    ("the id is cut", {"MessageSid": SID[:-1], f"{SID[-1]}MessageStatus": "delivered"}),
    ("the status is part of the id", {"MessageSid": f"{SID}MessageStatusdelivered"}),
    ("the id is empty", {"MessageSid": ""}),
    ("there is no id", {}),
    ("the id is in the names", {f"MessageSid{SID}": ""}),
    ("another kind of id", {"MessageSid": f"CA{SID[2:]}"}),
]


class TestMovedBoundaries:
    """Twilio signs names and values without separators."""

    @pytest.mark.parametrize("moved", [fields for _, fields in MOVED], ids=[why for why, _ in MOVED])
    def test_a_signature_that_also_fits_other_fields_makes_no_event(
        self, database_url: str, conn: Connection, moved: dict[str, str]
    ) -> None:
        rest = {name: text for name, text in sms("delivered").items() if name not in ("MessageSid", "MessageStatus")}
        with opened(database_url, twilio_account_sid=ACCOUNT) as door:
            assert texted(door, rest | moved).status == 400
            assert texted(door, sms("delivered")).status == 200
        assert conn.value("SELECT count(*) FROM provider_events") == 1

    def test_the_text_of_a_message_cannot_name_another_sender(self, database_url: str, conn: Connection) -> None:
        """A person who knows the signature of an own message tells the text apart in another place."""
        sent = answer(f"STOPFrom+15005550999MessageSid{LATER}ZZ")
        signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC}/api/twilio/status", sent)
        tail = "".join(f"{name}{sent[name]}" for name in sorted(sent) if name > "Body")
        forged = {
            "AccountSid": ACCOUNT, "ApiVersion": "2010-04-01", "Body": "STOP", "From": "+15005550999",
            "MessageSid": LATER, "ZZFrom": tail.removeprefix("From"),
        }  # fmt: skip
        with opened(database_url) as door:
            assert texted(door, forged, signature=signature).status == 400
        assert conn.value("SELECT count(*) FROM provider_events") == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"AccountSid": f"AC{'1' * 32}"}, {"AccountSid": "AC1"}, {"From": "5005550123"}, {"From": "+1500CALLNOW"},
            {"From": ""}, {"To": "+0"}, {"Extra": "1"}, {"MessageSid": SID.upper()}, {"OptOutType": "MAYBE"},
            {"SmsStatus": "received\n"},
        ],
        ids=repr,
    )  # fmt: skip
    def test_a_field_that_is_not_one_of_ours_or_not_in_its_form_is_refused(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture, wrong: dict[str, str]
    ) -> None:
        with opened(database_url, twilio_account_sid=ACCOUNT) as door:
            assert texted(door, answer("STOP", **wrong)).status == 400
        assert conn.value("SELECT count(*) FROM provider_events") == 0
        assert NUMBER not in caplog.text
        assert "fields that are not expected" in caplog.text

    def test_a_field_sent_twice_is_refused(self, database_url: str, conn: Connection) -> None:
        fields = answer("STOP")
        made = RequestValidator(TOKEN).compute_signature(f"{PUBLIC}/api/twilio/status", fields)
        with opened(database_url) as door:
            got = door.call(
                "POST", webhooks.TWILIO_PATH, f"From=%2B15005550999&{urlencode(fields)}", {"X-Twilio-Signature": made}
            )
        assert got.status == 400
        assert conn.value("SELECT count(*) FROM provider_events") == 0

    @given(st.data())
    def test_no_other_split_of_a_signed_text_is_accepted(self, data: st.DataObject) -> None:
        """Names and values of a good request, cut at other places, with their order kept as Twilio's signature does."""
        body = data.draw(
            st.sampled_from(["STOP", "START", "From+15005550999", f"STOPFrom+15005550999MessageSid{LATER}"])
        )
        sent = data.draw(st.sampled_from([answer(body), sms("delivered"), sms("undelivered", ErrorCode="30005")]))
        text = "".join(f"{name}{sent[name]}" for name in sorted(sent))
        names = sorted(sms_wire.FORMS, key=len, reverse=True)
        fields: dict[str, str] = {}
        place, last = 0, ""
        while place < len(text):
            fitting = [name for name in names if text.startswith(name, place) and name > last]
            if not fitting:
                return
            last = data.draw(st.sampled_from(fitting))
            place += len(last)
            starts = [
                at for at in range(place, len(text) + 1)
                if at == len(text) or any(text.startswith(name, at) and name > last for name in names)
            ]  # fmt: skip
            end = data.draw(st.sampled_from(starts))
            fields[last] = text[place:end]
            place = end
        if not sms_wire.problems(list(fields.items()), ACCOUNT):
            assert sms_wire.read(fields, 0.0) == sms_wire.read(sent, 0.0)


class TestReplays:
    @pytest.mark.slow
    def test_a_repeated_start_does_not_clear_a_later_stop_even_after_years(
        self, database_url: str, conn: Connection
    ) -> None:
        start = answer("START", MessageSid=INBOUND)
        with opened(database_url) as door:
            texted(door, start)
            texted(door, answer("STOP", MessageSid=LATER))
            until(lambda: waiting(conn) == 0, "applying")
            assert opted_out(conn) == 1
            for _ in range(2):
                texted(door, start)
                until(lambda: waiting(conn) == 0, "applying")
                assert opted_out(conn) == 1
                conn.execute("UPDATE provider_events SET received_at = received_at - interval '3 years'")
                retain(conn)
        assert conn.value("SELECT count(*) FROM provider_events") == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("code", ["21610", "30005"])
    def test_a_repeated_callback_does_not_block_a_number_again(
        self, database_url: str, conn: Connection, code: str
    ) -> None:
        accepted(conn, channel="sms", address=NUMBER, key=SID)
        fields = sms("undelivered", ErrorCode=code)
        with opened(database_url) as door:
            texted(door, fields)
            until(lambda: waiting(conn) == 0, "applying")
            conn.execute("UPDATE provider_events SET received_at = received_at - interval '91 days'")
            conn.execute("UPDATE sms_opt_outs SET cleared_at = now(), created_at = created_at - interval '91 days'")
            retain(conn)
            texted(door, fields)
            until(lambda: waiting(conn) == 0, "applying")
        assert opted_out(conn) == 0

    @pytest.mark.slow
    def test_other_events_are_deleted_after_90_days(self, database_url: str, conn: Connection) -> None:
        with opened(database_url) as door:
            door.report([event(), event("group_resubscribe")])
            texted(door, sms("delivered"))
            until(lambda: waiting(conn) == 0, "applying")
        conn.execute("UPDATE provider_events SET received_at = received_at - interval '91 days'")
        retain(conn)
        assert conn.value("SELECT count(*) FROM provider_events") == 0


def retain(conn: Connection) -> None:
    """The hourly part of upkeep that keeps the periods, now."""
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '2 hours' WHERE part = 'retention'")
    conn.reap()


def sign(door: Open, body: bytes) -> tuple[bytes, dict[str, str]]:
    """Signs any body as SendGrid would."""
    from base64 import b64encode  # noqa: PLC0415 -- needed here only

    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 -- the same
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 -- the same

    stamp = str(int(time.time()))
    made = door.vendor._signer.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return body, {SIGNATURE: b64encode(made).decode(), TIMESTAMP: stamp, "Content-Type": "application/json"}


@pytest.mark.parametrize(
    "created", [1e300, 10**400, float("nan"), -1, "soon", None], ids=["far", "farther", "nan", "before", "text", "none"]
)
def test_a_list_entry_of_an_impossible_time_is_kept_without_it(conn: Connection, created: Any) -> None:
    made = pull._listed("bounces", "bounced", {"email": ADDRESS, "created": created, "reason": {"a": 1}})
    assert outbox.record_events(conn, [{"provider": "sendgrid", **made}]) == 1
    outbox.apply_events(conn)
    assert conn.value("SELECT reason FROM email_suppressions") == "hard_bounce"


@pytest.mark.slow
def test_the_figures_say_what_became_of_events(database_url: str) -> None:
    sent = [event(), event("launched")]
    with opened(database_url) as door:
        door.report(sent)
        door.report(sent)
        told = door.call("GET", "/metrics", headers={"Authorization": "Bearer a-token-for-the-tests"}).body.decode()
    assert 'jobdeck_door_events_total{fate="new",provider="sendgrid"} 2' in told
    assert 'jobdeck_door_events_total{fate="known",provider="sendgrid"} 2' in told
    assert json.dumps(ADDRESS) not in told
