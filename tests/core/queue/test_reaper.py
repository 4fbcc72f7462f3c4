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
from tests.support.queue import ACTOR, BASE, LEASE, Connection, Parallel

DAY = timedelta(days=1)


class TestLostRuns:
    def test_a_lease_that_is_renewed_in_time_is_left_alone(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        for _ in range(5):
            conn.advance(timedelta(seconds=LEASE - 20))
            assert leases.heartbeat(conn, "worker-1", [(claimed.id, claimed.run_token, None)], LEASE)[0].alive
            assert conn.reap().lost == 0
        assert conn.finish_one(claimed).recorded is RunOutcome.SUCCEEDED

    def test_an_expired_lease_is_a_lost_run_that_counts_as_an_attempt(self, conn: Connection) -> None:
        job = conn.add()
        claimed = conn.claim_one(worker="worker-a")
        leases.heartbeat(conn, "worker-a", [(claimed.id, claimed.run_token, {"done": 4})], LEASE)
        assert conn.lose().lost == 1
        at = conn.now()
        row = conn.job_row(job.id)
        assert (row["status"], row["attempts"], row["last_outcome"]) == ("pending", 1, "lost")
        assert (row["run_token"], row["lease_expires_at"], row["locked_by"]) == (None, None, None)
        assert timedelta(0) < row["run_at"] - at <= timedelta(seconds=BASE)
        assert "worker-a" in row["last_error"]
        (run,) = conn.run_rows(job.id)
        assert (run["outcome"], run["error_kind"], run["worker_id"], run["run_token"]) == (
            "lost", "lease_expired", "worker-a", claimed.run_token,
        )  # fmt: skip
        assert (run["progress"], run["late"]) == ({"done": 4}, False)
        assert run["fingerprint"]
        assert conn.reap().lost == 0

    def test_it_is_not_said_to_have_run_where_its_worker_never_said_that_it_had_begun(self, conn: Connection) -> None:
        job = conn.add()
        conn.claim(worker="worker-a", free=0)
        assert conn.lose().lost == 1
        (run,) = conn.run_rows(job.id)
        assert run["error_kind"] == "begin_not_reported"
        assert run["error"] == (
            "The lease of worker-a expired before it reported whether the run had begun: "
            "it crashed, lost its connection or was stopped."
        )
        # It may have begun and ended the worker, so the attempt counts.
        assert conn.job_row(job.id)["attempts"] == 1

    def test_a_run_whose_lease_was_renewed_since_it_was_seen_is_not_taken_back(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        with conn.changes_nothing():
            taken = conn.rows("SELECT job_queue_take_back('reaper', ARRAY[%s], '{}', 30, 3600)", claimed.id)
        assert taken == []

    def test_the_last_attempt_lost_is_a_job_failed(self, conn: Connection) -> None:
        job = conn.add(max_attempts=1)
        conn.claim_one()
        conn.lose()
        row = conn.job_row(job.id)
        assert (row["status"], row["last_outcome"]) == ("failed", "lost")
        assert [run["outcome"] for run in conn.run_rows(job.id)] == ["lost"]

    @pytest.mark.slow
    @pytest.mark.parametrize("max_attempts", [1, 5])
    def test_a_series_always_comes_back(self, conn: Connection, max_attempts: int) -> None:
        series = conn.add(recurrence_interval_minutes=15, max_attempts=max_attempts)
        for _ in range(8):
            conn.claim_one()
            conn.lose()
            row = conn.job_row(series.id)
            assert row["status"] == "pending"
            conn.advance(row["run_at"] - conn.now() + timedelta(seconds=1))

    def test_the_checkpoint_of_a_lost_run_is_kept(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 3})
        conn.lose()
        conn.advance(timedelta(minutes=1))
        assert conn.claim_one().checkpoint == {"at": 3}

    def test_reapers_at_once_take_each_run_back_once(self, conn: Connection, database_url: str) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(60)], actor=ACTOR)
        conn.claim(limit=60)
        conn.advance(timedelta(minutes=5))
        passes: list[Reaped] = Parallel(database_url)(Connection.reap, Connection.reap, Connection.reap)
        assert sum(done.lost for done in passes) == 60
        assert conn.value("SELECT count(*) FROM job_runs WHERE outcome = 'lost'") == 60
        assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'pending' AND attempts = 1") == 60

    @pytest.mark.slow
    def test_a_finish_and_a_reaper_at_once_settle_a_run_once(self, conn: Connection, database_url: str) -> None:
        conn.execute("ALTER FUNCTION job_queue_finish SET lock_timeout = '60s'")
        for _ in range(15):
            job = conn.add()
            claimed = conn.claim_one()
            conn.advance(timedelta(minutes=5))
            answer, done = Parallel(database_url)(
                partial(Connection.finish_one, claimed=claimed), Connection.reap
            )  # fmt: skip
            if done.lost:
                assert answer.recorded is RunOutcome.ABANDONED
                assert [run["outcome"] for run in conn.run_rows(job.id)] == ["lost", "abandoned"]
                operator.delete(conn, [job.id], actor=ACTOR)
            else:
                assert answer.recorded is RunOutcome.SUCCEEDED
                assert not conn.is_queued(job.id)

    def test_a_pass_over_nothing_changes_nothing(self, conn: Connection) -> None:
        conn.add()
        conn.add("beta", recurrence_interval_minutes=5, expires_at=conn.now() + DAY)
        conn.reap()
        with conn.changes_nothing(but="job_upkeep"):
            assert conn.reap() == leases.Reaped(0, 0, 0, 0)


