"""The thread that watches running handlers without the database: timeouts, expiring leases, jobs that wait too long."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import run_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.worker.slots.lane import Slots
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.2
IDLE_SECONDS = 1.0
LONGEST_WAIT = 2.0
"""Seconds after which jobs claimed ahead return to the queue if no slot has taken one."""


class Watchdog:
    """Stops runs that take too long or lose their lease, and returns jobs that wait too long to the queue."""

    def __init__(self, state: WorkerState, *, on_exit: Callable[[], None]) -> None:
        """`on_exit` is called when the main thread has ended without stopping the worker."""
        self._state = state
        self._on_exit = on_exit
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
            if not threading.main_thread().is_alive():
                self._on_exit()
                return

    def look(self) -> None:
        """Checks all running and waiting jobs once."""
        for lane in self._state.lanes:
            self._look(lane.slots)

    def _look(self, slots: Slots) -> None:
        now = time.monotonic()
        newest = 0.0
        for context in list(slots.running):
            if context.started is None:
                continue
            newest = max(newest, context.started)
            job_type = self._state.executor.registry.get(context.job.task_type)
            if job_type is not None and now - context.started > job_type.timeout:
                if message := slots.time_out(context):
                    run_event(log, logging.WARNING, message, context)
            elif now >= context.lease_end and self._state.lose(context):
                message = "the lease of a run could not be renewed in time; its handler must stop"
                run_event(log, logging.WARNING, message, context)
        if slots.occupied >= slots.size and slots.waiting and now - newest > LONGEST_WAIT:
            slots.hand_back_waiting()
        slots.look(now)
