"""Upkeep looks at many lines in short passes, and misses none of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

LINES = 230
"""More than upkeep looks at in one step."""
WITH_FIRST = "SELECT count(DISTINCT concurrency_key) FROM job_queue WHERE NOT in_line AND task_type = 'beta'"

SLOW_WALK = """
    CREATE FUNCTION job_queue_walk(p_walk text, p_place text, p_limit integer) RETURNS text
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM pg_sleep(0.008);
        RETURN job_queue_walk_at_once(p_walk, p_place, p_limit);
    END $$
"""
"""Each step of the walk takes 8 ms. A pass takes 15 ms, and half of it is for walks."""


@pytest.fixture(autouse=True)
def lines(conn: Connection) -> None:
    """Lines of two jobs each, of which the first is of another type than the second."""
    announce(conn, "w", types=("alpha", "beta"))
    for task_type in ("alpha", "beta"):
        jobs = [NewJob(task_type, concurrency_key=f"k{number}") for number in range(LINES)]
        producer.enqueue_many(conn, jobs, actor=ACTOR)
    conn.reap()


def walks(conn: Connection) -> Sequence[str]:
    """The keys from which walks over the first jobs of lines go on."""
    found = conn.rows("SELECT concurrency_key FROM job_recheck WHERE walk = 'heads' ORDER BY 1")
    return [row["concurrency_key"] for row in found]


def test_lines_stay_as_they_are_while_their_first_jobs_can_run(conn: Connection) -> None:
    assert conn.value(WITH_FIRST) == 0


@pytest.mark.slow
def test_every_line_whose_first_job_was_deleted_by_hand_gets_another(conn: Connection) -> None:
    conn.execute("DELETE FROM job_queue WHERE task_type = 'alpha'")
    conn.advance(timedelta(minutes=61))
    conn.reap()
    conn.reap()
    assert conn.value(WITH_FIRST) == LINES


@pytest.mark.slow
def test_a_pass_that_ends_before_a_walk_asks_for_another(conn: Connection) -> None:
    conn.execute("DELETE FROM job_queue WHERE task_type = 'alpha'")
    conn.execute("ALTER FUNCTION job_queue_walk RENAME TO job_queue_walk_at_once")
    conn.execute(SLOW_WALK)
    conn.advance(timedelta(minutes=61))
    conn.reap()
    conn.reap()
    assert conn.value(WITH_FIRST) == LINES


def test_every_line_whose_first_job_cannot_run_any_more_gets_one_that_can(conn: Connection) -> None:
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    conn.reap()
    assert conn.value(WITH_FIRST) == LINES


def test_every_job_whose_blocker_was_deleted_by_hand_is_cancelled(conn: Connection) -> None:
    for _ in range(3):
        conn.add("gamma", blocked_by=conn.add("delta").id)
    conn.reap()
    conn.execute("DELETE FROM job_queue WHERE task_type = 'delta'")
    conn.advance(timedelta(minutes=61))
    conn.reap()
    conn.reap()
    assert conn.value("SELECT count(*) FROM job_queue WHERE task_type = 'gamma' AND status = 'cancelled'") == 3


def test_a_walk_goes_on_where_the_pass_before_ended(conn: Connection) -> None:
    conn.execute("INSERT INTO job_recheck (walk, concurrency_key) VALUES ('lines', 'k5')")
    conn.execute("DELETE FROM job_queue WHERE task_type = 'alpha'")
    conn.reap()
    after = "SELECT count(DISTINCT concurrency_key) FROM job_queue WHERE concurrency_key >= 'k5'"
    assert conn.value(WITH_FIRST) == conn.value(after)


def test_types_that_change_again_and_again_do_not_keep_a_walk_from_its_end(conn: Connection) -> None:
    conn.execute("INSERT INTO job_recheck (walk, concurrency_key) VALUES ('heads', 'k5'), ('heads', 'k2')")
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    conn.execute("SELECT job_queue_note_open_types()")
    assert walks(conn) == ["", "k5"]
