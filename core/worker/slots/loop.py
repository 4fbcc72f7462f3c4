"""The slots of async handlers: tasks on one event loop, which runs in one thread."""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from jobdeck.core.logs import event
from jobdeck.core.redact import readable, safe_text
from jobdeck.core.worker.context import RunContext, Stop, run_event
from jobdeck.core.worker.runs.loop_context import OnLoop
from jobdeck.core.worker.slots.lane import Slots, thread_position

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType

    from jobdeck.core.model import FinishedRun
    from jobdeck.core.worker.executor import Executor

log = logging.getLogger(__name__)

BLOCKED_SECONDS = 1.0
"""A handler whose step takes this long blocks the loop."""
STUBBORN_SECONDS = 2.0
"""A handler that runs on for this long after it was cancelled is shown as such."""
LAST_SECONDS = 5.0
"""How long a worker that ends waits for the loop."""
GOES_ON = "was cancelled and goes on; it keeps its lease and its concurrency key until it ends"
LOST_GOES_ON = "has lost its lease, was cancelled and goes on; its result will be discarded"


class LoopSlots(Slots):
    """Runs up to `size` async jobs at a time, and one more for a canary. The loop starts with the first job.

    `running` is changed by the fetcher, which puts jobs in, and by whichever ends a run: its task, or `write_off`.
    Everything else about a task is done on the loop. No job waits: the fetcher claims as many as there are free slots.
    """

    def __init__(
        self, executor: Executor, done: queue.SimpleQueue[RunContext | None], name: str, *, keeps: bool = True
    ) -> None:
        super().__init__(executor, done, executor.resources.settings.async_concurrency, name, keeps=keeps)
        self._new: dict[RunContext, None] = {}
        """Runs that the loop has not begun yet."""
        self._tasks: dict[RunContext, asyncio.Task[FinishedRun]] = {}
        self._asked: dict[RunContext, float] = {}
        """When each run had to stop that has not ended, until it is shown as going on."""
        self._cancelled: set[RunContext] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = asyncio.Event()
        self._pinged: float | None = None
        """When the loop was asked for an answer that it has not given yet."""
        self._step: FrameType | None = None
        """The step of a task that the loop was seen in while it owed an answer."""
        self._step_since = 0.0
        self._blames = False
        """Whether a handler blocks the loop. New jobs would wait behind it, so no more are claimed."""

    @property
    def occupied(self) -> int:
        taken = super().occupied
        return max(taken, self.size) if self._blames else taken

    def put(self, contexts: Iterable[RunContext]) -> None:
        loop = self._running_loop()
        batch = list(contexts)
        for context in batch:
            context.on_stop = self._interrupt
            self._takes_canary(context)
        self.running.update(dict.fromkeys(batch))
        self._new.update(dict.fromkeys(batch))
        try:
            loop.call_soon_threadsafe(self._begin, batch)
        except RuntimeError:  # the loop has ended
            for context in batch:
                self.running.pop(context, None)
                self._abandon(context, replace=False)
                self._free(context)
            raise

    def time_out(self, context: RunContext) -> str | None:
        if context.stop is Stop.TIMED_OUT:
            return None
        if context.stop is Stop.LOST or self._thread is None or not self._thread.is_alive():
            ended = self.write_off(context, self._executor.timed_out(context))
            return "a run took too long and cannot be cancelled any more; its task is abandoned" if ended else None
        context.must_stop(Stop.TIMED_OUT)
        return "a run took too long; its handler is cancelled"

    def look(self, now: float) -> None:
        if self._loop is None:
            return
        if self._pinged is None:
            self._pinged = now
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._answer)
        elif not self._blames:
            self._watch(now)
        if self._blames:
            self._hand_back_new()
        for context, asked in list(self._asked.items()):
            if now - asked > STUBBORN_SECONDS and self._asked.pop(context, None) is not None:
                self._note_going_on(context)

    def close(self) -> None:
        """Ends the loop. Handlers that go on after they were cancelled keep its thread until they end."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._closing.set)
        if thread is not threading.current_thread():
            thread.join(LAST_SECONDS)

    # Of the threads of the worker

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._main, args=(loop,), name=f"{self._name} loop", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine has no thread left
                loop.close()
                raise
            self._thread, self._loop = thread, loop
        return self._loop

    def _interrupt(self, context: RunContext) -> None:
        self._asked[context] = time.monotonic()
        if context not in self.running:
            self._asked.pop(context, None)
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and with it the run
                self._loop.call_soon_threadsafe(self._cancel, context)

    def _abandon(self, context: RunContext, *, replace: bool) -> None:
        del replace
        self._new.pop(context, None)
        self._asked.pop(context, None)

    def _hand_back_new(self) -> None:
        """Returns the jobs to the queue that wait for a blocked loop. A canary waits: it asks about this worker."""
        for context in list(self._new):
            # The loop might begin it just now.
            if context is not self.canary and self._new.pop(context, self) is not self:
                self.write_off(context, self._executor.handed_back(context))

    def _note_going_on(self, context: RunContext) -> None:
        """Shows a run that goes on after it was cancelled, or reports it where nothing waits for it."""
        if context.stop is Stop.TIMED_OUT and not self._keeps:
            if self.write_off(context, self._executor.timed_out(context)):
                message = "a run was cancelled and goes on; it is reported as failed, and its task is abandoned"
                run_event(log, logging.WARNING, message, context)
            return
        self._show(context, LOST_GOES_ON if context.stop is Stop.LOST else GOES_ON)

    def _watch(self, now: float) -> None:
        """Blames the handler whose one step takes too long.

        A loop that owes an answer may wait for the processor as well, or have thousands of short steps to do.
        """
        step = _step(self._thread)
        if step is not self._step:
            self._step, self._step_since = step, now
        elif step is not None and now - self._step_since > BLOCKED_SECONDS:
            self._blame(now - self._step_since)

    def _blame(self, seconds: float) -> None:
        """Says that a handler blocks the loop, and where; once for each block."""
        if self._thread is None:
            return
        self._blames = True
        position = safe_text(thread_position(self._thread))
        event(
            log,
            logging.WARNING,
            "a handler blocks the event loop of all async runs; it must await, or use asyncio.to_thread",
            seconds=round(seconds, 1),
            worker=self._name,
            stack=position,
        )
        for context in self._blamed():
            context.keep_line(
                "WARNING", f"the handler blocks the event loop for more than {seconds:.1f} s:\n{position}"
            )

    def _blamed(self) -> Sequence[RunContext]:
        """The run whose step blocks the loop; nothing where it is a task that the handler made."""
        current = asyncio.current_task(self._loop)
        return [context for context, task in list(self._tasks.items()) if task is current]

    # Of the loop's own thread

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._shared = OnLoop(self._executor.resources)
        ending = loop.create_task(self._until_closed())
        while not ending.done() or ending.cancelled():
            if ending.done():
                # A handler cancelled every task of the loop.
                ending = loop.create_task(self._until_closed())
            try:
                loop.run_until_complete(ending)
            except BaseException as error:  # noqa: BLE001 -- SystemExit in a task that a handler made ends no other run
                event(log, logging.ERROR, "a task of a handler ended with an error", error=readable(error))
        loop.close()

    async def _until_closed(self) -> None:
        await self._closing.wait()
        # In this order: runs may use what was opened, and a resource may need tasks of its own to be left.
        await self._end_tasks(set(self._tasks.values()))
        await self._shared.close()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._end_tasks(left)
        await asyncio.get_running_loop().shutdown_asyncgens()

    @staticmethod
    async def _end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, batch: Sequence[RunContext]) -> None:
        for context in batch:
            if self._new.pop(context, self) is not self:
                task = self._tasks[context] = asyncio.create_task(self._work(context))
                task.add_done_callback(partial(self._left, context))

    async def _work(self, context: RunContext) -> FinishedRun:
        if context.stop is not None or time.monotonic() >= context.lease_end:
            return self._executor.handed_back(context)
        return await self._executor.run_async(context, self._shared)

    def _left(self, context: RunContext, task: asyncio.Task[FinishedRun]) -> None:
        del self._tasks[context]
        self._cancelled.discard(context)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self.write_off(context, task.result() if error is None else self._executor.unreported(context, error))

    def _cancel(self, context: RunContext) -> None:
        task = self._tasks.get(context)
        # A task that has not begun would end without a report; it finds out by itself that it must stop.
        if task is not None and context.started is not None:
            if context.stop is Stop.TIMED_OUT:
                context.position = _position(task)
            # Once: a second time would end what the handler awaits to clean up.
            if context not in self._cancelled:
                self._cancelled.add(context)
                task.cancel()

    def _answer(self) -> None:
        self._pinged, self._blames, self._step = None, False, None


def _step(thread: threading.Thread | None) -> FrameType | None:
    """The frame in which a loop runs a step of a task, or a callback; None while it waits for events."""
    frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None  # noqa: SLF001 -- documented
    while frame is not None and frame.f_code is not asyncio.Handle._run.__code__:  # noqa: SLF001 -- as tracebacks show it
        frame = frame.f_back
    return frame


def _position(task: asyncio.Task[Any]) -> str:
    """Where a task waits, from the handler inwards, as text."""
    return "".join(
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
        f"    {linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()}\n"
        for frame in list(_frames(task.get_coro()))[2:]
    )


def _frames(awaited: object) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits; `Task.get_stack` has the outermost alone."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, f"{kind}_await" if kind != "gi" else "gi_yieldfrom", None)
                break
        else:
            return
