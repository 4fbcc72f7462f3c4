"""Async handlers in the tests of an application: run alone, and by a drain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import jobdeck
from jobdeck.testing import ProgressReport, drain, run_job
from tests.core.testing.jobs import Bare, behaviour, waiting
from tests.support.queue import Connection

Work = Callable[[Any, Any], Awaitable[Any]]


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Says what the handler of `testing_async` does."""
    return lambda work: monkeypatch.setitem(behaviour, "async", work)


async def for_ever(_params: Any, _ctx: Any) -> None:
    await asyncio.Event().wait()


async def everything(params: Bare, ctx: jobdeck.AsyncJobContext) -> jobdeck.Done:
    await asyncio.sleep(0)
    ctx.log.info("number %s", params.number)
    ctx.progress(1, 2, "half")
    place = {"at": 1}
    await ctx.save_checkpoint(place)
    place["at"] = 2
    await ctx.save_checkpoint(place)
    return jobdeck.Done({"sent": 3}, failed=1)


def test_the_result_has_all_that_the_handler_did(does: Callable[[Work], None]) -> None:
    does(everything)
    result = run_job(waiting, Bare(number=5))
    assert (result.outcome, result.output, result.failed) == ("partial", {"sent": 3}, 1)
    assert [line.message for line in result.lines] == ["number 5"]
    assert result.progress == (ProgressReport(1, 2, "half"),)
    assert result.checkpoints == ({"at": 1}, {"at": 2})


def test_it_is_run_also_from_a_test_that_has_a_loop(does: Callable[[Work], None]) -> None:
    does(everything)

    async def test() -> str:
        return str(run_job(waiting).outcome)

    assert asyncio.run(test()) == "partial"


@pytest.mark.parametrize(
    ("stop", "outcome"), [("cancelled", "cancelled"), ("released", "released"), ("timed_out", "retried")]
)
def test_a_run_that_has_to_stop_is_cancelled_where_it_waits(
    does: Callable[[Work], None], stop: Any, outcome: str
) -> None:
    does(for_ever)
    assert run_job(waiting, stop=stop).outcome == outcome


def test_it_may_be_cancelled_after_some_checks(does: Callable[[Work], None]) -> None:
    passed = []

    async def check(_params: Any, ctx: jobdeck.AsyncJobContext) -> None:
        while True:
            ctx.raise_if_cancelled()
            passed.append(1)
            await asyncio.sleep(0)

    does(check)
    assert run_job(waiting, stop="cancelled", stop_after=3).outcome == "cancelled"
    assert len(passed) == 3


def test_a_lost_lease_ends_a_run_that_saves_a_checkpoint(does: Callable[[Work], None]) -> None:
    does(everything)
    result = run_job(waiting, stop="lease_lost", stop_after=2)
    assert (result.error_kind, result.checkpoints) == ("lease_lost", ({"at": 1},))


def test_what_it_raises_has_the_consequence_that_it_has_in_a_worker(does: Callable[[Work], None]) -> None:
    async def fail(_params: Any, _ctx: Any) -> None:
        raise jobdeck.RetryLater(7, "not yet")

    does(fail)
    result = run_job(waiting)
    assert (result.outcome, result.due_in) == ("retried", (7, 7))
    with pytest.raises(jobdeck.RetryLater):
        run_job(waiting, raise_errors=True)

    async def give_up(_params: Any, _ctx: Any) -> None:
        pytest.fail("the mail server was called")

    does(give_up)
    with pytest.raises(pytest.fail.Exception, match="the mail server was called"):
        run_job(waiting)


def test_a_handler_that_uses_the_database_without_one_is_an_error_of_the_test(does: Callable[[Work], None]) -> None:
    async def use(_params: Any, ctx: jobdeck.AsyncJobContext) -> None:
        async with ctx.adb():
            pass

    does(use)
    with pytest.raises(jobdeck.JobdeckError, match=r"Pass it a connection: run_job\(…, db=connection\)"):
        run_job(waiting)


def test_a_drain_runs_it_with_a_connection_of_its_own(does: Callable[[Work], None], conn: Connection) -> None:
    conn.execute("create table parcels (number int)")
    conn.execute("insert into parcels values (41)")

    async def count(_params: Any, ctx: jobdeck.AsyncJobContext) -> jobdeck.Done:
        await ctx.save_checkpoint({"at": 1})
        async with ctx.adb() as own:
            await own.execute("insert into parcels values (42)")
            found = await (await own.execute("select sum(number) from parcels")).fetchone()
        return jobdeck.Done({"sum": found[0] if found else 0})

    does(count)
    jobdeck.enqueue(conn, "testing_async")
    (result,) = drain(conn)
    assert (result.outcome, result.output, result.checkpoints) == ("succeeded", {"sum": 83}, ({"at": 1},))
