"""Commands that look: what they show, in which shape, and that nothing hostile or secret comes through."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import datetime, timedelta

import pytest

from jobdeck.core.model import Job, Run
from jobdeck.core.queue import operator, presence
from jobdeck.core.read import jobs
from jobdeck.core.read.filters import SORTS
from jobdeck.core.redact import clean
from tests.core.cli.support import Jobdeck, enqueued
from tests.support.health import announce
from tests.support.queue import Connection

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]\u202egnp.exe\r\n\x9b31m"
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) != "\n"]


@pytest.mark.slow
def test_jobs_pages_through_all_of_them_once(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = {str(enqueued(conn)) for _ in range(5)}
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = jobdeck("jobs", "--limit", "2", "--json", *cursor).data
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = ["--after", page["next"]]
    assert len(seen) == 5
    assert set(seen) == ids
    first = jobdeck("jobs", "--limit", "2")
    assert len(first.out.splitlines()) == 3
    assert "--after" in first.err


@pytest.mark.slow
def test_jobs_narrows_by_its_options_and_by_a_filter(jobdeck: Jobdeck, conn: Connection) -> None:
    red, blue = enqueued(conn, message="red"), enqueued(conn, message="blue")
    other = enqueued(conn, "from_elsewhere")
    operator.cancel(conn, [blue], actor="test")

    def ids(*arguments: str) -> set[str]:
        return {job["id"] for job in jobdeck("jobs", "--json", *arguments).data["jobs"]}

    assert ids("--status", "cancelled") == {str(blue)}
    assert ids("--type", "from_elsewhere") == {str(other)}
    assert ids("--search", "red") == {str(red)}
    assert ids("--filter", "status:pending type:cli_echo") == {str(red)}
    assert ids("--filter", "type:cli_echo", "--search", "blue") == {str(blue)}
    assert ids("--status", "overdue") == ids("--filter", "status:overdue") == set()
    assert ids("--status", "at-limit") == set()
    jobdeck("jobs", "--filter", "status:failed", "--status", "pending").refused(2, "--filter", "status")
    jobdeck("jobs", "--filter", "status:pending", "--status", "at-limit").refused(2, "--filter", "status")


@pytest.mark.slow
def test_of_a_job_that_left_the_queue_only_what_is_known_is_shown(jobdeck: Jobdeck, conn: Connection) -> None:
    told = enqueued(conn)
    untold = conn.execute(
        "INSERT INTO job_queue (id, task_type) VALUES (gen_random_uuid(), 'cli_echo') RETURNING id"
    ).fetchone()
    assert untold is not None
    queued = jobs.job(told).run(conn)
    assert queued is not None
    assert queued.created_at is not None
    assert jobdeck("run-worker", "--json").data["succeeded"] == 2
    job = jobdeck("job", str(told), "--json").data
    assert (job["attempts"], job["max_attempts"], job["priority"]) == (1, None, None)
    assert job["created_by"] == queued.created_by
    assert abs(datetime.fromisoformat(job["created_at"]) - queued.created_at) < timedelta(seconds=30)
    assert jobdeck("job", str(untold[0]), "--json").data["created_at"] is None
    text = jobdeck("job", str(untold[0])).out
    assert re.search(r"^attempts +1/-$", text, re.MULTILINE)
    assert re.search(r"^created +-$", text, re.MULTILINE)
    assert "version" not in text
    listed = jobdeck("jobs", "--status", "succeeded").out
    assert ["  1/-  " in line for line in listed.splitlines()[1:]] == [True, True]


@pytest.mark.slow
def test_an_empty_list_says_so(jobdeck: Jobdeck) -> None:
    assert jobdeck("jobs").out == "No jobs.\n"
    assert jobdeck("runs").out == "No runs.\n"
    assert jobdeck("errors").out == "No failed runs.\n"
    assert jobdeck("audit").out == "No entries.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "--after", "nonsense"],
        ["jobs", "--after", "٣"],
        ["runs", "--after", "nonsense"],
        ["runs", "--after", "9" * 30],
        ["runs", "--after", "²"],
        ["jobs", "--status", "broken"],
        ["jobs", "--sort", "colour"],
        ["runs", "--outcome", "fine"],
        ["runs", "--job", "nonsense"],
        ["errors", "--since", "long ago"],
        ["audit", "--since", "0d"],
        ["job", "nonsense"],
        ["why", "nonsense"],
    ],
)
def test_what_cannot_be_looked_up_is_refused(jobdeck: Jobdeck, arguments: list[str]) -> None:
    jobdeck(*arguments).refused(2)


@pytest.mark.parametrize("name", ["job", "why"])
def test_a_job_that_is_not_there_is_refused(jobdeck: Jobdeck, name: str) -> None:
    jobdeck(name, "11111111-1111-1111-1111-111111111111").refused(1, "11111111", "job")


@pytest.mark.slow
def test_the_orders_offered_are_those_there_are(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn)
    for order in SORTS:
        assert len(jobdeck("jobs", "--sort", order, "--ascending", "--json").data["jobs"]) == 1


@pytest.mark.slow
def test_hostile_text_from_the_database_is_harmless(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, HOSTILE, message=HOSTILE)
    conn.execute("UPDATE job_queue SET status = 'failed', last_error = %s, dedupe_key = %s", [HOSTILE, HOSTILE])
    operator.pause(conn, reason=HOSTILE, actor=HOSTILE)
    for arguments in (["jobs"], ["job", str(job)], ["why", str(job)], ["status"], ["audit"], ["health"]):
        shown = jobdeck(*arguments)
        assert shown.code in {0, 4}
        assert not [control for control in CONTROLS if control in shown.out + shown.err]
        assert "\u202e" not in shown.out
        printed = jobdeck(*arguments, "--json").out
        assert printed.isascii()
        assert not [control for control in CONTROLS if control in printed]
    rows = jobdeck("jobs").out.splitlines()
    assert len(rows) == 2
    assert jobdeck("jobs", "--json").data["jobs"][0]["last_error"] == clean(HOSTILE, multiline=True)


def test_personal_data_is_masked_where_people_read(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="write to someone@example.org", password="hunter2")
    for arguments in (["jobs"], ["job", str(job)]):
        shown = jobdeck(*arguments).out
        assert "someone@example.org" not in shown
        assert "hunter2" not in shown


@pytest.mark.slow
def test_a_job_shows_its_runs_why_and_audit(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, "cli_refuse", reason="the field is wet")
    assert jobdeck("run-worker").code == 0
    operator.retry(conn, [job], actor="someone", reason="dry again")
    data = jobdeck("job", str(job), "--json").data
    assert {found.name for found in fields(Job)} <= data.keys()
    [run] = data["runs"]
    assert {found.name for found in fields(Run)} == run.keys()
    assert (run["outcome"], run["error_kind"]) == ("failed", "permanent")
    assert [entry["action"] for entry in data["audit"]] == ["retry"]
    assert any(not clause["holds"] for clause in data["why"]) or data["status"] == "pending"
    shown = jobdeck("job", str(job)).out
    for words in ("the field is wet", "dry again", "cli_refuse", "CLAUSE"):
        assert words in shown


@pytest.mark.slow
def test_a_job_shows_the_trace_in_which_it_was_enqueued_or_ran_last(jobdeck: Jobdeck, conn: Connection) -> None:
    begun, ran = (f"00-{number * 16}-b7ad6b7169203331-01" for number in ("0a", "1b"))
    with conn.transaction():
        conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (begun,))
        job = enqueued(conn)

    def shown() -> object:
        assert ("\ntrace " in jobdeck("job", str(job)).out) == (
            jobdeck("job", str(job), "--json").data["trace_id"] is not None
        )
        return jobdeck("job", str(job), "--json").data["trace_id"]

    assert shown() == "0a" * 16
    conn.execute("UPDATE job_queue SET run_trace = %s", (ran,))
    assert shown() == "1b" * 16
    conn.execute("UPDATE job_queue SET run_trace = %s", ("00-\x1b[2J",))
    assert shown() is None


@pytest.mark.slow
def test_runs_outlive_their_jobs_and_can_be_narrowed(jobdeck: Jobdeck, conn: Connection) -> None:
    done, failed = enqueued(conn), enqueued(conn, "cli_refuse")
    assert jobdeck("run-worker").code == 0

    def jobs_of(*arguments: str) -> set[str]:
        return {run["job_id"] for run in jobdeck("runs", "--json", *arguments).data["runs"]}

    assert jobs_of() == {str(done), str(failed)}
    assert jobs_of("--job", str(done)) == {str(done)}
    assert jobs_of("--type", "cli_refuse") == {str(failed)}
    assert jobs_of("--outcome", "succeeded") == {str(done)}
    page = jobdeck("runs", "--limit", "1", "--json").data
    rest = jobdeck("runs", "--after", page["next"], "--json").data
    assert page["runs"] + rest["runs"] == jobdeck("runs", "--json").data["runs"]
    assert rest["next"] is None
    jobdeck("why", str(done)).refused(1, "not in the queue", "jobdeck runs")


@pytest.mark.slow
def test_errors_that_the_newest_release_brought_are_listed_alone(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, "cli_refuse", reason="no room")
    assert jobdeck("run-worker").code == 0
    jobdeck("errors", "--new").refused(1, "one release only", "SENTRY_RELEASE")
    presence.declare_values(conn, (), release="shop@2", worker_id="")
    assert jobdeck("errors", "--new").out == "No group of errors is new in shop@2.\n"
    enqueued(conn, "cli_refuse", reason="it burns")
    assert jobdeck("run-worker").code == 0
    data = jobdeck("errors", "--new", "--json").data
    assert [(group["sample"], group["new_in_release"]) for group in data["errors"]] == [("it burns", True)]
    assert data["release"]["name"] == "shop@2"
    assert [group["new_in_release"] for group in jobdeck("errors", "--json").data["errors"]] == [True, False]
    assert "new in release" in jobdeck("errors").out


@pytest.mark.slow
def test_errors_are_grouped(jobdeck: Jobdeck, conn: Connection) -> None:
    for number in range(3):
        enqueued(conn, "cli_refuse", reason=f"no room for {number} more")
    assert jobdeck("run-worker").code == 0
    [group] = jobdeck("errors", "--json").data["errors"]
    assert (group["task_type"], group["count"], len(group["job_ids"])) == ("cli_refuse", 3, 3)
    assert "no room" in jobdeck("errors").out


def test_why_says_for_each_clause_whether_it_holds(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    operator.pause(conn, reason="lunch", actor="someone")
    answer = jobdeck("why", str(job), "--json").data
    assert (answer["id"], answer["claimable"]) == (str(job), False)
    assert "lunch" in json.dumps(answer["clauses"])
    shown = jobdeck("why", str(job)).out
    assert "lunch" in shown
    assert "NO" in shown


def test_types_lists_the_registry_with_payload_schema_and_policy(jobdeck: Jobdeck) -> None:
    found = {entry["task_type"]: entry for entry in jobdeck("types", "--json").data["types"]}
    echo = found["cli_echo"]
    assert (echo["label"], echo["purpose"], echo["max_attempts"]) == ("Echo", "Say a message", 3)
    assert echo["recurring_every_minutes"] == 15
    assert "coachId" in echo["payload_schema"]["properties"]
    assert "coachId" in jobdeck("types").out


@pytest.mark.slow
def test_status_shows_counts_switch_workers_and_how_recent_runs_ended(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn)
    enqueued(conn, "cli_refuse")
    assert jobdeck("run-worker").code == 0
    enqueued(conn)
    operator.pause(conn, reason="lunch", actor="someone")
    operator.pause(conn, reason="bad data", actor="someone", task_type="cli_wait")
    data = jobdeck("status", "--json").data
    assert data["counts"] == {
        "pending": 1, "running": 0, "succeeded": 0, "failed": 1, "cancelled": 0, "removed": 1, "claimed": 0,
            "total": 2,
        "at_least": dict.fromkeys(
            ("pending", "running", "succeeded", "failed", "cancelled", "removed", "claimed", "total"), False
        ),
    }  # fmt: skip
    (line,) = data["waiting"]
    assert (line["task_type"], line["waiting"], line["at_least"], line["overdue"]) == ("cli_echo", 1, False, 0)
    assert data["processing"]["paused_reason"] == "lunch"
    assert [pause["task_type"] for pause in data["processing"]["paused_types"]] == ["cli_wait"]
    assert data["last_trigger"]["source"] == "cli"
    assert data["recent_runs"] == [
        {"task_type": "cli_echo", "outcome": "succeeded", "dry_run": False, "count": 1},
        {"task_type": "cli_refuse", "outcome": "failed", "dry_run": False, "count": 1},
    ]
    shown = jobdeck("status").out
    for words in ("PAUSED by someone", "lunch", "bad data", "cli_refuse", "2 in the queue: 1 pending, 1 failed\n"):
        assert words in shown


def test_status_says_of_jobs_behind_a_key_what_health_says(jobdeck: Jobdeck, conn: Connection) -> None:
    assert "longest wait  no backlog\n" in jobdeck("status").out
    conn.add("cli_echo", concurrency_key="k")
    conn.claim_one(("cli_echo",))
    conn.add_waiting(conn.now() - timedelta(minutes=3), "cli_echo", concurrency_key="k")
    assert "longest wait  1 job waits until its concurrency key is free, for 3m\n" in jobdeck("status").out
    operator.pause(conn, reason=None, actor="test", task_type="cli_wait")
    conn.execute("DELETE FROM job_queue")
    enqueued(conn, "cli_wait")
    assert "longest wait  no job waits for a worker\n" in jobdeck("status").out


@pytest.mark.slow
def test_status_says_that_there_are_more_than_ten_thousand(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (id, task_type, run_at, created_at)
        SELECT md5('push' || n)::uuid, 'cli_echo', now() - interval '1 hour', now() - interval '1 hour'
        FROM generate_series(1, 10500) AS n
        """
    )
    data = jobdeck("status", "--json").data
    (line,) = data["waiting"]
    assert (line["at_least"], line["overdue_at_least"]) == (True, True)
    for number in (line["waiting"], line["overdue"], data["counts"]["pending"], data["counts"]["total"]):
        assert number == 10_001
    assert {name for name, more in data["counts"]["at_least"].items() if more} == {"pending", "total"}
    text = " ".join(jobdeck("status").out.split())
    assert "10,000+ in the queue: 10,000+ pending" in text
    assert "cli_echo 10,000+ 10,000+ 1h" in text
    assert "10,000+ pending, 0 failed" in jobdeck("digest").out


