"""`campaign` and `events`: audience, preview and job; what is left; and results from the providers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.programme.sandbox.server import Sandbox
from tests.core.cli.support import Jobdeck
from tests.core.handlers.mail_world import QUICK, MailWorld
from tests.support.people import People
from tests.support.queue import Connection


@pytest.fixture
def world(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailWorld]:
    """A sandbox that the commands are pointed at, and five competitors of whom three can be mailed."""
    with Sandbox(people=False) as sandbox:
        for name, value in (sandbox.settings_env() | QUICK).items():
            monkeypatch.setenv(name, str(value))
        made = MailWorld(conn, sandbox)
        made.competitor(email_personal="a@example.org", is_18_or_over=True)
        made.competitor(email_personal="b@example.org")
        made.competitor(email_personal=" ", email_school="C@Example.org")
        made.competitor(email_personal=None)
        made.competitor(email_personal="a@example.org", game_platform_onboarding_email="not an address")
        yield made


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "news.md"
    file.write_text("# Finals\n\nThey begin on **Saturday**. <b>Now</b><script>x</script>\x1b[31m", encoding="utf-8")
    return str(file)


def create(jobdeck: Jobdeck, text: str, *more: str) -> Any:
    return jobdeck("campaign", "create", "--subject", "Finals", "--body", text, "--json", *more)


def work(jobdeck: Jobdeck) -> None:
    assert jobdeck("run-worker", "--json").data["status"] == "ok"


def test_the_preview_has_numbers_reasons_and_three_samples_and_changes_nothing(
    jobdeck: Jobdeck, world: MailWorld, text: str
) -> None:
    with world.conn.changes_nothing():
        told = create(jobdeck, text).data
    assert world.sandbox.requests == []
    assert (told["created"], told["recipients"], told["minors"]) == (False, 3, 2)
    assert told["excluded"] == {"invalid_email_format": 1, "no_email": 1}
    assert [one["to"] for one in told["samples"]] == ["a…@example.org", "b…@example.org", "c…@example.org"]
    for one in told["samples"]:
        assert one["subject"] == "Finals"
        assert "<strong>Saturday</strong>" in one["html"]
        assert "<b>Now</b>" in one["html"]
        assert "script" not in one["html"]


def test_the_preview_is_harmless_on_a_terminal(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    ran = jobdeck("campaign", "create", "--subject", "Finals", "--body", text)
    assert "\x1b" not in ran.out
    assert "Excluded: no_email" in ran.out
    assert "Nothing was created. Add --yes" in ran.out


@pytest.mark.slow
def test_a_campaign_is_created_with_everyone_and_its_job_in_one_step(
    jobdeck: Jobdeck, world: MailWorld, text: str
) -> None:
    told = create(jobdeck, text, "--yes").data
    campaign = told["campaign"]
    assert world.recipients(campaign) == {
        "a@example.org": "queued",
        "b@example.org": "queued",
        "c@example.org": "queued",
        "": "skipped: no_email",
        "not an address": "skipped: invalid_email_format",
    }
    row = world.campaign_row(campaign)
    assert (row["status"], row["audience"], row["created_by"]) == ("pending", "game_platform", None)
    assert "@" in row["created_by_actor"]
    assert world.conn.rows("select id::text, payload, dedupe_key from job_queue") == [
        {"id": told["job"], "payload": {"campaignId": campaign}, "dedupe_key": f"campaign:{campaign}"}
    ]
    work(jobdeck)
    assert sorted(world.mailed) == ["a@example.org", "b@example.org", "c@example.org"]
    shown = jobdeck("campaign", "show", campaign, "--json").data
    assert (shown["campaign"]["status"], shown["by_status"]) == ("sent", {"unconfirmed": 3})
    assert shown["skipped"] == {"invalid_email_format": 1, "no_email": 1}


def test_dry_run_goes_before_yes(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    assert create(jobdeck, text, "--yes", "--dry-run").data["created"] is False
    assert world.conn.rows("select id from competitor_announcement_campaigns") == []


@pytest.mark.slow
def test_audiences(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    world.competitor(email_personal="off@example.org", game_platform_id=None)
    world.competitor(email_personal="old@example.org", is_active=False)
    other = world.profile()
    world.competitor(email_personal="theirs@example.org", coach_id=other)
    assert create(jobdeck, text).data["recipients"] == 4
    everyone = create(jobdeck, text, "--audience", "all").data
    assert (everyone["recipients"], everyone["excluded"]["inactive"]) == (5, 1)
    assert create(jobdeck, text, "--coach", str(other)).data["recipients"] == 1


def test_who_is_suppressed_or_shares_an_address_is_left_out(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    world.competitor(email_personal="B@example.org")
    world.conn.execute(
        "insert into email_suppressions values ('a@example.org', 'hard_bounce', 'all', 'x'), "
        "('c@example.org', 'group_unsub', 'announcements', 'x')"
    )
    told = create(jobdeck, text).data
    assert told["recipients"] == 1
    assert told["excluded"] == {
        "duplicate_email": 1, "invalid_email_format": 1, "no_email": 1, "suppressed": 1, "unsubscribed": 1,
    }  # fmt: skip


def test_of_two_people_with_one_address_the_active_one_is_mailed(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    coach = world.profile()
    world.competitor(email_personal="ours@example.org", coach_id=coach, is_active=False)
    world.competitor(email_personal="ours@example.org", coach_id=coach)
    told = create(jobdeck, text, "--coach", str(coach)).data
    assert (told["recipients"], told["excluded"]) == (1, {"inactive": 1})


@pytest.mark.parametrize(
    ("onboarding", "personal", "school", "mailed"),
    [
        ("First@example.org", "second@example.org", "third@example.org", "first@example.org"),
        (None, " second@example.org ", "third@example.org", "second@example.org"),
        ("", "", "third@example.org", "third@example.org"),
        (" ", None, " ", ""),
        (None, None, None, ""),
    ],
)
def test_the_first_address_that_somebody_has_is_theirs(
    jobdeck: Jobdeck, world: MailWorld, text: str, onboarding: str, personal: str, school: str, mailed: str
) -> None:
    coach = world.profile()
    world.competitor(
        coach_id=coach, game_platform_onboarding_email=onboarding, email_personal=personal, email_school=school
    )
    world.competitor(coach_id=coach, email_personal="other@example.org")
    campaign = create(jobdeck, text, "--coach", str(coach), "--yes").data["campaign"]
    status = "queued" if mailed else "skipped: no_email"
    assert world.recipients(campaign) == {mailed: status, "other@example.org": "queued"}


def test_an_audience_that_cannot_be_read_creates_nothing(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    world.conn.execute("alter table competitors rename email_school to email_home")
    with world.conn.changes_nothing():
        create(jobdeck, text, "--yes").refused(1)


def test_an_audience_of_nobody_is_refused(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    create(jobdeck, text, "--coach", str(uuid4()), "--yes").refused(1, "The campaign has no recipients")


def test_without_a_way_to_unsubscribe_it_is_refused(
    jobdeck: Jobdeck, world: MailWorld, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SENDGRID_UNSUBSCRIBE_GROUP_ID")
    with world.conn.changes_nothing():
        create(jobdeck, text, "--yes").refused(1, "SENDGRID_UNSUBSCRIBE_GROUP_ID")
    told = create(jobdeck, text, "--yes", "--allow-without-unsubscribe").data
    payload = world.conn.row("select payload from job_queue")["payload"]
    assert payload == {"campaignId": told["campaign"], "allowWithoutUnsubscribe": True}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--subject", " ", "--body", "TEXT"), "--subject"),
        (("--subject", "a\x07b", "--body", "TEXT"), "--subject"),
        (("--subject", "x" * 201, "--body", "TEXT"), "--subject"),
        (("--subject", "x", "--body", "/nowhere.md"), "/nowhere.md"),
        (("--subject", "x", "--body", "EMPTY"), "no text"),
        (("--subject", "x", "--body", "BINARY"), "UTF-8"),
        (("--subject", "x", "--body", "TEXT", "--coach", "me"), "--coach"),
        (("--subject", "x", "--body", "TEXT", "--audience", "world"), "--audience"),
        (("--subject", "x"), "--body"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    jobdeck: Jobdeck, world: MailWorld, text: str, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe")
    files = {"TEXT": text, "EMPTY": str(tmp_path / "empty.md"), "BINARY": str(tmp_path / "binary.md")}
    with world.conn.changes_nothing():
        jobdeck("campaign", "create", "--yes", *(files.get(one, one) for one in arguments)).refused(2, word)


@pytest.mark.slow
def test_show_masks_addresses_and_reveals_them_only_with_a_reason(
    jobdeck: Jobdeck, world: MailWorld, text: str
) -> None:
    campaign = create(jobdeck, text, "--yes").data["campaign"]
    work(jobdeck)
    masked = jobdeck("campaign", "show", campaign, "--recipients")
    assert "a…@example.org" in masked.out
    assert "a@example.org" not in masked.out
    assert "no_email" in masked.out
    assert world.conn.rows("select action from job_audit where action = 'reveal'") == []
    shown = jobdeck("campaign", "show", campaign, "--reveal", "a parent called", "--json").data
    assert {one["address"] for one in shown["recipients"] if one["outbox_id"]} == {
        "a@example.org", "b@example.org", "c@example.org",
    }  # fmt: skip
    assert world.conn.rows("select reason from job_audit where action = 'reveal'") == [{"reason": "a parent called"}]
    jobdeck("campaign", "show", campaign, "--reveal", " ").refused(1, "reason")


@pytest.mark.parametrize("command", ["show", "resume"])
def test_a_campaign_that_is_not_there(jobdeck: Jobdeck, world: MailWorld, command: str) -> None:
    jobdeck("campaign", command, str(uuid4())).refused(1, "There is no campaign")
    jobdeck("campaign", command, "x").refused(2, "not a UUID")


def _half_sent(world: MailWorld) -> UUID:
    """A campaign of 60 of which 20 are mailed, 20 uncertain and 20 queued."""
    campaign = world.campaign(60)
    world.sandbox.rules.add("cut-after:mail/send:/2")
    with pytest.raises(Exception, match="uncertain"):
        world.dispatch(campaign, batchSize=20)
    world.sandbox.rules.clear()
    assert world.statuses(campaign) == {"unconfirmed": 20, "uncertain": 20, "queued": 20}
    return campaign


@pytest.mark.slow
def test_resume_mails_only_the_unsent(jobdeck: Jobdeck, world: MailWorld) -> None:
    campaign = _half_sent(world)
    told = jobdeck("campaign", "resume", str(campaign), "--json").data
    assert told["recipients"] == 20
    work(jobdeck)
    assert world.statuses(campaign) == {"unconfirmed": 40, "uncertain": 20}
    assert world.sandbox.sendgrid.accepted.repeated() == []
    jobdeck("campaign", "resume", str(campaign)).refused(1, "Nobody is left to mail")


@pytest.mark.slow
def test_a_dry_resume_changes_nothing(jobdeck: Jobdeck, world: MailWorld) -> None:
    campaign = _half_sent(world)
    with world.conn.changes_nothing():
        told = jobdeck("campaign", "resume", str(campaign), "--include-uncertain", "--dry-run", "--json").data
        assert (told["recipients"], told["dry_run"]) == (40, True)


@pytest.mark.slow
def test_uncertain_ones_need_a_decision_which_is_audited(jobdeck: Jobdeck, world: MailWorld) -> None:
    campaign = _half_sent(world)
    jobdeck("campaign", "resume", str(campaign), "--include-uncertain").refused(1, "--yes", "twice")
    jobdeck("campaign", "resume", str(campaign), "--include-uncertain", "--yes")
    work(jobdeck)
    assert world.statuses(campaign) == {"unconfirmed": 60}
    assert len(world.sandbox.sendgrid.accepted.repeated()) == 20
    actions = [row["action"] for row in world.conn.rows("select action from job_audit order by id")]
    assert actions == ["send again", "resume campaign"]


@pytest.mark.slow
def test_refused_ones_are_tried_again_when_asked_for(jobdeck: Jobdeck, world: MailWorld) -> None:
    campaign = world.campaign(3)
    world.sandbox.sendgrid.refused.add(next(iter(world.recipients(campaign))))
    world.dispatch(campaign)
    world.sandbox.sendgrid.refused.clear()
    world.conn.execute("delete from email_suppressions")
    jobdeck("campaign", "resume", str(campaign)).refused(1, "--retry-failed")
    jobdeck("campaign", "resume", str(campaign), "--retry-failed")
    work(jobdeck)
    assert world.statuses(campaign) == {"unconfirmed": 3}
    assert world.campaign_row(campaign)["status"] == "sent"


@pytest.mark.slow
def test_a_failed_campaign_of_the_original_can_be_resumed(jobdeck: Jobdeck, world: MailWorld) -> None:
    campaign = world.campaign(4, status="failed")
    world.conn.execute("update competitor_announcement_recipients set email_norm = null")
    world.conn.execute(
        "update competitor_announcement_recipients set status = 'failed' where id in "
        "(select id from competitor_announcement_recipients order by id limit 2)"
    )
    assert jobdeck("campaign", "resume", str(campaign), "--json").data["recipients"] == 2
    work(jobdeck)
    assert world.statuses(campaign) == {"unconfirmed": 2, "failed": 2}
    assert jobdeck("campaign", "resume", str(campaign), "--retry-failed", "--json").data["recipients"] == 2
    work(jobdeck)
    assert world.statuses(campaign) == {"unconfirmed": 4}


@pytest.mark.parametrize(("status", "word"), [("draft", "draft"), ("sending", "is sending")])
def test_what_cannot_be_resumed(jobdeck: Jobdeck, world: MailWorld, status: str, word: str) -> None:
    campaign = world.campaign(2, status=status)
    world.conn.execute(
        "update competitor_announcement_campaigns set lease_until = now() + interval '1 hour', dispatch_job_id = %s",
        (uuid4(),),
    )
    jobdeck("campaign", "resume", str(campaign)).refused(1, word)


@pytest.mark.slow
def test_retrying_the_failed_job_mails_the_unsent(
    jobdeck: Jobdeck, world: MailWorld, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = create(jobdeck, text, "--yes").data
    key = world.sandbox.settings_env()["SENDGRID_API_KEY"]
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.wrong")
    work(jobdeck)
    failed = world.conn.row("select status, last_error from job_queue")
    assert failed["status"] == "failed"
    assert "SENDGRID_API_KEY" in failed["last_error"]
    monkeypatch.setenv("SENDGRID_API_KEY", key)
    assert jobdeck("retry", told["job"]).code == 0
    work(jobdeck)
    assert len(world.mailed) == 3
    assert world.campaign_row(told["campaign"])["status"] == "sent"


@pytest.mark.slow
def test_events_are_pulled_and_told(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    world.sandbox.sendgrid.fates["b@example.org"] = "bounce"
    campaign = create(jobdeck, text, "--yes").data["campaign"]
    work(jobdeck)
    dry = jobdeck("events", "pull", "--dry-run", "--json").data
    assert (dry["new"], world.statuses(campaign)["unconfirmed"]) == (4, 3)
    told = jobdeck("events", "pull", "--json").data
    assert (told["new"], told["sources"], told["failed"]) == (4, {"bounces": 1, "log": 3}, 0)
    assert world.statuses(campaign) == {"delivered": 2, "bounced": 1, "skipped: no_email": 1,
                                        "skipped: invalid_email_format": 1}  # fmt: skip
    assert "Stored 0 new events" in jobdeck("events", "pull").out
    shown = jobdeck("campaign", "show", campaign, "--recipients")
    assert "bounced" in shown.out


@pytest.mark.slow
def test_an_operator_creates_shows_reveals_and_resumes_and_the_worker_pulls(
    jobdeck: Jobdeck, world: MailWorld, text: str, database_url: str, people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    operator = people.address(database_url, "job_operator")
    monkeypatch.setenv("DATABASE_URL", operator)
    assert create(jobdeck, text).data["recipients"] == 3
    campaign = create(jobdeck, text, "--yes").data["campaign"]
    world.sandbox.sendgrid.fates["b@example.org"] = "bounce"
    world.sandbox.sendgrid.refused.add("a@example.org")
    monkeypatch.setenv("DATABASE_URL", database_url)
    work(jobdeck)
    monkeypatch.setenv("DATABASE_URL", operator)
    world.sandbox.sendgrid.refused.clear()
    world.conn.execute("delete from email_suppressions")
    shown = jobdeck("campaign", "show", campaign, "--recipients").out
    assert "a…@example.org" in shown
    assert "a@example.org" not in shown
    assert "a@example.org" in jobdeck("campaign", "show", campaign, "--reveal", "a parent called").out
    assert jobdeck("campaign", "resume", campaign, "--retry-failed", "--json").data["recipients"] >= 1
    jobdeck("events", "pull").refused(1, "Only members of job_worker may")
    asked = ("--payload", f'{{"campaignId": "{campaign}"}}', "--dry-run", "--json")
    assert jobdeck("enqueue", "competitor_announcement_dispatch", *asked).data["effects"] is not None
    told = {row["action"]: row["actor"] for row in world.conn.rows("select action, actor from job_audit")}
    assert {"create campaign", "reveal", "resume campaign"} <= told.keys()
    assert all("test_job_operator" in actor for actor in told.values())
    monkeypatch.setenv("DATABASE_URL", people.address(database_url, "job_worker"))
    assert jobdeck("events", "pull", "--json").data["failed"] == 0
    (pulled,) = world.conn.rows("select actor, after from job_audit where action = 'pull events'")
    assert "test_job_worker" in pulled["actor"]
    assert "b…@example.org" in {event["address"] for event in pulled["after"]["events"]}
    assert "b@example.org" not in repr(pulled)


@pytest.mark.slow
def test_a_retried_job_whose_campaign_was_sent_meanwhile_ends_harmlessly(
    jobdeck: Jobdeck, world: MailWorld, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = create(jobdeck, text, "--yes").data
    key = world.sandbox.settings_env()["SENDGRID_API_KEY"]
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.wrong")
    work(jobdeck)
    monkeypatch.setenv("SENDGRID_API_KEY", key)
    jobdeck("campaign", "resume", told["campaign"])
    work(jobdeck)
    assert len(world.mailed) == 3
    assert jobdeck("retry", told["job"]).code == 0
    work(jobdeck)
    assert len(world.mailed) == 3
    assert world.campaign_row(told["campaign"])["status"] == "sent"
    assert world.conn.rows("select status from job_queue") == []


@pytest.mark.slow
def test_a_job_that_would_run_again_is_refused_where_its_campaign_is_a_draft_by_now(
    jobdeck: Jobdeck, world: MailWorld, text: str
) -> None:
    told = create(jobdeck, text, "--yes").data
    work(jobdeck)
    world.conn.execute("update competitor_announcement_campaigns set status = 'draft'")
    ran = jobdeck("run-again", told["job"], "--json")
    assert ran.code == 1
    assert "campaignId: the campaign is a draft" in ran.data["results"][0]["message"]
    assert world.conn.rows("select id from job_queue") == []
    world.conn.execute("update competitor_announcement_campaigns set status = 'sent'")
    assert jobdeck("run-again", told["job"]).code == 0
    assert len(world.conn.rows("select id from job_queue")) == 1


def test_a_provider_that_refuses_the_key_is_one_sentence(
    jobdeck: Jobdeck, world: MailWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.wrong")
    jobdeck("events", "pull").refused(1, "SENDGRID_API_KEY")


@pytest.mark.slow
def test_shared_options_stand_anywhere(jobdeck: Jobdeck, world: MailWorld) -> None:
    for arguments in (("--json", "events", "pull"), ("events", "--json", "pull"), ("events", "pull", "--json")):
        assert jobdeck(*arguments).data["new"] == 0


@pytest.mark.slow
def test_receipts_of_a_job_outlive_it(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    told = create(jobdeck, text, "--yes").data
    work(jobdeck)
    assert world.conn.rows("select id from job_queue") == []
    listed = jobdeck("receipts", told["job"], "--json").data["receipts"]
    assert sorted((one["state"], one["left_out"]) for one in listed) == [
        ("accepted", None), ("accepted", None), ("accepted", None),
        ("left out", "invalid_email_format"), ("left out", "no_email"),
    ]  # fmt: skip
    assert all(one["provider_message_id"] for one in listed if one["state"] == "accepted")
    ran = jobdeck("receipts", told["job"])
    assert "a…@example.org" in ran.out
    assert "a@example.org" not in ran.out
    token = listed[0]["run_token"]
    assert len(jobdeck("receipts", told["job"], "--run", str(token), "--json").data["receipts"]) == 5
    assert jobdeck("receipts", told["job"], "--run", str(token + 1), "--json").data["receipts"] == []


@pytest.mark.slow
def test_receipts_show_whole_addresses_only_with_a_reason(jobdeck: Jobdeck, world: MailWorld, text: str) -> None:
    told = create(jobdeck, text, "--yes").data
    work(jobdeck)
    assert "a@example.org" in jobdeck("receipts", told["job"], "--reveal", "a parent called").out
    assert world.conn.rows("select job_id::text, reason from job_audit where action = 'reveal'") == [
        {"job_id": told["job"], "reason": "a parent called"}
    ]
    jobdeck("receipts", told["job"], "--reveal", "").refused(1, "reason")
    jobdeck("receipts", "x").refused(2, "not a UUID")
    assert "left nobody out" in jobdeck("receipts", str(uuid4())).out


# What the doctor says


def _doctor(jobdeck: Jobdeck) -> dict[str, tuple[str, str]]:
    found = jobdeck("doctor", "--json").data["findings"]
    return {one["signal"]: (one["verdict"], one["evidence"]) for one in found}


@pytest.mark.slow
def test_the_doctor_asks_the_providers_whether_they_accept_us(jobdeck: Jobdeck, world: MailWorld) -> None:
    found = _doctor(jobdeck)
    assert [found[name][0] for name in ("mail", "campaigns", "text messages")] == ["ok"] * 3
    assert not [seen for seen in world.sandbox.requests if seen.mutating]


@pytest.mark.parametrize(
    ("name", "value", "signal", "verdict"),
    [
        ("SENDGRID_API_KEY", None, "mail", "warning"),
        ("SENDGRID_API_KEY", "SG.wrong", "mail", "critical"),
        ("SENDGRID_FROM_EMAIL", None, "mail", "critical"),
        ("SENDGRID_SANDBOX_MODE", "true", "mail", "warning"),
        ("SENDGRID_UNSUBSCRIBE_GROUP_ID", None, "campaigns", "warning"),
        ("TWILIO_AUTH_TOKEN", "wrong", "text messages", "critical"),
        ("TWILIO_ACCOUNT_SID", None, "text messages", "critical"),
        ("SMS_PROVIDER", "disabled", "text messages", "ok"),
        ("SMS_PROVIDER", "aws-sns", "text messages", "critical"),
    ],
)
@pytest.mark.slow
def test_the_doctor_names_the_setting_before_any_job_runs(
    jobdeck: Jobdeck, world: MailWorld, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, signal: str,
    verdict: str,
) -> None:  # fmt: skip
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    found = _doctor(jobdeck)[signal]
    assert found[0] == verdict
    assert name in found[1]
    assert "wrong" not in found[1]


@pytest.mark.slow
def test_commands_that_look_go_on_with_a_provider_of_texts_that_is_unknown(
    jobdeck: Jobdeck, world: MailWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMS_PROVIDER", "aws-sns")
    for command in ("status", "jobs", "health", "runs", "types"):
        assert jobdeck(command).code in {0, 4}, command
    assert jobdeck("events", "pull").code == 0


@pytest.mark.parametrize(
    ("environment", "url", "verdict"),
    [
        ("production", None, "critical"),
        ("production", "https://localhost:3000", "critical"),
        ("production", "https://app.localhost", "critical"),
        ("production", "http://[::1]:3000", "critical"),
        ("production", "https://127.0.0.2", "critical"),
        ("live", "https://0.0.0.0", "critical"),
        ("production", "https://dashboard.example.org", "ok"),
        ("production", "https://localhost.example.org", "ok"),
        ("staging", None, "ok"),
    ],
)
@pytest.mark.slow
def test_the_doctor_is_critical_in_production_while_links_lead_to_this_machine(
    jobdeck: Jobdeck, world: MailWorld, monkeypatch: pytest.MonkeyPatch, environment: str, url: str | None,
    verdict: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("JOBDECK_ENV", environment)
    monkeypatch.delenv("APP_BASE_URL")
    if url is not None:
        monkeypatch.setenv("APP_BASE_URL", url)
    found = _doctor(jobdeck)["links"]
    assert found[0] == verdict
    assert ("Set APP_BASE_URL to" in found[1]) is (verdict == "critical")


@pytest.mark.slow
def test_the_doctor_notices_a_key_that_may_not_send_and_a_closed_account(jobdeck: Jobdeck, world: MailWorld) -> None:
    world.sandbox.sendgrid.scopes.remove("mail.send")
    world.sandbox.twilio.account_status = "suspended"
    found = _doctor(jobdeck)
    assert (found["mail"][0], found["text messages"][0]) == ("critical", "critical")


@pytest.mark.slow
def test_a_provider_that_does_not_answer_is_a_warning(jobdeck: Jobdeck, world: MailWorld) -> None:
    world.sandbox.rules.add("503:scopes")
    world.sandbox.rules.add("malformed:Accounts")
    found = _doctor(jobdeck)
    assert (found["mail"][0], found["text messages"][0]) == ("warning", "warning")
