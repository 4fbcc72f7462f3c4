"""Enqueue: what is stored, what is refused, in whose transaction."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob, Status
from jobdeck.core.queue import producer, service
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE


def test_a_job_is_stored_pending_due_now_with_what_was_given(conn: Connection) -> None:
    before = conn.now()
    answer = service.enqueue(
        conn,
        NewJob("alpha", {"n": 1}, priority=7, dedupe_key="d", concurrency_key="c", max_attempts=3),
        actor=ACTOR,
    )
    assert answer.created
    stored = conn.job_row(answer.job.id)
    assert (stored["task_type"], stored["payload"], stored["status"]) == ("alpha", {"n": 1}, "pending")
    assert (stored["priority"], stored["dedupe_key"], stored["concurrency_key"]) == (7, "d", "c")
    assert (stored["attempts"], stored["max_attempts"], stored["version"]) == (0, 3, 1)
    assert (stored["is_recurring"], stored["created_by"]) == (False, f"{ACTOR} (jobdeck)")
    assert before <= stored["run_at"] <= conn.now()
    assert answer.job.status is Status.PENDING
    assert answer.job.next_run_at == stored["run_at"]


def test_the_defaults_are_five_attempts_and_priority_zero(conn: Connection) -> None:
    job = conn.add()
    assert (job.max_attempts, job.priority, job.payload, job.dedupe_key) == (5, 0, {}, None)


def test_a_time_to_run_at_is_kept_to_the_microsecond(conn: Connection) -> None:
    later = conn.now() + timedelta(days=3, microseconds=7)
    assert conn.add(run_at=later).run_at == later


def test_a_series_starts_at_its_first_slot_and_is_anchored_there(conn: Connection) -> None:
    later = conn.now() + timedelta(hours=1)
    end = later + timedelta(days=1)
    job = conn.add(run_at=later, recurrence_interval_minutes=15, expires_at=end)
    assert (job.is_recurring, job.recurrence_interval_minutes) == (True, 15)
    assert (job.run_at, job.anchor_at, job.expires_at) == (later, later, end)


SERIES = NewJob("alpha", {"coachId": 7}, recurrence_interval_minutes=15)


def test_a_second_series_of_the_same_type_payload_and_interval_is_refused(conn: Connection) -> None:
    first = producer.enqueue(conn, SERIES, actor=ACTOR).job_id
    with conn.changes_nothing(), pytest.raises(Refused, match=f"^Job {first} is a series of alpha with the same "):
        producer.enqueue(conn, SERIES, actor=ACTOR)
    conn.claim_one()
    with pytest.raises(Refused, match=str(first)):
        producer.enqueue(conn, SERIES, actor=ACTOR)


@pytest.mark.parametrize(
    "second",
    [
        SERIES._replace(task_type="beta"),
        SERIES._replace(payload={"coachId": 8}),
        SERIES._replace(recurrence_interval_minutes=30),
        SERIES._replace(recurrence_interval_minutes=None),
        SERIES._replace(dedupe_key="mine"),
    ],
    ids=["type", "payload", "interval", "one-time", "key"],
)
def test_a_series_that_differs_or_has_a_key_is_not_refused(conn: Connection, second: NewJob) -> None:
    producer.enqueue(conn, SERIES, actor=ACTOR)
    assert producer.enqueue(conn, second, actor=ACTOR).created


@pytest.mark.parametrize(
    "end",
    ["UPDATE job_queue SET status = 'cancelled', completed_at = now()", "UPDATE job_queue SET expires_at = now()"],
    ids=["cancelled", "expired"],
)
def test_beside_a_series_that_is_over_another_one_may_begin(conn: Connection, end: str) -> None:
    producer.enqueue(conn, SERIES, actor=ACTOR)
    conn.execute(end.encode())
    assert producer.enqueue(conn, SERIES, actor=ACTOR).created


def test_a_series_that_is_inserted_by_hand_is_not_refused(conn: Connection) -> None:
    for _ in range(2):
        conn.execute(
            "INSERT INTO job_queue (task_type, is_recurring, recurrence_interval_minutes) VALUES ('alpha', true, 60)"
        )
    with pytest.raises(Refused, match="is a series of alpha"):
        producer.enqueue(conn, NewJob("alpha", recurrence_interval_minutes=60), actor=ACTOR)


@pytest.mark.parametrize("attempts", [0, -3])
def test_there_is_always_at_least_one_attempt(conn: Connection, attempts: int) -> None:
    assert conn.add(max_attempts=attempts).max_attempts == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task_type": " "}, "needs a task type"),
        ({"recurrence_interval_minutes": 0}, "1 minute or more"),
        ({"recurrence_interval_minutes": -5}, "1 minute or more"),
        ({"recurrence_interval_minutes": 52_596_001}, "at most 100 years"),
        ({"priority": 101}, "between -100 and 100"),
        ({"priority": -101}, "between -100 and 100"),
        ({"payload": [1]}, "JSON object"),
        ({"payload": None}, "JSON object"),
    ],
)
def test_what_is_not_acceptable_is_refused_with_a_sentence(
    conn: Connection, fields: dict[str, Any], words: str
) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match=words):
        service.enqueue(conn, NewJob(**({"task_type": "alpha"} | fields)), actor=ACTOR)


@pytest.mark.slow
def test_ids_rise_with_time_so_that_equals_run_first_in_first_out(conn: Connection) -> None:
    ids = [conn.add().id for _ in range(200)]
    assert ids == sorted(ids)
    assert {job_id.version for job_id in ids} == {7}


def test_enqueue_happens_with_the_callers_transaction_or_not_at_all(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.add()
    assert conn.value("SELECT count(*) FROM job_queue") == 0
    with conn.transaction():
        first = conn.add()
        second = conn.add(blocked_by=first.id)
    assert conn.job_row(second.id)["blocked_by"] == first.id


def test_a_refusal_inside_a_savepoint_leaves_the_callers_transaction_usable(conn: Connection) -> None:
    with conn.transaction():
        kept = conn.add()
        with pytest.raises(Refused), conn.transaction():
            conn.add(priority=500)
    assert conn.job_row(kept.id)["status"] == "pending"


def test_rights_are_looked_up_only_for_a_job_with_a_dedupe_key(conn: Connection) -> None:
    conn.execute("ALTER FUNCTION job_queue_act(text, uuid[], bigint[], text, text, boolean) RENAME TO elsewhere")
    assert producer.enqueue(conn, NewJob("alpha", {}), actor=ACTOR).created
    assert producer.enqueue(conn, NewJob("alpha", {}, dedupe_key="another"), actor=ACTOR).created
    with pytest.raises(psycopg.errors.UndefinedFunction):
        producer.enqueue(conn, NewJob("alpha", {}, dedupe_key="quick-sync:one"), actor=ACTOR)


def test_each_statement_that_enqueues_notifies_once(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as listener:
        listener.execute('LISTEN "public.job_queue"')
        producer.enqueue_many(conn, [NewJob("alpha") for _ in range(50)], actor=ACTOR)
        payloads = [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=1)]
        payloads += [notice.payload for notice in listener.notifies(timeout=0)]
    assert payloads == [""]


class TestBlockers:
    def test_a_job_waits_for_one_that_is_pending_or_running(self, conn: Connection) -> None:
        first = conn.add()
        assert conn.add(blocked_by=first.id).blocked_by == first.id
        conn.claim_one()
        assert conn.add(blocked_by=first.id).blocked_by == first.id

    def test_one_that_has_succeeded_and_left_is_not_waited_for(self, conn: Connection) -> None:
        first = conn.add()
        conn.finish_one(conn.claim_one())
        assert conn.add(blocked_by=first.id).blocked_by is None

    @pytest.mark.parametrize(("outcome", "words"), [("failed", "is failed"), ("cancelled", "is cancelled")])
    def test_one_that_can_no_longer_succeed_is_refused(self, conn: Connection, outcome: str, words: str) -> None:
        first = conn.add()
        conn.finish_one(conn.claim_one(), outcome, permanent=True)
        with conn.changes_nothing(), pytest.raises(Refused, match=words):
            conn.add(blocked_by=first.id)

    def test_one_that_never_was_is_refused(self, conn: Connection) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match="does not exist"):
            conn.add(blocked_by=uuid.uuid4())


class TestBulk:
    @pytest.mark.slow
    def test_ten_thousand_jobs_run_in_the_order_given(self, conn: Connection) -> None:
        ids = producer.enqueue_many(conn, [NewJob("alpha", {"n": n}) for n in range(10_000)], actor=ACTOR)
        assert len(ids) == len(set(ids)) == 10_000
        assert ids == sorted(ids)
        stored = conn.execute("SELECT payload ->> 'n' FROM job_queue ORDER BY id").fetchall()
        assert [int(n) for (n,) in stored] == list(range(10_000))

    def test_their_ids_are_as_those_of_single_jobs_and_told_apart_by_their_ends(self, conn: Connection) -> None:
        before = conn.add().id
        ids = producer.enqueue_many(conn, [NewJob("alpha")] * 3000, actor=ACTOR)
        assert before < ids[0]
        assert ids[-1] < conn.add().id
        assert {(job_id.version, job_id.variant) for job_id in ids} == {(7, uuid.RFC_4122)}
        assert len({job_id.hex[-8:] for job_id in ids}) > 2990

    def test_more_than_one_statements_worth_is_one_transaction(self, conn: Connection) -> None:
        jobs = [NewJob("alpha") for _ in range(producer.BULK)] + [NewJob("alpha", priority=900)]
        with pytest.raises(Refused):
            producer.enqueue_many(conn, jobs, actor=ACTOR)
        assert conn.value("SELECT count(*) FROM job_queue") == 0

    def test_each_job_keeps_its_own_fields(self, conn: Connection) -> None:
        later = conn.now() + timedelta(hours=2)
        ids = producer.enqueue_many(
            conn,
            [
                NewJob("alpha", {"a": 1}, priority=3, max_attempts=0),
                NewJob("beta", {"b": None}, run_at=later, dedupe_key="d", concurrency_key="c", max_attempts=9),
            ],
            actor=ACTOR,
        )
        first, second = (conn.job_row(job_id) for job_id in ids)
        assert (first["task_type"], first["payload"], first["priority"], first["max_attempts"]) == (
            "alpha", {"a": 1}, 3, 1,
        )  # fmt: skip
        assert (second["task_type"], second["payload"], second["run_at"]) == ("beta", {"b": None}, later)
        assert (second["dedupe_key"], second["concurrency_key"], second["max_attempts"]) == ("d", "c", 9)
        assert first["created_by"] == second["created_by"] == f"{ACTOR} (jobdeck)"

    def test_taken_dedupe_keys_are_left_out_of_the_answer(self, conn: Connection) -> None:
        conn.add(dedupe_key="taken")
        jobs = [NewJob("alpha", dedupe_key=key) for key in ("taken", "free", "free", None)]
        assert len(producer.enqueue_many(conn, jobs, actor=ACTOR)) == 2
        assert [row["dedupe_key"] for row in conn.rows("SELECT dedupe_key FROM job_queue ORDER BY id")] == [
            "taken", "free", None,
        ]  # fmt: skip

    def test_none_is_nothing(self, conn: Connection) -> None:
        assert producer.enqueue_many(conn, [], actor=ACTOR) == []

    def test_what_cannot_be_enqueued_in_bulk_is_refused_and_not_left_out(self, conn: Connection) -> None:
        blocker = conn.add()
        special: list[dict[str, Any]] = [
            {"recurrence_interval_minutes": 5},
            {"recurrence_interval_minutes": 0},
            {"blocked_by": blocker.id},
            {"expires_at": conn.now() + timedelta(days=1)},
        ]
        for fields in special:
            with conn.changes_nothing(), pytest.raises(Refused, match="in bulk"):
                producer.enqueue_many(conn, [NewJob("alpha"), NewJob("alpha", **fields)], actor=ACTOR)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"priority": 101}, "a task type and a priority between -100 and 100"),
            ({"priority": -101}, "a task type and a priority between -100 and 100"),
            ({"task_type": " "}, "a task type and a priority between -100 and 100"),
            ({"payload": [1]}, "must be a JSON object"),
            ({"run_at": "infinity"}, "between the years 1 and 9999"),
            ({"dedupe_key": "k" * 1001}, "A key may have 1,000 bytes; this one has 1001"),
            ({"concurrency_key": "k" * 1001}, "A key may have 1,000 bytes; this one has 1001"),
        ],
    )
    def test_what_a_single_enqueue_refuses_is_refused_in_bulk(
        self, conn: Connection, fields: dict[str, Any], words: str
    ) -> None:
        refused = NewJob(**({"task_type": "alpha"} | fields))
        with conn.changes_nothing(), pytest.raises(Refused, match=f"{words}.* None was enqueued"):
            producer.enqueue_many(conn, [NewJob("alpha"), refused], actor=ACTOR)
        with conn.changes_nothing(), pytest.raises(Refused, match=words):
            producer.enqueue(conn, refused, actor=ACTOR)


class TestDedupe:
    def test_enqueueing_again_answers_with_the_job_that_is_there(self, conn: Connection) -> None:
        first = conn.add(payload={"n": 1}, dedupe_key="sync")
        again = service.enqueue(conn, NewJob("alpha", {"n": 2}, dedupe_key="sync"), actor="somebody else")
        assert not again.created
        assert (again.job.id, again.job.payload, again.job.created_by) == (first.id, {"n": 1}, f"{ACTOR} (jobdeck)")

    def test_a_running_job_holds_its_key_and_a_finished_one_does_not(self, conn: Connection) -> None:
        first = conn.add(dedupe_key="sync")
        claimed = conn.claim_one()
        held = service.enqueue(conn, NewJob("alpha", dedupe_key="sync"), actor=ACTOR)
        assert (held.created, held.job.id, held.job.status) == (False, first.id, Status.RUNNING)
        conn.finish_one(claimed)
        assert service.enqueue(conn, NewJob("alpha", dedupe_key="sync"), actor=ACTOR).created

    def test_a_failed_job_does_not_hold_its_key(self, conn: Connection) -> None:
        conn.add(dedupe_key="sync")
        conn.finish_one(conn.claim_one(), "failed", permanent=True)
        assert service.enqueue(conn, NewJob("alpha", dedupe_key="sync"), actor=ACTOR).created

    def test_a_series_holds_its_key_for_ever(self, conn: Connection) -> None:
        series = conn.add(dedupe_key="sync", recurrence_interval_minutes=5)
        conn.finish_one(conn.claim_one())
        again = service.enqueue(conn, NewJob("alpha", dedupe_key="sync"), actor=ACTOR)
        assert (again.created, again.job.id) == (False, series.id)


def test_a_producer_that_inserts_directly_is_served(conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type, payload) VALUES ('alpha', '{\"coachId\": null}')")
    conn.execute(
        """
        INSERT INTO job_queue (task_type, is_recurring, recurrence_interval_minutes) VALUES ('alpha', true, 60)
        """
    )
    claimed = conn.claim()
    assert [job.payload for job in claimed] == [{"coachId": None}, {}]
    answer = conn.finish_one(claimed[1])
    assert answer.status is Status.PENDING
    assert answer.run_at == claimed[1].due_at + timedelta(hours=1)


NO_INTERVAL = "A recurring job needs an interval of 1 minute or more"
STRAY_INTERVAL = "A job that is not recurring has no interval"


@pytest.mark.parametrize(
    ("recurring", "interval", "words"),
    [
        (True, None, NO_INTERVAL),
        (True, 0, NO_INTERVAL),
        (True, -1, NO_INTERVAL),
        (False, 5, STRAY_INTERVAL),
        (False, -1, STRAY_INTERVAL),
    ],
)
def test_an_insert_with_an_interval_that_does_not_fit_is_refused_with_a_sentence(
    conn: Connection, recurring: bool, interval: int | None, words: str
) -> None:
    statement = "INSERT INTO job_queue (task_type, is_recurring, recurrence_interval_minutes) VALUES ('alpha', %s, %s)"
    with conn.changes_nothing(), pytest.raises(psycopg.Error, match=words) as refusal:
        conn.execute(statement, (recurring, interval))
    assert refusal.value.sqlstate == "JD001"


def test_a_series_that_ended_without_an_interval_does_not_go_on_by_an_update(conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type, is_recurring, status) VALUES ('alpha', true, 'failed')")
    with conn.changes_nothing(), pytest.raises(psycopg.Error, match=NO_INTERVAL):
        conn.execute("UPDATE job_queue SET status = 'pending', run_at = now()")
