"""Task types of the chaos tests, loaded by worker processes through JOBDECK_HANDLERS."""

from __future__ import annotations

import threading

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload


class Nap(Payload):
    """How long to work, in seconds."""

    seconds: float = 0.3


@job("chaos_nap", payload=Nap)
def nap(params: Nap, ctx: JobContext) -> Done:
    """Works for a while without looking around."""
    threading.Event().wait(params.seconds)
    return Done({"token": ctx.job.run_token})


@job("chaos_hostile")
def hostile(_params: Payload, ctx: JobContext) -> None:
    """Logs and raises what would take over a terminal."""
    text = "\x1b[2J\x1b]0;owned\x07\nERROR forged\r\x9b31m\u202e jane@example.org"
    ctx.log.warning("%s", text)
    raise ValueError(text)
