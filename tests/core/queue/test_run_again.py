"""Retry and "run again" are two actions: the version seen decides, copies keep their keys, none is made twice."""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.model import ActionResult, Job, Status
from jobdeck.core.queue import bulk, operator, service
from jobdeck.core.queue.bulk_model import Bulk, Choice
from jobdeck.core.read import job_lists
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.registry import Admission, JobType, Payload, Registry
from jobdeck.core.settings import Settings
from tests.support.queue import ACTOR, Connection, Parallel, report


class Numbered(Payload):
    n: int = 0
    customer_id: str | None = None


def admit_no_nine(params: Numbered, _admission: Admission) -> dict[str, str]:
    return {"n": "it is not welcome"} if params.n == 9 else {}


SETTINGS = Settings()
TYPES = Registry(
    [
        JobType("alpha", lambda _params, _ctx: None, "Alpha", "", Numbered, max_attempts=3, admit=admit_no_nine),
        JobType("keyed", lambda _params, _ctx: None, "Keyed", "", Numbered, concurrency="payload:customerId"),
    ]
)


def run_again(conn: Connection, *ids: UUID, **fields: Any) -> list[ActionResult]:
    return service.run_again(conn, TYPES, ids, settings=SETTINGS, actor=ACTOR, **fields)


def succeeded(conn: Connection, task_type: str = "alpha", **fields: Any) -> Job:
    """A one-time job that succeeded and left the queue."""
    job = conn.add(task_type, **fields)
    conn.run_once([task_type])
    return job


def succeed_all(conn: Connection, task_type: str = "alpha") -> None:
    while claimed := conn.claim([task_type], limit=100):
        conn.finish(*(report(one) for one in claimed))


def queued(conn: Connection) -> list[UUID]:
    return [row["id"] for row in conn.rows("SELECT id FROM job_queue ORDER BY id")]


class TestRetry:
    def test_a_job_that_succeeded_since_it_was_seen_is_refused_and_named_the_way_to_run_it_again(
        self, conn: Connection
    ) -> None:
        seen = conn.add()
        conn.run_once(outcome="failed", permanent=True)
        operator.retry(conn, [seen.id], actor="somebody else")
        conn.run_once()
        for versions in ({seen.id: seen.version}, None):
            with conn.changes_nothing():
                (answer,) = operator.retry(conn, [seen.id], actor=ACTOR, versions=versions)
                (told,) = operator.retry(conn, [seen.id], actor=ACTOR, versions=versions, dry_run=True)
            assert (answer.ok, answer.code) == (False, "has-succeeded")
            assert f"jobdeck run-again {seen.id}" in answer.message
            assert told == answer

    def test_a_series_that_ended_since_it_was_seen_is_refused_and_named_the_way(self, conn: Connection) -> None:
        at = conn.value("SELECT clock_timestamp()")
        seen = conn.add(recurrence_interval_minutes=60, run_at=at, expires_at=at.replace(year=at.year + 1))
        conn.execute("UPDATE job_queue SET expires_at = run_at + interval '1 minute'")
        conn.run_once()
        assert conn.job_row(seen.id)["status"] == "succeeded"
        with conn.changes_nothing():
            (answer,) = operator.retry(conn, [seen.id], actor=ACTOR, versions={seen.id: seen.version})
        assert not answer.ok
        assert f"jobdeck run-again {seen.id}" in answer.message

    def test_another_payload_is_not_given_to_a_job_that_succeeded_since_it_was_seen(self, conn: Connection) -> None:
        seen = conn.add()
        conn.run_once()
        with conn.changes_nothing():
            answer = service.retry_with(conn, TYPES, seen, {"n": 2}, settings=SETTINGS, actor=ACTOR)
        assert (answer.ok, answer.code) == (False, "has-succeeded")


