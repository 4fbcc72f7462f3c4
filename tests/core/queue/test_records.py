"""Who did what is on record under the role that signed in, and nobody writes in another's name."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, TypedDict
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.queue import presence, producer
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from tests.support.people import People
from tests.support.queue import ACTOR, Connection, report

DAY = timedelta(days=1)


class Counts(TypedDict):
    claimed: int
    succeeded: int
    failed: int
    released: int


NO_JOBS: Final = Counts(claimed=0, succeeded=0, failed=0, released=0)
SOMEBODY_ELSE = "root (jobdeck)"


def role_of(conn: Connection) -> str:
    return str(conn.value("SELECT session_user::text"))


def old_jobs(conn: Connection, number: int, status: str = "succeeded") -> list[object]:
    """Jobs that ended two days ago."""
    made = conn.execute(
        """
        INSERT INTO job_queue (task_type, status, completed_at, payload)
        SELECT 'alpha', %s, now() - interval '2 days', '{"n": 1}' FROM generate_series(1, %s) RETURNING id
        """,
        [status, number],
    ).fetchall()
    return sorted(job_id for (job_id,) in made)


class TestPurge:
    def test_what_was_purged_by_whom_is_in_the_audit_and_the_jobs_are_in_the_trash(
        self, conn: Connection, operator: Connection
    ) -> None:
        old = [*old_jobs(conn, 1), *old_jobs(conn, 1, "cancelled")]
        assert queue_operator.purge(operator, actor=SOMEBODY_ELSE, older_than=DAY, dry_run=False, reason="full") == 2
        (entry,) = conn.audit_rows()
        assert (entry["action"], entry["actor"], entry["reason"], entry["job_id"]) == (
            "purge", f"{SOMEBODY_ELSE} ({role_of(operator)})", "full", None,
        )  # fmt: skip
        assert entry["after"]["jobs"] == 2
        assert entry["after"]["ids"] == sorted(map(str, old))
        assert conn.value("SELECT count(*) FROM job_queue") == 0
        trash = conn.rows("SELECT job_id, deleted_by, reason FROM job_trash")
        assert {row["job_id"] for row in trash} == set(old)
        assert {row["deleted_by"] for row in trash} == {entry["actor"]}
        assert all(
            answer.ok for answer in queue_operator.restore(operator, [row["job_id"] for row in trash], actor=ACTOR)
        )
        assert conn.value("SELECT payload ->> 'n' FROM job_queue LIMIT 1") == "1"

    def test_a_thousand_jobs_at_a_time_are_moved_for_good_each_with_its_row_in_the_audit(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_operator, "PURGED_TOGETHER", 3)
        old_jobs(conn, 7)
        assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False) == 7
        assert [entry["after"]["jobs"] for entry in conn.audit_rows()] == [3, 3, 1]
        assert conn.value("SELECT count(DISTINCT xmin::text) FROM job_audit") == 3

    def test_a_dry_run_and_a_purge_of_nothing_write_nothing(self, conn: Connection) -> None:
        with conn.changes_nothing():
            assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False) == 0
        old_jobs(conn, 1)
        with conn.changes_nothing():
            assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=True) == 1

    def test_the_call_of_before_is_on_record_as_well(self, conn: Connection, operator: Connection) -> None:
        old_jobs(conn, 2)
        assert operator.value("SELECT job_queue_cleanup('1 day')") == 2
        assert [entry["actor"] for entry in conn.audit_rows()] == [f"({role_of(operator)})"]
        assert conn.value("SELECT count(*) FROM job_trash") == 2

    def test_a_job_that_another_waits_for_stays_until_upkeep_has_told_it(self, conn: Connection) -> None:
        (blocker,) = old_jobs(conn, 1)
        conn.execute("INSERT INTO job_queue (task_type, blocked_by) VALUES ('beta', %s)", [blocker])
        assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False) == 0
        conn.execute("UPDATE job_queue SET blocked_by = NULL WHERE task_type = 'beta'")
        assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False) == 1


class TestEnqueue:
    def test_a_job_names_the_role_that_signed_in_whatever_name_it_was_enqueued_under(
        self, conn: Connection, worker: Connection
    ) -> None:
        role = role_of(worker)
        producer.enqueue(worker, NewJob("alpha"), actor=SOMEBODY_ELSE)
        producer.enqueue_many(worker, [NewJob("beta")], actor=SOMEBODY_ELSE)
        worker.execute("SELECT job_queue_enqueue('gamma')")
        worker.execute("SELECT job_queue_create_many('{delta}', null, null, null, null, null, null, null)")
        found = dict(conn.execute("SELECT task_type, created_by FROM job_queue").fetchall())
        named, unnamed = f"{SOMEBODY_ELSE} ({role})", f"({role})"
        assert found == {"alpha": named, "beta": named, "gamma": unnamed, "delta": unnamed}

    def test_it_is_still_known_when_the_job_has_left_the_queue(self, conn: Connection, worker: Connection) -> None:
        first = worker.add()
        conn.finish_one(conn.claim_one())
        many = worker.add(), worker.add()
        runs = conn.claim()
        conn.finish(report(runs[0]), report(runs[1], "failed", permanent=True))
        expected = f"{ACTOR} ({role_of(worker)})"
        assert {run.id for run in runs} == {job.id for job in many}
        for job in (first, *many):
            seen = read_jobs.job(job.id).run(conn)
            assert seen is not None
            assert seen.created_by == expected


class TestWorkerRuns:
    def failed_call(self, worker: Connection) -> UUID:
        run_id = presence.open_worker_run(worker, source="cron_http", worker_id="cycle-1", http_method="GET")
        presence.close_worker_run(worker, run_id, status="error", **NO_JOBS, error="down", http_status=500)
        return run_id

    def test_a_closed_record_does_not_change_again(self, conn: Connection, worker: Connection) -> None:
        run_id = self.failed_call(worker)
        with conn.changes_nothing():
            presence.close_worker_run(worker, run_id, status="ok", **NO_JOBS)
            presence.note_worker_run(worker, run_id, **NO_JOBS, status="ok")
        assert history.worker_runs().run(conn)[0].status == "error"

    def test_an_operator_opens_and_closes_none(
        self, conn: Connection, worker: Connection, operator: Connection
    ) -> None:
        run_id = self.failed_call(worker)
        with conn.changes_nothing():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                presence.close_worker_run(operator, run_id, status="ok", **NO_JOBS)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                presence.open_worker_run(operator, source="cron_http", worker_id="mine")

    def test_another_worker_role_changes_no_open_record(
        self, conn: Connection, worker: Connection, people: People, database_url: str
    ) -> None:
        run_id = presence.open_worker_run(worker, source="cron_http", worker_id="cycle-1")
        assert conn.value("SELECT opened_by FROM job_worker_runs") == role_of(worker)
        with people.sign_in(database_url, None) as other:
            conn.execute(sql.SQL("GRANT job_worker TO {}").format(sql.Identifier(role_of(other))))
            with conn.changes_nothing():
                with pytest.raises(psycopg.DatabaseError, match="Another role opened this record"):
                    presence.close_worker_run(other, run_id, status="ok", **NO_JOBS)
                presence.note_worker_run(other, run_id, **NO_JOBS, status="ok")
        presence.close_worker_run(worker, run_id, status="ok", **NO_JOBS)
        assert history.worker_runs().run(conn)[0].status == "ok"

    def test_a_record_of_before_the_upgrade_is_closed_by_its_worker(self, conn: Connection, worker: Connection) -> None:
        run_id = presence.open_worker_run(worker, source="worker", worker_id="w")
        conn.execute("UPDATE job_worker_runs SET opened_by = NULL")
        presence.close_worker_run(worker, run_id, status="ok", **NO_JOBS)
        assert history.worker_runs().run(conn)[0].status == "ok"


def test_rights_that_an_earlier_schema_granted_are_taken_back(conn: Connection, people: People) -> None:
    del people
    conn.execute("GRANT EXECUTE ON FUNCTION job_worker_run_note, job_queue_write_audit TO job_operator, job_viewer")
    conn.execute("SELECT job_grant_roles()")
    for role in ("job_operator", "job_viewer"):
        for name in ("job_worker_run_note", "job_queue_write_audit"):
            assert not conn.value("SELECT has_function_privilege(%s, %s::regproc, 'execute')", role, name)
