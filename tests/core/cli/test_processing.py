"""Commands for the whole queue: the processing switch, stuck jobs, old jobs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jobdeck.core.queue import leases, operator
from jobdeck.core.read import jobs
from jobdeck.core.words.plain import pauses
from tests.core.cli.support import Jobdeck, enqueued, everything
from tests.support.queue import Connection


def enabled(conn: Connection) -> bool:
    return jobs.processing().run(conn).enabled


def test_pause_and_resume_turn_the_switch(jobdeck: Jobdeck, conn: Connection) -> None:
    paused = jobdeck("pause", "--reason", "vendor down", "--json").data
    assert (paused["enabled"], paused["paused_reason"]) == (False, "vendor down")
    assert "@" in paused["paused_by"]
    assert not enabled(conn)
    assert jobdeck("resume").out == "Processing resumed.\n"
    assert enabled(conn)
    assert jobdeck("resume").out == "Processing was not paused.\n"


def test_a_pause_may_end_by_itself(jobdeck: Jobdeck) -> None:
    until = jobdeck("pause", "--until", "2099-01-01", "--json").data
    assert until["resume_at"] == "2099-01-01T00:00:00Z"
    lasting = jobdeck("pause", "--for", "30m", "--json").data
    begun, end = (datetime.fromisoformat(lasting[name]) for name in ("paused_at", "resume_at"))
    assert abs(end - begun - timedelta(minutes=30)) < timedelta(minutes=1)
    assert "until" in jobdeck("pause", "--until", "2099-01-01").out


def test_one_task_type_is_paused_and_resumed_alone(jobdeck: Jobdeck, conn: Connection) -> None:
    paused = jobdeck("pause", "--type", "cli_echo", "--reason", "bad data", "--json").data
    assert [found["task_type"] for found in paused["paused_types"]] == ["cli_echo"]
    assert enabled(conn)
    jobdeck("resume", "--type", "cli_wait").refused(1, "cli_wait", "not paused")
    assert jobdeck("resume", "--type", "cli_echo", "--json").data["paused_types"] == []


def test_a_queue_is_paused_and_resumed(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("INSERT INTO job_types (task_type, queue) VALUES ('cli_echo', 'mail'), ('cli_wait', 'mail')")
    said = jobdeck("pause", "--queue", "mail", "--reason", "relay is down", "--for", "1h").out
    assert said.startswith("Processing of queue mail is paused until ")
    assert "queue mail" in jobdeck("status").out
    assert "with queue mail" in jobdeck("types", "list").out
    (mail,) = (one for one in jobdeck("types", "queues", "--json").data["queues"] if one["queue"] == "mail")
    assert mail["paused"] == ["cli_echo", "cli_wait"]
    assert "pause queue mail" in jobdeck("digest").out
    jobdeck("resume", "--type", "cli_echo").refused(1, "paused with its queue mail", "jobdeck resume --queue mail")
    jobdeck("pause", "--type", "cli_echo", "--reason", "bad data")
    stays = "Processing of cli_echo resumed. It stays paused with its queue mail.\n"
    assert jobdeck("resume", "--type", "cli_echo").out == stays
    before = everything(conn)
    assert jobdeck("resume", "--queue", "mail", "--dry-run").out.startswith(
        "Processing of queue mail would be resumed."
    )
    assert everything(conn) == before
    assert jobdeck("resume", "--queue", "mail").out == "Processing of queue mail resumed.\n"
    assert pauses(jobs.processing().run(conn)) == ()


def test_a_dry_run_turns_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    before = everything(conn)
    assert "would be" in jobdeck("pause", "--reason", "x", "--dry-run").out
    assert everything(conn) == before
    operator.pause(conn, reason="x", actor="test")
    before = everything(conn)
    assert "would be" in jobdeck("resume", "--dry-run").out
    assert everything(conn) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pause", "--until", "soon"], 2, ["soon", "--until"]),
        (["pause", "--until", "2020-01-01"], 2, ["2020-01-01", "past"]),
        (["pause", "--for", "0m"], 2, ["0m", "--for"]),
        (["pause", "--until", "2099-01-01", "--for", "1h"], 2, ["--until", "--for"]),
        (["pause", "--type", "cli_ecco"], 1, ["cli_ecco", "cli_echo"]),
        (["pause", "--queue", "mial"], 1, ["No task type is in the queue mial", "default"]),
        (["pause", "--queue", "mail", "--type", "cli_echo"], 2, ["--type", "--queue"]),
        (["resume", "--queue", "mail"], 1, ["queue mail is not paused"]),
        (["resume", "--queue", "mail", "--type", "cli_echo"], 2, ["--type", "--queue"]),
        (["cleanup", "--older-than", "20"], 2, ["20", "--older-than"]),
        (["purge", "--older-than", "-1d"], 2, ["-1d", "--older-than"]),
        (["purge", "--older-than", "0d"], 2, ["0d", "--older-than"]),
    ],
)
def test_bad_input_turns_and_removes_nothing(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: list[str]
) -> None:
    with conn.changes_nothing():
        jobdeck(*arguments).refused(code, *words)


def test_cleanup_lists_stuck_jobs_and_with_yes_marks_them_failed(jobdeck: Jobdeck, conn: Connection) -> None:
    stuck = enqueued(conn)
    leases.claim(conn, "a worker that died", ["cli_echo"], 1, 60)
    assert jobdeck("cleanup").out == "No stuck jobs.\n"
    conn.execute(
        "UPDATE job_queue SET lease_expires_at = now() - interval '1 hour', started_at = now() - interval '2 h'"
    )
    enqueued(conn)
    [healthy] = leases.claim(conn, "a worker that lives", ["cli_echo"], 1, 60)
    with conn.changes_nothing():
        listed = jobdeck("cleanup", "--json")
        assert [found["id"] for found in listed.data["results"]] == [str(stuck)]
        assert "--yes" in listed.err
        assert jobdeck("cleanup", "--dry-run", "--yes").code == 0
    assert jobdeck("cleanup", "--older-than", "3h", "--yes", "--json").data["results"] == []
    assert jobdeck("cleanup", "--yes").code == 0
    found = dict(conn.execute("SELECT id, status FROM job_queue").fetchall())
    assert found == {stuck: "failed", healthy.id: "running"}


@pytest.mark.slow
def test_cleanup_with_ids_marks_those_alone_and_says_of_each_whether_it_is_stuck(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    one, other, waiting = (enqueued(conn) for _ in range(3))
    conn.execute("UPDATE job_queue SET run_at = now() + interval '1 day' WHERE id = %s", (waiting,))
    leases.claim(conn, "a worker that died", ["cli_echo"], 2, 60)
    conn.execute(
        "UPDATE job_queue SET lease_expires_at = now() - interval '1 hour', started_at = now() - interval '2 h'"
        " WHERE status = 'running'"
    )
    with conn.changes_nothing():
        looked = jobdeck("cleanup", str(one), "--json")
        assert [found["id"] for found in looked.data["results"]] == [str(one)]
        refused = jobdeck("cleanup", str(waiting), "--yes", "--json")
        assert refused.code == 1
        assert [(found["ok"], "Not stuck" in found["message"]) for found in refused.data["results"]] == [(False, True)]
    assert jobdeck("cleanup", str(one), "--yes").code == 0
    found = dict(conn.execute("SELECT id, status FROM job_queue").fetchall())
    assert found == {one: "failed", other: "running", waiting: "pending"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 2])
def test_purge_counts_old_jobs_and_with_yes_removes_them(jobdeck: Jobdeck, conn: Connection, count: int) -> None:
    kept = enqueued(conn)
    old = [enqueued(conn) for _ in range(count)]
    operator.cancel(conn, old, actor="test")
    conn.execute("UPDATE job_queue SET completed_at = now() - interval '20 days' WHERE status = 'cancelled'")
    with conn.changes_nothing():
        looked = jobdeck("purge", "--json").data
        assert (looked["purged"], looked["dry_run"]) == (count, True)
        assert jobdeck("purge", "--older-than", "30 days", "--yes", "--json").data["purged"] == 0
    assert jobdeck("purge", "--yes", "--json").data["purged"] == count
    assert conn.execute("SELECT id FROM job_queue").fetchall() == [(kept,)]
    found = [entry for entry in jobdeck("audit", "--json").data["audit"] if entry["action"] == "purge"]
    assert [entry["after"]["jobs"] for entry in found] == [count] * bool(count)
