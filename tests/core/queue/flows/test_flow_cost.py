"""How many blocks a flow of 10,000 members touches, beside as many jobs enqueued in bulk: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.queue.flows.steps import enqueue, member
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection

pytestmark = pytest.mark.slow

MANY = 10_000


def join_of_all(number: int) -> list[dict[str, Any]]:
    """All members but the last run at once, and the last waits for all of them."""
    loads = [f"load {place}" for place in range(number - 1)]
    return [*map(member, loads), member("join", loads)]


def chain(number: int) -> list[dict[str, Any]]:
    """Each member waits for the one before it."""
    return [member(f"m{place}", [f"m{place - 1}"] if place else []) for place in range(number)]


@pytest.mark.parametrize("members", [join_of_all, chain])
def test_a_flow_costs_a_few_times_what_as_many_jobs_cost_and_no_more_for_each_of_many(
    conn: Connection, members: Callable[[int], list[dict[str, Any]]]
) -> None:
    jobs = [NewJob("alpha", {})] * MANY
    bulk = cost_of(conn, lambda own: producer.enqueue_many(own, jobs, actor=ACTOR)).blocks.total()
    many = cost_of(conn, lambda own: enqueue(own, *members(MANY)))
    some = cost_of(conn, lambda own: enqueue(own, *members(MANY // 10)))
    assert many.blocks.total() < 5 * bulk
    assert many.blocks.total() < 12 * some.blocks.total()
    assert not many.whole_tables


READY = "SELECT count(*) FROM job_queue WHERE task_type = 'beta' AND blocked_by IS NULL"


def joins(conn: Connection, number: int) -> Callable[[Connection], object]:
    """The end of a job that is the last for which this many joins wait."""
    waiting = [member(f"{number} {place}", ["a", "b"], task_type="beta") for place in range(number)]
    enqueue(conn, member("a"), member("b"), *waiting)
    first, last = conn.claim()
    conn.finish_one(first)
    return lambda own: own.finish_one(last)


def test_the_end_of_a_job_costs_no_more_for_each_of_many_joins_that_wait_for_it(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("crowd", {})] * MANY, actor=ACTOR)
    conn.execute("ANALYZE job_queue")
    some = cost_of(conn, joins(conn, 250))
    many = cost_of(conn, joins(conn, 1000))
    assert 1000 < many.rows < 20 * 1000
    assert many.rows < 5 * some.rows
    assert many.blocks.total() < 5 * some.blocks.total()
    assert not many.whole_tables


def test_the_end_of_a_job_makes_a_thousand_joins_ready_and_upkeep_the_others(conn: Connection) -> None:
    joins(conn, 1500)(conn)
    assert conn.value(READY) == 1000
    conn.reap()
    assert conn.value(READY) == 1500
