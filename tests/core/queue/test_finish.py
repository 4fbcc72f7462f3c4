"""Finish: what becomes of a job and its history for each outcome, one-time and recurring."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from jobdeck.core.model import Job, RunOutcome, Status
from jobdeck.core.queue import leases, operator
from tests.support.queue import ACTOR, BASE, CAP, LEASE, WORKER, Connection, Row, report
from tests.support.waiting import PATIENCE, beside, rounds

HOUR = timedelta(hours=1)
SUCCESSES = pytest.mark.parametrize("outcome", ["succeeded", "partial"])


def series(conn: Connection, **fields: Any) -> Job:
    """A job that recurs every 15 minutes and is due."""
    return conn.add(recurrence_interval_minutes=15, **fields)


def assert_free(row: Row) -> None:
    """Nothing of the run is left on the job."""
    for column in ("locked_by", "run_token", "lease_expires_at", "started_at", "progress", "cancel_requested_at",
                   "cancel_requested_by"):  # fmt: skip
        assert row[column] is None, column


class TestAnOldSnapshot:
    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_jobs_that_came_to_wait_after_the_snapshot_of_the_transaction_that_ends_the_run_are_released(
        self, conn: Connection, database_url: str, level: str
    ) -> None:
        job = conn.add(concurrency_key="k")
        run = conn.claim_one()
        with Connection.connect(database_url, autocommit=True) as handler:
            handler.execute(f"BEGIN ISOLATION LEVEL {level}")
            handler.execute("SELECT count(*) FROM job_queue")
            waiting = {conn.add(concurrency_key="k").id, conn.add(blocked_by=job.id).id}
            # It finds that both still have to wait.
            conn.reap()
            handler.finish_one(run)
            handler.execute("COMMIT")
        conn.reap()
        assert {one.id for one in conn.claim()} == waiting

    def test_a_transaction_whose_snapshot_is_older_than_the_last_heartbeat_changes_nothing(
        self, conn: Connection, database_url: str
    ) -> None:
        conn.add()
        run = conn.claim_one()
        with Connection.connect(database_url, autocommit=True) as handler:
            handler.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            handler.execute("SELECT count(*) FROM job_queue")
            leases.heartbeat(conn, WORKER, [(run.id, run.run_token, None)], 60.0)
            with pytest.raises(psycopg.errors.SerializationFailure):
                handler.finish_one(run)
            handler.execute("ROLLBACK")
        assert conn.finish_one(run).recorded == "succeeded"


class TestSnooze:
    def test_a_job_is_due_after_the_delay_and_no_attempt_is_counted(self, conn: Connection) -> None:
        job = conn.add(max_attempts=1)
        before = conn.now()
        answer = conn.run_once(outcome="snoozed", delay=90.0, error_kind="snoozed", error="not yet")
        row = conn.job_row(job.id)
        assert (answer.recorded, answer.status, row["attempts"], row["last_error"]) == ("snoozed", "pending", 0, None)
        delay = timedelta(seconds=90)
        assert delay <= row["run_at"] - before <= delay + (conn.now() - before)
        assert_free(row)
        assert [(run["outcome"], run["error"]) for run in conn.run_rows(job.id)] == [("snoozed", "not yet")]

    def test_a_series_serves_its_slot_later(self, conn: Connection) -> None:
        job = series(conn)
        conn.run_once(outcome="snoozed", delay=60.0)
        row = conn.job_row(job.id)
        assert (row["slot_at"], row["cycle"]) == (job.run_at, 0)
        conn.advance(timedelta(seconds=61))
        slot = conn.job_row(job.id)["slot_at"]
        assert conn.claim_one().due_at == slot

    def test_a_series_is_due_at_its_next_slot_at_the_latest(self, conn: Connection) -> None:
        job = series(conn)
        conn.run_once(outcome="snoozed", delay=3600.0)
        row = conn.job_row(job.id)
        assert (row["run_at"], row["slot_at"]) == (job.run_at + timedelta(minutes=15), None)

    def test_the_next_of_its_key_runs_meanwhile(self, conn: Connection) -> None:
        first = conn.add(concurrency_key="one")
        second = conn.add(concurrency_key="one")
        claimed = conn.claim_one()
        assert claimed.id == first.id
        conn.finish_one(claimed, "snoozed", delay=60.0)
        assert conn.claim_one().id == second.id

    def test_a_cancellation_that_was_asked_for_wins(self, conn: Connection) -> None:
        job = conn.add()
        claimed = conn.claim_one()
        operator.cancel(conn, [job.id], actor=ACTOR)
        conn.finish_one(claimed, "snoozed", delay=60.0)
        assert conn.job_row(job.id)["status"] == "cancelled"
        assert "put the job off" in conn.run_rows(job.id)[-1]["error"]


class TestSuccess:
    @SUCCESSES
    def test_the_next_slot_begins_with_the_checkpoint_of_a_success(self, conn: Connection, outcome: str) -> None:
        job = series(conn)
        conn.run_once(outcome=outcome, checkpoint={"cursor": "x"})
        row = conn.job_row(job.id)
        assert (row["status"], row["checkpoint"], row["cycle"], row["attempts"]) == ("pending", {"cursor": "x"}, 1, 0)
        assert row["run_at"] > conn.now()
        conn.advance(HOUR)
        claimed = conn.claim_one()
        assert claimed.checkpoint == {"cursor": "x"}
        conn.finish_one(claimed, outcome)
        assert conn.job_row(job.id)["checkpoint"] is None

    def test_a_slot_that_failed_ends_what_the_checkpoint_began(self, conn: Connection) -> None:
        job = series(conn)
        conn.run_once(checkpoint={"cursor": "x"})
        conn.advance(HOUR)
        conn.run_once(outcome="failed", permanent=True, error_kind="k", error="No.")
        assert conn.job_row(job.id)["checkpoint"] is None

    @SUCCESSES
    def test_a_one_time_job_leaves_the_queue_and_its_run_stays(self, conn: Connection, outcome: str) -> None:
        job = conn.add(payload={"n": 1})
        claimed = conn.claim_one()
        answer = conn.finish_one(claimed, outcome, output={"sent": 3}, log="line", progress={"done": 3})
        assert (answer.recorded, answer.status, answer.run_at) == (RunOutcome(outcome), None, None)
        assert not conn.is_queued(job.id)
        (run,) = conn.run_rows(job.id)
        assert (run["run_token"], run["task_type"], run["payload"], run["attempt"], run["worker_id"]) == (
            claimed.run_token, "alpha", {"n": 1}, 1, WORKER,
        )  # fmt: skip
        assert (run["due_at"], run["started_at"]) == (job.run_at, claimed.claimed_at)
        assert run["finished_at"] == claimed.claimed_at + timedelta(seconds=2)
        assert (run["outcome"], run["output"], run["log"], run["progress"]) == (
            outcome, {"sent": 3}, "line", {"done": 3},
        )  # fmt: skip
        assert (run["removed"], run["late"], run["error"], run["fingerprint"]) == (True, False, None, None)

    def test_reports_of_a_batch_are_stored_as_they_are_whatever_characters_they_have(self, conn: Connection) -> None:
        texts = ["NULL", "", '"', "\\", '\\"', "{a,b}", "\n\r\t", "\u00e9\u2028\U0001f600", "'; --", "\\u0041 %s $1"]
        jobs = [conn.add() for _ in [*texts, None]]
        runs = [
            report(one, "succeeded", **({"output": {text: [text]}, "log": text} if text is not None else {}))
            for one, text in zip(conn.claim(limit=len(jobs)), [*texts, None], strict=True)
        ]
        conn.finish(*runs)
        stored = [row for run in runs for row in conn.run_rows(run.job_id)]
        assert [(row["output"], row["log"]) for row in stored] == [
            *(({text: [text]}, text) for text in texts), (None, None),
        ]  # fmt: skip

    @SUCCESSES
    def test_a_one_time_job_with_a_concurrency_key_does_the_same(self, conn: Connection, outcome: str) -> None:
        job = conn.add(concurrency_key="k")
        answer = conn.run_once(outcome=outcome, output={"sent": 3})
        assert (answer.recorded, answer.status) == (RunOutcome(outcome), None)
        assert not conn.is_queued(job.id)
        (run,) = conn.run_rows(job.id)
        assert (run["outcome"], run["removed"], run["output"]) == (outcome, True, {"sent": 3})

    @SUCCESSES
    def test_a_series_waits_for_its_next_slot(self, conn: Connection, outcome: str) -> None:
        job = series(conn)
        conn.finish_one(conn.claim_one(), "failed", retry_after=0, error="first try")
        claimed = conn.claim_one()
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 1})
        answer = conn.finish_one(claimed, outcome, output={"sent": 3})
        assert (answer.recorded, answer.status) == (RunOutcome(outcome), Status.PENDING)
        assert answer.run_at == job.run_at + timedelta(minutes=15)
        row = conn.job_row(job.id)
        assert (row["status"], row["attempts"], row["consecutive_failures"]) == ("pending", 0, 0)
        assert (row["last_outcome"], row["last_error"], row["output"]) == (outcome, None, {"sent": 3})
        assert (row["checkpoint"], row["completed_at"], row["cycle"]) == (None, None, 1)
        assert row["last_success_at"] == row["last_run_at"] == row["updated_at"]
        assert_free(row)
        assert [run["removed"] for run in conn.run_rows(job.id)] == [False, False]

    @SUCCESSES
    def test_a_series_whose_next_slot_lies_at_its_end_has_succeeded(self, conn: Connection, outcome: str) -> None:
        at = conn.now()
        job = series(conn, run_at=at, expires_at=at + timedelta(minutes=15))
        assert conn.run_once(outcome=outcome).status is Status.SUCCEEDED
        row = conn.job_row(job.id)
        assert (row["status"], row["completed_at"]) == ("succeeded", row["updated_at"])
        assert_free(row)

    def test_a_series_with_one_slot_left_goes_on(self, conn: Connection) -> None:
        at = conn.now()
        series(conn, run_at=at, expires_at=at + timedelta(minutes=15, microseconds=1))
        assert conn.run_once().status is Status.PENDING

    def test_the_streak_of_failures_ends(self, conn: Connection) -> None:
        job = series(conn)
        conn.run_once(outcome="failed", permanent=True)
        assert conn.job_row(job.id)["consecutive_failures"] == 1
        conn.advance(timedelta(minutes=15))
        conn.run_once()
        assert conn.job_row(job.id)["consecutive_failures"] == 0


@pytest.mark.parametrize("recurring", [False, True], ids=["one-time", "recurring"])
class TestBothAlike:
    """Outcomes that treat one-time jobs and series alike."""

    @staticmethod
    def job(conn: Connection, recurring: bool) -> Job:
        return series(conn) if recurring else conn.add()

    def test_continued_is_pending_now_with_the_checkpoint_and_no_attempts(
        self, conn: Connection, recurring: bool
    ) -> None:
        job = self.job(conn, recurring)
        conn.finish_one(conn.claim_one(), "failed", retry_after=0)
        before = conn.now()
        answer = conn.run_once(outcome="continued", checkpoint={"cursor": "x"})
        assert (answer.recorded, answer.status) == (RunOutcome.CONTINUED, Status.PENDING)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["checkpoint"], row["cycle"]) == (0, {"cursor": "x"}, 0)
        assert before <= row["run_at"] <= conn.now()
        assert_free(row)
        following = conn.claim_one()
        assert (following.attempt, following.checkpoint) == (1, {"cursor": "x"})

    def test_continued_after_a_delay_is_pending_then(self, conn: Connection, recurring: bool) -> None:
        self.job(conn, recurring)
        before = conn.now()
        answer = conn.run_once(outcome="continued", checkpoint={}, delay=90.0)
        assert answer.run_at is not None
        assert timedelta(seconds=90) <= answer.run_at - before <= timedelta(seconds=90) + (conn.now() - before)
        assert conn.claim() == []

    def test_failed_with_attempts_left_is_pending_after_the_backoff(self, conn: Connection, recurring: bool) -> None:
        job = self.job(conn, recurring)
        claimed = conn.claim_one()
        before = conn.now()
        answer = conn.finish_one(claimed, "failed", error="It broke.", error_kind="Boom", traceback="trace", log="log")
        assert (answer.recorded, answer.status) == (RunOutcome.RETRIED, Status.PENDING)
        assert answer.run_at is not None
        assert timedelta(seconds=BASE / 2) <= answer.run_at - before <= timedelta(seconds=BASE) + (conn.now() - before)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["last_error"], row["last_outcome"]) == (1, "It broke.", "retried")
        assert (row["consecutive_failures"], row["completed_at"], row["cycle"]) == (0, None, 0)
        assert_free(row)
        (run,) = conn.run_rows(job.id)
        assert (run["outcome"], run["error_kind"], run["error"], run["traceback"], run["log"]) == (
            "retried", "Boom", "It broke.", "trace", "log",
        )  # fmt: skip
        assert run["fingerprint"]

    def test_the_handlers_own_delay_wins(self, conn: Connection, recurring: bool) -> None:
        self.job(conn, recurring)
        before = conn.now()
        answer = conn.run_once(outcome="failed", retry_after=120.0, retry_base=1.0)
        assert answer.run_at is not None
        assert timedelta(seconds=120) <= answer.run_at - before <= timedelta(seconds=120) + (conn.now() - before)

    @pytest.mark.parametrize("field", ["retry_after", "delay"])
    def test_no_delay_of_a_handler_leads_into_the_past_or_breaks_the_batch(
        self, conn: Connection, recurring: bool, field: str
    ) -> None:
        job = self.job(conn, recurring)
        outcome = "failed" if field == "retry_after" else "continued"
        before = conn.now()
        past: dict[str, Any] = {field: -3600.0}
        conn.run_once(outcome=outcome, checkpoint={}, **past)
        assert conn.job_row(job.id)["run_at"] >= before
        claimed = conn.claim_one()
        answer = conn.finish_one(claimed, outcome, checkpoint={}, **{field: 1e300})
        assert answer.status is Status.PENDING

    def test_the_checkpoint_outlives_a_failed_attempt(self, conn: Connection, recurring: bool) -> None:
        self.job(conn, recurring)
        claimed = conn.claim_one()
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 5})
        conn.finish_one(claimed, "failed", retry_after=0)
        assert conn.claim_one().checkpoint == {"at": 5}

    def test_released_gives_the_attempt_back_and_stays_due(self, conn: Connection, recurring: bool) -> None:
        job = self.job(conn, recurring)
        answer = conn.run_once(outcome="released")
        assert (answer.recorded, answer.status, answer.run_at) == (RunOutcome.RELEASED, Status.PENDING, job.run_at)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["run_at"], row["last_run_at"], row["cycle"]) == (0, job.run_at, None, 0)
        assert_free(row)
        assert conn.claim_one().attempt == 1

    def test_a_run_that_never_began_leaves_its_job_as_it_was_before_the_claim(
        self, conn: Connection, recurring: bool
    ) -> None:
        job = self.job(conn, recurring)
        conn.finish_one(conn.claim_one(), "failed", retry_after=0, error="No.", trace="00-1-2-01", dry_run=True)
        before, runs = conn.job_row(job.id), conn.run_rows(job.id)
        claimed = conn.claim_one()
        for _ in range(2):
            answer = conn.finish_one(claimed, "released", began=False)
            assert (answer.recorded, answer.status) == (RunOutcome.RELEASED, Status.PENDING)
        after = conn.job_row(job.id)
        moved = {"version", "updated_at"} | ({"anchor_at"} if recurring else set())
        assert {name for name in after if after[name] != before[name]} <= moved
        assert conn.run_rows(job.id) == runs
        assert conn.value("SELECT sum(runs) FROM job_stat_delta") == 1
        assert conn.claim_one().attempt == 2

    def test_a_cancelled_run_that_never_began_is_not_in_the_history(self, conn: Connection, recurring: bool) -> None:
        job = self.job(conn, recurring)
        claimed = conn.claim_one()
        operator.cancel(conn, [job.id], actor=ACTOR)
        answer = conn.finish_one(claimed, "cancelled", began=False)
        assert (answer.recorded, answer.status) == (RunOutcome.CANCELLED, Status.CANCELLED)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["last_outcome"], row["last_run_at"]) == (0, "cancelled", None)
        assert conn.run_rows(job.id) == []

    @pytest.mark.parametrize("began", [True, False])
    def test_a_job_that_is_handed_back_is_announced_to_idle_workers(
        self, conn: Connection, recurring: bool, began: bool
    ) -> None:
        self.job(conn, recurring)
        claimed = conn.claim_one()
        conn.execute('LISTEN "public.job_queue"')
        conn.finish_one(claimed, "released", began=began)
        assert [notice.payload for notice in conn.notifies(timeout=PATIENCE, stop_after=1)] == [""]

    @pytest.mark.parametrize(
        "outcome", ["succeeded", "partial", "continued", "failed", "released", "cancelled"]
    )  # fmt: skip
    def test_a_request_to_cancel_wins_over_whatever_the_handler_returned(
        self, conn: Connection, recurring: bool, outcome: str
    ) -> None:
        job = self.job(conn, recurring)
        claimed = conn.claim_one()
        operator.cancel(conn, [job.id], actor=ACTOR)
        answer = conn.finish_one(claimed, outcome, checkpoint={}, error="Its own words.")
        assert (answer.recorded, answer.status) == (RunOutcome.CANCELLED, Status.CANCELLED)
        row = conn.job_row(job.id)
        assert (row["status"], row["last_outcome"], row["completed_at"]) == (
            "cancelled", "cancelled", row["updated_at"],
        )  # fmt: skip
        assert_free(row)
        (run,) = conn.run_rows(job.id)
        assert (run["outcome"], run["error_kind"], run["removed"]) == ("cancelled", "cancelled", False)
        assert ACTOR in run["error"]
        conn.advance(timedelta(days=1))
        assert conn.claim() == []

    def test_a_handler_may_cancel_its_own_job(self, conn: Connection, recurring: bool) -> None:
        job = self.job(conn, recurring)
        assert conn.run_once(outcome="cancelled").status is Status.CANCELLED
        assert conn.job_row(job.id)["status"] == "cancelled"

    @pytest.mark.slow
    def test_a_request_to_cancel_wins_over_a_lost_lease(self, conn: Connection, recurring: bool) -> None:
        job = self.job(conn, recurring)
        conn.claim_one()
        operator.cancel(conn, [job.id], actor=ACTOR)
        assert conn.lose().lost == 1
        assert conn.job_row(job.id)["status"] == "cancelled"
        assert [run["outcome"] for run in conn.run_rows(job.id)] == ["lost"]


class TestFailedForGood:
    @pytest.mark.parametrize("how", ["permanent", "last attempt"])
    def test_a_one_time_job_is_failed_and_kept(self, conn: Connection, how: str) -> None:
        job = conn.add(max_attempts=5 if how == "permanent" else 1)
        answer = conn.run_once(outcome="failed", permanent=how == "permanent", error="No such coach.")
        assert (answer.recorded, answer.status) == (RunOutcome.FAILED, Status.FAILED)
        row = conn.job_row(job.id)
        assert (row["status"], row["attempts"], row["last_error"]) == ("failed", 1, "No such coach.")
        assert (row["last_outcome"], row["completed_at"]) == ("failed", row["updated_at"])
        assert_free(row)
        conn.advance(timedelta(days=1))
        assert conn.claim() == []

    def test_the_attempts_are_all_used_and_then_no_more(self, conn: Connection) -> None:
        job = conn.add(max_attempts=3)
        recorded = [conn.run_once(outcome="failed", retry_after=0).recorded.value for _ in range(3)]
        assert recorded == ["retried", "retried", "failed"]
        assert [run["attempt"] for run in conn.run_rows(job.id)] == [1, 2, 3]

    @pytest.mark.parametrize("how", ["permanent", "last attempt"])
    def test_a_series_goes_on_at_its_next_slot_and_counts_the_cycle(self, conn: Connection, how: str) -> None:
        job = series(conn, max_attempts=5 if how == "permanent" else 1)
        claimed = conn.claim_one()
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 1})
        answer = conn.finish_one(claimed, "failed", permanent=how == "permanent", error="No.")
        assert (answer.recorded, answer.status) == (RunOutcome.FAILED, Status.PENDING)
        assert answer.run_at == job.run_at + timedelta(minutes=15)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["consecutive_failures"], row["cycle"]) == (0, 1, 1)
        assert (row["last_error"], row["checkpoint"], row["completed_at"]) == ("No.", None, None)
        assert_free(row)

    def test_the_streak_of_a_series_grows(self, conn: Connection) -> None:
        job = series(conn)
        for streak in (1, 2, 3):
            conn.run_once(outcome="failed", permanent=True)
            assert conn.job_row(job.id)["consecutive_failures"] == streak
            conn.advance(timedelta(minutes=15))

    def test_a_retry_that_would_come_after_the_next_slot_takes_the_slot(self, conn: Connection) -> None:
        job = series(conn)
        answer = conn.run_once(outcome="failed", retry_after=1000.0)
        assert answer.run_at == job.run_at + timedelta(minutes=15)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["consecutive_failures"], row["cycle"]) == (0, 1, 1)

    def test_a_series_that_fails_in_its_last_cycle_is_failed(self, conn: Connection) -> None:
        at = conn.now()
        series(conn, run_at=at, expires_at=at + timedelta(minutes=10))
        assert conn.run_once(outcome="failed", permanent=True).status is Status.FAILED
        assert conn.value("SELECT sum(permanent) FROM job_stat_delta") == 1

    @pytest.mark.parametrize("told", [{"permanent": True}, {"retry_after": 1000.0}])
    def test_a_cycle_that_failed_is_no_job_that_failed_permanently(
        self, conn: Connection, told: dict[str, Any]
    ) -> None:
        series(conn)
        assert conn.run_once(outcome="failed", **told).status is Status.PENDING
        assert conn.value("SELECT sum(permanent) FROM job_stat_delta") == 0

    def test_a_failure_without_words_is_given_some(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once(outcome="failed")
        assert "without a reason" in conn.job_row(job.id)["last_error"]


class TestBackoff:
    @pytest.mark.parametrize(
        ("attempt", "full"), [(1, 30), (2, 60), (3, 120), (4, 240), (7, 1920), (8, 3600), (30, 3600), (5000, 3600)]
    )
    def test_it_doubles_up_to_the_cap_and_is_spread_over_its_upper_half(
        self, conn: Connection, attempt: int, full: int
    ) -> None:
        low, high, spread = conn.execute(
            """
            SELECT min(s), max(s), count(DISTINCT s)
            FROM (SELECT job_backoff(%s, %s, %s) AS s FROM generate_series(1, 500)) AS drawn
            """,
            (attempt, BASE, CAP),
        ).fetchall()[0]
        assert full * 0.5 <= low < full * 0.55
        assert full * 0.95 < high <= full
        assert spread > 400

    @pytest.mark.slow
    def test_a_task_types_own_base_and_cap_are_used(self, conn: Connection) -> None:
        job = conn.add(max_attempts=50)
        for _ in range(6):
            before = conn.now()
            conn.run_once(outcome="failed", retry_base=0.5, retry_cap=2.0)
            assert conn.job_row(job.id)["run_at"] - before < timedelta(seconds=2) + (conn.now() - before)
            conn.advance(timedelta(seconds=3))


class TestSlots:
    @pytest.mark.parametrize(
        ("after", "slot"),
        [(-600, 0), (-0.000001, 0), (0, 15), (1, 15), (899.999999, 15), (900, 30), (3600 * 3 + 1, 195)],
    )
    def test_the_next_slot_is_the_first_after_now_and_none_before_the_anchor(
        self, conn: Connection, after: float, slot: int
    ) -> None:
        anchor = conn.now()
        found = conn.value("SELECT job_next_slot(%s, '15 minutes', %s)", anchor, anchor + timedelta(seconds=after))
        assert found == anchor + timedelta(minutes=slot)

    @pytest.mark.slow
    def test_a_hundred_cycles_stay_on_the_quarter_hour(self, conn: Connection) -> None:
        series(conn)
        slots = []
        passed = timedelta()
        for _ in range(100):
            claimed = conn.claim_one()
            slots.append(claimed.due_at + passed)
            conn.advance(timedelta(seconds=40))
            conn.finish_one(claimed)
            conn.advance(timedelta(minutes=15) - timedelta(seconds=40))
            passed += timedelta(minutes=15)
        assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(minutes=15)}

    def test_an_outage_of_three_hours_is_made_up_for_by_one_run(self, conn: Connection) -> None:
        job = series(conn)
        conn.run_once()
        due = conn.job_row(job.id)["run_at"]
        conn.advance(3 * HOUR)
        late = conn.claim_one()
        assert late.due_at == due - 3 * HOUR
        answer = conn.finish_one(late)
        assert answer.run_at is not None
        assert answer.run_at > conn.now()
        assert (answer.run_at - late.due_at) % timedelta(minutes=15) == timedelta()
        assert conn.claim() == []
        assert len(conn.run_rows(job.id)) == 2


class TestBatch:
    def test_each_run_of_a_batch_is_answered_and_judged_by_itself(self, conn: Connection) -> None:
        jobs = {name: conn.add(priority=place) for place, name in enumerate(("d", "c", "b", "a"))}
        again = series(conn, priority=-1)
        a, b, c, d, e = conn.claim()
        answers = conn.finish(
            report(a),
            report(b, "failed", permanent=True),
            report(c, "continued", checkpoint={"c": 1}),
            report(d, "failed", retry_after=5.0),
            report(e, "partial"),
        )
        assert {answer.job_id: (answer.recorded.value, answer.status) for answer in answers} == {
            jobs["a"].id: ("succeeded", None),
            jobs["b"].id: ("failed", Status.FAILED),
            jobs["c"].id: ("continued", Status.PENDING),
            jobs["d"].id: ("retried", Status.PENDING),
            again.id: ("partial", Status.PENDING),
        }
        assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 0
        assert conn.value("SELECT count(*) FROM job_runs") == 5

    @pytest.mark.slow
    def test_no_outcome_leaves_a_job_running(self, conn: Connection) -> None:
        for outcome in ("succeeded", "partial", "continued", "failed", "released", "cancelled"):
            kinds: list[dict[str, Any]] = [{}, {"recurrence_interval_minutes": 5}, {"concurrency_key": outcome}]
            for fields in kinds:
                conn.add(outcome, **fields)
            for claimed in conn.claim([outcome]):
                conn.finish_one(claimed, outcome)
        assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 0
        assert conn.value("SELECT count(*) FROM job_runs") == 18

    def test_an_empty_batch_is_nothing(self, conn: Connection) -> None:
        with conn.changes_nothing():
            assert conn.finish() == []


class TestFence:
    @SUCCESSES
    def test_a_report_sent_again_is_applied_once(self, conn: Connection, outcome: str) -> None:
        conn.add()
        conn.add(concurrency_key="k")
        series(conn)
        reports = [report(claimed, outcome) for claimed in conn.claim()]
        first = {answer.run_token: answer.recorded for answer in conn.finish(*reports)}
        with conn.changes_nothing():
            second = {answer.run_token: answer.recorded for answer in conn.finish(*reports)}
        assert first == second

    def test_a_failure_sent_again_is_applied_once(self, conn: Connection) -> None:
        conn.add(max_attempts=1)
        conn.add()
        reports = [report(claimed, "failed") for claimed in conn.claim()]
        first = {answer.run_token: (answer.recorded, answer.status) for answer in conn.finish(*reports)}
        with conn.changes_nothing():
            second = {answer.run_token: (answer.recorded, answer.status) for answer in conn.finish(*reports)}
        assert first == second
        assert {recorded for recorded, _ in first.values()} == {RunOutcome.FAILED, RunOutcome.RETRIED}

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "continued", "released", "cancelled"])
    def test_a_worker_that_comes_back_late_changes_nothing_but_is_put_on_record(
        self, conn: Connection, outcome: str
    ) -> None:
        job = conn.add()
        late = conn.claim_one(worker="worker-a")
        conn.lose()
        before = conn.job_row(job.id)
        for _ in range(2):
            (answer,) = conn.finish(report(late, outcome, log="what it did", output={"x": 1}), worker="worker-a")
            assert (answer.recorded, answer.status) == (RunOutcome.ABANDONED, Status.PENDING)
        assert conn.job_row(job.id) == before
        lost, abandoned = conn.run_rows(job.id)
        assert (lost["outcome"], lost["late"], lost["error_kind"]) == ("lost", False, "lease_expired")
        assert (abandoned["outcome"], abandoned["late"], abandoned["run_token"]) == (
            "abandoned", True, late.run_token,
        )  # fmt: skip
        # What it returned is evidence of what it did, and the job does not get it.
        assert (abandoned["worker_id"], abandoned["log"], abandoned["output"]) == ("worker-a", "what it did", {"x": 1})
        assert abandoned["attempt"] == 1

    def test_a_late_report_that_is_sent_twice_at_a_time_is_recorded_once(
        self, conn: Connection, database_url: str
    ) -> None:
        job = conn.add()
        late = conn.claim_one(worker="worker-a")
        conn.lose()
        answers: list[leases.Finished] = []

        def report_again() -> None:
            for _ in rounds("a report that is not held up for half a second"):
                with suppress(LockNotAvailable):
                    answers.extend(second.finish(report(late), worker="worker-a"))
                    return

        with Connection.connect(database_url) as first, Connection.connect(database_url, autocommit=True) as second:
            answers.extend(first.finish(report(late), worker="worker-a"))
            with beside(report_again):
                conn.until_blocked(second.info.backend_pid)
                first.commit()
        assert [answer.recorded for answer in answers] == [RunOutcome.ABANDONED] * 2
        assert [run["outcome"] for run in conn.run_rows(job.id)] == ["lost", "abandoned"]
        assert conn.value("SELECT sum(runs) FROM job_stat_delta WHERE outcome = 'abandoned'") == 1

    def test_a_late_worker_does_not_touch_the_run_of_the_next_one(self, conn: Connection) -> None:
        job = conn.add()
        late = conn.claim_one(worker="worker-a")
        conn.lose()
        conn.advance(timedelta(minutes=1))
        current = conn.claim_one(worker="worker-b")
        (answer,) = conn.finish(report(late), worker="worker-a")
        assert (answer.recorded, answer.status) == (RunOutcome.ABANDONED, Status.RUNNING)
        row = conn.job_row(job.id)
        assert (row["run_token"], row["locked_by"]) == (current.run_token, "worker-b")
        assert conn.finish(report(current), worker="worker-b")[0].recorded is RunOutcome.SUCCEEDED

    def test_a_late_worker_does_not_bring_a_job_back_that_has_left(self, conn: Connection) -> None:
        job = conn.add()
        late = conn.claim_one(worker="worker-a")
        conn.lose()
        conn.advance(timedelta(minutes=1))
        conn.run_once()
        (answer,) = conn.finish(report(late, "failed"), worker="worker-a")
        assert (answer.recorded, answer.status) == (RunOutcome.ABANDONED, None)
        assert [run["outcome"] for run in conn.run_rows(job.id)] == ["lost", "abandoned", "succeeded"]

    def test_a_late_run_does_not_hold_up_the_others_of_its_batch(self, conn: Connection) -> None:
        conn.add()
        late = conn.claim_one()
        conn.lose()
        fresh = conn.add("beta")
        current = conn.claim_one(["beta"])
        answers = {answer.job_id: answer.recorded for answer in conn.finish(report(late), report(current))}
        assert answers == {late.id: RunOutcome.ABANDONED, fresh.id: RunOutcome.SUCCEEDED}

    def test_a_token_that_never_was_is_answered_and_leaves_no_trace(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        stranger = report(claimed, run_token=claimed.run_token + 999)
        with conn.changes_nothing():
            (answer,) = conn.finish(stranger)
        assert answer.recorded is RunOutcome.ABANDONED
        assert conn.finish_one(claimed).recorded is RunOutcome.SUCCEEDED

    @pytest.mark.parametrize("outcome", ["succeeded", "partial", "failed", "continued"])
    def test_the_report_of_another_worker_ends_no_run(self, conn: Connection, outcome: str) -> None:
        job = conn.add()
        claimed = conn.claim_one(worker="its worker")
        before = conn.job_row(job.id)
        (answer,) = conn.finish(report(claimed, outcome), worker="another")
        assert answer.recorded is RunOutcome.ABANDONED
        assert conn.job_row(job.id) == before
        (answer,) = conn.finish(report(claimed), worker="its worker")
        assert answer.recorded is RunOutcome.SUCCEEDED

    def test_a_lease_that_has_ended_but_was_not_taken_still_counts(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        conn.advance(timedelta(seconds=LEASE * 2))
        assert conn.finish_one(claimed).recorded is RunOutcome.SUCCEEDED
