"""The figures of now: of task types, with the failures of a minute, and of one database among several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.read.batch import Query, combine, gather, select
from jobdeck.core.read.jobs import clock, counts, workers
from jobdeck.core.read.stats.figures import OUTCOMES, FailureShare, failure_shares
from jobdeck.core.read.type_settings import TypeLine, type_lines
from jobdeck.core.read.verdict.health import health

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from jobdeck.core.model import Health, Worker
    from jobdeck.core.read.report_types import Counts
    from jobdeck.core.read.rows import Row


_MINUTE: Final = """
SELECT s.task_type, coalesce(sum(s.runs) FILTER (WHERE s.outcome = ANY(%(successes)s)), 0)::bigint AS succeeded,
    coalesce(sum(s.runs) FILTER (WHERE s.outcome = ANY(%(failures)s)), 0)::bigint AS failed
FROM job_stat_list AS s
WHERE s.minutes = 1 AND s.bucket = job_stat_bucket(1, now()) - interval '1 minute' AND NOT s.dry_run
GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class TypeFigures:
    """One task type: its jobs and settings, and how its runs end.

    `oldest_due` is the due time of the job that has waited longest, None without a backlog. `succeeded` and
    `failed` are the runs of the last full minute. `share` is None if no run ended in the last day.
    """

    line: TypeLine
    oldest_due: datetime | None = None
    succeeded: int = 0
    failed: int = 0
    share: FailureShare | None = None


@dataclass(frozen=True, slots=True)
class TypeReport:
    """All task types by name, and the time of the read."""

    at: datetime
    types: tuple[TypeFigures, ...]


def types() -> Query[TypeReport]:
    """The task types with jobs, workers, settings, or runs in the last day."""

    def read(
        at: datetime,
        lines: tuple[TypeLine, ...],
        minute: list[Row],
        shares: tuple[FailureShare, ...],
    ) -> TypeReport:
        known = {line.task_type: line for line in lines}
        oldest = {line.task_type: line.due_since for line in lines if line.due_since and line.due_since <= at}
        ended = {row["task_type"]: (int(row["succeeded"]), int(row["failed"])) for row in minute}
        share_of = {share.task_type: share for share in shares}
        names = sorted({*known, *oldest, *ended, *share_of})
        return TypeReport(
            at,
            tuple(
                TypeFigures(
                    known.get(name) or TypeLine(name, 0, 0, 0, at_least=False, workers=0),
                    oldest.get(name),
                    *ended.get(name, (0, 0)),
                    share_of.get(name),
                )
                for name in names
            ),
        )

    return combine(
        clock(), type_lines(), select(_MINUTE, OUTCOMES, read=list), failure_shares(), read=read,
    )  # fmt: skip


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
