"""What handlers of threads leave behind: what forked processes have of their worker, and that it ends without them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobdeck.core.postgres.database import Database
from tests.core.worker.forking_handlers import MODULE
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, worker_process

FORKS = """
import os, sys
from jobdeck.core.postgres.database import Database

with Database(sys.argv[1], application_name="forks") as database, database.connection() as conn:
    def in_a_fork(work):
        child = os.fork()
        if child == 0:
            try:
                work()
            except Exception as error:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    print(in_a_fork(lambda: conn.execute("CREATE TABLE of_the_fork ()")), in_a_fork(conn.close))
    print(conn.execute("SELECT to_regclass('of_the_fork')").fetchone())
"""
HOLDS = """
import os, sys, threading
from jobdeck.core.postgres.database import Database

with Database(sys.argv[1], application_name="parent") as database, database.connection() as conn:
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    print(child, flush=True)
    sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.slow
def test_a_forked_process_can_neither_use_nor_close_a_connection_of_its_parent(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, database_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.splitlines() == ["1 0", "(None,)"], done.stderr


@pytest.mark.slow
def test_the_server_notices_the_death_of_a_process_whose_fork_lives_on(database_url: str, conn: Connection) -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'parent'"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, database_url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert conn.execute(sessions).fetchone() == (1,)
            parent.kill()
            parent.wait()
            until(lambda: conn.execute(sessions).fetchone() == (0,), "the end of the session")
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_listener_ends_although_a_forked_process_has_its_sockets(database_url: str) -> None:
    with Database(database_url, application_name="test") as database:
        listener = database.listen("somewhere")
        kept = listener._stop.dup()
        try:
            listener.close()
        finally:
            kept.close()


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with worker_process(database_url, tmp_path, JOBDECK_HANDLERS=MODULE, JOBDECK_DRAIN_SECONDS="0") as process:
        yield process


@pytest.mark.slow
def test_the_server_lists_the_connections_of_a_worker_as_a_workers(
    conn: Connection, worker: subprocess.Popen[bytes]
) -> None:
    named = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    until(lambda: conn.value(named, "jobdeck worker") > 0, "a connection of the worker")
    assert worker.poll() is None
    assert conn.value(named, "jobdeck cli") == 0


@pytest.mark.slow
@pytest.mark.parametrize("leaves", ["f_leaves_a_fork", "f_leaves_a_pool", "f_leaves_a_thread"])
def test_a_worker_ends_and_hands_back_its_jobs_whatever_its_handlers_left(
    conn: Connection, worker: subprocess.Popen[bytes], leaves: str
) -> None:
    first, second = conn.add(leaves).id, conn.add("f_waits").id
    until(lambda: conn.status_of(first) is None and conn.status_of(second) == "running", "the runs")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert conn.outcomes(first) == ["succeeded"]
    # A job that was claimed and had not begun leaves no run in the history.
    assert set(conn.outcomes(second)) <= {"released"}
    assert conn.status_of(second) == "pending"


@pytest.mark.slow
def test_a_worker_reports_its_runs_and_ends_although_a_thread_of_a_handler_has_left_the_lock_of_logging(
    conn: Connection, worker: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    jobs = [conn.add("f_leaves_a_lock").id, conn.add("f_fails", max_attempts=1).id]
    until(lambda: not any(conn.status_of(job) == "running" for job in jobs), "the reports")
    until(lambda: conn.status_of(jobs[1]) == "failed", "the report of a failure, which is logged at another level")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 1
    assert conn.outcomes(jobs[0]) == ["succeeded"]
    told = (tmp_path / "worker.log").read_text()
    assert "run failed" in told
    # The logging module needs its lock to close what it writes to.
    assert "The worker does not end, so it is cut off." in told
    assert "in shutdown" in told


@pytest.mark.slow
def test_a_worker_ends_although_its_server_stands_still(
    conn: Connection, worker: subprocess.Popen[bytes], postgres: PostgresServer
) -> None:
    until(lambda: conn.value("SELECT count(*) FROM job_workers") == 1, "the worker")
    sessions = [row["pid"] for row in conn.rows("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'client%%'")]
    stopped = [pid for pid in [postgres.pid, *sessions] if pid is not None]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 1
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_handler_can_end_what_it_forks_by_a_signal_and_its_worker_works_on(
    conn: Connection, worker: subprocess.Popen[bytes]
) -> None:
    jobs = [conn.add("f_ends_its_fork").id for _ in range(2)]
    until(lambda: not any(conn.status_of(job) for job in jobs), "the end of the jobs")
    assert conn.last_run(jobs[0])["output"] == {"ended": -signal.SIGTERM}
    assert worker.poll() is None
