"""The canary: the one job of an error group that runs first and alone, and its state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from jobdeck.core.read.canaries import CanaryAnswer, State


@dataclass(frozen=True, slots=True)
class Canary:
    """A request to run a job, by its id in the database, and its answer as last read (None until then)."""

    job_id: UUID
    request: int
    answer: CanaryAnswer | None = None

    @property
    def state(self) -> State:
        return self.answer.state if self.answer is not None else "waiting"

    @property
    def settled(self) -> bool:
        """Whether the state is final."""
        return self.answer is not None and self.answer.settled

    def follow(self, answers: Iterable[CanaryAnswer]) -> Canary:
        """The canary updated with the answers just read."""
        found = next((answer for answer in answers if answer.canary == self.request), None)
        return replace(self, answer=found or self.answer)
