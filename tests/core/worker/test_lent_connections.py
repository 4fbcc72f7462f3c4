"""What handlers leave behind on the connections that they borrow: nothing that another job or the worker finds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from jobdeck.core.postgres.database import Database
from jobdeck.core.postgres.lent.loan import LeftOpen
from jobdeck.core.registry import Registry
from jobdeck.core.worker.worker import Worker
from tests.core.worker.misdeeds import LEFT, leave_statement
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import job_type, quick_settings, working

STATEMENTS = {
    "a parameter": "SET statement_timeout = '1h'",
    "a parameter of later transactions": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "a search path": "SET search_path = pg_catalog",
    "a parameter by a function": "SELECT set_config('lock_timeout', '7s', false)",
    "a parameter of the application": "SET app.account = 'somebody'",
    "a role": "SET ROLE pg_monitor",
    "another user": "SET SESSION AUTHORIZATION pg_monitor",
    "LISTEN": "LISTEN somewhere",
    "an advisory lock": "SELECT pg_advisory_lock(1)",
    "a temporary table": "CREATE TEMP TABLE left_over ()",
    "a cursor": "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
}
ATTRIBUTES: dict[str, Callable[[Any], object]] = {
    "row_factory": lambda conn: setattr(conn, "row_factory", dict_row),
    "cursor_factory": lambda conn: setattr(conn, "cursor_factory", psycopg.ClientCursor),
    "prepare_threshold": lambda conn: setattr(conn, "prepare_threshold", 0),
    "json": lambda conn: set_json_loads(lambda _text: "mine", conn),
    "pipeline": lambda conn: conn.pipeline().__enter__(),
}
SESSION = """
    SELECT current_user, session_user, (SELECT count(*) FROM pg_listening_channels()),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_cursors WHERE name = 'left_over'), to_regclass('pg_temp.left_over'),
        (SELECT coalesce(jsonb_object_agg(name, setting), '{}') FROM pg_settings WHERE source = 'session'),
        current_setting('app.account', true) IS NOT DISTINCT FROM 'somebody'
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, application_name="test", max_size=2) as database:
        yield database


