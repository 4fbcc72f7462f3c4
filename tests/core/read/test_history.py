"""The evidence behind the verdict: the trigger's history, errors over time, workers, the shift, whom a job wrote to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from jobdeck.core.model import NewJob, RunOutcome, Status, Verdict
from jobdeck.core.queue import operator, service
from jobdeck.core.read import history, jobs, reports
from jobdeck.core.read.report_types import left_lying
from jobdeck.core.read.stats import error_groups
from tests.support.health import announce, called
from tests.support.queue import ACTOR, WORKER, Connection

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def fail(conn: Connection, error: str, *, task_type: str = "alpha", **fields: object) -> None:
    conn.run_once((task_type,), outcome="failed", error=error, error_kind="vendor", **fields)


class TestCron:
    def test_a_quiet_queue_has_a_report_with_nothing_in_it(self, conn: Connection) -> None:
        told = reports.cron().run(conn)
        assert (told.runs, told.workers, told.running, told.overdue, told.series) == ((), (), (), (), ())
        assert told.health.verdict is Verdict.CRITICAL
        assert told.processing.enabled

    def test_triggers_are_newest_first_with_their_http_status(self, conn: Connection) -> None:
        called(conn)
        conn.advance(5 * MINUTE)
        called(conn, http_status=500, status="error")
        assert [(run.http_status, run.status) for run in reports.cron().run(conn).runs] == [(500, "error"), (200, "ok")]

    def test_a_trigger_that_claimed_less_than_was_due_left_the_rest_lying(self, conn: Connection) -> None:
        for _ in range(3):
            conn.add()
        called(conn, claimed=1)
        called(conn, claimed=3)
        called(conn, status="paused")
        assert [left_lying(run) for run in reports.cron().run(conn).runs] == [0, 0, 2]

    def test_overdue_are_the_jobs_late_by_a_tick_that_wait_for_no_other(self, conn: Connection) -> None:
        late = conn.add_waiting(conn.now() - 6 * MINUTE)
        conn.add_waiting(conn.now() - 4 * MINUTE)
        conn.add(run_at=conn.now() - 6 * MINUTE)
        conn.add_waiting(conn.now() - HOUR, blocked_by=late.id)
        assert [job.id for job in reports.cron().run(conn).overdue] == [late.id]

    def test_running_jobs_are_told_with_their_leases_and_series_by_their_due_time(self, conn: Connection) -> None:
        later = conn.add("beta", recurrence_interval_minutes=60, run_at=conn.now() + HOUR)
        sooner = conn.add(recurrence_interval_minutes=60)
        conn.claim_one()
        told = reports.cron().run(conn)
        assert [job.id for job in told.running] == [sooner.id]
        assert told.running[0].lease_expires_at is not None
        assert [job.id for job in told.series] == [sooner.id, later.id]

    @pytest.mark.slow
    def test_looking_changes_nothing(self, conn: Connection) -> None:
        conn.add()
        with conn.changes_nothing():
            reports.cron().run(conn)
            reports.errors().run(conn)
            reports.worker_report().run(conn)
            reports.audit(HOUR).run(conn)


class TestErrors:
    def test_runs_that_failed_alike_are_one_group_with_counts_and_times(self, conn: Connection) -> None:
        for number in (1, 2):
            conn.add(max_attempts=1)
            fail(conn, f"MetaCTF answered 503 after {number} s")
        conn.add("beta", max_attempts=1)
        fail(conn, "no such mailbox", task_type="beta")
        beta, alpha = error_groups.groups().run(conn)
        assert (alpha.task_type, alpha.count, alpha.jobs, alpha.failed, alpha.waiting) == ("alpha", 2, 2, 2, 0)
        assert (beta.task_type, beta.count, beta.error_kind, beta.sample) == ("beta", 1, "vendor", "no such mailbox")
        assert alpha.first_seen < alpha.last_seen

    def test_the_course_is_told_by_the_hour_oldest_first(self, conn: Connection) -> None:
        for hours in (3, 1):
            conn.add(max_attempts=1)
            fail(conn, "boom")
            conn.advance(hours * HOUR + MINUTE)
        (trend,) = error_groups.groups().run(conn)
        assert len(trend.hours) == 24
        assert sum(trend.hours) == 2
        assert (trend.hours[-2], trend.hours[-5]) == (1, 1)

    def test_what_is_older_than_a_day_is_counted_and_has_no_place_in_the_course(self, conn: Connection) -> None:
        conn.add(max_attempts=1)
        fail(conn, "boom")
        conn.advance(30 * HOUR)
        (trend,) = error_groups.groups().run(conn)
        assert (trend.count, sum(trend.hours)) == (1, 0)

    def test_a_job_stands_in_the_group_of_its_newest_failure_only(self, conn: Connection) -> None:
        conn.add(max_attempts=2)
        fail(conn, "first way", retry_after=0)
        fail(conn, "second way", retry_after=0)
        second, first = error_groups.groups().run(conn)
        assert (first.sample, first.failed, first.waiting) == ("first way", 0, 0)
        assert (second.sample, second.failed, second.waiting) == ("second way", 1, 0)

    def test_a_job_that_will_be_tried_again_waits_and_one_that_was_retried_by_hand_is_in_no_group(
        self, conn: Connection
    ) -> None:
        job = conn.add(max_attempts=9)
        fail(conn, "boom")
        assert error_groups.groups().run(conn)[0].waiting == 1
        operator.retry(conn, [job.id], actor=ACTOR)
        (trend,) = error_groups.groups().run(conn)
        assert (trend.failed, trend.waiting) == (0, 0)

    @pytest.mark.slow
    def test_lost_runs_are_a_group_as_well(self, conn: Connection) -> None:
        conn.add(max_attempts=1)
        conn.claim_one()
        conn.lose()
        (trend,) = error_groups.groups().run(conn)
        assert trend.failed == 1

    def test_the_jobs_alike_are_those_that_failed_and_then_those_that_wait(self, conn: Connection) -> None:
        waits = conn.add(max_attempts=9)
        fail(conn, "boom")
        failed = []
        for _ in range(2):
            failed.append(conn.add(max_attempts=1).id)
            fail(conn, "boom")
        done = conn.add(max_attempts=1)
        fail(conn, "boom")
        operator.retry(conn, [done.id], actor=ACTOR)
        conn.run_once()
        other = conn.add(max_attempts=1)
        fail(conn, "another way")
        trend = next(trend for trend in error_groups.groups().run(conn) if trend.sample == "boom")
        found = error_groups.alike(*trend.key).run(conn)
        assert [job.id for job in found] == [*reversed(failed), waits.id]
        assert other.id not in {job.id for job in found}
        assert len(error_groups.alike(*trend.key, limit=2).run(conn)) == 2


class TestWorkerReport:
    def test_types_that_wait_and_that_no_live_worker_handles_are_named(self, conn: Connection) -> None:
        announce(conn)
        announce(conn, "worker-2", types=("beta", "gamma"))
        for task_type in ("alpha", "alpha", "beta", "delta", "epsilon"):
            conn.add(task_type)
        told = reports.worker_report().run(conn)
        assert [worker.id for worker in told.workers] == [WORKER, "worker-2"]
        assert told.unhandled == ("delta", "epsilon")
        conn.advance(3 * MINUTE)
        assert reports.worker_report().run(conn).unhandled == ("alpha", "beta", "delta", "epsilon")

    def test_the_release_of_each_worker_is_told_once_it_declared_one(self, conn: Connection) -> None:
        announce(conn)
        announce(conn, "worker-2")
        conn.execute("UPDATE job_workers SET release = 'shop@2.0' WHERE id = 'worker-2'")
        assert reports.worker_report().run(conn).releases == {"worker-2": "shop@2.0"}

    def test_what_runs_is_told_with_who_runs_it(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        assert [job.locked_by for job in reports.worker_report().run(conn).running] == [WORKER]


class TestDigest:
    def test_what_finished_failed_and_was_done_in_the_shift(self, conn: Connection) -> None:
        conn.add()
        conn.run_once()
        failing = conn.add(max_attempts=1)
        fail(conn, "boom")
        operator.retry(conn, [failing.id], actor=ACTOR)
        operator.cancel(conn, [failing.id], actor="bo@local")
        operator.pause(conn, reason="vendor is down", actor=ACTOR)
        called(conn)
        called(conn, status="error", http_status=500)
        told = reports.digest(8 * HOUR).run(conn)
        assert (told.succeeded, told.troubled, told.failed) == (1, 0, 1)
        assert {(one.action, one.count) for one in told.actions} == {("retry", 1), ("cancel", 1), ("pause", 1)}
        assert [one.actor.split()[0] for one in told.actions if one.action == "cancel"] == ["bo@local"]
        assert [entry.reason for entry in told.pauses] == ["vendor is down"]
        assert [(one.source, one.count, one.troubled) for one in told.triggers] == [("cron_http", 2, 1)]
        assert [(trend.sample, told.is_new(trend)) for trend in told.errors] == [("boom", True)]
        assert not told.processing.enabled
        assert told.counts.of(Status.CANCELLED) == 1
        assert told.at - told.since == 8 * HOUR

    def test_what_came_before_the_shift_is_not_in_it_and_an_error_of_old_is_not_new(self, conn: Connection) -> None:
        conn.add(max_attempts=1)
        fail(conn, "boom")
        operator.pause(conn, reason=None, actor=ACTOR)
        operator.resume(conn, actor=ACTOR)
        conn.add("beta", max_attempts=1)
        fail(conn, "of old", task_type="beta")
        conn.advance(9 * HOUR)
        conn.add("beta", max_attempts=1)
        fail(conn, "of old", task_type="beta")
        told = reports.digest(8 * HOUR).run(conn)
        assert (told.succeeded, told.failed, told.actions, told.pauses) == (0, 1, (), ())
        assert [(trend.sample, told.is_new(trend)) for trend in told.errors] == [("of old", False)]

    def test_counts_begin_with_the_schema_and_the_digest_says_so(self, conn: Connection) -> None:
        conn.advance(timedelta(days=1))
        told = reports.digest(timedelta(days=3)).run(conn)
        assert told.at - told.since == timedelta(days=3)
        assert told.counted_since == conn.value("SELECT stats_since FROM job_queue_settings")
        conn.advance(timedelta(days=3))
        told = reports.digest(timedelta(days=3)).run(conn)
        assert timedelta(0) <= told.since - told.counted_since < timedelta(minutes=5)

    @pytest.mark.parametrize("hours", [3, 30, 24 * 29])
    def test_counts_are_whole_however_long_the_shift_was(self, conn: Connection, hours: int) -> None:
        for ago in (24 * 28, 20, 2):
            for _ in range(2):
                conn.add()
                conn.run_once()
            conn.execute("SELECT job_stats_compact(1000)" if ago > 2 else "SELECT 1")
            conn.advance(ago * HOUR)
        told = reports.digest(hours * HOUR).run(conn)
        assert told.succeeded == {3: 2, 30: 4, 24 * 29: 6}[hours]

    def test_the_audit_comes_with_the_digest_of_the_same_time(self, conn: Connection) -> None:
        job = conn.add()
        operator.cancel(conn, [job.id], actor=ACTOR)
        told = reports.audit(HOUR).run(conn)
        assert [line.entry.action for line in told.lines] == ["cancel"]
        assert [one.action for one in told.digest.actions] == ["cancel"]


def lines(conn: Connection) -> list[tuple[str, int, bool]]:
    return [(line.entry.action, line.jobs, line.mixed) for line in history.actions(since=HOUR).run(conn)]


class TestActions:
    def test_the_actions_on_ten_jobs_in_a_row_are_one_line_with_the_newest(self, conn: Connection) -> None:
        jobs = [conn.add(name).id for name in ("alpha", "beta") * 6]
        operator.cancel(conn, jobs[:1], actor=ACTOR)
        operator.pause(conn, reason=None, actor=ACTOR)
        operator.cancel(conn, jobs[1:], actor=ACTOR)
        operator.resume(conn, actor=ACTOR)
        assert lines(conn) == [("resume", 1, False), ("cancel", 11, True), ("pause", 1, False), ("cancel", 1, False)]
        newest = conn.value("SELECT max(id) FROM job_audit WHERE action = 'cancel'")
        assert history.actions(since=HOUR).run(conn)[1].entry.id == newest

    def test_nine_jobs_in_a_row_have_a_line_each(self, conn: Connection) -> None:
        operator.cancel(conn, [conn.add().id for _ in range(9)], actor=ACTOR)
        assert lines(conn) == [("cancel", 1, False)] * 9

    def test_few_jobs_of_several_types_have_a_line_each_with_its_own_type(self, conn: Connection) -> None:
        operator.cancel(conn, [conn.add(name).id for name in ("alpha", "beta")], actor=ACTOR)
        assert lines(conn) == [("cancel", 1, False)] * 2

    @pytest.mark.parametrize(("actor", "reason"), [("somebody else", None), (ACTOR, "another reason")])
    def test_another_actor_and_another_reason_begin_a_line(
        self, conn: Connection, actor: str, reason: str | None
    ) -> None:
        operator.cancel(conn, [conn.add().id for _ in range(10)], actor=ACTOR)
        operator.cancel(conn, [conn.add().id for _ in range(10)], actor=actor, reason=reason)
        assert lines(conn) == [("cancel", 10, False)] * 2

    def test_two_pauses_in_a_row_stay_apart(self, conn: Connection) -> None:
        for _ in range(10):
            operator.pause(conn, reason=None, actor=ACTOR)
        assert lines(conn) == [("pause", 1, False)] * 10

    def test_a_line_whose_actions_were_not_all_read_says_so(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "NEWEST", 12)
        operator.cancel(conn, [conn.add().id for _ in range(11)], actor=ACTOR)
        assert [line.at_least for line in history.actions(since=HOUR).run(conn)] == [False]
        operator.pause(conn, reason=None, actor=ACTOR)
        operator.resume(conn, actor=ACTOR)
        assert [(line.jobs, line.at_least) for line in history.actions(since=HOUR).run(conn)] == [
            (1, False), (1, False), (10, True),
        ]  # fmt: skip


class TestTrash:
    def test_a_deleted_job_is_told_as_it_was_with_its_history_and_who_deleted_it(self, conn: Connection) -> None:
        job = conn.add(max_attempts=1, payload={"coachId": None})
        fail(conn, "boom")
        operator.delete(conn, [job.id], actor=ACTOR, reason="obsolete")
        told = jobs.detail(job.id).run(conn)
        assert told is not None
        assert told.in_trash
        assert (told.job.status, told.job.last_error, told.job.payload) == (Status.FAILED, "boom", {"coachId": None})
        assert [run.error for run in told.runs] == ["boom"]
        assert [(entry.action, entry.reason) for entry in told.audit] == [("delete", "obsolete")]
        assert told.why == ()

    def test_a_restored_job_is_in_the_queue_again(self, conn: Connection) -> None:
        job = conn.add()
        operator.delete(conn, [job.id], actor=ACTOR)
        operator.restore(conn, [job.id], actor=ACTOR)
        told = jobs.detail(job.id).run(conn)
        assert told is not None
        assert not told.in_trash


HISTORY = """
INSERT INTO job_runs (run_token, late, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome)
SELECT token, late, gen_random_uuid(), CASE WHEN n % 4 = 1 THEN 'beta' ELSE 'alpha' END, '{}', 1, now(), now(), now(),
    CASE WHEN late THEN 'abandoned' ELSE 'lost' END
