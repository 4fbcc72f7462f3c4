"""Jobdeck: psycopg in threads, batches both the taking and the finishing of jobs.

Deletes the finished row, keeps a row per run. Everything is on: payload model, context, log capture, timeout
guard, heartbeat, reaper, history, NOTIFY, paused types, concurrency keys.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg

from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer as queue_producer
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Payload, Registry, load
from jobdeck.core.schema import install_schema
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

NAME = "jobdeck"
# Settings of the worker over its defaults; `handler_seconds` is how long each job takes, `async_seconds` on the loop,
# `database` has it execute a statement on `ctx.db`.
SETTINGS = {
    "default": {},
    "c1": {"concurrency": 1},
    "database": {"database": True},
    "waits": {"handler_seconds": 0.01},
    "async1000": {"async_concurrency": 1000, "async_seconds": 1.0},
}
RUN = {
    "drain": ["default", "c1", "database"],
    "drain_long": ["default"],
    "pickup": ["default"],
    "backlog": ["default"],
    "idle": ["default"],
    "waits": ["async1000"],
}

# A job whose handler has run is running until its end is on record.
UNDONE = """
    SELECT FROM job_queue WHERE status = 'running' AND (payload ->> 'seq')::integer BETWEEN 1 AND %(n)s LIMIT 1
"""
FILL = """
    INSERT INTO job_queue (task_type, payload, run_at)
    SELECT task_type, '{"seq": 0}', run_at + interval '1 second'
    FROM job_queue, generate_series(1, %(n)s) WHERE payload ->> 'seq' = '1'
"""


class Params(Payload):
    """The argument of the no-op job."""

    seq: int


class Noop:
    """What the no-op job calls; each worker process has one."""

    handler: Callable[[int], None] = staticmethod(lambda seq: None)


@job("noop", label="No-op", purpose="Does nothing", payload=Params)
def run(params: Params, ctx) -> None:
    """Notes that the job ran."""
    Noop.handler(params.seq)


def registry() -> Registry:
    """The no-op type, beside those that come with Jobdeck."""
    return load([__name__])


def install(url):
    """Makes the schema in an empty database."""
    with psycopg.connect(url, autocommit=True) as connection:
        install_schema(connection)


@asynccontextmanager
async def producer(url):
    types = registry()

    def new(seq):
        job_type, payload = types.validate("noop", {"seq": seq})
        return NewJob("noop", job_type.dump(payload))

    with psycopg.connect(url, autocommit=True) as connection:

        async def one(seq):
            queue_producer.enqueue(connection, new(seq), actor="bench")

        async def many(sequence):
            queue_producer.enqueue_many(connection, map(new, sequence), actor="bench")

        yield one, many


def work(url, setting, handler, gate):
    changes = dict(setting)
    seconds = changes.pop("handler_seconds", 0.0)
    async_seconds = changes.pop("async_seconds", 0.0)
    database_too = changes.pop("database", False)

    def work_then_tell(seq):
        time.sleep(seconds)
        handler(seq)

    def ask(params, ctx):
        ctx.db.execute("SELECT %s::int", (params.seq,))
        handler(params.seq)

    async def wait(params, ctx):
        handler(params.seq)
        await asyncio.sleep(async_seconds)

    types = registry()
    if async_seconds or database_too:
        types = Registry([replace(types.require("noop"), run=wait if async_seconds else ask)])
    Noop.handler = staticmethod(work_then_tell if seconds else handler)
    settings = Settings().model_copy(update=changes)
    database = Database(url, application_name="jobdeck bench", max_size=settings.concurrency + 2)
    worker = Worker(database, types, settings, task_types=["noop"])
    gate()
    worker.start()
    worker.wait()
