"""A long history of runs beside a short one: what finishes, pages, commands and pruning take.

    .venv/bin/python bench/history.py --rows 100000000 [--beside 1000000] [--rounds 30] [--folder FOLDER]

It starts a Postgres of its own in FOLDER (the temporary one), fills the history of two queues, and asks both by turns,
so that the ratios do not depend on what else the machine does. 100,000,000 runs need 27 GB there, and 4 GB for the log;
--least-free-gb (15) ends the filling before less than that is left on the disk. The last line is the result as JSON.

The long history covers 100,000,000 run tokens, in the partitions of 10,000,000 that upkeep makes; with fewer runs there
are gaps between the tokens, so that a quick run has as many partitions. The short one is in the first partition.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from common import Timed, emit, options, say
from history_pruning import prune
from own_server import make_queue, own_server, settle

from jobdeck.core.model import Filter, FinishedRun, NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, producer
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.pages import overview, series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobdeck.core.postgres.cluster import Cluster

ROOT = Path(__file__).resolve().parents[1]
Connection = psycopg.Connection[Any]

TOKENS = 100_000_000
RANGE = 10_000_000
JOBS, BATCH = 4000, 500
GIVE_UP_AFTER = 120
SETTINGS = {"autovacuum": "off", "max_wal_size": "4GB", "maintenance_work_mem": "512MB"}  # VACUUM is timed
UNLOGGED = {"wal_level": "minimal", "max_wal_senders": "0"}
# Nine of ten runs are the only one of their job, three of a hundred of these have failed once; the tenth is one of a
# thousand series.
FILL = """
INSERT INTO {table} (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at,
    outcome, removed, error_kind, error, fingerprint, output, created_by, dry_run)
SELECT n * {step}, CASE WHEN again THEN ('00000000-0000-7000-8000-' || lpad(to_hex(n / 10 % 1000), 12, '0'))::uuid
        ELSE (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008'
            || lpad(to_hex(n), 15, '0'))::uuid
    END, 'type_' || n % 20, jsonb_build_object('seq', n), 1, 'worker-' || n % 4, at, at, at + interval '20 ms',
    CASE WHEN failed THEN 'retried' ELSE 'succeeded' END, NOT again AND NOT failed,
    CASE WHEN failed THEN 'TimeoutError' END, CASE WHEN failed THEN 'no answer after 30 s' END,
    CASE WHEN failed THEN '0123456789ab' END, CASE WHEN n % 4 = 0 THEN jsonb_build_object('rows', n % 97) END,
    'bench', false
FROM generate_series({first}::bigint, {last}::bigint) AS n,
    LATERAL (SELECT now() - interval '29 days' * (1 - n::float8 / {rows}), n % 10 = 0, n % 33 = 1 AND n % 10 <> 0)
        AS t (at, again, failed)
"""
SERIES = """
INSERT INTO job_queue (id, task_type, run_at, is_recurring, recurrence_interval_minutes, dedupe_key)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'type_' || n % 20, now() + interval '1 day',
    true, 60, 'series ' || n
FROM generate_series(0, 999) AS n
"""
SIZES = """
SELECT count(*), sum(pg_relation_size(i.inhrelid)), sum(pg_indexes_size(i.inhrelid)),
    sum(pg_total_relation_size(i.inhrelid))
