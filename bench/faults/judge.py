"""Judges a sweep by what the jobs wrote, what the vendors accepted, and the queue's tables. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

GRID_SECONDS = 0.001
SPREAD_SECONDS = 2.0
"""A step of the clock reaches the server's sessions within this time."""
ENDED = ("failed", "cancelled", "succeeded")
LIMITED = "the limited type"
"""The key under which the runs of a type with a limit note their effects."""
AT_ONCE = 3
"""Its limit. Of each other key one job runs at a time."""
RATED = "the type with a rate"
PER_SECOND = 10
"""Its rate, and how many may start at once."""


class Effect(NamedTuple):
    """One line of the effects. `what` is "begin" or "effect"; times are seconds since the epoch.

    `writes`: the run wrote its token into the database through its connection.
    """

    what: str
    job: str
    token: int
    cycle: int
    pid: int
    key: str
    begin: float
    end: float
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `job_runs`. `finished` and `committed` are the server's times.

    `writes`: the job writes its effects.
    """

    job: str
    token: int
    late: bool
    outcome: str
    finished: float
    due: float
    removed: bool
    committed: float = 0.0
    writes: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `job_queue`. `anchor` and `interval` (seconds) are those of a series.

    `waits`: a job of this type may put itself off.
    """

    job: str
    status: str
    run_at: float
    anchor: float | None = None
    interval: float | None = None
    waits: bool = False


class Step(NamedTuple):
    """For how long the server's clock was wrong (true times; None: it still is), and by how many seconds."""

    began: float
    ended: float | None
    offset: float


class Finding(NamedTuple):
    """What must not be: its kind, the job, and the evidence."""

    kind: str
    job: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that is judged.

    `accepted` are the jobs whose enqueue was committed, `deleted` those in the trash, `messages` what the vendors
    accepted (what it was, and to whom), `steps` the steps of the server's clock, `written` the tokens that runs wrote,
    `joined` the jobs that wait for the success of others. `now` is a time at which all jobs had had time to end, and
    `patience` how late a series may be then.
    """

    effects: Sequence[Effect]
    runs: Sequence[Run]
    rows: Sequence[Row]
    accepted: Collection[str]
    deleted: Collection[str]
    now: float
    patience: float
    messages: Sequence[tuple[str, str]] = ()
    steps: Sequence[Step] = ()
    written: Collection[int] = ()
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge(record: Record) -> list[Finding]:
    """All findings."""
    series = {row.job: row for row in record.rows if row.interval is not None}
    return [
        *lost(record.runs, record.rows, record.accepted, record.deleted),
        *stuck(record.rows, record.now - record.patience),
        *finished_twice(record.runs, series),
        *without_effect(record.effects, record.runs),
        *without_write(record.effects, record.runs, record.written),
        *joined_early(record.effects, record.joined),
        *earlier_claims(record.effects, record.runs, series),
        *before_the_effect(record.effects, record.runs, record.steps),
        *overlaps(record.effects, record.runs, record.steps),
        *over_the_rate(record.effects, record.steps),
        *off_grid(record.runs, series),
        *starved(series.values(), record.runs, record.now, record.patience),
        *sent_twice(record.messages),
    ]


def true_times(told: float, steps: Iterable[Step]) -> list[float]:
    """The true times at which the server's clock told this time; it may have told it twice, or not at all."""
    wrong = [
        told - step.offset
        for step in steps
        if step.began <= told - step.offset
        and (step.ended is None or told - step.offset <= step.ended + SPREAD_SECONDS)
    ]
    return [told, *wrong]


def true_time(told: float, steps: Iterable[Step]) -> float:
    """The earliest of them."""
    return min(true_times(told, steps))


def lost(runs: Iterable[Run], rows: Iterable[Row], accepted: Iterable[str], deleted: Collection[str]) -> list[Finding]:
    """Jobs that were enqueued and are in no table."""
    known = {row.job for row in rows} | {run.job for run in runs if run.removed} | set(deleted)
    return [Finding("lost", job, "enqueued and committed, now in no table") for job in accepted if job not in known]


def stuck(rows: Iterable[Row], due_before: float) -> list[Finding]:
    """One-time jobs that had not ended when all had time to, but those that put themselves off until lately."""
    return [
        Finding("stuck", row.job, f"still {row.status}")
        for row in rows
        if row.interval is None and row.status not in ENDED and not (row.waits and row.run_at > due_before)
    ]


