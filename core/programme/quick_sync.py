"""Quick Sync: enqueues a sync and the totals sweep that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UnknownTaskType
from jobdeck.core.queue import service
from jobdeck.core.queue.requests import draft

if TYPE_CHECKING:
    from jobdeck.core.model import Enqueued, NewJob
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry


SYNC: Final = "game_platform_sync"
TOTALS: Final = "game_platform_totals_sweep"
QUICK_SYNCS: Final = {"full": (SYNC, TOTALS), "incremental": (SYNC,), "totals": (TOTALS,)}
"""The task types of each quick sync, in order."""


def jobs_of(registry: Registry, kind: str) -> list[NewJob]:
    """The jobs of a quick sync, each with a dedupe key so that a second key press does not enqueue it again.

    Raises:
        UnknownTaskType: a task type of this quick sync has no handler.
    """
    missing = [task_type for task_type in QUICK_SYNCS[kind] if task_type not in registry]
    if missing:
        raise UnknownTaskType(
            f"The quick sync {kind} needs {' and '.join(missing)}, which has no handler. "
            f"Known task types: {', '.join(registry.names) or 'none'}."
        )
    return [
        draft(registry, task_type, {"dryRun": False})._replace(dedupe_key=f"quick-sync:{task_type}")
        for task_type in QUICK_SYNCS[kind]
    ]


def enqueue(conn: Connection, registry: Registry, kind: str, *, actor: str) -> list[Enqueued]:
    """Enqueues the jobs of a quick sync in one transaction; each waits until the one before succeeds.

    Raises:
        UnknownTaskType: a task type of this quick sync has no handler.
    """
    done: list[Enqueued] = []
    jobs = jobs_of(registry, kind)
    with conn.transaction():
        for job in jobs:
            blocker = done[-1].job.id if done else None
            done.append(service.enqueue(conn, job._replace(blocked_by=blocker), actor=actor))
    return done
