"""How many jobs a worker claims ahead of its free slots: short ones only, and none that would wait behind long runs."""

from __future__ import annotations

from typing import Any

import pytest

from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.queue import leases, producer
from jobdeck.core.worker import fetcher, heartbeat, watchdog
from jobdeck.core.worker.slots.pace import LaneFronts, Line, Pace
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import Held, claim_ahead, claimed, job_type, nothing, quick_settings, working

SHORT = [0.001] * Pace.SHORT_RUNS


def counts(conn: Connection, task_type: str) -> dict[str, int]:
    """How many jobs of a type the queue holds, by status."""
    found = conn.execute("SELECT status, count(*) FROM job_queue WHERE task_type = %s GROUP BY 1", (task_type,))
    return dict(found.fetchall())


def begun(conn: Connection, task_type: str) -> dict[bool, int]:
    """How many jobs of a type a worker holds, by whether the database takes their runs for begun."""
    statement = """
        SELECT started_at IS NOT NULL, count(*) FROM job_queue WHERE task_type = %s AND status = 'running' GROUP BY 1
    """
    return dict(conn.execute(statement, (task_type,)).fetchall())


class TestAType:
    def test_is_short_when_its_last_eight_runs_were(self) -> None:
        pace = Pace(4)
        pace.observe("alpha", SHORT[1:])
        assert not pace.is_short("alpha")
        pace.observe("alpha", SHORT[:1])
        assert pace.is_short("alpha")
        assert not pace.is_short("beta")

    def test_is_short_no_more_after_one_run_that_is_not(self) -> None:
        pace = Pace(4)
        pace.observe("alpha", SHORT * 10)
        pace.observe("alpha", [0.05, *SHORT[1:]])
        assert not pace.is_short("alpha")
        pace.observe("alpha", [0.001])
        assert pace.is_short("alpha")

    def test_is_not_short_any_more_after_the_worker_was_idle(self) -> None:
        pace = Pace(4)
        pace.observe("alpha", SHORT)
        pace.claimed([])
        assert not pace.is_short("alpha")


class TestWhatIsClaimedAhead:
    def pace(self, mean: float, line: Line | None = None) -> Pace:
        pace = Pace(4, line)
        pace.observe("short", [mean] * 1000)
        pace.claimed([claimed("short")])
        return pace

    def test_is_nothing_while_nothing_is_known(self) -> None:
        pace = Pace(4)
        assert pace.ahead(busy=0) == 0
        pace.claimed([claimed("short")])
        assert pace.ahead(busy=0) == 0

    def test_is_what_the_free_slots_run_in_a_tenth_of_a_second(self) -> None:
        pace = self.pace(0.02)
        assert pace.ahead(busy=0) == 20
        assert pace.ahead(busy=2) == 10
        assert pace.ahead(busy=4) == 0

    def test_has_a_limit(self) -> None:
        assert self.pace(1e-6).ahead(busy=0) == Pace.MOST_AHEAD

    def test_is_less_at_once_when_runs_become_slower_and_more_slowly_when_they_become_faster(self) -> None:
        pace = self.pace(0.001)
        pace.observe("short", [0.04])
        assert pace.ahead(busy=0) == 10
        pace.observe("short", [0.001])
        assert 10 < pace.ahead(busy=0) < 20

    def test_is_two_round_trips_more_over_a_far_line(self) -> None:
        line = Line()
        pace = self.pace(0.01, line)
        assert pace.ahead(busy=0) == 40
        line.took(0.05)
        assert pace.ahead(busy=0) == 80

    def test_has_a_limit_that_grows_with_the_line(self) -> None:
        line = Line()
        pace = self.pace(1e-6, line)
        line.took(0.04)
        assert pace.ahead(busy=0) == 5 * Pace.MOST_AHEAD

    def test_is_as_many_as_probably_have_no_more_others_among_them_than_slots_are_free(self) -> None:
        pace = self.pace(1e-6)
        pace.claimed([claimed("short")] * 90 + [claimed("long")] * 10)
        assert pace.ahead(busy=0) == 36
        assert pace.ahead(busy=3) == 9

    def test_is_nothing_where_the_last_claim_found_other_types_alone(self) -> None:
        pace = self.pace(1e-6)
        pace.claimed([claimed("long")] * 4)
        assert pace.ahead(busy=0) == 0


