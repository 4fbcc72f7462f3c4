"""What is left behind at the end of a sweep, while its workers are idle and after they have ended."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.faults.misdeeds import STAYS_SECONDS
from bench.faults.server import ROLE
from bench.faults.stage import CONCURRENCY
from jobdeck.core.queue import operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.faults.stage import Stage
    from bench.scripted.world import Worker

PROCESSES = os.cpu_count() or 1
MOST = {"threads": CONCURRENCY + PROCESSES + 25, "descriptors": 120, "children": PROCESSES + 3}
"""Of an idle worker. One that has run nothing but plain jobs has a few less."""
END_SECONDS = 60.0
STUCK = "SELECT count(*) FROM job_queue WHERE status = 'running' AND started_at < now() - interval '1 minute'"
HELD = {
    "sessions of the workers": f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'",
    "advisory locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    "running jobs": "SELECT count(*) FROM job_queue WHERE status = 'running'",
}


def left_behind(stage: Stage, canaries: Sequence[int]) -> Iterator[str]:
    """A sentence for each thing that is left. Ends the workers."""
    live = [worker.process.pid for worker in stage.workers if worker.process.poll() is None]
    for pid in live:
        stage.notes[f"an idle worker has {_of(pid)}"] += 1
        for what, most in MOST.items():
            if not _becomes(lambda pid=pid, what=what, most=most: _of(pid)[what] <= most):  # type: ignore[misc]
                yield f"an idle worker has {_of(pid)[what]} {what}, more than {most}"
    with stage.server.connect(role=ROLE) as conn:
        asked = [operator.canary_answer(conn, canary) for canary in canaries]
    yield from (f"canary {one.canary} is still {one.state}" for one in asked if not one.settled)
    with stage.server.connect() as conn:
        stuck = conn.execute(STUCK.encode()).fetchone() != (0,)
    yield from _stop(stage.workers, stuck=stuck)
    if not _becomes(lambda: not _processes(stage)):
        yield f"processes of workers that have ended: {_processes(stage)}"
    for what, statement in HELD.items():
        with stage.server.connect() as conn:
            if not _becomes(lambda statement=statement: conn.execute(statement.encode()).fetchone() == (0,)):  # type: ignore[misc]
                yield f"{what} after the end of all workers: {conn.execute(statement.encode()).fetchone()}"


def _stop(workers: Sequence[Worker], *, stuck: bool) -> Iterator[str]:
    """Ends all workers, and says where the threads are of one that does not end, and of all if a job is stuck."""
    for worker in workers:
        if stuck:
            yield f"a worker, beside a job that is stuck: {worker.abort()}"
        elif how := worker.stop(END_SECONDS):
            yield f"a worker {how}"


def _becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + END_SECONDS + STAYS_SECONDS
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


def _of(pid: int) -> dict[str, int]:
    own = Path(f"/proc/{pid}")
    children = [child for task in own.glob("task/*/children") for child in task.read_text().split()]
    return {
        "threads": len(list(own.glob("task/*"))),
        "descriptors": len(list(own.glob("fd/*"))),
        "children": sum("(zombie)" not in Path(f"/proc/{child}/status").read_text() for child in children),
    }


def _processes(stage: Stage) -> list[str]:
    """The processes that workers or their handlers have started: they have the environment of the workers."""
    mark = f"SWEEP_EFFECTS={stage.effects}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                found.append(environ.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
