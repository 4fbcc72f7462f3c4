"""Reads of statistics: trends, failure shares, the last minutes, and groups of errors at any size."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Filter, RunOutcome, Status
from jobdeck.core.queue import bulk, presence
from jobdeck.core.read import job_lists, jobs, reports
from jobdeck.core.read.filters import SORTS, parse_filter
from jobdeck.core.read.report_types import OTHER
from jobdeck.core.read.stats import error_groups, figures
from jobdeck.core.read.stats.figures import failure_shares
from jobdeck.core.read.stats.trends import step_for, trends
from jobdeck.core.read.verdict.health import health
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def ended(
    conn: Connection, runs: int, *, ago: timedelta = timedelta(0), outcome: str = "succeeded", task_type: str = "alpha",
    dry_run: bool = False, wait: float = 1.0, duration: float = 0.5,
) -> None:  # fmt: skip
    """Reports of runs, as finishes leave them."""
    conn.execute(
        """
        INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, runs, permanent, first_at, last_at, bins)
        SELECT job_stat_bucket(1, at), %(task_type)s, %(outcome)s, %(dry_run)s, %(runs)s,
            CASE WHEN %(outcome)s = 'failed' THEN %(runs)s ELSE 0 END, at, at,
            array_fill(job_stat_bins(%(wait)s * interval '1 s', %(duration)s * interval '1 s'), ARRAY[%(runs)s])
        FROM (SELECT now() - %(ago)s AS at) AS t
        """,
        {"task_type": task_type, "outcome": outcome, "dry_run": dry_run, "runs": runs, "ago": ago, "wait": wait,
         "duration": duration},
    )  # fmt: skip


def failed_alike(conn: Connection, jobs: int, *, error: str = "boom", task_type: str = "alpha") -> list[UUID]:
    """Jobs that failed permanently with one error, each in a run of its own."""
    found = []
    for _ in range(jobs):
        found.append(conn.add(task_type, max_attempts=1).id)
        conn.run_once([task_type], "failed", error=error)
    return found


def compact(conn: Connection) -> None:
    conn.execute("SELECT job_stats_compact(100000)")


class TestTrends:
    @pytest.mark.parametrize("compacted", [False, True])
    @pytest.mark.parametrize("window", [HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY])
    def test_counts_and_percentiles_of_a_window(self, conn: Connection, window: timedelta, compacted: bool) -> None:
        # In one transaction, since `now()` stands still there.
        with conn.transaction():
            ended(conn, 90, wait=2.0, duration=0.1)
            ended(conn, 10, ago=window / 2, outcome="failed", wait=60.0, duration=10.0)
            ended(conn, 7, dry_run=True, wait=9999.0)
            ended(conn, 5, ago=window / 2, outcome="released", wait=9999.0)
            ended(conn, 3, task_type="beta", outcome="lost")
            ended(conn, 1000, ago=window + 9 * HOUR)
            if compacted:
                compact(conn)
            told = trends(window).run(conn)
            alpha = told.total("alpha")
            assert alpha.outcomes == {RunOutcome.SUCCEEDED: 90, RunOutcome.FAILED: 10, RunOutcome.RELEASED: 5}
            assert (alpha.succeeded, alpha.failed, alpha.permanent, alpha.dry_runs) == (90, 10, 10, 7)
            assert alpha.wait(0.5) == pytest.approx(2.0, rel=0.2)
            assert alpha.wait(0.95) == pytest.approx(60.0, rel=0.2)
            assert alpha.duration(0.5) == pytest.approx(0.1, rel=0.2)
            assert alpha.duration(0.95) == pytest.approx(10.0, rel=0.2)
            assert (told.total("beta").failed, told.total("beta").wait(0.5)) == (3, None)
            assert told.total().failed == 13
            course = told.course("alpha")
            assert len(course) == len(told.buckets) <= 100
            assert (course[-1].succeeded, sum(one.failed for one in course)) == (90, 10)
            assert [one.succeeded + one.failed for one in told.course()] == [
                alpha.succeeded + alpha.failed + beta.failed
                for alpha, beta in zip(course, told.course("beta"), strict=True)
            ]

    def test_one_type_alone(self, conn: Connection) -> None:
        ended(conn, 2)
        ended(conn, 3, task_type="beta")
        assert set(trends(HOUR, task_type="beta").run(conn).types) == {"beta"}
        assert trends(HOUR, task_type="gamma").run(conn).total().succeeded == 0

    @pytest.mark.parametrize("window", [timedelta(0), -HOUR, 4 * MINUTE, 31 * DAY])
    def test_a_window_that_has_no_statistics_is_refused(self, window: timedelta) -> None:
        with pytest.raises(UsageError, match="between 5 minutes and 30 days"):
            trends(window)

    def test_it_says_since_when_runs_are_counted(self, conn: Connection) -> None:
        told = trends(7 * DAY).run(conn)
        assert told.since < told.counted_since == conn.value("SELECT stats_since FROM job_queue_settings")
        assert told.step == step_for(7 * DAY)


@given(st.lists(st.floats(0.001, 8e6), min_size=1, max_size=200), st.sampled_from((0.01, 0.5, 0.9, 0.95, 1.0)))
def test_a_percentile_is_within_a_fifth_of_the_true_one(times: list[float], share: float) -> None:
    counts = [0] * 68
    for seconds in times:
        counts[sum(edge <= seconds for edge in figures.EDGES)] += 1
    rank = max(-(-len(times) * share // 1), 1)
    assert figures.percentile(counts, share) == pytest.approx(sorted(times)[int(rank) - 1], rel=0.2)


@pytest.mark.parametrize(
    ("counts", "expected"), [([], None), ([0, 0], None), ([5], 0.001), ([0] * 67 + [1], 0.001 * 2**33)]
)
def test_percentiles_at_the_ends(counts: Sequence[int], expected: float | None) -> None:
    assert figures.percentile(counts, 0.95) == expected


class TestFailureShares:
    @pytest.mark.parametrize("compacted", [False, True])
    def test_the_share_of_15_minutes_and_the_usual_one(self, conn: Connection, compacted: bool) -> None:
        ended(conn, 30)
        for outcome in ("failed", "retried", "lost"):
            ended(conn, 4, ago=10 * MINUTE, outcome=outcome)
        ended(conn, 50, outcome="failed", dry_run=True)
        for outcome in ("released", "cancelled", "abandoned"):
            ended(conn, 60, outcome=outcome)
        ended(conn, 500, ago=30 * MINUTE, outcome="failed")
        ended(conn, 95, ago=70 * MINUTE)
        ended(conn, 5, ago=6 * DAY, outcome="retried")
        ended(conn, 500, ago=8 * DAY, outcome="failed")
        if compacted:
            compact(conn)
        (told,) = failure_shares().run(conn)
        assert (told.task_type, told.runs, told.failed) == ("alpha", 42, 12)
        assert (told.usual_runs, told.usual_failed) == (100, 5)
        assert told.share == pytest.approx(12 / 42)
        assert told.usual == pytest.approx(6 / 102)

    def test_without_a_history_the_usual_share_is_a_half(self, conn: Connection) -> None:
        ended(conn, 3, outcome="failed")
        (told,) = failure_shares().run(conn)
        assert (told.share, told.usual) == (1.0, 0.5)

    def test_failures_in_a_row_since_the_newest_success(self, conn: Connection) -> None:
        ended(conn, 9, ago=9 * HOUR, outcome="failed")
        ended(conn, 1, ago=5 * HOUR)
        ended(conn, 2, ago=4 * HOUR, outcome="retried")
        ended(conn, 1, ago=3 * HOUR, outcome="lost")
        ended(conn, 8, ago=2 * HOUR, outcome="released")
        ended(conn, 2, task_type="beta", outcome="failed")
        compact(conn)
        ended(conn, 1, ago=MINUTE, task_type="gamma", outcome="failed")
        ended(conn, 1, task_type="gamma")
        assert {one.task_type: one.failed_in_a_row for one in failure_shares().run(conn)} == {
            "alpha": 3, "beta": 2, "gamma": 0,
        }  # fmt: skip


def test_the_rate_is_what_ended_in_the_last_full_minute(conn: Connection) -> None:
    # In one transaction, since `now()` stands still there.
    with conn.transaction():
        ended(conn, 50)
        ended(conn, 8, ago=MINUTE)
        ended(conn, 3, ago=MINUTE, outcome="retried")
        ended(conn, 2, ago=MINUTE, outcome="failed", dry_run=True)
        assert health().run(conn).last_minute == (8, 3)


def test_while_paused_the_rate_is_that_of_the_last_full_minute_and_not_of_the_ones_before(conn: Connection) -> None:
    ended(conn, 5_083, ago=2 * MINUTE)
    ended(conn, 900, ago=3 * MINUTE, outcome="retried")
    compact(conn)
    assert health().run(conn).last_minute == (0, 0)


class TestErrorGroups:
    def test_runs_are_counted_at_any_size_also_when_the_history_no_longer_has_them(self, conn: Connection) -> None:
        failed_alike(conn, 2)
        compact(conn)
        conn.execute("UPDATE job_stat_errors SET runs = 41842")
        conn.execute("DELETE FROM job_runs")
        (group,) = error_groups.groups().run(conn)
        assert (group.count, group.failed, group.jobs, group.sample) == (41_842, 2, 2, "boom")

    def test_the_order_is_stable_whatever_group_fails_again(self, conn: Connection) -> None:
        for error in ("first", "second", "third"):
            failed_alike(conn, 1, error=error)
        before = [group.key for group in error_groups.groups().run(conn)]
        failed_alike(conn, 3, error="first")
        compact(conn)
        failed_alike(conn, 2, error="second")
        assert [group.key for group in error_groups.groups().run(conn)] == before
        assert [group.count for group in error_groups.groups().run(conn)] == [1, 3, 4]

    def test_of_many_groups_those_seen_last_are_listed_and_all_are_counted(self, conn: Connection) -> None:
        for error in ("first", "second", "third", "first"):
            failed_alike(conn, 1, error=error)
        assert {group.sample for group in error_groups.groups(limit=2).run(conn)} == {"first", "third"}
        assert reports.errors().run(conn).total == 3

    def test_bars_are_the_last_hour_in_steps_of_5_minutes(self, conn: Connection) -> None:
        # In one transaction, since `now()` stands still there.
        with conn.transaction():
            failed_alike(conn, 2)
            conn.execute("UPDATE job_stat_delta SET minute = job_stat_bucket(1, now() - interval '20 minutes')")
            compact(conn)
            failed_alike(conn, 1)
            conn.execute("UPDATE job_stat_delta SET minute = job_stat_bucket(1, now())")
            (group,) = error_groups.groups().run(conn)
        assert len(group.bars) == 12
        assert (sum(group.bars), group.bars.index(2), group.bars[-1]) == (3, 7, 1)

    @pytest.mark.parametrize("compacted", [False, True])
    def test_a_group_is_new_in_the_release_before_which_it_never_failed(
        self, conn: Connection, compacted: bool
    ) -> None:
        presence.declare_values(conn, (), release="shop@1", worker_id="")
        failed_alike(conn, 1, error="old")
        conn.execute("UPDATE job_stat_delta SET first_at = first_at - interval '1 minute'")
        presence.declare_values(conn, (), release="shop@2", worker_id="")
        presence.declare_values(conn, (), release="shop@1", worker_id="")
        failed_alike(conn, 1, error="young")
        failed_alike(conn, 1, error="old")
        if compacted:
            compact(conn)
        report = reports.errors().run(conn)
        assert report.release is not None
        assert report.release.name == "shop@2"
        assert {group.sample: group.new_in_release for group in report.trends} == {"old": False, "young": True}
        assert [group.sample for group in error_groups.groups(new_in_release=True, limit=1).run(conn)] == ["young"]
        presence.declare_values(conn, (), release="shop@3", worker_id="")
        conn.execute("UPDATE job_releases SET first_seen = now() + interval '1 minute' WHERE name = 'shop@3'")
        assert not any(group.new_in_release for group in reports.errors().run(conn).trends)
        assert error_groups.groups(new_in_release=True).run(conn) == ()

    def test_the_first_release_has_no_new_groups(self, conn: Connection) -> None:
        presence.declare_values(conn, (), release="shop@1", worker_id="")
        presence.declare_values(conn, (), release="", worker_id="")
        failed_alike(conn, 1)
        report = reports.errors().run(conn)
        assert report.release is None
        assert [group.new_in_release for group in report.trends] == [False]

    def test_a_group_says_when_its_count_may_not_be_whole(self, conn: Connection) -> None:
        failed_alike(conn, 1)
        failed_alike(conn, 1, task_type="beta")
        compact(conn)
        conn.execute(
            "INSERT INTO job_stat_errors SELECT task_type, 'other', bucket, 7 FROM job_stat_errors "
            "WHERE task_type = 'beta'"
        )
        conn.execute("INSERT INTO job_error_groups SELECT 'beta', 'other', NULL, NULL, NULL, now(), now()")
        found = error_groups.groups().run(conn)
        assert {(group.task_type, group.capped) for group in found} == {("alpha", False), ("beta", True)}
        other = next(group for group in found if group.fingerprint == OTHER)
        assert (other.count, other.sample, other.jobs) == (7, error_groups.OTHER_SAMPLE, 0)

    def test_the_jobs_of_a_group_are_found_by_its_fingerprint(self, conn: Connection) -> None:
        ids = failed_alike(conn, 3)
        failed_alike(conn, 1, error="another")
        waits = conn.add(max_attempts=9)
        conn.finish_one(conn.claim_one(), "failed", error="boom")
        group = next(one for one in error_groups.groups().run(conn) if one.sample == "boom")
        found = error_groups.alike(*group.key).run(conn)
        assert [job.id for job in found] == [*reversed(ids), waits.id]
        assert [job.id for job in error_groups.alike(*group.key, limit=2, skip=1).run(conn)] == [ids[1], ids[0]]
        wanted = parse_filter(f"status:all fingerprint:{group.fingerprint}")
        assert {job.id for job in jobs.page(wanted).run(conn).jobs} == {*ids, waits.id}

    @pytest.mark.slow
    def test_all_jobs_of_a_group_are_listed_page_by_page_and_counted_exactly(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status, completed_at, last_error, fingerprint)
            SELECT CASE WHEN n > 12000 THEN 'alphabet' ELSE 'alpha' END, 'failed', now(), 'boom', '00112233aabb'
            FROM generate_series(1, 13000) AS n
            """
        )
        conn.execute("UPDATE job_queue SET status = 'pending' WHERE id = (SELECT max(id::text)::uuid FROM job_queue)")
        conn.execute("UPDATE job_queue SET fingerprint = 'ffffffffffff' WHERE id IN (SELECT id FROM job_queue "
                     "WHERE task_type = 'alpha' ORDER BY id LIMIT 5)")  # fmt: skip
        seen, after, pages = [], None, 0
        while pages == 0 or after is not None:
            page = jobs.group_page("alpha", "00112233aabb", limit=5_000, after=after).run(conn)
            assert page.total == 11_995
            seen += [job.id for job in page.jobs]
            after, pages = page.next, pages + 1
        wanted = conn.execute(
            "SELECT id FROM job_queue WHERE task_type = 'alpha' AND fingerprint = '00112233aabb' ORDER BY id DESC"
        ).fetchall()
        assert seen == [row[0] for row in wanted]
        assert pages == 3

    @pytest.mark.parametrize("sort", SORTS)
    def test_a_group_is_listed_in_every_order_with_its_running_jobs(self, conn: Connection, sort: str) -> None:
        ids = failed_alike(conn, 2)
        waits = conn.add(max_attempts=9)
        conn.finish_one(conn.claim_one(), "failed", error="boom")
        key = error_groups.groups().run(conn)[0].key
        conn.execute("UPDATE job_queue SET run_at = now() WHERE id = %s", (waits.id,))
        conn.claim_one()
        shot = jobs.snapshot(Filter(status=Status.SUCCEEDED), sort=sort, descending=False, group=key).run(conn)
        assert {job.id for job in shot.page.jobs} == {*ids, waits.id}
        assert shot.page.total == 3

    @pytest.mark.slow
    def test_a_page_of_a_group_reads_little_of_a_large_queue(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status, completed_at, last_error, fingerprint)
            SELECT 'alpha', 'failed', now(), 'boom', CASE WHEN n % 2 = 0 THEN '00112233aabb' ELSE 'bbbbbbbbbbbb' END
            FROM generate_series(1, 20000) AS n
            """
        )
        conn.execute("INSERT INTO job_queue (task_type) SELECT 'alpha' FROM generate_series(1, 20000)")
        conn.execute("VACUUM ANALYZE job_queue")
        query = jobs.group_page("alpha", "00112233aabb")
        cost = cost_of(conn, query.run)
        assert cost.whole_tables == []
        assert cost.entries["job_queue_pkey"] < 1_000, cost

    @pytest.mark.slow
    def test_the_rest_of_a_group_is_chosen_in_the_database_each_job_once(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status, completed_at, last_error, fingerprint)
            SELECT CASE WHEN n > 20500 THEN 'alphabet' ELSE 'alpha' END, 'failed', now(), 'boom', '00112233aabb'
            FROM generate_series(1, 21000) AS n
            """
        )
        choice = bulk.choose_alike(conn, "alpha", "00112233aabb", actor=ACTOR)
        assert choice is not None
        assert choice.bulk.total == 20_500
        assert conn.value("SELECT count(DISTINCT job_id) FROM job_bulk_items") == 20_500
        assert bulk.choose_alike(conn, "beta", "00112233aabb", actor=ACTOR) is None
        every = bulk.choose(conn, Filter(fingerprint="00112233aabb"), actor=ACTOR)
        assert every is not None
        assert every.bulk.total == 21_000

    @pytest.mark.parametrize("text", ["fingerprint:12", "fingerprint:zz", "fingerprint:", "fingerprint:00112233aabbc"])
    def test_what_is_no_fingerprint_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="fingerprint"):
            parse_filter(text)


def test_dry_runs_are_in_the_digest_beside_the_others(conn: Connection) -> None:
    ended(conn, 4)
    ended(conn, 3, dry_run=True)
    ended(conn, 2, dry_run=True, outcome="failed")
    told = reports.digest(HOUR).run(conn)
    assert (told.succeeded, told.failed, told.troubled, told.dry_runs) == (4, 0, 0, 5)


def test_every_list_takes_a_fingerprint(conn: Connection) -> None:
    for status in job_lists.STATEMENTS:
        listed: Any = jobs.page(Filter(status=status, fingerprint="00112233aabb")).run(conn)
        assert listed.jobs == ()
