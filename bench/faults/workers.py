"""The worker processes of a sweep, and the environment that they and the commands run in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bench.faults.vendors import settings_env

if TYPE_CHECKING:
    from jobdeck.core.programme.sandbox.server import Sandbox

ROOT = Path(__file__).resolve().parents[2]
OLD_PROGRAM = ROOT / "tests" / "upgrade" / "program-0.1.0.tar.xz"
LEASE_SECONDS = 10.0
CONCURRENCY = 24
STOP_SECONDS = 180.0
# A worker that was started before the upgrade has compared the versions then. One that starts now would refuse.
START_OLD = (
    "import sys, core.schema; core.schema.check_schema = lambda conn: None; from core.cli import main; sys.exit(main())"
)


class Worker:
    """One worker process, started again when asked to."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
        self.free = threading.Lock()
        self._command = command
        self._folder = folder
        self._environment = environment
        self._log = log
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def start(self) -> None:
        self.process = self._started()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int | None:
        """Terminates the worker and returns its exit code; None if it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


def new_worker(url: str, folder: Path, sandbox: Sandbox, number: int) -> Worker:
    """A worker of this checkout."""
    command = [sys.executable, "-m", "core", "worker"]
    return Worker(command, ROOT, environment(url, folder, sandbox), folder / f"worker-{number}.log")


def old_worker(url: str, folder: Path, sandbox: Sandbox) -> Worker:
    """A worker of 0.1.0, as if it had been started before the schema was upgraded."""
    program = folder / "program-0.1.0"
    if not program.exists():
        with tarfile.open(OLD_PROGRAM) as archive:
            archive.extractall(program, filter="data")
        jobs = (ROOT / "bench" / "faults" / "jobs.py").read_text()
        (program / "sweep_jobs.py").write_text(jobs.replace("jobdeck.core.", "core."))
    changes = {
        "PYTHONPATH": str(program),
        "PYTHONSAFEPATH": "1",
        "JOBDECK_HANDLERS": "sweep_jobs",
        "JOBDECK_STATE_DIR": str(folder / "old-state"),
    }
    command = [sys.executable, "-c", START_OLD, "worker"]
    return Worker(command, program, environment(url, folder, sandbox) | changes, folder / "worker-old.log")


def environment(url: str, folder: Path, sandbox: Sandbox) -> dict[str, str]:
    """The environment of a worker or a command."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBDECK_", "SENTRY_"))}
    return {
        **inherited,
        **settings_env(sandbox),
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(folder),
        "JOBDECK_STATE_DIR": str(folder / "state"),
        "JOBDECK_PLUGINS": "competition",
        "JOBDECK_HANDLERS": "bench.faults.jobs,bench.faults.messages",
        "JOBDECK_CONCURRENCY": str(CONCURRENCY),
        "JOBDECK_LEASE_SECONDS": str(LEASE_SECONDS),
        "JOBDECK_HEARTBEAT_SECONDS": str(LEASE_SECONDS / 4),
        "JOBDECK_RETRY_BASE_SECONDS": "0",
        "JOBDECK_DRAIN_SECONDS": "5",
        "SWEEP_EFFECTS": str(folder / "effects.jsonl"),
    }
