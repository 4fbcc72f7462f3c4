"""Counts of a worker's runs, and what they say of the worker."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import SUCCESSES, FinishedRun, Json, RunOutcome
from jobdeck.core.read.stats.run_times import BOUND_SECONDS, Histogram, RunTimes
from jobdeck.core.read.stats.trends import RAN

if TYPE_CHECKING:
    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.queue.leases import Finished
    from jobdeck.core.worker.context import RunContext

SUCCEEDED = (RunOutcome.SUCCEEDED, RunOutcome.PARTIAL, RunOutcome.CONTINUED)
FAILED = (RunOutcome.FAILED, RunOutcome.RETRIED)
RESULTS_KEPT = 50


@dataclass(frozen=True, slots=True)
class Totals:
    """Runs by recorded outcome. `released` are also snoozed runs, `other` are cancelled and abandoned ones."""

    claimed: int = 0
    succeeded: int = 0
    failed: int = 0
    released: int = 0
    other: int = 0

    @property
    def processed(self) -> int:
        """Runs that a handler has ended; without released and snoozed runs, whose jobs will run again."""
        return self.succeeded + self.failed + self.other

    @property
    def held(self) -> int:
        """Claimed jobs whose run has not ended."""
        return self.claimed - self.processed - self.released

    def since(self, earlier: Totals) -> Totals:
        """The difference to earlier totals."""
        return Totals(
            self.claimed - earlier.claimed,
            self.succeeded - earlier.succeeded,
            self.failed - earlier.failed,
            self.released - earlier.released,
            self.other - earlier.other,
        )


_RAN: Final = frozenset(map(RunOutcome, RAN))


class TypeTally:
    """Outcomes, waits and durations of one worker's runs by task type, as the queue's statistics have them.

    Dry runs are left out. Only runs whose handler came to an end have a wait and a duration.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[str, RunOutcome]] = Counter()
        self._times: dict[str, tuple[_Bins, _Bins]] = {}

    def add(self, context: RunContext, recorded: RunOutcome) -> None:
        """Counts one run whose report the database has accepted."""
        run, job = context.result, context.job
        if run is None or run.dry_run or not run.began:
            return
        with self._lock:
            self._outcomes[job.task_type, recorded] += 1
            if recorded not in _RAN:
                return
            if job.task_type not in self._times:
                self._times[job.task_type] = (_Bins(), _Bins())
            waits, durations = self._times[job.task_type]
            waits.add(run.started - _waits_since(job))
            durations.add(run.finished - run.started)

    def outcomes(self) -> dict[tuple[str, RunOutcome], int]:
        """The number of runs by task type and outcome."""
        with self._lock:
            return dict(self._outcomes)

    def times(self) -> tuple[RunTimes, ...]:
        """The waits and durations by task type."""
        with self._lock:
            return tuple(
                RunTimes(name, waits.histogram(), durations.histogram())
                for name, (waits, durations) in self._times.items()
            )


def _waits_since(job: ClaimedJob) -> float:
    """When the job was due or, if that was long before it was created, the time in its id; in seconds since 1970."""
    due = job.due_at.timestamp()
    created = (job.id.int >> 80) / 1000 if job.id.version == 7 else due
    return created if created - due > 1.0 else due


class _Bins:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUND_SECONDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_right(BOUND_SECONDS, seconds)] += 1
        # A run may start before its job is due, and a clock may step back: a sum never becomes smaller.
        self._seconds += max(seconds, 0.0)

    def histogram(self) -> Histogram:
        return Histogram.of(self._counts, self._seconds)


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """What one worker does at the moment, and what it has counted since its start.

    `reporting` are the runs that have ended and whose report the database has not accepted. `failing_parts` are the
    parts of upkeep that failed when this worker last tried them. Times are seconds since 1970; None before the first.
    """

    slots: int
    running: int
    waiting: int
    reporting: int
    draining: bool
    claims: int
    claimed: int
    lost_leases: int
    heartbeat_at: float
    upkeep_at: float | None
    failing_parts: int
    outcomes: dict[tuple[str, RunOutcome], int]
    times: tuple[RunTimes, ...]


@dataclass
class Tally:
    """Counts of claims and outcomes, written by the threads that claim and report; `failures` are the newest ones.

    `claims` are the claims that the database answered, `claimed` the jobs that they returned. `heartbeat_at` is when
    the worker's row was last written, at first when the worker was started; `upkeep_at` is when upkeep was last done,
    None before. Both are in seconds since 1970.
    """

    claims: int = 0
    claimed: int = 0
    lost_leases: int = 0
    heartbeat_at: float = field(default_factory=time.time)
    upkeep_at: float | None = None
    recorded: Counter[RunOutcome] = field(default_factory=Counter)
    failures: deque[Json] = field(default_factory=lambda: deque(maxlen=RESULTS_KEPT))
    by_type: TypeTally | None = None
    """None unless somebody reads it, because it costs each run about two microseconds."""

    def wrote_row(self) -> None:
        self.heartbeat_at = time.time()

    def did_upkeep(self) -> None:
        self.upkeep_at = time.time()

    def totals(self) -> Totals:
        counts = dict(self.recorded)
        succeeded = sum(counts.get(outcome, 0) for outcome in SUCCEEDED)
        failed = sum(counts.get(outcome, 0) for outcome in FAILED)
        released = counts.get(RunOutcome.RELEASED, 0) + counts.get(RunOutcome.SNOOZED, 0)
        return Totals(self.claimed, succeeded, failed, released, sum(counts.values()) - succeeded - failed - released)


def result_of(context: RunContext, run: FinishedRun, answer: Finished) -> Json:
    """One run, with the keys of the predecessor's HTTP reply and its outcome."""
    return {
        "id": str(answer.job_id),
        "taskType": context.job.task_type,
        "status": answer.status.value if answer.status else "succeeded",
        "outcome": answer.recorded.value,
        "attempts": context.job.attempt,
        "lastError": None if answer.recorded in SUCCESSES else run.error,
    }
