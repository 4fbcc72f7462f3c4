"""One run: what a handler may do, and what is reported of it."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobdeck.core.errors import Cancelled, LeaseLost, PermanentError, RetryLater, Snooze, TimedOut, VendorError
from jobdeck.core.model import ClaimedJob, FinishedRun, RunOutcome
from jobdeck.core.plugins import Plugin, use_plugins
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases
from jobdeck.core.registry import Continue, Done, Registry
from jobdeck.core.settings import Settings
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import Params, claimed, job_type, quick_settings


def runner_of(handler: Callable[..., Any], database: Database | None = None, **facts: Any) -> Executor:
    return Executor(Registry([job_type("test", handler, **facts)]), RunResources(quick_settings(), database))


def context_of(job: ClaimedJob, runner: Executor) -> RunContext:
    return RunContext(job, runner.resources, job.claimed_at.timestamp() - time.monotonic(), math.inf)


def run(handler: Callable[..., Any], job: ClaimedJob | None = None, stop: Stop | None = None) -> FinishedRun:
    runner = runner_of(handler)
    context = context_of(job or claimed(), runner)
    context.stop = stop
    return runner.run(context.job, context)


def raising(error: BaseException) -> Callable[..., Any]:
    def handler(params: Any, ctx: Any) -> None:
        raise error

    return handler


def returning(value: Any) -> Callable[..., Any]:
    return lambda _params, _ctx: value


# What comes back


@pytest.mark.parametrize(
    ("returned", "outcome"),
    [
        (None, RunOutcome.SUCCEEDED),
        (Done(), RunOutcome.SUCCEEDED),
        (Done({"total": 3}), RunOutcome.SUCCEEDED),
        (Done({"total": 3}, failed=1), RunOutcome.PARTIAL),
        (Continue({"cursor": 5}), RunOutcome.CONTINUED),
    ],
)
def test_what_a_handler_returns_decides_the_outcome(returned: Any, outcome: RunOutcome) -> None:
    finished = run(returning(returned))
    assert finished.outcome is outcome
    assert finished.error is None


def test_a_continuation_carries_checkpoint_delay_and_output() -> None:
    finished = run(returning(Continue({"cursor": 5}, delay=30.0, output={"done": 100})))
    assert (finished.checkpoint, finished.delay, finished.output) == ({"cursor": 5}, 30.0, {"done": 100})


def test_a_success_carries_the_checkpoint_of_the_next_slot() -> None:
    assert run(returning(Done(checkpoint={"cursor": 5}))).checkpoint == {"cursor": 5}
    assert run(returning(Done())).checkpoint is None


@pytest.mark.parametrize("delay", [-1.0, math.nan, math.inf])
def test_a_delay_that_is_no_time_is_none(delay: float) -> None:
    assert run(returning(Continue({}, delay=delay))).delay == 0.0


@pytest.mark.parametrize("returned", [{"total": 3}, "done", 17, object(), [1]])
def test_any_other_return_value_fails_the_job_for_good(returned: Any) -> None:
    finished = run(returning(returned))
    assert finished.outcome is RunOutcome.FAILED
    assert finished.permanent
    assert finished.error_kind == "not_storable"
    assert finished.error == (
        f"The handler returned a value of the type {type(returned).__name__}. Return nothing, jobdeck.Done(…) with "
        "what the run has to say, or jobdeck.Continue(…) to go on later."
    )


@pytest.mark.parametrize(
    "output",
    [{"at": object()}, {"x": math.nan}, {"x": {math.nan}}, {"x": b"\xff"}, ["a list"]],
    ids=["an object", "not a number", "not a number in a set", "bytes", "a list"],
)
def test_output_that_is_no_json_object_fails_the_job_for_good(output: Any) -> None:
    finished = run(returning(Done(output)))
    assert finished.permanent
    assert finished.error_kind == "not_storable"


MOMENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOMEBODY = UUID(int=7)


@dataclasses.dataclass
class Order:
    number: int
    paid_at: datetime


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (MOMENT, "2026-03-01T12:00:00Z"),
        (MOMENT.date(), "2026-03-01"),
        (timedelta(seconds=90), "PT1M30S"),
        (Decimal("1.50"), "1.50"),
        (SOMEBODY, str(SOMEBODY)),
        (Path("/srv/report"), "/srv/report"),
        (RunOutcome.PARTIAL, "partial"),
        ({3}, [3]),
        (Params(number=3), {"number": 3, "dryRun": False}),
        (Order(3, MOMENT), {"number": 3, "paid_at": "2026-03-01T12:00:00Z"}),
        ({SOMEBODY: MOMENT}, {str(SOMEBODY): "2026-03-01T12:00:00Z"}),
        ([Decimal(1), "a\x00b"], ["1", "a\\x00b"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_output_and_checkpoints_are_written_as_pydantic_writes_them(value: Any, written: Any) -> None:
    assert run(returning(Done({"value": value}))).output == {"value": written}
    continued = run(returning(Continue({"value": value}, output={"value": value})))
    assert (continued.output, continued.checkpoint) == ({"value": written}, {"value": written})


def test_output_that_is_too_large_loses_its_largest_parts_and_keeps_its_counts() -> None:
    finished = run(returning(Done({"synced": 5000, "results": ["x" * 100] * 5000, "failed": 3})))
    assert finished.outcome is RunOutcome.SUCCEEDED
    output = finished.output or {}
    assert (output["synced"], output["failed"], output["truncated"]) == (5000, 3, True)
    assert "bytes left out" in output["results"]
    assert len(json.dumps(output)) < 1000


@pytest.mark.slow
def test_output_of_very_many_small_parts_is_bounded_as_well() -> None:
    finished = run(returning(Done({f"key {number}": number for number in range(100_000)})))
    assert len(json.dumps(finished.output)) < 262_144


def test_a_checkpoint_that_is_too_large_fails_the_job_for_good() -> None:
    finished = run(returning(Continue({"seen": "x" * 2_000_000})))
    assert finished.permanent
    assert "1,048,576 are allowed" in (finished.error or "")


def test_what_jsonb_refuses_becomes_visible() -> None:
    finished = run(returning(Done({"na\x00me": ["a\x00b", {"c": "\ud800"}], "fine": "👩‍👩‍👧 Zoë"})))
    assert finished.output == {"na\\x00me": ["a\\x00b", {"c": "\\ud800"}], "fine": "👩‍👩‍👧 Zoë"}


# What is raised


@pytest.mark.parametrize(
    ("error", "kind", "permanent", "retry_after"),
    [
        (ValueError("bad"), "ValueError", False, None),
        (PermanentError("no such campaign"), "permanent", True, None),
        (RetryLater(90, "quiet hours"), "retry_later", False, 90.0),
        (VendorError("the vendor is down"), "vendor", False, None),
        (SystemExit(3), "SystemExit", False, None),
        (KeyboardInterrupt(), "KeyboardInterrupt", False, None),
        (GeneratorExit(), "GeneratorExit", False, None),
        (MemoryError(), "MemoryError", False, None),
        (Cancelled("nobody asked"), "cancelled", False, None),
        (LeaseLost("gone"), "lease_lost", False, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_exception_is_a_failed_run(
    error: BaseException, kind: str, permanent: bool, retry_after: float | None
) -> None:
    finished = run(raising(error))
    assert finished.outcome is RunOutcome.FAILED
    assert (finished.error_kind, finished.permanent, finished.retry_after) == (kind, permanent, retry_after)
    assert finished.error
    assert "raise error" in (finished.traceback or "")
    assert "core/worker/executor.py" not in (finished.traceback or "")


def test_errors_say_their_class_unless_they_are_sentences_of_ours() -> None:
    assert run(raising(KeyError("team"))).error == "KeyError: 'team'"
    assert run(raising(ValueError())).error == "ValueError"
    assert run(raising(PermanentError("The campaign is gone."))).error == "The campaign is gone."


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


class HostileError(Exception):
    def __str__(self) -> str:
        return "\x1b[2J\x1b]0;owned\x07" + "line\nERROR forged line\r" * 3 + "\u202ereversed \ud800 jane@example.org"


def test_an_exception_that_cannot_be_shown_is_reported_all_the_same() -> None:
    finished = run(raising(MuteError()))
    assert finished.error_kind == "MuteError"
    assert "no readable message" in (finished.error or "")


def test_a_hostile_message_is_one_harmless_line_without_private_data() -> None:
    finished = run(raising(HostileError()))
    for text in (finished.error or "", finished.traceback or ""):
        assert "\x1b" not in text
        assert "jane" not in text
        assert "\u202e" not in text
        text.encode("utf-8")
    assert len((finished.error or "").splitlines()) == 1


def test_a_traceback_is_bounded() -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("x" * 100_000)
        (deep if level % 2 else deep_again)(level - 1)

    def deep_again(level: int) -> None:
        deep(level)

    finished = run(lambda _params, _ctx: deep(200))
    assert len(finished.traceback or "") < 20_000


def test_endless_recursion_is_a_failed_run() -> None:
    def handler(params: Any, ctx: Any) -> Any:
        return handler(params, ctx)

    assert run(handler).error_kind == "RecursionError"


# Before the handler


def test_an_unknown_type_fails_for_good_and_names_the_known_ones() -> None:
    finished = run(returning(None), claimed("misspelt"))
    assert finished.permanent
    assert finished.error_kind == "unknown_task_type"
    assert "Known types: test" in (finished.error or "")


def test_an_invalid_payload_fails_for_good_without_a_run() -> None:
    ran: list[int] = []
    finished = run(lambda _params, _ctx: ran.append(1), claimed(payload={"number": "many", "colour": "red"}))
    assert not ran
    assert finished.permanent
    assert finished.error_kind == "invalid_payload"
    assert "colour" in (finished.error or "")
    assert "many" not in (finished.error or "")


# Stopping


@pytest.mark.parametrize(
    ("stop", "raised"),
    [(Stop.CANCELLED, Cancelled), (Stop.RELEASED, Cancelled), (Stop.TIMED_OUT, TimedOut), (Stop.LOST, LeaseLost)],
)
def test_a_handler_learns_that_it_is_to_stop(stop: Stop, raised: type[Exception]) -> None:
    def handler(params: Any, ctx: Any) -> None:
        assert ctx.cancelled()
        with pytest.raises(raised):
            ctx.raise_if_cancelled()

    assert run(handler, stop=stop).outcome is RunOutcome.SUCCEEDED


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        (Stop.CANCELLED, RunOutcome.CANCELLED),
        (Stop.RELEASED, RunOutcome.RELEASED),
        (Stop.LOST, RunOutcome.FAILED),
        (None, RunOutcome.SUCCEEDED),
    ],
)
def test_a_handler_that_stops_when_told_is_reported_by_the_reason(stop: Stop | None, outcome: RunOutcome) -> None:
    assert run(lambda _, ctx: ctx.raise_if_cancelled(), stop=stop).outcome is outcome


def test_progress_raises_once_the_lease_is_lost() -> None:
    assert run(lambda _, ctx: ctx.progress(1), stop=Stop.LOST).error_kind == "lease_lost"
    assert run(lambda _, ctx: ctx.progress(1), stop=Stop.CANCELLED).outcome is RunOutcome.SUCCEEDED


# Facts of a run


def test_times_are_the_databases() -> None:
    job = claimed()
    finished = run(returning(None), job)
    since_claim = [at - job.claimed_at.timestamp() for at in (finished.started, finished.finished)]
    assert 0 <= since_claim[0] <= since_claim[1] < 20


def test_the_types_retry_policy_goes_with_the_report() -> None:
    finished = runner_of(raising(ValueError()), retry_base=2.0, retry_cap=60.0).run(claimed())
    assert (finished.retry_base, finished.retry_cap) == (2.0, 60.0)


@pytest.mark.parametrize("dry", [True, False])
def test_a_handler_can_say_that_its_run_changed_nothing(dry: bool) -> None:
    assert run(returning(Done({"found": 3}, dry_run=dry))).dry_run is dry
    assert run(returning(Done({"found": 3}, dry_run=dry)), claimed(payload={"dryRun": True})).dry_run is True


def test_a_handler_finds_its_job_and_payload() -> None:
    job = claimed(payload={"number": 4, "dryRun": True}, checkpoint={"cursor": 9})
    seen: dict[str, Any] = {}

    def handler(params: Any, ctx: Any) -> None:
        seen.update(number=params.number, dry=ctx.dry_run, job=ctx.job, key=ctx.idempotency_key, at=ctx.checkpoint)
        seen["resources"] = ctx.resources
        seen["lease"] = ctx.settings.lease_seconds

    run(handler, job)
    assert seen == {
        "number": 4, "dry": True, "job": job, "key": str(job.id), "at": {"cursor": 9}, "resources": None,
        "lease": quick_settings().lease_seconds,
    }  # fmt: skip


def test_the_runs_of_a_plugin_share_its_resources_which_are_closed_with_the_worker() -> None:
    opened: list[object] = []
    closed: list[object] = []

    @contextmanager
    def resources(settings: Settings, database: object) -> Iterator[object]:
        made = (settings.lease_seconds, database)
        opened.append(made)
        yield made
        closed.append(made)

    seen: list[object] = []
    known = Registry([job_type("test", lambda _params, ctx: seen.append(ctx.resources), plugin="shop")])
    shared = RunResources(quick_settings(), None)
    with use_plugins(Plugin(name="shop", version=1, resources=resources)):
        for _ in range(2):
            assert Executor(known, shared).run(claimed()).outcome == "succeeded"
    assert (len(opened), closed) == (1, [])
    shared.close()
    assert seen == [opened[0], opened[0]]
    assert closed == opened


def test_progress_is_kept_with_its_rate_and_harmless_message() -> None:
    def handler(params: Any, ctx: Any) -> None:
        ctx.progress(10, 200, "first")
        until(lambda: ctx.at(time.monotonic()) > ctx.job.claimed_at)
        ctx.progress(60, 200, "mail to jane@example.org\x1b[1m")

    progress = run(handler).progress or {}
    assert (progress["done"], progress["total"], progress["message"]) == (60, 200, "mail to <email>\\x1b[1m")
    assert progress["rate"] > 0
    assert "log" not in progress


def test_news_are_told_once_and_hold_the_end_of_the_log() -> None:
    runner = runner_of(returning(None))
    context = context_of(claimed(), runner)
    assert context.news() is None
    context.progress(1, 2)
    for number in range(30):
        context.log.info("line %s", number)
    news = context.news() or {}
    assert (news["done"], news["total"]) == (1, 2)
    assert len(news["log"]) == 20
    assert news["log"][-1].endswith("line 29")
    assert context.news() is None
    context.news_was_lost()
    assert context.news() == news


# With a database


def test_a_handlers_connection_is_lent_once_and_comes_back(database_url: str) -> None:
    with Database(database_url, application_name="test", max_size=1) as database:
        runner = runner_of(
            lambda _, ctx: Done({"same": ctx.db is ctx.db, "one": ctx.db.execute("SELECT 1").fetchone()[0]}),
            database,
        )
        for _ in range(3):
            assert runner.run(claimed()).output == {"same": True, "one": 1}


def test_a_connection_lost_by_a_handler_costs_only_that_run(database_url: str) -> None:
    def handler(params: Any, ctx: Any) -> None:
        ctx.db.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with Database(database_url, application_name="test", max_size=1) as database:
        assert runner_of(handler, database).run(claimed()).error_kind == "AdminShutdown"
        assert runner_of(lambda _, ctx: ctx.db.execute("SELECT 1"), database).run(claimed()).permanent


def test_a_checkpoint_is_kept_at_once_and_only_by_its_run(database_url: str, conn: Connection) -> None:
    conn.add("test")
    (job,) = leases.claim(conn, "w", ["test"], 1, 60)

    def handler(params: Any, ctx: Any) -> None:
        ctx.save_checkpoint({"cursor": "a\x00b"})
        assert ctx.checkpoint == {"cursor": "a\\x00b"}
        kept = conn.execute("SELECT checkpoint FROM job_queue WHERE id = %s", (job.id,)).fetchone()
        assert kept == ({"cursor": "a\\x00b"},)
        raise ValueError("stop here")

    with Database(database_url, application_name="test") as database:
        assert runner_of(handler, database).run(job).error_kind == "ValueError"
        late = claimed(id=job.id, run_token=job.run_token + 1)
        assert runner_of(handler, database).run(late).error_kind == "lease_lost"


# Whatever a handler does

JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=3)
    ),
    max_leaves=8,
)
ERRORS = st.builds(
    lambda kind, text: kind(text),
    st.sampled_from([ValueError, KeyError, PermanentError, TimedOut, Cancelled, SystemExit, OSError, StopIteration]),
    st.text(st.characters(exclude_categories=())),
)


@given(JSON_LIKE, st.sampled_from(["raw", "done", "continue"]))
@example({"text": "\\u0000 as a backslash, and no NUL"}, "raw")
def test_any_return_value_makes_a_report_that_can_be_stored(value: Any, how: str) -> None:
    finished = run(returning({"raw": value, "done": Done(value), "continue": Continue(value)}[how]))
    assert_storable(finished)


@given(ERRORS, st.none() | st.sampled_from(list(Stop)))
@example(PermanentError(" "), None)
@example(PermanentError("\u2066\x00"), None)
def test_any_exception_makes_a_report_that_can_be_stored(error: BaseException, stop: Stop | None) -> None:
    assert_storable(run(raising(error), stop=stop))


@given(JSON_LIKE | st.integers(0, 9), JSON_LIKE, JSON_LIKE)
@example(1, 2, None)
@example(float("nan"), None, "")
@example(1, float("inf"), "")
@example(10**5000, None, "")
@example(1, 10**5000, "")
@example(True, Decimal(2), b"")
def test_progress_of_any_kind_is_kept_or_refused_and_breaks_no_heartbeat(done: Any, total: Any, message: Any) -> None:
    runner = runner_of(lambda _params, ctx: ctx.progress(done, total, message))
    context = context_of(claimed(), runner)
    finished = runner.run(context.job, context)
    assert_storable(finished)
    json.dumps([finished.progress, context.news()], allow_nan=False)
    assert finished.outcome is RunOutcome.SUCCEEDED or finished.permanent


class Unready(RetryLater):
    """Does not call the constructor of its base, and so has no seconds."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("error", [Unready(), Snooze(10**400, "long")])
def test_an_exception_that_is_not_made_as_it_should_be_is_a_failure_and_ends_no_slot(error: Exception) -> None:
    finished = run(raising(error))
    assert_storable(finished)
    assert finished.outcome is RunOutcome.FAILED
    assert type(error).__name__ in str(finished.error)


def assert_storable(finished: FinishedRun) -> None:
    kept = [finished.output, finished.checkpoint, finished.error_kind, finished.error, finished.traceback, finished.log]
    text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text.replace("\\\\", "")
    text.encode("utf-8")
    assert finished.outcome is not RunOutcome.FAILED or finished.error
