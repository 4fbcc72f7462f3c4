"""Counts of a worker's runs since its start, and the pace of its handlers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobdeck.core.model import RunOutcome

if TYPE_CHECKING:
    from jobdeck.core.model import FinishedRun, Json
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

    def since(self, earlier: Totals) -> Totals:
        """The difference to earlier totals."""
        return Totals(
            self.claimed - earlier.claimed,
            self.succeeded - earlier.succeeded,
            self.failed - earlier.failed,
            self.released - earlier.released,
            self.other - earlier.other,
        )


@dataclass
class Tally:
    """Counts of claims and outcomes, written by the threads that claim and report; `failures` are the newest ones."""

    claimed: int = 0
    recorded: Counter[RunOutcome] = field(default_factory=Counter)
    failures: deque[Json] = field(default_factory=lambda: deque(maxlen=RESULTS_KEPT))

    def failed(self, context: RunContext, run: FinishedRun, answer: Finished) -> None:
        self.failures.append(result_of(context, run, answer))

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
        "lastError": run.error,
    }


class Pace:
    """How many jobs to claim ahead: as many as the slots can run in a tenth of a second, by the mean run time.

    The mean rises at once with slow runs and falls slowly with fast ones. So a claimed job does not wait long behind
    slow ones, and a large number of short jobs is still claimed in large batches.
    """

    AHEAD_SECONDS = 0.1
    MOST_AHEAD = 2000

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean = self.AHEAD_SECONDS

    def observe(self, runs: int, seconds: float) -> None:
        """Updates the mean with a number of runs and the seconds that they took together."""
        mean = seconds / runs
        trust = 1.0 if mean > self._mean else min(1.0, runs / (2 * self._slots))
        self._mean += (mean - self._mean) * trust

    def ahead(self, busy: int) -> int:
        """How many jobs may wait for a slot while `busy` slots have long runs."""
        free = self._slots - busy
        if free <= 0:
            return 0
        return min(self.MOST_AHEAD, int(free * self.AHEAD_SECONDS / max(self._mean, 1e-6)))
