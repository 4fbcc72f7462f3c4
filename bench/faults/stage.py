"""What a sweep runs on: a Postgres of its own, the proxy before it, the vendors, and the worker processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.faults.judge import Step
from bench.faults.proxy import Proxy
from bench.faults.server import ROLE, Server, SmallDisk
from bench.faults.vendors import add_people, begin_vendors
from bench.faults.workers import ROOT, Worker, environment, new_worker, old_worker
from jobdeck.core.postgres.cluster import SOCKET

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

WORKERS = 3


class Stage:
    """Everything that a sweep runs on; removed at the end."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.folder = Path(tempfile.mkdtemp(prefix="jobdeck-sweep-"))
        self.folder.chmod(0o755)
        self.effects = self.folder / "effects.jsonl"
        self.effects.touch()
        self.notes: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.steps: list[Step] = []
        self.old_pids: set[int] = set()
        self.server = Server(self.folder)
        self.disk: SmallDisk | None = None
        self.workers: list[Worker] = []
        self.proxy: Proxy | None = None
        self.sandbox = begin_vendors()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
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
        refused = self.init()
        if refused:
            raise RuntimeError(refused)
        with self.server.connect(role=ROLE) as conn:
            add_people(conn)
        self.proxy = Proxy(self.server.socket_folder / SOCKET)
        self.workers = [
            new_worker(self.worker_url, self.folder, self.sandbox, number) for number in range(WORKERS)
        ]  # fmt: skip

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        if self.proxy is not None:
            self.proxy.close()
        self.sandbox.close()
        with suppress(Exception):
            self.server.stop()
        if self.disk is not None:
            self.disk.close()
        if os.environ.get("SWEEP_KEEP"):
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def worker_url(self) -> str:
        """The address of the queue behind the proxy."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.line().port}/{ROLE}"

    def init(self) -> str:
        """Runs `jobdeck init` on the server itself; returns the sentence with which it refused, if it did.

        An end that is neither a success nor a sentence is a trouble.
        """
        url = f"postgresql://{ROLE}@/{ROLE}?host={self.server.socket_folder}&port=5432"
        done = subprocess.run(
            [sys.executable, "-m", "core", "init"],
            cwd=ROOT, env=environment(url, self.folder, self.sandbox), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return ""
        # The lines before the last one say that it waited, and tried again.
        *_, said = done.stderr.strip().splitlines() or [""]
        if "Traceback" in done.stderr or not said.startswith("jobdeck: "):
            self.troubles.append(f"init ended with {done.returncode} and no sentence: {done.stderr[-500:]}")
        return said or f"it ended with {done.returncode}"

    def line(self) -> Proxy:
        """The proxy between the workers and the server."""
        if self.proxy is None:
            raise RuntimeError("the stage has not begun")
        return self.proxy

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

    def an_old_worker(self) -> Worker:
        """A worker of 0.1.0 that has just been started."""
        worker = old_worker(self.worker_url, self.folder, self.sandbox)
        self.old_pids.add(worker.process.pid)
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
