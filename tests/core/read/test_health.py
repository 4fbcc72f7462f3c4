"""The verdict of health: each signal at each threshold, and the worst of them as the verdict."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

import pytest

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.queue import leases, operator, presence
from jobdeck.core.read.verdict.health import health
from tests.support.health import announce, called, finding, judged
from tests.support.queue import ACTOR, WORKER, Connection

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.mark.slow
def test_a_queue_with_a_worker_and_nothing_amiss_is_ok(conn: Connection) -> None:
    announce(conn)
    conn.add(run_at=conn.now() + timedelta(hours=1))
    told = health().run(conn)
    assert told.verdict is Verdict.OK
    assert {found.signal for found in told.findings} == {
        "processing", "workers", "due jobs", "running jobs", "recurring jobs", "cycles",
    }  # fmt: skip
    assert {found.verdict for found in told.findings} == {Verdict.OK}
    assert (told.oldest_due, told.failed_last_hour) == (None, 0)


def test_the_worst_finding_is_the_verdict_and_comes_first(conn: Connection) -> None:
    announce(conn)
    operator.pause(conn, reason=None, actor=ACTOR)
    assert health().run(conn).verdict is Verdict.PAUSED
    series = conn.add(recurrence_interval_minutes=60)
    operator.resume(conn, actor=ACTOR)
    conn.run_once(outcome="failed", permanent=True)
    operator.pause(conn, reason=None, actor=ACTOR)
    told = health().run(conn)
    assert (told.verdict, told.findings[0].signal) == (Verdict.WARNING, "recurring jobs")
    operator.delete(conn, [series.id], actor=ACTOR)
    presence.remove_worker(conn, WORKER)
    told = health().run(conn)
    assert (told.verdict, told.findings[0].signal) == (Verdict.CRITICAL, "workers")


class TestProcessing:
    def test_paused_is_neutral_and_says_who_and_why(self, conn: Connection) -> None:
        announce(conn)
        operator.pause(conn, reason="vendor is down", actor=ACTOR)
        found = judged(conn, "processing", Verdict.PAUSED, "vendor is down", ACTOR)
        assert found.since is not None

    def test_a_pause_whose_time_is_up_is_none(self, conn: Connection) -> None:
        operator.pause(conn, reason=None, actor=ACTOR, resume_at=conn.now() + MINUTE)
        conn.advance(2 * MINUTE)
        assert finding(conn, "processing").verdict is Verdict.OK

    def test_a_missing_settings_row_is_critical(self, conn: Connection) -> None:
        announce(conn)
        conn.execute("DELETE FROM job_queue_settings")
        judged(conn, "processing", Verdict.CRITICAL, "missing")


class TestWorkersAndTicks:
    """The last completed scheduled tick: up to 2 intervals of 5 minutes ok, up to 3 a warning, then critical."""

    def test_none_ever_is_critical(self, conn: Connection) -> None:
        assert finding(conn, "workers").verdict is Verdict.CRITICAL

    @pytest.mark.parametrize(
        ("age", "verdict"),
        [
            (0 * MINUTE, Verdict.OK),
            (9 * MINUTE, Verdict.OK),
            (10 * MINUTE + SECOND, Verdict.WARNING),
            (14 * MINUTE, Verdict.WARNING),
            (15 * MINUTE + SECOND, Verdict.CRITICAL),
        ],
    )
    @pytest.mark.parametrize("status", ["ok", "paused"])
    def test_cycles_of_a_scheduler_without_a_standing_worker(
        self, conn: Connection, age: timedelta, verdict: Verdict, status: str
    ) -> None:
        called(conn, status=status)
        conn.advance(age)
        assert finding(conn, "workers").verdict is verdict

    @pytest.mark.parametrize(
        ("age", "verdict"),
        [(59 * SECOND, Verdict.OK), (61 * SECOND, Verdict.WARNING), (16 * MINUTE, Verdict.CRITICAL)],
    )
    def test_a_standing_worker(self, conn: Connection, age: timedelta, verdict: Verdict) -> None:
        announce(conn)
        conn.advance(age)
        assert finding(conn, "workers").verdict is verdict

    @pytest.mark.parametrize("source", ["manual", "cli"])
    def test_a_cycle_by_hand_does_not_hide_a_dead_scheduler(self, conn: Connection, source: str) -> None:
        called(conn)
        conn.advance(20 * MINUTE)
        called(conn, source=source)
        assert finding(conn, "workers").verdict is Verdict.CRITICAL

    def test_a_cycle_that_ended_in_an_error_is_not_a_completed_one(self, conn: Connection) -> None:
        called(conn)
        conn.advance(20 * MINUTE)
        called(conn, status="error")
        assert finding(conn, "workers").verdict is Verdict.CRITICAL

    def test_that_no_worker_stands_is_well_as_long_as_the_scheduler_calls_and_the_words_say_so(
        self, conn: Connection
    ) -> None:
        called(conn)
        conn.advance(3 * MINUTE)
        assert finding(conn, "workers").evidence == (
            "The scheduler, which called 3m ago and is expected every 5m, does the work; no worker is connected."
        )

    def test_a_worker_that_was_killed_is_missed_at_once(self, conn: Connection) -> None:
        announce(conn)
        heard = conn.now()
        conn.advance(3 * MINUTE)
        found = finding(conn, "workers")
        assert (found.verdict, found.evidence) == (Verdict.WARNING, "No worker is alive; the last one died 3m ago.")
        assert found.since is not None
        assert abs(found.since - (heard - 3 * MINUTE)) < SECOND

    def test_a_cycle_that_has_just_ended_is_missed_only_after_a_time_that_the_words_name(
        self, conn: Connection
    ) -> None:
        called(conn, source="embedded")
        conn.advance(3 * MINUTE)
        found = finding(conn, "workers")
        assert (found.verdict, found.since) == (Verdict.OK, None)
        assert found.evidence == "The last worker was active 3m ago; up to 10m is normal."

    def test_the_cycles_of_a_timer_are_the_scheduler_as_well(self, conn: Connection) -> None:
        called(conn, source="timer")
        assert finding(conn, "workers").verdict is Verdict.OK
        conn.advance(11 * MINUTE)
        assert finding(conn, "workers").verdict is Verdict.WARNING

    def test_the_scheduler_of_the_original_counts(self, conn: Connection) -> None:
        called(conn, source="vercel_cron_secret")
        assert finding(conn, "workers").verdict is Verdict.OK

    def test_the_scheduler_of_another_runner_may_stop_once_that_runner_has_no_jobs(self, conn: Connection) -> None:
        conn.execute("UPDATE job_queue_settings SET held_by = 'another runner'")
        conn.execute("INSERT INTO job_worker_runs (source, status, completed_at) VALUES ('its_cron', 'ok', now())")
        conn.advance(20 * MINUTE)
        announce(conn)
        assert finding(conn, "trigger").verdict is Verdict.WARNING
        conn.execute("UPDATE job_queue_settings SET held_by = NULL")
        assert "trigger" not in {one.signal for one in health().run(conn).findings}
        operator.set_type(conn, "alpha", changes={"set_aside": True}, actor=ACTOR, reason="it makes the images")
        assert finding(conn, "trigger").verdict is Verdict.WARNING


class TestDueJobs:
    @pytest.mark.parametrize(
        ("late", "verdict"),
        [
            (4 * MINUTE, Verdict.OK),
            (5 * MINUTE + SECOND, Verdict.WARNING),
            (14 * MINUTE, Verdict.WARNING),
            (15 * MINUTE + SECOND, Verdict.CRITICAL),
        ],
    )
    def test_the_job_that_has_waited_longest_is_judged(
        self, conn: Connection, late: timedelta, verdict: Verdict
    ) -> None:
        announce(conn)
        oldest = conn.add_waiting(conn.now() - late)
        conn.add("beta")
        told = health().run(conn)
        assert told.oldest_due == oldest.run_at
        found = finding(conn, "due jobs")
        assert (found.verdict, found.since) == (verdict, oldest.run_at)

    def test_it_names_the_type_and_what_it_waits_for(self, conn: Connection) -> None:
        announce(conn)
        conn.add_waiting(conn.now() - 6 * MINUTE)
        assert finding(conn, "due jobs").evidence == "Oldest job waiting 6m: alpha."
        conn.add_waiting(conn.now() - 7 * MINUTE)
        conn.claim(limit=1)
        assert finding(conn, "due jobs").evidence == (
            "Oldest job waiting 6m: alpha. The only thread slot of the worker that handles this type is busy; the "
            "longest run is at 0s."
        )

    def test_lateness_is_neutral_while_paused(self, conn: Connection) -> None:
        announce(conn)
        conn.add_waiting(conn.now() - timedelta(hours=1))
        operator.pause(conn, reason=None, actor=ACTOR)
        assert finding(conn, "due jobs").verdict is Verdict.PAUSED
        assert health().run(conn).verdict is Verdict.PAUSED

    def test_jobs_of_a_paused_type_are_not_late(self, conn: Connection) -> None:
        announce(conn)
        conn.add_waiting(conn.now() - timedelta(hours=1))
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        assert finding(conn, "due jobs").verdict is Verdict.OK
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        assert finding(conn, "due jobs").verdict is Verdict.CRITICAL

    def test_jobs_that_wait_for_another_or_behind_a_key_are_not_late(self, conn: Connection) -> None:
        announce(conn)
        long_ago = conn.now() - timedelta(hours=1)
        conn.add(concurrency_key="k", run_at=long_ago)
        conn.claim_one()
        conn.add(concurrency_key="k", run_at=long_ago)
        later = conn.add(run_at=conn.now() + timedelta(hours=1))
        conn.add(blocked_by=later.id, run_at=long_ago)
        assert finding(conn, "due jobs").verdict is Verdict.OK

    def test_jobs_behind_a_key_are_counted_and_no_empty_backlog(self, conn: Connection) -> None:
        announce(conn)
        conn.add(concurrency_key="k")
        held = conn.claim_one()
        for waits in (3, 2):
            conn.add_waiting(conn.now() - waits * MINUTE, concurrency_key="k")
        conn.add(concurrency_key="k", run_at=conn.now() + timedelta(hours=1))
        found = finding(conn, "due jobs")
        assert found.verdict is Verdict.OK
        assert found.evidence == "2 jobs wait until their concurrency key is free, the oldest for 3m."
        conn.finish_one(held)
        assert finding(conn, "due jobs").evidence == "Oldest job waiting 3m: alpha."

    def test_of_more_than_a_thousand_jobs_behind_keys_the_first_are_counted(self, conn: Connection) -> None:
        announce(conn)
        conn.add(concurrency_key="k")
        conn.claim_one()
        conn.execute(
            """
            INSERT INTO job_queue (task_type, concurrency_key, run_at, created_at, in_line)
            SELECT 'alpha', 'k', now() - interval '2 min', now() - interval '2 min', true FROM generate_series(1, 1100)
            """
        )
        words = "1,000+ jobs wait until their concurrency key is free, the oldest for 2m or longer."
        assert finding(conn, "due jobs").evidence == words

    def test_a_job_that_was_due_before_it_was_created_waits_since_its_creation(self, conn: Connection) -> None:
        announce(conn)
        long = conn.add_waiting(conn.now() - 6 * MINUTE)
        conn.add(run_at=conn.now() - timedelta(days=2526))
        found = finding(conn, "due jobs")
        assert (found.verdict, found.since) == (Verdict.WARNING, long.run_at)


class TestRunningJobs:
    def test_a_lease_that_is_valid_is_ok_and_one_that_has_expired_is_critical(self, conn: Connection) -> None:
        announce(conn)
        conn.add()
        conn.claim_one()
        assert finding(conn, "running jobs").verdict is Verdict.OK
        conn.advance(61 * SECOND)
        found = finding(conn, "running jobs")
        assert found.verdict is Verdict.CRITICAL
        assert found.since is not None
        assert found.since < conn.now()
        conn.reap()
        assert finding(conn, "running jobs").verdict is Verdict.OK

    @pytest.mark.parametrize(
        ("jobs", "alive", "words"),
        [
            (1, True, "1 running job waits for a live worker to take it back: its lease expired."),
            (2, True, "2 running jobs wait for a live worker to take them back: the first lease expired."),
            (1, False, "1 running job is stuck (start a worker, or run `jobdeck cleanup`): its lease expired."),
            (2, False, "2 running jobs are stuck (start a worker, or run `jobdeck cleanup`): the first lease expired."),
        ],
    )
    def test_an_expired_lease_is_told_with_who_takes_it_back_and_ends_with_what_its_time_belongs_to(
        self, conn: Connection, jobs: int, alive: bool, words: str
    ) -> None:
        for _ in range(jobs):
            conn.add()
        conn.claim(limit=jobs)
        conn.advance(2 * MINUTE)
        if alive:
            announce(conn)
        assert finding(conn, "running jobs").evidence == words


class TestLongRuns:
    """Of a run that has used up more than 80 % of its type's timeout one is warned, while its lease is still good."""

    TIMEOUTS: ClassVar = {"alpha": 50.0, "beta": 5_000.0, "delta": 50.0}

    @staticmethod
    def long_runs(conn: Connection, timeouts: dict[str, float] | None) -> list[Finding]:
        return [one for one in health(timeouts=timeouts).run(conn).findings if one.signal == "long runs"]

    @pytest.mark.parametrize(("ran", "warned"), [(20 * SECOND, False), (41 * SECOND, True)])
    def test_a_run_is_warned_of_from_80_percent_of_its_timeout_on(
        self, conn: Connection, ran: timedelta, warned: bool
    ) -> None:
        conn.add()
        conn.claim_one()
        conn.advance(ran)
        found = self.long_runs(conn, self.TIMEOUTS)
        assert [one.verdict for one in found] == [Verdict.WARNING] * warned
        assert all("alpha" in one.evidence for one in found)
        assert finding(conn, "running jobs").verdict is Verdict.OK

    def test_each_type_has_a_timeout_of_its_own_and_the_longest_run_is_named(self, conn: Connection) -> None:
        for task_type in ("beta", "alpha", "delta", "gamma"):
            conn.add(task_type)
            conn.claim_one([task_type])
            conn.advance(SECOND)
        conn.advance(45 * SECOND)
        (found,) = self.long_runs(conn, self.TIMEOUTS)
        assert found.evidence.startswith("2 ")
        assert "the longest is of alpha" in found.evidence

    def test_a_run_whose_lease_is_over_is_stuck_and_no_long_one(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        conn.advance(5 * MINUTE)
        assert self.long_runs(conn, self.TIMEOUTS) == []
        assert finding(conn, "running jobs").verdict is Verdict.CRITICAL

    def test_who_knows_no_timeouts_does_not_judge_by_them(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        conn.advance(45 * SECOND)
        assert self.long_runs(conn, None) == []


class TestRecurringJobs:
    def test_that_there_is_none_is_said(self, conn: Connection) -> None:
        conn.add()
        ended = conn.add(recurrence_interval_minutes=5)
        operator.cancel(conn, [ended.id], actor=ACTOR)
        assert finding(conn, "recurring jobs").evidence == "No recurring jobs."
        conn.add(recurrence_interval_minutes=5)
        assert finding(conn, "recurring jobs").evidence == "No recurring job failed in its last cycle."

    @pytest.mark.slow
    def test_a_streak_of_failures_warns_and_from_three_on_is_critical(self, conn: Connection) -> None:
        announce(conn)
        conn.add("beta", recurrence_interval_minutes=60, run_at=conn.now() + timedelta(days=1))
        conn.add(recurrence_interval_minutes=5)
        verdicts = []
        for _ in range(4):
            conn.run_once(outcome="failed", permanent=True)
            verdicts.append(finding(conn, "recurring jobs").verdict)
            conn.advance(5 * MINUTE)
        assert verdicts == [Verdict.WARNING, Verdict.WARNING, Verdict.CRITICAL, Verdict.CRITICAL]
        assert finding(conn, "recurring jobs").evidence == "1 recurring job fails: alpha for 4 cycles in a row."
        conn.run_once()
        assert finding(conn, "recurring jobs").verdict is Verdict.OK

    def test_the_streak_does_not_vanish_while_the_next_cycle_runs(self, conn: Connection) -> None:
        announce(conn)
        conn.add(recurrence_interval_minutes=5)
        for _ in range(3):
            conn.run_once(outcome="failed", permanent=True)
            conn.advance(5 * MINUTE)
        claimed = conn.claim_one()
        assert finding(conn, "recurring jobs").verdict is Verdict.CRITICAL
        conn.finish_one(claimed)
        assert finding(conn, "recurring jobs").verdict is Verdict.OK

    def test_a_retry_within_a_cycle_is_no_streak(self, conn: Connection) -> None:
        announce(conn)
        conn.add(recurrence_interval_minutes=60)
        conn.run_once(outcome="failed")
        assert finding(conn, "recurring jobs").verdict is Verdict.OK


class TestCycles:
    def test_the_window_of_a_worker_in_a_dashboard_that_was_killed_is_no_call_that_crashed(
        self, conn: Connection
    ) -> None:
        announce(conn)
        presence.open_worker_run(conn, source="embedded", worker_id="gone")
        conn.advance(16 * MINUTE)
        assert finding(conn, "cycles").verdict is Verdict.OK

    def test_an_open_cycle_older_than_its_budget_has_crashed(self, conn: Connection) -> None:
        announce(conn)
        presence.open_worker_run(conn, source="cron_http", worker_id="cycle-1")
        conn.advance(14 * MINUTE)
        assert finding(conn, "cycles").verdict is Verdict.OK
        conn.advance(2 * MINUTE)
        assert finding(conn, "cycles").verdict is Verdict.CRITICAL

    def test_a_call_of_another_runner_that_never_ended_is_a_warning(self, conn: Connection) -> None:
        announce(conn)
        conn.execute("INSERT INTO job_worker_runs (source) VALUES ('its_cron')")
        conn.advance(16 * MINUTE)
        found = finding(conn, "cycles")
        assert found.verdict is Verdict.WARNING
        assert found.evidence.startswith("1 call of another runner started in the last day and never ended.")

    def test_a_crash_is_forgotten_after_a_day(self, conn: Connection) -> None:
        announce(conn)
        presence.open_worker_run(conn, source="cron_http", worker_id="cycle-1")
        conn.advance(timedelta(days=1, minutes=1))
        assert finding(conn, "cycles").verdict is Verdict.OK


class TestFigures:
    def test_what_was_finished_in_each_of_the_last_fifteen_minutes(self, conn: Connection) -> None:
        with conn.transaction():
            conn.execute(
                """
                INSERT INTO job_stats (minutes, bucket, task_type, outcome, dry_run, runs, permanent, first_at, last_at)
                SELECT 1, at, type, counted.outcome, counted.dry_run, counted.runs, 0, at, at
                FROM generate_series(0, 20) AS n, unnest(ARRAY['a', 'b']) AS type,
                    LATERAL (SELECT date_trunc('minute', now()) - n * interval '1 minute' AS at) AS minute,
                    LATERAL (VALUES ('succeeded', false, n), ('partial', false, 1), ('failed', false, 2),
                        ('lost', false, 1), ('released', false, 100), ('failed', true, 100), ('succeeded', true, 100)
                    ) AS counted (outcome, dry_run, runs)
                """
            )
            told = health().run(conn)
        assert told.finished_per_minute == tuple(2 * (n + 4) for n in range(14, -1, -1))
        assert told.failed_per_minute == (6,) * 15
        assert told.last_minute == (4, 6)

    def test_failures_of_the_last_hour(self, conn: Connection) -> None:
        conn.add()
        conn.run_once(outcome="failed", permanent=True)
        assert health().run(conn).failed_last_hour == 1
        conn.advance(timedelta(minutes=62))
        assert health().run(conn).failed_last_hour == 0

    @pytest.mark.slow
    def test_a_job_that_failed_because_its_last_run_was_lost_is_a_failure(self, conn: Connection) -> None:
        conn.add(max_attempts=1)
        conn.claim_one()
        conn.advance(2 * MINUTE)
        conn.reap()
        assert health().run(conn).failed_last_hour == 1

    def test_the_last_trigger_is_the_newest_cycle_whoever_set_it_going(self, conn: Connection) -> None:
        assert health().run(conn).last_trigger is None
        called(conn)
        called(conn, source="manual")
        last = health().run(conn).last_trigger
        assert last is not None
        assert (last.source, last.status) == ("manual", "ok")
        assert conn.claim() == []


class TestLimits:
    """What stops at a limit says so, instead of showing the limit as a count."""

    def test_late_series_beyond_the_limit_are_at_least_so_many(self, conn: Connection) -> None:
        announce(conn)
        fill = """
            INSERT INTO job_queue (task_type, run_at, is_recurring, recurrence_interval_minutes)
            SELECT 'alpha', now() - interval '1 hour', true, 60 FROM generate_series(1, %s)
            """
        conn.execute(fill, (499,))
        assert finding(conn, "late series").evidence.startswith("499 late, alpha the longest")
        conn.execute(fill, (100,))
        assert finding(conn, "late series").evidence.startswith("At least 500 late, alpha the longest")

    @pytest.mark.slow
    def test_long_runs_beyond_the_limit_are_at_least_so_many(self, conn: Connection) -> None:
        conn.execute("INSERT INTO job_queue (task_type) SELECT 'alpha' FROM generate_series(1, 501)")
        assert len(leases.claim(conn, WORKER, ["alpha"], 501, 3600.0)) == 501
        conn.execute("UPDATE job_queue SET started_at = now() - interval '1 hour'")
        assert finding(conn, "long runs", alpha=60.0).evidence.startswith("At least 500 runs have used more than 80 %")

    def test_more_silent_workers_than_are_named_are_mentioned(self, conn: Connection) -> None:
        for number in range(6):
            announce(conn, f"w{number}")
            conn.add()
            conn.claim_one(worker=f"w{number}")
        conn.advance(5 * MINUTE)
        evidence = finding(conn, "silent workers").evidence
        assert (evidence.count(" for 5m (1 job)"), evidence.endswith(" and others.")) == (5, True)

    def test_calls_that_left_more_than_ten_thousand_jobs_say_so(self, conn: Connection) -> None:
        for _ in range(3):
            called(conn)
        conn.execute("UPDATE job_worker_runs SET due_before = 10001")
        evidence = finding(conn, "left lying").evidence
        assert evidence == "The last 3 calls succeeded but claimed no job, although 10,000+ jobs were due."
