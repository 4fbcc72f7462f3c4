"""The slots of thread handlers: one thread each. A thread that cannot be stopped at its timeout gets a substitute."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from jobdeck.core.logs import event
from jobdeck.core.redact import readable, safe_error
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
MOST_INTERRUPTIONS = 20
"""How many exceptions from outside a handler are kept between two looks."""
GOES_ON = (
    "is over its timeout and goes on; it keeps its lease and its concurrency key until it ends, "
    "or until its worker is restarted"
)


class Waiting:
    """Claimed jobs that wait for a thread.

    A thread waits for a call and takes a job afterwards. If an exception of another thread interrupts that wait, a call
    is lost, and no job.
    """

    def __init__(self) -> None:
        self.jobs: deque[RunContext] = deque()
        self.calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each job that was put, which somebody else may have taken; False for a thread that is to end."""

    def put(self, context: RunContext) -> None:
        self.jobs.append(context)
        self.calls.put(True)

    def take(self) -> RunContext | None:
        """The oldest job, without waiting; None if there is none."""
        try:
            return self.jobs.popleft()
        except IndexError:
            return None


class ThreadSlots(Slots):
    """The threads that run jobs: one for each slot, and one that is kept free for a canary.

    They are daemons, so that a handler that does not stop cannot keep the process alive. Nothing but `close` and a
    substitute ends one: a library may raise an exception in the thread of a handler that has just returned.
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
        self._interruptions: deque[str] = deque(maxlen=MOST_INTERRUPTIONS)
        """The exceptions that came into threads from outside their handlers, to be logged."""
        self._waiting = Waiting()
        self._kept = Waiting()

    def start(self) -> None:
        forks.install()
        for _ in range(self.size):
            self._start_thread(self._waiting)
        self._start_thread(self._kept)

    def _start_thread(self, line: Waiting) -> None:
        threading.Thread(target=self._work, args=(line,), name=f"{self._name} slot", daemon=True).start()

    def _starts(self, line: Waiting) -> bool:
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
        return len(self._waiting.jobs)

    def waits(self) -> set[RunContext]:
        return {*self._waiting.jobs.copy(), *self._kept.jobs.copy()}

    def put(self, contexts: Iterable[RunContext]) -> None:
        put = self._waiting.put
        for context in contexts:
            if self._takes_canary(context):
                self._kept.put(context)
            else:
                put(context)

    def hand_back_waiting(self) -> int:
        return self._hand_back(self._waiting) + self._hand_back(self._kept)

    def _hand_back(self, line: Waiting) -> int:
        handed_back = 0
        while (context := line.take()) is not None:
            self._report(context, self._executor.handed_back(context))
            handed_back += 1
        return handed_back

    def _abandon(self, context: RunContext, *, replace: bool) -> None:
        if not self._has_substitute(context) and replace:
            self._starts(self._line_of(context))

    def _line_of(self, context: RunContext) -> Waiting:
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
        """Shows the runs that go on after their timeout, and logs what came into threads from outside."""
        while self._interruptions:
            message = "another thread raised an exception in the thread of a slot; the slot continues"
            event(log, logging.WARNING, message, error=self._interruptions.popleft())
        with self._lock:
            late = [context for context, asked in self._overdue.items() if now - asked > NOTICE_SECONDS]
            self._overdue.update(dict.fromkeys(late, math.inf))
        for context in late:
            self._show(context, GOES_ON)

    def close(self) -> None:
        for _ in range(self.size):
            self._waiting.calls.put(False)
        self._kept.calls.put(False)

    def _has_substitute(self, context: RunContext) -> bool:
        """Whether another thread has taken the slot of a run that has ended; asked once for each run."""
        if not self._overdue:
            return False
        with self._lock:
            return self._overdue.pop(context, None) is not None

    def _work(self, line: Waiting) -> None:
        thread, wait, take = threading.current_thread(), line.calls.get, line.take
        while True:
            context = None
            try:
                while wait():
                    context = take()
                    if context is not None and not self._serve(context, thread):
                        return
                    context = None
            except BaseException as error:  # noqa: BLE001 -- another thread may raise anything in this one, at any time
                with suppress(BaseException):
                    if not self._recover(line, context, error):
                        return
            else:
                return

    def _serve(self, context: RunContext, thread: threading.Thread) -> bool:
        """Runs one job, or hands it back; False if the thread must end, because it has a substitute."""
        if context.stop is not None or time.monotonic() >= context.lease_end:
            self._report(context, self._executor.handed_back(context))
            return True
        self.running[context] = thread
        result = self._run_job(context.job, context)
        if self.running.pop(context, None) is None:
            return False
        return self._ended(context, result)

    def _ended(self, context: RunContext, result: FinishedRun) -> bool:
        self._free(context)
        replaced = self._has_substitute(context)
        late = replaced or context.stop is Stop.TIMED_OUT
        result = self._executor.timed_out(context) if late else result
        # Nothing between these two may be interrupted, so that a run with a result is one that was handed on.
        context.result = result
        self._done.put(context)
        return not replaced

    def _recover(self, line: Waiting, context: RunContext | None, error: BaseException) -> bool:
        """Goes on after an exception that came from outside a handler; False if the thread must end.

        A run of which it is not known here whether it was reported is left to the watchdog.
        """
        # Another thread logs it: the next exception might come while this one has the lock of a log handler.
        self._interruptions.append(readable(error))
        if context is None:
            # The call that was waited for may be lost. One too many does no harm.
            line.calls.put(True)
            return True
        self._executor.close(context)
        if context.result is None and self.running.pop(context, None) is not None:
            return self._ended(context, self._executor.unreported(context, error))
        return True
