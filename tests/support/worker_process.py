"""A worker in a process of its own, to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def worker_process(url: str, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """One `python -m core worker` with a short lease; it is killed at the end if it still lives."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(folder),
        "JOBDECK_STATE_DIR": str(folder / "state"),
        "JOBDECK_LEASE_SECONDS": "1.5",
        "JOBDECK_HEARTBEAT_SECONDS": "0.5",
        "JOBDECK_RETRY_BASE_SECONDS": "0",
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
