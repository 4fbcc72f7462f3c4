"""The figures of one database in a list of several: verdict, counts, workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobdeck.core.read.batch import Query, gather, select
from jobdeck.core.read.jobs import clock, counts, workers
from jobdeck.core.read.verdict.health import health

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from jobdeck.core.model import Health, Worker
    from jobdeck.core.read.report_types import Counts


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """One database at its time `at`. `workers` are alive."""

    at: datetime
    counts: Counts
    workers: int
    health: Health

    @property
    def longest_wait(self) -> timedelta | None:
        """How long the oldest due job has waited; None without a backlog."""
        return None if self.health.oldest_due is None else self.at - self.health.oldest_due


def database_figures(
    *, limit: float, timeouts: Mapping[str, float] | None = None, production: bool = False
) -> Query[DatabaseFigures]:
    """The figures, judged as `jobdeck health` judges them. No statement may take more than `limit` seconds."""

    def made(workers: tuple[Worker, ...], limited: None, **parts: Any) -> DatabaseFigures:
        del limited
        return DatabaseFigures(workers=sum(worker.alive for worker in workers), **parts)

    return gather(
        made,
        limited=select(
            # For this transaction only, because a pooler would keep it for other programs.
            "SELECT set_config('statement_timeout', %(limit)s, true)",
            {"limit": f"{round(limit * 1000)}ms"},
            read=lambda _: None,
        ),
        at=clock(),
        counts=counts(),
        health=health(timeouts=timeouts, production=production),
        workers=workers(),
    )
