"""The slot that a worker keeps for a canary: it runs at once, whatever the other slots do."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest

from jobdeck.core.model import CANARY_PRIORITY
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import operator
from jobdeck.core.read.canaries import CanaryAnswer
from jobdeck.core.registry import Done
from jobdeck.core.worker import fetcher
from jobdeck.core.worker.context import RunContext
from tests.core.worker.test_fetcher import a_fetcher
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import Held, a_state, claimed, job_type, working


def ask(conn: Connection, job_id: UUID) -> int:
    """Asks once the worker has reported that it handles the type."""
    found: list[int] = []

    def asked() -> bool:
        canary = operator.ask_canary(conn, job_id, actor=ACTOR).canary
        found.extend([canary] if canary else [])
        return bool(found)

    until(asked)
    return found[0]


def ended(conn: Connection, canary: int) -> CanaryAnswer:
    until(lambda: operator.canary_answer(conn, canary).settled)
    return operator.canary_answer(conn, canary)


@pytest.mark.slow
def test_it_runs_beside_slots_that_are_all_taken_and_although_everything_is_paused(
    conn: Connection, database_url: str, held: Held
) -> None:
    for _ in range(3):
        conn.add("long")
    types = (job_type("long", held), job_type("quick", lambda *_: Done({})))
    with working(database_url, *types, concurrency=1):
        held.wait_for()
        operator.pause(conn, reason=None, actor=ACTOR)
        job = conn.add("quick")
        assert ended(conn, ask(conn, job.id)).state == "succeeded"
        assert conn.outcomes(job.id) == ["succeeded"]
        operator.resume(conn, actor=ACTOR)
        held.let_go()
        held.wait_for(2)


@pytest.mark.slow
def test_a_worker_that_hears_no_notification_looks_for_one_by_itself(
    conn: Connection, database_url: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "CANARY", "another word")
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", 0.05)
    conn.add("long")
    types = (job_type("long", held), job_type("quick", lambda *_: Done({})))
    with working(database_url, *types, concurrency=1):
        held.wait_for()
        job = conn.add("quick", run_at=conn.execute("SELECT now() + interval '1 day'").fetchall()[0][0])
        assert ended(conn, ask(conn, job.id)).state == "succeeded"


@pytest.mark.slow
def test_two_canaries_run_at_once_where_a_slot_is_free(conn: Connection, database_url: str, held: Held) -> None:
    other = Held()
    with working(database_url, job_type("one", held), job_type("two", other), concurrency=1):
        operator.pause(conn, reason=None, actor=ACTOR)
        first = ask(conn, conn.add("one").id)
        held.wait_for()
        second = ask(conn, conn.add("two").id)
        other.wait_for()
        held.let_go()
        other.let_go()
        assert (ended(conn, first).state, ended(conn, second).state) == ("succeeded", "succeeded")


def test_while_one_runs_no_job_is_claimed_ahead_since_it_may_be_another_canary_that_would_wait(
    database_url: str,
) -> None:
    with Database(database_url, application_name="test") as database, a_state(database) as state:
        lane = state.lanes[0]
        fetcher = a_fetcher(state)
        canary, other = (RunContext(claimed(priority=number), state.resources, 0, 0) for number in (CANARY_PRIORITY, 0))
        running = lane.slots.running
        assert isinstance(running, dict)
        running[other] = threading.current_thread()
        state.pace.observe(other.job.task_type, [1e-6] * state.pace.SHORT_RUNS)
        state.pace.claimed([other.job])
        assert fetcher._limit(0.0) > 0
        lane.slots.put([canary])
        assert fetcher._limit(0.0) == 0
        del running[other]
        assert fetcher._limit(0.0) == 1


@pytest.mark.slow
def test_the_slot_is_free_again_after_a_canary_that_takes_too_long(
    conn: Connection, database_url: str, held: Held
) -> None:
    stuck = threading.Event()
    types = (
        job_type("long", held),
        job_type("stuck", lambda *_: stuck.wait(PATIENCE), timeout=0.1),
        job_type("quick", lambda *_: Done({})),
    )
    conn.add("long")
    with working(database_url, *types, concurrency=1):
        held.wait_for()
        operator.pause(conn, reason=None, actor=ACTOR)
        late = ask(conn, conn.add("stuck").id)
        assert ended(conn, ask(conn, conn.add("quick").id)).state == "succeeded"
        stuck.set()
        answer = ended(conn, late)
        assert answer.state == "failed"
        assert "longer than the 0.1 seconds" in answer.message


def test_a_canary_that_takes_too_long_leaves_no_slot_free_that_another_job_has(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del conn
    found: list[int] = []
    with Database(database_url, application_name="test") as database, a_state(database) as state:
        slots = state.slots
        canary, other = (RunContext(claimed(priority=number), state.resources, 0, 0) for number in (CANARY_PRIORITY, 0))
        slots.put([canary])
        slots.running.update(dict.fromkeys((canary, other), threading.current_thread()))

        def starts(_line: object) -> bool:
            found.append(slots.occupied)
            return True

        monkeypatch.setattr(slots, "_starts", starts)
        assert slots.time_out(canary)
        assert (found, slots.occupied, slots.canary) == ([1], 1, None)


@pytest.mark.slow
def test_other_jobs_are_claimed_at_once_after_a_canary(conn: Connection, database_url: str) -> None:
    with working(database_url, job_type("quick", lambda *_: Done({})), concurrency=2):
        operator.pause(conn, reason=None, actor=ACTOR)
        others = [conn.add("quick") for _ in range(20)]
        ended(conn, ask(conn, others[-1].id))
        assert len(conn.outcomes()) == 1
        operator.resume(conn, actor=ACTOR)
        until(lambda: conn.outcomes().count("succeeded") == len(others))


def test_a_canary_takes_no_place_of_the_other_slots(conn: Connection, database_url: str) -> None:
    del conn
    with Database(database_url, application_name="test") as database, a_state(database) as state:
        slots = state.slots
        contexts = [RunContext(claimed(priority=CANARY_PRIORITY), state.resources, 0, 0) for _ in range(2)]
        slots.put(contexts)
        assert slots.canary is contexts[0]
        assert slots.waiting == 1
        slots.running[contexts[0]] = threading.current_thread()
        assert slots.occupied == 0
        slots.running[contexts[1]] = threading.current_thread()
        assert slots.occupied == 1
        slots.running.clear()
        assert slots.hand_back_waiting() == 2
        assert slots.canary is None
