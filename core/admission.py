"""What a task type asks of a job, beside the form of its payload, before the job may join the queue.

Whoever enqueues or changes jobs for a person asks this first, in the transaction in which that is done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobdeck.core.errors import InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import Job, Json
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Admission:
    """What a job that is to be enqueued is judged by, beside its payload."""

    conn: Connection
    settings: Settings
    recurring: bool


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
