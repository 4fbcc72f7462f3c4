"""What a sweep runs on: a Postgres of its own, the proxy before it, the vendors, and the worker processes."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from bench.faults.judge import Step
from bench.faults.proxy import Proxy
from bench.faults.server import ROLE, Server, SmallDisk
from bench.faults.vendors import add_people, begin_vendors, settings_env
from bench.scripted.world import Worker, World
from jobdeck.core.postgres.cluster import SOCKET

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

WORKERS = 3
CONCURRENCY = 24
LEASE_SECONDS = 10.0


class Stage(World):
    """Everything that a sweep runs on; removed at the end."""

    NAME = "sweep"

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.notes: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.steps: list[Step] = []
        self.disk: SmallDisk | None = None

    def _begin(self, stack: ExitStack) -> None:
        self.effects = self.folder / "effects.jsonl"
        self.effects.touch()
        self.server = Server(self.folder)
        stack.callback(self._stop_server)
        self.server.begin()
        self.disk = SmallDisk.made(self.folder / "disk", self.server)
        with self.server.connect("postgres") as admin:
            place = ""
            if self.disk is not None:
                admin.execute(f"CREATE TABLESPACE small LOCATION '{self.disk.folder}'")
                place = " TABLESPACE small"
            admin.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}{place}")
        with self.server.connect() as admin:
            admin.execute(f"ALTER SCHEMA public OWNER TO {ROLE}")
        self.sandbox = begin_vendors()
        stack.callback(self.sandbox.close)
        self.line = Proxy(self.server.socket_folder / SOCKET)
        stack.callback(self.line.close)
        self.environ = self.environment(
            f"postgresql://{ROLE}@127.0.0.1:{self.line.port}/{ROLE}",
            **settings_env(self.sandbox),
            JOBDECK_PLUGINS="competition",
            JOBDECK_HANDLERS="bench.faults.jobs,bench.faults.messages,bench.faults.misdeeds",
            JOBDECK_CONCURRENCY=str(CONCURRENCY),
            JOBDECK_LEASE_SECONDS=str(LEASE_SECONDS),
            JOBDECK_HEARTBEAT_SECONDS=str(LEASE_SECONDS / 4),
            JOBDECK_RETRY_BASE_SECONDS="0",
            JOBDECK_DRAIN_SECONDS="5",
            SWEEP_EFFECTS=str(self.effects),
            PYTHONFAULTHANDLER="1",
        )
        refused = self.init()
        if refused:
            raise RuntimeError(refused)
        with self.server.connect(role=ROLE) as conn:
            add_people(conn)
            conn.execute("CREATE TABLE sweep_written (token bigint)")
        self.start_workers(WORKERS)

    def _stop_server(self) -> None:
        with suppress(Exception):
            self.server.stop()
        if self.disk is not None:
            self.disk.close()

    def init(self) -> str:
        """Runs `jobdeck init` on the server itself; returns the sentence with which it refused, if it did.

        An end that is neither a success nor a sentence is a trouble.
        """
        url = f"postgresql://{ROLE}@/{ROLE}?host={self.server.socket_folder}&port=5432"
        done = self._ran("init", environ=self.environ | {"DATABASE_URL": url})
        if done.returncode == 0:
            return ""
        # The lines before the last one say that it waited, and tried again.
        *_, said = done.stderr.strip().splitlines() or [""]
        if "Traceback" in done.stderr or not said.startswith("jobdeck: "):
            self.troubles.append(f"init ended with {done.returncode} and no sentence: {done.stderr[-500:]}")
        return said or f"it ended with {done.returncode}"

    def a_worker(self) -> Worker:
        """A worker that no other fault uses, locked for the caller. One that has ended by itself is a trouble."""
        worker = self._free_worker()
        code = worker.process.poll()
        if code is not None:
            self.troubles.append(f"worker {self.workers.index(worker)} had ended by itself with {code}")
            worker.start()
        return worker

    def _free_worker(self) -> Worker:
        for worker in self.rng.sample(self.workers, len(self.workers)):
            if worker.free.acquire(blocking=False):
                return worker
        worker = self.rng.choice(self.workers)
        worker.free.acquire()
        return worker

    def step_clock(self, seconds: int) -> None:
        """Sets the server's clock, and keeps in mind when it was how wrong."""
        now = time.time()
        if self.steps and self.steps[-1].ended is None:
            self.steps[-1] = self.steps[-1]._replace(ended=now)
        if seconds:
            self.steps.append(Step(now, None, float(seconds)))
        self.server.step_clock(seconds)


def lines(path: Path) -> Iterator[str]:
    """The whole lines of a file."""
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if line.endswith("\n"))
