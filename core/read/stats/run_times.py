"""Waits and durations of all runs that ever ended, by task type: histograms that only grow, as a monitor needs them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.stats.figures import EDGES, added
from jobdeck.core.read.stats.trends import RAN

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDS: Final = tuple(range(0, 53, 4))
"""The edges that are bounds of buckets, each 4 times the one before: from 1 ms to 18.6 hours. With all 67, a monitor
would have five times as many series for each task type."""


BOUND_SECONDS: Final = tuple(EDGES[place] for place in BOUNDS)


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram: the runs up to each bound in seconds, the number of all, and the sum of their times in seconds.

    A time that equals a bound counts in the bucket above it.
    """

    bounds: tuple[tuple[float, int], ...]
    runs: int
    seconds: float

    @classmethod
    def of(cls, counts: Sequence[int], seconds: float) -> Histogram:
        """Makes it of the number of runs below the first bound, between each two, and from the last one on."""
        up_to = tuple(accumulate(counts))
        return cls(tuple(zip(BOUND_SECONDS, up_to, strict=False)), up_to[-1], seconds)

    def __add__(self, other: Histogram) -> Histogram:
        bounds = tuple((bound, runs + more) for (bound, runs), (_, more) in zip(self.bounds, other.bounds, strict=True))
        return Histogram(bounds, self.runs + other.runs, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The waits and durations of a task type."""

    task_type: str
    waits: Histogram
    durations: Histogram


def run_times() -> Query[tuple[RunTimes, ...]]:
    """Waits and durations of all runs whose handler came to an end, without dry runs, by the name of the type."""
    return select(
        """
        SELECT task_type, waits, durations, wait_seconds, duration_seconds FROM job_stat_list
        WHERE minutes = 0 AND NOT dry_run AND outcome = ANY(%(ran)s) ORDER BY task_type
        """,
        {"ran": RAN},
        read=_by_type,
    )


def _by_type(rows: Sequence[dict[str, Any]]) -> tuple[RunTimes, ...]:
    by_type: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_type.setdefault(row["task_type"], []).append(row)
    return tuple(
        RunTimes(name, _times(parts, "waits", "wait_seconds"), _times(parts, "durations", "duration_seconds"))
        for name, parts in by_type.items()
    )


def _times(parts: Sequence[dict[str, Any]], bins: str, seconds: str) -> Histogram:
    counts: tuple[int, ...] = ()
    for part in parts:
        counts = added(counts, part[bins])
    up_to = tuple(accumulate(counts + (0,) * (len(EDGES) + 1 - len(counts))))
    bounds = tuple((EDGES[place], up_to[place]) for place in BOUNDS)
    return Histogram(bounds, up_to[-1], sum(part[seconds] for part in parts))
