"""The reaper: lost runs, ended series, resumed pauses, mended lines, pruned evidence."""

from __future__ import annotations

import uuid
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from jobdeck.core.model import NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, operator, presence, producer
from jobdeck.core.queue.leases import Reaped
from tests.support.health import announce
from tests.support.queue import (
    ACTOR,
    BASE,
    LEASE,
    Connection,
    Parallel,
    add,
    advance,
    changes_nothing,
    claim,
    claim_one,
    finish_one,
    is_queued,
    job_row,
    lose,
    now,
    reap,
    rows,
    run_once,
    run_rows,
    value,
)

DAY = timedelta(days=1)


class TestLostRuns:
    def test_a_lease_that_is_renewed_in_time_is_left_alone(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        for _ in range(5):
            advance(conn, timedelta(seconds=LEASE - 20))
            assert leases.heartbeat(conn, "worker-1", [(claimed.id, claimed.run_token, None)], LEASE)[0].alive
            assert reap(conn).lost == 0
        assert finish_one(conn, claimed).recorded is RunOutcome.SUCCEEDED

    def test_an_expired_lease_is_a_lost_run_that_counts_as_an_attempt(self, conn: Connection) -> None:
        job = add(conn)
        claimed = claim_one(conn, worker="worker-a")
        leases.heartbeat(conn, "worker-a", [(claimed.id, claimed.run_token, {"done": 4})], LEASE)
        assert lose(conn).lost == 1
        at = now(conn)
        row = job_row(conn, job.id)
        assert (row["status"], row["attempts"], row["last_outcome"]) == ("pending", 1, "lost")
        assert (row["run_token"], row["lease_expires_at"], row["locked_by"]) == (None, None, None)
        assert timedelta(0) < row["run_at"] - at <= timedelta(seconds=BASE)
        assert "worker-a" in row["last_error"]
        (run,) = run_rows(conn, job.id)
        assert (run["outcome"], run["error_kind"], run["worker_id"], run["run_token"]) == (
            "lost", "lease_expired", "worker-a", claimed.run_token,
        )  # fmt: skip
        assert (run["progress"], run["late"]) == ({"done": 4}, False)
        assert run["fingerprint"]
        assert reap(conn).lost == 0

    def test_it_is_not_said_to_have_run_where_its_worker_never_said_that_it_had_begun(self, conn: Connection) -> None:
        job = add(conn)
        claim(conn, worker="worker-a", free=0)
        assert lose(conn).lost == 1
        (run,) = run_rows(conn, job.id)
        assert run["error_kind"] == "begin_not_reported"
        assert run["error"] == (
            "The lease of worker-a expired before it reported whether the run had begun: "
            "it crashed, lost its connection or was stopped."
        )
        # It may have begun and ended the worker, so the attempt counts.
        assert job_row(conn, job.id)["attempts"] == 1

    def test_a_run_whose_lease_was_renewed_since_it_was_seen_is_not_taken_back(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        with changes_nothing(conn):
            taken = rows(conn, "SELECT job_queue_take_back('reaper', ARRAY[%s], '{}', 30, 3600)", claimed.id)
        assert taken == []

    def test_the_last_attempt_lost_is_a_job_failed(self, conn: Connection) -> None:
        job = add(conn, max_attempts=1)
        claim_one(conn)
        lose(conn)
        row = job_row(conn, job.id)
        assert (row["status"], row["last_outcome"]) == ("failed", "lost")
        assert [run["outcome"] for run in run_rows(conn, job.id)] == ["lost"]

    @pytest.mark.slow
    @pytest.mark.parametrize("max_attempts", [1, 5])
    def test_a_series_always_comes_back(self, conn: Connection, max_attempts: int) -> None:
        series = add(conn, recurrence_interval_minutes=15, max_attempts=max_attempts)
        for _ in range(8):
            claim_one(conn)
            lose(conn)
            row = job_row(conn, series.id)
            assert row["status"] == "pending"
            advance(conn, row["run_at"] - now(conn) + timedelta(seconds=1))

    def test_the_checkpoint_of_a_lost_run_is_kept(self, conn: Connection) -> None:
        add(conn)
        claimed = claim_one(conn)
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 3})
        lose(conn)
        advance(conn, timedelta(minutes=1))
        assert claim_one(conn).checkpoint == {"at": 3}

    def test_reapers_at_once_take_each_run_back_once(self, conn: Connection, database_url: str) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(60)], actor=ACTOR)
        claim(conn, limit=60)
        advance(conn, timedelta(minutes=5))
        passes: list[Reaped] = Parallel(database_url)(reap, reap, reap)
        assert sum(done.lost for done in passes) == 60
        assert value(conn, "SELECT count(*) FROM job_runs WHERE outcome = 'lost'") == 60
        assert value(conn, "SELECT count(*) FROM job_queue WHERE status = 'pending' AND attempts = 1") == 60

    @pytest.mark.slow
    def test_a_finish_and_a_reaper_at_once_settle_a_run_once(self, conn: Connection, database_url: str) -> None:
        conn.execute("ALTER FUNCTION job_queue_finish SET lock_timeout = '60s'")
        for _ in range(15):
            job = add(conn)
            claimed = claim_one(conn)
            advance(conn, timedelta(minutes=5))
            answer, done = Parallel(database_url)(
                partial(finish_one, claimed=claimed), reap
            )  # fmt: skip
            if done.lost:
                assert answer.recorded is RunOutcome.ABANDONED
                assert [run["outcome"] for run in run_rows(conn, job.id)] == ["lost", "abandoned"]
                operator.delete(conn, [job.id], actor=ACTOR)
            else:
                assert answer.recorded is RunOutcome.SUCCEEDED
                assert not is_queued(conn, job.id)

    def test_a_pass_over_nothing_changes_nothing(self, conn: Connection) -> None:
        add(conn)
        add(conn, "beta", recurrence_interval_minutes=5, expires_at=now(conn) + DAY)
        reap(conn)
        with changes_nothing(conn, but="job_upkeep"):
            assert reap(conn) == leases.Reaped(0, 0, 0, 0)


