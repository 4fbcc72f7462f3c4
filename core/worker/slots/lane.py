"""A lane: the task types of one kind of handler, their slots, and the pace at which jobs are claimed for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobdeck.core.model import FinishedRun
    from jobdeck.core.worker.context import RunContext
    from jobdeck.core.worker.stats import Pace


class Slots(Protocol):
    """The places of one kind of handler: `size` of them, and one that is kept free for a canary."""

    size: int
    canary: RunContext | None
    """The run in the slot for canaries, from when it is put there until it has ended."""

    @property
    def running(self) -> Mapping[RunContext, object]:
        """The runs that have a slot."""

    @property
    def occupied(self) -> int:
        """The number of runs without that of the slot for canaries."""

    @property
    def waiting(self) -> int:
        """The number of claimed jobs that wait for a slot."""

    def start(self) -> None: ...

    def put(self, contexts: Iterable[RunContext]) -> None:
        """Queues claimed jobs for the slots."""

    def hand_back_waiting(self) -> int:
        """Reports all waiting jobs as released and returns their number."""

    def time_out(self, context: RunContext) -> str | None:
        """Ends a run that has used up its time, as far as its kind allows. Returns what to log, if anything."""

    def write_off(self, context: RunContext, report: FinishedRun, *, replace: bool = True) -> bool:
        """Reports a run that does not end, and discards its own result. False if it has just ended."""

    def look(self, now: float) -> None:
        """Checks what only this kind needs; called by the watchdog with the monotonic time."""

    def close(self) -> None:
        """Ends the slots; none of them takes a job afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One lane of a worker. Without a `pace`, no jobs are claimed ahead of free slots."""

    name: str
    task_types: list[str]
    slots: Slots
    pace: Pace | None
