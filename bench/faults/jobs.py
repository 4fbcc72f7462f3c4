"""The task types of the sweep. Each run appends a line when it begins and one when it has had its effect.

The file is outside the database. A line is one write to a file in append mode, so that processes do not mix theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import TYPE_CHECKING

from bench.faults.judge import LIMITED, RATED
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Payload

if TYPE_CHECKING:
    from jobdeck.core.registry import AsyncJobContext, JobContext

STEP_SECONDS = 0.05
KEYS = {"sweep_limited": LIMITED, "sweep_rated": RATED}
WRITE = "INSERT INTO sweep_written VALUES (%s)"
_file = os.open(os.environ["SWEEP_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Work(Payload):
    """How long a run takes, its concurrency key, and how many of its attempts fail before they have an effect."""

    seconds: float = 0.0
    key: str = ""
    failures: int = 0
    writes: bool = False
    """Whether a run writes its token through its connection, before its effect."""


def _note(what: str, params: Work, ctx: JobContext | AsyncJobContext, begin: float) -> None:
    line = {
        "what": what,
        "job": str(ctx.job.id),
        "token": ctx.job.run_token,
        "cycle": ctx.job.cycle,
        "pid": os.getpid(),
        "key": KEYS.get(ctx.job.task_type, params.key),
        "writes": params.writes,
        "begin": begin,
        "end": time.time(),
    }
    os.write(_file, f"{json.dumps(line)}\n".encode())


@job("sweep_work", payload=Work, max_attempts=50, retry_base=0.0)
def work(params: Work, ctx: JobContext) -> None:
    """Waits, asks in between whether it must stop, and has its effect at the end."""
    begin = time.time()
    _note("begin", params, ctx, begin)
    pause = threading.Event()
    deadline = time.monotonic() + params.seconds
    while (left := deadline - time.monotonic()) > 0:
        pause.wait(min(left, STEP_SECONDS))
        ctx.raise_if_cancelled()
    if ctx.job.attempt <= params.failures:
        raise ValueError("a failure that the sweep asked for")
    if params.writes:
        ctx.db.execute(WRITE, (ctx.job.run_token,))
    _note("effect", params, ctx, begin)


@job("sweep_async", payload=Work, max_attempts=50, retry_base=0.0)
async def on_loop(params: Work, ctx: AsyncJobContext) -> None:
    """The same on the event loop."""
    begin = time.time()
    _note("begin", params, ctx, begin)
    await asyncio.sleep(params.seconds)
    if params.writes:
        async with ctx.adb() as conn:
            await conn.execute(WRITE, (ctx.job.run_token,))
    _note("effect", params, ctx, begin)


@job("sweep_process", payload=Work, max_attempts=50, retry_base=0.0, isolation="process")
def in_process(params: Work, ctx: JobContext) -> None:
    """The same in a process."""
    work(params, ctx)


@job("sweep_limited", payload=Work, max_attempts=50, retry_base=0.0)
def limited(params: Work, ctx: JobContext) -> None:
    """The same of a type of which few may run at once."""
    work(params, ctx)


@job("sweep_rated", payload=Work, max_attempts=50, retry_base=0.0)
def rated(params: Work, ctx: JobContext) -> None:
    """The same of a type of which few may start in a second."""
    work(params, ctx)


@job("sweep_series", payload=Work, max_attempts=50, retry_base=0.0)
def series(params: Work, ctx: JobContext) -> None:
    """The same as a series."""
    work(params, ctx)
