"""Runs that end in the transaction of their handler: committed with what it wrote, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

import jobdeck
from jobdeck.core.errors import LeaseLost, Locked, PermanentError
from jobdeck.core.queue import operator
from jobdeck.core.queue.producers import finishing
from jobdeck.core.registry import Continue, Done
from jobdeck.testing import drain, run_job
from tests.core.worker import process_handlers
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, becomes, until
from tests.support.working import a_worker, job_type, quick_settings, working


@pytest.fixture
def ledger(conn: Connection) -> Connection:
    """A table of the application's own, in which handlers book."""
    conn.execute("CREATE TABLE ledger (attempt integer NOT NULL)")
    return conn


def booked(conn: Connection) -> list[int]:
    return [attempt for (attempt,) in conn.execute("SELECT attempt FROM ledger ORDER BY 1")]


def book(conn: Connection, ctx: Any) -> None:
    conn.execute("INSERT INTO ledger VALUES (%s)", (ctx.job.attempt,))


def run_all(url: str, *handlers: tuple[str, Any], **facts: Any) -> None:
    with a_worker(url, *(job_type(name, handler, **facts) for name, handler in handlers)) as worker:
        worker.run_until_idle()


def test_the_end_of_a_run_is_committed_with_what_its_handler_wrote(database_url: str, ledger: Connection) -> None:
    seen: list[tuple[int, int]] = []

    def look(conn: Connection) -> tuple[int, int]:
        return conn.value("SELECT count(*) FROM job_queue"), conn.value("SELECT count(*) FROM ledger")

    def pays(_params: Any, ctx: Any) -> Done:
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.log.info("paid")
            ctx.finish_in(own, Done({"paid": 7}, failed=1))
            seen.append(look(ledger))
        seen.append(look(ledger))
        return Done({"ignored": True})

    job = ledger.add("pays")
    run_all(database_url, ("pays", pays))
    assert seen == [(1, 0), (0, 1)]
    assert ledger.outcomes(job.id) == ["partial"]
    run = ledger.last_run(job.id)
    assert (run["output"], run["error"]) == ({"paid": 7}, None)
    assert "paid" in run["log"]
    assert ledger.value("SELECT sum(runs) FROM job_stat_delta") == 1


def test_what_a_handler_raises_afterwards_takes_back_both_and_the_job_is_tried_again(
    database_url: str, ledger: Connection
) -> None:
    def pays(_params: Any, ctx: Any) -> None:
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.finish_in(own)
            if ctx.job.attempt == 1:
                raise ValueError("no luck")

    job = ledger.add("pays")
    run_all(database_url, ("pays", pays))
    assert ledger.outcomes(job.id) == ["retried", "succeeded"]
    assert booked(ledger) == [2]


def test_a_transaction_that_is_rolled_back_in_silence_is_a_failure_that_says_so(
    database_url: str, ledger: Connection
) -> None:
    def pays(_params: Any, ctx: Any) -> None:
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.finish_in(own)
            if ctx.job.attempt == 1:
                own.rollback()

    job = ledger.add("pays")
    run_all(database_url, ("pays", pays))
    assert ledger.outcomes(job.id) == ["retried", "succeeded"]
    first = ledger.execute("SELECT error_kind, error FROM job_runs WHERE outcome = 'retried'").fetchone()
    assert first == (
        "not_recorded", "The handler ended its run by ctx.finish_in, and its transaction was not committed.",
    )  # fmt: skip
    assert booked(ledger) == [2]


@pytest.mark.slow
def test_a_run_that_lost_its_job_books_nothing(database_url: str, ledger: Connection) -> None:
    entered, lost = threading.Event(), threading.Event()
    raised: list[type[BaseException]] = []

    def pays(_params: Any, ctx: Any) -> None:
        if ctx.job.attempt == 1:
            entered.set()
            lost.wait(PATIENCE)
        try:
            with Connection.connect(database_url) as own:
                book(own, ctx)
                ctx.finish_in(own)
        except BaseException as error:
            raised.append(type(error))
            raise

    job = ledger.add("pays", max_attempts=2)
    settings = quick_settings(lease_seconds=120.0, heartbeat_seconds=60.0)
    with working(database_url, job_type("pays", pays), settings=settings) as worker:
        assert entered.wait(PATIENCE)
        with ledger.transaction():
            ledger.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 hour'")
            ledger.execute("SELECT job_queue_upkeep('lost', 0, 0)")
        until(lambda: ledger.outcomes(job.id).count("succeeded") == 1, "the second run")
        lost.set()
        until(lambda: raised, "the error in the first run")
        figures = worker.figures()
    assert raised == [LeaseLost]
    assert booked(ledger) == [2]
    assert sorted(ledger.outcomes(job.id)) == ["abandoned", "lost", "succeeded"]
    assert figures is not None
    assert figures.lost_leases == 1


