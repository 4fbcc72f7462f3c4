"""What a task type must be, checked when it is registered, and what is wrong with a payload, in words."""

from __future__ import annotations

import inspect
import json
import math
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pydantic import BaseModel, ValidationError

from jobdeck.core.errors import ConfigurationError, InvalidPayload
from jobdeck.core.registry import code_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobdeck.core.registry import JobType

    Fault = tuple[tuple[int | str, ...], str]
    """Where a fault is, and pydantic's name of its kind."""


Isolation = Literal["thread", "process"]
PER_KEY: Final = "payload:"
SHARED_KEY: Final = "key:"
MOST_ATTEMPTS: Final = 1_000_000_000
_NUMBERS: Final = {
    "timeout": "a number of seconds above 0",
    "max_attempts": f"a whole number from 1 to {MOST_ATTEMPTS:,}",
    "retry_base": "a number of seconds, 0 or more",
    "retry_cap": "a number of seconds, 0 or more",
}


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call returns a coroutine: an `async def` function, or an object with an `async def __call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def check(job_type: JobType) -> None:
    """Refuses a task type whose parts do not fit together.

    Raises:
        ConfigurationError: the message names the type and the part.
    """
    _check_call(job_type)
    code_values.columns(job_type.task_type, job_type.values)
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
    for name, words in _NUMBERS.items():
        given: object = getattr(job_type, name)
        if not _fits(name, given):
            raise ConfigurationError(f"{job_type.task_type} has {name}={given!r}. It must be {words}.")


def _fits(name: str, given: object) -> bool:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return given is None and name in {"retry_base", "retry_cap"}
    if name == "max_attempts":
        return isinstance(given, int) and 1 <= given <= MOST_ATTEMPTS
    return given > 0 if name == "timeout" else 0 <= given < math.inf


UNKNOWN: Final = "extra_forbidden"
_PLAIN: Final = {
    UNKNOWN: "is not a field of this task type",
    "model_type": "must be a JSON object, such as {}",
}


def misfit(task_type: str, payload: object, error: ValidationError) -> InvalidPayload:
    """The refusal of a payload that does not fit the model of its type."""
    problems: dict[str, str] = {}
    found = error.errors(include_url=False, include_input=False, include_context=False)
    for item in found:
        where = ".".join(str(part) for part in item["loc"]) or "payload"
        problems[where] = _PLAIN.get(item["type"], item["msg"])
    faults = [(item["loc"], item["type"]) for item in found]
    return InvalidPayload(
        f"The payload does not fit {task_type}: {'; '.join(map(': '.join, problems.items()))}.",
        problems,
        only_unknown=all(kind == UNKNOWN for _, kind in faults) or _only_unknown(faults, payload),
    )


def _only_unknown(faults: Iterable[Fault], value: Any) -> bool:
    """Whether a value fits but for fields that its models do not have.

    Where it may be one of several models, or a model or a number, the faults of each are given, below its name; then
    it is enough that one of them has only such faults.
    """
    fields: dict[int | str, list[Fault]] = {}
    models: dict[int | str, list[Fault]] = {}
    for place, kind in faults:
        if not place:
            return False
        first, rest = place[0], place[1:]
        if not _has(value, first):
            models.setdefault(first, []).append((rest, kind))
        elif rest or kind != UNKNOWN:
            fields.setdefault(first, []).append((rest, kind))
    fit = all(_only_unknown(found, value[name]) for name, found in fields.items())
    return fit and (not models or any(_only_unknown(found, value) for found in models.values()))


def _has(value: object, name: int | str) -> bool:
    return name in value if isinstance(value, dict) else isinstance(value, list) and isinstance(name, int)
