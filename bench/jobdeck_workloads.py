"""What is measured of Jobdeck alone: backlogs that cannot run, churn, long transactions, payloads, the dashboard.

    python jobdeck_workloads.py stuck paused        one JSON line for each figure

Each compares two states of one queue within one process, so that the ratio does not depend on the machine.
"""

import argparse
import json
import logging
import statistics
import sys
import threading
import time
from contextlib import contextmanager

import common
import cpu_jobs
import peer_jobdeck as peer
import psycopg

from jobdeck.core.model import Filter, NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, operator, producer, service
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.registry import Done, JobType, Registry, job, load
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

ACTOR = "bench"
BACKLOG = 1_000_000
LINE = 100_000
KINDS = {
    "paused": BACKLOG,
    "unhandled": BACKLOG,
    "future": BACKLOG,
    "keyed": LINE,
    "blocked": LINE,
    "pending": BACKLOG,
    "history": BACKLOG,
}
_PLAIN = """
    INSERT INTO job_queue (task_type, payload, run_at, priority)
    SELECT %(type)s, '{"seq": 0}', now() + %(in)s::interval, %(priority)s FROM generate_series(1, %(n)s)
"""
_HISTORY = """
    INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at,
        outcome, removed)
    SELECT nextval('job_run_token_seq'), gen_random_uuid(), 'noop', '{"seq": 0}', 1, 'earlier', now(), now(), now(),
        'succeeded', true
    FROM generate_series(1, %(n)s)
"""
_BLOCKED = """
    INSERT INTO job_queue (task_type, payload, run_at, priority, blocked_by)
    SELECT 'noop', '{"seq": 0}', now() - interval '1 hour', 5, %(blocker)s FROM generate_series(1, %(n)s)
"""


def emit(workload, **figures):
    """Prints one result."""
    print(json.dumps({"workload": workload, "peer": "jobdeck", "setting": "default"} | figures), flush=True)


def fill(connection, kind, n):
    """Puts n jobs ahead of all others that cannot run, or (`pending`) behind them, or n runs into the history."""
    early = {"in": "-1 hour", "priority": 5, "n": n}
    if kind == "paused":
        connection.execute(_PLAIN, {"type": "paused_noop", **early})
        operator.pause(connection, reason="bench", actor=ACTOR, task_type="paused_noop")
    elif kind == "unhandled":
        connection.execute(_PLAIN, {"type": "unhandled_noop", **early})
    elif kind == "future":
        connection.execute(_PLAIN, {"type": "noop", "in": "1 day", "priority": 5, "n": n})
    elif kind == "pending":
        connection.execute(_PLAIN, {"type": "noop", "in": "1 second", "priority": 0, "n": n})
    elif kind == "history":
        connection.execute(_HISTORY, {"n": n})
    elif kind == "keyed":
        hold(connection, concurrency_key="busy")
        producer.enqueue_many(
            connection, [NewJob("noop", {"seq": 0}, concurrency_key="busy", priority=5)] * n, actor=ACTOR
        )
    elif kind == "blocked":
        connection.execute(_BLOCKED, {"blocker": hold(connection), "n": n})
    connection.execute("VACUUM (ANALYZE)")


def hold(connection, **facts):
    """A job that another worker runs for the whole measurement."""
    found = service.enqueue(connection, NewJob("held_noop", {"seq": 0}, **facts), actor=ACTOR).job
    leases.claim(connection, "holder", ["held_noop"], 1, 3600)
    return found.id


class Counter:
    """Counts handlers' runs, and tells when all were made."""

    def __init__(self):
        self.lock, self.runs, self.wanted = threading.Lock(), 0, 0
        self.done, self.started = threading.Event(), {}

    def __call__(self, seq):
        """The no-op job."""
        self.started[seq] = time.monotonic()
        with self.lock:
            self.runs += 1
            if self.runs >= self.wanted:
                self.done.set()

    def expect(self, wanted):
        """Starts to count from zero."""
        with self.lock:
            self.runs, self.wanted = 0, wanted
            self.done.clear()


@contextmanager
def worker(database, registry=None, **settings):
    """A worker in this process, stopped at the end."""
    configured = Settings().model_copy(update=settings)
    db = Database(common.url(database), application_name="bench", max_size=configured.concurrency + 2)
    registry = registry or peer.registry()
    types = [name for name in registry.names if name.endswith("noop")]
    running = Worker(db, registry, configured, task_types=types)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        db.close()


def enqueue(connection, n, first=1, **facts):
    """Enqueues n no-op jobs."""
    for start in range(first, first + n, producer.BULK):
        numbers = range(start, min(start + producer.BULK, first + n))
        producer.enqueue_many(connection, [NewJob("noop", {"seq": seq}, **facts) for seq in numbers], actor=ACTOR)


