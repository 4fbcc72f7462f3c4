"""Commands that enqueue: what they print, what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core import plugins, registry
from jobdeck.core import settings as configuration
from jobdeck.core.errors import InvalidPayload
from jobdeck.core.queue import service
from jobdeck.core.queue.requests import Wanted
from jobdeck.core.read import jobs
from jobdeck.core.schedules import Every
from tests.core.cli.support import HANDLERS, Jobdeck, everything
from tests.support.health import announce, called
from tests.support.queue import Connection

JOB_TYPES = registry.load([HANDLERS])
INTERNAL = {
    "cycle", "fingerprint", "in_line", "key_place", "limited", "run_trace", "slot_at", "trace_context"
}  # fmt: skip
"""Columns that serve the claim and say nothing of the job."""


def test_enqueue_prints_the_job_with_the_columns_of_job_queue(jobdeck: Jobdeck, conn: Connection) -> None:
    job = jobdeck("enqueue", "cli_echo", "--payload", '{"message": "hi"}', "--priority", "5", "--json").data
    columns = {
        name
        for (name,) in conn.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'job_queue'")
    }
    assert columns - job.keys() == INTERNAL
    assert {"next_run_at", "last_outcome", "overdue_seconds", "created"} <= job.keys()
    assert job["created"] is True
    assert job["payload"] == {"message": "hi"}
    assert (job["status"], job["priority"], job["max_attempts"]) == ("pending", 5, 3)
    assert job["created_at"].endswith("Z")
    stored = conn.execute("SELECT id::text, payload, created_by FROM job_queue").fetchall()
    assert [(row[0], row[1]) for row in stored] == [(job["id"], {"message": "hi"})]
    assert "@" in stored[0][2]


def test_enqueue_says_it_to_a_person_as_well(jobdeck: Jobdeck) -> None:
    ran = jobdeck("enqueue", "cli_echo")
    assert ran.code == 0
    assert ran.out.startswith("Enqueued cli_echo as ")
    assert "pending" in ran.out


def test_enqueue_says_that_no_live_worker_handles_the_type(jobdeck: Jobdeck, conn: Connection) -> None:
    words = "No live worker handles cli_echo. Its jobs wait until one does."
    announce(conn, types=["cli_refuse"])
    for command in (("enqueue", "cli_echo"), ("enqueue", "cli_echo", "--dry-run"), ("enqueue", "cli_echo", "--json")):
        ran = jobdeck(*command)
        assert (ran.code, ran.err.splitlines()[-1:]) == (0, [words])
    announce(conn, "worker-2", types=["cli_echo"])
    assert jobdeck("enqueue", "cli_echo").err == ""


def test_where_a_scheduler_calls_no_worker_is_missed(jobdeck: Jobdeck, conn: Connection) -> None:
    called(conn)
    assert jobdeck("enqueue", "cli_echo").err == ""


@pytest.mark.parametrize(
    "command",
    [("enqueue", "cli_echo"), ("enqueue-many", "cli_echo", "--count", "2"), ("enqueue", "cli_echo", "--dry-run")],
)
@pytest.mark.parametrize("given", ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "no trace", None])
def test_jobs_carry_the_span_that_a_script_has_put_into_the_environment(
    jobdeck: Jobdeck,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    given: str | None,
) -> None:
    if given is not None:
        monkeypatch.setenv("TRACEPARENT", given)
    assert jobdeck(*command).code == 0
    carried = {trace for (trace,) in conn.execute("SELECT trace_context FROM job_queue")}
    expected = given if given and given.startswith("00-") else None
    assert carried == (set() if "--dry-run" in command else {expected})


def test_a_recurring_job_has_interval_first_run_and_an_end_counted_from_it(jobdeck: Jobdeck) -> None:
    job = jobdeck("enqueue", "cli_echo", "--every", "1h30m", "--at", "2030-01-01T09:00Z", "--for", "7d", "--json").data
    assert job["is_recurring"] is True
    assert job["recurrence_interval_minutes"] == 90
    assert job["run_at"] == "2030-01-01T09:00:00Z"
    assert job["expires_at"] == "2030-01-08T09:00:00Z"


def test_a_relative_time_is_counted_by_the_databases_clock(jobdeck: Jobdeck, conn: Connection) -> None:
    before = conn.execute("SELECT now()").fetchone()
    job = jobdeck("enqueue", "cli_echo", "--at", "in 2h", "--json").data
    assert before is not None
    assert datetime.fromisoformat(job["run_at"]) >= before[0] + timedelta(hours=2)


def test_a_time_that_is_past_is_accepted_with_a_remark(jobdeck: Jobdeck) -> None:
    ran = jobdeck("enqueue", "cli_echo", "--at", "2020-01-01", "--json")
    assert ran.data["run_at"] == "2020-01-01T00:00:00Z"
    assert "past" in ran.err


@pytest.mark.slow
def test_a_dedupe_key_answers_with_the_job_that_is_there(jobdeck: Jobdeck) -> None:
    first = jobdeck("enqueue", "cli_echo", "--dedupe-key", "once", "--json").data
    second = jobdeck("enqueue", "cli_echo", "--dedupe-key", "once", "--json").data
    assert (first["created"], second["created"]) == (True, False)
    assert first["id"] == second["id"]
    assert "Already there" in jobdeck("enqueue", "cli_echo", "--dedupe-key", "once").out


@pytest.mark.slow
def test_a_dedupe_key_that_counts_for_a_time_does_so_after_the_job_has_ended(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    words = ("enqueue", "cli_echo", "--dedupe-key", "once", "--unique-for", "90m", "--json")
    assert jobdeck(*words, "--dry-run").data["created"] is True
    first = jobdeck(*words).data
    assert (first["created"], jobdeck(*words).data["id"]) == (True, first["id"])
    conn.finish_one(conn.claim(["cli_echo"])[0])
    with conn.changes_nothing():
        again = jobdeck(*words).data
        assert (again["created"], again["id"], again["removed"]) == (False, first["id"], True)
    conn.execute("UPDATE job_unique_keys SET until = until - interval '91 minutes'")
    assert jobdeck(*words).data["created"] is True


def test_a_dry_run_validates_prints_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    with conn.changes_nothing():
        assert jobdeck("enqueue", "cli_echo", "--every", "5m", "--dry-run", "--json").data["is_recurring"] is True
        assert jobdeck("enqueue-many", "cli_echo", "--count", "3", "--dry-run", "--json").data["enqueued"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 1, ["frobnicate", "cli_echo"]),
        (["cli_echo", "--payload", "{"], 2, ["payload", "JSON"]),
        (["cli_echo", "--payload", "[1]"], 2, ["payload", "object"]),
        (["cli_echo", "--payload", '{"message": NaN}'], 2, ["payload"]),
        (["cli_echo", "--payload", '{"message": "\\u0000"}'], 2, ["NUL"]),
        (["cli_echo", "--payload", '{"message": "\\ud800"}'], 2, ["payload"]),
        (["cli_echo", "--payload", "[" * 100_000], 2, ["payload"]),
        (["cli_echo", "--payload", '{"mesage": "hi"}'], 1, ["mesage", "not a field"]),
        (["cli_echo", "--payload", '{"times": "many"}'], 1, ["times", "integer"]),
        (["cli_echo", "--payload", '{"times": 11}'], 1, ["times", "10"]),
        (["cli_echo", "--every", "0m"], 2, ["0m", "--every"]),
        (["cli_echo", "--every", "0.5s"], 2, ["0.5s", "--every"]),
        (["cli_echo", "--every", "often"], 2, ["often", "--every"]),
        (["cli_echo", "--at", "soon"], 2, ["soon", "--at"]),
        (["cli_echo", "--at", "2026-13-01"], 2, ["2026-13-01"]),
        (["cli_echo", "--for", "7d"], 2, ["--every"]),
        (["cli_echo", "--every", "1h", "--for", "long"], 2, ["long", "--for"]),
        (["cli_echo", "--priority", "101"], 2, ["priority", "100"]),
        (["cli_echo", "--max-attempts", "0"], 2, ["max-attempts"]),
        (["cli_echo", "--unique-for", "1h"], 1, ["needs a dedupe key"]),
        (["cli_echo", "--unique-for", "long", "--dedupe-key", "k"], 2, ["long", "--unique-for"]),
        (
            ["cli_echo", "--unique-for", "1h", "--dedupe-key", "k", "--every", "1h"],
            1,
            ["recurring", "unique for a time"],
        ),
        (["cli_echo", "--unique-for", "1h", "--dedupe-key", "k", "--cron", "0 9 * * *"], 1, ["unique for a time"]),
    ],
)
def test_bad_input_is_refused_with_the_thing_and_the_way_out(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: list[str]
) -> None:
    with conn.changes_nothing():
        jobdeck("enqueue", *arguments).refused(code, *words)
        jobdeck("enqueue", *arguments, "--json").refused(code, *words)


NOBODY = "00000000-0000-0000-0000-000000000001"
CAMPAIGN = "0b7f2f7e-1f0c-4f5c-9a34-2f3e0f3f5a11"
DRAFT = "0b7f2f7e-1f0c-4f5c-9a34-2f3e0f3f5a12"
DISPATCH = "competitor_announcement_dispatch"
REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    *((name, {"nonsense": 1}, ["nonsense", "not a field"]) for name in JOB_TYPES.names if not name.startswith("cli_")),
    (DISPATCH, {}, ["campaignId"]),
    (DISPATCH, {"campaignId": NOBODY}, ["campaignId", "no such campaign"]),
    (DISPATCH, {"campaignId": NOBODY, "dryRun": True}, ["campaignId", "no such campaign"]),
    (DISPATCH, {"campaignId": DRAFT}, ["campaignId", "draft"]),
    ("sms_digest_processor", {"roles": ["coahc"]}, ["roles.0"]),
    ("sms_digest_processor", {"roles": []}, ["roles"]),
    ("sms_digest_processor", {"windowMinutes": -60}, ["windowMinutes"]),
    ("sms_digest_processor", {"windowMinutes": 0}, ["windowMinutes"]),
    ("admin_alert_dispatch", {"roles": ["owner"]}, ["roles.0"]),
    ("admin_alert_dispatch", {"windowMinutes": -1}, ["windowMinutes"]),
    ("release_parent_email_verification", {"staleHours": -1}, ["staleHours"]),
    ("message_read_receipts_backfill", {"maxRows": -1}, ["maxRows"]),
    ("game_platform_onboard_competitors", {"competitorIds": []}, ["competitorIds", "no id"]),
    ("game_platform_onboard_competitors", {"competitorIds": [" ", "nobody", ""]}, ["competitorIds", "no id"]),
    ("game_platform_onboard_competitors", {"forceReonboard": True}, ["forceReonboard", "competitorIds"]),
    ("game_platform_onboard_coaches", {"coachIds": ["", 7]}, ["coachIds", "no id"]),
]


def add_campaigns(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO competitor_announcement_campaigns (id, subject, body_markdown, body_html, status)
        VALUES (%s, 'Finals', 'Come', '<p>Come</p>', 'pending'), (%s, 'Finals', 'Come', '<p>Come</p>', 'draft')
        """,
        (CAMPAIGN, DRAFT),
    )


