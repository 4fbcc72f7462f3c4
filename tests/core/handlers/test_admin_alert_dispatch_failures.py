"""Admin alerts on bad days: providers that fail in each way, and workers that die. Judged by the vendors' own logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.handlers import admin_alert_dispatch as alerts
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import admin_alerts, delivery, outbox
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import EmailClient
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.programme.vendors.sms import SmsClient
from jobdeck.core.registry import Done
from tests.core.handlers.killing import workers
from tests.core.handlers.notice_world import Crash, NoticeWorld, crash_at, named, run_by_worker, work_through_a_kill

TYPE = "admin_alert_dispatch"


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def admins(world: NoticeWorld, count: int, *, texts: bool = False) -> list[Any]:
    return [
        world.reader(role="admin", texts=texts, mobile_number=f"+1500555012{number}" if texts else None)
        for number in range(count)
    ]


def rows(world: NoticeWorld) -> list[str]:
    """What became of each row: told, open, or why it was dropped."""
    found = world.rows("select sent_at, dropped_reason from admin_alert_queue")
    return sorted("told" if row["sent_at"] else row["dropped_reason"] or "open" for row in found)


def nobody_twice(world: NoticeWorld) -> None:
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert world.sandbox.twilio.accepted.repeated() == []


# Providers


def test_one_persons_outage_does_not_end_the_others_run(world: NoticeWorld) -> None:
    admins(world, 3)
    world.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater, match=r"2 alerts were sent, 1 could not be sent yet \(1 provider_down\)"):
        world.run_job(alerts)
    assert rows(world) == ["open", "told", "told"]
    world.later("1 minute")
    assert world.output(alerts)["sent"] == 1
    assert rows(world) == ["told"] * 3
    nobody_twice(world)


def test_an_outage_for_hours_loses_no_alert(world: NoticeWorld) -> None:
    (one,) = admins(world, 1)
    world.sandbox.rules.add("503:mail/send")
    for _ in range(12):
        with pytest.raises(RetryLater):
            world.run_job(alerts)
        world.later("5 minutes")
    world.written_to(one)
    world.sandbox.rules.clear()
    output = world.output(alerts)
    assert output["results"][0]["count"] == 2
    assert rows(world) == ["told", "told"]
    nobody_twice(world)


def test_a_429_is_kept_by_everyone_and_loses_no_alert(world: NoticeWorld) -> None:
    admins(world, 2)
    rule = world.sandbox.rules.add("429:mail/send,retry-after=600")
    with pytest.raises(RateLimited, match="resumes in 600 s") as caught:
        world.run_job(alerts)
    assert caught.value.seconds == 600
    with pytest.raises(RateLimited, match="asked for a pause"):
        world.run_job(alerts, force=True)
    assert rule.struck == 1
    world.sandbox.rules.clear()
    world.later("10 minutes")
    assert world.output(alerts)["sent"] == 2
    nobody_twice(world)


@pytest.mark.parametrize("fault", ["cut-after", "malformed", "504", pytest.param("slow", marks=pytest.mark.slow)])
def test_an_alert_that_may_have_been_sent_is_not_repeated_and_the_next_covers_it(
    world: NoticeWorld, fault: str
) -> None:
    one, _ = admins(world, 2)
    world.sandbox.rules.add(f"{fault}:mail/send:1{',seconds=300' if fault == 'slow' else ''}")
    done = world.run_job(alerts, world.context(PROVIDER_TIMEOUT_SECONDS=15 if fault == "slow" else 60))
    assert isinstance(done, Done)
    assert (done.failed, done.output["uncertain"], done.output["sent"]) == (1, 1, 1)
    assert rows(world) == ["told", "uncertain"]
    assert world.output(alerts, force=True)["processedRecipients"] == 0
    nobody_twice(world)
    world.sandbox.rules.clear()
    world.written_to(one)
    world.later("61 minutes")
    assert world.output(alerts)["sent"] == 1


def test_a_line_cut_before_anything_was_taken_may_have_been_after_it(world: NoticeWorld) -> None:
    admins(world, 1)
    world.sandbox.rules.add("cut-before:mail/send:1")
    with pytest.raises(RetryLater, match=r"None of 1 alerts was accepted \(1 outcome_unknown\)"):
        world.run_job(alerts)
    assert rows(world) == ["uncertain"]


def test_a_text_that_failed_is_tried_again_although_the_mail_told_already(world: NoticeWorld) -> None:
    admins(world, 1, texts=True)
    world.sandbox.rules.add("500:Messages:1")
    with pytest.raises(RetryLater, match="1 alerts were sent, 1 could not"):
        world.run_job(alerts, allowSms=True)
    assert rows(world) == ["told"]
    world.later("1 minute")
    output = world.output(alerts, allowSms=True)
    assert (output["emailSent"], output["smsSent"]) == (0, 1)
    nobody_twice(world)


def test_a_mail_that_failed_for_good_leaves_it_to_the_text(world: NoticeWorld) -> None:
    (one,) = admins(world, 1, texts=True)
    world.sandbox.sendgrid.refused.add(world.address(one))
    output = world.run_job(alerts, allowSms=True).output
    assert (output["emailSent"], output["smsSent"], output["sent"]) == (0, 1, 1)
    assert rows(world) == ["told"]


def test_a_mail_that_may_have_been_sent_is_not_repeated_for_the_sake_of_a_text(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = admins(world, 1, texts=True)
    restore = crash_at(monkeypatch, EmailClient, "send", after=True)
    with pytest.raises(Crash):
        world.run_job(alerts, allowSms=True)
    restore()
    world.leases_end()
    world.written_to(one)
    output = world.output(alerts, force=True, allowSms=True)
    assert [result["count"] for result in output["results"]] == [1, 1]
    assert len(world.mailed) == 2
    assert len(world.sandbox.twilio.accepted) == 2
    assert rows(world) == ["told", "told"]


def test_nobody_there_means_nothing_sent_and_everyone_later(world: NoticeWorld) -> None:
    admins(world, 1)
    with pytest.raises(RetryLater, match="1 unreachable"):
        world.run_job(alerts, world.context(SENDGRID_API_BASE_URL="http://127.0.0.1:9"))
    assert rows(world) == ["open"]
    world.later("2 minutes")
    assert world.output(alerts)["sent"] == 1


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [("admin_alert.subject", " ", "Correct the template"), ("admin_alert.txt", "{{ nmae }}", r"admin_alert\.txt")],
)
def test_a_template_that_nobody_can_be_sent_fails_for_good_and_loses_no_alert(
    world: NoticeWorld, tmp_path: Path, file: str, text: str, error: str
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    admins(world, 2)
    with pytest.raises(PermanentError, match=error):
        world.run_job(alerts, world.context(JOBDECK_TEMPLATES=tmp_path))
    assert world.mailed == []
    assert rows(world) == ["open"] * 2
    world.later("2 minutes")
    assert world.output(alerts)["sent"] == 2
    assert rows(world) == ["told"] * 2
    nobody_twice(world)


def test_a_wrong_key_fails_for_good_and_leaves_the_rows_open(world: NoticeWorld) -> None:
    admins(world, 3)
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY") as caught:
        world.run_job(alerts, world.context(SENDGRID_API_KEY="SG.wrong"))
    assert isinstance(caught.value, PermanentError)
    assert len(world.sandbox.requests) == 1
    assert rows(world) == ["open"] * 3
    assert world.output(alerts)["sent"] == 3


def test_a_wrong_account_stops_texts_and_not_mail(world: NoticeWorld) -> None:
    admins(world, 2, texts=True)
    with pytest.raises(ProviderConfigError, match="TWILIO_AUTH_TOKEN"):
        world.run_job(alerts, world.context(TWILIO_AUTH_TOKEN="wrong"), allowSms=True)
    assert len(world.mailed) == 2
    assert world.output(alerts, allowSms=True)["smsSent"] == 2
    nobody_twice(world)


@pytest.mark.parametrize("name", ["SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", "TWILIO_AUTH_TOKEN"])
def test_a_missing_setting_fails_for_good_before_anything_is_touched(world: NoticeWorld, name: str) -> None:
    admins(world, 1, texts=True)
    with world.changes_nothing(), pytest.raises(SettingMissing, match=name):
        world.run_job(alerts, world.context(without=name), allowSms=True)


def test_a_missing_account_for_texts_is_no_matter_where_none_are_sent(world: NoticeWorld) -> None:
    admins(world, 1)
    assert world.output(alerts, world.context(without="TWILIO_AUTH_TOKEN"))["sent"] == 1


def test_a_newer_alert_takes_the_place_of_one_that_was_not_sent(world: NoticeWorld) -> None:
    (one,) = admins(world, 1)
    world.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater):
        world.run_job(alerts)
    world.written_to(one)
    output = world.output(alerts)
    assert output["results"][0]["count"] == 2
    assert world.states() == {"accepted": 1, "failed": 1}
    world.later("2 hours")
    assert world.output(alerts)["processedRecipients"] == 0


def test_an_alert_that_was_put_down_and_not_sent_counts_what_is_still_unread(world: NoticeWorld) -> None:
    (one,) = admins(world, 1)
    world.written_to(one)
    world.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater):
        world.run_job(alerts)
    message = world.rows("select message_id from admin_alert_queue limit 1")[0]["message_id"]
    world.insert("message_read_receipts", {"message_id": message, "user_id": one})
    world.later("1 minute")
    assert world.output(alerts)["results"][0]["count"] == 1
    assert "1 new message" in world.sandbox.sendgrid.accepted.all[0].subject


def test_a_report_that_cannot_be_written_does_not_repeat_the_alert(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    admins(world, 1)

    def broken(*_args: Any, **_facts: Any) -> None:
        raise psycopg.OperationalError("the database went away")

    monkeypatch.setattr(admin_alerts, "noted", broken)
    with pytest.raises(psycopg.OperationalError):
        world.run_job(alerts)
    monkeypatch.undo()
    assert world.output(alerts, force=True)["processedRecipients"] == 0
    world.leases_end()
    assert world.output(alerts, force=True)["processedRecipients"] == 0
    assert rows(world) == ["uncertain"]
    assert len(world.mailed) == 1


# Workers that die

POINTS = [
    pytest.param(outbox, "sweep", False, 0, id="at the start"),
    pytest.param(admin_alerts, "claim", True, 0, id="when rows are claimed"),
    pytest.param(admin_alerts, "bind", True, 0, id="before what is put down is stored"),
    pytest.param(delivery, "wait_for_place", False, 0, id="before the first is taken"),
    pytest.param(outbox, "claim", True, 1, id="when one is taken"),
    pytest.param(EmailClient, "send", False, 1, id="before the mail"),
    pytest.param(EmailClient, "send", True, 1, id="after the mail"),
    pytest.param(outbox, "settle", False, 1, id="before the report"),
    pytest.param(admin_alerts, "noted", True, 1, id="before the report is stored"),
    pytest.param(SmsClient, "send", False, 1, id="before the text"),
    pytest.param(SmsClient, "send", True, 1, id="after the text"),
]


@pytest.mark.parametrize(("target", "name", "after", "uncertain"), POINTS)
def test_a_worker_that_dies_at_any_point_leaves_nobody_told_twice_or_forgotten(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, after: bool, uncertain: int
) -> None:
    admins(world, 3, texts=True)
    context = world.context()
    restore = crash_at(monkeypatch, target, name, after=after)
    with pytest.raises(Crash):
        world.run_job(alerts, context, allowSms=True)
    restore()
    for _ in range(2):
        world.leases_end()
        world.run_job(alerts, world.context(job_id=context.job.id), allowSms=True)
    found = world.states()
    assert found.get("uncertain", 0) == uncertain
    assert found["accepted"] + uncertain == 6
    assert len(world.sandbox.sendgrid.accepted) + len(world.sandbox.twilio.accepted) in {6 - uncertain, 6}
    nobody_twice(world)
    assert "open" not in rows(world)


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
    admins(world, 3, texts=True)
    with workers(database_url, world.sandbox, tmp_path) as crew:
        new = NewJob(TYPE, {"allowSms": True})
        outcomes = work_through_a_kill(world, crew, new, getattr(world.sandbox, vendor), number, moment)
    assert outcomes == ["lost", "succeeded"]
    assert world.states() == {"accepted": 5, "uncertain": 1}
    taken = len(world.sandbox.sendgrid.accepted) + len(world.sandbox.twilio.accepted)
    assert taken == (6 if moment == "after" else 5)
    nobody_twice(world)
    assert "open" not in rows(world)


def test_nothing_that_is_kept_of_good_and_bad_runs_names_anybody(
    world: NoticeWorld, caplog: pytest.LogCaptureFixture, database_url: str, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "admin_alert.txt").write_text("{{ name.nmae }}", encoding="utf-8")
    bad_days: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {"JOBDECK_TEMPLATES": tmp_path}, "failed"),
        ("403:mail/send:1", {}, "failed"),
        ("429:Messages:1", {}, "failed"),
        ("cut-after:mail/send:1", {}, "partial"),
        ("schema:Messages:1", {}, "partial"),
        (None, {}, "failed"),
    ]
    outcomes = []
    for number, (rule, settings, _) in enumerate(bad_days):
        bad = world.reader(role="admin", texts=True, mobile_number=f"1 500 555 01 1{number}")
        world.reader(role="admin", texts=True, email_alert_address="zz at", mobile_number="zz 50055501")
        world.sandbox.rules.clear()
        if rule:
            world.sandbox.rules.add(rule)
        elif not settings:
            world.sandbox.sendgrid.refused.add(world.address(bad))
            world.sandbox.twilio.stop(f"+1500555011{number}")
        outcomes.append(run_by_worker(world, database_url, TYPE, {"allowSms": True}, **settings))
        world.later("10 minutes")
    assert run_by_worker(world, database_url, TYPE, {"dryRun": True}) == "succeeded"
    assert outcomes == [outcome for *_, outcome in bad_days]
    own = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("psycopg"))
    assert named(world, own) == []