FROM pg_inherits AS i WHERE i.inhparent = 'job_runs'::regclass
"""


class Queue(Timed):
    """A queue with this many runs, a token at each step."""

    def __init__(self, url: str, rows: int, step: int) -> None:
        super().__init__(url)
        self.rows, self.step = rows, step

    def job_of(self, number: int) -> Any:
        """The job of the run with this number in the order of filling."""
        found = self.conn.execute("SELECT job_id FROM job_runs WHERE run_token = %s", [number * self.step]).fetchone()
        assert found is not None
        return found[0]


def fill_partition(conn: Connection, name: str, first: int | None, following: int | None, select: str) -> None:
    """Makes a partition with these rows, then its indexes, in one transaction: so the rows are not logged."""
    with conn.transaction():
        conn.execute("SELECT job_run_make(%s)", [name])
        kept = conn.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE '%%_pkey'", [name]
        ).fetchall()
        conn.execute(f"ALTER TABLE {name} DROP CONSTRAINT {name}_pkey")
        for index, _ in kept:
            conn.execute(f"DROP INDEX {index}")
        conn.execute(select)
        conn.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (run_token, late)")
        for _, definition in kept:
            conn.execute(definition)
        conn.execute("SELECT job_run_attach(%s, %s, %s)", [name, first, following])


def fill(server: Cluster, name: str, rows: int, step: int, least_free: int) -> Queue:
    """A queue with this many runs, a token at each step; fewer of them if the disk becomes too full."""
    url = make_queue(server, name)
    began, done = time.perf_counter(), 0
    per_range = RANGE // step
    with psycopg.connect(url, autocommit=True) as conn:
        for (old,) in conn.execute("SELECT name FROM job_run_ranges()").fetchall():
            conn.execute(f"DROP TABLE {old}")
        token = 0
        while done < rows and shutil.disk_usage(tempfile.gettempdir()).free > least_free:
            last = min((token + RANGE) // step - (0 if (token + RANGE) % step else 1), rows)
            table = f"job_runs_{token}"
            select = FILL.format(table=table, step=step, first=done + 1, last=last, rows=rows)
            fill_partition(conn, table, token or None, token + RANGE, select)
            done, token = last, token + RANGE
            if per_range >= 1_000_000:
                say(f"{done:,} of {rows:,} runs, {done / (time.perf_counter() - began):,.0f} a second")
        conn.execute(SERIES)
        conn.execute("SELECT setval('job_run_token_seq', %s)", [done * step])
        # The one in which the next runs are, if it is another, and the one behind it.
        while token < done * step + RANGE // 2:
            fill_partition(conn, f"job_runs_{token}", token, token + RANGE, "SELECT")
            token += RANGE
        fill_partition(conn, f"job_runs_{token}", token, None, "SELECT")
    say(f"{done:,} runs in {time.perf_counter() - began:,.0f} s")
    return Queue(url, done, step)


def maintain(queue: Queue) -> None:
    """Times ANALYZE and VACUUM, and VACUUM again where nothing is left to do."""
    for name, command in (("VACUUM", "VACUUM"), ("ANALYZE", "ANALYZE"), ("VACUUM again", "VACUUM")):
        queue.time(name, lambda conn, command=command: conn.execute(f"{command} job_runs"))
    queue.conn.execute("ANALYZE job_queue")
    queue.conn.execute("CHECKPOINT")


def finish(queue: Queue) -> None:
    """Claims jobs and reports that they have succeeded, in batches, and times both and the reports alone."""
    producer.enqueue_many(queue.conn, [NewJob("noop", {"seq": n}) for n in range(JOBS)], actor="bench")
    spent = {"drain": 0.0, "finish": 0.0}
    for _ in range(JOBS // BATCH):
        began = time.perf_counter()
        claimed = leases.claim(queue.conn, "bench", ["noop"], BATCH, 60.0)
        assert len(claimed) == BATCH
        at = time.time()
        runs = [FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, at, at) for job in claimed]
        between = time.perf_counter()
        leases.finish(queue.conn, "bench", runs, retry_base=30.0, retry_cap=3600.0)
        ended = time.perf_counter()
        spent["finish"] += ended - between
        spent["drain"] += ended - began
    for name, seconds in spent.items():
        queue.times.setdefault(name, []).append(1000 * seconds)


def dashboard(queue: Queue) -> dict[str, Callable[[Connection], Any]]:
    """What the dashboard reads of the history, and of all else beside it."""
    left, old, recurring = (queue.job_of(n) for n in (queue.rows - 8, 12, queue.rows // 10 * 10))
    succeeded = Filter(status=Status.SUCCEEDED)
    second = read_jobs.page(succeeded, limit=50).run(queue.conn).next
    return {
        "first screen": read_jobs.snapshot(Filter()).run,
        "counts": read_jobs.counts().run,
        "succeeded jobs": read_jobs.page(succeeded, limit=50).run,
        "succeeded jobs, second page": read_jobs.page(succeeded, limit=50, after=second).run,
        "succeeded jobs of a type": read_jobs.page(Filter(Status.SUCCEEDED, task_type="type_3"), limit=50).run,
        "succeeded jobs with words": read_jobs.page(Filter(Status.SUCCEEDED, search="type_7"), limit=50).run,
        "page of a job that left": read_jobs.detail(left).run,
        "page of an old job": read_jobs.detail(old).run,
        "page of a job with many runs": read_jobs.detail(recurring).run,
        "task types": overview.types().run,
        "series": series.series().run,
    }


def commands(queue: Queue) -> dict[str, Callable[[Connection], Any]]:
    """What `jobdeck runs` reads."""
    middle = str(queue.rows // 2 * queue.step * 2)
    recurring = queue.job_of(queue.rows // 10 * 10)
    return {
        "runs": history.runs().run,
        "runs, a page in the middle": history.runs(after=middle).run,
        "runs of a job": history.runs(job_id=recurring).run,
        "runs of a type": history.runs(task_type="type_3").run,
        "runs of a type that none has": history.runs(task_type="none").run,
    }


def first_of_a_session(queue: Queue, name: str, call: Callable[[Connection], Any]) -> None:
    """Times a read with which a new connection begins."""
    with psycopg.connect(queue.url, autocommit=True) as conn:
        conn.execute("SELECT 1")
        queue.time(name, lambda _: call(conn))


def run_command(queue: Queue) -> None:
    """Times the whole of `jobdeck runs`, as a person starts it."""
    environ = {**os.environ, "DATABASE_URL": queue.url, "JOBDECK_CONFIG": os.devnull, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "jobdeck.core", "runs"]
    subprocess.run(words, env=environ, check=True, capture_output=True, cwd=ROOT)


def measure(queues: list[Queue], rounds: int) -> tuple[list[str], list[str]]:
    """Asks all queues by turns. Returns the names of the dashboard's readings and of the commands'."""
    reads = [(queue, dashboard(queue), commands(queue)) for queue in queues]
    for number in range(rounds):
        for queue, pages, lists in reads if number % 2 else reversed(reads):
            finish(queue)
            for name, call in (pages | lists).items():
                queue.time(name, call)
            first_of_a_session(queue, "runs, first of a session", lists["runs"])
            first_of_a_session(queue, "page of a job, first of a session", pages["page of a job that left"])
            if number < max(3, rounds // 3):
                queue.time("jobdeck runs, the command", lambda _, queue=queue: run_command(queue))
    return [*reads[0][1]], [*reads[0][2]]


def search(queue: Queue) -> None:
    """Times pages of words that no job has, once each; a read that takes too long is given up."""
    queue.conn.execute(f"SET statement_timeout = '{GIVE_UP_AFTER}s'")
    for what, wanted in {
        "succeeded jobs, words that none has": Filter(Status.SUCCEEDED, search="no such words"),
        "succeeded jobs, type that none has": Filter(Status.SUCCEEDED, task_type="no such type"),
    }.items():
        try:
            queue.time(what, read_jobs.page(wanted, limit=50).run)
        except psycopg.errors.QueryCanceled:
            say(f"{what}: given up after {GIVE_UP_AFTER} s, of {queue.rows:,} runs")
    queue.conn.execute("RESET statement_timeout")


def report(small: Queue, large: Queue) -> Iterator[str]:
    """The tables, in markdown."""
    yield f"| history with {large.rows:,} runs | |"
    yield "|---|---:|"
    partitions, table, indexes, whole = large.conn.execute(SIZES).fetchone() or (0, 0, 0, 0)
    yield f"| partitions | {partitions} |"
    for name, size in (("all of it", whole), ("rows", table), ("indexes", indexes)):
        yield f"| {name}, MB; bytes per run | {size / 2**20:,.0f}; {size / large.rows:,.0f} |"
    yield ""
    yield f"| median, ms | {small.rows:,} runs | {large.rows:,} runs | ratio |"
    yield "|---|---:|---:|---:|"
    for name in large.times:
        if name in small.times:
            one, other = small.quantile(name), large.quantile(name)
            yield f"| {name} | {one:,.2f} | {other:,.2f} | {other / one:.2f} |"


def result(small: Queue, large: Queue, pages: list[str]) -> dict[str, Any]:
    """The line for the table of `bench/run`."""
    sums = {queue: sum(queue.quantile(name) for name in pages) for queue in (small, large)}
    worst = max(pages, key=lambda name: large.quantile(name) / small.quantile(name))
    whole = large.conn.execute(SIZES).fetchone() or (0, 0, 0, 0)
    command = "jobdeck runs, the command"
    return {
        "rows": large.rows, "beside": small.rows,
        "finish_ratio": round(small.quantile("finish") / large.quantile("finish"), 3),
        "drain_ratio": round(small.quantile("drain") / large.quantile("drain"), 3),
        "finish_rate": round(1000 * JOBS / large.quantile("finish")),
        "beside_finish_rate": round(1000 * JOBS / small.quantile("finish")),
        "dashboard_ratio": round(sums[large] / sums[small], 3),
        "dashboard_ms": round(sums[large], 2), "beside_dashboard_ms": round(sums[small], 2),
        "dashboard_worst": worst, "dashboard_worst_ratio": round(large.quantile(worst) / small.quantile(worst), 3),
        "runs_ratio": round(large.quantile("runs") / small.quantile("runs"), 3),
        "runs_ms": round(large.quantile("runs"), 2), "beside_runs_ms": round(small.quantile("runs"), 2),
        "command_ms": round(large.quantile(command), 1), "beside_command_ms": round(small.quantile(command), 1),
        "command_ratio": round(large.quantile(command) / small.quantile(command), 3),
        **{f"{name}_seconds".replace(" ", "_").lower(): round(large.quantile(name) / 1000, 2)
           for name in ("ANALYZE", "VACUUM", "VACUUM again")},
        "bytes_per_run": round(whole[3] / large.rows), "partitions": whole[0],
    }  # fmt: skip


def main() -> None:
    """Fills, measures and prints."""
    wanted = options(
        __doc__, rows=100_000_000, beside=1_000_000, rounds=0, folder=Path(tempfile.gettempdir()), least_free_gb=15
    )
    tempfile.tempdir = str(wanted.folder)
    rounds = wanted.rounds or (30 if wanted.rows > 2_000_000 else 8)
    with own_server(SETTINGS | UNLOGGED) as server:
        numbers = [(wanted.beside, 1), (wanted.rows, max(1, TOKENS // wanted.rows))]
        queues = [fill(server, f"runs_{rows}", rows, step, wanted.least_free_gb * 2**30) for rows, step in numbers]
        for queue in queues:
            queue.conn.close()
        settle(server, dict.fromkeys(UNLOGGED))
        small, large = [Queue(queue.url, queue.rows, queue.step) for queue in queues]
        for queue in (small, large):
            maintain(queue)
        say("ANALYZE and VACUUM are done")
        pages, _ = measure([small, large], rounds)
        say("the calls are measured")
        for queue in (small, large):
            search(queue)
        lines = [*report(small, large)]
        found = result(small, large, pages) | prune(large)
        print("\n".join(lines))
        emit("history", **found)
        for queue in (small, large):
            queue.conn.close()


if __name__ == "__main__":
    main()
