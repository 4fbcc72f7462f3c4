"""What a handler gets with its payload, one protocol for each kind of handler, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import logging
    from contextlib import AbstractAsyncContextManager
    from uuid import UUID

    import psycopg

    from jobdeck.core.model import ClaimedJob, Json
    from jobdeck.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Done:
    """The job is done. `output` is stored with the run; `failed` counts items that failed.

    A run with `failed` above zero is recorded as `partial`. With `dry_run` the run changed nothing, whatever its
    payload asked for, such as when a setting switches the type off; it is then shown as a dry run. The next slot of a
    recurring job begins with `checkpoint`; without one it begins afresh, as after a slot that failed. One-time jobs
    ignore it.
    """

    output: Json = field(default_factory=dict)
    failed: int = 0
    dry_run: bool = False
    checkpoint: Json | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """A part of the job is done. It is due again after `delay` seconds, with this `checkpoint`."""

    checkpoint: Json
    delay: float = 0.0
    output: Json = field(default_factory=dict)


Outcome = Done | Continue | None


class RunFacts(Protocol):
    """The part of the context that handlers of all kinds have; nothing in it waits."""

    @property
    def job(self) -> ClaimedJob:
        """The job of the run, as it was claimed."""

    @property
    def job_id(self) -> UUID:
        """The id of the job."""

    @property
    def attempt(self) -> int:
        """Which attempt of the job this run is, from 1 on. Of a recurring job, the attempts of its slot are counted."""

    @property
    def idempotency_key(self) -> str:
        """The same text for all attempts of a job, or of one slot of a recurring job, and another for any other run."""

    @property
    def log(self) -> logging.Logger:
        """The logger whose lines are stored with the run."""

    @property
    def settings(self) -> Settings:
        """The settings of the worker."""

    @property
    def dry_run(self) -> bool:
        """Whether the run must change nothing."""

    @property
    def resources(self) -> Any:
        """The resources that this job type, or its plugin, shares among runs; None if there are none."""

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Reports the run's progress; cheap enough to call for every item.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: a count is no number, is not finite, or has more than 19 digits.
        """

    @property
    def checkpoint(self) -> Json | None:
        """The checkpoint of the last `save_checkpoint` or `Continue` of this job."""

    def cancelled(self) -> bool:
        """Whether the run must stop: an operator cancelled it, it timed out, or the worker is stopping."""

    def raise_if_cancelled(self) -> None:
        """Raises `Cancelled`, `TimedOut` or `LeaseLost` if `cancelled` is true."""


class JobContext(RunFacts, Protocol):
    """The context that a handler gets with its payload."""

    @property
    def db(self) -> psycopg.Connection[Any]:
        """An autocommit connection from the worker's pool, borrowed at first use; for the handler's thread only."""

    def save_checkpoint(self, checkpoint: Json) -> None:
        """Saves a checkpoint at once, so that the next attempt continues from it even after a crash.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: the checkpoint is not a JSON object, or is larger than 1 MiB.
        """

    def finish_in(self, connection: Any, outcome: Done | Continue | None = None) -> None:
        """Records the end of this run in the open transaction of `connection`, as its last statement.

        So what the handler wrote there and the end of its run are committed together, or not at all: a job whose
        worker dies after the commit does not run again. What the handler returns afterwards is ignored. If it rolls
        back instead and returns, the run has failed and is tried again. `connection` is one that `jobdeck.enqueue`
        takes, signed in with a role that may run jobs; the row of the job is locked until the commit. Use READ
        COMMITTED: in a stricter isolation level, Postgres ends the transaction with a serialization failure if the
        worker has renewed the lease since its snapshot, and the run is tried again.

        Raises:
            LeaseLost: the run no longer holds its job: roll back, which an exception in a transaction block does.
            Cancelled: an operator has cancelled the job: the same.
            Refused: the connection cannot be used, or another session has locked the job.
        """


class AsyncJobContext(RunFacts, Protocol):
    """The context that an `async def` handler gets with its payload."""

    def adb(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        """An autocommit connection for a block: `async with ctx.adb() as conn`.

        All async runs of a worker share JOBDECK_ASYNC_CONNECTIONS connections, so a block should be short.
        """

    async def finish_in(self, connection: Any, outcome: Done | Continue | None = None) -> None:
        """Does what `JobContext.finish_in` does, on a connection that `jobdeck.aenqueue` takes."""

    async def save_checkpoint(self, checkpoint: Json) -> None:
        """Saves a checkpoint at once, so that the next attempt continues from it even after a crash.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: the checkpoint is not a JSON object, or is larger than 1 MiB.
        """
