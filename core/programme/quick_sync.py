"""Quick Sync: the sync and the totals sweep that follows it, enqueued together."""

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
"""The task types of each quick sync, in the order in which they run."""


def jobs_of(registry: Registry, kind: str) -> list[NewJob]:
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


def enqueue(conn: Connection, registry: Registry, kind: str, *, actor: str) -> list[Enqueued]:
    """Enqueues the jobs of a quick sync in one transaction, each waiting for the success of the one before.

    Raises:
        UnknownTaskType: a type of this quick sync has no handler here.
    """
    done: list[Enqueued] = []
    jobs = jobs_of(registry, kind)
    with conn.transaction():
        for job in jobs:
            blocker = done[-1].job.id if done else None
            done.append(service.enqueue(conn, job._replace(blocked_by=blocker), actor=actor))
    return done
