"""Concurrency keys, the lines behind them, jobs that wait for others, and dedupe keys under contention."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, NewJob, Status, Ticket
from jobdeck.core.queue import leases, operator, producer
from tests.support.queue import ACTOR, Connection, Parallel, report
from tests.support.waiting import PATIENCE, rounds


def heads(conn: Connection) -> int:
    """How many pending keyed jobs stand in the claim's index."""
    return int(
        conn.value(
            "SELECT count(*) FROM job_queue WHERE status = 'pending' AND concurrency_key IS NOT NULL AND NOT in_line",
        )
    )


class TestConcurrencyKeys:
    def test_no_two_running_jobs_share_a_key_and_others_are_not_held_up(self, conn: Connection) -> None:
        first = conn.add(concurrency_key="k")
        second = conn.add(concurrency_key="k")
        other = conn.add(concurrency_key="other")
        free = conn.add()
        assert [job.id for job in conn.claim()] == [first.id, other.id, free.id]
        assert conn.claim() == []
        assert conn.job_row(second.id)["status"] == "pending"

    def test_a_key_holds_across_task_types(self, conn: Connection) -> None:
        first = conn.add("alpha", concurrency_key="k")
        second = conn.add("beta", concurrency_key="k")
        (running,) = conn.claim(["alpha", "beta"])
        assert running.id == first.id
        conn.finish_one(running)
        assert conn.claim_one(["alpha", "beta"]).id == second.id

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled", "continued", "released"])
    def test_the_next_in_line_runs_when_the_first_has_ended(self, conn: Connection, outcome: str) -> None:
        first = conn.add(concurrency_key="k", run_at=conn.now() - timedelta(minutes=2))
        second = conn.add(concurrency_key="k", run_at=conn.now() - timedelta(minutes=1))
        conn.finish_one(conn.claim_one(), outcome, permanent=True, checkpoint={}, delay=3600.0)
        expected = first.id if outcome == "released" else second.id
        assert conn.claim_one().id == expected

    def test_a_lost_run_frees_its_key(self, conn: Connection) -> None:
        conn.add(concurrency_key="k")
        second = conn.add(concurrency_key="k")
        conn.claim_one()
        conn.lose()
        assert conn.claim_one().id == second.id

    def test_a_line_is_served_by_priority_then_due_time(self, conn: Connection) -> None:
        at = conn.now() - timedelta(hours=1)
        conn.add(concurrency_key="k", run_at=at)
        running = conn.claim_one()
        late = conn.add(concurrency_key="k", run_at=at + timedelta(minutes=2))
        early = conn.add(concurrency_key="k", run_at=at + timedelta(minutes=1))
        urgent = conn.add(concurrency_key="k", run_at=at + timedelta(minutes=3), priority=5)
        served = []
        while True:
            conn.finish_one(running)
            claimed = conn.claim()
            if not claimed:
                break
            (running,) = claimed
            served.append(running.id)
        assert served == [urgent.id, early.id, late.id]

    def test_a_job_that_is_not_due_does_not_hold_up_the_line(self, conn: Connection) -> None:
        later = conn.add(concurrency_key="k", run_at=conn.now() + timedelta(hours=1))
        due = conn.add(concurrency_key="k")
        assert conn.claim_one().id == due.id
        conn.finish_one(report_target(conn, due.id))
        conn.advance(timedelta(hours=2))
        assert conn.claim_one().id == later.id

    def test_a_job_that_comes_due_before_the_first_of_its_line_runs_first(self, conn: Connection) -> None:
        conn.add(concurrency_key="k", run_at=conn.now() + timedelta(hours=2))
        sooner = conn.add(concurrency_key="k", run_at=conn.now() + timedelta(hours=1))
        assert leases.next_due(conn, ["alpha"])[1] == sooner.run_at
        conn.advance(timedelta(minutes=61))
        assert conn.claim_one().id == sooner.id

    def test_a_long_line_stands_outside_the_index_that_claims_read(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha", concurrency_key="k") for _ in range(500)], actor=ACTOR)
        assert heads(conn) == 1
        assert len(conn.claim(limit=50)) == 1
        assert heads(conn) == 0

    def test_a_whole_line_is_served_one_after_another(self, conn: Connection) -> None:
        ids = producer.enqueue_many(conn, [NewJob("alpha", concurrency_key="k") for _ in range(40)], actor=ACTOR)
        served = []
        for _ in ids:
            running = conn.claim_one()
            served.append(running.id)
            conn.finish_one(running)
        assert served == ids
        assert conn.claim() == []

    @pytest.mark.parametrize("action", ["cancel", "delete", "edit"])
    def test_the_line_moves_up_when_an_operator_takes_its_first_away(self, conn: Connection, action: str) -> None:
        first = conn.add(concurrency_key="k")
        second = conn.add(concurrency_key="k")
        if action == "cancel":
            operator.cancel(conn, [first.id], actor=ACTOR)
        elif action == "delete":
            operator.delete(conn, [first.id], actor=ACTOR)
        else:
            later = (conn.now() + timedelta(hours=1)).isoformat()
            operator.edit(conn, first.id, changes={"run_at": later}, actor=ACTOR)
        assert conn.claim_one().id == second.id

    def test_run_now_of_a_job_behind_a_busy_key_says_so_and_waits(self, conn: Connection) -> None:
        conn.add(concurrency_key="k")
        second = conn.add(concurrency_key="k", run_at=conn.now() + timedelta(hours=1))
        running = conn.claim_one()
        (result,) = operator.retry(conn, [second.id], actor=ACTOR)
        assert result.ok
        assert "concurrency key" in result.message
        assert conn.claim() == []
        conn.finish_one(running)
        assert conn.claim_one().id == second.id

    def test_a_retried_job_goes_ahead_of_less_urgent_ones_as_a_new_one_does(self, conn: Connection) -> None:
        urgent = conn.add(concurrency_key="k", priority=50)
        conn.finish_one(conn.claim_one(), "failed", permanent=True)
        others = [conn.add(concurrency_key="k").id for _ in range(2)]
        (result,) = operator.retry(conn, [urgent.id], actor=ACTOR)
        assert (result.code, [job.id for job in conn.claim()]) == ("due-now", [urgent.id])
        assert [conn.job_row(job)["in_line"] for job in others] == [True, True]

    def test_run_now_of_a_job_with_a_key_that_waits_for_another_job_names_that_job(self, conn: Connection) -> None:
        first = conn.add("beta")
        second = conn.add(concurrency_key="k", blocked_by=first.id)
        (result,) = operator.retry(conn, [second.id], actor=ACTOR)
        assert (result.code, str(first.id) in result.message) == ("due-blocked", True)
        clauses = {row["clause"]: row["code"] for row in conn.rows("SELECT * FROM job_queue_why(%s)", second.id)}
        assert (clauses["dependencies"], clauses["concurrency"]) == ("waits-for-blocker", "concurrency-key-free")

    def test_a_restored_job_stands_in_line_again(self, conn: Connection) -> None:
        job = conn.add(concurrency_key="k")
        operator.delete(conn, [job.id], actor=ACTOR)
        conn.add(concurrency_key="k")
        running = conn.claim_one()
        operator.restore(conn, [job.id], actor=ACTOR)
        assert conn.claim() == []
        conn.finish_one(running)
        assert conn.claim_one().id == job.id

    def test_a_batch_of_finishes_moves_every_line_up(self, conn: Connection) -> None:
        for key in ("a", "b", "c"):
            conn.add(concurrency_key=key)
            conn.add(concurrency_key=key)
        running = conn.claim()
        assert len(running) == 3
        conn.finish(*[report(job) for job in running])
        assert len(conn.claim()) == 3

    def test_a_producers_own_inserts_with_one_key_run_one_at_a_time(self, conn: Connection) -> None:
        conn.execute(
            "INSERT INTO job_queue (task_type, concurrency_key) SELECT 'alpha', 'k' FROM generate_series(1, 5)"
        )
        for _ in range(5):
            conn.finish_one(conn.claim_one())
        assert conn.claim() == []


def report_target(conn: Connection, job_id: UUID) -> ClaimedJob:
    """The running job as its worker knows it."""
    row = conn.job_row(job_id)
    return ClaimedJob(
        job_id, row["run_token"], row["task_type"], row["payload"], row["attempts"], row["max_attempts"],
        row["run_at"], row["started_at"], row["is_recurring"], row["checkpoint"], row["cycle"],
    )  # fmt: skip


class TestConcurrencyKeysUnderContention:
    @pytest.mark.slow
    def test_claimers_at_once_take_one_job_of_a_key(self, conn: Connection, database_url: str) -> None:
        for round_number in range(10):
            key = f"k{round_number}"
            # Two that do not know of each other, as two enqueues at once leave them.
            conn.execute(
                "INSERT INTO job_queue (task_type, concurrency_key) SELECT 'alpha', %s FROM generate_series(1, 4)",
                (key,),
            )
            shares = Parallel(database_url)(*[lambda link: link.claim(limit=1) for _ in range(3)])
            taken = [job for share in shares for job in share]
            assert len(taken) <= 1
            rest = conn.claim()
            assert len(taken) + len(rest) == 1
            conn.finish_one([*taken, *rest][0])
            conn.execute("DELETE FROM job_queue")

    def test_a_claim_that_has_not_seen_another_commit_does_not_take_its_key(
        self, conn: Connection, database_url: str
    ) -> None:
        conn.execute("INSERT INTO job_queue (task_type, concurrency_key) VALUES ('alpha', 'k'), ('beta', 'k')")
        with conn.transaction():
            (held,) = conn.claim(["alpha"])
            (others,) = Parallel(database_url)(lambda link: link.claim(["beta"]))
            assert others == []
        assert conn.claim(["beta"]) == []
        conn.finish_one(held)
        assert len(conn.claim(["beta"])) == 1

    def test_a_job_that_did_not_see_its_key_taken_keeps_no_other_from_a_claim_of_one_and_runs_after_it(
        self, conn: Connection, database_url: str
    ) -> None:
        first = conn.add(concurrency_key="k", priority=1)
        with conn.transaction():
            second = conn.add(concurrency_key="k", priority=1)
            # As an enqueue leaves it that did not see the first.
            conn.execute("UPDATE job_queue SET in_line = false WHERE id = %s", (second.id,))
            ((running,),) = Parallel(database_url)(lambda link: link.claim())
        other = conn.add()
        assert running.id == first.id
        assert [job.id for job in conn.claim(limit=1)] == [other.id]
        assert conn.job_row(second.id)["in_line"]
        conn.finish_one(running)
        assert [job.id for job in conn.claim(limit=1)] == [second.id]

    def test_workers_at_once_never_run_two_of_a_key_and_serve_all(self, conn: Connection, database_url: str) -> None:
        jobs = [NewJob("alpha", concurrency_key=f"k{number % 5}") for number in range(60)]
        producer.enqueue_many(conn, jobs, actor=ACTOR)

        def work(link: Connection) -> list[int]:
            together = []
            for _ in range(400):
                claimed = link.claim(limit=3)
                together.append(
                    link.value(
                        """
                        SELECT count(*) - count(DISTINCT concurrency_key) FROM job_queue WHERE status = 'running'
                        """,
                    )
                )
                link.finish(*[report(job) for job in claimed])
                if not claimed and not link.value("SELECT count(*) FROM job_queue"):
                    break
            return together

        shares = Parallel(database_url)(work, work, work)
        assert {count for share in shares for count in share} == {0}
        assert conn.value("SELECT count(*) FROM job_queue") == 0
        assert conn.value("SELECT count(*) FROM job_runs WHERE outcome = 'succeeded'") == 60


class TestBlockers:
    def test_a_chain_runs_in_order(self, conn: Connection) -> None:
        with conn.transaction():
            first = conn.add()
            second = conn.add(blocked_by=first.id)
            third = conn.add(blocked_by=second.id)
        served = []
        for _ in range(3):
            running = conn.claim_one()
            served.append(running.id)
            conn.finish_one(running)
        assert served == [first.id, second.id, third.id]

    def test_many_may_wait_for_one(self, conn: Connection) -> None:
        first = conn.add("beta")
        ids = [conn.add(blocked_by=first.id).id for _ in range(5)]
        conn.run_once(["beta"])
        assert [job.id for job in conn.claim()] == ids

    @pytest.mark.parametrize("outcome", ["continued", "released", "failed"])
    def test_a_blocker_that_is_not_done_yet_is_still_waited_for(self, conn: Connection, outcome: str) -> None:
        first = conn.add("beta")
        second = conn.add(blocked_by=first.id)
        conn.run_once(["beta"], outcome, checkpoint={}, retry_after=0)
        assert conn.claim() == []
        assert conn.job_row(second.id)["blocked_by"] == first.id

    def test_partial_counts_as_a_success(self, conn: Connection) -> None:
        first = conn.add("beta")
        second = conn.add(blocked_by=first.id)
        conn.run_once(["beta"], "partial")
        assert conn.claim_one().id == second.id

    def test_a_keyed_blocker_frees_its_waiters_too(self, conn: Connection) -> None:
        first = conn.add("beta", concurrency_key="k")
        second = conn.add(blocked_by=first.id, concurrency_key="k")
        conn.run_once(["beta"])
        assert conn.claim_one().id == second.id

    @pytest.mark.parametrize(
        ("how", "end"),
        [
            ("failed", "failed permanently"), ("cancelled", "was cancelled"), ("cancel", "was cancelled"),
            ("delete", "was deleted"), ("lost", "failed permanently"), ("expire", "expired"),
        ],
    )  # fmt: skip
    def test_when_it_can_no_longer_succeed_the_whole_chain_is_cancelled_with_the_reason(
        self, conn: Connection, how: str, end: str
    ) -> None:
        expires_at = conn.now() + timedelta(minutes=1) if how == "expire" else None
        first = conn.add("beta", max_attempts=1, expires_at=expires_at)
        second = conn.add(blocked_by=first.id)
        third = conn.add(blocked_by=second.id)
        if how == "cancel":
            operator.cancel(conn, [first.id], actor=ACTOR)
        elif how == "delete":
            operator.delete(conn, [first.id], actor=ACTOR)
        elif how == "lost":
            conn.claim_one(["beta"])
            conn.lose()
        elif how == "expire":
            conn.advance(timedelta(minutes=2))
            conn.reap()
        else:
            conn.run_once(["beta"], how)
        for job, blocker, words in ((second, first, end), (third, second, "was cancelled")):
            row = conn.job_row(job.id)
            assert (row["status"], row["last_outcome"]) == ("cancelled", "cancelled")
            assert row["last_error"] == f"Cancelled because its blocker, job {blocker.id}, {words}."
            assert row["completed_at"] is not None

    def test_a_success_that_is_over_frees_and_a_failed_cycle_of_a_series_does_not_cancel(
        self, conn: Connection
    ) -> None:
        series = conn.add("beta", recurrence_interval_minutes=60)
        waiting = conn.add(blocked_by=series.id)
        conn.run_once(["beta"], "failed", permanent=True)
        assert conn.job_row(waiting.id)["status"] == "pending"
        conn.advance(timedelta(hours=1))
        conn.run_once(["beta"])
        assert conn.claim_one().id == waiting.id

    @pytest.mark.parametrize("waited_for", [True, False])
    def test_a_success_calls_idle_workers_for_the_jobs_that_waited_for_it_and_for_no_others(
        self, conn: Connection, *, waited_for: bool
    ) -> None:
        first = conn.add("beta")
        conn.add("gamma", blocked_by=first.id if waited_for else conn.add("delta").id)
        conn.execute('LISTEN "public.job_queue"')
        conn.run_once(["beta"])
        conn.execute("NOTIFY \"public.job_queue\", 'last'")
        told = [notice.payload for notice in conn.notifies(timeout=PATIENCE, stop_after=2 if waited_for else 1)]
        assert told == ["", "last"] if waited_for else told == ["last"]

    def test_a_waiting_job_that_is_due_is_not_in_the_claims_way(self, conn: Connection) -> None:
        first = conn.add("beta", run_at=conn.now() + timedelta(hours=1))
        for _ in range(20):
            conn.add(blocked_by=first.id, priority=100)
        free = conn.add()
        assert conn.claim_one().id == free.id

    def test_full_sync_is_two_jobs_in_one_transaction(self, conn: Connection) -> None:
        with conn.transaction(force_rollback=True):
            first = conn.add("game_platform_sync")
            conn.add("game_platform_totals_sweep", blocked_by=first.id)
        assert conn.value("SELECT count(*) FROM job_queue") == 0

    @pytest.mark.parametrize("action", ["cancel", "edit"])
    @pytest.mark.parametrize("outcome", ["succeeded", "failed"])
    def test_a_finish_and_an_action_on_the_job_that_waits_for_it_do_not_wait_for_each_other(
        self, conn: Connection, database_url: str, action: str, outcome: str
    ) -> None:
        first = conn.add(concurrency_key="k")
        second = conn.add(concurrency_key="k", blocked_by=first.id)
        running = conn.claim_one()
        answers = []
        with Connection.connect(database_url, autocommit=True) as other:
            finishing = partial(Connection.finish_one, other, running, outcome, permanent=True)
            thread = threading.Thread(target=lambda: answers.append(finishing()))
            with conn.transaction():
                conn.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (second.id,))
                thread.start()
                conn.until_blocked(other.info.backend_pid, unless=lambda: not thread.is_alive())
                if action == "cancel":
                    assert operator.cancel(conn, [second.id], actor=ACTOR)[0].ok
                else:
                    assert operator.edit(conn, second.id, changes={"priority": 1}, actor=ACTOR).ok
            thread.join(timeout=PATIENCE)
        assert [answer.recorded.value for answer in answers] == [outcome]
        conn.reap()
        row = conn.job_row(second.id)
        if action == "edit" and outcome == "succeeded":
            assert conn.claim_one().id == second.id
        else:
            assert row["status"] == "cancelled"


