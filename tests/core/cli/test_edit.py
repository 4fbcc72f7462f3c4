"""`edit` of many jobs: a dry run with the differences, `--yes`, refused jobs one by one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.cli.support import Jobdeck, enqueued
from tests.support.queue import Connection

MANY = ("edit", "--filter", "type:cli_echo", "--set", "message=moved")


def payloads(conn: Connection) -> list[Any]:
    return [row[0] for row in conn.execute("SELECT payload FROM job_queue ORDER BY id").fetchall()]


def test_a_dry_run_shows_the_differences_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    first = enqueued(conn, message="here", times=2)
    enqueued(conn, message="moved")
    wrong = enqueued(conn, times=99)
    with conn.changes_nothing():
        ran = jobdeck(*MANY, "--dry-run")
        assert ran.code == 1
        for words in (
            "This would edit 1 of 3 jobs; 1 have nothing to change, 1 are refused.", str(first), str(wrong),
            '~ message: "here" → "moved"', "times",
        ):  # fmt: skip
            assert words in ran.out, words
        data = jobdeck(*MANY, "--dry-run", "--json").data
        assert (data["jobs"], data["changed"], data["unchanged"], data["refused"]) == (3, 1, 1, 1)
        assert data["first"] == [
            {"id": str(first), "diff": {"keys": [{"key": "message", "old": '"here"', "new": '"moved"'}], "left_out": 0}}
        ]


@pytest.mark.slow
def test_it_needs_yes_then_edits_each_job_and_lists_the_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, message="here", times=2)
    wrong = enqueued(conn, times=99)
    with conn.changes_nothing():
        jobdeck(*MANY).refused(1, "edit 2 jobs", "--yes")
    ran = jobdeck(*MANY, "--unset", "times", "--reason", "moved house", "--yes", "--json")
    assert ran.code == 0
    assert (ran.data["action"], ran.data["state"], ran.data["done"], ran.data["refused"]) == ("edit", "finished", 2, 0)
    assert payloads(conn) == [{"message": "moved"}, {"message": "moved"}]
    assert {row["reason"] for row in conn.audit_rows("edit")} == {"moved house"}
    again = jobdeck("edit", "--bulk", ran.data["bulk"][-8:], "--set", "times=99", "--yes", "--json")
    assert (again.code, again.data["refused"]) == (1, 2)
    assert str(wrong) in {one["id"] for one in again.data["results"]}


@pytest.mark.slow
def test_an_edit_of_many_is_undone_and_what_was_changed_since_is_counted(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, message="here", times=2)
    changed = enqueued(conn, message="there")
    bulk = jobdeck(*MANY, "--yes", "--json").data["bulk"]
    assert jobdeck("edit", str(changed), "--set", "message=elsewhere").code == 0
    with conn.changes_nothing():
        jobdeck("bulk", "undo", bulk).refused(1, "This would revert 2 jobs")
        assert "revert 2 jobs" in jobdeck("bulk", "undo", bulk, "--dry-run").out
    ran = jobdeck("bulk", "undo", bulk[-8:], "--yes")
    assert ran.code == 1
    assert "revert finished: 2 of 2 jobs, 1 of them refused." in ran.out
    assert str(changed) in ran.out
    assert payloads(conn) == [{"message": "here", "times": 2}, {"message": "elsewhere"}]


def test_one_job_is_edited_key_by_key_too(jobdeck: Jobdeck, conn: Connection) -> None:
    job = str(enqueued(conn, message="here", times=2))
    assert '+ coachId: "7"' in jobdeck("edit", job, "--set", 'coachId="7"', "--dry-run").out
    assert jobdeck("edit", job, "--set", 'coachId="7"', "--unset", "times").code == 0
    assert payloads(conn) == [{"message": "here", "coachId": "7"}]
    jobdeck("edit", job, "--set", "times=99").refused(1, "times")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "an ID, --filter or --bulk"),
        (["a", "--filter", "x", "--set", "a=1"], "an ID, --filter or --bulk"),
        (["--filter", "type:cli_echo"], "Give --set or --unset"),
        (["--filter", "type:cli_echo", "--set", "a=1", "--priority", "3"], "nothing else"),
        (["--filter", "type:cli_echo", "--set", "a"], "KEY=VALUE"),
        (["--filter", "statu:x", "--set", "a=1"], "statu"),
        (["00000000", "--set", "a=1", "--payload", "{}"], "Give one of them"),
    ],
)
def test_what_cannot_be_read_is_refused(jobdeck: Jobdeck, conn: Connection, arguments: list[str], words: str) -> None:
    enqueued(conn)
    with conn.changes_nothing():
        jobdeck("edit", *arguments).refused(2, words)
    assert "No job matches" in jobdeck("edit", "--filter", "type:nobody", "--set", "a=1").out


@pytest.mark.slow
@pytest.mark.parametrize("payload", ['"text"', "[1]", "5", "null"])
def test_a_payload_that_is_no_object_can_be_edited(jobdeck: Jobdeck, conn: Connection, payload: str) -> None:
    job = enqueued(conn)
    conn.execute("UPDATE job_queue SET payload = %s::jsonb", (payload,))
    with conn.changes_nothing():
        assert f'{payload} → {{"message": "moved"}}' in jobdeck(*MANY, "--dry-run").out
        one = jobdeck("edit", str(job), "--payload", '{"message": "moved"}', "--dry-run")
        assert f'{payload} → {{"message": "moved"}}' in one.out
    assert jobdeck(*MANY, "--yes").code == 0
    assert payloads(conn) == [{"message": "moved"}]


def test_an_edit_of_the_priority_leaves_a_payload_that_is_no_object_as_it_is(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    job = enqueued(conn)
    conn.execute("UPDATE job_queue SET payload = '5'")
    ran = jobdeck("edit", str(job), "--priority", "3")
    assert ran.code == 1
    assert "A payload must be a JSON object." in ran.out
    assert payloads(conn) == [5]