def assert_refused_everywhere(
    jobdeck: Jobdeck, conn: Connection, task_type: str, payload: dict[str, Any], words: list[str]
) -> None:
    """By each command and by what the dashboard calls, with these words; nothing is changed."""
    with conn.changes_nothing():
        given = json.dumps(payload)
        for arguments in (["enqueue"], ["enqueue", "--dry-run"], ["enqueue-many", "--count", "2"]):
            jobdeck(*arguments, task_type, "--payload", given).refused(1, task_type, *words)
        known, wanted = registry.load(), Wanted(task_type, payload)
        with pytest.raises(InvalidPayload) as caught:
            service.create(conn, known, wanted, settings=configuration.load(), actor="test")
        assert [word for word in words if word not in str(caught.value)] == []
        assert set(caught.value.problems) & {words[0], "payload"}
        with pytest.raises(InvalidPayload):
            service.rehearse(conn, known, wanted, None, settings=configuration.load(), actor="test")


@pytest.mark.parametrize(("task_type", "payload", "words"), REFUSED)
def test_what_no_run_could_carry_out_is_refused_by_its_field(
    jobdeck: Jobdeck,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    task_type: str,
    payload: dict[str, Any],
    words: list[str],
) -> None:
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    add_campaigns(conn)
    assert_refused_everywhere(jobdeck, conn, task_type, payload, words)


