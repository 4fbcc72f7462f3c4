"""Statistics of runs: what each way to end a run adds, and the part of upkeep that adds it up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.model import FAILURES, SUCCESSES, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.read.stats import figures
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.stats import TypeTally
from tests.support.queue import ACTOR, WORKER, Connection, report

HOUR = timedelta(hours=1)
EVERY_MINUTES = (0, 1, 5, 15, 120, 480)
EVER = "SELECT wait_seconds, duration_seconds, waits, durations FROM job_stat_list WHERE minutes = 0 AND NOT dry_run"


def counted(conn: Connection, minutes: int = 5) -> dict[tuple[str, str, bool], tuple[int, int]]:
    """Runs and permanent failures by type, outcome and dry run, whether upkeep has added them up or not."""
    return {
        (row["task_type"], row["outcome"], row["dry_run"]): (int(row["runs"]), int(row["permanent"]))
        for row in conn.rows(
            """
            SELECT task_type, outcome, dry_run, sum(runs) AS runs, sum(permanent) AS permanent
            FROM job_stat_list WHERE minutes = %s GROUP BY 1, 2, 3
            """,
            minutes,
        )
    }


def compact(conn: Connection) -> None:
    """Adds up all that is left."""
    while conn.value("SELECT job_stats_compact(1000)"):
        pass


def left(conn: Connection) -> int:
    """How many reports upkeep has not added up."""
    return int(conn.value("SELECT count(*) FROM job_stat_delta"))


def add_up(conn: Connection) -> leases.Reaped:
    """One pass of upkeep, at a time at which its part is due."""
    conn.advance(timedelta(seconds=11))
    return conn.reap()


def upkeep(url: str) -> tuple[int, str | None]:
    """The part of upkeep, on a connection of its own: the number of rows, and its trouble."""
    with Connection.connect(url, autocommit=True) as other:
        row = other.row("SELECT done, trouble FROM job_queue_upkeep('stats', 30, 3600)")
        return row["done"], row["trouble"]


class TestWhatIsCounted:
    def end_in_each_way(self, conn: Connection) -> None:
        for outcome in ("succeeded", "partial", "continued", "released", "cancelled", "failed"):
            conn.add()
            conn.run_once(outcome=outcome, checkpoint={}, delay=3600.0, error="boom")
            conn.execute("DELETE FROM job_queue")
        conn.add(max_attempts=1)
        conn.run_once(outcome="failed", error="boom")
        conn.execute("DELETE FROM job_queue")
        conn.add()
        slow = conn.claim_one()
        conn.lose()
        conn.finish(report(slow))
        conn.execute("DELETE FROM job_queue")
        conn.add(max_attempts=1)
        conn.claim_one()
        conn.lose()
        conn.execute("DELETE FROM job_queue")

    @pytest.mark.parametrize("compacted", [False, True])
    @pytest.mark.parametrize("minutes", EVERY_MINUTES)
    def test_each_way_to_end_a_run_is_counted_once(self, conn: Connection, minutes: int, compacted: bool) -> None:
        self.end_in_each_way(conn)
        if compacted:
            compact(conn)
        found = counted(conn, minutes)
        assert {outcome: runs for (_, outcome, _), runs in found.items()} == {
            "succeeded": (1, 0), "partial": (1, 0), "continued": (1, 0), "released": (1, 0), "cancelled": (1, 0),
            "retried": (1, 0), "failed": (1, 1), "lost": (2, 1), "abandoned": (1, 0),
        }  # fmt: skip

    def test_a_batch_of_successes_is_one_row_and_counted_whole(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(50)], actor=ACTOR)
        claimed = conn.claim(limit=50)
        at = claimed[0].claimed_at.timestamp()
        conn.finish(*[report(job, started=at, finished=at) for job in claimed])
        assert left(conn) == 1
        assert counted(conn) == {("alpha", "succeeded", False): (50, 0)}

    def test_a_mixed_batch_is_counted_once(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(6)], actor=ACTOR)
        outcomes = ("succeeded", "partial", "partial", "continued", "failed", "partial")
        jobs = conn.claim(limit=6)
        reports = [report(job, outcome, checkpoint={}) for job, outcome in zip(jobs, outcomes, strict=True)]
        conn.finish(*reports)
        conn.finish(*reports)
        assert {outcome: runs for (_, outcome, _), (runs, _) in counted(conn).items()} == {
            "succeeded": 1, "partial": 3, "continued": 1, "retried": 1,
        }  # fmt: skip

    def test_a_stuck_job_that_an_operator_marks_failed_is_counted(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        conn.advance(HOUR)
        operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=False)
        assert counted(conn) == {("alpha", "lost", False): (1, 1)}

    @pytest.mark.parametrize("compacted", [False, True])
    @pytest.mark.parametrize("outcome", ["succeeded", "failed"])
    def test_waits_and_durations_are_summed_up(self, conn: Connection, outcome: str, compacted: bool) -> None:
        """Also of runs that end by a retry, and of jobs that leave the queue; and of each batch."""
        expected = {"wait_seconds": 0.0, "duration_seconds": 0.0}
        for duration in (0.25, 40.0):
            conn.add()
            claimed = conn.claim_one()
            began = claimed.due_at.timestamp() + 7.5
            conn.finish(report(claimed, outcome, started=began, finished=began + duration))
            expected["wait_seconds"] += 7.5
            expected["duration_seconds"] += duration
            conn.execute("DELETE FROM job_queue")
            if compacted:
                compact(conn)
        (found,) = conn.rows(
            """
            SELECT sum(wait_seconds) AS wait_seconds, sum(duration_seconds) AS duration_seconds FROM job_stat_list
            WHERE minutes = 0 AND NOT dry_run
            """,
        )
        assert found == pytest.approx(expected, abs=1e-4)
        assert left(conn) == (0 if compacted else 2)

    def test_a_job_that_was_due_before_it_was_created_did_not_wait_before(self, conn: Connection) -> None:
        job = conn.add(run_at=conn.now() - 1000 * HOUR)
        claimed = conn.claim_one()
        assert claimed.due_at == job.run_at
        began = conn.now().timestamp() + 7.5
        tally, context = TypeTally(), RunContext.__new__(RunContext)
        context.job, context.result = claimed, report(claimed, started=began, finished=began + 1.0)
        conn.finish(context.result)
        tally.add(context, RunOutcome.SUCCEEDED)
        (stored,) = conn.rows(EVER)
        (counted_by_worker,) = tally.times()
        for waited in (stored["wait_seconds"], counted_by_worker.waits.seconds):
            assert 7.0 < waited < 600.0

    def test_a_dry_run_adds_nothing_to_the_sums_of_real_runs_that_are_added_up_with_it(self, conn: Connection) -> None:
        for dry_run in (False, True):
            conn.add()
            claimed = conn.claim_one()
            began = claimed.due_at.timestamp() + 7.5
            conn.finish(report(claimed, started=began, finished=began + 40.0, dry_run=dry_run))
        compact(conn)
        (found,) = conn.rows(EVER)
        assert (found["wait_seconds"], found["duration_seconds"]) == pytest.approx((7.5, 40.0), abs=1e-4)

    def test_a_run_before_its_job_was_due_makes_no_sum_smaller(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        began = claimed.due_at.timestamp() - 50.0
        conn.finish(report(claimed, started=began, finished=began - 1.0))
        assert conn.rows(EVER) == [{"wait_seconds": 0.0, "duration_seconds": 0.0, "waits": [1], "durations": [1]}]

    def test_more_runs_than_an_integer_holds_are_counted(self, conn: Connection) -> None:
        conn.add()
        conn.run_once()
        compact(conn)
        conn.execute("UPDATE job_stats SET durations[1] = 2147483647, waits[1] = 2147483647 WHERE minutes = 0")
        conn.add()
        conn.run_once()
        compact(conn)
        assert conn.value("SELECT sum(n) FROM job_stats, unnest(durations) AS n WHERE minutes = 0") > 2147483647

    def test_a_run_counts_in_the_minute_in_which_it_ended(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        ended = claimed.claimed_at.timestamp() - 7200.0
        conn.finish(report(claimed, started=ended - 1, finished=ended))
        compact(conn)
        assert conn.value(
            """
            SELECT count(*) FROM job_stats AS s JOIN job_runs AS r ON s.first_at = r.finished_at
            WHERE r.finished_at >= s.bucket
                AND (s.minutes = 0 OR r.finished_at < s.bucket + s.minutes * interval '1 minute')
            """,
        ) == len(EVERY_MINUTES)


class TestDryRuns:
    def test_a_run_whose_worker_says_so_is_a_dry_run(self, conn: Connection) -> None:
        for outcome in ("succeeded", "failed", "released"):
            conn.add()
            conn.run_once(outcome=outcome, dry_run=True)
            conn.execute("DELETE FROM job_queue")
        assert set(counted(conn)) == {("alpha", name, True) for name in ("succeeded", "retried", "released")}
        assert conn.value("SELECT bool_and(dry_run) FROM job_runs")

    @pytest.mark.parametrize("payload", [{"dryRun": True}, {"dry_run": True, "n": 1}])
    def test_a_run_of_an_older_worker_is_one_by_its_payload(self, conn: Connection, payload: Any) -> None:
        conn.add(payload=payload)
        conn.run_once()
        assert set(counted(conn)) == {("alpha", "succeeded", True)}

    def test_a_lost_run_and_its_late_report_are_dry_by_the_payload(self, conn: Connection) -> None:
        conn.add(payload={"dryRun": True})
        slow = conn.claim_one()
        conn.lose()
        conn.finish(report(slow))
        assert set(counted(conn)) == {("alpha", "lost", True), ("alpha", "abandoned", True)}

    @pytest.mark.parametrize("payload", [{}, {"dryRun": False}, {"dryRun": "true"}, {"nested": {"dryRun": True}}])
    def test_other_runs_are_not(self, conn: Connection, payload: Any) -> None:
        conn.add(payload=payload)
        conn.run_once(output={"dryRun": True})
        assert set(counted(conn)) == {("alpha", "succeeded", False)}
        assert conn.value("SELECT dry_run FROM job_runs") is False


class TestBins:
    def test_the_edges_are_those_that_readers_know(self, conn: Connection) -> None:
        assert conn.value("SELECT job_stat_edges()") == pytest.approx(figures.EDGES, rel=1e-12)

    @pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.0009, 0.001, 0.0014, 0.5, 1.0, 59.9, 86_400.0, 8e6, 1e9])
    def test_a_time_is_in_the_bin_between_its_edges(self, conn: Connection, seconds: float) -> None:
        found = conn.value("SELECT job_stat_bins(%s * interval '1 s', interval '1 ms')", seconds)
        assert divmod(found, 128) == (1 + sum(edge <= seconds for edge in figures.EDGES), 2)

    def test_wait_and_duration_are_in_the_bins_of_the_run(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        at = claimed.due_at.timestamp()
        conn.finish(report(claimed, started=at + 30.0, finished=at + 30.25))
        compact(conn)
        (row,) = conn.rows("SELECT waits, durations FROM job_stats WHERE minutes = 5")
        assert figures.percentile(row["waits"], 0.5) == pytest.approx(30.0, rel=0.2)
        assert figures.percentile(row["durations"], 0.5) == pytest.approx(0.25, rel=0.2)
        assert (sum(row["waits"]), sum(row["durations"])) == (1, 1)
        assert conn.value("SELECT waits IS NULL AND durations IS NULL FROM job_stats WHERE minutes = 1")


class TestUpkeep:
    def run(self, conn: Connection, number: int = 1) -> None:
        for _ in range(number):
            conn.add()
            conn.run_once()

    def test_reports_are_added_up_once_and_figures_stay(self, conn: Connection) -> None:
        self.run(conn, 3)
        before = counted(conn)
        add_up(conn)
        assert (left(conn), counted(conn)) == (0, before)
        self.run(conn, 2)
        add_up(conn)
        assert left(conn) == 0
        assert counted(conn) == {("alpha", "succeeded", False): (5, 0)}

    def test_a_batch_is_bounded_and_the_rest_does_not_wait(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins)
            SELECT job_stat_bucket(1, now()), 'alpha', 'succeeded', false, 1, now(), now(), ARRAY[3 * 128 + 4]
            FROM generate_series(1, 1500)
            """
        )
        add_up(conn)
        assert left(conn) == 500
        conn.reap()
        assert left(conn) == 0
        assert counted(conn) == {("alpha", "succeeded", False): (1500, 0)}
        assert conn.value("SELECT waits FROM job_stats WHERE minutes = 480") == [0, 0, 1500]

    def test_it_waits_ten_seconds_after_it_has_added_up_all(self, conn: Connection) -> None:
        add_up(conn)
        self.run(conn)
        conn.execute("UPDATE job_upkeep SET succeeded_at = clock_timestamp() WHERE part = 'stats'")
        conn.reap()
        assert left(conn) == 1
        add_up(conn)
        assert left(conn) == 0

    def test_a_clock_that_is_set_back_does_not_stop_it(self, conn: Connection) -> None:
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() + interval '1 day' WHERE part = 'stats'")
        self.run(conn)
        conn.reap()
        assert left(conn) == 0

    def test_a_run_that_ended_in_the_future_is_counted(self, conn: Connection) -> None:
        conn.add()
        claimed = conn.claim_one()
        ended = claimed.claimed_at.timestamp() + 40 * 86_400
        conn.finish(report(claimed, started=ended, finished=ended))
        add_up(conn)
        assert left(conn) == 0
        assert counted(conn) == {("alpha", "succeeded", False): (1, 0)}

    def test_it_neither_waits_for_a_reader_nor_for_another_worker(self, conn: Connection, database_url: str) -> None:
        self.run(conn)
        conn.advance(timedelta(seconds=11))
        with Connection.connect(database_url) as reader:
            reader.execute("SELECT count(*) FROM job_stat_list")
            with Connection.connect(database_url) as rival:
                assert rival.execute("SELECT done FROM job_queue_upkeep('stats', 30, 3600)").fetchone() == (1,)
                with Connection.connect(database_url, autocommit=True) as other:
                    other.execute("SET statement_timeout = '60s'")
                    assert other.execute("SELECT done FROM job_queue_upkeep('stats', 30, 3600)").fetchone() == (0,)
                    other.add("beta")
                    other.run_once(["beta"])
                rival.rollback()
            assert upkeep(database_url) == (2, None)
        assert counted(conn) == {("alpha", "succeeded", False): (1, 0), ("beta", "succeeded", False): (1, 0)}

    def test_a_reader_has_the_same_figures_while_they_are_added_up(self, conn: Connection, database_url: str) -> None:
        self.run(conn, 2)
        conn.advance(timedelta(seconds=11))
        with Connection.connect(database_url, autocommit=True) as reader, Connection.connect(database_url) as rival:
            rival.execute("SELECT job_queue_upkeep('stats', 30, 3600)")
            assert counted(reader) == {("alpha", "succeeded", False): (2, 0)}
            rival.commit()
            assert counted(reader) == {("alpha", "succeeded", False): (2, 0)}

    def test_what_a_crash_undoes_is_added_up_again(self, conn: Connection, database_url: str) -> None:
        self.run(conn, 2)
        conn.advance(timedelta(seconds=11))
        with Connection.connect(database_url) as victim:
            victim.execute("SELECT job_queue_upkeep('stats', 30, 3600)")
            conn.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
            with pytest.raises(psycopg.OperationalError):
                victim.execute("SELECT 1")
        assert upkeep(database_url) == (2, None)
        assert counted(conn) == {("alpha", "succeeded", False): (2, 0)}

    def test_its_failure_is_the_trouble_of_its_part(self, conn: Connection) -> None:
        self.run(conn)
        conn.execute("ALTER TABLE job_stats ADD CONSTRAINT refuse CHECK (task_type <> 'alpha')")
        assert "refuse" in add_up(conn).troubles["stats"]
        assert left(conn) == 1
        conn.execute("ALTER TABLE job_stats DROP CONSTRAINT refuse")
        assert conn.reap().troubles == {}
        assert counted(conn) == {("alpha", "succeeded", False): (1, 0)}


