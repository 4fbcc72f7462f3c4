"""Probes of parents' addresses: which are due, what a form keeps of its probe, and what events make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core import registry
from jobdeck.core.errors import Cancelled, InvalidPayload, RetryLater
from jobdeck.core.handlers import release_parent_email_verification as probing
from jobdeck.core.programme.messaging import delivery, outbox
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors import email_wire
from tests.core.handlers.notice_world import NoticeWorld

TYPE = "release_parent_email_verification"


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def parent(number: int) -> str:
    return f"zzparent{number}@example.org"


# The normal run


def test_a_form_is_probed_with_a_mail_that_names_nobody(world: NoticeWorld) -> None:
    form = world.form(" ZZparent@Example.org ")
    output = world.output(probing)
    assert output == {
        "dryRun": False, "candidates": 1, "sent": 1, "skipped": 0, "skippedReasons": {}, "sharedProbe": 0,
        "timedOut": 0, "addressDiffers": 0, "accepted": 1, "retried": 0, "failed": 0, "uncertain": 0, "leftOut": {},
        "results": [{"agreementId": str(form), "status": "sent"}],
    }  # fmt: skip
    mail = world.sandbox.sendgrid.accepted.all[0]
    assert mail.address == "zzparent@example.org"
    assert "release form" in mail.text
    assert mail.html == ""
    assert "http" not in mail.text
    assert not [mark for mark in ("Zz", "zz") if mark in mail.text + mail.subject]
    competitor = world.row("select competitor_id from agreements where id = %s", form)["competitor_id"]
    assert dict(mail.custom_args) | {"outbox_id": ""} == {
        "agreement_id": str(form), "competitor_id": str(competitor), "outbox_id": "",
        "email_type": "release_parent_email_verification",
    }  # fmt: skip
    kept = world.probe_of(form)
    assert (kept["status"], kept["attempts"], kept["address"]) == ("pending", 1, "zzparent@example.org")
    assert kept["sent_at"] is not None
    assert kept["error"] is None
    assert world.output(probing)["candidates"] == 0


def test_a_form_is_left_alone_for_the_hours_that_the_job_or_the_settings_say(world: NoticeWorld) -> None:
    world.form(parent(1), age="3 hours")
    world.form(parent(2), age="30 minutes")
    assert world.output(probing)["sent"] == 0
    assert world.output(probing, staleHours=2.5)["sent"] == 1
    assert world.output(probing, world.context(PROBE_STALE_HOURS=0.2))["sent"] == 1
    world.form(parent(3), age="0")
    assert world.output(probing, staleHours=0)["sent"] == 1


def test_only_forms_of_minors_that_are_out_for_signing_are_looked_at(world: NoticeWorld) -> None:
    for columns in ({"provider": "other"}, {"template_kind": "adult"}, {"status": "completed"}, {"status": "viewed"}):
        world.form(**columns)
    assert world.output(probing)["candidates"] == 0


def test_a_limit_counts_addresses_and_the_oldest_come_first(world: NoticeWorld) -> None:
    for number in range(4):
        world.form(parent(number), age=f"{10 + number} hours")
    assert world.output(probing, limit=2)["sent"] == 2
    assert world.mailed == [parent(3), parent(2)]
    assert world.output(probing, world.context(PROBE_LIMIT=1))["sent"] == 1


def test_sixty_forms_that_are_not_to_be_probed_do_not_keep_out_the_next(world: NoticeWorld) -> None:
    for _ in range(60):
        world.form(None, age="9 hours")
    form = world.form(parent(1))
    output = world.output(probing, limit=50)
    assert output["results"] == [{"agreementId": str(form), "status": "sent"}]
    assert output["skippedReasons"] == {"missing_parent_email": 60}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"c_is_18_or_over": True}, "not_minor"),
        ({"metadata": json.dumps({"mode": "print"})}, "print_mode"),
        ({"metadata": json.dumps({"isPrintMode": True})}, "print_mode"),
        ({"address": "  "}, "missing_parent_email"),
        ({"address": None}, "missing_parent_email"),
        ({"c_parent_email_is_valid": False}, "already_invalid"),
        ({"c_parent_email_is_valid": True}, "already_valid"),
        ({"address": "zz at example.org"}, "invalid_email_format"),
    ],
)
def test_a_form_that_is_not_to_be_probed_says_why_until_it_is(
    world: NoticeWorld, columns: dict[str, Any], reason: str
) -> None:
    form = world.form(**columns)
    output = world.output(probing)
    assert (output["skipped"], output["skippedReasons"], output["sent"]) == (1, {reason: 1}, 0)
    assert world.probe_of(form)["skip_reason"] == reason
    assert world.sandbox.requests == []
    world.conn.execute(
        "update competitors set is_18_or_over = false, parent_email = 'zznew@example.org', parent_email_is_valid = null"
    )
    world.conn.execute("update agreements set metadata = null")
    assert world.output(probing)["sent"] == 1
    assert world.probe_of(form)["skip_reason"] is None


def test_a_suppressed_address_is_not_probed(world: NoticeWorld) -> None:
    suppressed = {"address_norm": parent(1), "reason": "hard_bounce", "scope": "all", "source": "test"}
    world.insert("email_suppressions", suppressed)
    form = world.form(parent(1))
    assert world.output(probing)["skippedReasons"] == {"suppressed": 1}
    assert world.probe_of(form)["skip_reason"] == "suppressed"
    assert world.mailed == []


@pytest.mark.parametrize("metadata", ['"print"', "[]", "7", "null"])
def test_odd_metadata_and_signers_harm_nobody(world: NoticeWorld, metadata: str) -> None:
    world.form(metadata=metadata, signers=metadata)
    assert world.output(probing)["sent"] == 1


# One probe for an address


def test_siblings_share_one_mail_and_its_outcome(world: NoticeWorld) -> None:
    forms = [
        world.form("zzparent@example.org"),
        world.form("ZZPARENT@example.org"),
        world.form(" zzparent@example.org"),
    ]
    output = world.output(probing)
    assert (output["sent"], output["candidates"], len(output["results"])) == (1, 3, 3)
    assert len(world.mailed) == 1
    world.apply_events()
    assert [world.probe_of(form)["status"] for form in forms] == ["delivered"] * 3


@pytest.mark.parametrize(
    ("fate", "status"), [("none", "pending"), ("delivered", "delivered"), ("dropped-unsubscribed", "dropped")]
)
def test_a_later_form_of_the_same_address_shares_the_probe_that_was_sent(
    world: NoticeWorld, fate: str, status: str
) -> None:
    world.sandbox.sendgrid.fates["zzparent@example.org"] = fate
    world.form()
    world.output(probing)
    world.apply_events()
    second = world.form()
    with world.changes_nothing():
        assert world.output(probing, dryRun=True)["wouldSend"] == {"email": 0}
    output = world.output(probing)
    assert (output["sent"], output["sharedProbe"]) == (0, 1)
    assert len(world.mailed) == 1
    kept = world.probe_of(second)
    assert kept["status"] == status
    assert kept["sent_at"] is not None


def test_an_event_that_comes_later_settles_all_forms_of_a_shared_probe(world: NoticeWorld) -> None:
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "none"
    first = world.form()
    world.output(probing)
    second = world.form()
    world.output(probing)
    world.sandbox.sendgrid.report("delivered", world.sandbox.sendgrid.accepted.all[0])
    world.apply_events()
    assert [world.probe_of(form)["status"] for form in (first, second)] == ["delivered", "delivered"]


def test_an_old_probe_does_not_count_for_a_new_form(world: NoticeWorld) -> None:
    world.form()
    world.output(probing)
    world.later("31 days")
    world.form()
    assert world.output(probing)["sent"] == 1


def test_a_form_that_went_to_another_address_than_the_profile_has_is_flagged(world: NoticeWorld) -> None:
    form = world.form(parent(1), signers=json.dumps([{"role": "parent", "email": parent(2)}]))
    world.form(parent(3), signers=json.dumps([{"role": "student", "email": "zzs@example.org"}, {"email": parent(3)}]))
    world.form(parent(4), signers=json.dumps([{"role": "student"}]))
    output = world.output(probing)
    assert (output["sent"], output["addressDiffers"]) == (3, 1)
    assert world.mailed[0] in {parent(1), parent(3), parent(4)}
    assert world.probe_of(form)["address"] == parent(1)


# What events make of it


@pytest.mark.parametrize(
    ("fate", "status", "valid"),
    [
        ("delivered", "delivered", None),
        ("bounce", "bounce", False),
        ("dropped", "dropped", False),
        ("blocked", "blocked", None),
        ("dropped-unsubscribed", "dropped", None),
    ],
)
def test_an_event_settles_a_form_and_only_a_dead_address_is_called_bad(
    world: NoticeWorld, fate: str, status: str, valid: bool | None
) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = fate
    world.output(probing)
    world.apply_events()
    assert world.probe_of(form)["status"] == status
    assert world.row("select parent_email_is_valid as valid from competitors")["valid"] is valid
    assert world.output(probing)["sent"] == 0


@pytest.mark.parametrize("email_type", ["parent_probe", "release_parent_email_verification", None])
def test_an_event_of_a_probe_is_understood_whatever_type_it_carries(world: NoticeWorld, email_type: str | None) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    world.output(probing)
    sent = [event | {"email_type": email_type} for event in world.sandbox.sendgrid.take_events()]
    outbox.record_events(world.conn, email_wire.read(json.dumps(sent).encode())[0])
    outbox.apply_events(world.conn)
    assert world.probe_of(form)["status"] == "bounce"


def test_an_event_that_comes_before_the_report_is_kept(world: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    original = outbox.settle

    def late(*args: Any) -> Any:
        world.apply_events()
        return original(*args)

    monkeypatch.setattr(outbox, "settle", late)
    world.run_job(probing)
    kept = world.probe_of(form)
    assert kept["status"] == "bounce"
    assert kept["sent_at"] is not None
    assert world.row("select parent_email_is_valid as valid from competitors")["valid"] is False


def test_an_old_bounce_says_nothing_of_a_corrected_address(world: NoticeWorld) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    world.output(probing)
    world.conn.execute("update competitors set parent_email = 'zzright@example.org'")
    world.apply_events()
    assert world.row("select parent_email_is_valid as valid from competitors")["valid"] is None
    assert world.output(probing)["sent"] == 1
    assert world.mailed == ["zzparent@example.org", "zzright@example.org"]
    world.apply_events()
    kept = world.probe_of(form)
    assert (kept["status"], kept["attempts"], kept["address"]) == ("delivered", 1, "zzright@example.org")


def queue_a_probe(world: NoticeWorld) -> None:
    """A run whose probes are put down and cannot be sent yet."""
    rule = world.sandbox.rules.add("503:mail/send")
    with pytest.raises(RetryLater):
        world.run_job(probing)
    assert rule.struck
    world.sandbox.rules.clear()
    world.later("2 minutes")


def move(world: NoticeWorld, address: str, form: UUID | None = None) -> None:
    """Corrects the parent's address, on the profile of a form's competitor or on all."""
    world.conn.execute(
        "update competitors set parent_email = %s where parent_email is not null and (%s::uuid is null "
        "or id = (select competitor_id from agreements where id = %s))",
        (address, form, form),
    )


def test_a_probe_that_waits_for_an_address_that_was_corrected_goes_to_the_new_one_once(world: NoticeWorld) -> None:
    form = world.form()
    queue_a_probe(world)
    move(world, "zzright@example.org")
    assert world.output(probing)["sent"] == 1
    assert world.mailed == ["zzright@example.org"]
    assert world.states() == {"accepted": 1, "suppressed": 1}
    kept = world.probe_of(form)
    assert (kept["address"], kept["attempts"], kept["status"]) == ("zzright@example.org", 1, "pending")
    for _ in range(2):
        world.later("25 hours")
        assert world.output(probing)["sent"] == 0
    assert world.mailed == ["zzright@example.org"]


def test_an_address_that_is_corrected_and_put_back_before_the_probe_is_sent_gets_one(world: NoticeWorld) -> None:
    world.form()
    queue_a_probe(world)
    move(world, "zzright@example.org")
    queue_a_probe(world)
    move(world, "zzparent@example.org")
    assert world.output(probing)["sent"] == 1
    assert world.mailed == ["zzparent@example.org"]
    assert world.states() == {"accepted": 1, "suppressed": 1}
    assert world.output(probing)["sent"] == 0


def test_an_address_that_is_corrected_between_decision_and_sending_is_not_written_to(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = world.form()
    original = delivery.wait_for_place

    def corrected(*args: Any) -> None:
        move(world, "zzright@example.org")
        original(*args)

    monkeypatch.setattr(delivery, "wait_for_place", corrected)
    assert world.output(probing)["sent"] == 0
    monkeypatch.undo()
    assert world.mailed == []
    assert world.left_out() == [("email", "address_changed")]
    assert world.output(probing)["sent"] == 1
    assert world.mailed == ["zzright@example.org"]
    assert world.probe_of(form)["address"] == "zzright@example.org"


def test_a_probe_that_siblings_wait_for_goes_to_the_one_who_still_has_the_address(world: NoticeWorld) -> None:
    moved, stays = (world.form(age=f"{hours} hours") for hours in (9, 8))
    queue_a_probe(world)
    move(world, "zzright@example.org", moved)
    output = world.output(probing)
    assert output["sent"] == 2
    assert {one["status"] for one in output["results"]} == {"sent"}
    assert sorted(world.mailed) == ["zzparent@example.org", "zzright@example.org"]
    told = {one.address: dict(one.custom_args)["agreement_id"] for one in world.sandbox.sendgrid.accepted.all}
    assert told == {"zzparent@example.org": str(stays), "zzright@example.org": str(moved)}


def test_a_probe_whose_form_was_withdrawn_is_taken_back(world: NoticeWorld) -> None:
    world.form()
    queue_a_probe(world)
    world.conn.execute("delete from agreements")
    assert world.output(probing)["sent"] == 0
    assert world.mailed == []
    assert world.rows("select state, error_class from outbox_messages") == [
        {"state": "suppressed", "error_class": "no_form"}
    ]


def test_a_form_that_shares_a_probe_takes_over_when_its_outcome_happened(world: NoticeWorld) -> None:
    world.form()
    world.output(probing)
    world.conn.execute(
        "update outbox_messages set state = 'delivered', outcome_at = now() - interval '3 hours', last_event = 'open', "
        "last_event_at = now() - interval '1 hour'"
    )
    later = world.form()
    world.output(probing)
    assert world.probe_of(later)["status"] == "delivered"
    assert world.rows(
        "select recipient_email_verification_event_at = (select outcome_at from outbox_messages) as same "
        "from agreements where id = %s",
        later,
    ) == [{"same": True}]


def test_a_blocked_probe_is_tried_again_a_day_later_and_given_up_after_a_few(world: NoticeWorld) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "blocked"
    for attempt in range(1, 4):
        assert world.output(probing)["sent"] == 1
        world.apply_events()
        assert world.probe_of(form)["attempts"] == attempt
        assert world.output(probing)["sent"] == 0
        world.later("25 hours")
    output = world.output(probing)
    assert (output["sent"], output["skippedReasons"]) == (0, {"gave_up": 1})
    assert world.probe_of(form)["skip_reason"] == "gave_up"
    assert len(world.mailed) == 3


def test_a_probe_of_which_nothing_is_heard_is_unconfirmed_and_a_late_event_still_counts(world: NoticeWorld) -> None:
    form = world.form()
    world.sandbox.sendgrid.fates["zzparent@example.org"] = "none"
    world.output(probing)
    world.later("71 hours")
    assert world.output(probing)["timedOut"] == 0
    world.later("2 hours")
    assert world.output(probing)["timedOut"] == 1
    assert world.probe_of(form)["status"] == "unconfirmed"
    world.sandbox.sendgrid.report("delivered", world.sandbox.sendgrid.accepted.all[0])
    world.apply_events()
    assert world.probe_of(form)["status"] == "delivered"
    assert len(world.mailed) == 1


def test_forms_that_the_original_probed_are_not_probed_again(world: NoticeWorld) -> None:
    form = world.form(recipient_email_verification_sent_at="2025-01-01T00:00Z")
    world.conn.execute("update agreements set recipient_email_verification_status = 'pending'")
    assert world.output(probing)["sent"] == 0
    assert world.probe_of(form)["status"] == "unconfirmed"


# Uncertain


def test_an_uncertain_probe_is_sent_again_a_day_later_and_then_never(world: NoticeWorld) -> None:
    form = world.form()
    rule = world.sandbox.rules.add("cut-after:mail/send:2")
    sent = []
    for hours in (0, 23, 2, 25, 25, 100):
        world.later(f"{hours} hours")
        with suppress(RetryLater):
            world.run_job(probing)
        sent.append(rule.struck)
    assert sent == [1, 1, 2, 2, 2, 2]
    kept = world.probe_of(form)
    assert (kept["attempts"], kept["status"]) == (2, "unconfirmed")


def test_an_uncertain_probe_that_an_event_confirms_is_not_repeated(world: NoticeWorld) -> None:
    form = world.form()
    world.sandbox.rules.add("cut-after:mail/send:1")
    with pytest.raises(RetryLater, match=r"None of 1 probes was accepted \(1 outcome_unknown\)"):
        world.run_job(probing)
    assert world.probe_of(form)["status"] == "pending"
    world.apply_events()
    assert world.probe_of(form)["status"] == "delivered"
    world.later("30 hours")
    assert world.output(probing)["sent"] == 0
    assert len(world.mailed) == 1


# Dry run, payload


def test_a_dry_run_counts_by_reason_and_changes_nothing(world: NoticeWorld) -> None:
    forms = [world.form(parent(1)), world.form(parent(1)), world.form(parent(2), age="9 hours")]
    world.form(None)
    world.form(c_is_18_or_over=True)
    with world.changes_nothing():
        output = world.output(probing, world.context(without="SENDGRID_API_KEY"), dryRun=True)
    assert (output["candidates"], output["wouldSend"], output["sent"]) == (5, {"email": 2}, 0)
    assert output["skippedReasons"] == {"missing_parent_email": 1, "not_minor": 1}
    assert output["results"][0] == {"agreementId": str(forms[2]), "status": "dry_run"}
    assert output["sample"]["to"] == "z…@example.org"
    assert "release form" in output["sample"]["text"]
    with world.changes_nothing():
        assert world.output(probing, world.context(dry_run=True))["wouldSend"] == {"email": 2}
    context = world.context()
    with world.changes_nothing():
        assert probing.preview(probing.Params(), context)["first"] == [str(forms[2]), str(forms[0]), str(forms[1])]
    context.close()
    assert world.output(probing)["sent"] == 2


def test_a_dry_run_with_nothing_to_do_says_so(world: NoticeWorld) -> None:
    assert world.output(probing, dryRun=True)["sample"] is None


def test_a_stop_is_noticed_between_messages(world: NoticeWorld) -> None:
    for number in range(3):
        world.form(parent(number))
    context = world.context()
    context.cancel_when = lambda: len(world.mailed) >= 1
    with pytest.raises(Cancelled):
        world.run_job(probing, context)
    assert len(world.mailed) == 1
    assert world.output(probing)["sent"] == 2
    assert sorted(world.mailed) == [parent(number) for number in range(3)]


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "50"}, "limit"),
        ({"staleHours": -1}, "staleHours"),
        ({"staleHours": float("inf")}, "staleHours"),
        ({"staleHours": "4"}, "staleHours"),
        ({"dryRun": 1}, "dryRun"),
        ({"coachId": None}, "coachId"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_by_name(payload: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        registry.load().validate(TYPE, payload)
    assert list(caught.value.problems) == [where]


@pytest.mark.parametrize(
    ("payload", "read"),
    [
        ({}, (False, None, None)),
        ({"dryRun": False, "staleHours": 24, "limit": 50}, (False, 50, 24)),
        ({"dryRun": True, "stale_hours": 0.5}, (True, None, 0.5)),
    ],
)
def test_payloads_of_the_original_are_read(payload: dict[str, Any], read: tuple[Any, ...]) -> None:
    found = registry.load().validate(TYPE, payload)[1].model_dump()
    assert found == dict(zip(("dry_run", "limit", "stale_hours"), read, strict=True))


def test_the_rights_of_a_worker_are_enough(world: NoticeWorld) -> None:
    world.form()
    with world.as_worker():
        assert world.output(probing, dryRun=True)["wouldSend"] == {"email": 1}
        assert world.output(probing)["sent"] == 1


def test_the_type_is_known_by_its_words() -> None:
    found = registry.load().require(TYPE)
    assert found.purpose == "Verify parent emails for release forms"
    assert found.recurring is not None
    assert found.recurring == 60
    assert found.field("coachId") is None
