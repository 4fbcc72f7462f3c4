"""What an application puts around its runs: middleware, hooks for failures for good, resources that runs share."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, around, load
from jobdeck.core.registry.around import FailedJob, middleware, on_failure
from jobdeck.testing import run_job
from tests.core.worker import process_handlers
from tests.core.worker.process_handlers import MODULE
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import a_worker, drain, job_type, nothing, quick_settings, working


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for name in ("plain_middleware", "async_middleware", "failure_hooks"):
        monkeypatch.setattr(around, name, [])


class TestMiddleware:
    def test_it_is_around_the_handler_and_what_was_registered_first_is_outermost(
        self, database_url: str, conn: Connection
    ) -> None:
        seen: list[str] = []

        def named(name: str) -> Callable[..., Any]:
            def wrap(params: Any, ctx: Any, call: Callable[[], Any]) -> Any:
                seen.append(f"{name} {ctx.job.task_type} {params.number}")
                outcome = call()
                seen.append(f"{name} got {outcome.output}")
                return Done({**outcome.output, name: True})

            return wrap

        middleware(named("outer"))
        middleware(named("inner"))
        job = conn.add("plain", payload={"number": 4})
        drain(database_url, job_type("plain", lambda params, _ctx: Done({"number": params.number})))
        assert seen == [
            "outer plain 4", "inner plain 4", "inner got {'number': 4}", "outer got {'number': 4, 'inner': True}",
        ]  # fmt: skip
        assert conn.last_run(job.id)["output"] == {"number": 4, "inner": True, "outer": True}

    def test_async_middleware_is_around_async_handlers_and_plain_middleware_around_the_others(
        self, database_url: str, conn: Connection
    ) -> None:
        seen: list[str] = []

        @middleware
        def plain(_params: Any, ctx: Any, call: Callable[[], Any]) -> Any:
            seen.append(f"plain {ctx.job.task_type}")
            return call()

        @middleware
        async def on_loop(_params: Any, ctx: Any, call: Callable[[], Any]) -> Any:
            await asyncio.sleep(0)
            seen.append(f"loop {ctx.job.task_type}")
            return await call()

        async def waits(_params: Any, _ctx: Any) -> Done:
            await asyncio.sleep(0)
            return Done({"waited": True})

        conn.add("thread")
        job = conn.add("task")
        drain(database_url, job_type("thread", nothing), job_type("task", waits))
        assert sorted(seen) == ["loop task", "plain thread"]
        assert conn.last_run(job.id)["output"] == {"waited": True}

    def test_what_it_raises_is_the_runs_error_and_what_it_returns_without_a_call_the_outcome(
        self, database_url: str, conn: Connection
    ) -> None:
        ran: list[int] = []

        @middleware
        def guard(params: Any, _ctx: Any, call: Callable[[], Any]) -> Any:
            if params.number == 1:
                raise PermanentError("not today")
            return Done({"skipped": True}) if params.number == 2 else call()

        jobs = [conn.add("plain", payload={"number": number}) for number in (1, 2, 3)]
        drain(database_url, job_type("plain", lambda params, _ctx: ran.append(params.number)))
        assert ran == [3]
        assert (conn.outcomes(jobs[0].id), conn.last_run(jobs[0].id)["error"]) == (["failed"], "not today")
        assert conn.last_run(jobs[1].id)["output"] == {"skipped": True}

    @pytest.mark.slow
    def test_it_is_around_a_handler_in_a_process(self, database_url: str, conn: Connection) -> None:
        importlib.reload(importlib.import_module("tests.core.worker.process_middleware"))
        job = conn.add("p_done", payload={"number": 6})
        drain(database_url, *load([MODULE]), settings=quick_settings(lease_seconds=120.0))
        log = conn.last_run(job.id)["log"]
        assert log.index("before 6") < log.index("a line of p_done") < log.index("after")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("module", "kind", "words"),
        [(__name__, "process_died", "is not registered when its module is imported"),
         ("__main__", "permanent", "A middleware is in no module that another process can import")],
    )  # fmt: skip
    def test_no_process_runs_a_job_without_the_middleware_that_its_worker_has(
        self, database_url: str, conn: Connection, module: str, kind: str, words: str
    ) -> None:
        def guard(_params: Any, _ctx: Any, call: Callable[[], Any]) -> Any:
            return call()

        guard.__module__ = module
        middleware(guard)
        job = conn.add("p_done", payload={"number": 6}, max_attempts=1)
        drain(database_url, *load([MODULE]), settings=quick_settings(lease_seconds=120.0))
        run = conn.last_run(job.id)
        assert (run["outcome"], run["error_kind"]) == ("failed", kind)
        assert words in run["error"]

    def test_it_is_around_a_handler_in_a_unit_test(self) -> None:
        @middleware
        def doubled(_params: Any, _ctx: Any, call: Callable[[], Any]) -> Any:
            return Done({"twice": call().output["number"] * 2})

        assert run_job("a_counts", {"number": 4}).output == {"twice": 8}


@job("a_counts", payload=process_handlers.Params)
def counts(params: Any, _ctx: Any) -> Done:
    return Done({"number": params.number})


class TestHooks:
    @pytest.mark.slow
    def test_a_failure_for_good_is_told_once_with_its_facts_and_an_attempt_that_is_retried_is_not(
        self, database_url: str, conn: Connection
    ) -> None:
        told: list[FailedJob] = []
        on_failure(told.append)

        def fails(params: Any, _ctx: Any) -> None:
            if params.number:
                raise ValueError("no luck for jane@example.org")

        job = conn.add("fails", payload={"number": 7}, max_attempts=2)
        conn.add("fails")
        drain(database_url, job_type("fails", fails), worker_id="w1")
        assert conn.outcomes(job.id) == ["retried", "failed"]
        (one,) = told
        assert (one.job_id, one.task_type, one.payload, one.attempt) == (job.id, "fails", {"number": 7}, 2)
        assert (one.error_kind, one.recurring, one.worker) == ("ValueError", False, "w1")
        assert one.error is not None
        assert "no luck" in one.error
        assert "jane@" not in one.error

    def test_the_failure_of_a_slot_of_a_series_is_told(self, database_url: str, conn: Connection) -> None:
        told: list[FailedJob] = []
        on_failure(told.append)

        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        conn.add("fails", recurrence_interval_minutes=60)
        drain(database_url, job_type("fails", fails))
        assert [(one.recurring, one.error) for one in told] == [(True, "never")]

    @pytest.mark.slow
    def test_a_job_whose_last_run_was_lost_is_told_by_the_worker_that_finds_it(
        self, database_url: str, conn: Connection
    ) -> None:
        told: list[FailedJob] = []
        on_failure(told.append)
        last, again = (conn.add("gone", max_attempts=attempts) for attempts in (1, 2))
        conn.execute("SELECT job_queue_claim('silent', ARRAY['gone'], 9, 60.0)")
        conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 second'")
        conn.execute("UPDATE job_queue SET run_at = now() + interval '1 day' WHERE id = %s", (again.id,))
        with working(database_url, job_type("plain", nothing)):
            until(lambda: told, "the hook")
            until(lambda: conn.outcomes(again.id) == ["lost"], "the other lost run")
        assert [(one.job_id, one.error_kind) for one in told] == [(last.id, "lease_expired")]

    @pytest.mark.slow
    def test_a_slot_of_a_series_whose_last_run_was_lost_is_told_too(self, database_url: str, conn: Connection) -> None:
        told: list[FailedJob] = []
        on_failure(told.append)
        last, again = (
            conn.add("gone", payload={"number": n}, max_attempts=n, recurrence_interval_minutes=60) for n in (1, 3)
        )
        conn.execute("SELECT job_queue_claim('silent', ARRAY['gone'], 9, 60.0)")
        conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 second'")
        with working(database_url, job_type("plain", nothing)):
            until(lambda: told, "the hook")
            until(lambda: conn.outcomes(again.id) == ["lost"], "the other lost run")
        assert [(one.job_id, one.recurring, one.attempt) for one in told] == [(last.id, True, 1)]

    def test_a_hook_that_fails_keeps_no_other_from_being_called(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[FailedJob] = []

        @on_failure
        def broken(_failed: FailedJob) -> None:
            raise ZeroDivisionError("for jane@example.org")

        @on_failure
        def exits(_failed: FailedJob) -> None:
            sys.exit(3)

        on_failure(told.append)

        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        for _ in range(2):
            conn.add("fails")
        drain(database_url, job_type("fails", fails))
        assert len(told) == 2
        lines = [vars(one)["fields"] for one in caplog.records if one.getMessage() == "a hook of a failed job failed"]
        assert [line["hook"] for line in lines] == ["broken", "exits"] * 2
        assert "jane@" not in str(lines)

    def test_a_slow_hook_delays_no_report(self, database_url: str, conn: Connection) -> None:
        go_on = threading.Event()
        on_failure(lambda _failure: go_on.wait(PATIENCE) and None)

        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        jobs = [conn.add("fails") for _ in range(5)]
        with working(database_url, job_type("fails", fails)) as worker:
            until(lambda: worker.status.failed == 5, "the reports")
            assert [conn.outcomes(one.id) for one in jobs] == [["failed"]] * 5
            go_on.set()

    @pytest.mark.slow
    def test_a_worker_ends_without_a_hook_that_does_not_and_says_so(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobdeck.core.alerts.hooks.END_SECONDS", 0.1)
        go_on = threading.Event()
        on_failure(lambda _failure: go_on.wait(PATIENCE) and None)

        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        job = conn.add("fails")
        drain(database_url, job_type("fails", fails))
        assert conn.outcomes(job.id) == ["failed"]
        assert "the hooks of failed jobs are too slow; the worker ends without them" in caplog.messages
        go_on.set()

    def test_a_hook_may_stop_its_worker(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        stopped = threading.Event()

        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        conn.add("fails")
        with a_worker(database_url, job_type("fails", fails)) as worker:

            @on_failure
            def stop(_failed: FailedJob) -> None:
                worker.stop()
                stopped.set()

            worker.start()
            assert stopped.wait(PATIENCE)
        assert worker.status.state == "stopped"
        assert "a hook of a failed job failed" not in caplog.messages

    def test_a_worker_without_hooks_has_no_thread_for_them(self, database_url: str, conn: Connection) -> None:
        def fails(_params: Any, _ctx: Any) -> None:
            raise PermanentError("never")

        conn.add("fails")
        with working(database_url, job_type("fails", fails), worker_id="w12") as worker:
            until(lambda: worker.status.failed == 1, "the failure")
            assert not [one for one in threading.enumerate() if one.name == "w12 hooks"]

    def test_an_async_hook_is_refused_when_it_is_registered(self) -> None:
        async def tells(_failed: FailedJob) -> None: ...

        with pytest.raises(ConfigurationError, match="The hook tells is an async function"):
            on_failure(tells)


class Opened:
    """A resource that counts how often it was entered and left."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def plain(self, settings: Any, _database: Any) -> Iterator[str]:
        self.events.append(f"entered with a lease of {settings.lease_seconds:g}")
        yield "the client"
        self.events.append("left")

    @asynccontextmanager
    async def on_loop(self, _settings: Any, database: Any) -> AsyncIterator[str | None]:
        task = asyncio.current_task()
        self.events.append(f"entered with {database is not None}")
        await asyncio.sleep(0)
        yield None
        assert asyncio.current_task() is task
        self.events.append("left")


