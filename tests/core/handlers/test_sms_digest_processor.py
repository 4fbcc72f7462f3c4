"""The digest: who is told that messages wait, by which channel, and how often."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater
from jobdeck.core.handlers import sms_digest_processor as digest
from jobdeck.core.programme.vendors.sms import segments
from jobdeck.core.registry import Continue
from tests.core.handlers.notice_world import NUMBER, NoticeWorld
from tests.support.context import ended
from tests.support.queue import Connection

TYPE = "sms_digest_processor"
COACH = UUID(int=7)
SENT = {"emailSent": 1, "smsSent": 0}


def sent(output: dict[str, Any]) -> tuple[int, int]:
    return output["emailSent"], output["smsSent"]


def now_in(notices: NoticeWorld, hours: str) -> str:
    """Quiet hours around the database's present time, or away from it."""
    row = notices.conn.row(
        "select to_char(now() - interval '1 hour', 'HH24:MI') || '-' || to_char(now() + interval '1 hour', 'HH24:MI') "
        "as around, to_char(now() + interval '2 hours', 'HH24:MI') || '-' || to_char(now() + interval '3 hours', "
        "'HH24:MI') as away"
    )
    return str(row[hours])


# The normal run


def test_a_coach_with_unread_messages_is_told_how_many_and_nothing_else(notices: NoticeWorld) -> None:
    coach = notices.reader(count=3)
    output = notices.output(digest)
    assert output == {
        "dryRun": False, "force": False, "roles": ["coach"], "allowSms": True, "candidates": 1, "alertsAttempted": 1,
        "emailSent": 1, "smsSent": 0, "successes": 1, "failures": 0, "accepted": 1, "retried": 0, "failed": 0,
        "uncertain": 0, "leftOut": {}, "results": [{"coachId": str(coach), "unreadCount": 3, "email": "accepted"}],
    }  # fmt: skip
    mail = notices.sandbox.sendgrid.accepted.all[0]
    assert mail.address == notices.address(coach)
    assert "3 unread messages" in mail.subject
    assert "https://dashboard.example.org/dashboard/messages" in mail.text
    assert "https://dashboard.example.org/dashboard/messages" in mail.html
    assert "secret" not in mail.text + mail.html + mail.subject
    assert mail.custom_args["email_type"] == "unread_alert"
    assert set(mail.custom_args) == {"email_type", "outbox_id"}
    log = notices.conn.row(
        "select coach_id, channel, unread_count, error_text, role, job_id is null as alone from alert_log"
    )
    assert log == {
        "coach_id": coach, "channel": "email", "unread_count": 3, "error_text": None, "role": "coach", "alone": False,
    }  # fmt: skip
    profile = notices.conn.row(
        "select last_unread_alert_at, last_unread_alert_count from profiles where id = %s", coach
    )
    assert profile["last_unread_alert_at"] is not None
    assert profile["last_unread_alert_count"] == 3


def test_a_text_goes_out_together_with_the_mail_to_those_who_want_it(notices: NoticeWorld) -> None:
    notices.reader(texts=True, mobile_number="(500) 555-0110")
    notices.reader(texts=True, sms_notifications_enabled=False)
    output = notices.output(digest)
    assert sent(output) == (2, 1)
    text = notices.sandbox.twilio.accepted.all[0]
    assert text.address == NUMBER
    assert "1 unread message on the Coach Dashboard" in text.text
    assert "STOP" in text.text
    assert "https://dashboard.example.org" in text.text
    assert segments(text.text) == 1
    row = notices.conn.row("select provider_message_id, segments from outbox_messages where channel = 'sms'")
    assert row == {"provider_message_id": text.message_id, "segments": 1}
    assert notices.conn.row("select count(*) as n from profiles where mobile_number = %s", NUMBER)["n"] == 2


def test_a_text_is_one_part_however_long_name_and_link_are(notices: NoticeWorld) -> None:
    notices.reader(texts=True, first_name="Žž" * 30)
    notices.output(digest, notices.context(APP_BASE_URL=f"https://{'very-' * 20}long.example.org"))
    assert segments(notices.sandbox.twilio.accepted.all[0].text) == 1


