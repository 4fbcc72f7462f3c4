"""Runs a sweep: sets the stage, begins faults from a seed, waits for the rest, and prints the judgement."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.faults import judge
from bench.faults.faults import FAULTS, DidNotBegin, Fault, left_out
from bench.faults.leftovers import left_behind
from bench.faults.operators import Operator
from bench.faults.report import counted, story, table, totals
from bench.faults.stage import LEASE_SECONDS, Stage, lines
from bench.faults.vendors import WAITING_TYPES, accepted_messages
from jobdeck.core.errors import JobdeckError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WARM_SECONDS = 6.0
EVERY_SECONDS = 5.0
SHORT_EVERY_SECONDS = 3.0
CALM_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""After the last change of the number of open jobs. A lost run needs a lease and a pass of the reaper."""
ATTEMPTS = 20
AGAIN_SECONDS = 1.0
NEWS_SECONDS = 60.0
SHOWN = 40
WRITING_TYPES = ("sweep_work", "sweep_series", "sweep_async", "sweep_process", "sweep_limited", "sweep_rated")
RUNS = """
SELECT job_id::text, run_token, late, outcome, extract(epoch FROM finished_at)::float8,
    extract(epoch FROM due_at)::float8, removed, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8,
    task_type = ANY (%s)
FROM job_runs
"""
ROWS = """
SELECT id::text, status, extract(epoch FROM run_at)::float8, extract(epoch FROM anchor_at)::float8,
    recurrence_interval_minutes * 60.0::float8, task_type = ANY (%s) FROM job_queue
"""
OPEN = """
SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running') AND NOT is_recurring
    AND NOT (status = 'pending' AND run_at > now() AND task_type = ANY (%s))
"""


@dataclass(slots=True)
class Done:
    """One fault that was carried out; times are seconds since the epoch."""

    name: str
    began: float
    ended: float


