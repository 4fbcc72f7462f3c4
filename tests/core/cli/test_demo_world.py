"""What the demo without plugins shows: the states that an operator of a queue has to tell apart."""

from __future__ import annotations

import pytest

from jobdeck.core import registry
from jobdeck.core.cli.commands.run.demo import (
    CLOSING,
    HANDLERS,
    MAINTENANCE,
    NEWSLETTER,
    SERIES,
    enqueue_demo_jobs,
    pause_newsletters,
)
from jobdeck.core.model import Status
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs
from tests.support.queue import ACTOR, Connection


@pytest.mark.slow
def test_many_types_run_at_once_one_is_at_its_limit_one_is_paused_and_a_flow_waits(conn: Connection) -> None:
    enqueue_demo_jobs(conn)
    pause_newsletters(conn)
    running = [job.task_type for job in conn.claim(registry.load([HANDLERS]).names, limit=50)]
    assert {*SERIES, "demo_import_catalogue", "demo_resize_photos", CLOSING[0]} <= set(running)
    assert running.count("demo_resize_photos") == 1
    assert NEWSLETTER not in running
    states = conn.execute(
        "SELECT task_type, status, in_line, blocked_by IS NOT NULL FROM job_queue WHERE run_at <= now()"
    ).fetchall()
    assert states.count(("demo_resize_photos", Status.PENDING, True, False)) == 2
    assert states.count((CLOSING[1], Status.PENDING, False, True)) == 1
    assert states.count((CLOSING[2], Status.PENDING, False, True)) == 1


def test_the_paused_type_says_why_and_is_paused_once(conn: Connection) -> None:
    pause_newsletters(conn)
    (first,) = jobs.processing().run(conn).paused_types
    assert (first.task_type, first.reason) == (NEWSLETTER, MAINTENANCE)
    pause_newsletters(conn)
    assert jobs.processing().run(conn).paused_types == (first,)
    operator.resume(conn, task_type=NEWSLETTER, actor=ACTOR)
    pause_newsletters(conn)
    assert len(jobs.processing().run(conn).paused_types) == 1


@pytest.mark.slow
def test_a_second_start_adds_no_second_flow(conn: Connection) -> None:
    for _ in range(2):
        enqueue_demo_jobs(conn)
    flows = conn.execute("SELECT task_type FROM job_queue WHERE task_type = ANY(%s)", [list(CLOSING)]).fetchall()
    assert sorted(name for (name,) in flows) == sorted(CLOSING)