def drain_rate(connection, database, counter, n):
    """Jobs a second from letting a worker go until the database says that all n are done."""
    enqueue(connection, n)
    connection.execute("ANALYZE job_queue")
    counter.expect(n)
    began = time.monotonic()
    with worker(database):
        if not counter.done.wait(common.GIVE_UP_AFTER):
            raise TimeoutError("the drain took too long")
        undone = (peer.UNDONE, {"n": n})
        while connection.execute(*undone).fetchone():
            time.sleep(0.002)
        return n / (time.monotonic() - began)


def pickup_p95(connection, database, counter, n=100):
    """Milliseconds from the commit of an enqueue to the handler's start, at the 95th percentile."""
    delays = []
    with worker(database):
        time.sleep(1)
        for seq in range(1, n + 1):
            producer.enqueue(connection, NewJob("noop", {"seq": seq}), actor=ACTOR)
            committed = time.monotonic()
            time.sleep(0.03)
            while seq not in counter.started:
                time.sleep(0.001)
            delays.append(counter.started.pop(seq) - committed)
    return 1000 * common.percentile(sorted(delays), 0.95)


def stuck(args):
    """The drain and the pickup with a backlog, against those of an empty table."""
    counter = Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        empty = statistics.median(drain_rate(connection, database, counter, args.jobs) for _ in range(args.repeat))
        counter.started.clear()
        empty_p95 = pickup_p95(connection, database, counter)
        fill(connection, args.kind, KINDS[args.kind])
        full = statistics.median(drain_rate(connection, database, counter, args.jobs) for _ in range(args.repeat))
        counter.started.clear()
        full_p95 = pickup_p95(connection, database, counter) if args.kind != "pending" else None
    emit(
        f"stuck_{args.kind}",
        backlog=KINDS[args.kind],
        rate=full,
        empty_rate=empty,
        ratio=full / empty,
        p95_ms=full_p95,
        empty_p95_ms=empty_p95,
    )


def sizes(connection):
    """Megabytes of the queue's and the history's tables and indexes."""
    rows = connection.execute(
        "SELECT t.name, sum(pg_table_size(p.relid))::bigint, sum(pg_indexes_size(p.relid))::bigint"
        " FROM unnest(ARRAY['job_queue', 'job_runs']) AS t (name), pg_partition_tree(t.name::regclass) AS p GROUP BY 1"
    ).fetchall()
    return {
        f"{name}_{part}_mb": size / 2**20
        for name, *both in rows
        for part, size in zip(("table", "index"), both, strict=True)
    }


def churn(args):
    """Enqueue and drain side by side, a tenth at a time: does the last go as fast as the first?"""
    counter = Counter()
    peer.Noop.handler = counter
    holder = None
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        if args.old_transaction:
            holder = psycopg.connect(common.url(database), application_name="the old transaction")
            holder.execute("SELECT txid_current()")
        rates, table = [], []
        part = args.jobs // 10
        with worker(database):
            for _ in range(10):
                counter.expect(part)
                began = time.monotonic()
                enqueue(connection, part)
                while not counter.done.wait(1):
                    if time.monotonic() - began > 1800:
                        raise TimeoutError("churn took too long")
                counter.started.clear()
                rates.append(part / (time.monotonic() - began))
                table.append(sizes(connection)["job_queue_table_mb"])
        measured = sizes(connection)
    if holder is not None:
        holder.close()
    name = "old_transaction" if args.old_transaction else "churn"
    emit(name, jobs=args.jobs, rate=rates[-1], first_rate=rates[0], ratio=rates[-1] / rates[0], rates=rates,
         queue_mb=table, **measured)  # fmt: skip


TEXT = "x" * 1000


@job("heavy_noop", payload=peer.Params)
def heavy(params, ctx):
    """Returns a kilobyte and logs twenty lines."""
    for line in range(20):
        ctx.log.info("line %d of the job's log, of some length", line)
    peer.Noop.handler(params.seq)
    return Done({"text": TEXT})


class Drop(logging.Handler):
    """Takes each record and does nothing with it."""

    def handle(self, record):
        """Drops one record."""
        return True


dropped_lines = logging.getLogger("dropped lines")
dropped_lines.propagate = False
dropped_lines.setLevel(logging.INFO)
dropped_lines.addHandler(Drop())


@job("dropped_noop", payload=peer.Params)
def dropped(params, ctx):
    """Does the same with lines that nobody keeps."""
    for line in range(20):
        dropped_lines.info("line %d of the job's log, of some length", line)
    peer.Noop.handler(params.seq)
    return Done({"text": TEXT})


