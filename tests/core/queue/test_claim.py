"""Claim, heartbeat and checkpoint: who gets which job, and for how long it is theirs."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer
from tests.support.health import announce
from tests.support.queue import ACTOR, LEASE, WORKER, Connection, Parallel


def test_jobs_are_claimed_whatever_characters_the_names_of_their_types_have(conn: Connection) -> None:
    names = ["with space", 'a "quote"', "back\\slash", "{a,b}", "NULL", "ä"]
    for name in names:
        conn.add(name)
    assert sorted(job.task_type for job in conn.claim(names)) == sorted(names)
    conn.add(names[1])
    assert conn.claim(names[2:]) == []
    assert leases.next_due(conn, names[2:])[1] is None
    assert leases.next_due(conn, names)[1] is not None


def test_claimed_jobs_stay_on_their_pages_so_that_the_write_ahead_log_has_only_what_changed(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha", {"seq": seq}) for seq in range(200)], actor=ACTOR)
    pages = "SELECT id, split_part(ctid::text, ',', 1) AS page FROM job_queue"
    before = {row["id"]: row["page"] for row in conn.rows(pages)}
    assert len(conn.claim(limit=200)) == 200
    moved = [row for row in conn.rows(pages) if row["page"] != before[row["id"]]]
    assert len(moved) <= 10
    changed = conn.rows(
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'job_queue'::regclass AND attnum BETWEEN
            (SELECT attnum FROM pg_attribute WHERE attrelid = 'job_queue'::regclass AND attname = 'status')
            AND (SELECT attnum FROM pg_attribute WHERE attrelid = 'job_queue'::regclass AND attname = 'version')
        """
    )
    assert {row["attname"] for row in changed} == {
        "status", "attempts", "updated_at", "run_token", "lease_expires_at", "started_at", "locked_by", "version",
    }  # fmt: skip


def test_a_claimed_job_is_running_under_a_token_of_its_own(conn: Connection) -> None:
    job = conn.add(payload={"n": 1}, max_attempts=3)
    before = conn.now()
    claimed = conn.claim_one()
    stored = conn.job_row(job.id)
    assert (claimed.id, claimed.task_type, claimed.payload, claimed.attempt, claimed.max_attempts) == (
        job.id, "alpha", {"n": 1}, 1, 3,
    )  # fmt: skip
    assert (claimed.due_at, claimed.is_recurring, claimed.checkpoint) == (job.run_at, False, None)
    assert (stored["status"], stored["attempts"], stored["locked_by"]) == ("running", 1, WORKER)
    assert stored["run_token"] == claimed.run_token
    assert stored["started_at"] == claimed.claimed_at
    assert before <= claimed.claimed_at <= conn.now()
    assert stored["lease_expires_at"] == claimed.claimed_at + timedelta(seconds=LEASE)
    assert stored["version"] == job.version + 1


def test_tokens_rise_with_each_claim(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 5, actor=ACTOR)
    tokens = [conn.claim(limit=1)[0].run_token for _ in range(5)]
    assert tokens == sorted(set(tokens))


def test_priority_goes_before_due_time_and_due_time_before_id(conn: Connection) -> None:
    at = conn.now()
    late = conn.add(run_at=at - timedelta(minutes=1))
    first = conn.add(run_at=at - timedelta(minutes=5))
    tie = [conn.add(run_at=at - timedelta(minutes=3)) for _ in range(3)]
    urgent = conn.add(priority=5, run_at=at)
    idle = conn.add(priority=-5, run_at=at - timedelta(hours=1))
    expected = [urgent.id, first.id, *[job.id for job in tie], late.id, idle.id]
    assert [job.id for job in conn.claim()] == expected


def test_the_order_is_the_same_across_task_types(conn: Connection) -> None:
    at = conn.now()
    wanted = [("beta", 10, 1), ("alpha", 5, 9), ("gamma", 5, 8), ("alpha", 0, 90), ("beta", 0, 60), ("gamma", 0, 30)]
    spread = [
        conn.add(kind, priority=priority, run_at=at - timedelta(minutes=age)).id for kind, priority, age in wanted
    ]
    taken: list[UUID] = []
    for limit in (1, 2, 3):
        taken += [job.id for job in conn.claim(["gamma", "alpha", "beta"], limit=limit)]
    assert taken == spread


