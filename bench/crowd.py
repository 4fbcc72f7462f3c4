"""Many workers on one queue: what idle ones ask, how many claims a job costs, and what a restart of Postgres does.

    PYTHONPATH=bench python bench/crowd.py [--workers 100] [--busy 10] [--rate 100]        one JSON line for each figure

The workers are objects in a few processes, each with the threads and connections of a worker of its own. What they
send is counted in their processes. Starts a Postgres of its own.
"""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import common
import crowd_jobs
import own_server
import peer_jobdeck as peer
import psycopg

from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, producer
from jobdeck.core.registry import load
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

DATABASE = "bench_crowd"
BIN = 0.1
BINS = 10_000
KINDS = ("claims", "statements", "connections")
SETTLE_SECONDS = 15.0
"""Each has reported once more by then, and so knows how many there are."""
BURST = 1000


class Counts:
    """What each process of workers has sent, in bins of a tenth of a second, in memory that processes share."""

    def __init__(self, processes: int) -> None:
        self.began = time.monotonic()
        self._bins = [{kind: common.spawn.RawArray(ctypes.c_int32, BINS) for kind in KINDS} for _ in range(processes)]

    def counter(self, process: int, kind: str) -> Callable[[], None]:
        """Counts one more when it is called, from any thread of that process."""
        bins, lock = self._bins[process][kind], threading.Lock()

        def count() -> None:
            with lock:
                bins[int((time.monotonic() - self.began) / BIN)] += 1

        return count

    def between(self, kind: str, start: float, end: float) -> list[int]:
        """The numbers of all bins between two monotonic times."""
        first, last = (int((at - self.began) / BIN) for at in (start, end))
        return [sum(one[kind][at] for one in self._bins) for at in range(first, last)]


def counting(counts: Counts, process: int) -> None:
    """Makes this process count its claims, statements and connections."""
    claim, execute, connect, answer = leases.claim, psycopg.Cursor.execute, psycopg.connect, leases.answer
    claimed, sent, opened = (counts.counter(process, kind) for kind in KINDS)

    def counted_claim(*args: Any, **kwargs: Any) -> Any:
        claimed()
        return claim(*args, **kwargs)

    def counted_execute(*args: Any, **kwargs: Any) -> Any:
        sent()
        return execute(*args, **kwargs)

    def counted_answer(*args: Any, **kwargs: Any) -> Any:
        found = answer(*args, **kwargs)
        if found is not None:
            sent()
        return found

    def counted_connect(*args: Any, **kwargs: Any) -> Any:
        opened()
        return connect(*args, **kwargs)

    leases.claim = counted_claim  # type: ignore[assignment]
    leases.answer = counted_answer  # type: ignore[attr-defined]
    psycopg.Cursor.execute = counted_execute  # type: ignore[method-assign]
    psycopg.connect = counted_connect


def work(
    url: str, process: int, kinds: list[str], number: int, tally: common.Tally, counts: Counts, ready: Any
) -> None:
    """The main function of a process of workers."""
    counting(counts, process)
    peer.Noop.handler = staticmethod(tally.handler(process))
    types = load([peer.__name__, crowd_jobs.__name__])
    settings = Settings()
    for _ in range(number):
        database = Database(url, application_name="jobdeck bench", max_size=settings.concurrency + 2)
        Worker(database, types, settings, task_types=kinds).start()
    ready.release()
    # A worker stops when the main thread of its process has ended.
    threading.Event().wait()


@contextmanager
def crowd(url: str, args: argparse.Namespace, tally: common.Tally, counts: Counts) -> Iterator[None]:
    """The workers; the first `busy` of them have no free slot."""
    with psycopg.connect(url, autocommit=True) as conn:
        producer.enqueue_many(
            conn, [NewJob("held_noop", {"seq": 0})] * (Settings().concurrency * args.busy), actor="bench"
        )
    idle = (args.workers - args.busy) // (args.processes - 1)
    plan = [(["noop", "burst_noop", "held_noop"], args.busy)] if args.busy else []
    plan += [(["noop", "burst_noop"], idle)] * (args.processes - len(plan))
    ready = common.spawn.Semaphore(0)
    processes = [
        common.spawn.Process(target=work, args=(url, at, kinds, number, tally, counts, ready), daemon=True)
        for at, (kinds, number) in enumerate(plan)
    ]
    try:
        for process in processes:
            process.start()
        for _ in processes:
            while not ready.acquire(timeout=1):
                if not all(process.is_alive() for process in processes):
                    raise RuntimeError("a process of workers ended by itself")
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def idle(counts: Counts, args: argparse.Namespace) -> None:
    """What all workers send while nothing is enqueued."""
    began = time.monotonic()
    time.sleep(args.seconds)
    end = time.monotonic()
    each = args.workers * (end - began)
    common.emit(
        "crowd_idle",
        workers=args.workers,
        statements_per_s=sum(counts.between("statements", began, end)) / each,
        claims_per_s=sum(counts.between("claims", began, end)) / each,
    )