@pytest.fixture
def opened() -> Opened:
    return Opened()


class TestResources:
    @pytest.mark.slow
    def test_types_with_the_same_function_share_what_it_opens_and_it_is_left_with_the_worker(
        self, database_url: str, conn: Connection, opened: Opened
    ) -> None:
        seen: list[object] = []
        opener = opened.plain

        def uses(_params: Any, ctx: Any) -> None:
            seen.append(ctx.resources)

        async def uses_on_loop(_params: Any, ctx: Any) -> None:
            seen.append(ctx.resources)

        types = [
            job_type("one", uses, resources=opener), job_type("two", uses, resources=opener),
            job_type("three", uses_on_loop, resources=opener), job_type("none", uses),
        ]  # fmt: skip
        for name in ("one", "two", "three", "one"):
            conn.add(name)
        drain(database_url, *types, settings=quick_settings(lease_seconds=33.0))
        assert seen == ["the client"] * 4
        assert opened.events == ["entered with a lease of 33", "left"]
        conn.add("none")
        drain(database_url, *types)
        assert seen[-1] is None

    def test_async_resources_are_entered_once_and_left_in_the_same_task(
        self, database_url: str, conn: Connection, opened: Opened
    ) -> None:
        seen: list[object] = []

        async def uses(_params: Any, ctx: Any) -> None:
            seen.append(ctx.resources)

        for _ in range(20):
            conn.add("uses")
        drain(database_url, job_type("uses", uses, resources=opened.on_loop))
        assert (conn.outcomes(), seen) == (["succeeded"] * 20, [None] * 20)
        assert opened.events == ["entered with True", "left"]

    @pytest.mark.parametrize("kind", ["thread", "async"])
    def test_resources_that_cannot_be_opened_fail_the_run_and_are_tried_again(
        self, database_url: str, conn: Connection, kind: str
    ) -> None:
        tries: list[int] = []

        @contextmanager
        def plain(_settings: Any, _database: Any) -> Iterator[str]:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("no route")
            yield "open"

        @asynccontextmanager
        async def on_loop(settings: Any, database: Any) -> AsyncIterator[str]:
            with plain(settings, database) as value:
                yield value

        def uses(_params: Any, ctx: Any) -> Done:
            return Done({"got": ctx.resources})

        async def uses_on_loop(params: Any, ctx: Any) -> Done:
            return uses(params, ctx)

        types = {
            "thread": job_type("uses", uses, resources=plain),
            "async": job_type("uses", uses_on_loop, resources=on_loop),
        }
        job = conn.add("uses")
        drain(database_url, types[kind])
        assert conn.outcomes(job.id) == ["retried", "succeeded"]
        assert conn.last_run(job.id)["output"] == {"got": "open"}
        assert conn.execute("SELECT error FROM job_runs WHERE outcome = 'retried'").fetchone() == ("OSError: no route",)

    @pytest.mark.slow
    def test_a_process_opens_them_once_for_all_its_runs(self, database_url: str, conn: Connection) -> None:
        jobs = [conn.add("p_shares", payload={"number": number}) for number in (1, 2)]
        settings = quick_settings(lease_seconds=120.0, process_concurrency=1)
        drain(database_url, *load([MODULE]), settings=settings)
        opened, again = (conn.last_run(one.id)["output"] for one in jobs)
        assert opened == again
        assert opened["opened"] == 1
        assert opened["pid"] != os.getpid()

    def test_a_unit_test_can_give_others(self, opened: Opened) -> None:
        job("r_uses", resources=opened.plain)(lambda _params, ctx: Done({"got": ctx.resources}))
        assert run_job("r_uses", resources="a double").output == {"got": "a double"}
        assert opened.events == []
        assert run_job("r_uses").output == {"got": "the client"}
        assert opened.events[-1] == "left"

    def test_async_resources_of_a_plain_handler_are_refused_when_it_is_registered(self, opened: Opened) -> None:
        with pytest.raises(ConfigurationError, match="The resources of plain are an async context manager"):
            job("plain", resources=opened.on_loop)(nothing)
