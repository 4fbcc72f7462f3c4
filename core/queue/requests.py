"""From a request to what `queue.enqueue` takes: JSON read, type and payload validated, times made definite."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import InvalidPayload, UsageError
from jobdeck.core.model import NewJob
from jobdeck.core.redact import clean, harmless_json
from jobdeck.core.registry import Admission
from jobdeck.core.times import write_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from jobdeck.core.model import Job, Json
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job as it was asked for: `at` None is now, and a series runs every `every` minutes for `lasting`.

    For a job that is there already, `at` None and `lasting` None keep what it has; `endless` takes its end away.
    """

    task_type: str
    payload: Json
    at: datetime | None = None
    every: int | None = None
    lasting: timedelta | None = None
    endless: bool = False
    priority: int = 0
    max_attempts: int | None = None
    dedupe_key: str | None = None


def new_job(registry: Registry, wanted: Wanted, now: datetime) -> NewJob:
    """What `queue.enqueue` takes.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: the payload does not fit.
    """
    made = draft(registry, wanted.task_type, wanted.payload)
    return made._replace(
        run_at=wanted.at,
        recurrence_interval_minutes=wanted.every,
        expires_at=(wanted.at or now) + wanted.lasting if wanted.every and wanted.lasting else None,
        priority=wanted.priority,
        max_attempts=wanted.max_attempts or made.max_attempts,
        dedupe_key=wanted.dedupe_key or None,
    )


def new_jobs(registry: Registry, wanted: Wanted, payloads: Sequence[Json], now: datetime) -> list[NewJob]:
    """One job per payload, each otherwise as wanted.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: a payload does not fit; with its number where there are several.
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
    """What `queue.edit` takes to make the job what is wanted; empty where it is that already.

    Raises:
        UnknownTaskType: no such type, and the payload was changed.
        InvalidPayload: the payload does not fit.
    """
    made: dict[str, Any] = {}
    if wanted.payload != job.payload:
        made |= new_payload(registry, job.task_type, wanted.payload)
    if wanted.at is not None and wanted.at != job.run_at:
        made["run_at"] = wanted.at.isoformat()
    if wanted.every != job.recurrence_interval_minutes:
        made["recurrence_interval_minutes"] = wanted.every
    if (wanted.endless or not wanted.every) and job.expires_at is not None:
        made["expires_at"] = None
    elif wanted.every and wanted.lasting:
        made["expires_at"] = ((wanted.at or max(job.run_at, now)) + wanted.lasting).isoformat()
    if wanted.priority != job.priority:
        made["priority"] = wanted.priority
    if wanted.max_attempts and wanted.max_attempts != job.max_attempts:
        made["max_attempts"] = wanted.max_attempts
    return made


def new_payload(registry: Registry, task_type: str, payload: Json) -> Json:
    """The changes that give a job another payload: with it goes the concurrency key that follows from it.

    Raises:
        UnknownTaskType: no such type.
        InvalidPayload: the payload does not fit.
    """
    made = draft(registry, task_type, payload)
    return {"payload": made.payload, "concurrency_key": made.concurrency_key}


def enqueue_twin(wanted: Wanted) -> str:
    """The command that enqueues the same."""
    words = ["jobdeck", "enqueue", wanted.task_type]
    words += ["--payload", harmless_json(wanted.payload)] if wanted.payload else []
    words += ["--at", wanted.at.isoformat().replace("+00:00", "Z")] if wanted.at else []
    words += ["--every", f"{wanted.every}m"] if wanted.every else []
    words += ["--for", write_duration(wanted.lasting)] if wanted.every and wanted.lasting else []
    words += ["--priority", str(wanted.priority)] if wanted.priority else []
    words += ["--max-attempts", str(wanted.max_attempts)] if wanted.max_attempts else []
    words += ["--dedupe-key", wanted.dedupe_key] if wanted.dedupe_key else []
    return shlex.join(map(clean, words))


def edit_twin(job: Job, wanted: Wanted, made: Json) -> str:
    """The command that makes the same changes."""
    words = ["jobdeck", "edit", str(job.id)]
    words += ["--payload", harmless_json(made["payload"])] if "payload" in made else []
    words += ["--at", made["run_at"].replace("+00:00", "Z")] if "run_at" in made else []
    if "recurrence_interval_minutes" in made:
        words += ["--every", f"{wanted.every}m" if wanted.every else "off"]
    if "expires_at" in made:
        words += ["--for", write_duration(wanted.lasting) if made["expires_at"] and wanted.lasting else "forever"]
    for name in ("priority", "max_attempts"):
        words += [f"--{name.replace('_', '-')}", str(made[name])] if name in made else []
    return shlex.join(words)


def admit(
    conn: Connection,
    registry: Registry,
    task_type: str,
    payloads: Iterable[Json],
    *,
    recurring: bool,
    settings: Settings,
) -> None:
    """Lets jobs of a type with these payloads pass; each payload is looked at once. A type not known here asks nothing.

    Raises:
        InvalidPayload: with what is wrong, by field.
    """
    job_type = registry.get(task_type)
    if job_type is None or job_type.admit is None:
        return
    for payload in {json.dumps(one, sort_keys=True): one for one in payloads}.values():
        problems = job_type.admit(job_type.parse(payload), Admission(conn, settings, recurring=recurring))
        if problems:
            listed = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
            raise InvalidPayload(f"No {task_type} job is taken into the queue: {listed}.", dict(problems))


def admit_change(conn: Connection, registry: Registry, job: Job, made: Json, *, settings: Settings) -> None:
    """Lets a change of a job pass, as `queue.edit` takes it; one that touches neither payload nor interval always does.

    Raises:
        InvalidPayload: with what is wrong, by field.
    """
    if made.keys() & {"payload", "recurrence_interval_minutes"}:
        recurring = made.get("recurrence_interval_minutes", job.recurrence_interval_minutes) is not None
        payload = made.get("payload", job.payload)
        admit(conn, registry, job.task_type, [payload], recurring=recurring, settings=settings)