@pytest.mark.slow
def test_a_campaign_without_a_way_to_unsubscribe_is_refused_unless_allowed(jobdeck: Jobdeck, conn: Connection) -> None:
    add_campaigns(conn)
    words = ["allowWithoutUnsubscribe", "SENDGRID_UNSUBSCRIBE_GROUP_ID"]
    assert_refused_everywhere(jobdeck, conn, DISPATCH, {"campaignId": CAMPAIGN}, words)
    assert_refused_everywhere(jobdeck, conn, DISPATCH, {"campaignId": NOBODY}, ["campaignId", *words])
    for allowed in ({"allowWithoutUnsubscribe": True}, {"dryRun": True}):
        payload = json.dumps({"campaignId": CAMPAIGN} | allowed)
        assert jobdeck("enqueue", DISPATCH, "--payload", payload).code == 0


@pytest.mark.slow
def test_a_series_that_would_write_to_everyone_at_every_run_is_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    everyone, one = json.dumps({"force": True}), json.dumps({"force": True, "coachId": NOBODY})
    before = everything(conn)
    jobdeck("enqueue", "sms_digest_processor", "--every", "1h", "--payload", everyone).refused(1, "force", "coachId")
    wanted = Wanted("sms_digest_processor", {"force": True}, schedule=Every(minutes=60))
    with pytest.raises(InvalidPayload, match="force"):
        service.create(conn, registry.load(), wanted, settings=configuration.load(), actor="test")
    assert everything(conn) == before
    assert jobdeck("enqueue", "sms_digest_processor", "--every", "1h", "--payload", one).code == 0
    made = jobdeck("enqueue", "sms_digest_processor", "--payload", everyone, "--json").data["id"]
    before = everything(conn)
    jobdeck("edit", made, "--every", "1h").refused(1, "force", "coachId")
    assert everything(conn) == before
    assert jobdeck("edit", made, "--every", "1h", "--payload", "{}").code == 0
    conn.execute("UPDATE job_queue SET task_type = 'from_elsewhere' WHERE id = %s", (made,))
    assert jobdeck("edit", made, "--every", "2h").code == 0


