"""A database whose own defaults are unusual: how it writes times, how transactions are isolated, which zone it has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import jobdeck
from jobdeck.core import registry
from tests.core.cli import support
from tests.core.cli.support import Jobdeck
from tests.support.pooler import lying_relay
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

UNUSUAL = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "default_transaction_isolation": "serializable",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "default_transaction_deferrable": "on",
}


@pytest.fixture
def unusual(conn: Connection) -> str:
    """The name of the test's database; its defaults are unusual for each session that begins from now on."""
    for name, value in UNUSUAL.items():
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(sql.Identifier(conn.info.dbname), sql.SQL(name), value)
        )
    return conn.info.dbname


@pytest.fixture
def jobdeck_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Jobdeck]:
    def at(url: str) -> Jobdeck:
        support.environment(monkeypatch, tmp_path, url)
        return support.runner(capsys)

    return at


@pytest.mark.slow
@pytest.mark.usefixtures("unusual")
def test_commands_and_a_worker_do_what_they_do_everywhere(
    jobdeck_at: Callable[[str], Jobdeck], database_url: str
) -> None:
    run = jobdeck_at(database_url)
    series = run("enqueue", "cli_echo", "--payload", '{"message": "x"}', "--every", "60m", "--json").data["id"]
    once = run("enqueue", "cli_echo", "--payload", '{"message": "y"}', "--at", "2099-02-01T03:04:05Z", "--json")
    waiting = once.data["id"]
    assert run("worker", "--drain").code == 0
    (shown,) = (job for job in run("jobs", "--json").data["jobs"] if job["id"] == waiting)
    assert shown["run_at"].startswith("2099-02-01T03:04:05")
    for command in ("status", "health", "doctor", "series", "runs", "types", "trends", "audit", "digest", "errors"):
        told = run(command, "--json")
        assert told.code in {0, 4}, (command, told.err)
    assert run("why", waiting).code == 0
    for words in (("edit", waiting, "--priority", "5"), ("cancel", waiting), ("retry", waiting), ("pause",)):
        told = run(*words)
        assert told.code == 0, (words, told.err)
    (run,) = run("runs", "--json").data["runs"]
    assert (run["job_id"], run["outcome"]) == (series, "succeeded")


@pytest.mark.usefixtures("unusual")
def test_an_application_enqueues_with_its_own_connection(database_url: str) -> None:
    registry.load(["tests.core.cli.handlers"])
    with Connection.connect(database_url) as own:
        jobdeck.enqueue(
            own, "cli_echo", {"message": "x"}, run_at=datetime.now(UTC) + timedelta(days=1), every_minutes=60
        )
        jobdeck.enqueue_many(own, "cli_echo", [{"message": "y"}, {"message": "z"}])
    with Connection.connect(database_url, options="-c DateStyle=ISO") as own:
        found = own.execute("SELECT extract(epoch FROM run_at - now()) > 86000, count(*) FROM job_queue GROUP BY 1")
        assert found.fetchall() == [(False, 2), (True, 1)]


def test_behind_a_pooler_that_takes_no_options_the_defaults_are_refused_with_the_remedy(
    jobdeck_at: Callable[[str], Jobdeck],
    conn: Connection,
    unusual: str,
    postgres: PostgresServer,
    socket_folder: Path,
    database_url: str,
) -> None:
    with lying_relay(postgres, socket_folder, takes_options=False):
        run = jobdeck_at(psycopg.conninfo.make_conninfo(database_url, host=str(socket_folder)))
        for name, value in (("DateStyle", "ISO"), ("IntervalStyle", "postgres"),
                            ("default_transaction_isolation", "read committed")):  # fmt: skip
            remedy = f"ALTER ROLE jobdeck IN DATABASE {unusual} SET {name} = '{value}'"
            run("status").refused(1, "does not accept settings", remedy)
            conn.execute(f"ALTER DATABASE {unusual} SET {name} = '{value}'")  # as the role's own would do
        assert run("status").code == 0