@pytest.mark.slow
def test_why_says_how_many_jobs_are_ahead_and_the_claim_may_still_take_it(jobdeck: Jobdeck, conn: Connection) -> None:
    first, second = enqueued(conn), enqueued(conn)
    announce(conn, types=["cli_echo"])
    answer = jobdeck("why", str(second), "--json").data
    assert answer["claimable"] is True
    assert answer["clauses"][-1]["facts"] == {"ahead": 1, "at_least": False, "per_second": None}
    assert "1 due job is ahead" in jobdeck("why", str(second)).out
    assert "No due job is ahead." in jobdeck("why", str(first)).out


@pytest.mark.slow
def test_personal_data_is_masked_in_json_as_well_until_it_is_revealed_which_is_on_record(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    job = enqueued(conn, message="write to mara@example.org")
    looks = "SELECT count(*) FROM job_audit WHERE action = 'reveal' AND job_id = %s"
    for arguments in (["job", str(job)], ["jobs"]):
        for form in ([], ["--json"]):
            assert "mara@example.org" not in jobdeck(*arguments, *form).out
    assert conn.execute(looks, (job,)).fetchone() == (0,)
    assert jobdeck("job", str(job), "--reveal", "--json").data["payload"] == {"message": "write to mara@example.org"}
    assert "mara@example.org" in jobdeck("job", str(job), "--reveal").out
    assert conn.execute(looks, (job,)).fetchone() == (2,)


@pytest.mark.slow
def test_health_is_exit_code_4_when_it_is_critical(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn)
    conn.execute("UPDATE job_queue SET run_at = now() - interval '2 hours'")
    ran = jobdeck("health", "--json")
    assert ran.code == 4
    assert ran.data["verdict"] == "critical"
    assert jobdeck("health").code == 4
    worst = ran.data["findings"][0]["evidence"]
    assert f"critical: {worst}" in jobdeck("status").out
    operator.pause(conn, reason="lunch", actor="someone")
    assert jobdeck("health", "--json").data["verdict"] != "ok"


def test_audit_says_who_did_what(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    operator.cancel(conn, [job], actor="someone@local", reason="not now")
    [entry] = jobdeck("audit", "--job", str(job), "--since", "1h", "--json").data["audit"]
    assert (entry["actor"].split()[0], entry["action"], entry["reason"]) == ("someone@local", "cancel", "not now")
    assert "not now" in jobdeck("audit").out


@pytest.mark.slow
def test_looking_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    job = str(enqueued(conn))
    with conn.changes_nothing():
        for arguments in (
            ["jobs"], ["job", job], ["runs"], ["why", job], ["types"], ["status"], ["health"], ["errors"], ["audit"],
            ["doctor"], ["cleanup"], ["purge"], ["run-worker", "--dry-run"], ["init", "--dry-run"],
        ):  # fmt: skip
            assert jobdeck(*arguments).code in {0, 4}
