"""Limits of task types: so many at a time over all workers, and so many in a period."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.read import jobs
from tests.support.health import announce
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection, report

SECOND = timedelta(seconds=1)


def limit(conn: Connection, task_type: str = "alpha", **changes: int | None) -> None:
    """Sets limits that the type has had for so long that claims count by the mark of its jobs."""
    operator.set_type(conn, task_type, changes=changes, actor=ACTOR, reason=None)
    conn.execute("UPDATE job_types SET limited_at = limited_at - interval '2 hours'")


def many(conn: Connection, number: int, task_type: str = "alpha", **fields: Any) -> None:
    producer.enqueue_many(conn, [NewJob(task_type, **fields)] * number, actor=ACTOR)


def limit_clause(conn: Connection, job: Any) -> tuple[bool, str] | None:
    """What `why` says of the limits of a job's type."""
    return next(((one.holds, one.evidence) for one in jobs.why(job).run(conn) if one.name == "limit"), None)


class TestSoManyOfATypeAtATime:
    def test_no_more_run_over_all_workers_and_each_that_ends_makes_room_for_one(self, conn: Connection) -> None:
        limit(conn, max_running=3)
        many(conn, 10)
        first = conn.claim(limit=2, worker="a")
        second = conn.claim(worker="b")
        assert (len(first), len(second), conn.claim()) == (2, 1, [])
        conn.finish(*map(report, first), worker="a")
        assert len(conn.claim()) == 2

    def test_a_full_type_keeps_no_other_type_from_its_place_in_a_claim(self, conn: Connection) -> None:
        limit(conn, max_running=2)
        many(conn, 50, priority=5)
        many(conn, 50, "beta")
        taken = conn.claim(["alpha", "beta"], limit=20)
        assert sorted(job.task_type for job in taken) == ["alpha"] * 2 + ["beta"] * 18

    @pytest.mark.parametrize("dropped", ["full", "used up", "locked"])
    @pytest.mark.parametrize("many_lanes", [False, True])
    def test_a_claim_takes_no_more_than_asked_of_a_free_type_when_a_limited_type_has_no_place(
        self, conn: Connection, database_url: str, dropped: str, many_lanes: bool
    ) -> None:
        if dropped == "used up":
            limit(conn, rate_runs=2, rate_seconds=1000)
        else:
            limit(conn, max_running=2)
        many(conn, 20)
        if dropped != "locked":
            conn.claim(limit=2)
        many(conn, 60, "beta")
        if many_lanes:
            many(conn, 60, "beta", priority=5)
        with Connection.connect(database_url) as other:
            if dropped == "locked":
                other.execute("SELECT FROM job_types WHERE task_type = 'alpha' FOR UPDATE")
            for asked in (1, 10, 25):
                assert [job.task_type for job in conn.claim(["alpha", "beta"], limit=asked)] == ["beta"] * asked

    def test_jobs_of_several_priorities_share_the_places_best_first(self, conn: Connection) -> None:
        limit(conn, max_running=3)
        for priority in (1, 2, 3, 4):
            many(conn, 2, priority=priority)
        assert [job.priority for job in conn.claim(limit=8)] == [4, 4, 3]

    def test_jobs_that_take_the_places_of_locked_ones_are_no_more_than_those(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=2)
        many(conn, 2, priority=5)
        many(conn, 4, priority=3)
        many(conn, 4)
        with Connection.connect(database_url) as other:
            # The claim counts on these two, and then looks for others of each priority.
            other.execute("SELECT FROM job_queue WHERE priority = 5 FOR UPDATE")
            assert [job.priority for job in conn.claim(limit=10)] == [3, 3]

    def test_a_run_that_waited_for_its_place_starts_after_the_run_that_left_the_place(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        first = conn.claim()[0]
        conn.execute("ALTER FUNCTION job_limits_admit SET lock_timeout = '1 min'")
        with (
            Connection.connect(database_url) as counting,
            Connection.connect(database_url, autocommit=True) as other,
            ThreadPoolExecutor(1) as threads,
        ):
            counting.execute("SELECT FROM job_types FOR UPDATE")
            waiting = threads.submit(Connection.claim, other)
            conn.until_blocked(other.info.backend_pid, unless=waiting.done)
            conn.finish_one(first)
            ended = conn.now()
            counting.rollback()
            (second,) = waiting.result()
        assert second.claimed_at >= ended

    def test_series_do_not_wait_for_ever_behind_a_backlog_nor_take_more_than_the_places(self, conn: Connection) -> None:
        limit(conn, max_running=2)
        hour = conn.now() - timedelta(hours=1)
        many(conn, 20, run_at=hour)
        for _ in range(5):
            conn.add(recurrence_interval_minutes=60, run_at=conn.now())
        assert sorted(job.is_recurring for job in conn.claim()) == [False, True]
        assert conn.claim() == []

    def test_a_worker_takes_no_more_of_a_limited_type_than_it_has_slots_where_others_could_run_them(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=100)
        many(conn, 50)
        many(conn, 50, "beta")
        announce(conn, "a", concurrency=4)
        announce(conn, "b", concurrency=96)
        taken = conn.claim(["alpha", "beta"], limit=100, worker="a")
        assert [job.task_type for job in taken].count("alpha") == 4
        assert len(taken) == 54

    def test_workers_with_fewer_slots_than_there_are_places_share_the_places_by_their_slots(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=90)
        many(conn, 200)
        announce(conn, "a", concurrency=4)
        announce(conn, "b", concurrency=8)
        announce(conn, "of other types", types=["beta"], concurrency=100)
        announce(conn, "dead", concurrency=100)
        conn.execute("UPDATE job_workers SET heartbeat_at = heartbeat_at - interval '3 minutes' WHERE id = 'dead'")
        # Half of the worker's share, so that one half runs while the other is claimed.
        assert len(conn.claim(limit=20, worker="a")) == 15
        # A claim of no more than the slots asks for no share.
        assert len(conn.claim(limit=4, worker="a")) == 4
        assert [len(conn.claim(limit=100, worker="b")) for _ in range(2)] == [30, 30]
        assert len(conn.claim(limit=100, worker="a")) == 11

    @pytest.mark.parametrize(("rate", "taken"), [(10, 4), (100, 10), (5000, 50)])
    def test_of_a_rate_a_claim_takes_what_starts_in_a_tenth_of_a_second_and_at_least_its_workers_slots(
        self, conn: Connection, rate: int, taken: int
    ) -> None:
        limit(conn, rate_runs=rate, rate_seconds=1)
        many(conn, 50)
        announce(conn, "a", concurrency=4)
        assert len(conn.claim(limit=50, worker="a")) == taken

    @pytest.mark.parametrize("changes", [{"max_running": 1000}, {"rate_runs": 1000, "rate_seconds": 1}])
    def test_workers_take_the_first_jobs_of_each_type_where_all_types_have_more_places_than_a_claim(
        self, conn: Connection, changes: dict[str, int]
    ) -> None:
        at = conn.now() - timedelta(hours=1)
        for task_type in ("alpha", "beta"):
            limit(conn, task_type, **changes)
        for minute in range(6):
            conn.add(("alpha", "beta")[minute % 2], run_at=at + timedelta(minutes=minute))
        taken = conn.claim(["alpha", "beta"], limit=3)
        assert [job.due_at for job in taken] == [at + timedelta(minutes=minute) for minute in range(3)]

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "released", "snoozed", "continued", "cancelled"])
    def test_the_place_is_free_whatever_the_run_ended_with(self, conn: Connection, outcome: str) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        conn.finish_one(conn.claim()[0], outcome)
        assert len(conn.claim()) == 1

    def test_the_place_of_a_lost_run_is_free_once_it_is_taken_back_and_its_late_report_frees_none(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=1)
        many(conn, 3)
        lost = conn.claim()[0]
        conn.advance(timedelta(minutes=2))
        assert conn.claim() == []
        assert conn.reap().lost == 1
        (following,) = conn.claim()
        assert conn.finish_one(lost).recorded == "abandoned"
        assert conn.claim() == []
        conn.finish_one(following)
        assert len(conn.claim()) == 1

    def test_a_limit_lowered_below_what_runs_ends_no_job_and_starts_none_until_fewer_run(
        self, conn: Connection
    ) -> None:
        limit(conn, max_running=4)
        many(conn, 10)
        running = conn.claim()
        limit(conn, max_running=2)
        for job in running[:2]:
            assert conn.claim() == []
            assert conn.finish_one(job).recorded == "succeeded"
        assert conn.claim() == []
        conn.finish_one(running[2])
        assert len(conn.claim()) == 1

    def test_jobs_that_ran_before_the_first_limit_count_until_they_end(self, conn: Connection) -> None:
        many(conn, 8)
        before = conn.claim(limit=3)
        operator.set_type(conn, "alpha", changes={"max_running": 2}, actor=ACTOR, reason=None)
        for job in before[:2]:
            assert conn.claim() == []
            conn.finish_one(job)
        assert len(conn.claim()) == 1
        assert conn.claim() == []
        conn.finish_one(before[2])
        assert len(conn.claim()) == 1

    def test_a_job_that_runs_from_before_the_first_limit_counts_until_it_ends(self, conn: Connection) -> None:
        many(conn, 3)
        (job,) = conn.claim(limit=1)
        operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 minute' WHERE part = 'recheck'")
        conn.reap()
        conn.execute("UPDATE job_types SET limited_at = limited_at - interval '2 hours'")
        assert conn.claim() == []
        conn.finish_one(job)
        assert len(conn.claim()) == 1

    @pytest.mark.parametrize("later", ["1 second", "1 minute", "59 minutes"])
    def test_a_claim_that_began_before_the_limit_and_commits_after_it_is_counted(
        self, conn: Connection, database_url: str, later: str
    ) -> None:
        many(conn, 3)
        with Connection.connect(database_url) as other:
            assert len(other.claim(limit=1)) == 1
            operator.set_type(conn, "alpha", changes={"max_running": 1}, actor=ACTOR, reason=None)
            conn.execute("UPDATE job_types SET limited_at = limited_at - %s::interval", (later,))
        assert conn.claim() == []

    def test_a_limit_that_is_taken_away_holds_no_more(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 5)
        conn.claim()
        limit(conn, max_running=None)
        assert len(conn.claim()) == 4

    def test_a_full_type_is_looked_at_again_after_a_second_and_one_with_a_place_at_once(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert due <= at
        conn.claim()
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert due - at == SECOND

    def test_a_claim_leaves_a_type_to_another_claim_that_counts_it_and_takes_the_others(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=5)
        many(conn, 5)
        many(conn, 5, "beta")
        with Connection.connect(database_url, autocommit=True) as other, other.transaction():
            assert len(other.claim(limit=3)) == 3
            assert {job.task_type for job in conn.claim(["alpha", "beta"])} == {"beta"}
            assert conn.claim() == []
        assert len(conn.claim()) == 2

    @pytest.mark.slow
    def test_a_claim_that_has_waited_too_long_counts_no_type_whose_row_it_has_not_locked(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, max_running=1)
        limit(conn, "beta", max_running=1)
        many(conn, 3)
        many(conn, 3, "beta")
        conn.execute("ALTER FUNCTION job_limits_admit SET lock_timeout = '2s'")
        with (
            Connection.connect(database_url) as of_alpha,
            Connection.connect(database_url) as of_beta,
            Connection.connect(database_url) as claiming,
            ThreadPoolExecutor(1) as threads,
        ):
            of_alpha.execute("SELECT FROM job_types WHERE task_type = 'alpha' FOR UPDATE")
            of_beta.execute("SELECT FROM job_types WHERE task_type = 'beta' FOR UPDATE")
            waiting = threads.submit(Connection.claim, claiming, ["alpha", "beta"])
            conn.until_blocked(claiming.info.backend_pid, unless=waiting.done)
            of_alpha.rollback()
            assert waiting.result() == []
            free = {row["task_type"] for row in conn.rows("SELECT task_type FROM job_types FOR UPDATE SKIP LOCKED")}
        assert free == {"alpha"}

    def test_claims_of_types_without_limits_lock_no_row_of_the_settings(
        self, conn: Connection, database_url: str
    ) -> None:
        limit(conn, "beta", max_running=5)
        many(conn, 3)
        many(conn, 3, "beta")
        with Connection.connect(database_url, autocommit=True) as other, other.transaction():
            other.execute("SELECT FROM job_types FOR UPDATE")
            assert len(conn.claim(["alpha", "beta"])) == 3


class TestARateOfAType:
    def test_so_many_start_at_once_and_then_one_in_each_step(self, conn: Connection) -> None:
        limit(conn, rate_runs=6, rate_seconds=60, rate_burst=3)
        many(conn, 20)
        assert len(conn.claim(limit=20)) == 3
        for _ in range(3):
            assert conn.claim() == []
            conn.advance(timedelta(seconds=10))
            assert len(conn.claim()) == 1

    def test_without_a_burst_so_many_start_at_once_as_in_a_second(self, conn: Connection) -> None:
        limit(conn, rate_runs=25, rate_seconds=10)
        limit(conn, "beta", rate_runs=6, rate_seconds=60)
        many(conn, 20)
        many(conn, 20, "beta")
        taken = conn.claim(["alpha", "beta"], limit=30)
        assert sorted(job.task_type for job in taken) == ["alpha"] * 3 + ["beta"]

    def test_what_was_not_used_in_a_quiet_hour_is_not_saved_up(self, conn: Connection) -> None:
        limit(conn, rate_runs=6, rate_seconds=60, rate_burst=2)
        many(conn, 20)
        conn.claim()
        conn.advance(timedelta(hours=1))
        assert len(conn.claim(limit=20)) == 2

    def test_the_next_claim_comes_when_the_rate_lets_a_job_start(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 2)
        (first,) = conn.claim()
        at, due = leases.next_due(conn, ["alpha"])
        assert due is not None
        assert abs((due - first.claimed_at) - timedelta(seconds=30)) < timedelta(milliseconds=1)
        assert at < due

    def test_a_clock_that_was_set_back_does_not_stop_the_type(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 3)
        conn.claim()
        conn.execute("UPDATE job_types SET rate_until = rate_until + interval '20 seconds'")
        assert conn.claim() == []
        conn.execute("UPDATE job_types SET rate_until = rate_until + interval '3 days'")
        assert len(conn.claim()) == 1

    def test_another_rate_holds_at_once(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=3600)
        many(conn, 9)
        conn.claim()
        limit(conn, rate_runs=120, rate_seconds=60)
        assert len(conn.claim()) == 2

    def test_a_run_that_is_put_off_has_used_the_rate(self, conn: Connection) -> None:
        limit(conn, rate_runs=1, rate_seconds=30)
        many(conn, 2)
        conn.finish_one(conn.claim()[0], "snoozed", delay=0.0)
        assert conn.claim() == []


def test_a_claim_reads_each_job_once_where_limits_leave_no_more_than_it_takes(conn: Connection) -> None:
    types = ["alpha", "beta"]
    for name in types:
        many(conn, 100, name)
        limit(conn, name, max_running=40)
    assert len(conn.claim(types, limit=10)) == 10
    cost = cost_of(conn, lambda conn: conn.claim(types, limit=200))
    assert cost.entries["job_queue_claimable"] < 100


def test_the_index_of_limited_runs_has_an_entry_for_each_run_so_that_each_can_go_alone(conn: Connection) -> None:
    options = conn.rows("SELECT reloptions FROM pg_class WHERE oid = 'job_queue_limited'::regclass")
    assert options == [{"reloptions": ["deduplicate_items=off"]}]


def test_a_claim_asks_once_for_all_its_limited_types(conn: Connection) -> None:
    types = [f"limited{number}" for number in range(10)]
    for name in types:
        many(conn, 2, name)
        limit(conn, name, max_running=5, rate_runs=100, rate_seconds=60)
    conn.execute("SET track_functions = 'all'")
    assert len(conn.claim(types, limit=20)) == 20
    conn.execute("SELECT pg_stat_force_next_flush()")
    called = conn.rows("SELECT funcname, calls FROM pg_stat_user_functions WHERE starts_with(funcname, 'job_limit')")
    asked = {row["funcname"]: row["calls"] for row in called}
    assert asked == dict.fromkeys(("job_limits_admit", "job_limit_running", "job_limits_spend"), 1)
