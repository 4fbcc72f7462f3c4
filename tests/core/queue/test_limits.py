"""Limits of task types: so many at a time, so many for each key, so many in a period; set, changed and explained."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, presence, producer
from jobdeck.core.read import jobs
from jobdeck.core.read.type_settings import type_lines
from tests.support.queue import (
    ACTOR,
    WORKER,
    Connection,
    add,
    advance,
    audit_rows,
    changes_nothing,
    claim,
    finish,
    finish_one,
    job_row,
    now,
    reap,
    report,
    rows,
    value,
    waits_for_a_lock,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND = timedelta(seconds=1)


def limit(conn: Connection, task_type: str = "alpha", **changes: int | None) -> None:
    """Sets limits, and lets the second pass in which a type with its first limit takes no job."""
    operator.set_type(conn, task_type, changes=changes, actor=ACTOR, reason=None)
    conn.execute("UPDATE job_types SET limited_at = limited_at - interval '2 seconds'")


def many(conn: Connection, number: int, task_type: str = "alpha", **fields: Any) -> None:
    producer.enqueue_many(conn, [NewJob(task_type, **fields)] * number, actor=ACTOR)


def report_worker(
    conn: Connection, worker_id: str = WORKER, concurrency: int = 8, task_types: Sequence[str] = ("alpha",)
) -> None:
    """Makes a worker known."""
    presence.report_worker(
        conn, worker_id=worker_id, host="h", pid=1, mode="headless", version="1", concurrency=concurrency,
        task_types=list(task_types), running=0,
    )  # fmt: skip


def limit_clause(conn: Connection, job: Any) -> tuple[bool, str] | None:
    """What `why` says of the limits of a job's type."""
    return next(((one.holds, one.evidence) for one in jobs.why(job).run(conn) if one.name == "limit"), None)


