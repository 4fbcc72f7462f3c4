"""Compares what a drain costs with two versions of `schema.sql`, in turns, by processor time of the server's session.

Processor time instead of the clock, so that other work on the machine changes the result little:

    python -m bench.schema_turns OTHER.sql --turns 20 --batch 500

A turn enqueues jobs, claims and finishes them in batches, and does one pass of upkeep. The enqueue is not measured.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from jobdeck.core.model import FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, producer
from jobdeck.core.schema import schema_text
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).parent.parent


def joined(schema: Path) -> str:
    """The text of a `schema.sql`, with that of the parts which it includes."""
    text = schema.read_text(encoding="utf-8")
    return re.sub(r"^\\ir (\S+)$", lambda found: joined(schema.parent / found[1]), text, flags=re.MULTILINE)


class Session:
    """A database with one version of the schema, and the session that drains it."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.conn = psycopg.connect(server.url(server.create_database()), autocommit=True)
        with self.conn.transaction():
            self.conn.execute(schema.encode())
        self.conn.execute("ALTER TABLE job_queue SET (autovacuum_enabled = off)")

    def used(self) -> float:
        """The processor time of the session in seconds."""
        return int(Path(f"/proc/{self.conn.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9

    def turn(self, jobs: int, batch: int, fail_each: int) -> tuple[float, float]:
        """The processor time and the time of one turn, in seconds."""
        self.conn.execute("TRUNCATE job_queue, job_runs")
        producer.enqueue_many(self.conn, [NewJob("noop", payload={"seq": n}) for n in range(jobs)], actor="bench")
        self.conn.execute("VACUUM ANALYZE job_queue")
        used, began, done = self.used(), time.perf_counter(), 0
        while claimed := leases.claim(self.conn, "bench", ["noop"], batch, 60.0):
            leases.finish(
                self.conn, "bench", [_report(job, fail_each) for job in claimed], retry_base=30, retry_cap=3600
            )
            done += len(claimed)
        assert done == jobs
        self.conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour' WHERE part = 'stats'")
        leases.reap(self.conn, retry_base=30, retry_cap=3600)
        return self.used() - used, time.perf_counter() - began


def _report(job: Any, fail_each: int) -> FinishedRun:
    at = job.claimed_at.timestamp()
    if fail_each and job.run_token % fail_each == 0:
        return FinishedRun(
            job.id, job.run_token, RunOutcome.FAILED, at, at + 0.01, error_kind="Boom", permanent=True,
            error=f"The vendor answered 503 for order {job.run_token}",
        )  # fmt: skip
    return FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, at, at + 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the schema.sql to compare with")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--fail-each", type=int, default=0, help="each n-th run fails; 0: none")
    wanted = parser.parse_args()
    server = PostgresServer.start_new(None)
    try:
        sessions = [
            Session(server, joined(wanted.other)),
            Session(server, schema_text()),
        ]
        ratios: list[tuple[float, float]] = []
        for number in range(wanted.turns + 1):
            order = sessions if number % 2 else sessions[::-1]
            took = {session: session.turn(wanted.jobs, wanted.batch, wanted.fail_each) for session in order}
            (other_used, other_took), (used, seconds) = (took[session] for session in sessions)
            if number:  # the first turn fills caches
                ratios.append((used / other_used, seconds / other_took))
        for name, values in zip(("processor time", "time"), zip(*ratios, strict=True), strict=True):
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{name}: {middle:.3f} of that of {wanted.other} (quartiles {low:.3f} to {high:.3f})")
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