class Large(peer.Params):
    """A payload with a kilobyte in it."""

    text: str = ""


@job("large_noop", payload=Large)
def large(params, ctx):
    """Does nothing with a kilobyte."""
    peer.Noop.handler(params.seq)


@job("failing_noop", payload=peer.Params, retry_base=0.01, retry_cap=0.01)
def failing(params, ctx):
    """Fails at its first attempt."""
    if ctx.job.attempt == 1:
        raise ValueError("the first attempt fails")
    peer.Noop.handler(params.seq)


def own_registry() -> Registry:
    """The types above beside the plain no-op."""
    return load([peer.__name__, __name__])


def run_all(connection, database, counter, jobs, wanted, registry=None):
    """Jobs a second of a mix that has been enqueued."""
    connection.execute("ANALYZE job_queue")
    counter.expect(wanted)
    began = time.monotonic()
    with worker(database, registry or own_registry()):
        if not counter.done.wait(common.GIVE_UP_AFTER):
            raise TimeoutError("the mix took too long")
        return jobs / (time.monotonic() - began)


def payloads(args):
    """Jobs with a kilobyte of payload; with a kilobyte of output and twenty log lines, kept and dropped."""
    counter = Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        plain = drain_rate(connection, database, counter, args.jobs)
        for kind, payload in (("large", {"text": TEXT}), ("heavy", {}), ("dropped", {})):
            jobs = [NewJob(f"{kind}_noop", {"seq": seq} | payload) for seq in range(1, args.jobs + 1)]
            producer.enqueue_many(connection, jobs, actor=ACTOR)
            rate = run_all(connection, database, counter, args.jobs, args.jobs)
            emit(f"payload_{kind}", jobs=args.jobs, rate=rate, noop_rate=plain, ratio=rate / plain)