class TestBulk:
    @staticmethod
    def failed(conn: Connection, count: int) -> None:
        for _ in range(count):
            conn.add()
            conn.run_once(outcome="failed", permanent=True)

    @staticmethod
    def choice(conn: Connection) -> Choice:
        found = bulk.choose(conn, parse_filter("status:failed"), actor=ACTOR)
        assert found is not None
        return found

    @staticmethod
    def retried(conn: Connection, choice: Choice) -> Bulk:
        bulk.start(conn, choice.bulk.id, "retry", actor=ACTOR)
        while (now := bulk.step(conn, choice.bulk.id, driver=ACTOR)).state == "running":
            pass
        return now

    def test_two_bulk_retries_of_the_same_jobs_run_each_job_once(self, conn: Connection) -> None:
        self.failed(conn, 20)
        first, second = self.choice(conn), self.choice(conn)
        assert self.retried(conn, first).refused == 0
        succeed_all(conn)
        ended = self.retried(conn, second)
        assert (ended.done, ended.refused) == (20, 20)
        assert queued(conn) == []
        assert {answer.code for answer in bulk.answers(conn, ended.id)} == {"has-succeeded"}

    def test_a_retry_of_an_earlier_bulk_action_leaves_alone_what_has_succeeded_since(self, conn: Connection) -> None:
        self.failed(conn, 20)
        first = self.retried(conn, self.choice(conn))
        claimed = conn.claim(limit=20)
        conn.finish(*(report(one) for one in claimed[:15]))
        conn.finish(*(report(one, "failed", permanent=True) for one in claimed[15:]))
        again = bulk.choose_again(conn, first.id, "all", actor=ACTOR)
        assert again is not None
        assert (again.of("failed"), again.of(None)) == (5, 15)
        ended = self.retried(conn, again)
        assert (ended.done, ended.refused) == (20, 15)
        assert len(queued(conn)) == 5

    def test_a_job_that_changed_between_choosing_and_retrying_an_earlier_action_is_refused(
        self, conn: Connection
    ) -> None:
        self.failed(conn, 1)
        first = self.retried(conn, self.choice(conn))
        conn.run_once(outcome="failed", permanent=True)
        again = bulk.choose_again(conn, first.id, "all", actor=ACTOR)
        assert again is not None
        operator.cancel(conn, queued(conn), actor="somebody else")
        assert self.retried(conn, again).refused == 1

    def test_a_series_that_has_succeeded_since_an_earlier_bulk_action_is_refused(self, conn: Connection) -> None:
        series = conn.add(recurrence_interval_minutes=60)
        conn.run_once(outcome="failed", permanent=True)
        choice = bulk.choose_ids(conn, {series.id: conn.job_row(series.id)["version"]}, actor=ACTOR)
        first = self.retried(conn, choice)
        assert first.refused == 0
        conn.run_once()
        again = bulk.choose_again(conn, first.id, "all", actor=ACTOR)
        assert again is not None
        before = conn.job_row(series.id)
        assert self.retried(conn, again).refused == 1
        assert conn.job_row(series.id) == before


