"""The sandbox's SendGrid: the wire format, the rules of `mail/send`, and events that the SDK's verifier accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.programme.sandbox import sendgrid
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors import email_wire
from tests.support.waiting import PATIENCE

Json = dict[str, Any]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(people=False, clock=lambda: 1_760_000_000.0) as running:
        yield running


def request(**changes: Any) -> Json:
    body: Json = {
        "personalizations": [{"to": [{"email": "a@example.org"}], "custom_args": {"outbox_id": "x"}}],
        "from": {"email": "dashboard@example.org", "name": "Dashboard"},
        "subject": "S",
        "content": [{"type": "text/plain", "value": "T"}],
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


def post(sandbox: Sandbox, body: Any, path: str = "mail/send", key: str = sendgrid.KEY) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"http://127.0.0.1:{sandbox.port}/v3/{path}",
        content=content,
        headers={"Authorization": f"Bearer {key}"},
        timeout=PATIENCE,
    )


def get(sandbox: Sandbox, path: str, **query: Any) -> Any:
    answer = httpx.get(
        f"http://127.0.0.1:{sandbox.port}/v3/{path}",
        params=query,
        headers={"Authorization": f"Bearer {sendgrid.KEY}"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 200
    return answer.json()


def fields(answer: httpx.Response) -> list[str | None]:
    assert answer.status_code == 400
    return [error["field"] for error in answer.json()["errors"]]


def test_a_good_request_is_taken(sandbox: Sandbox) -> None:
    answer = post(sandbox, request())
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["X-Message-Id"] == sandbox.sendgrid.accepted.all[0].message_id
    assert answer.headers["X-RateLimit-Reset"] == "1760000060"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [{"to": []}]}, "personalizations.0.to"),
        ({"personalizations": [{"to": [{"email": "ok@example.org"}]}, {"to": [{"email": "x"}]}]},
         "personalizations.1.to.0.email"),
        ({"personalizations": [{"to": [{"email": "a@example.org"}, {"email": "A@example.org"}]}]},
         "personalizations.0"),
        ({"personalizations": [{"to": [{"email": "a@example.org"}], "custom_args": {"n": 1}}]},
         "personalizations.0.custom_args"),
        ({"personalizations": [{"to": [{"email": f"p{n}@example.org"}]} for n in range(1001)]}, "personalizations"),
        ({"from": {}}, "from"),
        ({"from": {"email": "a@example.org", "name": "ü"}}, "from.name"),
        ({"subject": None}, "subject"),
        ({"content": None}, "content"),
        ({"content": [{"type": "text/html", "value": "h"}, {"type": "text/plain", "value": "t"}]}, "content"),
        ({"categories": ["a", "a"]}, "categories"),
        ({"asm": {"group_id": "1"}}, "asm.group_id"),
        ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_the_field(sandbox: Sandbox, changes: Json, field: str) -> None:
    assert field in fields(post(sandbox, request(**changes)))
    assert len(sandbox.sendgrid.accepted) == 0


def test_what_is_no_json_is_refused(sandbox: Sandbox) -> None:
    assert fields(post(sandbox, b"{")) == [None]


def test_a_request_is_taken_or_refused_as_a_whole(sandbox: Sandbox) -> None:
    sandbox.sendgrid.refused.add("b@example.org")
    people = [{"to": [{"email": f"{name}@example.org"}]} for name in "abc"]
    assert fields(post(sandbox, request(personalizations=people))) == ["personalizations.1.to.0.email"]
    assert len(sandbox.sendgrid.accepted) == 0


def test_a_thousand_recipients_are_not_too_many(sandbox: Sandbox) -> None:
    people = [{"to": [{"email": f"p{n}@example.org"}]} for n in range(1000)]
    assert post(sandbox, request(personalizations=people)).status_code == 202
    assert len(sandbox.sendgrid.accepted.counts()) == 1000


def test_a_template_needs_neither_subject_nor_content(sandbox: Sandbox) -> None:
    assert post(sandbox, request(template_id="d-1", subject=None, content=None)).status_code == 202


def test_sandbox_mode_checks_and_delivers_nothing(sandbox: Sandbox) -> None:
    mode = {"sandbox_mode": {"enable": True}}
    answer = post(sandbox, request(mail_settings=mode))
    assert (answer.status_code, "X-Message-Id" in answer.headers) == (200, False)
    assert fields(post(sandbox, request(mail_settings=mode, subject=None))) == ["subject"]
    assert len(sandbox.sendgrid.accepted) == 0


def test_a_wrong_key_is_told(sandbox: Sandbox) -> None:
    answer = post(sandbox, request(), key="SG.other")
    assert answer.status_code == 401
    assert answer.json()["errors"][0]["field"] is None


def test_faults_come_in_the_vendors_shape(sandbox: Sandbox) -> None:
    sandbox.rules.add("429:mail/send:1")
    sandbox.rules.add("413:mail/send:1")
    busy, large = post(sandbox, request()), post(sandbox, request())
    assert (busy.status_code, busy.headers["X-RateLimit-Reset"]) == (429, "1760000060")
    assert (large.status_code, list(large.json())) == (413, ["errors"])
    assert post(sandbox, request()).status_code == 202


def test_a_line_cut_after_the_work_has_done_the_work(sandbox: Sandbox) -> None:
    sandbox.rules.add("cut-after:mail/send:1")
    sandbox.rules.add("cut-before:mail/send:1")
    for _ in range(2):
        with pytest.raises(httpx.HTTPError):
            post(sandbox, request())
    assert len(sandbox.sendgrid.accepted) == 1


def _send(sandbox: Sandbox, *addresses: str, category: str = "news") -> None:
    people = [{"to": [{"email": address}], "custom_args": {"outbox_id": address}} for address in addresses]
    assert post(sandbox, request(personalizations=people, categories=[category])).status_code == 202


def test_events_tell_what_became_of_each_message(sandbox: Sandbox) -> None:
    sandbox.sendgrid.fates.update({"b@example.org": "bounce", "c@example.org": "blocked", "d@example.org": "none"})
    _send(sandbox, "a@example.org", "b@example.org", "c@example.org", "d@example.org")
    events = [event for event in sandbox.sendgrid.take_events() if event["event"] != "processed"]
    assert [(one["email"][0], one["event"], one.get("type")) for one in events] == [
        ("a", "delivered", None), ("b", "bounce", "bounce"), ("c", "bounce", "blocked"),
    ]  # fmt: skip
    assert events[0]["outbox_id"] == "a@example.org"
    assert events[0]["sg_message_id"].startswith(sandbox.sendgrid.accepted.all[0].message_id + ".")
    assert len({one["sg_event_id"] for one in events}) == 3
    assert sandbox.sendgrid.take_events() == []


def test_mail_is_dropped_for_each_reason_that_sendgrid_documents(sandbox: Sandbox) -> None:
    fates = [fate for fate in sendgrid.FATES if fate.startswith("dropped")]
    sandbox.sendgrid.fates.update({f"{fate}@example.org": fate for fate in fates})
    _send(sandbox, *(f"{fate}@example.org" for fate in fates))
    dropped = [event["reason"] for event in sandbox.sendgrid.take_events() if event["event"] == "dropped"]
    assert sorted(dropped) == [
        "Bounced Address", "Invalid", "Invalid SMTPAPI header", "Recipient List over Package Quota", "Spam Content",
        "Spam Reporting Address", "Unsubscribed Address",
    ]  # fmt: skip


def test_events_are_signed_so_that_the_sdk_knows_them(sandbox: Sandbox) -> None:
    _send(sandbox, "a@example.org")
    body, headers = sandbox.sendgrid.signed(sandbox.sendgrid.take_events())
    key = sandbox.sendgrid.public_key
    assert email_wire.verified(key, headers, body)
    assert email_wire.verified(key, {name.lower(): value for name, value in headers.items()}, body)
    assert not email_wire.verified(key, headers, body + b" ")
    assert not email_wire.verified(key, headers | {email_wire.TIMESTAMP: "1"}, body)
    assert not email_wire.verified(key, headers | {email_wire.SIGNATURE: "rubbish"}, body)
    assert not email_wire.verified(key, {}, body)
    assert not email_wire.verified(sendgrid.SendGrid().public_key, headers, body)
    assert not email_wire.verified(key, headers, b"\xff\xfe")


@pytest.mark.parametrize("key", [None, "", "rubbish"])
def test_without_a_key_no_event_is_believed(key: str | None) -> None:
    with pytest.raises(ConfigurationError, match="SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY"):
        email_wire.verified(key, {}, b"[]")


def test_suppressions_are_listed_in_pages_and_times(sandbox: Sandbox) -> None:
    sandbox.sendgrid.fates.update({f"b{n}@example.org": "bounce" for n in range(3)})
    _send(sandbox, *(f"b{n}@example.org" for n in range(3)))
    assert [one["email"] for one in get(sandbox, "suppression/bounces", limit=2)] == [
        "b0@example.org",
        "b1@example.org",
    ]
    assert [one["email"] for one in get(sandbox, "suppression/bounces", limit=2, offset=2)] == ["b2@example.org"]
    assert get(sandbox, "suppression/bounces", start_time=1_760_000_001) == []
    assert get(sandbox, "suppression/blocks") == []


def test_who_left_which_group_is_listed_with_the_time(sandbox: Sandbox) -> None:
    _send(sandbox, "a@example.org")
    one = sandbox.sendgrid.accepted.all[0]
    sandbox.sendgrid.report("group_unsubscribe", one, asm_group_id=4711)
    sandbox.sendgrid.report("group_unsubscribe", one, asm_group_id=5)
    sandbox.sendgrid.report("group_resubscribe", one, asm_group_id=5)
    assert [event.get("asm_group_id") for event in sandbox.sendgrid.take_events()][-3:] == [4711, 5, 5]
    entry = {"email": "a@example.org", "group_id": 4711, "group_name": "News", "created_at": 1_760_000_000}
    assert get(sandbox, "asm/suppressions") == [entry]
    assert get(sandbox, "asm/groups/4711/suppressions") == ["a@example.org"]
    assert get(sandbox, "asm/groups/5/suppressions") == []


def test_each_list_has_the_fields_that_sendgrid_describes(sandbox: Sandbox) -> None:
    sandbox.sendgrid.fates.update({"b@example.org": "bounce", "l@example.org": "blocked"})
    _send(sandbox, "a@example.org", "b@example.org", "l@example.org")
    for event in ("spamreport", "unsubscribe"):
        sandbox.sendgrid.report(event, sandbox.sendgrid.accepted.all[0])
    sandbox.sendgrid.list_address("invalid_emails", "i@example.org")
    names = ("bounces", "blocks", "invalid_emails", "spam_reports", "unsubscribes")
    fields_of = {name: set(get(sandbox, f"suppression/{name}")[0]) - {"created", "email"} for name in names}
    assert fields_of == {
        "bounces": {"reason", "status"}, "blocks": {"reason", "status"}, "invalid_emails": {"reason"},
        "spam_reports": {"ip"}, "unsubscribes": set(),
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"query": 5}', b'{"query": "x", "limit": 1001}', b'{"limit": "1"}'])
def test_what_is_no_search_of_the_log_is_refused_without_a_field(sandbox: Sandbox, body: bytes) -> None:
    answer = post(sandbox, body, "logs")
    assert answer.status_code == 400
    assert [list(error) for error in answer.json()["errors"]] == [["message"]]


def test_a_refused_search_of_the_log_has_no_field_either(sandbox: Sandbox) -> None:
    sandbox.rules.add("403:/v3/logs")
    answer = post(sandbox, {"query": "x"}, "logs")
    assert (answer.status_code, [list(error) for error in answer.json()["errors"]]) == (403, [["message"]])


@pytest.mark.slow
def test_the_log_is_searched_by_category_time_and_status(sandbox: Sandbox) -> None:
    sandbox.sendgrid.fates["b@example.org"] = "bounce"
    _send(sandbox, "a@example.org", "b@example.org", category="campaign-1")
    _send(sandbox, "c@example.org", category="campaign-2")

    def found(query: str, limit: int = 100) -> list[str]:
        answer = post(sandbox, {"query": query, "limit": limit}, "logs")
        assert answer.status_code == 200
        return [f"{one['to_email'][0]} {one['status']}" for one in answer.json()["messages"]]

    assert found("categories IN ('campaign-1')") == ["a delivered", "b bounced"]
    assert found("categories IN ('campaign-1')", 1) == ["a delivered"]
    assert found("status IN ('bounced', 'blocked')") == ["b bounced"]
    assert found('sg_message_id_created_at >= TIMESTAMP "2025-10-09T08:53:21Z"') == []
    assert len(found('sg_message_id_created_at >= TIMESTAMP "2025-10-09T08:53:20Z"')) == 3
    assert post(sandbox, {"query": "x", "limit": 1001}, "logs").status_code == 400


def test_events_are_read_in_the_outboxes_words() -> None:
    ids = {name: f"00000000-0000-0000-0000-00000000000{n}" for n, name in enumerate(["outbox_id", "campaign_id"])}
    entries = [
        {"event": "BOUNCE", "type": "blocked", "timestamp": 5, "sg_event_id": "e1", "email": "a@example.org",
         "reason": "550 <a@example.org>: no", **ids},
        {"event": "open", "sg_machine_open": True, "timestamp": 6, "sg_event_id": "e2"},
        {"event": "delivered", "timestamp": 7, "sg_event_id": "e3", "custom_args": ids, "outbox_id": "not an id"},
        {"event": "delivered"},
        {"timestamp": 3},
    ]  # fmt: skip
    events, ignored = email_wire.read(json.dumps(entries).encode())
    assert ignored == 2
    assert [one["event"] for one in events] == ["blocked", "machine_open", "delivered"]
    assert (events[0]["outbox_id"], events[0]["campaign_id"]) == (ids["outbox_id"], ids["campaign_id"])
    assert events[0]["reason"] == "550 <<email>>: no"
    assert (events[2]["outbox_id"], events[2]["campaign_id"]) == (None, ids["campaign_id"])


def test_one_event_without_an_id_of_its_own_is_the_same_when_it_comes_again() -> None:
    event = {"event": "delivered", "timestamp": 7, "email": "a@example.org"}
    again = dict(reversed(event.items()))
    others = [event | {"event": "open"}, event | {"timestamp": 8}, event | {"email": "b@example.org"}]
    first = email_wire.read(json.dumps(event).encode())[0]
    found = email_wire.read(json.dumps([again, *others]).encode())[0]
    keys = [one["event_key"] for one in [*first, *found]]
    assert keys[0] == keys[1]
    assert len(set(keys[1:])) == 4


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"'])
def test_what_is_no_list_of_events_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="Nothing was kept"):
        email_wire.read(body)
