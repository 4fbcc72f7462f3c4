"""What a run would do, as it is shown to somebody who may enqueue it and may do none of its work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql

from jobdeck.core import registry
from jobdeck.core.postgres.database import Database
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import Policy
from jobdeck.core.worker.runs.preview import effects
from tests.core.cli.support import environment, runner
from tests.core.handlers.mail_world import worker_settings
from tests.core.handlers.notice_world import NoticeWorld, marks_in
from tests.core.handlers.world import World
from tests.core.programme.outbox_support import intent
from tests.support.people import DENIED, People
from tests.support.queue import Connection

Json = dict[str, Any]

NAMES = [known.task_type for known in registry.load()]
MESSAGING = ("admin_alert_queue", "agreements", "alert_log", "competitor_announcement_campaigns",
             "competitor_announcement_recipients", "conversation_members", "conversations", "email_suppressions",
             "message_read_receipts", "message_user_state", "messages", "outbox_left_out", "outbox_messages",
             "provider_events", "provider_rates", "send_batches", "sms_opt_outs")  # fmt: skip


@pytest.fixture
def operator_url(people: People, database_url: str) -> str:
    """The address at which somebody signs in who acts on jobs and does none."""
    return people.address(database_url, "job_operator")


def populate(notices: NoticeWorld) -> UUID:
    """Something to do for each type; returns the campaign."""
    world = World(notices.conn, notices.sandbox)
    coach = world.coach(account="c-1")
    member = world.competitor(coach)
    world.candidate(coach)
    world.team(coach, member)
    notices.conn.execute("update game_platform_sync_state set needs_totals_refresh = true, totals_dirty_at = now()")
    notices.conn.insert("game_platform_flash_ctf_events", synced_user_id=member, event_id="e-1")
    notices.reader(texts=True)
    notices.reader(role="admin", texts=True)
    notices.form(signers=json.dumps([{"email": "zzother@example.org"}]))
    reader = notices.profile()
    notices.archive(notices.message(notices.conversation(reader, coach), coach), reader)
    return notices.campaign(3)


def numbers(found: Any) -> int:
    """The sum of all that a preview counts."""
    if isinstance(found, dict):
        return sum(numbers(one) for one in found.values())
    return found if isinstance(found, int) else 0


def payload_of(task_type: str, campaign: UUID) -> Json:
    if task_type == "competitor_announcement_dispatch":
        return {"campaignId": str(campaign)}
    return {"createTeams": True} if task_type == "game_platform_sync" else {}


@pytest.mark.slow
@pytest.mark.parametrize("task_type", NAMES)
def test_an_operator_sees_what_a_worker_would_do_and_a_dry_run_tells_it(
    notices: NoticeWorld, database_url: str, operator_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], task_type: str,
) -> None:  # fmt: skip
    payload = payload_of(task_type, populate(notices))
    known, settings = registry.load().require(task_type), worker_settings(notices.sandbox)
    with notices.changes_nothing(), Database(operator_url, application_name="test") as database:
        seen = effects(known, payload, settings=settings, database=database)
    with Database(database_url, application_name="test") as database:
        assert seen == effects(known, payload, settings=settings, database=database)
    assert numbers(seen) > 0
    assert marks_in(json.dumps(seen, ensure_ascii=False)) == []
    environment(monkeypatch, tmp_path, operator_url)
    for name, value in notices.sandbox.settings_env().items():
        monkeypatch.setenv(name, str(value))
    with notices.changes_nothing():
        told = runner(capsys)("enqueue", task_type, "--payload", json.dumps(payload), "--dry-run", "--json")
    assert "may not read" not in told.err
    assert numbers(told.data["effects"]) > 0


@pytest.mark.slow
def test_a_dry_run_tells_that_a_run_would_fail(
    notices: NoticeWorld,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notices.form()
    (tmp_path / "parent_probe.txt").write_text("{{ nmae }}", encoding="utf-8")
    environment(monkeypatch, tmp_path, database_url)
    monkeypatch.setenv("JOBDECK_TEMPLATES", str(tmp_path))
    with notices.changes_nothing():
        told = runner(capsys)("enqueue", "release_parent_email_verification", "--dry-run", "--json")
    assert told.data["effects"] is None
    assert "A run would fail: " in told.err
    assert "parent_probe.txt" in told.err


@pytest.mark.slow
def test_an_operator_reads_no_message_and_puts_and_sends_nothing(notices: NoticeWorld, operator_url: str) -> None:
    populate(notices)
    person = notices.profile()
    calls: list[tuple[str, list[Any]]] = [
        ("select outbox_put('[]', '{}', null, null)", []),
        ("select outbox_put('[]', '{}', null, null, true)", []),
        ("select outbox_claim('{}', 60, null, null)", []),
        ("select outbox_settle('[]')", []),
        ("select outbox_sweep()", []),
        ("select outbox_retire_probes()", []),
        ("select outbox_leave_out('[]', null, null)", []),
        ("select outbox_reserve('sendgrid', 1, 5, 30)", []),
        ("select outbox_campaign_start(gen_random_uuid(), gen_random_uuid(), 1, 60)", []),
        ("select * from outbox_campaign_batch(gen_random_uuid(), gen_random_uuid(), 1, 1, 60, null)", []),
        ("select outbox_address_changed(m) from outbox_messages m", []),
        ("select body from messages", []),
        ("select * from messages", []),
        ("select * from conversations", []),
        ("select * from agreements", []),
        ("select raw_payload from game_platform_flash_ctf_events", []),
        ("select sync_error from game_platform_profiles", []),
        ("update agreements set recipient_email_verification_status = null", []),
        ("update admin_alert_queue set sent_at = now()", []),
        ("insert into message_read_receipts (message_id, user_id) values (gen_random_uuid(), %s)", [person]),
    ]
    with notices.changes_nothing(), Connection.connect(operator_url, autocommit=True) as operator:
        for statement, values in calls:
            with pytest.raises(DENIED):
                operator.execute(statement.encode(), values)
        with pytest.raises(DENIED):
            outbox.put(operator, [intent(person)], Policy(), job_id=None, run_token=None)
        (seen,) = outbox.put(operator, [intent(person)], Policy(), job_id=None, run_token=None, dry_run=True)
        assert seen.verdict == "queued"


@pytest.mark.usefixtures("operator_url")
def test_an_operator_changes_no_table_of_sending(conn: Connection) -> None:
    rights = "insert, update, delete, truncate"
    may = conn.execute(
        "select t, has_table_privilege('job_operator', 'public.' || t, %s) from unnest(%s::text[]) as t",
        (rights, list(MESSAGING)),
    ).fetchall()
    assert dict(may) == dict.fromkeys(MESSAGING, False)


def test_what_looks_ahead_for_an_operator_names_nobody(notices: NoticeWorld, operator_url: str) -> None:
    campaign = populate(notices)
    profiles = [row["id"] for row in notices.conn.rows("select id from profiles")]
    competitors = [row["id"] for row in notices.conn.rows("select id from competitors")]
    calls: list[tuple[str, list[Any]]] = [
        ("select * from programme_digest_ahead('{coach,admin}', null, null, 100, 0, 60, 'UTC')", []),
        ("select * from programme_admin_alerts_ahead(%s, '{coach,admin}')", [profiles]),
        ("select * from programme_probes_ahead(0, 5, 100, '1 day', '30 days')", []),
        ("select * from programme_coaches_ahead(%s)", [profiles]),
        ("select * from programme_competitors_ahead(%s)", [competitors]),
        ("select * from outbox_audience_outlook('all', null, 3)", []),
        ("select * from outbox_campaign_outlook(%s, null)", [campaign]),
    ]
    with Connection.connect(operator_url, autocommit=True) as operator:
        for statement, values in calls:
            seen = operator.execute(statement.encode(), values).fetchall()
            assert seen != [], statement
            assert marks_in(repr(seen)) == [], statement


@pytest.mark.parametrize(("task_type", "role"), [("sms_digest_processor", "coach"), ("admin_alert_dispatch", "admin")])
def test_an_operator_sees_who_is_left_out_for_an_address_that_is_masked(
    notices: NoticeWorld, operator_url: str, task_type: str, role: str
) -> None:
    notices.reader(role=role, texts=True)
    notices.reader(role=role)
    notices.conn.execute(
        "insert into email_suppressions (address_norm, reason, source) "
        "select lower(email), 'hard_bounce', 'test' from profiles where mobile_number is not null"
    )
    notices.conn.execute(
        "insert into sms_opt_outs (phone_e164, source) "
        "select outbox_e164(mobile_number), 'stop' from profiles where mobile_number is not null"
    )
    payload = {"allowSms": True}
    known, settings = registry.load().require(task_type), worker_settings(notices.sandbox)
    with Database(operator_url, application_name="test") as database:
        seen = effects(known, payload, settings=settings, database=database)
    assert seen is not None
    assert seen["leftOut"] == {"suppressed": 1, "opted_out": 1}
    assert seen["wouldSend"] == {"email": 1, "sms": 0}


def test_an_operator_sees_whose_address_no_account_can_be_made_of(notices: NoticeWorld, operator_url: str) -> None:
    world = World(notices.conn, notices.sandbox)
    coach = world.coach(account="c-1")
    world.candidate(coach)
    world.candidate(coach, email_personal="zzno at sign", email_school=None)
    world.candidate(coach, email_personal=" \u00a0", email_school="")
    known, settings = registry.load().require("game_platform_onboard_competitors"), worker_settings(notices.sandbox)
    with Database(operator_url, application_name="test") as database:
        seen = effects(known, {}, settings=settings, database=database)
    assert seen is not None
    assert (seen["toOnboard"], seen["others"]) == (1, {"invalid": 1, "no_email": 1})


@pytest.mark.slow
def test_an_operator_sees_the_effects_where_the_originals_host_guards_each_row(
    notices: NoticeWorld, database_url: str, operator_url: str
) -> None:
    campaign = populate(notices)
    conn = notices.conn
    tables = conn.execute(
        "select t from job_programme_tables() t union select t from outbox_programme_tables() t"
    ).fetchall()
    for (table,) in tables:
        conn.execute(sql.SQL("alter table {} enable row level security").format(sql.Identifier(table)))
    conn.execute("select job_grant_roles()")
    for known in registry.load():
        payload, settings = payload_of(known.task_type, campaign), worker_settings(notices.sandbox)
        with Database(operator_url, application_name="test") as database:
            seen = effects(known, payload, settings=settings, database=database)
        with Database(database_url, application_name="test") as database:
            assert seen == effects(known, payload, settings=settings, database=database)