class TestRunAgain:
    def test_a_success_that_left_the_queue_is_enqueued_as_a_copy(self, conn: Connection) -> None:
        job = succeeded(conn, payload={"n": 3})
        with conn.changes_nothing():
            (told,) = run_again(conn, job.id, dry_run=True)
        assert (told.ok, told.code) == (True, "would-run-again")
        (answer,) = run_again(conn, job.id, reason="asked for")
        copy = conn.claim_one()
        assert copy.id != job.id
        assert (answer.job_id, answer.ok, answer.status) == (job.id, True, Status.PENDING)
        assert str(copy.id) in answer.message
        assert (copy.task_type, copy.payload, copy.max_attempts) == ("alpha", {"n": 3}, 3)
        (entry,) = conn.audit_rows()
        assert (entry["action"], entry["job_id"], entry["after"], entry["reason"]) == (
            "run again", copy.id, {"copy_of": str(job.id)}, "asked for",
        )  # fmt: skip

    def test_a_copy_waits_for_a_running_job_with_its_concurrency_key(self, conn: Connection) -> None:
        job = succeeded(conn, concurrency_key="one at a time")
        run_again(conn, job.id)
        other = conn.add(concurrency_key="one at a time")
        assert len(conn.claim(limit=10)) == 1
        assert conn.claim(limit=10) == []
        keys = conn.rows("SELECT concurrency_key FROM job_queue")
        assert [row["concurrency_key"] for row in keys] == ["one at a time"] * 2
        assert other.id in queued(conn)

    @pytest.mark.parametrize("outcome", ["succeeded", "partial"])
    @pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a failure"])
    def test_both_ways_out_of_the_queue_keep_the_keys(self, conn: Connection, outcome: str, beside: bool) -> None:
        job = conn.add(dedupe_key="nightly", concurrency_key="c")
        (claimed,) = conn.claim()
        runs = [report(claimed, outcome)]
        if beside:
            conn.add("beta")
            runs.append(report(conn.claim_one(["beta"]), "failed"))
        conn.finish(*runs)
        kept = conn.rows("SELECT dedupe_key, concurrency_key FROM job_runs WHERE removed")
        assert [tuple(row.values()) for row in kept] == [("nightly", "c")]
        run_again(conn, job.id)
        copy = conn.rows("SELECT dedupe_key, concurrency_key FROM job_queue WHERE task_type = 'alpha'")
        assert [tuple(row.values()) for row in copy] == [("nightly", "c")]

    def test_a_success_that_the_slow_way_records_keeps_its_keys(self, conn: Connection) -> None:
        job = conn.add(dedupe_key="nightly", concurrency_key="c")
        claimed = conn.claim_one()
        conn.execute(
            "SELECT * FROM job_queue_settle('worker-1', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['succeeded'], "
            "ARRAY[now()], ARRAY[now()], ARRAY[null::jsonb], 1, 1, '{}')",
            (claimed.id, claimed.run_token),
        )
        kept = conn.rows("SELECT dedupe_key, concurrency_key FROM job_runs WHERE job_id = %s", job.id)
        assert [tuple(row.values()) for row in kept] == [("nightly", "c")]

    def test_runs_of_jobs_that_stay_in_the_queue_store_no_keys(self, conn: Connection) -> None:
        conn.add(dedupe_key="nightly", concurrency_key="c")
        conn.run_once(outcome="failed")
        kept = conn.rows("SELECT dedupe_key, concurrency_key FROM job_runs")
        assert [tuple(row.values()) for row in kept] == [(None, None)]

    def test_a_run_without_a_stored_key_is_given_that_of_its_type(self, conn: Connection) -> None:
        job = succeeded(conn, "keyed", payload={"customerId": "c-1"})
        conn.execute("UPDATE job_runs SET concurrency_key = NULL, dedupe_key = NULL")
        run_again(conn, job.id)
        assert [row["concurrency_key"] for row in conn.rows("SELECT concurrency_key FROM job_queue")] == ["keyed:c-1"]

    def test_another_payload_brings_the_concurrency_key_that_follows_from_it(self, conn: Connection) -> None:
        job = succeeded(conn, "keyed", payload={"customerId": "c-1"}, concurrency_key="keyed:c-1")
        (seen,) = job_lists.removed([job.id]).run(conn)
        answer = service.retry_with(conn, TYPES, seen, {"customerId": "c-2"}, settings=SETTINGS, actor=ACTOR)
        assert answer.ok, answer.message
        (copy,) = conn.rows("SELECT payload, concurrency_key FROM job_queue")
        assert (copy["payload"], copy["concurrency_key"]) == ({"customerId": "c-2"}, "keyed:c-2")

    def test_a_type_that_does_not_admit_the_copy_refuses_it(self, conn: Connection) -> None:
        job = succeeded(conn, payload={"n": 9})
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id)
        assert (answer.ok, answer.code) == (False, "not-admitted")
        assert "n: it is not welcome" in answer.message

    @pytest.mark.parametrize("status", ["pending", "running", "failed", "cancelled"])
    def test_a_job_that_has_not_succeeded_is_refused(self, conn: Connection, status: str) -> None:
        job = conn.add()
        if status != "pending":
            claimed = conn.claim_one()
            if status != "running":
                conn.finish(report(claimed, status, permanent=True))
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id)
        assert (answer.ok, answer.code, answer.status) == (False, "not-succeeded", Status(status))
        assert status in answer.message

    def test_an_ended_series_that_is_still_in_the_queue_runs_again_itself(self, conn: Connection) -> None:
        job = conn.add()
        conn.execute("UPDATE job_queue SET status = 'succeeded', completed_at = now()")
        with conn.changes_nothing():
            assert run_again(conn, job.id, dry_run=True)[0].ok
        (answer,) = run_again(conn, job.id)
        assert (answer.ok, answer.code) == (True, "due-now")
        assert conn.claim_one().id == job.id

    def test_an_ended_series_that_changed_since_it_was_seen_is_refused(self, conn: Connection) -> None:
        job = conn.add()
        conn.execute("UPDATE job_queue SET status = 'succeeded', completed_at = now()")
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id, versions={job.id: job.version - 1})
        assert not answer.ok

    def test_what_is_nowhere_or_in_the_trash_is_answered(self, conn: Connection) -> None:
        job = conn.add()
        operator.delete(conn, [job.id], actor=ACTOR)
        nowhere = uuid.uuid4()
        with conn.changes_nothing():
            answers = run_again(conn, nowhere, job.id, nowhere)
        assert [(answer.job_id, answer.code) for answer in answers] == [(nowhere, "no-success"), (job.id, "is-deleted")]

    def test_a_job_that_failed_and_was_deleted_is_not_run_again(self, conn: Connection) -> None:
        job = conn.add()
        conn.finish(report(conn.claim_one(), "failed", permanent=True))
        operator.delete(conn, [job.id], actor=ACTOR)
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id)
        assert (answer.ok, answer.code) == (False, "is-deleted")


