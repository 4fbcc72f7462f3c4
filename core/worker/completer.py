"""The thread that reports how runs ended: whatever is done, in one statement, again until it is taken in."""

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
from jobdeck.core.worker.executor import NOT_STORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Finished, FinishedRun
    from jobdeck.core.worker.context import RunContext
    from jobdeck.core.worker.state import Station

log = logging.getLogger(__name__)

BATCH = 1000
ONE_BY_ONE = 20
"""Up to so many finished runs at a time get a line each in the log; a flood gets one line."""
_LEVELS = {
    RunOutcome.FAILED: logging.ERROR,
    RunOutcome.RETRIED: logging.WARNING,
    RunOutcome.ABANDONED: logging.WARNING,
}


class Finisher:
    """Reports the runs of one station, in the order in which they were done.

    A report carries its run's token, so sending it again after a lost connection applies it once. What the
    database cannot take in because of its content is replaced by a report that says so: no run is left
    `running` because of what its handler returned.
    """

    def __init__(
        self,
        station: Station,
        *,
        on_done: Callable[[], None] = lambda: None,
        on_finished: Callable[[], None] = lambda: None,
        patience: float = math.inf,
    ) -> None:
        """Starts nothing yet.

        Args:
            station: whose runs to report.
            on_done: called when runs have ended.
            on_finished: called when the database knows it.
            patience: for how many seconds to go on sending one report to a database that does not answer.
        """
        self._station = station
        self._patience = patience
        self._on_done = on_done
        self._on_finished = on_finished
        self._link = Link(station.database, "finishing runs")
        self._abandon = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"{station.worker_id} finisher")

    def stop(self, *, at_once: bool = False) -> None:
        """Ends the thread after what is done now; with `at_once` without waiting for a database that is away."""
        if at_once:
            self._abandon.set()
        self._station.done.put(None)

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()

    def _loop(self) -> None:
        # Connected before there is something to report. What fails here is dealt with where it fails again.
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
        """What is done, waiting if nothing is; and whether that was the last."""
        done = self._station.done
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
        """Reports runs, counts and logs what was recorded, raises alerts; returns the answers."""
        station = self._station
        times = [context.elapsed for context in batch if context.started is not None]
        if times:
            station.pace.observe(len(times), sum(times))
        answers = self._store([context.result for context in batch if context.result is not None])
        counts = station.tally.recorded
        singly = len(answers) <= ONE_BY_ONE
        for answer in answers:
            counts[answer.recorded] += 1
            context = station.held.pop(answer.run_token, None)
            if context is not None and context.job.is_recurring:
                station.alerts.note_check_in(context, answer)
            if context is not None and (singly or answer.recorded in _LEVELS):
                self._tell(context, answer)
        if not singly:
            event(log, logging.INFO, "runs finished", runs=len(answers), worker=station.worker_id)
        if len(answers) < len(batch):
            self._let_go(batch)
        with station.settled:
            station.settled.notify_all()
        return answers

    def _let_go(self, batch: Sequence[RunContext]) -> None:
        for context in batch:
            self._station.held.pop(context.job.run_token, None)

    def _store(self, runs: Sequence[FinishedRun], *, anew: bool = False) -> list[Finished]:
        station = self._station
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._link.run(
                    lambda conn: leases.finish(
                        conn,
                        station.worker_id,
                        runs,
                        retry_base=station.settings.retry_base_seconds,
                        retry_cap=station.settings.retry_cap_seconds,
                    )
                )
            except LOST:
                if self._abandon.wait(self._link.pause()) or time.monotonic() >= deadline:
                    event(log, logging.ERROR, "runs could not be reported before the end", runs=len(runs))
                    return []
            except Exception as error:  # noqa: BLE001 -- whatever a report holds, it must not hold up the others
                if anew:
                    return self._store_singly(runs, error)
                # A connection may have gone stale with a schema upgrade: what fails on a new one is the report's fault.
                self._link.close()
                anew = True

    def _store_singly(self, runs: Sequence[FinishedRun], error: Exception) -> list[Finished]:
        """Finds the report that the database refuses and puts one in its place that says so."""
        if len(runs) > 1:
            return [answer for run in runs for answer in self._store([run])]
        run = runs[0]
        if run.error_kind == NOT_STORED:
            event(log, logging.ERROR, "a run cannot be reported", run=run.run_token, error=safe_error(str(error)))
            return []
        return self._store([self._station.runner.not_stored(run, error)])

    def _tell(self, context: RunContext, answer: Finished) -> None:
        run = context.result
        if run is None:
            return
        level = _LEVELS.get(answer.recorded, logging.INFO)
        event(
            log,
            level,
            f"run {answer.recorded}",
            run=answer.run_token,
            job=answer.job_id,
            type=context.job.task_type,
            attempt=context.job.attempt,
            seconds=round(context.elapsed, 3),
            error_kind=run.error_kind,
            error=run.error,
            again_at=answer.run_at if answer.status == "pending" else None,
            worker=self._station.worker_id,
        )
        if answer.recorded in _LEVELS:
            self._station.tally.failed(context, run, answer)
        if answer.recorded is RunOutcome.FAILED:
            self._station.alerts.failed(context, run, worker=self._station.worker_id)