@pytest.mark.parametrize(
    "oldest", ["", "a", "f", "ad", "abcdef"], ids=["none", "the_first", "the_last", "two", "in_blocks"]
)
def test_the_best_jobs_are_found_however_they_lie_in_the_types(conn: Connection, oldest: str) -> None:
    """Six types, whose jobs are due by turns, but for those with the oldest jobs."""
    at = conn.now()
    due = [
        NewJob(kind, run_at=at - timedelta(minutes=100 - 6 * number - place, days=oldest.find(kind) + 1))
        for number in range(12)
        for place, kind in enumerate("abcdef")
    ]
    producer.enqueue_many(conn, due, actor=ACTOR)
    expected = sorted((job.run_at, job.task_type) for job in due if job.run_at)
    taken: list[tuple[datetime, str]] = []
    for limit in (1, 7, 12, 30, 22):
        taken += [(job.due_at, job.task_type) for job in conn.claim([*"abcdef"], limit=limit)]
        assert taken == expected[: len(taken)]
    assert len(taken) == 72


def test_recurring_and_one_time_jobs_compete_on_equal_terms(conn: Connection) -> None:
    at = conn.now()
    series = [
        conn.add(recurrence_interval_minutes=5, run_at=at - timedelta(minutes=age)).id for age in (9, 8, 7, 6, 5, 4)
    ]
    alone = conn.add(run_at=at - timedelta(minutes=10)).id
    assert [job.id for job in conn.claim(limit=5)] == [alone, *series[:4]]


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_no_more_are_taken_than_asked_for(conn: Connection, limit: int) -> None:
    for kind in ("alpha", "beta"):
        producer.enqueue_many(conn, [NewJob(kind)] * 5, actor=ACTOR)
    assert len(conn.claim(["alpha", "beta"], limit=limit)) == limit
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == limit


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_is_taken_when_nothing_is_asked_for(conn: Connection, limit: int) -> None:
    conn.add()
    assert conn.claim(limit=limit) == []
    assert conn.claim([]) == []


def test_a_type_that_nobody_handles_is_not_claimed_and_holds_nothing_up(conn: Connection) -> None:
    at = conn.now()
    for age in range(20):
        conn.add("unheard_of", priority=100, run_at=at - timedelta(days=age))
    mine = conn.add()
    assert conn.claim_one().id == mine.id
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'pending'") == 20


def test_a_job_that_is_not_due_does_not_hold_up_one_that_is(conn: Connection) -> None:
    conn.add(priority=50, run_at=conn.now() + timedelta(hours=1))
    due = conn.add()
    assert conn.claim_one().id == due.id


def test_a_job_becomes_claimable_when_its_time_comes(conn: Connection) -> None:
    conn.add(run_at=conn.now() + timedelta(minutes=10))
    assert conn.claim() == []
    conn.advance(timedelta(minutes=11))
    assert len(conn.claim()) == 1


def test_a_job_past_its_end_is_not_claimed(conn: Connection) -> None:
    conn.add(expires_at=conn.now() + timedelta(minutes=1))
    conn.advance(timedelta(minutes=2))
    assert conn.claim() == []


@pytest.mark.parametrize("types", [("alpha", "beta", "gamma"), ("alpha", "gamma", "beta")])
def test_an_expired_job_takes_no_place_from_due_ones_of_other_types(conn: Connection, types: tuple[str, ...]) -> None:
    at = conn.now()
    conn.add("alpha", priority=5, expires_at=at + timedelta(minutes=1))
    conn.add("beta", run_at=at - timedelta(minutes=1))
    first = conn.add("gamma", run_at=at - timedelta(minutes=2))
    conn.advance(timedelta(minutes=2))
    assert [job.id for job in conn.claim(types, limit=1)] == [first.id]


def test_an_attempt_beyond_the_limit_is_run_when_an_operator_asks_for_it(conn: Connection) -> None:
    job = conn.add(max_attempts=1)
    conn.finish_one(conn.claim_one(), "released")
    assert conn.claim_one().id == job.id


def test_two_workers_never_hold_the_same_job(conn: Connection, database_url: str) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 200, actor=ACTOR)

    def take(worker: str, link: Connection) -> list[UUID]:
        taken: list[UUID] = []
        while claimed := link.claim(limit=7, worker=worker):
            taken += [job.id for job in claimed]
        return taken

    shares = Parallel(database_url)(
        *[lambda link, name=name: take(name, link) for name in ("worker-a", "worker-b", "worker-c")]
    )
    taken = [job_id for share in shares for job_id in share]
    assert len(taken) == len(set(taken)) == 200


