"""A real worker in a process of its own: with an application that exports its spans, and without OpenTelemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, STANDING, worker_process

HANDLERS = "tests.core.telemetry.traced_handlers"
TYPES = ("thread", "loop", "process")
MADE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def run(url: str, folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("OTEL_")},
        "DATABASE_URL": url, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder),
        "JOBDECK_STATE_DIR": str(folder / "state"), **STANDING, **settings,
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.mark.slow
def test_each_kind_of_handler_is_in_the_trace_that_enqueued_it(
    database_url: str, conn: Connection, tmp_path: Path
) -> None:
    with conn.transaction():
        conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (MADE,))
        conn.execute("INSERT INTO job_queue (task_type) SELECT 'traced_' || unnest(%s::text[])", (list(TYPES),))
    traces = tmp_path / "traces"
    traces.touch()
    asked = {"JOBDECK_HANDLERS": HANDLERS, "JOBDECK_OTEL": "1", "TRACES_FILE": str(traces)}
    with worker_process(database_url, tmp_path, **asked) as worker:
        until(lambda: conn.outcomes() == ["succeeded"] * 3, "the runs")
        # The process of a handler exports after each run. The worker does so when it ends.
        until(lambda: "inside process" in traces.read_text(encoding="utf-8"), "the span of the process")
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    lines = [line.partition(" ") for line in traces.read_text(encoding="utf-8").splitlines()]
    found = {span["name"]: (int(pid), span) for pid, _, text in lines for span in (json.loads(text),)}
    assert len(found) == len(lines) == 6
    for name in TYPES:
        pid, process = found[f"process traced_{name}"]
        where, inside = found[f"inside {name}"]
        assert process["context"]["trace_id"] == inside["context"]["trace_id"] == f"0x{MADE[3:35]}"
        assert process["parent_id"] == f"0x{MADE[36:52]}"
        assert inside["parent_id"] == process["context"]["span_id"]
        assert pid == worker.pid
        assert (where == pid) == (name != "process")


@pytest.mark.slow
def test_without_the_setting_nothing_of_opentelemetry_is_imported(
    database_url: str, conn: Connection, tmp_path: Path
) -> None:
    """Neither by `import jobdeck`, nor by an enqueue, nor by a worker that runs a job."""
    program = """
import sys
import psycopg, jobdeck
from tests.core.queue.producers.types import Greeting
settings = jobdeck.load_settings()
with psycopg.connect(settings.database_url.get_secret_value()) as conn:
    jobdeck.enqueue(conn, "made_greet", Greeting(to_whom="Ada"))
with jobdeck.open_database(settings, application_name="test", max_size=4) as database:
    jobdeck.Worker(database, jobdeck.load_types(["tests.core.queue.producers.types"]), settings).run_until_idle()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert run(database_url, tmp_path, "-c", program).stdout == "[]\n"
    assert conn.outcomes() == ["succeeded"]
    assert conn.value("SELECT count(*) FROM job_queue") == 0


@pytest.mark.slow
def test_a_worker_whose_application_sets_no_provider_says_that_nothing_is_recorded(
    database_url: str, tmp_path: Path
) -> None:
    """The application of these tests sets one where `TRACES_FILE` says so."""
    drained = ("-m", "core", "worker", "--drain", "--types", "traced_thread")
    asked = {"JOBDECK_HANDLERS": HANDLERS, "JOBDECK_OTEL": "1"}
    silent = run(database_url, tmp_path, *drained, **asked)
    assert silent.stderr.count("no traces are recorded") == 1
    assert "opentelemetry-instrument" in silent.stderr
    recording = run(database_url, tmp_path, *drained, **asked, TRACES_FILE=str(tmp_path / "traces"))
    assert "no traces are recorded" not in recording.stderr
