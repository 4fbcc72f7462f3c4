"""The handler of the jobs that compute: a module of its own, since a process imports it."""

import time

import peer_jobdeck as peer

from jobdeck.core.queue.producers.tasks import job


class Spin(peer.Params):
    """How often a job multiplies."""

    rounds: int


def spin(rounds):
    """Keeps one core busy."""
    value = 1
    for _ in range(rounds):
        value = value * 1_103_515_245 % 2_147_483_647


def rounds_of(seconds):
    """How many rounds take so long on this machine: of five attempts the fastest."""
    tries = 200_000
    times = []
    for _ in range(5):
        began = time.process_time()
        spin(tries)
        times.append(time.process_time() - began)
    return int(tries * seconds / min(times))


@job("cpu_noop", payload=Spin, isolation="process", timeout=60)
def run(params: Spin, ctx) -> None:
    """Computes."""
    spin(params.rounds)
