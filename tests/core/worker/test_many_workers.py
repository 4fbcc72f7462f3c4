"""Many workers on one queue: few of them claim for one job, every job is claimed, and one does the upkeep."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from jobdeck.core.model import NewJob, RunOutcome
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, presence, producer
from jobdeck.core.worker import fetcher
from jobdeck.core.worker.maintenance import Maintenance
from jobdeck.core.worker.slots.pace import Crowd
from jobdeck.core.worker.state import WorkerState
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import a_state, job_type, nothing, working

NEVER = 3600.0


def known(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Lets each worker know of this many."""
    monkeypatch.setattr(presence, "report_worker", lambda *_args, **_facts: workers)


class TestTheDraw:
    @pytest.fixture(autouse=True)
    def _same_draws(self) -> Iterator[None]:
        before = random.getstate()
        random.seed(4)
        yield
        random.setstate(before)

    def test_a_worker_that_is_alone_never_waits(self) -> None:
        crowd = Crowd()
        for _ in range(100):
            assert crowd.delay(1, 1) == 0.0
            crowd.claimed(0.5, found=False, at_once=True)

    def test_of_two_workers_both_claim_at_once(self) -> None:
        assert {Crowd().delay(1, 2) for _ in range(100)} == {0.0}

    def test_of_a_hundred_some_claim_at_once_and_the_others_within_three_seconds(self) -> None:
        delays = [Crowd().delay(1, 100) for _ in range(10_000)]
        assert 200 <= delays.count(0.0) <= 300
        assert 2.9 < max(delays) <= 3.0

    def test_many_announcements_bring_more_workers_than_one(self) -> None:
        assert 0.6 < [Crowd().delay(40, 100) for _ in range(1000)].count(0.0) / 1000 < 0.68

    def test_claims_that_come_late_and_find_a_job_make_a_worker_come_sooner(self) -> None:
        crowd = Crowd()
        crowd.delay(1, 100)
        for _ in range(30):
            crowd.claimed(0.001, found=True, at_once=False)
        assert {crowd.delay(1, 100) for _ in range(100)} == {0.0}

    def test_claims_at_once_that_find_nothing_make_it_come_later_again_and_no_later_than_among_all(self) -> None:
        crowd = Crowd()
        crowd.delay(1, 100)
        for _ in range(30):
            crowd.claimed(0.001, found=True, at_once=False)
        for _ in range(1000):
            crowd.claimed(0.001, found=False, at_once=True)
        delays = [crowd.delay(1, 100) for _ in range(10_000)]
        assert 200 <= delays.count(0.0) <= 300

    def test_other_claims_do_not_change_how_soon_it_comes(self) -> None:
        crowd = Crowd()
        crowd.delay(1, 100)
        for found, at_once in ((True, True), (False, False), (True, None), (False, None)):
            for _ in range(100):
                crowd.claimed(0.001, found=found, at_once=at_once)
        assert 200 <= [crowd.delay(1, 100) for _ in range(10_000)].count(0.0) <= 300

    def test_workers_wait_for_the_end_of_claims_that_take_long(self) -> None:
        crowd = Crowd()
        for _ in range(100):
            crowd.claimed(0.1, found=False, at_once=None)
        assert 19.0 < max(crowd.delay(1, 100) for _ in range(10_000)) <= 20.0

    def test_workers_that_left_no_longer_count(self) -> None:
        crowd = Crowd()
        crowd.delay(1, 100)
        assert {crowd.delay(1, 2) for _ in range(100)} == {0.0}


