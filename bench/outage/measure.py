"""Measures, in real time, the seconds from the moment a threshold is passed to each sign of it."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import psycopg

from bench.outage import truth
from bench.outage.history import TYPE, add_week
from bench.outage.world import World
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.read.verdict.health import health

if TYPE_CHECKING:
    from collections.abc import Callable

HEALTHY_SECONDS = 10.0
LONGEST_SECONDS = 180.0
BATCH, EVERY_SECONDS = 10, 0.25
POLL_SECONDS = 0.1
WANTED_SECONDS = 60.0
# The verdict of every moment, judged with the runs that had ended. No run of the story is older than 15 minutes.
_PASSED = """
SELECT extract(epoch FROM min(finished_at)) FROM (
    SELECT finished_at, count(*) OVER w AS runs, count(*) FILTER (WHERE outcome = ANY(%s)) OVER w AS failed
    FROM job_runs WHERE task_type = %s AND finished_at >= %s WINDOW w AS (ORDER BY finished_at, run_token)
) AS r WHERE runs >= 20 AND failed >= %s * runs
"""


class Feeder:
    """Enqueues jobs of the type at a steady rate until it is stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="feeder")
        self._thread.start()

    def _feed(self) -> None:
        number = 0
        with psycopg.connect(self._world.url, autocommit=True) as conn:
            while not self._ending.wait(EVERY_SECONDS):
                jobs = [NewJob(TYPE, {"number": number + place}, max_attempts=5) for place in range(BATCH)]
                producer.enqueue_many(conn, jobs, actor="incident")
                number += BATCH

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


def measure(rounds: int) -> int:
    """Prints the seconds of each sign; returns 1 if one took longer than wanted or did not come."""
    taken: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for sign, seconds in _round().items():
            taken[sign].append(seconds)
            print(f"round {number}: {sign} after {seconds:.1f} s", flush=True)
    print(f"\n| sign | wanted | median s | worst s of {rounds} |\n|---|---|---:|---:|")
    for sign, seconds in taken.items():
        print(f"| {sign} | < {WANTED_SECONDS:.0f} s | {statistics.median(seconds):.1f} | {max(seconds):.1f} |")
    return int(max(map(max, taken.values())) >= WANTED_SECONDS)


def _round() -> dict[str, float]:
    with World() as world:
        add_week(world.conn)
        dashboard = world.start_dashboard()
        world.start_workers(1, SENTRY_DSN=world.sentry.dsn)
        began = truth.one(world.conn, "SELECT now()")
        feeder = Feeder(world)
        time.sleep(HEALTHY_SECONDS)
        world.down.touch()
        signs: dict[str, Callable[[], object]] = {
            "warning: health": lambda: _says(world, "warning"),
            "warning: dashboard": lambda: dashboard.line_with(f"! {TYPE}:") or dashboard.line_with(f"✗ {TYPE}:"),
            "critical: health": lambda: _says(world, "critical"),
            "critical: dashboard": lambda: dashboard.line_with(f"✗ {TYPE}:"),
            "critical: Sentry": lambda: _alarms(world),
        }
        seen = _waited(signs)
        feeder.stop()
        share = truth.share(world.conn, TYPE, truth.one(world.conn, "SELECT now()"))
        passed = {
            verdict: float(truth.one(world.conn, _PASSED, list(truth.FAILURES), TYPE, began, least) or 0)
            for verdict, least in share.thresholds.items()
        }
        return {sign: at - passed[sign.partition(":")[0]] for sign, at in seen.items()}


def _alarms(world: World) -> list[object]:
    return [one for one in list(world.sentry.events) if one["tags"].get("signal") == f"failures of {TYPE}"]


def _says(world: World, verdict: str) -> bool:
    """Whether health finds the type so bad at least."""
    found = [one.verdict.value for one in health().run(world.conn).findings if one.subject == TYPE]
    return bool(found) and found[0] in {verdict, "critical"}


def _waited(signs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The time at which each sign was there; one that never comes is late by the whole wait."""
    seen: dict[str, float] = {}
    deadline = time.monotonic() + LONGEST_SECONDS
    while len(seen) < len(signs) and time.monotonic() < deadline:
        seen |= {name: time.time() for name, there in signs.items() if name not in seen and there()}
        time.sleep(POLL_SECONDS)
    return {name: seen.get(name, time.time()) for name in signs}
