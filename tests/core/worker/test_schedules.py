"""A worker installs declared series, writes slots, and runs what they make due."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from jobdeck.core.queue.producers import series
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobType, registrations
from jobdeck.core.schedules import Cron, Every, Schedule
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import Params, a_worker, job_type, working


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    """Takes back what a test registers."""
    before, of_before = list(registrations), list(series._declared)
    yield
    registrations[:], series._declared[:] = before, of_before


def declaring(schedule: Schedule) -> JobType:
    @series.schedule(schedule, name="often")
    @job("tick", payload=Params)
    def run(params: Params, ctx: object) -> Done:
        del params, ctx
        return Done()

    return registrations[-1].job_type


@pytest.mark.slow
def test_a_worker_installs_a_declared_series_and_runs_it_again_and_again(conn: Connection, database_url: str) -> None:
    with working(database_url, declaring(Every(seconds=1))):
        until(lambda: conn.outcomes().count("succeeded") >= 3)
    rows = conn.execute("SELECT dedupe_key, schedule, created_by FROM job_queue").fetchall()
    assert [row[:2] for row in rows] == [("schedule:tick:often", {"seconds": 1, "name": "tick:often"})]


@pytest.mark.slow
def test_the_next_worker_writes_the_slots_of_a_series_that_ran_out(
    conn: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def made(expression: str) -> Any:
        return conn.execute(
            "SELECT job_id FROM job_series_create('tick', '{}', jsonb_build_object('cron', %s::text, 'zone', 'UTC'), "
            "NULL, NULL, 3, 0, NULL, NULL, NULL, NULL, 'app')", [expression]
        ).fetchall()[0][0]  # fmt: skip

    good, bad = made("* * * * * *"), made("0 0 30 2 *")
    with caplog.at_level(logging.ERROR), working(database_url, job_type("tick", lambda _params, _ctx: Done())):
        until(lambda: len(conn.outcomes(good)) >= 2)
        until(lambda: conn.execute("SELECT last_error FROM job_queue WHERE id = %s", [bad]).fetchall()[0][0])
    (said,) = [vars(record) for record in caplog.records if record.message == "a cron series has no slots"]
    assert "never comes" in str(said)


def test_a_cycle_installs_what_is_declared_before_it_claims(conn: Connection, database_url: str) -> None:
    with a_worker(database_url, declaring(Every(minutes=5))) as worker:
        assert worker.run_cycle().succeeded == 1
    assert conn.outcomes() == ["succeeded"]


@pytest.mark.slow
def test_a_series_that_a_worker_cannot_install_now_is_installed_later(conn: Connection, database_url: str) -> None:
    # By hand, because the functions keep such keys for the programs that declare series.
    by_hand = "INSERT INTO job_queue (task_type, dedupe_key, blocked_by) VALUES ('tick', %s, %s) RETURNING id"
    held = conn.execute(by_hand, ["schedule:tick:often", conn.add("other").id]).fetchall()[0][0]
    with working(database_url, declaring(Cron("0 0 1 1 *"))):
        until(lambda: conn.execute("SELECT count(*) FROM job_workers").fetchall()[0][0] == 1)
        conn.execute("DELETE FROM job_queue WHERE id = %s", [held])
        until(lambda: conn.execute("SELECT count(*) FROM job_queue WHERE is_recurring").fetchall()[0][0] == 1)
