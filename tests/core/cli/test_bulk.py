"""Bulk actions from the command line: more jobs than one statement takes, their answers, stopping, taking back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.cli import answers
from jobdeck.core.model import ActionResult
from jobdeck.core.queue import bulk, leases, operator
from jobdeck.core.read.filters import parse_filter
from tests.core.cli.support import Jobdeck, enqueued
from tests.support.queue import Connection


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 3)
    monkeypatch.setattr(answers, "AT_ONCE", 3)


def statuses(conn: Connection) -> list[str]:
    return sorted(status for (status,) in conn.execute("SELECT status FROM job_queue").fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [3, 5])
def test_a_dry_run_of_a_retry_says_what_starts_then(jobdeck: Jobdeck, conn: Connection, jobs: int) -> None:
    for _ in range(jobs):
        enqueued(conn, "cli_refuse")
    jobdeck("run-worker", "--limit", "10")
    enqueued(conn, "cli_refuse")
    with conn.changes_nothing():
        told = jobdeck("retry", "--filter", "type:cli_refuse status:failed", "--dry-run", "--json")
    assert told.data["starts"]["jobs"] == jobs + 1
    assert f"With what is due of these types: {jobs + 1} jobs start, no worker handles them." in told.err


@pytest.mark.slow
def test_more_jobs_than_one_statement_takes_become_a_bulk_action(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = [enqueued(conn, message="x") for _ in range(5)]
    with conn.changes_nothing():
        jobdeck("cancel", "--filter", "type:cli_echo").refused(1, "5 jobs", "--yes")
        told = jobdeck("cancel", "--filter", "type:cli_echo", "--dry-run", "--json").data
        assert told["jobs"] == 5
    ran = jobdeck("cancel", "--filter", "type:cli_echo", "--yes", "--reason", "bad data", "--json")
    assert ran.code == 0
    assert (ran.data["state"], ran.data["done"], ran.data["refused"]) == ("finished", 5, 0)
    assert "a worker finishes it" in ran.err
    assert statuses(conn) == ["cancelled"] * 5
    assert {row["reason"] for row in conn.audit_rows("cancel")} == {"bad data"}
    listed = jobdeck("bulk", "list", "--json").data["bulks"]
    assert [(one["action"], one["words"], one["done"]) for one in listed] == [("cancel", "type:cli_echo", 5)]
    shown = jobdeck("bulk", "show", ran.data["bulk"][-8:], "--json").data
    assert [answer["id"] for answer in shown["results"]] == sorted(str(job) for job in ids)
    assert all(answer["ok"] for answer in shown["results"])


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_more_ids_than_one_transaction_takes_become_a_bulk_action(
    jobdeck: Jobdeck, conn: Connection, verb: str
) -> None:
    ids = [str(job) for job in [enqueued(conn, message="x") for _ in range(5)]]
    unknown = str(uuid4())
    ran = jobdeck(verb, *ids, unknown, "--yes", "--json")
    assert ran.code == 1
    assert (ran.data["done"], ran.data["refused"]) == (6, 1)
    assert [answer["id"] for answer in ran.data["results"]] == [unknown]
    if verb == "delete":
        assert jobdeck("restore", *ids, "--yes", "--json").data["action"] == "restore"
    assert statuses(conn) == ["cancelled" if verb == "cancel" else "pending"] * 5


def test_a_dry_run_of_many_jobs_answers_for_each_and_locks_few_at_a_time(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST", 10)
    sizes: list[int] = []
    act = operator.cancel

    def counted(conn: Connection, ids: Sequence[UUID], **given: Any) -> list[ActionResult]:
        sizes.append(len(ids))
        return act(conn, ids, **given)

    monkeypatch.setattr(operator, "cancel", counted)
    ids = sorted(str(job) for job in [enqueued(conn, message="x") for _ in range(5)])
    with conn.changes_nothing():
        told = jobdeck("cancel", "--filter", "type:cli_echo", "--dry-run", "--json").data
        assert sorted(answer["id"] for answer in told["results"]) == ids
        assert {answer["message"] for answer in told["results"]} == {"It would be cancelled."}
        assert sizes == [3, 2]


@pytest.mark.slow
def test_a_refused_job_is_exit_code_1_and_is_listed(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = [enqueued(conn, message="x") for _ in range(5)]
    (claimed,) = leases.claim(conn, "a worker", ["cli_echo"], 1, 60)
    ran = jobdeck("delete", "--filter", "type:cli_echo", "--yes", "--json")
    assert ran.code == 1
    assert [answer["id"] for answer in ran.data["results"]] == [str(claimed.id)]
    assert statuses(conn) == ["running"]
    shown = jobdeck("bulk", "show", ran.data["bulk"], "--refused")
    assert "A worker holds it" in shown.out
    assert str(claimed.id) in shown.out
    assert not any(str(job) in shown.out for job in ids if job != claimed.id)


@pytest.mark.slow
def test_a_bulk_deletion_is_taken_back(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    deleted = jobdeck("delete", "--filter", "type:cli_echo", "--yes", "--json").data["bulk"]
    assert statuses(conn) == []
    jobdeck("bulk", "undo", deleted).refused(1, "5 jobs", "--yes")
    assert jobdeck("bulk", "undo", deleted, "--dry-run").code == 0
    assert statuses(conn) == []
    assert jobdeck("bulk", "undo", deleted, "--yes").code == 0
    assert statuses(conn) == ["pending"] * 5


def test_the_jobs_of_an_earlier_bulk_action_can_be_acted_on_again(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    cancelled = jobdeck("cancel", "--filter", "status:pending", "--yes", "--json").data["bulk"]
    [enqueued(conn, message="x") for _ in range(2)]
    assert jobdeck("retry", "--bulk", cancelled[-8:], "--yes").code == 0
    assert statuses(conn) == ["pending"] * 7
    jobdeck("retry", "--bulk", cancelled, "--filter", "x").refused(2, "--bulk")
    jobdeck("retry", "--bulk", "00000000").refused(1, "00000000")


@pytest.mark.slow
def test_an_unfinished_one_is_stopped(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    choice = bulk.choose(conn, parse_filter(""), actor="test")
    assert choice is not None
    bulk.start(conn, choice.bulk.id, "cancel", actor="test")
    assert jobdeck("bulk", "stop", str(choice.bulk.id), "--dry-run").code == 0
    bulk.step(conn, choice.bulk.id, driver="test", limit=1)
    assert "1 of 5 jobs" in jobdeck("bulk", "stop", str(choice.bulk.id)).out
    jobdeck("bulk", "stop", str(choice.bulk.id)).refused(1, "already stopped")
    assert statuses(conn) == ["cancelled", *["pending"] * 4]
    jobdeck("bulk", "undo", str(choice.bulk.id)).refused(1, "cancel")


def test_nothing_that_matches_is_nothing_done(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    cancelled = jobdeck("cancel", "--filter", "", "--yes")
    assert cancelled.code == 2
    assert "No bulk actions" in jobdeck("bulk", "list").out


@pytest.mark.slow
def test_one_that_nobody_carries_further_goes_on_to_its_end(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    choice = bulk.choose(conn, parse_filter("type:cli_echo"), actor="somebody")
    assert choice is not None
    bulk.start(conn, choice.bulk.id, "cancel", actor="somebody")
    bulk.step(conn, choice.bulk.id, driver="somebody", limit=2)
    assert "2 of 5 jobs" in jobdeck("bulk", "resume", str(choice.bulk.id), "--dry-run").out
    assert statuses(conn).count("cancelled") == 2
    assert "5 of 5 jobs" in jobdeck("bulk", "resume", str(choice.bulk.id)).out
    assert statuses(conn) == ["cancelled"] * 5
    jobdeck("bulk", "resume", str(choice.bulk.id)).refused(1, "already finished")


@pytest.mark.slow
def test_deleted_jobs_of_an_earlier_bulk_action_are_restored(jobdeck: Jobdeck, conn: Connection) -> None:
    [enqueued(conn, message="x") for _ in range(5)]
    deleted = jobdeck("delete", "--filter", "type:cli_echo", "--yes", "--json").data["bulk"]
    jobdeck("restore", "--bulk", deleted).refused(1, "5 jobs", "--yes")
    assert jobdeck("restore", "--bulk", deleted, "--yes").code == 0
    assert statuses(conn) == ["pending"] * 5
    jobdeck("restore").refused(2, "--bulk")
