"""Turns a request for a job into a `NewJob` or the changes of an edit: parses, validates, computes times."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import InvalidPayload, UsageError
from jobdeck.core.model import NewJob
from jobdeck.core.queue.options import OPTIONS, longest_wait
from jobdeck.core.redact import clean, harmless_json
from jobdeck.core.registry import Admission
from jobdeck.core.schedules import Cron, Every, Rhythm, given, rhythm, stored
from jobdeck.core.times import parse_interval, write_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from jobdeck.core.model import Job, Json
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry
    from jobdeck.core.schedules import Schedule
    from jobdeck.core.settings import Settings


def parse_object(text: str, what: str = "payload") -> Json:
    """Parses a JSON object that Postgres can store.

    Raises:
        UsageError: it is malformed, not an object, or has a value that jsonb cannot store: NUL, NaN, half a surrogate.
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
        raise UsageError(f"The {what} contains a value that Postgres cannot store. Use plain JSON values.") from None
    if not isinstance(value, dict):
        raise UsageError(f"The {what} must be a JSON object, like '{{\"dryRun\": true}}'.")
    if "\\u0000" in written.replace("\\\\", ""):
        raise UsageError(f"The {what} contains a NUL character, which Postgres cannot store. Remove it.")
    return value


def draft(registry: Registry, task_type: str, payload: Json) -> NewJob:
    """A job due now, with the validated payload and the type's maximum attempts and concurrency key.

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


DEFAULT: Final = "default"
"""In an edit, the timeout of the type."""
ONLY_A_SERIES: Final = "--for is for recurring jobs. Add --every or --cron, or omit --for."
_OF_SCHEDULE: Final = ("every", "cron", "tz", "catch_up")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job as requested: due `at` (None: now), repeated by its `schedule` (None: never) for `lasting`.

    No second job with its dedupe key is created for `unique_for`.

    A cron expression is due at its first slot from `at` on. When it edits an existing job, `at` and `lasting` of None
    keep the job's own values, as a `Rhythm` keeps its schedule; `endless` removes its expiry. A `timeout` of None is
    that of the type.
    """

    task_type: str
    payload: Json
    at: datetime | None = None
    schedule: Schedule | Rhythm | None = None
    lasting: timedelta | None = None
    endless: bool = False
    priority: int | None = None
    max_attempts: int | None = None
    dedupe_key: str | None = None
    unique_for: timedelta | None = None
    dedupe: str | None = None
    longest_wait: timedelta | None = None
    timeout: timedelta | None = None


def read_wanted(
    task_type: str, payload: Json, given: Mapping[str, Any], now: datetime, *, flags: bool = True
) -> Wanted:
    """The job that these options describe, by their names in `OPTIONS`; None and an empty text leave one out.

    A sentence names an option by its flag, or without `flags` by its name.

    Raises:
        UsageError: the options contradict each other, or a text cannot be parsed.
    """
    called = {one.name: one.flag if flags else one.name for one in OPTIONS}
    every, cron, tz, catch_up = (given.get(name) for name in _OF_SCHEDULE)
    schedule = read_schedule(every, cron, tz, catch_up, called=called["every"])
    values = {
        one.name: one.read(given[one.name], now, called[one.name])
        for one in OPTIONS
        if one.name not in _OF_SCHEDULE and given.get(one.name) not in {None, ""}
    }
    if "lasting" in values and not schedule:
        raise UsageError(ONLY_A_SERIES)
    return Wanted(task_type, payload, schedule=schedule, **values)


def read_schedule(
    every: str | None, cron: str | None, tz: str | None, catch_up: Any, *, called: str = "--every"
) -> Schedule | None:
    """The schedule that the options of a command give; None for a job that runs once.

    Raises:
        UsageError: the options contradict each other, or one of them cannot be parsed.
    """
    if every is not None and cron is not None:
        raise UsageError("A job has either an interval or a cron expression. Omit --every or --cron.")
    if tz is not None and cron is None:
        raise UsageError("--tz is the time zone of a cron expression. Add --cron, or omit --tz.")
    if cron is not None:
        return Cron(cron, "UTC" if tz is None else tz, catch_up or "one")
    if every is not None:
        return Every(seconds=parse_interval(every, what=f"interval of {called}"), catch_up=catch_up or "one")
    if catch_up:
        raise UsageError("--catch-up is for recurring jobs. Add --every or --cron, or omit --catch-up.")
    return None


