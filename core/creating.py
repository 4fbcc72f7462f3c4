"""A job as a form or a command asks for it: made definite, compared with what it is, written as a command. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobdeck.core.commands import new_jobs
from jobdeck.core.redact import clean, harmless_json
from jobdeck.core.timeparse import write_duration

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobdeck.core.model import Job, Json, NewJob
    from jobdeck.core.registry import Registry


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
    made = new_jobs.draft(registry, wanted.task_type, wanted.payload)
    return made._replace(
        run_at=wanted.at,
        recurrence_interval_minutes=wanted.every,
        expires_at=(wanted.at or now) + wanted.lasting if wanted.every and wanted.lasting else None,
        priority=wanted.priority,
        max_attempts=wanted.max_attempts or made.max_attempts,
        dedupe_key=wanted.dedupe_key or None,
    )


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
    made = new_jobs.draft(registry, task_type, payload)
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
