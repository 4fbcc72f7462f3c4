"""`jobdeck serve` as a process, and the least that its database role may do."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest

from jobdeck.core.alerts.alarms import Sentinel
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer, service
from jobdeck.core.schema import install_schema
from tests.core.cli.support import ROOT, Jobdeck, started
from tests.core.http.support import BEARER, SECRET, history, opened
from tests.core.http.test_webhooks import event
from tests.support.people import People
from tests.support.queue import ACTOR, Connection
from tests.support.serving import ask
from tests.support.waiting import PATIENCE, until

ARGUMENTS = ("serve", "--port", "0", "--handlers", "tests.core.cli.handlers")


def address(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    host, _, port = process.stdout.readline().strip().rpartition("//")[2].partition(":")
    return host, int(port)


def call(where: tuple[str, int], path: str) -> int:
    return ask(where, "GET", path, headers=BEARER).status


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_a_signal_and_ends_in_order(
    database_url: str, conn: Connection, number: signal.Signals, code: int
) -> None:
    producer.enqueue(conn, NewJob("cli_echo"), actor=ACTOR)
    with started(*ARGUMENTS, DATABASE_URL=database_url, CRON_SECRET=SECRET, JOBDECK_LOG_FORMAT="json") as process:
        where = address(process)
        assert call(where, "/healthz") == 200
        assert call(where, "/api/jobs/run") == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "jobdeck.core.http.server"] == [
        "server started",
        "server stopped",
    ]
    assert [line for line in lines if line["message"] == "run succeeded" and line["run"]]
    assert history(conn) == [("cron_http", "ok", 200, "GET", 1)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=PATIENCE)


@pytest.mark.slow
def test_a_job_that_runs_is_handed_back_when_the_time_to_finish_is_over(database_url: str, conn: Connection) -> None:
    job = service.enqueue(conn, NewJob("cli_wait"), actor=ACTOR).job
    settings = {"DATABASE_URL": database_url, "CRON_SECRET": SECRET, "CRON_BUDGET_SECONDS": "0.2"}
    with started(*ARGUMENTS, **settings, JOBDECK_DRAIN_SECONDS="0") as process:
        where = address(process)

        def runs() -> bool:
            return call(where, "/api/jobs/run") == 200 and conn.value("SELECT status FROM job_queue") == "running"

        until(runs, "the start of the job")
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert conn.value("SELECT status FROM job_queue WHERE id = %s", job.id) == "pending"
    assert conn.value("SELECT outcome FROM job_runs WHERE job_id = %s", job.id) == "released"


def test_an_address_that_is_taken_is_one_sentence(jobdeck: Jobdeck) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        jobdeck("serve", "--port", port).refused(1, f"127.0.0.1:{port}", "cannot be opened", "--port")
    jobdeck("serve", "--port", "99999").refused(2, "99999")
    jobdeck("serve", "--host", "no.such.host.invalid", "--port", "0").refused(1, "cannot be opened")


def test_its_description_can_be_had_without_a_database(jobdeck: Jobdeck) -> None:
    told = jobdeck("serve", "--openapi", "--database-url", "postgresql://nobody@127.0.0.1:1/none")
    assert told.code == 0
    assert json.loads(told.out)["openapi"] == "3.1.0"


@pytest.mark.slow
def test_the_door_is_loaded_only_where_it_is_opened() -> None:
    code = (
        "import sys, jobdeck.core.cli.app, jobdeck.core.cli.commands.run.serve; "
        "assert not {'starlette', 'uvicorn', 'h11', 'jobdeck.core.http'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)


@pytest.mark.slow
def test_a_member_of_job_worker_can_do_all_that_the_door_does(
    people: People, database_url: str, conn: Connection
) -> None:
    install_schema(conn, roles=True)
    url = people.address(database_url, "job_worker")
    producer.enqueue(conn, NewJob("fine"), actor=ACTOR)
    with opened(url, cron_interval_minutes=7) as door:
        assert door.run().data["succeeded"] == 1
        assert door.report([event("bounce")]).data["new"] == 1
        until(lambda: not conn.value("SELECT count(*) FROM provider_events WHERE applied_at IS NULL"), "applying")
        assert door.call("GET", "/healthz").status == 200
        door.call("GET", "/api/jobs/run")
        with Connection.connect(url, autocommit=True) as own:
            Sentinel(door.door._alerts, "test").look(own)
        until(lambda: any(one[0] == "door" for one in history(conn)), "the record of refused calls")
    assert conn.value("SELECT trigger_minutes FROM job_queue_settings") == 7
    assert conn.value("SELECT reason FROM email_suppressions") == "hard_bounce"


class TestScheduledRuns:
    @pytest.mark.slow
    def test_a_timers_cycle_counts_for_cron_health_and_one_by_hand_does_not(
        self, jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CRON_INTERVAL_MINUTES", "20")
        assert jobdeck("run-worker", "--scheduled").code == 0
        assert jobdeck("run-worker").code == 0
        assert [one[0] for one in history(conn)] == ["timer", "cli"]
        findings = {one["signal"]: one for one in jobdeck("health", "--json").data["findings"]}
        assert findings["trigger"]["verdict"] == "ok"
        assert "every 20m" in findings["trigger"]["evidence"]


def test_health_names_runs_that_have_used_up_most_of_their_time(jobdeck: Jobdeck, conn: Connection) -> None:
    job = service.enqueue(conn, NewJob("cli_wait"), actor=ACTOR).job
    leases.claim(conn, "w", ["cli_wait"], 1, 7200.0)
    conn.execute("UPDATE job_queue SET started_at = now() - interval '99 days' WHERE id = %s", (job.id,))
    findings = {one["signal"]: one for one in jobdeck("health", "--json").data["findings"]}
    assert "the longest is of cli_wait" in findings["long runs"]["evidence"]
