"""What docs/enqueueing.md tells applications about their own transactions and tables."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from jobdeck.core.errors import Locked
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import job_type, nothing, working


@pytest.fixture
def prepares(postgres: PostgresServer, conn: Connection) -> Iterator[str]:
    """The name of a database on whose server transactions can be prepared."""
    name: str = conn.info.dbname
    conn.close()
    try:
        with postgres.connect() as admin:
            admin.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        postgres.restart()
        yield name
    finally:
        with postgres.connect() as admin:
            admin.execute("ALTER SYSTEM RESET max_prepared_transactions")
        postgres.restart()


@pytest.mark.slow
def test_a_transaction_that_enqueues_cannot_be_prepared_because_of_its_notify(
    postgres: PostgresServer, prepares: str
) -> None:
    with postgres.connect(prepares) as conn:
        for statement in ("BEGIN", "CREATE TABLE orders ()", "PREPARE TRANSACTION 'alone'", "COMMIT PREPARED 'alone'"):
            conn.execute(statement)
        conn.execute("BEGIN")
        producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            conn.execute("PREPARE TRANSACTION 'with a job'")
        assert conn.value("SELECT count(*) FROM job_queue") == 0


def test_a_foreign_key_on_the_queue_makes_a_run_that_has_worked_a_failed_one(
    conn: Connection, database_url: str
) -> None:
    worked: list[bool] = []
    job = conn.add("invoice", max_attempts=1).id
    conn.execute("CREATE TABLE invoices (job_id uuid REFERENCES job_queue (id))")
    conn.execute("INSERT INTO invoices VALUES (%s)", [job])
    with working(database_url, job_type("invoice", lambda _params, _ctx: worked.append(True))):
        until(lambda: conn.status_of(job) == "failed", "the report")
    assert worked == [True]


def test_a_plain_column_with_the_id_does_not(conn: Connection, database_url: str) -> None:
    job = conn.add("invoice").id
    conn.execute("CREATE TABLE invoices (job_id uuid)")
    conn.execute("INSERT INTO invoices VALUES (%s)", [job])
    with working(database_url, job_type("invoice", nothing)):
        until(lambda: conn.status_of(job) is None, "the end of the job")
    assert conn.outcomes(job) == ["succeeded"]


def test_an_enqueue_waits_for_an_upgrade_for_a_second_and_a_half_and_may_then_be_tried_again(
    conn: Connection, database_url: str
) -> None:
    conn.execute("SET statement_timeout = '30s'")
    call = b"SELECT job_queue_create('alpha', '{}', now(), 1, 0, NULL, NULL, NULL, NULL, NULL, 'shop')"
    with Connection.connect(database_url) as upgrade:
        upgrade.execute("LOCK TABLE job_queue IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable) as refused:
            conn.execute(call)
        waited = time.monotonic() - began
        with pytest.raises(Locked):
            producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
        upgrade.commit()
    assert refused.value.sqlstate == "55P03"
    assert waited >= 1.5
    assert conn.value("SELECT count(*) FROM job_queue") == 0
    conn.execute(call)
    assert conn.value("SELECT count(*) FROM job_queue") == 1
