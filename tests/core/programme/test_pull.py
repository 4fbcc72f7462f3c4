"""Pulling delivery results: from lists, logs and statuses to what became of each message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.events import pull as events_pull
from jobdeck.core.programme.events.pull import Pulled
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.delivery import deliver
from jobdeck.core.programme.sandbox.sendgrid import SendGrid
from jobdeck.core.programme.sandbox.server import UNSUBSCRIBE_GROUP
from jobdeck.core.programme.vendors import Clients, email_wire
from jobdeck.core.programme.vendors.errors import MessagingError, ProviderConfigError
from tests.core.handlers.mail_world import MailWorld, mail_settings
from tests.core.programme.outbox_support import state
from tests.core.programme.test_delivery import put, render


def pull(mail: MailWorld, *, dry_run: bool = False, **settings: Any) -> Pulled:
    clients = Clients(made := mail_settings(mail.sandbox, **settings))
    try:
        return events_pull.pull(mail.conn, clients, made, actor="ada@example", dry_run=dry_run)
    finally:
        clients.close()


def send(mail: MailWorld, count: int = 1, channel: str = "email") -> list[Any]:
    context = mail.context()
    decisions = put(mail, context, count, channel)
    deliver(context, decisions, render)
    context.close()
    return [decision.id for decision in decisions]


def test_what_became_of_mail_is_pulled(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates.update(
        {"p1@example.org": "bounce", "p2@example.org": "blocked", "p3@example.org": "dropped", "p4@example.org": "none"}
    )
    messages = send(mail, 5)
    found = pull(mail)
    assert [state(mail.conn, one) for one in messages] == ["delivered", "bounced", "blocked", "dropped", "accepted"]
    assert found.sources == {"bounces": 1, "blocks": 1, "log": 4}
    assert found.failed == 0
    assert mail.conn.rows(
        "select address_norm, reason from email_suppressions where reason = 'hard_bounce' order by 1"
    ) == [
        {"address_norm": "p1@example.org", "reason": "hard_bounce"},
        {"address_norm": "p3@example.org", "reason": "hard_bounce"},
    ]


@pytest.mark.slow
def test_a_drop_for_the_text_of_a_mail_leaves_its_whole_audience_mailable(mail: MailWorld) -> None:
    campaign = mail.campaign(5)
    mail.sandbox.sendgrid.fates["*"] = "dropped-content"
    mail.dispatch(campaign)
    pull(mail)
    assert mail.statuses(campaign) == {"dropped": 5}
    assert mail.conn.rows("select 1 from email_suppressions") == []


def test_pulling_twice_finds_nothing_new(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates["p1@example.org"] = "bounce"
    send(mail, 2)
    first, second = pull(mail), pull(mail)
    assert (first.new, second.new, second.applied) == (3, 0, 0)


def test_pulled_and_pushed_results_agree(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates["p1@example.org"] = "bounce"
    messages = send(mail, 2)
    body, headers = mail.sandbox.sendgrid.signed(mail.sandbox.sendgrid.take_events())
    assert email_wire.verified(mail.sandbox.sendgrid.public_key, headers, body)
    outbox.record_events(mail.conn, email_wire.read(body)[0])
    outbox.apply_events(mail.conn)
    states = [state(mail.conn, one) for one in messages]
    pull(mail)
    assert [state(mail.conn, one) for one in messages] == states == ["delivered", "bounced"]


def test_unsubscribes_and_complaints_are_pulled(mail: MailWorld) -> None:
    send(mail, 3)
    events = ("spamreport", "unsubscribe", "group_unsubscribe")
    for one, event in zip(mail.sandbox.sendgrid.accepted.all, events, strict=True):
        more = {"asm_group_id": UNSUBSCRIBE_GROUP} if event == "group_unsubscribe" else {}
        mail.sandbox.sendgrid.report(event, one, **more)
    pull(mail)
    assert mail.conn.rows("select address_norm, reason, scope from email_suppressions order by 1") == [
        {"address_norm": "p0@example.org", "reason": "spam", "scope": "all"},
        {"address_norm": "p1@example.org", "reason": "global_unsub", "scope": "all"},
        {"address_norm": "p2@example.org", "reason": "group_unsub", "scope": "announcements"},
    ]


def bars(mail: MailWorld) -> list[str]:
    found = mail.conn.rows("select address_norm, reason from email_suppressions order by 1, 2")
    return [f"{row['address_norm'].split('@')[0]} {row['reason']}" for row in found]


def test_who_left_another_group_is_not_barred(mail: MailWorld) -> None:
    send(mail, 1)
    mail.sandbox.sendgrid.report("group_unsubscribe", mail.sandbox.sendgrid.accepted.all[0], asm_group_id=5)
    assert pull(mail).sources == {"log": 1}
    assert bars(mail) == []


def test_who_leaves_a_group_again_is_noticed_again(mail: MailWorld) -> None:
    send(mail, 1)
    one = mail.sandbox.sendgrid.accepted.all[0]
    leave = partial(mail.sandbox.sendgrid.report, "group_unsubscribe", one, asm_group_id=UNSUBSCRIBE_GROUP)
    mail.sandbox.sendgrid.clock = lambda: 1_760_000_000.0
    leave()
    assert pull(mail).new == 2
    assert pull(mail).new == 0
    assert bars(mail) == ["p0 group_unsub"]
    mail.conn.execute("delete from email_suppressions")
    mail.sandbox.sendgrid.clock = lambda: 1_760_000_900.0
    leave()
    assert pull(mail).new == 1
    assert bars(mail) == ["p0 group_unsub"]


BAD_ADDRESSES = ["zz\x00bad@example.org", "zz\ud83dbad@example.org", "zzbad@exa\udc00mple.org"]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_address_that_no_database_can_store_ends_no_pull(mail: MailWorld, address: str) -> None:
    vendor = mail.sandbox.sendgrid
    for listed in ("zzone@example.org", address, "zztwo@example.org"):
        vendor.list_address("invalid_emails", listed)
    found = pull(mail)
    assert (found.sources, found.failed) == ({"invalid_emails": 3}, 0)
    assert {"zzone invalid", "zztwo invalid"} <= set(bars(mail))
    assert events_pull.cursor_of(mail.conn, "sendgrid:invalid_emails") is not None
    assert pull(mail).new == 0


UNREADABLE: list[Any] = [7, None, {}, {"email": 5}, {"email": " "}, {"email": ["zz@example.org"]}]


@pytest.mark.parametrize("entry", UNREADABLE)
def test_an_entry_that_is_none_is_counted_and_left_out(mail: MailWorld, entry: Any) -> None:
    vendor = mail.sandbox.sendgrid
    vendor.list_address("invalid_emails", "zzone@example.org")
    answered(vendor, "suppression/invalid_emails", lambda content: [*content, entry])
    answered(vendor, "asm/suppressions", lambda content: [*content, entry, {"group_id": UNSUBSCRIBE_GROUP}])
    found = pull(mail)
    assert found.aside["invalid_emails"] == 1
    assert found.aside["group_unsubscribes"] >= 1
    assert any("entries of invalid_emails cannot be read" in warning for warning in found.warnings)
    assert "zz" not in repr(found.warnings)
    assert bars(mail) == ["zzone invalid"]
    assert events_pull.cursor_of(mail.conn, "sendgrid:invalid_emails") is not None


@pytest.mark.parametrize(
    "changed",
    [{"to_email": "zz\x00@example.org"}, {"sg_message_id": "zz\ud83d"}, {"status": ["zz"]}, {"reason": "\x00"}],
)
def test_an_entry_of_the_log_that_cannot_be_read_costs_itself_alone(mail: MailWorld, changed: dict[str, Any]) -> None:
    messages = send(mail, 2)
    answered(mail.sandbox.sendgrid, "logs", lambda content: {
        "messages": [content["messages"][0] | changed | {"to_email": changed.get("to_email", "zz@example.org")},
                     *content["messages"]]
    })  # fmt: skip
    assert pull(mail).failed == 0
    assert [state(mail.conn, one) for one in messages] == ["delivered", "delivered"]


@pytest.mark.parametrize("messages", [5, {"zz": 1}, "zz"])
def test_a_log_of_another_shape_is_no_list(mail: MailWorld, messages: Any) -> None:
    send(mail, 1)
    answered(mail.sandbox.sendgrid, "logs", lambda _content: {"messages": messages})
    assert pull(mail).sources == {}


def test_what_the_database_refuses_is_counted_and_shows_nothing_of_an_address(
    mail: MailWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hand_on, "cleaned", lambda made: made)
    monkeypatch.setattr(events_pull, "clean", lambda text: text)
    for listed in ("zzone@example.org", "zz\x00bad@example.org"):
        mail.sandbox.sendgrid.list_address("invalid_emails", listed)
    found = pull(mail)
    assert (found.new, found.aside) == (1, {"events": 1})
    assert bars(mail) == ["zzone invalid"]
    assert events_pull.cursor_of(mail.conn, "sendgrid:invalid_emails") is not None
    written = repr([vars(record) for record in caplog.records if not record.name.startswith("psycopg")])
    assert "cannot be kept" in written
    assert "zz" not in written


def answered(vendor: SendGrid, path: str, change: Callable[[Any], Any]) -> None:
    """Changes what the vendor answers under a path."""
    answer = vendor.answer

    def changed(method: str, asked: str, *given: Any) -> Any:
        status, content, headers = answer(method, asked, *given)
        return (status, change(content), headers) if asked == path else (status, content, headers)

    vendor.answer = changed  # type: ignore[method-assign, assignment]


def test_a_campaign_is_confirmed_by_its_category(mail: MailWorld) -> None:
    campaign = mail.campaign(30)
    mail.dispatch(campaign)
    pull(mail)
    assert mail.statuses(campaign) == {"delivered": 30}


def test_uncertain_recipients_are_settled_by_the_log(mail: MailWorld) -> None:
    campaign = mail.campaign(5)
    mail.sandbox.rules.add("cut-after:mail/send:1")
    with pytest.raises(Exception, match="uncertain"):
        mail.dispatch(campaign)
    context = mail.context()
    mail.dispatch(campaign, context)
    assert mail.campaign_row(campaign)["status"] == "partially_failed"
    # Without the answer there is no message id; the list of the provider knows the address all the same.
    mail.conn.execute("update outbox_messages set provider_message_id = %s", (
        mail.sandbox.sendgrid.accepted.all[0].message_id,))  # fmt: skip
    pull(mail)
    assert mail.statuses(campaign) == {"delivered": 5}
    assert mail.campaign_row(campaign)["status"] == "sent"


@pytest.mark.slow
def test_a_log_longer_than_one_answer_is_read_in_halves(mail: MailWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_pull, "LOG_PAGE", 4)
    campaign = mail.campaign(12)
    mail.dispatch(campaign)
    mail.conn.execute("update outbox_messages set accepted_at = accepted_at - interval '15 minutes'")
    for place, one in enumerate(mail.sandbox.sendgrid.accepted.all):
        object.__setattr__(one, "at", one.at - 700 + place * 30)
    found = pull(mail)
    assert found.warnings == []
    assert mail.statuses(campaign) == {"delivered": 12}


@pytest.mark.slow
def test_a_second_with_more_than_one_answer_is_told(mail: MailWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_pull, "LOG_PAGE", 4)
    campaign = mail.campaign(12)
    mail.dispatch(campaign)
    second = int(mail.sandbox.sendgrid.accepted.all[0].at)
    for one in mail.sandbox.sendgrid.accepted.all:
        object.__setattr__(one, "at", float(second))
    found = pull(mail)
    assert "some stay unconfirmed" in found.warnings[0]
    assert mail.statuses(campaign) == {"delivered": 4, "unconfirmed": 8}


def test_an_account_without_the_log_still_learns_of_failures(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates["p1@example.org"] = "bounce"
    messages = send(mail, 2)
    mail.sandbox.rules.add("403:/v3/logs")
    found = pull(mail)
    assert [state(mail.conn, one) for one in messages] == ["accepted", "bounced"]
    assert "log could not be read" in found.warnings[0]


def test_a_bounce_by_address_belongs_to_a_message_whose_acceptance_was_noted_late(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates["p1@example.org"] = "bounce"
    messages = send(mail, 2)
    # The worker stopped for a minute between the vendor's answer and its own note of it.
    mail.conn.execute("update outbox_messages set accepted_at = accepted_at + interval '1 minute'")
    mail.sandbox.rules.add("403:/v3/logs")
    pull(mail)
    assert [state(mail.conn, one) for one in messages] == ["accepted", "bounced"]


def test_a_bounce_by_address_belongs_to_no_message_that_was_put_in_later(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.fates["p1@example.org"] = "bounce"
    messages = send(mail, 2)
    mail.conn.execute(
        "update outbox_messages set created_at = created_at + interval '1 minute',"
        " accepted_at = accepted_at + interval '1 minute'"
    )
    mail.sandbox.rules.add("403:/v3/logs")
    pull(mail)
    assert [state(mail.conn, one) for one in messages] == ["accepted", "accepted"]


@pytest.mark.slow
def test_texts_are_asked_about(mail: MailWorld) -> None:
    mail.sandbox.twilio.fates.update({"+15005551001": 30007, "+15005551002": 30006, "+15005551003": "sent"})
    messages = send(mail, 4, "sms")
    found = pull(mail)
    assert [state(mail.conn, one) for one in messages] == ["delivered", "bounced", "bounced", "accepted"]
    assert mail.conn.rows("select error_code from outbox_messages where error_code is not null order by 1") == [
        {"error_code": "30006"}, {"error_code": "30007"},
    ]  # fmt: skip
    assert mail.conn.rows("select phone_e164, source from sms_opt_outs") == [
        {"phone_e164": "+15005551002", "source": "unusable"}
    ]
    assert found.warnings == []


@pytest.mark.slow
def test_a_sender_that_carriers_do_not_know_is_an_alarm(mail: MailWorld) -> None:
    mail.sandbox.twilio.fates["+15005551000"] = 30034
    send(mail, 1, "sms")
    assert "30034" in pull(mail).warnings[0]


def test_stop_is_pulled(mail: MailWorld) -> None:
    mail.sandbox.twilio.stop("+15005551111")
    pull(mail)
    assert mail.conn.rows("select phone_e164, source, cleared_at from sms_opt_outs") == [
        {"phone_e164": "+15005551111", "source": "stop", "cleared_at": None}
    ]


@pytest.mark.slow
def test_a_dry_run_keeps_nothing_and_counts_what_it_would(mail: MailWorld) -> None:
    send(mail, 2)
    before = mail.everything()
    found = pull(mail, dry_run=True)
    assert (found.new, found.applied) == (2, 2)
    assert mail.everything() == before
    assert pull(mail).new == 2


def test_a_wrong_key_keeps_nothing_and_names_the_setting(mail: MailWorld) -> None:
    before = mail.everything()
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY"):
        pull(mail, SENDGRID_API_KEY="SG.wrong")
    assert mail.everything() == before


def test_rubbish_keeps_nothing(mail: MailWorld) -> None:
    mail.sandbox.rules.add("malformed:suppression")
    before = mail.everything()
    with pytest.raises(MessagingError, match="not JSON"):
        pull(mail)
    assert mail.everything() == before


def test_without_any_provider_there_is_nobody_to_ask(mail: MailWorld) -> None:
    found = pull(mail, SENDGRID_API_KEY=None, SMS_PROVIDER=None)
    assert "no provider to ask" in found.warnings[0]
    assert mail.sandbox.requests == []
