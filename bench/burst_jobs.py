"""Jobs of `bursts.py`, which take as long as their payload says."""

import time
from typing import Any

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Payload


class Params(Payload):
    """How long a job takes, and its place among those whose begin is noted; -1 for one that is not."""

    seq: int
    seconds: float


class Begins:
    """When each job began and ended, in memory that processes share."""

    began: Any = None
    ended: Any = None


def _run(params: Params) -> None:
    if params.seq >= 0:
        Begins.began[params.seq] = time.monotonic()
    time.sleep(params.seconds)
    if params.seq >= 0:
        Begins.ended[params.seq] = time.monotonic()


@job("burst", payload=Params, timeout=3600.0)
def burst(params: Params, _ctx: object) -> None:
    """Takes as long as its payload says."""
    _run(params)


@job("other", payload=Params, timeout=3600.0)
def other(params: Params, _ctx: object) -> None:
    """The same, of a type of its own."""
    _run(params)


@job("held", payload=Params, timeout=3600.0)
def held(params: Params, _ctx: object) -> None:
    """Keeps a slot of the worker that has this type."""
    _run(params)
