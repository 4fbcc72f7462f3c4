"""What the cut-over happens in: the original's database, its runner, workers, the sandbox of the vendors, commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg
from psycopg.errors import DeadlockDetected

from bench.faults.workers import ROOT, STOP_SECONDS, Worker, environment
from bench.takeover.jobs import Book, fill
from bench.takeover.runner import Runners
from jobdeck.core.programme.sandbox.server import Sandbox
from tests.support.original import OWNER, copy_of_original, original_database
from tests.support.original_statements import ALAN, KIM, TEAM
from tests.support.postgres import PostgresServer
from tests.support.queue import advance

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

RUNNERS = 2
ACCOUNT = "cutover_worker"
PRODUCTION = {
    "JOBDECK_ENV": "production",
    "APP_BASE_URL": "https://dashboard.example.org",
    "JOBDECK_HANDLERS": "",
    "JOBDECK_CONCURRENCY": "4",
    "JOBDECK_LEASE_SECONDS": "60",
    "JOBDECK_HEARTBEAT_SECONDS": "20",
    "JOBDECK_DRAIN_SECONDS": "30",
}


class Done(NamedTuple):
    """A command's exit code, what it answered with `--json`, and what it wrote."""

    code: int
    data: Any
    text: str


class World:
    """Everything, removed at the end. Times of it are the database's, from before any simulated time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.book = Book()
        self.shifted = 0.0
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="jobdeck-cutover-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._server = PostgresServer.start_new()
            stack.callback(self._server.destroy)
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _begin(self, stack: ExitStack) -> None:
        name = original_database(self._server, programme=True)
        with self._server.connect(name, OWNER) as owner:
            self.kept = fill(owner, self.book)
        self.before = stack.enter_context(self._server.connect(copy_of_original(self._server, name), OWNER))
        self.admin = stack.enter_context(self._server.connect(name))
        self.url, self._worker_url = self._server.url(name, OWNER), self._server.url(name, ACCOUNT)
        self.conn = stack.enter_context(psycopg.connect(self.url, autocommit=True))
        self.sandbox = stack.enter_context(Sandbox(people=False))
        self.sandbox.metactf.add_account(ALAN, role="coach", email="alan@example.org")
        self.sandbox.metactf.add_account(KIM, email="kim@school.example.org")
        self.sandbox.metactf.add_team(TEAM, coach=ALAN, name="Example Team")
        self.bare = {
            name: value for name, value in environment(self.url, self.folder, self.sandbox).items()
            if not name.startswith(("GAME_PLATFORM_", "JOBDECK_ENV"))
        } | {"JOBDECK_HANDLERS": ""}  # fmt: skip
        self.environ = environment(self.url, self.folder, self.sandbox) | PRODUCTION
        self.runners = Runners(self.url, RUNNERS, self.clock)
        stack.callback(self.runners.stop)
        stack.callback(self._kill_workers)

    def clock(self) -> float:
        """The time in seconds, with the simulated time that has passed."""
        return time.time() + self.shifted

    def command(self, *arguments: str, environ: dict[str, str] | None = None) -> Done:
        """Runs `jobdeck ARGUMENTS --json` as a process of its own."""
        done = self._ran(*arguments, "--json", environ=environ)
        try:
            return Done(done.returncode, json.loads(done.stdout), done.stderr.strip())
        except ValueError:
            return Done(done.returncode, {}, done.stderr.strip())

    def text(self, *arguments: str) -> Done:
        """Runs `jobdeck ARGUMENTS`, as a person does."""
        done = self._ran(*arguments)
        return Done(done.returncode, {}, done.stdout.strip() or done.stderr.strip())

    def _ran(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core", *arguments],
            cwd=ROOT, env=environ or self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def make_roles(self) -> Done:
        """As docs/deployment.md says: the owner may create roles while it creates the groups."""
        self.admin.execute(f"ALTER ROLE {OWNER} CREATEROLE".encode())
        done = self.text("init", "--roles")
        self.admin.execute(f"ALTER ROLE {OWNER} NOCREATEROLE".encode())
        self.admin.execute(f"CREATE ROLE {ACCOUNT} LOGIN IN ROLE job_worker".encode())
        return done

    def start_workers(self, count: int) -> None:
        command = [sys.executable, "-m", "core", "worker"]
        for _ in range(count):
            log = self.folder / f"worker-{len(self.workers)}.log"
            self.workers.append(Worker(command, ROOT, self.environ | {"DATABASE_URL": self._worker_url}, log))

    def stop_workers(self) -> list[int | None]:
        """Terminates the workers and returns their exit codes."""
        for worker in self.workers:
            worker.process.terminate()
        codes: list[int | None] = [worker.process.wait(STOP_SECONDS) for worker in self.workers]
        self.workers.clear()
        return codes

    def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill()

    def one(self, statement: str, *given: object) -> Any:
        """The first column of the only row of a statement."""
        row = self.conn.execute(statement.encode(), given or None).fetchone()
        if row is None:
            raise LookupError(f"no row: {statement}")
        return row[0]

    def rows(self, statement: str, *given: object) -> list[tuple[Any, ...]]:
        return self.conn.execute(statement.encode(), given or None).fetchall()

    def pass_time(self, delta: timedelta) -> None:
        """Lets time pass as soon as no job runs: all that has happened moves into the past."""
        self.wait(lambda: self._passed(delta), "a moment in which no job runs")

    def _passed(self, delta: timedelta) -> bool:
        try:
            with self.conn.transaction():
                # No claim while rows move, not even its row locks. A claim that has ended is seen.
                self.conn.execute("LOCK TABLE job_queue IN EXCLUSIVE MODE")
                if self.one("SELECT count(*) FROM job_queue WHERE status = 'running'"):
                    return False
                advance(self.conn, delta)
                self.conn.execute("SELECT pg_notify('public.job_queue', '')")
                # A runner that waits for the lock takes its time after it.
                self.shifted += delta.total_seconds()
        except DeadlockDetected:
            return False
        return True

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 90.0, *, pause: float = 0.02) -> None:
        """Waits for a step of the story itself.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(pause)