def test_what_waits_for_a_job_that_was_deleted_by_hand_is_found_within_an_hour(conn: Connection) -> None:
    gone = conn.add(concurrency_key="k")
    next_in_line = conn.add(concurrency_key="k")
    waiting = conn.add(blocked_by=gone.id)
    paused = conn.add(recurrence_interval_minutes=15)
    operator.pause_series(conn, paused.id, actor=ACTOR)
    conn.reap()
    conn.execute("DELETE FROM job_queue WHERE id = %s", (gone.id,))
    conn.advance(timedelta(minutes=61))
    conn.reap()
    conn.reap()
    assert [job.id for job in conn.claim()] == [next_in_line.id]
    assert [conn.job_row(job.id)["status"] for job in (waiting, paused)] == ["cancelled", "pending"]


class TestDedupeUnderContention:
    @pytest.fixture(autouse=True)
    def patient(self, conn: Connection) -> None:
        """Enqueues wait for a key for as long as a busy machine makes another hold it."""
        for name in ("job_queue_create", "job_queue_create_many"):
            conn.execute(sql.SQL("ALTER FUNCTION {} SET lock_timeout = '60s'").format(sql.Identifier(name)))

    @pytest.mark.slow
    def test_enqueues_at_once_make_one_job_and_all_answer_with_it(self, database_url: str) -> None:
        for number in range(10):
            new = NewJob("alpha", dedupe_key=f"sync-{number}")
            answers: list[Ticket] = Parallel(database_url)(*[partial(producer.enqueue, new=new, actor=ACTOR)] * 4)
            assert len({answer.job_id for answer in answers}) == 1
            assert sum(answer.created for answer in answers) == 1

    @pytest.mark.parametrize("taken_back", [True, False], ids=["rolled back", "committed"])
    def test_an_enqueue_waits_for_the_transaction_that_holds_the_key(
        self, conn: Connection, database_url: str, taken_back: bool
    ) -> None:
        answers: list[Ticket] = []
        new = NewJob("alpha", dedupe_key="sync")
        with Connection.connect(database_url, autocommit=True) as other:
            thread = threading.Thread(target=lambda: answers.append(producer.enqueue(other, new, actor=ACTOR)))
            with conn.transaction(force_rollback=taken_back):
                first = conn.add(dedupe_key="sync")
                thread.start()
                conn.until_blocked(other.info.backend_pid)
            thread.join(timeout=PATIENCE)
        (answer,) = answers
        assert answer.created is taken_back
        assert (answer.job_id == first.id) is not taken_back

    def test_bulk_enqueues_at_once_share_their_keys_out(self, conn: Connection, database_url: str) -> None:
        jobs = [NewJob("alpha", dedupe_key=f"d{number}") for number in range(300)]
        shares = Parallel(database_url)(
            *[lambda link: producer.enqueue_many(link, jobs, actor=ACTOR) for _ in range(3)]
        )
        ids = [job_id for share in shares for job_id in share]
        assert len(ids) == len(set(ids)) == 300
        assert conn.value("SELECT count(*) FROM job_queue") == 300

    @pytest.mark.slow
    def test_finish_and_enqueue_at_once_never_lose_the_key(self, conn: Connection, database_url: str) -> None:
        for number in range(10):
            conn.add(dedupe_key=f"sync-{number}")
            running = conn.claim_one()
            new = NewJob("beta", dedupe_key=f"sync-{number}")
            _, answer = Parallel(database_url)(
                partial(Connection.finish_one, claimed=running),
                partial(producer.enqueue, new=new, actor=ACTOR),
            )
            assert answer.created or answer.job_id == running.id
            assert not conn.is_queued(running.id)


