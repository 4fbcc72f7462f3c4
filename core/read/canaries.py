"""Canaries: requests to run one job next and alone, and what became of them, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from jobdeck.core.model import SUCCESSES, RunOutcome
from jobdeck.core.read.sentences import sentence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any
    from uuid import UUID

    from jobdeck.core.model import ActionResult

State = Literal["waiting", "running", "succeeded", "failed", "taken back"]

_ENDS: Final[Mapping[RunOutcome, str]] = {
    RunOutcome.SUCCEEDED: "succeeded {after}",
    RunOutcome.PARTIAL: "succeeded in part {after}",
    RunOutcome.CONTINUED: "succeeded so far {after} and continues with another run",
    RunOutcome.FAILED: "failed {after} and will not be retried",
    RunOutcome.RETRIED: "failed {after} and will be retried",
    RunOutcome.CANCELLED: "was cancelled {after}, while it ran",
    RunOutcome.RELEASED: "was returned to the queue {after}, because its worker stopped",
    RunOutcome.SNOOZED: "put the job off {after}",
    RunOutcome.LOST: "was lost with its worker {after}",
}
"""What is said of a run; `after` is the time that it took."""


@dataclass(frozen=True, slots=True)
class CanaryAsked:
    """The answer to a request: `canary` is its id, None if the request was refused or is a dry run."""

    result: ActionResult
    canary: int | None


@dataclass(frozen=True, slots=True)
class CanaryAnswer:
    """What has become of a request: whether the job waits or runs, how its run ended, or why it was taken back.

    `outcome`, `error` and `seconds` are those of the run; the error may hold hostile text.
    """

    canary: int
    job_id: UUID
    state: State
    message: str
    asked_at: datetime
    outcome: RunOutcome | None = None
    error: str | None = None
    seconds: float | None = None

    @property
    def settled(self) -> bool:
        """Whether the state is final."""
        return self.state not in {"waiting", "running"}


def answer_from(canary: int, row: Mapping[str, Any]) -> CanaryAnswer:
    """Converts a row of `job_queue_canary`."""
    outcome = RunOutcome(row["outcome"]) if row["outcome"] else None
    state: State = "taken back" if row["state"] == "ended" else row["state"]
    message = sentence(row["code"], row["facts"])
    if outcome is not None:
        state = "succeeded" if outcome in SUCCESSES else "failed"
        error = f": {row['error']}" if row["error"] else "."
        after = f"after {row['seconds'] or 0:.1f} s{', as a dry run' if (row['facts'] or {}).get('dry_run') else ''}"
        ended = _ENDS.get(outcome, f"{outcome.value} {{after}}").format(after=after)
        message = f"It {ended}{error}"
    return CanaryAnswer(
        canary, row["job_id"], state, message, row["asked_at"], outcome, row["error"], row["seconds"]
    )  # fmt: skip
