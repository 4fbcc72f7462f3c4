"""The jobs and the runs of a type, of a group of errors, of a worker and of a series."""

from __future__ import annotations

from jobdeck.core.read.pages.jobs_and_runs import LISTED, of_group, of_series, of_type, of_worker
from tests.support.queue import Connection, report


def test_of_a_type_its_jobs_come_first_that_need_somebody_and_no_others(conn: Connection) -> None:
    waits = conn.add()
    conn.add("beta")
    broken = conn.add()
    conn.execute("UPDATE job_queue SET status = 'failed', completed_at = now() WHERE id = %s", [broken.id])
    found = of_type("alpha").run(conn)
    assert [job.id for job in found.jobs.jobs] == [broken.id, waits.id]
    assert found.jobs.standings[broken.id] == "failed"
    assert found.runs == ()


def test_of_a_type_the_newest_runs_are_read_and_no_more_than_a_screen_has(conn: Connection) -> None:
    conn.add("beta")
    conn.run_once(("beta",))
    for _ in range(LISTED + 2):
        conn.add()
        conn.run_once()
    found = of_type("alpha").run(conn)
    assert {run.task_type for run in found.runs} == {"alpha"}
    assert len(found.runs) == LISTED
    tokens = [run.run_token for run in found.runs]
    assert tokens == sorted(tokens, reverse=True)


def test_of_a_group_of_errors_its_jobs_and_its_runs_are_read_and_no_others(conn: Connection) -> None:
    failed = conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="no route", error_kind="OSError")
    conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="another", error_kind="ValueError")
    group = conn.value("SELECT fingerprint FROM job_runs WHERE job_id = %s", failed.id)
    found = of_group("alpha", group).run(conn)
    assert [job.id for job in found.jobs.jobs] == [failed.id]
    assert [run.error for run in found.runs] == ["no route"]


def test_of_a_worker_the_runs_are_read_that_it_had_newest_first(conn: Connection) -> None:
    for worker in ("w:1", "w:2", "w:1"):
        conn.add()
        conn.finish(report(conn.claim_one(worker=worker)), worker=worker)
    found = of_worker("w:1").run(conn)
    assert [run.worker_id for run in found.runs] == ["w:1", "w:1"]
    assert found.runs[0].run_token > found.runs[1].run_token
    assert found.jobs.jobs == ()
    assert of_worker("nobody").run(conn).runs == ()


def test_of_a_series_its_own_runs_are_read_newest_first_and_not_those_of_its_type(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=5)
    conn.run_once()
    conn.execute("UPDATE job_queue SET run_at = now()")
    conn.run_once()
    conn.add()
    conn.run_once()
    found = of_series(series.id).run(conn)
    assert [run.job_id for run in found.runs] == [series.id, series.id]
    assert found.runs[0].run_token > found.runs[1].run_token
    assert found.jobs.jobs == ()