class TestGroups:
    def fail(self, conn: Connection, error: str, task_type: str = "alpha", **fields: Any) -> UUID:
        job = conn.add(task_type, **({"max_attempts": 1} | fields))
        conn.finish_one(conn.claim_one([task_type]), "failed", error=error, error_kind="Boom")
        return job.id

    def groups(self, conn: Connection) -> list[tuple[str, int]]:
        found = conn.rows("SELECT fingerprint, sum(runs) AS runs FROM job_stat_error_list GROUP BY 1 ORDER BY 1")
        return [(row["fingerprint"], int(row["runs"])) for row in found]

    def test_a_failed_job_is_in_the_group_of_its_newest_run_until_it_succeeds(self, conn: Connection) -> None:
        job = self.fail(conn, "one way", max_attempts=3)
        one = conn.value("SELECT fingerprint FROM job_runs")
        assert conn.job_row(job)["fingerprint"] == one
        operator.retry(conn, [job], actor=ACTOR)
        assert conn.job_row(job)["fingerprint"] is None
        conn.finish_one(conn.claim_one(), "failed", error="another", error_kind="Boom", permanent=True)
        assert conn.job_row(job)["fingerprint"] not in {one, None}
        operator.retry(conn, [job], actor=ACTOR)
        conn.finish_one(conn.claim_one(), "continued", checkpoint={})
        assert conn.job_row(job)["fingerprint"] is None

    def test_a_deleted_and_restored_job_is_in_its_group_again(self, conn: Connection) -> None:
        job = self.fail(conn, "boom")
        before = conn.job_row(job)["fingerprint"]
        operator.delete(conn, [job], actor=ACTOR)
        operator.restore(conn, [job], actor=ACTOR)
        assert conn.job_row(job)["fingerprint"] == before is not None

    def test_beyond_a_thousand_groups_of_a_type_and_5_minutes_the_rest_is_counted_together(
        self, conn: Connection
    ) -> None:
        # In one transaction, since `now()` stands still there.
        with conn.transaction():
            conn.execute(
                """
                INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs,
                    first_at, last_at, bins)
                SELECT job_stat_bucket(5, now()), CASE WHEN n > 1200 THEN 'beta' ELSE 'alpha' END, 'failed', false,
                    lpad(to_hex(n), 12, '0'), n, 2, now() + n * interval '1 ms', now() + n * interval '1 ms', '{129}'
                FROM generate_series(1, 1210) AS n
                """
            )
            compact(conn)
            found = dict(self.groups(conn))
            assert (len(found), found["other"]) == (1000 + 1 + 10, 400)
            assert sum(found.values()) == 2420
            conn.execute(
                """
                INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs,
                    first_at, last_at, bins)
                SELECT job_stat_bucket(5, now()), 'alpha', 'failed', false, f, 9999, 1, now(), now(), '{129}'
                FROM unnest(ARRAY['000000000001', 'ffffffffffff']) AS f
                """
            )
            compact(conn)
            found = dict(self.groups(conn))
            assert (found["000000000001"], found["other"], found.get("ffffffffffff")) == (3, 401, None)

    def test_a_group_keeps_its_pattern_without_quoted_texts_and_digits(self, conn: Connection) -> None:
        self.fail(conn, 'Coach "Zz Ann" not found after 17 s')
        compact(conn)
        assert conn.value("SELECT pattern FROM job_error_groups") == 'Coach "?" not found after # s'


def test_the_outcomes_of_programs_are_those_of_the_schema(conn: Connection) -> None:
    allowed = conn.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'job_runs_outcome_check' "
        "AND conrelid = 'job_runs'::regclass",
    )
    assert {outcome.value for outcome in RunOutcome} == set(allowed.split("'")[1::2])
    assert not set(SUCCESSES) & set(FAILURES)


def test_finishing_workers_do_not_wait_for_each_other(conn: Connection, database_url: str) -> None:
    producer.enqueue_many(conn, [NewJob("alpha") for _ in range(2)], actor=ACTOR)
    one, two = conn.claim(limit=2)
    with Connection.connect(database_url) as slow:
        leases.finish(slow, WORKER, [report(one)], retry_base=30, retry_cap=3600)
        conn.execute("SET statement_timeout = '60s'")
        conn.finish(report(two))
        assert counted(conn) == {("alpha", "succeeded", False): (1, 0)}
        slow.commit()
    assert counted(conn) == {("alpha", "succeeded", False): (2, 0)}