@pytest.mark.slow
def test_a_second_series_alike_is_refused_unless_it_has_a_dedupe_key(jobdeck: Jobdeck, conn: Connection) -> None:
    series = ("enqueue", "cli_echo", "--every", "15m")
    first = jobdeck(*series, "--json").data["id"]
    with conn.changes_nothing():
        jobdeck(*series).refused(1, f"Job {first} is a series of cli_echo", "dedupe key")
        jobdeck(*series, "--dry-run").refused(1, first)
    assert jobdeck(*series, "--dedupe-key", "second").code == 0
    assert jobdeck("enqueue", "cli_echo", "--every", "30m").code == 0


def test_a_file_that_names_one_campaign_that_is_none_enqueues_nothing(
    jobdeck: Jobdeck, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    add_campaigns(conn)
    source = tmp_path / "jobs.jsonl"
    source.write_text("".join(json.dumps({"campaignId": one}) + "\n" for one in (CAMPAIGN, NOBODY)), encoding="utf-8")
    with conn.changes_nothing():
        jobdeck("enqueue-many", DISPATCH, "--file", str(source)).refused(1, "campaignId", "no such campaign")


@pytest.mark.slow
def test_a_job_is_not_changed_to_what_would_be_refused(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_UNSUBSCRIBE_GROUP_ID", "7")
    add_campaigns(conn)
    made = jobdeck("enqueue", DISPATCH, "--payload", json.dumps({"campaignId": CAMPAIGN}), "--json").data["id"]
    before, wrong = everything(conn), {"campaignId": NOBODY}
    jobdeck("edit", made, "--payload", json.dumps(wrong)).refused(1, "campaignId", "no such campaign")
    job = jobs.job(UUID(made)).run(conn)
    assert job is not None
    with pytest.raises(InvalidPayload):
        service.edit(conn, registry.load(), job, Wanted(DISPATCH, wrong), settings=configuration.load(), actor="test")
    assert everything(conn) == before


def test_enqueue_many_enqueues_a_count_of_one_payload(jobdeck: Jobdeck, conn: Connection) -> None:
    done = jobdeck("enqueue-many", "cli_echo", "--count", "7", "--payload", '{"times": 2}', "--yes", "--json").data
    assert (done["enqueued"], done["skipped"], len(set(done["ids"]))) == (7, 0, 7)
    assert conn.execute("SELECT count(*), count(DISTINCT payload) FROM job_queue").fetchone() == (7, 1)


def test_enqueue_many_reads_a_payload_a_line(
    jobdeck: Jobdeck, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = '{"message": "a"}\n\n{"message": "b"}\n'
    source = tmp_path / "jobs.jsonl"
    source.write_text(lines, encoding="utf-8")
    assert jobdeck("enqueue-many", "cli_echo", "--file", str(source)).code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert jobdeck("enqueue-many", "cli_echo", "--file", "-").code == 0
    found = conn.execute("SELECT payload->>'message', count(*) FROM job_queue GROUP BY 1 ORDER BY 1").fetchall()
    assert found == [("a", 2), ("b", 2)]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ('{"message": "a"}\n{"message": 1, "x": 2}\n', 1, ["Payload 2", "message", "x"]),
        ('{"message": "a"}\n{\n', 2, ["line 2"]),
        ("\n", 2, ["no payload"]),
        ('{"message": "\xff"}\n', 2, ["UTF-8"]),
    ],
)
def test_a_file_with_one_bad_line_enqueues_none_of_it(
    jobdeck: Jobdeck, conn: Connection, tmp_path: Path, content: str, code: int, words: list[str]
) -> None:
    source = tmp_path / "jobs.jsonl"
    source.write_text(content, encoding="latin-1")
    with conn.changes_nothing():
        jobdeck("enqueue-many", "cli_echo", "--file", str(source)).refused(code, *words)


@pytest.mark.parametrize("arguments", [[], ["--count", "2", "--file", "x"], ["--file", "/nowhere"], ["--count", "0"]])
def test_enqueue_many_wants_a_count_or_a_readable_file(jobdeck: Jobdeck, arguments: list[str]) -> None:
    jobdeck("enqueue-many", "cli_echo", *arguments).refused(2)


@pytest.mark.slow
def test_a_quick_sync_without_its_handler_is_refused_in_a_sentence(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", lambda _: registry.Registry([]))
    with conn.changes_nothing():
        for kind in ("full", "incremental", "totals"):
            jobdeck("quick-sync", kind).refused(1, "no handler", "game_platform")


def test_a_quick_sync_that_is_none_lists_those_there_are(jobdeck: Jobdeck) -> None:
    jobdeck("quick-sync", "partial").refused(2, "full", "incremental", "totals")


@pytest.mark.slow
def test_a_full_sync_is_two_jobs_the_second_blocked_and_a_second_press_doubles_nothing(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [
        replace(JOB_TYPES.require("cli_echo"), task_type=task_type)
        for task_type in plugins.presets()["full"].task_types
    ]
    monkeypatch.setattr(registry, "load", lambda _: registry.Registry(named))
    with conn.changes_nothing():
        assert jobdeck("quick-sync", "full", "--dry-run").code == 0
    first = jobdeck("quick-sync", "full", "--json").data["jobs"]
    assert [job["task_type"] for job in first] == ["game_platform_sync", "game_platform_totals_sweep"]
    assert first[1]["blocked_by"] == first[0]["id"]
    again = jobdeck("quick-sync", "full", "--json").data["jobs"]
    assert [job["id"] for job in again] == [job["id"] for job in first]
    assert not any(job["created"] for job in again)
    assert conn.execute("SELECT count(*) FROM job_queue").fetchone() == (2,)


def test_times_are_printed_in_utc_whatever_the_database_speaks(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    job = jobdeck("enqueue", "cli_echo", "--at", "2030-01-01T09:00+05:30", "--json").data
    assert job["run_at"] == "2030-01-01T03:30:00Z"
    assert datetime.fromisoformat(job["created_at"]).tzinfo == UTC
