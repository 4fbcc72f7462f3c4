"""Times that no clock reaches, the slots of series, and series among many one-time jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.support.queue import ACTOR, Connection


@pytest.mark.parametrize("time", ["infinity", "-infinity", "294000-01-01", "4000-01-01 BC"])
@pytest.mark.parametrize("column", ["run_at", "expires_at"])
def test_no_row_gets_a_time_that_a_program_cannot_read(conn: Connection, column: str, time: str) -> None:
    job = conn.add()
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(f"UPDATE job_queue SET {column} = %s WHERE id = %s".encode(), (time, job.id))  # noqa: S608 -- ours
    calls = {
        "run_at": "SELECT job_queue_enqueue('alpha', '{}', %s::timestamptz)",
        "expires_at": "SELECT job_queue_create('alpha', '{}', null, 1, 0, null, null, null, null, %s::timestamptz, '')",
    }
    with pytest.raises(psycopg.Error, match="must be between the years 1 and 9999") as refused:
        conn.execute(calls[column].encode(), (time,))
    assert refused.value.sqlstate == "JD001"


def test_no_batch_gets_a_time_that_a_program_cannot_read(conn: Connection) -> None:
    with pytest.raises(psycopg.Error, match=r"between the years 1 and 9999\. None was enqueued"):
        conn.execute(
            """
            SELECT job_queue_create_many(ARRAY['alpha', 'alpha'], NULL, ARRAY[now(), '-infinity'], NULL, NULL, NULL,
                NULL, 'x')
            """
        )
    assert conn.value("SELECT count(*) FROM job_queue") == 0


SERIES: Final = """
INSERT INTO job_queue (task_type, is_recurring, schedule, slots)
VALUES ('alpha', true, '{"cron": "0 9 * * *", "zone": "UTC"}', %s::timestamptz[]) RETURNING id
"""


@pytest.mark.parametrize(
    "slots",
    [
        ["2030-01-01", "infinity"], ["-infinity"], ["294000-01-01"], ["2030-01-01", None],
        [f"{year}-01-01" for year in range(2000, 3101)],
    ],
)  # fmt: skip
def test_no_series_gets_slots_that_a_program_cannot_read(conn: Connection, slots: list[str | None]) -> None:
    series = conn.value(SERIES, ["2030-01-01"])
    for statement, *params in ((SERIES, slots), ("UPDATE job_queue SET slots = %s::timestamptz[]", slots)):
        with pytest.raises(psycopg.Error, match=r"at most 1,100 slots.*Nothing was changed") as refused:
            conn.execute(statement.encode(), params)
        assert refused.value.sqlstate == "JD001"
    assert conn.rows("SELECT id FROM job_queue") == [{"id": series}]


@pytest.mark.parametrize("interval", [{"recurrence_interval_minutes": 52_596_000}, {"seconds": 999_999_999}])
def test_the_run_of_a_series_without_a_slot_before_the_end_of_all_clocks_is_finished(
    conn: Connection, interval: dict[str, int]
) -> None:
    minutes = interval.get("recurrence_interval_minutes")
    schedule = {"catch_up": "all"} | ({} if minutes else interval)
    series = conn.value(
        """
        INSERT INTO job_queue (task_type, is_recurring, recurrence_interval_minutes, schedule, slot_at)
        VALUES ('alpha', true, %s, %s, '9999-12-30 23:00+00') RETURNING id
        """,
        minutes,
        Jsonb(schedule),
    )
    conn.finish_one(conn.claim_one())
    row = conn.job_row(series)
    assert (row["status"], row["run_at"]) == ("pending", datetime(9999, 12, 30, tzinfo=UTC))


class TestSlots:
    """The slot of a series that a run serves."""

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "lost"])
    def test_a_clock_that_steps_back_during_a_run_does_not_repeat_its_slot(
        self, conn: Connection, outcome: str
    ) -> None:
        slot = conn.now() - timedelta(seconds=10)
        job = conn.add(run_at=slot, recurrence_interval_minutes=60, max_attempts=1)
        claimed = conn.claim_one()
        conn.advance(timedelta(seconds=-30))
        conn.finish_one(claimed, outcome)
        assert conn.job_row(job.id)["run_at"] == slot + timedelta(seconds=30, minutes=60)

    def test_a_retried_cycle_still_serves_its_slot(self, conn: Connection) -> None:
        slot = conn.now() - timedelta(minutes=1)
        job = conn.add(run_at=slot, recurrence_interval_minutes=60, max_attempts=3)
        first = conn.claim_one()
        conn.finish_one(first, "failed", retry_after=0.0)
        second = conn.claim_one()
        assert (first.due_at, second.due_at) == (slot, slot)
        conn.finish_one(second, "continued", checkpoint={"page": 2})
        third = conn.claim_one()
        assert third.due_at == slot
        conn.finish_one(third)
        assert conn.job_row(job.id)["slot_at"] is None
        conn.advance(timedelta(hours=1))
        assert conn.claim_one().due_at == conn.job_row(job.id)["anchor_at"] + timedelta(hours=1)

    def test_a_retried_one_time_job_has_no_slot(self, conn: Connection) -> None:
        job = conn.add(max_attempts=3)
        conn.finish_one(conn.claim_one(), "failed", retry_after=0.0)
        assert conn.claim_one().due_at == conn.job_row(job.id)["run_at"]


class TestSeriesInABacklog:
    """Due series beside more one-time jobs than a claim takes."""

    @pytest.fixture
    def backlog(self, conn: Connection) -> None:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        producer.enqueue_many(conn, [NewJob("alpha", {}, run_at=past) for _ in range(500)], actor=ACTOR)

    @pytest.mark.usefixtures("backlog")
    def test_a_due_series_is_in_the_next_claim(self, conn: Connection) -> None:
        series = conn.add("beta", recurrence_interval_minutes=5)
        assert series.id in {job.id for job in conn.claim(("alpha", "beta"), limit=10)}

    @pytest.mark.usefixtures("backlog")
    def test_a_worker_of_one_slot_runs_it_soon(self, conn: Connection) -> None:
        series = conn.add("beta", recurrence_interval_minutes=5)
        taken = [conn.claim(("alpha", "beta"), limit=1)[0] for _ in range(40)]
        assert series.id in {job.id for job in taken}

    @pytest.mark.usefixtures("backlog")
    def test_many_due_series_leave_half_of_each_claim_to_one_time_jobs(self, conn: Connection) -> None:
        for _ in range(20):
            conn.add("beta", recurrence_interval_minutes=5)
        jobs = conn.claim(("alpha", "beta"), limit=10)
        assert [sum(job.is_recurring is kind for job in jobs) for kind in (True, False)] == [5, 5]

    @pytest.mark.usefixtures("backlog")
    def test_a_series_of_lower_priority_waits(self, conn: Connection) -> None:
        conn.add("beta", recurrence_interval_minutes=5, priority=-1)
        assert not any(job.is_recurring for job in conn.claim(("alpha", "beta"), limit=10))


class TestBlockers:
    """Jobs that wait for one that can no longer succeed."""

    @pytest.mark.parametrize("gone", ["deleted", "expired"])
    def test_a_job_is_cancelled_behind_a_series_that_succeeded_before_and_is_gone_now(
        self, conn: Connection, gone: str
    ) -> None:
        series = conn.add("beta", recurrence_interval_minutes=5, expires_at=conn.now() + timedelta(days=1))
        conn.finish_one(conn.claim_one(["beta"]))
        waiting = conn.add(blocked_by=series.id)
        leave: dict[str, Callable[[], object]] = {
            "deleted": lambda: conn.execute("DELETE FROM job_queue WHERE id = %s", (series.id,)),
            "expired": lambda: conn.advance(timedelta(days=2)),
        }
        leave[gone]()
        conn.reap()
        assert conn.job_row(waiting.id)["status"] == "cancelled"

    def test_a_job_is_not_enqueued_behind_a_series_that_expired_before_it_ran(self, conn: Connection) -> None:
        series = conn.add(
            "beta", recurrence_interval_minutes=5, run_at=conn.now() + timedelta(hours=1),
            expires_at=conn.now() + timedelta(minutes=30),
        )  # fmt: skip
        conn.advance(timedelta(hours=2))
        conn.reap()
        with pytest.raises(Exception, match="has expired"):
            conn.add(blocked_by=series.id)

    @pytest.mark.parametrize("last", [True, False])
    def test_a_job_enqueued_or_retried_behind_a_series_that_has_ended_counts_its_last_success_alone(
        self, conn: Connection, *, last: bool
    ) -> None:
        at = conn.now() - timedelta(minutes=5)
        series = conn.add(
            "beta", run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(hours=1 if last else 3)
        )
        conn.finish_one(conn.claim_one(["beta"]))
        if not last:
            waiting = conn.add(blocked_by=series.id)
            conn.advance(timedelta(hours=4))
            conn.reap()
            (retried,) = operator.retry(conn, [waiting.id], actor=ACTOR)
            assert (retried.ok, retried.code) == (False, "hopeless-blocker")
            assert f"The blocker, job {series.id}, has expired." in retried.message
            with pytest.raises(Exception, match="has expired"):
                conn.add(blocked_by=series.id)
        else:
            assert conn.job_row(conn.add(blocked_by=series.id).id)["blocked_by"] is None
        assert conn.job_row(series.id)["status"] == "succeeded"

    @pytest.mark.parametrize(
        ("runs", "expires", "status"), [(0, True, "cancelled"), (1, True, "cancelled"), (2, False, "pending")]
    )
    def test_a_job_that_an_open_transaction_hid_from_the_end_of_a_series_is_released_by_its_last_success_alone(
        self, conn: Connection, database_url: str, runs: int, status: str, *, expires: bool
    ) -> None:
        at = conn.now() - timedelta(minutes=5)
        series = conn.add("beta", run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(hours=2))
        with Connection.connect(database_url) as slow:
            slow.execute("SELECT 1")
            waiting = slow.add(blocked_by=series.id)
            for _ in range(runs):
                conn.finish_one(conn.claim_one(["beta"]))
                conn.advance(timedelta(hours=1))
            if expires:
                conn.advance(timedelta(hours=2))
                conn.reap()
            assert conn.job_row(series.id)["status"] == "succeeded"
        conn.reap()
        row = conn.job_row(waiting.id)
        assert (row["status"], row["blocked_by"]) == (status, None if status == "pending" else series.id)


def test_what_an_open_transaction_hid_from_the_end_of_a_run_is_found_by_upkeep(
    conn: Connection, database_url: str
) -> None:
    conn.add(concurrency_key="k")
    blocker = conn.add("beta")
    running = conn.claim(("alpha", "beta"))
    with Connection.connect(database_url) as slow:
        slow.execute("SELECT 1")
        lined = slow.add(concurrency_key="k")
        waiting = slow.add("beta", blocked_by=blocker.id)
        for job in running:
            conn.finish_one(job)
    assert conn.claim(("alpha", "beta")) == []
    conn.reap()
    assert {job.id for job in conn.claim(("alpha", "beta"))} == {lined.id, waiting.id}
    assert conn.rows("SELECT FROM job_recheck") == []