def enqueues(url: str, counts: Counts, tally: common.Tally, args: argparse.Namespace) -> None:
    """Claims and statements of all workers for each job, and the time from the enqueue to the start."""
    total = int(args.rate * args.seconds)
    committed = {}
    with psycopg.connect(url, autocommit=True) as conn:
        began = time.monotonic()
        for seq in range(1, total + 1):
            time.sleep(max(0.0, began + seq / args.rate - time.monotonic()))
            producer.enqueue(conn, NewJob("noop", {"seq": seq}), actor="bench")
            committed[seq] = time.monotonic()
        end = time.monotonic()
    wait(lambda: all(tally.started[seq] for seq in committed))
    delays = sorted(1000 * (tally.started[seq] - at) for seq, at in committed.items())
    common.emit(
        "crowd_enqueues",
        workers=args.workers,
        busy=args.busy,
        jobs=total,
        rate=total / (end - began),
        claims_per_job=sum(counts.between("claims", began, end)) / total,
        statements_per_job=sum(counts.between("statements", began, end)) / total,
        p50_ms=common.percentile(delays, 0.5),
        p95_ms=common.percentile(delays, 0.95),
        p99_ms=common.percentile(delays, 0.99),
        most_ms=delays[-1],
    )


def bursts(url: str, tally: common.Tally, args: argparse.Namespace, first: int) -> None:
    """The time until the last of many jobs, enqueued at once, has begun; each waits for a twentieth of a second."""
    taken = []
    for number in range(args.bursts):
        start = first + number * BURST
        jobs = [NewJob("burst_noop", {"seq": seq}) for seq in range(start, start + BURST)]
        with psycopg.connect(url, autocommit=True) as conn:
            began = time.monotonic()
            producer.enqueue_many(conn, jobs, actor="bench")
        wait(lambda start=start: all(tally.started[start : start + BURST]))  # type: ignore[misc]
        taken.append(max(tally.started[start : start + BURST]) - began)
        time.sleep(2)
    middle = sorted(taken)[len(taken) // 2]
    common.emit("crowd_burst", workers=args.workers, jobs=BURST, seconds=middle, all_seconds=taken)


def restarted(server: Any, counts: Counts, args: argparse.Namespace) -> None:
    """Connections and claims of all workers in the first five seconds after Postgres is back."""
    server.stop()
    time.sleep(args.down)
    server.start()
    back = time.monotonic()
    time.sleep(5.5)
    opened, claims = (counts.between(kind, back, back + 5) for kind in ("connections", "claims"))
    common.emit(
        "crowd_restart",
        workers=args.workers,
        connections=sum(opened),
        most_connections_in_100_ms=max(opened),
        claims=sum(claims),
        most_claims_in_100_ms=max(claims),
        claims_by_second=[sum(claims[at : at + 10]) for at in range(0, 50, 10)],
        connections_by_second=[sum(opened[at : at + 10]) for at in range(0, 50, 10)],
    )


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + common.GIVE_UP_AFTER
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the jobs took longer than {common.GIVE_UP_AFTER:g} s")
        time.sleep(0.01)


def main() -> None:
    # `busy` of the workers have no free slot; each part is measured for `seconds`; Postgres is stopped for `down`.
    args = common.options(__doc__, workers=100, processes=10, busy=10, rate=100.0, seconds=20.0, bursts=3, down=3.0)
    total = int(args.rate * args.seconds) + args.bursts * BURST
    tally, counts = common.Tally(total, args.processes), Counts(args.processes)
    with own_server.own_server() as server:
        url = own_server.make_queue(server, DATABASE)
        with crowd(url, args, tally, counts):
            time.sleep(SETTLE_SECONDS)
            enqueues(url, counts, tally, args)
            time.sleep(2)
            bursts(url, tally, args, int(args.rate * args.seconds) + 1)
            idle(counts, args)
            restarted(server, counts, args)


if __name__ == "__main__":
    main()
