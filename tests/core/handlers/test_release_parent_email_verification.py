"""Probes of parents' addresses: which are due, what a form keeps of its probe, and what events make of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import RetryLater
from jobdeck.core.handlers import release_parent_email_verification as probing
from jobdeck.core.programme.messaging import delivery, outbox
from jobdeck.core.programme.vendors import email_wire
from tests.core.handlers.notice_world import NoticeWorld

TYPE = "release_parent_email_verification"


def parent(number: int) -> str:
    return f"zzparent{number}@example.org"


# The normal run


def test_a_form_is_probed_with_a_mail_that_names_nobody(notices: NoticeWorld) -> None:
    form = notices.form(" ZZparent@Example.org ")
    output = notices.output(probing)
    assert output == {
        "dryRun": False, "candidates": 1, "sent": 1, "skipped": 0, "skippedReasons": {}, "sharedProbe": 0,
        "timedOut": 0, "addressDiffers": 0, "accepted": 1, "retried": 0, "failed": 0, "uncertain": 0, "leftOut": {},
        "results": [{"agreementId": str(form), "status": "sent"}],
    }  # fmt: skip
    mail = notices.sandbox.sendgrid.accepted.all[0]
    assert mail.address == "zzparent@example.org"
    assert "release form" in mail.text
    assert mail.html == ""
    assert "http" not in mail.text
    assert not [mark for mark in ("Zz", "zz") if mark in mail.text + mail.subject]
    competitor = notices.conn.row("select competitor_id from agreements where id = %s", form)["competitor_id"]
    assert dict(mail.custom_args) | {"outbox_id": ""} == {
        "agreement_id": str(form), "competitor_id": str(competitor), "outbox_id": "",
        "email_type": "release_parent_email_verification",
    }  # fmt: skip
    kept = notices.probe_of(form)
    assert (kept["status"], kept["attempts"], kept["address"]) == ("pending", 1, "zzparent@example.org")
    assert kept["sent_at"] is not None
    assert kept["error"] is None
    assert notices.output(probing)["candidates"] == 0


def test_a_form_is_left_alone_for_the_hours_that_the_job_or_the_settings_say(notices: NoticeWorld) -> None:
    notices.form(parent(1), age="3 hours")
    notices.form(parent(2), age="30 minutes")
    assert notices.output(probing)["sent"] == 0
    assert notices.output(probing, staleHours=2.5)["sent"] == 1
    assert notices.output(probing, notices.context(PROBE_STALE_HOURS=0.2))["sent"] == 1
    notices.form(parent(3), age="0")
    assert notices.output(probing, staleHours=0)["sent"] == 1


def test_only_forms_of_minors_that_are_out_for_signing_are_looked_at(notices: NoticeWorld) -> None:
    for columns in ({"provider": "other"}, {"template_kind": "adult"}, {"status": "completed"}, {"status": "viewed"}):
        notices.form(**columns)
    assert notices.output(probing)["candidates"] == 0


def test_a_limit_counts_addresses_and_the_oldest_come_first(notices: NoticeWorld) -> None:
    for number in range(4):
        notices.form(parent(number), age=f"{10 + number} hours")
    assert notices.output(probing, limit=2)["sent"] == 2
    assert notices.mailed == [parent(3), parent(2)]
    assert notices.output(probing, notices.context(PROBE_LIMIT=1))["sent"] == 1


def test_sixty_forms_that_are_not_to_be_probed_do_not_keep_out_the_next(notices: NoticeWorld) -> None:
    for _ in range(60):
        notices.form(None, age="9 hours")
    form = notices.form(parent(1))
    output = notices.output(probing, limit=50)
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
    notices: NoticeWorld, columns: dict[str, Any], reason: str
) -> None:
    form = notices.form(**columns)
    output = notices.output(probing)
    assert (output["skipped"], output["skippedReasons"], output["sent"]) == (1, {reason: 1}, 0)
    assert notices.probe_of(form)["skip_reason"] == reason
    assert notices.sandbox.requests == []
    notices.conn.execute(
        "update competitors set is_18_or_over = false, parent_email = 'zznew@example.org', parent_email_is_valid = null"
    )
    notices.conn.execute("update agreements set metadata = null")
    assert notices.output(probing)["sent"] == 1
    assert notices.probe_of(form)["skip_reason"] is None


def test_a_suppressed_address_is_not_probed(notices: NoticeWorld) -> None:
    suppressed = {"address_norm": parent(1), "reason": "hard_bounce", "scope": "all", "source": "test"}
    notices.conn.insert("email_suppressions", **suppressed)
    form = notices.form(parent(1))
    assert notices.output(probing)["skippedReasons"] == {"suppressed": 1}
    assert notices.probe_of(form)["skip_reason"] == "suppressed"
    assert notices.mailed == []


@pytest.mark.parametrize("metadata", ['"print"', "[]", "7", "null"])
def test_odd_metadata_and_signers_harm_nobody(notices: NoticeWorld, metadata: str) -> None:
    notices.form(metadata=metadata, signers=metadata)
    assert notices.output(probing)["sent"] == 1


# One probe for an address


def test_siblings_share_one_mail_and_its_outcome(notices: NoticeWorld) -> None:
    forms = [
        notices.form("zzparent@example.org"),
        notices.form("ZZPARENT@example.org"),
        notices.form(" zzparent@example.org"),
    ]
    output = notices.output(probing)
    assert (output["sent"], output["candidates"], len(output["results"])) == (1, 3, 3)
    assert len(notices.mailed) == 1
    notices.apply_events()
    assert [notices.probe_of(form)["status"] for form in forms] == ["delivered"] * 3


@pytest.mark.parametrize(
    ("fate", "status"), [("none", "pending"), ("delivered", "delivered"), ("dropped-unsubscribed", "dropped")]
)
def test_a_later_form_of_the_same_address_shares_the_probe_that_was_sent(
    notices: NoticeWorld, fate: str, status: str
) -> None:
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = fate
    notices.form()
    notices.output(probing)
    notices.apply_events()
    second = notices.form()
    with notices.changes_nothing():
        assert notices.output(probing, dryRun=True)["wouldSend"] == {"email": 0}
    output = notices.output(probing)
    assert (output["sent"], output["sharedProbe"]) == (0, 1)
    assert len(notices.mailed) == 1
    kept = notices.probe_of(second)
    assert kept["status"] == status
    assert kept["sent_at"] is not None


def test_an_event_that_comes_later_settles_all_forms_of_a_shared_probe(notices: NoticeWorld) -> None:
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "none"
    first = notices.form()
    notices.output(probing)
    second = notices.form()
    notices.output(probing)
    notices.sandbox.sendgrid.report("delivered", notices.sandbox.sendgrid.accepted.all[0])
    notices.apply_events()
    assert [notices.probe_of(form)["status"] for form in (first, second)] == ["delivered", "delivered"]


def test_an_old_probe_does_not_count_for_a_new_form(notices: NoticeWorld) -> None:
    notices.form()
    notices.output(probing)
    notices.later("31 days")
    notices.form()
    assert notices.output(probing)["sent"] == 1


def test_a_form_that_went_to_another_address_than_the_profile_has_is_flagged(notices: NoticeWorld) -> None:
    form = notices.form(parent(1), signers=json.dumps([{"role": "parent", "email": parent(2)}]))
    notices.form(parent(3), signers=json.dumps([{"role": "student", "email": "zzs@example.org"}, {"email": parent(3)}]))
    notices.form(parent(4), signers=json.dumps([{"role": "student"}]))
    output = notices.output(probing)
    assert (output["sent"], output["addressDiffers"]) == (3, 1)
    assert notices.mailed[0] in {parent(1), parent(3), parent(4)}
    assert notices.probe_of(form)["address"] == parent(1)


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
    notices: NoticeWorld, fate: str, status: str, valid: bool | None
) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = fate
    notices.output(probing)
    notices.apply_events()
    assert notices.probe_of(form)["status"] == status
    assert notices.conn.row("select parent_email_is_valid as valid from competitors")["valid"] is valid
    assert notices.output(probing)["sent"] == 0


@pytest.mark.parametrize("email_type", ["parent_probe", "release_parent_email_verification", None])
def test_an_event_of_a_probe_is_understood_whatever_type_it_carries(
    notices: NoticeWorld, email_type: str | None
) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    notices.output(probing)
    sent = [event | {"email_type": email_type} for event in notices.sandbox.sendgrid.take_events()]
    outbox.record_events(notices.conn, email_wire.read(json.dumps(sent).encode())[0])
    outbox.apply_events(notices.conn)
    assert notices.probe_of(form)["status"] == "bounce"


def test_an_event_that_comes_before_the_report_is_kept(notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    original = outbox.settle

    def late(*args: Any) -> Any:
        notices.apply_events()
        return original(*args)

    monkeypatch.setattr(outbox, "settle", late)
    notices.run_job(probing)
    kept = notices.probe_of(form)
    assert kept["status"] == "bounce"
    assert kept["sent_at"] is not None
    assert notices.conn.row("select parent_email_is_valid as valid from competitors")["valid"] is False


def test_an_old_bounce_says_nothing_of_a_corrected_address(notices: NoticeWorld) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "bounce"
    notices.output(probing)
    notices.conn.execute("update competitors set parent_email = 'zzright@example.org'")
    notices.apply_events()
    assert notices.conn.row("select parent_email_is_valid as valid from competitors")["valid"] is None
    assert notices.output(probing)["sent"] == 1
    assert notices.mailed == ["zzparent@example.org", "zzright@example.org"]
    notices.apply_events()
    kept = notices.probe_of(form)
    assert (kept["status"], kept["attempts"], kept["address"]) == ("delivered", 1, "zzright@example.org")


def queue_a_probe(notices: NoticeWorld) -> None:
    """A run whose probes are put down and cannot be sent yet."""
    rule = notices.sandbox.rules.add("503:mail/send")
    with pytest.raises(RetryLater):
        notices.run_job(probing)
    assert rule.struck
    notices.sandbox.rules.clear()
    notices.later("2 minutes")


def move(notices: NoticeWorld, address: str, form: UUID | None = None) -> None:
    """Corrects the parent's address, on the profile of a form's competitor or on all."""
    notices.conn.execute(
        "update competitors set parent_email = %s where parent_email is not null and (%s::uuid is null "
        "or id = (select competitor_id from agreements where id = %s))",
        (address, form, form),
    )


def test_a_probe_that_waits_for_an_address_that_was_corrected_goes_to_the_new_one_once(notices: NoticeWorld) -> None:
    form = notices.form()
    queue_a_probe(notices)
    move(notices, "zzright@example.org")
    assert notices.output(probing)["sent"] == 1
    assert notices.mailed == ["zzright@example.org"]
    assert notices.states() == {"accepted": 1, "suppressed": 1}
    kept = notices.probe_of(form)
    assert (kept["address"], kept["attempts"], kept["status"]) == ("zzright@example.org", 1, "pending")
    for _ in range(2):
        notices.later("25 hours")
        assert notices.output(probing)["sent"] == 0
    assert notices.mailed == ["zzright@example.org"]


def test_an_address_that_is_corrected_and_put_back_before_the_probe_is_sent_gets_one(notices: NoticeWorld) -> None:
    notices.form()
    queue_a_probe(notices)
    move(notices, "zzright@example.org")
    queue_a_probe(notices)
    move(notices, "zzparent@example.org")
    assert notices.output(probing)["sent"] == 1
    assert notices.mailed == ["zzparent@example.org"]
    assert notices.states() == {"accepted": 1, "suppressed": 1}
    assert notices.output(probing)["sent"] == 0


def test_an_address_that_is_corrected_between_decision_and_sending_is_not_written_to(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = notices.form()
    original = delivery.wait_for_place

    def corrected(*args: Any) -> None:
        move(notices, "zzright@example.org")
        original(*args)

    monkeypatch.setattr(delivery, "wait_for_place", corrected)
    assert notices.output(probing)["sent"] == 0
    monkeypatch.undo()
    assert notices.mailed == []
    assert notices.left_out() == [("email", "address_changed")]
    assert notices.output(probing)["sent"] == 1
    assert notices.mailed == ["zzright@example.org"]
    assert notices.probe_of(form)["address"] == "zzright@example.org"


def test_a_probe_that_siblings_wait_for_goes_to_the_one_who_still_has_the_address(notices: NoticeWorld) -> None:
    moved, stays = (notices.form(age=f"{hours} hours") for hours in (9, 8))
    queue_a_probe(notices)
    move(notices, "zzright@example.org", moved)
    output = notices.output(probing)
    assert output["sent"] == 2
    assert {one["status"] for one in output["results"]} == {"sent"}
    assert sorted(notices.mailed) == ["zzparent@example.org", "zzright@example.org"]
    told = {one.address: dict(one.custom_args)["agreement_id"] for one in notices.sandbox.sendgrid.accepted.all}
    assert told == {"zzparent@example.org": str(stays), "zzright@example.org": str(moved)}


def test_a_probe_whose_form_was_withdrawn_is_taken_back(notices: NoticeWorld) -> None:
    notices.form()
    queue_a_probe(notices)
    notices.conn.execute("delete from agreements")
    assert notices.output(probing)["sent"] == 0
    assert notices.mailed == []
    assert notices.conn.rows("select state, error_class from outbox_messages") == [
        {"state": "suppressed", "error_class": "no_form"}
    ]


def test_a_form_that_shares_a_probe_takes_over_when_its_outcome_happened(notices: NoticeWorld) -> None:
    notices.form()
    notices.output(probing)
    notices.conn.execute(
        "update outbox_messages set state = 'delivered', outcome_at = now() - interval '3 hours', last_event = 'open', "
        "last_event_at = now() - interval '1 hour'"
    )
    later = notices.form()
    notices.output(probing)
    assert notices.probe_of(later)["status"] == "delivered"
    assert notices.conn.rows(
        "select recipient_email_verification_event_at = (select outcome_at from outbox_messages) as same "
        "from agreements where id = %s",
        later,
    ) == [{"same": True}]


@pytest.mark.slow
def test_a_blocked_probe_is_tried_again_a_day_later_and_given_up_after_a_few(notices: NoticeWorld) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "blocked"
    for attempt in range(1, 4):
        assert notices.output(probing)["sent"] == 1
        notices.apply_events()
        assert notices.probe_of(form)["attempts"] == attempt
        assert notices.output(probing)["sent"] == 0
        notices.later("25 hours")
    output = notices.output(probing)
    assert (output["sent"], output["skippedReasons"]) == (0, {"gave_up": 1})
    assert notices.probe_of(form)["skip_reason"] == "gave_up"
    assert len(notices.mailed) == 3


def test_a_probe_of_which_nothing_is_heard_is_unconfirmed_and_a_late_event_still_counts(notices: NoticeWorld) -> None:
    form = notices.form()
    notices.sandbox.sendgrid.fates["zzparent@example.org"] = "none"
    notices.output(probing)
    notices.later("71 hours")
    assert notices.output(probing)["timedOut"] == 0
    notices.later("2 hours")
    assert notices.output(probing)["timedOut"] == 1
    assert notices.probe_of(form)["status"] == "unconfirmed"
    notices.sandbox.sendgrid.report("delivered", notices.sandbox.sendgrid.accepted.all[0])
    notices.apply_events()
    assert notices.probe_of(form)["status"] == "delivered"
    assert len(notices.mailed) == 1


def test_forms_that_the_original_probed_are_not_probed_again(notices: NoticeWorld) -> None:
    form = notices.form(recipient_email_verification_sent_at="2025-01-01T00:00Z")
    notices.conn.execute("update agreements set recipient_email_verification_status = 'pending'")
    assert notices.output(probing)["sent"] == 0
    assert notices.probe_of(form)["status"] == "unconfirmed"


# Uncertain


def test_an_uncertain_probe_is_sent_again_a_day_later_and_then_never(notices: NoticeWorld) -> None:
    form = notices.form()
    rule = notices.sandbox.rules.add("cut-after:mail/send:2")
    sent = []
    for hours in (0, 23, 2, 25, 25, 100):
        notices.later(f"{hours} hours")
        with suppress(RetryLater):
            notices.run_job(probing)
        sent.append(rule.struck)
    assert sent == [1, 1, 2, 2, 2, 2]
    kept = notices.probe_of(form)
    assert (kept["attempts"], kept["status"]) == (2, "unconfirmed")


def test_an_uncertain_probe_that_an_event_confirms_is_not_repeated(notices: NoticeWorld) -> None:
    form = notices.form()
    notices.sandbox.rules.add("cut-after:mail/send:1")
    with pytest.raises(RetryLater, match=r"None of 1 probes was accepted \(1 outcome_unknown\)"):
        notices.run_job(probing)
    assert notices.probe_of(form)["status"] == "pending"
    notices.apply_events()
    assert notices.probe_of(form)["status"] == "delivered"
    notices.later("30 hours")
    assert notices.output(probing)["sent"] == 0
    assert len(notices.mailed) == 1


# Dry run, payload


@pytest.mark.slow
def test_a_dry_run_counts_by_reason_and_changes_nothing(notices: NoticeWorld) -> None:
    forms = [notices.form(parent(1)), notices.form(parent(1)), notices.form(parent(2), age="9 hours")]
    notices.form(None)
    notices.form(c_is_18_or_over=True)
    with notices.changes_nothing():
        output = notices.output(probing, notices.context(without="SENDGRID_API_KEY"), dryRun=True)
    assert (output["candidates"], output["wouldSend"], output["sent"]) == (5, {"email": 2}, 0)
    assert output["skippedReasons"] == {"missing_parent_email": 1, "not_minor": 1}
    assert output["results"][0] == {"agreementId": str(forms[2]), "status": "dry_run"}
    assert output["sample"]["to"] == "z…@example.org"
    assert "release form" in output["sample"]["text"]
    with notices.changes_nothing():
        assert notices.output(probing, notices.context(dry_run=True))["wouldSend"] == {"email": 2}
    context = notices.context()
    with notices.changes_nothing():
        assert probing.preview(probing.Params(), context)["first"] == [str(forms[2]), str(forms[0]), str(forms[1])]
    context.close()
    assert notices.output(probing)["sent"] == 2


def test_a_dry_run_with_nothing_to_do_says_so(notices: NoticeWorld) -> None:
    assert notices.output(probing, dryRun=True)["sample"] is None


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