class TestAWorkerAmongMany:
    @pytest.mark.slow
    def test_claims_later_what_it_left_to_others(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known(monkeypatch, 100)
        monkeypatch.setattr(fetcher, "IDLE_SECONDS", NEVER)
        monkeypatch.setattr(Crowd, "delay", lambda *_: 0.05)
        with working(database_url, job_type("alpha", nothing)) as worker:
            until(lambda: worker._state is not None and worker._state.workers == 100)
            until(lambda: worker._fetchers[0]._heard)
            for jobs in (1, 2, 3):
                conn.add("alpha")
                until(lambda jobs=jobs: len(conn.outcomes()) == jobs)  # type: ignore[misc]

    @pytest.mark.slow
    def test_calls_the_others_when_there_may_be_more_jobs_than_it_could_claim(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known(monkeypatch, 100)
        with (
            Database(database_url, application_name="test") as database,
            database.listen(database.channel) as listener,
            working(database_url, job_type("alpha", nothing), concurrency=1) as worker,
        ):
            until(lambda: worker._state is not None and worker._state.workers == 100)
            producer.enqueue_many(conn, [NewJob("alpha")] * 50, actor=ACTOR)
            until(lambda: fetcher.MORE in listener.wait(1))

    @pytest.mark.slow
    def test_comes_soon_when_it_is_called_for_more(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known(monkeypatch, 100)
        monkeypatch.setattr(fetcher, "IDLE_SECONDS", NEVER)
        monkeypatch.setattr(Crowd, "delay", lambda *_: NEVER)
        with (
            Database(database_url, application_name="test") as database,
            working(database_url, job_type("alpha", nothing)) as worker,
        ):
            until(lambda: worker._fetchers[0]._heard)
            # The second claim is that of maintenance, once it has begun.
            until(lambda: worker._state is not None and worker._state.tally.claims >= 2)
            job = conn.add("alpha")
            leases.announce_more(conn, database.channel, fetcher.MORE)
            until(lambda: conn.outcomes(job.id) == ["succeeded"])

    @pytest.mark.slow
    def test_none_of_them_misses_a_job_though_none_polls(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetcher, "IDLE_SECONDS", NEVER)
        known(monkeypatch, 12)
        with ExitStack() as stack:
            workers = [
                stack.enter_context(working(database_url, job_type("alpha", nothing), concurrency=1)) for _ in range(12)
            ]
            until(lambda: all(worker._fetchers[0]._heard for worker in workers))
            until(lambda: all(worker._state is not None and worker._state.workers == 12 for worker in workers))
            for number in range(1, 61):
                conn.add("alpha")
                if number % 3 == 0:
                    until(lambda number=number: len(conn.outcomes()) == number)  # type: ignore[misc]
        assert conn.outcomes() == ["succeeded"] * 60


class TestTheReport:
    def test_says_how_many_workers_run_some_of_the_same_types(self, conn: Connection) -> None:
        assert announce(conn, "one", types=["alpha", "beta"]) == 1
        assert announce(conn, "two", types=["beta", "gamma"]) == 2
        assert announce(conn, "three", types=["delta"]) == 1
        assert announce(conn, "one", types=["alpha", "beta"]) == 2

    def test_does_not_count_those_that_have_been_silent_for_a_minute(self, conn: Connection) -> None:
        announce(conn, "one", types=["alpha"])
        conn.execute("UPDATE job_workers SET heartbeat_at = now() - interval '61 seconds'")
        assert announce(conn, "two", types=["alpha"]) == 1


class TestUpkeep:
    @pytest.fixture
    def state(self, database_url: str) -> Iterator[WorkerState]:
        with Database(database_url, application_name="test") as database, a_state(database) as state:
            yield state

    @staticmethod
    def maintenance(state: WorkerState) -> Maintenance:
        return Maintenance(state, mode="headless", source="worker", on_work=lambda: None)

    @staticmethod
    def age(conn: Connection, seconds: int) -> None:
        """Lets this number of seconds pass since each part was last done."""
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - make_interval(secs => %s)", (seconds,))

    @staticmethod
    def seldom(conn: Connection) -> None:
        """Lets each part be due an hour after it was done, so that a slow machine is not late."""
        conn.execute("UPDATE job_upkeep SET every = interval '2 hours'")

    @staticmethod
    def lose(conn: Connection) -> Any:
        job = conn.add(max_attempts=1)
        assert leases.claim(conn, "gone", ["alpha"], 1, 0.0)
        return job.id

    def test_is_left_out_by_a_worker_when_another_has_just_done_it(self, conn: Connection, state: WorkerState) -> None:
        self.seldom(conn)
        self.age(conn, 7200)
        first, second = self.maintenance(state), self.maintenance(state)
        assert second._reap(conn)
        self.age(conn, 7200)
        assert first._reap(conn)
        job = self.lose(conn)
        assert not second._reap(conn)
        assert conn.outcomes(job) == []
        self.age(conn, 7200)
        assert second._reap(conn)
        assert conn.outcomes(job) == ["lost"]

    def test_is_done_by_a_worker_that_has_just_started(self, conn: Connection, state: WorkerState) -> None:
        self.seldom(conn)
        assert self.maintenance(state)._reap(conn)
        job = self.lose(conn)
        assert self.maintenance(state)._reap(conn)
        assert conn.outcomes(job) == ["lost"]

    def test_is_done_by_the_next_worker_when_it_failed(self, conn: Connection, state: WorkerState) -> None:
        first, second = self.maintenance(state), self.maintenance(state)
        assert second._reap(conn)
        self.age(conn, 60)
        conn.execute("ALTER FUNCTION job_queue_reap_lost RENAME TO reap_elsewhere")
        assert first._reap(conn)
        conn.execute("ALTER FUNCTION reap_elsewhere RENAME TO job_queue_reap_lost")
        job = self.lose(conn)
        assert second._reap(conn)
        assert conn.outcomes(job) == ["lost"]

    def test_is_due_when_it_was_done_at_a_time_to_come(self, conn: Connection) -> None:
        self.age(conn, -60)
        assert set(leases.upkeep_due(conn, 4.0)[1]) >= set(leases.UPKEEP)

    def test_of_a_queue_that_has_just_been_looked_after_nothing_is_due(self, conn: Connection) -> None:
        self.seldom(conn)
        self.age(conn, 1)
        assert leases.upkeep_due(conn, 4.0)[1] == []

    def test_is_due_a_few_seconds_after_it_was_done_where_a_success_is_expected_every_ten(
        self, conn: Connection
    ) -> None:
        self.age(conn, 5)
        assert set(leases.upkeep_due(conn, 4.0)[1]) >= {"lost", "expired", "recheck", "pauses"}

    @pytest.mark.slow
    def test_records_no_more_ends_than_claims_where_a_run_goes_on_in_the_next_window(
        self, conn: Connection, state: WorkerState
    ) -> None:
        kept = self.maintenance(state)
        for claimed, ended in ((9, 8), (9, 10)):
            state.tally.claimed += claimed
            state.tally.recorded[RunOutcome.SUCCEEDED] += ended
            kept._keep_window(conn, 0.0)
            kept._close_window(conn)
            kept._keep_window(conn, 0.0)
        figures = conn.execute("SELECT claimed, succeeded FROM job_worker_runs ORDER BY started_at").fetchall()
        assert figures == [(9, 8), (10, 10)]

    def test_makes_the_next_partition_of_the_history_within_a_minute(self, conn: Connection) -> None:
        self.seldom(conn)
        self.age(conn, 61)
        assert leases.upkeep_due(conn, 4.0)[1] == ["partitions"]
