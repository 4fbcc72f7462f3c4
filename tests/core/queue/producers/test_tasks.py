"""Handles of task types: made by `@job` or declared without a handler, enqueued through, and used as functions."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import jobdeck
from jobdeck.core import registry
from jobdeck.core.errors import ConfigurationError, Refused, UnknownTaskType
from jobdeck.testing import drain, run_job
from tests.support.producers import KINDS, AsyncApplication, application
from tests.support.queue import Connection


class Letter(jobdeck.Payload):
    to_whom: str


class Parcel(jobdeck.Payload):
    weight: int


@jobdeck.job("task_module_level", max_attempts=2)
def module_level(letter: Letter, _ctx: jobdeck.JobContext) -> jobdeck.Done:
    return jobdeck.Done({"to": letter.to_whom})


@jobdeck.job("task_async")
async def on_the_loop(letter: Letter, _ctx: jobdeck.AsyncJobContext) -> jobdeck.Done:
    return jobdeck.Done({"to": letter.to_whom})


declared = jobdeck.task("task_declared", Letter, max_attempts=7, concurrency="payload:toWhom")
ADA = Letter(to_whom="Ada")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What a test registers is forgotten at its end."""
    before = [*registry.registrations], [*registry.declarations]
    yield
    registry.registrations[:], registry.declarations[:] = before


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    with application(request.param, database_url) as made:
        yield made


def test_a_handle_enqueues_on_each_kind_of_connection(app: Any, conn: Connection) -> None:
    both = [ADA, Letter(to_whom="Bob")]
    with app.transaction():
        if isinstance(app, AsyncApplication):
            app.run(module_level.aenqueue(app.conn, ADA, priority=5))
            app.run(declared.aenqueue_many(app.conn, both))
        else:
            module_level.enqueue(app.conn, ADA, priority=5)
            declared.enqueue_many(app.conn, both)
    found = conn.rows(
        "SELECT task_type, payload, priority, max_attempts, concurrency_key FROM job_queue ORDER BY priority DESC, id",
    )
    assert [tuple(row.values()) for row in found] == [
        ("task_module_level", {"toWhom": "Ada"}, 5, 2, None),
        ("task_declared", {"toWhom": "Ada"}, 0, 7, "task_declared:Ada"),
        ("task_declared", {"toWhom": "Bob"}, 0, 7, "task_declared:Bob"),
    ]  # fmt: skip


def test_a_handle_goes_where_a_name_goes(conn: Connection) -> None:
    jobdeck.enqueue(conn, module_level, ADA)
    jobdeck.enqueue_many(conn, declared, [ADA])
    flow = jobdeck.Flow()
    flow.on_end(declared, ADA)
    flow.add("first", module_level, ADA)
    jobdeck.enqueue_flow(conn, flow)
    jobdeck.enqueue(conn, "task_declared", ADA)
    found = conn.rows("SELECT task_type FROM job_queue ORDER BY id")
    assert sorted(row["task_type"] for row in found) == ["task_declared"] * 3 + ["task_module_level"] * 2


untyped: Any = module_level
loose: Any = declared
loose_task: Any = jobdeck.task


def test_a_handle_is_called_awaited_and_run_by_tests_as_its_function() -> None:
    context: Any = object()
    assert module_level(ADA, context).output == {"to": "Ada"}
    assert asyncio.run(on_the_loop(ADA, context)).output == {"to": "Ada"}
    assert run_job(module_level, ADA).output == {"to": "Ada"}
    given: list[object] = []
    jobdeck.job("task_of_both")(lambda *both: given.extend(both))(ADA, context)
    assert given == [ADA, context]
    assert (untyped.__name__, untyped.__module__) == ("module_level", __name__)
    assert module_level.name == "task_module_level"


@pytest.mark.parametrize("handle", [module_level, on_the_loop])
def test_a_handle_is_copied_and_pickled_by_its_name_as_a_function(handle: Any) -> None:
    assert pickle.loads(pickle.dumps(handle)) is handle  # noqa: S301 -- what is tested
    assert copy.copy(handle) is handle
    assert copy.deepcopy({"key": handle})["key"] is handle


def test_a_declared_handle_that_was_pickled_enqueues_as_before(conn: Connection) -> None:
    again = pickle.loads(pickle.dumps(declared))  # noqa: S301 -- what is tested
    again.enqueue(conn, ADA)
    assert conn.rows("SELECT task_type, max_attempts, concurrency_key FROM job_queue") == [
        {"task_type": "task_declared", "max_attempts": 7, "concurrency_key": "task_declared:Ada"}
    ]


