"""Jobs of a paused type, or of one that no live worker handles, let the other jobs of their concurrency key run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from jobdeck.core.model import Status
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs as read_jobs
from tests.support.health import announce
from tests.support.queue import ACTOR, add, advance, claim, claim_one, finish_one, job_row, now, reap, run_once, value

Connection = psycopg.Connection[Any]

BOTH = ("alpha", "beta")


def pause(conn: Connection, task_type: str) -> None:
    operator.pause(conn, reason=None, actor=ACTOR, task_type=task_type)


def resume(conn: Connection, task_type: str) -> None:
    operator.resume(conn, actor=ACTOR, task_type=task_type)


def heads(conn: Connection) -> Sequence[str]:
    """The types of the jobs of the key `k` in the claim's index, in claim order."""
    found: list[str] = value(
        conn,
        """
        SELECT coalesce(array_agg(task_type ORDER BY priority DESC, run_at, id), '{}') FROM job_queue
        WHERE concurrency_key = 'k' AND status = 'pending' AND NOT in_line
        """,
    )
    return found


def test_a_job_of_a_paused_type_lets_the_next_of_its_key_run_and_runs_when_the_type_is_resumed(
    conn: Connection,
) -> None:
    announce(conn, types=BOTH)
    first = add(conn, "alpha", concurrency_key="k")
    later = [add(conn, "beta", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    reap(conn)
    for job in later:
        claimed = claim_one(conn, BOTH)
        assert claimed.id == job.id
        assert not claim(conn, BOTH)
        finish_one(conn, claimed)
    assert not claim(conn, BOTH)
    resume(conn, "alpha")
    assert claim_one(conn, BOTH).id == first.id


def test_a_job_of_a_type_that_no_live_worker_handles_lets_the_next_of_its_key_run(conn: Connection) -> None:
    announce(conn, types=["beta"])
    first = add(conn, "alpha", concurrency_key="k")
    second = add(conn, "beta", concurrency_key="k")
    reap(conn)
    assert claim_one(conn, ["beta"]).id == second.id
    announce(conn, "another", types=BOTH)
    reap(conn)
    assert not claim(conn, BOTH)
    assert job_row(conn, first.id)["status"] == Status.PENDING


def test_a_worker_that_was_not_seen_for_two_minutes_handles_nothing(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    add(conn, "alpha", concurrency_key="k")
    second = add(conn, "beta", concurrency_key="k")
    announce(conn, "another", types=["beta"])
    reap(conn)
    assert not claim(conn, ["beta"])
    advance(conn, timedelta(minutes=2, seconds=1))
    announce(conn, "another", types=["beta"])
    reap(conn)
    assert claim_one(conn, ["beta"]).id == second.id


def test_a_job_that_arrives_behind_one_of_a_paused_type_does_not_wait(conn: Connection) -> None:
    announce(conn, types=BOTH)
    pause(conn, "alpha")
    add(conn, "alpha", concurrency_key="k")
    reap(conn)
    job = add(conn, "beta", concurrency_key="k")
    reap(conn)
    assert claim_one(conn, BOTH).id == job.id


def test_a_job_that_is_not_due_yet_passes_one_of_a_paused_type_once_it_is(conn: Connection) -> None:
    announce(conn, types=BOTH)
    pause(conn, "alpha")
    add(conn, "alpha", concurrency_key="k")
    job = add(conn, "beta", concurrency_key="k", run_at=now(conn) + timedelta(hours=1))
    reap(conn)
    assert not claim(conn, BOTH)
    advance(conn, timedelta(hours=1))
    assert claim_one(conn, BOTH).id == job.id


def test_the_type_that_is_resumed_takes_the_place_of_its_priority_and_due_time(conn: Connection) -> None:
    announce(conn, types=BOTH)
    urgent = add(conn, "alpha", concurrency_key="k", priority=5)
    others = [add(conn, "beta", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    reap(conn)
    claimed = claim_one(conn, BOTH)
    resume(conn, "alpha")
    assert claimed.id == others[0].id
    finish_one(conn, claimed)
    assert claim_one(conn, BOTH).id == urgent.id


def test_several_jobs_of_a_paused_type_at_the_head_are_all_passed(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for priority in (3, 2, 1, 0, 0):
        add(conn, "alpha", concurrency_key="k", priority=priority)
    job = add(conn, "beta", concurrency_key="k", priority=-1)
    pause(conn, "alpha")
    reap(conn)
    assert claim_one(conn, BOTH).id == job.id


def test_while_no_type_can_run_a_line_keeps_its_order(conn: Connection) -> None:
    add(conn, "alpha", concurrency_key="k")
    add(conn, "beta", concurrency_key="k")
    reap(conn)
    assert heads(conn) == ["alpha"]


def test_a_line_that_was_passed_has_one_head_that_can_run_and_one_that_cannot(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for _ in range(3):
        add(conn, "alpha", concurrency_key="k")
        add(conn, "beta", concurrency_key="k")
    pause(conn, "alpha")
    for _ in range(2):
        reap(conn)
        assert heads(conn) == ["alpha", "beta"]
        run_once(conn, BOTH)


def test_lines_are_checked_once_when_the_types_that_can_run_change_and_not_in_each_pass(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for number in range(3):
        add(conn, "alpha", concurrency_key=f"k{number}")
        add(conn, "beta", concurrency_key=f"k{number}")
    reap(conn)
    pause(conn, "alpha")
    passes = [value(conn, "SELECT done FROM job_queue_upkeep('recheck', 1, 1)") for _ in range(2)]
    assert passes == [3, 0]


@pytest.mark.parametrize("position", [0, 1])
def test_why_says_that_others_go_first_while_the_type_cannot_run(conn: Connection, position: int) -> None:
    announce(conn, types=BOTH)
    jobs = [add(conn, "alpha", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    evidence = read_jobs.why(jobs[position].id).run(conn)
    assert "the next one with the same concurrency key goes first" in evidence[7].evidence
    resume(conn, "alpha")
    assert "This job keeps its place" not in read_jobs.why(jobs[position].id).run(conn)[7].evidence
