"""From a request to what `queue.enqueue` takes: JSON read, type and payload validated, times made definite."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import UnknownTaskType, UsageError
from jobdeck.core.model import NewJob
from jobdeck.core.timeparse import parse_duration, parse_minutes, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.model import Json
    from jobdeck.core.registry import Registry

SYNC: Final = "game_platform_sync"
TOTALS: Final = "game_platform_totals_sweep"
QUICK_SYNCS: Final = {"full": (SYNC, TOTALS), "incremental": (SYNC,), "totals": (TOTALS,)}
"""The task types of each quick sync, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job runs, as a person wrote it: first time, interval, and how long the series lasts."""

    at: str | None = None
    every: str | None = None
    lasting: str | None = None


def parse_object(text: str, what: str = "payload") -> Json:
    """Reads a JSON object that Postgres can keep.

    Raises:
        UsageError: it is malformed, no object, or holds what jsonb cannot: NUL, NaN, half a surrogate pair.
    """
    try:
        value = json.loads(text)
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode()
    except json.JSONDecodeError as error:
        raise UsageError(
            f"The {what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Quote it for the shell, like '{\"dryRun\": true}'."
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f"The {what} holds a value that Postgres cannot keep. Use plain JSON values.") from None
    if not isinstance(value, dict):
        raise UsageError(f"The {what} must be a JSON object, like '{{\"dryRun\": true}}'.")
    if "\\u0000" in written.replace("\\\\", ""):
        raise UsageError(f"The {what} holds a NUL character, which Postgres cannot keep. Leave it out.")
    return value


def draft(registry: Registry, task_type: str, payload: Json) -> NewJob:
    """A job of a registered type with a valid payload, its type's attempts and concurrency key, due now.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: the payload does not fit.
    """
    job_type, parsed = registry.validate(task_type, payload)
    return NewJob(
        task_type=task_type,
        payload=job_type.dump(parsed),
        max_attempts=job_type.max_attempts,
        concurrency_key=job_type.concurrency_key(parsed),
    )


def scheduled(job: NewJob, schedule: Schedule, now: datetime) -> NewJob:
    """The job with its first time, interval and end. A series lasts from its first run, not from now.

    Raises:
        UsageError: a time or duration cannot be read, or a duration stands without an interval.
    """
    if schedule.lasting and not schedule.every:
        raise UsageError("--for says how long a recurring job lasts. Add --every, or leave --for out.")
    run_at = parse_time(schedule.at, now, what="time of --at") if schedule.at else None
    changes: dict[str, Any] = {"run_at": run_at}
    if schedule.every:
        changes["recurrence_interval_minutes"] = parse_minutes(schedule.every, what="interval of --every")
    if schedule.lasting:
        changes["expires_at"] = (run_at or now) + parse_duration(schedule.lasting, what="duration of --for")
    return job._replace(**changes)


def quick_sync(registry: Registry, kind: str) -> list[NewJob]:
    """The jobs of a quick sync, each with the dedupe key that keeps a second press from doubling it.

    Raises:
        UnknownTaskType: a type of this quick sync has no handler here.
    """
    missing = [task_type for task_type in QUICK_SYNCS[kind] if task_type not in registry]
    if missing:
        raise UnknownTaskType(
            f"The quick sync {kind} needs {' and '.join(missing)}, for which there is no handler yet. "
            f"Known are: {', '.join(registry.names) or 'none'}."
        )
    return [
        draft(registry, task_type, {"dryRun": False})._replace(dedupe_key=f"quick-sync:{task_type}")
        for task_type in QUICK_SYNCS[kind]
    ]
