"""Cron Health: whether the scheduler calls, what its calls left lying, and what else the verdict has to say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.model import Verdict
from jobdeck.core.queue import leases, operator, presence
from jobdeck.core.queue.operator import expect_trigger
from jobdeck.core.read import history
from jobdeck.core.read.verdict.health import health
from tests.core.http.support import opened, pass_time
from tests.support.health import announce, called, finding, findings, judged, verdict
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


class TestTrigger:
    def test_where_no_scheduler_ever_called_there_is_nothing_to_judge(self, conn: Connection) -> None:
        announce(conn)
        called(conn, source="cli")
        called(conn, source="manual")
        called(conn, source="worker")
        assert verdict(conn, "trigger") is None

    @pytest.mark.parametrize("source", ["cron_http", "timer", "vercel_cron_secret"])
    @pytest.mark.parametrize("minutes", [1, 5, 60])
    def test_silence_is_counted_in_the_interval_that_is_expected(
        self, conn: Connection, minutes: int, source: str
    ) -> None:
        expect_trigger(conn, minutes)
        called(conn, source=source)
        seen = []
        for step in (2 * minutes * MINUTE - 30 * SECOND, 40 * SECOND, minutes * MINUTE):
            pass_time(conn, step)
            seen.append(verdict(conn, "trigger"))
        assert seen == [Verdict.OK, Verdict.WARNING, Verdict.CRITICAL]
        found = finding(conn, "trigger")
        assert "has stopped" in found.evidence
        assert f"every {minutes}m" in found.evidence
        assert found.since is not None

    def test_a_standing_worker_makes_a_dead_scheduler_less_grave_and_in_a_day_a_thing_of_the_past(
        self, conn: Connection
    ) -> None:
        called(conn)
        pass_time(conn, timedelta(hours=3))
        announce(conn)
        assert verdict(conn, "trigger") is Verdict.WARNING
        pass_time(conn, timedelta(hours=22))
        announce(conn)
        assert verdict(conn, "trigger") is None

    def test_calls_that_end_in_errors_are_no_good_calls_and_are_named(self, conn: Connection) -> None:
        called(conn, status="error", http_status=500)
        judged(conn, "trigger", Verdict.CRITICAL, "HTTP 500")
        called(conn)
        assert verdict(conn, "trigger") is Verdict.OK

    def test_a_first_call_that_still_runs_is_no_alarm_until_it_runs_for_too_long(self, conn: Connection) -> None:
        expect_trigger(conn, 1)
        presence.open_worker_run(conn, source="cron_http", worker_id="cycle-1", http_method="GET")
        found = finding(conn, "trigger")
        assert (found.verdict, found.evidence) == (
            Verdict.OK,
            "The scheduler has begun to call; its first call still runs; expected every 1m.",
        )
        pass_time(conn, 3 * MINUTE)
        assert verdict(conn, "trigger") is Verdict.CRITICAL

    def test_a_call_that_runs_after_one_that_failed_does_not_end_the_alarm(self, conn: Connection) -> None:
        called(conn, status="error", http_status=500)
        presence.open_worker_run(conn, source="cron_http", worker_id="cycle-2", http_method="GET")
        assert verdict(conn, "trigger") is Verdict.CRITICAL

    def test_when_it_is_back_the_evidence_says_since_when_and_how_long_it_was_away(self, conn: Connection) -> None:
        called(conn)
        pass_time(conn, 40 * MINUTE)
        assert verdict(conn, "trigger") is Verdict.CRITICAL
        called(conn)
        pass_time(conn, 2 * MINUTE)
        judged(conn, "trigger", Verdict.OK, "recovered 2m ago, after 40m without a call")

    def test_one_that_stops_again_and_again_is_a_warning(self, conn: Connection) -> None:
        for _ in range(4):
            called(conn)
            pass_time(conn, 20 * MINUTE)
        called(conn)
        judged(conn, "trigger", Verdict.WARNING, "4 times")

    @pytest.mark.slow
    def test_calls_with_the_wrong_secret_are_part_of_the_evidence(self, database_url: str, conn: Connection) -> None:
        called(conn)
        pass_time(conn, 20 * MINUTE)
        with opened(database_url) as door:
            door.call("GET", "/api/jobs/run", headers={"Authorization": "Bearer of yesterday"})
            until(lambda: "401 at /api/jobs/run" in str(findings(conn, "trigger")), "the evidence")
        assert health().run(conn).last_trigger is not None
        assert health().run(conn).last_trigger.source == "cron_http"  # type: ignore[union-attr]  # it was looked at above

    @pytest.mark.slow
    def test_calls_refused_before_the_last_good_one_are_no_evidence(self, database_url: str, conn: Connection) -> None:
        called(conn)
        pass_time(conn, 20 * MINUTE)
        with opened(database_url) as door:
            door.call("GET", "/api/jobs/run", headers={"Authorization": "Bearer of yesterday"})
            until(lambda: "401 at /api/jobs/run" in str(findings(conn, "trigger")), "the evidence")
        called(conn)
        pass_time(conn, 20 * MINUTE)
        found = finding(conn, "trigger")
        assert found.verdict is Verdict.CRITICAL
        assert "refused" not in found.evidence


class TestLeftLying:
    def test_calls_answered_well_that_claim_nothing_of_what_is_due_are_critical(self, conn: Connection) -> None:
        conn.add("unheard_of")
        for _ in range(2):
            called(conn)
        assert verdict(conn, "left lying") is None
        called(conn)
        judged(conn, "left lying", Verdict.CRITICAL, "claimed no job, although 1 jobs were due")

    def test_calls_that_do_not_keep_up_are_a_warning(self, conn: Connection) -> None:
        for _ in range(8):
            conn.add()
        for _ in range(3):
            called(conn, claimed=5)
        assert verdict(conn, "left lying") is Verdict.WARNING
        called(conn, claimed=8)
        assert verdict(conn, "left lying") is None

    def test_what_is_paused_is_not_left_lying(self, conn: Connection) -> None:
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        for _ in range(3):
            called(conn)
        assert verdict(conn, "left lying") is None
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        operator.pause(conn, reason=None, actor=ACTOR)
        for _ in range(3):
            called(conn, status="paused")
        assert verdict(conn, "left lying") is None


class TestStalled:
    def test_due_jobs_of_which_none_is_claimed_for_15_minutes_are_a_stall(self, conn: Connection) -> None:
        conn.add()
        pass_time(conn, 15 * MINUTE - 30 * SECOND)
        assert verdict(conn, "claims") is None
        pass_time(conn, 40 * SECOND)
        judged(conn, "claims", Verdict.CRITICAL, "No job was claimed for 15m")

    def test_it_is_none_while_others_are_claimed_or_nothing_is_due_or_a_pause_stands(self, conn: Connection) -> None:
        conn.add("unheard_of")
        pass_time(conn, 20 * MINUTE)
        conn.add()
        conn.run_once()
        assert verdict(conn, "claims") is None
        pass_time(conn, 20 * MINUTE)
        assert verdict(conn, "claims") is Verdict.CRITICAL
        operator.pause(conn, reason=None, actor=ACTOR)
        assert verdict(conn, "claims") is None

    def test_a_long_run_that_was_claimed_long_ago_does_not_hide_it(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        conn.add()
        pass_time(conn, 20 * MINUTE)
        assert verdict(conn, "claims") is Verdict.CRITICAL


class TestRest:
    def test_series_past_their_slot(self, conn: Connection) -> None:
        conn.add(recurrence_interval_minutes=60)
        conn.add("beta", recurrence_interval_minutes=60)
        seen = []
        for step in (4 * MINUTE, 2 * MINUTE, 10 * MINUTE):
            pass_time(conn, step)
            seen.append(verdict(conn, "late series"))
        assert seen == [None, Verdict.WARNING, Verdict.CRITICAL]
        found = finding(conn, "late series")
        assert found.evidence.startswith("2 late, alpha the longest: 16m")
        operator.pause(conn, reason=None, actor=ACTOR, task_type="beta")
        assert "1 late" in finding(conn, "late series").evidence
        operator.pause(conn, reason=None, actor=ACTOR)
        assert verdict(conn, "late series") is Verdict.PAUSED

    def test_workers_that_fell_silent_are_named(self, conn: Connection) -> None:
        announce(conn, "gone-1")
        conn.add()
        conn.claim_one(worker="gone-1")
        pass_time(conn, 7 * MINUTE)
        announce(conn)
        found = judged(conn, "silent workers", Verdict.WARNING, "gone-1 for 7m (1 job)")
        assert "standing" not in found.evidence
        pass_time(conn, 60 * MINUTE)
        announce(conn)
        assert findings(conn, "silent workers") == []

    @pytest.mark.slow
    def test_the_warning_of_a_worker_that_died_ends_when_its_jobs_run_elsewhere(self, conn: Connection) -> None:
        announce(conn, "idle-1")
        announce(conn, "gone-1")
        conn.add()
        conn.add()
        conn.claim(worker="gone-1")
        pass_time(conn, 3 * MINUTE)
        announce(conn)
        judged(conn, "silent workers", Verdict.WARNING, ": gone-1 for 3m (2 jobs).")
        conn.reap()
        judged(conn, "silent workers", Verdict.WARNING, ": gone-1 for 3m (2 jobs).")
        conn.execute("UPDATE job_queue SET run_at = now()")
        conn.claim(limit=1)
        judged(conn, "silent workers", Verdict.WARNING, ": gone-1 for 3m (1 job).")
        conn.claim()
        assert findings(conn, "silent workers") == []

    def test_the_window_of_a_worker_that_died_is_not_running(self, conn: Connection) -> None:
        announce(conn, "gone-1")
        presence.open_worker_run(conn, source="worker", worker_id="gone-1")
        (found,) = history.worker_runs(limit=1).run(conn)
        assert not found.died
        pass_time(conn, 3 * MINUTE)
        (found,) = history.worker_runs(limit=1).run(conn)
        assert found.died

    def test_runs_that_have_used_up_most_of_their_time(self, conn: Connection) -> None:
        conn.add()
        leases.claim(conn, "w", ["alpha"], 1, 600.0)
        pass_time(conn, timedelta(seconds=50))
        assert findings(conn, "long runs", alpha=100.0) == []
        pass_time(conn, 40 * SECOND)
        found = finding(conn, "long runs", alpha=100.0)
        words = "1 run has used more than 80 % of the timeout; the longest is of alpha."
        assert (found.verdict, found.evidence) == (Verdict.WARNING, words)
        assert findings(conn, "long runs") == []
        pass_time(conn, timedelta(seconds=60))
        found = finding(conn, "long runs", alpha=100.0)
        assert found.evidence.endswith(
            "1 did not stop at it; the longest is of alpha on w: restart that worker to end the run."
        )

    def test_lateness_is_counted_in_the_interval_of_the_scheduler(self, conn: Connection) -> None:
        expect_trigger(conn, 30)
        conn.add_waiting(conn.now() - 20 * MINUTE)
        assert verdict(conn, "due jobs") is Verdict.OK
        pass_time(conn, 20 * MINUTE)
        assert verdict(conn, "due jobs") is Verdict.WARNING
        pass_time(conn, 51 * MINUTE)
        assert verdict(conn, "due jobs") is Verdict.CRITICAL
