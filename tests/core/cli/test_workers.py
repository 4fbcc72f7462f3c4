"""`worker` and `run-worker`, as a person or a supervisor runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

import jobdeck as jobdeck_package
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.binaries import server_account
from jobdeck.core.queue import operator, producer
from jobdeck.core.read.jobs import permissions
from jobdeck.core.read.report_types import Permissions
from tests.core.cli.support import ROOT, Jobdeck, enqueued, finish, ran_alone, started
from tests.support.postgres import PostgresServer, scratch_folder
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import worker_process


def test_run_worker_runs_up_to_the_limit_and_counts_what_became_of_them(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = {str(enqueued(conn)), str(enqueued(conn)), str(enqueued(conn, "cli_refuse"))}
    left = enqueued(conn)
    result = jobdeck("run-worker", "--limit", "3", "--json").data
    assert result.keys() == {"status", "processed", "succeeded", "failed", "message", "results"}
    assert (result["status"], result["processed"], result["succeeded"], result["failed"]) == ("ok", 3, 2, 1)
    assert {found["id"] for found in result["results"]} == ids
    rows = conn.execute("SELECT id, status FROM job_queue WHERE status <> 'failed'").fetchall()
    assert rows == [(left, "pending")]
    [trigger] = conn.execute("SELECT source, processed, succeeded, failed FROM job_worker_runs").fetchall()
    assert trigger == ("cli", 3, 2, 1)


@pytest.mark.parametrize("command", ["worker", "worker --drain", "run-worker", "serve --port 0"])
def test_what_runs_jobs_starts_no_postgres_of_its_own_without_being_asked(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    ran = jobdeck(*command.split())
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.rstrip().splitlines()[-1].startswith("jobdeck: No database is named")
    assert not (tmp_path / "state" / "data").exists()


def test_a_program_of_its_own_opens_no_postgres_of_its_own_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(tmp_path))
    settings = jobdeck_package.load_settings()
    with (
        pytest.raises(jobdeck_package.ConfigurationError, match="Set DATABASE_URL"),
        jobdeck_package.open_database(settings, application_name="test"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_is_told_to_runs_the_jobs_of_the_embedded_database(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scratch_folder(server_account())
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(folder / "state"))
    try:
        assert jobdeck("enqueue", "cli_echo").code == 0
        assert jobdeck("worker", "--drain", "--embedded", "--json").data["succeeded"] == 1
        assert jobdeck("run-worker", "--embedded", "--json").data["status"] == "ok"
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_cycle_whose_job_failed_does_not_call_itself_ok(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, "cli_refuse")
    answer = jobdeck("run-worker")
    assert answer.code == 0
    assert answer.out.startswith("Cycle ended: processed 1: 0 succeeded, 1 failed.")
    assert "ok" not in answer.out.splitlines()[0]


@pytest.mark.slow
def test_a_worker_waits_for_a_database_that_is_away_at_its_start(
    database_url: str, conn: Connection, postgres: PostgresServer, tmp_path: Path
) -> None:
    folder = tmp_path / "socket"
    folder.mkdir()
    job = enqueued(conn)
    log = tmp_path / "worker.log"
    url = make_conninfo(database_url, host=str(folder))
    with worker_process(url, tmp_path, JOBDECK_HANDLERS="tests.core.cli.handlers") as process:
        until(lambda: b"waits for its database" in log.read_bytes(), log.read_text)
        (folder / ".s.PGSQL.5432").symlink_to(postgres.folder / ".s.PGSQL.5432")
        until(lambda: conn.execute("SELECT FROM job_runs WHERE job_id = %s", (job,)).rowcount, "the run")
        process.terminate()
        assert process.wait(timeout=PATIENCE) == 0


@pytest.mark.slow
def test_a_worker_whose_connection_is_lost_during_its_start_tries_again(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued(conn)
    starts: list[None] = []

    def lost(own: Connection) -> Permissions:
        starts.append(None)
        if len(starts) == 1:
            own.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        os.kill(os.getpid(), signal.SIGTERM)
        return permissions().run(conn)

    monkeypatch.setattr("jobdeck.core.cli.commands.run.workers.permissions", lambda: SimpleNamespace(run=lost))
    assert jobdeck("worker").code == 0
    assert len(starts) == 2


@pytest.mark.slow
def test_a_worker_that_waits_for_its_database_ends_at_a_signal(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker_process(f"host={tmp_path} dbname=x", tmp_path) as process:
        until(lambda: b"waits for its database" in log.read_bytes(), log.read_text)
        process.terminate()
        assert process.wait(timeout=PATIENCE) == 0


def test_run_worker_runs_nothing_while_paused_and_says_why(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn)
    operator.pause(conn, reason="lunch", actor="someone")
    result = jobdeck("run-worker", "--json").data
    assert (result["status"], result["processed"]) == ("paused", 0)
    assert "lunch" in result["message"]


@pytest.mark.parametrize(("reason", "told"), [("vendor down", "vendor down"), (None, "no reason given")])
def test_run_worker_says_that_nothing_ran_while_paused_and_how_to_resume(
    jobdeck: Jobdeck, conn: Connection, reason: str | None, told: str
) -> None:
    enqueued(conn)
    operator.pause(conn, reason=reason, actor="someone")
    out = jobdeck("run-worker").out
    assert f"Nothing ran: processing is paused ({told}). `jobdeck resume` resumes it." in out
    assert "processed 0" not in out


def test_a_dry_run_names_the_jobs_a_cycle_would_take(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    with conn.changes_nothing():
        result = jobdeck("run-worker", "--dry-run", "--json").data
        assert [found["id"] for found in result["results"]] == [str(job)]


@pytest.mark.parametrize("limit", ["0", "11", "-1", "many"])
def test_a_limit_that_is_none_is_refused(jobdeck: Jobdeck, limit: str) -> None:
    jobdeck("run-worker", "--limit", limit).refused(2, "--limit")


@pytest.mark.slow
def test_a_dry_run_says_what_a_worker_would_start_here_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    for _ in range(3):
        enqueued(conn)
    operator.set_type(conn, "cli_echo", changes={"max_running": 2}, actor="mara", reason=None)
    with conn.changes_nothing():
        answer = jobdeck("worker", "--drain", "--concurrency", "8", "--dry-run")
    assert answer.out == "3 jobs start, at most 2 at once.\n"
    operator.pause(conn, reason=None, actor="mara")
    paused = jobdeck("worker", "--types", "cli_echo", "--dry-run").out
    assert "Processing is paused, so they would wait until `jobdeck resume`." in paused


def test_a_draining_worker_ends_when_nothing_is_due(jobdeck: Jobdeck, conn: Connection) -> None:
    for _ in range(20):
        enqueued(conn)
    future = producer.enqueue(conn, NewJob("cli_echo", priority=1, run_at=_tomorrow(conn)), actor="test").job_id
    done = jobdeck("worker", "--drain", "--concurrency", "2", "--json").data
    assert (done["claimed"], done["succeeded"], done["failed"]) == (20, 20, 0)
    assert conn.execute("SELECT id FROM job_queue").fetchall() == [(future,)]
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


@pytest.mark.slow
def test_a_draining_worker_waits_for_jobs_that_a_rate_holds_back(jobdeck: Jobdeck, conn: Connection) -> None:
    operator.set_type(conn, "cli_echo", changes={"rate_runs": 4, "rate_seconds": 1}, actor="test", reason=None)
    for _ in range(9):
        enqueued(conn)
    ran = jobdeck("worker", "--drain", "--json")
    assert (ran.code, ran.data["claimed"], ran.data["due"]) == (0, 9, 0)


@pytest.mark.parametrize(("limit", "told"), [("5", True), ("1", False)])
def test_a_cycle_that_finds_no_more_to_run_says_how_many_due_jobs_it_left(
    jobdeck: Jobdeck, conn: Connection, limit: str, told: bool
) -> None:
    enqueued(conn)
    enqueued(conn, "cli_refuse")
    operator.pause(conn, reason="quota", actor="test", task_type="cli_refuse")
    ran = jobdeck("run-worker", "--limit", limit)
    assert ran.code == 0
    assert ("1 due job of these types cannot be run now. " in ran.err) == told


@pytest.mark.parametrize("limits", [{}, {"rate_runs": 4, "rate_seconds": 1}, {"max_running": 2}])
def test_a_draining_worker_says_how_many_due_jobs_it_left(
    jobdeck: Jobdeck, conn: Connection, limits: dict[str, Any]
) -> None:
    if limits:
        operator.set_type(conn, "cli_echo", changes=limits, actor="test", reason=None)
    for _ in range(3):
        enqueued(conn)
    enqueued(conn, "cli_refuse")
    operator.pause(conn, reason="quota", actor="test", task_type="cli_echo")
    ran = jobdeck("worker", "--drain", "--types", "cli_echo", "--json")
    assert (ran.code, ran.data["claimed"], ran.data["due"]) == (5, 0, 3)
    assert "3 due jobs of these types cannot be run now." in ran.err
    assert "jobdeck why ID" in ran.err


@pytest.mark.slow
def test_a_worker_takes_only_the_types_it_is_told(jobdeck: Jobdeck, conn: Connection) -> None:
    other = enqueued(conn, "cli_refuse")
    enqueued(conn)
    assert jobdeck("worker", "--drain", "--types", "cli_echo").code == 0
    assert conn.execute("SELECT id, status FROM job_queue").fetchall() == [(other, "pending")]
    jobdeck("worker", "--drain", "--types", "cli_ecco").refused(1, "cli_ecco")
    jobdeck("worker", "--drain", "--types", ",").refused(2, "--types")


@pytest.mark.slow
def test_a_worker_takes_only_the_types_of_its_queues_and_counts_those_alone(jobdeck: Jobdeck, conn: Connection) -> None:
    other = enqueued(conn, "cli_refuse")
    enqueued(conn)
    operator.set_type(conn, "cli_refuse", changes={"queue": "bulk"}, actor="test", reason=None)
    assert "1 job starts" in jobdeck("worker", "--queues", "default", "--dry-run").out
    ran = jobdeck("worker", "--drain", "--queues", "mail, default", "--json")
    assert (ran.code, ran.data["claimed"], ran.data["due"]) == (0, 1, 0)
    assert conn.execute("SELECT id, status FROM job_queue").fetchall() == [(other, "pending")]
    jobdeck("worker", "--drain", "--queues", ",").refused(2, "--queues names no queue. Separate several with commas.")


@contextmanager
def standing(conn: Connection, command: str = "worker", **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A worker as a process of its own whose only job has begun."""
    enqueued(conn, "cli_wait")
    with Connection.connect(conn.info.dsn, autocommit=True) as listening:
        listening.execute("LISTEN cli_wait")
        with started(command, "--json", **changes) as process:
            while not list(listening.notifies(timeout=0.1, stop_after=1)):
                assert process.poll() is None
            yield process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGHUP, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_hands_running_jobs_back_and_keeps_their_attempt(
    jobdeck: Jobdeck, conn: Connection, number: int, code: int
) -> None:
    with standing(conn, JOBDECK_DRAIN_SECONDS="0.2") as process:
        process.send_signal(number)
        ran = finish(process)
    assert ran.code == code
    assert '"claimed": 1' in ran.out
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchall() == [("pending", 0)]
    assert conn.execute("SELECT outcome FROM job_runs").fetchall() == [("released",)]
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_running_jobs(jobdeck: Jobdeck, conn: Connection) -> None:
    with standing(conn, JOBDECK_DRAIN_SECONDS="3600") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "draining" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 0
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchall() == [("pending", 0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_cycle_that_is_interrupted_hands_its_job_back(jobdeck: Jobdeck, conn: Connection, number: int) -> None:
    with standing(conn, "run-worker") as process:
        process.send_signal(number)
        ran = finish(process)
    assert (ran.code, ran.out) == (130, "")
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchall() == [("pending", 0)]
    assert conn.execute("SELECT status FROM job_worker_runs").fetchall() == [("error",)]
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


@pytest.mark.slow
def test_a_worker_logs_to_stderr_and_keeps_stdout_for_data(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn)
    ran = ran_alone("worker", "--drain", "--json", JOBDECK_LOG_FORMAT="json")
    assert ran.data["succeeded"] == 1
    assert '"run succeeded"' in ran.err


@pytest.mark.slow
@pytest.mark.usefixtures("jobdeck")
def test_a_worker_logs_from_the_level_on_that_is_set(conn: Connection) -> None:
    enqueued(conn)
    enqueued(conn, "cli_refuse")
    ran = ran_alone("worker", "--drain", JOBDECK_LOG_FORMAT="json", JOBDECK_LOG_LEVEL="error")
    assert [(line["level"], line["message"]) for line in map(json.loads, ran.err.splitlines())] == [
        ("error", "run failed")
    ]


def test_a_level_that_is_none_is_refused(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_LOG_LEVEL", "loud")
    jobdeck("worker", "--drain").refused(1, "JOBDECK_LOG_LEVEL", "'debug', 'info', 'warning' or 'error'")


class TestMetrics:
    @pytest.mark.slow
    @pytest.mark.usefixtures("jobdeck")
    def test_a_worker_offers_them_until_it_has_ended(self, conn: Connection) -> None:
        settings = {"JOBDECK_LOG_FORMAT": "json", "JOBDECK_WORKER_METRICS_ADDRESS": "127.0.0.1:1"}
        with started("worker", "--metrics", "127.0.0.1:0", "--json", **settings) as process:
            assert process.stderr is not None
            told: dict[str, Any] = {}
            while told.get("message") != "metrics of this worker":
                told = json.loads(process.stderr.readline())
            url = f"http://{told['host']}:{told['port']}/metrics"
            enqueued(conn)

            def text() -> str:
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    return str(answer.read().decode())

            until(lambda: 'jobdeck_worker_runs_total{outcome="succeeded",task_type="cli_echo"} 1.0' in text(), text)
            process.send_signal(signal.SIGTERM)
            ran = finish(process)
        assert (ran.code, ran.data["succeeded"]) == (0, 1)
        with pytest.raises(urllib.error.URLError):
            text()

    @pytest.mark.parametrize("address", ["9465", "127.0.0.1:", ":9465", "127.0.0.1:65536", "127.0.0.1:x", "é:1", ""])
    def test_an_address_that_is_none_is_refused(self, jobdeck: Jobdeck, address: str) -> None:
        jobdeck("worker", "--drain", "--metrics", address).refused(2, "--metrics", "127.0.0.1:9464")

    def test_an_address_for_everybody_needs_the_token(self, jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
        jobdeck("worker", "--drain", "--metrics", "0.0.0.0:0").refused(1, "0.0.0.0:0", "JOBDECK_METRICS_TOKEN")
        monkeypatch.setenv("JOBDECK_METRICS_TOKEN", "a-token-for-the-tests")
        assert jobdeck("worker", "--drain", "--metrics", "0.0.0.0:0").code == 0

    def test_they_need_the_extra(self, jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jobdeck.core.errors.find_spec", lambda _name: None)
        jobdeck("worker", "--drain", "--metrics", "127.0.0.1:0").refused(1, "jobdeck[server]")

    @pytest.mark.slow
    @pytest.mark.usefixtures("jobdeck")
    def test_nothing_of_them_is_loaded_without_an_address(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A plugin's endpoints are in the rooms of the HTTP server.
        monkeypatch.setenv("JOBDECK_PLUGINS", "")
        enqueued(conn)
        code = (
            "import sys; from jobdeck.core.cli.app import main; code = main(['worker', '--drain']); "
            "assert not {'prometheus_client', 'uvicorn', 'jobdeck.core.http'} & set(sys.modules); sys.exit(code)"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)


def _tomorrow(conn: Connection) -> Any:
    row = conn.execute("SELECT now() + interval '1 day'").fetchone()
    assert row is not None
    return row[0]