def test_a_handler_of_a_declared_type_runs_its_jobs_and_stays_a_function(conn: Connection) -> None:
    task = jobdeck.task("task_of_two_modules", Letter)

    def handler(letter: Letter, _ctx: jobdeck.JobContext) -> jobdeck.Done:
        return jobdeck.Done({"to": letter.to_whom})

    assert task.handler(timeout=60)(handler) is handler
    task.enqueue(conn, ADA)
    assert [one.output for one in drain(conn, task_types=[task.name])] == [{"to": "Ada"}]
    assert registry.registered(task.name).timeout == 60


LIGHT = """
    import jobdeck

    class Invoice(jobdeck.Payload):
        customer: int

    send_invoice = jobdeck.task("light_invoice", Invoice)
"""
HEAVY = """
    import no_such_library
    from light_billing import Invoice, send_invoice

    @send_invoice.handler
    def send(invoice: Invoice, ctx):
        no_such_library.send(invoice)
"""


def test_a_web_application_enqueues_where_the_libraries_of_the_handler_are_missing(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("light_billing", LIGHT), ("heavy_billing", HEAVY)):
        (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import light_billing  # type: ignore[import-not-found]  # noqa: PLC0415 -- written above

    try:
        light_billing.send_invoice.enqueue(conn, light_billing.Invoice(customer=7))
        assert conn.rows("SELECT task_type, payload FROM job_queue") == [
            {"task_type": "light_invoice", "payload": {"customer": 7}}
        ]
        with pytest.raises(ConfigurationError, match="no_such_library"):
            registry.load(["heavy_billing"])
        with pytest.raises(ConfigurationError, match="light_billing registers no task type"):
            registry.load(["light_billing"])
    finally:
        sys.modules.pop("light_billing")


# The payload by the annotation


def test_without_a_payload_the_annotation_of_the_first_parameter_is_the_model() -> None:
    assert module_level.job_type.payload is Letter
    assert on_the_loop.job_type.payload is Letter


def unresolved(letter: NoSuchName, ctx: Any) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Its annotation is a name that is not there at run time."""


def bare(letter, ctx):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """It has no annotation."""


def any_payload(_payload: jobdeck.Payload, _ctx: Any) -> None:
    """It takes a payload of any type."""


def base_model(_payload: object, _ctx: Any) -> None:
    """It takes anything."""


@pytest.mark.parametrize("function", [unresolved, bare, any_payload, base_model])
@pytest.mark.parametrize("given", [Letter, None])
def test_an_annotation_that_says_nothing_decides_nothing(function: Any, given: type[Letter] | None) -> None:
    task = jobdeck.job("task_annotated", payload=given)(function) if given else jobdeck.job("task_annotated")(function)
    assert task.job_type.payload is (given or registry.NoArguments)


def no_model(_payload: dict[str, Any], _ctx: Any) -> None:
    """Its payload is a class that is no model."""


def a_number(_payload: int, _ctx: Any) -> None:
    """Its payload is a class that is no model."""


@pytest.mark.parametrize(
    ("register", "sentence"),
    [
        (lambda: jobdeck.job("task_odd", payload=Parcel)(untyped.__wrapped__), "takes the payload Letter"),
        (lambda: loose.handler(a_number), "takes the payload int, and its type has the payload Letter"),
        (lambda: jobdeck.job("task_odd")(a_number), "annotated with int, which is no model"),
        (lambda: loose.handler(max_attempts=3), "the options max_attempts. Give them where the type is declared"),
        (lambda: loose_task("task_odd", dict), "The payload of task_odd is no model"),
        (lambda: jobdeck.task("task_odd", Letter, concurrency="payload:to"), "It must be"),
        (lambda: jobdeck.task("task_odd", Letter, max_attempts=0), "max_attempts=0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_where_they_are_written(register: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        register()


# Refused


@pytest.mark.parametrize("given", [no_model, Letter, 7, None])
def test_what_is_neither_a_name_nor_a_handle_is_refused_with_a_sentence(conn: Connection, given: Any) -> None:
    with (
        conn.changes_nothing(),
        pytest.raises(UnknownTaskType, match="by its name or its handle, and not by a value of the class"),
    ):
        jobdeck.enqueue(conn, given, ADA)


def test_a_handle_refuses_what_a_name_refuses(conn: Connection) -> None:
    other: Any = Parcel(weight=1)
    with pytest.raises(jobdeck.InvalidPayload, match="weight"):
        module_level.enqueue(conn, other)
    with pytest.raises(jobdeck.InvalidPayload, match="toWhom: Field required"):
        module_level.enqueue(conn)
    with pytest.raises(Refused, match="no time zone"):
        module_level.enqueue(conn, ADA, run_at=datetime(2026, 1, 1))  # noqa: DTZ001 -- what is tested
    assert module_level.enqueue(conn, ADA, run_at=datetime(2026, 1, 1, tzinfo=UTC)).created
