"""Where claims stand in a flood, so that the next one need not walk past everything that was claimed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.queue.leases import Front, Lane


class Flood:
    """The fronts of the lanes that full claims came from.

    A claim that goes on from them does not see what has come to stand before them: a job of higher priority or with
    an earlier time, one that somebody else gave back. So one that looks everywhere is due as soon as a claim was not
    full, and after half a second at the latest; later only where looking everywhere itself takes long, of which it may
    take a twentieth of the time, and never later than five seconds.
    """

    SECONDS = 0.5
    MOST_SECONDS = 5.0
    SHARE = 0.05

    def __init__(self) -> None:
        self._fronts: dict[Lane, Front] = {}
        self._until = 0.0

    def fronts(self, now: float) -> Mapping[Lane, Front] | None:
        """From where to go on at this moment (monotonic); None where it is time to look everywhere."""
        return self._fronts if self._fronts and now < self._until else None

    def claimed(self, jobs: Sequence[ClaimedJob], *, full: bool, onwards: bool, began: float, ended: float) -> None:
        """Takes in a claim: what it brought, whether as much as was asked for, whether it went on from the fronts."""
        if not full:
            self._fronts = {}
            return
        if not onwards:
            self._fronts = {}
            self._until = ended + min(max(self.SECONDS, (ended - began) / self.SHARE), self.MOST_SECONDS)
        self._fronts.update({(job.task_type, job.priority): (job.due_at, job.id) for job in jobs})
