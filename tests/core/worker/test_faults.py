"""One worker beside faults of its database: locked rows, reports that cannot be stored, read-only servers, clocks."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.model import FinishedRun, RunOutcome
from jobdeck.core.postgres.database import Database
from jobdeck.core.postgres.reconnecting import Link
from jobdeck.core.queue import leases
from jobdeck.core.queue.leases import Renewed
from jobdeck.core.worker import heartbeat, maintenance
from jobdeck.core.worker.completer import Completer
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.heartbeat import Heartbeat
from jobdeck.core.worker.maintenance import ClockWatch
from jobdeck.core.worker.state import SAFE_SHARE, WorkerState
from jobdeck.core.worker.worker import Worker
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, beside, until
from tests.support.working import Held, a_state, a_worker, claimed, job_type, nothing, quick_settings, working


def has_ended(conn: Connection, task_type: str, runs: int) -> bool:
    return len(ended(conn, task_type)) == runs


def ended(conn: Connection, task_type: str) -> list[str]:
    found = conn.execute("SELECT outcome FROM job_runs WHERE task_type = %s", (task_type,))
    return [outcome for (outcome,) in found]


@pytest.mark.slow
def test_a_row_that_another_session_holds_for_longer_than_a_lease_delays_that_job_alone(
    conn: Connection, database_url: str, held: Held
) -> None:
    long = Held()
    settings = quick_settings(lease_seconds=10.0, heartbeat_seconds=0.2)
    types = (job_type("held", held), job_type("long", long), job_type("quick", nothing))
    first = conn.add("held").id
    second = conn.add("long").id
    with working(database_url, *types, settings=settings, concurrency=4):
        held.wait_for()
        long.wait_for()
        with Connection.connect(database_url) as holder:
            holder.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (first,))
            lease = "SELECT lease_expires_at < clock_timestamp() FROM job_queue WHERE id = %s"
            rounds = 0
            while conn.execute(lease, (first,)).fetchone() != (True,) or rounds < 3:
                rounds += 1
                for _ in range(10):
                    conn.add("quick")
                until(functools.partial(has_ended, conn, "quick", 10 * rounds))
            assert set(ended(conn, "quick")) == {"succeeded"}
            long.let_go()
            until(lambda: conn.status_of(second) is None, "the end of the other long job")
            assert conn.outcomes(second) == ["succeeded"]
            holder.rollback()
        held.let_go()
        until(lambda: conn.status_of(first) is None, "the end of the held job")


def test_a_lease_and_progress_that_a_locked_row_did_not_take_are_sent_again_before_the_next_heartbeat(
    conn: Connection, database_url: str
) -> None:
    conn.add("alpha")
    (job,) = leases.claim(conn, "w", ["alpha"], 1, 60.0)
    stored = "SELECT lease_expires_at, progress ->> 'done' FROM job_queue"
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0, heartbeat_seconds=20.0) as state,
        Connection.connect(database_url) as holder,
    ):
        state.held[job.run_token] = context = RunContext(job, state.resources, 0.0, math.inf)
        context.progress(1, 2)
        beating = Heartbeat(state)
        holder.execute("SELECT FROM job_queue FOR UPDATE")
        beating.beat_soon()
        beating._step()
        claimed_until, progress = conn.execute(stored).fetchall()[0]
        assert progress is None
        holder.rollback()
        beating._step()
        beating._link.close()
    renewed_until, progress = conn.execute(stored).fetchall()[0]
    assert renewed_until > claimed_until
    assert progress == "1"


def answered_at(monkeypatch: pytest.MonkeyPatch, name: str) -> list[float]:
    """When the database was asked for what it gave, by the function of `leases` with this name."""
    asked = []
    real = getattr(leases, name)

    def call(*arguments: Any) -> Any:
        at = time.monotonic()
        found = real(*arguments)
        if found:
            asked.append(at)
        return found

    monkeypatch.setattr(leases, name, call)
    return asked


@pytest.mark.parametrize("runs", [Worker.run_until_idle, Worker.run_cycle])
def test_the_lease_of_a_claim_counts_from_the_request(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, runs: Callable[[Worker], object]
) -> None:
    asked = answered_at(monkeypatch, "claim")
    ends: list[float] = []
    conn.add("alpha")
    alpha = job_type("alpha", lambda _params, ctx: ends.append(ctx.lease_end))
    settings = quick_settings(lease_seconds=600.0, heartbeat_seconds=200.0)
    with a_worker(database_url, alpha, settings=settings) as worker:
        runs(worker)
    assert len(ends) == len(asked) == 1
    assert ends[0] <= asked[0] + 600.0 * SAFE_SHARE


def test_a_renewed_lease_counts_from_the_request(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answered_at(monkeypatch, "heartbeat")
    conn.add("alpha")
    (job,) = leases.claim(conn, "w", ["alpha"], 1, 60.0)
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0, heartbeat_seconds=20.0) as state,
    ):
        state.held[job.run_token] = context = RunContext(job, state.resources, 0.0, 0.0)
        beating = Heartbeat(state)
        beating.beat_soon()
        beating._step()
        beating._link.close()
    assert len(asked) == 1
    assert 0.0 < context.lease_end <= asked[0] + 60.0 * SAFE_SHARE


def test_a_lease_that_several_heartbeats_could_not_renew_is_sent_once_in_each_statement(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.add("alpha")
    (job,) = leases.claim(conn, "w", ["alpha"], 1, 60.0)
    sent = []

    def beat(_conn: Connection, _worker: str, held: Sequence[object], *_: object) -> list[Renewed]:
        sent.append(len(held))
        return []

    monkeypatch.setattr(leases, "heartbeat", beat)
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0, heartbeat_seconds=20.0) as state,
    ):
        state.held[job.run_token] = RunContext(job, state.resources, 0.0, math.inf)
        beating = Heartbeat(state)
        for _ in range(3):
            beating.beat_soon()
            beating._step()
        beating._step()
        beating._link.close()
    assert sent == [1, 1, 1, 1]


def test_the_progress_of_many_runs_is_sent_in_statements_of_limited_size(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del conn
    sent = []

    def beat(_conn: Connection, _worker: str, held: Sequence[tuple[UUID, int, object]], *_: object) -> list[Renewed]:
        sent.append([token for _, token, _ in held])
        return [leases.Renewed(job_id, token, alive=True, cancel_requested=False) for job_id, token, _ in held[:1]]

    monkeypatch.setattr(leases, "heartbeat", beat)
    monkeypatch.setattr(heartbeat, "BATCH", 3)
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0, heartbeat_seconds=20.0) as state,
    ):
        for token in range(5):
            context = RunContext(claimed(run_token=token), state.resources, 0.0, math.inf)
            state.held[token] = context
            state.slots.running[context] = threading.current_thread()
            context.progress(1)
        beating = Heartbeat(state)
        # The rows of all but two are locked by another transaction, and are sent again.
        for _ in range(2):
            beating._step()
        beating._link.close()
    assert sent == [[0, 1, 2], [3, 4], [1, 2, 4]]


@pytest.mark.slow
def test_the_report_of_a_held_row_is_kept_and_stored_when_the_row_is_free(
    conn: Connection, database_url: str, held: Held
) -> None:
    first = conn.add("held").id
    types = (job_type("held", held), job_type("quick", nothing))
    with working(database_url, *types, settings=quick_settings(lease_seconds=60.0)):
        held.wait_for()
        with Connection.connect(database_url) as holder:
            holder.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (first,))
            held.let_go()
            for _ in range(20):
                conn.add("quick")
            until(lambda: len(ended(conn, "quick")) == 20, "the end of the other jobs")
            assert ended(conn, "held") == []
            holder.rollback()
        until(lambda: ended(conn, "held") == ["succeeded"], "the report of the held job")
    assert set(ended(conn, "quick")) == {"succeeded"}


def test_a_worker_that_stops_stores_the_report_of_a_held_row_first(
    conn: Connection, database_url: str, held: Held
) -> None:
    first = conn.add("held").id
    with working(database_url, job_type("held", held), settings=quick_settings(lease_seconds=60.0)) as worker:
        held.wait_for()
        holder = Connection.connect(database_url)
        holder.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (first,))
        held.let_go()
        with beside(lambda: worker.drain(PATIENCE)):
            until(lambda: worker.status.state == "draining")
            holder.close()
    assert conn.outcomes(first) == ["succeeded"]


class TestLastReports:
    """Reports of a locked row in a completer that is told to stop."""

    @pytest.fixture
    def tries(self, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
        """Is released each time the completer finds the row locked."""
        locked, tries = leases.locked, threading.Semaphore(0)

        def tried(*arguments: Any) -> set[int]:
            tries.release()
            return locked(*arguments)

        monkeypatch.setattr(leases, "locked", tried)
        return tries

    @pytest.fixture
    def state(self, conn: Connection, database_url: str) -> Iterator[WorkerState]:
        conn.add("quick")
        with (
            Database(database_url, application_name="test") as database,
            a_state(database, lease_seconds=60.0) as state,
        ):
            yield state

    @pytest.mark.slow
    def test_they_are_tried_until_they_are_stored_and_the_log_blames_no_database(
        self,
        conn: Connection,
        database_url: str,
        state: WorkerState,
        tries: threading.Semaphore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (run,) = finished_runs(conn, state)
        completer = Completer(state)
        with Connection.connect(database_url) as holder:
            holder.execute("SELECT FROM job_queue FOR UPDATE")
            state.done.put(run)
            completer.stop()
            completer.thread.start()
            for _ in range(3):
                until(lambda: tries.acquire(blocking=False) or not completer.thread.is_alive())
        completer.thread.join(PATIENCE)
        assert conn.outcomes(run.job.id) == ["succeeded"]
        assert "the database failed" not in caplog.text

    @pytest.mark.slow
    def test_a_slow_run_among_them_makes_claims_small_only_once(
        self, conn: Connection, database_url: str, state: WorkerState, tries: threading.Semaphore
    ) -> None:
        (run,) = finished_runs(conn, state)
        run.started, run.elapsed = 0.0, 60.0
        completer = Completer(state)
        with Connection.connect(database_url) as holder:
            holder.execute("SELECT FROM job_queue FOR UPDATE")
            state.done.put(run)
            completer.stop()
            completer.thread.start()
            assert tries.acquire(timeout=PATIENCE)
            state.pace.claimed([run.job])
            assert state.pace.ahead(0) == 0
            state.pace.observe("quick", [1e-6] * 1000)
            for _ in range(2):
                assert tries.acquire(timeout=PATIENCE)
            ahead = state.pace.ahead(0)
        completer.thread.join(PATIENCE)
        assert ahead == state.pace.MOST_AHEAD


def finished_runs(conn: Connection, state: WorkerState) -> list[RunContext]:
    """The runs of all jobs, each with the report of a success."""
    runs = [RunContext(job, state.resources, 0.0, math.inf) for job in leases.claim(conn, "w", ["quick"], 10, 60.0)]
    for run in runs:
        run.result = FinishedRun(run.job.id, run.job.run_token, RunOutcome.SUCCEEDED, 1.0, 2.0)
    return runs


def refuse_poison(conn: Connection, sqlstate: str) -> None:
    """Makes the database refuse the success of jobs with the number 13."""
    conn.execute(
        sql.SQL(
            """
            CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION USING errcode = {}, message = 'cannot be stored'; END $$;
            CREATE TRIGGER refuse_poison BEFORE DELETE ON job_queue FOR EACH ROW
                WHEN (old.payload ->> 'number' = '13') EXECUTE FUNCTION refuse_poison();
            """
        ).format(sqlstate)
    )


@pytest.mark.slow
@pytest.mark.parametrize("sqlstate", ["53200", "57014", "54000", "XX000"])
def test_a_report_that_cannot_be_stored_ends_as_a_failure_and_holds_up_no_other(
    conn: Connection, database_url: str, sqlstate: str
) -> None:
    refuse_poison(conn, sqlstate)
    jobs = [conn.add("quick", payload={"number": place}, max_attempts=1).id for place in range(40)]
    with working(database_url, job_type("quick", nothing)):
        until(lambda: len(ended(conn, "quick")) == len(jobs), "the end of all jobs")
    assert sorted(ended(conn, "quick")) == ["failed"] + ["succeeded"] * 39
    assert conn.last_run(jobs[13])["error_kind"] == "not_stored"


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 13, 2), (13, 1, 2), (2, 1, 13)])
def test_a_report_that_cannot_be_stored_beside_one_of_a_locked_row_holds_up_no_other(
    conn: Connection, database_url: str, numbers: tuple[int, ...]
) -> None:
    refuse_poison(conn, "XX000")
    jobs = {number: conn.add("quick", payload={"number": number}, max_attempts=1).id for number in numbers}
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0) as state,
        Connection.connect(database_url) as holder,
    ):
        runs = finished_runs(conn, state)
        holder.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (jobs[1],))
        completer = Completer(state, patience=PATIENCE)
        _, later = completer._report(runs)
        completer.close()
        assert [run.job.id for run in later] == [jobs[1]]
    assert {number: conn.outcomes(job) for number, job in jobs.items()} == {1: [], 2: ["succeeded"], 13: ["failed"]}


def test_an_error_that_belongs_to_the_connection_is_not_blamed_on_the_report(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = leases.finish
    stale: list[Connection] = []

    def finish_with_stale_plans(connection: Connection, *arguments: Any, **options: Any) -> Any:
        stale[:] = stale or [connection]
        if connection is stale[0]:
            raise psycopg.errors.FeatureNotSupported("cached plan must not change result type")
        return finish(connection, *arguments, **options)

    monkeypatch.setattr(leases, "finish", finish_with_stale_plans)
    job = conn.add("quick", max_attempts=1).id
    with working(database_url, job_type("quick", nothing)):
        until(lambda: ended(conn, "quick"), "the end of the job")
    assert conn.outcomes(job) == ["succeeded"]
    assert len(stale) == 1


@pytest.mark.slow
def test_reports_are_kept_while_the_server_is_read_only(
    conn: Connection, database_url: str, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    job = conn.add("held").id
    name = sql.Identifier(conn.info.dbname)
    with working(database_url, job_type("held", held), settings=quick_settings(lease_seconds=120.0)):
        held.wait_for()
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        held.let_go()
        until(lambda: any("read-only" in str(vars(record)) for record in caplog.records), "a refused report")
        conn.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        until(lambda: conn.status_of(job) is None, "the report")
    assert conn.outcomes(job) == ["succeeded"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (psycopg.errors.ReadOnlySqlTransaction, True),
        (psycopg.errors.AdminShutdown, True),
        (psycopg.errors.DeadlockDetected, True),
        (psycopg.errors.TooManyConnections, True),
        (psycopg.errors.DiskFull, True),
        (psycopg.errors.OutOfMemory, False),
        (psycopg.errors.QueryCanceled, False),
        (psycopg.errors.ProgramLimitExceeded, False),
        (psycopg.errors.UniqueViolation, False),
    ],
)
def test_the_sqlstate_decides_whether_a_statement_is_sent_again_unchanged(
    database_url: str, error: type[psycopg.Error], *, again: bool
) -> None:
    def fail(_conn: psycopg.Connection[Any]) -> None:
        raise error

    with Database(database_url, application_name="test") as database:
        link = Link(database, "failing")
        with pytest.raises(error):
            link.run(fail)
        assert link.repeatable(error()) is again
        link.close()


@pytest.mark.parametrize("lost", [True, False])
def test_an_error_without_sqlstate_is_repeated_only_where_its_connection_is_lost(
    database_url: str, *, lost: bool
) -> None:
    def fail(connection: psycopg.Connection[Any]) -> None:
        if lost:
            connection.close()
        raise psycopg.OperationalError("out of memory")

    with Database(database_url, application_name="test") as database:
        link = Link(database, "failing")
        with pytest.raises(psycopg.OperationalError) as failed:
            link.run(fail)
        assert link.repeatable(failed.value) is lost
        link.close()


def test_after_an_outage_of_any_length_a_worker_tries_again_within_a_second(database_url: str) -> None:
    def fail(_conn: psycopg.Connection[Any]) -> None:
        raise psycopg.OperationalError("gone")

    with Database(database_url, application_name="test") as database:
        link = Link(database, "failing")
        for _ in range(30):
            with pytest.raises(psycopg.OperationalError):
                link.run(fail)
        assert max(link.pause() for _ in range(100)) <= 1.0
        link.close()


class TestClock:
    """What the reaper makes of the database's clock; the numbers are seconds."""

    def test_leases_are_believed_while_both_clocks_go_alike(self) -> None:
        watch = ClockWatch(60.0)
        for at in (0.0, 5.0, 10.0):
            watch.read(1000.0 + at, at)
            assert watch.trusted(at)

    def test_after_a_step_forward_they_are_not_believed_for_one_lease(self) -> None:
        watch = ClockWatch(60.0)
        watch.read(1000.0, 0.0)
        watch.read(1000.0 + 5 + 3600, 5.0)
        assert [watch.trusted(at) for at in (5.0, 64.0, 65.0)] == [False, False, True]

    def test_a_step_back_expires_no_lease(self) -> None:
        watch = ClockWatch(60.0)
        watch.read(1000.0, 0.0)
        watch.read(500.0, 5.0)
        assert watch.trusted(5.0)


