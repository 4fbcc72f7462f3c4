"""What the incident happens in: a Postgres of its own, workers, a dashboard on a terminal, Sentry's stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg

from bench.faults.workers import ROOT, STOP_SECONDS, Worker
from jobdeck.core.postgres.cluster import Cluster
from tests.core.alerts.test_sentry import receiving
from tests.terminal.pty_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DATABASE = "incident"
SLOTS = 10
SIZE = (200, 50)


class Ran(NamedTuple):
    """A command's exit code and what it answered with `--json`."""

    code: int
    data: Any


class Dashboard:
    """A dashboard on a terminal that somebody watches all the time."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._terminal = Terminal(["-m", "tui", "--read-only"], size=SIZE, environ=environ)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dashboard")
        self._thread.start()

    def _watch(self) -> None:
        while not self._ending.is_set() and self._terminal.process.poll() is None:
            with self._lock:
                self._terminal.read(0.02)
            time.sleep(0.02)

    @property
    def lines(self) -> list[str]:
        """The screen."""
        with self._lock:
            return self._terminal.lines

    def line_with(self, text: str) -> str:
        """The line under the header or below that has a text; empty if none has."""
        return next((line.strip() for line in self.lines[:4] if text in line), "")

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._terminal.__exit__()


class World:
    """Everything, removed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="jobdeck-incident-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.chmod(0o755)
            self.down, self.busy = self.folder / "vendor-is-down", self.folder / "images-are-large"
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _begin(self, stack: ExitStack) -> None:
        cluster = Cluster(self.folder)
        cluster.start()
        stack.callback(_quietly, cluster.stop)
        with psycopg.connect(cluster.url("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        self.url = cluster.url(DATABASE)
        self.sentry = stack.enter_context(receiving())
        self.environ = self._environment()
        os.environ.update({name: self.environ[name] for name in ("INCIDENT_FOLDER", "JOBDECK_PLUGINS")})
        self.command("init")
        self.conn = stack.enter_context(psycopg.connect(self.url, autocommit=True))
        self.workers: list[Worker] = []
        stack.callback(self._kill_workers)

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBDECK_", "SENTRY_"))}
        return {
            **inherited,
            "DATABASE_URL": self.url,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(self.folder),
            "JOBDECK_STATE_DIR": str(self.folder / "state"),
            "JOBDECK_PLUGINS": "",
            "JOBDECK_HANDLERS": "bench.outage.jobs",
            "JOBDECK_CONCURRENCY": str(SLOTS),
            "INCIDENT_FOLDER": str(self.folder),
        }

    def command(self, *arguments: str) -> Ran:
        """Runs `jobdeck ARGUMENTS --json` as a process of its own.

        Raises:
            RuntimeError: it does not answer with JSON.
        """
        done = self._ran(*arguments, "--json")
        try:
            return Ran(done.returncode, json.loads(done.stdout))
        except ValueError:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}") from None

    def text(self, *arguments: str) -> str:
        """What `jobdeck ARGUMENTS` writes."""
        return self._ran(*arguments).stdout

    def _ran(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core", *arguments],
            cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def start_dashboard(self) -> Dashboard:
        dashboard = Dashboard({**self.environ, "COLORTERM": "truecolor"})
        self._stack.callback(dashboard.close)
        return dashboard

    def start_workers(self, count: int, *, types: Sequence[str] = (), **changes: str) -> None:
        """Starts this number of workers, for these types or for all."""
        command = [sys.executable, "-m", "core", "worker", *(["--types", ",".join(types)] if types else [])]
        for _ in range(count):
            log = self.folder / f"worker-{len(self.workers)}.log"
            self.workers.append(Worker(command, ROOT, self.environ | changes, log))

    def stop_workers(self) -> list[int | None]:
        """Terminates the workers and returns their exit codes."""
        for worker in self.workers:
            worker.process.terminate()
        # A second SIGTERM would return the running jobs.
        codes: list[int | None] = [worker.process.wait(STOP_SECONDS) for worker in self.workers]
        self.workers.clear()
        return codes

    def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 180.0) -> None:
        """Waits for a step of the story itself.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(0.1)


def _quietly(stop: Callable[[], None]) -> None:
    with suppress(Exception):
        stop()
