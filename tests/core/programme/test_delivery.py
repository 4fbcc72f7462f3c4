"""One message at a time from the outbox to a provider and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import Cancelled, RetryLater
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.delivery import OUTAGES_IN_A_ROW, Delivery, deliver
from jobdeck.core.programme.messaging.outbox import Claimed, Decision, Policy
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.programme.vendors.sms import Sms
from tests.core.handlers.mail_world import MailWorld
from tests.core.programme.outbox_support import add_profile, at_home, intent, let_leases_end, state
from tests.support.context import FakeContext


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[MailWorld]:
    with Sandbox(people=False) as sandbox:
        yield MailWorld(conn, sandbox)


def render(message: Claimed) -> Email | Sms:
    if message.channel == "sms":
        return Sms(message.address, "zztext")
    return Email(message.address, "zzsubject", "zztext")


def put(world: MailWorld, context: FakeContext, count: int = 1, channel: Any = "email") -> list[Decision]:
    intents = [
        intent(
            add_profile(world.conn),
            f"{channel}{n}",
            channel=channel,
            address=f"p{n}@example.org" if channel == "email" else f"+150055510{n:02}",
        )
        for n in range(count)
    ]
    at_home(world.conn, *intents)
    return outbox.put(world.conn, intents, Policy(), job_id=context.job.id, run_token=context.job.run_token)


def states(world: MailWorld, decisions: list[Decision]) -> list[str]:
    return [state(world.conn, decision.id) for decision in decisions if decision.id]


def test_mail_and_texts_go_out_and_carry_their_ids(world: MailWorld) -> None:
    context = world.context()
    decisions = put(world, context, 2) + put(world, context, 1, "sms")
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.attempted) == (3, 3)
    assert states(world, decisions) == ["accepted"] * 3
    mail = world.sandbox.sendgrid.accepted.all[0]
    assert mail.custom_args == {"email_type": "unread_alert", "outbox_id": str(decisions[0].id)}
    assert mail.categories == ("unread_alert",)
    row = world.row("select provider_message_id, segments from outbox_messages where channel = 'sms'")
    assert row == {"provider_message_id": world.sandbox.twilio.accepted.all[0].message_id, "segments": 1}
    assert [step[:2] for step in context.steps] == [(1, 3), (2, 3), (3, 3)]


def test_what_depends_on_a_message_changes_with_it_or_not_at_all(world: MailWorld) -> None:
    context = world.context()
    decisions = put(world, context)
    seen: list[str] = []

    def after(conn: psycopg.Connection[Any], message: Claimed, found: str) -> None:
        seen.append(found)
        conn.execute("update profiles set last_unread_alert_at = now()")
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        deliver(context, decisions, render, after)
    context.close()
    assert seen == ["accepted"]
    assert states(world, decisions) == ["sending"]
    assert world.rows("select id from profiles where last_unread_alert_at is not null") == []
    let_leases_end(world.conn)
    outbox.sweep(world.conn)
    again = world.context()
    assert deliver(again, put(world, again), render).attempted == 0
    again.close()
    assert len(world.mailed) == 1


def test_one_persons_trouble_is_their_own(world: MailWorld) -> None:
    world.sandbox.sendgrid.refused.add("p1@example.org")
    context = world.context()
    decisions = put(world, context, 3)
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.failed, dict(done.by_class)) == (2, 1, {"address_refused": 1})
    assert states(world, decisions) == ["accepted", "failed", "accepted"]


def test_stop_and_unusable_numbers(world: MailWorld) -> None:
    world.sandbox.twilio.stop("+15005551000")
    context = world.context()
    person, other = add_profile(world.conn), add_profile(world.conn)
    intents = [
        intent(person, "a", channel="sms", address="+15005551000"),
        intent(other, "b", channel="sms", address="+15005550009"),
    ]
    at_home(world.conn, *intents)
    decisions = outbox.put(world.conn, intents, Policy(), job_id=None, run_token=None)
    done = deliver(context, decisions, render)
    context.close()
    assert dict(done.by_class) == {"opted_out": 1, "number_unusable": 1}
    assert world.rows("select phone_e164, source from sms_opt_outs order by 1") == [
        {"phone_e164": "+15005550009", "source": "unusable"},
        {"phone_e164": "+15005551000", "source": "error_21610"},
    ]


def test_a_timeout_is_uncertain_and_the_others_go_on(world: MailWorld) -> None:
    world.sandbox.rules.add("cut-after:mail/send:1")
    context = world.context()
    decisions = put(world, context, 3)
    done = deliver(context, decisions, render)
    context.close()
    assert (done.accepted, done.uncertain) == (2, 1)
    assert states(world, decisions) == ["uncertain", "accepted", "accepted"]
    again = world.context()
    assert deliver(again, put_again(world, again, decisions), render).attempted == 0
    again.close()
    assert world.sandbox.sendgrid.accepted.repeated() == []


def put_again(world: MailWorld, context: FakeContext, decisions: list[Decision]) -> list[Decision]:
    wanted = [decision.intent for decision in decisions]
    return outbox.put(world.conn, wanted, Policy(), job_id=context.job.id, run_token=context.job.run_token)


def test_an_outage_ends_the_run_after_a_few_and_leaves_the_rest(world: MailWorld) -> None:
    world.sandbox.rules.add("503:mail/send")
    context = world.context()
    decisions = put(world, context, 10)
    with pytest.raises(RetryLater, match="could not answer 3 times in a row"):
        deliver(context, decisions, render)
    context.close()
    assert len(world.sandbox.requests) == OUTAGES_IN_A_ROW
    assert states(world, decisions) == ["queued"] * 10
    world.sandbox.rules.clear()
    world.conn.execute("update outbox_messages set next_attempt_at = now()")
    again = world.context()
    assert deliver(again, put_again(world, again, decisions), render).accepted == 10
    again.close()


def test_a_pause_that_is_asked_for_is_kept_by_everyone(world: MailWorld) -> None:
    world.sandbox.rules.add("429:mail/send:1,retry-after=300")
    context, other = world.context(), world.context()
    decisions = put(world, context, 2)
    with pytest.raises(RateLimited) as caught:
        deliver(context, decisions, render)
    assert caught.value.seconds == 300
    with pytest.raises(RateLimited, match="asked for a pause"):
        deliver(other, decisions[1:], render)
    context.close()
    other.close()
    assert len(world.sandbox.requests) == 1
    assert states(world, decisions) == ["queued", "queued"]


def test_a_wrong_key_stops_at_once_and_leaves_everyone_queued(world: MailWorld) -> None:
    context = world.context(SENDGRID_API_KEY="SG.wrong")
    decisions = put(world, context, 3)
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY"):
        deliver(context, decisions, render)
    context.close()
    assert len(world.sandbox.requests) == 1
    assert states(world, decisions) == ["queued"] * 3


def test_a_missing_setting_sends_nothing(world: MailWorld) -> None:
    context = world.context(without="TWILIO_AUTH_TOKEN")
    decisions = put(world, context, 1, "sms")
    with pytest.raises(SettingMissing, match="TWILIO_AUTH_TOKEN"):
        deliver(context, decisions, render)
    context.close()
    assert states(world, decisions) == ["queued"]


def test_a_message_that_cannot_be_made_was_not_sent(world: MailWorld) -> None:
    context = world.context()
    decisions = put(world, context)

    def broken(message: Claimed) -> Email:
        raise ValueError("no template")

    with pytest.raises(ValueError, match="no template"):
        deliver(context, decisions, broken)
    context.close()
    assert states(world, decisions) == ["queued"]
    assert world.sandbox.requests == []


def test_a_stop_is_noticed_between_messages(world: MailWorld) -> None:
    context = world.context()
    decisions = put(world, context, 3)
    context.cancel_when = lambda: len(world.mailed) >= 1
    with pytest.raises(Cancelled):
        deliver(context, decisions, render)
    context.close()
    assert states(world, decisions) == ["accepted", "queued", "queued"]


def test_what_is_not_sendable_is_not_sent(world: MailWorld) -> None:
    context = world.context()
    person = add_profile(world.conn, email_alerts_enabled=False)
    decisions = outbox.put(world.conn, [intent(person)], Policy(), job_id=None, run_token=None)
    assert deliver(context, decisions, render).attempted == 0
    context.close()
    assert world.sandbox.requests == []


def test_two_runs_with_the_same_decisions_send_once(world: MailWorld) -> None:
    one, two = world.context(), world.context()
    decisions = put(world, one, 2)
    total = [deliver(context, decisions, render).attempted for context in (one, two)]
    one.close()
    two.close()
    assert total == [2, 0]
    assert len(world.mailed) == 2


def test_a_run_in_which_nothing_was_accepted_has_failed() -> None:
    failed = Delivery(failed=2, uncertain=1)
    failed.by_class.update({"address_refused": 2, "outcome_unknown": 1})
    with pytest.raises(RetryLater, match=r"None of 3 notices was accepted \(2 address_refused, 1 outcome_unknown\)"):
        failed.raise_if_all_failed("notices")
    Delivery().raise_if_all_failed("notices")
    Delivery(accepted=1, failed=5).raise_if_all_failed("notices")