class TestTwice:
    def test_a_second_copy_is_refused_while_the_first_has_the_dedupe_key(self, conn: Connection) -> None:
        job = succeeded(conn, dedupe_key="nightly")
        assert run_again(conn, job.id)[0].ok
        (copy,) = queued(conn)
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id)
            (told,) = run_again(conn, job.id, dry_run=True)
        assert (answer.ok, answer.code, told.code) == (False, "key-held", "key-held")
        assert str(copy) in answer.message

    @pytest.mark.parametrize("running", [False, True])
    def test_without_a_dedupe_key_a_second_copy_is_refused_while_the_first_is_pending_or_running(
        self, conn: Connection, running: bool
    ) -> None:
        job = succeeded(conn)
        run_again(conn, job.id)
        (copy,) = queued(conn)
        if running:
            conn.claim_one()
        with conn.changes_nothing():
            (answer,) = run_again(conn, job.id)
            (told,) = run_again(conn, job.id, dry_run=True)
        assert (answer.ok, answer.code, told.code) == (False, "copy-open", "copy-open")
        assert str(copy) in answer.message

    def test_two_at_once_make_one_copy(self, conn: Connection, database_url: str) -> None:
        job = succeeded(conn)
        answers = Parallel(database_url)(*[lambda link: run_again(link, job.id)[0]] * 4)
        assert sorted(answer.ok for answer in answers) == [False, False, False, True]
        (copy,) = queued(conn)
        assert all(str(copy) in answer.message for answer in answers)

    def test_after_the_first_has_ended_the_second_names_it_in_answer_and_audit(self, conn: Connection) -> None:
        job = succeeded(conn)
        run_again(conn, job.id)
        (first,) = queued(conn)
        conn.run_once()
        with conn.changes_nothing():
            (told,) = run_again(conn, job.id, dry_run=True)
        (answer,) = run_again(conn, job.id)
        (second,) = queued(conn)
        assert (told.ok, told.code) == (True, "would-run-once-more")
        assert (answer.ok, answer.code) == (True, "enqueued-once-more")
        assert str(first) in told.message
        assert str(first) in answer.message
        assert str(second) in answer.message
        assert ACTOR in answer.message
        assert conn.audit_rows("run again")[-1]["after"] == {"copy_of": str(job.id), "earlier_copy": str(first)}

    def test_a_copy_of_a_copy_is_the_same_work_and_not_run_beside_another(self, conn: Connection) -> None:
        job = succeeded(conn)
        run_again(conn, job.id)
        (first,) = queued(conn)
        conn.run_once()
        assert run_again(conn, first)[0].ok
        assert not run_again(conn, job.id)[0].ok
        assert len(queued(conn)) == 1
