"""The ledger between "decided to send" and "sent"."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import Channel, Kind, LeftOut, Policy, Result
from jobdeck.core.programme.settings import CompetitionSettings
from tests.core.programme.outbox_support import (
    JOB,
    LEASE,
    TOKEN,
    add_profile,
    claim_one,
    claimable,
    intent,
    left_out,
    let_leases_end,
    let_time_pass,
    put_one,
    send_one,
    settle_one,
    state,
    verdicts,
)
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, together


def test_a_key_is_put_down_once(conn: Connection) -> None:
    person = add_profile(conn)
    first = put_one(conn, intent(person, count=1))
    again = put_one(conn, intent(person, count=2))
    assert first == again
    assert conn.execute("select count(*), max(data ->> 'count') from outbox_messages").fetchone() == (1, "2")


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [("accepted", "sent"), ("failed", "failed"), ("uncertain", "uncertain"), (None, "in_flight")],
)
def test_what_was_dealt_with_is_not_sent_again(conn: Connection, outcome: str | None, verdict: str) -> None:
    person = add_profile(conn)
    claimed = claim_one(conn, put_one(conn, intent(person)))
    if outcome:
        settle_one(conn, claimed, outcome)
    assert verdicts(conn, intent(person)) == [verdict]
    assert not claimable(conn, claimed.id)


def test_a_retry_waits_for_its_time(conn: Connection) -> None:
    person = add_profile(conn)
    claimed = claim_one(conn, put_one(conn, intent(person)))
    assert settle_one(conn, claimed, "retry", wait=90.0, error_class="provider_down") == "queued"
    assert verdicts(conn, intent(person)) == ["waiting"]
    assert not claimable(conn, claimed.id)
    let_time_pass(conn, "91 seconds")
    assert verdicts(conn, intent(person)) == ["queued"]
    assert claim_one(conn, claimed.id).attempt == 2


def test_retries_end(conn: Connection) -> None:
    message = put_one(conn, intent(add_profile(conn)))
    for _ in range(2):
        assert settle_one(conn, claim_one(conn, message), "retry", most_attempts=3) == "queued"
    assert settle_one(conn, claim_one(conn, message), "retry", most_attempts=3) == "failed"


def test_what_a_dead_sender_left_in_flight_becomes_uncertain_and_stays_so(conn: Connection) -> None:
    person = add_profile(conn)
    claimed = claim_one(conn, put_one(conn, intent(person)))
    assert outbox.sweep(conn).uncertain == 0
    let_leases_end(conn)
    assert outbox.sweep(conn).uncertain == 1
    assert state(conn, claimed.id) == "uncertain"
    let_time_pass(conn, "30 days")
    outbox.sweep(conn)
    assert verdicts(conn, intent(person)) == ["uncertain"]
    assert not claimable(conn, claimed.id)


@pytest.mark.parametrize(("outcome", "end"), [("accepted", "accepted"), ("failed", "failed"), ("retry", "queued")])
def test_a_late_report_settles_what_was_uncertain(conn: Connection, outcome: str, end: str) -> None:
    claimed = claim_one(conn, put_one(conn, intent(add_profile(conn))))
    let_leases_end(conn)
    outbox.sweep(conn)
    assert settle_one(conn, claimed, outcome) == end


def test_a_report_on_an_earlier_attempt_does_not_count(conn: Connection) -> None:
    message = put_one(conn, intent(add_profile(conn)))
    first = claim_one(conn, message)
    let_leases_end(conn)
    outbox.sweep(conn)
    outbox.decide(conn, [message], send_again=True, actor="mara@local")
    second = claim_one(conn, message)
    assert settle_one(conn, first, "retry") is None
    assert state(conn, message) == "sending"
    assert settle_one(conn, second, "accepted") == "accepted"


@pytest.mark.parametrize(("again", "end"), [(True, "queued"), (False, "failed")])
def test_only_a_person_decides_on_what_is_uncertain_and_it_is_audited(conn: Connection, again: bool, end: str) -> None:
    message = put_one(conn, intent(add_profile(conn)))
    settle_one(conn, claim_one(conn, message), "uncertain")
    assert outbox.decide(conn, [message, uuid4()], send_again=again, actor="mara@local") == 1
    assert state(conn, message) == end
    audit = conn.execute("select actor, action from job_audit").fetchall()
    assert audit[0][0].startswith("mara@local")
    assert audit[0][1] == ("send again" if again else "give up")


@pytest.mark.slow
def test_two_claims_at_once_take_a_message_once(conn: Connection, database_url: str) -> None:
    messages = [put_one(conn, intent(add_profile(conn), f"k{n}", address=f"zz{n}@example.org")) for n in range(40)]
    taken: list[UUID] = []
    start = threading.Barrier(4)

    def work() -> None:
        with Connection.connect(database_url, autocommit=True) as own:
            start.wait(timeout=PATIENCE)
            for message in messages:
                taken.extend(
                    one.id for one in outbox.claim(own, [message], lease_seconds=LEASE, job_id=JOB, run_token=TOKEN)
                )

    together(*[work] * 4)
    assert sorted(taken) == sorted(messages)


def test_a_suppressed_address_is_left_out_and_on_record(conn: Connection) -> None:
    person = add_profile(conn)
    conn.execute("insert into email_suppressions values ('zzbad@example.org', 'hard_bounce', 'all', 'test')")
    assert verdicts(conn, intent(person, address=" ZZBad@Example.org ")) == ["suppressed"]
    assert left_out(conn) == [("email", "suppressed")]
    assert conn.execute("select count(*) from outbox_messages").fetchone() == (0,)


def test_an_unsubscribe_from_announcements_leaves_alerts_alone(conn: Connection) -> None:
    person = add_profile(conn)
    conn.execute("insert into email_suppressions values ('zzto@example.org', 'group_unsub', 'announcements', 'test')")
    assert verdicts(conn, intent(person), intent(person, "a", kind="announcement")) == ["queued", "unsubscribed"]


def test_a_suppression_that_has_expired_no_longer_counts(conn: Connection) -> None:
    conn.execute(
        "insert into email_suppressions (address_norm, reason, source, expires_at) "
        "values ('zzto@example.org', 'manual', 'test', now() - interval '1 second')"
    )
    assert verdicts(conn, intent(add_profile(conn))) == ["queued"]


def test_who_opts_out_after_the_intent_is_not_sent_to(conn: Connection) -> None:
    message = put_one(conn, intent(add_profile(conn)))
    conn.execute("insert into email_suppressions values ('zzto@example.org', 'spam', 'all', 'test')")
    assert not claimable(conn, message)
    assert state(conn, message) == "suppressed"
    assert left_out(conn) == [("email", "suppressed")]


@pytest.mark.parametrize("kind", ["unread_alert", "admin_alert"])
@pytest.mark.parametrize(
    ("channel", "column", "new"),
    [("email", "email_alert_address", "zznew@example.org"), ("email", "email_alert_address", None),
     ("sms", "mobile_number", "+15005550199"), ("sms", "mobile_number", None)],
)  # fmt: skip
def test_what_waits_for_an_address_that_was_given_up_is_not_sent_there(
    conn: Connection, kind: Kind, channel: Channel, column: str, new: str | None
) -> None:
    person = add_profile(conn)
    message = put_one(conn, intent(person, kind=kind, channel=channel))
    conn.execute(sql.SQL("update profiles set {} = %s").format(sql.Identifier(column)), (new,))
    assert not claimable(conn, message)
    assert state(conn, message) == "suppressed"
    assert left_out(conn) == [(channel, "address_changed")]
    if new is not None:
        assert put_one(conn, intent(person, kind=kind, channel=channel, address=new)) == message
        assert claim_one(conn, message).address == new


@pytest.mark.parametrize("kind", ["unread_alert", "admin_alert"])
def test_what_waits_for_somebody_who_was_removed_is_not_sent(conn: Connection, kind: Kind) -> None:
    person = add_profile(conn)
    message = put_one(conn, intent(person, kind=kind))
    conn.execute("delete from profiles where id = %s", (person,))
    assert not claimable(conn, message)
    assert state(conn, message) == "suppressed"


def test_an_address_that_is_written_differently_is_the_same(conn: Connection) -> None:
    mail = put_one(conn, intent(add_profile(conn), "mail"))
    text = put_one(conn, intent(add_profile(conn), "text", channel="sms"))
    conn.execute("update profiles set email_alert_address = ' ZZto@Example.org', mobile_number = '(500) 555-0006'")
    assert claimable(conn, mail)
    assert claimable(conn, text)


@pytest.mark.parametrize(
    ("kind", "channel", "column"),
    [("unread_alert", "email", "email_alerts_enabled"), ("admin_alert", "email", "email_alerts_enabled"),
     ("unread_alert", "sms", "sms_notifications_enabled"), ("admin_alert", "sms", "instant_sms_enabled")],
)  # fmt: skip
def test_who_switches_alerts_off_after_the_intent_is_not_sent_to(
    conn: Connection, kind: Kind, channel: Channel, column: str
) -> None:
    message = put_one(conn, intent(add_profile(conn), kind=kind, channel=channel))
    conn.execute(sql.SQL("update profiles set {} = false").format(sql.Identifier(column)))
    assert not claimable(conn, message)
    assert (state(conn, message), left_out(conn)) == ("suppressed", [(channel, "preference_off")])


def test_who_takes_an_opt_out_back_is_sent_to_again(conn: Connection) -> None:
    person = add_profile(conn)
    message = put_one(conn, intent(person))
    conn.execute("insert into email_suppressions values ('zzto@example.org', 'group_unsub', 'all', 'test')")
    assert not claimable(conn, message)
    conn.execute("delete from email_suppressions")
    assert verdicts(conn, intent(person)) == ["queued"]
    assert claimable(conn, message)


@pytest.mark.parametrize(
    ("kind", "channel", "switch"),
    [
        ("unread_alert", "email", "email_alerts_enabled"),
        ("admin_alert", "email", "email_alerts_enabled"),
        ("unread_alert", "sms", "sms_notifications_enabled"),
        ("admin_alert", "sms", "instant_sms_enabled"),
    ],
)
def test_preferences_hold(conn: Connection, kind: Any, channel: Any, switch: str) -> None:
    person = add_profile(conn, **{switch: False})
    assert verdicts(conn, intent(person, kind=kind, channel=channel)) == ["preference_off"]


def test_a_preference_for_mail_that_was_never_set_counts_as_on(conn: Connection) -> None:
    assert verdicts(conn, intent(add_profile(conn, email_alerts_enabled=None))) == ["queued"]


def test_an_opt_out_of_texts_leaves_mail_alone(conn: Connection) -> None:
    person = add_profile(conn)
    conn.execute("insert into sms_opt_outs (phone_e164, source) values ('+15005550006', 'stop')")
    assert verdicts(conn, intent(person, channel="sms"), intent(person, "m")) == ["opted_out", "queued"]
    conn.execute("update sms_opt_outs set cleared_at = now()")
    assert verdicts(conn, intent(person, channel="sms")) == ["queued"]


def test_stop_is_remembered_and_switches_the_preference_off(conn: Connection) -> None:
    person = add_profile(conn)
    claimed = claim_one(conn, put_one(conn, intent(person, channel="sms")))
    assert settle_one(conn, claimed, "failed", error_class="opted_out", error_code="21610") == "failed"
    assert conn.execute("select phone_e164, source from sms_opt_outs").fetchall() == [("+15005550006", "error_21610")]
    assert conn.execute("select sms_notifications_enabled from profiles").fetchall() == [(False,)]
    assert verdicts(conn, intent(person, "next", channel="sms")) == ["opted_out"]


def test_a_refused_address_is_not_tried_again(conn: Connection) -> None:
    person = add_profile(conn)
    settle_one(conn, claim_one(conn, put_one(conn, intent(person))), "failed", error_class="address_refused")
    assert verdicts(conn, intent(person, "next")) == ["suppressed"]


def test_within_the_window_nobody_gets_a_second_message(conn: Connection) -> None:
    person, other = add_profile(conn), add_profile(conn)
    send_one(conn, intent(person, "a"))
    assert verdicts(conn, intent(person, "b", window=60)) == ["window"]
    assert verdicts(conn, intent(other, "c", window=60)) == ["queued"]
    assert verdicts(conn, intent(person, "d", channel="sms", window=60)) == ["queued"]
    let_time_pass(conn, "61 minutes")
    assert verdicts(conn, intent(person, "b", window=60)) == ["queued"]


def test_an_uncertain_message_counts_for_the_window_and_a_failed_one_does_not(conn: Connection) -> None:
    person, other = add_profile(conn), add_profile(conn)
    settle_one(conn, claim_one(conn, put_one(conn, intent(person, "a"))), "uncertain")
    settle_one(conn, claim_one(conn, put_one(conn, intent(other, "b"))), "failed")
    assert verdicts(conn, intent(person, "c", window=60), intent(other, "d", window=60)) == ["window", "queued"]


def test_the_daily_cap_counts_one_persons_messages_of_one_channel_in_one_day(conn: Connection) -> None:
    person, other = add_profile(conn), add_profile(conn)
    policy = Policy(cap_email=2, cap_sms=1, zone=_zone_in_which_it_is(conn, 12))
    for key in ("a", "b"):
        send_one(conn, intent(person, key), policy)
    assert verdicts(conn, intent(person, "c"), policy=policy) == ["daily_cap"]
    assert verdicts(conn, intent(person, "s", channel="sms"), policy=policy) == ["queued"]
    assert verdicts(conn, intent(other, "d"), policy=policy) == ["queued"]
    let_time_pass(conn, "24 hours")
    assert verdicts(conn, intent(person, "c"), policy=policy) == ["queued"]


def _zone_in_which_it_is(conn: Connection, hour: float) -> str:
    """A time zone whose clocks show this hour now, as Postgres writes it: hours, minutes and seconds west of UTC."""
    since_midnight = conn.execute("select extract(epoch from now()) % 86400").fetchall()[0][0]
    west = (int(since_midnight) - round(hour * 3600) + 43200) % 86400 - 43200
    return f"<there>{'-' if west < 0 else '+'}{abs(west) // 3600}:{abs(west) // 60 % 60}:{abs(west) % 60}"


# In one of these two cases, midnight of UTC gives another answer, whatever the time is.
@pytest.mark.parametrize(("hour", "ago", "verdict"), [(0.5, "1 hour", "queued"), (12, "11 hours", "daily_cap")])
def test_the_day_of_the_daily_cap_is_the_one_of_its_zone(conn: Connection, hour: float, ago: str, verdict: str) -> None:
    person = add_profile(conn)
    policy = Policy(cap_email=1, zone=_zone_in_which_it_is(conn, hour))
    send_one(conn, intent(person, "a"), policy)
    let_time_pass(conn, ago)
    assert verdicts(conn, intent(person, "b"), policy=policy) == [verdict]


def test_admin_alerts_are_not_capped(conn: Connection) -> None:
    person = add_profile(conn)
    policy = Policy(cap_email=0)
    assert verdicts(conn, intent(person, "a", kind="admin_alert"), intent(person), policy=policy) == [
        "queued",
        "daily_cap",
    ]


def _hours_around_now(conn: Connection) -> tuple[str, str]:
    row = conn.execute(
        "select to_char(now() at time zone 'UTC' - interval '1 hour', 'HH24:MI'), "
        "to_char(now() at time zone 'UTC' + interval '1 hour', 'HH24:MI')"
    ).fetchall()[0]
    return row[0], row[1]


def test_quiet_hours_keep_texts_back_and_let_mail_through(conn: Connection) -> None:
    person = add_profile(conn)
    start, end = _hours_around_now(conn)
    quiet = Policy(quiet_from=start, quiet_to=end)
    loud = Policy(quiet_from=end, quiet_to=start)
    both = (intent(person, "s", channel="sms"), intent(person, "m"))
    assert verdicts(conn, *both, policy=quiet) == ["quiet_hours", "queued"]
    assert verdicts(conn, *both, policy=loud) == ["queued", "queued"]


def test_quiet_hours_are_those_of_their_zone(conn: Connection) -> None:
    start, end = _hours_around_now(conn)
    elsewhere = Policy(zone="Asia/Tokyo", quiet_from=start, quiet_to=end)
    assert verdicts(conn, intent(add_profile(conn), channel="sms"), policy=elsewhere) == ["queued"]


@pytest.mark.parametrize(
    ("start", "end", "at", "quiet"),
    [("21:00", "08:00", "23:00", True), ("21:00", "08:00", "07:59", True), ("21:00", "08:00", "08:00", False),
     ("21:00", "08:00", "12:00", False), ("12:00", "13:00", "12:30", True), ("12:00", "13:00", "13:00", False),
     ("12:00", "12:00", "12:00", False)],
)  # fmt: skip
def test_quiet_hours_may_span_midnight(conn: Connection, start: str, end: str, at: str, quiet: bool) -> None:
    found = conn.execute("select outbox_is_quiet(%s, %s, %s)", (at, start, end)).fetchall()
    assert found == [(quiet,)]


def test_a_zone_that_nobody_knows_is_the_settings_fault(conn: Connection) -> None:
    policy = Policy(zone="Middle/Earth", quiet_from="21:00", quiet_to="08:00")
    with pytest.raises(ConfigurationError, match="QUIET_TZ"):
        verdicts(conn, intent(add_profile(conn), channel="sms"), policy=policy)


def test_the_policy_is_read_from_the_settings() -> None:
    settings = CompetitionSettings(QUIET_HOURS="22:15-06:00", QUIET_TZ="Europe/Berlin", ALERT_DAILY_CAP_EMAIL=4)
    assert Policy.of(settings) == Policy("Europe/Berlin", "22:15", "06:00", 4, 1)
    assert Policy.of(CompetitionSettings(QUIET_HOURS="off")).quiet_from is None


def test_a_newer_alert_takes_the_place_of_one_that_was_not_sent(conn: Connection) -> None:
    person = add_profile(conn)
    old = put_one(conn, intent(person, "old"))
    new = put_one(conn, intent(person, "new"))
    assert (state(conn, old), state(conn, new)) == ("failed", "queued")
    assert not claimable(conn, old)


def test_an_alert_nobody_sent_within_a_day_is_too_old(conn: Connection) -> None:
    old = put_one(conn, intent(add_profile(conn), "old"))
    probe = put_one(conn, intent(uuid4(), "probe", kind="parent_probe"))
    let_time_pass(conn, "25 hours")
    assert outbox.sweep(conn).expired == 1
    assert (state(conn, old), state(conn, probe)) == ("failed", "queued")


def test_a_dry_run_says_the_same_and_writes_nothing(conn: Connection) -> None:
    person, off = add_profile(conn), add_profile(conn, email_alerts_enabled=False)
    send_one(conn, intent(person, "a"))
    wanted = [intent(person, "a"), intent(person, "b"), intent(off, "c"), intent(person, "d", window=10)]
    with conn.changes_nothing():
        assert verdicts(conn, *wanted, dry=True) == ["sent", "queued", "preference_off", "window"]
    assert verdicts(conn, *wanted) == ["sent", "queued", "preference_off", "window"]


def test_handlers_put_on_record_whom_they_leave_out(conn: Connection) -> None:
    person = uuid4()
    outbox.leave_out(conn, [LeftOut("unread_alert", person, "no_channel")], job_id=JOB, run_token=TOKEN)
    receipts = outbox.receipts(conn, job_id=JOB)
    assert [(one.recipient_ref, one.state, one.left_out) for one in receipts] == [(person, "left out", "no_channel")]


def test_receipts_are_masked_and_a_look_behind_the_mask_is_audited(conn: Connection) -> None:
    person = add_profile(conn)
    message = send_one(conn, intent(person, address="zzsecret@example.org"))
    receipt = outbox.receipts(conn, job_id=JOB)[0]
    assert (receipt.address, receipt.state, receipt.provider_message_id) == ("z…@example.org", "accepted", "m-1")
    with pytest.raises(Refused, match="reason"):
        outbox.reveal(conn, job_id=JOB, actor="mara@local", reason=" ")
    shown = outbox.reveal(conn, job_id=JOB, actor="mara@local", reason="a parent called")
    assert shown == {message: "zzsecret@example.org"}
    assert conn.execute("select action, reason from job_audit").fetchall() == [("reveal", "a parent called")]


def test_the_rate_is_shared_by_all_workers(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as other:
        waits = [outbox.reserve(one, "sendgrid", 0.001, longest=10_000) for one in (conn, other) * 4]
    assert waits[: outbox.RATE_BURST] == [0.0] * outbox.RATE_BURST
    assert all(wait is not None and 900 * n < wait <= 1000 * n for n, wait in enumerate(waits[5:], start=1))
    assert outbox.reserve(conn, "sendgrid", 0.01, longest=10) is None
    assert outbox.reserve(conn, "twilio", 0.01, longest=10) == 0.0


def test_a_rate_waits_no_longer_for_a_clock_that_was_ahead(conn: Connection) -> None:
    for _ in range(outbox.RATE_BURST + 2):
        outbox.reserve(conn, "twilio", 0.01, longest=10_000)
    queued = outbox.reserve(conn, "twilio", 0.01, longest=10_000)
    conn.execute(
        "UPDATE provider_rates SET due_at = due_at + interval '1 hour', reserved_at = reserved_at + interval '1 hour'"
    )
    after = outbox.reserve(conn, "twilio", 0.01, longest=10_000)
    assert queued is not None
    assert after is not None
    assert queued < after < queued + 200


def test_a_place_that_is_not_taken_costs_nothing(conn: Connection) -> None:
    for _ in range(outbox.RATE_BURST):
        outbox.reserve(conn, "twilio", 0.01, longest=0)
    assert [outbox.reserve(conn, "twilio", 0.01, longest=1) for _ in range(3)] == [None] * 3
    wait = outbox.reserve(conn, "twilio", 0.01, longest=1000)
    assert wait is not None
    assert wait <= 100


def test_a_pause_that_a_provider_asks_for_holds_for_everyone(conn: Connection) -> None:
    assert outbox.closed_for(conn, "sendgrid") == 0
    outbox.close_provider(conn, "sendgrid", 500)
    outbox.close_provider(conn, "sendgrid", 5)
    assert 400 < outbox.closed_for(conn, "sendgrid") <= 500
    assert outbox.reserve(conn, "sendgrid", 10, longest=30) is None
    assert outbox.closed_for(conn, "twilio") == 0


def test_a_batch_of_reports_is_taken_as_a_whole(conn: Connection) -> None:
    claimed = [
        claim_one(conn, put_one(conn, intent(add_profile(conn), f"k{n}", address=f"zz{n}@example.org")))
        for n in range(3)
    ]
    outcomes: list[Any] = ["accepted", "failed", "uncertain"]
    done = outbox.settle(
        conn, [Result(one.id, one.attempt, outcome) for one, outcome in zip(claimed, outcomes, strict=True)]
    )
    assert [done[one.id] for one in claimed] == outcomes


@pytest.mark.parametrize(
    ("text", "number"),
    [("(500) 555-0006", "+15005550006"), ("1 500 555 0006", "+15005550006"), ("+15005550006", "+15005550006"),
     ("+49 30 123456", "+4930123456"), ("555-0006", None), ("0500 555 0006", None), ("call me", None), ("", None),
     ("5005550006 ext 2", None), (None, None), ("+0123456789", None)],
)  # fmt: skip
def test_numbers_are_read_as_e164(conn: Connection, text: str | None, number: str | None) -> None:
    assert conn.execute("select outbox_e164(%s)", (text,)).fetchall() == [(number,)]


@pytest.mark.parametrize(
    ("address", "good"),
    [("a.b+c@example.org", True), ("o'neil@sub.example.org", True), ("a@example", False), ("a b@example.org", False),
     ("a..b@example.org", False), (".a@example.org", False), ("a@-example.org", False), ("a@example.org\n", False),
     ("", False), (None, False), ("a@exa_mple.org", False), (f"{'a' * 65}@example.org", False),
     ("ü@example.org", False)],
)  # fmt: skip
def test_addresses_are_judged_strictly(conn: Connection, address: str | None, good: bool) -> None:
    assert conn.execute("select outbox_email_ok(%s)", (address,)).fetchall() == [(good,)]
