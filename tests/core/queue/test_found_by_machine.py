"""What the state machine and the crowd found, each in its smallest form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest

from jobdeck.core.model import FinishedRun, NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, operator, producer
from tests.support.queue import Connection, moment
from tests.support.queue_model import install_clock, read

TYPES: Final = ("alpha", "beta")
LEASE: Final = 60.0
BASE, CAP = 30.0, 3600.0
ACTOR: Final = "operator@local"


def _first(conn: Connection, key: str) -> list[UUID]:
    return [row["id"] for row in read(conn).jobs.values() if row["concurrency_key"] == key and not row["in_line"]]


def _reap(conn: Connection) -> None:
    leases.reap(conn, retry_base=BASE, retry_cap=CAP)


def test_the_reaper_puts_no_second_job_first_in_a_line_of_which_nobody_is_due_yet(
    conn: Connection,
) -> None:
    tomorrow = read(conn).at + timedelta(days=1)
    jobs = [NewJob("alpha", run_at=tomorrow + timedelta(hours=n), concurrency_key="k") for n in range(3)]
    ids = producer.enqueue_many(conn, jobs, actor=ACTOR)

    for _ in range(3):
        _reap(conn)

    assert _first(conn, "k") == ids[:1]


def test_a_job_that_is_due_does_not_wait_in_line_for_a_better_one_that_is_not(conn: Connection) -> None:
    tomorrow = read(conn).at + timedelta(days=1)
    better = NewJob("alpha", run_at=tomorrow, priority=9, concurrency_key="k")
    ids = producer.enqueue_many(conn, [better, NewJob("alpha", concurrency_key="k")], actor=ACTOR)

    assert [job.id for job in leases.claim(conn, "worker-a", TYPES, 5, LEASE)] == ids[1:]


@pytest.mark.parametrize("outcome", [RunOutcome.FAILED, RunOutcome.SUCCEEDED, RunOutcome.RELEASED])
def test_a_run_that_stands_twice_in_a_batch_is_finished_once(outcome: RunOutcome, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
    (job,) = leases.claim(conn, "worker-a", TYPES, 5, LEASE)
    run = FinishedRun(job.id, job.run_token, outcome, *moment(job))

    leases.finish(conn, "worker-a", [run, run], retry_base=BASE, retry_cap=CAP)

    assert list(read(conn).runs) == [(job.run_token, False)]


def test_the_token_of_a_lost_run_puts_nothing_on_record_for_another_job(conn: Connection) -> None:
    install_clock(conn)
    producer.enqueue_many(conn, [NewJob("alpha"), NewJob("beta")], actor=ACTOR)
    lost, other = leases.claim(conn, "worker-a", TYPES, 5, LEASE)
    conn.execute("SELECT move_clock(%s)", (timedelta(seconds=61),))
    _reap(conn)
    swapped = FinishedRun(other.id, lost.run_token, RunOutcome.SUCCEEDED, *moment(lost))

    leases.finish(conn, "worker-a", [swapped], retry_base=BASE, retry_cap=CAP)

    assert not [run for (_, late), run in read(conn).runs.items() if late]


def test_cleaning_up_a_stuck_job_that_was_asked_to_cancel_says_that_it_is_cancelled(
    conn: Connection,
) -> None:
    install_clock(conn)
    producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
    (job,) = leases.claim(conn, "worker-a", TYPES, 5, LEASE)
    operator.cancel(conn, [job.id], actor=ACTOR)
    conn.execute("SELECT move_clock(%s)", (timedelta(seconds=61),))

    (answer,) = operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=False)

    assert (answer.status, answer.message.split(",")[0]) == (Status.CANCELLED, "Cancelled")


@pytest.mark.slow
def test_an_action_that_the_database_undoes_to_end_a_deadlock_is_done_again(
    conn: Connection, database_url: str
) -> None:
    ids = sorted(producer.enqueue_many(conn, [NewJob("alpha"), NewJob("alpha")], actor=ACTOR))
    conn.execute("ALTER FUNCTION job_queue_lock_jobs SET lock_timeout = '20s'")
    lock = "SELECT FROM job_queue WHERE id = %s FOR UPDATE"
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with Connection.connect(database_url) as rival, ThreadPoolExecutor(1) as pool:
        rival.execute("SET deadlock_timeout = '60s'")
        rival.execute(lock, (ids[1],))
        answers = pool.submit(operator.cancel, conn, ids, actor=ACTOR)
        with Connection.connect(database_url, autocommit=True) as onlooker:
            while onlooker.execute(waits).fetchone() == (0,):
                assert not answers.done()
        rival.execute(lock, (ids[0],))
        rival.commit()

        assert [answer.ok for answer in answers.result()] == [True, True]
