"""The task types with the figures of now: jobs, longest wait, what ended in the last minute, share of failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.jobs import clock
from jobdeck.core.read.stats.figures import OUTCOMES, FailureShare
from jobdeck.core.read.stats.shares import failure_shares
from jobdeck.core.read.type_settings import TypeLine, type_lines

if TYPE_CHECKING:
    from datetime import datetime

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
                    known.get(name) or TypeLine(name, 0, 0, 0, estimated=False, workers=0),
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
