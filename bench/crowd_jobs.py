"""Jobs of `crowd.py`: one that keeps its slot, and one of many that are enqueued at once."""

import threading
import time

import peer_jobdeck as peer

from jobdeck.core.queue.producers.tasks import job

BURST_SECONDS = 0.05
HOLD_SECONDS = 3600


@job("held_noop", payload=peer.Params, timeout=HOLD_SECONDS)
def hold(params, ctx):
    """Keeps its slot until the measurement ends."""
    threading.Event().wait(HOLD_SECONDS)


@job("burst_noop", payload=peer.Params)
def burst(params, ctx):
    """Notes that it began, and waits a little."""
    peer.Noop.handler(params.seq)
    time.sleep(BURST_SECONDS)
