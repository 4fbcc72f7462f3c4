"""The thread that watches running handlers without the database: timeouts, expiring leases, jobs that wait too long."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import RunContext, run_event
from jobdeck.core.worker.executor import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.worker.slots.lane import Lane, Slots
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.2
IDLE_SECONDS = 1.0
LOST_SECONDS = 10.0
"""A claimed job that no slot has for this long is one that an interrupted thread has dropped."""
LONGEST_WAIT = 0.5
"""Seconds after which jobs claimed ahead return to the queue if no slot has taken one."""


class Watchdog:
    """Stops runs that take too long or lose their lease, and returns jobs that wait too long to the queue."""

    def __init__(
        self, state: WorkerState, *, on_exit: Callable[[], None], on_room: Callable[[], None] = lambda: None
    ) -> None:
        """Creates the thread without starting it.

        Args:
            state: the worker to watch.
            on_exit: called when the main thread has ended without stopping the worker.
            on_room: called when a lane has a free place again that no report of a run has freed.
        """
        self._state = state
        self._on_exit = on_exit
        self._on_room = on_room
        self._full: set[Lane] = set()
        """The lanes that had no free place at the last look."""
        self._missing: set[RunContext] = set()
        """Claimed jobs without a result that no slot had at the last look for them."""
        self._next_missing = 0.0
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"{state.worker_id} watchdog")

    def stop(self) -> None:
        self._ending.set()

    def _loop(self) -> None:
        while not self._ending.wait(BUSY_SECONDS if self._state.held else IDLE_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 -- timeouts must be checked again after any error
                event(log, logging.ERROR, "watching handlers failed", error=safe_error(repr(error)))
            if _main_has_ended():
                self._on_exit()
                return

    def look(self) -> None:
        """Checks all running and waiting jobs once."""
        for lane in self._state.lanes:
            slots = lane.slots
            was_full = lane in self._full or slots.occupied >= slots.size
            self._look(slots)
            if slots.occupied >= slots.size:
                self._full.add(lane)
            elif was_full:
                self._full.discard(lane)
                self._on_room()
        now = time.monotonic()
        if now >= self._next_missing:
            self._next_missing = now + LOST_SECONDS
            self._look_for_missing(now)

    def _look_for_missing(self, now: float) -> None:
        """Gives back the jobs that no slot has any more, and those that have waited for a slot longer than a lease."""
        state = self._state
        waiting = {context for lane in state.lanes for context in lane.slots.waits()}
        longest = state.settings.lease_seconds
        if any(now - (one.job.claimed_at.timestamp() - one.epoch) > longest for one in waiting):
            given_back = sum(lane.slots.hand_back_waiting() for lane in state.lanes)
            message = "no slot took these jobs within a lease; they are given back"
            event(log, logging.ERROR, message, jobs=given_back, worker=state.worker_id)
        known = waiting.union(state.running())
        missing = {one for one in list(state.held.values()) if one.result is None and one not in known}
        for context in missing & self._missing:
            message = "no slot has this job any more; it is given back, or failed if it had begun"
            run_event(log, logging.ERROR, message, context)
            state.lane_of(context).slots.give_up(context)
        self._missing = missing

    def _look(self, slots: Slots) -> None:
        now = time.monotonic()
        newest = 0.0
        for context in list(slots.running):
            if context.started is None:
                continue
            newest = max(newest, context.started)
            allowed = self._allowed(context)
            if now - context.started > allowed:
                if message := slots.time_out(context):
                    run_event(log, logging.WARNING, message, context)
            elif now >= context.lease_end and self._state.lose(context):
                message = "the lease of a run could not be renewed in time; its handler must stop"
                run_event(log, logging.WARNING, message, context)
        if slots.occupied >= slots.size and slots.waiting and now - newest > LONGEST_WAIT:
            slots.hand_back_waiting()
        slots.look(now)

    def _allowed(self, context: RunContext) -> float:
        """How long a run may take from `started` on, which is read afterwards: a process that begins sets it first."""
        if context.starting:
            return START_SECONDS
        return self._state.executor.allowed(context.job)


def _main_has_ended() -> bool:
    """Whether the main thread has ended, or waits for the threads of `to_thread`, which take no calls any more."""
    executors = sys.modules.get("concurrent.futures.thread")
    return not threading.main_thread().is_alive() or getattr(executors, "_shutdown", False)
