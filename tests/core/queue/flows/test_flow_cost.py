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