def test_a_job_that_another_session_holds_is_passed_over(conn: Connection, database_url: str) -> None:
    held = conn.add()
    free = conn.add()
    with conn.transaction():
        conn.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (held.id,))
        (claimed,) = Parallel(database_url)(Connection.claim)
    assert [job.id for job in claimed] == [free.id]


def test_a_series_keeps_its_cycle_key_through_retries_and_gets_another_with_its_next_cycle(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=60)
    alone = conn.add("beta")
    first = conn.claim_one()
    assert conn.claim_one(["beta"]).cycle_key == str(alone.id)
    conn.finish_one(first, "failed", retry_after=0)
    second = conn.claim_one()
    assert second.cycle_key == first.cycle_key
    conn.finish_one(second)
    conn.advance(timedelta(hours=1))
    third = conn.claim_one()
    assert third.cycle_key != first.cycle_key
    assert str(series.id) in third.cycle_key


class TestNextDue:
    def test_it_is_the_earliest_of_the_types_asked_for(self, conn: Connection) -> None:
        at = conn.now()
        conn.add("alpha", run_at=at + timedelta(hours=2))
        conn.add("alpha", priority=9, run_at=at + timedelta(hours=3))
        conn.add("beta", run_at=at + timedelta(hours=1))
        told, due = leases.next_due(conn, ["alpha"])
        assert at <= told <= conn.now()
        assert due == at + timedelta(hours=2)
        assert leases.next_due(conn, ["alpha", "beta"])[1] == at + timedelta(hours=1)

    def test_it_may_have_passed(self, conn: Connection) -> None:
        job = conn.add(run_at=conn.now() - timedelta(hours=1))
        assert leases.next_due(conn, ["alpha"])[1] == job.run_at

    def test_nothing_is_in_sight_when_nothing_could_be_claimed(self, conn: Connection) -> None:
        assert leases.next_due(conn, ["alpha"])[1] is None
        job = conn.add("beta")
        conn.add(blocked_by=job.id)
        conn.add(concurrency_key="k")
        conn.add(concurrency_key="k")
        conn.claim_one()
        assert leases.next_due(conn, ["alpha"])[1] is None
        assert leases.next_due(conn, [])[1] is None

    def test_nothing_is_in_sight_while_processing_or_the_type_is_paused(self, conn: Connection) -> None:
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        assert leases.next_due(conn, ["alpha"])[1] is None
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        operator.pause(conn, reason=None, actor=ACTOR)
        assert leases.next_due(conn, ["alpha"])[1] is None


