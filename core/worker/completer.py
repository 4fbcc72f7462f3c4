"""The thread that reports finished runs: all that are done in one statement, repeated until the database accepts it."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from psycopg.errors import LockNotAvailable

from jobdeck.core.logs import event
from jobdeck.core.model import SUCCESSES, FinishedRun, RunOutcome
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import RunContext, run_event
from jobdeck.core.worker.executor import NOT_STORED
from jobdeck.core.worker.stats import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.queue.calls import Connection
    from jobdeck.core.queue.leases import Finished
    from jobdeck.core.worker.state import WorkerState

log = logging.getLogger(__name__)

BATCH = 1000
LATER_SECONDS = 1.0
"""The interval at which reports are tried again whose rows another transaction has locked."""
TRIES_ALONE = 3
"""How often a report that fails alone is sent before it is replaced."""
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
    report whose row another transaction has locked is set aside and tried again, so that it delays no other. A batch
    that the database refuses is halved until the report that it cannot store is alone; that one is replaced by a
    failure report that says so, and no run stays `running` because of what its handler returned.
    """

    def __init__(
        self,
        state: WorkerState,
        *,
        on_done: Callable[[], None] = lambda: None,
        on_finished: Callable[[Sequence[RunContext]], None] = lambda _: None,
        patience: float = math.inf,
    ) -> None:
        """Creates the thread without starting it.

        Args:
            state: the worker whose runs to report.
            on_done: called when runs have ended.
            on_finished: called with runs whose reports were sent.
            patience: seconds for which one report is repeated while the database does not answer.
        """
        self._state = state
        self._patience = patience
        self._on_done = on_done
        self._on_finished = on_finished
        self._link = Link(state.database, "finishing runs")
        self._abandon = threading.Event()
        self._later: list[RunContext] = []
        self._next_try = 0.0
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
            last = False
            while not last:
                batch, last = self._take()
                if batch:
                    self._on_done()
                    self._note_pace(batch)
                    self._finish_guarded(batch)
                    self._on_finished(batch)
                if self._later and (last or time.monotonic() >= self._next_try):
                    self._finish_later(until_done=last)
        finally:
            self._link.close()

    def _take(self) -> tuple[list[RunContext], bool]:
        """Waits for finished runs, or until a report that was set aside is due.

        Returns up to `BATCH` runs, more over a far line, and whether the thread should end.
        """
        done = self._state.done
        batch: list[RunContext] = []
        try:
            first = done.get(timeout=max(self._next_try - time.monotonic(), 0.01) if self._later else None)
            if first is None:
                return [], True
            batch.append(first)
            most = int(BATCH * self._state.line.scale)
            while len(batch) < most:
                context = done.get_nowait()
                if context is None:
                    return batch, True
                batch.append(context)
        except queue.Empty:
            pass
        return batch, False

    def _finish_guarded(self, batch: Sequence[RunContext]) -> None:
        try:
            _, later = self._report(batch)
        except Exception as error:  # noqa: BLE001 -- the leases of this batch run out; the worker goes on
            event(log, logging.ERROR, "finishing failed", runs=len(batch), error=safe_error(repr(error)))
            self._let_go(batch)
            return
        if later and not self._later:
            self._next_try = time.monotonic() + LATER_SECONDS
        self._later += later

    def _finish_later(self, *, until_done: bool) -> None:
        """Tries the reports again that were set aside; with `until_done` until all are stored or it must give up."""
        while self._later:
            later, self._later = self._later, []
            self._finish_guarded(later)
            self._next_try = time.monotonic() + LATER_SECONDS
            if not until_done or self._abandon.wait(LATER_SECONDS if self._later else 0):
                return

    def finish(self, batch: Sequence[RunContext]) -> list[Finished]:
        """Reports runs and waits until their reports are stored; counts, logs and alerts; returns the answers."""
        deadline = time.monotonic() + self._patience
        self._note_pace(batch)
        answers, later = self._report(batch)
        while later and time.monotonic() < deadline and not self._abandon.wait(LATER_SECONDS):
            more, later = self._report(later)
            answers += more
        self._let_go(later)
        return answers

    def _report(self, batch: Sequence[RunContext]) -> tuple[list[Finished], list[RunContext]]:
        """Reports runs once. Returns the answers, and the runs whose rows another transaction has locked."""
        state = self._state
        answers, set_aside = self._store([context.result for context in batch if context.result is not None])
        counts, by_type = state.tally.recorded, state.tally.by_type
        singly = len(answers) <= ONE_BY_ONE
        for answer in answers:
            counts[answer.recorded] += 1
            context = state.held.pop(answer.run_token, None)
            if by_type is not None and context is not None:
                by_type.add(context, answer.recorded)
            if context is not None and context.span is not None:
                context.span.end(context.result, answer.recorded)
            if context is not None and context.job.is_recurring:
                state.alerts.note_check_in(context.job, context.elapsed, answer)
            if context is not None and (singly or answer.recorded in _LEVELS):
                self._announce(context, answer)
        if not singly:
            event(log, logging.INFO, "runs finished", runs=len(answers), worker=state.worker_id)
        later = [context for context in batch if context.job.run_token in set_aside]
        if len(answers) + len(later) < len(batch):
            self._let_go([context for context in batch if context.job.run_token not in set_aside])
        with state.settled:
            state.settled.notify_all()
        return answers, later

    def _note_pace(self, batch: Sequence[RunContext]) -> None:
        """Counts the times of runs, each once: a slow run makes claims small, and its report may wait for minutes."""
        times: defaultdict[str, list[float]] = defaultdict(list)
        for context in batch:
            if context.started is not None:
                times[context.job.task_type].append(context.elapsed)
        for task_type, seconds in times.items():
            pace = self._state.lane_of_type(task_type).pace
            if pace is not None:
                pace.observe(task_type, seconds)

    def _let_go(self, batch: Sequence[RunContext]) -> None:
        for context in batch:
            if self._state.held.pop(context.job.run_token, None) is not None and context.span is not None:
                context.span.end(context.result, None)

    def _store(self, runs: Sequence[FinishedRun]) -> tuple[list[Finished], set[int]]:
        """Sends reports until the database has accepted each, or refused it alone.

        Returns the answers, and the tokens of runs whose rows are locked.
        """
        fresh = False
        alone = 0
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._link.run(lambda conn: self._send_those_free(conn, runs))
            except Exception as error:  # noqa: BLE001 -- one bad report must not block the others
                if not self._link.repeatable(error):
                    # A schema upgrade may break an old connection. Only an error on a new one is due to the reports.
                    if fresh and len(runs) > 1:
                        return self._store_halves(runs)
                    alone += fresh
                    if alone >= TRIES_ALONE:
                        return self._replace(runs[0], error)
                    if not fresh:
                        self._link.close()
                        fresh = True
                        continue
            if self._abandon.wait(self._link.pause()) or time.monotonic() >= deadline:
                event(log, logging.ERROR, "runs could not be reported before the end", runs=len(runs))
                return [], set()

    def _send_those_free(self, conn: Connection, runs: Sequence[FinishedRun]) -> tuple[list[Finished], set[int]]:
        """Sends reports, without those whose rows are locked."""
        try:
            return self._send(conn, runs), set()
        except LockNotAvailable:
            return self._send_unlocked(conn, runs)

    def _send(self, conn: Connection, runs: Sequence[FinishedRun]) -> list[Finished]:
        settings = self._state.settings
        return leases.finish(
            conn,
            self._state.worker_id,
            runs,
            retry_base=settings.retry_base_seconds,
            retry_cap=settings.retry_cap_seconds,
        )

    def _send_unlocked(self, conn: Connection, runs: Sequence[FinishedRun]) -> tuple[list[Finished], set[int]]:
        with conn.transaction():
            locked = leases.locked(conn, self._state.worker_id, [run.run_token for run in runs])
            return self._send(conn, [run for run in runs if run.run_token not in locked]), locked

    def _store_halves(self, runs: Sequence[FinishedRun]) -> tuple[list[Finished], set[int]]:
        middle = len(runs) // 2
        answers, later = self._store(runs[:middle])
        more, locked = self._store(runs[middle:])
        return answers + more, later | locked

    def _replace(self, run: FinishedRun, error: Exception) -> tuple[list[Finished], set[int]]:
        """Replaces a report that the database refuses by a failure report that says so."""
        if run.error_kind == NOT_STORED:
            event(log, logging.ERROR, "a run cannot be reported", run=run.run_token, error=safe_error(str(error)))
            return [], set()
        return self._store([self._state.executor.not_stored(run, error)])

    def _announce(self, context: RunContext, answer: Finished) -> None:
        run = context.result
        if run is None:
            return
        if run.give_up_after is not None and answer.recorded is RunOutcome.FAILED:
            waited = f"It was first put off {run.give_up_after / 60:.0f} minutes ago, so it has failed."
            run = run._replace(outcome=answer.recorded, error=f"{run.error} {waited}")
        level = _LEVELS.get(answer.recorded, logging.INFO)
        # A run that ended in its handler's own transaction is reported once more, as a failure to commit.
        worked = answer.recorded in SUCCESSES
        run_event(
            log,
            level,
            f"run {answer.recorded}" if run.began else f"job {answer.recorded} before its run began",
            context,
            attempt=context.job.attempt,
            seconds=round(context.elapsed, 3),
            error_kind=None if worked else run.error_kind,
            error=None if worked else run.error,
            again_at=answer.run_at if answer.status == "pending" else None,
            dry_run=run.dry_run or None,
            worker=self._state.worker_id,
        )
        if answer.recorded in _LEVELS:
            self._state.tally.failures.append(result_of(context, run, answer))
        if answer.recorded is RunOutcome.FAILED:
            state = self._state
            state.alerts.failed(context.job, run, context.stack, context.log_tail, worker=state.worker_id)
            self._state.hooks.failed(context.job, run)
