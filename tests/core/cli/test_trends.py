"""`jobdeck trends` and `jobdeck series`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.core.cli.support import Jobdeck
from tests.support.queue import Connection

HOUR = timedelta(hours=1)


def test_trends_of_all_types_are_a_table_and_json(jobdeck: Jobdeck, conn: Connection) -> None:
    for outcome in ("succeeded", "failed"):
        conn.add(max_attempts=1)
        conn.run_once(outcome=outcome, error="boom")
    conn.ended_now()
    conn.add("beta")
    conn.execute("SELECT job_backlog_sample()")
    jobdeck("pause", "--type", "beta")
    data = jobdeck("trends", "--since", "6h", "--json").data
    assert (data["total"]["succeeded"], data["total"]["failed"], data["step_seconds"]) == (1, 1, 300.0)
    assert [one["task_type"] for one in data["types"]] == ["alpha"]
    assert data["types"][0]["outcomes"] == {"failed": 1, "succeeded": 1}
    assert 1 in [one["backlog"] for one in data["course"][-2:]]
    assert data["course"][0]["backlog"] is None
    assert [(mark["kind"], mark["name"]) for mark in data["marks"]] == [("pause", "beta")]
    text = jobdeck("trends", "--since", "6h").out
    assert text.splitlines()[0].split()[:4] == ["TYPE", "RUNS", "OK", "FAILED"]
    assert text.splitlines()[1].split()[:5] == ["all", "types", "2", "1", "1"]
    assert "Runs are counted since" in text
    assert "pause beta" in text


def test_trends_of_one_type_are_in_steps_of_time(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add()
    conn.run_once()
    conn.ended_now()
    data = jobdeck("trends", "--since", "1h", "--type", "alpha", "--json").data
    assert sum(one["succeeded"] for one in data["course"]) == 1
    table = jobdeck("trends", "--since", "1h", "--type", "alpha").out.splitlines()
    assert table[0].split()[:2] == ["FROM", "RUNS"]
    assert len(table) > 12


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--since", "31d"], 2, ["30 days"]),
        (["--since", "1m"], 2, ["5 minutes"]),
        (["--since", "soon"], 2, ["--since", "not a duration"]),
        (["--type", "cli_ecco"], 1, ["cli_ecco"]),
    ],
)
def test_a_window_or_type_that_cannot_be_is_refused(
    jobdeck: Jobdeck, arguments: list[str], code: int, words: list[str]
) -> None:
    jobdeck("trends", *arguments).refused(code, *words)


@pytest.mark.slow
def test_series_are_listed_and_one_run_is_skipped(jobdeck: Jobdeck, conn: Connection) -> None:
    assert jobdeck("series").out == "No recurring jobs.\n"
    job = conn.add(run_at=conn.now() + HOUR, recurrence_interval_minutes=30)
    conn.add("once")
    (row,) = jobdeck("series", "--json").data["series"]
    assert (row["id"], row["interval_minutes"], row["streak"], row["late_seconds"]) == (str(job.id), 30, 0, None)
    with conn.changes_nothing():
        assert "would run next" in jobdeck("series", "skip", str(job.id), "--dry-run").out
    ran = jobdeck("series", "skip", str(job.id), "--reason", "maintenance")
    assert f"{job.run_at + HOUR / 2:%Y-%m-%d %H:%M}Z" in ran.out
    assert [one["action"] for one in jobdeck("audit", "--json").data["audit"]] == ["skip"]


@pytest.mark.slow
def test_one_series_is_paused_and_resumed_and_the_list_says_so(jobdeck: Jobdeck, conn: Connection) -> None:
    job = conn.add(run_at=conn.now() + HOUR, recurrence_interval_minutes=30)
    conn.add(run_at=conn.now() + HOUR, recurrence_interval_minutes=30)
    jobdeck("series", "pause").refused(2, "Name the recurring job", "jobdeck series pause ID")
    jobdeck("series", "puase", str(job.id)).refused(2, 'did you mean "pause"')
    with conn.changes_nothing():
        assert "would not run" in jobdeck("series", "pause", str(job.id), "--dry-run").out
    assert "Paused" in jobdeck("series", "pause", str(job.id), "--reason", "the vendor moves").out
    found = {row["id"]: row for row in jobdeck("series", "--json").data["series"]}
    assert (found[str(job.id)]["paused"], found[str(job.id)]["pause"]["reason"]) == (True, "the vendor moves")
    assert [row["paused"] for row in found.values()].count(True) == 1
    assert jobdeck("series").out.count("pending, paused") == 1
    assert "the series is paused" in jobdeck("job", str(job.id)).out
    ran = jobdeck("retry", str(job.id))
    assert (ran.code, f"jobdeck series resume {job.id}" in ran.out.replace("\n", " ")) == (1, True)
    assert "Resumed" in jobdeck("series", "resume", str(job.id)).out
    assert jobdeck("series", "resume", str(job.id)).code == 1


def test_a_job_that_is_no_series_is_not_skipped(jobdeck: Jobdeck, conn: Connection) -> None:
    job = conn.add()
    ran = jobdeck("series", "skip", str(job.id))
    assert ran.code == 1
    assert "not recurring" in ran.out
