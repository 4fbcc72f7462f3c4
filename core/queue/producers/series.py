"""Series by schedules: those that handlers declare, and the slots of cron expressions, which the database keeps."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from jobdeck.core import registry
from jobdeck.core.errors import ConfigurationError, InvalidPayload, UsageError
from jobdeck.core.queue import requests
from jobdeck.core.queue.calls import Connection, array, rows
from jobdeck.core.read import jobs
from jobdeck.core.registry.handles import is_handler
from jobdeck.core.schedules import Cron, given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobdeck.core.model import Json, NewJob
    from jobdeck.core.registry import JobType, Payload
    from jobdeck.core.schedules import Schedule


F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Declared:
    """A series that a handler declares. `run` is the handler: a module that is imported again has another one."""

    name: str
    schedule: Schedule
    job: NewJob
    run: Callable[..., Any]


_declared: list[Declared] = []


def schedule(schedule: Schedule, payload: Payload | Json | None = None, *, name: str | None = None) -> Callable[[F], F]:
    """Declares a series of a task type; stands above `@job`, once for each series.

    A worker that knows the type enqueues the series when it starts, changes it when the declaration has changed, and
    cancels it when the declaration is gone. Several series of a type differ by `name`.

    Raises:
        ConfigurationError: the function is no handler, the payload does not fit, or two series have the same name.
    """

    def declare(function: F) -> F:
        found = [one.job_type for one in registry.registrations if is_handler(function, one.job_type.run)]
        if not found:
            raise ConfigurationError(
                f"@schedule is on {getattr(function, '__name__', 'a function')}, which is no handler yet. "
                "Write it above @job."
            )
        _declared.extend(_declaration(job_type, schedule, payload, name) for job_type in found)
        return function

    return declare


def _declaration(job_type: JobType, schedule: Schedule, payload: Payload | Json | None, name: str | None) -> Declared:
    full = f"{job_type.task_type}:{name}" if name else job_type.task_type
    if any(one.name == full and one.run is job_type.run for one in _declared):
        raise ConfigurationError(f'Two schedules of {job_type.task_type} have the same name. Add name="...".')
    raw = payload if isinstance(payload, dict) else job_type.dump(payload) if payload is not None else {}
    try:
        job = requests.draft(registry.Registry([job_type]), job_type.task_type, raw)
    except InvalidPayload as error:
        raise ConfigurationError(f"The schedule {full} has a payload that does not fit: {error}") from None
    return Declared(full, schedule, job, job_type.run)


def declarations(types: Iterable[JobType]) -> list[Declared]:
    """The series that the handlers of these types declare."""
    return [one for job_type in types for one in _declared if one.run is job_type.run]


def install(conn: Connection, types: Iterable[JobType], *, actor: str) -> list[str]:
    """Makes the declared series of these types those of the queue.

    Returns the names of series that could not be changed, because they run, are locked, or another job has their dedupe
    key `schedule:NAME`; a later call changes them.
    """
    known = list(types)
    now = jobs.clock().run(conn)
    wanted = [
        {
            "name": one.name,
            "task_type": one.job.task_type,
            "payload": one.job.payload,
            "schedule": given(one.schedule),
            "slots": [slot.isoformat() for slot in requests.first_slots(one.schedule, None, now)]
            if isinstance(one.schedule, Cron)
            else None,
            "max_attempts": one.job.max_attempts,
            "concurrency_key": one.job.concurrency_key,
        }
        for one in declarations(known)
    ]
    names = [job_type.task_type for job_type in known]
    found = rows(
        conn, "SELECT job_series_declare(%s::text[], %s::jsonb, %s) AS left", (names, json.dumps(wanted), actor)
    )
    left: list[str] = found[0]["left"]
    return left


LOOKED_AT: Final = 1_000
"""The number of series looked at in one call."""


@dataclass(frozen=True, slots=True)
class Refilled:
    """How many series got slots, and the sentences about expressions that cannot be read."""

    series: int
    troubles: tuple[str, ...]


def refill(conn: Connection, *, everything: bool = False, seconds: float = 1.0) -> Refilled:
    """Writes more slots of the cron series that have fewer than ten left, or with `everything` of all.

    It stops after `seconds`; the series that have the fewest slots are first.
    """
    until = time.monotonic() + seconds
    count, troubles = 0, []
    for row in rows(conn, "SELECT * FROM job_series_short(%s, %s)", (everything, LOOKED_AT)):
        slots, trouble = None, None
        try:
            found = Cron(row["cron"], row["zone"]).slots(row["after"], now=row["at"])
            slots = array(slot.isoformat() for slot in found)
        except UsageError as error:
            trouble = str(error)
        given_to = (row["job_id"], row["cron"], row["zone"], row["after"], slots, trouble)
        filled = rows(conn, "SELECT job_series_fill(%s, %s, %s, %s, %s::timestamptz[], %s) AS filled", given_to)
        if filled[0]["filled"]:
            count += trouble is None
            troubles += [f"Job {row['job_id']}: {trouble}"] if trouble else []
        if time.monotonic() > until:
            break
    return Refilled(count, tuple(troubles))
