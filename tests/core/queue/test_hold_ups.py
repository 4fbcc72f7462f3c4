"""No role that only looks, and no producer, holds up work, enqueues or operators' actions, whatever it leaves open.

Each statement that is tried ends while the other session keeps its transaction open: who waits for that ends by
`statement_timeout`. The limits themselves, of 1.5 and 2 seconds, are in the schema's functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob, Status
from jobdeck.core.queue import bulk, leases, presence, producer
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.schema import install_schema
from tests.core.queue.test_every_right import MAY_ENQUEUE, PRODUCERS
from tests.support.people import People
from tests.support.queue import ACTOR, WORKER, Connection

pytestmark = pytest.mark.installation


DAY: Final = timedelta(days=1)
KEYS: Final = [f"key-{n:03}" for n in range(100)]
LOCK_OF_INIT_BEFORE: Final = 6_221_017_304


@pytest.fixture
def hasty(owner: Connection, database_url: str) -> Iterator[Connection]:
    """Does the queue's work as its owner, and waits for nobody for long."""
    del owner
    with Connection.connect(database_url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '60s'")
        yield connection


@pytest.fixture
def application(owner: Connection, people: People, database_url: str) -> Iterator[Connection]:
    """A producer's connection."""
    with people.sign_in(database_url, None) as connection:
        name = sql.Identifier(connection.info.user)
        for statement in (PRODUCERS, MAY_ENQUEUE):
            owner.execute(sql.SQL(statement).format(role=name))
        yield connection
    owner.execute(sql.SQL("DROP OWNED BY {}").format(name))


def look_and_hold(viewer: Connection) -> None:
    """Takes all that a viewer can: an old snapshot, locks of all it may read, advisory locks."""
    viewer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    readable = viewer.rows(
        """
        SELECT c.relname AS name FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
            AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege(c.oid, 'select') ORDER BY 1
        """,
    )
    assert len(readable) > 10
    for relation in readable:
        name = sql.Identifier(relation["name"])
        viewer.execute(sql.SQL("SELECT count(*) FROM {}").format(name))
        viewer.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(name))
    viewer.execute("SELECT pg_advisory_xact_lock(n) FROM generate_series(-64, 200) AS n")
    viewer.execute("SELECT pg_advisory_xact_lock(%s), pg_advisory_xact_lock(hashtext('public.job_queue'), 0)",
                   [LOCK_OF_INIT_BEFORE])  # fmt: skip
    viewer.execute('LISTEN "public.job_queue"')


def failed_job(conn: Connection, *, dedupe_key: str | None = None) -> UUID:
    """A job that failed for good."""
    statement = """
        INSERT INTO job_queue (task_type, status, completed_at, dedupe_key) VALUES ('gamma', 'failed', now(), %s)
        RETURNING id
    """
    made: UUID = conn.value(statement, dedupe_key)
    return made


def work(conn: Connection) -> None:
    """A worker's day: claim, heartbeat, checkpoint, each way to finish, upkeep, records."""
    first = conn.add(concurrency_key="c")
    second = conn.add(blocked_by=first.id)
    running = conn.claim_one()
    assert leases.heartbeat(conn, WORKER, [(running.id, running.run_token, {"n": 1})], 60)[0].alive
    assert leases.save_checkpoint(conn, running.id, running.run_token, {"n": 1})
    assert conn.finish_one(running).recorded.value == "succeeded"
    running = conn.claim_one()
    assert running.id == second.id
    assert conn.finish_one(running, "failed").recorded.value == "retried"
    conn.add("beta", dedupe_key="b")
    assert conn.finish_one(conn.claim_one(["beta"]), "failed", permanent=True).status is Status.FAILED
    conn.reap()
    bulk.resume_stalled(conn, WORKER)
    run_id = presence.open_worker_run(conn, source="worker", worker_id=WORKER)
    presence.close_worker_run(conn, run_id, status="ok", claimed=1, succeeded=1, failed=0, released=0)


def operate(conn: Connection) -> None:
    """Each action of an operator, on jobs of its own."""
    ids = [failed_job(conn) for _ in range(3)]
    assert all(answer.ok for answer in queue_operator.retry(conn, ids, actor=ACTOR))
    assert queue_operator.edit(conn, ids[0], changes={"priority": 3}, actor=ACTOR).ok
    assert all(answer.ok for answer in queue_operator.cancel(conn, ids, actor=ACTOR))
    assert all(answer.ok for answer in queue_operator.delete(conn, ids, actor=ACTOR))
    assert all(answer.ok for answer in queue_operator.restore(conn, ids, actor=ACTOR))
    queue_operator.pause(conn, reason=None, actor=ACTOR)
    queue_operator.resume(conn, actor=ACTOR)
    queue_operator.pause(conn, reason=None, actor=ACTOR, task_type="gamma")
    queue_operator.resume(conn, actor=ACTOR, task_type="gamma")
    queue_operator.cleanup(conn, actor=ACTOR, older_than=DAY, dry_run=False)
    conn.execute("UPDATE job_queue SET completed_at = now() - interval '20 days' WHERE status = 'cancelled'")
    assert queue_operator.purge(conn, actor=ACTOR, older_than=DAY, dry_run=False) == 3


