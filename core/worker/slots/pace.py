"""When a worker claims, and how many jobs: by the pace of its slots, the way to the database, and the other workers."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.queue.leases import Front, Lane


class Line:
    """How far away the database is: the shortest time that a statement of one round trip took."""

    NEAR_SECONDS = 0.008
    MOST = 6.0

    def __init__(self) -> None:
        self._shortest = math.inf

    def took(self, seconds: float) -> None:
        """Takes the time of a statement."""
        self._shortest = min(self._shortest, seconds)

    def lost(self) -> None:
        """Forgets it: the next connection may lead elsewhere."""
        self._shortest = math.inf

    @property
    def round_trip(self) -> float:
        """Seconds; 0 for a near database, or while nothing is known."""
        return self._shortest if self.NEAR_SECONDS < self._shortest < math.inf else 0.0

    @property
    def scale(self) -> float:
        """How many times as many jobs a batch has as over a near line, so that it is worth the wait."""
        return min(max(self.round_trip / self.NEAR_SECONDS, 1.0), self.MOST)


class Pace:
    """How many jobs to claim ahead of free slots: only short ones, as many as the slots run in a tenth of a second.

    A type is short when its last 8 runs since the worker was idle took under 50 ms each. Until then a claim takes at
    most the free slots. Where the last claim found jobs of other types among the short ones, it takes fewer: the others
    then probably find a free slot too.

    The mean of short types rises at once with slow runs and falls slowly with fast ones, so that a job does not wait
    long for its slot. Over a far line a tenth of a second is less than the time until the next claim's answer: two
    round trips more are added.
    """

    SHORT_SECONDS = 0.05
    SHORT_RUNS = 8
    AHEAD_SECONDS = 0.1
    MOST_AHEAD = 2000

    def __init__(self, slots: int, line: Line | None = None) -> None:
        self._slots = slots
        self._line = line or Line()
        self._mean = 0.0
        self._in_a_row: dict[str, int] = {}
        """By type, how many of its last runs took less than `SHORT_SECONDS`, without a longer one between them."""
        self._found: Counter[str] = Counter()
        """The types of the last claim that found jobs."""
        self._relied: frozenset[str] = frozenset()
        """The types that were short when the next claim was made. One slow run during it returns none of its jobs."""

    def observe(self, task_type: str, seconds: Sequence[float]) -> None:
        """Takes the times of runs of one type, in the order in which they ended."""
        short = 0
        if max(seconds) < self.SHORT_SECONDS:
            short = self._in_a_row.get(task_type, 0) + len(seconds)
        else:
            while seconds[-1 - short] < self.SHORT_SECONDS:
                short += 1
        self._in_a_row[task_type] = short
        if self.is_short(task_type):
            mean = sum(seconds) / len(seconds)
            trust = 1.0 if mean > self._mean else min(1.0, len(seconds) / (2 * self._slots))
            self._mean += (mean - self._mean) * trust

    def is_short(self, task_type: str) -> bool:
        """Whether jobs of this type may be claimed ahead."""
        return self._in_a_row.get(task_type, 0) >= self.SHORT_RUNS

    def claimed(self, jobs: Sequence[ClaimedJob]) -> None:
        """Takes the answer of a claim. One without jobs ends what is known: the next jobs may be other ones."""
        if jobs:
            self._found = Counter([job.task_type for job in jobs])
        else:
            self._found.clear()
            self._in_a_row.clear()

    @property
    def is_mixed(self) -> bool:
        """Whether some jobs of the last claim, or all, are not known to be short."""
        return not all(map(self.is_short, self._found))

    def ahead(self, busy: int) -> int:
        """How many jobs to claim ahead while `busy` slots have, or will have, jobs that are not known to be short."""
        free = self._slots - busy
        self._relied = frozenset(filter(self.is_short, self._in_a_row))
        short = sum(jobs for task_type, jobs in self._found.items() if task_type in self._relied)
        if free <= 0 or not short:
            return 0
        seconds = self.AHEAD_SECONDS + 2 * self._line.round_trip
        most = min(int(self.MOST_AHEAD * self._line.scale), int(free * seconds / max(self._mean, 1e-6)))
        others = self._found.total() - short
        return min(most, free * short // others) if others else most

    def fitting(self, jobs: Sequence[ClaimedJob], busy: int) -> int:
        """How many of these jobs, which were just claimed, the worker keeps; the others start sooner elsewhere.

        The last one is the job that takes the last slot that no job has which is not known to be short.
        """
        free = self._slots - busy
        if not self._relied.issuperset(self._found):
            for place, job in enumerate(jobs):
                if job.task_type in self._relied:
                    continue
                if free <= 1:
                    return place + max(free, 0)
                free -= 1
        return len(jobs)


class Crowd:
    """When a worker claims after a notification of a job, which reaches all workers.

    One that knows of no others claims at once. Among many, each draws: about `AT_ONCE` of those that are idle claim at
    once. The others wait for a moment within `SPREAD_SECONDS` for each worker, or within two claims where these take
    longer. So a job is claimed soon also where all that drew an early claim have no slot.

    How many are idle is an estimate. A claim that waited and finds a job lowers it, since nobody came sooner; one at
    once that finds none raises it a little. The two are level where `AT_ONCE` workers come.
    """

    AT_ONCE = 2.5
    SPREAD_SECONDS = 0.03
    SOON_SECONDS = 0.005
    LOWER, RAISE = 0.8, 1.012
    TRUST = 0.2

    def __init__(self) -> None:
        self._known = 1
        self._idle = 1.0
        self._claim_seconds = 0.0

    def delay(self, notifications: int, workers: int) -> float:
        """Seconds to wait before a claim after these notifications; 0 to claim at once.

        `workers` is how many run the same task types, this one among them.
        """
        self._idle = min(max(self._idle + workers - self._known, 1.0), workers)
        self._known = workers
        missed = max(1.0 - self.AT_ONCE / self._idle, 0.0)
        if random.random() >= missed**notifications:  # noqa: S311 -- no secret depends on it
            return 0.0
        spread = max(self.SPREAD_SECONDS, 2 * self._claim_seconds)
        return self._idle * random.uniform(0.0, spread)  # noqa: S311 -- the same

    def soon(self, workers: int) -> float:
        """Seconds to wait before a claim where there are jobs for all workers: these must not all come at once."""
        return workers * random.uniform(0.0, self.SOON_SECONDS)  # noqa: S311 -- the same

    def claimed(self, seconds: float, *, found: bool, at_once: bool | None) -> None:
        """Takes the result of a claim and how long it took; `at_once` is None where no notification led to it."""
        self._claim_seconds += (seconds - self._claim_seconds) * self.TRUST
        if found and at_once is False:
            self._idle = max(self._idle * self.LOWER, 1.0)
        elif at_once and not found:
            self._idle = min(self._idle * self.RAISE, float(self._known))


class LaneFronts:
    """The fronts of the lanes that the last full claims came from.

    A claim that continues from the fronts misses jobs that appeared before them: jobs with a higher priority or an
    earlier due time, and jobs that another worker returned. So a full scan follows as soon as a claim is not full, and
    after half a second at the latest. If a full scan is slow, it may take at most a twentieth of the time, so the next
    one comes later, but within five seconds.

    A claim that limits of types held back counts like a full one. But the worker may have slots free then, so a full
    scan follows as soon as a new job is announced. The fronts of lanes whose types had no place are kept. A full scan
    that ended with a full claim may have left lanes out, and their types have places: if limits hold back what
    continues from it, the next claim is a full scan.
    """

    SECONDS = 0.5
    MOST_SECONDS = 5.0
    SHARE = 0.05

    def __init__(self) -> None:
        self._fronts: dict[Lane, Front] = {}
        self._until = 0.0
        self._limited = False
        self._partial = False

    def fronts(self, now: float) -> Mapping[Lane, Front] | None:
        """The fronts to continue from at the monotonic time `now`; None when a full scan is due."""
        return self._fronts if self._fronts and now < self._until else None

    def claimed(
        self,
        jobs: Sequence[ClaimedJob],
        *,
        full: bool,
        onwards: bool,
        began: float,
        ended: float,
        limited: bool = False,
    ) -> None:
        """Records a claim between two monotonic times.

        `full`: it returned as many jobs as requested; `limited`: it did not, because of limits of types; `onwards`: it
        continued from the fronts.
        """
        self._limited = limited
        if not (full or limited):
            self._fronts = {}
            return
        if onwards:
            if limited and self._partial:
                self._until = 0.0
        else:
            self._partial = full
            if not limited:
                self._fronts = {}
            self._until = ended + min(max(self.SECONDS, (ended - began) / self.SHARE), self.MOST_SECONDS)
        # Series are claimed ahead of their lane's order, so they say nothing about how far the lane was claimed.
        self._fronts.update(
            {(job.task_type, job.priority): (job.due_at, job.id) for job in jobs if not job.is_recurring}
        )

    def announced(self) -> None:
        """Records that a new job was announced."""
        if self._limited:
            self._until = 0.0