class TestEnds:
    def test_a_series_past_its_end_has_succeeded_and_is_not_due(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60, expires_at=conn.now() + timedelta(minutes=90))
        conn.run_once()
        conn.advance(timedelta(minutes=91))
        assert conn.claim() == []
        assert conn.reap().expired == 1
        row = conn.job_row(series.id)
        assert (row["status"], row["last_error"]) == ("succeeded", None)
        assert row["completed_at"] is not None
        assert leases.next_due(conn, ["alpha"])[1] is None
        assert conn.reap().expired == 0

    def test_a_series_that_failed_last_is_failed(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60, expires_at=conn.now() + timedelta(minutes=90))
        conn.run_once(outcome="failed", permanent=True, error="It broke.")
        conn.advance(timedelta(minutes=91))
        conn.reap()
        row = conn.job_row(series.id)
        assert (row["status"], row["last_error"]) == ("failed", "It broke.")

    def test_a_one_time_job_that_was_not_run_in_time_is_cancelled(self, conn: Connection) -> None:
        job = conn.add(expires_at=conn.now() + timedelta(minutes=5))
        waiting = conn.add("beta", blocked_by=job.id)
        conn.advance(timedelta(minutes=6))
        assert conn.reap().expired == 1
        row = conn.job_row(job.id)
        assert row["status"] == "cancelled"
        assert "expired before" in row["last_error"]
        assert conn.job_row(waiting.id)["status"] == "cancelled"

    def test_an_end_that_passes_during_a_run_ends_the_series_after_it(self, conn: Connection) -> None:
        at = conn.now()
        series = conn.add(run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(minutes=1))
        claimed = conn.claim_one()
        conn.advance(timedelta(minutes=2))
        leases.heartbeat(conn, "worker-1", [(claimed.id, claimed.run_token, None)], LEASE)
        assert conn.reap().expired == 0
        assert conn.finish_one(claimed).status is Status.SUCCEEDED
        assert conn.job_row(series.id)["status"] == "succeeded"

    def test_the_line_behind_an_ended_job_moves_up(self, conn: Connection) -> None:
        conn.add(concurrency_key="k", expires_at=conn.now() + timedelta(minutes=5))
        behind = conn.add(concurrency_key="k")
        conn.advance(timedelta(minutes=6))
        conn.reap()
        assert conn.claim_one().id == behind.id


class TestMend:
    def test_a_line_of_which_nobody_is_first_moves_up(self, conn: Connection) -> None:
        jobs = [conn.add(concurrency_key="k") for _ in range(3)]
        conn.execute("UPDATE job_queue SET in_line = true")
        assert conn.claim() == []
        conn.reap()
        assert conn.claim_one().id == jobs[0].id
        assert conn.claim() == []

    def test_a_line_behind_a_running_job_stays(self, conn: Connection) -> None:
        conn.add(concurrency_key="k")
        conn.add(concurrency_key="k")
        conn.claim_one()
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_queue WHERE in_line") == 1
        assert conn.claim() == []

    @pytest.mark.parametrize("gone", ["never there", "failed", "cancelled"])
    def test_a_job_that_waits_in_vain_is_cancelled_with_the_reason(self, conn: Connection, gone: str) -> None:
        blocker = uuid.uuid4()
        if gone != "never there":
            blocker = conn.add("beta").id
            conn.run_once(["beta"], gone, permanent=True)
        job = conn.add()
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE id = %s", (blocker, job.id))
        conn.execute("SELECT job_queue_ask_recheck(NULL, ARRAY[%s]::uuid[])", (blocker,))
        behind = conn.add(blocked_by=job.id)
        conn.reap()
        for job_id, reason in ((job.id, blocker), (behind.id, job.id)):
            row = conn.job_row(job_id)
            assert (row["status"], row["last_outcome"]) == ("cancelled", "cancelled")
            assert str(reason) in row["last_error"]

    def test_a_job_that_waits_for_one_that_has_succeeded_is_freed(self, conn: Connection) -> None:
        blocker = conn.add("beta")
        conn.run_once(["beta"])
        job = conn.add()
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE id = %s", (blocker.id, job.id))
        conn.execute("SELECT job_queue_ask_recheck(NULL, ARRAY[%s]::uuid[])", (blocker.id,))
        conn.reap()
        assert conn.claim_one().id == job.id

    def test_a_job_that_waits_for_a_live_one_goes_on_waiting(self, conn: Connection) -> None:
        blocker = conn.add("beta")
        job = conn.add(blocked_by=blocker.id)
        conn.reap()
        conn.claim_one(["beta"])
        conn.reap()
        row = conn.job_row(job.id)
        assert (row["status"], row["blocked_by"]) == ("pending", blocker.id)

    def test_a_blocker_committed_while_its_waiter_was_enqueued_is_found(
        self, conn: Connection, database_url: str
    ) -> None:
        blocker = conn.add("beta")
        with conn.transaction():
            job = conn.add(blocked_by=blocker.id)
            Parallel(database_url)(lambda link: link.run_once(["beta"]))
        assert conn.claim() == []
        conn.reap()
        assert conn.claim_one().id == job.id