class TestAViewer:
    def test_what_it_reads_locks_and_keeps_open_holds_up_nobody(self, hasty: Connection, viewer: Connection) -> None:
        look_and_hold(viewer)
        work(hasty)
        operate(hasty)
        assert len(producer.enqueue_many(hasty, [NewJob("delta", dedupe_key=key) for key in KEYS], actor=ACTOR)) == 100

    def test_its_old_snapshot_does_not_slow_claims_down(self, hasty: Connection, viewer: Connection) -> None:
        look_and_hold(viewer)
        for _ in range(10):
            producer.enqueue_many(hasty, [NewJob("alpha")] * 500, actor=ACTOR)
            for claimed in hasty.claim(limit=500):
                hasty.finish_one(claimed)
        assert hasty.value("SELECT count(*) FROM job_queue") == 0

    def test_an_installation_that_waits_for_it_lets_work_through(
        self, owner: Connection, hasty: Connection, viewer: Connection
    ) -> None:
        look_and_hold(viewer)
        said: list[str] = []

        def waits(sentence: str) -> None:
            said.append(sentence)
            work(hasty)
            viewer.execute("ROLLBACK")

        install_schema(owner, waits=waits)
        assert f"pid {viewer.info.backend_pid}" in said[0]


class TestAProducer:
    def enqueue_and_hold(self, application: Connection, *, blocker: object = None) -> None:
        """Enqueues with keys and a blocker, and does not commit."""
        application.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        application.execute(
            "SELECT job_queue_create('alpha', '{}', null, 1, 0, 'one', 'c', %s, null, null, 'app')", [blocker]
        )
        application.execute(
            "SELECT job_queue_create_many(array_fill('alpha'::text, '{100}'), null, null, null, null, %s, null, 'app')",
            [KEYS],
        )
        application.execute("SELECT job_queue_enqueue('alpha')")
        application.execute("SELECT pg_advisory_xact_lock(n) FROM generate_series(-64, 200) AS n")

    def test_what_it_enqueues_and_does_not_commit_holds_up_no_work_and_no_action(
        self, hasty: Connection, application: Connection
    ) -> None:
        waits_for = hasty.add("blocker", concurrency_key="c")
        self.enqueue_and_hold(application, blocker=waits_for.id)
        assert hasty.finish_one(hasty.claim_one(["blocker"])).recorded.value == "succeeded"
        work(hasty)
        operate(hasty)
        hasty.add("delta", dedupe_key="another", concurrency_key="c")

    def test_an_enqueue_with_the_same_dedupe_key_is_refused_in_a_sentence(
        self, hasty: Connection, application: Connection
    ) -> None:
        self.enqueue_and_hold(application)
        with pytest.raises(Refused, match="Another transaction enqueues a job with the same dedupe key"):
            producer.enqueue(hasty, NewJob("alpha", dedupe_key="one"), actor=ACTOR)
        with pytest.raises(Refused, match="Another transaction enqueues a job with the same dedupe key"):
            producer.enqueue_many(hasty, [NewJob("alpha", dedupe_key=key) for key in KEYS], actor=ACTOR)
        assert hasty.value("SELECT count(*) FROM job_queue") == 0
        application.execute("COMMIT")
        assert not producer.enqueue(hasty, NewJob("alpha", dedupe_key="one"), actor=ACTOR).created

    def test_retries_and_restores_of_jobs_with_its_dedupe_keys_are_refused_each_in_a_sentence(
        self, owner: Connection, hasty: Connection, application: Connection
    ) -> None:
        failed = [failed_job(owner, dedupe_key=key) for key in KEYS[:50]]
        deleted = [owner.add(dedupe_key=key).id for key in KEYS[50:]]
        free = failed_job(owner, dedupe_key="free")
        beside = [owner.add().id, owner.add(dedupe_key="beside").id]
        queue_operator.delete(owner, [*deleted, *beside], actor=ACTOR)
        self.enqueue_and_hold(application)
        answers = queue_operator.retry(hasty, [*failed, free], actor=ACTOR)
        assert {answer.job_id for answer in answers if answer.ok} == {free}
        assert {answer.code for answer in answers if not answer.ok} == {"key-locked"}
        assert "try again" in answers[0].message.lower()
        answers = queue_operator.restore(hasty, [*deleted, *beside], actor=ACTOR)
        assert {answer.job_id for answer in answers if answer.ok} == set(beside)
        assert {answer.code for answer in answers if not answer.ok} == {"key-locked"}
        application.execute("ROLLBACK")
        assert all(answer.ok for answer in queue_operator.retry(hasty, failed, actor=ACTOR))
        assert all(answer.ok for answer in queue_operator.restore(hasty, deleted, actor=ACTOR))


def test_the_statements_of_the_security_page_take_away_what_fills_the_memory_for_locks(
    owner: Connection, hasty: Connection, viewer: Connection
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    (hardening,) = re.findall(r"^```sql\n(do \$\$.*?)^```", page, re.MULTILINE | re.DOTALL)
    owner.execute(hardening.encode())
    locks = owner.rows("SELECT proname AS name FROM pg_proc WHERE proname ~ '^pg_.*advisory.*lock' "
                        "AND proname !~ 'unlock' AND pronargs = 1")  # fmt: skip
    assert len(locks) == 8
    for lock in locks:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            viewer.execute(sql.SQL("SELECT {}(1)").format(sql.Identifier(lock["name"])))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        viewer.execute("CREATE TEMP TABLE mine (id integer)")
    work(hasty)
