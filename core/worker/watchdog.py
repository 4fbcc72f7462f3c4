"""The thread that looks after running handlers without asking the database: timeouts, leases that end, long waits."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.worker.context import RunContext
    from jobdeck.core.worker.state import Station

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.2
IDLE_SECONDS = 1.0
LONGEST_WAIT = 2.0
"""Jobs that were claimed ahead go back when no slot has taken one for so long."""


class Watch:
    """Stops what runs too long or without a lease, and hands back what waits too long."""

    def __init__(self, station: Station, *, on_exit: Callable[[], None]) -> None:
        """`on_exit` is called when the main thread has ended and nobody has stopped the worker."""
        self._station = station
        self._on_exit = on_exit
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"{station.worker_id} watch")

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()

    def _loop(self) -> None:
        while not self._ending.wait(BUSY_SECONDS if self._station.held else IDLE_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 -- timeouts must be kept whatever went wrong with this look
                event(log, logging.ERROR, "looking after handlers failed", error=safe_error(repr(error)))
            if not threading.main_thread().is_alive():
                self._on_exit()
                return

    def look(self) -> None:
        """One look at everything that runs or waits."""
        now = time.monotonic()
        newest = 0.0
        runs = list(self._station.slots.running.items())
        for context, thread in runs:
            if context.started is None:
                continue
            newest = max(newest, context.started)
            job_type = self._station.runner.registry.get(context.job.task_type)
            if job_type is not None and now - context.started > job_type.timeout:
                self._time_out(context, thread)
            elif now >= context.lease_end and context.stop is not Stop.LOST:
                context.stop = Stop.LOST
                event(
                    log,
                    logging.WARNING,
                    "the lease of a run could not be renewed in time; its handler is told to stop",
                    run=context.job.run_token,
                    job=context.job.id,
                    type=context.job.task_type,
                )
        if len(runs) >= self._station.slots.size and self._station.slots.waiting and now - newest > LONGEST_WAIT:
            self._station.slots.hand_back_waiting()

    def _time_out(self, context: RunContext, thread: threading.Thread) -> None:
        context.stop = Stop.TIMED_OUT
        report = self._station.runner.timed_out(context, thread)
        if self._station.slots.write_off(context, report):
            event(
                log,
                logging.WARNING,
                "a run took too long; it is reported as failed, and its thread is given up",
                run=context.job.run_token,
                job=context.job.id,
                type=context.job.task_type,
            )
