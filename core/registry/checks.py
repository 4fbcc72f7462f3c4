"""What a task type must be, checked when it is registered."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Final, Literal, get_args

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.registry import JobType

Isolation = Literal["thread", "process"]
PER_KEY: Final = "payload:"
SHARED_KEY: Final = "key:"


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call returns a coroutine: an `async def` function, or an object with an `async def __call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def check(job_type: JobType) -> None:
    """Refuses a task type whose parts do not fit together.

    Raises:
        ConfigurationError: the message names the type and the part.
    """
    if job_type.backoff is not None and not callable(job_type.backoff):
        raise ConfigurationError(
            f"The backoff of {job_type.task_type} is no function. It must be one of the attempt and its error; for the "
            "delays in seconds there are retry_base and retry_cap."
        )
    for name in ("preview", "admit", "backoff"):
        if is_async(getattr(job_type, name)):
            raise ConfigurationError(
                f"The {name} of {job_type.task_type} is an async function. Make it a plain function: nothing awaits it."
            )
    if not job_type.is_async and inspect.isasyncgenfunction(inspect.unwrap(job_type.resources or check)):
        raise ConfigurationError(
            f"The resources of {job_type.task_type} are an async context manager, and its handler is a plain function. "
            "Use a plain context manager."
        )
    if job_type.isolation not in get_args(Isolation):
        raise ConfigurationError(
            f'{job_type.task_type} has the isolation "{job_type.isolation}". It must be "thread" or "process".'
        )
    if job_type.isolation == "process" and job_type.is_async:
        raise ConfigurationError(
            f'{job_type.task_type} has isolation="process" and an async function. Make it a plain function, or omit '
            "the isolation."
        )
    wanted = job_type.concurrency
    if wanted is None or wanted == "type" or (wanted.startswith(SHARED_KEY) and wanted != SHARED_KEY):
        return
    if not wanted.startswith(PER_KEY) or job_type.field(wanted.removeprefix(PER_KEY)) is None:
        raise ConfigurationError(
            f'{job_type.task_type} has the concurrency {json.dumps(wanted)}. It must be "type", "payload:KEY" '
            'with a key of its payload, or "key:NAME".'
        )