def new_job(registry: Registry, wanted: Wanted, now: datetime) -> NewJob:
    """The job to enqueue for a request made at the time `now`.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: the payload does not fit.
        Refused: it is to replace another one, without what that needs.
    """
    made = draft(registry, wanted.task_type, wanted.payload)
    made = made._replace(
        run_at=wanted.at,
        expires_at=(wanted.at or now) + wanted.lasting if wanted.schedule and wanted.lasting else None,
        priority=wanted.priority,
        max_attempts=wanted.max_attempts or made.max_attempts,
        dedupe_key=wanted.dedupe_key or None,
        unique_seconds=wanted.unique_for.total_seconds() if wanted.unique_for is not None else None,
        longest_wait=longest_wait(wanted.dedupe, wanted.dedupe_key, wanted.longest_wait),
        timeout=wanted.timeout.total_seconds() if wanted.timeout is not None else None,
    )
    schedule = wanted.schedule.schedule() if isinstance(wanted.schedule, Rhythm) else wanted.schedule
    return scheduled(made, schedule, now)


def scheduled(new: NewJob, schedule: Schedule | None, now: datetime) -> NewJob:
    """The job with a schedule, and with the slots of a cron expression from its due time on."""
    minutes, columns = stored(schedule)
    if schedule is None or columns is None:
        return new._replace(recurrence_interval_minutes=minutes)
    slots = first_slots(schedule, new.run_at, now) if isinstance(schedule, Cron) else None
    return new._replace(schedule=given(schedule), slots=slots)


def first_slots(cron: Cron, at: datetime | None, now: datetime) -> tuple[datetime, ...]:
    """The slots to write for a series that begins `at` (None: now)."""
    after = now if at is None else at - timedelta(microseconds=1)
    return tuple(cron.slots(after, now=max(after, now)))


def new_jobs(registry: Registry, wanted: Wanted, payloads: Sequence[Json], now: datetime) -> list[NewJob]:
    """One job per payload; all other options come from `wanted`.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: a payload does not fit; the message gives its number if there are several.
    """
    made = []
    for number, payload in enumerate(payloads, start=1):
        try:
            made.append(new_job(registry, replace(wanted, payload=payload), now))
        except InvalidPayload as error:
            where = f"Payload {number}: " if len(payloads) > 1 else ""
            raise InvalidPayload(f"{where}{error}", error.problems) from None
    return made


def changes(registry: Registry, job: Job, wanted: Wanted, now: datetime) -> Json:
    """The `changes` of `operator.edit` that make the job match `wanted`; empty if it already does.

    Raises:
        UnknownTaskType: the payload was changed and the type is unknown.
        InvalidPayload: the payload does not fit.
    """
    made: dict[str, Any] = {}
    if wanted.payload != job.payload:
        made |= new_payload(registry, job.task_type, wanted.payload)
    if wanted.at is not None and wanted.at != job.run_at:
        made["run_at"] = wanted.at.isoformat()
    if not isinstance(wanted.schedule, Rhythm):
        made |= _new_schedule(job, wanted.schedule, wanted.at, now)
    # A one-time job keeps the maximum age of its type, but neither kind takes over the end of the other.
    if wanted.schedule and wanted.lasting and not wanted.endless:
        made["expires_at"] = ((wanted.at or max(job.run_at, now)) + wanted.lasting).isoformat()
    elif (wanted.endless or job.is_recurring != bool(wanted.schedule)) and job.expires_at is not None:
        made["expires_at"] = None
    if (wanted.priority or 0) != job.priority:
        made["priority"] = wanted.priority or 0
    if wanted.max_attempts and wanted.max_attempts != job.max_attempts:
        made["max_attempts"] = wanted.max_attempts
    if wanted.timeout != own_timeout(job):
        made["timeout"] = wanted.timeout and wanted.timeout.total_seconds()
    return made


def own_timeout(job: Job) -> timedelta | None:
    """The timeout of the job's own; None for that of its type."""
    return timedelta(seconds=job.timeout_seconds or 0) or None


def _new_schedule(job: Job, schedule: Schedule | None, at: datetime | None, now: datetime) -> Json:
    """The changes for another schedule. A cron expression that is new begins at its first slot, unless a time is given.

    A series keeps the name of its declaration, so that the code which declares it can set it back.
    """
    minutes, columns = stored(schedule)
    now_has = rhythm(job)
    if schedule is not None and now_has is not None and now_has.name is not None:
        columns = (columns or {}) | {"name": now_has.name}
    made: dict[str, Any] = {}
    if minutes != job.recurrence_interval_minutes:
        made["recurrence_interval_minutes"] = minutes
    if columns == job.schedule:
        return made
    made["schedule"] = columns
    if isinstance(schedule, Cron):
        if now_has is None or (now_has.cron, now_has.zone) != (schedule.expression, schedule.tz):
            slots = first_slots(schedule, at, now)
            made["slots"] = [slot.isoformat() for slot in slots]
            made |= {"run_at": made["slots"][0]} if at is None else {}
    elif job.slots is not None:
        made["slots"] = None
    return made


