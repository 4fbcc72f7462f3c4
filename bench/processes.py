"""Processes of Jobdeck: two beside one, memory, the start of a worker, and what the dashboard reads."""

import statistics
import time

import alone
import common
import cpu_jobs
import peer_jobdeck as peer

from jobdeck.core.model import Filter, NewJob
from jobdeck.core.queue import producer
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.registry import load


def waiting(args):
    """Handlers that wait 10 ms: the rate of two worker processes against that of one."""
    rates = [_rate_of_processes(args.jobs, count) for count in (1, 2)]
    common.emit("waiting_10ms", jobs=args.jobs, rate=rates[1], one_rate=rates[0], ratio=rates[1] / rates[0])


def _rate_of_processes(jobs, count):
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        alone.enqueue(connection, jobs)
        tally = common.Tally(jobs, count)
        with common.Workers(peer, database, "waits", tally, count) as workers:
            began = workers.go()
            return jobs / (workers.wait(tally.all_ran) - began)


def computing(args):
    """Jobs of 200 ms of processor time: the rate of two processes against that of one, and the server's own time."""
    found = [_rate_of_computing(args.jobs, count) for count in (1, 2)]
    rates = [rate for rate, _ in found]
    common.emit("computing_200ms", jobs=args.jobs, rate=rates[1], one_rate=rates[0], ratio=rates[1] / rates[0],
         server_cpu_percent=found[1][1])  # fmt: skip


def _rate_of_computing(jobs, processes):
    """Jobs a second once the processes have started, and the percentage of a core that the server used."""
    rounds = cpu_jobs.rounds_of(0.2)
    with (
        common.fresh_database(peer) as database,
        common.connect(database) as connection,
        alone.worker(database, load([cpu_jobs.__name__]), process_concurrency=processes) as running,
    ):
        for count in (processes, jobs):
            done = running.status.succeeded + count
            new = [NewJob("cpu_noop", {"seq": seq, "rounds": rounds}) for seq in range(count)]
            server, began = common.server_cpu_seconds(connection), time.monotonic()
            producer.enqueue_many(connection, new, actor=alone.ACTOR)
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
            producer.enqueue_many(connection, jobs, actor=alone.ACTOR)
            workers.wait(lambda done=done: sum(tally.runs) >= done, interval=0.05)
            readings.append(workers.rss_mb())
    common.emit("growth", jobs=args.jobs, rss_mb=readings[-1], first_rss_mb=readings[0], readings=readings)


def start(args):
    """From the start of a worker to its first handler's, when a job is waiting."""
    delays = []
    counter = alone.Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        for seq in range(1, args.jobs + 1):
            producer.enqueue(connection, NewJob("noop", {"seq": seq}), actor=alone.ACTOR)
            began = time.monotonic()
            with alone.worker(database):
                while seq not in counter.started:
                    time.sleep(0.001)
                delays.append(counter.started[seq] - began)
    common.emit("start_to_first_job", jobs=args.jobs, seconds=statistics.median(delays))


def snapshot(args):
    """The dashboard's data, at 1 000 and at 1 000 000 jobs and runs."""
    figures = {}
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        for jobs in (1_000, 1_000_000):
            connection.execute("TRUNCATE job_queue, job_runs")
            connection.execute(alone.PLAIN, {"type": "noop", "in": "-1 hour", "priority": 0, "n": jobs})
            connection.execute(alone.HISTORY, {"n": jobs})
            connection.execute("VACUUM (ANALYZE)")
            times = []
            for _ in range(args.jobs):
                began = time.monotonic()
                read_jobs.snapshot(Filter()).run(connection)
                times.append(1000 * (time.monotonic() - began))
            figures[jobs] = statistics.median(times)
    common.emit(
        "snapshot",
        ms_at_1000=figures[1_000],
        ms_at_1000000=figures[1_000_000],
        ratio=figures[1_000_000] / figures[1_000],
    )
