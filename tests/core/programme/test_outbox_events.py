"""What providers report, applied: in order, once, and never as more than it says."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.programme.messaging import outbox
from tests.core.programme.outbox_support import (
    add_profile,
    claim_one,
    intent,
    put_one,
    send_one,
    settle_one,
    state,
    verdicts,
)
from tests.support.queue import Connection

T0 = 2_000_000_000
_keys = count()


def event(name: str, at: int = T0, **facts: Any) -> dict[str, Any]:
    return {"provider": "sendgrid", "event_key": f"k{next(_keys)}", "event": name, "occurred_at": at, **facts}


def happen(conn: Connection, *events: dict[str, Any]) -> dict[str, Any]:
    """Events come in and are applied."""
    outbox.record_events(conn, list(events))
    return outbox.apply_events(conn)


def about(message: UUID, name: str, at: int = T0, **facts: Any) -> dict[str, Any]:
    return event(name, at, outbox_id=str(message), **facts)


@pytest.fixture
def message(conn: Connection) -> UUID:
    """One mail that SendGrid has taken."""
    return send_one(conn, intent(add_profile(conn)))


def bars(conn: Connection) -> list[tuple[str, str, str]]:
    return conn.execute("select address_norm, reason, scope from email_suppressions order by 1, 2").fetchall()


def test_an_event_counts_once(conn: Connection, message: UUID) -> None:
    delivered = about(message, "delivered")
    assert outbox.record_events(conn, [delivered, delivered]) == 1
    assert outbox.record_events(conn, [delivered]) == 0
    assert outbox.apply_events(conn) == {"seen": 1, "applied": 1, "unmatched": 0, "failed": 0}
    assert outbox.apply_events(conn)["seen"] == 0
    assert state(conn, message) == "delivered"


@pytest.mark.parametrize(
    ("names", "end"),
    [
        (["delivered"], "delivered"),
        (["bounced"], "bounced"),
        (["blocked", "delivered"], "delivered"),
        (["delivered", "blocked"], "blocked"),
        (["bounced", "delivered"], "bounced"),
        (["dropped", "bounced"], "bounced"),
        (["bounced", "dropped"], "bounced"),
        (["processed", "deferred"], "accepted"),
        (["delivered", "open"], "delivered"),
        (["invalid"], "bounced"),
    ],
)
def test_a_worse_outcome_is_not_undone(conn: Connection, message: UUID, names: list[str], end: str) -> None:
    for at, name in enumerate(names):
        happen(conn, about(message, name, T0 + at))
    assert state(conn, message) == end


def test_events_that_come_out_of_order_are_applied_in_the_order_of_their_times(conn: Connection, message: UUID) -> None:
    happen(conn, about(message, "delivered", T0 + 9), about(message, "blocked", T0))
    assert state(conn, message) == "delivered"
    last = conn.execute("select last_event, extract(epoch from last_event_at) from outbox_messages").fetchall()
    assert last == [("delivered", T0 + 9)]


def test_a_delivery_that_was_blocked_later_does_not_come_back_by_an_old_event(conn: Connection, message: UUID) -> None:
    happen(conn, about(message, "blocked", T0 + 5))
    happen(conn, about(message, "delivered", T0))
    assert state(conn, message) == "blocked"


def test_unknown_events_and_unknown_messages_are_kept_and_change_nothing(conn: Connection, message: UUID) -> None:
    done = happen(conn, about(message, "teleported"), about(uuid4(), "delivered"), event("delivered"))
    assert done == {"seen": 3, "applied": 0, "unmatched": 2, "failed": 0}
    assert state(conn, message) == "accepted"


def test_an_event_before_the_report_is_not_lost(conn: Connection) -> None:
    claimed = claim_one(conn, put_one(conn, intent(add_profile(conn))))
    happen(conn, about(claimed.id, "bounced"))
    assert state(conn, claimed.id) == "bounced"
    assert settle_one(conn, claimed, "accepted", provider_message_id="m-9") == "bounced"
    assert conn.execute("select provider_message_id from outbox_messages").fetchall() == [("m-9",)]


@pytest.mark.parametrize("name", ["delivered", "bounced"])
def test_an_event_proves_what_was_uncertain(conn: Connection, name: str) -> None:
    claimed = claim_one(conn, put_one(conn, intent(add_profile(conn))))
    settle_one(conn, claimed, "uncertain")
    happen(conn, about(claimed.id, name))
    assert state(conn, claimed.id) == name


def test_a_message_is_found_by_the_providers_id_and_the_address(conn: Connection) -> None:
    one = send_one(conn, intent(add_profile(conn), "a", address="one@example.org"))
    two = send_one(conn, intent(add_profile(conn), "b", address="two@example.org"))
    happen(conn, event("delivered", message_key="m-1.recvd-x.0", address="TWO@example.org"))
    assert (state(conn, one), state(conn, two)) == ("accepted", "delivered")


def test_a_list_entry_finds_the_last_message_before_it(conn: Connection) -> None:
    person = add_profile(conn)
    old, new = send_one(conn, intent(person, "a")), send_one(conn, intent(person, "b"))
    conn.execute("update outbox_messages set accepted_at = to_timestamp(%s) where id = %s", (T0 - 500, old))
    conn.execute("update outbox_messages set accepted_at = to_timestamp(%s) where id = %s", (T0 + 500, new))
    happen(conn, event("bounced", T0, address="zzto@example.org"))
    assert (state(conn, old), state(conn, new)) == ("bounced", "accepted")


@pytest.mark.parametrize(
    ("name", "reason", "bar"),
    [
        ("bounced", "550 no such user", ("hard_bounce", "all")),
        ("invalid", None, ("invalid", "all")),
        ("spamreport", None, ("spam", "all")),
        ("unsubscribe", None, ("global_unsub", "all")),
        ("group_unsubscribe", None, ("group_unsub", "announcements")),
        ("dropped", "Bounced Address", ("hard_bounce", "all")),
        ("dropped", "Unsubscribed Address", ("global_unsub", "all")),
        ("dropped", "Spam Reporting Address", ("spam", "all")),
        ("dropped", "Invalid", ("invalid", "all")),
        ("dropped", " bounced address ", ("hard_bounce", "all")),
        ("dropped", "Message expired", None),
        ("dropped", "Spam Content", None),
        ("dropped", "Invalid SMTPAPI header", None),
        ("dropped", "Recipient List over Package Quota", None),
        ("dropped", None, None),
        ("blocked", "421 later", None),
        ("deferred", "busy", None),
    ],
)
def test_what_makes_an_address_unfit(
    conn: Connection, message: UUID, name: str, reason: str | None, bar: tuple[str, str] | None
) -> None:
    happen(conn, about(message, name, reason=reason))
    assert bars(conn) == ([("zzto@example.org", *bar)] if bar else [])


def test_a_complaint_about_mail_that_is_not_ours_still_bars_the_address(conn: Connection) -> None:
    assert happen(conn, event("spamreport", address="Other@Example.org"))["applied"] == 1
    assert bars(conn) == [("other@example.org", "spam", "all")]


def test_coming_back_to_a_group_lifts_that_bar_alone(conn: Connection, message: UUID) -> None:
    happen(conn, about(message, "group_unsubscribe"), about(message, "spamreport", T0 + 1))
    happen(conn, about(message, "group_resubscribe", T0 + 2))
    assert bars(conn) == [("zzto@example.org", "spam", "all")]


def test_a_dead_address_gets_no_more_alerts(conn: Connection, message: UUID) -> None:
    happen(conn, about(message, "bounced"))
    assert verdicts(conn, intent(add_profile(conn), "next")) == ["suppressed"]


def test_events_keep_no_address_once_applied(conn: Connection, message: UUID) -> None:
    happen(conn, about(message, "delivered", address="zzto@example.org"))
    row = conn.execute("select address_norm, payload::text from provider_events").fetchall()[0]
    assert row[0] is None
    assert "zzto" not in row[1]
    assert "address_sha256" in row[1]


def test_an_event_that_cannot_be_applied_keeps_nobody_elses_waiting(conn: Connection, message: UUID) -> None:
    conn.execute(
        "create function broken() returns trigger language plpgsql as $$ begin raise exception 'broken'; end $$"
    )
    conn.execute("create trigger broken before insert on email_suppressions for each row execute function broken()")
    done = happen(conn, about(message, "spamreport"), about(message, "delivered", T0 + 1))
    assert done == {"seen": 2, "applied": 1, "unmatched": 0, "failed": 1}
    assert state(conn, message) == "delivered"
    for _ in range(6):
        outbox.apply_events(conn)
    assert outbox.apply_events(conn)["seen"] == 0
    result = conn.execute("select result, failures from provider_events where event = 'spamreport'").fetchall()
    assert result == [("error P0001", 5)]


def test_texts_stop_and_start(conn: Connection) -> None:
    person = add_profile(conn)
    conn.execute("update profiles set mobile_number = '(500) 555-0006'")
    happen(conn, event("stop", provider="twilio", address="+15005550006"))
    assert verdicts(conn, intent(person, channel="sms")) == ["opted_out"]
    assert conn.execute("select sms_notifications_enabled from profiles").fetchall() == [(False,)]
    happen(conn, event("start", T0 + 1, provider="twilio", address="+15005550006"))
    conn.execute("update profiles set sms_notifications_enabled = true")
    assert verdicts(conn, intent(person, channel="sms")) == ["queued"]


def test_a_number_that_cannot_hear_is_not_tried_again(conn: Connection) -> None:
    person = add_profile(conn)
    text = send_one(conn, intent(person, "s", channel="sms"))
    happen(conn, about(text, "bounced", provider="twilio"), about(text, "unusable", T0 + 1, provider="twilio"))
    assert state(conn, text) == "bounced"
    assert verdicts(conn, intent(person, "t", channel="sms")) == ["number_unusable"]


# Campaigns of the original, and release forms


def _campaign(conn: Connection, status: str, campaign_status: str = "sent") -> tuple[UUID, UUID]:
    coach = add_profile(conn)
    competitor = conn.insert("competitors", coach_id=coach)
    campaign = conn.insert("competitor_announcement_campaigns", status=campaign_status)
    conn.insert("competitor_announcement_recipients", campaign_id=campaign, competitor_id=competitor,
                email="zz@example.org", status=status)  # fmt: skip
    return campaign, competitor


def _recipient(conn: Connection) -> str:
    return str(conn.value("select status from competitor_announcement_recipients"))


def test_mail_that_the_original_sent_is_followed_too(conn: Connection) -> None:
    campaign, competitor = _campaign(conn, "unconfirmed")
    ids = {"campaign_id": str(campaign), "competitor_id": str(competitor)}
    happen(conn, event("bounced", T0, **ids))
    assert _recipient(conn) == "bounced"
    happen(conn, event("delivered", T0 + 1, **ids))
    assert _recipient(conn) == "bounced"


def test_a_campaign_that_hung_in_sending_closes_by_events(conn: Connection) -> None:
    campaign, competitor = _campaign(conn, "unconfirmed", "sending")
    happen(conn, event("delivered", T0, campaign_id=str(campaign), competitor_id=str(competitor)))
    assert conn.execute("select status from competitor_announcement_campaigns").fetchall() == [("sent",)]


def _probed(conn: Connection, children: int = 1) -> tuple[UUID, list[UUID]]:
    """A probe to a parent that stands for the forms of several children."""
    coach = add_profile(conn)
    message = send_one(conn, intent(uuid4(), "probe", kind="parent_probe", address="parent@example.org"))
    forms = []
    for _ in range(children):
        row = conn.execute(
            """
            with child as (
                insert into competitors (coach_id, first_name, last_name, parent_email)
                values (%s, 'Zz', 'Zz', ' Parent@Example.org') returning id)
            insert into agreements (competitor_id, request_id, template_kind, recipient_email_verification_status,
                recipient_email_verification_outbox_id)
            select id, 'r', 'minor', 'pending', %s from child returning id
            """,
            (coach, message),
        ).fetchall()
        forms.append(row[0][0])
    return message, forms


def _forms(conn: Connection) -> list[tuple[str, bool | None]]:
    return conn.execute(
        "select a.recipient_email_verification_status, c.parent_email_is_valid from agreements a "
        "join competitors c on c.id = a.competitor_id order by a.id"
    ).fetchall()


@pytest.mark.parametrize(
    ("name", "reason", "status", "valid"),
    [
        ("delivered", None, "delivered", None),
        ("bounced", "550 no such user", "bounce", False),
        ("blocked", "421 later", "blocked", None),
        ("dropped", "Bounced Address", "dropped", False),
        ("dropped", "Unsubscribed Address", "dropped", None),
        ("dropped", "Invalid", "dropped", False),
        ("dropped", "Invalid SMTPAPI header", "dropped", None),
        ("dropped", "Spam Content", "dropped", None),
    ],
)
def test_only_a_bounce_makes_a_parents_address_bad(
    conn: Connection, name: str, reason: str | None, status: str, valid: bool | None
) -> None:
    message, _ = _probed(conn, children=2)
    happen(conn, about(message, name, reason=reason))
    assert _forms(conn) == [(status, valid)] * 2


def test_a_block_is_probed_again_later(conn: Connection) -> None:
    message, _ = _probed(conn)
    happen(conn, about(message, "blocked"))
    row = conn.execute("select recipient_email_verification_next_at > now() + interval '1 hour' from agreements")
    assert row.fetchall() == [(True,)]


def test_an_old_bounce_does_not_condemn_a_new_address(conn: Connection) -> None:
    message, _ = _probed(conn)
    conn.execute("update competitors set parent_email = 'new@example.org'")
    happen(conn, about(message, "bounced"))
    assert _forms(conn) == [("bounce", None)]


def test_a_form_of_the_original_is_found_by_its_own_id(conn: Connection) -> None:
    _, forms = _probed(conn)
    conn.execute("update agreements set recipient_email_verification_outbox_id = null")
    happen(conn, event("bounced", agreement_id=str(forms[0]), address="parent@example.org"))
    assert _forms(conn) == [("bounce", False)]


def test_a_bounce_on_a_form_is_not_undone_by_a_late_delivery(conn: Connection) -> None:
    message, _ = _probed(conn)
    happen(conn, about(message, "bounced", T0), about(message, "delivered", T0 + 5))
    assert _forms(conn) == [("bounce", False)]


def test_editing_a_parents_address_forgets_what_was_known_of_the_old_one(conn: Connection) -> None:
    message, _ = _probed(conn)
    happen(conn, about(message, "bounced"))
    conn.execute("update competitors set parent_email = 'PARENT@example.org'")
    assert _forms(conn)[0][1] is False
    conn.execute("update competitors set parent_email = 'new@example.org'")
    assert _forms(conn)[0][1] is None
    conn.execute("update competitors set parent_email = 'newer@example.org', parent_email_is_valid = true")
    assert _forms(conn)[0][1] is True


def test_a_new_address_that_was_checked_stays_checked_when_the_old_one_was_checked_too(conn: Connection) -> None:
    _probed(conn)
    conn.execute(
        "update competitors set parent_email_is_valid = true, parent_email_validated_at = now() - interval '1 day'"
    )
    conn.execute(
        "update competitors set parent_email = 'new@example.org', parent_email_is_valid = true, "
        "parent_email_validated_at = now()"
    )
    assert _forms(conn)[0][1] is True
    conn.execute("update competitors set parent_email = 'newer@example.org', parent_email_is_valid = true")
    assert _forms(conn)[0][1] is None