class Sweep:
    """One sweep on one stage."""

    def __init__(self, stage: Stage, rng: random.Random, chosen: Sequence[Fault], *, acts: bool) -> None:
        self._stage = stage
        self._chosen = chosen
        # Two workers of three may be in trouble at once; all other resources have one user.
        self._busy = {fault.uses: threading.Semaphore(2 if fault.uses == "worker" else 1) for fault in chosen}
        self._threads: list[threading.Thread] = []
        self.ending = threading.Event()
        """Set when the sweep is to end early: faults that are there end, and others do not begin."""
        self._enough = False
        """Whether time and jobs of a long run are reached. On a slow machine dozens of faults still wait for others."""
        self.done: list[Done] = []
        self.again: Counter[str] = Counter()
        """How often a kind did not begin and was tried again."""
        self.operator = Operator(stage, random.Random(rng.random()), acts=acts)

    def carry_out(self, fault: Fault) -> None:
        """One fault from begin to end, after those that use the same. One that never begins is a trouble."""
        try:
            self._carry_out(fault)
        except Exception as error:  # noqa: BLE001 -- in a thread, where nobody else would hear of it
            self._stage.troubles.append(f"{fault.name} broke off: {error!r}")

    def _carry_out(self, fault: Fault) -> None:
        with self._busy[fault.uses]:
            reason = ""
            for _ in range(ATTEMPTS):
                if self.ending.is_set() or self._enough:
                    return
                began = time.time()
                begun = fault.begin(self._stage)
                try:
                    seconds = next(begun)
                except (DidNotBegin, JobdeckError, psycopg.Error, OSError) as error:
                    reason = " ".join(str(error).split())
                    self.again[fault.name] += 1
                    self._stage.notes[f"{fault.name} did not begin and was tried again: {reason}"] += 1
                    self.ending.wait(AGAIN_SECONDS)
                    continue
                self.ending.wait(seconds)
                self._end(fault, begun)
                self.done.append(Done(fault.name, began, time.time()))
                return
            self._stage.troubles.append(f"{fault.name} did not begin: {reason}")

    def _end(self, fault: Fault, begun: Iterator[float]) -> None:
        try:
            next(begun, None)
        except (JobdeckError, psycopg.Error, OSError) as error:
            self._stage.troubles.append(f"{fault.name} did not end: {error}")

    def alone(self, order: Sequence[Fault]) -> None:
        """Each fault by itself, with a calm after it."""
        for number, fault in enumerate(order, 1):
            began = time.time()
            self.carry_out(fault)
            print(f"{number} of {len(order)}: {fault.name}, {time.time() - began:.1f} s", flush=True)
            if self.ending.wait(CALM_SECONDS):
                return

    def mixed(self, order: Iterator[Fault], every: float, *, until: float, jobs: int) -> None:
        """Begins a fault at each interval, whether the one before has ended or not.

        It stops at the end of `order`, or when the monotonic time is past `until` and `jobs` were enqueued. Then the
        faults that still wait for another are left out.
        """
        began = news = time.monotonic()
        for fault in order:
            if time.monotonic() > until and len(self.operator.accepted) >= jobs:
                self._enough = True
                break
            thread = threading.Thread(target=self.carry_out, args=(fault,), name=fault.name)
            thread.start()
            self._threads.append(thread)
            if time.monotonic() - news > NEWS_SECONDS:
                news = time.monotonic()
                minutes = (news - began) / 60
                print(
                    f"minute {minutes:.0f}: {len(self.operator.accepted):,} jobs enqueued, {len(self.done)} faults, "
                    f"{len(self._stage.troubles)} troubles", flush=True,
                )  # fmt: skip
            if self.ending.wait(every):
                break

    def join(self) -> None:
        """Waits for the faults that are there."""
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Waits until every one-time job has ended, or until nothing has ended for a minute."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < PATIENCE_SECONDS:
            with self._stage.server.connect() as conn:
                row = conn.execute(OPEN, [list(WAITING_TYPES)]).fetchone()
            left = row[0] if row else 0
            if not left:
                return
            if left != before:
                before, since = left, time.monotonic()
            time.sleep(0.5)

    def record(self) -> judge.Record:
        """All that is judged, once all has settled.

        Series and jobs that put themselves off still run: the tables are read at one moment, the effects after it.
        """
        with self._stage.server.connect() as conn, conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            # Reading a million runs takes more than a minute, in which series go on.
            read_at = time.time()
            runs = [judge.Run(sys.intern(job), *rest) for job, *rest in conn.execute(RUNS, [list(WRITING_TYPES)])]
            rows = [judge.Row(*row) for row in conn.execute(ROWS, [list(WAITING_TYPES)])]
            deleted = {job for (job,) in conn.execute("SELECT job_id::text FROM job_trash")}
            written = {token for (token,) in conn.execute("SELECT token FROM sweep_written")}
        effects = [_effect(json.loads(line)) for line in lines(self._stage.effects)]
        return judge.Record(
            effects, runs, rows, self.operator.accepted, deleted, read_at, 2 * LEASE_SECONDS,
            accepted_messages(self._stage.sandbox), self._stage.steps, written, self.operator.joined,
        )  # fmt: skip

    def findings(self, record: judge.Record, least: int) -> list[judge.Finding]:
        """The judgement, what went wrong beside it, and the kinds that came less than `least` times."""
        found = judge.judge(record)
        found += [judge.Finding("trouble", "", text) for text in self._stage.troubles]
        found += [
            judge.Finding("worker ended", "", f"worker {number} ended with {worker.process.poll()}")
            for number, worker in enumerate(self._stage.workers)
            if worker.process.poll() is not None
        ]
        times = Counter(done.name for done in self.done)
        found += [
            judge.Finding("too few faults", "", f"{fault.name} came {times[fault.name]} times, not {least}")
            for fault in self._chosen
            if times[fault.name] < least
        ]
        return found


def _effect(fields: dict[str, object]) -> judge.Effect:
    made: judge.Effect = judge.Effect(**fields)  # type: ignore[arg-type]
    return made._replace(what=sys.intern(made.what), job=sys.intern(made.job), key=sys.intern(made.key))


def order_of(chosen: Sequence[Fault], rng: random.Random) -> Iterator[Fault]:
    """Faults without end, in rounds that have each kind once, in an order of their own."""
    while True:
        yield from rng.sample(chosen, len(chosen))