class TestHeartbeat:
    def test_it_renews_the_leases_of_all_held_jobs_and_takes_their_progress(self, conn: Connection) -> None:
        conn.add()
        conn.add()
        first, second = conn.claim()
        conn.advance(timedelta(seconds=40))
        before = conn.now()
        answers = leases.heartbeat(
            conn, WORKER, [(first.id, first.run_token, {"done": 3}), (second.id, second.run_token, None)], 60
        )
        assert {(answer.job_id, answer.run_token) for answer in answers} == {
            (first.id, first.run_token), (second.id, second.run_token),
        }  # fmt: skip
        assert all(answer.alive and not answer.cancel_requested for answer in answers)
        for job in (first, second):
            assert conn.job_row(job.id)["lease_expires_at"] >= before + timedelta(seconds=60)
        assert conn.job_row(first.id)["progress"] == {"done": 3}
        leases.heartbeat(conn, WORKER, [(first.id, first.run_token, None)], 60)
        assert conn.job_row(first.id)["progress"] == {"done": 3}

    def test_it_carries_a_request_to_cancel(self, conn: Connection) -> None:
        job = conn.add()
        claimed = conn.claim_one()
        operator.cancel(conn, [job.id], actor=ACTOR)
        (answer,) = leases.heartbeat(conn, WORKER, [(claimed.id, claimed.run_token, None)], 60)
        assert (answer.alive, answer.cancel_requested) == (True, True)

    def test_a_token_that_holds_nothing_is_answered_with_not_alive_and_changes_nothing(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        with conn.changes_nothing():
            (answer,) = leases.heartbeat(conn, WORKER, [(claimed.id, claimed.run_token + 999, {"x": 1})], 60)
        assert (answer.alive, answer.cancel_requested) == (False, False)

    def test_a_run_of_another_worker_is_answered_with_not_alive_and_keeps_its_lease(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one(worker="its worker")
        with conn.changes_nothing():
            (answer,) = leases.heartbeat(conn, "another", [(claimed.id, claimed.run_token, {"x": 1})], 60)
        assert (answer.alive, answer.cancel_requested) == (False, False)

    def test_a_lost_run_is_not_alive_though_the_same_worker_runs_the_job_again(self, conn: Connection) -> None:
        conn.add()
        stale = conn.claim_one()
        conn.lose()
        conn.advance(timedelta(minutes=1))
        fresh = conn.claim_one()
        held = [(stale.id, stale.run_token, {"from": "stale"}), (fresh.id, fresh.run_token, {"from": "fresh"})]
        for order in (held, held[::-1]):
            answers = {answer.run_token: answer.alive for answer in leases.heartbeat(conn, WORKER, order, 60)}
            assert answers == {stale.run_token: False, fresh.run_token: True}
            assert conn.job_row(fresh.id)["progress"] == {"from": "fresh"}

    def test_nothing_held_is_nothing_answered(self, conn: Connection) -> None:
        assert leases.heartbeat(conn, WORKER, [], 60) == []


class TestTheBeginOfARun:
    def test_is_the_claim_where_a_slot_is_free_for_each_job(self, conn: Connection) -> None:
        jobs = {conn.add().id for _ in range(3)}
        assert {job.id for job in conn.claim(free=3)} == conn.begun() == jobs

    def test_is_the_claim_where_nothing_is_said_of_slots(self, conn: Connection) -> None:
        jobs = {conn.add().id for _ in range(3)}
        assert {job.id for job in conn.claim()} == conn.begun() == jobs

    @pytest.mark.parametrize("free", [0, 2])
    def test_is_not_the_claim_where_some_jobs_wait_in_the_worker_for_a_slot(self, conn: Connection, free: int) -> None:
        jobs = {conn.add().id for _ in range(3)}
        claimed = conn.claim(free=free)
        assert ({job.id for job in claimed}, conn.begun()) == (jobs, set())
        for job in claimed:
            row = conn.job_row(job.id)
            assert (row["status"], row["locked_by"], row["attempts"]) == ("running", WORKER, 1)
            assert None not in (row["run_token"], row["lease_expires_at"])

    def test_is_what_a_heartbeat_says_once(self, conn: Connection) -> None:
        conn.add()
        conn.add()
        first, second = conn.claim(free=0)
        held = [(job.id, job.run_token, None) for job in (first, second)]
        at = conn.now().replace(microsecond=0)
        leases.heartbeat(conn, WORKER, held, 60, {second.run_token: at.timestamp()})
        assert (conn.job_row(first.id)["started_at"], conn.job_row(second.id)["started_at"]) == (None, at)
        leases.heartbeat(conn, WORKER, held, 60, {second.run_token: at.timestamp() + 5})
        assert (conn.job_row(first.id)["started_at"], conn.job_row(second.id)["started_at"]) == (None, at)

    def test_is_never_what_another_worker_says(self, conn: Connection) -> None:
        conn.add()
        (job,) = conn.claim(free=0)
        with conn.changes_nothing():
            leases.heartbeat(conn, "another", [(job.id, job.run_token, None)], 60, {job.run_token: 1e9})

    def test_of_a_canary_is_its_claim(self, conn: Connection) -> None:
        announce(conn)
        job = conn.add()
        conn.run_once(outcome="failed", permanent=True)
        operator.ask_canary(conn, job.id, actor=ACTOR)
        (canary,) = conn.claim(limit=1, free=0)
        assert (canary.is_canary, conn.begun()) == (True, {job.id})

    def test_holds_the_place_of_its_key_and_of_its_type_from_the_claim_on(self, conn: Connection) -> None:
        operator.set_type(conn, "beta", changes={"max_running": 1}, actor=ACTOR, reason=None)
        first = conn.add(concurrency_key="k")
        conn.add(concurrency_key="k")
        other = conn.add("beta")
        conn.add("beta")
        assert {job.id for job in conn.claim(("alpha", "beta"), free=0)} == {first.id, other.id}
        assert conn.claim(("alpha", "beta"), free=0) == []


class TestCheckpoint:
    def test_it_is_kept_at_once_and_given_to_the_next_run(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        assert leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 7})
        conn.finish_one(claimed, "failed", retry_after=0)
        assert conn.claim_one().checkpoint == {"at": 7}

    def test_a_token_that_holds_nothing_keeps_nothing(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        with conn.changes_nothing():
            assert not leases.save_checkpoint(conn, claimed.id, claimed.run_token + 1, {"at": 7})
        conn.finish_one(claimed, "released")
        with conn.changes_nothing():
            assert not leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 7})
