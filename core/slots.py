"""The threads that handlers run in, and the queue of claimed jobs before them.

One job is in one place: waiting, running, or done. Taking a run out of `running` is what settles who reports
it, the thread that ran it or whoever lost patience with that thread.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import FinishedRun
    from jobdeck.core.run_context import RunContext
    from jobdeck.core.runner import Runner


class Slots:
    """As many threads as jobs may run at once.

    The threads are daemons: a handler that will not stop must not keep the process from ending.
    """

    def __init__(self, runner: Runner, done: queue.SimpleQueue[RunContext | None], size: int, name: str) -> None:
        self.size = size
        self.running: dict[RunContext, threading.Thread] = {}
        self._runner = runner
        self._done = done
        self._name = name
        self._waiting: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Starts the threads."""
        for _ in range(self.size):
            self._start_thread()

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name=f"{self._name} slot", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Jobs that were claimed and wait for a thread."""
        return self._waiting.qsize()

    def put(self, contexts: Iterable[RunContext]) -> None:
        """Queues claimed jobs."""
        put = self._waiting.put
        for context in contexts:
            put(context)

    def hand_back_waiting(self) -> int:
        """Reports all jobs that wait as released; returns how many."""
        handed_back = 0
        while True:
            try:
                context = self._waiting.get_nowait()
            except queue.Empty:
                return handed_back
            if context is None:
                self._waiting.put(None)
                return handed_back
            context.result = self._runner.handed_back(context)
            self._done.put(context)
            handed_back += 1

    def write_off(self, context: RunContext, report: FinishedRun, *, replace: bool = True) -> bool:
        """Reports a run in place of its thread, which is given up and replaced; false if it has just ended.

        Whatever that thread still comes to is dropped.
        """
        if self.running.pop(context, None) is None:
            return False
        if replace:
            self._start_thread()
        context.result = report
        self._done.put(context)
        return True

    def close(self) -> None:
        """Lets each thread end when it has nothing more to do."""
        for _ in range(self.size):
            self._waiting.put(None)

    def _work(self) -> None:
        take, done, run, running = self._waiting.get, self._done.put, self._runner.run, self.running
        thread = threading.current_thread()
        while (context := take()) is not None:
            if context.stop is not None or time.monotonic() >= context.lease_end:
                context.result = self._runner.handed_back(context)
                done(context)
                continue
            running[context] = thread
            result = run(context.job, context)
            if running.pop(context, None) is None:
                return
            context.result = result
            done(context)
