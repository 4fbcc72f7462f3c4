"""The jobs of a queue, run inside a test."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

import jobdeck
from jobdeck.core.errors import EndlessDrain
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.queue import operator
from jobdeck.core.schema import install_schema
from jobdeck.core.schema.components import queue_component
from jobdeck.core.settings import Settings
from jobdeck.testing import JobResult, drain, enqueued, refute_enqueued, run_job
from tests.core.testing.jobs import Parcel
from tests.support.queue import Connection

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def add(conn: Connection, number: int = 0, **options: Any) -> jobdeck.Ticket:
    return jobdeck.enqueue(conn, "testing_parcel", Parcel(number=number), **options)


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def handler(params: Any, ctx: Any) -> None:
        raise error

    return handler


def facts(results: list[JobResult]) -> list[tuple[str, int | None, str]]:
    return [(made.job.task_type, made.job.payload.get("number"), made.outcome) for made in results]


# What runs


@pytest.mark.slow
def test_it_runs_what_is_due_and_what_the_handlers_enqueue(conn: Connection, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        jobdeck.enqueue(ctx.db, "testing_other", {"number": params.number + 1})
        ctx.log.info("passed on")
        return jobdeck.Done({"on": True}, failed=params.number)

    behave(work)
    for number in (0, 5):
        add(conn, number)
    add(conn, 9, run_at=TOMORROW)
    results = drain(conn)
    assert facts(results) == [
        ("testing_parcel", 0, "succeeded"), ("testing_parcel", 5, "partial"),
        ("testing_other", 1, "succeeded"), ("testing_other", 6, "succeeded"),
    ]  # fmt: skip
    assert (results[0].output, results[1].failed) == ({"on": True}, 5)
    assert [line.message for line in results[0].lines] == ["passed on"]
    assert drain(conn) == []
    recorded = conn.run_rows(results[0].job.id)
    assert [(row["outcome"], row["output"], row["log"]) for row in recorded] == [
        ("succeeded", {"on": True}, results[0].log)
    ]


def test_an_address_will_do(database_url: str, conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, ctx: jobdeck.Done({"row": list(ctx.db.execute("SELECT 1").fetchone())}))
    add(conn)
    assert [made.output for made in drain(database_url)] == [{"row": [1]}]


def test_only_the_named_types_run(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: None)
    add(conn)
    jobdeck.enqueue(conn, "testing_other")
    assert facts(drain(conn, task_types=["testing_other"])) == [("testing_other", None, "succeeded")]
    with pytest.raises(jobdeck.UnknownTaskType, match='did you mean "testing_other"'):
        drain(conn, task_types=["testing_othr"])


def test_a_checkpoint_is_in_the_database_at_once(conn: Connection, behave: Callable[..., None]) -> None:
    seen: list[object] = []

    def work(params: Parcel, ctx: jobdeck.JobContext) -> None:
        seen.append(ctx.checkpoint)
        ctx.save_checkpoint({"page": 1})
        seen.extend(ctx.db.execute("SELECT checkpoint FROM job_queue").fetchone() or ())
        raise ValueError

    behave(work)
    add(conn)
    (made,) = drain(conn)
    assert seen == [None, {"page": 1}]
    assert (made.checkpoint, made.checkpoints) == ({"page": 1}, ({"page": 1},))


def test_nothing_runs_while_processing_is_paused(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: None)
    add(conn)
    later = add(conn, 1, run_at=TOMORROW)
    operator.pause(conn, reason="a move", actor="test")
    assert drain(conn, scheduled=True) == []
    assert conn.job_row(later.job_id)["run_at"] == TOMORROW
    operator.resume(conn, actor="test")
    operator.pause(conn, reason="a move", actor="test", task_type="testing_parcel")
    assert drain(conn, scheduled=True) == []
    assert conn.job_row(later.job_id)["run_at"] == TOMORROW


# What is due later


@pytest.mark.slow
def test_what_is_due_later_runs_in_its_order_with_its_retries(conn: Connection, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> None:
        if params.number == 1 and ctx.job.attempt < 3:
            raise ValueError("not yet")
        if params.number == 2 and ctx.checkpoint is None:
            ctx.save_checkpoint({"snoozed": True})
            raise jobdeck.Snooze(60)

    behave(work)
    add(conn, 3, run_at=TOMORROW + timedelta(days=1))
    add(conn, 2, run_at=TOMORROW)
    add(conn, 1)
    assert [(made.job.payload["number"], made.outcome, made.job.attempt) for made in drain(conn, scheduled=True)] == [
        (1, "retried", 1), (1, "retried", 2), (1, "succeeded", 3),
        (2, "snoozed", 1), (2, "succeeded", 1), (3, "succeeded", 1),
    ]  # fmt: skip
    assert enqueued(conn) == []


@pytest.mark.slow
def test_a_series_runs_once_and_waits_for_its_next_slot(conn: Connection, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> None:
        if ctx.job.attempt == 1:
            raise ValueError("once more")

    behave(work)
    later = add(conn, 1, every_minutes=10, run_at=TOMORROW, dedupe_key="later")
    now = add(conn, 2, every_minutes=10, dedupe_key="now")
    made = drain(conn, scheduled=True)
    assert sorted((one.job.payload["number"], one.outcome) for one in made) == [
        (1, "retried"), (1, "succeeded"), (2, "retried"), (2, "succeeded"),
    ]  # fmt: skip
    assert conn.job_row(later.job_id)["run_at"] == TOMORROW
    assert {job.id for job in enqueued(conn)} == {later.job_id, now.job_id}
    assert made[-1].what_follows.startswith("The job succeeded. The series goes on in ")


@pytest.mark.slow
def test_a_job_that_waits_for_another_runs_after_it(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: None)
    first = add(conn, 1, run_at=TOMORROW)
    add(conn, 2, blocked_by=first.job_id)
    assert drain(conn) == []
    assert [made.job.payload["number"] for made in drain(conn, scheduled=True)] == [1, 2]


@pytest.mark.slow
def test_a_job_that_another_one_holds_is_left_alone(
    conn: Connection, database_url: str, behave: Callable[..., None]
) -> None:
    behave(lambda _params, _ctx: None)
    add(conn, 1, concurrency_key="one")
    add(conn, 2, concurrency_key="one", run_at=TOMORROW)
    add(conn, 3, run_at=TOMORROW + timedelta(days=1))
    with Connection.connect(database_url) as elsewhere:
        elsewhere.execute("SELECT id FROM job_queue_claim('elsewhere', ARRAY['testing_parcel'], 1, 60)")
        elsewhere.commit()
    assert [made.job.payload["number"] for made in drain(conn, scheduled=True)] == [3]


@pytest.mark.slow
def test_a_job_that_never_ends_is_named_and_stays_in_the_queue(conn: Connection, behave: Callable[..., None]) -> None:
    behave(raising(jobdeck.Snooze(60)))
    ticket = add(conn)
    sentence = (
        rf"^The drain has run 3 jobs, and job {ticket.job_id} of the type testing_parcel is due, after 3 runs of it\. "
        r"Raise max_runs, or find out why the queue does not become empty\.$"
    )
    with pytest.raises(EndlessDrain, match=sentence):
        drain(conn, scheduled=True, max_runs=3)
    row = conn.job_row(ticket.job_id)
    assert (row["status"], row["attempts"]) == ("pending", 0)
    behave(lambda _params, _ctx: jobdeck.Continue({}))
    with pytest.raises(EndlessDrain):
        drain(conn, max_runs=3)
    behave(lambda _params, _ctx: None)
    assert facts(drain(conn, max_runs=1)) == [("testing_parcel", 0, "succeeded")]


def test_a_job_behind_many_that_cannot_run_is_found(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: None)
    jobdeck.enqueue_many(conn, "testing_other", [{}] * 250, run_at=TOMORROW)
    add(conn, 5, run_at=TOMORROW + timedelta(days=1))
    made = drain(conn, scheduled=True, task_types=["testing_parcel"])
    assert facts(made) == [("testing_parcel", 5, "succeeded")]


# Failures


def test_a_failing_handler_fails_the_test_with_its_own_traceback(conn: Connection, behave: Callable[..., None]) -> None:
    behave(raising(ZeroDivisionError("by nothing")))
    ticket = add(conn)
    with pytest.raises(ZeroDivisionError, match="by nothing") as raised:
        drain(conn, raise_errors=True)
    assert any(entry.name == "handler" for entry in raised.traceback)
    assert [row["outcome"] for row in conn.run_rows(ticket.job_id)] == ["retried"]


def test_what_is_no_failure_raises_nothing(conn: Connection, behave: Callable[..., None]) -> None:
    behave(raising(jobdeck.Snooze(60)))
    add(conn)
    assert [made.outcome for made in drain(conn, raise_errors=True)] == ["snoozed"]


def test_a_payload_that_does_not_fit_fails_for_good_as_in_a_worker(conn: Connection) -> None:
    conn.value("SELECT job_queue_enqueue('testing_parcel', '{\"number\": \"many\"}')")
    (made,) = drain(conn)
    assert (made.outcome, made.error_kind) == ("failed", "invalid_payload")
    conn.value("SELECT job_queue_enqueue('testing_parcel', '{\"number\": \"many\"}')")
    with pytest.raises(jobdeck.InvalidPayload, match="number: Input should be a valid integer"):
        drain(conn, raise_errors=True)


def test_a_payload_with_an_unknown_field_fails_at_once_since_a_test_has_no_newer_program(conn: Connection) -> None:
    conn.value("SELECT job_queue_enqueue('testing_parcel', '{\"nubmer\": 7}')")
    (made,) = drain(conn, scheduled=True)
    assert (made.outcome, made.error_kind) == ("failed", "invalid_payload")
    assert "nubmer" in (made.error or "")


def test_a_report_that_the_database_refuses_is_replaced_as_in_a_worker(
    conn: Connection, behave: Callable[..., None]
) -> None:
    conn.execute("ALTER TABLE job_runs ADD CHECK (output IS NULL OR output::text NOT LIKE '%unstorable%')")
    behave(lambda _params, _ctx: jobdeck.Done({"is": "unstorable"}))
    ticket = add(conn)
    (made,) = drain(conn)
    row = conn.job_row(ticket.job_id)
    assert (row["status"], made.outcome, made.status) == ("failed", "failed", "failed")
    assert row["last_error"].startswith("The run ended as succeeded, but the database refused its report")
    assert made.error == row["last_error"]
    assert made.output is None


def test_what_ends_a_test_returns_the_job_to_the_queue(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: pytest.fail("a call too many"))
    ticket = add(conn)
    with pytest.raises(pytest.fail.Exception, match="a call too many"):
        drain(conn)
    row = conn.job_row(ticket.job_id)
    assert (row["status"], row["attempts"]) == ("pending", 0)


@pytest.mark.parametrize("task_type", ["testing_other", "testing_async"])
def test_the_time_limit_of_a_test_ends_a_handler_that_hangs_and_its_job_goes_back(
    conn: Connection, behave: Callable[..., None], task_type: str
) -> None:
    def limit(_number: int, _frame: object) -> None:
        pytest.fail("Timeout")  # as pytest-timeout does

    def hang(_params: Any, _ctx: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        threading.Event().wait()

    async def wait(_params: Any, _ctx: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        await asyncio.Event().wait()

    behave(hang, other=hang, **{"async": wait})
    ticket = jobdeck.enqueue(conn, task_type, {})
    before = signal.signal(signal.SIGALRM, limit)
    try:
        with pytest.raises(pytest.fail.Exception, match="Timeout"):
            drain(conn)
    finally:
        signal.signal(signal.SIGALRM, before)
    row = conn.job_row(ticket.job_id)
    assert (row["status"], row["attempts"]) == ("pending", 0)


# The test's own connection and transaction


def test_all_is_part_of_the_tests_transaction(database_url: str, conn: Connection, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> None:
        with ctx.db.transaction():
            ctx.db.execute("INSERT INTO effects VALUES (%s)", [params.number])
        if params.number == 2:
            ctx.db.execute("SELECT 1/0")

    behave(work)
    conn.execute("CREATE TABLE effects (number integer)")
    with conn.changes_nothing(), Connection.connect(database_url) as own:
        add(own, 1)
        add(own, 2)
        assert [made.outcome for made in drain(own)] == ["succeeded", "retried"]
        # The second run failed in the database, which takes back all that it did in this transaction.
        assert own.execute("SELECT number FROM effects").fetchall() == [(1,)]
        assert own.info.transaction_status is TransactionStatus.INTRANS
        own.rollback()


def test_the_connection_is_given_back_as_it_was(database_url: str, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        (path,) = ctx.db.execute("SELECT current_setting('search_path')").fetchall()[0]
        ctx.db.row_factory = dict_row
        ctx.db.execute("BEGIN")
        return jobdeck.Done({"path": path})

    behave(work)
    with Connection.connect(database_url, autocommit=True, row_factory=dict_row) as own:
        own.execute("SELECT set_config('search_path', 'elsewhere, public', false)")
        add(own)
        add(own)
        assert [made.output for made in drain(own)] == [{"path": '"public"'}] * 2
        assert own.execute("SELECT current_setting('search_path') AS path").fetchone() == {"path": "elsewhere, public"}
        assert own.info.transaction_status is TransactionStatus.IDLE


def test_a_handler_may_drain_the_queue_itself(conn: Connection, behave: Callable[..., None]) -> None:
    def work(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        jobdeck.enqueue(ctx.db, "testing_other", {"number": 4})
        return jobdeck.Done({"ran": len(drain(ctx.db))})

    behave(work)
    add(conn)
    results = drain(conn)
    assert [(made.job.task_type, made.output) for made in results] == [("testing_parcel", {"ran": 1})]


@pytest.mark.slow
def test_the_queue_may_be_in_its_own_schema(
    conn: Connection, behave: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(lambda _params, _ctx: None)
    install_schema(conn, schema="jobs")
    conn.execute("SET search_path = public")
    settings = Settings(database_schema="jobs")
    add(conn, 4, schema="jobs")
    assert [job.payload for job in enqueued(conn, "testing_parcel", settings=settings)] == [{"number": 4}]
    assert enqueued(conn) == []
    assert facts(drain(conn, settings=settings)) == [("testing_parcel", 4, "succeeded")]


# Bad input


def test_a_due_job_that_nobody_here_runs_is_an_error(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, _ctx: None)
    add(conn)
    conn.value("SELECT job_queue_enqueue(E'testing_stranger\\u001b[31m', '{}')")
    with pytest.raises(jobdeck.UnknownTaskType) as refused:
        drain(conn)
    assert str(refused.value) == (
        "Jobs of these types are due, and no imported module registers them: testing_stranger\\x1b[31m. Import the "
        "modules with their @job, or name the types to run: drain(…, task_types=[…])."
    )
    refute_enqueued(conn, "testing_parcel")
    assert drain(conn, task_types=["testing_parcel"]) == []


@pytest.mark.slow
def test_a_connection_that_reads_json_as_text_as_that_of_django_serves_and_is_given_back(
    empty_database_url: str, behave: Callable[..., None]
) -> None:
    def read(params: Parcel, ctx: jobdeck.JobContext) -> jobdeck.Done:
        (text,) = ctx.db.execute("SELECT to_jsonb(kind) FROM kinds").fetchone() or (None,)
        return jobdeck.Done({"text": text, "street": params.address["street"]})

    behave(parcel=read)
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA own_queue")
        conn.execute("CREATE TABLE kinds AS SELECT 'small' AS kind")
        use_schema(conn, "own_queue")
        install_schema(conn, schema="own_queue", components=[queue_component()])
        conn.execute("SET search_path = public")
        conn.adapters.register_loader("jsonb", TextLoader)
        used = Settings().model_copy(update={"database_schema": "own_queue"})
        jobdeck.enqueue(conn, "testing_parcel", {"address": {"street": "Mill Lane"}}, schema="own_queue")
        (found,) = enqueued(conn, "testing_parcel", settings=used)
        assert found.payload == {"address": {"street": "Mill Lane"}}
        (run,) = drain(conn, settings=used, raise_errors=True)
        assert run.output == {"text": '"small"', "street": "Mill Lane"}
        assert conn.execute("SELECT '{}'::jsonb, current_setting('search_path')").fetchone() == ("{}", "public")


def test_a_database_without_the_queue_is_named(empty_database_url: str) -> None:
    sentence = "holds no Jobdeck schema. Run `jobdeck init` to install it."
    with pytest.raises(jobdeck.SchemaMismatch, match=sentence):
        drain(empty_database_url)
    with Connection.connect(empty_database_url) as own:
        with pytest.raises(jobdeck.SchemaMismatch, match=sentence):
            drain(own)
        with pytest.raises(jobdeck.SchemaMismatch, match=sentence):
            enqueued(own)


def test_a_connection_that_cannot_be_used_is_refused(conn: Connection, database_url: str) -> None:
    with pytest.raises(jobdeck.JobdeckError, match="max_runs must be 1 or more, not 0"):
        drain(conn, max_runs=0)
    with pytest.raises(jobdeck.JobdeckError, match=r'must be a list of names, like \["testing_parcel"\]\.'):
        drain(conn, task_types="testing_parcel")
    with pytest.raises(jobdeck.JobdeckError, match=r"not a value of the type NoneType\. From SQLAlchemy, pass"):
        drain(None)  # type: ignore[arg-type]
    with Connection.connect(database_url) as own:
        with pytest.raises(psycopg.errors.DivisionByZero):
            own.execute("SELECT 1/0")
        with pytest.raises(jobdeck.JobdeckError, match=r"has failed\. Roll it back first"):
            drain(own)
    with pytest.raises(jobdeck.JobdeckError, match="The connection is closed"):
        drain(own)
    with pytest.raises(jobdeck.DatabaseUnreachable, match="does not answer"):
        drain("postgresql://127.0.0.1:1/nothing")


# The rule that run_job has of its own


RULES: dict[str, Callable[[Any, Any], Any]] = {
    "done": lambda _params, _ctx: jobdeck.Done(),
    "partial": lambda _params, _ctx: jobdeck.Done(failed=1),
    "continue": lambda _params, _ctx: jobdeck.Continue({"page": 1}, delay=40),
    "continue in 2 years": lambda _params, _ctx: jobdeck.Continue({}, delay=63_072_000),
    "error": raising(ValueError("no")),
    "permanent": raising(jobdeck.PermanentError("no")),
    "later": raising(jobdeck.RetryLater(50)),
    "in 2 years": raising(jobdeck.RetryLater(63_072_000)),
    "snooze": raising(jobdeck.Snooze(60)),
    "snooze for 2 years": raising(jobdeck.Snooze(63_072_000)),
    "no outcome": lambda _params, _ctx: 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_a_run_without_a_queue_has_the_sequel_that_the_database_decides(
    conn: Connection, behave: Callable[..., None], attempt: int
) -> None:
    for rule, work in RULES.items():
        behave(raising(ValueError("no")))
        job_id = add(conn).job_id
        for _ in range(attempt - 1):
            drain(conn)
            operator.retry(conn, [job_id], actor="test")
        behave(work)
        (queued,) = drain(conn)
        alone = run_job("testing_parcel", attempt=attempt)
        assert (rule, queued.job.attempt) == (rule, attempt)
        assert (rule, alone.outcome, alone.status) == (rule, queued.outcome, queued.status)
        assert (alone.checkpoint, alone.failed, alone.error) == (queued.checkpoint, queued.failed, queued.error)
        assert (alone.due_in is None) == (queued.due_in is None)
        if alone.due_in is not None:
            row = conn.job_row(job_id)
            delay = (row["run_at"] - row["updated_at"]).total_seconds()
            assert alone.due_in[0] <= delay <= alone.due_in[1], rule
        operator.delete(conn, [job_id], actor="test")
