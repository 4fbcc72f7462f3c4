"""What a sweep prints."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from bench.faults import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.faults.run import Done

AFTER_SECONDS = 15.0
"""A lease and the pass of the reaper: for so long after a fault a run may begin again because of it."""


def table(
    done: Sequence[Done], again: Mapping[str, int], record: judge.Record, *, alone: bool
) -> Iterable[str]:  # fmt: skip
    """A line per kind: how often it came and had to be tried again.

    With `alone`, when each moment belongs to one kind, also the effects doubled and the recovery.
    """
    times = Counter(one.name for one in done)
    if not alone:
        yield f"{'fault':<10} {'times':>5} {'again':>5}"
        yield from (f"{name:<10} {count:>5} {again.get(name, 0):>5}" for name, count in sorted(times.items()))
        return
    took = recoveries(done, record)
    doubled = doubled_by_kind(done, record)
    yield f"{'fault':<10} {'times':>5} {'again':>5} {'doubled':>8} {'median s':>9} {'worst s':>8}"
    for name, count in sorted(times.items()):
        yield (
            f"{name:<10} {count:>5} {again.get(name, 0):>5} {doubled[name]:>8} {statistics.median(took[name]):>9.2f} "
            f"{max(took[name]):>8.2f}"
        )


def recoveries(done: Iterable[Done], record: judge.Record) -> dict[str, list[float]]:
    """By kind, the seconds from the end of each fault until finishes were committed at half of the rate before."""
    ends = commits(record)
    took: dict[str, list[float]] = defaultdict(list)
    for one in done:
        took[one.name].append(judge.recovery(ends, one.began, one.ended))
    return took


def commits(record: judge.Record) -> list[float]:
    """The true times at which successes were committed, in order.

    Where the server's clock told a time twice, the commit is the first that came after the effect of the run.
    """
    effects = {effect.token: effect.end for effect in record.effects if effect.what == "effect"}
    times = []
    for run in record.runs:
        if run.outcome == "succeeded" and not run.late:
            possible = judge.true_times(run.committed, record.steps)
            effect = effects.get(run.token, min(possible))
            times.append(min((time for time in possible if time >= effect), default=run.committed))
    return sorted(times)


def doubled_by_kind(done: Iterable[Done], record: judge.Record) -> Counter[str]:
    """How many effects were doubled while a kind was there, or shortly after."""
    counts: Counter[str] = Counter()
    spans = [(one.name, one.began, one.ended + AFTER_SECONDS) for one in done]
    for effect, _ in judge.doubled(record.effects, record.runs):
        counts.update({name for name, began, ended in spans if began <= effect.end and effect.begin <= ended})
    return counts


def totals(record: judge.Record) -> Iterable[str]:
    """The counts of the whole sweep."""
    outcomes = Counter(run.outcome for run in record.runs)
    effects = sum(effect.what == "effect" for effect in record.effects)
    yield f"jobs enqueued: {len(record.accepted)}; effects: {effects}; messages accepted: {len(record.messages)}"
    yield f"runs: {counted(outcomes)}"
    doubled = Counter(how for _, how in judge.doubled(record.effects, record.runs))
    yield f"effects doubled, by the record of the first run: {counted(doubled)}"


def story(record: judge.Record, job: str) -> Iterable[str]:
    """All that is known of one job, as evidence."""
    yield from (f"  {one}" for one in record.effects if one.job == job)
    yield from (f"  {one}" for one in record.runs if one.job == job)
    yield from (f"  {one}" for one in record.rows if one.job == job)


def counted(counts: Mapping[str, int]) -> str:
    """`3 lost, 5 retried`, or `none`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