@pytest.mark.slow
def test_a_job_that_a_run_enqueues_is_taken_back_with_a_run_that_lost_its_own(
    database_url: str, conn: Connection
) -> None:
    entered, lost = threading.Event(), threading.Event()
    raised: list[str] = []

    def parent(_params: Any, ctx: Any) -> None:
        if ctx.job.attempt == 1:
            entered.set()
            lost.wait(PATIENCE)
        try:
            with Connection.connect(database_url) as own:
                jobdeck.enqueue(own, "t_books")
                ctx.finish_in(own)
        except LeaseLost as error:
            raised.append(str(error))
            raise

    job = conn.add("parent", max_attempts=2)
    settings = quick_settings(lease_seconds=120.0, heartbeat_seconds=60.0)
    with working(database_url, job_type("parent", parent), settings=settings):
        assert entered.wait(PATIENCE)
        with conn.transaction():
            conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 hour'")
            conn.execute("SELECT job_queue_upkeep('lost', 0, 0)")
        until(lambda: conn.outcomes(job.id).count("succeeded") == 1, "the second run")
        lost.set()
        until(lambda: raised, "the error in the first run")
    assert "no longer holds its job" in raised[0]
    assert conn.value("SELECT count(*) FROM job_queue WHERE task_type = 't_books'") == 1


def test_a_job_that_an_operator_has_cancelled_books_nothing(database_url: str, ledger: Connection) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def pays(_params: Any, ctx: Any) -> None:
        entered.set()
        cancelled.wait(PATIENCE)
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.finish_in(own)

    job = ledger.add("pays")
    with working(database_url, job_type("pays", pays)):
        assert entered.wait(PATIENCE)
        operator.cancel(ledger, [job.id], actor=ACTOR)
        cancelled.set()
        until(lambda: ledger.status_of(job.id) == "cancelled", "the end")
    assert (booked(ledger), ledger.outcomes(job.id)) == ([], ["cancelled"])


@pytest.mark.slow
def test_a_series_and_a_continued_run_end_in_a_transaction_too(database_url: str, ledger: Connection) -> None:
    def steps(_params: Any, ctx: Any) -> None:
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.finish_in(own, Continue({"page": 2}) if ctx.checkpoint is None else Done({"page": 2}))

    once = ledger.add("steps")
    series = ledger.add("hourly", recurrence_interval_minutes=60)
    run_all(database_url, ("steps", steps), ("hourly", steps))
    assert ledger.outcomes(once.id) == ["continued", "succeeded"]
    assert ledger.outcomes(series.id) == ["continued", "succeeded"]
    row = ledger.execute("SELECT status, run_at > now(), consecutive_failures FROM job_queue").fetchone()
    assert row == ("pending", True, 0)
    assert len(booked(ledger)) == 4


def test_a_run_ends_once(database_url: str, ledger: Connection) -> None:
    def pays(_params: Any, ctx: Any) -> None:
        with Connection.connect(database_url) as own:
            ctx.finish_in(own)
            ctx.finish_in(own)

    job = ledger.add("pays", max_attempts=1)
    run_all(database_url, ("pays", pays))
    assert ledger.outcomes(job.id) == ["failed"]
    assert "can be ended by ctx.finish_in once" in ledger.last_run(job.id)["error"]


def test_a_result_that_cannot_be_stored_fails_the_run_and_nothing_is_booked(
    database_url: str, ledger: Connection
) -> None:
    def pays(_params: Any, ctx: Any) -> None:
        with Connection.connect(database_url) as own:
            book(own, ctx)
            ctx.finish_in(own, Done({"when": object()}))

    job = ledger.add("pays", max_attempts=1)
    run_all(database_url, ("pays", pays))
    assert (ledger.outcomes(job.id), booked(ledger)) == (["failed"], [])
    assert ledger.last_run(job.id)["error_kind"] == "not_storable"


@pytest.fixture
def engine(database_url: str) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield made
    made.dispose()


