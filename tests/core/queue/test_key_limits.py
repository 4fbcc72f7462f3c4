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
from tests.support.queue import ACTOR, Connection


class TestSoManyOfAKey:
    def test_no_more_run_with_a_key_and_each_that_ends_lets_the_next_in_line_start(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 8, concurrency_key="k")
        many(conn, 8, concurrency_key="other")
        first = conn.claim(limit=20)
        assert len(first) == 6
        assert conn.claim() == []
        conn.finish_one(first[0])
        assert len(conn.claim()) == 1
        assert conn.claim() == []

    def test_a_job_enqueued_alone_starts_at_once_beside_those_of_its_key_that_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        conn.add(concurrency_key="k")
        conn.claim()
        second, third = conn.add(concurrency_key="k"), conn.add(concurrency_key="k")
        assert [conn.job_row(job.id)["in_line"] for job in (second, third)] == [False, True]
        assert [job.id for job in conn.claim()] == [second.id]

    def test_a_job_of_a_batch_does_not_wait_behind_those_of_its_key_that_are_due_later(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        tomorrow = NewJob("alpha", run_at=conn.now() + timedelta(days=1), priority=5, concurrency_key="k")
        ids = producer.enqueue_many(conn, [tomorrow, tomorrow, NewJob("alpha", concurrency_key="k")], actor=ACTOR)
        assert [conn.job_row(job_id)["in_line"] for job_id in ids] == [False, False, False]
        assert ids[2] in {job.id for job in conn.claim()}

    def test_a_raised_limit_lets_those_in_line_start_with_the_next_upkeep(self, conn: Connection) -> None:
        many(conn, 5, concurrency_key="k")
        assert len(conn.claim()) == 1
        limit(conn, max_per_key=3)
        conn.reap()
        assert len(conn.claim()) == 2

    def test_a_lowered_limit_starts_none_until_fewer_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 6, concurrency_key="k")
        running = conn.claim()
        assert len(running) == 3
        limit(conn, max_per_key=1)
        for job in running[:2]:
            conn.finish_one(job)
            assert conn.claim() == []
        conn.finish_one(running[2])
        assert len(conn.claim()) == 1

    def test_a_limit_lowered_before_the_claim_holds_for_jobs_that_were_let_into_its_index(
        self, conn: Connection
    ) -> None:
        limit(conn, max_per_key=3)
        many(conn, 3, concurrency_key="k")
        limit(conn, max_per_key=2)
        assert len(conn.claim()) == 2
        assert conn.claim() == []

    def test_the_places_of_a_key_are_unique_in_the_table_itself(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 3, concurrency_key="k")
        conn.claim()
        assert conn.value("SELECT array_agg(key_place ORDER BY key_place NULLS FIRST) FROM job_queue") == [None, 1, 2]
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("UPDATE job_queue SET key_place = 1")

    def test_both_limits_hold_together(self, conn: Connection) -> None:
        limit(conn, max_running=3, max_per_key=2)
        many(conn, 4, concurrency_key="k")
        many(conn, 4, concurrency_key="other")
        taken = conn.claim()
        assert len(taken) <= 3
        keys = [conn.job_row(job.id)["concurrency_key"] for job in taken]
        assert max(keys.count("k"), keys.count("other")) <= 2
        for _ in range(8):
            for job in taken:
                conn.finish_one(job)
            taken = conn.claim()
        assert conn.value("SELECT count(*) FROM job_queue") == 0

    def test_a_job_whose_type_lets_one_run_starts_together_with_one_of_another_type_that_lets_two_run(
        self, conn: Connection
    ) -> None:
        limit(conn, "beta", max_per_key=2)
        many(conn, 1, concurrency_key="k", priority=1)
        many(conn, 3, "beta", concurrency_key="k")
        assert [job.task_type for job in conn.claim(["alpha", "beta"])] == ["alpha", "beta"]

    def test_each_job_with_the_same_key_gets_the_lowest_place_that_is_free(self, conn: Connection) -> None:
        limit(conn, max_per_key=3)
        many(conn, 5, concurrency_key="k")
        taken = conn.claim()
        places = "SELECT array_agg(key_place ORDER BY run_token) FROM job_queue WHERE status = 'running'"
        assert conn.value(places) == [None, 1, 2]
        conn.finish_one(taken[1])
        conn.finish_one(taken[0])
        assert len(conn.claim()) == 2
        assert conn.value(places) == [2, None, 1]


