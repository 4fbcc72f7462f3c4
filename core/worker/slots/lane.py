"""A lane: the task types of one kind of handler, their slots, and the pace at which jobs are claimed for them."""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import JobFailure
from jobdeck.core.worker.context import RunContext, Stop, run_event

if TYPE_CHECKING:
    import queue
    import threading
    from collections.abc import Iterable, Mapping

    from jobdeck.core.model import FinishedRun
    from jobdeck.core.worker.executor import Executor
    from jobdeck.core.worker.slots.pace import Pace

log = logging.getLogger(__name__)

GONE = (
    "The thread of the run was interrupted before it could report, so its outcome is not known. "
    "A library of the handler raises exceptions in other threads, perhaps to limit their time."
)


class Slots:
    """The places of one kind of handler: `size` of them, and one that is kept free for a canary.

    Whichever thread ends a run takes it out of `running`, and only the first one reports it.
    """

    def __init__(
        self, executor: Executor, done: queue.SimpleQueue[RunContext | None], size: int, name: str, *, keeps: bool
    ) -> None:
        """Creates no thread yet.

        Args:
            executor: runs the jobs.
            done: gets each run that has ended.
            size: the number of places.
            name: the worker's name, for those of its threads.
            keeps: whether a run over its timeout keeps its job until its handler ends. Without it, the run is reported
                at once, while its handler may go on: for workers that must end.
        """
        self.size = size
        self.running: dict[RunContext, Any] = {}
        """The runs that have a slot, with what runs each."""
        self.canary: RunContext | None = None
        """The run in the slot for canaries, from when it is put there until it has ended."""
        self._executor = executor
        self._done = done
        self._name = name
        self._keeps = keeps

    @property
    def occupied(self) -> int:
        """The number of slots with a run, without the slot for canaries."""
        return len(self.running) - (self.canary in self.running)

    @property
    def waiting(self) -> int:
        """The number of claimed jobs that wait for a slot."""
        return 0

    @property
    def free(self) -> int:
        """For how many jobs a handler would be called at once."""
        return max(self.size - self.occupied - self.waiting, 0)

    def waits(self) -> set[RunContext]:
        """The claimed jobs that wait for a slot, also for the one for canaries."""
        return set()

    def start(self) -> None:
        """Starts what must run before the first job."""

    def put(self, contexts: Iterable[RunContext]) -> None:
        """Queues claimed jobs for the slots."""
        raise NotImplementedError

    def hand_back_waiting(self) -> int:
        """Reports all waiting jobs as released and returns their number."""
        return 0

    def time_out(self, context: RunContext) -> str | None:
        """Ends a run that has used up its time, as far as its kind allows. Returns what to log, if anything."""
        raise NotImplementedError

    def write_off(self, context: RunContext, report: FinishedRun, *, replace: bool = True) -> bool:
        """Reports a run that does not end, and discards its own result. False if it has just ended.

        With `replace` another one can have its place.
        """
        if self.running.pop(context, self) is self:
            return False
        self._abandon(context, replace=replace)
        self._report(context, report)
        return True

    def give_up(self, context: RunContext) -> None:
        """Reports a job that no slot has and none will take: as failed if its handler had begun, or as released."""
        self._executor.close(context)
        self._report(context, self._executor.unreported(context, JobFailure(GONE)))

    def look(self, now: float) -> None:
        """Checks what only this kind needs; called by the watchdog with the monotonic time."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the slots; none of them takes a job afterwards."""
        raise NotImplementedError

    def _abandon(self, context: RunContext, *, replace: bool) -> None:
        """Leaves what runs a run that is written off, before it is reported."""
        raise NotImplementedError

    def _takes_canary(self, context: RunContext) -> bool:
        """Whether this run gets the slot for canaries, which is its own from now on."""
        if not context.job.is_canary or self.canary is not None:
            return False
        self.canary = context
        return True

    def _free(self, context: RunContext) -> None:
        if context is self.canary:
            self.canary = None

    def _report(self, context: RunContext, report: FinishedRun) -> None:
        """Frees the place of a run and hands on its report."""
        self._free(context)
        context.result = report
        self._done.put(context)

    @staticmethod
    def _show(context: RunContext, notice: str) -> None:
        """Shows a run that goes on although it must stop; once for each notice."""
        if context.notice != notice:
            context.notice = notice
            context.keep_line("WARNING", f"the run {notice}")
            run_event(log, logging.WARNING, f"a run {notice}", context)


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One lane of a worker. Without a `pace`, no jobs are claimed ahead of free slots."""

    name: str
    task_types: list[str]
    slots: Slots
    pace: Pace | None
    handled: frozenset[str]
    """All types of this kind; `task_types` are those of them whose jobs are claimed now."""

    def busy(self, held: Mapping[int, RunContext], now: float) -> int:
        """How many slots have a run, or will have one of the jobs that the worker holds, that may take long."""
        pace, slots = self.pace, self.slots
        if pace is None:
            return 0
        jobs = list(slots.running)
        if pace.is_mixed:
            jobs = [one for one in list(held.values()) if one.job.task_type in self.handled]
        return sum(
            one is not slots.canary
            # One over its timeout has left its slot to another thread.
            and one.stop is not Stop.TIMED_OUT
            and one.result is None
            and (not pace.is_short(one.job.task_type) or now - (one.started or now) > pace.SHORT_SECONDS)
            for one in jobs
        )


def thread_position(thread: threading.Thread) -> str:
    """The stack of a thread as text; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 -- documented, and the only way there
    return "".join(traceback.format_stack(frame)) if frame else ""
