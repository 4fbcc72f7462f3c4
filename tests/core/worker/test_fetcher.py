"""Claims in a flood: they go on where the last one ended, and miss nothing for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.fetcher import Fetcher
from jobdeck.core.worker.heartbeat import Heartbeat
from jobdeck.core.worker.maintenance import Maintenance
from jobdeck.core.worker.slots.pace import LaneFronts
from jobdeck.core.worker.state import WorkerState
from tests.support.health import announce
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection, report
from tests.support.working import a_state, claimed

AT = datetime(2026, 3, 1, tzinfo=UTC)


def a_fetcher(state: WorkerState, *, until_idle: bool = False) -> Fetcher:
    """The fetcher of a worker's first lane, whose thread does not run."""
    maintenance = Maintenance(state, mode="headless", source="worker", on_work=lambda: None)
    return Fetcher(state, state.lanes[0], Heartbeat(state), maintenance, until_idle=until_idle)


def given(number: int, task_type: str = "alpha", priority: int = 0) -> ClaimedJob:
    """A job as a claim brings it."""
    due = AT + timedelta(seconds=number)
    return ClaimedJob(UUID(int=number), number, task_type, {}, 1, 5, due, due, False, None, 0, priority)


def fronts(jobs: list[ClaimedJob]) -> dict[leases.Lane, leases.Front]:
    """How far the lanes of a claim have been claimed."""
    return {(job.task_type, job.priority): (job.due_at, job.id) for job in jobs}


