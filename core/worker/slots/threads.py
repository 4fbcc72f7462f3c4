"""The slots of thread handlers: one thread each. A thread that cannot be stopped at its timeout gets a substitute."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.context import RunContext, Stop
from jobdeck.core.worker.slots import forks
from jobdeck.core.worker.slots.lane import Slots, thread_position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobdeck.core.model import ClaimedJob, FinishedRun
    from jobdeck.core.worker.executor import Executor


log = logging.getLogger(__name__)

NOTICE_SECONDS = 2.0
"""A handler that runs on for this long after its timeout is shown as such."""
GOES_ON = (
    "is over its timeout and goes on; it keeps its lease and its concurrency key until it ends, "
    "or until its worker is restarted"
)


class ThreadSlots(Slots):
    """The threads that run jobs: one for each slot, and one that is kept free for a canary.

    They are daemons, so that a handler that does not stop cannot keep the process alive.
    """

    running: dict[RunContext, threading.Thread]

    def __init__(
        self,
        executor: Executor,
        done: queue.SimpleQueue[RunContext | None],
        size: int,
        name: str,
        *,
        run: Callable[[ClaimedJob, RunContext], FinishedRun] | None = None,
        keeps: bool = True,
    ) -> None:
        """Creates no thread yet. `run` runs one job in the slot's thread; None for the executor's own."""
        super().__init__(executor, done, size, name, keeps=keeps)
        self._run_job = run or executor.run
        self._overdue: dict[RunContext, float] = {}
        """Runs over their timeout, whose slots have another thread, and when each had to stop; infinite once shown."""
        self._lock = threading.Lock()
        """Guards `_overdue`."""
        self._waiting: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()
        self._kept: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()

    def start(self) -> None:
        forks.install()
        for _ in range(self.size):
            self._start_thread(self._waiting)
        self._start_thread(self._kept)

    def _start_thread(self, line: queue.SimpleQueue[RunContext | None]) -> None:
        threading.Thread(target=self._work, args=(line,), name=f"{self._name} slot", daemon=True).start()

    def _starts(self, line: queue.SimpleQueue[RunContext | None]) -> bool:
        """Starts another thread for a slot. False if the machine has none left."""
        try:
            self._start_thread(line)
        except RuntimeError as error:
            event(log, logging.WARNING, "no thread can be started for a slot", error=safe_error(str(error)))
            return False
        return True

    @property
    def occupied(self) -> int:
        # A canary over its timeout is one of the overdue runs before its slot is free.
        canary = self.canary in self.running and self.canary not in self._overdue
        return len(self.running) - len(self._overdue) - canary

    @property
    def waiting(self) -> int:
        return self._waiting.qsize()

    def put(self, contexts: Iterable[RunContext]) -> None:
        put = self._waiting.put
        for context in contexts:
            if self._takes_canary(context):
                self._kept.put(context)
            else:
                put(context)

    def hand_back_waiting(self) -> int:
        return self._hand_back(self._waiting) + self._hand_back(self._kept)

    def _hand_back(self, line: queue.SimpleQueue[RunContext | None]) -> int:
        handed_back = 0
        while True:
            try:
                context = line.get_nowait()
            except queue.Empty:
                return handed_back
            if context is None:
                line.put(None)
                return handed_back
            self._report(context, self._executor.handed_back(context))
            handed_back += 1

    def _abandon(self, context: RunContext, *, replace: bool) -> None:
        if not self._has_substitute(context) and replace:
            self._starts(self._line_of(context))

    def _line_of(self, context: RunContext) -> queue.SimpleQueue[RunContext | None]:
        return self._kept if context is self.canary else self._waiting

    def time_out(self, context: RunContext) -> str | None:
        """Asks a run to stop that is still active after its timeout, and gives its slot to another thread.

        Its job stays with it until the handler ends, since a second run beside it is what its key forbids. Returns what
        to log; None if the run has just ended, or was asked before.
        """
        thread = self.running.get(context)
        if thread is None or (context in self._overdue and context.stop is not Stop.LOST):
            return None
        first = context.stop is not Stop.TIMED_OUT
        keeps = self._keeps and context.stop is not Stop.LOST and thread.is_alive()
        if first:
            context.position = thread_position(thread)
        context.stop = Stop.TIMED_OUT
        if not keeps:
            ended = self.write_off(context, self._executor.timed_out(context))
            return "a run took too long; it is reported as failed, and its thread is abandoned" if ended else None
        line = self._line_of(context)
        with self._lock:
            # In this order: a thread that ends a run later than this sees that it has a substitute.
            self._overdue[context] = time.monotonic()
            if context not in self.running:
                del self._overdue[context]
                return None
            if not self._starts(line):
                # The next look tries again.
                del self._overdue[context]
                return "a run took too long; its handler is asked to stop, and keeps its slot" if first else None
        self._free(context)
        return "a run took too long; its handler is asked to stop, and another thread takes its slot"

    def look(self, now: float) -> None:
        """Shows the runs that go on after their timeout."""
        with self._lock:
            late = [context for context, asked in self._overdue.items() if now - asked > NOTICE_SECONDS]
            self._overdue.update(dict.fromkeys(late, math.inf))
        for context in late:
            self._show(context, GOES_ON)

    def close(self) -> None:
        for _ in range(self.size):
            self._waiting.put(None)
        self._kept.put(None)

    def _has_substitute(self, context: RunContext) -> bool:
        """Whether another thread has taken the slot of a run that has ended; asked once for each run."""
        if not self._overdue:
            return False
        with self._lock:
            return self._overdue.pop(context, None) is not None

    def _work(self, line: queue.SimpleQueue[RunContext | None]) -> None:
        take, done, run, running, free = line.get, self._done.put, self._run_job, self.running, self._free
        thread = threading.current_thread()
        while (context := take()) is not None:
            if context.stop is not None or time.monotonic() >= context.lease_end:
                self._report(context, self._executor.handed_back(context))
                continue
            running[context] = thread
            result = run(context.job, context)
            if running.pop(context, None) is None:
                return
            free(context)
            replaced = self._has_substitute(context)
            late = replaced or context.stop is Stop.TIMED_OUT
            context.result = self._executor.timed_out(context) if late else result
            done(context)
            if replaced:
                return
