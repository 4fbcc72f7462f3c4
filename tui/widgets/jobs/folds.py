"""The rows of the list: jobs that read alike and stand next to each other are one row. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.report_types import Standing
from jobdeck.tui.widgets.jobs.cells import Moment, cause

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from uuid import UUID

    from jobdeck.core.model import Job

FEWEST: Final = 3
"""The fewest jobs that make one row."""
VARYING: Final = re.compile(r"[0-9a-f-]*\d[0-9a-f-]*")
"""Numbers and ids, which differ between errors that are the same."""
ALONE: Final = frozenset({Standing.RUNNING, Standing.CLAIMED})


class Rows:
    """The jobs of the list and their rows, of one job or of several that read alike."""

    def __init__(self) -> None:
        self.jobs: tuple[Job, ...] = ()
        self.rows: tuple[tuple[Job, ...], ...] = ()
        self.index: dict[UUID, int] = {}
        """The row of each job."""
        self.moment: Moment | None = None
        self.apart: set[Hashable] = set()
        """What jobs have in common of which each has a row of its own, because the person wanted it."""
        self._folds = self._more = False

    def clear(self) -> None:
        self.jobs, self.rows, self.index = (), (), {}
        self.apart.clear()

    def take(self, jobs: Sequence[Job], moment: Moment, *, folds: bool, more: bool) -> None:
        """Replaces the jobs. With `folds` those that read alike are one row; with `more` the list goes on."""
        self.jobs, self.moment, self._folds, self._more = tuple(jobs), moment, folds, more
        self.arrange()

    def arrange(self) -> None:
        """Divides the jobs into rows."""
        if self.moment is None:
            return
        rows: list[tuple[Job, ...]] = []
        for common, found in groupby(self.jobs, self.alike):
            same = tuple(found)
            together = common is not None and common not in self.apart and len(same) >= FEWEST
            rows += [same] if together else [(job,) for job in same]
        self.rows = tuple(rows)
        self.index = {job.id: at for at, row in enumerate(rows) for job in row}
        unending = rows[-1][0].id if self._more and rows else None
        self.moment = replace(self.moment, folds={row[0].id: row for row in rows if len(row) > 1}, unending=unending)

    def alike(self, job: Job) -> Hashable | None:
        """What the jobs of one row have in common; None for a job with a row of its own: it runs, or recurs."""
        if not self._folds or self.moment is None:
            return None
        standing = self.moment.standing(job)
        if standing in ALONE or job.is_recurring or job.is_dry:
            return None
        return job.task_type, standing, job.removed, VARYING.sub("", cause(job, self.moment))

    def unfold(self, job: Job) -> None:
        """Gives each of the jobs that read like this one a row of its own."""
        self.apart.add(self.alike(job))
        self.arrange()

    def fold(self) -> None:
        """Makes one row of jobs that read alike again."""
        self.apart.clear()
        self.arrange()

    def place_of(self, held: Sequence[Job], common: Hashable | None) -> int | None:
        """The row of jobs that were held before: of several the row that reads like theirs."""
        if len(held) > 1:
            for at, row in enumerate(self.rows):
                if len(row) > 1 and self.alike(row[0]) == common:
                    return at
        return next((self.index[job.id] for job in held if job.id in self.index), None)

    def seek(self, job_id: UUID) -> int | None:
        """The row of a job, which gets one of its own unless it is the first of several; None if it is not listed."""
        at = self.index.get(job_id)
        if at is not None and self.rows[at][0].id != job_id:
            self.unfold(self.rows[at][0])
        return self.index.get(job_id)