class TestTheClaim:
    def test_goes_on_behind_the_fronts_and_leaves_what_came_before_them_for_one_without(self, conn: Connection) -> None:
        at = conn.now() - timedelta(hours=1)
        jobs = [conn.add(run_at=at + timedelta(minutes=minute)).id for minute in range(4)]
        first = conn.claim(limit=2)
        early = conn.add(run_at=at - timedelta(minutes=1))
        urgent = conn.add(priority=5)
        assert [job.id for job in conn.claim(limit=1, fronts=fronts(first))] == [jobs[2]]
        assert [job.id for job in conn.claim(fronts=fronts(first))] == [jobs[3]]
        assert conn.claim(fronts=fronts(first)) == []
        assert [job.id for job in conn.claim()] == [urgent.id, early.id]

    def test_goes_by_id_among_jobs_that_are_due_at_the_same_time(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha", run_at=conn.now())] * 5, actor=ACTOR)
        taken = conn.claim(limit=2)
        taken += conn.claim(limit=2, fronts=fronts(taken))
        taken += conn.claim(limit=2, fronts=fronts(taken))
        assert len({job.id for job in taken}) == 5

    def test_takes_the_best_of_several_lanes_first(self, conn: Connection) -> None:
        at = conn.now() - timedelta(hours=1)
        for minute in range(3):
            conn.add("alpha", run_at=at + timedelta(minutes=minute), priority=1)
            conn.add("beta", run_at=at + timedelta(minutes=minute))
        both = conn.claim(["alpha", "beta"], limit=1) + conn.claim(["beta"], limit=1)
        more = conn.claim(["alpha", "beta"], limit=3, fronts=fronts(both))
        assert [(job.task_type, job.priority) for job in more] == [("alpha", 1), ("alpha", 1), ("beta", 0)]

    def test_takes_nothing_of_a_type_that_was_paused_meanwhile_nor_while_all_is(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha")] * 3, actor=ACTOR)
        first = conn.claim(limit=1)
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        assert conn.claim(fronts=fronts(first)) == []
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        operator.pause(conn, reason=None, actor=ACTOR)
        assert conn.claim(fronts=fronts(first)) == []
        operator.resume(conn, actor=ACTOR)
        assert len(conn.claim(fronts=fronts(first))) == 2

    def test_takes_nothing_of_a_type_that_was_not_asked_for(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha")] * 2, actor=ACTOR)
        assert conn.claim(["beta"], fronts=fronts(conn.claim(limit=1))) == []

    def test_takes_one_of_a_key_as_any_claim_does(self, conn: Connection) -> None:
        at = conn.now() - timedelta(hours=1)
        front = fronts([*conn.claim(), given(1)]) | {("alpha", 0): (at, UUID(int=0))}
        producer.enqueue_many(conn, [NewJob("alpha", concurrency_key="coach 1")] * 3, actor=ACTOR)
        assert len(conn.claim(fronts=front)) == 1
        assert conn.claim(fronts=front) == []

    def test_does_not_walk_past_what_was_claimed_before_even_where_no_vacuum_can_remove_it(
        self, conn: Connection, database_url: str
    ) -> None:
        with Connection.connect(database_url) as old:
            old.execute("SELECT txid_current()")
            producer.enqueue_many(conn, [NewJob("alpha")] * 2000, actor=ACTOR)
            done = conn.claim(limit=2000)
            conn.finish(*[report(job) for job in done])
            producer.enqueue_many(conn, [NewJob("alpha")] * 10, actor=ACTOR)

            onwards = cost_of(conn, lambda conn: conn.claim(limit=5, fronts=fronts(done)))
            anywhere = cost_of(conn, lambda conn: conn.claim(limit=5))
            assert onwards.entries["job_queue_claimable"] < 20
            assert anywhere.entries["job_queue_claimable"] > 2000


class TestWhereToGoOn:
    def test_nothing_is_known_before_the_first_claim(self) -> None:
        assert LaneFronts().fronts(0.0) is None

    def test_a_full_claim_is_gone_on_from_for_half_a_second(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1), given(2)], full=True, onwards=False, began=10.0, ended=10.01)
        assert flood.fronts(10.02) == {("alpha", 0): (AT + timedelta(seconds=2), UUID(int=2))}
        assert flood.fronts(10.5) is not None
        assert flood.fronts(10.51) is None

    def test_each_claim_moves_the_fronts_of_the_lanes_it_came_from(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1, priority=1), given(2)], full=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(3), given(4)], full=True, onwards=True, began=0.1, ended=0.1)
        known = flood.fronts(0.2)
        assert known is not None
        assert {lane: front[1].int for lane, front in known.items()} == {("alpha", 1): 1, ("alpha", 0): 4}

    def test_a_series_that_was_claimed_ahead_of_its_lane_does_not_move_the_front(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1), given(9)._replace(is_recurring=True)], full=True, onwards=False, began=0.0, ended=0.0)
        assert flood.fronts(0.1) == {("alpha", 0): (AT + timedelta(seconds=1), UUID(int=1))}

    def test_going_on_does_not_put_off_the_look_everywhere(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1)], full=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(2)], full=True, onwards=True, began=0.49, ended=0.49)
        assert flood.fronts(0.5) is None

    def test_a_look_everywhere_forgets_the_lanes_that_brought_nothing(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1, "beta")], full=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(2)], full=True, onwards=False, began=0.6, ended=0.6)
        assert list(flood.fronts(0.7) or ()) == [("alpha", 0)]

    @pytest.mark.parametrize("onwards", [True, False])
    def test_a_claim_that_was_not_full_is_followed_by_a_look_everywhere(self, *, onwards: bool) -> None:
        flood = LaneFronts()
        flood.claimed([given(1)], full=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(2)], full=False, onwards=onwards, began=0.1, ended=0.1)
        assert flood.fronts(0.1) is None

    @pytest.mark.parametrize(("seconds", "holds"), [(0.1, 2.0), (1.0, 5.0)])
    def test_a_look_everywhere_that_takes_long_is_rarer_and_never_rarer_than_five_seconds(
        self, seconds: float, holds: float
    ) -> None:
        flood = LaneFronts()
        flood.claimed([given(1)], full=True, onwards=False, began=0.0, ended=seconds)
        assert flood.fronts(seconds + holds - 0.01) is not None
        assert flood.fronts(seconds + holds + 0.01) is None

    def test_the_lanes_of_types_without_a_place_are_kept_while_limits_hold(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1, "beta")], full=False, limited=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(2)], full=False, limited=True, onwards=False, began=0.6, ended=0.6)
        assert sorted(flood.fronts(0.7) or ()) == [("alpha", 0), ("beta", 0)]

    def test_lanes_that_a_full_claim_left_out_are_looked_for_once_limits_hold_back_the_others(self) -> None:
        flood = LaneFronts()
        flood.claimed([given(1)], full=True, onwards=False, began=0.0, ended=0.0)
        flood.claimed([given(2)], full=False, limited=True, onwards=True, began=0.1, ended=0.1)
        assert flood.fronts(0.1) is None
        flood.claimed([given(3, "beta")], full=False, limited=True, onwards=False, began=0.1, ended=0.1)
        flood.claimed([given(4)], full=False, limited=True, onwards=True, began=0.2, ended=0.2)
        assert sorted(flood.fronts(0.2) or ()) == [("alpha", 0), ("beta", 0)]

    @pytest.mark.parametrize("limited", [True, False])
    def test_a_new_job_is_looked_for_everywhere_at_once_where_limits_leave_slots_free(self, *, limited: bool) -> None:
        flood = LaneFronts()
        flood.claimed([given(1)], full=not limited, limited=limited, onwards=False, began=0.0, ended=0.0)
        assert flood.fronts(0.1) is not None
        flood.announced()
        assert (flood.fronts(0.1) is None) is limited


