"""Claim, heartbeat and checkpoint: who gets which job, and for how long it is theirs."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer
from tests.support.health import announce
from tests.support.queue import (
    ACTOR,
    LEASE,
    WORKER,
    Connection,
    Parallel,
    add,
    advance,
    begun,
    changes_nothing,
    claim,
    claim_one,
    finish_one,
    job_row,
    lose,
    now,
    run_once,
    value,
)


def test_jobs_are_claimed_whatever_characters_the_names_of_their_types_have(conn: Connection) -> None:
    names = ["with space", 'a "quote"', "back\\slash", "{a,b}", "NULL", "ä"]
    for name in names:
        add(conn, name)
    assert sorted(job.task_type for job in claim(conn, names)) == sorted(names)
    add(conn, names[1])
    assert claim(conn, names[2:]) == []
    assert leases.next_due(conn, names[2:])[1] is None
    assert leases.next_due(conn, names)[1] is not None


def test_a_claimed_job_is_running_under_a_token_of_its_own(conn: Connection) -> None:
    job = add(conn, payload={"n": 1}, max_attempts=3)
    before = now(conn)
    claimed = claim_one(conn)
    stored = job_row(conn, job.id)
    assert (claimed.id, claimed.task_type, claimed.payload, claimed.attempt, claimed.max_attempts) == (
        job.id, "alpha", {"n": 1}, 1, 3,
    )  # fmt: skip
    assert (claimed.due_at, claimed.is_recurring, claimed.checkpoint) == (job.run_at, False, None)
    assert (stored["status"], stored["attempts"], stored["locked_by"]) == ("running", 1, WORKER)
    assert stored["run_token"] == claimed.run_token
    assert stored["started_at"] == claimed.claimed_at
    assert before <= claimed.claimed_at <= now(conn)
    assert stored["lease_expires_at"] == claimed.claimed_at + timedelta(seconds=LEASE)
    assert stored["version"] == job.version + 1


def test_tokens_rise_with_each_claim(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 5, actor=ACTOR)
    tokens = [claim(conn, limit=1)[0].run_token for _ in range(5)]
    assert tokens == sorted(set(tokens))


def test_priority_goes_before_due_time_and_due_time_before_id(conn: Connection) -> None:
    at = now(conn)
    late = add(conn, run_at=at - timedelta(minutes=1))
    first = add(conn, run_at=at - timedelta(minutes=5))
    tie = [add(conn, run_at=at - timedelta(minutes=3)) for _ in range(3)]
    urgent = add(conn, priority=5, run_at=at)
    idle = add(conn, priority=-5, run_at=at - timedelta(hours=1))
    expected = [urgent.id, first.id, *[job.id for job in tie], late.id, idle.id]
    assert [job.id for job in claim(conn)] == expected


def test_the_order_is_the_same_across_task_types(conn: Connection) -> None:
    at = now(conn)
    wanted = [("beta", 10, 1), ("alpha", 5, 9), ("gamma", 5, 8), ("alpha", 0, 90), ("beta", 0, 60), ("gamma", 0, 30)]
    spread = [
        add(conn, kind, priority=priority, run_at=at - timedelta(minutes=age)).id for kind, priority, age in wanted
    ]
    taken: list[UUID] = []
    for limit in (1, 2, 3):
        taken += [job.id for job in claim(conn, ["gamma", "alpha", "beta"], limit=limit)]
    assert taken == spread


def test_recurring_and_one_time_jobs_compete_on_equal_terms(conn: Connection) -> None:
    at = now(conn)
    series = [
        add(conn, recurrence_interval_minutes=5, run_at=at - timedelta(minutes=age)).id for age in (9, 8, 7, 6, 5, 4)
    ]
    alone = add(conn, run_at=at - timedelta(minutes=10)).id
    assert [job.id for job in claim(conn, limit=5)] == [alone, *series[:4]]


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_no_more_are_taken_than_asked_for(conn: Connection, limit: int) -> None:
    for kind in ("alpha", "beta"):
        producer.enqueue_many(conn, [NewJob(kind)] * 5, actor=ACTOR)
    assert len(claim(conn, ["alpha", "beta"], limit=limit)) == limit
    assert value(conn, "SELECT count(*) FROM job_queue WHERE status = 'running'") == limit


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_is_taken_when_nothing_is_asked_for(conn: Connection, limit: int) -> None:
    add(conn)
    assert claim(conn, limit=limit) == []
    assert claim(conn, []) == []


def test_a_type_that_nobody_handles_is_not_claimed_and_holds_nothing_up(conn: Connection) -> None:
    at = now(conn)
    for age in range(20):
        add(conn, "unheard_of", priority=100, run_at=at - timedelta(days=age))
    mine = add(conn)
    assert claim_one(conn).id == mine.id
    assert value(conn, "SELECT count(*) FROM job_queue WHERE status = 'pending'") == 20


def test_a_job_that_is_not_due_does_not_hold_up_one_that_is(conn: Connection) -> None:
    add(conn, priority=50, run_at=now(conn) + timedelta(hours=1))
    due = add(conn)
    assert claim_one(conn).id == due.id


def test_a_job_becomes_claimable_when_its_time_comes(conn: Connection) -> None:
    add(conn, run_at=now(conn) + timedelta(minutes=10))
    assert claim(conn) == []
    advance(conn, timedelta(minutes=11))
    assert len(claim(conn)) == 1


def test_a_job_past_its_end_is_not_claimed(conn: Connection) -> None:
    add(conn, expires_at=now(conn) + timedelta(minutes=1))
    advance(conn, timedelta(minutes=2))
    assert claim(conn) == []


@pytest.mark.parametrize("types", [("alpha", "beta", "gamma"), ("alpha", "gamma", "beta")])
def test_an_expired_job_takes_no_place_from_due_ones_of_other_types(conn: Connection, types: tuple[str, ...]) -> None:
    at = now(conn)
    add(conn, "alpha", priority=5, expires_at=at + timedelta(minutes=1))
    add(conn, "beta", run_at=at - timedelta(minutes=1))
    first = add(conn, "gamma", run_at=at - timedelta(minutes=2))
    advance(conn, timedelta(minutes=2))
    assert [job.id for job in claim(conn, types, limit=1)] == [first.id]


def test_an_attempt_beyond_the_limit_is_run_when_an_operator_asks_for_it(conn: Connection) -> None:
    job = add(conn, max_attempts=1)
    finish_one(conn, claim_one(conn), "released")
    assert claim_one(conn).id == job.id


def test_two_workers_never_hold_the_same_job(conn: Connection, database_url: str) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 200, actor=ACTOR)

    def take(worker: str, link: Connection) -> list[UUID]:
        taken: list[UUID] = []
        while claimed := claim(link, limit=7, worker=worker):
            taken += [job.id for job in claimed]
        return taken

    shares = Parallel(database_url)(
        *[lambda link, name=name: take(name, link) for name in ("worker-a", "worker-b", "worker-c")]
    )
    taken = [job_id for share in shares for job_id in share]
    assert len(taken) == len(set(taken)) == 200


def test_a_job_that_another_session_holds_is_passed_over(conn: Connection, database_url: str) -> None:
    held = add(conn)
    free = add(conn)
    with conn.transaction():
        conn.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (held.id,))
        (claimed,) = Parallel(database_url)(claim)
    assert [job.id for job in claimed] == [free.id]


def test_a_series_keeps_its_cycle_key_through_retries_and_gets_another_with_its_next_cycle(conn: Connection) -> None:
    series = add(conn, recurrence_interval_minutes=60)
    alone = add(conn, "beta")
    first = claim_one(conn)
    assert claim_one(conn, ["beta"]).cycle_key == str(alone.id)
    finish_one(conn, first, "failed", retry_after=0)
    second = claim_one(conn)
    assert second.cycle_key == first.cycle_key
    finish_one(conn, second)
    advance(conn, timedelta(hours=1))
    third = claim_one(conn)
    assert third.cycle_key != first.cycle_key
    assert str(series.id) in third.cycle_key


class TestNextDue:
    def test_it_is_the_earliest_of_the_types_asked_for(self, conn: Connection) -> None:
        at = now(conn)
        add(conn, "alpha", run_at=at + timedelta(hours=2))
        add(conn, "alpha", priority=9, run_at=at + timedelta(hours=3))
        add(conn, "beta", run_at=at + timedelta(hours=1))
        told, due = leases.next_due(conn, ["alpha"])
        assert at <= told <= now(conn)
        assert due == at + timedelta(hours=2)
        assert leases.next_due(conn, ["alpha", "beta"])[1] == at + timedelta(hours=1)

    def test_it_may_have_passed(self, conn: Connection) -> None:
        job = add(conn, run_at=now(conn) - timedelta(hours=1))
        assert leases.next_due(conn, ["alpha"])[1] == job.run_at

    def test_nothing_is_in_sight_when_nothing_could_be_claimed(self, conn: Connection) -> None:
        assert leases.next_due(conn, ["alpha"])[1] is None
        job = add(conn, "beta")
        add(conn, blocked_by=job.id)
        add(conn, concurrency_key="k")
        add(conn, concurrency_key="k")
        claim_one(conn)
        assert leases.next_due(conn, ["alpha"])[1] is None
        assert leases.next_due(conn, [])[1] is None

    def test_nothing_is_in_sight_while_processing_or_the_type_is_paused(self, conn: Connection) -> None:
        add(conn)
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        assert leases.next_due(conn, ["alpha"])[1] is None
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        operator.pause(conn, reason=None, actor=ACTOR)
        assert leases.next_due(conn, ["alpha"])[1] is None


class TestHeartbeat:
    def test_it_renews_the_leases_of_all_held_jobs_and_takes_their_progress(self, conn: Connection) -> None:
        add(conn)
        add(conn)
        first, second = claim(conn)
        advance(conn, timedelta(seconds=40))
        before = now(conn)
        answers = leases.heartbeat(
            conn, WORKER, [(first.id, first.run_token, {"done": 3}), (second.id, second.run_token, None)], 60
        )
        assert {(answer.job_id, answer.run_token) for answer in answers} == {
            (first.id, first.run_token), (second.id, second.run_token),
        }  # fmt: skip
        assert all(answer.alive and not answer.cancel_requested for answer in answers)
        for job in (first, second):
            assert job_row(conn, job.id)["lease_expires_at"] >= before + timedelta(seconds=60)
        assert job_row(conn, first.id)["progress"] == {"done": 3}
        leases.heartbeat(conn, WORKER, [(first.id, first.run_token, None)], 60)
        assert job_row(conn, first.id)["progress"] == {"done": 3}

    def test_it_carries_a_request_to_cancel(self, conn: Connection) -> None:
        job = add(conn)
        claimed = claim_one(conn)
        operator.cancel(conn, [job.id], actor=ACTOR)
        (answer,) = leases.heartbeat(conn, WORKER, [(claimed.id, claimed.run_token, None)], 60)
        assert (answer.alive, answer.cancel_requested) == (True, True)

    def test_a_token_that_holds_nothing_is_answered_with_not_alive_and_changes_nothing(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        with changes_nothing(conn):
            (answer,) = leases.heartbeat(conn, WORKER, [(claimed.id, claimed.run_token + 999, {"x": 1})], 60)
        assert (answer.alive, answer.cancel_requested) == (False, False)

    def test_a_run_of_another_worker_is_answered_with_not_alive_and_keeps_its_lease(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn, worker="its worker")
        with changes_nothing(conn):
            (answer,) = leases.heartbeat(conn, "another", [(claimed.id, claimed.run_token, {"x": 1})], 60)
        assert (answer.alive, answer.cancel_requested) == (False, False)

    def test_a_lost_run_is_not_alive_though_the_same_worker_runs_the_job_again(self, conn: Connection) -> None:
        add(conn)
        stale = claim_one(conn)
        lose(conn)
        advance(conn, timedelta(minutes=1))
        fresh = claim_one(conn)
        held = [(stale.id, stale.run_token, {"from": "stale"}), (fresh.id, fresh.run_token, {"from": "fresh"})]
        for order in (held, held[::-1]):
            answers = {answer.run_token: answer.alive for answer in leases.heartbeat(conn, WORKER, order, 60)}
            assert answers == {stale.run_token: False, fresh.run_token: True}
            assert job_row(conn, fresh.id)["progress"] == {"from": "fresh"}

    def test_nothing_held_is_nothing_answered(self, conn: Connection) -> None:
        assert leases.heartbeat(conn, WORKER, [], 60) == []


class TestTheBeginOfARun:
    def test_is_the_claim_where_a_slot_is_free_for_each_job(self, conn: Connection) -> None:
        jobs = {add(conn).id for _ in range(3)}
        assert {job.id for job in claim(conn, free=3)} == begun(conn) == jobs

    def test_is_the_claim_where_nothing_is_said_of_slots(self, conn: Connection) -> None:
        jobs = {add(conn).id for _ in range(3)}
        assert {job.id for job in claim(conn)} == begun(conn) == jobs

    @pytest.mark.parametrize("free", [0, 2])
    def test_is_not_the_claim_where_some_jobs_wait_in_the_worker_for_a_slot(self, conn: Connection, free: int) -> None:
        jobs = {add(conn).id for _ in range(3)}
        claimed = claim(conn, free=free)
        assert ({job.id for job in claimed}, begun(conn)) == (jobs, set())
        for job in claimed:
            row = job_row(conn, job.id)
            assert (row["status"], row["locked_by"], row["attempts"]) == ("running", WORKER, 1)
            assert None not in (row["run_token"], row["lease_expires_at"])

    def test_is_what_a_heartbeat_says_once(self, conn: Connection) -> None:
        add(conn)
        add(conn)
        first, second = claim(conn, free=0)
        held = [(job.id, job.run_token, None) for job in (first, second)]
        at = now(conn).replace(microsecond=0)
        leases.heartbeat(conn, WORKER, held, 60, {second.run_token: at.timestamp()})
        assert (job_row(conn, first.id)["started_at"], job_row(conn, second.id)["started_at"]) == (None, at)
        leases.heartbeat(conn, WORKER, held, 60, {second.run_token: at.timestamp() + 5})
        assert (job_row(conn, first.id)["started_at"], job_row(conn, second.id)["started_at"]) == (None, at)

    def test_is_never_what_another_worker_says(self, conn: Connection) -> None:
        add(conn)
        (job,) = claim(conn, free=0)
        with changes_nothing(conn):
            leases.heartbeat(conn, "another", [(job.id, job.run_token, None)], 60, {job.run_token: 1e9})

    def test_of_a_canary_is_its_claim(self, conn: Connection) -> None:
        announce(conn)
        job = add(conn)
        run_once(conn, outcome="failed", permanent=True)
        operator.ask_canary(conn, job.id, actor=ACTOR)
        (canary,) = claim(conn, limit=1, free=0)
        assert (canary.is_canary, begun(conn)) == (True, {job.id})

    def test_holds_the_place_of_its_key_and_of_its_type_from_the_claim_on(self, conn: Connection) -> None:
        operator.set_type(conn, "beta", changes={"max_running": 1}, actor=ACTOR, reason=None)
        first = add(conn, concurrency_key="k")
        add(conn, concurrency_key="k")
        other = add(conn, "beta")
        add(conn, "beta")
        assert {job.id for job in claim(conn, ("alpha", "beta"), free=0)} == {first.id, other.id}
        assert claim(conn, ("alpha", "beta"), free=0) == []


class TestCheckpoint:
    def test_it_is_kept_at_once_and_given_to_the_next_run(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        assert leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 7})
        finish_one(conn, claimed, "failed", retry_after=0)
        assert claim_one(conn).checkpoint == {"at": 7}

    def test_a_token_that_holds_nothing_keeps_nothing(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        with changes_nothing(conn):
            assert not leases.save_checkpoint(conn, claimed.id, claimed.run_token + 1, {"at": 7})
        finish_one(conn, claimed, "released")
        with changes_nothing(conn):
            assert not leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 7})