def mixed(args):
    """1 recurring per 50 one-time jobs, 5 % failing once, a tenth of the jobs under one of 10 concurrency keys."""
    counter = Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        plain = drain_rate(connection, database, counter, args.jobs)
        jobs = []
        for seq in range(1, args.jobs + 1):
            kind = "failing_noop" if seq % 20 == 0 else "noop"
            key = f"key {seq // 10 % 10}" if seq % 10 == 1 else None
            jobs.append(NewJob(kind, {"seq": seq}, concurrency_key=key))
        producer.enqueue_many(connection, jobs, actor=ACTOR)
        for seq in range(args.jobs // 50):
            producer.enqueue(connection, NewJob("noop", {"seq": seq}, recurrence_interval_minutes=60), actor=ACTOR)
        total = args.jobs + args.jobs // 50
        rate = run_all(connection, database, counter, total, total)
    emit("mixed", jobs=total, rate=rate, noop_rate=plain, ratio=rate / plain)


LIMITED = [f"limited{number}_noop" for number in range(10)]
LIMITS = {
    "none": {},
    "running200": {"max_running": 200},
    "rate": {"rate_runs": 1_000_000, "rate_seconds": 1},
    "running50": {"max_running": 50},
    "both50": {"max_running": 50, "rate_runs": 1_000_000, "rate_seconds": 1},
}


def limited(args):
    """Ten types with each of `LIMITS`. With 200 places or a rate alone, a claim can take a whole batch."""
    counter = Counter()
    peer.Noop.handler = counter
    types = [JobType(name, peer.run, name, "", peer.Params) for name in LIMITED]
    jobs = [NewJob(LIMITED[seq % len(LIMITED)], {"seq": seq}) for seq in range(1, args.jobs + 1)]
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        rates = {kind: [] for kind in LIMITS}
        for kind in [kind for _ in range(args.repeat + 1) for kind in LIMITS]:
            none = dict.fromkeys(("max_running", "rate_runs", "rate_seconds"))
            for name in LIMITED:
                operator.set_type(connection, name, changes=none | LIMITS[kind], actor=ACTOR, reason=None)
            # In the first second after its first limit, a type takes no job.
            connection.execute("UPDATE job_types SET limited_at = limited_at - interval '1 second'")
            producer.enqueue_many(connection, jobs, actor=ACTOR)
            rates[kind].append(run_all(connection, database, counter, args.jobs, args.jobs, Registry(types)))
    plain, *others = (statistics.median(found[1:]) for found in rates.values())
    for kind, rate in zip(list(LIMITS)[1:], others, strict=True):
        emit(f"limited_{kind}", jobs=args.jobs, rate=rate, noop_rate=plain, ratio=rate / plain)


def waiting(args):
    """Handlers that wait 10 ms: the rate of two worker processes against that of one."""
    rates = [_rate_of_processes(args.jobs, count) for count in (1, 2)]
    emit("waiting_10ms", jobs=args.jobs, rate=rates[1], one_rate=rates[0], ratio=rates[1] / rates[0])


def _rate_of_processes(jobs, count):
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        enqueue(connection, jobs)
        tally = common.Tally(jobs, count)
        with common.Workers(peer, database, "waits", tally, count) as workers:
            began = workers.go()
            return jobs / (workers.wait(tally.all_ran) - began)


def computing(args):
    """Jobs of 200 ms of processor time: the rate of two processes against that of one, and the server's own time."""
    found = [_rate_of_computing(args.jobs, count) for count in (1, 2)]
    rates = [rate for rate, _ in found]
    emit("computing_200ms", jobs=args.jobs, rate=rates[1], one_rate=rates[0], ratio=rates[1] / rates[0],
         server_cpu_percent=found[1][1])  # fmt: skip


def _rate_of_computing(jobs, processes):
    """Jobs a second once the processes have started, and the percentage of a core that the server used."""
    rounds = cpu_jobs.rounds_of(0.2)
    with (
        common.fresh_database(peer) as database,
        common.connect(database) as connection,
        worker(database, load([cpu_jobs.__name__]), process_concurrency=processes) as running,
    ):
        for count in (processes, jobs):
            done = running.status.succeeded + count
            new = [NewJob("cpu_noop", {"seq": seq, "rounds": rounds}) for seq in range(count)]
            server, began = common.server_cpu_seconds(connection), time.monotonic()
            producer.enqueue_many(connection, new, actor=ACTOR)
            while running.status.succeeded < done:
                if time.monotonic() - began > common.GIVE_UP_AFTER:
                    raise TimeoutError("the jobs took too long")
                time.sleep(0.01)
        seconds = time.monotonic() - began
        return jobs / seconds, 100 * (common.server_cpu_seconds(connection) - server) / seconds


def growth(args):
    """Memory of a worker's process after each tenth of its jobs."""
    readings = []
    part = args.jobs // 10
    # All have one number: noting each job's time would grow the process by eight bytes a job.
    jobs = [NewJob("noop", {"seq": 0})] * part
    tally = common.Tally(0, 1)
    with (
        common.fresh_database(peer) as database,
        common.connect(database) as connection,
        common.Workers(peer, database, "default", tally) as workers,
    ):
        workers.go()
        for done in range(part, args.jobs + 1, part):
            producer.enqueue_many(connection, jobs, actor=ACTOR)
            workers.wait(lambda done=done: sum(tally.runs) >= done, interval=0.05)
            readings.append(workers.rss_mb())
    emit("growth", jobs=args.jobs, rss_mb=readings[-1], first_rss_mb=readings[0], readings=readings)


def start(args):
    """From the start of a worker to its first handler's, when a job is waiting."""
    delays = []
    counter = Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        for seq in range(1, args.jobs + 1):
            producer.enqueue(connection, NewJob("noop", {"seq": seq}), actor=ACTOR)
            began = time.monotonic()
            with worker(database):
                while seq not in counter.started:
                    time.sleep(0.001)
                delays.append(counter.started[seq] - began)
    emit("start_to_first_job", jobs=args.jobs, seconds=statistics.median(delays))


def snapshot(args):
    """The dashboard's data, at 1 000 and at 1 000 000 jobs and runs."""
    figures = {}
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        for jobs in (1_000, 1_000_000):
            connection.execute("TRUNCATE job_queue, job_runs")
            connection.execute(_PLAIN, {"type": "noop", "in": "-1 hour", "priority": 0, "n": jobs})
            connection.execute(_HISTORY, {"n": jobs})
            connection.execute("VACUUM (ANALYZE)")
            times = []
            for _ in range(args.jobs):
                began = time.monotonic()
                read_jobs.snapshot(Filter()).run(connection)
                times.append(1000 * (time.monotonic() - began))
            figures[jobs] = statistics.median(times)
    emit(
        "snapshot",
        ms_at_1000=figures[1_000],
        ms_at_1000000=figures[1_000_000],
        ratio=figures[1_000_000] / figures[1_000],
    )


def main():
    """Runs the workload named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("kind", nargs="?", choices=sorted(KINDS))
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--old-transaction", action="store_true")
    args = parser.parse_args()
    WORKLOADS[args.workload](args)


WORKLOADS = {
    found.__name__: found
    for found in (stuck, churn, payloads, mixed, limited, waiting, computing, growth, start, snapshot)
}

if __name__ == "__main__":
    sys.modules["jobdeck_workloads"] = sys.modules[__name__]
    main()