class TestReaper:
    """Whether it takes back a run whose lease has expired, by what the clock of the database showed before."""

    @pytest.fixture
    def taken_back(
        self, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[..., bool]]:
        """One pass of the reaper. `ahead` is the lead of the database's clock, `takes` the time of its answer."""
        now = 0.0

        class Clock:
            @staticmethod
            def monotonic() -> float:
                return now

        with (
            Database(database_url, application_name="test") as database,
            a_state(database, lease_seconds=60.0) as state,
        ):
            reaper = maintenance.Maintenance(state, mode="headless", source="worker", on_work=lambda: None)

            def pass_once(*, ahead: float, takes: float = 0.0) -> bool:
                nonlocal now
                now += 5.0

                def upkeep_due(_conn: Connection, _seconds: float) -> tuple[float, list[str]]:
                    nonlocal now
                    now += takes
                    return now + ahead, ["lost"]

                monkeypatch.setattr(leases, "upkeep_due", upkeep_due)
                job = conn.add("alpha", max_attempts=1).id
                assert leases.claim(conn, "w", ["alpha"], 1, 0.0)
                reaper._reap(conn)
                return conn.outcomes(job) == ["lost"]

            monkeypatch.setattr(maintenance, "time", Clock)
            yield pass_once

    def test_it_leaves_runs_alone_after_a_step_forward_for_one_lease(self, taken_back: Callable[..., bool]) -> None:
        assert taken_back(ahead=1000.0)
        assert [taken_back(ahead=4600.0) for _ in range(13)] == [False] * 12 + [True]

    def test_it_does_not_take_a_slow_answer_for_a_step(self, taken_back: Callable[..., bool]) -> None:
        assert taken_back(ahead=1000.0)
        assert taken_back(ahead=1000.0, takes=3.0)
        assert taken_back(ahead=1000.0)


def test_runs_whose_leases_look_expired_are_left_alone_on_request(conn: Connection) -> None:
    conn.add("alpha")
    assert leases.claim(conn, "w", ["alpha"], 1, 0.0)
    assert leases.reap(conn, retry_base=1, retry_cap=1, take_back=False).lost == 0
    assert leases.reap(conn, retry_base=1, retry_cap=1).lost == 1
