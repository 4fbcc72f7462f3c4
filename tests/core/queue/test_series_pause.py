"""Pausing one series alone: it misses its slots, and nothing else does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from jobdeck.core.model import ActionResult, Job
from jobdeck.core.queue import bulk, operator
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.read.pages import series as pages
from jobdeck.core.read.verdict.health import health
from tests.support.queue import ACTOR, Connection

MINUTE = timedelta(minutes=1)


def series(conn: Connection, *, due_in: timedelta = 10 * MINUTE, every: int = 30, **facts: Any) -> Job:
    return conn.add(run_at=conn.now() + due_in, recurrence_interval_minutes=every, **facts)


def pause(conn: Connection, job: Job, **options: Any) -> ActionResult:
    return operator.pause_series(conn, job.id, actor=ACTOR, **options)


def resume(conn: Connection, job: Job, **options: Any) -> ActionResult:
    return operator.resume_series(conn, job.id, actor=ACTOR, **options)


def test_a_paused_series_misses_its_slots_and_runs_at_the_next_one_after_it_is_resumed(conn: Connection) -> None:
    job, other = series(conn), series(conn)
    answer = pause(conn, job, version=job.version, reason="the vendor moves")
    assert (answer.ok, answer.code) == (True, "was-paused")
    conn.advance(100 * MINUTE)
    assert [one.id for one in conn.claim(limit=10)] == [other.id]
    slot = conn.job_row(job.id)["run_at"]
    answer = resume(conn, job)
    row = conn.job_row(job.id)
    assert answer.ok
    assert row["run_at"] == slot + 120 * MINUTE
    assert f"{row['run_at']:%Y-%m-%d %H:%M}Z" in answer.message
    assert conn.claim(limit=10) == []
    conn.advance(30 * MINUTE)
    assert conn.claim_one().id == job.id
    assert [(kept["job_id"], kept["reason"]) for kept in conn.audit_rows("pause series")] == [
        (job.id, "the vendor moves")
    ]
    assert len(conn.audit_rows("resume series")) == 1


def test_a_slot_that_is_still_to_come_stays(conn: Connection) -> None:
    job = series(conn)
    assert pause(conn, job).ok
    assert resume(conn, job).ok
    row = conn.job_row(job.id)
    assert (row["run_at"], row["blocked_by"]) == (job.run_at, None)


def test_the_retry_of_a_failed_run_is_made_up_only_if_it_is_still_to_come(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE, max_attempts=5)
    conn.finish_one(conn.claim_one(), "failed", error="boom", retry_after=600.0)
    soon = conn.job_row(job.id)
    assert pause(conn, job).ok
    assert resume(conn, job).ok
    row = conn.job_row(job.id)
    assert (row["run_at"], row["slot_at"], row["attempts"]) == (soon["run_at"], soon["slot_at"], 1)
    assert pause(conn, job).ok
    conn.advance(15 * MINUTE)
    assert resume(conn, job).ok
    row = conn.job_row(job.id)
    assert (row["slot_at"], row["attempts"]) == (None, 0)
    assert row["run_at"] > conn.now()


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "lost"])
def test_a_run_that_is_going_on_ends_as_usual_and_the_next_slot_waits(conn: Connection, outcome: str) -> None:
    job = series(conn, due_in=-MINUTE, max_attempts=1)
    waiting = conn.add("beta", blocked_by=job.id)
    run = conn.claim_one()
    answer = pause(conn, job)
    assert answer.message == "This run ends as usual; after it, it does not run until somebody resumes it."
    if outcome == "lost":
        conn.lose()
    else:
        conn.finish_one(run, outcome)
    conn.reap()
    row = conn.job_row(job.id)
    assert (row["status"], row["blocked_by"]) == ("pending", job.id)
    assert conn.job_row(waiting.id)["blocked_by"] == (None if outcome == "succeeded" else job.id)
    conn.advance(45 * MINUTE)
    assert job.id not in {one.id for one in conn.claim(limit=10)}
    assert resume(conn, job).ok
    conn.advance(30 * MINUTE)
    assert job.id in {one.id for one in conn.claim(limit=10)}


def test_a_paused_head_of_a_line_lets_the_next_one_run_and_comes_back_to_it(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE, concurrency_key="k")
    other = conn.add(concurrency_key="k")
    assert pause(conn, job).ok
    run = conn.claim_one()
    assert run.id == other.id
    assert resume(conn, job).ok
    conn.advance(40 * MINUTE)
    assert conn.claim() == []
    conn.execute("UPDATE job_queue SET lease_expires_at = now() + interval '1 hour' WHERE status = 'running'")
    conn.finish_one(run)
    assert conn.claim_one().id == job.id


def test_nothing_calls_a_paused_series_late_or_due(conn: Connection) -> None:
    job = series(conn, due_in=-90 * MINUTE)
    assert pause(conn, job, reason="the vendor moves").ok
    (line,) = pages.series().run(conn).series
    assert line.late is None
    assert line.pause is not None
    assert (line.pause.reason, str(line.pause.by).startswith(ACTOR)) == ("the vendor moves", True)
    assert reports.cron().run(conn).overdue == ()
    assert health().run(conn).oldest_due is None
    failing = {clause.name: clause for clause in jobs.why(job.id).run(conn) if not clause.holds}
    assert failing["dependencies"].evidence == f'This series is paused. "jobdeck series resume {job.id}" resumes it.'


def test_while_it_is_paused_it_is_neither_run_nor_skipped_nor_made_one_time(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE)
    assert pause(conn, job).ok
    with conn.changes_nothing():
        answers = [
            *operator.retry(conn, [job.id], actor=ACTOR),
            operator.skip(conn, job.id, actor=ACTOR),
            operator.edit(conn, job.id, changes={"recurrence_interval_minutes": None}, actor=ACTOR),
        ]
    assert {(one.ok, one.code) for one in answers} == {(False, "series-paused")}
    assert all(f"jobdeck series resume {job.id}" in one.message for one in answers)
    assert operator.edit(conn, job.id, changes={"priority": 3}, actor=ACTOR).ok
    assert conn.job_row(job.id)["blocked_by"] == job.id


def test_a_deleted_one_is_restored_as_it_was_and_a_cancelled_one_is_resumed_by_its_retry(conn: Connection) -> None:
    deleted, cancelled = series(conn), series(conn)
    for job in (deleted, cancelled):
        assert pause(conn, job).ok
    assert all(one.ok for one in operator.delete(conn, [deleted.id], actor=ACTOR))
    assert all(one.ok for one in operator.restore(conn, [deleted.id], actor=ACTOR))
    assert all(one.ok for one in operator.cancel(conn, [cancelled.id], actor=ACTOR))
    conn.reap()
    assert conn.job_row(deleted.id)["blocked_by"] == deleted.id
    (again,) = operator.retry(conn, [cancelled.id], actor=ACTOR)
    assert again.code == "due-now"
    assert conn.claim_one().id == cancelled.id


def test_a_series_that_expires_while_it_is_paused_ends(conn: Connection) -> None:
    job = series(conn, expires_at=conn.now() + 40 * MINUTE)
    waiting = conn.add("beta", blocked_by=job.id)
    assert pause(conn, job).ok
    conn.advance(60 * MINUTE)
    conn.reap()
    assert conn.job_row(job.id)["status"] == "succeeded"
    assert conn.job_row(waiting.id)["status"] == "cancelled"


def test_a_dry_run_says_what_would_happen_and_changes_nothing(conn: Connection) -> None:
    job = series(conn)
    with conn.changes_nothing():
        assert pause(conn, job, dry_run=True).code == "would-pause"
    assert pause(conn, job).ok
    with conn.changes_nothing():
        assert f"{job.run_at:%H:%M}Z" in resume(conn, job, dry_run=True).message


def test_what_cannot_be_paused_or_resumed_is_refused_with_a_sentence(conn: Connection) -> None:
    first = conn.add("beta")
    blocked = series(conn, blocked_by=first.id)
    ended, gone, fine = series(conn), series(conn), series(conn)
    operator.cancel(conn, [ended.id], actor=ACTOR)
    operator.delete(conn, [gone.id], actor=ACTOR)
    paused = series(conn)
    assert pause(conn, paused).ok
    with conn.changes_nothing():
        said = {
            "not recurring": pause(conn, first), str(first.id): pause(conn, blocked), "cancelled": pause(conn, ended),
            "deleted": pause(conn, gone), "already paused": pause(conn, paused), "not paused by": resume(conn, fine),
            "has changed": pause(conn, fine, version=fine.version + 1),
        }  # fmt: skip
    for words, answer in said.items():
        assert not answer.ok
        assert words in answer.message


@pytest.mark.slow
def test_a_series_that_another_transaction_holds_is_left_alone(conn: Connection, database_url: str) -> None:
    job = series(conn)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (job.id,))
        answer = pause(conn, job)
    assert (answer.ok, answer.code) == (False, "is-locked")


def test_a_canary_of_a_paused_series_is_held_and_says_why(conn: Connection) -> None:
    job = series(conn, due_in=-MINUTE)
    assert pause(conn, job).ok
    (found,) = conn.rows("SELECT h.code FROM job_queue AS q, job_canary_obstacle(q) AS h WHERE q.id = %s", job.id)
    assert found["code"] == "series-paused"


def test_a_bulk_retry_refuses_it_by_itself(conn: Connection) -> None:
    job = series(conn)
    conn.add()
    assert pause(conn, job).ok
    choice = bulk.choose(conn, parse_filter("type:alpha"), actor=ACTOR)
    assert choice is not None
    bulk.start(conn, choice.bulk.id, "retry", actor=ACTOR)
    ended = bulk.step(conn, choice.bulk.id, driver=ACTOR)
    assert (ended.done, ended.refused) == (2, 1)
    assert conn.job_row(job.id)["blocked_by"] == job.id


def test_only_an_operator_pauses(viewer: Connection, operator: Connection, worker: Connection) -> None:
    statement = "SELECT job_series_act('00000000-0000-7000-8000-000000000000', null, 'pause', 'x', null, true)"
    for other in (viewer, worker):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(statement)
    operator.execute(statement)
