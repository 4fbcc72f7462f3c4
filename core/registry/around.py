"""What an application puts around the runs of its jobs: middleware, hooks for permanent failures, delays of retries."""

from __future__ import annotations

import importlib
import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.registry import JobType

    Backoff = Callable[[int, BaseException], float | None]

M = TypeVar("M", bound="Callable[[Any, Any, Callable[[], Any]], Any]")
H = TypeVar("H", bound="Callable[[FailedJob], object]")

LONGEST_DELAY: Final = 31_536_000.0
"""The seconds of a year, to which the database limits a delay."""
plain_middleware: list[Callable[..., Any]] = []
async_middleware: list[Callable[..., Any]] = []
failure_hooks: list[Callable[[FailedJob], object]] = []


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that failed for good: its attempts are used up, or its error was a permanent one.

    Of a recurring job it is the failure of one slot; the next slot comes at its time. `error` is one redacted line, as
    the dashboard shows it. `payload` is the job's own, with everything in it.
    """

    job_id: UUID
    task_type: str
    payload: Json
    attempt: int
    recurring: bool
    error_kind: str | None
    error: str | None
    worker: str


def middleware(function: M) -> M:
    """Puts a function around each run of this process: `(payload, ctx, call)` to the outcome, usually `return call()`.

    A plain function goes around runs in threads and in processes. An `async def` function goes around runs on the event
    loop and awaits `call()`. The function that was registered first is the outermost. What it raises is the run's
    error. An outcome that it returns without `call()` is the run's, and the handler does not run.
    """
    (async_middleware if inspect.iscoroutinefunction(function) else plain_middleware).append(function)
    return function


def on_failure(function: H) -> H:
    """Calls a function with a `FailedJob` after the database has recorded that a job failed for good.

    It is called once, in a thread of its own, by the worker that ran the job, or that found the job's last run lost. A
    worker that is killed at that moment does not call it, so it is no place for what must happen.

    Raises:
        ConfigurationError: it is an async function.
    """
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"The hook {function.__name__} is an async function. Make it a plain function: it has a thread of its own."
        )
    failure_hooks.append(function)
    return function


def plain_names() -> list[str]:
    """The middleware for plain handlers, as `module:name`."""
    return [_name(one) for one in plain_middleware]


def import_plain(names: list[str]) -> None:
    """Imports the modules of the middleware that another process has, so that the same goes around its runs.

    Raises:
        ConfigurationError: a module does not register one of them when it is imported.
    """
    for name in names:
        importlib.import_module(name.partition(":")[0])
        if name not in plain_names():
            raise ConfigurationError(
                f"The middleware {name} is not registered when its module is imported. Put @middleware on a function "
                "at the module's top level."
            )


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def call(job_type: JobType, params: object, ctx: object) -> Any:
    """What a handler returns, with all middleware of its kind around it; a coroutine for an async one."""
    around = async_middleware if job_type.is_async else plain_middleware
    if not around:
        return job_type.run(params, ctx)
    run: Callable[[], Any] = partial(job_type.run, params, ctx)
    for one in reversed(around):
        run = partial(one, params, ctx, run)
    return run()


def own_delay(function: Backoff, attempt: int, error: BaseException) -> float | None:
    """The seconds that a backoff function chooses, from 0 to a year; None if it leaves them to the default.

    Raises:
        TypeError, ValueError: it returned something else.
        BaseException: whatever the function raises.
    """
    chosen: object = function(attempt, error)
    if chosen is None:
        return None
    if isinstance(chosen, bool) or not isinstance(chosen, int | float):
        raise TypeError(f"it returned a value of the type {type(chosen).__name__}; it must return seconds or None")
    if isinstance(chosen, float) and math.isnan(chosen):
        raise ValueError("it returned nan; it must return seconds or None")
    return float(min(max(chosen, 0), LONGEST_DELAY))
