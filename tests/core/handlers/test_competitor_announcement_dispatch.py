"""Campaigns: each person once, those who must not get mail not at all, and every way in which a run can end."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from jobdeck.core.errors import Cancelled, LeaseLost, PermanentError, RetryLater
from jobdeck.core.handlers.competitor_announcement_dispatch import Params, preview
from jobdeck.core.programme.messaging import campaigns
from jobdeck.core.programme.vendors.errors import (
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    SettingMissing,
)
from jobdeck.core.queue import operator
from jobdeck.core.registry import Continue, Done
from tests.core.handlers.mail_world import MailWorld
from tests.support.context import ended

TASK_TYPE = "competitor_announcement_dispatch"


def sizes(mail: MailWorld) -> list[int]:
    """How many recipients each accepted request had, in order."""
    return list(Counter(one.message_id for one in mail.sandbox.sendgrid.accepted.all).values())


def test_three_recipients_are_one_request(mail: MailWorld) -> None:
    campaign = mail.campaign(3, subject="News", text="Hello *all*")
    outcome = mail.dispatch(campaign)
    assert outcome == Done(
        {"campaignId": str(campaign), "total": 3, "accepted": 3, "skipped": {}, "failed": 0, "uncertain": 0,
         "queued": 0, "batches": 1, "resumed": False,
         "differs": ["The template adds words to the text, such as why somebody gets the mail."]}
    )  # fmt: skip
    assert sizes(mail) == [3]
    one = mail.sandbox.sendgrid.accepted.all[0]
    row = mail.conn.row(
        "select r.id, r.competitor_id, m.id as outbox_id from competitor_announcement_recipients r "
        "join outbox_messages m on m.campaign_recipient_id = r.id where r.email = %s",
        one.address,
    )
    assert one.custom_args == {
        "email_type": "competitor_announcement",
        "campaign_id": str(campaign),
        "competitor_id": str(row["competitor_id"]),
        "recipient_id": str(row["id"]),
        "outbox_id": str(row["outbox_id"]),
    }
    assert (one.subject, one.group_id, one.categories) == ("News", 4711, ("announcement", f"campaign-{campaign}"))
    assert one.text.startswith("Hello *all*")
    assert "<p>Hello <em>all</em></p>" in one.html
    assert "<%asm_group_unsubscribe_raw_url%>" in one.text
    assert one.request["tracking_settings"]["open_tracking"] == {"enable": False}
    assert mail.statuses(campaign) == {"unconfirmed": 3}
    done = mail.campaign_row(campaign)
    assert (done["status"], done["failed_reason"], done["lease_until"]) == ("sent", None, None)
    assert done["completed_at"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(("people", "requests"), [(1500, [1000, 500]), (2500, [1000, 1000, 500])])
def test_more_recipients_than_a_request_may_have_are_all_mailed_once(
    mail: MailWorld, people: int, requests: list[int]
) -> None:
    campaign = mail.campaign(people)
    outcome = mail.dispatch(campaign, batchSize=1000)
    assert outcome.output["accepted"] == people
    assert sizes(mail) == requests
    assert len(mail.sandbox.sendgrid.accepted.counts()) == people
    assert mail.statuses(campaign) == {"unconfirmed": people}


def test_there_must_be_such_a_campaign(mail: MailWorld) -> None:
    with pytest.raises(PermanentError, match="There is no campaign"):
        mail.dispatch(uuid4())
    assert mail.sandbox.requests == []


def test_a_campaign_that_is_sent_is_not_sent_again(mail: MailWorld) -> None:
    campaign = mail.campaign(3)
    mail.dispatch(campaign)
    outcome = mail.dispatch(campaign)
    assert outcome.output["reason"] == "No recipients are left to mail; the campaign is sent."
    assert len(mail.mailed) == 3


@pytest.mark.parametrize("status", ["failed", "uncertain"])
def test_a_campaign_that_failed_in_part_names_the_way_on_when_it_is_enqueued_again(
    mail: MailWorld, status: str
) -> None:
    campaign = mail.campaign(3)
    mail.dispatch(campaign)
    mail.conn.execute(
        "update competitor_announcement_recipients set status = %s where id = (select min(id::text)::uuid "
        "from competitor_announcement_recipients)",
        (status,),
    )
    mail.conn.execute("update competitor_announcement_campaigns set status = 'partially_failed'")
    reason = mail.dispatch(campaign).output["reason"]
    assert f"`jobdeck campaign resume {campaign}`" in reason
    assert "--include-uncertain" in reason


def test_a_campaign_without_recipients_is_done(mail: MailWorld) -> None:
    campaign = mail.campaign(0)
    outcome = mail.dispatch(campaign)
    assert (outcome.output["accepted"], mail.campaign_row(campaign)["status"]) == (0, "sent")
    assert mail.sandbox.requests == []


def test_a_draft_is_not_sent(mail: MailWorld) -> None:
    with pytest.raises(PermanentError, match="is a draft"):
        mail.dispatch(mail.campaign(2, status="draft"))
    assert mail.sandbox.requests == []


@pytest.mark.slow
def test_without_a_way_to_unsubscribe_nothing_is_sent(mail: MailWorld) -> None:
    campaign = mail.campaign(2)
    before = mail.everything()
    with pytest.raises(SettingMissing, match="SENDGRID_UNSUBSCRIBE_GROUP_ID"):
        mail.dispatch(campaign, mail.context(SENDGRID_UNSUBSCRIBE_GROUP_ID=None))
    assert mail.everything() == before
    mail.dispatch(campaign, mail.context(SENDGRID_UNSUBSCRIBE_GROUP_ID=None), allowWithoutUnsubscribe=True)
    assert [one.group_id for one in mail.sandbox.sendgrid.accepted.all] == [None, None]
    assert "asm_group" not in mail.sandbox.sendgrid.accepted.all[0].text


@pytest.mark.parametrize("name", ["SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL"])
def test_a_missing_setting_fails_for_good_before_a_row_is_touched(mail: MailWorld, name: str) -> None:
    campaign = mail.campaign(2)
    before = mail.everything()
    with pytest.raises(SettingMissing, match=name):
        mail.dispatch(campaign, mail.context(without=name))
    assert mail.everything() == before
    assert mail.dispatch(campaign).output["accepted"] == 2


def test_a_wrong_key_leaves_everyone_queued_and_a_corrected_one_mails_them(mail: MailWorld) -> None:
    campaign = mail.campaign(3)
    context = mail.context(SENDGRID_API_KEY="SG.wrong")
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY"):
        mail.dispatch(campaign, context)
    assert mail.statuses(campaign) == {"queued": 3}
    row = mail.campaign_row(campaign)
    assert (row["status"], "SENDGRID_API_KEY" in row["failed_reason"]) == ("partially_failed", True)
    outcome = mail.dispatch(campaign, mail.context(job_id=context.job.id))
    assert (outcome.output["accepted"], outcome.output["resumed"]) == (3, True)
    assert mail.sandbox.sendgrid.accepted.repeated() == []


def test_in_sandbox_mode_the_answer_200_counts(mail: MailWorld) -> None:
    campaign = mail.campaign(3)
    outcome = mail.dispatch(campaign, mail.context(SENDGRID_SANDBOX_MODE="true"))
    assert outcome.output["accepted"] == 3
    assert mail.mailed == []


def test_who_must_not_be_mailed_is_skipped_and_on_record(mail: MailWorld) -> None:
    campaign = mail.campaign(
        ["good@example.org", "bad address", "bounced@example.org", "left@example.org", "gone@example.org"]
    )
    mail.conn.execute(
        "insert into email_suppressions values ('bounced@example.org', 'hard_bounce', 'all', 'test'), "
        "('left@example.org', 'group_unsub', 'announcements', 'test')"
    )
    mail.conn.execute("update competitors set is_active = false where email_personal = 'gone@example.org'")
    outcome = mail.dispatch(campaign)
    assert mail.mailed == ["good@example.org"]
    assert mail.recipients(campaign) == {
        "good@example.org": "unconfirmed",
        "bad address": "skipped: invalid_email_format",
        "bounced@example.org": "skipped: suppressed",
        "left@example.org": "skipped: unsubscribed",
        "gone@example.org": "skipped: inactive",
    }
    assert isinstance(outcome, Done)
    assert outcome.failed == 0
    assert outcome.output["skipped"] == {
        "inactive": 1, "invalid_email_format": 1, "suppressed": 1, "unsubscribed": 1,
    }  # fmt: skip
    assert mail.campaign_row(campaign)["status"] == "sent"


def _as_the_original_stored_it(mail: MailWorld, campaign: Any) -> None:
    mail.conn.execute(
        "update competitor_announcement_recipients set email_norm = null where campaign_id = %s", (campaign,)
    )


def test_addresses_that_differ_in_case_and_blanks_are_one(mail: MailWorld) -> None:
    campaign = mail.campaign(["one@example.org", "two@example.org"])
    _as_the_original_stored_it(mail, campaign)
    for address in (" ONE@example.org", "One@Example.org ", "three@example.org"):
        person = mail.competitor(email_personal=address)
        mail.conn.insert(
            "competitor_announcement_recipients", campaign_id=campaign, competitor_id=person, email=address
        )
    outcome = mail.dispatch(campaign)
    assert sorted(mail.mailed) == ["one@example.org", "three@example.org", "two@example.org"]
    assert outcome.output["skipped"] == {"duplicate_email": 2}


def test_a_person_who_is_in_the_list_twice_is_mailed_once(mail: MailWorld) -> None:
    campaign = mail.campaign(["one@example.org"])
    _as_the_original_stored_it(mail, campaign)
    person = mail.conn.row("select competitor_id from competitor_announcement_recipients")["competitor_id"]
    mail.conn.insert(
        "competitor_announcement_recipients", campaign_id=campaign, competitor_id=person, email="other@example.org"
    )
    mail.dispatch(campaign)
    assert len(mail.mailed) == 1


def test_who_was_mailed_by_the_original_is_not_mailed_again(mail: MailWorld) -> None:
    campaign = mail.campaign(["one@example.org", "two@example.org"])
    _as_the_original_stored_it(mail, campaign)
    mail.conn.execute("update competitor_announcement_recipients set status = 'delivered' where email like 'one%%'")
    mail.conn.insert(
        "competitor_announcement_recipients",
        campaign_id=campaign,
        competitor_id=mail.competitor(),
        email="ONE@example.org",
    )
    mail.dispatch(campaign)
    assert mail.mailed == ["two@example.org"]


def test_the_ledger_remembers_an_address_whose_recipient_was_stored_anew(mail: MailWorld) -> None:
    campaign = mail.campaign(["one@example.org"])
    mail.dispatch(campaign)
    mail.conn.execute("delete from competitor_announcement_recipients")
    mail.conn.execute("update competitor_announcement_campaigns set status = 'pending'")
    for address in ("one@example.org", "two@example.org"):
        mail.conn.insert(
            "competitor_announcement_recipients",
            campaign_id=campaign,
            competitor_id=mail.competitor(email_personal=address),
            email=address,
            email_norm=address,
        )
    mail.dispatch(campaign)
    assert mail.mailed == ["one@example.org", "two@example.org"]
    assert mail.recipients(campaign)["one@example.org"] == "skipped: duplicate_email"


def test_an_address_that_its_person_gave_up_is_not_mailed(mail: MailWorld) -> None:
    campaign = mail.campaign(["old@example.org", "moved@example.org", "gone@example.org", "stays@example.org"])
    change = "update competitors set email_personal = %s, email_school = %s where email_personal = %s"
    mail.conn.execute(change, ("new@example.org", None, "old@example.org"))
    mail.conn.execute(change, ("new2@example.org", " Moved@Example.org", "moved@example.org"))
    mail.conn.execute(change, (None, "", "gone@example.org"))
    context = mail.context()
    told = preview(Params(campaign_id=campaign), context)
    assert (told["wouldMail"], told["skipped"]) == (2, {"address_changed": 2})
    outcome = ended(mail.dispatch(campaign, context))
    assert outcome.output["skipped"] == {"address_changed": 2}
    assert sorted(mail.mailed) == ["moved@example.org", "stays@example.org"]
    assert mail.campaign_row(campaign)["status"] == "sent"


def test_an_address_that_is_given_up_while_its_batch_waits_is_not_mailed(mail: MailWorld) -> None:
    campaign = mail.campaign(["old@example.org", "stays@example.org"])
    mail.sandbox.rules.add("503:mail/send:1")
    with pytest.raises(ProviderDown):
        mail.dispatch(campaign)
    mail.conn.execute("update competitors set email_personal = 'new@example.org' where email_personal like 'old%'")
    mail.dispatch(campaign)
    assert mail.mailed == ["stays@example.org"]
    assert mail.recipients(campaign)["old@example.org"] == "skipped: address_changed"
    assert mail.conn.rows("select state, error_class from outbox_messages where address = 'old@example.org'") == [
        {"state": "suppressed", "error_class": "address_changed"}
    ]


def test_one_refused_address_is_one_persons_trouble(mail: MailWorld) -> None:
    campaign = mail.campaign(20)
    refused = mail.conn.row("select email from competitor_announcement_recipients order by id limit 1 offset 7")[
        "email"
    ]
    mail.sandbox.sendgrid.refused.add(refused)
    outcome = ended(mail.dispatch(campaign))
    assert (outcome.output["accepted"], outcome.output["failed"], outcome.failed) == (19, 1, 1)
    assert mail.recipients(campaign)[refused] == "failed"
    assert mail.sandbox.sendgrid.accepted.repeated() == []
    assert [seen.status for seen in mail.sandbox.requests] == [400, 202]
    row = mail.campaign_row(campaign)
    assert (row["status"], "1 failed" in row["failed_reason"]) == ("partially_failed", True)


def test_where_sendgrid_names_nobody_the_batch_is_halved_until_the_culprit_is_found(mail: MailWorld) -> None:
    campaign = mail.campaign(40)
    culprit = mail.conn.row("select email from competitor_announcement_recipients order by id limit 1 offset 23")[
        "email"
    ]
    original = mail.sandbox.sendgrid.answer

    def answer(method: str, path: str, query: Any, content: bytes, key: str | None) -> Any:
        if culprit.encode() in content:
            return 400, {"errors": [{"message": "Bad recipient.", "field": "personalizations", "help": None}]}, {}
        return original(method, path, query, content, key)

    mail.sandbox.sendgrid.answer = answer  # type: ignore[method-assign]
    outcome = mail.dispatch(campaign)
    assert (outcome.output["accepted"], outcome.output["failed"]) == (39, 1)
    assert mail.recipients(campaign)[culprit] == "failed"
    assert mail.sandbox.sendgrid.accepted.repeated() == []


@pytest.mark.slow
def test_a_request_that_is_too_large_is_halved(mail: MailWorld) -> None:
    campaign = mail.campaign(40)
    mail.sandbox.rules.add("413:mail/send:2")
    outcome = mail.dispatch(campaign)
    assert (outcome.output["accepted"], outcome.output["failed"]) == (40, 0)
    assert sizes(mail)[0] == 10
    assert mail.sandbox.sendgrid.accepted.repeated() == []


@pytest.mark.slow
def test_mail_too_large_for_anybody_fails_for_good(mail: MailWorld) -> None:
    campaign = mail.campaign(4)
    mail.sandbox.rules.add("413:mail/send")
    with pytest.raises(PayloadRefused, match="too large"):
        mail.dispatch(campaign)
    assert mail.statuses(campaign) == {"queued": 4}
    assert mail.campaign_row(campaign)["status"] == "failed"


def test_a_message_that_sendgrid_refuses_fails_for_good_and_keeps_everyone(mail: MailWorld) -> None:
    campaign = mail.campaign(4)
    context = mail.context()
    mail.sandbox.rules.add("400:mail/send:1")
    with pytest.raises(PayloadRefused):
        mail.dispatch(campaign, context)
    row = mail.campaign_row(campaign)
    assert (row["status"], row["failed_reason"].startswith("SendGrid refused")) == ("failed", True)
    assert mail.statuses(campaign) == {"queued": 4}
    with pytest.raises(PermanentError, match="campaign resume"):
        mail.dispatch(campaign)
    outcome = mail.dispatch(campaign, mail.context(job_id=context.job.id))
    assert outcome.output["accepted"] == 4


def test_429_then_202(mail: MailWorld) -> None:
    campaign = mail.campaign(30)
    context = mail.context()
    mail.sandbox.rules.add("429:mail/send:1,retry-after=600")
    with pytest.raises(RateLimited) as caught:
        mail.dispatch(campaign, context)
    assert caught.value.seconds == 600
    with pytest.raises(RateLimited, match=r"resumes in \d+ s"):
        mail.dispatch(campaign)
    assert len(mail.sandbox.requests) == 1
    assert mail.statuses(campaign) == {"queued": 30}
    mail.conn.execute("update provider_rates set closed_until = now()")
    outcome = mail.dispatch(campaign, mail.context(job_id=context.job.id, attempt=2))
    assert outcome.output["accepted"] == 30
    assert mail.sandbox.sendgrid.accepted.repeated() == []


def test_503_then_202(mail: MailWorld) -> None:
    campaign = mail.campaign(30)
    mail.sandbox.rules.add("503:mail/send:1")
    with pytest.raises(ProviderDown):
        mail.dispatch(campaign)
    assert mail.statuses(campaign) == {"queued": 30}
    assert mail.dispatch(campaign).output["accepted"] == 30
    assert mail.sandbox.sendgrid.accepted.repeated() == []


@pytest.mark.parametrize("fault", ["cut-after", "cut-before", "504", "malformed"])
def test_where_the_outcome_is_open_the_batch_is_uncertain_and_not_repeated(mail: MailWorld, fault: str) -> None:
    campaign = mail.campaign(50)
    context = mail.context()
    mail.sandbox.rules.add(f"{fault}:mail/send:1")
    with pytest.raises(RetryLater, match="20 recipients are uncertain"):
        mail.dispatch(campaign, context, batchSize=20)
    assert mail.statuses(campaign) == {"uncertain": 20, "queued": 30}
    outcome = ended(mail.dispatch(campaign, mail.context(job_id=context.job.id, attempt=2), batchSize=20))
    assert (outcome.output["accepted"], outcome.output["uncertain"], outcome.failed) == (30, 20, 20)
    assert mail.sandbox.sendgrid.accepted.repeated() == []
    row = mail.campaign_row(campaign)
    assert (row["status"], "20 uncertain" in row["failed_reason"]) == ("partially_failed", True)


@pytest.mark.slow
def test_a_timeout_is_uncertain(mail: MailWorld) -> None:
    campaign = mail.campaign(3)
    mail.sandbox.rules.add("slow:mail/send:1,seconds=300")
    with pytest.raises(RetryLater, match="uncertain"):
        mail.dispatch(campaign, mail.context(PROVIDER_TIMEOUT_SECONDS=2))
    assert mail.statuses(campaign) == {"uncertain": 3}
    assert mail.dispatch(campaign).output["accepted"] == 0


def test_where_nobody_listens_everyone_stays_queued(mail: MailWorld) -> None:
    campaign = mail.campaign(3)
    with pytest.raises(Exception, match="could not be reached"):
        mail.dispatch(campaign, mail.context(SENDGRID_API_BASE_URL="http://127.0.0.1:1"))
    assert mail.statuses(campaign) == {"queued": 3}


@pytest.mark.slow
def test_after_trouble_the_first_requests_are_small(mail: MailWorld) -> None:
    campaign = mail.campaign(500)
    mail.dispatch(campaign, mail.context(attempt=2), batchSize=1000)
    assert sizes(mail) == [20, 80, 320, 80]


def test_resume_mails_only_the_unsent(mail: MailWorld) -> None:
    campaign = mail.campaign(60)
    mail.sandbox.rules.add("cut-after:mail/send:/2")
    with pytest.raises(RetryLater):
        mail.dispatch(campaign, batchSize=20)
    mail.sandbox.rules.clear()
    assert mail.statuses(campaign) == {"unconfirmed": 20, "uncertain": 20, "queued": 20}
    campaigns.reopen(mail.conn, campaign, retry_failed=False, include_uncertain=False, actor="mara@local")
    assert mail.dispatch(campaign).output["accepted"] == 40
    assert len(mail.mailed) == 60
    assert mail.sandbox.sendgrid.accepted.repeated() == []


def test_uncertain_ones_are_mailed_again_only_on_a_persons_word(mail: MailWorld) -> None:
    campaign = mail.campaign(10)
    mail.sandbox.rules.add("cut-before:mail/send:1")
    with pytest.raises(RetryLater):
        mail.dispatch(campaign)
    assert mail.dispatch(campaign).output["accepted"] == 0
    with pytest.raises(Exception, match="Nobody is left"):
        campaigns.reopen(mail.conn, campaign, retry_failed=False, include_uncertain=False, actor="m")
    assert campaigns.reopen(mail.conn, campaign, retry_failed=False, include_uncertain=True, actor="mara@local") == 10
    assert mail.dispatch(campaign).output["accepted"] == 10
    assert mail.campaign_row(campaign)["status"] == "sent"
    actions = mail.conn.execute("select action from job_audit order by id").fetchall()
    assert actions == [("send again",), ("resume campaign",)]


def test_another_job_does_not_send_a_campaign_that_is_being_sent(mail: MailWorld) -> None:
    campaign = mail.campaign(40)
    second = mail.context()
    original = mail.sandbox.sendgrid.answer
    seen: list[RetryLater] = []

    def answer(method: str, path: str, query: Any, content: bytes, key: str | None) -> Any:
        if not seen:
            with pytest.raises(RetryLater, match="Another job is sending") as caught:
                mail.dispatch(campaign, second)
            seen.append(caught.value)
        return original(method, path, query, content, key)

    mail.sandbox.sendgrid.answer = answer  # type: ignore[method-assign]
    mail.dispatch(campaign, batchSize=20)
    assert seen
    assert mail.dispatch(campaign, second).output["accepted"] == 40
    assert mail.sandbox.sendgrid.accepted.repeated() == []


def test_a_run_that_was_given_up_stops_when_a_later_one_has_the_campaign(mail: MailWorld) -> None:
    campaign = mail.campaign(60)
    stalled = mail.context()
    later = mail.context(job_id=stalled.job.id, attempt=2)
    original = mail.sandbox.sendgrid.answer
    inner: list[Done | Continue] = []

    def answer(method: str, path: str, query: Any, content: bytes, key: str | None) -> Any:
        reply = original(method, path, query, content, key)
        if not inner:
            inner.append(Done())
            inner[0] = mail.dispatch(campaign, later, batchSize=20)
        return reply

    mail.sandbox.sendgrid.answer = answer  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        mail.dispatch(campaign, stalled, batchSize=20)
    assert inner[0].output["accepted"] == 40
    assert mail.sandbox.sendgrid.accepted.repeated() == []
    # What the stalled run reported late was the truth, and settles what was uncertain.
    assert mail.statuses(campaign) == {"unconfirmed": 60}
    assert mail.campaign_row(campaign)["status"] == "sent"


def test_a_run_cannot_take_up_what_a_later_one_of_its_job_has_taken(mail: MailWorld) -> None:
    campaign = mail.campaign(40)
    stalled = mail.context()
    mail.dispatch(campaign, mail.context(job_id=stalled.job.id), maxRecipients=20)
    with pytest.raises(LeaseLost):
        mail.dispatch(campaign, stalled)
    assert len(mail.mailed) == 20


def test_an_operators_cancel_is_obeyed_between_batches(mail: MailWorld) -> None:
    campaign = mail.campaign(60)
    context = mail.context()
    context.cancel_when = lambda: len(mail.mailed) >= 20
    with pytest.raises(Cancelled):
        mail.dispatch(campaign, context, batchSize=20)
    assert mail.statuses(campaign) == {"unconfirmed": 20, "queued": 40}
    row = mail.campaign_row(campaign)
    assert (row["status"], row["lease_until"]) == ("partially_failed", None)
    assert mail.dispatch(campaign).output["accepted"] == 60
    assert mail.sandbox.sendgrid.accepted.repeated() == []


@pytest.mark.slow
@pytest.mark.parametrize("task_type", [None, TASK_TYPE])
def test_the_processing_switch_is_obeyed_between_batches(mail: MailWorld, task_type: str | None) -> None:
    campaign = mail.campaign(60)
    context = mail.context()
    original = context.save_checkpoint

    def pause_then_save(checkpoint: Any) -> None:
        operator.pause(mail.conn, reason="trouble", actor="mara@local", task_type=task_type)
        original(checkpoint)

    context.save_checkpoint = pause_then_save  # type: ignore[method-assign]
    outcome = mail.dispatch(campaign, context, batchSize=20)
    assert outcome == Continue({"accepted": 20, "queued": 40}, output=outcome.output)
    assert mail.statuses(campaign) == {"unconfirmed": 20, "queued": 40}
    operator.resume(mail.conn, actor="mara@local", task_type=task_type)
    assert mail.dispatch(campaign, mail.context(job_id=context.job.id)).output["accepted"] == 60
    assert mail.sandbox.sendgrid.accepted.repeated() == []


@pytest.mark.slow
def test_a_limited_run_stops_at_its_number(mail: MailWorld) -> None:
    campaign = mail.campaign(50)
    outcome = mail.dispatch(campaign, batchSize=20, maxRecipients=30)
    assert (outcome.output["accepted"], outcome.output["queued"]) == (30, 20)
    assert sizes(mail) == [20, 10]
    row = mail.campaign_row(campaign)
    assert (row["status"], "20 queued" in row["failed_reason"]) == ("partially_failed", True)
    assert mail.dispatch(campaign).output["accepted"] == 50


def test_a_run_for_one_coach_mails_that_coachs_competitors(mail: MailWorld) -> None:
    campaign = mail.campaign(["mine@example.org", "theirs@example.org"])
    other = mail.profile()
    mail.conn.execute("update competitors set coach_id = %s where email_personal like 'theirs%%'", (other,))
    mail.dispatch(campaign, coachId=str(other))
    assert mail.mailed == ["theirs@example.org"]
    assert mail.recipients(campaign)["mine@example.org"] == "queued"


def test_progress_is_told(mail: MailWorld) -> None:
    context = mail.context()
    mail.dispatch(mail.campaign(50), context, batchSize=20)
    assert context.steps == [(20, 50, "recipients"), (40, 50, "recipients"), (50, 50, "recipients")]
    assert context.checkpoint == {"accepted": 50, "queued": 0}


def test_html_in_an_announcement_runs_nothing(mail: MailWorld) -> None:
    campaign = mail.campaign(1, text="<script>alert(1)</script> & [x](javascript:alert(1))")
    mail.conn.execute("update competitor_announcement_campaigns set body_html = '<script>alert(1)</script>'")
    mail.dispatch(campaign)
    html = mail.sandbox.sendgrid.accepted.all[0].html
    assert "<script>" not in html
    assert "javascript:" not in html.replace("[x](javascript:", "")


def test_the_preview_and_the_run_say_how_the_mail_differs_from_the_page(mail: MailWorld) -> None:
    campaign = mail.campaign(1, text="![logo](https://example.org/logo.png)\n\nHello <b>all</b> <button>Go</button>")
    tried = mail.dispatch(campaign, dryRun=True).output["differs"]
    assert tried[:2] == [
        "Pictures are replaced by their descriptions (1).",
        "HTML that a mail must not have is left out (1).",
    ]
    assert mail.dispatch(campaign).output["differs"] == tried
    assert "Hello <b>all</b> Go" in mail.sandbox.sendgrid.accepted.all[0].html


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_stored_html_is_never_sent_where_there_is_no_markdown(mail: MailWorld, text: str) -> None:
    campaign = mail.campaign(1)
    mail.conn.execute(
        "update competitor_announcement_campaigns set body_markdown = %s, body_html = '<img src=https://x.example.org>'",
        (text,),
    )
    for dry in (False, True):
        with pytest.raises(PermanentError, match="no Markdown text"):
            mail.dispatch(campaign, dryRun=dry)
    assert mail.sandbox.requests == []
    row = mail.campaign_row(campaign)
    assert (row["status"], row["lease_until"]) == ("pending", None)
    assert set(mail.recipients(campaign).values()) == {"queued"}


def test_a_dry_run_says_what_it_would_do_and_does_nothing(mail: MailWorld) -> None:
    campaign = mail.campaign(["a@example.org", "b@example.org", "bad", "gone@example.org"])
    mail.conn.execute("insert into email_suppressions values ('gone@example.org', 'spam', 'all', 'test')")
    before = mail.everything()
    outcome = mail.dispatch(campaign, dryRun=True, batchSize=1)
    assert mail.everything() == before
    assert mail.sandbox.requests == []
    told = outcome.output
    assert (told["dryRun"], told["wouldMail"], told["batches"]) == (True, 2, 2)
    assert told["skipped"] == {"invalid_email_format": 1, "suppressed": 1}
    assert len(told["first"]) == 2
    assert set(told["sample"]["to"]) == {"a…@example.org", "b…@example.org"}
    assert told["sample"]["text"].startswith("*Hello*")
    mail.dispatch(campaign)
    assert sorted(mail.mailed) == ["a@example.org", "b@example.org"]


def test_the_preview_needs_no_key_and_finds_what_the_run_would_leave_out(mail: MailWorld) -> None:
    campaign = mail.campaign(["a@example.org", "b@example.org"])
    _as_the_original_stored_it(mail, campaign)
    mail.conn.insert(
        "competitor_announcement_recipients",
        campaign_id=campaign,
        competitor_id=mail.competitor(email_personal="a@example.org"),
        email="A@example.org",
    )
    context = mail.context(SENDGRID_API_KEY=None)
    told = preview(Params(campaign_id=campaign), context)
    context.close()
    assert (told["wouldMail"], told["skipped"]) == (2, {"duplicate_email": 1})
    with pytest.raises(PermanentError, match="There is no campaign"):
        preview(Params(campaign_id=uuid4()), context)


def test_fields_may_be_written_in_either_way() -> None:
    campaign = uuid4()
    assert Params.model_validate({"campaign_id": str(campaign)}) == Params(campaign_id=campaign)
    with pytest.raises(ValidationError):
        Params.model_validate({"campaignId": str(campaign), "campaign_id": "x", "extra": 1})


def test_no_output_names_or_quotes_anybody(mail: MailWorld) -> None:
    campaign = mail.campaign(["zzsecret@example.org", "zzrefused@example.org"])
    mail.sandbox.sendgrid.refused.add("zzrefused@example.org")
    outcome = mail.dispatch(campaign)
    told = str(outcome.output) + str(mail.campaign_row(campaign)["failed_reason"])
    told += str(mail.conn.rows("select error_text, error_class from outbox_messages"))
    assert "zzsecret" not in told
    assert "zzrefused" not in told
    assert "Zzfirst" not in told


def test_what_changes_of_a_message_and_is_not_mirrored_leaves_the_recipient_alone(mail: MailWorld) -> None:
    campaign = mail.campaign(2)
    mail.dispatch(campaign)
    seen = "select id, status, xmin::text, ctid::text, updated_at from competitor_announcement_recipients order by id"
    before = mail.conn.rows(seen)
    mail.conn.execute("update outbox_messages set segments = 2, last_event = 'processed', updated_at = now()")
    assert mail.conn.rows(seen) == before
    mail.conn.execute("update outbox_messages set state = 'delivered'")
    after = mail.conn.rows(seen)
    assert [row["status"] for row in after] == ["delivered"] * 2
    assert all(old["xmin"] != new["xmin"] for old, new in zip(before, after, strict=True))
