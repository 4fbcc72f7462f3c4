"""The examples of docs/enqueueing.md run as they are printed, and its table of versions is true."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from django.test import RequestFactory

from jobdeck.core import registry
from jobdeck.testing import drain
from tests.core.cli.support import ROOT
from tests.support.producers import django_settings_for
from tests.support.queue import Connection
from tests.support.waiting import beside, until

PAGE = (ROOT / "docs" / "enqueueing.md").read_text(encoding="utf-8")
TYPE = "send_invoice"


def example(heading: str, language: str = "python") -> str:
    """The only example under a heading; that of the page itself is before the first heading."""
    part = PAGE.split(f"\n## {heading}\n")[1] if heading else PAGE
    found = re.findall(rf"```{language}\n(.*?)```", part.split("\n## ")[0], re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def run(code: str, name: str) -> ModuleType:
    """The module whose text this is, loaded under a name."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(code, f"docs/enqueueing.md ({name})", "exec"), module.__dict__)  # noqa: S102 -- what is tested
    return module


@pytest.fixture(autouse=True)
def _application(conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application with its table and the module of its job type, in the environment that the examples expect."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    before = [*registry.registrations], [*registry.declarations]
    conn.execute("CREATE TABLE customers (id integer PRIMARY KEY)")
    run(example(""), "billing")
    yield
    registry.registrations[:], registry.declarations[:] = before
    for name in ("billing", "billing_jobs", "example"):
        sys.modules.pop(name, None)


def enqueued(conn: Connection) -> list[int]:
    assert conn.value("SELECT array_agg(id) FROM customers") == [7]
    found = conn.rows("SELECT task_type, payload, max_attempts FROM job_queue ORDER BY id")
    assert {(row["task_type"], row["max_attempts"] in {3, 5}) for row in found} == {(TYPE, True)}
    return [row["payload"]["customerId"] for row in found]


@pytest.mark.parametrize("heading", ["psycopg", "psycopg, async", "asyncpg", "SQLAlchemy", "SQLAlchemy, async"])
def test_each_example_stores_its_row_and_enqueues_three_jobs(conn: Connection, heading: str) -> None:
    run(example(heading), "example")
    assert enqueued(conn) == [7, 8, 9]


def test_a_worker_runs_the_handler_of_a_job_that_the_light_module_enqueued(conn: Connection) -> None:
    run(example("psycopg"), "example")
    run(example("The handler"), "billing_jobs")
    assert [one.outcome for one in drain(conn)] == ["succeeded"] * 3


@pytest.mark.slow
def test_the_route_of_fastapi_enqueues_with_the_row(conn: Connection) -> None:
    module = run(example("FastAPI"), "example")

    async def call() -> Any:
        transport = httpx.ASGITransport(app=module.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/customers/7")
        await module.engine.dispose()
        return answer.json()

    answer = asyncio.run(call())
    assert enqueued(conn) == [7]
    assert answer == {"job": str(conn.value("SELECT id FROM job_queue"))}


def test_the_view_of_django_enqueues_with_the_row(conn: Connection, database_url: str) -> None:
    django_settings_for(database_url)
    module = run(example("Django"), "example")
    try:
        answer = module.sign_up(RequestFactory().post("/customers/7"), 7)
    finally:
        module.connection.close()
    assert enqueued(conn) == [7]
    assert json.loads(answer.content) == {"job": str(conn.value("SELECT id FROM job_queue"))}


def test_the_functions_for_other_languages_take_what_the_page_says(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as other:
        other.execute(example("SQL, from any language", "sql").encode())
    assert enqueued(conn) == [7, 8, 9]
    for function, names in (("job_queue_create", _listed(0)), ("job_queue_create_many", _listed(2))):
        declared = conn.value("SELECT pg_get_function_arguments(oid) FROM pg_proc WHERE proname = %s", function)
        given = [argument for argument in declared.split(", ") if not argument.startswith("OUT ")]
        arguments = [argument.partition(" DEFAULT ")[0] for argument in given]
        assert [re.sub("timestamp with time zone", "timestamptz", argument) for argument in arguments] == names


def test_recurring_jobs_are_enqueued_as_the_page_says(conn: Connection, database_url: str) -> None:
    run(example("Recurring jobs"), "example")
    with Connection.connect(database_url, autocommit=True) as other:
        other.execute(example("Recurring jobs", "sql").encode())
    weekdays = {"cron": "0 9 * * 1-5", "zone": "America/New_York", "catch_up": "none"}
    found = conn.rows("SELECT schedule, payload, cardinality(slots) AS slots FROM job_queue ORDER BY id")
    assert [(row["schedule"], row["payload"]["customerId"], row["slots"]) for row in found] == [
        (weekdays, 7, 20), ({"seconds": 30}, 8, None), (weekdays, 7, 0),
    ]  # fmt: skip


def _listed(column: int) -> list[str]:
    """The arguments in a column of the page's table."""
    lines = PAGE.split("| `job_queue_create`, in this order")[1].split("\n\n")[0].splitlines()
    cells = [line.strip("|").split("|")[column] for line in lines[2:]]
    return [found[1] for cell in cells if (found := re.match(r" `(p_[^`]+)`", cell))]


def test_the_result_is_waited_for(conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        until(lambda: conn.value("SELECT count(*) FROM job_queue") == 1, "the job")
        (claimed,) = conn.claim([TYPE])
        conn.finish_one(claimed, "succeeded", output={"sentTo": 7})

    with beside(work):
        run(example("Wait for the result"), "example")
    assert capsys.readouterr().out == "succeeded {'sentTo': 7} None\n"


def test_the_page_names_the_lowest_version_of_each_library_and_the_one_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    ranges = [*project["dependency-groups"]["producers"], *project["project"]["dependencies"]]
    lowest = {re.split(r"[\[>]", line)[0]: re.findall(r">=([0-9.]+)", line)[0] for line in ranges}
    stated = dict(re.findall(r"\| (psycopg|asyncpg|SQLAlchemy|Django) ([0-9.]+) \|", PAGE))
    tested = dict(re.findall(r"\| (psycopg|asyncpg|SQLAlchemy|Django) [0-9.]+ \| ([0-9.]+) \|", PAGE))
    assert len(stated) == 4
    for name, version in stated.items():
        assert version == lowest[name.lower()], name
        assert tested[name] in {one["version"] for one in locked if one["name"] == name.lower()}, name
