"""Workers as processes of their own, killed with SIGKILL at chosen moments, judged by the sandbox's log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from jobdeck.core.programme.sandbox.server import Sandbox
from tests.core.handlers.mail_world import QUICK
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import STANDING, bury

ROOT = Path(__file__).resolve().parents[3]


class Workers:
    """Starts workers against one database and one sandbox, and kills them."""

    def __init__(self, url: str, sandbox: Sandbox, folder: Path, **settings: Any) -> None:
        self._url = url
        self._environment = {
            **os.environ,
            **sandbox.settings_env(),
            **{name: str(value) for name, value in (QUICK | settings).items()},
            **STANDING,
            "JOBDECK_CONCURRENCY": "1",
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": url,
            "XDG_CONFIG_HOME": str(folder),
            "JOBDECK_STATE_DIR": str(folder / "state"),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts a worker; an earlier one must be dead."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "core", "worker"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Ends the worker at once, as a power cut would, and its leases, so that the next one can go on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=PATIENCE)
            bury(self._url)


@contextmanager
def workers(url: str, sandbox: Sandbox, folder: Path, **settings: Any) -> Iterator[Workers]:
    """Workers, none of which outlives the test."""
    made = Workers(url, sandbox, folder, **settings)
    try:
        yield made
    finally:
        made.kill()


def job_is_gone(conn: Connection, job_id: UUID) -> bool:
    """Whether a job has left the queue: a one-time job does so when it has succeeded."""
    row = conn.execute("select status, last_error from job_queue where id = %s", (job_id,)).fetchone()
    assert row is None or row[0] in {"pending", "running"}, row
    return row is None


def kill_at_request(
    sandbox: Sandbox, workers: Workers, number: int, moment: Literal["before", "after"]
) -> threading.Event:
    """Kills the worker while SendGrid has its request of this number: before or after taking the mail."""
    original = sandbox.sendgrid.answer
    count = iter(range(1, 1_000_000))
    killed = threading.Event()

    def answer(method: str, path: str, *rest: Any) -> Any:
        if next(count) != number:
            return original(method, path, *rest)
        reply: Any = (401, {}, {})
        if moment == "after":
            reply = original(method, path, *rest)
        workers.kill()
        killed.set()
        return reply

    sandbox.sendgrid.answer = answer  # type: ignore[method-assign,assignment]
    return killed


def kill_while_it_waits(crew: Workers, holder: Connection, conn: Connection) -> None:
    """Starts a worker, and kills it once it waits for what a connection holds; its own connections end with it."""
    held = (holder.info.backend_pid,)

    def waits() -> bool:
        found = conn.execute(
            "select count(*) > 0 from pg_stat_activity where %s = any (pg_blocking_pids(pid))", held
        ).fetchone()
        return found == (True,)

    crew.start()
    until(waits, "a statement that waits")
    crew.kill()
