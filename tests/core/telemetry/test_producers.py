"""Spans of enqueues, and the context that jobs carry from their producer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

import jobdeck
from jobdeck.core.errors import MissingExtra
from jobdeck.core.queue import operator
from jobdeck.core.settings import OtelSettings, asks_for_otel
from jobdeck.core.telemetry import switch
from jobdeck.core.telemetry.recorder import parsed, traceparent
from tests.core.queue.producers.types import Greeting
from tests.core.telemetry.conftest import Recorded
from tests.support.producers import KINDS, application
from tests.support.queue import Connection

TYPE, OTHER = "made_greet", "made_plain"
ADA = Greeting(to_whom="Ada")
MADE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def named(span: ReadableSpan) -> str:
    """A span as W3C Trace Context has it."""
    found = span.context
    assert found is not None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def carried(conn: Connection, job_id: UUID) -> str | None:
    found: str | None = conn.value("SELECT trace_context FROM job_queue WHERE id = %s", job_id)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_carries_the_span_of_its_enqueue_through_each_kind_of_connection(
    kind: str, database_url: str, conn: Connection, recorded: Recorded
) -> None:
    # In this order: an application with an event loop keeps the context in which it was made.
    with (
        recorded.tracer.start_as_current_span("request") as request,
        application(kind, database_url) as app,
        app.transaction(),
    ):
        ticket = app.enqueue(TYPE, ADA, actor="shop")
        many = app.enqueue_many(TYPE, [ADA, ADA])
    one, batch = recorded.spans(f"send {TYPE}")
    for span in (one, batch):
        assert span.kind is SpanKind.PRODUCER
        assert span.parent == request.get_span_context()
    assert carried(conn, ticket.job_id) == named(one)
    assert {carried(conn, job_id) for job_id in many} == {named(batch)}
    assert conn.value("SELECT created_by LIKE 'shop (%%' FROM job_queue WHERE id = %s", ticket.job_id)
    facts = {
        "messaging.system": "jobdeck",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": TYPE,
    }
    assert dict(one.attributes or {}) == {**facts, "messaging.message.id": str(ticket.job_id)}
    assert dict(batch.attributes or {}) == {**facts, "messaging.batch.message_count": 2}
    assert recorded.points("messaging.client.sent.messages")[TYPE,].value == 3


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_a_flow_and_whole_jobs_carry_one_span_and_are_counted_by_their_types(
    kind: str, database_url: str, conn: Connection, recorded: Recorded
) -> None:
    flow = jobdeck.Flow("greetings")
    flow.add("second", OTHER, after=flow.add("first", TYPE, ADA))
    with application(kind, database_url) as app, app.transaction():
        ticket = app.enqueue_flow(flow)
        app.enqueue_many([jobdeck.new_job(TYPE, ADA), jobdeck.new_job(OTHER), jobdeck.new_job(OTHER)])
    span, whole = recorded.span("send flow"), recorded.span("send several")
    assert {carried(conn, job_id) for job_id in ticket.jobs.values()} == {named(span)}
    facts = dict(span.attributes or {})
    assert (facts["jobdeck.flow.id"], facts["messaging.batch.message_count"]) == (str(ticket.flow_id), 2)
    assert dict(whole.attributes or {})["messaging.batch.message_count"] == 3
    points = recorded.points("messaging.client.sent.messages")
    assert {name: point.value for (name,), point in points.items()} == {TYPE: 2, OTHER: 3}


def test_a_job_that_has_the_dedupe_key_keeps_its_own_span_and_is_not_counted_again(
    conn: Connection, recorded: Recorded
) -> None:
    first = jobdeck.enqueue(conn, TYPE, ADA, dedupe_key="ada")
    before = carried(conn, first.job_id)
    assert jobdeck.enqueue(conn, TYPE, ADA, dedupe_key="ada") == (first.job_id, False, False)
    assert carried(conn, first.job_id) == before
    assert recorded.points("messaging.client.sent.messages")[TYPE,].value == 1


def test_a_refused_enqueue_has_a_failed_span_without_the_message(conn: Connection, recorded: Recorded) -> None:
    with pytest.raises(jobdeck.Refused, match="blocker"):
        jobdeck.enqueue(conn, TYPE, ADA, blocked_by=UUID(int=7))
    span = recorded.span(f"send {TYPE}")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "Refused"
    assert (span.status.description, span.events) == (None, ())
    assert "blocker" not in recorded.text()


def test_each_part_of_a_large_batch_carries_it(
    conn: Connection, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.queue.producer.BULK", 2)
    assert len(jobdeck.enqueue_many(conn, TYPE, [ADA] * 5)) == 5
    made = named(recorded.span(f"send {TYPE}"))
    assert conn.value("SELECT count(*) FROM job_queue WHERE trace_context = %s", made) == 5


def test_on_an_autocommit_connection_nothing_of_it_is_left_for_the_next_job(
    database_url: str, recorded: Recorded
) -> None:
    with Connection.connect(database_url, autocommit=True) as mine:
        jobdeck.enqueue(mine, TYPE, ADA)
        jobdeck.enqueue_many(mine, TYPE, [ADA])
        by_hand = mine.value("INSERT INTO job_queue (task_type) VALUES ('by hand') RETURNING id")
        assert carried(mine, by_hand) is None
    assert len(recorded.spans(f"send {TYPE}")) == 2


class TestWithoutPython:
    """What names its span in the setting `jobdeck.traceparent` of its transaction."""

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO job_queue (task_type) VALUES ('sql')",
            "SELECT job_queue_enqueue('sql')",
            "SELECT job_queue_create('sql', '{}', null, 5, 0, null, null, null, null, null, null)",
            "SELECT job_queue_create_many('{a, b}', array['{}', '{}']::jsonb[], null, null, null, null, null, null)",
        ],
    )
    def test_a_producer_in_sql_carries_it(self, conn: Connection, statement: str) -> None:
        with conn.transaction():
            conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (MADE,))
            conn.execute(statement)
        assert conn.value("SELECT array_agg(DISTINCT trace_context) FROM job_queue") == [MADE]

    def test_copy_carries_it(self, conn: Connection) -> None:
        with conn.transaction():
            conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (MADE,))
            with conn.cursor() as cursor, cursor.copy("COPY job_queue (task_type) FROM STDIN") as copy:
                copy.write("one\ntwo\n")
        assert conn.value("SELECT array_agg(trace_context) FROM job_queue") == [MADE, MADE]

    def test_it_ends_with_the_transaction(self, conn: Connection) -> None:
        with conn.transaction():
            conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (MADE,))
        conn.execute("INSERT INTO job_queue (task_type) VALUES ('later')")
        assert conn.value("SELECT trace_context FROM job_queue") is None

    @pytest.mark.parametrize(
        "text", ["", "x", MADE + "\n", MADE.upper(), MADE.replace("00-", "01-"), MADE + "-more", "ada@example.org"]
    )
    def test_what_is_no_traceparent_is_left_out_and_refuses_no_job(self, conn: Connection, text: str) -> None:
        with conn.transaction():
            conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (text,))
            conn.execute("INSERT INTO job_queue (task_type) VALUES ('sql')")
        assert conn.value("SELECT trace_context FROM job_queue") is None


def test_a_deleted_job_that_is_restored_has_its_span(conn: Connection, recorded: Recorded) -> None:
    job_id = jobdeck.enqueue(conn, TYPE, ADA).job_id
    operator.delete(conn, [job_id], actor="ops")
    # The transaction of a restore has no span, and must not replace the job's own.
    operator.restore(conn, [job_id], actor="ops")
    assert carried(conn, job_id) == named(recorded.span(f"send {TYPE}"))


def test_nothing_is_carried_unless_it_was_asked_for(conn: Connection, recorded: Recorded, monkeypatch: Any) -> None:
    monkeypatch.setattr(switch, "_asked", lambda: False)
    with recorded.tracer.start_as_current_span("request"):
        one = jobdeck.enqueue(conn, TYPE, ADA).job_id
        (other,) = jobdeck.enqueue_many(conn, TYPE, [ADA])
    assert (carried(conn, one), carried(conn, other)) == (None, None)
    assert [span.name for span in recorded.all()] == ["request"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobdeck.core.errors.find_spec", lambda _name: None)
    switch.recorder.cache_clear()
    with pytest.raises(MissingExtra, match=r"JOBDECK_OTEL asks for, is not installed.*pip install 'jobdeck\[otel\]'"):
        switch.of(OtelSettings(otel=True))
    assert switch.of(OtelSettings(otel=False)) is None


def test_the_setting_is_read_from_the_environment_beside_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_CONCURRENCY", "many")
    for text, meaning in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("JOBDECK_OTEL", text)
        assert asks_for_otel() is meaning
    monkeypatch.setenv("JOBDECK_OTEL", "perhaps")
    with pytest.raises(jobdeck.ConfigurationError, match="JOBDECK_OTEL"):
        asks_for_otel()


@pytest.mark.parametrize(
    "text",
    [None, "", MADE + "0", MADE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), MADE.replace("b7ad", "B7AD")],
)
def test_a_context_that_names_no_span_is_none(text: str | None) -> None:
    assert parsed(text) is None


def test_a_context_is_read_as_it_was_written(recorded: Recorded) -> None:
    with recorded.tracer.start_as_current_span("any") as span:
        found = parsed(traceparent(span))
    mine = span.get_span_context()
    assert found is not None
    assert (found.trace_id, found.span_id, found.trace_flags) == (mine.trace_id, mine.span_id, mine.trace_flags)
    assert found.is_remote
