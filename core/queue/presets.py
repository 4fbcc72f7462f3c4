"""Presets (Quick Sync): several jobs enqueued together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.errors import UnknownTaskType
from jobdeck.core.queue import service
from jobdeck.core.queue.requests import draft

if TYPE_CHECKING:
    from jobdeck.core.model import Enqueued, NewJob
    from jobdeck.core.plugins import Preset
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry


def missing(registry: Registry, preset: Preset) -> list[str]:
    """The task types of a preset that have no handler in this process."""
    return [task_type for task_type in preset.task_types if task_type not in registry]


def jobs_of(registry: Registry, preset: Preset) -> list[NewJob]:
    """The jobs of a preset, each with a dedupe key, so that a second press creates no second job.

    Raises:
        UnknownTaskType: a type of this preset has no handler in this process.
    """
    if absent := missing(registry, preset):
        raise UnknownTaskType(
            f"The quick sync {preset.name} needs {' and '.join(absent)}, which have no handler in this process. "
            f"Known types: {', '.join(registry.names) or 'none'}."
        )
    return [
        draft(registry, task_type, dict(preset.payload))._replace(dedupe_key=f"quick-sync:{task_type}")
        for task_type in preset.task_types
    ]


def enqueue(conn: Connection, registry: Registry, preset: Preset, *, actor: str) -> list[Enqueued]:
    """Enqueues the jobs of a preset in one transaction; each waits until the one before it has succeeded.

    Raises:
        UnknownTaskType: a type of this preset has no handler in this process.
    """
    done: list[Enqueued] = []
    jobs = jobs_of(registry, preset)
    with conn.transaction():
        for job in jobs:
            blocker = done[-1].job.id if done else None
            done.append(service.enqueue(conn, job._replace(blocked_by=blocker), actor=actor))
    return done
