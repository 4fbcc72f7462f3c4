"""Each job runs, and on time, after an installation over the original's queue and after `undo` and a second one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import presence
from jobdeck.core.registry import JobType, NoArguments
from jobdeck.core.schema import install_schema
from tests.support.earlier_runner import fail, succeed, take
from tests.support.original import OWNER, copy_of_original, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection

pytestmark = pytest.mark.installation

TYPES = (
    JobType("sync", lambda *_: None, "", "", NoArguments, concurrency="type"),
    JobType("flash", lambda *_: None, "", "", NoArguments, concurrency="key:sync"),
)
"""Types that run one at a time, as the original's sync and its sync of Flash events do."""


@pytest.fixture(scope="module")
def before_database(postgres: PostgresServer) -> str:
    """The original's database without its jobs, before the installation."""
    name = original_database(postgres, programme=True)
    with postgres.connect(name, OWNER) as connection:
        connection.execute("DELETE FROM job_queue")
    return name


@pytest.fixture
def conn(postgres: PostgresServer, before_database: str) -> Iterator[Connection]:
    """Its owner's connection to a copy of it."""
    with its_owner(postgres, copy_of_original(postgres, before_database)) as connection:
        yield connection


def install(conn: Connection) -> None:
    """As `jobdeck init` does it."""
    install_schema(conn)
    presence.declare_types(conn, TYPES)


def undo(conn: Connection) -> list[str]:
    return ends.undo(conn, actor=ACTOR, reason="it went wrong")


def enqueue(
    conn: Connection, task_type: str, status: str = "pending", *, changed: str = "0 s", attempts: int = 0
) -> UUID:
    """A job as the original's pages insert it, or as its runner left it `changed` ago."""
    found: UUID = conn.value(
        "INSERT INTO job_queue (task_type, status, attempts, run_at, updated_at) "
        "VALUES (%s, %s, %s, now() - %s::interval, now() - %s::interval) RETURNING id",
        task_type, status, attempts, changed, changed,
    )  # fmt: skip
    return found


def series(conn: Connection, task_type: str, *, ran: str = "16 min", attempts: int = 37) -> UUID:
    """One of every 15 minutes that the original has run until `ran` ago."""
    found: UUID = conn.value(
        "INSERT INTO job_queue (task_type, run_at, attempts, is_recurring, recurrence_interval_minutes, last_run_at) "
        "VALUES (%s, now() - %s::interval, %s, true, 15, now() - %s::interval) RETURNING id",
        task_type, ran, attempts, ran,
    )  # fmt: skip
    return found


def taken(conn: Connection) -> set[UUID]:
    return {row["id"] for row in take(conn)}


def due(conn: Connection, job: UUID) -> datetime:
    """One interval after its last run."""
    found: datetime = conn.job_row(job)["last_run_at"] + timedelta(minutes=15)
    return found


class TestDeadRuns:
    def test_a_run_that_died_before_the_installation_holds_up_no_job_of_its_key(self, conn: Connection) -> None:
        dead = enqueue(conn, "sync", "running", changed="2 days", attempts=1)
        waiting = series(conn, "flash")
        install(conn)
        enqueued = enqueue(conn, "sync")
        assert taken(conn) == {waiting}
        assert conn.job_row(dead)["last_outcome"] == "lost"
        succeed(conn, waiting)
        assert taken(conn) == {enqueued}

    def test_a_run_that_dies_beside_the_installation_comes_back_when_its_lease_is_over(self, conn: Connection) -> None:
        install(conn)
        dead = enqueue(conn, "sync")
        assert taken(conn) == {dead}
        behind = enqueue(conn, "sync")
        assert taken(conn) == set()
        conn.advance(timedelta(minutes=21))
        assert taken(conn) == {behind}
        succeed(conn, behind)
        conn.advance(timedelta(minutes=5))
        assert taken(conn) == {dead}

    def test_a_dead_run_that_somebody_cancels_ends_as_cancelled(self, conn: Connection) -> None:
        dead = enqueue(conn, "sync", "running", changed="2 days", attempts=1)
        install(conn)
        conn.execute("UPDATE job_queue SET status = 'cancelled', completed_at = now() WHERE id = %s", (dead,))
        assert taken(conn) == set()
        assert conn.job_row(dead)["status"] == "cancelled"


