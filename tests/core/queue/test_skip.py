"""Skipping the next run of a series."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from jobdeck.core.model import ActionResult, Job, NewJob, Status
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.queue import requests
from jobdeck.core.read.pages import series as pages
from jobdeck.core.schedules import Cron, Every, Schedule, next_runs
from tests.support.queue import ACTOR, Connection

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def series(conn: Connection, *, due_in: timedelta = 10 * MINUTE, every: int = 30, **facts: Any) -> Job:
    return conn.add(run_at=conn.now() + due_in, recurrence_interval_minutes=every, **facts)


def skip(conn: Connection, job: Job, **options: Any) -> ActionResult:
    return queue_operator.skip(conn, job.id, actor=ACTOR, **options)


def test_a_series_runs_at_the_slot_after_the_skipped_one_and_the_audit_says_who_skipped(conn: Connection) -> None:
    job = series(conn)
    answer = skip(conn, job, version=job.version, reason="maintenance")
    row = conn.job_row(job.id)
    assert answer.ok
    assert row["run_at"] == job.run_at + 30 * MINUTE
    assert f"{row['run_at']:%Y-%m-%d %H:%M}Z" in answer.message
    (kept,) = conn.audit_rows("skip")
    assert (kept["job_id"], kept["reason"]) == (job.id, "maintenance")
    assert kept["before"]["run_at"] != kept["after"]["run_at"]


def test_a_late_run_is_the_next_one_and_its_missed_slots_are_not_made_up(conn: Connection) -> None:
    job = series(conn, due_in=-70 * MINUTE)
    assert skip(conn, job).ok
    assert conn.job_row(job.id)["run_at"] == job.run_at + 90 * MINUTE


def test_the_retry_of_a_failed_run_is_skipped_with_its_attempts(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE, max_attempts=5)
    conn.finish_one(conn.claim_one(), "failed", error="boom")
    assert conn.job_row(job.id)["slot_at"] == job.run_at
    assert skip(conn, job).ok
    row = conn.job_row(job.id)
    assert (row["run_at"], row["slot_at"], row["attempts"]) == (job.run_at + 30 * MINUTE, None, 0)


def test_a_skipped_head_of_a_line_lets_the_next_one_run(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE, concurrency_key="k")
    other = conn.add(concurrency_key="k")
    assert skip(conn, job).ok
    assert [one.id for one in conn.claim()] == [other.id]


@pytest.mark.parametrize("schedule", [Cron("0 * * * *"), Every(hours=2), Every(hours=2, catch_up="all")], ids=str)
def test_a_run_that_is_asked_for_after_a_skip_does_not_bring_the_skipped_slot_back(
    conn: Connection, schedule: Schedule
) -> None:
    made = conn.add(**requests.scheduled(NewJob("alpha", run_at=conn.now() + HOUR), schedule, conn.now())._asdict())
    assert skip(conn, made).ok
    after_it = conn.job_row(made.id)["run_at"]
    queue_operator.retry(conn, [made.id], actor=ACTOR)
    (shown,) = pages.series().run(conn).series
    assert next_runs(shown.job, 3)[1] == after_it
    assert conn.finish_one(conn.claim_one()).run_at == after_it
    assert conn.job_row(made.id)["run_at"] == after_it


def test_a_declared_series_whose_expression_changes_forgets_the_skip(conn: Connection) -> None:
    def declare(schedule: Cron) -> None:
        wanted = [
            {
                "name": "report",
                "task_type": "alpha",
                "payload": {},
                "schedule": {"cron": schedule.expression, "zone": "UTC"},
                "slots": [str(slot) for slot in schedule.slots(conn.now(), now=conn.now())],
                "max_attempts": 1,
            }
        ]
        conn.execute("SELECT job_series_declare('{alpha}', %s, 'worker-1')", [Jsonb(wanted)])

    declare(Cron("0 0 1 1 *"))
    (made,) = conn.rows("SELECT id FROM job_queue")
    assert queue_operator.skip(conn, made["id"], actor=ACTOR).ok
    declare(Cron("* * * * *"))
    conn.advance(MINUTE)
    conn.finish_one(conn.claim_one())
    assert conn.job_row(made["id"])["run_at"] <= conn.now() + MINUTE


def test_a_dry_run_says_when_it_would_run_and_changes_nothing(conn: Connection) -> None:
    job = series(conn)
    with conn.changes_nothing():
        answer = skip(conn, job, dry_run=True)
    assert answer.ok
    assert f"{job.run_at + 30 * MINUTE:%Y-%m-%d %H:%M}Z" in answer.message


def test_what_has_no_next_run_is_refused_with_a_sentence_and_nothing_changes(conn: Connection) -> None:
    once = conn.add("beta")
    last = series(conn, expires_at=conn.now() + 35 * MINUTE)
    ended = series(conn)
    queue_operator.cancel(conn, [ended.id], actor=ACTOR)
    runs = series(conn, due_in=-MINUTE)
    conn.claim_one()
    gone = series(conn)
    queue_operator.delete(conn, [gone.id], actor=ACTOR)
    cases = (
        (once, "not recurring"),
        (last, "expires before"),
        (ended, "cancelled"),
        (runs, "A worker holds it"),
        (gone, "delet"),
    )
    with conn.changes_nothing():
        for job, words in cases:
            answer = skip(conn, job)
            assert not answer.ok
            assert words in answer.message
        changed = skip(conn, last, version=last.version + 1)
    assert (changed.ok, changed.status) == (False, Status.PENDING)
    assert "has changed" in changed.message


@pytest.mark.slow
def test_a_series_that_another_transaction_holds_is_left_alone(conn: Connection, database_url: str) -> None:
    job = series(conn)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (job.id,))
        answer = skip(conn, job)
    assert (answer.ok, answer.code) == (False, "is-locked")


def test_only_an_operator_skips(viewer: Connection, operator: Connection, worker: Connection) -> None:
    statement = "SELECT job_series_act('00000000-0000-7000-8000-000000000000', null, 'skip', 'x', null, true)"
    for other in (viewer, worker):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(statement)
    operator.execute(statement)
