"""A job before it is enqueued: validated and admitted by its type, with the names under which it is enqueued."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeGuard

import psycopg
from pydantic import BaseModel

from jobdeck.core import registry, settings
from jobdeck.core.errors import Refused
from jobdeck.core.model import LEAST_PRIORITY, MOST_PRIORITY
from jobdeck.core.queue import requests
from jobdeck.core.queue.calls import actor as current_actor
from jobdeck.core.queue.options import NOTHING, longest_wait
from jobdeck.core.registry.checks import MOST_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import Json, NewJob
    from jobdeck.core.queue.producers.drivers import Names
    from jobdeck.core.registry import JobType, Payload
    from jobdeck.core.schedules import Schedule
    from jobdeck.core.telemetry.spans import Sending


LONGEST_TIMEOUT: Final = 366 * 86_400
"""In seconds."""


def _is_number(given: object) -> TypeGuard[float]:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _shown(given: object) -> str:
    """A wrong value in a sentence: a number itself, of all else its type, because it may be personal data."""
    return f"{given:,}" if _is_number(given) else f"a value of the type {type(given).__name__}"


class Own(NamedTuple):
    """The caller's own values, in place of those of the type where the caller gave some."""

    max_attempts: int | None = None
    concurrency_key: str | None = None
    unique_for: timedelta | None = None
    timeout: float | None = None
    dedupe_key: str | None = None
    dedupe: str | None = None
    longest_wait: timedelta | None = None

    def of(self, new: NewJob) -> NewJob:
        if not isinstance(self.unique_for, timedelta | None):
            raise Refused(
                "unique_for is the time for which a job is unique: a timedelta, such as timedelta(hours=1), and not "
                f"{type(self.unique_for).__name__}. Nothing was enqueued."
            )
        given: object = self.timeout
        if given is not None and not (_is_number(given) and 0 < given <= LONGEST_TIMEOUT):
            raise Refused(
                f"The timeout of a job is a number of seconds, more than 0 and at most {LONGEST_TIMEOUT:,} (366 days). "
                "Nothing was enqueued."
            )
        tries: object = self.max_attempts
        if tries is not None and not (isinstance(tries, int) and _is_number(tries) and 1 <= tries <= MOST_ATTEMPTS):
            raise Refused(
                f"max_attempts is a whole number from 1 to {MOST_ATTEMPTS:,}, and not {_shown(tries)}. {NOTHING}"
            )
        return new._replace(
            max_attempts=new.max_attempts if self.max_attempts is None else self.max_attempts,
            concurrency_key=self.concurrency_key or new.concurrency_key,
            unique_seconds=None if self.unique_for is None else self.unique_for.total_seconds(),
            timeout=self.timeout,
            dedupe_key=self.dedupe_key,
            longest_wait=longest_wait(self.dedupe, self.dedupe_key, self.longest_wait),
        )


def draft(job_type: JobType, payload: Payload | Json | None) -> NewJob:
    """A job with its validated payload and the values of its type.

    Raises:
        InvalidPayload: the payload does not fit the type.
    """
    given = job_type.dump(payload) if isinstance(payload, BaseModel) else {} if payload is None else payload
    return requests.draft(registry.Registry([job_type]), job_type.task_type, given)


def ranked(priority: int | None) -> int | None:
    """The priority of a job, as it is.

    Raises:
        Refused: it is out of range. The database would say the same, and the caller's transaction would be lost.
    """
    given: object = priority
    if given is None:
        return None
    if not (isinstance(given, int) and _is_number(given)):
        raise Refused(f"A priority is a whole number, and not {_shown(given)}. {NOTHING}")
    if not LEAST_PRIORITY <= given <= MOST_PRIORITY:
        raise Refused(f"A priority must be between {LEAST_PRIORITY} and {MOST_PRIORITY}. {NOTHING}")
    return priority


def scheduled(new: NewJob, schedule: Schedule | None) -> NewJob:
    """The job with the schedule of its series, and its first slot.

    Raises:
        Refused: it has an interval, too; or the schedule has no slot.
    """
    if schedule is None:
        return new
    if new.recurrence_interval_minutes is not None:
        raise Refused("A recurring job has either every_minutes or a schedule. Omit one of them.")
    return requests.scheduled(new, schedule, datetime.now(UTC))


def recurs(new: NewJob) -> bool:
    """Whether this is a series."""
    return new.recurrence_interval_minutes is not None or new.schedule is not None


def admit(conn: object, job_type: JobType, payloads: Iterable[Json], *, recurring: bool) -> None:
    """Asks the type's `admit` function, if it has one, about jobs with these payloads.

    Raises:
        InvalidPayload: it names problems.
        Refused: the connection is none of psycopg.
    """
    if job_type.admit is None:
        return
    if not isinstance(conn, psycopg.Connection):
        raise Refused(
            f"The type {job_type.task_type} checks each job in the database before it is enqueued (admit), for which "
            "it needs a psycopg connection. Enqueue it with jobdeck.enqueue and a psycopg connection."
        )
    known = registry.Registry([job_type])
    requests.admit(conn, known, job_type.task_type, payloads, recurring=recurring, settings=settings.load())


def names(actor: str | None, schema: str | None, span: Sending) -> Names:
    """Under which names a job is enqueued: who, in which schema, in which trace."""
    return {"actor": actor or current_actor(), "schema": schema or _configured_schema(), "trace": span.traceparent}


@cache
def _configured_schema() -> str:
    return settings.load().database_schema
