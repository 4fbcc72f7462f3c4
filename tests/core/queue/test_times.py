"""Times that no clock reaches, the slots of series, and series among many one-time jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.support.queue import ACTOR, add, advance, claim, claim_one, finish_one, job_row, now, reap, rows, value

Connection = psycopg.Connection[Any]


@pytest.mark.parametrize("time", ["infinity", "-infinity", "294000-01-01", "4000-01-01 BC"])
@pytest.mark.parametrize("column", ["run_at", "expires_at"])
def test_no_row_gets_a_time_that_a_program_cannot_read(conn: Connection, column: str, time: str) -> None:
    job = add(conn)
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
    assert value(conn, "SELECT count(*) FROM job_queue") == 0


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
    series = value(conn, SERIES, ["2030-01-01"])
    for statement, *params in ((SERIES, slots), ("UPDATE job_queue SET slots = %s::timestamptz[]", slots)):
        with pytest.raises(psycopg.Error, match=r"at most 1,100 slots.*Nothing was changed") as refused:
            conn.execute(statement.encode(), params)
        assert refused.value.sqlstate == "JD001"
    assert rows(conn, "SELECT id FROM job_queue") == [{"id": series}]


@pytest.mark.parametrize("interval", [{"recurrence_interval_minutes": 52_596_000}, {"seconds": 999_999_999}])
def test_the_run_of_a_series_without_a_slot_before_the_end_of_all_clocks_is_finished(
    conn: Connection, interval: dict[str, int]
) -> None:
    minutes = interval.get("recurrence_interval_minutes")
    schedule = {"catch_up": "all"} | ({} if minutes else interval)
    series = value(
        conn,
        """
        INSERT INTO job_queue (task_type, is_recurring, recurrence_interval_minutes, schedule, slot_at)
        VALUES ('alpha', true, %s, %s, '9999-12-30 23:00+00') RETURNING id
        """,
        minutes,
        Jsonb(schedule),
    )
    finish_one(conn, claim_one(conn))
    row = job_row(conn, series)
    assert (row["status"], row["run_at"]) == ("pending", datetime(9999, 12, 30, tzinfo=UTC))


class TestSlots:
    """The slot of a series that a run serves."""

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "lost"])
    def test_a_clock_that_steps_back_during_a_run_does_not_repeat_its_slot(
        self, conn: Connection, outcome: str
    ) -> None:
        slot = now(conn) - timedelta(seconds=10)
        job = add(conn, run_at=slot, recurrence_interval_minutes=60, max_attempts=1)
        claimed = claim_one(conn)
        advance(conn, timedelta(seconds=-30))
        finish_one(conn, claimed, outcome)
        assert job_row(conn, job.id)["run_at"] == slot + timedelta(seconds=30, minutes=60)

    def test_a_retried_cycle_still_serves_its_slot(self, conn: Connection) -> None:
        slot = now(conn) - timedelta(minutes=1)
        job = add(conn, run_at=slot, recurrence_interval_minutes=60, max_attempts=3)
        first = claim_one(conn)
        finish_one(conn, first, "failed", retry_after=0.0)
        second = claim_one(conn)
        assert (first.due_at, second.due_at) == (slot, slot)
        finish_one(conn, second, "continued", checkpoint={"page": 2})
        third = claim_one(conn)
        assert third.due_at == slot
        finish_one(conn, third)
        assert job_row(conn, job.id)["slot_at"] is None
        advance(conn, timedelta(hours=1))
        assert claim_one(conn).due_at == job_row(conn, job.id)["anchor_at"] + timedelta(hours=1)

    def test_a_retried_one_time_job_has_no_slot(self, conn: Connection) -> None:
        job = add(conn, max_attempts=3)
        finish_one(conn, claim_one(conn), "failed", retry_after=0.0)
        assert claim_one(conn).due_at == job_row(conn, job.id)["run_at"]


class TestSeriesInABacklog:
    """Due series beside more one-time jobs than a claim takes."""

    @pytest.fixture
    def backlog(self, conn: Connection) -> None:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        producer.enqueue_many(conn, [NewJob("alpha", {}, run_at=past) for _ in range(500)], actor=ACTOR)

    @pytest.mark.usefixtures("backlog")
    def test_a_due_series_is_in_the_next_claim(self, conn: Connection) -> None:
        series = add(conn, "beta", recurrence_interval_minutes=5)
        assert series.id in {job.id for job in claim(conn, ("alpha", "beta"), limit=10)}

    @pytest.mark.usefixtures("backlog")
    def test_a_worker_of_one_slot_runs_it_soon(self, conn: Connection) -> None:
        series = add(conn, "beta", recurrence_interval_minutes=5)
        taken = [claim(conn, ("alpha", "beta"), limit=1)[0] for _ in range(40)]
        assert series.id in {job.id for job in taken}

    @pytest.mark.usefixtures("backlog")
    def test_many_due_series_leave_half_of_each_claim_to_one_time_jobs(self, conn: Connection) -> None:
        for _ in range(20):
            add(conn, "beta", recurrence_interval_minutes=5)
        jobs = claim(conn, ("alpha", "beta"), limit=10)
        assert [sum(job.is_recurring is kind for job in jobs) for kind in (True, False)] == [5, 5]

    @pytest.mark.usefixtures("backlog")
    def test_a_series_of_lower_priority_waits(self, conn: Connection) -> None:
        add(conn, "beta", recurrence_interval_minutes=5, priority=-1)
        assert not any(job.is_recurring for job in claim(conn, ("alpha", "beta"), limit=10))


class TestBlockers:
    """Jobs that wait for one that can no longer succeed."""

    @pytest.mark.parametrize("gone", ["deleted", "expired"])
    def test_a_job_is_cancelled_behind_a_series_that_succeeded_before_and_is_gone_now(
        self, conn: Connection, gone: str
    ) -> None:
        series = add(conn, "beta", recurrence_interval_minutes=5, expires_at=now(conn) + timedelta(days=1))
        finish_one(conn, claim_one(conn, ["beta"]))
        waiting = add(conn, blocked_by=series.id)
        leave: dict[str, Callable[[], object]] = {
            "deleted": lambda: conn.execute("DELETE FROM job_queue WHERE id = %s", (series.id,)),
            "expired": lambda: advance(conn, timedelta(days=2)),
        }
        leave[gone]()
        reap(conn)
        assert job_row(conn, waiting.id)["status"] == "cancelled"

    def test_a_job_is_not_enqueued_behind_a_series_that_expired_before_it_ran(self, conn: Connection) -> None:
        series = add(
            conn, "beta", recurrence_interval_minutes=5, run_at=now(conn) + timedelta(hours=1),
            expires_at=now(conn) + timedelta(minutes=30),
        )  # fmt: skip
        advance(conn, timedelta(hours=2))
        reap(conn)
        with pytest.raises(Exception, match="has expired"):
            add(conn, blocked_by=series.id)

    @pytest.mark.parametrize("last", [True, False])
    def test_a_job_enqueued_or_retried_behind_a_series_that_has_ended_counts_its_last_success_alone(
        self, conn: Connection, *, last: bool
    ) -> None:
        at = now(conn) - timedelta(minutes=5)
        series = add(
            conn, "beta", run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(hours=1 if last else 3)
        )
        finish_one(conn, claim_one(conn, ["beta"]))
        if not last:
            waiting = add(conn, blocked_by=series.id)
            advance(conn, timedelta(hours=4))
            reap(conn)
            (retried,) = operator.retry(conn, [waiting.id], actor=ACTOR)
            assert (retried.ok, retried.code) == (False, "hopeless-blocker")
            assert f"The blocker, job {series.id}, has expired." in retried.message
            with pytest.raises(Exception, match="has expired"):
                add(conn, blocked_by=series.id)
        else:
            assert job_row(conn, add(conn, blocked_by=series.id).id)["blocked_by"] is None
        assert job_row(conn, series.id)["status"] == "succeeded"

    @pytest.mark.parametrize(
        ("runs", "expires", "status"), [(0, True, "cancelled"), (1, True, "cancelled"), (2, False, "pending")]
    )
    def test_a_job_that_an_open_transaction_hid_from_the_end_of_a_series_is_released_by_its_last_success_alone(
        self, conn: Connection, database_url: str, runs: int, status: str, *, expires: bool
    ) -> None:
        at = now(conn) - timedelta(minutes=5)
        series = add(conn, "beta", run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(hours=2))
        with psycopg.connect(database_url) as slow:
            slow.execute("SELECT 1")
            waiting = add(slow, blocked_by=series.id)
            for _ in range(runs):
                finish_one(conn, claim_one(conn, ["beta"]))
                advance(conn, timedelta(hours=1))
            if expires:
                advance(conn, timedelta(hours=2))
                reap(conn)
            assert job_row(conn, series.id)["status"] == "succeeded"
        reap(conn)
        row = job_row(conn, waiting.id)
        assert (row["status"], row["blocked_by"]) == (status, None if status == "pending" else series.id)


def test_what_an_open_transaction_hid_from_the_end_of_a_run_is_found_by_upkeep(
    conn: Connection, database_url: str
) -> None:
    add(conn, concurrency_key="k")
    blocker = add(conn, "beta")
    running = claim(conn, ("alpha", "beta"))
    with psycopg.connect(database_url) as slow:
        slow.execute("SELECT 1")
        lined = add(slow, concurrency_key="k")
        waiting = add(slow, "beta", blocked_by=blocker.id)
        for job in running:
            finish_one(conn, job)
    assert claim(conn, ("alpha", "beta")) == []
    reap(conn)
    assert {job.id for job in claim(conn, ("alpha", "beta"))} == {lined.id, waiting.id}
    assert rows(conn, "SELECT FROM job_recheck") == []
