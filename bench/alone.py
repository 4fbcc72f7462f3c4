"""What the measurements of Jobdeck alone share: a worker in this process, jobs, and how fast they ran."""

import threading
import time
from contextlib import contextmanager

import common
import peer_jobdeck as peer

from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

ACTOR = "bench"
PLAIN = """
    INSERT INTO job_queue (task_type, payload, run_at, priority)
    SELECT %(type)s, '{"seq": 0}', now() + %(in)s::interval, %(priority)s FROM generate_series(1, %(n)s)
"""
HISTORY = """
    INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at,
        outcome, removed)
    SELECT nextval('job_run_token_seq'), gen_random_uuid(), 'noop', '{"seq": 0}', 1, 'earlier', now(), now(), now(),
        'succeeded', true
    FROM generate_series(1, %(n)s)
"""


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
    """A worker in this process, stopped at the end. The database is a name on the shared server, or an address."""
    configured = Settings().model_copy(update=settings)
    url = database if "://" in database else common.url(database)
    db = Database(url, application_name="bench", max_size=configured.concurrency + 2)
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
    """Jobs a second of n no-op jobs."""
    enqueue(connection, n)
    return run_all(connection, database, counter, n)


def run_all(connection, database, counter, jobs, registry=None):
    """Jobs a second from letting a worker go until the database says that all that were enqueued are done."""
    connection.execute("ANALYZE job_queue")
    counter.expect(jobs)
    began = time.monotonic()
    with worker(database, registry):
        if not counter.done.wait(common.GIVE_UP_AFTER):
            raise TimeoutError("the jobs took too long")
        undone = (peer.UNDONE, {"n": jobs})
        while connection.execute(*undone).fetchone():
            time.sleep(0.002)
        return jobs / (time.monotonic() - began)


def warm_drain_rate(connection, database, counter, n):
    """The same of a process and a database that have drained before, for what is compared with what comes after it."""
    drain_rate(connection, database, counter, n)
    return drain_rate(connection, database, counter, n)
