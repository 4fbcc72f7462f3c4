"""Flows by the Python API: built, refused, enqueued through each kind of connection, and used by handlers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest

import jobdeck
from jobdeck.core import registry
from jobdeck.core.queue import operator
from jobdeck.testing import drain
from tests.core.cli.support import ROOT
from tests.core.queue.flows.steps import states
from tests.core.queue.producers.types import Greeting
from tests.support.producers import KINDS, application
from tests.support.queue import Connection

ADA = Greeting(to_whom="Ada")
TYPE = "made_greet"
PAGE = (ROOT / "docs" / "flows.md").read_text(encoding="utf-8")


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    with application(request.param, database_url) as made:
        yield made


def greetings() -> jobdeck.Flow:
    """Two members, a third that waits for both, and a callback."""
    flow = jobdeck.Flow("greetings")
    both = [flow.add(name, TYPE, Greeting(to_whom=name)) for name in ("Ada", "Bob")]
    flow.add("all", TYPE, ADA, after=both)
    flow.on_end(TYPE, ADA)
    return flow


# Built


def test_members_may_be_named_before_they_are_added(conn: Connection) -> None:
    flow = jobdeck.Flow()
    flow.add("last", TYPE, ADA, after=["first", "second"])
    flow.add("second", TYPE, ADA, after="first")
    flow.add("first", TYPE, ADA)
    ids = jobdeck.enqueue_flow(conn, flow).jobs
    waits = conn.rows("SELECT job_id, blocker_id FROM job_dependencies")
    assert {(row["job_id"], row["blocker_id"]) for row in waits} == {
        (ids["last"], ids["first"]), (ids["last"], ids["second"]), (ids["second"], ids["first"])}  # fmt: skip


def test_a_member_has_the_timeout_that_it_was_given(app: Any, conn: Connection) -> None:
    flow = jobdeck.Flow()
    flow.add("long", TYPE, ADA, timeout=90)
    flow.add("usual", TYPE, ADA)
    with app.transaction():
        ids = app.enqueue_flow(flow).jobs
    assert conn.rows("SELECT job_id, seconds FROM job_timeouts") == [{"job_id": ids["long"], "seconds": 90.0}]
    flow = jobdeck.Flow()
    flow.add("never", TYPE, ADA, timeout=0)
    with pytest.raises(jobdeck.Refused, match="timeout of a job is a number of seconds"):
        jobdeck.enqueue_flow(conn, flow)


def circle(*names: str) -> jobdeck.Flow:
    """Members of which each waits for the next, and the last for the first."""
    flow = jobdeck.Flow()
    for name, following in zip(names, (*names[1:], names[0]), strict=True):
        flow.add(name, TYPE, ADA, after=following)
    return flow


def waiting_for(name: str) -> jobdeck.Flow:
    flow = jobdeck.Flow()
    flow.add("a", TYPE, ADA, after=name)
    return flow


def callbacks_alone() -> jobdeck.Flow:
    flow = jobdeck.Flow()
    flow.on_success(TYPE, ADA)
    return flow


@pytest.mark.parametrize(
    ("flow", "sentence"),
    [
        (jobdeck.Flow(), "The flow has no members."),
        (callbacks_alone(), "The flow has callbacks alone, which wait for nothing."),
        (waiting_for("b"), "The member a waits for b, which is no member of this flow."),
        (circle("a"), "The member a waits for itself."),
        (circle("a", "b", "c"), "in a circle.*: (a → b → c → a|b → c → a → b|c → a → b → c)\\."),
        (circle(*(f"m{number}" for number in range(50))), " → …\\."),
    ],
)
def test_a_flow_that_cannot_run_is_refused_before_the_database_is_asked(
    conn: Connection, flow: jobdeck.Flow, sentence: str
) -> None:
    with conn.changes_nothing(), pytest.raises(jobdeck.Refused, match=f"{sentence} Nothing was enqueued"):
        jobdeck.enqueue_flow(conn, flow)


def test_a_name_is_given_once_and_a_blocker_is_one_of_the_known_kinds() -> None:
    flow = jobdeck.Flow()
    flow.add("a", TYPE, ADA)
    with pytest.raises(jobdeck.Refused, match="Two members are named a"):
        flow.add("a", TYPE, ADA)
    with pytest.raises(jobdeck.Refused, match="cannot wait for a value of the class int"):
        flow.add("b", TYPE, ADA, after=[7])  # type: ignore[list-item]
    assert [member.name for member in flow.members] == ["a"]


@pytest.mark.parametrize(
    ("task_type", "payload", "wanted"),
    [
        ("made_by_nobody", {}, jobdeck.UnknownTaskType),
        (TYPE, {"to": "Ada"}, jobdeck.InvalidPayload),
        ("made_judged", {"toWhom": "nobody"}, jobdeck.InvalidPayload),
        (TYPE, {"toWhom": "\0"}, jobdeck.Refused),
    ],
)
def test_one_bad_member_refuses_all(
    conn: Connection, task_type: str, payload: dict[str, Any], wanted: type[jobdeck.Refused]
) -> None:
    flow = greetings()
    flow.add("bad", task_type, payload)
    with conn.changes_nothing(), pytest.raises(wanted) as told:
        jobdeck.enqueue_flow(conn, flow)
    assert type(told.value) is wanted


# Enqueued


def test_each_kind_of_connection_enqueues_it_in_its_transaction(app: Any, conn: Connection) -> None:
    if app.begins_by_itself:
        app.enqueue_flow(greetings())
        app.rollback()
        assert conn.value("SELECT count(*) FROM job_queue") == 0
        with app.transaction():
            ticket = app.enqueue_flow(greetings(), actor="shop")
    else:
        ticket = app.enqueue_flow(greetings(), actor="shop")
    assert {type(ticket.flow_id), *map(type, ticket.jobs.values())} == {UUID}
    found = conn.rows("SELECT m.name, m.flow_id, q.* FROM job_flow_members m JOIN job_queue q ON q.id = m.job_id")
    assert {row["name"]: row["id"] for row in found} == ticket.jobs
    assert {(row["flow_id"], row["created_by"]) for row in found} == {(ticket.flow_id, "shop (jobdeck)")}
    assert states(conn) == {"Ada": "pending", "Bob": "pending", "all": "blocked", "on end": "blocked"}


def test_each_kind_of_connection_gets_the_refusals_of_the_database(app: Any, conn: Connection) -> None:
    flow = greetings()
    flow.add("late", TYPE, ADA, after=uuid4())
    with pytest.raises(jobdeck.Refused, match=r"The member late waits for job .*, which is not in the queue") as told:
        app.enqueue_flow(flow)
    assert told.value.__cause__ is None
    if app.begins_by_itself:
        app.rollback()
    assert conn.value("SELECT count(*) FROM job_queue") == 0


def test_every_option_reaches_the_row(conn: Connection) -> None:
    moment = datetime.now(UTC) + timedelta(days=2)
    before = jobdeck.enqueue(conn, TYPE, ADA)
    flow = jobdeck.Flow("options")
    flow.add("a", TYPE, ADA, after=[before, before.job_id], needs="end", run_at=moment, priority=7, max_attempts=9,
             dedupe_key="d", concurrency_key="c")  # fmt: skip
    flow.add("b", TYPE, ADA)
    ids = jobdeck.enqueue_flow(conn, flow).jobs
    row, other = conn.job_row(ids["a"]), conn.job_row(ids["b"])
    assert (row["run_at"], row["priority"], row["max_attempts"]) == (moment, 7, 9)
    assert (row["dedupe_key"], row["concurrency_key"], row["blocked_by"]) == ("d", "c", before.job_id)
    assert (other["max_attempts"], other["concurrency_key"]) == (3, f"{TYPE}:Ada")


# Used by handlers


@pytest.fixture
def own_types() -> Iterator[None]:
    """Task types that a test registers are those of this test alone."""
    before = [*registry.registrations]
    yield
    registry.registrations[:] = before


@pytest.fixture
def import_jobs(own_types: None, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Iterator[ModuleType]:
    """The module of the page."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    yield run(example(""), "import_jobs")
    for name in ("import_jobs", "example"):
        sys.modules.pop(name, None)


