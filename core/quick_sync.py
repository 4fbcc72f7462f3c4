"""Quick Sync: the sync and the totals sweep that follows it, enqueued together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core import desk
from jobdeck.core.commands import new_jobs

if TYPE_CHECKING:
    from jobdeck.core.model import Enqueued
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.registry import Registry


def enqueue(conn: Connection, registry: Registry, kind: str, *, actor: str) -> list[Enqueued]:
    """Enqueues the jobs of a quick sync in one transaction, each waiting for the success of the one before.

    Raises:
        UnknownTaskType: a type of this quick sync has no handler here.
    """
    done: list[Enqueued] = []
    jobs = new_jobs.quick_sync(registry, kind)
    with conn.transaction():
        for job in jobs:
            blocker = done[-1].job.id if done else None
            done.append(desk.enqueue(conn, job._replace(blocked_by=blocker), actor=actor))
    return done
