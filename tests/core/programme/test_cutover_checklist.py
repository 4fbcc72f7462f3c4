"""`doctor --cutover`: each line is red before its step of the cut-over, says what to do, and is ok after it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import operator, presence
from jobdeck.core.schema import install_schema
from tests.core.cli.support import Jobdeck, environment, runner
from tests.support.health import announce
from tests.support.original import OWNER, copy_of_original, original_database
from tests.support.people import make_groups
from tests.support.pooler import lying_relay
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection

pytestmark = pytest.mark.installation

SYNC = "game_platform_sync"


@pytest.fixture(scope="module")
def installed_database(postgres: PostgresServer) -> str:
    """The original's database without its jobs, after the installation, with the group roles."""
    name = original_database(postgres, programme=True)
    with postgres.connect(name, OWNER) as connection:
        connection.execute("DELETE FROM job_queue; DELETE FROM job_worker_runs")
        install_schema(connection)
    with postgres.connect(name) as admin:
        make_groups(admin)
    return name


@pytest.fixture
def url(postgres: PostgresServer, installed_database: str) -> Iterator[str]:
    name = copy_of_original(postgres, installed_database)
    yield postgres.url(name, OWNER)
    postgres.drop_database(name)


@pytest.fixture
def conn(url: str) -> Iterator[Connection]:
    with Connection.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def jobdeck(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Jobdeck:
    environment(monkeypatch, tmp_path, url)
    monkeypatch.delenv("JOBDECK_HANDLERS")
    return runner(capsys)


def lines(jobdeck: Jobdeck) -> dict[str, dict[str, Any]]:
    return {one["signal"]: one for one in jobdeck("doctor", "--cutover", "--json").data["findings"]}


def red(jobdeck: Jobdeck, line: str, *words: str) -> None:
    found = lines(jobdeck)[line]
    assert found["verdict"] == "critical", found
    for word in words:
        assert word in found["evidence"]


def green(jobdeck: Jobdeck, line: str) -> None:
    found = lines(jobdeck)[line]
    assert found["verdict"] == "ok", found


def switch(conn: Connection) -> None:
    ends.switch(conn, back=False, actor=ACTOR, reason=None)


def set_aside(conn: Connection, task_type: str) -> None:
    operator.set_type(conn, task_type, changes={"set_aside": True}, actor=ACTOR, reason="the old runner does it")


def cron_calls(conn: Connection) -> None:
    conn.execute("INSERT INTO job_worker_runs (source, status) VALUES ('vercel_cron_secret', 'ok')")


def test_a_url_that_leads_to_a_pooler(
    jobdeck: Jobdeck, url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    green(jobdeck, "connection")
    with lying_relay(postgres, tmp_path):
        monkeypatch.setenv("DATABASE_URL", url.replace(str(postgres.folder), str(tmp_path)))
        red(jobdeck, "connection", "leads to a pooler", "direct connection")


def test_a_function_that_was_changed_by_hand(jobdeck: Jobdeck, conn: Connection) -> None:
    green(jobdeck, "functions")
    conn.execute(
        "CREATE OR REPLACE FUNCTION job_queue_claim(p_limit integer DEFAULT 5) RETURNS SETOF job_queue "
        "LANGUAGE sql AS 'UPDATE job_queue SET status = ''running'' RETURNING *'"
    )
    red(jobdeck, "functions", "job_queue_claim(p_limit integer) differs", "`jobdeck init --repair`")
    assert "--repair" in jobdeck("init").err
    assert jobdeck("init", "--repair").code == 0
    green(jobdeck, "functions")


def test_missing_group_roles(jobdeck: Jobdeck, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    green(jobdeck, "roles")
    bare = original_database(postgres, programme=True)
    with postgres.connect(bare, OWNER) as connection:
        install_schema(connection, roles_prefix="others_")
    monkeypatch.setenv("DATABASE_URL", postgres.url(bare, OWNER))
    red(jobdeck, "roles", "others_viewer", "Run `jobdeck init --roles`")
    postgres.drop_database(bare)


def test_the_integration_that_is_off(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    red(jobdeck, "game platform", "GAME_PLATFORM_INTEGRATION_ENABLED=true")
    monkeypatch.setenv("GAME_PLATFORM_INTEGRATION_ENABLED", "true")
    red(jobdeck, "game platform", "Set GAME_PLATFORM_API_TOKEN")
    monkeypatch.setenv("GAME_PLATFORM_API_TOKEN", "an-invented-token")
    green(jobdeck, "game platform")


def test_links_that_lead_to_this_machine(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    red(jobdeck, "links", "Set JOBDECK_ENV=production")
    monkeypatch.setenv("JOBDECK_ENV", "production")
    red(jobdeck, "links", "Set APP_BASE_URL")
    monkeypatch.setenv("APP_BASE_URL", "https://dashboard.example.org")
    green(jobdeck, "links")


def test_messages_that_cannot_be_sent(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    red(jobdeck, "messages", "Jobs that send messages would fail", "Set SENDGRID_API_KEY")
    monkeypatch.setenv("SENDGRID_API_KEY", "an-invented-key")
    red(jobdeck, "messages", "Set SENDGRID_FROM_EMAIL")
    monkeypatch.setenv("SENDGRID_FROM_EMAIL", "sender@example.org")
    red(jobdeck, "messages", "Set SENDGRID_UNSUBSCRIBE_GROUP_ID")
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    green(jobdeck, "messages")
    monkeypatch.setenv("SMS_PROVIDER", "twilio")
    red(jobdeck, "messages", "TWILIO_ACCOUNT_SID")


def test_mail_that_is_not_delivered_and_quiet_hours_in_a_zone_that_does_not_exist(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "an-invented-key")
    monkeypatch.setenv("SENDGRID_FROM_EMAIL", "sender@example.org")
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    monkeypatch.setenv("SENDGRID_SANDBOX_MODE", "true")
    red(jobdeck, "messages", "No mail would be delivered", "SENDGRID_SANDBOX_MODE")
    monkeypatch.delenv("SENDGRID_SANDBOX_MODE")
    monkeypatch.setenv("QUIET_TZ", "America/New_Amsterdam")
    red(jobdeck, "messages", "does not know the time zone in QUIET_TZ")
    monkeypatch.setenv("QUIET_TZ", "America/Chicago")
    green(jobdeck, "messages")


def test_a_table_that_another_session_has_locked(jobdeck: Jobdeck, conn: Connection) -> None:
    with Connection.connect(conn.info.dsn, autocommit=True) as other, other.transaction():
        other.execute("LOCK TABLE job_queue")
        jobdeck("doctor", "--cutover").refused(1, f"pid {other.info.backend_pid}", "Nothing was changed")


def test_no_live_worker(jobdeck: Jobdeck, conn: Connection) -> None:
    red(jobdeck, "workers", "Start `jobdeck worker`")
    announce(conn, types=[SYNC])
    green(jobdeck, "workers")


def test_a_type_that_nobody_handles(jobdeck: Jobdeck, conn: Connection) -> None:
    green(jobdeck, "task types")
    conn.add("team_image_generate")
    red(jobdeck, "task types", "No live worker handles team_image_generate", "--set-aside")
    set_aside(conn, "team_image_generate")
    green(jobdeck, "task types")


def test_jobs_without_their_concurrency_key(jobdeck: Jobdeck, conn: Connection) -> None:
    green(jobdeck, "keys")
    conn.execute("INSERT INTO job_queue (task_type) VALUES (%s), (%s)", (SYNC, SYNC))
    conn.execute("INSERT INTO job_types (task_type, concurrency) VALUES (%s, 'type')", (SYNC,))
    red(jobdeck, "keys", f"2 jobs of {SYNC} have no concurrency key", "Start a worker")
    presence.declare_types(conn, ())
    conn.execute("UPDATE job_types SET keyless = true")
    conn.execute("SELECT job_types_fill_keys(array[%s], null, 100)", (SYNC,))
    green(jobdeck, "keys")


def test_payloads_that_their_type_refuses(jobdeck: Jobdeck, conn: Connection) -> None:
    green(jobdeck, "payloads")
    job = conn.add(SYNC, payload={"batchSize": "many"})
    red(jobdeck, "payloads", f"{str(job.id)[:8]} ({SYNC})", "`jobdeck edit ID`")
    conn.execute("UPDATE job_queue SET payload = '{}' WHERE id = %s", (job.id,))
    green(jobdeck, "payloads")


def test_the_switch_that_was_not_thrown(jobdeck: Jobdeck, conn: Connection) -> None:
    red(jobdeck, "switch", "run `jobdeck cutover switch`")
    switch(conn)
    green(jobdeck, "switch")


def test_the_originals_cron_is_needed_before_the_switch_and_not_after_it(jobdeck: Jobdeck, conn: Connection) -> None:
    red(jobdeck, "cron", "has not called for 15 minutes", "all jobs")
    cron_calls(conn)
    green(jobdeck, "cron")
    switch(conn)
    red(jobdeck, "cron", "still calls", "Remove it")
    conn.execute("UPDATE job_worker_runs SET started_at = started_at - interval '16 minutes'")
    green(jobdeck, "cron")


@pytest.mark.parametrize("ended", ["error", None])
def test_calls_of_the_originals_cron_that_all_failed(jobdeck: Jobdeck, conn: Connection, ended: str | None) -> None:
    for ago in ("6 min", "11 min"):
        conn.execute(
            "INSERT INTO job_worker_runs (source, status, started_at, error_message) "
            "VALUES ('vercel_cron_secret', %s, now() - %s::interval, 'no column')",
            (ended, ago),
        )
    red(jobdeck, "cron", "Every call of the original's cron in the last 15 minutes failed (2, the last at", "all jobs")
    cron_calls(conn)
    green(jobdeck, "cron")


def test_the_originals_cron_is_needed_for_types_that_are_set_aside(jobdeck: Jobdeck, conn: Connection) -> None:
    set_aside(conn, "team_image_generate")
    switch(conn)
    red(jobdeck, "cron", "it runs the types set aside (team_image_generate)")
    cron_calls(conn)
    green(jobdeck, "cron")


def test_jobs_that_the_earlier_runner_holds_after_the_switch(jobdeck: Jobdeck, conn: Connection) -> None:
    job = conn.add("alpha")
    conn.execute("SELECT * FROM job_queue_claim(5)")
    green(jobdeck, "jobs in flight")
    switch(conn)
    red(jobdeck, "jobs in flight", "1 jobs still run in the earlier runner, 0 of them past their lease")
    conn.advance(timedelta(minutes=21))
    red(jobdeck, "jobs in flight", "1 of them past their lease")
    conn.execute("SELECT job_queue_mark_succeeded(p_job_id => %s)", (job.id,))
    green(jobdeck, "jobs in flight")


def test_runs_of_the_earlier_runner_that_have_died_before_the_switch(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add("alpha")
    conn.execute("SELECT * FROM job_queue_claim(5)")
    green(jobdeck, "jobs in flight")
    conn.advance(timedelta(minutes=21))
    red(jobdeck, "jobs in flight", "1 runs of the earlier runner have died", "`jobdeck cleanup --yes`")
    assert jobdeck("cleanup", "--yes").code == 0
    green(jobdeck, "jobs in flight")


def test_the_whole_list_is_green_and_the_exit_code_0_after_the_last_step(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobdeck("doctor", "--cutover").code == 4
    monkeypatch.setenv("GAME_PLATFORM_INTEGRATION_ENABLED", "true")
    monkeypatch.setenv("GAME_PLATFORM_API_TOKEN", "an-invented-token")
    monkeypatch.setenv("JOBDECK_ENV", "production")
    monkeypatch.setenv("APP_BASE_URL", "https://dashboard.example.org")
    monkeypatch.setenv("SENDGRID_API_KEY", "an-invented-key")
    monkeypatch.setenv("SENDGRID_FROM_EMAIL", "sender@example.org")
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    announce(conn, types=[SYNC])
    switch(conn)
    done = jobdeck("doctor", "--cutover")
    assert (done.code, done.err) == (0, "")
    assert "Verdict: ok" in done.out
