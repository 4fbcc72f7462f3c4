"""The handles of task types: what applications declare, enqueue through, and give a handler.

`jobdeck.job` and `jobdeck.task` are made here. Nothing of the database is imported before the first job is enqueued.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from jobdeck.core import registry
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.registry import JobType, NoArguments, code_values
from jobdeck.core.registry.handles import Handle, P, model_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Unpack
    from uuid import UUID

    from jobdeck.core.model import Json, NewJob, Ticket
    from jobdeck.core.queue.producers.api import JobFacts, JobOptions, ManyOptions
    from jobdeck.core.queue.producers.connections import AsyncConnection, SyncConnection
    from jobdeck.core.registry import Admit, AsyncJobContext, Opener, Payload
    from jobdeck.core.registry.around import Backoff
    from jobdeck.core.registry.checks import Isolation
    from jobdeck.core.registry.code_values import CodeValues
    from jobdeck.core.registry.job_context import Outcome

Q = TypeVar("Q", bound="Payload")
R = TypeVar("R")
O = TypeVar("O", bound="Outcome")  # noqa: E741 -- an outcome


class HandlerFacts(code_values.CodeValues, total=False):
    """What a worker alone must know of a task type; `jobdeck.job` says what each means."""

    label: str | None
    purpose: str
    recurring: int | None
    timeout: float
    retry_base: float | None
    retry_cap: float | None
    quick: bool
    preview: Callable[[Any, Any], Json] | None
    isolation: Isolation
    resources: Opener | None
    playbook: str
    backoff: Backoff | None


class TaskFacts(HandlerFacts, total=False):
    """All that a task type may say of itself; `jobdeck.job` says what each means."""

    max_attempts: int
    concurrency: str | None
    admit: Admit | None


class Task(Handle[P]):
    """A task type in code: enqueues its jobs with a payload that type checkers know, and takes its handler."""

    def enqueue(self, conn: SyncConnection, payload: P | None = None, **options: Unpack[JobOptions]) -> Ticket:
        """Enqueues one job, as `jobdeck.enqueue` does, with the same options and errors."""
        from jobdeck.core.queue.producers import api  # noqa: PLC0415 -- a module with types alone needs no database

        return api.enqueue(conn, self, payload, **options)

    async def aenqueue(self, conn: AsyncConnection, payload: P | None = None, **options: Unpack[JobOptions]) -> Ticket:
        """Does what `enqueue` does on an async connection, as `jobdeck.aenqueue`."""
        from jobdeck.core.queue.producers import api  # noqa: PLC0415 -- see enqueue

        return await api.aenqueue(conn, self, payload, **options)

    def new(self, payload: P | None = None, **options: Unpack[JobFacts]) -> NewJob:
        """A whole job with options of its own, as `jobdeck.new_job` makes it, for `jobdeck.enqueue_many`."""
        from jobdeck.core.queue.producers import api  # noqa: PLC0415 -- see enqueue

        return api.new_job(self, payload, **options)

    def enqueue_many(self, conn: SyncConnection, payloads: Iterable[P], **options: Unpack[ManyOptions]) -> list[UUID]:
        """Enqueues one job for each payload, all or none, as `jobdeck.enqueue_many` does."""
        from jobdeck.core.queue.producers import api  # noqa: PLC0415 -- see enqueue

        return api.enqueue_many(conn, self, payloads, **options)

    async def aenqueue_many(
        self, conn: AsyncConnection, payloads: Iterable[P], **options: Unpack[ManyOptions]
    ) -> list[UUID]:
        """Does what `enqueue_many` does on an async connection, as `jobdeck.aenqueue_many`."""
        from jobdeck.core.queue.producers import api  # noqa: PLC0415 -- see enqueue

        return await api.aenqueue_many(conn, self, payloads, **options)

    @overload
    def handler(
        self, function: Callable[[P, AsyncJobContext], Coroutine[Any, Any, O]], /
    ) -> Callable[[P, AsyncJobContext], Coroutine[Any, Any, O]]: ...
    @overload
    def handler(self, function: Callable[[P, Any], O], /) -> Callable[[P, Any], O]: ...
    @overload
    def handler(self, **facts: Unpack[HandlerFacts]) -> _Keeps[P]: ...
    def handler(self, *given: Any, **facts: Any) -> Any:
        """Registers the handler of this type, and returns it as it is: `@send_invoice.handler` above a function.

        It stands in a module of the worker, so what enqueues jobs need not import the libraries of the handler. With
        the options of `jobdeck.job` that a worker needs alone: `@send_invoice.handler(timeout=60)`.

        Raises:
            ConfigurationError: the parts of the type do not fit together, or an option belongs to `jobdeck.task`.
        """
        wrong = facts.keys() - HandlerFacts.__annotations__.keys()
        if wrong:
            raise ConfigurationError(
                f"The handler of {self.name} has the options {', '.join(sorted(wrong))}. Give them where the type is "
                "declared: what enqueues jobs must know them, too."
            )

        def register(function: Any) -> Any:
            model_of(self.name, function, self.job_type.payload)
            values, others = code_values.split(facts)
            registry.register(replace(self.job_type, run=function, values={**self.job_type.values, **values}, **others))
            return function

        return register(*given) if given else register

    def __reduce__(self) -> Any:
        of = self.job_type
        return _again, (of.task_type, of.run, of.payload, of.max_attempts, of.concurrency, of.admit)


class TaskFunction(Task[P], Generic[P, R]):
    """A task type together with its handler, as `@job` makes it: it is called, awaited, copied and pickled as that."""

    def __init__(self, job_type: JobType) -> None:
        super().__init__(job_type)
        functools.update_wrapper(self, job_type.run)

    def __call__(self, payload: P, ctx: Any) -> R:
        return self.job_type.run(payload, ctx)  # type: ignore[return-value]  # the overloads of the decorator know it

    def __reduce__(self) -> str:
        # By reference, as a function.
        return self.job_type.run.__qualname__


class _Keeps(Protocol[P]):
    """Takes a handler of this payload, and returns it."""

    @overload
    def __call__(
        self, function: Callable[[P, AsyncJobContext], Coroutine[Any, Any, O]], /
    ) -> Callable[[P, AsyncJobContext], Coroutine[Any, Any, O]]: ...
    @overload
    def __call__(self, function: Callable[[P, Any], O], /) -> Callable[[P, Any], O]: ...


class _Makes(Protocol[P]):
    """Takes a handler of this payload, and returns the handle of its type."""

    @overload
    def __call__(
        self, function: Callable[[P, AsyncJobContext], Coroutine[Any, Any, O]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, O]]: ...
    @overload
    def __call__(self, function: Callable[[P, Any], O], /) -> TaskFunction[P, O]: ...


class _MakesAny(Protocol):
    """Takes a handler of any payload, and returns the handle of its type."""

    @overload
    def __call__(
        self, function: Callable[[Q, AsyncJobContext], Coroutine[Any, Any, O]], /
    ) -> TaskFunction[Q, Coroutine[Any, Any, O]]: ...
    @overload
    def __call__(self, function: Callable[[Q, Any], O], /) -> TaskFunction[Q, O]: ...
    @overload
    def __call__(
        self, function: Callable[[Any, AsyncJobContext], Coroutine[Any, Any, O]], /
    ) -> TaskFunction[NoArguments, Coroutine[Any, Any, O]]: ...
    @overload
    def __call__(self, function: Callable[[Any, Any], O], /) -> TaskFunction[NoArguments, O]: ...


@overload
def task(
    task_type: str,
    payload: type[P],
    *,
    max_attempts: int = 5,
    concurrency: str | None = None,
    admit: Admit | None = None,
    **values: Unpack[CodeValues],
) -> Task[P]: ...
@overload
def task(
    task_type: str,
    *,
    max_attempts: int = 5,
    concurrency: str | None = None,
    admit: Admit | None = None,
    **values: Unpack[CodeValues],
) -> Task[NoArguments]: ...
def task(
    task_type: str,
    payload: type[Payload] = NoArguments,
    *,
    max_attempts: int = 5,
    concurrency: str | None = None,
    admit: Admit | None = None,
    **values: Unpack[CodeValues],
) -> Task[Any]:
    """Declares a task type without its handler, in a module that is light enough for a web application.

    Jobs are enqueued through what it returns; `@send_invoice.handler` registers the handler in a module of the worker.
    The options are those of `job` that a producer needs, too, and its limits.

    Raises:
        ConfigurationError: the parts of the type do not fit together; the message names the part.
    """
    return Task(registry.declare(_plain(task_type, _no_handler, payload, max_attempts, concurrency, admit, values)))


@overload
def job(task_type: str, *, payload: type[P], **facts: Unpack[TaskFacts]) -> _Makes[P]: ...
@overload
def job(task_type: str, **facts: Unpack[TaskFacts]) -> _MakesAny: ...
def job(  # noqa: PLR0913 -- one keyword per fact of a task type
    task_type: str,
    *,
    payload: type[Payload] | None = None,
    label: str | None = None,
    purpose: str = "",
    recurring: int | None = None,
    timeout: float = 900.0,
    max_attempts: int = 5,
    retry_base: float | None = None,
    retry_cap: float | None = None,
    concurrency: str | None = None,
    quick: bool = False,
    preview: Callable[[Any, Any], Json] | None = None,
    admit: Admit | None = None,
    isolation: Isolation = "thread",
    resources: Opener | None = None,
    playbook: str = "",
    backoff: Backoff | None = None,
    **values: Unpack[CodeValues],
) -> Callable[[Callable[..., Any]], TaskFunction[Any, Any]]:
    """Registers a function `(payload, ctx) -> Done | Continue | None` as the handler of a task type.

    A plain function gets a `JobContext` and runs in a thread. An `async def` function gets an `AsyncJobContext` and
    runs on the event loop that all async runs of a worker share. With `isolation="process"` a plain function runs in a
    process that the worker kills at the timeout; its module must be one that can be imported.

    The handle that takes the function's place enqueues jobs of the type (`send_invoice.enqueue(conn, Invoice(…))`), and
    can be called, awaited, copied and pickled as the function. Without `payload`, the model is the annotation of the
    function's first parameter, where it can be resolved at import; without either, the type takes no arguments.

    `recurring` is the usual interval in minutes. `timeout`, `retry_base` and `retry_cap` are in seconds; None for the
    last two means those of the settings. `resources` is a function `(settings, database)` to a context manager, an
    async one for an async type. It is entered in each process at the first run that needs it, and left at the end; all
    types that name it have its value as `ctx.resources`. A type that fails shows `playbook`, in Markdown, to operators.

    `backoff` is a plain function `(attempt, error)` to the seconds until the next attempt, at most a year, or to None
    for the default delay. It is called after each attempt that failed and was not the last; `attempt` counts from 1,
    and `error` is what the handler raised, or a `TimedOut`. A `RetryLater` comes first.

    The options from `max_running` on are limits, and hold where no operator set others: `max_running` jobs run at once
    over all workers, `per_key` of them with the same concurrency key, and `rate` ("5/s") start. Jobs that are enqueued
    without a priority or an expiry get `priority`, and expire `max_age` after they are due. The type is in `queue`.

    Raises:
        ConfigurationError: the parts of the type do not fit together; the message names the part.
    """
    if not isinstance(task_type, str):
        raise ConfigurationError('@job needs the name of the task type. Write @job("send_invoice") above the handler.')

    def register(function: Any) -> TaskFunction[Any, Any]:
        model = model_of(task_type, function, payload) or NoArguments
        made = replace(
            _plain(task_type, function, model, max_attempts, concurrency, admit, values),
            purpose=purpose, recurring=recurring or None, timeout=timeout, retry_base=retry_base, retry_cap=retry_cap,
            quick=quick, preview=preview, isolation=isolation, resources=resources, playbook=playbook, backoff=backoff,
        )  # fmt: skip
        return TaskFunction(registry.register(replace(made, label=label) if label else made))

    return register


def _plain(
    task_type: str,
    run: Any,
    payload: Any,
    max_attempts: int,
    concurrency: str | None,
    admit: Admit | None,
    values: CodeValues | None = None,
) -> JobType:
    return JobType(
        task_type=task_type, run=run, label=task_type.replace("_", " ").capitalize(), purpose="", payload=payload,
        max_attempts=max_attempts, concurrency=concurrency, admit=admit, values=values or {},
    )  # fmt: skip


def _no_handler(_payload: object, _ctx: object) -> None:
    raise ConfigurationError("The type is declared without a handler here. Import the module with its handler.")


def _again(*facts: Any) -> Task[Any]:
    return Task(_plain(*facts))
