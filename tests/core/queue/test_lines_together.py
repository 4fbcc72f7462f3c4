"""The next jobs of several lines are put first together, and they are the same as if each line were looked at alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.queue.test_bulk_cost import calls
from tests.support.health import announce
from tests.support.queue import Connection, Row, report

KEYS = ("a", "b", "c")
CAN_RUN = ("alpha", "beta")


class Waiting(NamedTuple):
    """A pending job: due this many minutes from now, in the line of its key or already first."""

    key: str
    task_type: str
    priority: int
    due: int
    in_line: bool


waiting = st.builds(
    Waiting,
    st.sampled_from(KEYS),
    st.sampled_from([*CAN_RUN, "nobody"]),
    st.sampled_from([0, 0, 0, 5]),
    st.sampled_from([-20, -10, -10, 30]),
    st.sampled_from([True, True, True, False]),
)


def fill(conn: Connection, jobs: Sequence[Waiting], busy: set[str]) -> None:
    at = conn.now()
    conn.execute("DELETE FROM job_queue")
    for job in jobs:
        conn.execute(
            """
            INSERT INTO job_queue (run_at, concurrency_key, task_type, priority, in_line) VALUES (%s, %s, %s, %s, %s)
            """,
            (at + timedelta(minutes=job.due), job.key, job.task_type, job.priority, job.in_line),
        )
    for key in busy:
        conn.execute(
            """
            INSERT INTO job_queue (concurrency_key, task_type, status, run_token, locked_by, lease_expires_at)
            VALUES (%s, 'alpha', 'running', nextval('job_run_token_seq'), 'w', now() + interval '1 hour')
            """,
            (key,),
        )


def together(conn: Connection) -> None:
    conn.execute("SELECT job_queue_advance_lines(%s)", ([*KEYS, "of no job"],))


def one_by_one(conn: Connection) -> None:
    """What is said of each line in `schema.sql`, for one after the other."""
    for key in KEYS:
        if conn.value("SELECT job_key_is_busy(%s)", key):
            continue
        first = conn.value("SELECT job_queue_put_first(%s, clock_timestamp(), NULL)", key)
        if first not in CAN_RUN:
            conn.value("SELECT job_queue_put_first(%s, clock_timestamp(), %s)", key, list(CAN_RUN))


def outcome(conn: Connection, advance: Callable[[Connection], None]) -> tuple[list[Row], list[Row]]:
    """Which jobs are in their lines then, and which lines without a job that can run are looked at once more."""
    with conn.transaction(force_rollback=True):
        advance(conn)
        lines = conn.rows("SELECT id, in_line FROM job_queue ORDER BY id")
        again = conn.rows(
            """
            SELECT DISTINCT concurrency_key FROM job_recheck AS l WHERE due_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM job_queue AS q WHERE q.concurrency_key = l.concurrency_key AND q.status = 'pending'
                    AND NOT q.in_line AND q.run_at <= now() AND q.task_type = ANY (%s))
            ORDER BY concurrency_key
            """,
            list(CAN_RUN),
        )
        return lines, again


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(waiting, max_size=12), st.sets(st.sampled_from(KEYS), max_size=1), st.sets(st.integers(0, 11)))
def test_lines_advance_together_as_they_do_one_by_one(
    conn: Connection, database_url: str, jobs: list[Waiting], busy: set[str], locked: set[int]
) -> None:
    announce(conn, types=CAN_RUN)
    fill(conn, jobs, busy)
    ids = [row["id"] for row in conn.rows("SELECT id FROM job_queue ORDER BY id")]
    with Connection.connect(database_url) as other:
        other.execute(
            "SELECT FROM job_queue WHERE id = ANY (%s) FOR UPDATE",
            ([job_id for place, job_id in enumerate(ids) if place in locked],),
        )
        assert outcome(conn, together) == outcome(conn, one_by_one)


def test_runs_that_end_together_put_the_next_jobs_of_their_keys_first_in_one_step(conn: Connection) -> None:
    announce(conn, types=CAN_RUN)
    conn.execute("SET track_functions = 'all'")
    jobs = [NewJob("alpha", {"key": key, "place": place}, concurrency_key=key) for place in range(3) for key in KEYS]
    producer.enqueue_many(conn, jobs, actor="a producer")
    for place in range(3):
        claimed = conn.claim(CAN_RUN)
        assert sorted((job.payload["key"], job.payload["place"]) for job in claimed) == [(key, place) for key in KEYS]
        conn.finish(*map(report, claimed))
    assert conn.value("SELECT count(*) FROM job_queue") == 0
    assert calls(conn, "job_queue_put_all_first") == 2
    assert calls(conn, "job_queue_put_first") == 0


def test_a_line_whose_next_job_is_locked_gives_way_to_another_and_is_looked_at_again(
    conn: Connection, database_url: str
) -> None:
    announce(conn, types=CAN_RUN)
    fill(conn, [Waiting(key, "alpha", 0, due, in_line=True) for key in "ab" for due in (-20, -10)], set())
    first, second, other, _ = (row["id"] for row in conn.rows("SELECT id FROM job_queue ORDER BY id"))
    with Connection.connect(database_url) as session:
        session.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (first,))
        together(conn)
    assert [row["id"] for row in conn.rows("SELECT id FROM job_queue WHERE NOT in_line ORDER BY id")] == [
        second,
        other,
    ]
    assert conn.rows("SELECT concurrency_key FROM job_recheck WHERE due_at IS NOT NULL") == [{"concurrency_key": "a"}]


def test_a_line_whose_job_of_no_worker_is_locked_gets_its_next_job_after_another_line_that_has_such_a_job(
    conn: Connection, database_url: str
) -> None:
    announce(conn, types=CAN_RUN)
    of_no_worker = [Waiting(key, "nobody", 0, -20, in_line=True) for key in "ab"]
    fill(conn, [*of_no_worker, Waiting("b", "alpha", 0, 30, in_line=True)], set())
    _, locked, later = (row["id"] for row in conn.rows("SELECT id FROM job_queue ORDER BY id"))
    with Connection.connect(database_url) as session:
        session.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (locked,))
        together(conn)
    assert conn.value("SELECT in_line FROM job_queue WHERE id = %s", later) is False
