"""Probes on bad days: a provider that fails in each way, and workers that die. Judged by the vendor's own log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.handlers import release_parent_email_verification as probing
from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import delivery, outbox, parent_probe
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import EmailClient
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited, SettingMissing
from jobdeck.core.registry import Done
from tests.core.handlers.killing import workers
from tests.core.handlers.notice_world import Crash, NoticeWorld, crash_at, named, run_by_worker, work_through_a_kill

TYPE = "release_parent_email_verification"


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def forms(world: NoticeWorld, count: int) -> list[UUID]:
    """Forms of different parents, the first the oldest."""
    return [world.form(f"zzparent{number}@example.org", age=f"{20 - number} hours") for number in range(count)]


def statuses(world: NoticeWorld) -> list[str | None]:
    found = world.rows("select recipient_email_verification_status as status from agreements order by created_at")
    return [row["status"] for row in found]


def test_one_failure_is_tried_again_and_the_others_are_sent(world: NoticeWorld) -> None:
    forms(world, 3)
    world.sandbox.rules.add("500:mail/send:1")
    with pytest.raises(RetryLater, match=r"2 probes were sent, 1 could not be sent yet \(1 provider_down\)"):
        world.run_job(probing)
    assert statuses(world) == ["pending"] * 3
    world.later("1 minute")
    assert world.output(probing)["sent"] == 1
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert [world.probe_of(form)["attempts"] for (form,) in world.conn.execute("select id from agreements")] == [1] * 3


def test_an_outage_ends_the_run_and_loses_no_probe(world: NoticeWorld) -> None:
    forms(world, 5)
    rule = world.sandbox.rules.add("503:mail/send")
    for _ in range(6):
        with pytest.raises(RetryLater):
            world.run_job(probing)
        world.later("2 minutes")
    assert rule.struck >= 10
    world.sandbox.rules.clear()
    world.later("1 minute")
    first = world.output(probing)["sent"]
    world.later("25 hours")
    assert first + world.output(probing)["sent"] == 5
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert statuses(world) == ["pending"] * 5


def test_a_429_is_kept_and_loses_no_probe(world: NoticeWorld) -> None:
    forms(world, 2)
    world.sandbox.rules.add("429:mail/send:1,retry-after=900")
    with pytest.raises(RateLimited, match="resumes in 900 s") as caught:
        world.run_job(probing)
    assert caught.value.seconds == 900
    with pytest.raises(RateLimited):
        world.run_job(probing)
    assert world.mailed == []
    world.later("15 minutes")
    assert world.output(probing)["sent"] == 2


@pytest.mark.parametrize(
    "fault", ["cut-before", "cut-after", "malformed", "504", pytest.param("slow", marks=pytest.mark.slow)]
)
def test_a_probe_that_may_have_been_sent_is_not_repeated_for_a_day(world: NoticeWorld, fault: str) -> None:
    forms(world, 2)
    world.sandbox.rules.add(f"{fault}:mail/send:1{',seconds=300' if fault == 'slow' else ''}")
    done = world.run_job(probing, world.context(PROVIDER_TIMEOUT_SECONDS=15 if fault == "slow" else 60))
    assert isinstance(done, Done)
    assert (done.failed, done.output["uncertain"], done.output["sent"]) == (1, 1, 1)
    assert done.output["results"][0]["reason"] == "send_uncertain"
    world.sandbox.rules.clear()
    world.later("20 hours")
    assert world.output(probing)["sent"] == 0
    assert world.sandbox.sendgrid.accepted.repeated() == []
    world.later("5 hours")
    assert world.output(probing)["sent"] == 1


def test_a_refused_address_is_its_forms_trouble_alone(world: NoticeWorld) -> None:
    first, _ = forms(world, 2)
    world.sandbox.sendgrid.refused.add("zzparent0@example.org")
    done = world.run_job(probing)
    assert isinstance(done, Done)
    assert (done.failed, done.output["sent"]) == (1, 1)
    kept = world.probe_of(first)
    assert (kept["status"], kept["error"], kept["sent_at"]) == (None, "address_refused", None)
    assert world.row("select count(*) as n from competitors where parent_email_is_valid is false")["n"] == 0
    assert world.output(probing)["skippedReasons"] == {"suppressed": 1}


def test_nobody_there_means_nothing_sent_and_everyone_later(world: NoticeWorld) -> None:
    forms(world, 1)
    with pytest.raises(RetryLater, match="1 unreachable"):
        world.run_job(probing, world.context(SENDGRID_API_BASE_URL="http://127.0.0.1:9"))
    world.later("2 minutes")
    assert world.output(probing)["sent"] == 1


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [("parent_probe.subject", " ", "Correct the template"), ("parent_probe.txt", "{{ nmae }}", r"parent_probe\.txt")],
)
def test_a_template_that_nobody_can_be_sent_fails_for_good_and_loses_no_probe(
    world: NoticeWorld, tmp_path: Path, file: str, text: str, error: str
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    forms(world, 2)
    with pytest.raises(PermanentError, match=error):
        world.run_job(probing, world.context(JOBDECK_TEMPLATES=tmp_path))
    assert world.mailed == []
    world.later("25 hours")
    assert world.output(probing)["sent"] == 2
    assert world.sandbox.sendgrid.accepted.repeated() == []


def test_a_wrong_key_fails_for_good_and_the_forms_stay_due(world: NoticeWorld) -> None:
    forms(world, 3)
    with pytest.raises(ProviderConfigError, match="SENDGRID_API_KEY") as caught:
        world.run_job(probing, world.context(SENDGRID_API_KEY="SG.wrong"))
    assert isinstance(caught.value, PermanentError)
    assert len(world.sandbox.requests) == 1
    assert world.output(probing)["sent"] == 3


@pytest.mark.parametrize("name", ["SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL"])
def test_a_missing_setting_is_noticed_even_while_nothing_is_due(world: NoticeWorld, name: str) -> None:
    with world.changes_nothing(), pytest.raises(SettingMissing, match=name):
        world.run_job(probing, world.context(without=name))
    forms(world, 1)
    with world.changes_nothing(), pytest.raises(SettingMissing, match=name):
        world.run_job(probing, world.context(without=name))


def test_a_report_that_cannot_be_written_does_not_repeat_the_probe(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (form,) = forms(world, 1)

    def broken(*_args: Any) -> None:
        raise psycopg.OperationalError("the database went away")

    monkeypatch.setattr(parent_probe, "noted", broken)
    with pytest.raises(psycopg.OperationalError):
        world.run_job(probing)
    monkeypatch.undo()
    world.leases_end()
    assert world.output(probing)["sent"] == 0
    assert len(world.mailed) == 1
    assert world.probe_of(form)["status"] == "pending"
    world.apply_events()
    assert world.probe_of(form)["status"] == "delivered"


def test_two_runs_at_once_send_one_probe_to_each(world: NoticeWorld, database_url: str) -> None:
    forms(world, 3)
    one, two = world.context(), world.context()
    with psycopg.connect(database_url, autocommit=True) as second:
        two.db = second
        original = two.raise_if_cancelled

        def meanwhile() -> None:
            two.raise_if_cancelled = original  # type: ignore[method-assign]
            world.run_job(probing, one)

        two.raise_if_cancelled = meanwhile  # type: ignore[method-assign]
        world.run_job(probing, two)
    assert sorted(world.sandbox.sendgrid.accepted.counts().values()) == [1, 1, 1]


POINTS = [
    pytest.param(outbox, "sweep", False, 0, id="at the start"),
    pytest.param(parent_probe, "keep_skips", True, 0, id="when forms are looked through"),
    pytest.param(parent_probe, "bind", True, 0, id="before what is put down is stored"),
    pytest.param(delivery, "wait_for_place", False, 0, id="before the first is taken"),
    pytest.param(outbox, "claim", True, 1, id="when one is taken"),
    pytest.param(EmailClient, "send", False, 1, id="before the mail"),
    pytest.param(EmailClient, "send", True, 1, id="after the mail"),
    pytest.param(outbox, "settle", False, 1, id="before the report"),
    pytest.param(parent_probe, "noted", True, 1, id="before the report is stored"),
]


@pytest.mark.parametrize(("target", "name", "after", "uncertain"), POINTS)
def test_a_worker_that_dies_at_any_point_leaves_nobody_probed_twice_or_forgotten(
    world: NoticeWorld, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, after: bool, uncertain: int
) -> None:
    forms(world, 3)
    context = world.context()
    restore = crash_at(monkeypatch, target, name, after=after)
    with pytest.raises(Crash):
        world.run_job(probing, context)
    restore()
    for _ in range(2):
        world.leases_end()
        world.run_job(probing, world.context(job_id=context.job.id))
    found = world.states()
    assert found.get("uncertain", 0) == uncertain
    assert found["accepted"] + uncertain == 3
    assert len(world.mailed) in {3 - uncertain, 3}
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert statuses(world) == ["pending"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_worker_killed_while_sendgrid_has_its_request(
    world: NoticeWorld, database_url: str, tmp_path: Path, number: int, moment: Literal["before", "after"]
) -> None:
    forms(world, 3)
    with workers(database_url, world.sandbox, tmp_path) as crew:
        outcomes = work_through_a_kill(world, crew, NewJob(TYPE, {}), world.sandbox.sendgrid, number, moment)
    assert outcomes == ["lost", "succeeded"]
    assert world.states() == {"accepted": 2, "uncertain": 1}
    assert len(world.mailed) == (3 if moment == "after" else 2)
    assert world.sandbox.sendgrid.accepted.repeated() == []
    assert statuses(world) == ["pending"] * 3


def test_nothing_that_is_kept_of_good_and_bad_runs_names_anybody(
    world: NoticeWorld, caplog: pytest.LogCaptureFixture, database_url: str, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "parent_probe.txt").write_text("{{ nmae }}", encoding="utf-8")
    world.sandbox.sendgrid.refused.add("zzrefused@example.org")
    world.sandbox.sendgrid.fates["zzparent3@example.org"] = "bounce"
    bad_days: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {"JOBDECK_TEMPLATES": tmp_path}, "failed"),
        ("401:mail/send:1", {}, "failed"),
        ("429:mail/send:1,retry-after=0", {}, "failed"),
        ("cut-after:mail/send:1", {}, "partial"),
        (None, {}, "partial"),
    ]
    outcomes = []
    for number, (rule, settings, _) in enumerate(bad_days):
        world.form(f"zzparent{number}@example.org", signers='[{"email": "zzother@example.org"}]')
        world.form("zz at example.org")
        world.sandbox.rules.clear()
        if rule:
            world.sandbox.rules.add(rule)
        elif not settings:
            world.form("zzrefused@example.org")
            world.form("zzlast@example.org")
        outcomes.append(run_by_worker(world, database_url, TYPE, {}, **settings))
        world.later("10 minutes")
    world.apply_events()
    assert run_by_worker(world, database_url, TYPE, {"dryRun": True}) == "succeeded"
    assert outcomes == [outcome for *_, outcome in bad_days]
    own = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("psycopg"))
    assert named(world, own) == []
