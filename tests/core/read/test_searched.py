"""Filters over succeeded jobs: one page looks at a limited number of those that left the queue, all pages at all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from jobdeck.core.model import Filter, Status
from jobdeck.core.read import jobs as read_jobs
from tests.support.queue import Connection, add, advance, run_once

if TYPE_CHECKING:
    from uuid import UUID

BETA = Filter(status=Status.SUCCEEDED, task_type="beta")
HERE = """
INSERT INTO job_queue (id, task_type, run_at, status, completed_at)
SELECT gen_random_uuid(), 'beta', now(), 'succeeded', now() - n * interval '90 s' FROM generate_series(0, 3) AS n
"""
"""Succeeded jobs that are still in the queue, the last one older than all that left it."""


def all_pages(conn: Connection, limit: int) -> list[UUID]:
    found: list[UUID] = []
    after = None
    for _ in range(100):
        page = read_jobs.page(BETA, limit=limit, after=after).run(conn)
        found += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return found
    raise AssertionError("The pages do not end.")


@pytest.fixture
def full(conn: Connection) -> Connection:
    for number in range(9):
        add(conn, "beta" if number % 3 == 0 else "alpha")
        run_once(conn, ("alpha", "beta"))
        if number % 2:
            advance(conn, timedelta(seconds=60))
    conn.execute("UPDATE job_runs SET finished_at = started_at")
    conn.execute(HERE)
    return conn


def test_nothing_is_left_out_and_nothing_comes_twice(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = all_pages(full, 50)
    assert len(wanted) == 7
    for most in (1, 2, 3, 5, 9, 10):
        monkeypatch.setattr(read_jobs, "LOOKED_AT", most)
        for limit in (1, 2, 50):
            assert all_pages(full, limit) == wanted


def test_the_pages_end_where_all_jobs_ended_at_once(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    full.execute("UPDATE job_runs SET finished_at = (SELECT max(finished_at) FROM job_runs)")
    wanted = all_pages(full, 50)
    monkeypatch.setattr(read_jobs, "LOOKED_AT", 2)
    for limit in (1, 2, 50):
        assert all_pages(full, limit) == wanted


def test_a_page_says_that_there_is_more_than_it_looked_at(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Filter(status=Status.SUCCEEDED, search="no such words")
    assert read_jobs.page(nothing).run(full).searched is None
    monkeypatch.setattr(read_jobs, "LOOKED_AT", 4)
    page = read_jobs.page(nothing).run(full)
    assert (page.jobs, page.searched) == ((), 4)
    assert page.next is not None
    assert read_jobs.page(nothing, sort="task").run(full).searched == 4


def test_an_action_on_all_finds_every_job_in_the_queue(full: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_jobs, "LOOKED_AT", 1)
    assert len(read_jobs.find_ids(full, BETA)) == 4