def test_the_site_wide_template_of_sendgrid_gets_the_original_values(notices: NoticeWorld) -> None:
    notices.reader(count=2)
    notices.output(digest, notices.context(SENDGRID_TEMPLATE_ID="d-1"))
    request = notices.sandbox.sendgrid.accepted.all[0].request
    assert request["template_id"] == "d-1"
    data = request["personalization"]["dynamic_template_data"]
    assert {"name", "messages", "dashboard_url"} <= set(data)
    assert data["messages"] == 2


def test_texts_can_be_left_out_and_switched_off(notices: NoticeWorld) -> None:
    notices.reader(texts=True)
    notices.reader(texts=True)
    assert sent(notices.output(digest, allowSms=False)) == (2, 0)
    notices.later("2 days")
    assert sent(notices.output(digest, notices.context(SMS_PROVIDER="disabled"))) == (2, 0)
    assert notices.sandbox.twilio.accepted.all == []


def test_the_coach_filter_and_the_roles(notices: NoticeWorld) -> None:
    one, two, admin = notices.reader(), notices.reader(), notices.reader(role="admin")
    assert notices.output(digest, coachId=str(one))["successes"] == 1
    assert notices.mailed == [notices.address(one)]
    notices.output(digest, roles=["admin"])
    assert notices.mailed[1:] == [notices.address(admin)]
    notices.output(digest, roles=["admin", "coach"])
    assert notices.mailed[2:] == [notices.address(two)]


def test_the_alert_address_goes_before_the_login_address(notices: NoticeWorld) -> None:
    notices.reader(email_alert_address="  ZZother@example.org ")
    notices.reader(email_alert_address="   ")
    notices.output(digest)
    assert sorted(address.startswith("zzprofile-") for address in notices.mailed) == [False, True]
    assert "zzother@example.org" in notices.mailed


def test_more_people_than_a_page_are_all_told(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "PAGE", 3)
    people = {notices.reader() for _ in range(10)}
    output = notices.output(digest)
    assert output["successes"] == output["candidates"] == 10
    assert sorted(notices.mailed) == sorted(notices.address(one) for one in people)


def test_a_long_run_hands_over_and_nobody_is_told_twice(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "PAGE", 2)
    monkeypatch.setattr(digest, "RUN_SECONDS", 0.0)
    for _ in range(5):
        notices.reader()
    context = notices.context()
    runs = 1
    while isinstance(notices.run_job(digest, context), Continue):
        runs += 1
        assert runs < 9
    assert runs == 3
    assert sorted(notices.sandbox.sendgrid.accepted.counts().values()) == [1] * 5


