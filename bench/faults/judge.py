"""Judges a sweep by two records: the effects that the jobs wrote, and the tables of the queue. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

GRID_SECONDS = 0.001
ENDED = ("failed", "cancelled", "succeeded")


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the effects. `what` is "begin" or "effect"; times are seconds since the epoch."""

    what: str
    job: str
    token: int
    cycle: int
    pid: int
    key: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `job_runs`."""

    job: str
    token: int
    late: bool
    outcome: str
    finished: float
    due: float
    removed: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `job_queue`. `anchor` and `interval` (seconds) are those of a series."""

    job: str
    status: str
    run_at: float
    anchor: float | None = None
    interval: float | None = None


class Finding(NamedTuple):
    """What must not be: its kind, the job, and the evidence."""

    kind: str
    job: str
    evidence: str


def judge(
    effects: Sequence[Effect], runs: Sequence[Run], rows: Sequence[Row], accepted: Collection[str],
    deleted: Collection[str], now: float, patience: float,
) -> list[Finding]:  # fmt: skip
    """All findings. `accepted` are the jobs whose enqueue was committed, `deleted` those in the trash."""
    series = {row.job: row for row in rows if row.interval is not None}
    return [
        *lost(runs, rows, accepted, deleted),
        *stuck(rows),
        *finished_twice(runs, series),
        *earlier_claims(effects, runs, series),
        *overlaps(effects, runs),
        *off_grid(runs, series),
        *starved(series.values(), now, patience),
    ]


def lost(runs: Iterable[Run], rows: Iterable[Row], accepted: Iterable[str], deleted: Collection[str]) -> list[Finding]:
    """Jobs that were enqueued and are in no table."""
    known = {row.job for row in rows} | {run.job for run in runs if run.removed} | set(deleted)
    return [Finding("lost", job, "enqueued and committed, now in no table") for job in accepted if job not in known]


def stuck(rows: Iterable[Row]) -> list[Finding]:
    """One-time jobs that had not ended when all had time to."""
    return [
        Finding("stuck", row.job, f"still {row.status}")
        for row in rows
        if row.interval is None and row.status not in ENDED
    ]


def finished_twice(runs: Iterable[Run], series: Collection[str]) -> list[Finding]:
    """One-time jobs with more than one success."""
    successes = Counter(run.job for run in runs if run.outcome == "succeeded" and run.job not in series)
    return [Finding("finished twice", job, f"{count} successes") for job, count in successes.items() if count > 1]


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


def _held_until(effect: Effect, lost_at: Mapping[int, float]) -> float:
    """The end of the time for which a run held its key: its own end, or the moment when its lease was taken back."""
    return min(effect.end, lost_at.get(effect.token, effect.end))


def overlaps(effects: Iterable[Effect], runs: Iterable[Run]) -> list[Finding]:
    """Runs of one key at the same time, while both held their leases."""
    lost_at = {run.token: run.finished for run in runs if run.outcome == "lost"}
    by_key: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.what == "effect" and effect.key:
            by_key[effect.key].append(effect)
    found = []
    for key, of_key in by_key.items():
        latest: Effect | None = None
        for effect in sorted(of_key, key=lambda one: (one.begin, one.token)):
            if latest is not None and effect.begin < _held_until(latest, lost_at):
                found.append(Finding("key overlap", effect.job, f"{latest.token} and {effect.token} of {key}"))
            if latest is None or _held_until(effect, lost_at) > _held_until(latest, lost_at):
                latest = effect
    return found


def off_grid(runs: Iterable[Run], series: Mapping[str, Row]) -> list[Finding]:
    """Cycles of a series whose slot is not its anchor and a whole number of intervals."""
    found = []
    for run in runs:
        row = series.get(run.job)
        if row is None or not row.interval or row.anchor is None or run.late:
            continue
        off = (run.due - row.anchor) % row.interval
        if min(off, row.interval - off) > GRID_SECONDS:
            found.append(Finding("off grid", run.job, f"{run.token} served a slot {off:.3f} s behind the grid"))
    return found


def starved(series: Iterable[Row], now: float, patience: float) -> list[Finding]:
    """Series whose slot is due for longer than `patience`, when all had time to run."""
    return [
        Finding("starved", row.job, f"due for {now - row.run_at:.0f} s")
        for row in series
        if row.status in {"pending", "running"} and now - row.run_at > patience
    ]


def doubled(effects: Iterable[Effect], runs: Iterable[Run]) -> Counter[str]:
    """Effects beyond the first of each cycle, counted by how the run of the other effect was recorded."""
    outcomes = {run.token: run.outcome for run in runs if not run.late}
    of_cycle: dict[tuple[str, int], list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.what == "effect":
            of_cycle[effect.job, effect.cycle].append(effect)
    return Counter(
        outcomes.get(effect.token, "no record")
        for together in of_cycle.values()
        for effect in sorted(together, key=lambda one: one.token)[:-1]
    )


def recovery(ends: Sequence[float], began: float, ended: float, *, before: float = 5.0, window: float = 0.5) -> float:
    """Seconds from the end of a fault until effects come at over half of the rate before it; infinite if never.

    `ends` are the times of all effects, in order.
    """
    usual = sum(began - before <= at < began for at in ends) / before
    after = [at for at in ends if at >= ended - window]
    for place, at in enumerate(after):
        if sum(other <= at + window for other in after[place:]) > usual / 2 * window:
            return max(at - ended, 0.0)
    return float("inf")
