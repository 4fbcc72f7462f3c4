"""Runs a sweep: sets the stage, begins faults from a seed, waits for the rest, and prints the judgement."""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.faults import judge
from bench.faults.faults import FAULTS, Fault, left_out
from bench.faults.operators import Operator
from bench.faults.stage import LEASE_SECONDS, Stage, lines

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_SECONDS = 6.0
EVERY_SECONDS = 5.0
SHORT_EVERY_SECONDS = 3.0
CALM_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""After the last change of the number of open jobs. A lost run needs a lease and a pass of the reaper."""
SHOWN = 20


@dataclass(slots=True)
class Done:
    """One fault that was carried out; times are seconds since the epoch."""

    name: str
    began: float
    ended: float = math.inf


class Sweep:
    """One sweep on one stage."""

    def __init__(self, stage: Stage, rng: random.Random, chosen: Sequence[Fault], *, alone: bool) -> None:
        self._stage = stage
        self._rng = rng
        self._chosen = chosen
        self._busy = {fault.uses: threading.Lock() for fault in chosen}
        self._threads: list[threading.Thread] = []
        self.alone = alone
        self.done: list[Done] = []
        self.operator = Operator(stage, random.Random(rng.random()), acts=not alone)

    def carry_out(self, fault: Fault) -> None:
        """One fault from begin to end, after those that use the same."""
        # Two workers of three may be in trouble at once; all other resources have one user.
        with self._busy[fault.uses] if fault.uses != "worker" else threading.Lock():
            for attempt in range(10):
                done = Done(fault.name, time.time())
                begun = fault.begin(self._stage)
                try:
                    time.sleep(next(begun))
                    next(begun, None)
                except psycopg.Error as error:
                    if attempt == 9:
                        self._stage.notes.append(f"{fault.name} did not begin: {error}")
                    time.sleep(1)
                    continue
                done.ended = time.time()
                self.done.append(done)
                return

    def mixed(self, order: Sequence[Fault], every: float) -> None:
        """Begins a fault at each interval, whether the one before has ended or not."""
        for fault in order:
            thread = threading.Thread(target=self.carry_out, args=(fault,), name=fault.name)
            thread.start()
            self._threads.append(thread)
            time.sleep(every)
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Waits until every one-time job has ended, or until nothing has ended for a minute."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < PATIENCE_SECONDS:
            with self._stage.server.connect() as conn:
                row = conn.execute(
                    "SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running') AND NOT is_recurring"
                ).fetchone()
            left = row[0] if row else 0
            if not left:
                return
            if left != before:
                before, since = left, time.monotonic()
            time.sleep(0.5)

    def findings(self) -> tuple[list[judge.Finding], list[judge.Effect], list[judge.Run]]:
        """The judgement, once all has settled."""
        effects = [judge.Effect(**json.loads(line)) for line in lines(self._stage.effects)]
        with self._stage.server.connect() as conn:
            runs = [
                judge.Run(*row)
                for row in conn.execute(
                    "SELECT job_id::text, run_token, late, outcome, extract(epoch FROM finished_at)::float8,"
                    " extract(epoch FROM due_at)::float8, removed FROM job_runs"
                )
            ]
            rows = [
                judge.Row(*row)
                for row in conn.execute(
                    "SELECT id::text, status, extract(epoch FROM run_at)::float8,"
                    " extract(epoch FROM anchor_at)::float8,"
                    " recurrence_interval_minutes * 60.0::float8 FROM job_queue"
                )
            ]
            deleted = {job for (job,) in conn.execute("SELECT job_id::text FROM job_trash")}
        patience = 2 * LEASE_SECONDS
        found = judge.judge(effects, runs, rows, self.operator.accepted, deleted, time.time(), patience)
        found += [judge.Finding("trouble", "", text) for text in self._stage.troubles]
        found += [
            judge.Finding("worker ended", "", f"worker {number} ended with {worker.process.poll()}")
            for number, worker in enumerate(self._stage.workers)
            if worker.process.poll() is not None
        ]
        return found, effects, runs


def report(sweep: Sweep, effects: Sequence[judge.Effect], runs: Sequence[judge.Run]) -> None:
    """Prints a line per kind of fault, and the counts."""
    ends = sorted(effect.end for effect in effects if effect.what == "effect")
    times: dict[str, list[float]] = defaultdict(list)
    for done in sweep.done:
        times[done.name].append(judge.recovery(ends, done.began, done.ended))
    print(f"{'fault':<10} {'times':>5} {'median s':>9} {'worst s':>8}")
    for name, took in sorted(times.items()):
        print(f"{name:<10} {len(took):>5} {statistics.median(took):>9.2f} {max(took):>8.2f}")
    outcomes: dict[str, int] = defaultdict(int)
    for run in runs:
        outcomes[run.outcome] += 1
    print(f"jobs enqueued: {len(sweep.operator.accepted)}; effects: {len(ends)}; actions: {sweep.operator.actions}")
    print(f"runs: {', '.join(f'{count} {name}' for name, count in sorted(outcomes.items()))}")
    twice = judge.doubled(effects, runs)
    print(f"effects doubled: {', '.join(f'{count} after {name}' for name, count in twice.items()) or 'none'}")


def order_of(chosen: Sequence[Fault], rng: random.Random, count: int) -> list[Fault]:
    """`count` faults in rounds that have each kind once, in an order of their own."""
    order: list[Fault] = []
    while len(order) < count:
        order += rng.sample(chosen, len(chosen))
    return order[:count]


def one(arguments: argparse.Namespace, seed: int) -> int:
    """One sweep; returns the number of findings."""
    rng = random.Random(seed)
    began = time.monotonic()
    with Stage(random.Random(rng.random())) as stage:
        missing = left_out(stage)
        names = arguments.faults or [f.name for f in FAULTS.values() if f.short or not arguments.short]
        chosen = [FAULTS[name] for name in names if name not in missing]
        for name, reason in missing.items():
            print(f"left out: {name}, because {reason}")
        sweep = Sweep(stage, rng, chosen, alone=arguments.alone)
        sweep.operator.begin_series()
        sweep.operator.thread.start()
        try:
            time.sleep(WARM_SECONDS)
            if arguments.alone:
                for fault in order_of(chosen, rng, arguments.rounds * len(chosen)):
                    sweep.carry_out(fault)
                    time.sleep(CALM_SECONDS)
            else:
                every = SHORT_EVERY_SECONDS if arguments.short else EVERY_SECONDS
                count = len(chosen) if arguments.short else int(arguments.seconds / EVERY_SECONDS)
                sweep.mixed(order_of(chosen, rng, count), every)
        finally:
            sweep.operator.stop()
        sweep.settle()
        found, effects, runs = sweep.findings()
        print(f"seed {seed}, {time.monotonic() - began:.0f} s")
        report(sweep, effects, runs)
        for note in stage.notes:
            print(f"note: {note}")
        for finding in found[:SHOWN]:
            print(f"FINDING {finding.kind}: {finding.job} {finding.evidence}")
        print(f"findings: {len(found)}")
    return len(found)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench/sweep", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="more than one: a sweep each (default 1)")
    parser.add_argument("--seconds", type=float, default=600, help="how long faults begin in the mixed run")
    parser.add_argument("--rounds", type=int, default=10, help="how often each kind comes with --alone")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--alone", action="store_true", help="one fault at a time, 20 s of calm between")
    parser.add_argument("--short", action="store_true", help="the kinds of the short run, each once")
    parser.add_argument("--list", action="store_true", help="names the kinds and ends")
    arguments = parser.parse_args()
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<10} {(fault.begin.__doc__ or '').strip()}")
        return 0
    unknown = set(arguments.faults or ()) - set(FAULTS)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    return int(any([one(arguments, seed) for seed in arguments.seed or [1]]))


if __name__ == "__main__":
    sys.exit(main())