class TestSoManyOfATypeAtATime:
    def test_no_more_run_over_all_workers_and_each_that_ends_makes_room_for_one(self, conn: Connection) -> None:
        limit(conn, max_running=3)
        many(conn, 10)
        first = claim(conn, limit=2, worker="a")
        second = claim(conn, worker="b")
        assert (len(first), len(second), claim(conn)) == (2, 1, [])
        finish(conn, *map(report, first), worker="a")
        assert len(claim(conn)) == 2

    def test_a_full_type_keeps_no_other_type_from_its_place_in_a_claim(self, conn: Connection) -> None:
        limit(conn, max_running=2)
        many(conn, 50, priority=5)
        many(conn, 50, "beta")
        taken = claim(conn, ["alpha", "beta"], limit=20)
        assert sorted(job.task_type for job in taken) == ["alpha"] * 2 + ["beta"] * 18

    def test_jobs_of_several_priorities_share_the_places_best_first(self, conn: Connection) -> None:
        limit(conn, max_running=3)
        for priority in (1, 2, 3, 4):
            many(conn, 2, priority=priority)
        assert [job.priority for job in claim(conn, limit=8)] == [4, 4, 3]

    def test_jobs_that_take_the_places_of_locked_ones_are_no_more_than_those(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=2)
        many(conn, 2, priority=5)
        many(conn, 4, priority=3)
        many(conn, 4)
        with psycopg.connect(database_url) as other:
            # The claim counts on these two, and then looks for others of each priority.
            other.execute("SELECT FROM job_queue WHERE priority = 5 FOR UPDATE")
            assert [job.priority for job in claim(conn, limit=10)] == [3, 3]

    def test_a_run_that_waited_for_its_place_starts_after_the_run_that_left_the_place(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        first = claim(conn)[0]
        # In place of the wait for another claim, which ends after a moment: the run ends while the claim waits.
        conn.execute(
            """
            CREATE OR REPLACE FUNCTION job_limits_lock(p_types text[], p_wait boolean) RETURNS SETOF job_types
            LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
            BEGIN
                PERFORM pg_advisory_lock(1);
                RETURN QUERY SELECT * FROM job_types t WHERE t.task_type = ANY (p_types) FOR UPDATE;
            END
            $$
            """
        )
        conn.execute("SELECT pg_advisory_lock(1)")
        with psycopg.connect(database_url, autocommit=True) as other, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(claim, other)
            waits_for_a_lock(conn, other.info.backend_pid, unless=waiting.done)
            finish_one(conn, first)
            ended = now(conn)
            conn.execute("SELECT pg_advisory_unlock(1)")
            (second,) = waiting.result()
        assert second.claimed_at >= ended

    def test_series_do_not_wait_for_ever_behind_a_backlog_nor_take_more_than_the_places(self, conn: Connection) -> None:
        limit(conn, max_running=2)
        hour = now(conn) - timedelta(hours=1)
        many(conn, 20, run_at=hour)
        for _ in range(5):
            add(conn, recurrence_interval_minutes=60, run_at=now(conn))
        assert [job.is_recurring for job in claim(conn)].count(True) == 1
        assert claim(conn) == []

    def test_a_worker_takes_no_more_of_a_limited_type_than_it_has_slots_where_others_could_run_them(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=100)
        many(conn, 50)
        many(conn, 50, "beta")
        report_worker(conn, worker_id="a", concurrency=4)
        report_worker(conn, worker_id="b", concurrency=96)
        taken = claim(conn, ["alpha", "beta"], limit=100, worker="a")
        assert [job.task_type for job in taken].count("alpha") == 4
        assert len(taken) == 54

    def test_workers_with_fewer_slots_than_there_are_places_share_the_places_by_their_slots(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=90)
        many(conn, 200)
        report_worker(conn, worker_id="a", concurrency=4)
        report_worker(conn, worker_id="b", concurrency=8)
        report_worker(conn, worker_id="of other types", concurrency=100, task_types=["beta"])
        report_worker(conn, worker_id="dead", concurrency=100)
        conn.execute("UPDATE job_workers SET heartbeat_at = heartbeat_at - interval '3 minutes' WHERE id = 'dead'")
        # Half of the worker's share, so that one half runs while the other is claimed.
        assert len(claim(conn, limit=20, worker="a")) == 15
        # A claim of no more than the slots asks for no share.
        assert len(claim(conn, limit=4, worker="a")) == 4
        assert [len(claim(conn, limit=100, worker="b")) for _ in range(2)] == [30, 30]
        assert len(claim(conn, limit=100, worker="a")) == 11

    @pytest.mark.parametrize(("rate", "taken"), [(10, 4), (100, 10), (5000, 50)])
    def test_of_a_rate_a_claim_takes_what_starts_in_a_tenth_of_a_second_and_at_least_its_workers_slots(
        self, conn: Connection, rate: int, taken: int
    ) -> None:
        limit(conn, rate_runs=rate, rate_seconds=1)
        many(conn, 50)
        report_worker(conn, worker_id="a", concurrency=4)
        assert len(claim(conn, limit=50, worker="a")) == taken

    @pytest.mark.parametrize("changes", [{"max_running": 1000}, {"rate_runs": 1000, "rate_seconds": 1}])
    def test_workers_take_the_first_jobs_of_each_type_where_all_types_have_more_places_than_a_claim(
        self, conn: Connection, changes: dict[str, int]
    ) -> None:
        at = now(conn) - timedelta(hours=1)
        for task_type in ("alpha", "beta"):
            limit(conn, task_type, **changes)
        for minute in range(6):
            add(conn, ("alpha", "beta")[minute % 2], run_at=at + timedelta(minutes=minute))
        taken = claim(conn, ["alpha", "beta"], limit=3)
        assert [job.due_at for job in taken] == [at + timedelta(minutes=minute) for minute in range(3)]

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "released", "snoozed", "continued", "cancelled"])
    def test_the_place_is_free_whatever_the_run_ended_with(self, conn: Connection, outcome: str) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        finish_one(conn, claim(conn)[0], outcome)
        assert len(claim(conn)) == 1

    def test_the_place_of_a_lost_run_is_free_once_it_is_taken_back_and_its_late_report_frees_none(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=1)
        many(conn, 3)
        lost = claim(conn)[0]
        advance(conn, timedelta(minutes=2))
        assert claim(conn) == []
        assert reap(conn).lost == 1
        (following,) = claim(conn)
        assert finish_one(conn, lost).recorded == "abandoned"
        assert claim(conn) == []
        finish_one(conn, following)
        assert len(claim(conn)) == 1

    def test_a_limit_lowered_below_what_runs_ends_no_job_and_starts_none_until_fewer_run(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=4)
        many(conn, 10)
        running = claim(conn)
        limit(conn, max_running=2)
        for job in running[:2]:
            assert claim(conn) == []
            assert finish_one(conn, job).recorded == "succeeded"
        assert claim(conn) == []
        finish_one(conn, running[2])
        assert len(claim(conn)) == 1

    def test_jobs_that_ran_before_the_first_limit_count_until_they_end(self, conn: Connection) -> None:
        many(conn, 8)
        before = claim(conn, limit=3)
        limit(conn, max_running=2)
        for job in before[:2]:
            assert claim(conn) == []
            finish_one(conn, job)
        (beside,) = claim(conn)
        assert claim(conn) == []
        finish_one(conn, before[2])
        assert len(claim(conn)) == 1
        assert not value(conn, "SELECT uncounted FROM job_types") or beside
        finish_one(conn, beside)
        claim(conn)
        assert value(conn, "SELECT uncounted FROM job_types") is False

    def test_no_job_is_claimed_in_the_second_in_which_claims_from_before_the_limit_may_end(
        self, conn: Connection
    ) -> None:
        many(conn, 2)
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        conn.execute("UPDATE job_types SET limited_at = clock_timestamp() + interval '-10 milliseconds'")
        assert claim(conn) == []
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert timedelta(0) < due - at <= SECOND
        conn.execute("UPDATE job_types SET limited_at = limited_at - interval '2 seconds'")
        assert len(claim(conn)) == 1

    def test_a_limit_that_is_taken_away_holds_no_more(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 5)
        claim(conn)
        limit(conn, max_running=None)
        assert len(claim(conn)) == 4

    def test_a_full_type_is_looked_at_again_after_a_second_and_one_with_a_place_at_once(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert due <= at
        claim(conn)
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert due - at == SECOND

    def test_a_claim_leaves_a_type_to_another_claim_that_counts_it_and_takes_the_others(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=5)
        many(conn, 5)
        many(conn, 5, "beta")
        with psycopg.connect(database_url, autocommit=True) as other, other.transaction():
            assert len(claim(other, limit=3)) == 3
            assert {job.task_type for job in claim(conn, ["alpha", "beta"])} == {"beta"}
            assert claim(conn) == []
        assert len(claim(conn)) == 2

    def test_a_claim_that_has_waited_too_long_counts_no_type_whose_row_it_has_not_locked(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=1)
        limit(conn, "beta", max_running=1)
        conn.execute("ALTER FUNCTION job_limits_lock SET lock_timeout = '3s'")
        with (
            psycopg.connect(database_url) as of_alpha,
            psycopg.connect(database_url) as of_beta,
            psycopg.connect(database_url) as claiming,
            ThreadPoolExecutor(1) as threads,
        ):
            of_alpha.execute("SELECT FROM job_types WHERE task_type = 'alpha' FOR UPDATE")
            of_beta.execute("SELECT FROM job_types WHERE task_type = 'beta' FOR UPDATE")
            counting = "SELECT task_type FROM job_limits_lock('{alpha,beta}', true)"
            waiting = threads.submit(rows, claiming, counting)
            waits_for_a_lock(conn, claiming.info.backend_pid, unless=waiting.done)
            of_alpha.rollback()
            counted = {row["task_type"] for row in waiting.result()}
            free = {row["task_type"] for row in rows(conn, "SELECT task_type FROM job_types FOR UPDATE SKIP LOCKED")}
        assert counted == {"alpha"}
        assert not free

    def test_claims_of_types_without_limits_lock_no_row_of_the_settings(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, "beta", max_running=5)
        many(conn, 3)
        many(conn, 3, "beta")
        with psycopg.connect(database_url, autocommit=True) as other, other.transaction():
            other.execute("SELECT FROM job_types FOR UPDATE")
            assert len(claim(conn, ["alpha", "beta"])) == 3


class TestARateOfAType:
    def test_so_many_start_at_once_and_then_one_in_each_step(self, conn: Connection) -> None:
        limit(conn, rate_runs=6, rate_seconds=60, rate_burst=3)
        many(conn, 20)
        assert len(claim(conn, limit=20)) == 3
        for _ in range(3):
            assert claim(conn) == []
            advance(conn, timedelta(seconds=10))
            assert len(claim(conn)) == 1

    def test_without_a_burst_so_many_start_at_once_as_in_a_second(self, conn: Connection) -> None:
        limit(conn, rate_runs=25, rate_seconds=10)
        limit(conn, "beta", rate_runs=6, rate_seconds=60)
        many(conn, 20)
        many(conn, 20, "beta")
        taken = claim(conn, ["alpha", "beta"], limit=30)
        assert sorted(job.task_type for job in taken) == ["alpha"] * 3 + ["beta"]

    def test_what_was_not_used_in_a_quiet_hour_is_not_saved_up(self, conn: Connection) -> None:
        limit(conn, rate_runs=6, rate_seconds=60, rate_burst=2)
        many(conn, 20)
        claim(conn)
        advance(conn, timedelta(hours=1))
        assert len(claim(conn, limit=20)) == 2

    def test_the_next_claim_comes_when_the_rate_lets_a_job_start(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 2)
        (first,) = claim(conn)
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert abs((due - first.claimed_at) - timedelta(seconds=30)) < timedelta(milliseconds=1)
        assert at < due

    def test_a_clock_that_was_set_back_does_not_stop_the_type(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 3)
        claim(conn)
        conn.execute("UPDATE job_types SET rate_until = rate_until + interval '20 seconds'")
        assert claim(conn) == []
        conn.execute("UPDATE job_types SET rate_until = rate_until + interval '3 days'")
        assert len(claim(conn)) == 1

    def test_another_rate_holds_at_once(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=3600)
        many(conn, 9)
        claim(conn)
        limit(conn, rate_runs=120, rate_seconds=60)
        assert len(claim(conn)) == 2

    def test_a_run_that_is_put_off_has_used_the_rate(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 2)
        finish_one(conn, claim(conn)[0], "snoozed", delay=0.0)
        assert claim(conn) == []


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

    def test_the_places_of_jobs_with_the_same_key_differ_also_where_the_limit_was_just_lowered_to_one(
        self, conn: Connection
    ) -> None:
        many(conn, 3, concurrency_key="k")
        numbers = value(
            conn, "SELECT (job_key_places(array_agg(q.ctid ORDER BY q.run_at, q.id))).numbers FROM job_queue q"
        )
        assert numbers == [None, 1, 2]


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

    def test_a_job_that_waits_for_the_rate_waits_for_no_other_of_its_key_that_no_worker_takes(
        self, conn: Connection
    ) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        report_worker(conn)
        reap(conn)
        add(conn, concurrency_key="k")
        finish_one(conn, claim(conn)[0])
        add(conn, "beta", concurrency_key="k", run_at=now(conn) + timedelta(seconds=30))
        waiting = add(conn, concurrency_key="k")
        assert claim(conn) == []
        advance(conn, timedelta(seconds=61))
        report_worker(conn)
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


class TestUniqueWithinAPeriod:
    def test_a_second_job_is_not_created_while_the_time_lasts_even_if_the_first_has_ended(
        self, conn: Connection
    ) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        first = producer.enqueue(conn, new, actor=ACTOR)
        assert first.created
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False)
        finish_one(conn, claim(conn)[0])
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False)
        assert claim(conn) == []
        advance(conn, timedelta(seconds=3601))
        assert producer.enqueue(conn, new, actor=ACTOR).created

    def test_an_active_job_keeps_its_key_for_longer_than_the_time(self, conn: Connection) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=1)
        first = producer.enqueue(conn, new, actor=ACTOR)
        advance(conn, timedelta(hours=1))
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False)

    def test_a_job_that_is_rolled_back_was_never_there(self, conn: Connection) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        with conn.transaction(force_rollback=True):
            producer.enqueue(conn, new, actor=ACTOR)
        assert producer.enqueue(conn, new, actor=ACTOR).created

    def test_of_two_transactions_one_waits_for_the_other_and_says_so_if_that_takes_long(
        self, conn: Connection, database_url: str
    ) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        with psycopg.connect(database_url, autocommit=True) as other, other.transaction():
            producer.enqueue(other, new, actor=ACTOR)
            with pytest.raises(Refused, match="Another transaction enqueues a job with the same dedupe key"):
                producer.enqueue(conn, new, actor=ACTOR)
        assert not producer.enqueue(conn, new, actor=ACTOR).created

    def test_the_row_is_removed_when_its_time_is_over_and_has_no_key_in_it(self, conn: Connection) -> None:
        producer.enqueue(conn, NewJob("alpha", dedupe_key="mara@example.com", unique_seconds=60), actor=ACTOR)
        assert value(conn, "SELECT count(*) FROM job_unique_keys k WHERE strpos(k::text, 'mara') > 0") == 0
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_unique_keys") == 1
        advance(conn, timedelta(seconds=61))
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_unique_keys") == 0

    @pytest.mark.parametrize(
        ("new", "words"),
        [
            (NewJob("alpha", unique_seconds=60), "needs a dedupe key"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=0), "between a second and 366 days"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=float("nan")), "between a second and 366 days"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=4e7), "between a second and 366 days"),
            (
                NewJob("alpha", dedupe_key="d", unique_seconds=60, recurrence_interval_minutes=5),
                "A recurring job cannot",
            ),
            (NewJob("alpha", dedupe_key="d", unique_seconds=60, schedule={"seconds": 30}), "A recurring job cannot"),
        ],
    )
    def test_nonsense_is_refused_and_enqueues_nothing(self, conn: Connection, new: NewJob, words: str) -> None:
        with changes_nothing(conn), pytest.raises(Refused, match=words):
            producer.enqueue(conn, new, actor=ACTOR)

    def test_sql_refuses_a_recurring_job_as_well(self, conn: Connection) -> None:
        call = "SELECT * FROM job_queue_create_once(60, 'alpha', '{}', NULL, 5, 0, 'd', NULL, NULL, 5, NULL, 'a')"
        with changes_nothing(conn), pytest.raises(psycopg.Error, match="A recurring job cannot be unique for a time"):
            conn.execute(call)

    def test_many_jobs_at_once_cannot_be_unique_for_a_time(self, conn: Connection) -> None:
        with changes_nothing(conn), pytest.raises(Refused, match="unique for a time"):
            producer.enqueue_many(conn, [NewJob("alpha", dedupe_key="d", unique_seconds=60)], actor=ACTOR)