def example(heading: str, language: str = "python") -> str:
    """The only example under a heading; that of the page itself is before the first heading."""
    part = PAGE.split(f"\n## {heading}\n")[1] if heading else PAGE
    found = re.findall(rf"```{language}\n(.*?)```", part.split("\n## ")[0], re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def run(code: str, name: str) -> ModuleType:
    """The module whose text this is, loaded under a name."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(code, f"docs/flows.md ({name})", "exec"), module.__dict__)  # noqa: S102 -- what is tested
    return module


def outputs(conn: Connection) -> dict[str, Any]:
    """What each member returned."""
    found = conn.rows("SELECT m.name, r.output FROM job_runs r JOIN job_flow_members m USING (job_id)")
    return {row["name"]: row["output"] for row in found}


@pytest.mark.usefixtures("import_jobs")
def test_the_page_enqueues_a_flow_whose_join_adds_up(conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    module = run(example("Enqueue one"), "example")
    assert capsys.readouterr().out == f"{module.ticket.flow_id} {module.ticket.jobs['merge']}\n"
    drain(conn)
    loads = {"load a.csv": {"rows": 5}, "load bb.csv": {"rows": 6}}
    assert outputs(conn) == {**loads, "merge": {"rows": 11}, "on end": {"failed": []}}


@pytest.mark.usefixtures("import_jobs")
def test_the_page_adds_members_while_the_flow_runs(conn: Connection) -> None:
    run(example("Add jobs while it runs"), "example")
    drain(conn)
    assert outputs(conn)["merge"] == {"rows": 14}


@pytest.mark.usefixtures("import_jobs")
def test_the_page_enqueues_a_flow_in_sql(conn: Connection) -> None:
    conn.execute(example("SQL, from any language", "sql").encode())
    drain(conn)
    assert outputs(conn)["merge"] == {"rows": 10}


@pytest.mark.usefixtures("import_jobs")
def test_the_page_undoes_the_steps_of_a_saga_in_reverse_order_and_the_flow_is_final(conn: Connection) -> None:
    module = run(example("Sagas"), "example")
    drain(conn)
    ran = conn.rows("SELECT name FROM job_runs JOIN job_flow_members USING (job_id) ORDER BY run_token")
    assert [row["name"] for row in ran] == ["take", "charge", "ship", "on failure", "undo charge", "undo take"]
    (answer,) = operator.retry(conn, [module.ticket.jobs["ship"]], actor="mara")
    assert not answer.ok
    assert answer.message.startswith('The failure callback "on failure" has run; its flow is final after that.')


@pytest.mark.usefixtures("own_types")
def test_a_handler_adds_members_in_its_own_transaction(conn: Connection, database_url: str) -> None:
    seen: list[str] = []

    @jobdeck.job("made_extending", payload=jobdeck.Payload)
    def work(params: jobdeck.Payload, ctx: jobdeck.JobContext) -> None:
        with Connection.connect(database_url) as own:
            own.execute("SET search_path = pg_catalog")  # as a connection whose tables are in another schema
            more = jobdeck.Flow()
            more.add("more", TYPE, ADA)
            jobdeck.extend_flow(ctx, more, own)
            seen.extend(states(conn))
            own.commit()

    flow = jobdeck.Flow()
    flow.add("first", "made_extending")
    jobdeck.enqueue_flow(conn, flow)
    drain(conn)
    assert seen == ["first"]
    assert states(conn) == {"first": "succeeded", "more": "succeeded"}


@pytest.mark.usefixtures("own_types")
def test_a_job_that_waited_for_none_gets_no_results(conn: Connection) -> None:
    got: list[Any] = []

    @jobdeck.job("made_asking", payload=jobdeck.Payload)
    def ask(params: jobdeck.Payload, ctx: jobdeck.JobContext) -> None:
        got.append(jobdeck.flow_results(ctx))

    jobdeck.enqueue(conn, "made_asking")
    drain(conn)
    assert got == [()]


def judged_by_mypy(flow: jobdeck.Flow, conn: Connection, add: Callable[..., Any]) -> None:
    """What a type checker accepts and what it refuses. It is never called."""
    flow.add("a", TYPE, after=["b", uuid4(), flow.add("c", TYPE), jobdeck.enqueue(conn, TYPE)], needs="end")
    flow.add("a", TYPE, needs="luck")  # type: ignore[call-overload]
    jobdeck.enqueue_flow("postgresql://", flow)  # type: ignore[arg-type]
