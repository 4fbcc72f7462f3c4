"""Workers that are killed, stopped and cut off while they share a queue."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.registry import Done
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import job_type, quick_settings, working

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
JOBS = 600


class Process:
    """One `python -m core worker`, and what it has written."""

    def __init__(self, url: str, log: Path, **settings: str) -> None:
        self.log = log
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(log.parent),
            "JOBDECK_STATE_DIR": str(log.parent / "state"),
            "JOBDECK_HANDLERS": "tests.chaos.jobs",
            "JOBDECK_LEASE_SECONDS": "8",
            "JOBDECK_HEARTBEAT_SECONDS": "0.5",
            "JOBDECK_RETRY_BASE_SECONDS": "0",
            "JOBDECK_CONCURRENCY": "4",
            **settings,
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "core", "worker"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def holds(self, conn: Connection) -> set[int]:
        """The tokens of the runs it has going."""
        rows = conn.execute(
            "SELECT q.run_token FROM job_queue q JOIN job_workers w ON w.id = q.locked_by "
            "WHERE w.pid = %s AND q.status = 'running'",
            (self.process.pid,),
        )
        return {token for (token,) in rows}


@contextmanager
def processes(url: str, folder: Path, count: int, **settings: str) -> Iterator[list[Process]]:
    started = [Process(url, folder / f"worker-{number}.log", **settings) for number in range(count)]
    try:
        yield started
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def tokens(conn: Connection, outcome: str) -> set[int]:
    return {token for (token,) in conn.execute("SELECT run_token FROM job_runs WHERE outcome = %s", (outcome,))}


def recorded(conn: Connection, outcome: str, of: set[int]) -> bool:
    return of <= tokens(conn, outcome)


def test_three_workers_of_which_one_is_killed_and_one_stalls_run_every_job_once(
    database_url: str, conn: Connection, tmp_path: Path
) -> None:
    ids = producer.enqueue_many(conn, [NewJob("chaos_nap") for _ in range(JOBS)], actor=ACTOR)
    with processes(database_url, tmp_path, 3) as (killed, stalled, steady):
        until(lambda: all(len(worker.holds(conn)) >= 4 for worker in (killed, stalled, steady)), "work for all three")
        killed.signal(signal.SIGKILL)
        assert killed.ended() == -signal.SIGKILL
        dead = killed.holds(conn)
        stalled.signal(signal.SIGSTOP)
        stopped = stalled.holds(conn)
        assert dead
        assert stopped
        until(functools.partial(recorded, conn, "lost", dead | stopped), "the loss of both workers' runs")
        stalled.signal(signal.SIGCONT)
        # It may have stopped between a claim and the first of its runs.
        until(
            lambda: stopped & tokens(conn, "abandoned") or "before its run began" in stalled.log.read_text(),
            "the late results",
        )
        until(lambda: len(steady.holds(conn)) >= 4 or len(tokens(conn, "succeeded")) == JOBS, "work for the steady one")
        steady.signal(signal.SIGTERM)
        assert steady.ended() == 0, steady.log.read_text()
        until(lambda: len(tokens(conn, "succeeded")) == JOBS, "the rest")
        stalled.signal(signal.SIGTERM)
        assert stalled.ended() == 0, stalled.log.read_text()

    per_job = conn.execute("SELECT job_id, count(*) FROM job_runs WHERE outcome = 'succeeded' GROUP BY 1").fetchall()
    assert {job_id for job_id, _ in per_job} == set(ids)
    assert {count for _, count in per_job} == {1}
    assert conn.execute("SELECT count(*) FROM job_queue").fetchone() == (0,)
    assert tokens(conn, "abandoned") <= tokens(conn, "lost")
    assert not tokens(conn, "abandoned") & dead
    assert not tokens(conn, "succeeded") & tokens(conn, "lost")
    assert not tokens(conn, "failed")


def test_a_terminated_worker_hands_back_what_it_cannot_finish(
    database_url: str, conn: Connection, tmp_path: Path
) -> None:
    for _ in range(8):
        conn.add("chaos_nap", payload={"seconds": 600})
    with processes(database_url, tmp_path, 1, JOBDECK_DRAIN_SECONDS="0", JOBDECK_LEASE_SECONDS="60") as (worker,):
        until(lambda: len(worker.holds(conn)) >= 4, "work")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0, worker.log.read_text()
    assert conn.execute("SELECT status, attempts, count(*) FROM job_queue GROUP BY 1, 2").fetchall() == [
        ("pending", 0, 8)
    ]
    # A job that was claimed and had not begun leaves no run in the history.
    assert set(conn.outcomes()) <= {"released"}
    assert conn.execute("SELECT count(*) FROM job_workers").fetchone() == (0,)


FORGETFUL = """
import sys
from jobdeck.core import registry
from jobdeck.core.postgres.database import Database
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

worker = Worker(Database(sys.argv[1], application_name="forgetful"), registry.load(["tests.chaos.jobs"]), Settings())
worker.start()
while worker.status.running < 1:
    pass
"""


def test_a_program_that_forgets_to_stop_its_worker_ends_all_the_same(database_url: str, conn: Connection) -> None:
    job = conn.add("chaos_nap", payload={"seconds": 600})
    subprocess.run([sys.executable, "-c", FORGETFUL, database_url], cwd=ROOT, check=True, timeout=PATIENCE)
    assert conn.outcomes(job.id) == ["released"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hostile_error_reaches_no_log_line_raw(
    database_url: str, conn: Connection, tmp_path: Path, form: str
) -> None:
    conn.add("chaos_hostile", max_attempts=1)
    with processes(database_url, tmp_path, 1, JOBDECK_LOG_FORMAT=form) as (worker,):
        until(lambda: conn.outcomes() == ["failed"], "the failure")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
    log = worker.log.read_text(encoding="utf-8")
    row = conn.execute("SELECT error, traceback, log FROM job_runs").fetchone()
    assert row is not None
    for text in (log, *row):
        assert "owned" in text
        assert "jane" not in text
        assert not {c for c in text if c != "\n" and not c.isprintable()}
    assert not [line for line in log.splitlines() if line.startswith("ERROR")]


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_a_worker_outlives_a_restart_of_the_database(database_url: str, postgres: PostgresServer, how: str) -> None:
    with Connection.connect(database_url, autocommit=True) as before:
        # The tests' server trades durability for speed, and after a crash nothing but durability is in question.
        name = sql.Identifier(before.info.dbname)
        before.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = on").format(name))
    with Connection.connect(database_url, autocommit=True) as before:
        producer.enqueue_many(before, [NewJob("work", {"number": number}) for number in range(200)], actor=ACTOR)
    seen: list[int] = []

    def work(params: Any, _ctx: Any) -> Done:
        seen.append(params.number)
        return Done({"number": params.number})

    with working(database_url, job_type("work", work), settings=quick_settings(lease_seconds=30)) as worker:
        until(lambda: seen, "the first run")
        if how == "restart":
            postgres.restart()
        else:
            postgres.crash()
            postgres.start()
        with Connection.connect(database_url, autocommit=True) as after:
            until(lambda: len(tokens(after, "succeeded")) == 200, "the rest")
            late = after.add("work")
            until(lambda: after.outcomes(late.id) == ["succeeded"], "a job from after the restart")
            # A claim that was stored and whose answer was cut off is lost once its lease has ended.
            assert set(after.outcomes()) <= {"succeeded", "lost"}
        assert worker.drain()
        assert worker.status.failed == 0
    assert len(seen) == 201
