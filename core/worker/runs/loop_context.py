"""What an async handler gets, and what all async runs of one worker share on their event loop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import JobdeckError, LeaseLost
from jobdeck.core.logs import event
from jobdeck.core.postgres.jsonb import storable
from jobdeck.core.postgres.pool import AsyncPool
from jobdeck.core.queue import leases
from jobdeck.core.queue.producers import finishing
from jobdeck.core.redact import readable
from jobdeck.core.worker.context import CHECKPOINT_BYTES, RunContext, RunResources, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from jobdeck.core.model import FinishedRun, Json, RunOutcome
    from jobdeck.core.queue.producers.connections import AsyncConnection
    from jobdeck.core.registry import Continue, Done, Opener

log = logging.getLogger(__name__)

ROLL_BACK_SECONDS = 2.0
"""The time that a handler gets to roll back, after it found that its run no longer holds its job."""


class LoopContext:
    """What an async handler gets: its run, and what would block the loop as coroutines (`jobdeck.AsyncJobContext`)."""

    def __init__(self, run: RunContext, shared: OnLoop) -> None:
        self._run = run
        self._shared = shared
        # Bound once, since handlers report each of a million items.
        self.progress = run.progress

    def __getattr__(self, name: str) -> Any:
        """What does not wait is that of the run."""
        return getattr(self._run, name)

    @property
    def dry_run(self) -> bool:
        return self._run.dry_run

    @dry_run.setter
    def dry_run(self, value: bool) -> None:
        self._run.dry_run = value

    @property
    def db(self) -> psycopg.Connection[Any]:
        raise JobdeckError(
            "ctx.db would block the event loop of all async runs; an async handler uses: async with ctx.adb() as conn."
        )

    def adb(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        return self._shared.connection()

    async def finish_in(self, connection: AsyncConnection, outcome: Done | Continue | None = None) -> None:
        run = self._run.to_promise(outcome)
        recorded = await self._shared.record(self._run, connection, run)
        with self._ending_if_lost():
            self._run.note_promise(run, recorded)

    async def save_checkpoint(self, checkpoint: Json) -> None:
        kept = storable(checkpoint, "checkpoint", CHECKPOINT_BYTES)
        if not await self._shared.store(self._run, kept):
            with self._ending_if_lost():
                raise self._run.found_lost()
        self._run.note_checkpoint(kept)

    @contextmanager
    def _ending_if_lost(self) -> Iterator[None]:
        """Has a handler cancelled that goes on after it was told that its run no longer holds its job."""
        try:
            yield
        except LeaseLost:
            asyncio.get_running_loop().call_later(ROLL_BACK_SECONDS, self._run.must_stop, Stop.LOST)
            raise


class OnLoop:
    """What all async runs of one worker share on their event loop: connections, and what their types open.

    A handler that holds a connection may save a checkpoint, so checkpoints have a connection of their own.

    What a type opens by its `resources`, it opens with the first run that needs it. Each is entered and left by a task
    of its own, because some context managers must be left in the task that has entered them.
    """

    def __init__(self, shared: RunResources) -> None:
        """Opens no connection yet."""
        self._shared = shared
        label = shared.database.label if shared.database is not None else ""
        size = shared.settings.async_connections
        self._of_handlers = AsyncPool(self._connect, label=label, max_size=size)
        self._of_checkpoints = AsyncPool(self._connect, label=label, max_size=1)
        self._values: dict[Opener, asyncio.Future[object]] = {}
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await self._shared.known_database().connect_async()

    def connection(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        """A connection for a block of a handler."""
        return self._of_handlers.lend()

    async def store(self, run: RunContext, checkpoint: Json) -> bool:
        """Writes a checkpoint into the database; False if the run no longer holds its job."""
        async with self._of_checkpoints.connection() as conn:
            return await leases.save_checkpoint_async(conn, run.job.id, run.job.run_token, checkpoint)

    async def record(self, run: RunContext, connection: AsyncConnection, ended: FinishedRun) -> RunOutcome:
        """Writes the end of a run through a connection; returns what was recorded."""
        return await finishing.arecord(connection, ended, run.reporter())

    async def of(self, opener: Opener) -> object:
        """The value of a context manager, which is entered at the first call. What it raises, the run raises."""
        value = self._values.get(opener)
        if value is None:
            value = self._values[opener] = asyncio.get_running_loop().create_future()
            # In a context of its own: what it logs later is not of the run that needed it first.
            task = asyncio.create_task(self._keep(opener, value), context=Context())
            self._tasks.add(task)
            task.add_done_callback(partial(self._left, opener, value))
        # A run that is cancelled meanwhile must not cancel it for the others.
        return await asyncio.shield(value)

    async def close(self) -> None:
        """Leaves all context managers, which may still use connections, and then closes these."""
        self._ending.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._of_handlers.close()
        await self._of_checkpoints.close()

    async def _keep(self, opener: Opener, value: asyncio.Future[object]) -> None:
        try:
            database = self._shared.database
            made = opener(self._shared.settings, database and database.for_application())
            if not isinstance(made, AbstractAsyncContextManager):
                value.set_result(await asyncio.to_thread(self._shared.enter, opener, made))
                await self._ending.wait()
                return
            async with made as opened:
                value.set_result(opened)
                await self._ending.wait()
        except BaseException as error:  # noqa: BLE001 -- an application's own code; the run that waits gets it
            if value.done():
                event(log, logging.ERROR, "the resources of a task type failed", error=readable(error))
            else:
                value.set_exception(error if isinstance(error, Exception) else JobdeckError(readable(error)))

    def _left(self, opener: Opener, value: asyncio.Future[object], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        del self._values[opener]
        if not value.done():
            value.set_exception(JobdeckError("The task that opens the resources was cancelled before it began."))
        if not value.cancelled():
            value.exception()
