"""What finishes wait while partitions of the history are dropped, also beside a transaction like that of pg_dump."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.model import FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, producer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.history import Queue


class Finishing(threading.Thread):
    """Enqueues, claims and finishes jobs one by one, and notes when each was finished."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._over, self.at = url, threading.Event(), list[float]()

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as conn:
            while not self._over.is_set():
                producer.enqueue(conn, NewJob("single", {"seq": 0}), actor="bench")
                found = leases.claim(conn, "bench", ["single"], 1, 60.0)
                at = time.time()
                runs = [FinishedRun(one.id, one.run_token, RunOutcome.SUCCEEDED, at, at) for one in found]
                leases.finish(conn, "bench", runs, retry_base=30.0, retry_cap=3600.0)
                self.at.append(time.perf_counter())

    def stop(self) -> None:
        self._over.set()
        self.join()

    def longest(self, began: float, ended: float) -> float:
        """The longest time without a finish in this period, in milliseconds."""
        at = [one for one in self.at if began - 1 < one < ended + 1]
        return 1000 * max(after - before for before, after in itertools.pairwise(at))


@contextmanager
def dump(url: str) -> Iterator[None]:
    """A transaction that holds all tables of the history, as pg_dump does."""
    with psycopg.connect(url) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        conn.execute("LOCK TABLE job_runs IN ACCESS SHARE MODE")
        yield


def drop_oldest(queue: Queue) -> str | None:
    """One pass of upkeep, by which the oldest partition's time is over. Returns its trouble."""
    queue.conn.execute(
        "INSERT INTO job_run_partitions (name, closed_at) SELECT name, now() - interval '40 days' FROM job_run_ranges()"
        " ORDER BY first_token NULLS FIRST LIMIT 1 ON CONFLICT (name) DO UPDATE SET closed_at = excluded.closed_at"
    )
    queue.conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour', failed_at = NULL")
    row = queue.time(
        "pruning pass",
        lambda conn: conn.execute("SELECT trouble FROM job_queue_upkeep('old partitions', 30, 3600)").fetchone(),
    )
    return row[0] if row else None


def prune(queue: Queue) -> dict[str, Any]:
    """Drops partitions beside single finishes, also while another transaction holds them."""
    found: dict[str, Any] = {"pruned_by": "drop"}
    finishing = Finishing(queue.url)
    finishing.start()
    try:
        while len(finishing.at) < 200:
            time.sleep(0.1)
        quiet = finishing.longest(finishing.at[0], finishing.at[-1])

        def gap(what: str, expected: bool) -> None:
            before = queue.conn.execute("SELECT count(*) FROM job_run_ranges()").fetchone()
            began, seen = time.perf_counter(), len(finishing.at)
            trouble = drop_oldest(queue)
            ended = time.perf_counter()
            while len(finishing.at) < seen + 50:
                time.sleep(0.1)
            after = queue.conn.execute("SELECT count(*) FROM job_run_ranges()").fetchone()
            assert (before != after, trouble is None) == (expected, expected), (what, trouble)
            found[f"{what}_seconds"] = round(ended - began, 4)
            found[f"{what}_longest_gap_ms"] = round(finishing.longest(began, ended), 1)

        gap("prune", expected=True)
        with dump(queue.url):
            for _ in range(3):
                gap("prune_beside_dump", expected=False)
        gap("prune_after_dump", expected=True)
        found["no_pruning_longest_gap_ms"] = round(quiet, 1)
    finally:
        finishing.stop()
    return found