@pytest.mark.slow
def test_operators_workers_and_producers_at_once_break_nothing(conn: Connection, database_url: str) -> None:
    """Every kind of call against one key and one chain; nothing raises and nothing is left running."""

    def produce(link: Connection) -> None:
        for number in range(30):
            # What holds the dedupe key may be over by the time that another is to wait for it.
            with suppress(Refused), link.transaction():
                first = link.add(concurrency_key="k", dedupe_key=f"d{number % 3}")
                link.add(concurrency_key="k", blocked_by=first.id)

    def work(link: Connection) -> None:
        for number in range(60):
            outcome = ("succeeded", "failed", "continued", "released")[number % 4]
            link.finish(*[report(job, outcome, checkpoint={}, retry_after=0) for job in link.claim(limit=3)])
            link.reap()

    def operate(link: Connection) -> None:
        for _ in range(30):
            ids = [row["id"] for row in link.rows("SELECT id FROM job_queue ORDER BY random() LIMIT 4")]
            operator.cancel(link, ids[:1], actor=ACTOR)
            operator.retry(link, ids[1:2], actor=ACTOR)
            operator.delete(link, ids[2:3], actor=ACTOR)
            operator.restore(link, ids[2:3], actor=ACTOR)

    Parallel(database_url)(produce, work, work, operate)
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 0
    for _ in rounds("a claim that finds nothing"):
        conn.reap()
        claimed = conn.claim()
        for job in claimed:
            assert conn.finish_one(job).status in {None, Status.CANCELLED}
        # A line whose key another session had locked is claimed a moment later.
        if not claimed and not conn.value("SELECT count(*) FROM job_recheck WHERE due_at IS NOT NULL"):
            break
    left = {row["status"] for row in conn.rows("SELECT DISTINCT status FROM job_queue")}
    assert left <= {"failed", "cancelled"}
