"""The three jobs that send messages on bad days: providers that fail in each way, and workers that die.

Judged by the vendors' own logs. What only one of them does is at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Cancelled, PermanentError, RetryLater
from jobdeck.core.handlers import admin_alert_dispatch, release_parent_email_verification, sms_digest_processor
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import admin_alerts, delivery, digest, outbox, parent_probe
from jobdeck.core.programme.vendors.email import EmailClient
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.programme.vendors.sms import SmsClient
from jobdeck.core.registry import Continue, Done
from tests.core.handlers.killing import workers
from tests.core.handlers.notice_world import Crash, NoticeWorld, crash_at, named, run_by_worker, work_through_a_kill
from tests.support.context import FakeContext, ended
from tests.support.queue import Connection

Json = dict[str, Any]
Point = tuple[Any, str, bool, int]
"""A function, whether the worker dies after it instead of before, and how many messages are uncertain then."""


def coaches(notices: NoticeWorld, count: int, texts: bool) -> list[UUID]:
    return [
        notices.reader(texts=texts, mobile_number=f"+1500555012{number}" if texts else None) for number in range(count)
    ]


def admins(notices: NoticeWorld, count: int, texts: bool) -> list[UUID]:
    return [
        notices.reader(role="admin", texts=texts, mobile_number=f"+1500555012{number}" if texts else None)
        for number in range(count)
    ]


def forms(notices: NoticeWorld, count: int, _texts: bool) -> list[UUID]:
    """Forms of different parents, the first the oldest."""
    return [notices.form(f"zzparent{number}@example.org", age=f"{20 - number} hours") for number in range(count)]


def coach_rows(notices: NoticeWorld) -> list[str]:
    found = notices.conn.rows(
        """
        select p.last_unread_alert_at as at, bool_or(l.error_text = 'uncertain') as uncertain
        from profiles p left join alert_log l on l.coach_id = p.id
        where exists (select from outbox_messages m where m.recipient_ref = p.id) group by p.id
        """
    )
    return sorted("told" if row["at"] else "uncertain" if row["uncertain"] else "open" for row in found)


def alert_rows(notices: NoticeWorld) -> list[str]:
    found = notices.conn.rows("select sent_at, dropped_reason from admin_alert_queue")
    return sorted("told" if row["sent_at"] else row["dropped_reason"] or "open" for row in found)


def probe_rows(notices: NoticeWorld) -> list[str]:
    found = notices.conn.rows("select recipient_email_verification_status as status from agreements")
    return [row["status"] for row in found]


def coach_is_due_again(notices: NoticeWorld, _first: UUID) -> None:
    notices.later("25 hours")


def admin_is_due_again(notices: NoticeWorld, first: UUID) -> None:
    notices.written_to(first)
    notices.later("61 minutes")


def probe_is_due_again(notices: NoticeWorld, _first: UUID) -> None:
    notices.later("20 hours")
    assert PROBES.output(notices)["accepted"] == 0
    notices.later("5 hours")


@dataclass(frozen=True)
class Sends:
    """A job that sends messages.

    `rows` is what its own tables say of each person: told, uncertain, or open, which is that a message may still be
    sent. `in_flight` is a part of its output while the sender of the only message may still be alive. `again` is when a
    message is made once more after a failure, `due_again` when people are who may have got theirs.
    """

    handler: ModuleType
    what: str
    template: str
    payload: Json
    texts: bool
    people: Callable[[NoticeWorld, int, bool], list[UUID]]
    rows: Callable[[NoticeWorld], list[str]]
    due_again: Callable[[NoticeWorld, UUID], None]
    settings: tuple[str, ...]
    records: ModuleType
    points: tuple[Point, ...]
    again: str
    in_flight: Json

    @property
    def type(self) -> str:
        return self.handler.__name__.rsplit(".", 1)[-1]

    def say(self, *words: str) -> list[str]:
        """These words as `rows` has them: a form is pending from the moment in which its probe is put down."""
        return ["pending"] * len(words) if self.people is forms else sorted(words)

    def run(self, notices: NoticeWorld, context: FakeContext | None = None, /, **payload: Any) -> Done | Continue:
        return notices.run_job(self.handler, context, **self.payload, **payload)

    def output(self, notices: NoticeWorld, context: FakeContext | None = None, /, **payload: Any) -> Json:
        return notices.output(self.handler, context, **self.payload, **payload)


MAIL_POINTS: Final[tuple[Point, ...]] = (
    (outbox, "sweep", False, 0),
    (delivery, "wait_for_place", False, 0),
    (outbox, "claim", True, 1),
    (EmailClient, "send", False, 1),
    (EmailClient, "send", True, 1),
    (outbox, "settle", False, 1),
)
TEXT_POINTS: Final[tuple[Point, ...]] = ((SmsClient, "send", False, 1), (SmsClient, "send", True, 1))

DIGEST: Final = Sends(
    sms_digest_processor, "notices", "unread_alert", {}, True, coaches, coach_rows, coach_is_due_again,
    ("SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    digest, ((outbox, "put", False, 0), (outbox, "put", True, 0), (digest, "noted", True, 1), *TEXT_POINTS),
    again="2 minutes", in_flight={"leftOut": {"in_flight": 1}},
)  # fmt: skip
ALERTS: Final = Sends(
    admin_alert_dispatch, "alerts", "admin_alert", {"allowSms": True}, True, admins, alert_rows, admin_is_due_again,
    ("SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", "TWILIO_AUTH_TOKEN"), admin_alerts,
    ((admin_alerts, "claim", True, 0), (admin_alerts, "bind", True, 0), (admin_alerts, "noted", True, 1), *TEXT_POINTS),
    again="2 minutes", in_flight={"processedRecipients": 0},
)  # fmt: skip
PROBES: Final = Sends(
    release_parent_email_verification, "probes", "parent_probe", {}, False, forms, probe_rows, probe_is_due_again,
    ("SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL"), parent_probe,
    ((parent_probe, "keep_skips", True, 0), (parent_probe, "bind", True, 0), (parent_probe, "noted", True, 1)),
    again="25 hours", in_flight={"sent": 0},
)  # fmt: skip
ALL: Final = (DIGEST, ALERTS, PROBES)

every_job = pytest.mark.parametrize("sends", ALL, ids=lambda sends: sends.what)
with_texts = pytest.mark.parametrize("sends", [DIGEST, ALERTS], ids=lambda sends: sends.what)


def nobody_twice(notices: NoticeWorld) -> None:
    assert notices.sandbox.sendgrid.accepted.repeated() == []
    assert notices.sandbox.twilio.accepted.repeated() == []


def taken(notices: NoticeWorld) -> int:
    return len(notices.sandbox.sendgrid.accepted) + len(notices.sandbox.twilio.accepted)


# Workers


@every_job
def test_a_stop_is_noticed_between_messages(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 3, False)
    context = notices.context()
    context.cancel_when = lambda: len(notices.mailed) >= 1
    with pytest.raises(Cancelled):
        sends.run(notices, context)
    assert len(notices.mailed) == 1
    assert sends.output(notices)["accepted"] == 2
    assert sorted(notices.sandbox.sendgrid.accepted.counts().values()) == [1, 1, 1]


@every_job
def test_the_rights_of_a_worker_are_enough(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 1, sends.texts)
    ways = {"email": 1, "sms": 1} if sends.texts else {"email": 1}
    with notices.as_worker():
        assert sends.output(notices, dryRun=True)["wouldSend"] == ways
        assert sends.output(notices)["accepted"] == len(ways)
    assert taken(notices) == len(ways)


# Providers


@every_job
def test_a_pause_that_sendgrid_asks_for_is_kept_by_everyone(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 2, False)
    rule = notices.sandbox.rules.add("429:mail/send,retry-after=900")
    with pytest.raises(RateLimited, match="resumes in 900 s") as caught:
        sends.run(notices)
    assert caught.value.seconds == 900
    with pytest.raises(RateLimited, match="asked for a pause"):
        sends.run(notices, **({} if sends is PROBES else {"force": True}))
    assert rule.struck == 1
    assert notices.mailed == []
    notices.sandbox.rules.clear()
    notices.later("15 minutes")
    assert sends.output(notices)["accepted"] == 2
    nobody_twice(notices)


@every_job
def test_an_outage_ends_the_run_and_everyone_is_told_later(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 5, False)
    rule = notices.sandbox.rules.add("500:mail/send")
    with pytest.raises(RetryLater, match=rf"0 {sends.what} were sent\. Sendgrid could not answer 3 times in a row"):
        sends.run(notices)
    assert rule.struck == 3
    assert notices.conn.rows("select id from alert_log") == []
    assert sends.rows(notices) == sends.say(*["open"] * 5)
    notices.sandbox.rules.clear()
    notices.later("1 minute")
    assert sends.output(notices)["accepted"] == 5
    assert sends.rows(notices) == sends.say(*["told"] * 5)
    nobody_twice(notices)


@every_job
def test_one_failure_among_many_is_tried_again_soon_and_the_job_says_so(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 3, False)
    notices.sandbox.rules.add("503:mail/send:1")
    says = rf"2 {sends.what} were sent, 1 could not be sent yet \(1 provider_down\)"
    with pytest.raises(RetryLater, match=says) as caught:
        sends.run(notices)
    assert caught.value.seconds == 60
    assert sends.rows(notices) == sends.say("open", "told", "told")
    notices.later("1 minute")
    assert sends.output(notices)["accepted"] == 1
    assert sends.rows(notices) == sends.say("told", "told", "told")
    nobody_twice(notices)


@with_texts
def test_a_text_that_failed_is_tried_again_although_the_mail_went_out(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 1, True)
    notices.sandbox.rules.add("500:Messages:1")
    with pytest.raises(RetryLater, match=f"1 {sends.what} were sent, 1 could not"):
        sends.run(notices)
    assert sends.rows(notices) == sends.say("told")
    notices.later("2 minutes")
    output = sends.output(notices)
    assert (output["emailSent"], output["smsSent"]) == (0, 1)
    nobody_twice(notices)


@pytest.mark.parametrize(
    "fault", ["cut-before", "cut-after", "malformed", "504", pytest.param("slow", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("sends", "where", "texts"),
    [
        pytest.param(DIGEST, "mail/send", True, id="notices by mail"),
        pytest.param(DIGEST, "Messages", True, id="notices by text"),
        pytest.param(ALERTS, "mail/send", False, id="alerts"),
        pytest.param(PROBES, "mail/send", False, id="probes"),
    ],
)
def test_what_may_have_been_sent_is_not_sent_again(
    notices: NoticeWorld, sends: Sends, where: str, texts: bool, fault: str
) -> None:
    first, _ = sends.people(notices, 2, texts)
    count = 4 if texts else 2
    notices.sandbox.rules.add(f"{fault}:{where}:1{',seconds=300' if fault == 'slow' else ''}")
    done = ended(sends.run(notices, notices.context(PROVIDER_TIMEOUT_SECONDS=15 if fault == "slow" else 60)))
    assert (done.failed, done.output["uncertain"], done.output["accepted"]) == (1, 1, count - 1)
    assert sends.rows(notices) == (sends.say("told", "told") if texts else sends.say("told", "uncertain"))
    if sends is PROBES:
        assert done.output["results"][0]["reason"] == "send_uncertain"
    notices.sandbox.rules.clear()
    assert sends.output(notices, **({"force": True} if sends is ALERTS else {}))["accepted"] == 0
    assert notices.states() == {"accepted": count - 1, "uncertain": 1}
    nobody_twice(notices)
    sends.due_again(notices, first)
    assert sends.output(notices)["accepted"] == (count if sends is DIGEST else 1)


@every_job
@pytest.mark.parametrize("fault", ["cut-before", "cut-after"])
def test_a_run_in_which_nothing_is_known_to_be_sent_has_failed(notices: NoticeWorld, sends: Sends, fault: str) -> None:
    sends.people(notices, 1, False)
    notices.sandbox.rules.add(f"{fault}:mail/send")
    with pytest.raises(RetryLater, match=rf"None of 1 {sends.what} was accepted \(1 outcome_unknown\)\. The job"):
        sends.run(notices)
    assert sends.rows(notices) == sends.say("uncertain")
    assert sends.output(notices)["accepted"] == 0
    assert len(notices.mailed) == (fault == "cut-after")


@every_job
def test_nobody_there_means_nothing_sent_and_everyone_later(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 1, False)
    with pytest.raises(RetryLater, match="1 unreachable"):
        sends.run(notices, notices.context(SENDGRID_API_BASE_URL="http://127.0.0.1:9"))
    assert sends.rows(notices) == sends.say("open")
    notices.later("2 minutes")
    assert sends.output(notices)["accepted"] == 1


@every_job
@pytest.mark.parametrize(
    ("part", "text", "error"), [("subject", " ", "Correct the template"), ("txt", "{{ nmae }}", r"{}\.txt")]
)
def test_a_template_that_nobody_can_be_sent_fails_for_good_and_loses_nobody(
    notices: NoticeWorld, sends: Sends, tmp_path: Path, part: str, text: str, error: str
) -> None:
    (tmp_path / f"{sends.template}.{part}").write_text(text, encoding="utf-8")
    sends.people(notices, 2, False)
    with pytest.raises(PermanentError, match=error.format(sends.template)):
        sends.run(notices, notices.context(JOBDECK_TEMPLATES=tmp_path))
    assert notices.mailed == []
    if sends is not PROBES:
        assert sends.rows(notices) == ["open"] * 2
    notices.later(sends.again)
    assert sends.output(notices)["accepted"] == 2
    assert sends.rows(notices) == sends.say("told", "told")
    nobody_twice(notices)


@every_job
def test_a_wrong_key_stops_mail_for_good_and_leaves_everyone_due(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 3, False)
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY") as caught:
        sends.run(notices, notices.context(SENDGRID_API_KEY="SG.wrong"))
    assert isinstance(caught.value, PermanentError)
    assert len(notices.sandbox.requests) == 1
    assert sends.rows(notices) == sends.say(*["open"] * 3)
    assert sends.output(notices)["accepted"] == 3


@with_texts
def test_a_wrong_account_stops_texts_and_not_mail(notices: NoticeWorld, sends: Sends) -> None:
    sends.people(notices, 3, True)
    with pytest.raises(ProviderConfigError, match="TWILIO_AUTH_TOKEN") as caught:
        sends.run(notices, notices.context(TWILIO_AUTH_TOKEN="wrong"))
    assert isinstance(caught.value, PermanentError)
    assert len(notices.mailed) == 3
    assert len([seen for seen in notices.sandbox.requests if "Messages" in seen.path]) == 1
    assert sends.output(notices)["smsSent"] == 3
    nobody_twice(notices)


@pytest.mark.parametrize(
    ("sends", "name"), [pytest.param(one, name, id=f"{one.what} {name}") for one in ALL for name in one.settings]
)
def test_a_missing_setting_fails_for_good_before_anything_is_touched(
    notices: NoticeWorld, sends: Sends, name: str
) -> None:
    for due in (0, 1):
        sends.people(notices, due, True)
        with notices.changes_nothing(), pytest.raises(SettingMissing, match=name) as caught:
            sends.run(notices, notices.context(without=name))
        assert isinstance(caught.value, PermanentError)


# The database


@every_job
def test_a_report_that_cannot_be_written_does_not_repeat_the_message(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch, sends: Sends
) -> None:
    sends.people(notices, 1, False)

    def broken(*_args: Any, **_facts: Any) -> None:
        raise psycopg.OperationalError("the database went away")

    monkeypatch.setattr(sends.records, "noted", broken)
    with pytest.raises(psycopg.OperationalError):
        sends.run(notices)
    monkeypatch.undo()
    assert sends.rows(notices) == sends.say("open")
    force = {} if sends is not ALERTS else {"force": True}
    assert sends.output(notices, **force).items() >= sends.in_flight.items()
    notices.leases_end()
    assert sends.output(notices, **force)["accepted"] == 0
    assert notices.states() == {"uncertain": 1}
    assert len(notices.mailed) == 1
    if sends is ALERTS:
        assert sends.rows(notices) == ["uncertain"]
    if sends is PROBES:
        notices.apply_events()
        assert sends.rows(notices) == ["delivered"]


# Workers that die


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sends", "target", "name", "after", "uncertain"),
    [
        pytest.param(one, *point, id=f"{one.what} {'after' if point[2] else 'before'} {point[0].__name__}.{point[1]}")
        for one in ALL
        for point in MAIL_POINTS + one.points
    ],
)
def test_a_worker_that_dies_at_any_point_leaves_nobody_told_twice_or_forgotten(
    notices: NoticeWorld,
    monkeypatch: pytest.MonkeyPatch,
    sends: Sends,
    target: Any,
    name: str,
    after: bool,
    uncertain: int,
) -> None:
    sends.people(notices, 3, True)
    context = notices.context()
    restore = crash_at(monkeypatch, target, name, after=after)
    with pytest.raises(Crash):
        sends.run(notices, context)
    restore()
    for _ in range(2):
        notices.leases_end()
        sends.run(notices, notices.context(job_id=context.job.id))
    found, count = notices.states(), 6 if sends.texts else 3
    assert found.get("uncertain", 0) == uncertain
    assert found["accepted"] + uncertain == count
    assert taken(notices) in {count - uncertain, count}
    nobody_twice(notices)
    assert "open" not in sends.rows(notices)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("sends", "vendor", "number"),
    [
        pytest.param(one, vendor, number, id=f"{one.what} {vendor} {number}")
        for one in ALL
        for vendor, number in (("sendgrid", 1), ("sendgrid", 3), ("twilio" if one.texts else "sendgrid", 2))
    ],
)
def test_a_worker_killed_while_a_provider_has_its_request(
    notices: NoticeWorld,
    database_url: str,
    tmp_path: Path,
    sends: Sends,
    vendor: str,
    number: int,
    moment: Literal["before", "after"],
) -> None:
    sends.people(notices, 3, True)
    new, count = NewJob(sends.type, sends.payload), 6 if sends.texts else 3
    with workers(database_url, notices.sandbox, tmp_path) as crew:
        outcomes = work_through_a_kill(notices, crew, new, getattr(notices.sandbox, vendor), number, moment)
    assert outcomes == ["lost", "succeeded"]
    assert notices.states() == {"accepted": count - 1, "uncertain": 1}
    assert taken(notices) == (count if moment == "after" else count - 1)
    nobody_twice(notices)
    assert "open" not in sends.rows(notices)


# What is kept


def a_bad_day_of_coaches(notices: NoticeWorld, number: int, *, last: bool) -> None:
    notices.reader(texts=True, mobile_number=f"1 500 555 01 1{number}")
    bad = notices.reader(texts=True, email_alert_address=f"zz{number}@example.org", mobile_number="zz 50055501")
    if last:
        notices.sandbox.sendgrid.refused.add(f"zz{number}@example.org")
        notices.sandbox.twilio.stop(f"+1500555011{number}")
        notices.conn.execute(
            "update profiles set email_alert_address = 'zz at' where id <> %s and role = 'coach'", (bad,)
        )


def a_bad_day_of_admins(notices: NoticeWorld, number: int, *, last: bool) -> None:
    bad = notices.reader(role="admin", texts=True, mobile_number=f"1 500 555 01 1{number}")
    notices.reader(role="admin", texts=True, email_alert_address="zz at", mobile_number="zz 50055501")
    if last:
        notices.sandbox.sendgrid.refused.add(notices.address(bad))
        notices.sandbox.twilio.stop(f"+1500555011{number}")


def a_bad_day_of_parents(notices: NoticeWorld, number: int, *, last: bool) -> None:
    notices.sandbox.sendgrid.refused.add("zzrefused@example.org")
    notices.sandbox.sendgrid.fates["zzparent3@example.org"] = "bounce"
    notices.form(f"zzparent{number}@example.org", signers='[{"email": "zzother@example.org"}]')
    notices.form("zz at example.org")
    if last:
        notices.form("zzrefused@example.org")
        notices.form("zzlast@example.org")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sends", "a_bad_day", "days"),
    [
        (
            DIGEST,
            a_bad_day_of_coaches,
            {"401:mail/send:1": "failed", "429:Messages:1": "failed", "cut-after:mail/send:1": "partial",
             "schema:Messages:1": "partial", "QUIET_TZ": "failed", "": "partial"},
        ),
        (
            ALERTS,
            a_bad_day_of_admins,
            {"403:mail/send:1": "failed", "429:Messages:1": "failed", "cut-after:mail/send:1": "partial",
             "schema:Messages:1": "partial", "": "failed"},
        ),
        (
            PROBES,
            a_bad_day_of_parents,
            {"401:mail/send:1": "failed", "429:mail/send:1,retry-after=0": "failed", "cut-after:mail/send:1": "partial",
             "": "partial"},
        ),
    ],
    ids=["notices", "alerts", "probes"],
)  # fmt: skip
def test_nothing_that_is_kept_of_good_and_bad_runs_names_anybody(
    notices: NoticeWorld,
    caplog: pytest.LogCaptureFixture,
    database_url: str,
    tmp_path: Path,
    sends: Sends,
    a_bad_day: Callable[..., None],
    days: dict[str, str],
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / f"{sends.template}.txt").write_text("{{ name.nmae }}", encoding="utf-8")
    outcomes = {}
    for number, day in enumerate(["JOBDECK_TEMPLATES", *days]):
        a_bad_day(notices, number, last=not day)
        notices.sandbox.rules.clear()
        if ":" in day:
            notices.sandbox.rules.add(day)
        settings = {"JOBDECK_TEMPLATES": tmp_path, "QUIET_TZ": "Mars/Olympus"}
        wrong = {name: value for name, value in settings.items() if name == day}
        outcomes[day] = run_by_worker(notices, database_url, sends.type, sends.payload, **wrong)
        notices.later("10 minutes")
    notices.apply_events()
    assert run_by_worker(notices, database_url, sends.type, {"dryRun": True}) == "succeeded"
    assert outcomes == {"JOBDECK_TEMPLATES": "failed", **days}
    own = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("psycopg"))
    assert named(notices, own) == []


# The digest alone


@pytest.mark.slow
def test_texts_go_out_while_mail_pauses(notices: NoticeWorld) -> None:
    coaches(notices, 3, True)
    notices.sandbox.rules.add("429:mail/send:1,retry-after=3600")
    with pytest.raises(RateLimited, match=r"3 notices were sent\. SendGrid answered 429.*resumes in 3600 s"):
        DIGEST.run(notices)
    assert (len(notices.mailed), len(notices.sandbox.twilio.accepted)) == (0, 3)
    with pytest.raises(RateLimited, match="asked for a pause"):
        DIGEST.run(notices)
    notices.later("1 hour")
    assert DIGEST.output(notices)["emailSent"] == 3
    nobody_twice(notices)


@pytest.mark.slow
def test_a_429_for_an_hour_loses_nobody(notices: NoticeWorld) -> None:
    coaches(notices, 1, False)
    notices.sandbox.rules.add("429:mail/send,retry-after=300")
    for _ in range(12):
        with pytest.raises(RateLimited):
            DIGEST.run(notices)
        notices.later("5 minutes")
    notices.sandbox.rules.clear()
    assert DIGEST.output(notices)["emailSent"] == 1


@pytest.mark.slow
def test_an_outage_that_outlasts_a_notice_loses_nobody(notices: NoticeWorld) -> None:
    coaches(notices, 1, False)
    notices.sandbox.rules.add("503:mail/send")
    for _ in range(8):
        with pytest.raises(RetryLater, match="None of 1 notices was accepted"):
            DIGEST.run(notices)
        notices.later("5 minutes")
    notices.sandbox.rules.clear()
    notices.later("20 minutes")
    assert DIGEST.output(notices)["emailSent"] == 1


def test_a_refused_address_is_one_coachs_trouble_and_not_tried_again(notices: NoticeWorld) -> None:
    bad, _ = coaches(notices, 2, False)
    notices.sandbox.sendgrid.refused.add(notices.address(bad))
    done = ended(DIGEST.run(notices))
    assert (done.failed, done.output["accepted"]) == (1, 1)
    assert notices.conn.row("select error_text from alert_log where coach_id = %s", bad)["error_text"] == "failed"
    notices.later("2 days")
    assert DIGEST.output(notices)["leftOut"] == {"suppressed": 1}


def test_sandbox_mode_counts_as_sent(notices: NoticeWorld) -> None:
    coaches(notices, 1, False)
    assert DIGEST.output(notices, notices.context(SENDGRID_SANDBOX_MODE=True))["emailSent"] == 1
    assert notices.mailed == []


# Alerts alone


@pytest.mark.slow
def test_an_outage_for_hours_loses_no_alert(notices: NoticeWorld) -> None:
    (one,) = admins(notices, 1, False)
    notices.sandbox.rules.add("503:mail/send")
    for _ in range(12):
        with pytest.raises(RetryLater):
            ALERTS.run(notices)
        notices.later("5 minutes")
    notices.written_to(one)
    notices.sandbox.rules.clear()
    assert ALERTS.output(notices)["results"][0]["count"] == 2
    assert alert_rows(notices) == ["told", "told"]
    nobody_twice(notices)


def test_a_mail_that_failed_for_good_leaves_it_to_the_text(notices: NoticeWorld) -> None:
    (one,) = admins(notices, 1, True)
    notices.sandbox.sendgrid.refused.add(notices.address(one))
    output = ALERTS.run(notices).output
    assert (output["emailSent"], output["smsSent"], output["sent"]) == (0, 1, 1)
    assert alert_rows(notices) == ["told"]


def test_a_mail_that_may_have_been_sent_is_not_repeated_for_the_sake_of_a_text(
    notices: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = admins(notices, 1, True)
    restore = crash_at(monkeypatch, EmailClient, "send", after=True)
    with pytest.raises(Crash):
        ALERTS.run(notices)
    restore()
    notices.leases_end()
    notices.written_to(one)
    output = ALERTS.output(notices, force=True)
    assert [result["count"] for result in output["results"]] == [1, 1]
    assert len(notices.mailed) == 2
    assert len(notices.sandbox.twilio.accepted) == 2
    assert alert_rows(notices) == ["told", "told"]


def test_a_missing_account_for_texts_is_no_matter_where_none_are_sent(notices: NoticeWorld) -> None:
    admins(notices, 1, False)
    context = notices.context(without="TWILIO_AUTH_TOKEN")
    assert notices.output(admin_alert_dispatch, context)["sent"] == 1


def test_a_newer_alert_takes_the_place_of_one_that_was_not_sent(notices: NoticeWorld) -> None:
    (one,) = admins(notices, 1, False)
    notices.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater):
        ALERTS.run(notices)
    notices.written_to(one)
    assert ALERTS.output(notices)["results"][0]["count"] == 2
    assert notices.states() == {"accepted": 1, "failed": 1}
    notices.later("2 hours")
    assert ALERTS.output(notices)["processedRecipients"] == 0


def test_an_alert_that_was_put_down_and_not_sent_counts_what_is_still_unread(notices: NoticeWorld) -> None:
    (one,) = admins(notices, 1, False)
    notices.written_to(one)
    notices.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater):
        ALERTS.run(notices)
    message = notices.conn.rows("select message_id from admin_alert_queue limit 1")[0]["message_id"]
    notices.conn.insert("message_read_receipts", message_id=message, user_id=one)
    notices.later("1 minute")
    assert ALERTS.output(notices)["results"][0]["count"] == 1
    assert "1 new message" in notices.sandbox.sendgrid.accepted.all[0].subject


# Probes alone


def test_a_failed_probe_that_is_sent_after_all_counts_as_one_attempt(notices: NoticeWorld) -> None:
    found = forms(notices, 3, False)
    notices.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater):
        PROBES.run(notices)
    notices.later("1 minute")
    assert PROBES.output(notices)["sent"] == 1
    assert [notices.probe_of(form)["attempts"] for form in found] == [1] * 3


@pytest.mark.slow
def test_an_outage_that_returns_loses_no_probe(notices: NoticeWorld) -> None:
    forms(notices, 5, False)
    rule = notices.sandbox.rules.add("503:mail/send")
    for _ in range(6):
        with pytest.raises(RetryLater):
            PROBES.run(notices)
        notices.later("2 minutes")
    assert rule.struck >= 10
    notices.sandbox.rules.clear()
    notices.later("1 minute")
    first = PROBES.output(notices)["sent"]
    notices.later("25 hours")
    assert first + PROBES.output(notices)["sent"] == 5
    assert probe_rows(notices) == ["pending"] * 5
    nobody_twice(notices)


def test_a_refused_address_is_its_forms_trouble_alone(notices: NoticeWorld) -> None:
    first, _ = forms(notices, 2, False)
    notices.sandbox.sendgrid.refused.add("zzparent0@example.org")
    done = ended(PROBES.run(notices))
    assert (done.failed, done.output["sent"]) == (1, 1)
    kept = notices.probe_of(first)
    assert (kept["status"], kept["error"], kept["sent_at"]) == (None, "address_refused", None)
    assert notices.conn.row("select count(*) as n from competitors where parent_email_is_valid is false")["n"] == 0
    assert PROBES.output(notices)["skippedReasons"] == {"suppressed": 1}


def test_two_runs_at_once_send_one_probe_to_each(notices: NoticeWorld, database_url: str) -> None:
    forms(notices, 3, False)
    one, two = notices.context(), notices.context()
    with Connection.connect(database_url, autocommit=True) as second:
        two.db = second
        original = two.raise_if_cancelled

        def meanwhile() -> None:
            two.raise_if_cancelled = original  # type: ignore[method-assign]
            PROBES.run(notices, one)

        two.raise_if_cancelled = meanwhile  # type: ignore[method-assign]
        PROBES.run(notices, two)
    assert sorted(notices.sandbox.sendgrid.accepted.counts().values()) == [1, 1, 1]
