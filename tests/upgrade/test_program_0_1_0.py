"""The program of 0.1.0, kept whole, on a schema of today: a running worker continues, a new one refuses to start."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from jobdeck.core.schema import install_schema, schema_version
from tests.support.queue import Connection
from tests.upgrade.earlier import FOLDER, all_rows, create, schema

pytestmark = pytest.mark.installation

JOBS = 60
HANDLERS = """
from core.registry import Done, JobContext, Payload, job


@job("flow", label="Flow", purpose="Take a moment", payload=Payload)
def flow(params: Payload, ctx: JobContext) -> Done:
    return Done({})
"""
REFUSAL = "newer than this program's 1. Upgrade Jobdeck on this machine."


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 0.1.0's checkout, with a job type of a site."""
    folder = tmp_path_factory.mktemp("program")
    with tarfile.open(FOLDER / "program-0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "site_jobs.py").write_text(HANDLERS)
    return folder


@pytest.fixture
def earlier(empty_database_url: str) -> Iterator[Connection]:
    """A database of 0.1.0."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(schema("0.1.0"))
        yield connection


def started(program: Path, url: str, state: Path, *arguments: str) -> subprocess.Popen[str]:
    """One command of 0.1.0."""
    environ = {"DATABASE_URL": url, "JOBDECK_HANDLERS": "site_jobs", "JOBDECK_STATE_DIR": str(state)}
    return subprocess.Popen(
        [sys.executable, "-m", "core", *arguments],
        cwd=program,
        env={**os.environ, **environ, "PYTHONPATH": str(program), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(conn: Connection) -> int:
    """How many jobs have run."""
    row = conn.execute("SELECT count(*) FROM job_runs WHERE outcome = 'succeeded'").fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.mark.parametrize("command", [("jobs",), ("worker",), ("init",), ("enqueue", "flow")], ids=" ".join)
def test_it_refuses_to_start_on_the_new_schema_with_one_sentence_and_changes_nothing(
    command: tuple[str, ...], program: Path, earlier: Connection, empty_database_url: str, tmp_path: Path
) -> None:
    install_schema(earlier)
    before = all_rows(earlier)
    with started(program, empty_database_url, tmp_path, *command) as process:
        out, err = process.communicate(timeout=180)
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert f"has schema version {schema_version()}, {REFUSAL}" in err
    assert all_rows(earlier) == before


def test_its_worker_that_runs_already_goes_on_through_the_upgrade(
    program: Path, earlier: Connection, empty_database_url: str, tmp_path: Path
) -> None:
    create(earlier, "flow", payload=Jsonb({}))
    with started(program, empty_database_url, tmp_path, "worker") as process:
        try:
            wait_until_finished(earlier, process, 1)
            for _ in range(JOBS):
                create(earlier, "flow", payload=Jsonb({}))
            install_schema(earlier)
            for _ in range(JOBS):
                create(earlier, "flow", payload=Jsonb({}))
            wait_until_finished(earlier, process, 2 * JOBS + 1)
        finally:
            process.terminate()
            process.communicate(timeout=180)
    assert process.returncode == 0
    assert earlier.execute("SELECT count(*) FROM job_queue").fetchone() == (0,)


def wait_until_finished(conn: Connection, process: subprocess.Popen[str], count: int) -> None:
    """Waits for so many runs, and fails when the worker ends before."""
    for _ in range(1800):
        if finished(conn) >= count:
            return
        assert process.poll() is None
        assert conn.execute("SELECT last_error FROM job_queue WHERE status = 'failed'").fetchall() == []
        conn.execute("SELECT pg_sleep(0.1)")
    pytest.fail(f"Only {finished(conn)} of {count} jobs have run.")
