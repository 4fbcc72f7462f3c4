"""Limits of each concurrency key of a task type: so many at a time, and so many in a period."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer
from jobdeck.core.read import jobs
from tests.core.queue.test_limits import limit, many
from tests.support.health import announce
from tests.support.queue import (
    ACTOR,
    Connection,
    add,
    advance,
    claim,
    finish_one,
    job_row,
    now,
    reap,
    rows,
    value,
)


class TestSoManyOfAKey:
    def test_no_more_run_with_a_key_and_each_that_ends_lets_the_next_in_line_start(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 8, concurrency_key="k")
        many(conn, 8, concurrency_key="other")
        first = claim(conn, limit=20)
        assert len(first) == 6
        assert claim(conn) == []
        finish_one(conn, first[0])
        assert len(claim(conn)) == 1
        assert claim(conn) == []

    def test_a_job_enqueued_alone_starts_at_once_beside_those_of_its_key_that_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        add(conn, concurrency_key="k")
        claim(conn)
        second, third = add(conn, concurrency_key="k"), add(conn, concurrency_key="k")
        assert [job_row(conn, job.id)["in_line"] for job in (second, third)] == [False, True]
        assert [job.id for job in claim(conn)] == [second.id]

    def test_a_job_of_a_batch_does_not_wait_behind_those_of_its_key_that_are_due_later(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        tomorrow = NewJob("alpha", run_at=now(conn) + timedelta(days=1), priority=5, concurrency_key="k")
        ids = producer.enqueue_many(conn, [tomorrow, tomorrow, NewJob("alpha", concurrency_key="k")], actor=ACTOR)
        assert [job_row(conn, job_id)["in_line"] for job_id in ids] == [False, False, False]
        assert ids[2] in {job.id for job in claim(conn)}

    def test_a_raised_limit_lets_those_in_line_start_with_the_next_upkeep(self, conn: Connection) -> None:
        many(conn, 5, concurrency_key="k")
        assert len(claim(conn)) == 1
        limit(conn, max_per_key=3)
        reap(conn)
        assert len(claim(conn)) == 2

    def test_a_lowered_limit_starts_none_until_fewer_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 6, concurrency_key="k")
        running = claim(conn)
        assert len(running) == 3
        limit(conn, max_per_key=1)
        for job in running[:2]:
            finish_one(conn, job)
            assert claim(conn) == []
        finish_one(conn, running[2])
        assert len(claim(conn)) == 1

    def test_a_limit_lowered_before_the_claim_holds_for_jobs_that_were_let_into_its_index(
        self, conn: Connection
    ) -> None:
        limit(conn, max_per_key=3)
        many(conn, 3, concurrency_key="k")
        limit(conn, max_per_key=2)
        assert len(claim(conn)) == 2
        assert claim(conn) == []

    def test_the_places_of_a_key_are_unique_in_the_table_itself(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 3, concurrency_key="k")
        claim(conn)
        assert value(conn, "SELECT array_agg(key_place ORDER BY key_place NULLS FIRST) FROM job_queue") == [None, 1, 2]
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("UPDATE job_queue SET key_place = 1")

    def test_both_limits_hold_together(self, conn: Connection) -> None:
        limit(conn, max_running=3, max_per_key=2)
        many(conn, 4, concurrency_key="k")
        many(conn, 4, concurrency_key="other")
        taken = claim(conn)
        assert len(taken) <= 3
        keys = [job_row(conn, job.id)["concurrency_key"] for job in taken]
        assert max(keys.count("k"), keys.count("other")) <= 2
        for _ in range(8):
            for job in taken:
                finish_one(conn, job)
            taken = claim(conn)
        assert value(conn, "SELECT count(*) FROM job_queue") == 0

    def test_a_job_whose_type_lets_one_run_starts_together_with_one_of_another_type_that_lets_two_run(
        self, conn: Connection
    ) -> None:
        limit(conn, "beta", max_per_key=2)
        many(conn, 1, concurrency_key="k", priority=1)
        many(conn, 3, "beta", concurrency_key="k")
        assert [job.task_type for job in claim(conn, ["alpha", "beta"])] == ["alpha", "beta"]

    def test_each_job_with_the_same_key_gets_the_lowest_place_that_is_free(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 5, concurrency_key="k")
        taken = claim(conn)
        places = "SELECT array_agg(key_place ORDER BY run_token) FROM job_queue WHERE status = 'running'"
        assert value(conn, places) == [None, 1, 2]
        finish_one(conn, taken[1])
        finish_one(conn, taken[0])
        assert len(claim(conn)) == 2
        assert value(conn, places) == [2, None, 1]


class TestARateOfAKey:
    def test_so_many_of_a_key_start_and_the_first_in_line_is_due_when_the_next_may(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        many(conn, 3, concurrency_key="k")
        many(conn, 1, concurrency_key="other")
        first = claim(conn)
        assert len(first) == 2
        for job in first:
            finish_one(conn, job)
        assert claim(conn) == []
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert timedelta(seconds=50) < due - at <= timedelta(seconds=60)
        advance(conn, timedelta(seconds=61))
        (second,) = claim(conn)
        finish_one(conn, second)
        assert claim(conn) == []
        advance(conn, timedelta(seconds=61))
        assert len(claim(conn)) == 1

    def test_claims_one_after_the_other_use_up_a_rate_of_several_runs_together(self, conn: Connection) -> None:
        limit(conn, max_per_key=100, key_rate_runs=5, key_rate_seconds=1)
        many(conn, 60, concurrency_key="k")
        starts = [one.claimed_at for _ in range(60) for one in claim(conn, limit=1)]
        passed = (starts[-1] - starts[0]).total_seconds()
        assert 5 <= len(starts) <= 5 + 5 * passed

    def test_a_line_of_a_key_whose_rate_is_used_up_leaves_the_index_of_claims(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        ids = [add(conn, concurrency_key="k").id for _ in range(3)]
        assert claim(conn) == []
        ids += [add(conn, concurrency_key="k").id for _ in range(2)]
        assert claim(conn) == []
        found = rows(conn, "SELECT in_line, run_at > clock_timestamp() AS later FROM job_queue ORDER BY run_at DESC")
        assert [(row["in_line"], row["later"]) for row in found] == [(False, True), *[(True, False)] * 4]
        for job_id in ids:
            advance(conn, timedelta(seconds=61))
            (job,) = claim(conn)
            assert job.id == job_id
            finish_one(conn, job)

    def test_a_more_urgent_job_overtakes_those_that_wait_for_the_rate_of_their_key(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        waiting = []
        for priority in (0, 50, 10):
            waiting.append(add(conn, concurrency_key="k", priority=priority).id)
            assert claim(conn) == []
        order = []
        for _ in waiting:
            advance(conn, timedelta(seconds=61))
            (job,) = claim(conn)
            order.append(job.id)
            finish_one(conn, job)
        assert order == [waiting[1], waiting[2], waiting[0]]

    def test_the_slot_of_a_series_stays_what_it_was(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        series = add(conn, concurrency_key="k", recurrence_interval_minutes=60)
        slot = job_row(conn, series.id)["run_at"]
        assert claim(conn) == []
        assert job_row(conn, series.id)["slot_at"] == slot
        advance(conn, timedelta(seconds=61))
        (run,) = claim(conn)
        assert run.due_at == slot - timedelta(seconds=61)

    @pytest.mark.slow
    def test_a_job_that_waits_for_the_rate_waits_for_no_other_of_its_key_that_no_worker_takes(
        self, conn: Connection
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        announce(conn)
        reap(conn)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        add(conn, "beta", concurrency_key="k", run_at=now(conn) + timedelta(seconds=30))
        waiting = add(conn, concurrency_key="k")
        assert claim(conn) == []
        advance(conn, timedelta(seconds=61))
        announce(conn)
        reap(conn)
        assert [job.id for job in claim(conn)] == [waiting.id]

    @pytest.mark.parametrize("rate", [(None, None), (60, 60)])
    def test_another_rate_holds_at_once_for_those_that_wait(
        self, conn: Connection, rate: tuple[int | None, int | None]
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=86_400)
        many(conn, 3, concurrency_key="k")
        later = add(conn, concurrency_key="other", run_at=now(conn) + timedelta(hours=5))
        finish_one(conn, claim(conn)[0])
        reap(conn)
        assert claim(conn) == []
        limit(conn, key_rate_runs=rate[0], key_rate_seconds=rate[1])
        for _ in range(2):
            finish_one(conn, claim(conn)[0])
            advance(conn, timedelta(seconds=2))
        assert [row["id"] for row in rows(conn, "SELECT id FROM job_queue")] == [later.id]
        assert claim(conn) == []

    def test_types_with_rates_of_their_own_share_a_key_and_each_keeps_its_rate(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=3600)
        limit(conn, "beta", key_rate_runs=1, key_rate_seconds=1)
        for task_type in ("alpha", "beta", "beta"):
            add(conn, task_type, concurrency_key="k")
            (run,) = claim(conn, ["alpha", "beta"])
            assert run.task_type == task_type
            finish_one(conn, run)
            advance(conn, timedelta(seconds=2))
        add(conn, concurrency_key="k")
        assert claim(conn, ["alpha", "beta"]) == []
        advance(conn, timedelta(hours=1))
        assert len(claim(conn, ["alpha", "beta"])) == 1

    def test_types_with_the_same_rate_use_it_together(self, conn: Connection) -> None:
        for task_type in ("alpha", "beta"):
            limit(conn, task_type, key_rate_runs=1, key_rate_seconds=60)
            add(conn, task_type, concurrency_key="k")
        finish_one(conn, claim(conn, ["alpha", "beta"])[0])
        assert claim(conn, ["alpha", "beta"]) == []

    def test_a_claim_does_not_wait_for_a_transaction_that_removes_the_rate_of_a_key(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=1)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        advance(conn, timedelta(seconds=2))
        ids = [add(conn, concurrency_key=key).id for key in ("k", "other")]
        conn.execute("SET lock_timeout = '5s'")
        with psycopg.connect(database_url) as removing:
            removing.execute("DELETE FROM job_key_rates")
            assert [job.id for job in claim(conn)] == ids[1:]
        assert [job.id for job in claim(conn)] == ids[:1]

    def test_keys_are_not_stored_and_what_is_used_up_no_more_is_removed(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        add(conn, concurrency_key="mara@example.com")
        claim(conn)
        assert value(conn, "SELECT count(*) FROM job_key_rates r WHERE strpos(r::text, 'mara') > 0") == 0
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_key_rates") == 1
        advance(conn, timedelta(seconds=61))
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_key_rates") == 0

    def test_why_says_when_the_next_of_the_key_may_start(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=3600)
        many(conn, 2, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        assert claim(conn) == []
        (waiting,) = rows(conn, "SELECT id FROM job_queue")
        found = {one.name: (one.holds, one.evidence) for one in jobs.why(waiting["id"]).run(conn)}
        assert found["limit of the key"] == (False, "Waits for the rate of its key: next in 3600 s.")
