"""What async handlers have: connections, checkpoints, and the loop that they share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases
from jobdeck.core.registry import Done
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.fetcher import SHARED_SECONDS
from jobdeck.core.worker.runs.loop_context import OnLoop
from jobdeck.core.worker.slots.lane import thread_position
from jobdeck.core.worker.slots.loop import LoopSlots
from tests.core.worker.async_handlers import Gate, all_async, returns_nothing
from tests.core.worker.test_executor import runner_of
from tests.core.worker.test_worker import expire
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import a_worker, claimed, job_type, nothing, quick_settings, working

# The context


@pytest.mark.slow
def test_checkpoints_are_saved_while_all_connections_are_taken(database_url: str, conn: Connection) -> None:
    async def handler(params: Any, ctx: Any) -> Done:
        async with ctx.adb() as own:
            await ctx.save_checkpoint({"page": params.number})
            cursor = await own.execute("SELECT checkpoint ->> 'page' FROM job_queue WHERE id = %s", (ctx.job.id,))
            stored = await cursor.fetchone()
        return Done({"stored": stored[0], "seen": ctx.checkpoint["page"]})

    all_async(conn, "saves", 40)
    settings = quick_settings(async_connections=2, lease_seconds=120.0, heartbeat_seconds=5.0)
    with a_worker(database_url, job_type("saves", handler), settings=settings) as worker:
        worker.run_until_idle()
    rows = conn.execute("SELECT outcome, output ->> 'stored' = payload ->> 'number' FROM job_runs").fetchall()
    assert rows == [("succeeded", True)] * 40


@pytest.mark.slow
def test_async_runs_share_as_many_connections_as_the_setting_says(database_url: str, conn: Connection) -> None:
    servers: set[int] = set()

    async def handler(_params: Any, ctx: Any) -> None:
        async with ctx.adb() as own:
            cursor = await own.execute("SELECT pg_backend_pid(), pg_sleep(0.01)")
            servers.add((await cursor.fetchone())[0])

    all_async(conn, "reads", 40)
    with a_worker(database_url, job_type("reads", handler), settings=quick_settings(async_connections=3)) as worker:
        worker.run_until_idle()
    assert conn.outcomes() == ["succeeded"] * 40
    assert 1 <= len(servers) <= 3


@pytest.mark.slow
def test_a_connection_of_a_cancelled_query_is_not_used_again_in_its_transaction(
    database_url: str, conn: Connection
) -> None:
    async def sleeps(_params: Any, ctx: Any) -> None:
        async with ctx.adb() as own, own.transaction():
            await own.execute("SELECT pg_sleep(3600)")

    async def reads(_params: Any, ctx: Any) -> Done:
        async with ctx.adb() as own:
            cursor = await own.execute("SELECT count(*) FROM job_queue")
            return Done({"rows": (await cursor.fetchone())[0]})

    slow = conn.add("sleeps", max_attempts=1)
    settings = quick_settings(async_connections=1)
    with working(
        database_url, job_type("sleeps", sleeps, timeout=0.3), job_type("reads", reads), settings=settings
    ) as worker:
        until(lambda: conn.outcomes(slow.id) == ["failed"], "the timeout")
        conn.add("reads")
        until(lambda: worker.status.succeeded == 1, "the next run")


def test_the_connection_of_threads_is_refused_with_the_way_that_works(database_url: str, conn: Connection) -> None:
    async def handler(_params: Any, ctx: Any) -> None:
        ctx.db.execute("SELECT 1")

    job = conn.add("blocks", max_attempts=1)
    with a_worker(database_url, job_type("blocks", handler)) as worker:
        worker.run_until_idle()
    assert "async with ctx.adb() as conn" in conn.last_run(job.id)["error"]


@pytest.mark.slow
def test_a_checkpoint_of_a_run_that_lost_its_job_is_refused(database_url: str, conn: Connection) -> None:
    entered, lost = threading.Event(), threading.Event()

    async def handler(_params: Any, ctx: Any) -> None:
        entered.set()
        await asyncio.to_thread(lost.wait, PATIENCE)
        await ctx.save_checkpoint({"page": 1})

    job = conn.add("late", max_attempts=1)
    settings = quick_settings(lease_seconds=120.0, heartbeat_seconds=60.0)
    with working(database_url, job_type("late", handler), settings=settings) as worker:
        assert entered.wait(PATIENCE)
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        lost.set()
        until(lambda: conn.outcomes(job.id) == ["lost", "abandoned"], "both records")
        figures = worker.figures()
    assert conn.execute("SELECT checkpoint FROM job_queue").fetchone() == (None,)
    assert figures is not None
    assert figures.lost_leases == 1


# The loop


@pytest.mark.slow
def test_a_handler_that_blocks_the_loop_is_named_with_its_position_once(
    database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def blocking_call() -> None:
        go_on.wait(PATIENCE)

    async def blocks(_params: Any, _ctx: Any) -> None:
        blocking_call()

    job = conn.add("blocks")

    def warnings() -> list[Any]:
        lines = [vars(one)["fields"] for one in caplog.records if "blocks the event loop" in one.getMessage()]
        # On a busy machine, the first import in the loop may take longer than a second too.
        return [fields for fields in lines if "in blocking_call" in fields["stack"]]

    with working(database_url, job_type("blocks", blocks), settings=quick_settings(lease_seconds=120.0)):
        until(warnings, "the warning")
        shown = "SELECT progress ->> 'log' FROM job_queue"
        until(lambda: "blocking_call" in str(conn.execute(shown).fetchone()), "the line in the dashboard")
        go_on.set()
        until(lambda: conn.status_of(job.id) is None, "the end")
    assert len(warnings()) == 1
    assert "blocks the event loop" in conn.last_run(job.id)["log"]


def test_a_loop_that_waits_is_not_said_to_be_blocked(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(gate)
    slots = LoopSlots(runner, done, "test")
    slots.put([RunContext(claimed(), runner.resources, 0.0, float("inf"))])
    gate.wait_for()
    thread = slots._thread
    assert thread is not None
    until(lambda: "selectors.py" in thread_position(thread), "the loop's wait for events")
    # As on a machine that did not let the loop run for a minute.
    slots._pinged = time.monotonic() - 60
    slots.look(time.monotonic())
    assert not slots._blames
    gate.open()
    done.get(timeout=PATIENCE)
    slots.close()
    assert "blocks the event loop" not in caplog.text


@pytest.mark.slow
def test_a_lane_without_jobs_does_not_claim_for_each_batch_of_another(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[list[str]] = []
    claim = leases.claim

    def counted(conn: Any, worker: str, types: list[str], *more: Any) -> Any:
        claims.append(types)
        return claim(conn, worker, types, *more)

    monkeypatch.setattr(leases, "claim", counted)
    types = job_type("plain", nothing), job_type("quick", returns_nothing)
    with working(database_url, *types, concurrency=1) as worker:
        until(lambda: ["quick"] in claims, "the first claim of the loop's lane")
        began, before = time.monotonic(), claims.count(["quick"])
        for number in range(1, 101):
            conn.add("plain")
            until(lambda number=number: worker.status.succeeded == number, "the run")  # type: ignore[misc]
        seconds = time.monotonic() - began
    # Each insert wakes both lanes; beyond that, the loop's lane looks at most every `SHARED_SECONDS`.
    assert claims.count(["quick"]) - before <= 110 + seconds / SHARED_SECONDS


async def test_what_a_type_opened_is_left_before_the_connections_that_it_may_use_are_closed(database_url: str) -> None:
    servers: list[int] = []
    with Database(database_url, application_name="test") as database:
        shared = OnLoop(runner_of(returns_nothing, database).resources)

        @asynccontextmanager
        async def opened(_settings: object, _database: object) -> AsyncIterator[None]:
            for leaves in (False, True):
                async with shared.connection() as own:
                    servers.append(own.info.backend_pid)
                if not leaves:
                    yield

        await shared.of(opened)
        await shared.close()
    assert len(servers) == 2
    assert len(set(servers)) == 1, "a connection was opened when those of the loop were closed"
