"""One message at a time from the outbox to a provider and back."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import Cancelled, RetryLater
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.delivery import OUTAGES_IN_A_ROW, Delivery, deliver
from jobdeck.core.programme.messaging.outbox import Claimed, Decision, Policy
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.programme.vendors.sms import Sms
from tests.core.handlers.mail_world import MailWorld
from tests.core.programme.outbox_support import add_profile, at_home, intent, let_leases_end, state
from tests.support.context import FakeContext


def render(message: Claimed) -> Email | Sms:
    if message.channel == "sms":
        return Sms(message.address, "zztext")
    return Email(message.address, "zzsubject", "zztext")


def put(mail: MailWorld, context: FakeContext, count: int = 1, channel: Any = "email") -> list[Decision]:
    intents = [
        intent(
            add_profile(mail.conn),
            f"{channel}{n}",
            channel=channel,
            address=f"p{n}@example.org" if channel == "email" else f"+150055510{n:02}",
        )
        for n in range(count)
    ]
    at_home(mail.conn, *intents)
    return outbox.put(mail.conn, intents, Policy(), job_id=context.job.id, run_token=context.job.run_token)


def states(mail: MailWorld, decisions: list[Decision]) -> list[str]:
    return [state(mail.conn, decision.id) for decision in decisions if decision.id]


def test_mail_and_texts_go_out_and_carry_their_ids(mail: MailWorld) -> None:
    context = mail.context()
    decisions = put(mail, context, 2) + put(mail, context, 1, "sms")
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.attempted) == (3, 3)
    assert states(mail, decisions) == ["accepted"] * 3
    sent = mail.sandbox.sendgrid.accepted.all[0]
    assert sent.custom_args == {"email_type": "unread_alert", "outbox_id": str(decisions[0].id)}
    assert sent.categories == ("unread_alert",)
    row = mail.conn.row("select provider_message_id, segments from outbox_messages where channel = 'sms'")
    assert row == {"provider_message_id": mail.sandbox.twilio.accepted.all[0].message_id, "segments": 1}
    assert [step[:2] for step in context.steps] == [(1, 3), (2, 3), (3, 3)]


def test_what_depends_on_a_message_changes_with_it_or_not_at_all(mail: MailWorld) -> None:
    context = mail.context()
    decisions = put(mail, context)
    seen: list[str] = []

    def after(conn: psycopg.Connection[Any], message: Claimed, found: str) -> None:
        seen.append(found)
        conn.execute("update profiles set last_unread_alert_at = now()")
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        deliver(context, decisions, render, after)
    context.close()
    assert seen == ["accepted"]
    assert states(mail, decisions) == ["sending"]
    assert mail.conn.rows("select id from profiles where last_unread_alert_at is not null") == []
    let_leases_end(mail.conn)
    outbox.sweep(mail.conn)
    again = mail.context()
    assert deliver(again, put(mail, again), render).attempted == 0
    again.close()
    assert len(mail.mailed) == 1


def test_one_persons_trouble_is_their_own(mail: MailWorld) -> None:
    mail.sandbox.sendgrid.refused.add("p1@example.org")
    context = mail.context()
    decisions = put(mail, context, 3)
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.failed, dict(done.by_class)) == (2, 1, {"address_refused": 1})
    assert states(mail, decisions) == ["accepted", "failed", "accepted"]


def test_stop_and_unusable_numbers(mail: MailWorld) -> None:
    mail.sandbox.twilio.stop("+15005551000")
    context = mail.context()
    person, other = add_profile(mail.conn), add_profile(mail.conn)
    intents = [
        intent(person, "a", channel="sms", address="+15005551000"),
        intent(other, "b", channel="sms", address="+15005550009"),
    ]
    at_home(mail.conn, *intents)
    decisions = outbox.put(mail.conn, intents, Policy(), job_id=None, run_token=None)
    done = deliver(context, decisions, render)
    context.close()
    assert dict(done.by_class) == {"opted_out": 1, "number_unusable": 1}
    assert mail.conn.rows("select phone_e164, source from sms_opt_outs order by 1") == [
        {"phone_e164": "+15005550009", "source": "unusable"},
        {"phone_e164": "+15005551000", "source": "error_21610"},
    ]


def test_a_timeout_is_uncertain_and_the_others_go_on(mail: MailWorld) -> None:
    mail.sandbox.rules.add("cut-after:mail/send:1")
    context = mail.context()
    decisions = put(mail, context, 3)
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.uncertain) == (2, 1)
    assert states(mail, decisions) == ["uncertain", "accepted", "accepted"]
    again = mail.context()
    assert deliver(again, put_again(mail, again, decisions), render).attempted == 0
    again.close()
    assert mail.sandbox.sendgrid.accepted.repeated() == []


def put_again(mail: MailWorld, context: FakeContext, decisions: list[Decision]) -> list[Decision]:
    wanted = [decision.intent for decision in decisions]
    return outbox.put(mail.conn, wanted, Policy(), job_id=context.job.id, run_token=context.job.run_token)


@pytest.mark.slow
def test_an_outage_ends_the_run_after_a_few_and_leaves_the_rest(mail: MailWorld) -> None:
    mail.sandbox.rules.add("503:mail/send")
    context = mail.context()
    decisions = put(mail, context, 10)
    with pytest.raises(RetryLater, match="could not answer 3 times in a row"):
        deliver(context, decisions, render)
    context.close()
    assert len(mail.sandbox.requests) == OUTAGES_IN_A_ROW
    assert states(mail, decisions) == ["queued"] * 10
    mail.sandbox.rules.clear()
    mail.conn.execute("update outbox_messages set next_attempt_at = now()")
    again = mail.context()
    assert deliver(again, put_again(mail, again, decisions), render).accepted == 10
    again.close()


def test_a_pause_that_is_asked_for_is_kept_by_everyone(mail: MailWorld) -> None:
    mail.sandbox.rules.add("429:mail/send:1,retry-after=300")
    context, other = mail.context(), mail.context()
    decisions = put(mail, context, 2)
    with pytest.raises(RateLimited) as caught:
        deliver(context, decisions, render)
    assert caught.value.seconds == 300
    with pytest.raises(RateLimited, match="asked for a pause"):
        deliver(other, decisions[1:], render)
    context.close()
    other.close()
    assert len(mail.sandbox.requests) == 1
    assert states(mail, decisions) == ["queued", "queued"]


def test_a_wrong_key_stops_at_once_and_leaves_everyone_queued(mail: MailWorld) -> None:
    context = mail.context(SENDGRID_API_KEY="SG.wrong")
    decisions = put(mail, context, 3)
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY"):
        deliver(context, decisions, render)
    context.close()
    assert len(mail.sandbox.requests) == 1
    assert states(mail, decisions) == ["queued"] * 3


def test_a_missing_setting_sends_nothing(mail: MailWorld) -> None:
    context = mail.context(without="TWILIO_AUTH_TOKEN")
    decisions = put(mail, context, 1, "sms")
    with pytest.raises(SettingMissing, match="TWILIO_AUTH_TOKEN"):
        deliver(context, decisions, render)
    context.close()
    assert states(mail, decisions) == ["queued"]


def test_a_message_that_cannot_be_made_was_not_sent(mail: MailWorld) -> None:
    context = mail.context()
    decisions = put(mail, context)

    def broken(message: Claimed) -> Email:
        raise ValueError("no template")

    with pytest.raises(ValueError, match="no template"):
        deliver(context, decisions, broken)
    context.close()
    assert states(mail, decisions) == ["queued"]
    assert mail.sandbox.requests == []


def test_a_stop_is_noticed_between_messages(mail: MailWorld) -> None:
    context = mail.context()
    decisions = put(mail, context, 3)
    context.cancel_when = lambda: len(mail.mailed) >= 1
    with pytest.raises(Cancelled):
        deliver(context, decisions, render)
    context.close()
    assert states(mail, decisions) == ["accepted", "queued", "queued"]


def test_what_is_not_sendable_is_not_sent(mail: MailWorld) -> None:
    context = mail.context()
    person = add_profile(mail.conn, email_alerts_enabled=False)
    decisions = outbox.put(mail.conn, [intent(person)], Policy(), job_id=None, run_token=None)
    assert deliver(context, decisions, render).attempted == 0
    context.close()
    assert mail.sandbox.requests == []


def test_two_runs_with_the_same_decisions_send_once(mail: MailWorld) -> None:
    one, two = mail.context(), mail.context()
    decisions = put(mail, one, 2)
    total = [deliver(context, decisions, render).attempted for context in (one, two)]
    one.close()
    two.close()
    assert total == [2, 0]
    assert len(mail.mailed) == 2


def test_a_run_in_which_nothing_was_accepted_has_failed() -> None:
    failed = Delivery(failed=2, uncertain=1)
    failed.by_class.update({"address_refused": 2, "outcome_unknown": 1})
    with pytest.raises(RetryLater, match=r"None of 3 notices was accepted \(2 address_refused, 1 outcome_unknown\)"):
        failed.raise_if_all_failed("notices")
    Delivery().raise_if_all_failed("notices")
    Delivery(accepted=1, failed=5).raise_if_all_failed("notices")
