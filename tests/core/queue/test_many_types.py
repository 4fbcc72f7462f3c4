"""Claims of many types with limits: the work rises with the number of types, and no faster."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import psycopg
import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer
from tests.support.plans import LEASE, cost_of
from tests.support.queue import ACTOR, WORKER, Connection

TYPES: Final = [f"type {number:03}" for number in range(200)]


def enqueue(conn: Connection, each: int, *, priority: int = 0) -> None:
    producer.enqueue_many(conn, [NewJob(name, priority=priority) for name in TYPES] * each, actor=ACTOR)


def limit(conn: Connection, *, ago: str) -> None:
    conn.execute(
        "INSERT INTO job_types (task_type, max_running, limited_at) SELECT name, 2, now() - %s::interval "
        "FROM unnest(%s::text[]) AS name",
        (ago, TYPES),
    )


@pytest.mark.parametrize("ago", ["1 minute", "3 hours"])
def test_running_jobs_of_many_types_with_limits_are_counted_once_for_all_types(conn: Connection, ago: str) -> None:
    enqueue(conn, 3)
    limit(conn, ago=ago)
    assert len(conn.claim(TYPES, limit=200)) == 200

    cost = cost_of(conn, lambda conn: leases.claim(conn, WORKER, TYPES, 10, LEASE))
    assert cost.entries["job_queue_held"] < 300
    assert cost.rows < 15 * len(TYPES)


def test_each_of_many_types_keeps_its_limit_over_several_priorities(conn: Connection) -> None:
    enqueue(conn, 2, priority=1)
    enqueue(conn, 2)
    limit(conn, ago="3 hours")
    first, second = conn.claim(TYPES, limit=300), conn.claim(TYPES, limit=300)
    assert {job.priority for job in first} == {1}
    assert Counter(job.task_type for job in (*first, *second)) == dict.fromkeys(TYPES, 2)
    assert conn.claim(TYPES, limit=300) == []


def test_a_claim_reads_no_more_of_ten_types_than_it_needs_to_compare_them(conn: Connection) -> None:
    """Of 2,000 due jobs: a hundred of each type would make a thousand."""
    kinds = TYPES[:10]
    producer.enqueue_many(conn, [NewJob(name) for name in kinds] * 200, actor=ACTOR)
    cost = cost_of(conn, lambda conn: leases.claim(conn, WORKER, kinds, 100, LEASE))
    assert cost.entries["job_queue_claimable"] < 500


def test_neither_jobs_nor_lanes_are_compared_each_with_each(conn: Connection) -> None:
    enqueue(conn, 3)
    limit(conn, ago="3 hours")
    plans: list[tuple[str, str]] = []

    def note(message: psycopg.errors.Diagnostic) -> None:
        function = re.search(r"PL/pgSQL function (\w+)", message.context or "")
        if function and message.message_detail:
            plans.append((function[1], message.message_detail))

    conn.add_notice_handler(note)
    conn.execute("SET client_min_messages = 'log'")
    conn.execute("SET debug_print_plan = on")
    assert len(conn.claim(TYPES, limit=50)) == 50
    loops = Counter(name for name, plan in plans for _ in re.findall(r"\{NESTLOOP\b", plan))
    # The first joins the one row of the settings, the others read the jobs of each lane from the index.
    assert loops == {"job_queue_claim": 1, "job_claim_rank": 1, "job_claim_pick": 1}
    assert {name for name, _ in plans} > {*loops, "job_claim_left", "job_claim_within", "job_limit_running"}
