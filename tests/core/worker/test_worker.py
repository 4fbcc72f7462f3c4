"""The worker on a real queue: what becomes of jobs, whatever their handlers, operators and the database do."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdeck.core.errors import DatabaseUnreachable, PermanentError, RetryLater, Snooze
from jobdeck.core.model import Filter, FinishedRun, NewJob, RunOutcome, Status
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import bulk, leases, operator, producer
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.operators.payload_change import PayloadChange
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.registry import Continue, Done
from jobdeck.core.worker import heartbeat, watchdog
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.oneshot import CycleProgress
from jobdeck.core.worker.slots.pace import Pace
from jobdeck.core.worker.slots.threads import ThreadSlots
from tests.core.worker.test_executor import ERRORS, JSON_LIKE, runner_of
from tests.support.examples import examples
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, beside, until
from tests.support.working import (
    Held,
    a_state,
    a_worker,
    claim_ahead,
    claimed,
    drain,
    job_type,
    nothing,
    quick_settings,
    working,
)


def counts(conn: Connection, table: str = "job_queue") -> dict[str, int]:
    column = {"job_queue": "status", "job_runs": "outcome"}[table]
    statement = {
        "status": "SELECT status, count(*) FROM job_queue GROUP BY 1",
        "outcome": "SELECT outcome, count(*) FROM job_runs GROUP BY 1",
    }[column]
    return dict(conn.execute(statement).fetchall())


def gone(conn: Connection, job_id: UUID) -> bool:
    return conn.status_of(job_id) is None


# Running


@pytest.mark.slow
def test_every_job_is_run_once(database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LONGEST_WAIT", 3600.0)
    seen: list[int] = []
    producer.enqueue_many(conn, [NewJob("count", {"number": number}) for number in range(3000)], actor=ACTOR)
    drain(database_url, job_type("count", lambda params, _ctx: seen.append(params.number)))
    assert sorted(seen) == list(range(3000))
    assert counts(conn) == {}
    assert counts(conn, "job_runs") == {"succeeded": 3000}


def test_a_standing_worker_runs_what_comes_later(database_url: str, conn: Connection) -> None:
    with working(database_url, job_type("late", lambda _p, _c: Done({"ran": True}))) as worker:
        until(lambda: worker.status.connected)
        for _ in range(3):
            job = conn.add("late")
            until(functools.partial(gone, conn, job.id), "the run")
        until(lambda: worker.status.succeeded == 3, "the count of the last run")


@pytest.mark.slow
def test_a_job_that_becomes_due_is_run_without_being_told(database_url: str, conn: Connection) -> None:
    at = conn.execute("SELECT now() + interval '600 milliseconds'").fetchone()
    assert at is not None
    job = conn.add("due", run_at=at[0])
    with working(database_url, job_type("due", nothing)):
        until(lambda: conn.status_of(job.id) is None, "the run")
    run = conn.last_run(job.id)
    assert run["due_at"] <= run["started_at"]


def test_an_unknown_task_type_is_left_alone_and_hinders_nobody(database_url: str, conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type) VALUES ('misspelt')")
    known = conn.add("known")
    drain(database_url, job_type("known", nothing))
    assert conn.status_of(known.id) is None
    assert counts(conn) == {"pending": 1}


@pytest.mark.parametrize("hostile", ['{"n": %s}' % ("9" * 5000), "[" * 3000 + "]" * 3000], ids=["number", "depth"])
def test_a_payload_that_cannot_be_read_fails_alone_and_can_be_looked_at(
    hostile: str, database_url: str, conn: Connection
) -> None:
    conn.execute("INSERT INTO job_queue (task_type, payload) VALUES ('fine', %s)", (hostile,))
    other = conn.add("fine")
    with working(database_url, job_type("fine", nothing)):
        until(lambda: sorted(conn.outcomes()) == ["failed", "succeeded"], "both outcomes")
    with Database(database_url, application_name="test") as database, database.connection() as looking:
        (failed,) = read_jobs.page(Filter(status=Status.FAILED)).run(looking).jobs
    assert failed.id != other.id
    assert "cannot be parsed" in str(failed.payload)
    assert "payload does not fit" in (failed.last_error or "")


def test_a_payload_that_does_not_fit_fails_alone(database_url: str, conn: Connection) -> None:
    bad = conn.add("picky", payload={"number": "many"})
    good = conn.add("picky", payload={"number": 1})
    drain(database_url, job_type("picky", nothing))
    assert (conn.status_of(bad.id), conn.status_of(good.id)) == ("failed", None)
    assert conn.last_run(bad.id)["error_kind"] == "invalid_payload"


def test_a_failing_job_is_tried_again_until_its_attempts_are_used_up(database_url: str, conn: Connection) -> None:
    def fail(params: Any, ctx: Any) -> None:
        raise ValueError("no luck")

    job = conn.add("fail", max_attempts=3)
    drain(database_url, job_type("fail", fail))
    assert conn.outcomes(job.id) == ["retried", "retried", "failed"]
    assert conn.status_of(job.id) == "failed"


def test_retries_wait_as_the_type_says(database_url: str, conn: Connection) -> None:
    def fail(params: Any, ctx: Any) -> None:
        raise ValueError("no luck")

    job = conn.add("fail")
    drain(database_url, job_type("fail", fail, retry_base=100.0, retry_cap=150.0))
    row = conn.execute("SELECT run_at - now() FROM job_queue WHERE id = %s", (job.id,)).fetchone()
    assert row is not None
    assert timedelta(seconds=20) < row[0] <= timedelta(seconds=100)


def test_a_permanent_error_fails_at_once(database_url: str, conn: Connection) -> None:
    def fail(params: Any, ctx: Any) -> None:
        raise PermanentError("no such campaign")

    job = conn.add("fail")
    drain(database_url, job_type("fail", fail))
    assert conn.outcomes(job.id) == ["failed"]


def test_a_handlers_own_delay_wins(database_url: str, conn: Connection) -> None:
    def later(params: Any, ctx: Any) -> None:
        raise RetryLater(7200, "quiet hours")

    job = conn.add("later")
    drain(database_url, job_type("later", later))
    row = conn.execute("SELECT run_at - now() FROM job_queue WHERE id = %s", (job.id,)).fetchone()
    assert row is not None
    assert timedelta(seconds=7000) < row[0] <= timedelta(seconds=7200)


def test_a_snoozed_job_is_due_after_the_delay_with_its_attempts_and_its_reason(
    database_url: str, conn: Connection
) -> None:
    def later(params: Any, ctx: Any) -> None:
        raise Snooze(7200, "another sync is running")

    job = conn.add("later", max_attempts=1)
    drain(database_url, job_type("later", later))
    row = conn.execute(
        "SELECT status, attempts, last_error, run_at - now() > interval '7000 seconds' FROM job_queue WHERE id = %s",
        (job.id,),
    ).fetchone()
    assert row == ("pending", 0, None, True)
    run = conn.last_run(job.id)
    assert [run[name] for name in ("outcome", "error_kind", "error", "fingerprint", "traceback")] == [
        "snoozed", "snoozed", "another sync is running", None, None,
    ]  # fmt: skip
    assert conn.execute("SELECT succeeded, failed, released FROM job_worker_runs").fetchall() == [(0, 0, 1)]


def test_a_new_series_whose_first_run_fails_goes_on_and_its_batch_mates_are_not_touched(
    database_url: str, conn: Connection
) -> None:
    def fail(params: Any, ctx: Any) -> None:
        raise PermanentError("not today")

    series = conn.add("fail", recurrence_interval_minutes=15)
    mates = [conn.add("fine") for _ in range(5)]
    drain(database_url, job_type("fail", fail), job_type("fine", nothing))
    assert conn.status_of(series.id) == "pending"
    row = conn.execute("SELECT consecutive_failures, run_at > now() FROM job_queue WHERE id = %s", (series.id,))
    assert row.fetchone() == (1, True)
    assert [conn.status_of(mate.id) for mate in mates] == [None] * 5


def test_a_continued_job_goes_on_from_its_checkpoint(database_url: str, conn: Connection) -> None:
    def part(params: Any, ctx: Any) -> Any:
        at = (ctx.checkpoint or {"at": 0})["at"]
        return Done({"end": at}) if at == 3 else Continue({"at": at + 1})

    job = conn.add("parts")
    drain(database_url, job_type("parts", part))
    assert conn.outcomes(job.id) == ["continued", "continued", "continued", "succeeded"]
    assert conn.last_run(job.id)["output"] == {"end": 3}


@pytest.mark.slow
def test_jobs_with_one_concurrency_key_run_one_after_another_and_without_waiting_for_a_poll(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.fetcher.NEAR_SECONDS", 3600.0)
    monkeypatch.setattr("jobdeck.core.worker.fetcher.IDLE_SECONDS", 3600.0)
    running, most = [0], [0]

    def handler(params: Any, ctx: Any) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        threading.Event().wait(0.002)
        running[0] -= 1

    for _ in range(10):
        conn.add("alone", concurrency_key="one")
    with working(database_url, job_type("alone", handler)):
        until(lambda: counts(conn, "job_runs") == {"succeeded": 10}, "all ten")
    assert most == [1]


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(JSON_LIKE, st.builds(Done, JSON_LIKE), st.builds(Continue, JSON_LIKE), ERRORS),
        min_size=1,
        max_size=30,
    )
)
def test_no_outcome_of_a_handler_leaves_a_row_running(database_url: str, values: list[Any]) -> None:
    def handler(params: Any, ctx: Any) -> Any:
        value = values[params.number]
        if isinstance(value, BaseException):
            raise value
        return value

    with Connection.connect(database_url, autocommit=True) as conn:
        conn.execute("TRUNCATE job_queue, job_runs CASCADE")
        jobs = [NewJob("any", {"number": number}, max_attempts=1) for number in range(len(values))]
        producer.enqueue_many(conn, jobs, actor=ACTOR)
        with working(database_url, job_type("any", handler)) as worker:
            until(lambda: sum(counts(conn, "job_runs").values()) >= len(values), "a run of every job")
            assert worker.drain()
        assert counts(conn).get("running", 0) == 0
        assert "lost" not in counts(conn, "job_runs")


@pytest.mark.slow
def test_a_report_that_the_database_refuses_fails_its_job_alone(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leases.finish

    def refusing(conn: Connection, worker_id: str, runs: Any, **facts: Any) -> Any:
        if any(run.output == {"number": 1} for run in runs):
            raise psycopg.errors.UntranslatableCharacter("unsupported Unicode escape sequence")
        return real(conn, worker_id, runs, **facts)

    monkeypatch.setattr(leases, "finish", refusing)
    jobs = [conn.add("some", payload={"number": number}) for number in range(3)]
    drain(database_url, job_type("some", lambda params, _ctx: Done({"number": params.number})))
    assert [conn.status_of(job.id) for job in jobs] == [None, "failed", None]
    run = conn.last_run(jobs[1].id)
    assert run["error_kind"] == "not_stored"
    assert "unsupported Unicode" in run["error"]


# Stopping one run


def expire(conn: Connection, job_id: UUID, *, retry_base: float) -> None:
    """Takes a job back as if its lease had ended; inside a transaction no heartbeat comes between."""
    # The worker's own upkeep may be at this part now, and `reap` would leave it to that.
    conn.execute("SELECT FROM job_upkeep WHERE part = 'lost' FOR UPDATE")
    conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 second' WHERE id = %s", (job_id,))
    assert leases.reap(conn, retry_base=retry_base, retry_cap=retry_base).lost == 1


def test_a_running_job_that_is_cancelled_ends_as_cancelled(database_url: str, conn: Connection, held: Held) -> None:
    once = conn.add("held")
    series = conn.add("held", recurrence_interval_minutes=15)
    with working(
        database_url, job_type("held", held), settings=quick_settings(lease_seconds=3600, heartbeat_seconds=1200)
    ):
        held.wait_for(2)
        assert all(answer.ok for answer in operator.cancel(conn, [once.id, series.id], actor=ACTOR))
        until(lambda: counts(conn) == {"cancelled": 2}, "the cancellation")
    assert conn.outcomes() == ["cancelled", "cancelled"]


def test_a_cancellation_from_before_the_worker_listens_reaches_its_handler(
    database_url: str, conn: Connection, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = threading.Event()
    connect = Database._connect_to_listen

    def connect_late(database: Database) -> psycopg.Connection[Any] | None:
        listens.wait()
        return connect(database)

    monkeypatch.setattr(Database, "_connect_to_listen", connect_late)
    monkeypatch.setattr(heartbeat, "NEWS_SECONDS", 0.05)
    job = conn.add("held")
    with working(
        database_url, job_type("held", held), settings=quick_settings(lease_seconds=3600, heartbeat_seconds=1200)
    ):
        held.wait_for()
        operator.cancel(conn, [job.id], actor=ACTOR)
        listens.set()
        until(lambda: conn.status_of(job.id) == "cancelled", "the cancellation")
    assert held.asked_to_stop.is_set()


@pytest.mark.slow
def test_a_cancellation_reaches_a_worker_that_drains_at_once(
    database_url: str, conn: Connection, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "NEWS_SECONDS", 0.05)
    job = conn.add("held")
    settings = quick_settings(lease_seconds=3600, heartbeat_seconds=1200)
    with working(database_url, job_type("held", held), settings=settings) as worker:
        held.wait_for()
        until(lambda: worker._fetchers[0]._heard, "the listener")
        renewed = "SELECT lease_expires_at > started_at + interval '1 hour' FROM job_queue WHERE id = %s"
        first = "the end of the first heartbeat, which looks for cancellations too"
        until(lambda: conn.execute(renewed, (job.id,)).fetchone() == (True,), first)
        with beside(lambda: worker.drain(2 * PATIENCE)):
            until(lambda: worker._fetchers[0]._link._connection is None, "the end of claims")
            operator.cancel(conn, [job.id], actor=ACTOR)
            until(lambda: conn.status_of(job.id) == "cancelled", "the cancellation")
    assert held.asked_to_stop.is_set()


def test_a_cancelled_job_whose_handler_finishes_all_the_same_is_cancelled(database_url: str, conn: Connection) -> None:
    stubborn = Held(stubborn=True)
    job = conn.add("stubborn")
    with working(database_url, job_type("stubborn", stubborn)):
        stubborn.wait_for()
        operator.cancel(conn, [job.id], actor=ACTOR)
        stubborn.let_go()
        until(lambda: conn.status_of(job.id) == "cancelled")


@pytest.mark.slow
def test_a_run_beyond_its_timeout_keeps_its_key_and_lease_until_its_handler_ends_and_is_shown(
    database_url: str, conn: Connection
) -> None:
    stubborn = Held(stubborn=True)
    first, second = (conn.add("stubborn", concurrency_key="k", max_attempts=1) for _ in range(2))
    settings = quick_settings(lease_seconds=120.0)
    with working(database_url, job_type("stubborn", stubborn, timeout=1.0), concurrency=2, settings=settings) as worker:
        shown = "SELECT progress ->> 'message', progress ->> 'log' FROM job_queue WHERE id = %s"
        until(lambda: "goes on" in str(conn.execute(shown, (first.id,)).fetchone()), "the notice")
        ends = "SELECT lease_expires_at FROM job_queue WHERE id = %s"
        before = conn.execute(ends, (first.id,)).fetchone()
        until(lambda: conn.execute(ends, (first.id,)).fetchone() > before, "another lease")  # type: ignore[operator]
        assert (conn.status_of(first.id), conn.status_of(second.id)) == ("running", "pending")
        assert (len(stubborn.threads), conn.outcomes()) == (1, [])
        stubborn.let_go()
        until(lambda: conn.outcomes(second.id), "the next run with the key")
        assert worker.drain()
        assert (worker.status.failed, worker.status.succeeded) == (1, 1)
    run = conn.last_run(first.id)
    assert (run["outcome"], run["error_kind"], run["output"]) == ("failed", "timeout", None)
    assert "self._let_go.wait(" in run["traceback"]
    assert "its concurrency key" in run["log"]


@pytest.mark.slow
def test_a_run_that_lost_its_lease_and_is_over_its_timeout_gives_its_slot_up(
    database_url: str, conn: Connection
) -> None:
    stubborn = Held(stubborn=True)
    job = conn.add("stubborn", max_attempts=1)
    with working(database_url, job_type("stubborn", stubborn, timeout=2.0), concurrency=1):
        stubborn.wait_for()
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        until(lambda: conn.outcomes(job.id) == ["lost", "abandoned"], "both records")
        assert stubborn.threads[0].is_alive()
        stubborn.let_go()


@pytest.mark.slow
def test_a_worker_that_ends_by_itself_does_not_wait_for_a_run_over_its_timeout(
    database_url: str, conn: Connection
) -> None:
    stubborn = Held(stubborn=True)
    job = conn.add("stubborn", max_attempts=1)
    with a_worker(database_url, job_type("stubborn", stubborn, timeout=0.1)) as worker:
        worker.run_until_idle()
    assert stubborn.threads[0].is_alive()
    stubborn.let_go()
    stubborn.threads[0].join(PATIENCE)
    run = conn.last_run(job.id)
    assert (run["outcome"], run["error_kind"]) == ("failed", "timeout")
    assert (conn.status_of(job.id), conn.outcomes(job.id)) == ("failed", ["failed"])


@pytest.mark.slow
def test_a_hanging_handler_costs_no_slot(database_url: str, conn: Connection) -> None:
    stubborn = Held(stubborn=True)
    conn.add("stubborn", max_attempts=1, priority=9)
    others = [conn.add("quick") for _ in range(5)]
    types = job_type("stubborn", stubborn, timeout=0.1), job_type("quick", nothing)
    with working(database_url, *types, concurrency=1):
        until(lambda: [conn.status_of(job.id) for job in others] == [None] * 5, "the others")
        stubborn.let_go()


@pytest.mark.slow
def test_a_handler_is_told_of_its_timeout(database_url: str, conn: Connection, held: Held) -> None:
    conn.add("held", max_attempts=1)
    with working(database_url, job_type("held", held, timeout=0.1)):
        assert held.asked_to_stop.wait(PATIENCE)
        until(lambda: conn.outcomes() == ["failed"])


@pytest.mark.slow
def test_a_run_that_lost_its_lease_is_told_and_recorded_as_abandoned(
    database_url: str, conn: Connection, held: Held
) -> None:
    job = conn.add("held", max_attempts=5)
    with working(database_url, job_type("held", held), concurrency=1):
        held.wait_for()
        with conn.transaction():
            expire(conn, job.id, retry_base=3600)
        assert held.asked_to_stop.wait(PATIENCE)
        until(lambda: conn.outcomes(job.id) == ["lost", "abandoned"], "both records")
    assert conn.status_of(job.id) == "pending"


def test_a_cycle_that_cannot_be_opened_keeps_no_connection(database_url: str, conn: Connection) -> None:
    conn.execute("DROP FUNCTION job_worker_run_open")
    with a_worker(database_url) as worker:
        with pytest.raises(psycopg.errors.UndefinedFunction):
            worker.run_cycle()
        connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test worker'"
        until(lambda: conn.execute(connections).fetchone() == (0,), "the end of its connections")


def test_a_worker_that_stalled_changes_nothing_of_what_another_finished(database_url: str, conn: Connection) -> None:
    stubborn = Held(stubborn=True)
    job = conn.add("shared")
    with working(database_url, job_type("shared", stubborn), worker_id="stalled"):
        stubborn.wait_for()
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
            (again,) = leases.claim(conn, "another", ["shared"], 1, 60)
        at = again.claimed_at.timestamp()
        theirs = FinishedRun(job.id, again.run_token, RunOutcome.SUCCEEDED, at, at, output={"by": "another"})
        leases.finish(conn, "another", [theirs], retry_base=0, retry_cap=0)
        stubborn.let_go()
        until(lambda: sorted(conn.outcomes(job.id)) == ["abandoned", "lost", "succeeded"], "the late record")
    assert conn.status_of(job.id) is None
    winner = conn.execute("SELECT output FROM job_runs WHERE outcome = 'succeeded'").fetchone()
    assert winner == ({"by": "another"},)


def test_more_leases_than_one_heartbeat_takes_are_all_renewed(
    database_url: str, conn: Connection, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BATCH", 2)
    for _ in range(5):
        conn.add("held")
    with working(database_url, job_type("held", held), settings=quick_settings(lease_seconds=60), concurrency=5):
        for _ in range(5):
            held.wait_for()
        expiry = "SELECT count(*), max(lease_expires_at) FROM job_queue WHERE status = 'running'"
        renewed = "SELECT count(*) FROM job_queue WHERE status = 'running' AND lease_expires_at > %s"
        running, last = conn.execute(expiry).fetchall()[0]
        assert running == 5
        until(lambda: conn.execute(renewed, (last,)).fetchone() == (5,), "a renewal of all five")
        held.let_go()


def test_leases_are_renewed_once_per_heartbeat_interval(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now, beats = 0.0, []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    def renewed(*_arguments: Any) -> list[Any]:
        beats.append(now)
        return []

    monkeypatch.setattr(heartbeat, "time", Clock)
    monkeypatch.setattr(leases, "heartbeat", renewed)
    with (
        Database(database_url, application_name="test") as database,
        a_state(database, lease_seconds=60.0, heartbeat_seconds=20.0) as state,
    ):
        job = claimed()
        state.held[job.run_token] = RunContext(job, state.resources, 0.0, 60.0)
        beating = heartbeat.Heartbeat(state)
        while now < 70.0:
            now += heartbeat.NEWS_SECONDS
            beating._step()
            beating._missed.clear()
        beating._link.close()
    assert beats == [20.0, 40.0, 60.0]


@pytest.mark.slow
def test_a_worker_that_cannot_renew_stops_its_handlers(
    database_url: str, conn: Connection, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: Any) -> Any:
        raise psycopg.OperationalError("could not receive data from server: Connection timed out")

    monkeypatch.setattr(leases, "heartbeat", away)
    conn.add("held")
    with working(database_url, job_type("held", held), settings=quick_settings(lease_seconds=1)):
        held.wait_for()
        assert held.asked_to_stop.wait(PATIENCE)


def test_a_job_whose_lease_ended_while_it_waited_is_not_started() -> None:
    ran: list[int] = []
    runner = runner_of(lambda _p, _c: ran.append(1))
    done: SimpleQueue[RunContext | None] = SimpleQueue()
    slots = ThreadSlots(runner, done, 1, "test")
    slots.start()
    now = time.monotonic()
    slots.put([RunContext(claimed(), runner.resources, 0.0, now)])
    context = done.get(timeout=PATIENCE)
    slots.close()
    assert context is not None
    assert context.result is not None
    assert context.result.outcome is RunOutcome.RELEASED
    assert not ran


# Following a run


@pytest.mark.slow
def test_a_running_jobs_progress_and_log_can_be_followed(database_url: str, conn: Connection) -> None:
    release = threading.Event()

    def handler(params: Any, ctx: Any) -> None:
        ctx.progress(3, 10, "on the way")
        ctx.log.info("third item")
        release.wait(PATIENCE)

    job = conn.add("followed")

    def progress() -> Any:
        row = conn.execute("SELECT progress FROM job_queue WHERE id = %s", (job.id,)).fetchone()
        return row[0] if row else None

    with working(database_url, job_type("followed", handler)):
        until(lambda: progress() is not None and "log" in progress(), "the progress")
        seen = progress()
        release.set()
        until(lambda: conn.status_of(job.id) is None)
    assert (seen["done"], seen["total"], seen["message"]) == (3, 10, "on the way")
    assert seen["log"][0].endswith("third item")
    assert "third item" in conn.last_run(job.id)["log"]


# Draining


@pytest.mark.slow
def test_draining_lets_running_jobs_finish_and_hands_the_rest_back(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LONGEST_WAIT", 3600.0)  # only draining hands jobs back
    claim_ahead(monkeypatch)
    held = Held(quick=Pace.SHORT_RUNS)
    producer.enqueue_many(conn, [NewJob("held")] * (Pace.SHORT_RUNS + 4), actor=ACTOR)
    with working(database_url, job_type("held", held), concurrency=1) as worker:
        held.wait_for()
        until(lambda: counts(conn) == {"running": 4}, "three that wait for the slot")

        def open_gate() -> None:
            until(lambda: counts(conn) == {"pending": 3, "running": 1} and worker.status.state == "draining")
            held.let_go()

        with beside(open_gate):
            assert worker.drain(30)
        assert worker.status.state == "stopped"
    assert counts(conn) == {"pending": 3}
    assert conn.execute("SELECT sum(attempts) FROM job_queue").fetchone() == (0,)


def test_draining_asks_handlers_to_stop_when_the_time_is_over(database_url: str, conn: Connection, held: Held) -> None:
    job = conn.add("held")
    with working(database_url, job_type("held", held)) as worker:
        held.wait_for()
        assert not worker.drain(0)
    assert conn.outcomes(job.id) == ["released"]
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchone() == ("pending", 0)


def test_draining_hands_back_what_will_not_stop(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.1)
    stubborn = Held(stubborn=True)
    job = conn.add("stubborn")
    with working(database_url, job_type("stubborn", stubborn)) as worker:
        stubborn.wait_for()
        assert not worker.drain(0)
        stubborn.let_go()
    assert conn.outcomes(job.id) == ["released"]
    assert conn.status_of(job.id) == "pending"


def test_a_second_call_shortens_a_drain_that_is_going_on(database_url: str, conn: Connection, held: Held) -> None:
    conn.add("held")
    with working(database_url, job_type("held", held)) as worker:
        held.wait_for()
        first = threading.Thread(target=worker.drain, args=(3600,))
        first.start()
        until(lambda: worker.status.state == "draining")
        worker.drain(0)
        first.join(30)
        assert not first.is_alive()
    assert conn.outcomes() == ["released"]


@pytest.mark.slow
def test_a_second_call_does_not_lengthen_a_drain_that_is_going_on(
    database_url: str, conn: Connection, held: Held
) -> None:
    conn.add("held")
    with working(database_url, job_type("held", held)) as worker:
        held.wait_for()
        with beside(lambda: worker.drain(0.5)):
            until(lambda: worker.status.state != "running")
            with beside(lambda: worker.drain(3600)):
                assert held.asked_to_stop.wait(PATIENCE)
    assert conn.outcomes() == ["released"]


@pytest.mark.slow
def test_a_stopped_worker_leaves_no_thread_and_no_row(database_url: str, conn: Connection) -> None:
    conn.add("fine")
    with working(database_url, job_type("fine", nothing), worker_id="w7") as worker:
        until(lambda: conn.execute("SELECT count(*) FROM job_workers").fetchone() == (1,), "the worker's row")
        until(lambda: worker.status.succeeded == 1)
        worker.stop()
        assert worker.wait(PATIENCE)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("w7")], "the last thread")
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


@pytest.mark.slow
def test_a_worker_writes_the_rules_of_its_types_and_earlier_jobs_run_one_by_one(
    database_url: str, conn: Connection
) -> None:
    beside: list[int] = []
    running: set[int] = set()

    def alone(params: Any, ctx: Any) -> None:
        running.add(ctx.job.run_token)
        beside.append(len(running))
        ctx.db.execute("SELECT pg_sleep(0.05)")
        running.discard(ctx.job.run_token)

    conn.execute("INSERT INTO job_queue (task_type, run_at) VALUES ('alone', now() + interval '1 day')")
    with working(database_url, job_type("alone", alone, concurrency="type")) as worker:
        rule = "SELECT task_type, concurrency FROM job_types WHERE NOT keyless"
        until(lambda: conn.execute(rule).fetchall() == [("alone", "type")], "the rule")
        conn.execute("INSERT INTO job_queue (task_type) SELECT 'alone' FROM generate_series(1, 5)")
        until(lambda: worker.status.succeeded == 5, "all five")
        worker.stop()
        assert worker.wait(PATIENCE)
    assert beside == [1] * 5
    assert conn.execute("SELECT concurrency_key FROM job_queue").fetchall() == [("alone",)]


def test_a_worker_notes_the_release_of_the_application_that_stays_when_it_ends(
    database_url: str, conn: Connection
) -> None:
    with working(database_url, job_type("fine", nothing), settings=quick_settings(sentry_release="shop@7")) as worker:
        until(lambda: conn.execute("SELECT name FROM job_releases").fetchall() == [("shop@7",)], "the release")
        worker.stop()
        assert worker.wait(PATIENCE)
    assert conn.execute("SELECT name FROM job_releases").fetchall() == [("shop@7",)]


@pytest.mark.slow
def test_a_worker_finishes_an_edit_of_many_payloads_that_was_interrupted(database_url: str, conn: Connection) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    jobs = [conn.add("fine", run_at=later).id for _ in range(3)]
    foreign = conn.add("foreign", run_at=later).id
    choice = bulk.choose_ids(conn, dict.fromkeys(jobs), actor="mara")
    bulk_edit.start(conn, choice.bulk.id, PayloadChange({"number": 5}), actor="mara")
    other = bulk.choose_ids(conn, {foreign: None}, actor="mara")
    bulk_edit.start(conn, other.bulk.id, PayloadChange({"number": 5}), actor="mara")
    conn.execute("UPDATE job_bulk SET stepped_at = now() - interval '1 minute'")
    with working(database_url, job_type("fine", nothing)):
        until(lambda: bulk.find(conn, choice.bulk.id).state == "finished", "the edit")  # type: ignore[union-attr]
    assert {row[0] for row in conn.execute("SELECT payload ->> 'number' FROM job_queue WHERE task_type = 'fine'")} == {
        "5"
    }
    assert bulk.find(conn, other.bulk.id).state == "running"  # type: ignore[union-attr]


# The record of what it did


def test_a_standing_workers_window_is_closed_with_its_counts(database_url: str, conn: Connection) -> None:
    def sometimes(params: Any, ctx: Any) -> None:
        if params.number == 2:
            raise PermanentError("two")

    for number in range(4):
        conn.add("some", payload={"number": number})
    drain(database_url, job_type("some", sometimes), source="embedded")
    rows = conn.execute(
        "SELECT source, status, claimed, processed, succeeded, failed, completed_at IS NOT NULL, results "
        "FROM job_worker_runs"
    ).fetchall()
    assert [row[:7] for row in rows] == [("embedded", "ok", 4, 4, 3, 1, True)]
    assert [result["lastError"] for result in rows[0][7]] == ["two"]


@pytest.mark.slow
def test_the_figures_of_a_window_that_is_still_open_follow_what_is_done(database_url: str, conn: Connection) -> None:
    def figures() -> list[tuple[Any, ...]]:
        return conn.execute(
            "SELECT claimed, processed, succeeded, failed, released, completed_at IS NULL FROM job_worker_runs"
        ).fetchall()

    def sometimes(params: Any, ctx: Any) -> None:
        if params.number == 2:
            raise PermanentError("two")

    for number in range(3):
        conn.add("some", payload={"number": number})
    with working(database_url, job_type("some", sometimes), source="worker"):
        until(lambda: figures() == [(3, 3, 2, 1, 0, True)], "the first figures")
        conn.add("some")
        until(lambda: figures() == [(4, 4, 3, 1, 0, True)], "the figures after another job")
    assert figures() == [(4, 4, 3, 1, 0, False)]


def test_an_idle_worker_records_nothing(database_url: str, conn: Connection) -> None:
    drain(database_url, job_type("some", nothing))
    assert conn.execute("SELECT count(*) FROM job_worker_runs").fetchone() == (0,)


# The database


@pytest.mark.slow
def test_a_report_is_applied_once_when_its_answer_was_lost(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leases.finish
    lost = iter([True, True])

    def cut(conn: Connection, worker_id: str, runs: Any, **facts: Any) -> Any:
        answers = real(conn, worker_id, runs, **facts)
        if next(lost, False):
            conn.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answers

    monkeypatch.setattr(leases, "finish", cut)
    once = conn.add("some")
    series = conn.add("some", recurrence_interval_minutes=15)
    with a_worker(database_url, job_type("some", nothing)) as worker:
        worker.run_until_idle()
        assert (worker.status.succeeded, worker.status.failed) == (2, 0)
    assert conn.outcomes(once.id) == ["succeeded"]
    assert conn.outcomes(series.id) == ["succeeded"]


@pytest.mark.slow
def test_a_worker_whose_connections_are_cut_goes_on(database_url: str, conn: Connection, held: Held) -> None:
    job = conn.add("held")
    with working(database_url, job_type("held", held), job_type("fine", nothing)) as worker:
        held.wait_for()
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        later = conn.add("fine")
        held.let_go()
        until(lambda: conn.status_of(later.id) is None, "a job after the cut")
        until(lambda: conn.status_of(job.id) is None, "the job from before the cut")
        assert worker.status.failed == 0
    assert counts(conn, "job_runs") == {"succeeded": 2}


def test_start_returns_at_once_without_a_database_and_stop_too() -> None:
    with working("postgresql://nobody@127.0.0.1:1/none", job_type("some", nothing)) as worker:
        assert worker.status.state == "running"
        assert not worker.status.connected


def test_nothing_is_claimed_while_the_settings_row_is_missing(database_url: str, conn: Connection) -> None:
    job = conn.add("some")
    conn.execute("DELETE FROM job_queue_settings")
    drain(database_url, job_type("some", nothing))
    assert conn.status_of(job.id) == "pending"


def test_resuming_wakes_a_worker_and_runs_a_series_once(database_url: str, conn: Connection) -> None:
    operator.pause(conn, reason="maintenance", actor=ACTOR)
    series = conn.add("some", recurrence_interval_minutes=1)
    conn.execute("UPDATE job_queue SET run_at = now() - interval '3 hours' WHERE id = %s", (series.id,))
    with working(database_url, job_type("some", nothing)) as worker:
        until(lambda: worker.status.connected)
        assert worker.status.claimed == 0
        operator.resume(conn, actor=ACTOR)
        until(lambda: conn.outcomes() == ["succeeded"], "the run after resuming")
    assert conn.outcomes() == ["succeeded"]


# One cycle


def cycle(url: str, *types: Any, limit: int = 5, on_progress: Callable[[CycleProgress], None] | None = None) -> Any:
    with a_worker(url, *types, mode="cycle", source="manual") as worker:
        return worker.run_cycle(limit, on_progress=on_progress)


def sometimes(params: Any, ctx: Any) -> None:
    if params.number % 3 == 1:
        raise ValueError("not this one")


@pytest.mark.slow
def test_a_cycle_counts_what_succeeded_and_what_failed(database_url: str, conn: Connection) -> None:
    jobs = [conn.add("some", payload={"number": number}) for number in range(3)]
    result = cycle(database_url, job_type("some", sometimes, retry_base=60.0))
    assert (result.status, result.processed, result.succeeded, result.failed) == ("ok", 3, 2, 1)
    assert [entry["id"] for entry in result.results] == [str(job.id) for job in jobs]
    assert [entry["lastError"] for entry in result.results] == [None, "ValueError: not this one", None]
    row = conn.execute("SELECT source, status, processed, succeeded, failed FROM job_worker_runs").fetchone()
    assert row == ("manual", "ok", 3, 2, 1)
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


def test_a_cycle_takes_no_more_than_its_limit_and_tells_how_far_it_is(database_url: str, conn: Connection) -> None:
    for _ in range(7):
        conn.add("some")
    told: list[tuple[int, int]] = []
    result = cycle(
        database_url,
        job_type("some", nothing),
        on_progress=lambda progress: told.append((progress.claimed, progress.done)),
    )
    assert result.processed == 5
    assert counts(conn) == {"pending": 2}
    assert told == [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 4), (5, 5)]


def test_a_cycle_with_nothing_to_do_says_so(database_url: str) -> None:
    result = cycle(database_url, job_type("some", nothing))
    assert (result.status, result.processed, result.message) == ("ok", 0, "no jobs available")


def test_a_cycle_while_paused_runs_nothing_and_says_why(database_url: str, conn: Connection) -> None:
    operator.pause(conn, reason="the vendor is down", actor=ACTOR)
    job = conn.add("some")
    result = cycle(database_url, job_type("some", nothing))
    assert (result.status, result.processed, result.message) == ("paused", 0, "the vendor is down")
    assert conn.status_of(job.id) == "pending"
    assert conn.execute("SELECT status, message FROM job_worker_runs").fetchone() == ("paused", "the vendor is down")


def test_a_pause_between_two_claims_stops_the_cycle(database_url: str, conn: Connection) -> None:
    def pausing(params: Any, ctx: Any) -> None:
        operator.pause(ctx.db, reason="enough", actor=ACTOR)

    for _ in range(3):
        conn.add("some")
    result = cycle(database_url, job_type("some", pausing))
    assert (result.status, result.processed, result.message) == ("paused", 1, "enough")
    assert counts(conn) == {"pending": 2}


def test_nothing_waits_as_running_during_a_cycle(database_url: str, conn: Connection) -> None:
    running: list[dict[str, int]] = []
    for _ in range(3):
        conn.add("some")
    cycle(database_url, job_type("some", lambda _p, _c: running.append(counts(conn))))
    assert [seen["running"] for seen in running] == [1, 1, 1]


def test_a_cycles_record_is_closed_when_it_breaks(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any, **_facts: Any) -> Any:
        raise psycopg.errors.UndefinedFunction("no such function job_queue_claim")

    monkeypatch.setattr(leases, "claim", broken)
    result = cycle(database_url, job_type("some", nothing))
    assert (result.status, result.processed) == ("error", 0)
    row = conn.execute("SELECT status, completed_at IS NOT NULL, error_message FROM job_worker_runs").fetchone()
    assert row == ("error", True, "no such function job_queue_claim")


def test_a_cycle_that_is_handed_back_while_it_claims_does_not_run_the_job(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    for number in range(2):
        conn.add("some", payload={"number": number})
    with a_worker(
        database_url, job_type("some", lambda params, _c: ran.append(params.number)), mode="cycle", source="manual"
    ) as worker:
        claim_of_the_product = leases.claim

        def claim_and_hand_back(*arguments: Any) -> Any:
            jobs = claim_of_the_product(*arguments)
            assert worker.cycle is not None
            worker.cycle.interrupt()
            return jobs

        monkeypatch.setattr(leases, "claim", claim_and_hand_back)
        result = worker.run_cycle()
    assert (result.status, result.message, ran) == ("error", "The cycle was interrupted.", [])
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchall() == [("pending", 0)] * 2
    assert conn.outcomes() == []


@pytest.mark.slow
def test_a_cycle_hands_back_the_jobs_that_it_claimed_and_did_not_run(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        conn.add("some", payload={"number": number})
    began: list[int] = []
    claim_of_the_product = leases.claim

    def until_stopped(params: Any, ctx: Any) -> None:
        began.append(params.number)
        while params.number:
            ctx.raise_if_cancelled()

    def claim_too_many(conn: Any, worker: str, types: Any, _limit: int, *others: Any) -> Any:
        return claim_of_the_product(conn, worker, types, 9, *others)

    monkeypatch.setattr(leases, "claim", claim_too_many)
    result = cycle(database_url, job_type("some", until_stopped), limit=1)
    assert (result.processed, result.message) == (1, "1 job run")
    assert set(began) <= {0, 1}
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchall() == [("pending", 0)] * 8


def test_an_interrupted_cycle_hands_its_job_back_and_closes_its_record(
    database_url: str, conn: Connection, held: Held
) -> None:
    def interrupt(progress: CycleProgress) -> None:
        held.wait_for()
        raise KeyboardInterrupt

    job = conn.add("held")
    with pytest.raises(KeyboardInterrupt):
        cycle(database_url, job_type("held", held), on_progress=interrupt)
    assert conn.outcomes(job.id) == ["released"]
    assert conn.status_of(job.id) == "pending"
    row = conn.execute("SELECT status, completed_at IS NOT NULL, released FROM job_worker_runs").fetchone()
    assert row == ("error", True, 1)


def test_a_cycle_without_a_database_is_refused_with_a_sentence() -> None:
    with pytest.raises(DatabaseUnreachable, match="does not answer"):
        cycle("postgresql://nobody@127.0.0.1:1/none", job_type("some", nothing))


@pytest.mark.slow
def test_a_cycle_keeps_its_lease_and_its_types_timeout(database_url: str, conn: Connection) -> None:
    stubborn = Held(stubborn=True)
    job = conn.add("stubborn", max_attempts=1)
    result = cycle(database_url, job_type("stubborn", stubborn, timeout=0.1))
    stubborn.let_go()
    assert (result.processed, result.failed) == (1, 1)
    assert conn.last_run(job.id)["error_kind"] == "timeout"


def test_time_stands_for_a_run_as_the_database_sees_it(database_url: str, conn: Connection) -> None:
    before = conn.execute("SELECT clock_timestamp()").fetchone()
    job = conn.add("some")
    drain(database_url, job_type("some", lambda _p, _c: threading.Event().wait(0.05) and None))
    after = conn.execute("SELECT clock_timestamp()").fetchone()
    run = conn.last_run(job.id)
    assert before is not None
    assert after is not None
    assert before[0] < run["started_at"] < run["finished_at"] < after[0]
    assert run["finished_at"] - run["started_at"] >= timedelta(seconds=0.05)
