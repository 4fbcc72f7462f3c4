"""What the cut-over happens in: the original's database, its runner, workers, the sandbox of the vendors, commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from psycopg.errors import DeadlockDetected

from bench.faults.vendors import settings_env
from bench.scripted.world import Ran
from bench.scripted.world import World as ScriptedWorld
from bench.takeover.jobs import Book, fill
from bench.takeover.runner import Runners
from jobdeck.core.programme.sandbox.server import Sandbox
from tests.support.original import OWNER, copy_of_original, original_database
from tests.support.original_statements import ALAN, KIM, TEAM
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

if TYPE_CHECKING:
    from contextlib import ExitStack
    from datetime import timedelta

RUNNERS = 2
ACCOUNT = "cutover_worker"
PRODUCTION = {
    "JOBDECK_ENV": "production",
    "APP_BASE_URL": "https://dashboard.example.org",
    "JOBDECK_HANDLERS": "",
    "JOBDECK_RETRY_BASE_SECONDS": "0",
    "JOBDECK_CONCURRENCY": "4",
    "JOBDECK_LEASE_SECONDS": "60",
    "JOBDECK_HEARTBEAT_SECONDS": "20",
    "JOBDECK_DRAIN_SECONDS": "30",
}


class World(ScriptedWorld):
    """Everything, removed at the end. Times of it are the database's, from before any simulated time."""

    NAME = "cutover"
    PAUSE_SECONDS = 0.02

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.shifted = 0.0

    def _begin(self, stack: ExitStack) -> None:
        server = PostgresServer.start_new()
        stack.callback(server.destroy)
        name = original_database(server, programme=True)
        with server.connect(name, OWNER) as owner:
            self.kept = fill(owner, self.book)
        self.before = stack.enter_context(server.connect(copy_of_original(server, name), OWNER))
        self.admin = stack.enter_context(server.connect(name))
        self.url, self._worker_url = server.url(name, OWNER), server.url(name, ACCOUNT)
        self.conn = stack.enter_context(Connection.connect(self.url, autocommit=True))
        self.sandbox = stack.enter_context(Sandbox(people=False))
        self.sandbox.metactf.add_account(ALAN, role="coach", email="alan@example.org")
        self.sandbox.metactf.add_account(KIM, email="kim@school.example.org")
        self.sandbox.metactf.add_team(TEAM, coach=ALAN, name="Example Team")
        whole = self.environment(self.url, **settings_env(self.sandbox), JOBDECK_PLUGINS="competition")
        self.bare = {
            name: value for name, value in whole.items() if not name.startswith(("GAME_PLATFORM_", "JOBDECK_ENV"))
        }
        self.environ = whole | PRODUCTION
        self.runners = Runners(self.url, RUNNERS, self.clock)
        stack.callback(self.runners.stop)

    def clock(self) -> float:
        """The time in seconds, with the simulated time that has passed."""
        return time.time() + self.shifted

    def make_roles(self) -> Ran:
        """As docs/deployment.md says: the owner may create roles while it creates the groups."""
        self.admin.execute(f"ALTER ROLE {OWNER} CREATEROLE".encode())
        done = self.text("init", "--roles")
        self.admin.execute(f"ALTER ROLE {OWNER} NOCREATEROLE".encode())
        self.admin.execute(f"CREATE ROLE {ACCOUNT} LOGIN IN ROLE job_worker".encode())
        return done

    def start_workers(self, count: int, *arguments: str, **changes: str) -> None:
        """Starts this number of workers, under the account of workers."""
        super().start_workers(count, *arguments, DATABASE_URL=self._worker_url, **changes)

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
                # No claim while rows move, not even its row locks. A claim that has ended is seen. The runner's claim
                # locks these in the same order, where they are there.
                for table in ("job_upkeep", "job_queue"):
                    if self.one("SELECT to_regclass(%s) IS NOT NULL", f"public.{table}"):
                        self.conn.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
                if self.one("SELECT count(*) FROM job_queue WHERE status = 'running'"):
                    return False
                self.conn.advance(delta)
                self.conn.execute("SELECT pg_notify('public.job_queue', '')")
                # A runner that waits for the lock takes its time after it.
                self.shifted += delta.total_seconds()
        except DeadlockDetected:
            return False
        return True
