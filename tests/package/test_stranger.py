"""An engineer with an application of their own installs the queue beside it, and nothing of theirs changes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from jobdeck.core.schema import schema_text
from tests.package.application import SQL, Application
from tests.package.environments import Environment
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.terminal.pty_terminal import Terminal

pytestmark = pytest.mark.slow

JOBS = '''
"""The job types of the application, beside packages of its own that are called core and tui."""

import core
import tui
from jobdeck import Done, JobContext, Payload, job

assert core.OWNER == tui.OWNER == "the application"


class Letter(Payload):
    conversation: int
    body: str


@job("send_letter", label="Send a letter", payload=Letter, max_attempts=2, concurrency="type")
def send(params: Letter, ctx: JobContext) -> Done:
    ctx.log.info("sending a letter")
    ctx.db.execute("update public.messages set sent = true where conversation_id = %s", [params.conversation])
    return Done({"sent": 1})
'''
SAME = (("--help",), ("types", "--json"), ("types", "list"), ("status", "--help"))
"""Commands that say the same in each installation that has the same plugins."""
APPLICATION = """
import os

import psycopg

import core
import jobdeck
import letters

with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
    conn.execute("insert into messages (conversation_id, body) values (1, 'Welcome')")
    kept = jobdeck.enqueue(conn, "send_letter", letters.Letter(conversation=1, body="Welcome"))
    conn.commit()
    conn.execute("insert into messages (conversation_id, body) values (1, 'Never sent')")
    jobdeck.enqueue(conn, "send_letter", letters.Letter(conversation=1, body="Never sent"))
    conn.rollback()
