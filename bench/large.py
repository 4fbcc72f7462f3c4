"""A queue of very many waiting jobs beside one of a million: sizes, ANALYZE, VACUUM, and what calls and pages take.

    .venv/bin/python bench/large.py --jobs 50000000 [--beside 1000000] [--rounds 100] [--folder FOLDER]

It starts an embedded Postgres in a new folder in FOLDER (the temporary one), makes both queues with the same mix, and
asks both by turns, so that the ratios do not depend on what else the machine does. The folder is removed at the end.
50,000,000 jobs need 30 GB there; --least-free-gb (25) stops the filling when less than that is left on the disk.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from alone import worker
from common import Timed, emit, options, say
from own_server import make_queue, own_server

from jobdeck.core.model import Filter, FinishedRun, NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, producer
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.pages import overview
from jobdeck.core.registry import JobType, Payload, Registry
from jobdeck.core.schema.components import queue_component

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.postgres.cluster import Cluster

Connection = psycopg.Connection[Any]

DUE = [f"due_{n}" for n in range(9)]
BATCH = 500_000
GIVE_UP_AFTER = 120
SERVER = {
    "max_wal_size": "2GB",
    "maintenance_work_mem": "512MB",
    "autovacuum": "off",  # ANALYZE and VACUUM are timed
}
# Of 20 jobs 9 are due, each of another type, 9 are scheduled for the next 30 days, one is behind one of 1,000 keys and
# one waits for another job. Triggers are off, since each row has all that they would write.
FILL = """
INSERT INTO job_queue (id, task_type, payload, priority, run_at, expires_at, dedupe_key, concurrency_key, in_line,
    blocked_by)
