"""Admin alerts: who is told of new messages, by which channel, and what leaves the queue without being told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import RetryLater
from jobdeck.core.handlers import admin_alert_dispatch as alerts
from jobdeck.core.programme.messaging import admin_alerts
from jobdeck.core.programme.messaging.admin_alerts import Recipient
from jobdeck.core.programme.vendors.sms import segments
from tests.core.handlers.notice_world import NUMBER, NoticeWorld
from tests.core.handlers.test_sms_digest_processor import now_in
from tests.core.programme.outbox_support import claim_one, settle_one
from tests.support.context import ended
from tests.support.queue import Connection

TYPE = "admin_alert_dispatch"
COACH = UUID(int=7)


def rows(notices: NoticeWorld) -> list[tuple[bool, str | None]]:
    """Of each row in the queue whether it was told, and why it was dropped."""
    found = notices.conn.rows(
        "select sent_at is not null as told, dropped_reason from admin_alert_queue order by created_at, id"
    )
    return [(row["told"], row["dropped_reason"]) for row in found]


def admin(notices: NoticeWorld, count: int = 1, **columns: Any) -> UUID:
    return notices.reader(role="admin", count=count, **columns)


# The normal run


def test_all_new_messages_of_an_admin_come_in_one_mail_and_their_rows_stay_as_told(notices: NoticeWorld) -> None:
    person = admin(notices, 3)
    assert rows(notices) == [(False, None)] * 3
    output = notices.output(alerts)
    assert output == {
        "dryRun": False, "sent": 1, "processedRecipients": 1, "emailSent": 1, "smsSent": 0, "accepted": 1,
        "retried": 0, "failed": 0, "uncertain": 0, "leftOut": {}, "dropped": {},
        "results": [{"recipient": str(person), "sent": True, "count": 3, "email": "accepted"}],
    }  # fmt: skip
    mail = notices.sandbox.sendgrid.accepted.all[0]
    assert mail.address == notices.address(person)
    assert "3 new messages" in mail.subject
    assert "https://dashboard.example.org/dashboard/messages" in mail.text
    assert "https://dashboard.example.org/dashboard/messages" in mail.html
    assert "secret" not in mail.text + mail.html
    assert set(mail.custom_args) == {"email_type", "outbox_id"}
    assert rows(notices) == [(True, None)] * 3
    log = notices.conn.row("select coach_id, channel, unread_count, error_text, role from alert_log")
    assert log == {"coach_id": person, "channel": "email", "unread_count": 3, "error_text": None, "role": "admin"}
    assert notices.output(alerts, force=True)["processedRecipients"] == 0


def test_the_senders_and_coaches_of_a_conversation_are_not_alerted(notices: NoticeWorld) -> None:
    sender, coach, reader = notices.profile(role="admin"), notices.profile(), notices.profile(role="admin")
    notices.message(notices.conversation(sender, coach, reader), sender)
    notices.output(alerts)
    assert notices.mailed == [notices.address(reader)]


def test_a_private_reply_alerts_its_addressee_only(notices: NoticeWorld) -> None:
    one, two, sender = notices.profile(role="admin"), notices.profile(role="admin"), notices.profile()
    notices.message(notices.conversation(one, two, sender), sender, metadata={"private_to": str(one)})
    notices.output(alerts)
    assert notices.mailed == [notices.address(one)]


@pytest.mark.slow
def test_texts_go_only_where_asked_for_by_the_job_and_the_person(notices: NoticeWorld) -> None:
    admin(notices, texts=True, mobile_number="500 555 0110")
    admin(notices, texts=True, instant_sms_enabled=False)
    assert notices.output(alerts)["smsSent"] == 0
    notices.later("2 hours")
    admin(notices, texts=True, mobile_number="500 555 0111")
    output = notices.output(alerts, allowSms=True)
    assert (output["emailSent"], output["smsSent"], output["sent"]) == (1, 1, 1)
    text = notices.sandbox.twilio.accepted.all[0]
    assert text.address == "+15005550111"
    assert "STOP" in text.text
    assert segments(text.text) == 1
    admin(notices, texts=True)
    assert notices.output(alerts, notices.context(SMS_PROVIDER="disabled"), allowSms=True)["smsSent"] == 0


def test_an_admin_who_wants_texts_alone_is_told_by_text(notices: NoticeWorld) -> None:
    admin(notices, texts=True, email_alerts_enabled=False)
    output = notices.output(alerts, allowSms=True)
    assert (output["emailSent"], output["smsSent"]) == (0, 1)
    assert rows(notices) == [(True, None)]


def test_sendgrids_own_template_gets_the_link_too(notices: NoticeWorld) -> None:
    admin(notices)
    notices.output(alerts, notices.context(SENDGRID_TEMPLATE_ID="d-1"))
    data = notices.sandbox.sendgrid.accepted.all[0].request["personalization"]["dynamic_template_data"]
    assert data["dashboard_url"] == "https://dashboard.example.org/dashboard/messages"


@pytest.mark.slow
def test_more_people_than_a_page_are_all_told(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PAGE", 3)
    people = [admin(notices) for _ in range(8)]
    assert notices.output(alerts)["sent"] == 8
    assert sorted(notices.mailed) == sorted(notices.address(one) for one in people)


def test_only_one_person_where_one_is_named(notices: NoticeWorld) -> None:
    one, _ = admin(notices), admin(notices)
    assert notices.output(alerts, coachId=str(one))["sent"] == 1
    assert notices.mailed == [notices.address(one)]
    assert sorted(rows(notices)) == [(False, None), (True, None)]


# High priority


def jobs(notices: NoticeWorld) -> list[Any]:
    return [row["payload"] for row in notices.conn.rows("select payload from job_queue where task_type = %s", TYPE)]


def test_urgent_messages_ask_for_one_job_however_many_they_are(notices: NoticeWorld) -> None:
    reader, sender = notices.profile(role="admin"), notices.profile()
    conversation = notices.conversation(reader, sender)
    notices.message(conversation, sender)
    assert jobs(notices) == []
    for _ in range(3):
        notices.message(conversation, sender, urgent=True)
    payload = {"roles": ["admin"], "allowSms": False, "force": True, "windowMinutes": 5}
    assert jobs(notices) == [payload]
    registry.load().validate(TYPE, payload)
    notices.output(alerts)
    notices.message(conversation, sender, urgent=True)
    assert notices.output(alerts)["sent"] == 0
    assert notices.output(alerts, **payload)["sent"] == 1


# Windows


@pytest.mark.slow
def test_there_is_an_hour_between_two_alerts_to_a_person_unless_told_otherwise(notices: NoticeWorld) -> None:
    person = admin(notices)
    notices.output(alerts)
    notices.written_to(person)
    notices.later("50 minutes")
    output = notices.output(alerts)
    assert (output["sent"], output["leftOut"]) == (0, {"window": 1})
    assert notices.output(alerts, windowMinutes=51)["sent"] == 0
    notices.written_to(person)
    notices.later("15 minutes")
    output = notices.output(alerts)
    assert output["results"][0]["count"] == 2
    assert rows(notices) == [(True, None)] * 3


def test_force_does_not_wait(notices: NoticeWorld) -> None:
    person = admin(notices)
    notices.output(alerts)
    notices.written_to(person)
    assert notices.output(alerts, windowMinutes=500, force=True)["sent"] == 1


def test_quiet_hours_defer_a_text_that_is_the_only_way(notices: NoticeWorld) -> None:
    admin(notices, texts=True, email_alerts_enabled=False)
    context = notices.context(QUIET_HOURS=now_in(notices, "around"), QUIET_TZ="UTC")
    output = notices.output(alerts, context, allowSms=True)
    assert output["leftOut"] == {"preference_off": 1, "quiet_hours": 1}
    assert rows(notices) == [(False, None)]
    assert notices.output(alerts, allowSms=True)["smsSent"] == 1


# What leaves the queue untold


def test_what_was_read_archived_or_left_is_dropped_and_not_alerted(notices: NoticeWorld) -> None:
    person = admin(notices, 5)
    first, second, third, fourth, _ = (
        row["message_id"] for row in notices.conn.rows("select message_id from admin_alert_queue")
    )
    notices.conn.insert("message_read_receipts", message_id=first, user_id=person)
    notices.archive(second, person)
    notices.conn.execute('update messages set metadata = \'{"private_to": "somebody"}\' where id = %s', (third,))
    elsewhere = notices.conversation(notices.coach)
    notices.conn.execute("update messages set conversation_id = %s where id = %s", (elsewhere, fourth))
    output = notices.output(alerts)
    assert output["dropped"] == {"read": 1, "archived": 1, "private": 1, "not_member": 1}
    assert output["results"][0]["count"] == 1
    assert sorted(str(reason) for _, reason in rows(notices)) == ["None", "archived", "not_member", "private", "read"]


def test_a_message_that_was_read_is_not_alerted(notices: NoticeWorld) -> None:
    notices.read_everything(admin(notices, 2))
    assert notices.output(alerts)["dropped"] == {"read": 2}
    assert notices.mailed == []


def test_one_who_is_no_admin_any_more_is_not_alerted_unless_asked_for(notices: NoticeWorld) -> None:
    one, two = admin(notices), admin(notices)
    notices.conn.execute("update profiles set role = 'coach' where id = any (%s)", ([one, two],))
    assert notices.output(alerts, coachId=str(one))["dropped"] == {"not_admin": 1}
    assert notices.mailed == []
    assert notices.output(alerts, roles=["coach"])["sent"] == 1
    assert notices.mailed == [notices.address(two)]


def test_a_job_for_coaches_leaves_the_rows_of_admins_alone(notices: NoticeWorld) -> None:
    admin(notices)
    assert notices.output(alerts, roles=["coach"])["processedRecipients"] == 0
    assert rows(notices) == [(False, None)]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"email_alerts_enabled": False}, "preference_off"),
        ({"email": " "}, "no_address"),
        ({"email_alert_address": "zz at example.org"}, "invalid_email_format"),
    ],
)
def test_whoever_cannot_be_told_leaves_no_rows_for_ever(
    notices: NoticeWorld, columns: dict[str, Any], reason: str
) -> None:
    admin(notices, 2, **columns)
    output = notices.output(alerts)
    assert (output["leftOut"], output["dropped"]) == ({reason: 1}, {reason: 2})
    assert notices.left_out() == [("email", reason)]
    assert rows(notices) == [(False, reason)] * 2
    assert notices.output(alerts)["processedRecipients"] == 0
    assert notices.sandbox.requests == []


def test_rows_of_people_and_messages_that_were_deleted_go_with_them(notices: NoticeWorld) -> None:
    gone, stays = admin(notices, 2), admin(notices, 2)
    notices.conn.execute("delete from profiles where id = %s", (gone,))
    kept = notices.conn.row("select message_id from admin_alert_queue where recipient_id = %s limit 1", stays)[
        "message_id"
    ]
    notices.conn.execute("delete from messages where id <> %s", (kept,))
    assert rows(notices) == [(False, None)]
    output = notices.output(alerts)
    assert (output["processedRecipients"], output["sent"], output["results"][0]["count"]) == (1, 1, 1)
    assert notices.mailed == [notices.address(stays)]


def test_a_suppressed_address_drops_the_rows(notices: NoticeWorld) -> None:
    person = admin(notices)
    suppressed = {"address_norm": notices.address(person), "reason": "spam", "scope": "all", "source": "test"}
    notices.conn.insert("email_suppressions", **suppressed)
    assert notices.output(alerts)["dropped"] == {"suppressed": 1}
    assert notices.mailed == []


def test_an_address_that_sendgrid_refuses_is_tried_once(notices: NoticeWorld) -> None:
    bad, _ = admin(notices), admin(notices)
    notices.sandbox.sendgrid.refused.add(notices.address(bad))
    done = ended(notices.run_job(alerts))
    assert (done.failed, done.output["sent"]) == (1, 1)
    assert sorted(rows(notices), key=str) == [(False, "address_refused"), (True, None)]
    asked = len(notices.sandbox.requests)
    notices.written_to(bad)
    notices.later("2 hours")
    assert notices.output(alerts)["dropped"] == {"suppressed": 1}
    assert len(notices.sandbox.requests) == asked


def test_who_answers_stop_is_told_by_mail_and_gets_no_more_texts(notices: NoticeWorld) -> None:
    person = admin(notices, texts=True)
    notices.sandbox.twilio.stop(NUMBER)
    done = ended(notices.run_job(alerts, allowSms=True))
    assert (done.output["emailSent"], done.output["smsSent"], done.failed) == (1, 0, 1)
    assert notices.conn.row("select instant_sms_enabled as on from profiles where id = %s", person)["on"] is False
    assert rows(notices) == [(True, None)]


def test_a_number_that_is_none_is_counted_and_the_mail_goes_out(notices: NoticeWorld) -> None:
    admin(notices, texts=True, mobile_number="0110")
    output = notices.output(alerts, allowSms=True)
    assert (output["emailSent"], output["leftOut"]) == (1, {"invalid_phone": 1})


# Overlap, dry run, payload


def test_two_runs_at_once_send_one_mail(notices: NoticeWorld, database_url: str) -> None:
    people = [admin(notices) for _ in range(3)]
    one, two = notices.context(), notices.context()
    with Connection.connect(database_url, autocommit=True) as second:
        two.db = second
        original = two.raise_if_cancelled

        def meanwhile() -> None:
            two.raise_if_cancelled = original  # type: ignore[method-assign]
            notices.run_job(alerts, one, force=True)

        two.raise_if_cancelled = meanwhile  # type: ignore[method-assign]
        notices.run_job(alerts, two, force=True)
    assert notices.sandbox.sendgrid.accepted.counts() == {notices.address(one): 1 for one in people}


def test_messages_whose_notice_another_run_begins_to_send_meanwhile_stay_bound_to_it(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin(notices)
    notices.sandbox.rules.add("503:mail/send:1")
    with pytest.raises(RetryLater):
        notices.run_job(alerts)
    notices.later("1 minute")
    (notice,) = notices.conn.rows("select id from outbox_messages")
    real, begun = admin_alerts.claim, []

    def claim(conn: Connection, people: Sequence[UUID], *, run_token: int) -> list[Recipient]:
        found = real(conn, people, run_token=run_token)
        begun.append(claim_one(conn, notice["id"]))
        return found

    monkeypatch.setattr(admin_alerts, "claim", claim)
    assert notices.output(alerts, force=True)["sent"] == 0
    monkeypatch.undo()
    assert rows(notices) == [(False, None)]
    settle_one(notices.conn, begun[0], "accepted")
    notices.output(alerts)
    assert rows(notices) == [(True, None)]
    assert notices.mailed == []


@pytest.mark.slow
def test_a_dry_run_counts_and_changes_nothing(notices: NoticeWorld) -> None:
    person = admin(notices, 3, texts=True)
    admin(notices, email_alerts_enabled=False)
    gone = admin(notices)
    notices.conn.execute("update profiles set role = 'coach' where id = %s", (gone,))
    read = notices.conn.row("select message_id from admin_alert_queue where recipient_id = %s limit 1", person)[
        "message_id"
    ]
    notices.conn.insert("message_read_receipts", message_id=read, user_id=person)
    context = notices.context(without="SENDGRID_API_KEY")
    with notices.changes_nothing():
        output = notices.output(alerts, context, dryRun=True, allowSms=True)
    assert output | {"sample": None} == {
        "dryRun": True, "sent": 0, "processedRecipients": 0, "candidates": 2, "wouldSend": {"email": 1, "sms": 1},
        "messages": 2, "leftOut": {"preference_off": 1}, "wouldDrop": {"not_admin": 1, "read": 1},
        "first": [str(person)], "sample": None,
    }  # fmt: skip
    assert output["sample"]["to"] == "z…@example.org"
    assert "Hello Admin" in output["sample"]["text"]
    with notices.changes_nothing():
        assert notices.output(alerts, notices.context(dry_run=True))["wouldSend"] == {"email": 1, "sms": 0}
    context = notices.context()
    with notices.changes_nothing():
        told = alerts.preview(alerts.Params(allow_sms=True), context)
    context.close()
    assert told["messages"] == 2
    done = notices.output(alerts, allowSms=True)
    assert (done["emailSent"], done["smsSent"]) == (1, 1)


@pytest.mark.slow
def test_a_dry_run_knows_the_window(notices: NoticeWorld) -> None:
    person = admin(notices)
    notices.output(alerts)
    notices.written_to(person)
    with notices.changes_nothing():
        assert notices.output(alerts, dryRun=True)["leftOut"] == {"window": 1}
        assert notices.output(alerts, dryRun=True, force=True)["wouldSend"]["email"] == 1


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        ({}, {}),
        (
            {"dryRun": False, "coachId": None, "force": False, "roles": ["admin"], "allowSms": False,
             "windowMinutes": 90},
            {"window_minutes": 90},
        ),
        (
            {"dryRun": True, "coachId": str(COACH), "roles": ["coach", "admin"], "allowSms": True, "force": True},
            {"dry_run": True, "coach_id": COACH, "roles": ["coach", "admin"], "allow_sms": True, "force": True},
        ),
    ],
)  # fmt: skip
def test_payloads_of_the_original_are_read(payload: dict[str, Any], read: dict[str, Any]) -> None:
    unset = {"dry_run": False, "coach_id": None, "window_minutes": None, "force": False, "roles": ["admin"],
             "allow_sms": False}  # fmt: skip
    assert registry.load().validate(TYPE, payload)[1].model_dump() == unset | read