class TestEnds:
    def test_a_series_past_its_end_has_succeeded_and_is_not_due(self, conn: Connection) -> None:
        series = add(conn, recurrence_interval_minutes=60, expires_at=now(conn) + timedelta(minutes=90))
        run_once(conn)
        advance(conn, timedelta(minutes=91))
        assert claim(conn) == []
        assert reap(conn).expired == 1
        row = job_row(conn, series.id)
        assert (row["status"], row["last_error"]) == ("succeeded", None)
        assert row["completed_at"] is not None
        assert leases.next_due(conn, ["alpha"])[1] is None
        assert reap(conn).expired == 0

    def test_a_series_that_failed_last_is_failed(self, conn: Connection) -> None:
        series = add(conn, recurrence_interval_minutes=60, expires_at=now(conn) + timedelta(minutes=90))
        run_once(conn, outcome="failed", permanent=True, error="It broke.")
        advance(conn, timedelta(minutes=91))
        reap(conn)
        row = job_row(conn, series.id)
        assert (row["status"], row["last_error"]) == ("failed", "It broke.")

    def test_a_one_time_job_that_was_not_run_in_time_is_cancelled(self, conn: Connection) -> None:
        job = add(conn, expires_at=now(conn) + timedelta(minutes=5))
        waiting = add(conn, "beta", blocked_by=job.id)
        advance(conn, timedelta(minutes=6))
        assert reap(conn).expired == 1
        row = job_row(conn, job.id)
        assert row["status"] == "cancelled"
        assert "expired before" in row["last_error"]
        assert job_row(conn, waiting.id)["status"] == "cancelled"

    def test_an_end_that_passes_during_a_run_ends_the_series_after_it(self, conn: Connection) -> None:
        at = now(conn)
        series = add(conn, run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(minutes=1))
        claimed = claim_one(conn)
        advance(conn, timedelta(minutes=2))
        leases.heartbeat(conn, "worker-1", [(claimed.id, claimed.run_token, None)], LEASE)
        assert reap(conn).expired == 0
        assert finish_one(conn, claimed).status is Status.SUCCEEDED
        assert job_row(conn, series.id)["status"] == "succeeded"

    def test_the_line_behind_an_ended_job_moves_up(self, conn: Connection) -> None:
        add(conn, concurrency_key="k", expires_at=now(conn) + timedelta(minutes=5))
        behind = add(conn, concurrency_key="k")
        advance(conn, timedelta(minutes=6))
        reap(conn)
        assert claim_one(conn).id == behind.id


class TestMend:
    def test_a_line_of_which_nobody_is_first_moves_up(self, conn: Connection) -> None:
        jobs = [add(conn, concurrency_key="k") for _ in range(3)]
        conn.execute("UPDATE job_queue SET in_line = true")
        assert claim(conn) == []
        reap(conn)
        assert claim_one(conn).id == jobs[0].id
        assert claim(conn) == []

    def test_a_line_behind_a_running_job_stays(self, conn: Connection) -> None:
        add(conn, concurrency_key="k")
        add(conn, concurrency_key="k")
        claim_one(conn)
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_queue WHERE in_line") == 1
        assert claim(conn) == []

    @pytest.mark.parametrize("gone", ["never there", "failed", "cancelled"])
    def test_a_job_that_waits_in_vain_is_cancelled_with_the_reason(self, conn: Connection, gone: str) -> None:
        blocker = uuid.uuid4()
        if gone != "never there":
            blocker = add(conn, "beta").id
            run_once(conn, ["beta"], gone, permanent=True)
        job = add(conn)
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE id = %s", (blocker, job.id))
        conn.execute("SELECT job_queue_ask_recheck(NULL, ARRAY[%s]::uuid[])", (blocker,))
        behind = add(conn, blocked_by=job.id)
        reap(conn)
        for job_id, reason in ((job.id, blocker), (behind.id, job.id)):
            row = job_row(conn, job_id)
            assert (row["status"], row["last_outcome"]) == ("cancelled", "cancelled")
            assert str(reason) in row["last_error"]

    def test_a_job_that_waits_for_one_that_has_succeeded_is_freed(self, conn: Connection) -> None:
        blocker = add(conn, "beta")
        run_once(conn, ["beta"])
        job = add(conn)
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE id = %s", (blocker.id, job.id))
        conn.execute("SELECT job_queue_ask_recheck(NULL, ARRAY[%s]::uuid[])", (blocker.id,))
        reap(conn)
        assert claim_one(conn).id == job.id

    def test_a_job_that_waits_for_a_live_one_goes_on_waiting(self, conn: Connection) -> None:
        blocker = add(conn, "beta")
        job = add(conn, blocked_by=blocker.id)
        reap(conn)
        claim_one(conn, ["beta"])
        reap(conn)
        row = job_row(conn, job.id)
        assert (row["status"], row["blocked_by"]) == ("pending", blocker.id)

    def test_a_blocker_committed_while_its_waiter_was_enqueued_is_found(
        self, conn: Connection, database_url: str
    ) -> None:
        blocker = add(conn, "beta")
        with conn.transaction():
            job = add(conn, blocked_by=blocker.id)
            Parallel(database_url)(lambda link: run_once(link, ["beta"]))
        assert claim(conn) == []
        reap(conn)
        assert claim_one(conn).id == job.id


