"""Filters that no index serves: one page looks at a limited number of jobs, all pages at all."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import Filter, Status
from jobdeck.core.queue import leases
from jobdeck.core.read import job_lists
from jobdeck.core.read import jobs as read_jobs
from tests.support.queue import LEASE, WORKER, Connection

BETA = Filter(status=Status.SUCCEEDED, task_type="beta")
HERE = """
INSERT INTO job_queue (id, task_type, run_at, status, completed_at)
SELECT gen_random_uuid(), 'beta', now(), 'succeeded', now() - n * interval '90 s' FROM generate_series(0, 3) AS n
"""
"""Succeeded jobs that are still in the queue, the last one older than all that left it."""


def all_pages(conn: Connection, limit: int, wanted: Filter = BETA) -> list[UUID]:
    found: list[UUID] = []
    after = None
    for _ in range(100):
        page = read_jobs.page(wanted, limit=limit, after=after).run(conn)
        found += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return found
    raise AssertionError("The pages do not end.")


@pytest.fixture
def full(conn: Connection) -> Connection:
    for number in range(9):
        conn.add("beta" if number % 3 == 0 else "alpha")
        conn.run_once(("alpha", "beta"))
        if number % 2:
            conn.advance(timedelta(seconds=60))
    conn.execute("UPDATE job_runs SET finished_at = started_at")
    conn.execute(HERE)
    return conn


@pytest.mark.slow
def test_nothing_is_left_out_and_nothing_comes_twice(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = all_pages(full, 50)
    assert len(wanted) == 7
    for most in (1, 2, 3, 5, 9, 10):
        monkeypatch.setattr(job_lists, "LOOKED_AT", most)
        for limit in (1, 2, 50):
            assert all_pages(full, limit) == wanted


@pytest.mark.slow
def test_the_pages_end_where_all_jobs_ended_at_once(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    full.execute("UPDATE job_runs SET finished_at = (SELECT max(finished_at) FROM job_runs)")
    wanted = all_pages(full, 50)
    monkeypatch.setattr(job_lists, "LOOKED_AT", 2)
    for limit in (1, 2, 50):
        assert all_pages(full, limit) == wanted


def test_a_page_says_that_there_is_more_than_it_looked_at(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Filter(status=Status.SUCCEEDED, search="no such words")
    assert read_jobs.page(nothing).run(full).searched is None
    monkeypatch.setattr(job_lists, "LOOKED_AT", 4)
    page = read_jobs.page(nothing).run(full)
    assert (page.jobs, page.searched) == ((), 4)
    assert page.next is not None
    assert read_jobs.page(nothing, sort="task").run(full).searched == 4


def test_an_action_on_all_finds_every_job_in_the_queue(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_lists, "LOOKED_AT", 1)
    assert len(read_jobs.find_ids(full, BETA)) == 4


# Jobs in the queue

QUEUE = """
INSERT INTO job_queue (task_type, priority, run_at, status, completed_at, concurrency_key, last_error)
SELECT CASE n % 3 WHEN 0 THEN 'beta' ELSE 'alpha' END, n % 2, at, status,
    CASE status WHEN 'pending' THEN NULL ELSE at END, CASE n % 5 WHEN 0 THEN 'a key' END,
    CASE n % 4 WHEN 0 THEN 'gone' END
FROM generate_series(1, 24) AS n, unnest(ARRAY['pending', 'failed', 'cancelled']) AS status,
    LATERAL (SELECT now() + n / 4 * interval '1 hour') AS due (at)
"""
"""In each status four jobs at each time, of two types and two priorities; some pending ones wait behind a key."""
SEARCHED = (None, Status.PENDING, Status.FAILED, Status.CANCELLED)


@pytest.fixture
def queue(conn: Connection) -> Connection:
    conn.execute(QUEUE)
    return conn


@pytest.mark.slow
@pytest.mark.parametrize("status", SEARCHED)
@pytest.mark.parametrize("task_type", [None, "beta"])
def test_pages_of_a_search_find_the_jobs_of_one_long_page_in_its_order(
    status: Status | None, task_type: str | None, queue: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Filter(status=status, error="gone", task_type=task_type)
    whole = all_pages(queue, 100, wanted)
    every = read_jobs.page(Filter(status=status), limit=100).run(queue).jobs
    assert whole == [
        job.id for job in every if job.last_error == "gone" and job.task_type in {"beta", task_type or "alpha"}
    ]
    for most in (1, 2, 3, 7, 12, 23, 24, 72, 73):
        monkeypatch.setattr(job_lists, "JOBS_LOOKED_AT", most)
        for limit in (1, 2, 100):
            assert all_pages(queue, limit, wanted) == whole


@pytest.mark.parametrize("status", SEARCHED)
def test_a_search_without_a_hit_says_among_how_many_jobs_it_looked(
    status: Status | None, queue: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Filter(status=status, search="no such words")
    page = read_jobs.page(nothing).run(queue)
    assert (page.jobs, page.searched, page.next) == ((), None, None)
    monkeypatch.setattr(job_lists, "JOBS_LOOKED_AT", 6)
    page = read_jobs.page(nothing).run(queue)
    assert (page.jobs, page.searched) == ((), 6)
    assert page.next is not None
    assert all_pages(queue, 10, nothing) == []


def test_an_action_on_all_finds_every_job_that_a_search_matches(
    queue: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lists, "JOBS_LOOKED_AT", 2)
    assert len(read_jobs.find_ids(queue, Filter(status=Status.PENDING, error="gone"))) == 6


def test_pending_jobs_of_a_type_and_running_jobs_are_all_looked_at(
    queue: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lists, "JOBS_LOOKED_AT", 1)
    assert len(read_jobs.page(Filter(status=Status.PENDING, task_type="beta")).run(queue).jobs) == 8
    leases.claim(queue, WORKER, ["alpha", "beta"], 100, LEASE)
    found = read_jobs.page(Filter(status=Status.RUNNING, search="alpha")).run(queue)
    assert (len(found.jobs), found.searched) == (2, None)
