"""What a worker has done since it started, and how long its handlers take."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobdeck.core.model import RunOutcome

if TYPE_CHECKING:
    from jobdeck.core.model import Finished, FinishedRun, Json
    from jobdeck.core.worker.context import RunContext

SUCCEEDED = (RunOutcome.SUCCEEDED, RunOutcome.PARTIAL, RunOutcome.CONTINUED)
FAILED = (RunOutcome.FAILED, RunOutcome.RETRIED)
RESULTS_KEPT = 50


@dataclass(frozen=True, slots=True)
class Totals:
    """Runs by what was recorded of them. `other` are cancelled and abandoned ones."""

    claimed: int = 0
    succeeded: int = 0
    failed: int = 0
    released: int = 0
    other: int = 0

    @property
    def processed(self) -> int:
        """Runs that a handler had; released ones are given back unrun, or run again from the start."""
        return self.succeeded + self.failed + self.other

    def since(self, earlier: Totals) -> Totals:
        """What came after an earlier moment."""
        return Totals(
            self.claimed - earlier.claimed,
            self.succeeded - earlier.succeeded,
            self.failed - earlier.failed,
            self.released - earlier.released,
            self.other - earlier.other,
        )


@dataclass
class Tally:
    """Counts, written by the threads that claim and finish. `failures` are the newest failed runs."""

    claimed: int = 0
    recorded: Counter[RunOutcome] = field(default_factory=Counter)
    failures: deque[Json] = field(default_factory=lambda: deque(maxlen=RESULTS_KEPT))

    def failed(self, context: RunContext, run: FinishedRun, answer: Finished) -> None:
        """Keeps a failed run for the record of the window it falls into."""
        self.failures.append(result_of(context, run, answer))

    def totals(self) -> Totals:
        """The counts as they stand."""
        counts = dict(self.recorded)
        succeeded = sum(counts.get(outcome, 0) for outcome in SUCCEEDED)
        failed = sum(counts.get(outcome, 0) for outcome in FAILED)
        released = counts.get(RunOutcome.RELEASED, 0)
        return Totals(self.claimed, succeeded, failed, released, sum(counts.values()) - succeeded - failed - released)


def result_of(context: RunContext, run: FinishedRun, answer: Finished) -> Json:
    """One run in the words of the original's reply: `id`, `status`, `attempts`, `lastError`, and what was recorded."""
    return {
        "id": str(answer.job_id),
        "taskType": context.job.task_type,
        "status": answer.status.value if answer.status else "succeeded",
        "outcome": answer.recorded.value,
        "attempts": context.job.attempt,
        "lastError": run.error,
    }


class Pace:
    """How far to claim ahead: as much as the slots get through in a tenth of a second, judged by what they did.

    Slower handlers are believed at once, faster ones when there were several, so that a claimed job does not wait long
    behind others while a flood of short ones still comes in large batches.
    """

    AHEAD_SECONDS = 0.1
    MOST_AHEAD = 2000

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean = self.AHEAD_SECONDS

    def observe(self, runs: int, seconds: float) -> None:
        """Takes in what a number of runs took together."""
        mean = seconds / runs
        trust = 1.0 if mean > self._mean else min(1.0, runs / (2 * self._slots))
        self._mean += (mean - self._mean) * trust

    def ahead(self, busy: int) -> int:
        """How many jobs may wait for a slot, when `busy` slots are held up by long runs."""
        free = self._slots - busy
        if free <= 0:
            return 0
        return min(self.MOST_AHEAD, int(free * self.AHEAD_SECONDS / max(self._mean, 1e-6)))