class TestRetention:
    @staticmethod
    def evidence(conn: Connection) -> None:
        """One row of each kind of evidence, all of them from now."""
        job = add(conn)
        run_once(conn)
        add(conn, "beta")
        operator.delete(conn, [add(conn).id], actor=ACTOR)
        run_id = presence.open_worker_run(conn, source="manual", worker_id="w")
        presence.close_worker_run(conn, run_id, status="ok", claimed=1, succeeded=1, failed=0, released=0)
        announce(conn, "w")
        assert value(conn, "SELECT count(*) FROM job_runs WHERE job_id = %s", job.id) == 1

    @pytest.mark.parametrize(
        ("table", "kept_for"),
        [("job_runs", 30 * DAY), ("job_worker_runs", 14 * DAY), ("job_trash", 7 * DAY), ("job_audit", 365 * DAY)],
    )
    def test_evidence_is_kept_for_its_time_and_no_longer(
        self, conn: Connection, table: str, kept_for: timedelta
    ) -> None:
        self.evidence(conn)
        advance(conn, kept_for - timedelta(minutes=5))
        reap(conn)
        assert self.count(conn, table) == 1
        advance(conn, timedelta(minutes=10))
        assert reap(conn).pruned >= 1
        assert self.count(conn, table) == 0

    @staticmethod
    def count(conn: Connection, table: str) -> int:
        counts: dict[str, Any] = rows(
            conn,
            """
            SELECT (SELECT count(*) FROM job_runs) AS job_runs,
                (SELECT count(*) FROM job_worker_runs) AS job_worker_runs,
                (SELECT count(*) FROM job_trash) AS job_trash, (SELECT count(*) FROM job_audit) AS job_audit
            """,
        )[0]
        return int(counts[table])

    def test_jobs_that_have_not_ended_are_never_pruned(self, conn: Connection) -> None:
        pending = add(conn, run_at=now(conn) + 900 * DAY)
        add(conn, "beta")
        running = claim_one(conn, ["beta"])
        advance(conn, 400 * DAY)
        conn.execute("UPDATE job_queue SET lease_expires_at = now() + interval '1 day' WHERE status = 'running'")
        reap(conn)
        assert is_queued(conn, pending.id)
        assert is_queued(conn, running.id)

    @pytest.mark.slow
    def test_it_is_done_in_batches_and_once_a_minute_when_nothing_is_left(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome)
            SELECT n, gen_random_uuid(), 'alpha', '{}', 1, now() - interval '40 days', now() - interval '40 days',
                now() - interval '40 days', 'succeeded'
            FROM generate_series(1, 5500) AS n
            """
        )
        advance(conn, timedelta(minutes=2))
        assert [reap(conn).pruned for _ in range(2)] == [5000, 500]
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome)
            VALUES (1, gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now() - interval '40 days', 'succeeded')
            """
        )
        assert reap(conn).pruned == 0
        advance(conn, timedelta(minutes=2))
        assert reap(conn).pruned == 1

    def test_a_worker_not_heard_of_for_a_day_is_forgotten(self, conn: Connection) -> None:
        self.evidence(conn)
        advance(conn, DAY - timedelta(minutes=5))
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_workers") == 1
        advance(conn, timedelta(minutes=10))
        reap(conn)
        assert value(conn, "SELECT count(*) FROM job_workers") == 0


@pytest.mark.slow
def test_the_delay_after_a_lost_run_has_the_cap_given(conn: Connection) -> None:
    job = add(conn, max_attempts=99)
    for _ in range(3):
        claim_one(conn)
        advance(conn, timedelta(seconds=LEASE + 1))
        at = now(conn)
        leases.reap(conn, retry_base=1000.0, retry_cap=4.0)
        assert job_row(conn, job.id)["run_at"] - at <= timedelta(seconds=4) + (now(conn) - at)
        advance(conn, timedelta(seconds=5))
