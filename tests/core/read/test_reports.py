"""Evidence: the history of runs, cycles and windows, workers, rates and error groups."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import NewJob, RunOutcome
from jobdeck.core.queue import operator, presence, producer
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.stats import error_groups
from tests.support.health import announce
from tests.support.queue import ACTOR, WORKER, Connection, report

WEEK = timedelta(days=7)


class TestRuns:
    def test_each_run_is_one_row_with_its_own_token_and_attempt(self, conn: Connection) -> None:
        job = conn.add(payload={"n": 1}, max_attempts=9)
        outcomes = ["failed", "released", "continued", "partial"]
        for outcome in outcomes:
            conn.run_once(outcome=outcome, checkpoint={}, retry_after=0)
        found, cursor = history.runs(job_id=job.id).run(conn)
        assert cursor is None
        assert [run.outcome.value for run in found] == ["partial", "continued", "released", "retried"]
        assert [run.attempt for run in found] == [1, 2, 2, 1]
        assert len({run.run_token for run in found}) == 4
        assert {(run.task_type, run.worker_id) for run in found} == {("alpha", WORKER)}
        assert all(run.payload == {"n": 1} for run in found)
        assert all(run.duration == timedelta(seconds=2) for run in found)

    def test_a_run_keeps_the_payload_it_ran_with(self, conn: Connection) -> None:
        job = conn.add(payload={"n": 1})
        conn.run_once(outcome="failed", permanent=True)
        operator.edit(conn, job.id, changes={"payload": {"n": 2}}, actor=ACTOR)
        assert conn.run_rows(job.id)[0]["payload"] == {"n": 1}

    def test_rows_of_the_past_are_never_changed(self, conn: Connection) -> None:
        job = conn.add(max_attempts=9)
        conn.run_once(outcome="failed", retry_after=0, error="one")
        first = conn.run_rows(job.id)
        conn.claim_one()
        conn.lose()
        operator.retry(conn, [job.id], actor=ACTOR)
        conn.run_once(outcome="failed", permanent=True)
        operator.delete(conn, [job.id], actor=ACTOR)
        after = conn.run_rows(job.id)
        assert len(after) == 3
        moved = {"due_at", "started_at", "finished_at"}
        assert {k: v for k, v in after[0].items() if k not in moved} == {
            k: v for k, v in first[0].items() if k not in moved
        }

    def test_the_history_outlives_its_job(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once(outcome="failed", permanent=True)
        operator.delete(conn, [job.id], actor=ACTOR)
        assert len(history.runs(job_id=job.id).run(conn)[0]) == 1

    def test_runs_are_found_by_type_and_outcome_newest_first(self, conn: Connection) -> None:
        for kind, outcome in [("alpha", "succeeded"), ("beta", "partial"), ("alpha", "failed"), ("beta", "succeeded")]:
            conn.add(kind)
            conn.run_once([kind], outcome, permanent=True)
        everything = [(run.task_type, run.outcome.value) for run in history.runs().run(conn)[0]]
        assert everything == [("beta", "succeeded"), ("alpha", "failed"), ("beta", "partial"), ("alpha", "succeeded")]
        assert [run.outcome.value for run in history.runs(task_type="alpha").run(conn)[0]] == ["failed", "succeeded"]
        assert [run.task_type for run in history.runs(outcome=RunOutcome.PARTIAL).run(conn)[0]] == ["beta"]

    def test_pages_of_runs_leave_none_out(self, conn: Connection) -> None:
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(23)], actor=ACTOR)
        conn.finish(*[report(job) for job in conn.claim(limit=23)])
        tokens: list[int] = []
        cursor = None
        while True:
            found, cursor = history.runs(limit=5, after=cursor).run(conn)
            tokens += [run.run_token for run in found]
            if cursor is None:
                break
        assert tokens == sorted(tokens, reverse=True)
        assert len(set(tokens)) == 23

    @pytest.mark.slow
    def test_a_page_may_end_between_a_lost_run_and_its_late_return(self, conn: Connection) -> None:
        for _ in range(2):
            job = conn.add()
            late = conn.claim_one()
            conn.lose()
            conn.finish_one(late)
            operator.cancel(conn, [job.id], actor=ACTOR)
        seen: list[tuple[int, str]] = []
        cursor = None
        while True:
            found, cursor = history.runs(limit=1, after=cursor).run(conn)
            seen += [(run.run_token, run.outcome.value) for run in found]
            if cursor is None:
                break
        assert [outcome for _, outcome in seen] == ["abandoned", "lost", "abandoned", "lost"]
        assert len(set(seen)) == 4

    def test_text_is_kept_as_it_was_given(self, conn: Connection) -> None:
        job = conn.add()
        text = "line one\nline two\t\u202eü%s {} '; DROP TABLE job_queue"
        conn.run_once(outcome="failed", error=text, traceback=text, log=text, error_kind="Boom")
        (run,) = history.runs(job_id=job.id).run(conn)[0]
        assert (run.error, run.traceback, run.log, run.error_kind) == (text, text, text, "Boom")


class TestWorkerRuns:
    @pytest.mark.parametrize("source", ["cron_http", "worker", "embedded", "manual", "cli"])
    def test_a_cycle_is_opened_and_closed_with_what_it_did(self, conn: Connection, source: str) -> None:
        for _ in range(3):
            conn.add()
        conn.add(run_at=conn.now() + timedelta(hours=1))
        run_id = presence.open_worker_run(conn, source=source, worker_id=WORKER, http_method="POST")
        (opened,) = history.worker_runs().run(conn)
        assert (opened.id, opened.source, opened.http_method, opened.worker_id) == (run_id, source, "POST", WORKER)
        assert (opened.completed_at, opened.status, opened.due_before) == (None, None, 3)
        presence.close_worker_run(
            conn, run_id, status="ok", claimed=5, succeeded=2, failed=1, released=2, message="did some",
            error="one broke", results=[{"id": "x", "status": "failed"}], http_status=200,
        )  # fmt: skip
        (closed,) = history.worker_runs().run(conn)
        assert (closed.status, closed.claimed, closed.processed, closed.succeeded, closed.failed, closed.released) == (
            "ok", 5, 3, 2, 1, 2,
        )  # fmt: skip
        assert (closed.message, closed.error_message, closed.http_status) == ("did some", "one broke", 200)
        assert closed.completed_at is not None
        assert closed.completed_at >= closed.started_at
        (stored,) = conn.rows("SELECT results, duration_ms FROM job_worker_runs")
        assert stored["results"] == [{"id": "x", "status": "failed"}]
        assert stored["duration_ms"] == pytest.approx(
            (closed.completed_at - closed.started_at).total_seconds() * 1000, abs=0.01
        )

    def test_they_are_listed_newest_first_and_no_more_than_asked(self, conn: Connection) -> None:
        ids = [presence.open_worker_run(conn, source="worker", worker_id=WORKER) for _ in range(5)]
        assert [run.id for run in history.worker_runs(limit=3).run(conn)] == ids[:1:-1]

    def test_how_many_are_due_counts_every_type(self, conn: Connection) -> None:
        jobs = [NewJob(kind) for kind in ("alpha", "beta", "unheard_of") for _ in range(400)]
        for part in (jobs[:500], jobs[500:]):
            producer.enqueue_many(conn, part, actor=ACTOR)
            presence.open_worker_run(conn, source="worker", worker_id=WORKER)
        assert [run.due_before for run in history.worker_runs(limit=2).run(conn)] == [1200, 500]


class TestWorkers:
    def test_a_worker_is_listed_while_it_reports_and_until_it_is_removed(self, conn: Connection) -> None:
        announce(conn, types=["beta", "alpha"], running=2, concurrency=4)
        (worker,) = read_jobs.workers().run(conn)
        assert (worker.id, worker.host, worker.pid, worker.mode, worker.version, worker.concurrency) == (
            WORKER, "host-1", 42, "headless", "0.1.0", 4,
        )  # fmt: skip
        assert (worker.task_types, worker.running, worker.alive) == (("beta", "alpha"), 2, True)
        conn.advance(timedelta(seconds=50))
        assert read_jobs.workers().run(conn)[0].alive
        conn.advance(timedelta(seconds=11))
        assert not read_jobs.workers().run(conn)[0].alive
        announce(conn, running=1)
        (worker,) = read_jobs.workers().run(conn)
        assert (worker.alive, worker.running) == (True, 1)
        assert worker.heartbeat_at - worker.started_at >= timedelta(seconds=60)
        presence.remove_worker(conn, WORKER)
        assert read_jobs.workers().run(conn) == ()


class TestErrorGroups:
    def fail(self, conn: Connection, error: str, kind: str = "Boom", task_type: str = "alpha") -> UUID:
        job = conn.add(task_type)
        conn.run_once([task_type], "failed", permanent=True, error=error, error_kind=kind)
        return job.id

    def test_errors_that_differ_in_ids_numbers_times_and_quotes_are_one_group(self, conn: Connection) -> None:
        ids = [
            self.fail(conn, f'Coach "{name}" ({key}) not found after {seconds}s at 2026-11-2{seconds}T10:00:00Z')
            for name, key, seconds in [
                ("Ada", "0b0e7a3e-0000-4000-8000-000000000001", 3),
                ("Grace", "ffffffff-1111-4222-8333-444444444444", 7),
            ]
        ]
        (group,) = error_groups.groups(since=WEEK).run(conn)
        assert (group.task_type, group.error_kind, group.count) == ("alpha", "Boom", 2)
        assert "Grace" in group.sample
        assert set(group.job_ids) == set(ids)
        assert group.first_seen < group.last_seen

    def test_other_words_another_kind_or_another_type_are_other_groups(self, conn: Connection) -> None:
        self.fail(conn, "Not found")
        self.fail(conn, "Too slow")
        self.fail(conn, "Not found", kind="Crash")
        self.fail(conn, "Not found", task_type="beta")
        groups = error_groups.groups(since=WEEK).run(conn)
        assert [(group.task_type, group.error_kind, group.sample, group.count) for group in groups] == [
            ("beta", "Boom", "Not found", 1),
            ("alpha", "Crash", "Not found", 1),
            ("alpha", "Boom", "Too slow", 1),
            ("alpha", "Boom", "Not found", 1),
        ]

    @pytest.mark.slow
    def test_retried_and_lost_runs_are_errors_and_successes_are_not(self, conn: Connection) -> None:
        conn.add()
        conn.run_once()
        conn.add()
        conn.run_once(outcome="released")
        conn.run_once(outcome="failed", error="Not yet", retry_after=0)
        conn.claim_one()
        conn.lose()
        assert {group.error_kind for group in error_groups.groups(since=WEEK).run(conn)} == {
            None,
            "lease_expired",
        }

    def test_only_the_time_asked_for_counts(self, conn: Connection) -> None:
        self.fail(conn, "Old")
        conn.advance(timedelta(days=2))
        self.fail(conn, "New")
        assert [group.sample for group in error_groups.groups(since=timedelta(days=1)).run(conn)] == ["New"]
        assert len(error_groups.groups(since=WEEK, limit=1).run(conn)) == 1

    def test_a_group_of_a_failure_without_words_has_some(self, conn: Connection) -> None:
        conn.add()
        conn.run_once(outcome="failed", permanent=True)
        (group,) = error_groups.groups(since=WEEK).run(conn)
        assert (group.count, group.sample) == (1, "no reason given")


def test_the_audit_is_read_newest_first_by_job_and_time(conn: Connection) -> None:
    one, other = conn.add(), conn.add()
    operator.cancel(conn, [one.id], actor=ACTOR, reason="first")
    conn.advance(timedelta(days=2))
    operator.delete(conn, [one.id, other.id], actor=ACTOR)
    assert [(entry.action, entry.job_id) for entry in history.audit().run(conn)] == [
        ("delete", other.id), ("delete", one.id), ("cancel", one.id),
    ]  # fmt: skip
    assert [entry.action for entry in history.audit(job_id=one.id).run(conn)] == ["delete", "cancel"]
    assert len(history.audit(since=timedelta(days=1)).run(conn)) == 2
    assert len(history.audit(limit=1).run(conn)) == 1
    entry = history.audit(job_id=one.id).run(conn)[1]
    assert (entry.reason, entry.actor.split(" ")[0]) == ("first", ACTOR)
    assert entry.before is not None
    assert entry.before["status"] == "pending"