class TestSecondRound:
    """After `undo` and a second installation."""

    def test_a_series_is_due_one_interval_after_its_last_run_and_has_all_its_attempts(self, conn: Connection) -> None:
        job = series(conn, "sync", ran="10 min")
        install(conn)
        undo(conn)
        conn.advance(timedelta(minutes=6))
        assert taken(conn) == {job}
        succeed(conn, job)
        conn.advance(timedelta(minutes=1))
        install(conn)
        row = conn.job_row(job)
        assert (row["run_at"], row["anchor_at"], row["attempts"]) == (due(conn, job), due(conn, job), 0)
        assert taken(conn) == set()
        conn.advance(row["run_at"] - conn.now() + timedelta(seconds=1))
        assert taken(conn) == {job}
        assert fail(conn, job, 0)["last_outcome"] == "retried"

    def test_a_series_that_waited_for_a_retry_starts_a_cycle_of_its_own(self, conn: Connection) -> None:
        job = series(conn, "sync")
        install(conn)
        assert taken(conn) == {job}
        fail(conn, job, 600_000)
        assert conn.job_row(job)["slot_at"] is not None
        undo(conn)
        install(conn)
        row = conn.job_row(job)
        assert (row["run_at"], row["slot_at"], row["attempts"]) == (due(conn, job), None, 0)

    def test_a_series_that_runs_meanwhile_goes_on_from_the_slot_that_the_original_gave_it(
        self, conn: Connection
    ) -> None:
        job = series(conn, "sync", attempts=9000)
        install(conn)
        undo(conn)
        conn.advance(timedelta(minutes=7))
        assert taken(conn) == {job}
        install(conn)
        row = conn.job_row(job)
        assert (row["status"], row["anchor_at"], row["attempts"]) == ("running", row["run_at"], 1)
        assert fail(conn, job, 0)["last_outcome"] == "retried"

    def test_jobs_that_waited_for_their_turn_or_a_job_that_has_ended_wait_no_more(self, conn: Connection) -> None:
        install(conn)
        first = enqueue(conn, "sync")
        assert taken(conn) == {first}
        second = series(conn, "flash")
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE id = %s", (first, second))
        assert conn.job_row(second)["in_line"]
        undo(conn)
        assert taken(conn) == {second}
        conn.execute("SELECT job_queue_mark_succeeded(p_job_id => id) FROM job_queue")
        conn.execute("DELETE FROM job_queue WHERE id = %s", (first,))
        install(conn)
        conn.advance(timedelta(minutes=16))
        assert taken(conn) == {second}

    def test_a_job_waits_on_for_one_that_has_not_ended(self, conn: Connection) -> None:
        install(conn)
        first = enqueue(conn, "sync")
        assert taken(conn) == {first}
        second = conn.add(blocked_by=first)
        undo(conn)
        install(conn)
        assert taken(conn) == set()
        succeed(conn, first)
        assert taken(conn) == {second.id}

    def test_of_two_jobs_of_one_dedupe_key_that_the_original_has_one_keeps_it(self, conn: Connection) -> None:
        install(conn)
        failed = conn.add(dedupe_key="one")
        assert taken(conn) == {failed.id}
        fail(conn, failed.id)
        other = conn.add(dedupe_key="one")
        undo(conn)
        conn.execute("UPDATE job_queue SET status = 'pending' WHERE id = %s", (failed.id,))
        install(conn)
        assert [conn.job_row(job)["dedupe_key"] for job in (failed.id, other.id)] == ["one", None]

    def test_two_jobs_of_one_key_that_the_original_runs_together_both_end(self, conn: Connection) -> None:
        install(conn)
        both = {enqueue(conn, "sync"), series(conn, "flash")}
        undo(conn)
        assert taken(conn) == both
        install(conn)
        running = conn.rows("SELECT id, concurrency_key FROM job_queue WHERE status = 'running'")
        assert {row["id"] for row in running} == both
        assert {row["concurrency_key"] for row in running} == {"sync", None}
        assert all(succeed(conn, job)["id"] == job for job in both)
        assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 0

    def test_jobs_that_were_inserted_meanwhile_get_their_keys(self, conn: Connection) -> None:
        install(conn)
        undo(conn)
        job = enqueue(conn, "flash")
        install(conn)
        assert conn.job_row(job)["concurrency_key"] == "sync"
