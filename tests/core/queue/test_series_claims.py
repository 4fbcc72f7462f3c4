"""What claims do with many series at once: those that cannot run, and those that have missed their slots."""

from __future__ import annotations

from typing import Final

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from tests.plans.writes import claim as claiming
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection

OVERDUE: Final = """
INSERT INTO job_queue (task_type, run_at, is_recurring, recurrence_interval_minutes, priority, blocked_by, id)
SELECT coalesce(%(task_type)s, 'alpha'), now() - interval '2 hours' + n * interval '1 ms', true, 5,
    coalesce(%(priority)s, 0), CASE WHEN %(paused)s THEN made END, made
FROM (SELECT n, gen_random_uuid() AS made FROM generate_series(1, 20000) AS n OFFSET 0) AS each
"""


def overdue(
    conn: Connection, *, task_type: str | None = None, priority: int | None = None, paused: bool = False
) -> None:
    conn.execute(OVERDUE, {"task_type": task_type, "priority": priority, "paused": paused})


# Overdue series that cannot run


@pytest.mark.slow
@pytest.mark.parametrize("which", ["paused one by one", "of a paused type", "of another worker's type", "less urgent"])
@pytest.mark.parametrize("analyzed", [False, True])
def test_a_claim_does_not_read_overdue_series_that_it_cannot_take(
    conn: Connection, which: str, *, analyzed: bool
) -> None:
    if which == "paused one by one":
        overdue(conn, paused=True)
    elif which == "less urgent":
        overdue(conn, priority=-1)
    else:
        overdue(conn, task_type="ahead")
    if which == "of a paused type":
        operator.pause(conn, reason=None, actor=ACTOR, task_type="ahead")
    series = conn.add(recurrence_interval_minutes=5)
    producer.enqueue_many(conn, [NewJob("alpha")] * 30, actor=ACTOR)
    if analyzed:
        conn.execute("ANALYZE job_queue")
    types = ["alpha"] if which == "of another worker's type" else ["ahead", "alpha"]

    cost = cost_of(conn, claiming(10, *types))
    assert cost.whole_tables == []
    assert cost.rows < 300
    assert series.id in {job.id for job in conn.claim(types)}


# Missed slots that are not made up

MISSED: Final = """
INSERT INTO job_queue (task_type, run_at, is_recurring, recurrence_interval_minutes, schedule)
SELECT 'alpha', now() - interval '3 minutes' + n * interval '1 ms', true, 60, '{"catch_up": "none"}'
FROM generate_series(1, 1200) AS n
"""


def passed(conn: Connection) -> int:
    found: int = conn.value("SELECT count(*) FROM job_queue WHERE is_recurring AND run_at > now()")
    return found


def test_a_claim_passes_over_at_most_500_missed_slots_and_runs_none_of_the_others(conn: Connection) -> None:
    conn.execute(MISSED)
    one = conn.add()
    assert [job.id for job in conn.claim(limit=10)] == [one.id]
    assert passed(conn) == 500
    assert conn.claim(limit=10) == []
    assert passed(conn) == 1000
    assert conn.claim(limit=10) == []
    assert passed(conn) == 1200


def test_idle_workers_are_woken_while_missed_slots_are_left(conn: Connection) -> None:
    conn.execute(MISSED)
    conn.execute('LISTEN "public.job_queue"')
    for left in (True, True, False):
        conn.claim()
        conn.execute("SELECT")
        assert bool(list(conn.notifies(timeout=0, stop_after=1))) == left


def test_a_slot_that_is_not_passed_over_yet_is_run_where_somebody_asks_for_it(conn: Connection) -> None:
    conn.execute(MISSED)
    last = conn.value("SELECT id FROM job_queue ORDER BY run_at DESC LIMIT 1")
    operator.retry(conn, [last], actor=ACTOR)
    assert [job.id for job in conn.claim()] == [last]
