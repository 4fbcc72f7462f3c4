"""What an action on many jobs costs the server, counted and not timed, and that its undo leaves nothing out."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from jobdeck.core.model import Filter, NewJob
from jobdeck.core.queue import bulk, producer
from jobdeck.core.queue.bulk_model import BulkVerb, Choice
from jobdeck.core.queue.operators.payload_change import PayloadChange
from tests.core.queue.test_bulk_edit import edit_all
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, Connection

MANY = 20_000
BATCH = 500


def fill(conn: Connection, number: int) -> None:
    conn.execute(
        "INSERT INTO job_queue (task_type, payload) SELECT 'alpha', '{}' FROM generate_series(1, %s)",
        (number,),
    )


def started(conn: Connection, verb: BulkVerb) -> UUID:
    choice = bulk.choose(conn, Filter(), actor=ACTOR)
    assert choice is not None
    return bulk.start(conn, choice.bulk.id, verb, actor=ACTOR).id


def restoring(conn: Connection, deleted: UUID) -> UUID:
    choice = bulk.choose_again(conn, deleted, "done", actor=ACTOR)
    assert choice is not None
    return bulk.start(conn, choice.bulk.id, "restore", actor=ACTOR).id


def to_the_end(conn: Connection, action: UUID) -> None:
    while bulk.step(conn, action, driver=ACTOR, limit=BATCH).state == "running":
        pass


def stepping(action: UUID) -> Callable[[Connection], object]:
    return lambda conn: bulk.step(conn, action, driver=ACTOR, limit=BATCH)


def calls(conn: Connection, function: str) -> int:
    conn.execute("SELECT pg_stat_force_next_flush()")
    return int(conn.value("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = %s", function))


@pytest.mark.slow
def test_each_way_to_choose_reads_no_more_jobs_than_it_chooses(conn: Connection) -> None:
    fill(conn, MANY)
    conn.execute(
        "INSERT INTO job_queue (task_type, status, completed_at, fingerprint, payload) "
        "SELECT 'alpha', 'failed', now(), '00112233aabb', '{}' FROM generate_series(1, 20)"
    )
    conn.execute("VACUUM ANALYZE job_queue")
    ids = [row["id"] for row in conn.rows("SELECT id FROM job_queue WHERE fingerprint IS NOT NULL ORDER BY id")]
    edited = edit_all(
        conn,
        PayloadChange({"url": "https://new.example.org"}),
        frozen=bulk.choose_ids(conn, dict.fromkeys(ids), actor=ACTOR).bulk,
        limit=20,
    )
    ways: dict[str, Callable[[Connection], Choice | None]] = {
        "ids": lambda conn: bulk.choose_ids(conn, dict.fromkeys(ids), actor=ACTOR),
        "filter": lambda conn: bulk.choose(conn, Filter(fingerprint="00112233aabb"), actor=ACTOR),
        "group": lambda conn: bulk.choose_alike(conn, "alpha", "00112233aabb", actor=ACTOR),
        "again": lambda conn: bulk.choose_again(conn, edited.id, "done", actor=ACTOR),
        "edited": lambda conn: bulk.choose_undo(conn, edited, actor=ACTOR),
    }
    for name, choose in ways.items():
        choice = choose(conn)
        assert choice is not None, name
        assert choice.bulk.total == 20, name
        cost = cost_of(conn, choose)
        assert cost.whole_tables == [], name
        assert cost.rows < 1_000, (name, cost.entries)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["delete", "restore"])
def test_the_last_batches_of_a_long_action_read_no_more_than_the_first_beside_an_old_transaction(
    conn: Connection, database_url: str, verb: BulkVerb
) -> None:
    fill(conn, MANY)
    action = started(conn, "delete")
    if verb == "restore":
        to_the_end(conn, action)
        action = restoring(conn, action)
    with Connection.connect(database_url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM job_bulk_items")  # from now on, no dead entry of an index is taken out
        first = cost_of(conn, stepping(action), undo=False)
        for _ in range(MANY // BATCH - 6):
            bulk.step(conn, action, driver=ACTOR, limit=BATCH)
        last = cost_of(conn, stepping(action), undo=False)
    assert last.rows < 1.5 * first.rows, (first.entries, last.entries)
    assert not last.whole_tables


@pytest.mark.slow
def test_the_undo_of_an_edit_finds_former_payloads_without_reading_the_audit(conn: Connection) -> None:
    fill(conn, 100)
    conn.execute("VACUUM ANALYZE")  # of an empty audit, which grows at once
    edited = edit_all(conn, PayloadChange({"url": "https://new.example.org"}))
    conn.execute(
        "INSERT INTO job_audit (actor, action, job_id, before, after) "
        "SELECT a.actor, a.action, gen_random_uuid(), a.before, a.after FROM job_audit AS a, generate_series(1, 100) "
        "WHERE a.action = 'edit'"
    )
    choice = bulk.choose_undo(conn, edited, actor=ACTOR)
    assert choice is not None
    action = bulk.start(conn, choice.bulk.id, "revert", actor=ACTOR).id
    cost = cost_of(conn, stepping(action), undo=False)
    assert cost.entries["job_audit_payloads"] == 0, cost.entries
    assert cost.rows < 5000, cost.entries
    assert conn.rows("SELECT DISTINCT payload FROM job_queue") == [{"payload": {}}]


@pytest.mark.slow
def test_a_batch_calls_what_runs_statements_once_and_not_for_each_job(conn: Connection) -> None:
    fill(conn, BATCH)
    conn.execute("SET track_functions = 'all'")
    deleted = started(conn, "delete")
    to_the_end(conn, deleted)
    to_the_end(conn, restoring(conn, deleted))
    fill(conn, 100)
    to_the_end(conn, started(conn, "delete"))

    once = ("job_queue_release_waiting", "job_queue_lock_waiting", "job_queue_write_audit", "job_queue_advance_lines")
    assert {name: calls(conn, name) < 20 for name in once} == dict.fromkeys(once, True)


def test_the_undo_of_a_bulk_deletion_brings_every_job_back_as_it_was(conn: Connection) -> None:
    first = producer.enqueue(conn, NewJob("alpha", dedupe_key="one"), actor=ACTOR)
    for number in range(5):
        producer.enqueue(conn, NewJob("alpha", {"n": number}, blocked_by=first.job_id), actor=ACTOR)
    producer.enqueue_many(conn, [NewJob("beta", dedupe_key=f"key {n}") for n in range(5)], actor=ACTOR)
    producer.enqueue_many(conn, [NewJob("gamma", concurrency_key="line") for _ in range(5)], actor=ACTOR)
    seen = "SELECT to_jsonb(q) - '{version,updated_at,in_line}'::text[] AS job FROM job_queue q ORDER BY id"
    before = conn.rows(seen)
    heads = "SELECT concurrency_key FROM job_queue WHERE concurrency_key IS NOT NULL AND NOT in_line"
    first_in_line = conn.rows(heads)

    deleted = started(conn, "delete")
    to_the_end(conn, deleted)
    assert conn.value("SELECT count(*) FROM job_queue") == 0
    assert conn.value("SELECT count(*) FROM job_trash") == len(before)
    to_the_end(conn, restoring(conn, deleted))

    assert conn.rows(seen) == before
    assert conn.value("SELECT count(*) FROM job_trash") == 0
    assert conn.rows(heads) == first_in_line
    assert conn.claim_one(["gamma"]).task_type == "gamma"
    audited = conn.rows("SELECT action, count(*) FROM job_audit WHERE job_id IS NOT NULL GROUP BY 1 ORDER BY 1")
    assert {row["action"]: row["count"] for row in audited if row["action"] in {"delete", "restore"}} == {
        "delete": len(before),
        "restore": len(before),
    }