class TestRetention:
    @staticmethod
    def evidence(conn: Connection) -> None:
        """One row of each kind of evidence, all of them from now."""
        job = conn.add()
        conn.run_once()
        conn.add("beta")
        operator.delete(conn, [conn.add().id], actor=ACTOR)
        run_id = presence.open_worker_run(conn, source="manual", worker_id="w")
        presence.close_worker_run(conn, run_id, status="ok", claimed=1, succeeded=1, failed=0, released=0)
        announce(conn, "w")
        assert conn.value("SELECT count(*) FROM job_runs WHERE job_id = %s", job.id) == 1

    @pytest.mark.parametrize(
        ("table", "kept_for"),
        [("job_runs", 30 * DAY), ("job_worker_runs", 14 * DAY), ("job_trash", 7 * DAY), ("job_audit", 365 * DAY)],
    )
    def test_evidence_is_kept_for_its_time_and_no_longer(
        self, conn: Connection, table: str, kept_for: timedelta
    ) -> None:
        self.evidence(conn)
        conn.advance(kept_for - timedelta(minutes=5))
        conn.reap()
        assert self.count(conn, table) == 1
        conn.advance(timedelta(minutes=10))
        assert conn.reap().pruned >= 1
        assert self.count(conn, table) == 0

    @staticmethod
    def count(conn: Connection, table: str) -> int:
        counts: dict[str, Any] = conn.rows(
            """
            SELECT (SELECT count(*) FROM job_runs) AS job_runs,
                (SELECT count(*) FROM job_worker_runs) AS job_worker_runs,
                (SELECT count(*) FROM job_trash) AS job_trash, (SELECT count(*) FROM job_audit) AS job_audit
            """,
        )[0]
        return int(counts[table])

    def test_jobs_that_have_not_ended_are_never_pruned(self, conn: Connection) -> None:
        pending = conn.add(run_at=conn.now() + 900 * DAY)
        conn.add("beta")
        running = conn.claim_one(["beta"])
        conn.advance(400 * DAY)
        conn.execute("UPDATE job_queue SET lease_expires_at = now() + interval '1 day' WHERE status = 'running'")
        conn.reap()
        assert conn.is_queued(pending.id)
        assert conn.is_queued(running.id)

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
        conn.advance(timedelta(minutes=2))
        assert [conn.reap().pruned for _ in range(2)] == [5000, 500]
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome)
            VALUES (1, gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now() - interval '40 days', 'succeeded')
            """
        )
        assert conn.reap().pruned == 0
        conn.advance(timedelta(minutes=2))
        assert conn.reap().pruned == 1

    def test_a_worker_not_heard_of_for_a_day_is_forgotten(self, conn: Connection) -> None:
        self.evidence(conn)
        conn.advance(DAY - timedelta(minutes=5))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_workers") == 1
        conn.advance(timedelta(minutes=10))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_workers") == 0


@pytest.mark.slow
def test_the_delay_after_a_lost_run_has_the_cap_given(conn: Connection) -> None:
    job = conn.add(max_attempts=99)
    for _ in range(3):
        conn.claim_one()
        conn.advance(timedelta(seconds=LEASE + 1))
        at = conn.now()
        leases.reap(conn, retry_base=1000.0, retry_cap=4.0)
        assert conn.job_row(job.id)["run_at"] - at <= timedelta(seconds=4) + (conn.now() - at)
        conn.advance(timedelta(seconds=5))