def test_a_run_ends_in_an_sqlalchemy_session(database_url: str, ledger: Connection, engine: sqlalchemy.Engine) -> None:
    def pays(_params: Any, ctx: Any) -> None:
        with Session(engine) as session, session.begin():
            session.execute(sqlalchemy.text("INSERT INTO ledger VALUES (:n)"), {"n": ctx.job.attempt})
            ctx.finish_in(session, Done({"paid": True}))
            if ctx.job.attempt == 1:
                raise ValueError("no luck")

    job = ledger.add("pays")
    run_all(database_url, ("pays", pays))
    assert (ledger.outcomes(job.id), booked(ledger)) == (["retried", "succeeded"], [2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_an_async_run_ends_in_an_async_connection(database_url: str, ledger: Connection, kind: str) -> None:
    async def pays(_params: Any, ctx: Any) -> None:
        if kind == "psycopg":
            async with ctx.adb() as own, own.transaction():
                await own.execute("INSERT INTO ledger VALUES (%s)", (ctx.job.attempt,))
                await ctx.finish_in(own, Done({"paid": True}))
                await fails_first(ctx)
            return
        plain = await asyncpg.connect(database_url)
        try:
            async with plain.transaction():
                await plain.execute("INSERT INTO ledger VALUES ($1)", ctx.job.attempt)
                await ctx.finish_in(plain, Done({"paid": True}))
                await fails_first(ctx)
        finally:
            await plain.close()

    async def fails_first(ctx: Any) -> None:
        await asyncio.sleep(0)
        if ctx.job.attempt == 1:
            raise ValueError("no luck")

    job = ledger.add("pays")
    run_all(database_url, ("pays", pays))
    assert (ledger.outcomes(job.id), booked(ledger)) == (["retried", "succeeded"], [2])
    assert ledger.last_run(job.id)["output"] == {"paid": True}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["psycopg", "sqlalchemy", "async psycopg", "asyncpg"])
def test_a_job_that_another_session_has_locked_is_refused_with_the_way_out(
    database_url: str, conn: Connection, engine: sqlalchemy.Engine, kind: str
) -> None:
    locked, raised = threading.Event(), list[str]()

    def pays(_params: Any, ctx: Any) -> None:
        locked.wait(PATIENCE)
        with contextlib.ExitStack() as opened:
            own: Any = ctx.db if kind == "psycopg" else opened.enter_context(Session(engine))
            try:
                ctx.finish_in(own)
            except Locked as error:
                raised.append(str(error))
                raise PermanentError("locked") from None

    async def pays_on_loop(_params: Any, ctx: Any) -> None:
        await becomes(locked.is_set)
        own: Any = await (psycopg.AsyncConnection if kind == "async psycopg" else asyncpg).connect(database_url)
        try:
            await ctx.finish_in(own)
        except Locked as error:
            raised.append(str(error))
            raise PermanentError("locked") from None
        finally:
            await own.close()

    job = conn.add("pays")
    handler = pays_on_loop if kind.startswith("async") else pays
    with working(database_url, job_type("pays", handler), settings=quick_settings(lease_seconds=120.0)) as worker:
        until(lambda: worker.status.running == 1, "the run")
        with conn.transaction():
            conn.execute("SELECT FROM job_queue FOR UPDATE")
            locked.set()
            until(lambda: raised, "the refusal")
        until(lambda: conn.outcomes(job.id), "the end")
    assert raised == [finishing.LOCKED]


@pytest.mark.slow
def test_a_run_in_a_process_ends_in_its_transaction(database_url: str, ledger: Connection) -> None:
    types = [one for one in jobdeck.core.registry.load([process_handlers.__name__]) if one.task_type == "p_books"]
    job = ledger.add("p_books", max_attempts=3)
    with a_worker(database_url, *types, settings=quick_settings(lease_seconds=120.0)) as worker:
        worker.run_until_idle()
    assert (ledger.outcomes(job.id), booked(ledger)) == (["retried", "succeeded"], [2])
    assert ledger.last_run(job.id)["output"] == {"booked": 2}


@jobdeck.job("t_books")
def books(_params: jobdeck.Payload, ctx: jobdeck.JobContext) -> None:
    """Ends by itself, for the tests without a worker."""
    with ctx.db.transaction():
        ctx.finish_in(ctx.db, Done({"booked": True}, failed=2))


def test_a_unit_test_sees_the_outcome_without_a_database(conn: Connection) -> None:
    made = run_job(books, db=conn)
    assert (made.outcome, made.output, made.failed) == ("partial", {"booked": True}, 2)


def test_a_drain_in_a_test_runs_it(conn: Connection) -> None:
    jobdeck.enqueue(conn, "t_books")
    (made,) = drain(conn, task_types=["t_books"])
    assert (made.outcome, made.output) == ("partial", {"booked": True})
    assert conn.value("SELECT count(*) FROM job_queue") == 0
