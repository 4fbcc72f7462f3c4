"""Spans and metrics of runs: what they belong to, what they tell, and what they leave out."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

import jobdeck
from jobdeck.core.errors import PermanentError, RetryLater, Snooze
from jobdeck.core.model import FinishedRun, RunOutcome
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import operator
from jobdeck.core.registry import Continue, Done, JobType, registered
from jobdeck.core.telemetry import switch
from jobdeck.core.telemetry.spans import Origin
from jobdeck.core.worker.completer import Completer
from jobdeck.core.worker.context import RunContext
from tests.core.queue.producers.types import Greeting
from tests.core.telemetry.conftest import Recorded
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import a_state, a_worker, claimed, quick_settings, working

TYPE = "made_greet"
PROCESS, SEND = f"process {TYPE}", f"send {TYPE}"
ADA = Greeting(to_whom="ada@example.org")


def greets(run: Callable[[Any, Any], Any], **facts: Any) -> JobType:
    """The type that these tests enqueue, with another handler."""
    return dataclasses.replace(registered(TYPE), run=run, **facts)


def settings(**facts: Any) -> Any:
    return quick_settings(otel=True, **facts)


def run_all(url: str, run: Callable[[Any, Any], Any], **facts: Any) -> None:
    with a_worker(url, greets(run, **facts), settings=settings(), worker_id="w1") as worker:
        worker.run_until_idle()


def place(found: Any) -> tuple[int, int]:
    """Trace and span of a context."""
    return found.trace_id, found.span_id


def links(span: ReadableSpan) -> dict[object, tuple[int, int]]:
    return {(link.attributes or {})["jobdeck.link"]: place(link.context) for link in span.links}


def fact(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def note(recorded: Recorded) -> Done:
    """What a handler does: a span of the application's own."""
    with recorded.tracer.start_as_current_span("inside"):
        return Done()