class TestARateOfAKey:
    def test_so_many_of_a_key_start_and_the_first_in_line_is_due_when_the_next_may(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        many(conn, 3, concurrency_key="k")
        many(conn, 1, concurrency_key="other")
        first = conn.claim()
        assert len(first) == 2
        for job in first:
            conn.finish_one(job)
        assert conn.claim() == []
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert timedelta(seconds=50) < due - at <= timedelta(seconds=60)
        conn.advance(timedelta(seconds=61))
        (second,) = conn.claim()
        conn.finish_one(second)
        assert conn.claim() == []
        conn.advance(timedelta(seconds=61))
        assert len(conn.claim()) == 1

    def test_claims_one_after_the_other_use_up_a_rate_of_several_runs_together(self, conn: Connection) -> None:
        limit(conn, max_per_key=100, key_rate_runs=5, key_rate_seconds=1)
        many(conn, 60, concurrency_key="k")
        starts = [one.claimed_at for _ in range(60) for one in conn.claim(limit=1)]
        passed = (starts[-1] - starts[0]).total_seconds()
        assert 5 <= len(starts) <= 5 + 5 * passed

    def test_a_line_of_a_key_whose_rate_is_used_up_leaves_the_index_of_claims(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        ids = [conn.add(concurrency_key="k").id for _ in range(3)]
        assert conn.claim() == []
        ids += [conn.add(concurrency_key="k").id for _ in range(2)]
        assert conn.claim() == []
        found = conn.rows("SELECT in_line, run_at > clock_timestamp() AS later FROM job_queue ORDER BY run_at DESC")
        assert [(row["in_line"], row["later"]) for row in found] == [(False, True), *[(True, False)] * 4]
        for job_id in ids:
            conn.advance(timedelta(seconds=61))
            (job,) = conn.claim()
            assert job.id == job_id
            conn.finish_one(job)

    def test_a_job_that_waits_for_the_rate_of_its_key_keeps_no_other_from_a_claim_of_one(
        self, conn: Connection
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        conn.add(concurrency_key="k", priority=1)
        other = conn.add()
        assert [job.id for job in conn.claim(limit=1)] == [other.id]

    def test_a_more_urgent_job_overtakes_those_that_wait_for_the_rate_of_their_key(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        waiting = []
        for priority in (0, 50, 10):
            waiting.append(conn.add(concurrency_key="k", priority=priority).id)
            assert conn.claim() == []
        order = []
        for _ in waiting:
            conn.advance(timedelta(seconds=61))
            (job,) = conn.claim()
            order.append(job.id)
            conn.finish_one(job)
        assert order == [waiting[1], waiting[2], waiting[0]]

    def test_the_slot_of_a_series_stays_what_it_was(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        series = conn.add(concurrency_key="k", recurrence_interval_minutes=60)
        slot = conn.job_row(series.id)["run_at"]
        assert conn.claim() == []
        assert conn.job_row(series.id)["slot_at"] == slot
        conn.advance(timedelta(seconds=61))
        (run,) = conn.claim()
        assert run.due_at == slot - timedelta(seconds=61)

    @pytest.mark.slow
    def test_a_job_that_waits_for_the_rate_waits_for_no_other_of_its_key_that_no_worker_takes(
        self, conn: Connection
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        announce(conn)
        conn.reap()
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        conn.add("beta", concurrency_key="k", run_at=conn.now() + timedelta(seconds=30))
        waiting = conn.add(concurrency_key="k")
        assert conn.claim() == []
        conn.advance(timedelta(seconds=61))
        announce(conn)
        conn.reap()
        assert [job.id for job in conn.claim()] == [waiting.id]

    @pytest.mark.parametrize("rate", [(None, None), (60, 60)])
    def test_another_rate_holds_at_once_for_those_that_wait(
        self, conn: Connection, rate: tuple[int | None, int | None]
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=86_400)
        many(conn, 3, concurrency_key="k")
        later = conn.add(concurrency_key="other", run_at=conn.now() + timedelta(hours=5))
        conn.finish_one(conn.claim()[0])
        conn.reap()
        assert conn.claim() == []
        limit(conn, key_rate_runs=rate[0], key_rate_seconds=rate[1])
        for _ in range(2):
            conn.finish_one(conn.claim()[0])
            conn.advance(timedelta(seconds=2))
        assert [row["id"] for row in conn.rows("SELECT id FROM job_queue")] == [later.id]
        assert conn.claim() == []

    def test_types_with_rates_of_their_own_share_a_key_and_each_keeps_its_rate(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=3600)
        limit(conn, "beta", key_rate_runs=1, key_rate_seconds=1)
        for task_type in ("alpha", "beta", "beta"):
            conn.add(task_type, concurrency_key="k")
            (run,) = conn.claim(["alpha", "beta"])
            assert run.task_type == task_type
            conn.finish_one(run)
            conn.advance(timedelta(seconds=2))
        conn.add(concurrency_key="k")
        assert conn.claim(["alpha", "beta"]) == []
        conn.advance(timedelta(hours=1))
        assert len(conn.claim(["alpha", "beta"])) == 1

    def test_types_with_the_same_rate_use_it_together(self, conn: Connection) -> None:
        for task_type in ("alpha", "beta"):
            limit(conn, task_type, key_rate_runs=1, key_rate_seconds=60)
            conn.add(task_type, concurrency_key="k")
        conn.finish_one(conn.claim(["alpha", "beta"])[0])
        assert conn.claim(["alpha", "beta"]) == []

    def test_a_claim_does_not_wait_for_a_transaction_that_removes_the_rate_of_a_key(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=1)
        conn.add(concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        conn.advance(timedelta(seconds=2))
        ids = [conn.add(concurrency_key=key).id for key in ("k", "other")]
        conn.execute("SET lock_timeout = '5s'")
        with Connection.connect(database_url) as removing:
            removing.execute("DELETE FROM job_key_rates")
            assert [job.id for job in conn.claim()] == ids[1:]
        assert [job.id for job in conn.claim()] == ids[:1]

    def test_keys_are_not_stored_and_what_is_used_up_no_more_is_removed(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        conn.add(concurrency_key="mara@example.com")
        conn.claim()
        assert conn.value("SELECT count(*) FROM job_key_rates r WHERE strpos(r::text, 'mara') > 0") == 0
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_key_rates") == 1
        conn.advance(timedelta(seconds=61))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_key_rates") == 0

    def test_why_says_when_the_next_of_the_key_may_start(self, conn: Connection) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=3600)
        many(conn, 2, concurrency_key="k")
        conn.finish_one(conn.claim()[0])
        assert conn.claim() == []
        (waiting,) = conn.rows("SELECT id FROM job_queue")
        found = {one.name: (one.holds, one.evidence) for one in jobs.why(waiting["id"]).run(conn)}
        assert found["limit of the key"] == (False, "Waits for the rate of its key: next in 3600 s.")
