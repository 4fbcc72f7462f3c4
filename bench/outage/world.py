"""What the incident happens in: a Postgres of its own, workers, a dashboard on a terminal, Sentry's stand-in."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg

from bench.scripted.world import Ran
from bench.scripted.world import World as ScriptedWorld
from jobdeck.core.postgres.cluster import Cluster
from tests.core.alerts.test_sentry import receiving
from tests.terminal.pty_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

DATABASE = "incident"
SLOTS = 10
SIZE = (200, 50)


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
        """The line of the boxes under the header that has a text; empty if none has."""
        return next((line.strip() for line in self.lines[1:12] if text in line), "")

    def press(self, key: str) -> None:
        """Presses a key."""
        with self._lock:
            self._terminal.send(key)

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._terminal.__exit__()


class World(ScriptedWorld):
    """Everything, removed at the end."""

    NAME = "incident"

    def _begin(self, stack: ExitStack) -> None:
        self.down, self.busy = self.folder / "vendor-is-down", self.folder / "images-are-large"
        self.sick = self.folder / "mail-of-one-customer-bounces"
        self.hung = self.folder / "stock-sync-hangs"
        cluster = Cluster(self.folder)
        cluster.start()
        stack.callback(_quietly, cluster.stop)
        with psycopg.connect(cluster.url("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        self.url = cluster.url(DATABASE)
        self.sentry = stack.enter_context(receiving())
        self.environ = self.environment(
            self.url, JOBDECK_PLUGINS="", JOBDECK_HANDLERS="bench.outage.jobs", JOBDECK_CONCURRENCY=str(SLOTS),
            INCIDENT_FOLDER=str(self.folder),
        )  # fmt: skip
        os.environ.update({name: self.environ[name] for name in ("INCIDENT_FOLDER", "JOBDECK_PLUGINS")})
        self.command("init")
        self.conn = stack.enter_context(psycopg.connect(self.url, autocommit=True))

    def command(self, *arguments: str, environ: dict[str, str] | None = None) -> Ran:
        """Runs `jobdeck ARGUMENTS --json`.

        Raises:
            RuntimeError: it does not answer with JSON.
        """
        done = super().command(*arguments, environ=environ)
        if not done.data:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.code}: {done.text}")
        return done

    def start_dashboard(self) -> Dashboard:
        dashboard = Dashboard({**self.environ, "COLORTERM": "truecolor"})
        self._stack.callback(dashboard.close)
        return dashboard


def _quietly(stop: Callable[[], None]) -> None:
    with suppress(Exception):
        stop()
