"""The public API: what `jobdeck` exports, what importing it costs, and how it enqueues."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import jobdeck
from jobdeck.core.registry import Admission
from tests.package import pages, reference
from tests.package.environments import ROOT, Environment
from tests.support.queue import Connection

HEAVY = {"psycopg", "pydantic", "click", "textual", "rich", "starlette", "uvicorn", "httpx", "sentry_sdk", "jinja2",
         "mcp", "opentelemetry", "aiohttp", "textual_serve"}  # fmt: skip


class Greeting(jobdeck.Payload):
    to_whom: str
    times: int = 1


@jobdeck.job("api_greet", payload=Greeting, max_attempts=3, concurrency="type")
def greet(params: Greeting, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return jobdeck.Done({"said": params.to_whom * params.times})


def judge(params: Any, admission: Admission) -> Mapping[str, str]:
    return {"toWhom": "is nobody"} if params.to_whom == "nobody" else {}


@jobdeck.job("api_judged", payload=Greeting, admit=judge)
def judged(params: Greeting, ctx: jobdeck.JobContext) -> None: ...


@pytest.fixture
def own(database_url: str) -> Any:
    """A connection as an application has it: without autocommit."""
    with Connection.connect(database_url) as connection:
        yield connection


def test_importing_it_loads_nothing_else() -> None:
    code = "import json, sys; import jobdeck; print(json.dumps(list(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(ran.stdout))
    assert not loaded & HEAVY
    assert [name for name in loaded if name.startswith("jobdeck.")] == []


@pytest.mark.slow
def test_an_enqueue_loads_nothing_of_the_pool_and_the_worker(database_url: str) -> None:
    code = (
        "import json, sys, psycopg, jobdeck\n"
        "class Mail(jobdeck.Payload): ...\n"
        "@jobdeck.job('mail')\n"
        "def mail(params: Mail, ctx: jobdeck.JobContext) -> None: ...\n"
        "with psycopg.connect(sys.argv[1]) as conn: jobdeck.enqueue(conn, 'mail', {})\n"
        "print(json.dumps(list(sys.modules)))"
    )
    command = [sys.executable, "-c", code, database_url]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in json.loads(ran.stdout) if name.startswith("jobdeck.core.")}
    rooms = {".".join(name.split(".")[2:4]) for name in loaded}
    assert not rooms & {"postgres.database", "postgres.pool", "postgres.listener", "postgres.lent"}
    assert not {room.split(".")[0] for room in rooms} & {"worker", "read", "cli", "http", "alerts"}


def test_every_name_is_there_and_documented() -> None:
    assert {name: getattr(jobdeck, name) for name in jobdeck.__all__}
    assert set(jobdeck.__all__) <= set(dir(jobdeck))
    with pytest.raises(AttributeError, match="no attribute 'enqeue'"):
        jobdeck.enqeue  # type: ignore[attr-defined]  # noqa: B018


def test_the_reference_has_every_name() -> None:
    assert set(jobdeck.__all__) - reference.names() == {"__version__"}


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_that_is_made_from_the_code_is_as_the_code_says(name: str) -> None:
    assert (pages.ROOT / name).read_text(encoding="utf-8") == pages.PAGES[name](), "python -m tests.package.pages"


def test_the_reference_shows_the_limits_of_a_type_among_its_options() -> None:
    for entry in ("job", "task"):
        shown = reference.page().split(f"### {entry}\n")[1].split("```")[1]
        for option in ("max_running: int | None = None", "rate: str | None = None", "queue: str | None = None"):
            assert f"    {option},\n" in shown


def test_the_version_is_that_of_the_package() -> None:
    assert f'version = "{jobdeck.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_queue_without_extras_requires_six_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[\[<>= ]", line)[0] for line in project["dependencies"]}
    assert required == {"click", "cronsim", "psycopg", "pydantic", "pydantic-settings", "tzdata"}


def test_a_job_joins_the_callers_transaction(own: Connection, conn: Connection) -> None:
    ticket = jobdeck.enqueue(own, "api_greet", Greeting(to_whom="Ada"))
    assert not conn.is_queued(ticket.job_id)
    own.rollback()
    assert not own.is_queued(ticket.job_id)
    ticket = jobdeck.enqueue(own, "api_greet", {"toWhom": "Ada"})
    own.commit()
    row = conn.job_row(ticket.job_id)
    assert (row["payload"], row["max_attempts"], row["concurrency_key"]) == ({"toWhom": "Ada"}, 3, "api_greet")


def test_many_jobs_join_the_callers_transaction_too(own: Connection, conn: Connection) -> None:
    greetings = [Greeting(to_whom="Ada", times=times) for times in range(3)]
    assert len(jobdeck.enqueue_many(own, "api_greet", greetings)) == 3
    own.rollback()
    assert conn.value("SELECT count(*) FROM job_queue") == 0
    ids = jobdeck.enqueue_many(own, "api_greet", greetings, priority=7, max_attempts=2)
    own.commit()
    rows = [conn.job_row(job_id) for job_id in ids]
    assert [(row["payload"]["times"], row["priority"], row["max_attempts"]) for row in rows] == [
        (times, 7, 2) for times in range(3)
    ]


def test_the_options_reach_the_row(conn: Connection) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    first = jobdeck.enqueue(conn, "api_greet", {"toWhom": "Ada"}, run_at=tomorrow, dedupe_key="greeting 7", priority=3)
    again = jobdeck.enqueue(conn, "api_greet", {"toWhom": "Ada"}, dedupe_key="greeting 7")
    assert (first.created, again.created, again.job_id) == (True, False, first.job_id)
    series = jobdeck.enqueue(
        conn, "api_greet", {"toWhom": "Ada"}, every_minutes=15, concurrency_key="ada", actor="billing"
    )
    row = conn.job_row(series.job_id)
    assert (row["recurrence_interval_minutes"], row["concurrency_key"]) == (15, "ada")
    assert conn.job_row(first.job_id)["run_at"] == tomorrow


def test_what_does_not_fit_is_refused_before_anything_is_written(conn: Connection) -> None:
    with pytest.raises(jobdeck.UnknownTaskType, match=r'task type "api_gret"; did you mean "api_greet"[?] Import'):
        jobdeck.enqueue(conn, "api_gret")
    with pytest.raises(jobdeck.InvalidPayload) as refused:
        jobdeck.enqueue(conn, "api_greet", {"to": "Ada"})
    assert set(refused.value.problems) == {"to", "toWhom"}
    with pytest.raises(jobdeck.InvalidPayload, match="nobody"):
        jobdeck.enqueue_many(conn, "api_judged", [{"toWhom": "Ada"}, {"toWhom": "nobody"}])
    assert conn.value("SELECT count(*) FROM job_queue") == 0


@pytest.mark.slow
def test_commands_need_no_extra(slim: Environment) -> None:
    for command in ("--help", "--version", "types", "serve --help", "worker --help"):
        ran = slim.run(slim.jobdeck, *command.split())
        assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_missing_extra_is_named(slim: Environment) -> None:
    served = slim.run(slim.jobdeck, "serve", DATABASE_URL="postgresql://localhost:1/x")
    assert served.stderr == ("jobdeck: The HTTP server is not installed. Install it: pip install 'jobdeck[server]'.\n")
    for command, part, extra in (
        ("web", "The dashboard in a browser", "web"), ("mcp", "The server for assistants", "mcp"),
        ("worker --metrics 127.0.0.1:0", "The server of a worker's metrics", "server"),
    ):  # fmt: skip
        refused = slim.run(slim.jobdeck, *command.split(), DATABASE_URL="postgresql://localhost:1/x")
        assert refused.stderr == f"jobdeck: {part} is not installed. Install it: pip install 'jobdeck[{extra}]'.\n"
        assert refused.returncode == 1
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [slim.jobdeck], stdin=theirs, stdout=theirs, stderr=theirs, cwd=slim.folder,
        env=slim.environ({"TERM": "xterm", "DATABASE_URL": "postgresql://localhost:1/x"}),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = os.read(ours, 4096).decode()
        assert process.wait(timeout=120) == 1
    os.close(ours)
    assert shown.strip() == "jobdeck: The dashboard is not installed. Install it: pip install 'jobdeck[dashboard]'."
    alerts = slim.run(
        slim.python, "-c",
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "import jobdeck; from jobdeck.core.alerts.sentry import Alerts\n"
        "assert not Alerts(jobdeck.load_settings()).on",
        SENTRY_DSN="https://key@localhost/1",
    )  # fmt: skip
    assert alerts.returncode == 0, alerts.stderr
    assert "pip install 'jobdeck[sentry]'" in alerts.stderr
