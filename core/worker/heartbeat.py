"""The thread that renews the leases of a worker's jobs, and finds out which jobs were cancelled or lost."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from jobdeck.core.postgres.reconnecting import FAILURES, Rounds
from jobdeck.core.queue import leases
from jobdeck.core.worker.context import RunContext, Stop, run_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.queue.leases import Renewed
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

NEWS_SECONDS = 2.0
"""The interval at which new progress of running jobs is sent between two heartbeats."""
BATCH = 500
"""Leases per statement. Thousands in one statement would grow the process by megabytes that Python never returns."""


class Heartbeat(Rounds):
    """Renews every `heartbeat_seconds`, at once when `beat_now` is called and within 2 s after `beat_soon`."""

    def __init__(self, state: WorkerState) -> None:
        interval = state.settings.heartbeat_seconds
        super().__init__(
            state.database, "renewing leases", min(NEWS_SECONDS, interval), f"{state.worker_id} heartbeat",
            longest=interval / 2,
        )  # fmt: skip
        self._state = state
        self._interval = interval
        self._urgent = False
        self._missed: list[RunContext] = []
        self._renewed = time.monotonic()

    def beat_now(self) -> None:
        """Requests a heartbeat at once."""
        self.beat_soon()
        self.wake()

    def beat_soon(self) -> None:
        """Requests a heartbeat within 2 s."""
        self._urgent = True

    def _round(self) -> None:
        """Makes a heartbeat if one is due, else sends new progress."""
        now = time.monotonic()
        held = list(self._state.held.values())
        if not held:
            self._renewed = now
            return
        urgent, self._urgent = self._urgent, False
        try:
            if urgent or now - self._renewed >= self._interval * 0.95:
                self._missed = []
                self._beat_all(held)
                self._renewed = now
            else:
                # The rows of the runs that were missed were locked by another transaction.
                missed, self._missed = [run for run in self._missed if run.job.run_token in self._state.held], []
                news = [context for context in self._state.running() if context.has_news() or _untold(context)]
                self._beat_all(list(dict.fromkeys(missed + news)))
        except FAILURES:
            self._urgent = True
            raise

    def _beat_all(self, contexts: Sequence[RunContext]) -> None:
        for start in range(0, len(contexts), BATCH):
            self._beat(contexts[start : start + BATCH])

    def _beat(self, contexts: Sequence[RunContext]) -> None:
        sent = time.monotonic()
        progress = [(context, context.news()) for context in contexts]
        begins = {one.job.run_token: at for one in contexts if (at := _untold(one)) is not None}
        try:
            renewed = self._link.run(
                lambda conn: leases.heartbeat(
                    conn,
                    self._state.worker_id,
                    [(context.job.id, context.job.run_token, news) for context, news in progress],
                    self._state.settings.lease_seconds,
                    begins,
                )
            )
        except FAILURES:
            for context in contexts:
                context.news_was_lost()
            raise
        answered = {answer.run_token for answer in renewed}
        self._missed += [context for context in contexts if context.job.run_token not in answered]
        for context in self._missed:
            context.news_was_lost()
        for context in contexts:
            context.is_known |= context.job.run_token in begins.keys() & answered
        self._note(renewed, self._state.lease_end(sent))

    def _note(self, renewed: Sequence[Renewed], end: float) -> None:
        for answer in renewed:
            held = self._state.held.get(answer.run_token)
            if held is None or held.result is not None:
                continue
            if not answer.alive:
                self._lost(held)
                continue
            held.lease_end = end
            if answer.cancel_requested and held.stop is None:
                held.must_stop(Stop.CANCELLED)

    def _lost(self, context: RunContext) -> None:
        if self._state.lose(context):
            message = "the lease of a run is lost; its handler must stop and its result will be discarded"
            run_event(log, logging.WARNING, message, context)


def _untold(context: RunContext) -> float | None:
    """When a run began, by the database's clock, if the database does not know that it has; else None."""
    if context.is_known or context.started is None or context.starting:
        return None
    return context.epoch + context.started