class TestErasure:
    @pytest.mark.parametrize("how", ["job_erase_payload('who', 'mara@example.com', 'x')",
                                     "job_erase_texts('{\"mara@example.com\": \"[erased]\"}', 'x')"])  # fmt: skip
    def test_the_hashes_of_the_keys_of_erased_jobs_are_removed(self, conn: Connection, how: str) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        for who in ("mara@example.com", "jane@example.com"):
            new = NewJob("alpha", {"who": who}, concurrency_key=who, dedupe_key=who, unique_seconds=3600)
            producer.enqueue(conn, new, actor=ACTOR)
        for job in claim(conn):
            finish_one(conn, job)
        counts = "SELECT array[(SELECT count(*) FROM job_key_rates), (SELECT count(*) FROM job_unique_keys)]"
        assert value(conn, counts) == [2, 2]
        conn.execute(f"SELECT {how}")
        assert value(conn, counts) == [1, 1]


class TestMaximumAge:
    def test_a_job_that_waits_for_longer_is_cancelled_however_it_was_enqueued(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=3600)
        add(conn)
        many(conn, 2)
        conn.execute("INSERT INTO job_queue (task_type) VALUES ('alpha')")
        add(conn, run_at=now(conn) + timedelta(hours=2))
        advance(conn, timedelta(hours=1, seconds=5))
        assert claim(conn) == []
        reap(conn)
        states = [row["status"] for row in rows(conn, "SELECT status FROM job_queue ORDER BY run_at")]
        assert states == ["cancelled"] * 4 + ["pending"]

    def test_retries_and_snoozes_do_not_go_on_for_ever_and_the_job_says_what_came_last(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=3600)
        job = add(conn, max_attempts=1000)
        finish_one(conn, claim(conn)[0], "failed", error="the vendor is down", retry_after=7200.0)
        advance(conn, timedelta(hours=1, seconds=5))
        reap(conn)
        found = job_row(conn, job.id)
        assert (found["status"], found["last_error"]) == (
            "cancelled", "The job expired before a worker could run it again. the vendor is down",
        )  # fmt: skip

    def test_it_ends_no_series_and_no_job_with_an_expiry_of_its_own(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=60)
        series = add(conn, recurrence_interval_minutes=60)
        own = add(conn, expires_at=now(conn) + timedelta(hours=5))
        advance(conn, timedelta(hours=1))
        reap(conn)
        assert [job_row(conn, job.id)["status"] for job in (series, own)] == ["pending"] * 2