def session_of(conn: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """What can be seen of the session of a connection, and of its object."""
    row = conn.execute(SESSION).fetchone()
    assert row is not None
    assert type(row) is tuple
    made = (conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable, conn.prepare_threshold)
    return (*row, *made, conn.row_factory, conn.cursor_factory, conn.server_cursor_factory)


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_what_a_borrower_does_to_the_session_is_gone_before_the_next_loan(database: Database, statement: str) -> None:
    with database.lend() as conn:
        before = session_of(conn)
        conn.execute(statement)
    with database.lend() as conn:
        assert session_of(conn) == before


@pytest.mark.parametrize("change", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_what_a_borrower_sets_on_its_connection_is_gone_before_the_next_loan(
    database: Database, change: Callable[[Any], object]
) -> None:
    with database.lend() as conn:
        before = session_of(conn)
        change(conn)
    with database.lend() as conn:
        assert session_of(conn) == before


def test_a_loan_costs_no_new_connection_and_keeps_prepared_statements(database: Database) -> None:
    pids, prepared = set(), []
    for _ in range(20):
        with database.lend() as conn:
            pids.add(conn.info.backend_pid)
            conn.execute("SELECT %s::int", (1,))
            prepared = conn.execute("SELECT statement FROM pg_prepared_statements").fetchall()
    assert len(pids) == 1
    assert ("SELECT $1::int",) in prepared


def test_the_pools_own_users_never_get_a_connection_that_was_lent(database: Database) -> None:
    with database.lend() as conn:
        lent = conn.info.backend_pid
    for _ in range(2):
        with database.connection() as conn:
            own = conn.info.backend_pid
            assert own != lent
        with database.lend() as conn:
            assert conn.info.backend_pid == lent


def test_a_pool_opens_no_more_connections_than_it_may_when_all_were_lent(database: Database) -> None:
    with database.lend() as one, database.lend() as other:
        lent = {one.info.backend_pid, other.info.backend_pid}
    with database.connection() as conn:
        alive = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test'"
        until(lambda: conn.execute(alive).fetchone() == (2,), "the end of one of the lent connections")
        assert conn.info.backend_pid not in lent


def test_a_connection_whose_server_process_ended_after_the_loan_is_replaced(
    database: Database, conn: Connection
) -> None:
    with database.lend() as lent:
        first = lent.info.backend_pid
    conn.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
    with database.lend() as lent:
        assert lent.execute("SELECT 1").fetchone() == (1,)
        assert lent.info.backend_pid != first


def test_a_borrower_hears_nothing_that_the_one_before_listened_for(database: Database, conn: Connection) -> None:
    with database.lend() as lent:
        lent.execute("LISTEN somewhere")
        lent.execute("SELECT 1")
        conn.execute("NOTIFY somewhere, 'of the first loan'")
        pid = lent.info.backend_pid
    clean = "SELECT state = 'idle' AND query LIKE 'RESET ROLE%%' FROM pg_stat_activity WHERE pid = %s"
    until(lambda: conn.execute(clean, (pid,)).fetchone() == (True,), "the end of the cleaning")
    with database.lend() as lent:
        lent.execute("LISTEN somewhere")
        conn.execute("NOTIFY somewhere, 'of the second loan'")
        assert [notify.payload for notify in lent.notifies(timeout=PATIENCE, stop_after=1)] == ["of the second loan"]


def test_a_thread_that_a_borrower_left_finds_its_connection_closed(database: Database) -> None:
    with database.lend() as conn:
        cursor = conn.cursor()
        kept = conn
    with database.lend() as conn:
        assert kept.closed
        for use in (kept.execute, cursor.execute):
            with pytest.raises(psycopg.OperationalError):
                use("SELECT 1")
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_a_statement_that_a_borrower_left_running_is_cut_off_and_reads_from_no_other_connection(
    database: Database,
) -> None:
    def leave(number: int) -> None:
        with database.lend() as conn:
            leave_statement(conn, copy=number % 2 == 0)

    for number in range(20):
        with pytest.raises(LeftOpen, match="still running"):
            leave(number)
        with database.lend() as one, database.lend() as other:
            assert one.execute("SELECT 1").fetchone() == other.execute("SELECT 1").fetchone() == (1,)
    until(lambda: LEFT not in [thread.name for thread in threading.enumerate()], "the end of the threads")


def test_a_thread_that_first_asks_for_a_connection_after_its_run_gets_a_closed_one(
    conn: Connection, database_url: str
) -> None:
    contexts: list[Any] = []
    job = conn.add("leaves", max_attempts=1).id
    with working(database_url, job_type("leaves", lambda _params, ctx: contexts.append(ctx))):
        until(lambda: conn.status_of(job) is None, "the end of the job")
        with pytest.raises(psycopg.OperationalError, match="closed"):
            contexts[0].db.execute("SELECT 1")


def test_threads_of_one_run_that_ask_for_its_connection_at_once_get_the_same(
    conn: Connection, database_url: str
) -> None:
    found: list[int] = []

    def shares(_params: object, ctx: Any) -> None:
        begin = threading.Barrier(8)

        def ask() -> None:
            begin.wait()
            found.append(ctx.db.info.backend_pid)

        threads = [threading.Thread(target=ask) for _ in range(begin.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    job = conn.add("shares", max_attempts=1).id
    with working(database_url, job_type("shares", shares)):
        until(lambda: conn.status_of(job) in {None, "failed"}, "the end of the job")
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_what_resources_do_to_a_connection_neither_runs_nor_the_worker_find(
    conn: Connection, database_url: str, kind: str
) -> None:
    found: dict[str, int] = {}

    @contextmanager
    def opens(_settings: object, database: Database) -> Iterator[int]:
        with database.connection() as own:
            own.execute("SET default_transaction_read_only = on")
            found["lent"] = own.info.backend_pid
        yield found["lent"]

    def uses(_params: object, ctx: Any) -> None:
        assert ctx.resources == found["lent"]

    async def uses_too(_params: object, ctx: Any) -> None:
        uses(_params, ctx)

    job = conn.add("uses", max_attempts=1).id
    with (
        Database(database_url, application_name="test", max_size=8) as database,
        ExitStack() as stack,
    ):
        run = uses if kind == "thread" else uses_too
        worker = Worker(database, Registry([job_type("uses", run, resources=opens)]), quick_settings())
        stack.callback(worker.stop)
        worker.start()
        until(lambda: conn.status_of(job) in {None, "failed"}, "the end of the job")
        with database.connection() as own, database.connection() as other:
            pids = {own.info.backend_pid, other.info.backend_pid}
        assert found["lent"] not in pids
        with database.lend() as lent:
            assert lent.execute("SHOW default_transaction_read_only").fetchone() == ("off",)
    assert conn.outcomes(job) == ["succeeded"]


def without_autocommit(_params: object, ctx: Any) -> None:
    ctx.db.autocommit = False
    ctx.db.execute("INSERT INTO written VALUES (0)")
    ctx.db.commit()


def writes(params: Any, ctx: Any) -> None:
    ctx.db.execute("INSERT INTO written VALUES (%s)", (params.number,))


def written(conn: Connection) -> list[int]:
    return [number for (number,) in conn.execute("SELECT number FROM written ORDER BY number")]


def test_a_handler_that_sets_autocommit_loses_no_writes_of_other_jobs(conn: Connection, database_url: str) -> None:
    conn.execute("CREATE TABLE written (number int)")
    conn.add("changes", priority=9)
    jobs = [conn.add("writes", payload={"number": number}).id for number in range(1, 9)]
    types = (job_type("changes", without_autocommit), job_type("writes", writes))
    with working(database_url, *types, concurrency=1):
        until(lambda: not any(conn.status_of(job) for job in jobs), "the end of the jobs")
    assert set(conn.outcomes()) == {"succeeded"}
    assert written(conn) == list(range(9))


@pytest.mark.slow
def test_a_setting_of_a_handler_stops_neither_other_jobs_nor_the_upkeep(
    conn: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("CREATE TABLE written (number int)")

    def changes(params: Any, ctx: Any) -> None:
        ctx.db.execute("SELECT pg_advisory_lock(%s)", (params.number,))
        ctx.db.execute("SET default_transaction_read_only = on")

    kinds = [job_type("changes", changes), job_type("writes", writes)]
    with working(database_url, *kinds, settings=quick_settings(lease_seconds=4.0), concurrency=2) as worker:
        for number in range(1, 9):
            conn.add("changes", payload={"number": number})
            job = conn.add("writes", payload={"number": number}).id
            until(lambda job=job: conn.status_of(job) is None, "the end of the job")  # type: ignore[misc]
        past = upkeep_of(worker)
        until(lambda: upkeep_of(worker) > past, "upkeep after it")
    assert set(conn.outcomes()) == {"succeeded"}
    assert written(conn) == list(range(1, 9))
    assert "maintenance failed" not in caplog.text


def upkeep_of(worker: Worker) -> float:
    figures = worker.figures()
    assert figures is not None
    return figures.upkeep_at or 0.0


@pytest.mark.slow
def test_what_an_async_handler_sets_is_gone_before_the_next_block(conn: Connection, database_url: str) -> None:
    conn.execute("CREATE TABLE written (number int)")

    async def changes(_params: object, ctx: Any) -> None:
        async with ctx.adb() as own:
            await own.set_autocommit(False)
            own.row_factory = dict_row
            await own.execute("SET statement_timeout = '1h'")
            await own.commit()

    async def writes_too(params: Any, ctx: Any) -> None:
        async with ctx.adb() as own:
            found = await (await own.execute("SHOW statement_timeout")).fetchone()
            assert found == ("0",)
            await own.execute("INSERT INTO written VALUES (%s)", (params.number,))

    types = (job_type("changes", changes), job_type("writes", writes_too))
    with working(database_url, *types, settings=quick_settings(async_connections=1)):
        for number in range(4):
            first = conn.add("changes", max_attempts=1).id
            until(lambda first=first: conn.status_of(first) is None, "the first job")  # type: ignore[misc]
            job = conn.add("writes", payload={"number": number}, max_attempts=1).id
            until(lambda job=job: conn.status_of(job) is None, "the second job")  # type: ignore[misc]
    assert set(conn.outcomes()) == {"succeeded"}
    assert written(conn) == list(range(4))


@pytest.mark.parametrize("kind", ["thread", "async"])
@pytest.mark.parametrize("statement", ["INSERT INTO written VALUES (1)", "SELECT number FROM written"])
def test_a_handler_that_leaves_its_transaction_open_has_failed_only_if_it_wrote(
    conn: Connection, database_url: str, kind: str, statement: str
) -> None:
    conn.execute("CREATE TABLE written (number int)")

    def leaves(_params: object, ctx: Any) -> None:
        ctx.db.autocommit = False
        ctx.db.execute(statement)

    async def leaves_too(_params: object, ctx: Any) -> None:
        async with ctx.adb() as own:
            await own.set_autocommit(False)
            await own.execute(statement)

    job = conn.add("leaves", max_attempts=1).id
    with working(database_url, job_type("leaves", leaves if kind == "thread" else leaves_too)):
        until(lambda: conn.status_of(job) in {None, "failed"}, "the end of the job")
    wrote = statement.startswith("INSERT")
    assert conn.outcomes(job) == ["failed" if wrote else "succeeded"]
    assert written(conn) == []