class TestAClaimThatLimitsHeldBack:
    @pytest.fixture
    def state(self, database_url: str) -> Iterator[WorkerState]:
        with Database(database_url, application_name="test") as database, a_state(database) as state:
            yield state

    @staticmethod
    def fetcher(state: WorkerState, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
        state.lanes[0].task_types[:] = ["alpha"]
        found = a_fetcher(state)
        monkeypatch.setattr(found, "_limit", lambda _now: 100)
        return found

    def test_is_followed_at_once_by_one_for_the_other_half_and_then_by_one_for_each_report(
        self, conn: Connection, state: WorkerState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator.set_type(conn, "alpha", changes={"max_running": 40}, actor=ACTOR, reason=None)
        producer.enqueue_many(conn, [NewJob("alpha")] * 80, actor=ACTOR)
        announce(conn, state.worker_id)
        fetcher = self.fetcher(state, monkeypatch)
        known = threading.Event()
        monkeypatch.setattr(Maintenance, "begin", lambda _: known.set())
        try:
            for held in (20, 40):
                fetcher._step()
                assert len(state.held) == held
            assert fetcher._next_poll > 0.0
            # So that the database soon knows how many slots the worker has.
            assert known.is_set()
            half = list(state.held.values())[:20]
            conn.finish(*[report(context.job) for context in half], worker=state.worker_id)
            for context in half:
                del state.held[context.job.run_token]
            fetcher.wake()
            fetcher._step()
            assert len(state.held) == 40
            assert fetcher._next_poll > 0.0
        finally:
            state.stopping.set()
            fetcher.stop()
            fetcher._loop()  # closes its connections

    def test_keeps_its_jobs_when_the_database_cannot_say_which_types_have_limits(
        self, conn: Connection, state: WorkerState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        producer.enqueue_many(conn, [NewJob("alpha")] * 20, actor=ACTOR)

        def gone(_conn: object, _types: object) -> frozenset[str]:
            raise psycopg.OperationalError("the connection is gone")

        monkeypatch.setattr(leases, "limited_types", gone)
        fetcher = self.fetcher(state, monkeypatch)
        try:
            with pytest.raises(psycopg.OperationalError):
                fetcher._step()
            assert len(state.held) == 20
        finally:
            state.stopping.set()
            fetcher.stop()
            fetcher._loop()


class Meanwhile(dict[int, RunContext]):
    """The held jobs as a fetcher finds them empty, while another lane claims one at that moment."""

    def __init__(self, state: WorkerState) -> None:
        super().__init__()
        self._state = state

    def __bool__(self) -> bool:
        self._state.tally.claimed += 1
        return False


class Watched(dict[int, RunContext]):
    """The held jobs, with the number of claimed ones that was known when jobs were added."""

    def __init__(self, state: WorkerState) -> None:
        super().__init__()
        self._state = state
        self.known: list[int] = []

    def update(self, *given: Any, **more: Any) -> None:
        self.known.append(self._state.tally.claimed)
        super().update(*given, **more)


class TestALaneThatIsIdle:
    """A worker that runs until idle must not end while a job of another lane may still enqueue one."""

    @pytest.mark.parametrize("full", [False, True])
    def test_does_not_end_the_worker_when_another_lane_claims_at_the_same_time(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, *, full: bool
    ) -> None:
        with Database(database_url, application_name="test") as database, a_state(database) as state:
            fetcher = a_fetcher(state, until_idle=True)
            if full:
                monkeypatch.setattr(fetcher, "_limit", lambda _now: 0)
            state.held = Meanwhile(state)
            fetcher._step()
            assert not state.stopping.is_set()
            state.held = {}
            fetcher._next_poll = fetcher._next_canary = 0.0
            fetcher._step()
            assert state.stopping.is_set()
            fetcher.stop()
            fetcher._loop()  # closes its connections

    def test_finds_a_job_held_before_it_counts_as_claimed(self, database_url: str) -> None:
        with Database(database_url, application_name="test") as database, a_state(database) as state:
            state.held = held = Watched(state)
            state.take([claimed(), claimed(run_token=8)], 0.0)
            assert (held.known, state.tally.claimed, len(held)) == ([0], 2, 2)
