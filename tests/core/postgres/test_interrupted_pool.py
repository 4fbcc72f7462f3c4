"""A pool whose users are interrupted at any step keeps all of its places."""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from itertools import count, takewhile
from typing import Any

import pytest

from jobdeck.core.postgres import pool as module
from jobdeck.core.postgres.database import Database
from jobdeck.core.postgres.pool import AsyncConnection, AsyncPool, Pool
from tests.support.interrupting import interrupted_at
from tests.support.queue import Connection
from tests.support.waiting import until


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("use", [Pool.connection, Pool.lend])
def test_a_user_that_is_interrupted_at_any_step_leaves_its_place_to_others(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[Pool], AbstractContextManager[object]]
) -> None:
    # An interrupted step may drop a connection that is open, which psycopg warns of.
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    with Database(empty_database_url, application_name="test", max_size=2) as database:
        pool = database._pool

        def work() -> None:
            with use(pool):
                pass

        for step in takewhile(lambda step: interrupted_at(step, module.__file__, work), count()):
            with pool.connection() as first, pool.connection() as second:
                assert first is not second, step
        assert step > 10
    # Here, and not in a test that does not expect its warning.
    gc.collect()


@types.coroutine
def cancelled_at(step: int, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Does something that is cancelled at one of its waits, counted from 0; False if it is over before."""
    error: BaseException | None = None
    while True:
        try:
            waits_for = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return step < 0
        except asyncio.CancelledError:
            return True
        finally:
            error = None
        task = asyncio.current_task()
        if step == 0 and task is not None:
            asyncio.get_running_loop().call_soon(task.cancel)
        step -= 1
        try:
            yield waits_for
        except BaseException as raised:  # noqa: BLE001 -- the work decides
            error = raised


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("use", [AsyncPool.connection, AsyncPool.lend])
async def test_a_task_that_is_cancelled_wherever_it_waits_leaves_its_place_to_others_and_no_session(
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[AsyncPool], AbstractAsyncContextManager[AsyncConnection]],
    *,
    used: bool,
    trusted: bool,
) -> None:
    monkeypatch.setattr(module, "TRUST_SECONDS", 30.0 if trusted else 0.0)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)

    async def work(pool: AsyncPool) -> None:
        async with use(pool), use(pool) as conn:
            await conn.execute("SELECT 1")

    async def is_cancelled(database: Database, step: int) -> bool:
        pool = AsyncPool(database.connect_async, label="test", max_size=2)
        if used:
            await work(pool)
        cancelled = await asyncio.create_task(cancelled_at(step, work(pool)))
        await work(pool)
        await pool.close()
        return cancelled

    with Database(empty_database_url, application_name="cancelled", max_size=2) as database:
        step = 0
        while await is_cancelled(database, step):
            step += 1
        assert step > 0
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        left = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cancelled'"
        until(lambda: conn.execute(left).fetchall() == [], "the end of all sessions")