class TestWhatIsKeptOfAClaim:
    @pytest.fixture
    def pace(self) -> Pace:
        pace = Pace(4)
        pace.observe("s", SHORT)
        return pace

    @pytest.mark.parametrize(
        ("types", "busy", "kept"),
        [
            ("sssss", 4, 5),
            ("lslslslsl", 0, 7),
            ("lslslslsl", 2, 3),
            ("sslss", 4, 2),
            ("sslss", 5, 2),
            ("lll", 0, 3),
        ],
    )
    def test_ends_with_the_job_that_takes_the_last_slot_without_a_long_run(
        self, pace: Pace, types: str, busy: int, kept: int
    ) -> None:
        jobs = [claimed(name) for name in types]
        pace.ahead(busy)
        pace.claimed(jobs)
        assert pace.fitting(jobs, busy) == kept

    def test_is_all_of_a_type_that_has_a_slow_run_during_the_claim(self, pace: Pace) -> None:
        pace.ahead(busy=0)
        pace.observe("s", [3.0])
        pace.claimed([claimed("s")] * 100)
        assert pace.fitting([claimed("s")] * 100, busy=1) == 100


class TestAWorker:
    @pytest.fixture
    def claims(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many jobs each claim of the workers of a test found."""
        real, found = leases.claim, []

        def noted(*given: Any, **facts: Any) -> list[ClaimedJob]:
            jobs = real(*given, **facts)
            found.append(len(jobs))
            return jobs

        monkeypatch.setattr(leases, "claim", noted)
        return found

    def test_takes_no_more_jobs_of_a_type_that_it_does_not_know_than_it_has_slots(
        self, conn: Connection, database_url: str, held: Held
    ) -> None:
        producer.enqueue_many(conn, [NewJob("held")] * 40, actor=ACTOR)
        with working(database_url, job_type("held", held), concurrency=4):
            held.wait_for(4)
            with working(database_url, job_type("held", held), concurrency=4):
                held.wait_for(4)
                assert counts(conn, "held") == {"running": 8, "pending": 32}
                held.let_go()
                until(lambda: counts(conn, "held") == {}, "the rest")
        assert conn.outcomes() == ["succeeded"] * 40

    def test_takes_no_more_after_it_was_idle(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim_ahead(monkeypatch)
        held = Held(quick=30)
        producer.enqueue_many(conn, [NewJob("held")] * 30, actor=ACTOR)
        with working(database_url, job_type("held", held), concurrency=2) as worker:
            until(lambda: worker.status.succeeded == 30)
            claims_before = worker._state.tally.claims  # type: ignore[union-attr]
            worker._fetchers[0].wake()
            until(lambda: worker._state.tally.claims > claims_before, "an empty claim")  # type: ignore[union-attr]
            producer.enqueue_many(conn, [NewJob("held")] * 10, actor=ACTOR)
            held.wait_for(2)
            assert counts(conn, "held") == {"running": 2, "pending": 8}
            held.let_go()

    @pytest.mark.slow
    def test_claims_short_jobs_far_ahead(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, claims: list[int]
    ) -> None:
        claim_ahead(monkeypatch)
        producer.enqueue_many(conn, [NewJob("alpha")] * 3000, actor=ACTOR)
        with working(database_url, job_type("alpha", nothing), concurrency=2) as worker:
            until(lambda: worker.status.succeeded == 3000)
        assert max(claims) > 500

    @pytest.mark.slow
    def test_returns_long_jobs_at_once_that_it_claimed_among_short_ones(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, held: Held
    ) -> None:
        monkeypatch.setattr(watchdog, "LONGEST_WAIT", 3600.0)
        monkeypatch.setattr(LaneFronts, "MOST_SECONDS", 0.0)  # each claim looks at all types
        claim_ahead(monkeypatch)
        jobs = [NewJob("alpha")] * 200 + [NewJob("held")] * 20 + [NewJob("alpha")] * 20
        for job in jobs:
            conn.add(job.task_type)
        with working(database_url, job_type("alpha", nothing), job_type("held", held), concurrency=2):
            held.wait_for(2)
            until(lambda: counts(conn, "held") == {"running": 2, "pending": 18}, "the hand-back of long jobs")
            until(lambda: counts(conn, "alpha") == {"pending": 20}, "the hand-back of those behind them")
            with working(database_url, job_type("held", held), concurrency=2):
                held.wait_for(2)
                held.let_go()
                until(lambda: counts(conn, "alpha") == counts(conn, "held") == {}, "the rest")
        assert set(conn.outcomes()) == {"succeeded"}

    @pytest.mark.slow
    def test_returns_jobs_that_wait_behind_runs_that_have_become_long(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim_ahead(monkeypatch)
        held = Held(quick=Pace.SHORT_RUNS)
        producer.enqueue_many(conn, [NewJob("held")] * (Pace.SHORT_RUNS + 6), actor=ACTOR)
        with working(database_url, job_type("held", held), concurrency=1):
            held.wait_for()
            until(lambda: counts(conn, "held") == {"running": 1, "pending": 5}, "the hand-back")
            assert conn.outcomes() == ["succeeded"] * Pace.SHORT_RUNS
            held.let_go()
            until(lambda: counts(conn, "held") == {}, "the rest")
        assert conn.outcomes() == ["succeeded"] * (Pace.SHORT_RUNS + 6)
        assert conn.execute("SELECT max(attempt) FROM job_runs").fetchone() == (1,)

    def test_says_of_a_job_that_waits_for_a_slot_only_that_it_is_claimed(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watchdog, "LONGEST_WAIT", 3600.0)
        claim_ahead(monkeypatch)
        held = Held(quick=Pace.SHORT_RUNS)
        producer.enqueue_many(conn, [NewJob("held")] * (Pace.SHORT_RUNS + 5), actor=ACTOR)
        with working(database_url, job_type("held", held), concurrency=2):
            held.wait_for(2)
            until(lambda: begun(conn, "held") == {True: 2, False: 3}, "the begin of two runs")
            held.let_go()
            until(lambda: counts(conn, "held") == {}, "the rest")

    def test_says_at_the_claim_that_runs_begin_for_which_it_has_slots(
        self, conn: Connection, database_url: str, held: Held, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeat, "NEWS_SECONDS", 3600.0)
        producer.enqueue_many(conn, [NewJob("held")] * 3, actor=ACTOR)
        settings = quick_settings(lease_seconds=1200.0, heartbeat_seconds=600.0)
        with working(database_url, job_type("held", held), concurrency=3, settings=settings):
            held.wait_for(3)
            assert begun(conn, "held") == {True: 3}
            held.let_go()

    @pytest.mark.slow
    def test_starts_at_once_what_a_busy_one_returns(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watchdog, "LONGEST_WAIT", 3600.0)
        monkeypatch.setattr(fetcher, "IDLE_SECONDS", 3600.0)
        claim_ahead(monkeypatch)
        busy, idle = Held(quick=Pace.SHORT_RUNS), Held()
        producer.enqueue_many(conn, [NewJob("held")] * (Pace.SHORT_RUNS + 3), actor=ACTOR)
        with working(database_url, job_type("held", busy), concurrency=1) as full:
            busy.wait_for()
            until(lambda: counts(conn, "held") == {"running": 3}, "two that wait for the slot")
            with working(database_url, job_type("held", idle), concurrency=2) as other:
                until(lambda: other._fetchers[0]._heard, "the idle worker")
                full._state.slots.hand_back_waiting()  # type: ignore[union-attr]
                idle.wait_for(2)
                idle.let_go()
                busy.let_go()
                until(lambda: counts(conn, "held") == {}, "the rest")