SELECT lpad(to_hex(n), 32, '0')::uuid,
    CASE WHEN kind < 9 THEN 'due_' || kind WHEN kind < 18 THEN 'noop' WHEN kind = 18 THEN 'keyed' ELSE 'blocked' END,
    jsonb_build_object('seq', 0, 'coachId', 'coach ' || n % 5000),
    CASE WHEN kind < 9 THEN n % 3 ELSE 0 END,
    CASE WHEN kind BETWEEN 9 AND 17 THEN now() + interval '1 day' + n::float8 / %(all)s * interval '30 days'
        ELSE now() - interval '2 hours' + n::float8 / %(all)s * interval '1 hour' END,
    CASE WHEN kind = 16 THEN now() + interval '60 days' END,
    CASE WHEN kind = 17 THEN 'once ' || n END,
    CASE WHEN kind = 18 THEN 'key ' || n / 20 % 1000 END,
    kind = 18 AND n / 20 >= 1000,
    CASE WHEN kind = 19 THEN lpad(to_hex(n / 20000 * 20000 + 9), 32, '0')::uuid END
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n, LATERAL (SELECT n % 20 AS kind) AS k
""".replace("% ", "%% ")
SIZES = """
SELECT relname, pg_relation_size(oid) FROM pg_class WHERE oid = 'job_queue'::regclass
UNION ALL SELECT i.indexrelid::regclass::text, pg_relation_size(i.indexrelid) FROM pg_index AS i
WHERE i.indrelid = 'job_queue'::regclass ORDER BY 2 DESC
"""


# What `bench/run` compares, by its name there: a measurement, and the share of its times that are below the one meant.
RECORDED = {
    "claim_one": ("claim one of one type", 0.5),
    "claim_hundred": ("claim a hundred of one type", 0.5),
    "claim_types": ("claim a hundred of nine types", 0.5),
    "claim_none": ("claim where nothing is due", 0.5),
    "pickup_p50": ("pickup", 0.5),
    "pickup_p95": ("pickup", 0.95),
    "counts": ("counts", 0.5),
}


class Params(Payload):
    """The argument of the no-op job."""

    seq: int
    coachId: str = ""


class Handler:
    """The no-op job: notes when a job with a number began."""

    def __init__(self) -> None:
        self.number, self.started, self.at = 0, threading.Event(), 0.0

    def __call__(self, params: Params, ctx: object) -> None:
        if params.seq == self.number:
            self.at = time.monotonic()
            self.started.set()


class Queue(Timed):
    """A queue with this many jobs."""

    def __init__(self, url: str, jobs: int) -> None:
        super().__init__(url)
        self.jobs = jobs


def fill(server: Cluster, jobs: int, folder: Path, least_free: int) -> Queue:
    """A new database with this number of jobs and all indexes; fewer jobs if the disk becomes too full."""
    address = make_queue(server, f"jobs_{jobs}", components=(queue_component(),))
    began, done = time.monotonic(), 0
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        conn.execute("SET session_replication_role = replica")
        while done < jobs and shutil.disk_usage(folder).free > least_free:
            last = min(done + BATCH, jobs)
            conn.execute(FILL, {"all": jobs, "first": done + 1, "last": last})
            done = last
            if done % (10 * BATCH) == 0:
                say(f"{done:,} of {jobs:,} jobs, {done / (time.monotonic() - began):,.0f} a second")
    say(f"{done:,} jobs in {time.monotonic() - began:,.0f} s")
    return Queue(address, done)


def maintain(queue: Queue, *, again: str = "") -> None:
    """Times ANALYZE and VACUUM."""
    for command in ("ANALYZE", "VACUUM"):
        queue.time(f"{command}{again}", lambda conn, command=command: conn.execute(f"{command} job_queue"))
    queue.conn.execute("CHECKPOINT")


def claim_and_finish(queue: Queue, name: str, types: list[str], limit: int) -> None:
    """Claims jobs and reports that they have succeeded, each in a transaction of its own."""
    claimed = queue.time(f"claim {name}", lambda conn: leases.claim(conn, "bench", types, limit, 60.0))
    assert len(claimed) == limit
    at = time.time()
    runs = [FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, at, at) for job in claimed]
    queue.time(f"finish {name}", lambda conn: leases.finish(conn, "bench", runs, retry_base=30.0, retry_cap=3600.0))


def reading(queue: Queue) -> None:
    """Times what the dashboard and the commands read."""
    queue.time("next_due of all types", lambda conn: leases.next_due(conn, [*DUE, "noop", "keyed"]))
    queue.time("claim where nothing is due", lambda conn: leases.claim(conn, "bench", ["noop"], 100, 60.0))
    queue.time("enqueue one", lambda conn: producer.enqueue(conn, NewJob("another", {"seq": 0}), actor="bench"))
    queue.time("counts", read_jobs.counts().run)
    queue.time("backlog by type", read_jobs.backlog().run)
    for status in (None, Status.PENDING):
        what = status.value if status else "all"
        page = queue.time(f"page of {what} jobs", read_jobs.page(Filter(status=status), limit=50).run)
        queue.time(f"second page of {what} jobs", read_jobs.page(Filter(status=status), limit=50, after=page.next).run)
    queue.time("first screen", read_jobs.snapshot(Filter()).run)
    queue.time("types with their figures", overview.types().run)
    queue.time("upkeep", lambda conn: leases.reap(conn, retry_base=30.0, retry_cap=3600.0))


FILTERS = {
    "pending jobs of one type": Filter(status=Status.PENDING, task_type="due_3"),
    "pending jobs of a type behind keys": Filter(status=Status.PENDING, task_type="keyed"),
    "pending jobs of no type": Filter(status=Status.PENDING, task_type="no such type"),
    "all jobs of one type": Filter(task_type="due_3"),
    "all jobs, payload key": Filter(payload=("coachId", "coach 77")),
    "all jobs, words that many have": Filter(search="due_7"),
    "all jobs, words that none has": Filter(search="no such words"),
    "pending jobs, words that none has": Filter(status=Status.PENDING, search="no such words"),
}


def filtering(queue: Queue) -> None:
    """Times pages with a filter, once each, since some read all jobs; a read that takes too long is given up."""
    queue.conn.execute(f"SET statement_timeout = '{GIVE_UP_AFTER}s'")
    for what, wanted in FILTERS.items():
        with suppress(psycopg.errors.QueryCanceled):
            queue.time(f"page of {what}", read_jobs.page(wanted, limit=50).run)
    queue.conn.execute("RESET statement_timeout")


def sessions(queue: Queue) -> list[tuple[Any, ...]]:
    """What the sessions of this queue's database do or wait for."""
    return queue.conn.execute(
        """
        SELECT application_name, state, now() - state_change, wait_event_type, wait_event, left(query, 200)
        FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        """
    ).fetchall()


