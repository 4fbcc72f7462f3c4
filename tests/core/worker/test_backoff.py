"""A task type's own backoff function: what it is given, what its answer is worth, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, TimedOut
from jobdeck.core.model import FinishedRun
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import load, registrations
from jobdeck.core.registry.around import LONGEST_DELAY
from jobdeck.core.worker.context import Stop
from jobdeck.testing import run_job
from tests.core.worker.process_handlers import MODULE
from tests.core.worker.test_executor import context_of, raising, runner_of
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import claimed, drain, job_type, nothing, quick_settings, working


def failing(backoff: Any, error: BaseException | None = None, **facts: Any) -> FinishedRun:
    runner = runner_of(raising(error or ValueError("no luck")), backoff=backoff)
    given = claimed(**facts)
    return runner.run(given, context_of(given, runner))


def due_in(conn: Connection, job_id: Any) -> float:
    """The seconds between the last report about a job and its next run."""
    row = conn.execute(
        "SELECT extract(epoch FROM run_at - updated_at)::float FROM job_queue WHERE id = %s", (job_id,)
    ).fetchone()
    assert row is not None
    return float(row[0])


# What it is given, and what its answer is worth


def test_it_gets_the_attempt_and_the_error_and_its_seconds_are_the_delay() -> None:
    seen: list[tuple[int, BaseException]] = []

    def backoff(attempt: int, error: BaseException) -> float:
        seen.append((attempt, error))
        return attempt * 100.5

    error = ValueError("no luck")
    assert failing(backoff, error, attempt=3).retry_after == 301.5
    assert seen == [(3, error)]


@pytest.mark.parametrize(
    ("chosen", "delay"),
    [
        (0, 0.0),
        (7, 7.0),
        (-5, 0.0),
        (math.inf, LONGEST_DELAY),
        (-math.inf, 0.0),
        pytest.param(10**400, LONGEST_DELAY, id="large"),
        (None, None),
    ],
)
def test_its_answer_is_limited_to_a_year_and_none_leaves_the_default(chosen: Any, delay: float | None) -> None:
    finished = failing(lambda _attempt, _error: chosen)
    assert finished.retry_after == delay
    assert finished.log is None


def test_the_last_attempt_and_errors_that_decide_themselves_do_not_ask_it() -> None:
    asked: list[int] = []

    def backoff(attempt: int, _error: BaseException) -> float:
        asked.append(attempt)
        return 1.0

    assert failing(backoff, attempt=5, max_attempts=5).retry_after is None
    assert failing(backoff, PermanentError("never")).retry_after is None
    assert failing(backoff, RetryLater(77.0)).retry_after == 77.0
    assert asked == []


@pytest.mark.parametrize(
    ("backoff", "words"),
    [
        (raising(LookupError("no such attempt")), "LookupError: no such attempt"),
        (raising(SystemExit(3)), "sys.exit(3)"),
        (lambda _attempt, _error: "soon", "TypeError: it returned a value of the type str"),
        (lambda _attempt, _error: True, "TypeError: it returned a value of the type bool"),
        (lambda _attempt, _error: math.nan, "ValueError: it returned nan"),
        (lambda: 1.0, "TypeError: "),
    ],
)
def test_an_error_in_it_is_in_the_log_of_the_run_and_the_default_is_used(
    backoff: Callable[..., Any], words: str
) -> None:
    finished = failing(backoff)
    assert (finished.outcome, finished.retry_after, finished.error) == ("failed", None, "ValueError: no luck")
    assert "WARNING the backoff function failed, so the default delay is used" in (finished.log or "")
    assert words in (finished.log or "")


def test_a_run_over_its_timeout_gives_it_a_timeout() -> None:
    seen: list[BaseException] = []

    def backoff(_attempt: int, error: BaseException) -> float:
        seen.append(error)
        return 9.0

    runner = runner_of(raising(ValueError()), backoff=backoff)
    context = context_of(claimed(), runner)
    context.stop = Stop.TIMED_OUT
    assert runner.timed_out(context).retry_after == 9.0
    assert [type(error) for error in seen] == [TimedOut]


async def later(_attempt: int, _error: BaseException) -> float:
    return 1.0


@pytest.mark.parametrize(("given", "words"), [(later, "is an async function"), (30.0, "is no function")])
def test_what_cannot_be_one_is_refused_where_the_type_is_declared(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"The backoff of refused_backoff {words}"):
        job("refused_backoff", backoff=given)(nothing)


def test_a_run_in_a_test_has_its_delay() -> None:
    before = len(registrations)
    try:
        handler = job("own", backoff=lambda attempt, _error: attempt * 60.0)(raising(ValueError("no luck")))
        assert run_job(handler, attempt=2).due_in == (120.0, 120.0)
    finally:
        del registrations[before:]


# On a queue


async def async_failure(_params: Any, _ctx: Any) -> None:
    raise ValueError("no luck")


@pytest.mark.parametrize("handler", [raising(ValueError("no luck")), async_failure])
def test_the_next_attempt_in_a_thread_and_on_the_loop_is_due_when_it_says(
    database_url: str, conn: Connection, handler: Callable[..., Any]
) -> None:
    delays = {1: 0.0, 2: 5000.0}
    kind = job_type("own", handler, backoff=lambda attempt, _error: delays[attempt], retry_base=99_999.0)
    own = conn.add("own", max_attempts=5)
    with working(database_url, kind):
        until(lambda: conn.outcomes(own.id) == ["retried", "retried"], "two attempts")
    assert due_in(conn, own.id) == pytest.approx(5000.0, abs=60)


def test_a_thread_whose_backoff_exits_runs_the_next_job(database_url: str, conn: Connection) -> None:
    kind = job_type(
        "own", raising(ValueError("no luck")), backoff=raising(SystemExit()), retry_base=5000.0, retry_cap=5000.0
    )
    jobs = [conn.add("own") for _ in range(3)]
    with working(database_url, kind, concurrency=1):
        until(lambda: conn.outcomes() == ["retried"] * 3, "all runs")
    assert all(2500 <= due_in(conn, one.id) <= 5001 for one in jobs)


@pytest.mark.slow
def test_a_timeout_of_an_async_run_asks_it(database_url: str, conn: Connection) -> None:
    async def hang(_params: Any, _ctx: Any) -> None:
        await asyncio.Event().wait()

    kind = job_type(
        "own", hang, timeout=0.2, backoff=lambda _attempt, error: 700.0 if isinstance(error, TimedOut) else 0
    )
    own = conn.add("own")
    with working(database_url, kind):
        until(lambda: conn.outcomes(own.id) == ["retried"], "the timeout")
    assert due_in(conn, own.id) == pytest.approx(700.0, abs=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "delay", "error_kind"),
    [
        ("p_backs_off", 0, 4000.0, "ValueError"),
        ("p_backs_off", 1, 8000.0, "process_died"),
        ("p_backs_off_late", 0, 6000.0, "timeout"),
    ],
)
def test_a_run_in_a_process_asks_it_however_the_run_ended(
    database_url: str, conn: Connection, name: str, number: int, delay: float, error_kind: str
) -> None:
    own = conn.add(name, payload={"number": number})
    drain(database_url, *load([MODULE]), settings=quick_settings(lease_seconds=120.0))
    run = conn.last_run(own.id)
    assert (run["outcome"], run["error_kind"]) == ("retried", error_kind)
    assert due_in(conn, own.id) == pytest.approx(delay, abs=60)


@pytest.mark.slow
def test_an_error_of_it_in_a_process_is_in_the_log_of_the_run(database_url: str, conn: Connection) -> None:
    own = conn.add("p_backs_off", payload={"number": 2})
    settings = quick_settings(lease_seconds=120.0, retry_base_seconds=9000.0, retry_cap_seconds=9000.0)
    drain(database_url, *load([MODULE]), settings=settings)
    assert (
        "the backoff function failed, so the default delay is used: KeyError: 'LookupError'"
        in (conn.last_run(own.id)["log"])
    )
    assert 4500 <= due_in(conn, own.id) <= 9001
