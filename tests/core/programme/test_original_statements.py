"""What the original's pages and its runner do with jobs works before Jobdeck, beside it, and after the switch.

Where Jobdeck does not allow a statement, it says so in a sentence that docs/competition/cutover.md has.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg
import pytest

from tests.core.cli.support import ROOT
from tests.core.programme.original_stages import BEFORE, SWITCHED, count, run
from tests.support.original import OWNER
from tests.support.original_statements import ALAN, KIM, PAGE, SERVICE
from tests.support.queue import Connection, Row

pytestmark = pytest.mark.installation

WAITING: Final = {"pending": "later", "succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}
"""A job of the fixture in each state but running."""
RETRY: Final = (
    "UPDATE job_queue SET status = 'pending', run_at = now(), last_error = NULL, completed_at = NULL WHERE id = %s"
)
CANCEL: Final = "UPDATE job_queue SET status = 'cancelled', completed_at = now() WHERE id = %s"
DELETE: Final = "DELETE FROM job_queue WHERE id = %s"
CREATE: Final = """
INSERT INTO job_queue (task_type, payload, is_recurring, recurrence_interval_minutes, expires_at, run_at, status)
VALUES ('created', '{"dryRun": false, "coachId": null}', %s, %s, NULL, now(), 'pending') RETURNING *
"""


def job(conn: Connection, task_type: str) -> Row:
    (found,) = conn.rows("SELECT * FROM job_queue WHERE task_type = %s", task_type)
    return found


def running_job(conn: Connection, stage: str) -> Row:
    """A job that runs: with the runner of the original, or after the switch with a worker."""
    if stage == SWITCHED:
        (claimed,) = conn.claim(["due"])
        return conn.rows("SELECT * FROM job_queue WHERE id = %s", claimed.id)[0]
    taken = run(conn, SERVICE, "SELECT * FROM job_queue_claim(50)")
    return next(row for row in taken if row["task_type"] == "due")


def said(refusal: pytest.ExceptionInfo[psycopg.Error], state: str = "JD001") -> None:
    """Fails unless the refusal is a sentence that docs/competition/cutover.md has. The page has … for what differs."""
    message = refusal.value.diag.message_primary or ""
    assert refusal.value.sqlstate == state, message
    page = (ROOT / "docs" / "competition" / "cutover.md").read_text(encoding="utf-8")
    sentences = re.findall(r'refused: "([^"]+)"', page)
    assert any(re.match(".*".join(map(re.escape, one.split("…"))), message) for one in sentences), message


class TestEnqueue:
    @pytest.mark.parametrize("role", [SERVICE, OWNER])
    def test_by_the_function_with_its_defaults(self, staged: Connection, role: str) -> None:
        (made,) = run(staged, role, "SELECT * FROM job_queue_enqueue('made')")
        assert (made["status"], made["attempts"], made["max_attempts"], made["payload"]) == ("pending", 0, 5, {})
        assert made["is_recurring"] is False
        assert job(staged, "made")["id"] == made["id"]

    @pytest.mark.parametrize("role", [SERVICE, OWNER])
    def test_by_the_function_with_all_that_it_takes(self, staged: Connection, role: str) -> None:
        (made,) = run(
            staged,
            role,
            """
            SELECT * FROM job_queue_enqueue(p_task_type => 'made', p_payload => '{"n": 1}',
                p_run_at => '2030-01-01 00:00+00', p_max_attempts => -1)
            """,
        )
        assert (made["payload"], made["run_at"].year, made["max_attempts"]) == ({"n": 1}, 2030, 1)

    def test_by_the_function_under_an_admins_session(self, staged: Connection, stage: str) -> None:
        if stage == BEFORE:
            (made,) = run(staged, PAGE, "SELECT * FROM job_queue_enqueue('made')")
            assert made["status"] == "pending"
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            run(staged, PAGE, "SELECT * FROM job_queue_enqueue('made')")
        said(refused, "42501")

    @pytest.mark.parametrize("role", [SERVICE, PAGE, OWNER])
    def test_by_an_insert(self, staged: Connection, role: str) -> None:
        (made,) = run(staged, role, CREATE, False, None)
        assert (made["status"], made["attempts"], made["max_attempts"]) == ("pending", 0, 5)

    @pytest.mark.parametrize("role", [SERVICE, PAGE, OWNER])
    def test_a_series_by_an_insert(self, staged: Connection, role: str) -> None:
        (made,) = run(staged, role, CREATE, True, 60)
        assert (made["is_recurring"], made["recurrence_interval_minutes"]) == (True, 60)

    def test_what_an_insert_leaves_out_has_its_default(self, staged: Connection, stage: str) -> None:
        (made,) = run(staged, SERVICE, "INSERT INTO job_queue (task_type) VALUES ('made') RETURNING *")
        assert (made["payload"], made["is_recurring"], made.get("priority", 0)) == ({}, False, 0)
        assert ("priority" in made) == (stage != BEFORE)

    def test_not_by_somebody_who_is_no_admin(self, staged: Connection) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            run(staged, PAGE, CREATE, False, None, user=ALAN)

    @pytest.mark.parametrize("role", [SERVICE, PAGE, OWNER])
    def test_a_series_without_an_interval_is_refused_with_a_sentence(
        self, staged: Connection, role: str, stage: str
    ) -> None:
        if stage == BEFORE:
            assert len(run(staged, role, CREATE, True, None)) == 1
            return
        with pytest.raises(psycopg.Error) as refusal:
            run(staged, role, CREATE, True, None)
        said(refusal)

    @pytest.mark.parametrize(("recurring", "interval"), [(False, 15), (True, 0), (True, -5)])
    def test_an_interval_that_makes_no_sense_is_refused(
        self, staged: Connection, recurring: bool, interval: int, stage: str
    ) -> None:
        with pytest.raises(psycopg.Error) as refusal:
            run(staged, PAGE, CREATE, recurring, interval)
        if stage != BEFORE:
            said(refusal)


class TestJobs:
    """What the page of jobs does, under an admin's session and with the service's key."""

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    def test_pause_and_resume(self, staged: Connection, role: str, stage: str) -> None:
        statement = """
            UPDATE job_queue_settings SET processing_enabled = %s, paused_reason = %s WHERE id = 1
            RETURNING processing_enabled, paused_reason, updated_at
        """
        (paused,) = run(staged, role, statement, False, "Paused on the page")
        assert (paused["processing_enabled"], paused["paused_reason"]) == (False, "Paused on the page")
        assert paused["updated_at"] == staged.value("SELECT now()")
        if stage != BEFORE:  # where the runner reads the setting itself
            assert run(staged, SERVICE, "SELECT * FROM job_queue_claim(5)") == []
        (resumed,) = run(staged, role, statement, True, None)
        assert (resumed["processing_enabled"], resumed["paused_reason"]) == (True, None)

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    def test_the_lists(self, staged: Connection, role: str) -> None:
        listed = run(staged, role, "SELECT * FROM job_queue ORDER BY created_at DESC LIMIT 500")
        assert len(listed) == 15
        assert run(staged, role, "SELECT count(*) AS n FROM job_queue")[0]["n"] == 15
        for status, task_type in WAITING.items():
            found = run(staged, role, "SELECT * FROM job_queue WHERE status = %s ORDER BY run_at LIMIT 250", status)
            assert task_type in {row["task_type"] for row in found}
        assert run(staged, role, "SELECT * FROM job_queue WHERE status = 'running' ORDER BY updated_at LIMIT 50")
        assert len(run(staged, role, "SELECT * FROM job_worker_runs ORDER BY started_at DESC LIMIT 20")) == 2
        assert run(staged, role, "SELECT * FROM game_platform_sync_runs ORDER BY started_at DESC LIMIT 1")
        assert run(staged, role, "SELECT processing_enabled, paused_reason FROM job_queue_settings WHERE id = 1")

    def test_somebody_who_is_no_admin_sees_no_job(self, staged: Connection) -> None:
        assert run(staged, PAGE, "SELECT * FROM job_queue", user=ALAN) == []

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    @pytest.mark.parametrize("state", WAITING)
    def test_retry(self, staged: Connection, role: str, state: str) -> None:
        before = job(staged, WAITING[state])
        assert count(staged, role, RETRY, before["id"]) == 1
        after = job(staged, WAITING[state])
        assert (after["status"], after["run_at"]) == ("pending", staged.value("SELECT now()"))
        assert (after["last_error"], after["completed_at"]) == (None, None)

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    @pytest.mark.parametrize("state", WAITING)
    def test_cancel(self, staged: Connection, role: str, state: str) -> None:
        before = job(staged, WAITING[state])
        assert count(staged, role, CANCEL, before["id"]) == 1
        after = job(staged, WAITING[state])
        assert (after["status"], after["last_error"]) == ("cancelled", before["last_error"])
        assert after["completed_at"] == staged.value("SELECT now()")

    @pytest.mark.parametrize("statement", [RETRY, CANCEL], ids=["retry", "cancel"])
    def test_what_is_changed_by_hand_has_the_time_of_its_change(self, staged: Connection, statement: str) -> None:
        count(staged, PAGE, statement, job(staged, "later")["id"])
        assert job(staged, "later")["updated_at"] == staged.value("SELECT now()")

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    @pytest.mark.parametrize("state", WAITING)
    def test_delete(self, staged: Connection, role: str, state: str) -> None:
        assert count(staged, role, DELETE, job(staged, WAITING[state])["id"]) == 1
        assert staged.rows("SELECT * FROM job_queue WHERE task_type = %s", WAITING[state]) == []

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    @pytest.mark.parametrize("statement", [RETRY, CANCEL, DELETE], ids=["retry", "cancel", "delete"])
    def test_a_series_of_the_original_too(self, staged: Connection, role: str, statement: str) -> None:
        for task_type in ("series", "new_series", "failing_series", "ended_series", "cancelled_series"):
            assert count(staged, role, statement, job(staged, task_type)["id"]) == 1

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    def test_a_series_without_an_interval_is_not_retried(self, staged: Connection, role: str, stage: str) -> None:
        dead = job(staged, "dead_series")["id"]
        if stage == BEFORE:
            assert count(staged, role, RETRY, dead) == 1
            return
        with pytest.raises(psycopg.Error) as refusal:
            count(staged, role, RETRY, dead)
        said(refusal)

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    def test_a_running_job_is_not_retried(self, staged: Connection, role: str, stage: str) -> None:
        running = running_job(staged, stage)
        if stage == BEFORE:
            assert count(staged, role, RETRY, running["id"]) == 1
            return
        with pytest.raises(psycopg.Error) as refusal:
            count(staged, role, RETRY, running["id"])
        said(refusal)

    @pytest.mark.parametrize("role", [SERVICE, PAGE])
    def test_cancelling_a_running_job_asks_for_it(self, staged: Connection, role: str, stage: str) -> None:
        running = running_job(staged, stage)
        assert count(staged, role, CANCEL, running["id"]) == 1
        after = job(staged, "due")
        if stage == BEFORE:
            assert after["status"] == "cancelled"
        else:
            assert (after["status"], after["cancel_requested_at"] is not None) == ("running", True)

    @pytest.mark.parametrize(("role", "gone"), [(SERVICE, 1), (PAGE, 0)])
    def test_deleting_a_running_job_under_an_admins_session_does_nothing(
        self, staged: Connection, role: str, gone: int, stage: str
    ) -> None:
        running = running_job(staged, stage)
        assert count(staged, role, DELETE, running["id"]) == (1 if stage == BEFORE else gone)


class TestRunner:
    """The original's runner, which has the service's key. After the switch it gets no job."""

    def test_it_claims_and_marks_as_succeeded_and_deletes(self, staged: Connection, stage: str) -> None:
        taken = run(staged, SERVICE, "SELECT * FROM job_queue_claim()")
        if stage == SWITCHED:
            assert taken == []
            return
        (due,) = (row for row in taken if row["task_type"] == "due")
        assert (due["status"], due["attempts"]) == ("running", 1)
        (done,) = run(
            staged,
            SERVICE,
            "SELECT * FROM job_queue_mark_succeeded(p_job_id => %s, p_output => %s)",
            due["id"],
            '{"total": 3}',
        )
        assert (done["id"], done["status"], done["output"]) == (due["id"], "succeeded", {"total": 3})
        count(staged, SERVICE, DELETE, due["id"])
        assert staged.rows("SELECT * FROM job_queue WHERE id = %s", due["id"]) == []

    def test_it_marks_as_failed(self, staged: Connection, stage: str) -> None:
        if stage == SWITCHED:
            return
        due = running_job(staged, stage)
        (failed,) = run(
            staged,
            SERVICE,
            "SELECT * FROM job_queue_mark_failed(p_job_id => %s, p_error => 'no answer', p_retry_in_ms => NULL)",
            due["id"],
        )
        assert (failed["status"], failed["last_error"]) == ("failed", "no answer")

    def test_a_handler_writes_its_cursor_into_the_payload(self, staged: Connection, stage: str) -> None:
        due = running_job(staged, stage)
        assert (
            count(staged, SERVICE, "UPDATE job_queue SET payload = %s WHERE id = %s", '{"cursor": 1}', due["id"]) == 1
        )
        assert job(staged, "due")["payload"] == {"cursor": 1}

    def test_a_mark_of_an_unknown_job_gives_an_empty_row(self, staged: Connection) -> None:
        (empty,) = run(staged, SERVICE, "SELECT * FROM job_queue_mark_succeeded(p_job_id => %s, p_output => NULL)", KIM)
        assert set(empty.values()) == {None}

    def test_it_keeps_its_record_of_runs(self, staged: Connection) -> None:
        (opened,) = run(
            staged,
            SERVICE,
            """
            INSERT INTO job_worker_runs (source, started_at, http_method, user_agent)
            VALUES ('vercel_cron_secret', now(), 'GET', 'vercel-cron/1.0') RETURNING id
            """,
        )
        closed = """
            UPDATE job_worker_runs SET completed_at = now(), status = 'ok', processed = 1, succeeded = 1, failed = 0,
                message = NULL, results = '[]' WHERE id = %s
        """
        assert count(staged, SERVICE, closed, opened["id"]) == 1

    def test_the_clean_up_and_the_health_answer(self, staged: Connection) -> None:
        assert run(staged, SERVICE, "SELECT job_queue_health() AS health")[0]["health"]["jobs"] == 15
        staged.execute("DELETE FROM job_queue WHERE task_type = 'cancelled'")
        run(staged, SERVICE, "SELECT job_queue_cleanup(interval '8 days')")
