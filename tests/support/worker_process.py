"""A worker in a process of its own, to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.queue import Connection
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]

STANDING = {
    "JOBDECK_LEASE_SECONDS": "60", "JOBDECK_HEARTBEAT_SECONDS": "0.3", "JOBDECK_RETRY_BASE_SECONDS": "0"
}  # fmt: skip
"""The lease outlasts every pause of a busy machine: a test that kills a worker ends it by hand, with `bury`."""


def bury(url: str) -> None:
    """Does for a killed worker what the server and time would: its sessions end, and then its leases.

    The next worker takes its jobs back with the first pass of the reaper, which is at its start.
    """
    with Connection.connect(url, autocommit=True) as conn:

        def sessions() -> int:
            return conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'jobdeck worker'"
            ).rowcount

        until(lambda: not sessions(), "the end of the worker's sessions")
        conn.execute("UPDATE job_queue SET lease_expires_at = clock_timestamp() WHERE status = 'running'")


@contextmanager
def worker_process(url: str, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """One `python -m core worker`; it is killed at the end if it still lives."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(folder),
        "JOBDECK_STATE_DIR": str(folder / "state"),
        **STANDING,
        **settings,
    }
    with (folder / "worker.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "core", "worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