def new_payload(registry: Registry, task_type: str, payload: Json) -> Json:
    """The changes for another payload: the payload and the concurrency key derived from it.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: the payload does not fit.
    """
    made = draft(registry, task_type, payload)
    return {"payload": made.payload, "concurrency_key": made.concurrency_key}


def enqueue_twin(wanted: Wanted) -> str:
    """The command line that enqueues the same job."""
    words = ["jobdeck", "enqueue", wanted.task_type]
    words += ["--payload", harmless_json(wanted.payload)] if wanted.payload else []
    given = {one.name: getattr(wanted, one.name, None) for one in OPTIONS}
    written = {one.name: one.written(given[one.name]) for one in OPTIONS if given[one.name]}
    if wanted.schedule:
        written |= _schedule_words(wanted.schedule)
    else:
        written.pop("lasting", None)
    return shlex.join(map(clean, words + _flags(written)))


def edit_twin(job: Job, wanted: Wanted, made: Json) -> str:
    """The command line that makes the same changes."""
    words = ["jobdeck", "edit", str(job.id)]
    words += ["--payload", harmless_json(made["payload"])] if "payload" in made else []
    written = {one.name: str(made[one.name]) for one in OPTIONS if one.name in made}
    if "run_at" in made and wanted.at:
        written["at"] = made["run_at"].replace("+00:00", "Z")
    if made.keys() & {"recurrence_interval_minutes", "schedule"}:
        written |= _schedule_words(wanted.schedule) if wanted.schedule else {"every": "off"}
    if "timeout" in made:
        written["timeout"] = write_duration(wanted.timeout) if wanted.timeout else DEFAULT
    if "expires_at" in made:
        written["lasting"] = write_duration(wanted.lasting) if made["expires_at"] and wanted.lasting else "forever"
    return shlex.join(words + _flags(written))


def _schedule_words(schedule: Schedule | Rhythm) -> dict[str, str]:
    """The texts of the options that make a schedule."""
    known = schedule.schedule() if isinstance(schedule, Rhythm) else schedule
    if isinstance(known, Every):
        words = {"every": write_duration(timedelta(seconds=known.seconds))}
    else:
        words = {"cron": known.expression, **({"tz": known.tz} if known.tz != "UTC" else {})}
    return words | ({"catch_up": known.catch_up} if known.catch_up != "one" else {})


def _flags(written: Mapping[str, str]) -> list[str]:
    """The options of a command with these texts."""
    return [word for one in OPTIONS if one.name in written for word in (one.flag, written[one.name])]


def admit(
    conn: Connection,
    registry: Registry,
    task_type: str,
    payloads: Iterable[Json],
    *,
    recurring: bool,
    settings: Settings,
) -> None:
    """Asks the type whether it admits jobs with these payloads; equal payloads are checked once.

    Types without an `admit` function, or unknown in this process, admit every job.

    Raises:
        InvalidPayload: the type refuses a payload; `problems` gives the reasons by field.
    """
    job_type = registry.get(task_type)
    if job_type is None or job_type.admit is None:
        return
    for payload in {json.dumps(one, sort_keys=True): one for one in payloads}.values():
        problems = job_type.admit(job_type.parse(payload), Admission(conn, settings, recurring=recurring))
        if problems:
            listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
            raise InvalidPayload(f"The type {task_type} refuses this job: {listed}.", dict(problems))


def admit_change(conn: Connection, registry: Registry, job: Job, made: Json, *, settings: Settings) -> None:
    """Asks the type whether it admits an edit; one that changes neither payload nor schedule is always admitted.

    Raises:
        InvalidPayload: the type refuses the edit; `problems` gives the reasons by field.
    """
    if made.keys() & {"payload", "recurrence_interval_minutes", "schedule"}:
        minutes = made.get("recurrence_interval_minutes", job.recurrence_interval_minutes)
        recurring = minutes is not None or made.get("schedule", job.schedule) is not None
        payload = made.get("payload", job.payload)
        admit(conn, registry, job.task_type, [payload], recurring=recurring, settings=settings)