print(kept.job_id)
"""


@dataclass(frozen=True)
class Stranger:
    """The application's folder, its database, and an environment with the wheel."""

    folder: Path
    url: str
    environment: Environment
    schema: str = "public"

    def settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url, "JOBDECK_SCHEMA": self.schema, "JOBDECK_HANDLERS": "letters",
            "PYTHONPATH": str(self.folder),
        }  # fmt: skip

    def jobdeck(self, *arguments: str) -> str:
        """Runs a command, which must succeed, and returns what it prints."""
        ran = self.environment.run(self.environment.jobdeck, *arguments, cwd=self.folder, **self.settings())
        assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr)
        return ran.stdout

    def enqueue(self) -> str:
        """Runs the application's own program, which enqueues one job for good, and returns the job's id."""
        ran = self.environment.run(self.environment.python, "application.py", cwd=self.folder, **self.settings())
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker that is stopped in order at the end."""
        with subprocess.Popen(
            [self.environment.jobdeck, "worker", "--concurrency", "2"], cwd=self.folder,
            env=self.environment.environ(self.settings()), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True,
        ) as process:  # fmt: skip
            try:
                yield
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=120)
            finally:
                process.kill()
        assert process.returncode == 0, said


@pytest.fixture
def admin(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(SQL.read_text(encoding="utf-8").encode())
        yield conn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The application's folder, with packages named like ours."""
    for name in ("core", "tui"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the application'\n", encoding="utf-8")
    (tmp_path / "letters.py").write_text(JOBS, encoding="utf-8")
    (tmp_path / "application.py").write_text(APPLICATION, encoding="utf-8")
    return tmp_path


def declared_tables() -> set[str]:
    """The tables that the queue's own SQL creates."""
    return set(re.findall(r"^create table (?:if not exists )?(\w+)", schema_text(), re.MULTILINE | re.IGNORECASE))


def tables(conn: Connection, application: Application) -> dict[str, set[str]]:
    """The tables of each schema that are neither Postgres' nor the application's."""
    found: dict[str, set[str]] = {}
    for schema, table in conn.execute(
        """
        SELECT relnamespace::regnamespace::text, relname FROM pg_class
        WHERE relkind IN ('r', 'p') AND NOT relispartition AND NOT oid = ANY (%s)
            AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        """,
        [list(application.relations)],
    ):
        found.setdefault(schema, set()).add(table)
    return found


def constraints(conn: Connection, schema: str) -> list[tuple[Any, ...]]:
    """Every constraint and index of a schema, without the schema's name."""
    return conn.execute(
        """
        SELECT conrelid::regclass::text, conname, replace(pg_get_constraintdef(oid), %(schema)s || '.', '')
        FROM pg_constraint WHERE connamespace = to_regnamespace(%(schema)s)
        UNION ALL
        SELECT tablename, indexname, replace(indexdef, %(schema)s || '.', '')
        FROM pg_indexes WHERE schemaname = %(schema)s
        ORDER BY 1, 2, 3
        """,
        {"schema": schema},
    ).fetchall()


def status_of(conn: Connection, schema: str, job_id: str) -> str | None:
    found = conn.execute(
        sql.SQL("SELECT outcome::text FROM {} WHERE job_id = %s").format(sql.Identifier(schema, "job_runs")), [job_id]
    ).fetchone()
    return found[0] if found else None


def work(stranger: Stranger, conn: Connection) -> None:
    """One job from the application's transaction to its run."""
    job_id = stranger.enqueue()
    assert conn.execute("SELECT body, sent FROM messages").fetchall() == [("Welcome", None)]
    with stranger.worker():
        until(lambda: status_of(conn, stranger.schema, job_id) == "succeeded")
    assert conn.execute("SELECT body, sent FROM messages").fetchall() == [("Welcome", True)]
    conn.execute("TRUNCATE messages")


def complaints(stranger: Stranger) -> list[str]:
    """What `doctor` warns of, beside the group roles, which an application of one account can do without."""
    findings = json.loads(stranger.jobdeck("doctor", "--json"))["findings"]
    return [found["evidence"] for found in findings if found["verdict"] != "ok" and found["signal"] != "roles"]


def test_the_queue_in_a_schema_of_its_own(
    slim: Environment, with_dashboard: Environment, admin: Connection, empty_database_url: str, folder: Path
) -> None:
    application = Application(admin)
    stranger = Stranger(folder, empty_database_url, slim, "jobs")
    stranger.jobdeck("init", "--schema", "jobs")
    assert tables(admin, application) == {"jobs": declared_tables()}
    application.assert_untouched()

    work(stranger, admin)
    assert complaints(stranger) == []
    application.assert_untouched()

    stranger.enqueue()
    admin.execute("TRUNCATE messages")
    environ = {**with_dashboard.environ(stranger.settings()), "TERM": "xterm-256color"}
    program = [str(with_dashboard.jobdeck)]
    with Terminal(program, environ=environ, cwd=folder, python=with_dashboard.python) as terminal:
        terminal.wait_for("send_letter")
        terminal.send("q")
        assert terminal.wait_for_end() == 0
    application.assert_untouched()


def test_the_queue_in_public_beside_a_function_whose_name_begins_like_its_own(
    slim: Environment, admin: Connection, empty_database_url: str, folder: Path
) -> None:
    admin.execute("DROP ROLE IF EXISTS board_reader")
    admin.execute("CREATE ROLE board_reader")
    admin.execute("GRANT SELECT ON teams TO board_reader")
    application = Application(admin)
    stranger = Stranger(folder, empty_database_url, slim)
    stranger.jobdeck("init")
    stranger.jobdeck("init", "--roles", "--roles-prefix", "stranger_")
    application.assert_untouched()
    assert tables(admin, application) == {"public": declared_tables()}
    with admin.transaction():
        admin.execute("SET LOCAL ROLE board_reader")
        assert admin.execute("SELECT name FROM job_board_search('nor')").fetchall() == [("North",)]
    work(stranger, admin)
    assert json.loads(stranger.jobdeck("doctor", "--json"))["verdict"] == "ok"
    application.assert_untouched()
    admin.execute("DROP OWNED BY board_reader")
    admin.execute("DROP ROLE board_reader")


@pytest.mark.parametrize("schema", ["jobs", "public"])
def test_an_application_that_adds_the_vendors_libraries_for_itself_gets_nothing_of_the_competition(
    slim: Environment,
    beside_vendors: Environment,
    admin: Connection,
    empty_database_url: str,
    folder: Path,
    schema: str,
) -> None:
    found = beside_vendors.run(beside_vendors.python, "-c", "import httpx, jinja2, markdown_it, sendgrid, twilio")
    assert found.returncode == 0, found.stderr
    application = Application(admin)
    before, after = (Stranger(folder, empty_database_url, one, schema) for one in (slim, beside_vendors))
    before.jobdeck("init", "--schema", schema)
    # Before a job has run: some figures are those of the last minute.
    said = [before.jobdeck(*command) for command in SAME]
    assert [after.jobdeck(*command) for command in SAME] == said
    work(before, admin)
    after.jobdeck("init", "--schema", schema)
    work(after, admin)
    assert complaints(after) == complaints(before) == []
    assert tables(admin, application) == {schema: declared_tables()}
    application.assert_untouched()

    environ = {**after.environment.environ(after.settings()), "TERM": "xterm-256color"}
    with Terminal([str(beside_vendors.jobdeck)], environ=environ, cwd=folder, python=beside_vendors.python) as terminal:
        terminal.wait_for("The queue is empty.")
        assert "Quick Sync" not in terminal.text
        terminal.send("q")
        assert terminal.wait_for_end() == 0


def test_two_queues_in_two_schemas_of_one_database(
    slim: Environment, admin: Connection, empty_database_url: str, folder: Path
) -> None:
    application = Application(admin)
    first = Stranger(folder, empty_database_url, slim, "jobs")
    second = Stranger(folder, empty_database_url, slim, "mail")
    for stranger in (first, second, first):
        stranger.jobdeck("init", "--schema", stranger.schema)
    assert tables(admin, application) == {"jobs": declared_tables(), "mail": declared_tables()}
    found = constraints(admin, "jobs")
    assert found
    assert [row[1:] for row in constraints(admin, "mail")] == [row[1:] for row in found]

    waiting = second.enqueue()
    admin.execute("TRUNCATE messages")
    work(first, admin)
    assert complaints(first) == complaints(second) == []
    assert status_of(admin, "mail", waiting) is None
    assert admin.execute("SELECT id::text, status::text FROM mail.job_queue").fetchall() == [(waiting, "pending")]
    application.assert_untouched()