def test_what_could_not_be_sent_before_a_hand_over_is_sent_after_the_last_page(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [notices.reader() for _ in range(3)]
    notices.sandbox.rules.add("503:mail/send:1")
    context = notices.context()
    with monkeypatch.context() as short:
        short.setattr(digest, "PAGE", 2)
        short.setattr(digest, "RUN_SECONDS", 0.0)
        assert isinstance(notices.run_job(digest, context), Continue)
        last = notices.run_job(digest, context)
    assert isinstance(last, Continue)
    assert (last.checkpoint, last.delay, len(notices.mailed)) == ({}, 60.0, 2)
    notices.later("1 minute")
    assert ended(notices.run_job(digest, context)).failed == 0
    assert sorted(notices.mailed) == sorted(map(notices.address, people))


def test_a_run_that_is_repeated_after_the_last_page_begins_with_the_first(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        notices.reader()
    context = notices.context()
    with monkeypatch.context() as short:
        short.setattr(digest, "PAGE", 2)
        short.setattr(digest, "RUN_SECONDS", 0.0)
        assert isinstance(notices.run_job(digest, context), Continue)
        notices.sandbox.rules.add("503:mail/send:1")
        with pytest.raises(RetryLater):
            notices.run_job(digest, context)
    first = notices.reader(person=UUID(int=1))
    notices.later("1 minute")
    assert notices.output(digest, context)["accepted"] == 2
    assert notices.address(first) in notices.mailed


# What counts as unread


def test_what_is_archived_read_private_own_young_or_from_before_joining_does_not_count(notices: NoticeWorld) -> None:
    coach, other = notices.profile(), notices.profile()
    conversation = notices.conversation(coach, other, joined="2 days")
    notices.archive(notices.message(conversation, other), coach)
    notices.conn.insert("message_read_receipts", message_id=notices.message(conversation, other), user_id=coach)
    notices.message(conversation, other, metadata={"private_to": str(notices.coach)})
    notices.message(conversation, coach)
    notices.message(conversation, other, age="5 minutes")
    notices.message(conversation, other, age="3 days")
    output = notices.output(digest, coachId=str(coach))
    assert (output["candidates"], notices.mailed) == (0, [])
    notices.message(conversation, other, metadata={"private_to": str(coach)})
    notices.message(conversation, other, age="11 minutes")
    assert notices.output(digest, coachId=str(coach))["results"][0]["unreadCount"] == 2


@pytest.mark.parametrize(("private_to", "counted"), [("not a uuid", 1), (7, 1), ({}, 1), ([], 1), ("", 2), (None, 2)])
def test_a_malformed_private_mark_harms_nobody(notices: NoticeWorld, private_to: Any, counted: int) -> None:
    coach, other = notices.profile(), notices.profile()
    conversation = notices.conversation(coach, other)
    notices.message(conversation, other, metadata={"private_to": private_to})
    notices.message(conversation, other)
    assert notices.output(digest, coachId=str(coach))["results"][0]["unreadCount"] == counted


# How often


def test_within_the_window_nobody_hears_twice_of_the_same_messages(notices: NoticeWorld) -> None:
    coach = notices.reader(texts=True)
    notices.output(digest)
    notices.later("3 hours")
    notices.written_to(coach, 5, age="20 minutes")
    output = notices.output(digest)
    assert sent(output) == (0, 0)
    assert output["leftOut"] == {"window": 2}
    assert notices.left_out() == [("email", "window"), ("sms", "window")]


def test_after_the_window_there_is_a_reminder_once(notices: NoticeWorld) -> None:
    notices.reader()
    assert sent(notices.output(digest)) == (1, 0)
    notices.later("25 hours")
    assert sent(notices.output(digest)) == (1, 0)
    assert sent(notices.output(digest)) == (0, 0)
    assert [row["dedupe_key"].count(":") for row in notices.conn.rows("select dedupe_key from outbox_messages")] == [
        3,
        3,
    ]


def test_a_reminder_comes_once_a_day_even_in_a_short_window(notices: NoticeWorld) -> None:
    notices.reader()
    notices.output(digest, windowMinutes=1)
    notices.later("2 minutes")
    assert sent(notices.output(digest, windowMinutes=1)) == (1, 0)
    notices.later("2 minutes")
    assert sent(notices.output(digest, windowMinutes=1)) == (0, 0)


def test_whoever_read_everything_is_told_of_the_next_message_at_once(notices: NoticeWorld) -> None:
    coach = notices.reader(count=5)
    notices.output(digest)
    notices.later("1 hour")
    notices.read_everything(coach)
    assert notices.output(digest)["candidates"] == 0
    assert notices.conn.row("select last_unread_alert_count as n from profiles where id = %s", coach)["n"] is None
    notices.written_to(coach, 3, age="30 minutes")
    output = notices.output(digest)
    assert sent(output) == (1, 0)
    assert output["results"][0]["unreadCount"] == 3


def test_there_is_a_daily_cap_whatever_happens(notices: NoticeWorld) -> None:
    coach = notices.reader(texts=True)
    for _ in range(3):
        notices.output(digest, coachId=str(coach), force=True)
    assert notices.output(digest, coachId=str(coach), force=True)["leftOut"] == {"daily_cap": 2}
    assert len(notices.mailed) == 3
    assert len(notices.sandbox.twilio.accepted) == 1


def test_force_sends_within_the_window_once_for_each_cycle_of_a_job(notices: NoticeWorld) -> None:
    coach = notices.reader()
    notices.output(digest)
    context = notices.context()
    context.job = context.job._replace(is_recurring=True)
    assert sent(notices.output(digest, context, force=True, coachId=str(coach))) == (1, 0)
    again = notices.context(job_id=context.job.id)
    assert again.idempotency_key == context.idempotency_key
    assert sent(notices.output(digest, again, force=True, coachId=str(coach))) == (0, 0)


def test_a_recurring_job_may_not_force_notices_on_everyone(notices: NoticeWorld) -> None:
    notices.reader()
    context = notices.context()
    context.job = context.job._replace(is_recurring=True)
    with notices.changes_nothing(), pytest.raises(PermanentError, match="coachId"):
        notices.run_job(digest, context, force=True)
    assert notices.mailed == []


def test_a_notice_of_the_original_holds_for_its_window(notices: NoticeWorld) -> None:
    coach = notices.reader(count=2)
    notices.conn.execute(
        "update profiles set last_unread_alert_at = now() - interval '30 minutes', last_unread_alert_count = 2 "
        "where id = %s",
        (coach,),
    )
    assert notices.output(digest)["leftOut"] == {"window": 1}
    notices.later("1 day")
    assert sent(notices.output(digest)) == (1, 0)


def test_force_sends_within_the_window_of_a_notice_of_the_original(notices: NoticeWorld) -> None:
    coach = notices.reader()
    notices.conn.execute("update profiles set last_unread_alert_at = now(), last_unread_alert_count = 1")
    assert notices.output(digest)["leftOut"] == {"window": 1}
    assert sent(notices.output(digest, force=True, coachId=str(coach))) == (1, 0)


def test_two_runs_at_once_tell_everybody_once(notices: NoticeWorld, database_url: str) -> None:
    for _ in range(3):
        notices.reader()
    one, two = notices.context(), notices.context()
    with Connection.connect(database_url, autocommit=True) as second:
        two.db = second
        original = two.raise_if_cancelled

        def meanwhile() -> None:
            two.raise_if_cancelled = original  # type: ignore[method-assign]
            notices.run_job(digest, one)

        two.raise_if_cancelled = meanwhile  # type: ignore[method-assign]
        notices.run_job(digest, two)
    assert sorted(notices.sandbox.sendgrid.accepted.counts().values()) == [1, 1, 1]


# Who is not told


def test_quiet_hours_defer_texts_and_not_mail(notices: NoticeWorld) -> None:
    notices.reader(texts=True)
    output = notices.output(digest, notices.context(QUIET_HOURS=now_in(notices, "around"), QUIET_TZ="UTC"))
    assert sent(output) == (1, 0)
    assert (output["leftOut"], output["failed"]) == ({"quiet_hours": 1}, 0)
    output = notices.output(digest, notices.context(QUIET_HOURS=now_in(notices, "away"), QUIET_TZ="UTC"))
    assert sent(output) == (0, 1)


def test_preferences_and_people_without_a_channel_are_counted_and_are_no_failures(notices: NoticeWorld) -> None:
    notices.reader(email_alerts_enabled=False)
    notices.reader(email_alerts_enabled=None)
    notices.reader(email="  ", mobile_number=NUMBER)
    done = ended(notices.run_job(digest))
    assert done.failed == 0
    assert (done.output["successes"], done.output["leftOut"]) == (1, {"no_channel": 2})
    assert sorted(notices.left_out()) == sorted([(None, "no_channel"), (None, "no_channel")])


@pytest.mark.parametrize("number", ["0110", "+0 500 555", "call me", "+1500555011055555"])
def test_a_number_that_is_none_is_counted_and_not_tried(notices: NoticeWorld, number: str) -> None:
    notices.reader(texts=True, mobile_number=number)
    output = notices.output(digest)
    assert (sent(output), output["leftOut"]) == ((1, 0), {"invalid_phone": 1})
    assert (
        notices.conn.row("select mobile_number from profiles where mobile_number is not null")["mobile_number"]
        == number
    )


@pytest.mark.parametrize("number", ["5005550110", "15005550110", "+15005550110", "500-555-0110", "1 (500) 555 0110"])
def test_usual_ways_to_write_a_number_are_understood(notices: NoticeWorld, number: str) -> None:
    notices.reader(texts=True, mobile_number=number)
    assert sent(notices.output(digest)) == (1, 1)
    assert notices.sandbox.twilio.accepted.all[0].address == NUMBER


def test_an_address_that_is_none_is_counted_and_not_tried(notices: NoticeWorld) -> None:
    notices.reader(email_alert_address="zz at example.org")
    assert notices.output(digest)["leftOut"] == {"invalid_email_format": 1}
    assert notices.sandbox.requests == []


@pytest.mark.parametrize(("reason", "says"), [("hard_bounce", "suppressed"), ("global_unsub", "unsubscribed")])
def test_a_suppressed_address_is_not_written_to(notices: NoticeWorld, reason: str, says: str) -> None:
    coach = notices.reader()
    notices.conn.insert(
        "email_suppressions", address_norm=notices.address(coach), reason=reason, scope="all", source="test"
    )
    assert notices.output(digest)["leftOut"] == {says: 1}
    assert notices.mailed == []


def test_a_bounce_ends_the_mail_to_that_address(notices: NoticeWorld) -> None:
    coach = notices.reader()
    notices.sandbox.sendgrid.fates[notices.address(coach)] = "bounce"
    notices.output(digest)
    notices.apply_events()
    notices.later("2 days")
    assert notices.output(digest)["leftOut"] == {"suppressed": 1}
    assert len(notices.mailed) == 1


def test_whoever_answered_stop_gets_no_more_texts(notices: NoticeWorld) -> None:
    coach = notices.reader(texts=True)
    notices.sandbox.twilio.stop(NUMBER)
    done = ended(notices.run_job(digest))
    assert (sent(done.output), done.failed) == ((1, 0), 1)
    # Of people: one who was reached by mail has been reached.
    assert (done.output["successes"], done.output["failures"]) == (1, 0)
    assert notices.conn.row("select sms_notifications_enabled as on from profiles where id = %s", coach)["on"] is False
    notices.later("2 days")
    asked = len(notices.sandbox.requests)
    assert sent(notices.output(digest)) == (1, 0)
    assert len(notices.sandbox.requests) == asked + 1


# Dry run, preview, payload


@pytest.mark.slow
def test_a_dry_run_tells_what_it_would_do_and_changes_nothing(notices: NoticeWorld) -> None:
    first = notices.reader(texts=True, mobile_number="500 555 0110", count=2)
    notices.reader(email_alerts_enabled=False)
    notices.reader(texts=True, mobile_number="none")
    notices.conn.execute("update profiles set last_unread_alert_count = 9 where id = %s", (notices.coach,))
    with notices.changes_nothing():
        output = notices.output(digest, dryRun=True)
    assert output["dryRun"] is True
    assert output["candidates"] == 3
    assert output["wouldSend"] == {"email": 2, "sms": 1}
    assert output["leftOut"] == {"no_channel": 1, "invalid_phone": 1}
    assert str(first) in output["first"]
    assert output["sample"]["to"] == "z…@example.org"
    assert "Hello Coach" in output["sample"]["text"]
    with notices.changes_nothing():
        assert notices.output(digest, notices.context(dry_run=True))["wouldSend"] == output["wouldSend"]
    context = notices.context()
    with notices.changes_nothing():
        told = digest.preview(digest.Params(), context)
    context.close()
    assert told["wouldSend"] == output["wouldSend"]
    assert sent(notices.output(digest)) == (2, 1)


def test_a_dry_run_needs_no_key_and_knows_window_and_quiet_hours(notices: NoticeWorld) -> None:
    notices.reader(texts=True)
    notices.output(digest, allowSms=False)
    context = notices.context(without="SENDGRID_API_KEY", QUIET_HOURS=now_in(notices, "around"), QUIET_TZ="UTC")
    with notices.changes_nothing():
        output = notices.output(digest, context, dryRun=True)
    assert output["leftOut"] == {"window": 1, "quiet_hours": 1}
    assert output["sample"] is None


def test_a_sample_may_be_a_text(notices: NoticeWorld) -> None:
    notices.reader(texts=True, email_alerts_enabled=False)
    sample = notices.output(digest, dryRun=True)["sample"]
    assert (sample["channel"], sample["to"]) == ("sms", "…10")
    assert sample["text"].startswith("Coach: 1 unread message ")


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        ({}, {}),
        ({"dryRun": False, "coachId": None, "force": False, "roles": ["coach"], "allowSms": True}, {}),
        (
            {"dryRun": True, "force": True, "roles": ["admin", "coach"], "allowSms": False},
            {"dry_run": True, "force": True, "roles": ["admin", "coach"], "allow_sms": False},
        ),
        (
            {"dry_run": True, "coach_id": str(COACH), "window_minutes": 5},
            {"dry_run": True, "coach_id": COACH, "window_minutes": 5},
        ),
    ],
)
def test_payloads_of_the_original_are_read(payload: dict[str, Any], read: dict[str, Any]) -> None:
    unset = {"dry_run": False, "coach_id": None, "window_minutes": None, "force": False, "roles": ["coach"],
             "allow_sms": True}  # fmt: skip
    assert registry.load().validate(TYPE, payload)[1].model_dump() == unset | read


def test_a_time_zone_that_is_none_is_named(notices: NoticeWorld) -> None:
    notices.reader()
    with pytest.raises(ConfigurationError, match="QUIET_TZ"):
        notices.run_job(digest, notices.context(QUIET_TZ="Mars/Olympus"))
    assert notices.mailed == []
