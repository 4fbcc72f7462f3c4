"""The slots of workers by kind of handler: how many are taken, and what `why` and the pages say of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.model import Worker
from jobdeck.core.queue import presence
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.workers.slots import Lane, lanes
from jobdeck.core.registry import Done
from jobdeck.core.words.wording import slots
from tests.support.health import announce
from tests.support.queue import WORKER, Connection
from tests.support.waiting import until
from tests.support.working import job_type, working

KINDS = {"thread": {"slots": 1, "types": ["alpha"]}, "async": {"slots": 100, "types": ["beta"]}}


def report(conn: Connection, worker_id: str = WORKER) -> None:
    """The report of a worker with one thread for alpha and an event loop for beta."""
    presence.report_worker(
        conn, worker_id=worker_id, host="host-1", pid=42, mode="headless", version="0.3.0", concurrency=101,
        task_types=["alpha", "beta"], running=0, slots=KINDS,
    )  # fmt: skip


def workers(conn: Connection) -> tuple[Worker, ...]:
    return read_jobs.workers().run(conn)


def test_a_full_kind_does_not_look_like_a_few_of_many_slots(conn: Connection) -> None:
    report(conn)
    for name in ("alpha", "beta", "beta", "beta"):
        conn.add(name)
    conn.claim(["alpha", "beta"])
    assert lanes(workers(conn)) == {"thread": Lane(1, 1), "async": Lane(3, 100)}
    assert slots(workers(conn)) == "1 of 1 thread slots, 3 of 100 async"


def test_why_says_that_all_slots_of_the_kind_are_taken_and_how_many_jobs_are_ahead(conn: Connection) -> None:
    report(conn)
    report(conn, "worker-2")
    conn.add()
    conn.add()
    conn.claim(limit=1)
    conn.claim(limit=1, worker="worker-2")
    wanted = conn.add()
    *claimed, slot, turn = read_jobs.why(wanted.id).run(conn)
    assert all(clause.holds and clause.is_of_claim for clause in claimed)
    assert (slot.name, slot.holds, turn.name, turn.holds) == ("slot", False, "turn", True)
    assert slot.evidence.startswith("All 2 thread slots of the 2 workers that handle this type are busy; the longest ")
    free = read_jobs.why(conn.add("beta").id).run(conn)[-2]
    assert (free.holds, free.evidence) == (
        True, "0 of 200 async slots of the 2 workers that handle this type are taken."
    )  # fmt: skip


def test_jobs_that_wait_in_a_worker_take_no_more_slots_than_there_are(conn: Connection) -> None:
    report(conn)
    for _ in range(3):
        conn.add()
    conn.claim(free=1)
    assert slots(workers(conn)) == "1 of 1 thread slots, 0 of 100 async"


def test_a_worker_of_an_earlier_program_has_threads_alone(conn: Connection) -> None:
    announce(conn, concurrency=4)
    conn.add()
    conn.claim()
    assert slots(workers(conn)) == "1 of 4 thread slots"


def test_a_worker_that_is_gone_has_no_slots(conn: Connection) -> None:
    report(conn)
    conn.add()
    conn.claim()
    conn.advance(timedelta(minutes=3))
    assert (lanes(workers(conn)), slots(workers(conn))) == ({}, "no slots")


async def on_the_loop(_params: object, _context: object) -> Done:
    return Done()


@pytest.mark.slow
def test_a_worker_reports_the_slots_of_each_kind_of_its_types(database_url: str, conn: Connection) -> None:
    def in_a_thread(_params: object, _context: object) -> Done:
        return Done()

    def reported() -> Any:
        return [one.slots for one in workers(conn) if one.slots]

    with working(database_url, job_type("alpha", in_a_thread), job_type("beta", on_the_loop)):
        until(lambda: reported() and set(reported()[0]) == {"thread", "async"}, "the report of the worker")