class TestCanaries:
    def test_a_canary_waits_for_a_place_of_its_type_and_is_told_so(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        (running,) = claim(conn)
        (waiting,) = rows(conn, "SELECT id FROM job_queue WHERE status = 'pending'")
        report_worker(conn)
        conn.execute("SELECT job_queue_ask_canary(%s, 1, 'kim', NULL, false)", (waiting["id"],))
        assert claim(conn) == []
        (told,) = rows(conn, "SELECT code FROM job_canaries c CROSS JOIN job_queue_canary(c.id)")
        assert told["code"] == "type-full"
        finish_one(conn, running)
        (canary,) = claim(conn)
        assert (canary.id, canary.is_canary) == (waiting["id"], True)
        many(conn, 1)
        assert claim(conn) == []


class TestWhy:
    def test_says_that_it_waits_for_a_place_or_for_the_rate_or_how_many_run(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 3)
        claim(conn)
        (waiting, *_) = [row["id"] for row in rows(conn, "SELECT id FROM job_queue WHERE status = 'pending'")]
        assert limit_clause(conn, waiting) == (False, "Waits for a place: 1 of 1 of this type run.")
        limit(conn, max_running=2)
        assert limit_clause(conn, waiting) == (True, "1 of 2 of this type run.")
        limit(conn, max_running=None, rate_runs=1, rate_seconds=3600)
        assert limit_clause(conn, waiting) == (True, "The rate of this type lets a job start.")
        claim(conn)
        waiting = rows(conn, "SELECT id FROM job_queue WHERE status = 'pending'")[0]["id"]
        assert limit_clause(conn, waiting) == (False, "Waits for the rate: next in 3600 s.")

    def test_is_silent_about_types_without_limits_and_jobs_that_run(self, conn: Connection) -> None:
        job = add(conn)
        assert limit_clause(conn, job.id) is None
        limit(conn, max_running=1)
        claim(conn)
        assert limit_clause(conn, job.id) is None

    def test_says_how_many_of_the_key_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        many(conn, 3, concurrency_key="k")
        claim(conn)
        (waiting,) = rows(conn, "SELECT id FROM job_queue WHERE status = 'pending'")
        found = next(one for one in jobs.why(waiting["id"]).run(conn) if one.name == "concurrency")
        assert (found.holds, found.evidence) == (False, "2 of 2 jobs with the same concurrency key run.")


class TestSetting:
    def test_limits_are_kept_listed_and_in_the_audit(self, conn: Connection) -> None:
        limit(conn, max_running=5, max_per_key=2, rate_runs=100, rate_seconds=60, rate_burst=10)
        many(conn, 3)
        claim(conn, limit=2)
        (line,) = type_lines().run(conn)
        assert line.limits == ("2 of 5 run", "100/m start, 10 at once", "2 per key run")
        limit(conn, rate_runs=None, rate_seconds=None, rate_burst=None)
        (line,) = type_lines().run(conn)
        assert line.limits == ("2 of 5 run", "2 per key run")
        changes = [row["after"] for row in audit_rows(conn, "set type")]
        assert (changes[0]["max_running"], changes[1]["rate_runs"]) == (5, None)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"max_running": 0}, "pause the type"),
            ({"max_running": -1}, "between 1 and 1,000,000, and -1"),
            ({"max_running": 1_000_001}, "1000001 is not"),
            ({"max_running": 2.5}, "2.5 is not one for max_running"),
            ({"max_running": "many"}, "many is not one"),
            ({"max_running": True}, "true is not one"),
            ({"max_running": 10**30}, "not one for max_running"),
            ({"max_per_key": 0}, "for each key"),
            ({"max_per_key": 1001}, "for each key"),
            ({"rate_runs": 5}, "a period in seconds"),
            ({"rate_seconds": 5}, "a number of runs"),
            ({"rate_runs": 0, "rate_seconds": 5}, "pause the type"),
            ({"rate_runs": 5, "rate_seconds": 0}, "between a second and 31 days"),
            ({"rate_runs": 5, "rate_seconds": 2_678_401}, "31 days"),
            ({"rate_burst": 5}, "no rate"),
            ({"rate_runs": 100, "rate_seconds": 10, "rate_burst": 9}, "between 10"),
            ({"max_runing": 5}, "no setting max_runing"),
        ],
    )
    def test_what_is_no_limit_is_refused_in_a_sentence_and_changes_nothing(
        self, conn: Connection, changes: dict[str, Any], words: str
    ) -> None:
        with changes_nothing(conn), pytest.raises(Refused, match=words):
            conn_set(conn, changes)

    def test_a_rate_without_a_burst_of_its_own_forgets_that_of_the_rate_before(self, conn: Connection) -> None:
        limit(conn, rate_runs=10, rate_seconds=10, rate_burst=5)
        limit(conn, rate_runs=None, rate_seconds=None)
        assert value(conn, "SELECT rate_burst FROM job_types") is None


def conn_set(conn: Connection, changes: dict[str, Any]) -> None:
    """Sends settings as any client could."""
    operator.set_type(conn, "alpha", changes=json.loads(json.dumps(changes)), actor=ACTOR, reason=None)
