"""Bursts of long, short and mixed jobs over two workers: how much later jobs begin than free slots could begin them.

    PYTHONPATH=bench python bench/bursts.py [--repeat 3]        one JSON line for each burst and situation

The workers are processes, on a Postgres of the program's own. A job should begin when the jobs before it leave a slot
free: `late_s` is how much later it began, by the times that the jobs took, and `slot_free_most_s` the most of it in the
order in which the jobs began.
"""

from __future__ import annotations

import argparse
import heapq
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import burst_jobs
import common
import own_server
import psycopg

from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer
from jobdeck.core.registry import load
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DATABASE = "bench_bursts"
SLOTS = 10
"""Of each worker."""
LONG, SHORT = 3.0, 0.005
BURSTS = {
    "long": [LONG] * (4 * SLOTS),
    "short": [SHORT] * 1000,
    "mixed": ([SHORT] * 19 + [LONG]) * 40,
}
"""The seconds of the jobs, in their order. The type is the same, but not in the mixed burst."""
SITUATIONS = ("idle", "idle after short jobs", "one has no free slot")
SETTLE_SECONDS = 3.0
GIVE_UP_AFTER = 60.0


def work(url: str, kinds: Sequence[str], began: Any, ended: Any, ready: Any) -> None:
    """The main function of a worker's process."""
    burst_jobs.Begins.began, burst_jobs.Begins.ended = began, ended
    database = Database(url, application_name="jobdeck bench", max_size=SLOTS + 3)
    Worker(database, load([burst_jobs.__name__]), Settings(), task_types=kinds, concurrency=SLOTS).start()
    ready.release()
    # A worker stops when the main thread of its process has ended.
    threading.Event().wait()


@contextmanager
def two_workers(url: str, began: Any, ended: Any) -> Iterator[None]:
    """Two workers; only the first one has the type whose jobs keep slots."""
    ready = common.spawn.Semaphore(0)
    kinds = (["burst", "other", "held"], ["burst", "other"])
    processes = [
        common.spawn.Process(target=work, args=(url, names, began, ended, ready), daemon=True) for names in kinds
    ]
    try:
        for process in processes:
            process.start()
        for _ in processes:
            if not ready.acquire(timeout=GIVE_UP_AFTER):
                raise RuntimeError("a process of a worker did not start")
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_until_none(conn: psycopg.Connection[Any], statement: str) -> None:
    """Waits until a statement finds no row."""
    deadline = time.monotonic() + GIVE_UP_AFTER
    while common.finds_row(conn, statement):
        if time.monotonic() > deadline:
            raise TimeoutError("the jobs took too long")
        time.sleep(0.02)


def lateness(at: float, slots: int, began: Sequence[float], ended: Sequence[float]) -> list[float]:
    """How much later each job began than with `slots` that take the jobs in their order, all of them free at `at`."""
    free = [at] * slots
    late = []
    for start, end in zip(began, ended, strict=True):
        possible = heapq.heappop(free)
        late.append(start - possible)
        heapq.heappush(free, possible + end - start)
    return late


def measure(server: Any, burst_name: str, situation: str) -> None:
    """One burst over two fresh workers."""
    seconds = BURSTS[burst_name]
    url = own_server.make_queue(server, DATABASE)
    began, ended = (common.spawn.RawArray("d", len(seconds)) for _ in range(2))
    with psycopg.connect(url, autocommit=True) as conn, two_workers(url, began, ended):
        slots = 2 * SLOTS
        if situation == "one has no free slot":
            producer.enqueue_many(conn, [NewJob("held", {"seq": -1, "seconds": 3600.0})] * SLOTS, actor="bench")
            time.sleep(SETTLE_SECONDS)
            slots = SLOTS
        if situation == "idle after short jobs":
            before = [NewJob(name, {"seq": -1, "seconds": SHORT}) for name in ("burst", "other")]
            producer.enqueue_many(conn, before * 200, actor="bench")
            wait_until_none(conn, "SELECT FROM job_queue")
            time.sleep(SETTLE_SECONDS)
        names = ["other" if burst_name == "mixed" and took == LONG else "burst" for took in seconds]
        jobs = [
            NewJob(name, {"seq": seq, "seconds": took})
            for seq, (name, took) in enumerate(zip(names, seconds, strict=True))
        ]
        producer.enqueue_many(conn, jobs, actor="bench")
        at = time.monotonic()
        wait_until_none(conn, "SELECT FROM job_queue WHERE task_type <> 'held'")
        late = sorted(lateness(at, slots, began, ended))
        # In the order in which they began: short jobs may begin before a long one without a slot being free for it.
        waited = max(lateness(at, slots, *zip(*sorted(zip(began, ended, strict=True)), strict=True)))
        released = conn.execute("SELECT count(*) FROM job_runs WHERE outcome = 'released'").fetchone()
    common.emit(
        "burst",
        burst=burst_name,
        situation=situation,
        jobs=len(seconds),
        slots=slots,
        late_p50_s=late[len(late) // 2],
        late_most_s=late[-1],
        slot_free_most_s=waited,
        released_runs=released[0] if released else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--burst", choices=BURSTS, action="append")
    args = parser.parse_args()
    with own_server.own_server() as server:
        for _ in range(args.repeat):
            for burst_name in args.burst or BURSTS:
                for situation in SITUATIONS:
                    measure(server, burst_name, situation)


if __name__ == "__main__":
    main()