def _carry_out_all(sweep: Sweep, chosen: Sequence[Fault], rng: random.Random, arguments: argparse.Namespace) -> None:
    order = order_of(chosen, rng)
    if arguments.alone:
        sweep.alone([next(order) for _ in range(arguments.rounds * len(chosen))])
    elif arguments.short:
        once = iter([next(order) for _ in chosen])
        sweep.mixed(once, SHORT_EVERY_SECONDS, until=float("inf"), jobs=0)
    else:
        sweep.mixed(order, EVERY_SECONDS, until=time.monotonic() + 60 * arguments.minutes, jobs=arguments.jobs)


def one(arguments: argparse.Namespace, seed: int) -> int:
    """One sweep; returns the number of findings."""
    rng = random.Random(seed)
    began = time.monotonic()
    with Stage(random.Random(rng.random())) as stage:
        missing = left_out(stage)
        chosen = [FAULTS[name] for name in arguments.faults or FAULTS if name not in missing]
        for name, reason in missing.items():
            print(f"left out: {name}, because {reason}", flush=True)
        if not chosen:
            print("no kind of fault is left")
            return 1
        sweep = Sweep(stage, rng, chosen, acts=not arguments.alone)
        sweep.operator.start()
        early = False
        try:
            sweep.ending.wait(WARM_SECONDS)
            _carry_out_all(sweep, chosen, rng, arguments)
            sweep.join()
        except KeyboardInterrupt:
            early = True
            print("interrupted: no other fault begins, and what was done is judged", flush=True)
        finally:
            sweep.ending.set() if early else None
            sweep.join()
            sweep.operator.stop()
        sweep.settle()
        record = sweep.record()
        found = sweep.findings(record, 0 if early else arguments.least)
        found += [judge.Finding("left behind", "", text) for text in left_behind(stage, sweep.operator.canaries)]
        print(f"seed {seed}, {time.monotonic() - began:.0f} s{', ended early' if early else ''}")
        _print(stage, sweep, record, found, alone=arguments.alone)
    return len(found)


def _print(stage: Stage, sweep: Sweep, record: judge.Record, found: Sequence[judge.Finding], *, alone: bool) -> None:
    for line in (*table(sweep.done, sweep.again, record, alone=alone), *totals(record)):
        print(line)
    print(f"operator: {counted(sweep.operator.hits)}")
    print(f"refused to the operator: {counted(sweep.operator.refused)}")
    print(f"deadlocks that the server ended: {stage.server.deadlocks()}")
    for note, count in stage.notes.items():
        print(f"note: {note} ({count})")
    for kind, count in Counter(finding.kind for finding in found).items():
        print(f"FINDINGS {kind}: {count}")
    for finding in found[:SHOWN]:
        print(f"FINDING {finding.kind}: {finding.job} {finding.evidence}")
        for line in story(record, finding.job) if finding.job else ():
            print(line)
    print(f"findings: {len(found)}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/sweep", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="more than one: a sweep each (default 1)")
    parser.add_argument("--minutes", type=float, default=10, help="how long faults begin in the mixed run, at least")
    parser.add_argument(
        "--jobs", type=int, default=0, help="minimum number of enqueued jobs; the run is longer where it has to be"
    )
    parser.add_argument("--least", type=int, default=0, help="a kind that came less often is a finding")
    parser.add_argument("--rounds", type=int, default=10, help="how often each kind comes with --alone")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--alone", action="store_true", help="one fault at a time, 20 s of calm between")
    parser.add_argument("--short", action="store_true", help="each kind once, one every 3 s")
    parser.add_argument("--list", action="store_true", help="names the kinds and ends")
    arguments = parser.parse_args()
    unknown = set(arguments.faults or ()) - set(FAULTS)
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    if arguments.short:
        arguments.least = 1
    return arguments


def main() -> int:
    """The command line; returns the exit code."""
    arguments = _arguments()
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<10} {(fault.begin.__doc__ or '').strip()}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(any([one(arguments, seed) for seed in arguments.seed or [1]]))


if __name__ == "__main__":
    sys.exit(main())
