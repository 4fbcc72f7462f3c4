"""The thread that reports finished runs: all that are done in one statement, repeated until the database accepts it."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.model import RunOutcome
from jobdeck.core.postgres.reconnecting import FAILURES, LOST, Link
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import run_event
from jobdeck.core.worker.executor import NOT_STORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Finished, FinishedRun
    from jobdeck.core.worker.context import RunContext
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

BATCH = 1000
ONE_BY_ONE = 20
"""Up to this many finished runs per statement get a log line each; larger batches get one line together."""
_LEVELS = {
    RunOutcome.FAILED: logging.ERROR,
    RunOutcome.RETRIED: logging.WARNING,
    RunOutcome.ABANDONED: logging.WARNING,
}


class Completer:
    """Reports the runs of one worker in the order in which they finished.

    A report has its run's token, so the database applies it once even if it is sent again after a lost connection. A
    report whose content the database cannot store is replaced by a failure report that says so, and no run stays
    `running` because of what its handler returned.
    """

    def __init__(
        self,
        state: WorkerState,
        *,
        on_done: Callable[[], None] = lambda: None,
        on_finished: Callable[[], None] = lambda: None,
        patience: float = math.inf,
    ) -> None:
        """Creates the thread without starting it.

        Args:
            state: the worker whose runs to report.
            on_done: called when runs have ended.
            on_finished: called when the database has accepted their reports.
            patience: seconds for which one report is repeated while the database does not answer.
        """
        self._state = state
        self._patience = patience
        self._on_done = on_done
        self._on_finished = on_finished
        self._link = Link(state.database, "finishing runs")
        self._abandon = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"{state.worker_id} completer")

    def stop(self, *, at_once: bool = False) -> None:
        """Ends the thread once everything done is reported; with `at_once` it does not wait for the database."""
        if at_once:
            self._abandon.set()
        self._state.done.put(None)

    def close(self) -> None:
        self._link.close()

    def _loop(self) -> None:
        # Connect before there is a report to send. A failure here is handled when sending fails as well.
        with suppress(*FAILURES):
            self._link.connect()
        try:
            while True:
                batch, last = self._take()
                if batch:
                    self._on_done()
                    self._finish_guarded(batch)
                    self._on_finished()
                if last:
                    return
        finally:
            self._link.close()

    def _take(self) -> tuple[list[RunContext], bool]:
        """Waits for finished runs; returns up to `BATCH` of them, and whether the thread should end."""
        done = self._state.done
        first = done.get()
        if first is None:
            return [], True
        batch = [first]
        try:
            while len(batch) < BATCH:
                context = done.get_nowait()
                if context is None:
                    return batch, True
                batch.append(context)
        except queue.Empty:
            pass
        return batch, False

    def _finish_guarded(self, batch: Sequence[RunContext]) -> None:
        try:
            self.finish(batch)
        except Exception as error:  # noqa: BLE001 -- the leases of this batch run out; the worker goes on
            event(log, logging.ERROR, "finishing failed", runs=len(batch), error=safe_error(repr(error)))
            self._let_go(batch)

    def finish(self, batch: Sequence[RunContext]) -> list[Finished]:
        """Reports runs; counts, logs and alerts by the recorded outcomes; returns the answers."""
        state = self._state
        times = [context.elapsed for context in batch if context.started is not None]
        if times:
            state.pace.observe(len(times), sum(times))
        answers = self._store([context.result for context in batch if context.result is not None])
        counts = state.tally.recorded
        singly = len(answers) <= ONE_BY_ONE
        for answer in answers:
            counts[answer.recorded] += 1
            context = state.held.pop(answer.run_token, None)
            if context is not None and context.job.is_recurring:
                state.alerts.note_check_in(context, answer)
            if context is not None and (singly or answer.recorded in _LEVELS):
                self._announce(context, answer)
        if not singly:
            event(log, logging.INFO, "runs finished", runs=len(answers), worker=state.worker_id)
        if len(answers) < len(batch):
            self._let_go(batch)
        with state.settled:
            state.settled.notify_all()
        return answers

    def _let_go(self, batch: Sequence[RunContext]) -> None:
        for context in batch:
            self._state.held.pop(context.job.run_token, None)

    def _store(self, runs: Sequence[FinishedRun]) -> list[Finished]:
        state = self._state
        reconnected = False
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._link.run(
                    lambda conn: leases.finish(
                        conn,
                        state.worker_id,
                        runs,
                        retry_base=state.settings.retry_base_seconds,
                        retry_cap=state.settings.retry_cap_seconds,
                    )
                )
            except LOST:
                if self._abandon.wait(self._link.pause()) or time.monotonic() >= deadline:
                    event(log, logging.ERROR, "runs could not be reported before the end", runs=len(runs))
                    return []
            except Exception as error:  # noqa: BLE001 -- one bad report must not block the others
                if reconnected:
                    return self._store_singly(runs, error)
                # A schema upgrade may break an old connection. Only an error on a new one is due to the report itself.
                self._link.close()
                reconnected = True

    def _store_singly(self, runs: Sequence[FinishedRun], error: Exception) -> list[Finished]:
        """Finds the report that the database refuses and replaces it by a failure report that says so."""
        if len(runs) > 1:
            return [answer for run in runs for answer in self._store([run])]
        run = runs[0]
        if run.error_kind == NOT_STORED:
            event(log, logging.ERROR, "a run cannot be reported", run=run.run_token, error=safe_error(str(error)))
            return []
        return self._store([self._state.executor.not_stored(run, error)])

    def _announce(self, context: RunContext, answer: Finished) -> None:
        run = context.result
        if run is None:
            return
        level = _LEVELS.get(answer.recorded, logging.INFO)
        run_event(
            log,
            level,
            f"run {answer.recorded}",
            context,
            attempt=context.job.attempt,
            seconds=round(context.elapsed, 3),
            error_kind=run.error_kind,
            error=run.error,
            again_at=answer.run_at if answer.status == "pending" else None,
            worker=self._state.worker_id,
        )
        if answer.recorded in _LEVELS:
            self._state.tally.failed(context, run, answer)
        if answer.recorded is RunOutcome.FAILED:
            self._state.alerts.failed(context, run, worker=self._state.worker_id)
