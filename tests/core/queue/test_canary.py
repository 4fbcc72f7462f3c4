"""The canary: one job runs next and alone, although its type or everything is paused."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import CANARY_PRIORITY, Job, RunOutcome
from jobdeck.core.queue import leases
from jobdeck.core.queue import operator as act
from jobdeck.core.read import jobs
from jobdeck.core.read.canaries import CanaryAnswer
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

MINUTE = timedelta(seconds=61)


def fail(conn: Connection, task_type: str = "alpha", error: str = "boom", **fields: Any) -> Job:
    """A job that has failed permanently."""
    job = conn.add(task_type, **fields)
    (claimed,) = conn.claim([task_type])
    conn.finish_one(claimed, "failed", permanent=True, error_kind="Boom", error=error)
    return job


def ask(conn: Connection, job_id: UUID, **given: Any) -> int:
    asked = act.ask_canary(conn, job_id, actor=ACTOR, **given)
    assert asked.result.ok, asked
    assert asked.canary is not None
    return asked.canary


def refused(conn: Connection, job_id: UUID, **given: Any) -> str:
    asked = act.ask_canary(conn, job_id, actor=ACTOR, **given)
    assert not asked.result.ok
    assert asked.canary is None
    return asked.result.code


def take(conn: Connection, *types: str) -> UUID | None:
    """What a claim of no other job takes."""
    taken = leases.claim(conn, "worker-a", types or ("alpha",), 0, 60)
    return taken[0].id if taken else None


def answer(conn: Connection, canary: int) -> CanaryAnswer:
    return act.canary_answer(conn, canary)


def test_it_is_taken_before_all_others_and_alone_and_no_other_job_changes(conn: Connection) -> None:
    announce(conn)
    first, other = fail(conn), fail(conn)
    waiting = [conn.add(priority=100).id for _ in range(3)]
    before = conn.job_row(other.id)
    canary = ask(conn, first.id)
    assert conn.job_row(first.id)["status"] == "failed"
    (taken,) = conn.claim(limit=10)
    assert (taken.id, taken.is_canary, taken.priority, taken.attempt) == (first.id, True, CANARY_PRIORITY, 1)
    assert answer(conn, canary).state == "running"
    assert {job.id for job in conn.claim(limit=10)} == set(waiting)
    conn.finish_one(taken)
    ended = answer(conn, canary)
    assert (ended.state, ended.outcome, ended.settled) == ("succeeded", RunOutcome.SUCCEEDED, True)
    assert ended.message.startswith("It succeeded after ")
    assert conn.job_row(other.id) == before
    assert [row["action"] for row in conn.audit_rows()] == ["canary", "canary ended"]


@pytest.mark.parametrize("task_type", [None, "alpha"])
def test_it_runs_although_everything_or_its_type_is_paused(conn: Connection, task_type: str | None) -> None:
    announce(conn)
    job = fail(conn)
    conn.add()
    act.pause(conn, reason="vendor is down", actor=ACTOR, task_type=task_type)
    ask(conn, job.id)
    assert [one.id for one in conn.claim()] == [job.id]
    assert conn.claim() == []


def test_a_claim_of_no_jobs_takes_a_canary_and_nothing_else(conn: Connection) -> None:
    announce(conn)
    job = fail(conn)
    conn.add()
    assert take(conn) is None
    ask(conn, job.id)
    assert take(conn, "beta") is None
    assert take(conn) == job.id
    assert take(conn) is None


def test_a_failed_run_answers_with_its_error_and_the_job_is_tried_again_as_any_other(conn: Connection) -> None:
    announce(conn)
    job = fail(conn, max_attempts=3)
    canary = ask(conn, job.id)
    (taken,) = conn.claim()
    conn.finish_one(taken, "failed", error_kind="Boom", error="still down")
    ended = answer(conn, canary)
    assert (ended.state, ended.outcome, ended.error) == ("failed", RunOutcome.RETRIED, "still down")
    assert re.fullmatch(r"It failed after \d+\.\d s and will be retried: still down", ended.message)
    assert conn.job_row(job.id)["status"] == "pending"
    (row,) = conn.audit_rows("canary ended")
    assert (row["job_id"], row["after"]["outcome"], row["after"]["last_error"]) == (job.id, "retried", "still down")
    assert row["actor"].startswith(ACTOR)


def test_without_a_worker_that_handles_the_type_nothing_is_changed(conn: Connection) -> None:
    job = fail(conn)
    announce(conn, types=["beta"])
    with conn.changes_nothing():
        assert refused(conn, job.id) == "canary-no-worker"


def test_after_a_minute_without_a_worker_the_request_is_taken_back_and_the_job_is_as_it_was(conn: Connection) -> None:
    announce(conn)
    job = fail(conn)
    canary = ask(conn, job.id)
    conn.advance(MINUTE)
    before = conn.job_row(job.id)
    assert take(conn) is None
    ended = answer(conn, canary)
    assert (ended.state, ended.outcome) == ("taken back", None)
    assert ended.message == (
        "No worker took it within a minute. The request to run it was taken back. It is as it was."
    )
    assert conn.job_row(job.id) == before
    assert take(conn) is None


def test_upkeep_takes_it_back_when_nobody_asks_any_more(conn: Connection) -> None:
    announce(conn)
    canary = ask(conn, fail(conn).id)
    conn.advance(MINUTE)
    conn.reap()
    assert conn.value("SELECT count(*) FROM job_canaries") == 0
    assert answer(conn, canary).state == "taken back"


def test_a_busy_key_holds_it_until_it_is_free_and_why_says_so(conn: Connection) -> None:
    announce(conn)
    job = fail(conn, concurrency_key="k")
    conn.add(concurrency_key="k")
    (running,) = conn.claim()
    canary = ask(conn, job.id)
    assert take(conn) is None
    assert answer(conn, canary).message == f"Job {running.id} holds the same concurrency key."
    clauses = {clause.name: clause for clause in jobs.why(job.id).run(conn)}
    assert clauses["canary"].holds
    assert ACTOR in clauses["canary"].evidence
    assert not clauses["nothing else holds it"].holds
    conn.finish_one(running)
    waiting = conn.add(concurrency_key="k")
    (taken,) = conn.claim(limit=1)
    assert taken.id == job.id
    assert conn.claim() == []
    conn.finish_one(taken)
    assert [one.id for one in conn.claim()] == [waiting.id]


def test_a_blocker_holds_it_and_after_a_minute_the_answer_names_it(conn: Connection) -> None:
    announce(conn)
    blocker = conn.add("beta")
    job = conn.add(blocked_by=blocker.id)
    canary = ask(conn, job.id)
    assert take(conn) is None
    assert answer(conn, canary).message.startswith(f"Waits for job {blocker.id}")
    conn.advance(MINUTE)
    ended = answer(conn, canary)
    assert ended.state == "taken back"
    assert ended.message.startswith(f"Waits for job {blocker.id}")


def test_a_blocker_that_ends_meanwhile_lets_it_run(conn: Connection) -> None:
    announce(conn)
    blocker = conn.add("beta")
    job = conn.add(blocked_by=blocker.id)
    act.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    ask(conn, job.id)
    (running,) = conn.claim(["beta"])
    conn.finish_one(running)
    assert take(conn) == job.id


def test_a_running_job_is_refused(conn: Connection) -> None:
    announce(conn)
    job = conn.add()
    conn.claim()
    with conn.changes_nothing():
        assert refused(conn, job.id) == "retry-running"


def test_a_job_that_is_claimed_in_its_turn_answers_with_that_run(conn: Connection) -> None:
    announce(conn)
    job = conn.add()
    canary = ask(conn, job.id)
    conn.execute("UPDATE job_canaries SET task_type = 'elsewhere'")
    (taken,) = conn.claim()
    assert not taken.is_canary
    conn.execute("UPDATE job_canaries SET task_type = 'alpha'")
    assert take(conn) is None
    conn.finish_one(taken)
    assert answer(conn, canary).state == "succeeded"
    assert len(conn.run_rows(job.id)) == 1


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("edit", "was edited by"),
        ("cancel", "was cancelled by"),
        ("delete", "was deleted by"),
        ("retry", "was retried by"),
    ],
)
def test_a_job_that_is_changed_meanwhile_is_not_run_and_the_answer_says_who_did_it(
    conn: Connection, action: str, words: str
) -> None:
    announce(conn)
    job = fail(conn)
    canary = ask(conn, job.id)
    if action == "edit":
        assert act.edit(conn, job.id, changes={"payload": {"a": 1}}, actor="mara").ok
    else:
        assert getattr(act, action)(conn, [job.id], actor="mara")[0].ok
    assert take(conn) is None
    ended = answer(conn, canary)
    assert ended.state == "taken back"
    assert ended.message.startswith(f"It {words} mara (")
    assert conn.value("SELECT count(*) FROM job_canaries") == 0


def test_asked_twice_the_second_names_the_first(conn: Connection) -> None:
    announce(conn)
    first, other, stranger = fail(conn), fail(conn), fail(conn, error="something else")
    ask(conn, first.id)
    with conn.changes_nothing():
        again = act.ask_canary(conn, first.id, actor=ACTOR).result
        group = act.ask_canary(conn, other.id, actor=ACTOR).result
    assert (again.code, group.code) == ("canary-open", "canary-of-group")
    assert str(first.id) in group.message
    assert ACTOR in group.message
    ask(conn, stranger.id)


@pytest.mark.slow
def test_two_people_who_ask_at_once_for_one_group_get_one_canary(conn: Connection, database_url: str) -> None:
    announce(conn)
    first, other = fail(conn), fail(conn)
    with Connection.connect(database_url) as mara:
        asked = act.ask_canary(mara, first.id, actor="mara")
        assert asked.result.ok
        assert refused(conn, other.id) == "canary-was-faster"
        mara.commit()
    assert refused(conn, other.id) == "canary-of-group"
    assert conn.value("SELECT count(*) FROM job_canaries") == 1
    assert conn.value("SELECT count(*) FROM job_audit WHERE action = 'canary'") == 1


def test_a_worker_that_is_killed_with_it_answers_that_it_was_lost(conn: Connection) -> None:
    announce(conn)
    job = fail(conn, max_attempts=3)
    canary = ask(conn, job.id)
    assert take(conn) == job.id
    assert answer(conn, canary).state == "running"
    conn.lose()
    ended = answer(conn, canary)
    assert (ended.state, ended.outcome) == ("failed", RunOutcome.LOST)
    assert "lost with its worker" in ended.message


def test_one_whose_version_is_another_is_refused(conn: Connection) -> None:
    announce(conn)
    job = fail(conn)
    with conn.changes_nothing():
        assert refused(conn, job.id, version=99) == "has-changed"


def test_a_dedupe_key_that_another_job_has_holds_it(conn: Connection) -> None:
    announce(conn)
    job = fail(conn, dedupe_key="d")
    canary = ask(conn, job.id)
    holder = conn.add("beta", dedupe_key="d")
    assert take(conn) is None
    assert answer(conn, canary).message == (f"Job {holder.id} with the same dedupe key is already pending or running.")


def test_a_transaction_that_enqueues_its_dedupe_key_holds_no_claim_up(conn: Connection, database_url: str) -> None:
    announce(conn)
    job = fail(conn, dedupe_key="d")
    other = conn.add()
    ask(conn, job.id)
    with Connection.connect(database_url) as open_one:
        open_one.execute("SELECT 1")  # begins the transaction, which add() then does not end
        open_one.add("beta", dedupe_key="d")
        conn.execute("SET statement_timeout = '20s'")
        assert [one.id for one in conn.claim()] == [other.id]
        open_one.rollback()
    assert take(conn) == job.id


def test_a_series_goes_on_with_its_slots_after_it(conn: Connection) -> None:
    announce(conn)
    job = conn.add(recurrence_interval_minutes=60, run_at=conn.value("SELECT now() + interval '10 minutes'"))
    slot = conn.job_row(job.id)["run_at"]
    ask(conn, job.id)
    (taken,) = conn.claim()
    conn.finish_one(taken)
    assert conn.job_row(job.id)["run_at"] == slot


def test_a_dry_run_asks_for_nothing(conn: Connection) -> None:
    announce(conn)
    job = fail(conn)
    with conn.changes_nothing():
        tried = act.ask_canary(conn, job.id, actor=ACTOR, dry_run=True)
    assert (tried.result.ok, tried.result.code, tried.canary) == (True, "would-be-canary", None)


def test_a_request_that_there_is_not_is_said(conn: Connection) -> None:
    with pytest.raises(Refused, match="no canary 77"):
        answer(conn, 77)


@pytest.mark.slow
def test_an_operator_asks_and_reads_and_a_viewer_and_a_worker_do_not(
    owner: Connection, viewer: Connection, operator: Connection, worker: Connection
) -> None:
    announce(owner)
    job = fail(owner)
    for other in (viewer, worker):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            act.ask_canary(other, job.id, actor=ACTOR)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            answer(other, 1)
    canary = ask(operator, job.id)
    assert take(worker) == job.id
    assert answer(operator, canary).state == "running"


def test_a_request_that_was_taken_back_keeps_no_later_action_away(conn: Connection) -> None:
    announce(conn)
    job = fail(conn)
    first = ask(conn, job.id)
    conn.advance(MINUTE)
    conn.reap()
    announce(conn)
    second = ask(conn, job.id)
    assert second > first
    assert take(conn) == job.id
    assert (answer(conn, first).state, answer(conn, second).state) == ("taken back", "running")