FROM unnest(array[1, 2, 2, 3, 9999999, 10000001, 10000001, 20000000, 29999000, 30000000]::bigint[],
    array[false, false, true, false, false, false, true, false, false, false]) WITH ORDINALITY AS t (token, late, n)
"""
"""Runs in all partitions, some with a late report."""


def make_history(conn: Connection, last: int) -> list[tuple[int, bool]]:
    """Partitions with runs, the sequence of tokens at the last one. Returns the runs, newest first."""
    conn.execute("SELECT setval('job_run_token_seq', 16000000)")
    conn.advance(HOUR)
    assert conn.reap().troubles == {}
    conn.execute(HISTORY)
    conn.execute("SELECT setval('job_run_token_seq', %s)", [last])
    assert conn.value("SELECT count(DISTINCT tableoid) FROM job_runs") == 3
    return conn.execute("SELECT run_token, late FROM job_runs ORDER BY run_token DESC, late DESC").fetchall()


def all_pages(conn: Connection, limit: int, **wanted: Any) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    after = None
    while True:
        page, after = history.runs(limit=limit, after=after, **wanted).run(conn)
        found += [(run.run_token, run.outcome is RunOutcome.ABANDONED) for run in page]
        if after is None:
            return found


class TestRuns:
    # A sequence that was set back, and one far ahead.
    @pytest.mark.parametrize("last", [5, 30_000_000, 5_000_000_000_000])
    def test_pages_have_each_run_of_all_partitions_once(self, conn: Connection, last: int) -> None:
        wanted = make_history(conn, last)
        assert all_pages(conn, 1) == wanted
        assert all_pages(conn, 3) == wanted
        assert all_pages(conn, 50) == wanted

    def test_pages_of_one_job_have_each_of_its_runs_once(self, conn: Connection) -> None:
        wanted = make_history(conn, 30_000_000)
        job = conn.add().id
        conn.execute("UPDATE job_runs SET job_id = %s", [job])
        assert all_pages(conn, 1, job_id=job) == wanted
        assert all_pages(conn, 3, job_id=job) == wanted
        assert all_pages(conn, 50, job_id=uuid4()) == []

    def test_a_page_opens_the_newest_partitions_alone(self, conn: Connection) -> None:
        make_history(conn, 30_000_000)
        with conn.transaction():
            history.runs(limit=1).run(conn)
            opened = (
                "SELECT relation::regclass::text FROM pg_locks WHERE relation::regclass::text ~ '^job_runs_[0-9]+$'"
            )
            assert {name for (name,) in conn.execute(opened)} == {"job_runs_10000000", "job_runs_30000000"}

    @pytest.mark.parametrize("most", [1, 3, 4, 10, 11])
    def test_runs_of_a_type_are_found_page_by_page(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch, most: int
    ) -> None:
        monkeypatch.setattr(history, "LOOKED_AT", most)
        make_history(conn, 30_000_000)
        of_type = "SELECT run_token, late FROM job_runs WHERE task_type = 'beta' ORDER BY run_token DESC, late DESC"
        wanted = conn.execute(of_type).fetchall()
        assert len(wanted) == 3
        assert all_pages(conn, 1, task_type="beta") == wanted
        assert all_pages(conn, 50, task_type="beta") == wanted
        assert all_pages(conn, 50, task_type="beta", outcome=RunOutcome.SUCCEEDED) == []

    def test_a_type_is_looked_for_in_a_limited_number_of_runs(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "LOOKED_AT", 4)
        make_history(conn, 30_000_000)
        found, following = history.runs(task_type="gamma").run(conn)
        assert (found, following) == ([], str(2 * 10_000_001))


def test_looking_at_personal_data_is_on_record(conn: Connection) -> None:
    job = conn.add()
    operator.reveal(conn, job.id, actor=ACTOR)
    (row,) = conn.audit_rows("reveal")
    assert row["job_id"] == job.id
    assert row["actor"].startswith(ACTOR)


def test_a_cleanup_touches_only_the_stuck_jobs_that_were_named(conn: Connection) -> None:
    shown, other = conn.add(max_attempts=1), conn.add(max_attempts=1)
    conn.claim()
    conn.advance(HOUR)
    listed = operator.cleanup(conn, actor=ACTOR, older_than=20 * MINUTE, dry_run=True)
    assert {result.job_id for result in listed} == {shown.id, other.id}
    done = operator.cleanup(conn, actor=ACTOR, older_than=20 * MINUTE, dry_run=False, ids=[shown.id])
    assert [result.job_id for result in done] == [shown.id]
    assert (conn.job_row(shown.id)["status"], conn.job_row(other.id)["status"]) == ("failed", "running")


@pytest.mark.competition
class TestRecipients:
    @pytest.mark.slow
    def test_a_job_that_wrote_to_nobody_has_none(self, conn: Connection) -> None:
        assert reports.recipients(conn, conn.add().id) is None

    def test_whom_a_job_left_out_is_told_with_the_reason(self, conn: Connection) -> None:
        job = service.enqueue(conn, NewJob("alpha"), actor=ACTOR).job
        conn.execute(
            "INSERT INTO outbox_left_out (job_id, kind, channel, recipient_ref, reason)"
            " VALUES (%s, 'unread_alert', 'email', %s, 'no_channel')",
            (job.id, uuid4()),
        )
        told = reports.recipients(conn, job.id)
        assert told is not None
        assert told.counts == (("left out: no_channel", 1),)
        assert [(person.state, person.detail) for person in told.listed] == [("left out", "no_channel")]