def finished_twice(runs: Iterable[Run], series: Collection[str]) -> list[Finding]:
    """One-time jobs, and slots of a series, with more than one success."""
    successes = Counter((run.job, run.due if run.job in series else None) for run in runs if run.outcome == "succeeded")
    return [Finding("finished twice", job, f"{count} successes") for (job, _), count in successes.items() if count > 1]


def without_effect(effects: Iterable[Effect], runs: Iterable[Run]) -> list[Finding]:
    """Successes of runs that had no effect."""
    had = {effect.token for effect in effects if effect.what == "effect"}
    return [
        Finding("without effect", run.job, f"{run.token} succeeded")
        for run in runs
        if run.writes and run.outcome == "succeeded" and run.token not in had
    ]


def without_write(effects: Iterable[Effect], runs: Iterable[Run], written: Collection[int]) -> list[Finding]:
    """Successes of runs that wrote into the database, and whose write is not there."""
    succeeded = {run.token for run in runs if run.outcome == "succeeded"}
    return [
        Finding("without write", effect.job, f"{effect.token} wrote, and its row is gone")
        for effect in effects
        if effect.what == "effect" and effect.writes and effect.token in succeeded and effect.token not in written
    ]


def joined_early(effects: Sequence[Effect], joined: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Jobs of flows that began before one that they wait for had its effect."""
    had: dict[str, float] = {}
    for effect in effects:
        if effect.what == "effect":
            had[effect.job] = min(effect.end, had.get(effect.job, effect.end))
    return [
        Finding("joined early", effect.job, f"{effect.token} began before {blocker} had its effect")
        for effect in effects
        for blocker in joined.get(effect.job, ())
        if effect.begin < had.get(blocker, math.inf)
    ]


def earlier_claims(effects: Sequence[Effect], runs: Sequence[Run], series: Collection[str]) -> list[Finding]:
    """Reports that were accepted although the job had been claimed again, and tokens that two processes had."""
    found = []
    tokens: dict[str, set[int]] = defaultdict(set)
    begins: dict[str, list[Effect]] = defaultdict(list)
    holders: dict[int, set[int]] = defaultdict(set)
    for effect in effects:
        tokens[effect.job].add(effect.token)
        holders[effect.token].add(effect.pid)
        if effect.what == "begin":
            begins[effect.job].append(effect)
    for run in runs:
        tokens[run.job].add(run.token)
    outcomes = {run.token: run.outcome for run in runs if not run.late}
    for run in runs:
        newest = max(tokens[run.job])
        if run.outcome == "succeeded" and run.job not in series and newest > run.token:
            found.append(Finding("earlier claim", run.job, f"{run.token} was accepted, but {newest} came after it"))
    for effect in effects:
        if effect.what != "effect" or outcomes.get(effect.token) in {None, "lost", "released"}:
            continue
        found += [
            Finding("earlier claim", effect.job, f"{effect.token} was accepted, but {later.token} ran beside it")
            for later in begins[effect.job]
            if later.token > effect.token and later.begin < effect.end
        ]
    found += [
        Finding("earlier claim", "", f"{token} was given to {len(pids)} processes")
        for token, pids in holders.items()
        if len(pids) > 1
    ]
    return found


def before_the_effect(effects: Iterable[Effect], runs: Iterable[Run], steps: Sequence[Step]) -> list[Finding]:
    """Successes that counted before the run with their token had its effect: the report was one of another claim."""
    had = {effect.token: effect.end for effect in effects if effect.what == "effect"}
    return [
        Finding(
            "earlier claim", run.job, f"{run.token} counted {had[run.token] - run.committed:.3f} s before its effect"
        )
        for run in runs
        if run.outcome == "succeeded"
        and run.committed < had.get(run.token, run.committed)
        and max(true_times(run.committed, steps)) < had[run.token]
    ]


def _held_until(effect: Effect, lost_at: Mapping[int, float]) -> float:
    """The end of the time for which a run held its key: its own end, or the moment when its lease was taken back."""
    return min(effect.end, lost_at.get(effect.token, effect.end))


def overlaps(effects: Iterable[Effect], runs: Iterable[Run], steps: Sequence[Step]) -> list[Finding]:
    """More runs of one key at the same time than may be, while all of them held their leases."""
    lost_at = {run.token: true_time(run.finished, steps) for run in runs if run.outcome == "lost"}
    by_key: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.what == "effect" and effect.key not in {"", RATED}:
            by_key[effect.key].append(effect)
    found = []
    for key, of_key in by_key.items():
        holding: list[tuple[float, int]] = []
        for effect in sorted(of_key, key=lambda one: (one.begin, one.token)):
            while holding and holding[0][0] <= effect.begin:
                heappop(holding)
            heappush(holding, (_held_until(effect, lost_at), effect.token))
            if len(holding) > (AT_ONCE if key == LIMITED else 1):
                tokens = " and ".join(str(token) for _, token in sorted(holding))
                found.append(Finding("key overlap", effect.job, f"{tokens} of {key}"))
    return found


def over_the_rate(effects: Iterable[Effect], steps: Sequence[Step]) -> list[Finding]:
    """More begins than the rate allows in all. Each step of the clock, there and back, may allow a burst."""
    begins = [effect.begin for effect in effects if effect.what == "begin" and effect.key == RATED]
    seconds = max(begins, default=0.0) - min(begins, default=0.0) + SPREAD_SECONDS
    most = PER_SECOND * (seconds + 1 + 2 * len(steps))
    return [Finding("over the rate", "", f"{len(begins)} begins in {seconds:.0f} s")] if len(begins) > most else []


def off_grid(runs: Iterable[Run], series: Mapping[str, Row]) -> list[Finding]:
    """Cycles of a series whose slot is not its anchor and a whole number of intervals.

    A run after one that did not end its cycle serves the same slot, and is due when that one ended.
    """
    found = []
    begun: dict[str, bool] = {}
    for run in sorted(runs, key=lambda one: one.token):
        row = series.get(run.job)
        if row is None or not row.interval or row.anchor is None or run.late:
            continue
        repeated = begun.get(run.job, False)
        begun[run.job] = run.outcome in {"lost", "retried", "released", "continued"}
        if repeated:
            continue
        off = (run.due - row.anchor) % row.interval
        if min(off, row.interval - off) > GRID_SECONDS:
            found.append(Finding("off grid", run.job, f"{run.token} served a slot {off:.3f} s behind the grid"))
    return found


def starved(series: Iterable[Row], runs: Iterable[Run], now: float, patience: float) -> list[Finding]:
    """Series whose slot is due for longer than `patience`, or that served less than half of their slots."""
    served: dict[str, set[float]] = defaultdict(set)
    for run in runs:
        if run.outcome == "succeeded":
            served[run.job].add(run.due)
    found = []
    for row in series:
        if row.status in {"pending", "running"} and now - row.run_at > patience:
            found.append(Finding("starved", row.job, f"due for {now - row.run_at:.0f} s"))
        if row.interval and row.anchor is not None and row.run_at > row.anchor:
            slots = (row.run_at - row.anchor) / row.interval
            if len(served[row.job]) * 2 < slots:
                found.append(Finding("starved", row.job, f"served {len(served[row.job])} of {slots:.0f} slots"))
    return found


def sent_twice(messages: Iterable[tuple[str, str]]) -> list[Finding]:
    """Messages that a vendor accepted more than once."""
    return [
        Finding("sent twice", "", f"{what} to {to}: {count} times")
        for (what, to), count in Counter(messages).items()
        if count > 1
    ]


def doubled(effects: Iterable[Effect], runs: Iterable[Run]) -> list[tuple[Effect, str]]:
    """Effects that a later one of the same cycle repeated, each with how its run was recorded."""
    outcomes = {run.token: run.outcome for run in runs if not run.late}
    of_cycle: dict[tuple[str, int], list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.what == "effect":
            of_cycle[effect.job, effect.cycle].append(effect)
    return [
        (effect, outcomes.get(effect.token, "no record"))
        for together in of_cycle.values()
        for effect in sorted(together, key=lambda one: one.token)[:-1]
    ]


def recovery(ends: Sequence[float], began: float, ended: float, *, before: float = 5.0, window: float = 0.5) -> float:
    """Seconds from the end of a fault until jobs end at over half of the rate before it.

    Infinite if never, or if none ended before it either.

    `ends` are the times at which jobs ended, in order. The rate is back at the beginning of the first `window` with
    over half of the usual number.
    """
    usual = (bisect_left(ends, began) - bisect_left(ends, began - before)) / before
    if not usual:
        return float("inf")
    for place in range(bisect_left(ends, ended), len(ends)):
        if bisect_right(ends, ends[place] + window) - place > usual / 2 * window:
            return ends[place] - ended
    return float("inf")