def pickups(queue: Queue, jobs: int) -> None:
    """Times from the commit of an enqueue to the handler's start in an idle worker, scheduled jobs beside it."""
    handler = Handler()
    with worker(queue.url, Registry([JobType("noop", handler, "No-op", "Does nothing", Params)])):
        for number in range(1, jobs + 1):
            time.sleep(0.03)
            handler.number = number
            handler.started.clear()
            producer.enqueue(queue.conn, NewJob("noop", {"seq": number}), actor="bench")
            committed = time.monotonic()
            if not handler.started.wait(60):
                raise TimeoutError(f"a job was not picked up within a minute; the sessions: {sessions(queue)}")
            queue.times.setdefault("pickup", []).append(1000 * (handler.at - committed))


def measure(queues: list[Queue], rounds: int) -> None:
    """Asks all queues by turns."""
    for number in range(rounds):
        for queue in queues if number % 2 else reversed(queues):
            claim_and_finish(queue, "one of one type", ["due_0"], 1)
            claim_and_finish(queue, "a hundred of one type", ["due_1"], 100)
            claim_and_finish(queue, "a hundred of nine types", DUE, 100)
            reading(queue)
    say("the calls are measured")
    for queue in queues:
        filtering(queue)
    say("the filters are measured")
    for number in range(6):
        for queue in queues if number % 2 else reversed(queues):
            pickups(queue, max(5, rounds // 3))


def report(small: Queue, large: Queue) -> Iterator[str]:
    """The tables, in markdown."""
    yield f"| job_queue with {large.jobs:,} jobs | MB | bytes per job |"
    yield "|---|---:|---:|"
    sizes = large.conn.execute(SIZES).fetchall()
    for name, size in [("all of it", sum(size for _, size in sizes)), *sizes]:
        yield f"| {name} | {size / 2**20:,.0f} | {size / large.jobs:,.1f} |"
    yield ""
    yield f"| ms, and ratios | {small.jobs:,} jobs | {large.jobs:,} jobs | ratio | ratio of the fastest tenth |"
    yield "|---|---:|---:|---:|---:|"
    for name in large.times:
        for share in (0.5, 0.95) if name == "pickup" else (0.5,):
            one, other = small.quantile(name, share), large.quantile(name, share)
            least = large.quantile(name, 0.1) / small.quantile(name, 0.1)
            what = f"{name}{' p95' if share > 0.5 else ''}"
            yield f"| {what} | {one:,.2f} | {other:,.2f} | {other / one:.2f} | {least:.2f} |"


def record(small: Queue, large: Queue) -> dict[str, Any]:
    """The figures for `bench/run`: the times of the large queue and of the one beside it, and their ratios."""
    figures: dict[str, Any] = {"jobs": large.jobs, "beside": small.jobs}
    for name, (of, share) in RECORDED.items():
        one, other = small.quantile(of, share), large.quantile(of, share)
        figures |= {f"{name}_ms": other, f"beside_{name}_ms": one, f"{name}_ratio": other / one}
    for of in ("ANALYZE", "VACUUM"):
        one, other = small.quantile(of, 0.5), large.quantile(of, 0.5)
        figures |= {f"{of.lower()}_s": other / 1000, f"beside_{of.lower()}_s": one / 1000}
    return figures


def main() -> None:
    """Fills, measures and prints."""
    wanted = options(
        __doc__, jobs=50_000_000, beside=1_000_000, rounds=100, folder=Path(tempfile.gettempdir()), least_free_gb=25
    )
    with own_server(SERVER, wanted.folder) as server:
        queues = [
            fill(server, jobs, wanted.folder, wanted.least_free_gb * 2**30) for jobs in (wanted.beside, wanted.jobs)
        ]
        try:
            for queue in queues:
                maintain(queue)
            say("ANALYZE and VACUUM are done")
            measure(queues, wanted.rounds)
            for queue in queues:
                maintain(queue, again=" after the measurement")
            print("\n".join(report(*queues)))
            emit("large", **record(*queues))
        finally:
            for queue in queues:
                queue.conn.close()


if __name__ == "__main__":
    main()
