"""A job that does nothing, for the worker that `door.py` lets run beside the load."""

from __future__ import annotations

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload


@job("door_nothing", label="Nothing", purpose="Measure the worker alone", payload=Payload)
def run(params: Payload, ctx: JobContext) -> Done:
    """Does nothing."""
    del params, ctx
    return Done()