class TestWhatARunBelongsTo:
    @pytest.mark.parametrize("way", ["thread", "loop", "cycle"])
    def test_it_continues_the_trace_of_its_enqueue_and_has_the_spans_of_its_handler(
        self, database_url: str, conn: Connection, recorded: Recorded, way: str
    ) -> None:
        with recorded.tracer.start_as_current_span("request") as request:
            job_id = jobdeck.enqueue(conn, TYPE, ADA).job_id

        async def handle(_params: Any, _ctx: Any) -> Done:
            return note(recorded)

        kind = greets(handle) if way == "loop" else greets(lambda _params, _ctx: note(recorded))
        with a_worker(database_url, kind, settings=settings(), worker_id="w1") as worker:
            worker.run_cycle() if way == "cycle" else worker.run_until_idle()
        send, run, inside = recorded.span(SEND), recorded.span(PROCESS), recorded.span("inside")
        assert run.kind is SpanKind.CONSUMER
        assert run.parent is not None
        assert place(run.parent) == place(send.context)
        assert links(run) == {"producer": place(send.context)}
        assert place(inside.parent) == place(run.context)
        assert {one.context.trace_id for one in (send, run, inside) if one.context} == {
            request.get_span_context().trace_id
        }
        assert dict(run.attributes or {}) == {
            "messaging.system": "jobdeck",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": TYPE,
            "messaging.message.id": str(job_id),
            "messaging.client.id": "w1",
            "jobdeck.attempt": 1,
            "jobdeck.outcome": "succeeded",
        }
        assert run.status.status_code is StatusCode.UNSET

    def test_a_retry_has_a_link_to_the_run_before(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue(conn, TYPE, ADA)

        def run(_params: Any, ctx: Any) -> Done:
            if ctx.job.attempt < 3:
                raise RetryLater(0)
            return Done()

        run_all(database_url, run)
        first, second, third = recorded.spans(PROCESS)
        send = place(recorded.span(SEND).context)
        assert links(first) == {"producer": send}
        assert links(second) == {"producer": send, "run_before": place(first.context)}
        assert links(third) == {"producer": send, "run_before": place(second.context)}
        assert {place(one.parent) for one in (first, second, third)} == {send}
        assert [fact(one, "jobdeck.outcome") for one in (first, second, third)] == ["retried", "retried", "succeeded"]
        assert [fact(one, "jobdeck.attempt") for one in (first, second, third)] == [1, 2, 3]

    @pytest.mark.parametrize("how", ["continued", "snoozed", "failed"])
    def test_so_has_what_runs_again_otherwise(
        self, database_url: str, conn: Connection, recorded: Recorded, how: str
    ) -> None:
        job_id = jobdeck.enqueue(conn, TYPE, ADA).job_id
        runs: list[str] = []

        def run(_params: Any, _ctx: Any) -> Done | Continue:
            runs.append(how)
            if len(runs) > 1:
                return Done()
            if how == "snoozed":
                raise Snooze(0)
            if how == "failed":
                raise PermanentError("no")
            return Continue({"page": 1})

        run_all(database_url, run)
        if how == "failed":
            operator.retry(conn, [job_id], actor=ACTOR)
            run_all(database_url, run)
        first, second = recorded.spans(PROCESS)
        assert fact(first, "jobdeck.outcome") == how
        assert links(second)["run_before"] == place(first.context)

    @pytest.mark.slow
    def test_a_series_has_a_trace_for_each_run_and_a_link_to_what_enqueued_it(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        job_id = jobdeck.enqueue(conn, TYPE, ADA, every_minutes=5).job_id
        run_all(database_url, lambda _params, _ctx: Done())
        conn.execute("UPDATE job_queue SET run_at = now() WHERE id = %s", (job_id,))
        run_all(database_url, lambda _params, _ctx: Done())
        runs = recorded.spans(PROCESS)
        send = recorded.span(SEND).context
        assert send is not None
        assert [one.parent for one in runs] == [None, None]
        assert [links(one) for one in runs] == [{"producer": place(send)}] * 2
        assert len({one.context.trace_id for one in runs if one.context} | {send.trace_id}) == 3

    def test_a_job_of_a_producer_without_traces_begins_one(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        conn.execute('INSERT INTO job_queue (task_type, payload) VALUES (%s, \'{"toWhom": "Ada"}\')', (TYPE,))
        run_all(database_url, lambda _params, _ctx: note(recorded))
        run = recorded.span(PROCESS)
        assert (run.parent, tuple(run.links)) == (None, ())
        assert place(recorded.span("inside").parent) == place(run.context)

    def test_what_a_handler_enqueues_is_in_the_trace(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue(conn, TYPE, ADA)

        def run(params: Any, ctx: Any) -> Done:
            if params.times == 1:
                jobdeck.enqueue(ctx.db, TYPE, Greeting(to_whom="Bob", times=2))
            return Done()

        run_all(database_url, run)
        (_, inner), (outer, last) = recorded.spans(SEND), recorded.spans(PROCESS)
        assert place(inner.parent) == place(outer.context)
        assert place(last.parent) == place(inner.context)

    def test_members_that_a_handler_adds_to_its_flow_are_in_the_trace(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        flow = jobdeck.Flow()
        flow.add("first", TYPE, ADA)
        jobdeck.enqueue_flow(conn, flow)

        def run(params: Any, ctx: Any) -> Done:
            if params.times == 1:
                more = jobdeck.Flow()
                more.add("second", TYPE, Greeting(to_whom="Bob", times=2))
                jobdeck.extend_flow(ctx, more)
            return Done()

        run_all(database_url, run)
        (_, inner), (outer, last) = recorded.spans("send flow"), recorded.spans(PROCESS)
        assert place(inner.parent) == place(outer.context)
        assert place(last.parent) == place(inner.context)

    def test_a_run_whose_origin_cannot_be_read_runs_all_the_same(
        self, database_url: str, conn: Connection, recorded: Recorded, caplog: pytest.LogCaptureFixture
    ) -> None:
        job_id = jobdeck.enqueue(conn, TYPE, ADA).job_id
        conn.execute("ALTER FUNCTION job_queue_traces(uuid[]) RENAME TO job_queue_traces_gone")
        run_all(database_url, lambda _params, _ctx: Done())
        assert conn.outcomes(job_id) == ["succeeded"]
        assert recorded.span(PROCESS).parent is None
        assert "the traces of claimed jobs could not be read" in caplog.text


class TestWhatASpanTells:
    def test_an_error_is_told_by_its_kind_alone(self, database_url: str, conn: Connection, recorded: Recorded) -> None:
        jobdeck.enqueue(conn, TYPE, ADA, dedupe_key="key of ada", max_attempts=1)

        def run(params: Any, _ctx: Any) -> Done:
            raise ValueError(f"{params.to_whom} has no account")

        run_all(database_url, run)
        span = recorded.span(PROCESS)
        assert (fact(span, "error.type"), fact(span, "jobdeck.outcome")) == ("ValueError", "failed")
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.events == ()
        told = recorded.text()
        assert [word for word in ("ada@", "account", "key of", "toWhom") if word in told] == []
        assert "ValueError" in told

    def test_a_kind_that_is_no_word_is_left_out(self, database_url: str, conn: Connection, recorded: Recorded) -> None:
        jobdeck.enqueue(conn, TYPE, ADA, max_attempts=1)

        def run(params: Any, _ctx: Any) -> Done:
            raise type(params.to_whom, (Exception,), {})

        run_all(database_url, run)
        assert fact(recorded.span(PROCESS), "error.type") == "_OTHER"
        assert "ada@" not in recorded.text()

    @pytest.mark.slow
    def test_a_run_over_its_timeout_has_failed_when_its_handler_returns(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue(conn, TYPE, ADA, max_attempts=1)

        def run(_params: Any, ctx: Any) -> Done:
            until(ctx.cancelled, "the timeout")
            return Done()

        with working(database_url, greets(run, timeout=0.1), settings=settings()) as worker:
            until(lambda: conn.outcomes() == ["failed"], "the report")
            worker.drain(PATIENCE)
        span = recorded.span(PROCESS)
        assert (fact(span, "error.type"), fact(span, "jobdeck.outcome")) == ("timeout", "failed")

    def test_a_run_that_ended_in_its_own_transaction_has_that_outcome(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue(conn, TYPE, ADA)

        def run(_params: Any, ctx: Any) -> None:
            with ctx.db.transaction():
                ctx.finish_in(ctx.db, Done())

        run_all(database_url, run)
        span = recorded.span(PROCESS)
        assert (fact(span, "jobdeck.outcome"), span.status.status_code) == ("succeeded", StatusCode.UNSET)

    def test_it_lasts_as_long_as_the_handler(self, database_url: str, conn: Connection, recorded: Recorded) -> None:
        jobdeck.enqueue(conn, TYPE, ADA)
        run_all(database_url, lambda _params, _ctx: note(recorded))
        run, inside = recorded.span(PROCESS), recorded.span("inside")
        took = conn.value("SELECT extract(epoch FROM finished_at - started_at) FROM job_runs")
        assert run.start_time is not None
        assert run.end_time is not None
        assert inside.start_time is not None
        assert run.start_time <= inside.start_time
        assert (run.end_time - run.start_time) / 1e9 == pytest.approx(float(took), abs=1e-4)

    def test_a_processor_that_fails_ends_no_run(
        self, database_url: str, conn: Connection, recorded: Recorded, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(SpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                del parent_context
                if span.name == PROCESS and len(failed) % 2 == 0:
                    failed.append("start")
                    raise RuntimeError("no room")

            def on_end(self, span: ReadableSpan) -> None:
                if span.name == PROCESS:
                    failed.append("end")
                    raise RuntimeError("no room")

        failed: list[str] = []
        with caplog.at_level(logging.WARNING):
            jobdeck.enqueue_many(conn, TYPE, [ADA, ADA])
            recorded.provider.add_span_processor(Broken())
            run_all(database_url, lambda _params, _ctx: Done())
        assert conn.outcomes() == ["succeeded", "succeeded"]
        assert failed == ["start", "end"]
        assert "the span of a run could not be begun" in caplog.text
        assert "the span of a run could not be ended" in caplog.text


class TestMetrics:
    @pytest.mark.slow
    def test_runs_are_counted_by_type_and_recorded_outcome(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue_many(conn, TYPE, [Greeting(to_whom=f"{number}", times=number) for number in (0, 0, 1)])

        def run(params: Any, ctx: Any) -> Done:
            if params.times and ctx.job.attempt == 1:
                raise RetryLater(0)
            return Done()

        run_all(database_url, run)
        counted = {key: point.value for key, point in recorded.points("jobdeck.runs").items()}
        assert counted == {(TYPE, "succeeded"): 3, (TYPE, "retried"): 1}
        times = {key: point.count for key, point in recorded.points("messaging.process.duration").items()}
        assert times == counted
        assert recorded.points("messaging.client.sent.messages")[TYPE,].value == 3
        assert recorded.points("jobdeck.runs.active")[TYPE,].value == 0

    def test_runs_in_flight_are_those_whose_report_is_not_stored(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue_many(conn, TYPE, [Greeting(to_whom=name) for name in "ab"])
        both, go_on = threading.Barrier(3), threading.Event()

        def run(_params: Any, _ctx: Any) -> Done:
            both.wait(PATIENCE)
            assert go_on.wait(PATIENCE)
            return Done()

        with working(database_url, greets(run), settings=settings()):
            both.wait(PATIENCE)
            assert recorded.points("jobdeck.runs.active")[TYPE,].value == 2
            go_on.set()
            until(lambda: recorded.points("jobdeck.runs.active")[TYPE,].value == 0, "the reports")

    def test_a_run_whose_report_is_given_up_ends_and_is_not_counted(
        self, database_url: str, recorded: Recorded
    ) -> None:
        with Database(database_url, application_name="test", max_size=1) as database, a_state(database) as state:
            job = claimed(TYPE)
            context = RunContext(job, state.resources, 0.0, math.inf)
            context.span = switch.recorder().begin(job, "w1", Origin())
            context.result = FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, 0.0, 1.5)
            state.held[job.run_token] = context
            completer = Completer(state)
            completer._let_go([context])
            completer._let_go([context])
        assert fact(recorded.span(PROCESS), "jobdeck.outcome") == "succeeded"
        assert recorded.points("jobdeck.runs.active")[TYPE,].value == 0
        assert recorded.points("jobdeck.runs") == {}

    @pytest.mark.slow
    def test_a_dry_run_is_not_counted_and_a_released_one_has_no_duration(
        self, database_url: str, conn: Connection, recorded: Recorded
    ) -> None:
        jobdeck.enqueue(conn, TYPE, ADA)
        run_all(database_url, lambda _params, _ctx: Done(dry_run=True))
        assert recorded.points("jobdeck.runs") == {}
        jobdeck.enqueue(conn, TYPE, ADA)
        began = threading.Event()

        def run(_params: Any, ctx: Any) -> Done:
            began.set()
            until(ctx.cancelled, "the end of the worker")
            ctx.raise_if_cancelled()
            return Done()

        with working(database_url, greets(run), settings=settings()) as worker:
            assert began.wait(PATIENCE)
            worker.drain(0)
        assert {key: point.value for key, point in recorded.points("jobdeck.runs").items()} == {(TYPE, "released"): 1}
        assert recorded.points("messaging.process.duration") == {}


@pytest.mark.slow
def test_a_worker_that_was_not_asked_records_nothing(database_url: str, conn: Connection, recorded: Recorded) -> None:
    job_id = jobdeck.enqueue(conn, TYPE, ADA, max_attempts=1).job_id
    seen: list[object] = []

    def run(_params: Any, _ctx: Any) -> Done:
        seen.append(trace.get_current_span().get_span_context().is_valid)
        raise PermanentError("no")

    with a_worker(database_url, greets(run)) as worker:
        worker.run_until_idle()
    assert seen == [False]
    assert [span.name for span in recorded.all()] == [SEND]
    assert conn.status_of(job_id) == "failed"
    assert conn.value("SELECT run_trace FROM job_queue WHERE id = %s", job_id) is None
