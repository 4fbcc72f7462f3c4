"""The values that code gives its task types, which hold where no operator has set others."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict

from jobdeck.core.errors import ConfigurationError, Unreadable
from jobdeck.core.model import LEAST_PRIORITY, MOST_PRIORITY
from jobdeck.core.times import parse_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.model import Json

DAY: Final = 86_400
MOST: Final = 1_000_000
"""The bounds that `job_limits_refusal` of the schema has, so that a mistake is refused at import."""
_WHOLE: Final = {"max_running": (1, MOST), "per_key": (1, 1000), "priority": (LEAST_PRIORITY, MOST_PRIORITY)}

_QUEUE: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


class CodeValues(TypedDict, total=False):
    """The values of a task type that operators can change (`jobdeck types set`). Where they have not, these hold.

    A worker that starts writes them, before its first claim, for all workers. None is no limit.
    """

    max_running: int | None
    """How many jobs of the type run at the same time, over all workers."""
    rate: str | None
    """How many start in a time: "5/s", "100/m"."""
    per_key: int | None
    """How many with the same concurrency key run at the same time; None for one."""
    priority: int | None
    """The priority of jobs that are enqueued without one."""
    max_age: timedelta | None
    """One-time jobs that are enqueued without an expiry expire so long after they are due."""
    queue: str | None
    """The queue that the type is in, for `worker --queues`; None for "default"."""


def columns(task_type: str, values: CodeValues) -> Json:
    """The values that are not None, by the columns of `job_types`.

    Raises:
        ConfigurationError: one is unknown, out of range, or contradicts another; the message names type and value.
    """
    if unknown := values.keys() - CodeValues.__annotations__.keys():
        raise ConfigurationError(
            f"{task_type} has the unknown options {', '.join(sorted(unknown))}. Check the spelling."
        )
    found = {name: _whole(task_type, name, value) for name in _WHOLE if (value := values.get(name)) is not None}
    if found.get("per_key", 1) > found.get("max_running", MOST):
        raise ConfigurationError(
            f"{task_type} has per_key={found['per_key']}, which is above its max_running="
            f"{found['max_running']}, so that many jobs of a key could never run. Lower per_key, or raise max_running."
        )
    made: Json = {"max_per_key" if name == "per_key" else name: value for name, value in found.items()}
    if (rate := values.get("rate")) is not None:
        made["rate_runs"], made["rate_seconds"] = _rate(task_type, rate)
    if (max_age := values.get("max_age")) is not None:
        made["max_age_seconds"] = _seconds(task_type, max_age)
    if (queue := values.get("queue")) is not None:
        if _QUEUE.fullmatch(str(queue)) is None:
            raise ConfigurationError(
                f"{task_type} has queue={queue!r}. The name of a queue has 1 to 100 letters, digits, dots, hyphens and "
                "underscores."
            )
        made["queue"] = str(queue)
    return made


def _whole(task_type: str, name: str, value: object) -> int:
    least, most = _WHOLE[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(
            f"{task_type} has {name}={value!r}. It must be a whole number from {least:,} to {most:,}, or None."
        )
    return value


def _rate(task_type: str, rate: object) -> tuple[int, int]:
    wrong = f'{task_type} has rate={rate!r}. Write the jobs that start in a time, like "5/s", "100/m" or "1000/h".'
    try:
        runs, seconds = parse_rate(rate if isinstance(rate, str) else "")
    except Unreadable:
        raise ConfigurationError(wrong) from None
    if not (1 <= runs <= MOST and 1 <= seconds <= 31 * DAY):
        raise ConfigurationError(f"{wrong} A rate has from 1 to {MOST:,} jobs, in at most 31 days.")
    return runs, seconds


def _seconds(task_type: str, max_age: object) -> int:
    seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else 0
    if not 1 <= seconds <= 366 * DAY or seconds % 1:
        raise ConfigurationError(
            f"{task_type} has max_age={max_age!r}. It must be a timedelta of whole seconds, at most 366 days, or None."
        )
    return int(seconds)


def split(facts: Mapping[str, Any]) -> tuple[CodeValues, dict[str, Any]]:
    """The values among the facts of a type, and the other facts."""
    values = CodeValues()
    others = dict(facts)
    for name in facts.keys() & CodeValues.__annotations__.keys():
        values[name] = others.pop(name)  # type: ignore[literal-required]  # a key of this class
    return values, others
