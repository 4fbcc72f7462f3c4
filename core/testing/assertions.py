"""Assertions on the jobs that a queue holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from jobdeck.core import settings as configuration
from jobdeck.core.errors import InvalidPayload, UsageError, meant
from jobdeck.core.model import Filter, Job, Json, Status
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.redact import harmless_json, safe_error, scrub
from jobdeck.core.testing.borrowed import borrowed, job_type_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import psycopg

    from jobdeck.core.registry import JobType, Payload
    from jobdeck.core.settings import Settings

    Target = psycopg.Connection[Any] | str

MOST_LISTED: Final = 100_000
MOST_SHOWN: Final = 20
LONGEST_PAYLOAD: Final = 200
PAUSE_SECONDS: Final = 0.02


def enqueued(
    target: Target, task_type: str | None = None, *, payload: Payload | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> list[Job]:  # fmt: skip
    """The jobs that wait or run, by due time, that `assert_enqueued` would find.

    Args:
        target: a psycopg connection, whose open transaction counts, or the address of the database.
        task_type: their type; None for all types.
        payload: as in `assert_enqueued`; needs a type.
        settings: the settings; None for those of this process.

    Raises:
        UnknownTaskType: no imported module registers the type.
        UsageError: the connection cannot be used, or the payload has a key that the type does not have.
        SchemaMismatch: the database does not hold the queue.
    """
    wanted = _Wanted(task_type, payload)
    return wanted.among(_all(target, settings))


def assert_enqueued(
    target: Target,
    task_type: str,
    *,
    payload: Payload | Mapping[str, Any] | None = None,
    count: int | None = None,
    due_after: datetime | None = None,
    due_before: datetime | None = None,
    within: float = 0.0,
    settings: Settings | None = None,
) -> list[Job]:
    """Asserts that jobs of a type wait or run, and returns them by due time.

    Args:
        target: a psycopg connection, whose open transaction counts, or the address of the database.
        task_type: their type.
        payload: a part of their payload: a model of which the fields that were set count, or keys with their values, as
            in the JSON or as the fields are called. An object inside counts as a part as well, an array as a whole.
        count: their exact number; None for at least one.
        due_after: they are due at this time or later.
        due_before: they are due at this time or earlier.
        within: for how many seconds to wait for them, for code that enqueues in another thread or process.
        settings: the settings; None for those of this process.

    Raises:
        AssertionError: there are none, or not as many; the message lists the jobs that wait or run.
        UnknownTaskType, UsageError, SchemaMismatch: as `enqueued`.
    """
    __tracebackhide__ = True
    wanted = _Wanted(task_type, payload, due_after, due_before)
    deadline = time.monotonic() + within
    while True:
        listed = _all(target, settings)
        found = wanted.among(listed)
        if len(found) == count or (count is None and found):
            return found
        if time.monotonic() >= deadline:
            break
        time.sleep(PAUSE_SECONDS)
    expected = "at least 1" if count is None else str(count)
    raise AssertionError(f"Expected {expected} of {wanted}, and found {len(found)}.\n{_listed(listed, wanted)}")


def refute_enqueued(
    target: Target,
    task_type: str,
    *,
    payload: Payload | Mapping[str, Any] | None = None,
    due_after: datetime | None = None,
    due_before: datetime | None = None,
    settings: Settings | None = None,
) -> None:
    """Asserts that no job of a type waits or runs that `assert_enqueued` would find with the same arguments.

    Raises:
        AssertionError: there is one; the message lists the jobs that wait or run.
        UnknownTaskType, UsageError, SchemaMismatch: as `enqueued`.
    """
    __tracebackhide__ = True
    wanted = _Wanted(task_type, payload, due_after, due_before)
    listed = _all(target, settings)
    found = wanted.among(listed)
    if found:
        raise AssertionError(f"Expected none of {wanted}, and found {len(found)}.\n{_listed(listed, wanted)}")


def _all(target: Target, settings: Settings | None) -> list[Job]:
    with borrowed(target, settings or configuration.load()) as conn:
        parts = [
            read_jobs.page(Filter(status=status), limit=MOST_LISTED).run(conn).jobs
            for status in (Status.RUNNING, Status.PENDING)
        ]
    return sorted((job for part in parts for job in part), key=lambda job: (job.run_at, job.id))


class _Wanted:
    """The jobs that an assertion looks for. Its text is for a message."""

    def __init__(
        self,
        task_type: str | None,
        payload: Payload | Mapping[str, Any] | None = None,
        due_after: datetime | None = None,
        due_before: datetime | None = None,
    ) -> None:
        if task_type is None and payload is not None:
            raise UsageError("A payload needs the task type that it belongs to.")
        for moment in (due_after, due_before):
            if moment is not None and moment.tzinfo is None:
                raise UsageError("The times due_after and due_before need a time zone, like datetime.now(UTC).")
        self._type = None if task_type is None else job_type_of(task_type)
        self._payload = {} if payload is None or self._type is None else _as_stored(self._type, payload)
        self._after = due_after
        self._before = due_before

    def among(self, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if self._fits(job)]

    def is_of_type(self, job: Job) -> bool:
        return self._type is None or job.task_type == self._type.task_type

    def _fits(self, job: Job) -> bool:
        return (
            self.is_of_type(job)
            and (self._after is None or job.run_at >= self._after)
            and (self._before is None or job.run_at <= self._before)
            and (_is_part(self._payload, job.payload) or _is_part(self._payload, self._with_defaults(job.payload)))
        )

    def _with_defaults(self, payload: Json) -> Json:
        """The payload as the handler gets it, with the fields that were not set."""
        if self._type is None:
            return payload
        try:
            return self._type.parse(payload).model_dump(mode="json", by_alias=True)
        except InvalidPayload:
            return payload

    def __str__(self) -> str:
        words = [safe_error(self._type.task_type) if self._type else "any type"]
        words += [f"with {_shown(self._payload)} in the payload"] if self._payload else []
        words += [f"due after {self._after.isoformat()}"] if self._after else []
        words += [f"due before {self._before.isoformat()}"] if self._before else []
        return ", ".join(words)


def _as_stored(job_type: JobType, payload: Payload | Mapping[str, Any]) -> Json:
    """A part of a payload, with keys and values as the queue stores them.

    A key that the type does not have is an error: nothing could be found with it, and `refute_enqueued` would pass.
    """
    try:
        if isinstance(payload, BaseModel):
            return payload.model_dump(mode="json", by_alias=True, exclude_unset=True)
        keys = {name: field.alias or name for name, field in job_type.payload.model_fields.items()}
        open_ended = job_type.payload.model_config.get("extra") == "allow"
        stored: Json = {}
        for name, value in payload.items():
            key = keys.get(name, name)
            if key not in keys.values() and not open_ended:
                raise UsageError(
                    f'The payload of {job_type.task_type} has no field "{safe_error(str(name))}"'
                    f"{meant(str(name), keys.values())}"
                )
            stored[key] = to_jsonable_python(value, by_alias=True)
    except PydanticSerializationError as error:
        raise UsageError(f"A value of the payload cannot be written as JSON: {safe_error(str(error))}.") from error
    return stored


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and _is_part(value, whole[key]) for key, value in part.items())
    # In JSON, true is not 1.
    return part == whole and isinstance(part, bool) == isinstance(whole, bool)


def _listed(jobs: list[Job], wanted: _Wanted) -> str:
    """The jobs that wait or run: those of the type first."""
    if not jobs:
        return "No job waits or runs."
    ordered = sorted(jobs, key=lambda job: not wanted.is_of_type(job))
    lines = [
        f"  {safe_error(job.task_type, 100)} {_shown(job.payload)}, {job.status}, due {job.run_at.isoformat()}"
        for job in ordered[:MOST_SHOWN]
    ]
    lines += [f"  … and {len(jobs) - MOST_SHOWN} more"] if len(jobs) > MOST_SHOWN else []
    head = "1 job waits or runs:" if len(jobs) == 1 else f"{len(jobs)} jobs wait or run:"
    return "\n".join([head, *lines])


def _shown(payload: Any) -> str:
    text = harmless_json(scrub(payload))
    return text if len(text) <= LONGEST_PAYLOAD else f"{text[: LONGEST_PAYLOAD - 1]}…"
