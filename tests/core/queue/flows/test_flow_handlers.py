"""Each kind of handler reads how its blockers ended, and adds members to its flow: threads, async ones, processes."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import pytest

import jobdeck
from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import JobType, Registry, load
from jobdeck.core.worker.worker import Worker
from tests.core.queue.flows.steps import states
from tests.support.queue import Connection
from tests.support.working import quick_settings

SPLIT = {"split": "succeeded", "part 1": "succeeded", "part 2": "succeeded", "merge": "succeeded"}
ENDED = {"split": ["succeeded", None], "part 1": ["succeeded", 1], "part 2": ["succeeded", 2]}


@pytest.fixture(scope="module")
def types() -> tuple[JobType, ...]:
    return tuple(load(["tests.core.queue.flows.handlers"]))


def drain(url: str, types: tuple[JobType, ...]) -> None:
    with Database(url, application_name="test worker", max_size=8) as database:
        Worker(database, Registry(types), quick_settings(lease_seconds=120.0)).run_until_idle()


def begin(conn: Connection, split: str, merge: str) -> dict[str, UUID]:
    flow = jobdeck.Flow()
    flow.add("merge", merge, after=flow.add("split", split))
    return dict(jobdeck.enqueue_flow(conn, flow).jobs)


def output(conn: Connection, job_id: UUID) -> dict[str, Any]:
    found: dict[str, Any] = conn.last_run(job_id)["output"]
    return found


@pytest.mark.parametrize("kind", ["thread", "async", "process"])
def test_a_handler_of_each_kind_adds_members_and_gets_the_outcomes(
    database_url: str, conn: Connection, types: tuple[JobType, ...], kind: str
) -> None:
    ids = begin(conn, f"f_split_{kind}", f"f_merge_{kind}")
    drain(database_url, types)
    assert states(conn) == SPLIT
    told = output(conn, ids["merge"])
    assert told["ended"] == ENDED
    assert (told["pid"] != os.getpid()) == (kind == "process")


@pytest.mark.slow
def test_members_that_an_async_handler_adds_in_a_transaction_are_taken_back_with_it(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    ids = begin(conn, "f_split_twice_async", "f_merge_async")
    drain(database_url, types)
    assert states(conn) == SPLIT
    assert output(conn, ids["merge"])["ended"] == ENDED
    assert conn.value("SELECT count(*) FROM job_flow_members") == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "async", "process"])
def test_a_run_that_is_in_no_flow_gets_no_outcomes_and_adds_nothing(
    database_url: str, conn: Connection, types: tuple[JobType, ...], kind: str
) -> None:
    alone = conn.add(f"f_split_{kind}", max_attempts=1)
    asking = conn.add(f"f_merge_{kind}")
    drain(database_url, types)
    assert output(conn, asking.id)["ended"] == {}
    run = conn.last_run(alone.id)
    assert run["outcome"] == "failed"
    assert "is in no flow, so its run cannot add members" in run["error"]
    assert conn.rows("SELECT 1 FROM job_queue WHERE task_type = 'f_part'") == []
