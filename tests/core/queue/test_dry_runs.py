"""Dry runs: the row of a job and the history say which runs changed nothing, whatever the job's type."""

from __future__ import annotations

from uuid import UUID

import pytest

from jobdeck.core.model import Filter, Job, Status
from jobdeck.core.queue import operator
from jobdeck.core.read import history, jobs
from jobdeck.core.read.batch import Query
from jobdeck.core.read.report_types import Page
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection


def read(conn: Connection, job_id: UUID) -> Job:
    found = jobs.job(job_id).run(conn)
    assert found is not None
    return found


def listed(conn: Connection, query: Query[Page]) -> list[bool | None]:
    return [job.last_run_dry for job in query.run(conn).jobs]


def test_the_row_of_a_series_says_whether_its_last_run_was_dry(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=60)
    assert (series.last_run_dry, series.is_dry) == (None, False)
    for dry in (True, False, True):
        conn.execute("UPDATE job_queue SET run_at = now()")
        conn.run_once(dry_run=dry)
        assert (read(conn, series.id).last_run_dry, read(conn, series.id).is_dry) == (dry, dry)
        assert listed(conn, jobs.page(Filter(status=Status.PENDING))) == [dry]


@pytest.mark.parametrize("key", ["dryRun", "dry_run"])
def test_a_run_whose_payload_asks_for_it_is_dry_however_it_ends(conn: Connection, key: str) -> None:
    job = conn.add(payload={key: True})
    assert (job.last_run_dry, job.is_dry) == (None, True)
    conn.run_once(outcome="failed", permanent=True)
    assert conn.job_row(job.id)["last_run_dry"] is True
    operator.retry(conn, [job.id], actor=ACTOR)
    conn.claim()
    conn.lose()
    assert conn.job_row(job.id)["last_run_dry"] is True


def test_a_run_that_was_handed_back_leaves_it_as_it_was(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=60)
    conn.run_once(dry_run=True)
    conn.execute("UPDATE job_queue SET run_at = now()")
    conn.run_once(outcome="released")
    assert conn.job_row(series.id)["last_run_dry"] is True


def test_a_job_that_left_the_queue_and_the_history_say_it_too(conn: Connection) -> None:
    dry, real = conn.add(), conn.add()
    by_id = {claimed.id: claimed for claimed in conn.claim()}
    conn.finish_one(by_id[dry.id], dry_run=True)
    conn.finish_one(by_id[real.id])
    assert (read(conn, dry.id).last_run_dry, read(conn, real.id).last_run_dry) == (True, False)
    assert sorted(listed(conn, jobs.page(Filter(status=Status.SUCCEEDED))), key=bool) == [False, True]
    for job, expected in ((dry, True), (real, False)):
        (run,), _ = history.runs(job_id=job.id).run(conn)
        assert run.dry_run is expected


def test_the_trash_and_a_restored_job_keep_it(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=60)
    conn.run_once(dry_run=True)
    operator.delete(conn, [series.id], actor=ACTOR)
    detail = jobs.detail(series.id).run(conn)
    assert detail is not None
    assert (detail.in_trash, detail.job.last_run_dry) == (True, True)
    operator.restore(conn, [series.id], actor=ACTOR)
    assert conn.job_row(series.id)["last_run_dry"] is True


@pytest.mark.parametrize(("dry", "said"), [(True, " s, as a dry run."), (False, " s.")])
def test_the_answer_of_a_canary_says_it(conn: Connection, dry: bool, said: str) -> None:
    announce(conn, "w")
    job = conn.add()
    conn.run_once(outcome="failed", permanent=True)
    asked = operator.ask_canary(conn, job.id, actor=ACTOR)
    conn.run_once(dry_run=dry)
    assert asked.canary is not None
    message = operator.canary_answer(conn, asked.canary).message
    assert message.startswith("It succeeded after ")
    assert message.endswith(said)
