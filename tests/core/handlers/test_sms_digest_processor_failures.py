"""The digest on bad days: providers that fail in each way, and workers that die. Judged by the vendors' own logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.handlers import sms_digest_processor as digest
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import delivery, outbox
from jobdeck.core.programme.messaging import digest as messaging_digest
from jobdeck.core.programme.messaging.templates import TemplateError
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import EmailClient
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.programme.vendors.sms import SmsClient
from jobdeck.core.registry import Done
from tests.core.handlers.killing import workers
from tests.core.handlers.notice_world import Crash, NoticeWorld, crash_at, named, run_by_worker, work_through_a_kill


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def nobody_twice(world: NoticeWorld) -> None:
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert world.sandbox.twilio.accepted.repeated() == []


# Providers


def test_a_pause_that_sendgrid_asks_for_is_kept_and_texts_go_out_meanwhile(world: NoticeWorld) -> None:
    for number in range(3):
        world.reader(texts=True, mobile_number=f"+1500555012{number}")
    world.sandbox.rules.add("429:mail/send:1,retry-after=3600")
    with pytest.raises(RateLimited, match=r"3 notices were sent\. SendGrid answered 429.*resumes in 3600 s") as caught:
        world.run_job(digest)
    assert caught.value.seconds == 3600
    assert len(world.sandbox.twilio.accepted) == 3
    with pytest.raises(RateLimited, match="asked for a pause"):
        world.run_job(digest)
    assert world.mailed == []
    world.later("1 hour")
    assert world.output(digest)["emailSent"] == 3
    nobody_twice(world)


def test_a_429_for_an_hour_loses_nobody(world: NoticeWorld) -> None:
    world.reader()
    world.sandbox.rules.add("429:mail/send,retry-after=300")
    for _ in range(12):
        with pytest.raises(RateLimited):
            world.run_job(digest)
        world.later("5 minutes")
    world.sandbox.rules.clear()
    assert world.output(digest)["emailSent"] == 1


def test_an_outage_ends_the_run_and_everyone_is_told_later(world: NoticeWorld) -> None:
    for _ in range(5):
        world.reader()
    rule = world.sandbox.rules.add("500:mail/send")
    with pytest.raises(RetryLater, match=r"0 notices were sent\. Sendgrid could not answer 3 times in a row"):
        world.run_job(digest)
    assert rule.struck == 3
    assert world.rows("select id from alert_log") == []
    world.sandbox.rules.clear()
    world.later("1 minute")
    assert world.output(digest)["emailSent"] == 5
    nobody_twice(world)


def test_an_outage_that_outlasts_a_notice_loses_nobody(world: NoticeWorld) -> None:
    world.reader()
    world.sandbox.rules.add("503:mail/send")
    for _ in range(8):
        with pytest.raises(RetryLater, match="None of 1 notices was accepted"):
            world.run_job(digest)
        world.later("5 minutes")
    world.sandbox.rules.clear()
    world.later("20 minutes")
    assert world.output(digest)["emailSent"] == 1


def test_one_failure_among_many_is_tried_again_soon_and_the_job_says_so(world: NoticeWorld) -> None:
    for _ in range(3):
        world.reader()
    world.sandbox.rules.add("503:mail/send:1")
    with pytest.raises(RetryLater, match=r"2 notices were sent, 1 could not.* \(1 provider_down\)") as caught:
        world.run_job(digest)
    assert caught.value.seconds == 60
    world.later("1 minute")
    assert world.output(digest)["emailSent"] == 1
    nobody_twice(world)


def test_a_text_that_failed_is_tried_again_although_the_mail_went_out(world: NoticeWorld) -> None:
    world.reader(texts=True)
    world.sandbox.rules.add("500:Messages:1")
    with pytest.raises(RetryLater, match="1 notices were sent, 1 could not"):
        world.run_job(digest)
    world.later("2 minutes")
    output = world.output(digest)
    assert (output["emailSent"], output["smsSent"]) == (0, 1)
    nobody_twice(world)


@pytest.mark.parametrize("fault", ["cut-after", "malformed", "504", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["mail/send", "Messages"])
def test_what_may_have_been_sent_is_not_sent_again(world: NoticeWorld, fault: str, where: str) -> None:
    for number in range(2):
        world.reader(texts=True, mobile_number=f"+1500555013{number}")
    more = ",seconds=300" if fault == "slow" else ""
    world.sandbox.rules.add(f"{fault}:{where}:1{more}")
    done = world.run_job(digest, world.context(PROVIDER_TIMEOUT_SECONDS=15 if fault == "slow" else 60))
    assert isinstance(done, Done)
    assert (done.failed, done.output["uncertain"], done.output["accepted"]) == (1, 1, 3)
    world.sandbox.rules.clear()
    assert world.output(digest)["accepted"] == 0
    assert world.states() == {"accepted": 3, "uncertain": 1}
    nobody_twice(world)
    world.later("25 hours")
    assert world.output(digest)["accepted"] == 4


@pytest.mark.parametrize("fault", ["cut-before", "cut-after"])
def test_a_run_in_which_nothing_is_known_to_be_sent_has_failed(world: NoticeWorld, fault: str) -> None:
    world.reader()
    world.sandbox.rules.add(f"{fault}:mail/send")
    with pytest.raises(RetryLater, match=r"None of 1 notices was accepted \(1 outcome_unknown\)\. The job"):
        world.run_job(digest)
    assert world.row("select error_text from alert_log")["error_text"] == "uncertain"
    assert world.run_job(digest) is not None
    assert len(world.mailed) == (fault == "cut-after")


def test_nobody_there_means_nothing_sent_and_everyone_later(world: NoticeWorld) -> None:
    world.reader()
    with pytest.raises(RetryLater, match="1 unreachable"):
        world.run_job(digest, world.context(SENDGRID_API_BASE_URL="http://127.0.0.1:9"))
    world.later("2 minutes")
    assert world.output(digest)["emailSent"] == 1


def test_a_refused_address_is_one_persons_trouble_and_not_tried_again(world: NoticeWorld) -> None:
    bad, _ = world.reader(), world.reader()
    world.sandbox.sendgrid.refused.add(world.address(bad))
    done = world.run_job(digest)
    assert isinstance(done, Done)
    assert (done.failed, done.output["accepted"]) == (1, 1)
    assert world.row("select error_text from alert_log where coach_id = %s", bad)["error_text"] == "failed"
    world.later("2 days")
    assert world.output(digest)["leftOut"] == {"suppressed": 1}


def test_a_message_that_sendgrid_refuses_for_all_fails_the_job_for_good(world: NoticeWorld, tmp_path: Path) -> None:
    (tmp_path / "unread_alert.subject").write_text(" ", encoding="utf-8")
    world.reader()
    with pytest.raises(PermanentError, match="Correct the template"):
        world.run_job(digest, world.context(JOBDECK_TEMPLATES=tmp_path))
    assert world.mailed == []


def test_a_broken_template_sends_nothing_and_loses_nothing(world: NoticeWorld, tmp_path: Path) -> None:
    (tmp_path / "unread_alert.txt").write_text("{{ nmae }}", encoding="utf-8")
    world.reader()
    with pytest.raises(TemplateError, match=r"unread_alert\.txt"):
        world.run_job(digest, world.context(JOBDECK_TEMPLATES=tmp_path))
    assert world.output(digest)["emailSent"] == 1


def test_a_wrong_key_stops_mail_for_good_and_leaves_everyone_due(world: NoticeWorld) -> None:
    for _ in range(3):
        world.reader()
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY"):
        world.run_job(digest, world.context(SENDGRID_API_KEY="SG.wrong"))
    assert len(world.sandbox.requests) == 1
    assert world.output(digest)["emailSent"] == 3


def test_a_wrong_account_stops_texts_and_not_mail(world: NoticeWorld) -> None:
    for number in range(3):
        world.reader(texts=True, mobile_number=f"+1500555014{number}")
    with pytest.raises(ProviderConfigError, match="TWILIO_AUTH_TOKEN") as caught:
        world.run_job(digest, world.context(TWILIO_AUTH_TOKEN="wrong"))
    assert isinstance(caught.value, PermanentError)
    assert len(world.mailed) == 3
    assert len([seen for seen in world.sandbox.requests if "Messages" in seen.path]) == 1
    assert world.output(digest)["smsSent"] == 3


@pytest.mark.parametrize("name", ["SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"])
def test_a_missing_setting_fails_for_good_before_anything_is_touched(world: NoticeWorld, name: str) -> None:
    world.reader(texts=True)
    with world.changes_nothing(), pytest.raises(SettingMissing, match=name) as caught:
        world.run_job(digest, world.context(without=name))
    assert isinstance(caught.value, PermanentError)


def test_sandbox_mode_counts_as_sent(world: NoticeWorld) -> None:
    world.reader()
    assert world.output(digest, world.context(SENDGRID_SANDBOX_MODE=True))["emailSent"] == 1
    assert world.mailed == []


# The database


def test_a_mark_that_cannot_be_written_does_not_repeat_the_notice(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    coach = world.reader()

    def broken(*_args: Any, **_facts: Any) -> None:
        raise psycopg.OperationalError("the database went away")

    monkeypatch.setattr(messaging_digest, "noted", broken)
    with pytest.raises(psycopg.OperationalError):
        world.run_job(digest)
    monkeypatch.undo()
    assert world.row("select last_unread_alert_at as at from profiles where id = %s", coach)["at"] is None
    assert world.output(digest)["leftOut"] == {"in_flight": 1}
    world.leases_end()
    assert world.output(digest)["accepted"] == 0
    assert world.states() == {"uncertain": 1}
    assert len(world.mailed) == 1


# Workers that die

POINTS = [
    pytest.param(outbox, "sweep", False, 0, id="at the start"),
    pytest.param(outbox, "put", False, 0, id="before anything is put down"),
    pytest.param(outbox, "put", True, 0, id="before what is put down is stored"),
    pytest.param(delivery, "wait_for_place", False, 0, id="before the first is taken"),
    pytest.param(outbox, "claim", True, 1, id="when one is taken"),
    pytest.param(EmailClient, "send", False, 1, id="before the mail"),
    pytest.param(EmailClient, "send", True, 1, id="after the mail"),
    pytest.param(outbox, "settle", False, 1, id="before the report"),
    pytest.param(messaging_digest, "noted", True, 1, id="before the report is stored"),
    pytest.param(SmsClient, "send", False, 1, id="before the text"),
    pytest.param(SmsClient, "send", True, 1, id="after the text"),
]


@pytest.mark.parametrize(("target", "name", "after", "uncertain"), POINTS)
def test_a_worker_that_dies_at_any_point_leaves_nobody_told_twice_or_forgotten(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, after: bool, uncertain: int
) -> None:
    for number in range(3):
        world.reader(texts=True, mobile_number=f"+1500555015{number}")
    context = world.context()
    restore = crash_at(monkeypatch, target, name, after=after)
    with pytest.raises(Crash):
        world.run_job(digest, context)
    restore()
    for _ in range(2):
        world.leases_end()
        world.run_job(digest, world.context(job_id=context.job.id))
    found = world.states()
    assert found.get("uncertain", 0) == uncertain
    assert found["accepted"] + uncertain == 6
    assert len(world.sandbox.sendgrid.accepted) + len(world.sandbox.twilio.accepted) in {6 - uncertain, 6}
    nobody_twice(world)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("vendor", "number"), [("sendgrid", 1), ("sendgrid", 3), ("twilio", 2)])
def test_a_worker_killed_while_a_provider_has_its_request(
    world: NoticeWorld,
    database_url: str,
    tmp_path: Path,
    vendor: str,
    number: int,
    moment: Literal["before", "after"],
) -> None:
    for place in range(3):
        world.reader(texts=True, mobile_number=f"+1500555016{place}")
    new = NewJob("sms_digest_processor", {})
    with workers(database_url, world.sandbox, tmp_path) as crew:
        outcomes = work_through_a_kill(world, crew, new, getattr(world.sandbox, vendor), number, moment)
    assert outcomes == ["lost", "succeeded"]
    assert world.states() == {"accepted": 5, "uncertain": 1}
    taken = len(world.sandbox.sendgrid.accepted) + len(world.sandbox.twilio.accepted)
    assert taken == (6 if moment == "after" else 5)
    nobody_twice(world)


def test_nothing_that_is_kept_of_good_and_bad_runs_names_anybody(
    world: NoticeWorld, caplog: pytest.LogCaptureFixture, database_url: str, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "unread_alert.txt").write_text("{{ name.nmae }}", encoding="utf-8")
    bad_days: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {"JOBDECK_TEMPLATES": tmp_path}, "failed"),
        ("401:mail/send:1", {}, "failed"),
        ("429:Messages:1", {}, "failed"),
        ("cut-after:mail/send:1", {}, "partial"),
        ("schema:Messages:1", {}, "partial"),
        (None, {"QUIET_TZ": "Mars/Olympus"}, "failed"),
        (None, {}, "partial"),
    ]
    outcomes = []
    for number, (rule, settings, _) in enumerate(bad_days):
        world.reader(texts=True, mobile_number=f"1 500 555 01 1{number}")
        bad = world.reader(texts=True, email_alert_address=f"zz{number}@example.org", mobile_number="zz 50055501")
        world.sandbox.rules.clear()
        if rule:
            world.sandbox.rules.add(rule)
        elif not settings:
            world.sandbox.sendgrid.refused.add(f"zz{number}@example.org")
            world.sandbox.twilio.stop(f"+1500555011{number}")
            world.conn.execute(
                "update profiles set email_alert_address = 'zz at' where id <> %s and role = 'coach'", (bad,)
            )
        outcomes.append(run_by_worker(world, database_url, "sms_digest_processor", {}, **settings))
        world.later("10 minutes")
    assert run_by_worker(world, database_url, "sms_digest_processor", {"dryRun": True}) == "succeeded"
    assert outcomes == [outcome for *_, outcome in bad_days]
    own = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("psycopg"))
    assert named(world, own) == []
