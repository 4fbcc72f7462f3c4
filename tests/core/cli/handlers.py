"""Job types for the tests of the command line, brought in with `--handlers` as a site's own would be."""

from __future__ import annotations

import threading

from pydantic import Field

from jobdeck.core.errors import PermanentError
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload

STARTED = threading.Event()


class Echo(Payload):
    message: str = "hello"
    times: int = Field(1, ge=1, le=10)
    coach_id: str | None = None
    dry_run: bool = False


class Refuse(Payload):
    reason: str = "it is broken"


@job("cli_echo", label="Echo", purpose="Say a message", payload=Echo, max_attempts=3, recurring=15)
def echo(params: Echo, ctx: JobContext) -> Done:
    return Done({"said": params.message * params.times})


@job("cli_refuse", label="Refuse", purpose="Fail for good", payload=Refuse)
def refuse(params: Refuse, ctx: JobContext) -> Done:
    raise PermanentError(params.reason)


@job("cli_wait", label="Wait", purpose="Run until asked to stop")
def wait(params: Payload, ctx: JobContext) -> Done:
    ctx.progress(1, 2)
    ctx.db.execute("NOTIFY cli_wait")
    while not ctx.cancelled():
        STARTED.wait(0.02)
    ctx.raise_if_cancelled()
    return Done()
