"""What a task type must be, checked when it is registered."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Final, Literal, get_args

from pydantic import BaseModel

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
    _check_call(job_type)
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
        keys = ", ".join(field.alias or name for name, field in job_type.payload.model_fields.items())
        raise ConfigurationError(
            f'{job_type.task_type} has the concurrency {json.dumps(wanted)}. It must be "type", "payload:KEY" '
            f'with a key of its payload as in JSON ({keys or "it has none"}), or "key:NAME".'
        )


def _check_call(job_type: JobType) -> None:
    """Refuses a handler or payload that would fail in every run, and a type whose runs could never begin."""
    model: object = job_type.payload
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError(
            f"The payload of {job_type.task_type} is no model. Make it a class that derives from jobdeck.Payload."
        )
    try:
        inspect.signature(job_type.run).bind(None, None)
    except TypeError:
        raise ConfigurationError(
            f"The handler of {job_type.task_type} cannot be called with a payload and a context. Give it these two "
            "parameters, also if it needs neither."
        ) from None
    except ValueError:
        pass  # A function of a library in C, which does not say what it takes.
    if job_type.timeout <= 0 or job_type.max_attempts < 1:
        raise ConfigurationError(
            f"{job_type.task_type} has a timeout of {job_type.timeout:g} seconds and {job_type.max_attempts} attempts. "
            "Both must be above 0."
        )
