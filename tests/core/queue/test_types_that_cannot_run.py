"""Jobs of a paused type, or of one that no live worker handles, let the other jobs of their concurrency key run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from jobdeck.core.model import Status
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs as read_jobs
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

BOTH = ("alpha", "beta")


def pause(conn: Connection, task_type: str) -> None:
    operator.pause(conn, reason=None, actor=ACTOR, task_type=task_type)


def resume(conn: Connection, task_type: str) -> None:
    operator.resume(conn, actor=ACTOR, task_type=task_type)


def heads(conn: Connection) -> Sequence[str]:
    """The types of the jobs of the key `k` in the claim's index, in claim order."""
    found: list[str] = conn.value(
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
    first = conn.add("alpha", concurrency_key="k")
    later = [conn.add("beta", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    conn.reap()
    for job in later:
        claimed = conn.claim_one(BOTH)
        assert claimed.id == job.id
        assert not conn.claim(BOTH)
        conn.finish_one(claimed)
    assert not conn.claim(BOTH)
    resume(conn, "alpha")
    assert conn.claim_one(BOTH).id == first.id


def test_a_job_of_a_type_that_no_live_worker_handles_lets_the_next_of_its_key_run(conn: Connection) -> None:
    announce(conn, types=["beta"])
    first = conn.add("alpha", concurrency_key="k")
    second = conn.add("beta", concurrency_key="k")
    conn.reap()
    assert conn.claim_one(["beta"]).id == second.id
    announce(conn, "another", types=BOTH)
    conn.reap()
    assert not conn.claim(BOTH)
    assert conn.job_row(first.id)["status"] == Status.PENDING


def test_a_worker_that_was_not_seen_for_two_minutes_handles_nothing(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    conn.add("alpha", concurrency_key="k")
    second = conn.add("beta", concurrency_key="k")
    announce(conn, "another", types=["beta"])
    conn.reap()
    assert not conn.claim(["beta"])
    conn.advance(timedelta(minutes=2, seconds=1))
    announce(conn, "another", types=["beta"])
    conn.reap()
    assert conn.claim_one(["beta"]).id == second.id


def test_a_job_that_arrives_behind_one_of_a_paused_type_does_not_wait(conn: Connection) -> None:
    announce(conn, types=BOTH)
    pause(conn, "alpha")
    conn.add("alpha", concurrency_key="k")
    conn.reap()
    job = conn.add("beta", concurrency_key="k")
    conn.reap()
    assert conn.claim_one(BOTH).id == job.id


def test_a_job_that_is_not_due_yet_passes_one_of_a_paused_type_once_it_is(conn: Connection) -> None:
    announce(conn, types=BOTH)
    pause(conn, "alpha")
    conn.add("alpha", concurrency_key="k")
    job = conn.add("beta", concurrency_key="k", run_at=conn.now() + timedelta(hours=1))
    conn.reap()
    assert not conn.claim(BOTH)
    conn.advance(timedelta(hours=1))
    assert conn.claim_one(BOTH).id == job.id


def test_the_type_that_is_resumed_takes_the_place_of_its_priority_and_due_time(conn: Connection) -> None:
    announce(conn, types=BOTH)
    urgent = conn.add("alpha", concurrency_key="k", priority=5)
    others = [conn.add("beta", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    conn.reap()
    claimed = conn.claim_one(BOTH)
    resume(conn, "alpha")
    assert claimed.id == others[0].id
    conn.finish_one(claimed)
    assert conn.claim_one(BOTH).id == urgent.id


def test_several_jobs_of_a_paused_type_at_the_head_are_all_passed(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for priority in (3, 2, 1, 0, 0):
        conn.add("alpha", concurrency_key="k", priority=priority)
    job = conn.add("beta", concurrency_key="k", priority=-1)
    pause(conn, "alpha")
    conn.reap()
    assert conn.claim_one(BOTH).id == job.id


def test_while_no_type_can_run_a_line_keeps_its_order(conn: Connection) -> None:
    conn.add("alpha", concurrency_key="k")
    conn.add("beta", concurrency_key="k")
    conn.reap()
    assert heads(conn) == ["alpha"]


def test_a_line_that_was_passed_has_one_head_that_can_run_and_one_that_cannot(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for _ in range(3):
        conn.add("alpha", concurrency_key="k")
        conn.add("beta", concurrency_key="k")
    pause(conn, "alpha")
    for _ in range(2):
        conn.reap()
        assert heads(conn) == ["alpha", "beta"]
        conn.run_once(BOTH)


def test_lines_are_checked_once_when_the_types_that_can_run_change_and_not_in_each_pass(conn: Connection) -> None:
    announce(conn, types=BOTH)
    for number in range(3):
        conn.add("alpha", concurrency_key=f"k{number}")
        conn.add("beta", concurrency_key=f"k{number}")
    conn.reap()
    pause(conn, "alpha")
    passes = [conn.value("SELECT done FROM job_queue_upkeep('recheck', 1, 1)") for _ in range(2)]
    assert passes == [3, 0]


@pytest.mark.parametrize("position", [0, 1])
def test_why_says_that_others_go_first_while_the_type_cannot_run(conn: Connection, position: int) -> None:
    announce(conn, types=BOTH)
    jobs = [conn.add("alpha", concurrency_key="k") for _ in range(2)]
    pause(conn, "alpha")
    evidence = read_jobs.why(jobs[position].id).run(conn)
    assert "the next one with the same concurrency key goes first" in evidence[7].evidence
    resume(conn, "alpha")
    assert "This job keeps its place" not in read_jobs.why(jobs[position].id).run(conn)[7].evidence
