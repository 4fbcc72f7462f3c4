"""Operators' actions: every cell of their table, versions, bulk answers, dry runs, audit and trash."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import ActionResult, NewJob, Status
from jobdeck.core.queue import leases, operator, producer
from tests.support.queue import ACTOR, Connection, Parallel, Row
from tests.support.waiting import PATIENCE

ACTIONS: dict[str, Callable[..., list[ActionResult]]] = {
    "retry": operator.retry,
    "cancel": operator.cancel,
    "delete": operator.delete,
}
STATES = ("pending", "running", "succeeded", "failed", "cancelled")
KINDS = pytest.mark.parametrize("recurring", [False, True], ids=["one-time", "recurring"])
ALLOWED = {
    "retry": {"pending", "succeeded", "failed", "cancelled"},
    "cancel": {"pending", "running", "failed"},
    "delete": {"pending", "succeeded", "failed", "cancelled"},
    "edit": {"pending", "failed", "cancelled"},
}


def in_state(conn: Connection, status: str, *, recurring: bool = False, task_type: str = "alpha") -> UUID:
    """A job in this status that has used one attempt of this cycle, but for pending ones."""
    later = conn.now() + timedelta(hours=1)
    fields: dict[str, Any] = {"recurrence_interval_minutes": 60} if recurring else {}
    if status == "pending":
        return conn.add(task_type, run_at=later, **fields).id
    if status == "succeeded":
        at = conn.now()
        job = conn.add(task_type, run_at=at, recurrence_interval_minutes=60, expires_at=at + timedelta(minutes=1))
        conn.run_once([task_type])
        if not recurring:
            conn.execute(
                "UPDATE job_queue SET is_recurring = false, recurrence_interval_minutes = null WHERE id = %s", (job.id,)
            )
        return job.id
    job = conn.add(task_type, **fields)
    claimed = conn.claim_one([task_type])
    if status == "failed":
        conn.finish_one(claimed, "failed", permanent=True, error="It broke.")
        if recurring:
            conn.execute(
                "UPDATE job_queue SET status = 'failed', attempts = 1, completed_at = now() WHERE id = %s", (job.id,)
            )
    elif status == "cancelled":
        conn.finish_one(claimed, "cancelled")
    return job.id


def act(conn: Connection, action: str, job_id: UUID, **fields: Any) -> ActionResult:
    """One action on one job."""
    if action == "edit":
        version = (fields.pop("versions", None) or {}).get(job_id)
        return operator.edit(conn, job_id, changes={"priority": 9}, actor=ACTOR, version=version, **fields)
    (result,) = ACTIONS[action](conn, [job_id], actor=ACTOR, **fields)
    return result


class TestRaces:
    """Two people act on a job at the same time; the second one reads who was faster."""

    @pytest.mark.parametrize("action", ["retry", "cancel", "delete", "edit"])
    @pytest.mark.parametrize(("faster", "done"), [("retry", "was retried"), ("edit", "was edited")])
    def test_a_refusal_after_a_race_says_who_was_faster_and_when(
        self, conn: Connection, database_url: str, action: str, faster: str, done: str
    ) -> None:
        job_id = in_state(conn, "failed")
        seen = conn.job_row(job_id)["version"]
        with Connection.connect(database_url) as other, ThreadPoolExecutor() as pool:
            if faster == "edit":
                operator.edit(other, job_id, changes={"priority": 3}, actor="mara")
            else:
                operator.retry(other, [job_id], actor="mara")
            late = pool.submit(act, conn, action, job_id, versions={job_id: seen})
            other.until_blocked(conn.info.backend_pid, unless=late.done)
            other.commit()
            refused = late.result(PATIENCE)
        (deed,) = conn.audit_rows(faster)
        at = f"{deed['at'].astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
        status = "failed" if faster == "edit" else "pending"
        assert not refused.ok
        assert refused.message == f"It {done} by {deed['actor']} at {at} and is now {status}. Refresh, then decide."
        assert "mara" in refused.message

    def test_a_change_by_a_worker_names_nobody(self, conn: Connection) -> None:
        job_id = in_state(conn, "failed")
        operator.edit(conn, job_id, changes={"priority": 3}, actor="mara")
        seen = conn.job_row(job_id)["version"]
        conn.execute("UPDATE job_queue SET version = version + 1 WHERE id = %s", (job_id,))
        refused = act(conn, "retry", job_id, versions={job_id: seen})
        assert refused.message == "It has changed and is now failed. Refresh, then decide."

    @pytest.mark.parametrize(
        ("status", "faster", "action", "words"),
        [
            ("pending", "cancel", "cancel", "It was already cancelled by"),
            ("running", "cancel", "cancel", "It has already been asked to cancel by"),
            ("failed", "delete", "retry", "It has been deleted by"),
            ("failed", "delete", "edit", "It has been deleted by"),
        ],
    )
    def test_what_somebody_has_done_already_is_refused_with_who_did_it(
        self, conn: Connection, status: str, faster: str, action: str, words: str
    ) -> None:
        job_id = in_state(conn, status)
        ACTIONS[faster](conn, [job_id], actor="mara")
        (deed,) = conn.audit_rows(faster)
        refused = act(conn, action, job_id)
        assert not refused.ok
        assert refused.message.startswith(f"{words} {deed['actor']} at {deed['at'].astimezone(UTC):%Y-%m-%d %H:%M}")

    def test_a_series_that_somebody_paused_meanwhile_says_who_did(self, conn: Connection) -> None:
        job = conn.add("alpha", recurrence_interval_minutes=5)
        seen = conn.job_row(job.id)["version"]
        operator.pause_series(conn, job.id, actor="mara")
        refused = operator.skip(conn, job.id, actor=ACTOR, version=seen)
        assert refused.message.startswith("It was changed by")
        assert "mara" in refused.message


class TestTable:
    @KINDS
    @pytest.mark.parametrize("status", STATES)
    @pytest.mark.parametrize("action", ["retry", "cancel", "delete", "edit"])
    def test_an_action_is_done_where_the_table_says_so_and_refused_elsewhere(
        self, conn: Connection, action: str, status: str, recurring: bool
    ) -> None:
        job_id = in_state(conn, status, recurring=recurring)
        before = conn.job_row(job_id)
        assert before["status"] == status
        if status in ALLOWED[action]:
            result = act(conn, action, job_id)
            assert result.ok
            assert result.job_id == job_id
            assert len(conn.audit_rows(action)) == 1
            if action == "delete":
                assert not conn.is_queued(job_id)
                assert (result.status, result.version) == (None, None)
            else:
                after = conn.job_row(job_id)
                assert (result.status, result.version) == (Status(after["status"]), after["version"])
                assert after["version"] == before["version"] + 1
        else:
            with conn.changes_nothing():
                result = act(conn, action, job_id)
            assert not result.ok
            assert (result.status, result.version) == (Status(status), before["version"])
        assert result.message.endswith(".")

    @KINDS
    @pytest.mark.parametrize("status", STATES)
    @pytest.mark.parametrize("action", ["retry", "cancel", "delete", "edit"])
    def test_a_version_that_is_not_the_jobs_any_more_is_refused(
        self, conn: Connection, action: str, status: str, recurring: bool
    ) -> None:
        job_id = in_state(conn, status, recurring=recurring)
        version = conn.job_row(job_id)["version"]
        with conn.changes_nothing():
            stale = act(conn, action, job_id, versions={job_id: version - 1})
        assert not stale.ok
        assert "has changed and is now" in stale.message
        assert status in stale.message
        assert (stale.status, stale.version) == (Status(status), version)
        assert act(conn, action, job_id, versions={job_id: version}).ok is (status in ALLOWED[action])

    @KINDS
    @pytest.mark.parametrize("status", STATES)
    @pytest.mark.parametrize("action", ["retry", "cancel", "delete", "edit"])
    def test_a_dry_run_answers_as_the_action_would_and_changes_nothing(
        self, conn: Connection, action: str, status: str, recurring: bool
    ) -> None:
        job_id = in_state(conn, status, recurring=recurring)
        with conn.changes_nothing():
            told = act(conn, action, job_id, dry_run=True)
        assert told.ok is (status in ALLOWED[action])
        assert told.status is Status(status)
        assert act(conn, action, job_id).ok is told.ok

    @pytest.mark.parametrize("action", ["retry", "cancel", "delete", "edit"])
    def test_a_job_that_is_nowhere_is_answered(self, conn: Connection, action: str) -> None:
        with conn.changes_nothing():
            result = act(conn, action, uuid.uuid4())
        assert (result.ok, result.status, result.version) == (False, None, None)
        assert "no longer in the queue" in result.message

    @pytest.mark.slow
    def test_every_way_a_job_moves_changes_its_version(self, conn: Connection) -> None:
        job_id = conn.add().id
        versions = [conn.job_row(job_id)["version"]]

        def moved() -> None:
            versions.append(conn.job_row(job_id)["version"])

        claimed = conn.claim_one()
        moved()
        conn.finish_one(claimed, "failed")
        moved()
        operator.cancel(conn, [job_id], actor=ACTOR)
        moved()
        operator.edit(conn, job_id, changes={"priority": 1}, actor=ACTOR)
        moved()
        operator.retry(conn, [job_id], actor=ACTOR)
        moved()
        operator.delete(conn, [job_id], actor=ACTOR)
        operator.restore(conn, [job_id], actor=ACTOR)
        moved()
        conn.claim_one()
        moved()
        conn.lose()
        moved()
        assert versions == sorted(set(versions))


class TestRetry:
    def test_run_now_makes_a_waiting_job_due_and_leaves_its_attempts(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once(outcome="failed", retry_after=3600.0, error="It broke.")
        assert conn.claim() == []
        operator.retry(conn, [job.id], actor=ACTOR)
        row = conn.job_row(job.id)
        assert (row["attempts"], row["status"], row["last_error"]) == (1, "pending", None)
        assert conn.claim_one().attempt == 2

    @pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
    def test_a_finished_job_starts_again_with_no_attempts_used(self, conn: Connection, status: str) -> None:
        job_id = in_state(conn, status)
        before = conn.now()
        operator.retry(conn, [job_id], actor=ACTOR)
        row = conn.job_row(job_id)
        assert (row["status"], row["attempts"], row["last_error"], row["completed_at"]) == ("pending", 0, None, None)
        assert before <= row["run_at"] <= conn.now()
        assert conn.claim_one().attempt == 1

    def test_run_now_of_a_series_that_has_run_before_is_immediate_and_keeps_its_slots(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60)
        conn.run_once()
        slot = conn.job_row(series.id)["run_at"]
        operator.retry(conn, [series.id], actor=ACTOR)
        assert conn.run_once().run_at == slot

    def test_retry_erases_no_history(self, conn: Connection) -> None:
        job_id = in_state(conn, "failed")
        history = conn.run_rows(job_id)
        operator.retry(conn, [job_id], actor=ACTOR)
        assert conn.run_rows(job_id) == history
        assert len(history) == 1

    def test_the_checkpoint_is_kept_so_that_the_work_goes_on_where_it_stopped(self, conn: Connection) -> None:
        job = conn.add()
        claimed = conn.claim_one()
        leases.save_checkpoint(conn, claimed.id, claimed.run_token, {"at": 9})
        conn.finish_one(claimed, "failed", permanent=True)
        operator.retry(conn, [job.id], actor=ACTOR)
        assert conn.claim_one().checkpoint == {"at": 9}

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_retry_is_refused_while_another_job_holds_its_dedupe_key(self, conn: Connection, status: str) -> None:
        job = conn.add(dedupe_key="sync")
        conn.run_once(outcome=status, permanent=True)
        holder = conn.add(dedupe_key="sync")
        with conn.changes_nothing():
            (result,) = operator.retry(conn, [job.id], actor=ACTOR)
        assert not result.ok
        assert str(holder.id) in result.message
        conn.run_once()
        assert operator.retry(conn, [job.id], actor=ACTOR)[0].ok

    def test_of_two_with_one_dedupe_key_in_one_call_the_first_is_retried(self, conn: Connection) -> None:
        ids = []
        for _ in range(2):
            ids.append(conn.add(dedupe_key="sync").id)
            conn.run_once(outcome="failed", permanent=True)
        results = operator.retry(conn, ids, actor=ACTOR)
        assert [result.ok for result in results] == [True, False]

    def test_two_retries_at_once_with_one_dedupe_key_are_each_answered(
        self, conn: Connection, database_url: str
    ) -> None:
        ids = []
        for _ in range(2):
            ids.append(conn.add(dedupe_key="sync").id)
            conn.run_once(outcome="failed", permanent=True)
        conn.execute("ALTER FUNCTION job_queue_act SET lock_timeout = '60s'")
        with conn.transaction():
            assert operator.retry(conn, [ids[0]], actor=ACTOR)[0].ok
            with Connection.connect(database_url, autocommit=True) as other:
                waiting = Waiting(other, ids[1])
                conn.until_blocked(other.info.backend_pid)
                conn.execute("SELECT 1")
                waiting.finish_after(conn)
        assert waiting.results is not None
        assert [result.ok for result in waiting.results] == [False]
        assert "dedupe key" in waiting.results[0].message

    def test_a_series_without_an_interval_is_refused_until_it_is_given_one(self, conn: Connection) -> None:
        job_id = conn.value(
            "INSERT INTO job_queue (task_type, is_recurring, status) VALUES ('alpha', true, 'failed') RETURNING id",
        )
        with conn.changes_nothing():
            (result,) = operator.retry(conn, [job_id], actor=ACTOR)
        assert not result.ok
        assert "interval" in result.message
        assert operator.edit(conn, job_id, changes={"recurrence_interval_minutes": 5}, actor=ACTOR).ok
        assert operator.retry(conn, [job_id], actor=ACTOR)[0].ok
        assert conn.claim_one().is_recurring

    def test_a_job_whose_end_has_passed_is_run_all_the_same(self, conn: Connection) -> None:
        job = conn.add(expires_at=conn.now() + timedelta(minutes=1))
        conn.advance(timedelta(minutes=2))
        conn.reap()
        assert conn.job_row(job.id)["status"] == "cancelled"
        operator.retry(conn, [job.id], actor=ACTOR)
        assert conn.claim_one().id == job.id

    @pytest.mark.parametrize("ended", [True, False])
    def test_a_series_that_had_expired_runs_once_more_and_not_for_ever(self, conn: Connection, ended: bool) -> None:
        at = conn.now()
        job = conn.add(recurrence_interval_minutes=60, run_at=at, expires_at=at + timedelta(minutes=150))
        conn.run_once(outcome="failed", permanent=True)
        conn.advance(timedelta(hours=3))
        if ended:
            conn.reap()
            assert conn.job_row(job.id)["status"] == "failed"
        (result,) = operator.retry(conn, [job.id], actor=ACTOR)
        assert result.message == "Due now, for one run: the recurring job had expired."
        conn.run_once()
        assert not conn.is_queued(job.id)


class TestRetryOfAJobThatWaits:
    @staticmethod
    def pair(conn: Connection) -> tuple[UUID, UUID]:
        first = conn.add("first")
        return first.id, conn.add(blocked_by=first.id).id

    def test_it_waits_again_for_one_that_was_retried(self, conn: Connection) -> None:
        first, second = self.pair(conn)
        conn.run_once(["first"], "failed", permanent=True)
        operator.retry(conn, [first], actor=ACTOR)
        (result,) = operator.retry(conn, [second], actor=ACTOR)
        assert result.ok
        assert str(first) in result.message
        conn.reap()
        assert conn.claim() == []
        conn.run_once(["first"])
        assert conn.claim_one().id == second

    def test_it_is_free_when_the_other_has_succeeded_meanwhile(self, conn: Connection) -> None:
        first, second = self.pair(conn)
        operator.cancel(conn, [second], actor=ACTOR)
        conn.run_once(["first"])
        (result,) = operator.retry(conn, [second], actor=ACTOR)
        assert result.ok
        assert conn.claim_one().id == second
        assert not conn.is_queued(first)

    @pytest.mark.parametrize("how", ["failed", "cancelled", "deleted"])
    def test_it_is_refused_while_the_other_can_not_succeed(self, conn: Connection, how: str) -> None:
        first, second = self.pair(conn)
        if how == "deleted":
            operator.delete(conn, [first], actor=ACTOR)
        else:
            conn.run_once(["first"], how, permanent=True)
        assert conn.job_row(second)["status"] == "cancelled"
        with conn.changes_nothing():
            (result,) = operator.retry(conn, [second], actor=ACTOR)
            (told,) = operator.retry(conn, [second], actor=ACTOR, dry_run=True)
        assert (result.ok, told.ok) == (False, False)
        assert str(first) in result.message

    @pytest.mark.slow
    def test_it_is_refused_where_the_other_is_a_series_that_ended_without_a_run(self, conn: Connection) -> None:
        first = conn.add("first", recurrence_interval_minutes=60, expires_at=conn.now() + timedelta(minutes=1)).id
        second = conn.add(blocked_by=first).id
        operator.cancel(conn, [second], actor=ACTOR)
        conn.advance(timedelta(minutes=2))
        conn.reap()
        assert conn.job_row(first)["status"] == "succeeded"
        with conn.changes_nothing():
            (result,) = operator.retry(conn, [second], actor=ACTOR)
        assert (result.ok, result.code) == (False, "hopeless-blocker")
        assert f"The blocker, job {first}, has expired." in result.message


class Waiting:
    """A retry in a thread of its own that waits for a lock."""

    def __init__(self, link: Connection, job_id: UUID) -> None:
        self.results: list[ActionResult] | None = None
        self.error: Exception | None = None

        def run() -> None:
            try:
                self.results = operator.retry(link, [job_id], actor=ACTOR)
            except Exception as error:  # noqa: BLE001 -- shown by the test
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def finish_after(self, conn: Connection) -> None:
        """Commits what the retry waits for, and lets it end."""
        conn.execute("COMMIT")
        self.thread.join(timeout=PATIENCE)
        conn.execute("BEGIN")
        if self.error:
            raise self.error


class TestCancel:
    @KINDS
    def test_a_pending_job_is_cancelled_at_once(self, conn: Connection, recurring: bool) -> None:
        job_id = in_state(conn, "pending", recurring=recurring)
        operator.cancel(conn, [job_id], actor=ACTOR)
        row = conn.job_row(job_id)
        assert (row["status"], row["last_outcome"], row["completed_at"]) == (
            "cancelled", "cancelled", row["updated_at"],
        )  # fmt: skip
        conn.advance(timedelta(days=2))
        assert conn.claim() == []

    def test_a_running_job_is_asked_and_goes_on_running_until_its_handler_stops(self, conn: Connection) -> None:
        job_id = in_state(conn, "running")
        before = conn.job_row(job_id)
        (result,) = operator.cancel(conn, [job_id], actor=ACTOR)
        row = conn.job_row(job_id)
        assert (result.ok, result.status) == (True, Status.RUNNING)
        assert (row["status"], row["run_token"]) == ("running", before["run_token"])
        assert row["cancel_requested_at"] is not None
        assert ACTOR in row["cancel_requested_by"]
        with conn.changes_nothing():
            (again,) = operator.cancel(conn, [job_id], actor=ACTOR)
        assert not again.ok

    def test_a_running_jobs_worker_is_told_over_the_channel(self, conn: Connection, database_url: str) -> None:
        job_id = in_state(conn, "running")
        with Connection.connect(database_url, autocommit=True) as listener:
            listener.execute('LISTEN "public.job_queue"')
            operator.cancel(conn, [job_id], actor=ACTOR)
            assert [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=1)] == ["cancel"]

    def test_a_failed_job_is_dismissed_and_remembers_how_it_ended(self, conn: Connection) -> None:
        job_id = in_state(conn, "failed")
        operator.cancel(conn, [job_id], actor=ACTOR)
        row = conn.job_row(job_id)
        assert (row["status"], row["last_outcome"], row["last_error"]) == ("cancelled", "failed", "It broke.")

    @pytest.mark.slow
    def test_cancel_and_finish_at_once_leave_the_job_cancelled_or_gone(
        self, conn: Connection, database_url: str
    ) -> None:
        conn.execute("ALTER FUNCTION job_queue_finish SET lock_timeout = '60s'")
        for _ in range(15):
            job = conn.add()
            claimed = conn.claim_one()
            (result,), answer = Parallel(database_url)(
                partial(operator.cancel, ids=[job.id], actor=ACTOR), partial(Connection.finish_one, claimed=claimed)
            )
            if result.ok:
                assert conn.job_row(job.id)["status"] == "cancelled"
                assert answer.status is Status.CANCELLED
            else:
                assert not conn.is_queued(job.id)


class TestDeleteAndRestore:
    @KINDS
    @pytest.mark.parametrize("status", ["pending", "succeeded", "failed", "cancelled"])
    def test_a_deleted_job_comes_back_as_it_was(self, conn: Connection, status: str, recurring: bool) -> None:
        job_id = in_state(conn, status, recurring=recurring)
        before = conn.job_row(job_id)
        operator.delete(conn, [job_id], actor=ACTOR, reason="by mistake")
        (trashed,) = conn.rows("SELECT * FROM job_trash")
        assert (trashed["job_id"], trashed["reason"]) == (job_id, "by mistake")
        assert ACTOR in trashed["deleted_by"]
        (result,) = operator.restore(conn, [job_id], actor=ACTOR, reason="undo")
        assert (result.ok, result.status, result.version) == (True, Status(status), before["version"] + 1)
        after = conn.job_row(job_id)
        assert_same_job(before, after)
        assert conn.value("SELECT count(*) FROM job_trash") == 0
        assert [entry["action"] for entry in conn.audit_rows()][-2:] == ["delete", "restore"]

    def test_a_restored_job_runs(self, conn: Connection) -> None:
        job = conn.add(payload={"big": 12345678901234567890, "text": 'ü \\ "q"'}, concurrency_key="k")
        operator.delete(conn, [job.id], actor=ACTOR)
        assert conn.claim() == []
        operator.restore(conn, [job.id], actor=ACTOR)
        assert conn.claim_one().payload == {"big": 12345678901234567890, "text": 'ü \\ "q"'}

    def test_a_dry_run_of_restore_changes_nothing(self, conn: Connection) -> None:
        job = conn.add()
        operator.delete(conn, [job.id], actor=ACTOR)
        with conn.changes_nothing():
            (told,) = operator.restore(conn, [job.id], actor=ACTOR, dry_run=True)
        assert told.ok

    def test_what_is_not_in_the_trash_is_answered(self, conn: Connection) -> None:
        job = conn.add()
        with conn.changes_nothing():
            results = operator.restore(conn, [job.id, uuid.uuid4()], actor=ACTOR)
        assert [result.ok for result in results] == [False, False]

    def test_other_actions_on_a_deleted_job_say_that_it_is_in_the_trash(self, conn: Connection) -> None:
        job = conn.add()
        operator.delete(conn, [job.id], actor=ACTOR)
        for action in ("retry", "cancel", "delete"):
            result = act(conn, action, job.id)
            assert not result.ok
            assert "Restore it first" in result.message

    def test_a_restore_is_refused_while_another_job_holds_its_dedupe_key(self, conn: Connection) -> None:
        job = conn.add(dedupe_key="sync")
        operator.delete(conn, [job.id], actor=ACTOR)
        holder = conn.add(dedupe_key="sync")
        with conn.changes_nothing():
            (result,) = operator.restore(conn, [job.id], actor=ACTOR)
        assert not result.ok
        assert str(holder.id) in result.message

    def test_deleted_twice_is_restored_as_it_was_last(self, conn: Connection) -> None:
        job = conn.add()
        operator.delete(conn, [job.id], actor=ACTOR)
        operator.restore(conn, [job.id], actor=ACTOR)
        operator.edit(conn, job.id, changes={"priority": 4}, actor=ACTOR)
        operator.delete(conn, [job.id], actor=ACTOR)
        operator.restore(conn, [job.id], actor=ACTOR)
        assert conn.job_row(job.id)["priority"] == 4


def assert_same_job(before: Row, after: Row) -> None:
    """The same row but for when and how often it was changed."""
    moved = {"version", "updated_at"}
    assert {key: value for key, value in before.items() if key not in moved} == {
        key: value for key, value in after.items() if key not in moved
    }


class TestEdit:
    @KINDS
    @pytest.mark.parametrize("status", ["pending", "failed", "cancelled"])
    def test_every_field_can_be_changed_and_the_rest_stays(
        self, conn: Connection, status: str, recurring: bool
    ) -> None:
        job_id = in_state(conn, status, recurring=recurring)
        at = conn.now() + timedelta(days=1)
        changes = {
            "payload": {"n": 2},
            "run_at": at.isoformat(),
            "expires_at": (at + timedelta(days=1)).isoformat(),
            "recurrence_interval_minutes": 30,
            "priority": -7,
            "max_attempts": 2,
        }
        result = operator.edit(conn, job_id, changes=changes, actor=ACTOR)
        row = conn.job_row(job_id)
        assert (result.ok, result.version) == (True, row["version"])
        assert (row["status"], row["payload"], row["priority"], row["max_attempts"]) == (status, {"n": 2}, -7, 2)
        assert (row["run_at"], row["expires_at"], row["anchor_at"]) == (at, at + timedelta(days=1), at)
        assert (row["is_recurring"], row["recurrence_interval_minutes"]) == (True, 30)

    def test_the_answer_says_that_a_job_which_has_ended_does_not_run_by_itself(self, conn: Connection) -> None:
        pending, failed = in_state(conn, "pending"), in_state(conn, "failed")
        answers = [
            operator.edit(conn, job_id, changes={"priority": 1}, actor=ACTOR, dry_run=dry_run).message
            for job_id, dry_run in ((pending, False), (failed, True), (failed, False))
        ]
        assert answers == [
            "Changed.",
            "It would be changed. It stays failed until it is retried.",
            "Changed. It stays failed until it is retried.",
        ]

    def test_a_series_becomes_a_one_time_job_when_its_interval_is_taken_away(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60)
        operator.edit(conn, series.id, changes={"recurrence_interval_minutes": None}, actor=ACTOR)
        assert conn.run_once().status is None
        assert not conn.is_queued(series.id)

    def test_a_new_interval_keeps_the_anchor_unless_the_time_is_changed_too(self, conn: Connection) -> None:
        at = conn.now()
        series = conn.add(recurrence_interval_minutes=60, run_at=at)
        operator.edit(conn, series.id, changes={"recurrence_interval_minutes": 10}, actor=ACTOR)
        assert conn.run_once().run_at == at + timedelta(minutes=10)

    def test_an_end_is_taken_away_by_null(self, conn: Connection) -> None:
        job = conn.add(expires_at=conn.now() + timedelta(days=1))
        operator.edit(conn, job.id, changes={"expires_at": None}, actor=ACTOR)
        assert conn.job_row(job.id)["expires_at"] is None

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"status": "running"},
            {"task_type": "beta"},
            {"payload": [1]},
            {"payload": None},
            {"run_at": None},
            {"recurrence_interval_minutes": 0},
            {"recurrence_interval_minutes": -1},
            {"priority": 101},
            {"priority": None},
            {"max_attempts": 0},
        ],
        ids=str,
    )
    def test_what_is_not_acceptable_is_refused(self, conn: Connection, changes: dict[str, Any]) -> None:
        job = conn.add()
        with conn.changes_nothing():
            result = operator.edit(conn, job.id, changes=changes, actor=ACTOR)
        assert not result.ok
        assert result.version == job.version

    @pytest.mark.parametrize(
        "changes",
        [
            {"run_at": "soon"},
            {"expires_at": "2026-02-31"},
            {"priority": "high"},
            {"max_attempts": 99999999999},
            {"payload": {"text": "\0"}},
            {"payload": {"n": float("nan")}},
        ],
        ids=str,
    )
    def test_what_the_database_cannot_store_is_refused_with_a_sentence(
        self, conn: Connection, changes: dict[str, Any]
    ) -> None:
        job = conn.add()
        with conn.changes_nothing(), pytest.raises(Refused, match="cannot store this value"):
            operator.edit(conn, job.id, changes=changes, actor=ACTOR)

    @pytest.mark.parametrize("payload", [{"text": "\0"}, {"n": float("inf")}, {"text": "\ud800"}], ids=repr)
    def test_enqueue_refuses_what_the_database_cannot_store(self, conn: Connection, payload: dict[str, Any]) -> None:
        with conn.changes_nothing():
            with pytest.raises(Refused, match="cannot store this value"):
                producer.enqueue(conn, NewJob("alpha", payload), actor=ACTOR)
            with pytest.raises(Refused, match="cannot store this value"):
                producer.enqueue_many(conn, [NewJob("alpha"), NewJob("alpha", payload)], actor=ACTOR)

    def test_the_audit_keeps_the_old_and_the_new_of_what_was_changed_and_no_more(self, conn: Connection) -> None:
        job = conn.add(payload={"n": 1})
        operator.edit(conn, job.id, changes={"priority": 5}, actor=ACTOR)
        operator.edit(conn, job.id, changes={"payload": {"n": 2}}, actor=ACTOR)
        first, second = conn.audit_rows("edit")
        assert (first["before"]["priority"], first["after"]["priority"]) == (0, 5)
        assert "payload" not in first["before"] | first["after"]
        assert (second["before"]["payload"], second["after"]["payload"]) == ({"n": 1}, {"n": 2})


class TestBulk:
    def test_each_id_is_answered_for_itself_in_the_order_asked(self, conn: Connection) -> None:
        ids = {status: in_state(conn, status, task_type=f"t-{status}") for status in STATES}
        nowhere = uuid.uuid4()
        asked = [ids["running"], nowhere, ids["failed"], ids["pending"], ids["succeeded"], ids["cancelled"]]
        results = operator.delete(conn, asked, actor=ACTOR)
        assert [result.job_id for result in results] == asked
        assert [result.ok for result in results] == [False, False, True, True, True, True]
        assert len(conn.audit_rows("delete")) == 4

    def test_an_id_asked_twice_is_done_and_answered_once(self, conn: Connection) -> None:
        job = conn.add()
        results = operator.cancel(conn, [job.id, job.id], actor=ACTOR)
        assert [result.ok for result in results] == [True]
        assert len(conn.audit_rows()) == 1

    def test_versions_are_those_of_their_own_job(self, conn: Connection) -> None:
        one, other = conn.add(), conn.add()
        operator.edit(conn, other.id, changes={"priority": 1}, actor=ACTOR)
        results = operator.cancel(
            conn, [other.id, one.id], actor=ACTOR, versions={one.id: one.version, other.id: other.version}
        )
        assert [(result.job_id, result.ok) for result in results] == [(other.id, False), (one.id, True)]

    def test_none_is_nothing(self, conn: Connection) -> None:
        with conn.changes_nothing():
            assert operator.retry(conn, [], actor=ACTOR) == []
            assert operator.restore(conn, [], actor=ACTOR) == []

    @pytest.mark.slow
    def test_many_are_done_in_one_call(self, conn: Connection) -> None:
        ids = producer.enqueue_many(conn, [NewJob("alpha") for _ in range(500)], actor=ACTOR)
        assert all(result.ok for result in operator.delete(conn, ids, actor=ACTOR))
        assert all(result.ok for result in operator.restore(conn, ids, actor=ACTOR))
        assert len(conn.claim(limit=1000)) == 500

    def test_an_action_that_is_none_is_refused(self, conn: Connection) -> None:
        with pytest.raises(psycopg.Error, match="There is no action explode"):
            conn.execute("SELECT * FROM job_queue_act('explode', '{}', '{}', 'x', null, false)")


class TestAudit:
    def test_it_says_who_did_what_to_which_job_and_why(self, conn: Connection) -> None:
        job = conn.add()
        operator.cancel(conn, [job.id], actor=ACTOR, reason="not needed")
        (entry,) = conn.audit_rows()
        role = conn.value("SELECT session_user::text")
        assert entry["actor"] == f"{ACTOR} ({role})"
        assert (entry["action"], entry["job_id"], entry["reason"]) == ("cancel", job.id, "not needed")
        assert (entry["before"]["status"], entry["after"]["status"]) == ("pending", "cancelled")
        assert entry["after"]["version"] == entry["before"]["version"] + 1

    def test_an_actor_without_a_name_is_the_role_alone(self, conn: Connection) -> None:
        operator.cancel(conn, [conn.add().id], actor="  ")
        assert conn.audit_rows()[0]["actor"] == f"({conn.value('SELECT session_user::text')})"

    def test_what_is_refused_is_not_on_record(self, conn: Connection) -> None:
        operator.delete(conn, [in_state(conn, "running")], actor=ACTOR)
        assert conn.audit_rows() == []


class TestCleanup:
    def test_only_runs_whose_lease_has_expired_are_stuck(self, conn: Connection) -> None:
        stuck = conn.add()
        conn.claim_one()
        conn.advance(timedelta(hours=1))
        alive = conn.add()
        conn.claim_one()
        with conn.changes_nothing():
            (told,) = operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=True)
        assert (told.job_id, told.ok, told.status) == (stuck.id, True, Status.RUNNING)
        (result,) = operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=False)
        assert (result.job_id, result.ok, result.status) == (stuck.id, True, Status.FAILED)
        row = conn.job_row(stuck.id)
        assert (row["status"], row["attempts"]) == ("failed", 1)
        assert "Stuck in running state" in row["last_error"]
        assert conn.job_row(alive.id)["status"] == "running"
        (run,) = conn.run_rows(stuck.id)
        assert (run["outcome"], run["error_kind"]) == ("lost", "stuck")
        (entry,) = conn.audit_rows("cleanup")
        assert (entry["job_id"], entry["before"]["status"], entry["after"]["status"]) == (
            stuck.id, "running", "failed",
        )  # fmt: skip

    def test_a_run_that_began_lately_is_left_to_the_reaper(self, conn: Connection) -> None:
        conn.add()
        conn.claim_one()
        conn.advance(timedelta(minutes=10))
        with conn.changes_nothing():
            assert operator.cleanup(conn, actor=ACTOR, older_than=timedelta(minutes=20), dry_run=False) == []

    def test_a_stuck_series_goes_on_at_its_next_slot(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60)
        conn.claim_one()
        conn.advance(timedelta(hours=5))
        (result,) = operator.cleanup(conn, actor=ACTOR, older_than=timedelta(minutes=20), dry_run=False)
        assert (result.ok, result.status) == (True, Status.PENDING)
        row = conn.job_row(series.id)
        assert (row["consecutive_failures"], row["attempts"]) == (1, 0)
        assert row["run_at"] > conn.now()


class TestPurge:
    @pytest.mark.parametrize("count", [0, 1, 2, 10_000])
    def test_old_succeeded_and_cancelled_jobs_go_and_are_counted(self, conn: Connection, count: int) -> None:
        conn.execute(
            """
            INSERT INTO job_queue (task_type, status, completed_at)
            SELECT 'alpha', CASE WHEN mod(n, 2) = 0 THEN 'succeeded' ELSE 'cancelled' END, now() - interval '15 days'
            FROM generate_series(1, %s) AS n
            """,
            (count,),
        )
        kept = [in_state(conn, status, task_type=f"t-{status}") for status in STATES]
        failed = conn.value(
            """
            INSERT INTO job_queue (task_type, status, completed_at)
            VALUES ('alpha', 'failed', now() - interval '90 days') RETURNING id
            """,
        )
        fortnight = timedelta(days=14)
        assert operator.purge(conn, actor=ACTOR, older_than=fortnight, dry_run=True) == count
        assert operator.purge(conn, actor=ACTOR, older_than=fortnight, dry_run=False) == count
        assert operator.purge(conn, actor=ACTOR, older_than=fortnight, dry_run=False) == 0
        assert all(conn.is_queued(job_id) for job_id in [*kept, failed])

    def test_the_playbooks_call_works_and_defaults_to_a_fortnight(self, conn: Connection) -> None:
        in_state(conn, "cancelled")
        conn.advance(timedelta(days=13))
        assert conn.value("SELECT job_queue_cleanup()") == 0
        assert conn.value("SELECT job_queue_cleanup(interval '14 days')") == 0
        conn.advance(timedelta(days=2))
        assert conn.value("SELECT job_queue_cleanup(interval '14 days')") == 1
