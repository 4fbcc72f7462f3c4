"""One handler with a real context and without a queue."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import jobdeck
from jobdeck.core.plugins import Plugin, use_plugins
from jobdeck.core.settings import Settings
from jobdeck.testing import LoggedLine, ProgressReport, run_job
from tests.core.testing.jobs import Parcel, other, parcel
from tests.support.queue import Connection


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def handler(params: Any, ctx: Any) -> None:
        raise error

    return handler


# What the result has


def test_the_result_has_all_that_the_handler_did(behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        place = {"at": 1}
        ctx.log.info("parcel %s to ada@example.org", params.number)
        logging.getLogger("a.library").warning("careful")
        ctx.progress(1, 2, "half")
        ctx.save_checkpoint(place)
        place["at"] = 2
        ctx.save_checkpoint(place)
        ctx.progress(2)
        return jobdeck.Done({"sent": 3}, failed=2)

    behave(work)
    result = run_job(parcel, Parcel(number=5))
    assert (result.outcome, result.status, result.due_in) == ("partial", None, None)
    assert (result.output, result.failed) == ({"sent": 3}, 2)
    assert result.lines == (LoggedLine("INFO", "parcel 5 to <email>"), LoggedLine("WARNING", "careful"))
    assert result.log is not None
    assert result.log.splitlines()[0].endswith("INFO    parcel 5 to <email>")
    assert result.progress == (ProgressReport(1, 2, "half"), ProgressReport(2, None, ""))
    assert result.checkpoints == ({"at": 1}, {"at": 2})
    assert (result.error, result.raised, result.dry_run) == (None, None, False)
    assert (result.job.task_type, result.job.payload, result.job.attempt) == ("testing_parcel", {"number": 5}, 1)
    assert result.what_follows == "The job is done, but 2 of its items failed."


def test_a_handler_is_found_by_its_name_and_through_other_decorators(behave: Callable[..., None]) -> None:
    behave(lambda params, _ctx: jobdeck.Done({"number": params.number}))

    @functools.wraps(parcel)
    def wrapped(params: Any, ctx: Any) -> Any:
        return parcel(params, ctx)

    for handler in ("testing_parcel", parcel, wrapped):
        assert run_job(handler, {"number": 4}).output == {"number": 4}


def test_the_handler_gets_the_workers_context(behave: Callable[..., None]) -> None:
    seen: dict[str, Any] = {}

    def work(params: Parcel, ctx: jobdeck.JobContext) -> None:
        seen.update(
            job=ctx.job_id, attempt=ctx.attempt, most=ctx.job.max_attempts, checkpoint=ctx.checkpoint,
            settings=ctx.settings, resources=ctx.resources, key=ctx.idempotency_key, dry=(ctx.dry_run, params.dry_run),
        )  # fmt: skip

    behave(work)
    settings = Settings(concurrency=7)
    result = run_job(
        parcel, attempt=2, max_attempts=3, checkpoint={"page": 4}, settings=settings, resources="shared", dry_run=True
    )
    assert seen == {
        "job": result.job.id, "attempt": 2, "most": 3, "checkpoint": {"page": 4}, "settings": settings,
        "resources": "shared", "key": str(result.job.id), "dry": (True, True),
    }  # fmt: skip
    assert result.dry_run


def test_a_type_of_a_plugin_gets_the_resources_of_its_plugin(behave: Callable[..., None]) -> None:
    seen: list[object] = []
    behave(lambda _params, ctx: seen.append(ctx.resources))

    class Opened:
        def __init__(self, settings: Settings, database: object) -> None: ...

        def __enter__(self) -> str:
            return "opened"

        def __exit__(self, *_: object) -> None:
            seen.append("closed")

    with use_plugins(Plugin(name="post", version=1, handlers=("tests.core.testing.jobs",), resources=Opened)):
        run_job(parcel)
    run_job(parcel)
    assert seen == ["opened", "closed", None]


def test_a_run_within_a_run_leaves_the_log_of_the_outer_one_alone(behave: Callable[..., None]) -> None:
    def outer(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        inner = run_job(other)
        logging.getLogger("a.library").warning("after")
        return jobdeck.Done({"inner": [line.message for line in inner.lines]})

    behave(outer, other=lambda _params, _ctx: logging.getLogger("a.library").warning("within"))
    result = run_job(parcel)
    assert result.output == {"inner": ["within"]}
    assert [line.message for line in result.lines] == ["after"]


# What a worker does next


@pytest.mark.parametrize(
    ("error", "attempt", "outcome", "due_in", "sentence"),
    [
        (ValueError("no"), 1, "retried", (5, 10), "The job is retried in 5 to 10 seconds, as attempt 2 of 4."),
        (ValueError("no"), 3, "retried", (15, 30), "The job is retried in 15 to 30 seconds, as attempt 4 of 4."),
        (ValueError("no"), 4, "failed", None, "The job failed for good after attempt 4 of 4."),
        (jobdeck.PermanentError("no"), 1, "failed", None, "The job failed for good after attempt 1 of 4."),
        (jobdeck.RetryLater(7), 1, "retried", (7, 7), "The job is retried in 7 seconds, as attempt 2 of 4."),
        (jobdeck.RetryLater(7), 4, "failed", None, "The job failed for good after attempt 4 of 4."),
        (jobdeck.Snooze(9), 4, "snoozed", (9, 9), "The job is due again in 9 seconds, and no attempt is counted."),
        (SystemExit(3), 1, "retried", (5, 10), "The job is retried in 5 to 10 seconds, as attempt 2 of 4."),
    ],
)
def test_an_exception_has_the_consequence_that_it_has_in_a_worker(
    behave: Callable[..., None], error: BaseException, attempt: int, outcome: str, due_in: Any, sentence: str
) -> None:
    behave(raising(error))
    result = run_job(parcel, attempt=attempt)
    assert (result.outcome, result.due_in, result.what_follows) == (outcome, due_in, sentence)
    assert result.status == ("failed" if outcome == "failed" else "pending")
    assert result.raised is error
    assert result.error


def test_a_part_that_is_done_says_where_the_next_run_begins(behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: jobdeck.Continue({"page": 2}, delay=4, output={"done": 1}))
    result = run_job(parcel, checkpoint={"page": 1})
    assert (result.outcome, result.checkpoint, result.due_in) == ("continued", {"page": 2}, (4, 4))
    assert result.what_follows == "The job continues from its checkpoint in 4 seconds."

    def fails(params: Parcel, ctx: jobdeck.JobContext) -> None:
        ctx.save_checkpoint({"page": 3})
        raise ValueError

    behave(fails)
    assert run_job(parcel).checkpoint == {"page": 3}
    assert run_job(parcel, attempt=4).checkpoint is None


def test_a_failed_run_raises_the_handlers_own_exception_on_request(behave: Callable[..., None]) -> None:
    behave(raising(ZeroDivisionError("by nothing")))
    with pytest.raises(ZeroDivisionError, match="by nothing") as raised:
        run_job(parcel, raise_errors=True)
    assert any(entry.name == "handler" for entry in raised.traceback)
    behave(raising(jobdeck.Snooze(1)))
    assert run_job(parcel, raise_errors=True).outcome == "snoozed"


# Cancellation


def counted(calls: list[int]) -> Callable[[Any, Any], Any]:
    def work(params: Any, ctx: jobdeck.JobContext) -> None:
        for number in range(10):
            ctx.raise_if_cancelled()
            calls.append(number)

    return work


@pytest.mark.parametrize(
    ("stop", "outcome"), [("cancelled", "cancelled"), ("timed_out", "retried"), ("released", "released"),
                          ("lease_lost", "abandoned")],
)  # fmt: skip
@pytest.mark.parametrize("after", [0, 3])
def test_a_run_has_to_stop_after_a_number_of_checks(
    behave: Callable[..., None], stop: Any, outcome: str, after: int
) -> None:
    calls: list[int] = []
    behave(counted(calls))
    result = run_job(parcel, stop=stop, stop_after=after)
    assert (result.outcome, len(calls)) == (outcome, after)
    if stop == "timed_out":
        assert (result.error_kind, result.error) == (
            "timeout", "The run took longer than the 900 seconds that testing_parcel allows.",
        )  # fmt: skip


def test_a_handler_that_ignores_a_cancellation_is_cancelled_all_the_same(behave: Callable[..., None]) -> None:
    behave(lambda _params, ctx: jobdeck.Done({"asked": ctx.cancelled()}))
    result = run_job(parcel, stop="cancelled")
    assert (result.outcome, result.status, result.output) == ("cancelled", "cancelled", {"asked": True})


@pytest.mark.parametrize("method", ["progress", "save_checkpoint"])
def test_a_lost_lease_ends_a_run_that_only_reports(behave: Callable[..., None], method: str) -> None:
    calls: list[int] = []

    def work(params: Any, ctx: Any) -> None:
        for number in range(10):
            getattr(ctx, method)({"at": number} if method == "save_checkpoint" else number)
            calls.append(number)

    behave(work)
    result = run_job(parcel, stop="lease_lost", stop_after=2)
    assert (result.outcome, calls) == ("abandoned", [0, 1])
    assert isinstance(result.raised, jobdeck.LeaseLost)
    assert result.checkpoints == (({"at": 0}, {"at": 1}) if method == "save_checkpoint" else ())
    assert result.what_follows == "The run had lost its job, so its result is discarded."


# A connection


def test_a_handler_that_uses_the_database_without_one_is_an_error_of_the_test(behave: Callable[..., None]) -> None:
    sentence = r"The handler used the database, but this run has none\. Pass it a connection: run_job\(…, db="

    def swallows(params: Any, ctx: jobdeck.JobContext) -> None:
        try:
            ctx.db.execute("SELECT 1")
        except Exception:  # noqa: BLE001 -- as a careless handler would
            ctx.log.info("never mind")

    for work in (lambda _params, ctx: ctx.db.execute("SELECT 1"), swallows):
        behave(work)
        with pytest.raises(jobdeck.JobdeckError, match=sentence):
            run_job(parcel)


def test_a_handler_gets_the_connection_that_the_test_gives(behave: Callable[..., None], conn: Connection) -> None:
    behave(lambda _params, ctx: jobdeck.Done({"row": list(ctx.db.execute("SELECT 5, 6").fetchone())}))
    conn.row_factory = psycopg.rows.dict_row
    assert run_job(parcel, db=conn).output == {"row": [5, 6]}
    assert conn.execute("SELECT 7 AS seven").fetchone() == {"seven": 7}


def test_a_failed_statement_leaves_the_tests_transaction_usable(behave: Callable[..., None], database_url: str) -> None:
    behave(lambda _params, ctx: ctx.db.execute("SELECT 1/0"))
    with Connection.connect(database_url) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 1 AS one")
        assert run_job(parcel, db=conn).outcome == "retried"
        assert conn.execute("SELECT one FROM kept").fetchall() == [(1,)]
        conn.rollback()
        behave(lambda _params, ctx: ctx.db.execute("CREATE TABLE made (id integer)") and None)
        assert run_job(parcel, db=conn).outcome == "succeeded"
        assert conn.execute("SELECT to_regclass('made')").fetchone() == ("made",)
        conn.rollback()
        assert conn.execute("SELECT to_regclass('made')").fetchone() == (None,)
    with Connection.connect(database_url, autocommit=True) as conn:
        behave(lambda _params, ctx: ctx.db.execute("BEGIN") and None)
        assert run_job(parcel, db=conn).outcome == "succeeded"
        assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: run_job("testing_parsel"), jobdeck.UnknownTaskType,
            (
                'No imported module registers the task type "testing_parsel"; did you mean "testing_parcel"? '
                "Import the module with its @job first."
            ),
        ),
        (
            lambda: run_job(raising), jobdeck.UnknownTaskType,
            "raising is not the handler of a task type. Decorate it with @job, or give the name of a task type.",
        ),
        (
            lambda: run_job(parcel, {"number": "x", "colour": 1}), jobdeck.InvalidPayload,
            (
                "The payload does not fit testing_parcel: number: Input should be a valid integer, unable to parse "
                "string as an integer; colour: is not a field of this task type."
            ),
        ),
        (
            lambda: run_job(parcel, [1]), jobdeck.InvalidPayload,  # type: ignore[arg-type]
            "The payload does not fit testing_parcel: payload: must be a JSON object, such as {}.",
        ),
        (
            lambda: run_job(parcel, attempt=5), jobdeck.JobdeckError,
            "attempt must be from 1 to 4, the maximum of this job, not 5.",
        ),
        (
            lambda: run_job(parcel, stop="late"), jobdeck.JobdeckError,  # type: ignore[arg-type]
            "stop must be one of cancelled, timed_out, released, lease_lost, not 'late'.",
        ),
        (lambda: run_job(parcel, max_attempts=0), jobdeck.JobdeckError, "max_attempts must be 1 or more, not 0."),
        (lambda: run_job(parcel, stop_after=-1), jobdeck.JobdeckError, "stop_after must be 0 or more, not -1."),
        (
            lambda: run_job(parcel, checkpoint=[1]), jobdeck.JobdeckError,  # type: ignore[arg-type]
            "checkpoint must be a JSON object, not a value of the type list.",
        ),
        (
            lambda: run_job(other, dry_run=True), jobdeck.JobdeckError,
            (
                "The payload of testing_other has no field dry_run, so no run of it is a dry run. Add the field, or "
                "leave the option out."
            ),
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence_and_nothing_runs(
    behave: Callable[..., None], call: Callable[[], Any], error: type[Exception], sentence: str
) -> None:
    calls: list[object] = []
    behave(lambda params, _ctx: calls.append(params))
    with pytest.raises(error) as refused:
        call()
    assert str(refused.value) == sentence
    assert calls == []


def test_a_handler_of_two_types_has_to_be_named(behave: Callable[..., None]) -> None:
    def twice(params: Any, ctx: Any) -> None: ...

    jobdeck.job("testing_first")(twice)
    jobdeck.job("testing_second")(twice)
    with pytest.raises(jobdeck.UnknownTaskType, match=r"several task types: testing_first, testing_second\. Give the"):
        run_job(twice)
    assert run_job("testing_second").outcome == "succeeded"


def test_what_is_no_connection_is_refused(conn: Connection) -> None:
    with pytest.raises(jobdeck.JobdeckError, match="not a value of the type str"):
        run_job(other, db="postgresql://x")  # type: ignore[arg-type]
    conn.close()
    with pytest.raises(jobdeck.JobdeckError, match="The connection is closed"):
        run_job(other, db=conn)


def test_what_ends_a_test_goes_through_a_handler(behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: pytest.fail("the mail server was called"))
    with pytest.raises(pytest.fail.Exception, match="the mail server was called"):
        run_job(parcel)
    behave(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run_job(parcel)


@pytest.mark.parametrize("error", [GeneratorExit(), BaseException("bare"), RecursionError(), AssertionError("wrong")])
def test_anything_else_that_a_handler_raises_is_in_the_result(
    behave: Callable[..., None], error: BaseException
) -> None:
    behave(raising(error))
    result = run_job(parcel)
    assert (result.outcome, result.raised) == ("retried", error)
