"""What follows a list that leaves room: the jobs and the runs of the line under the cursor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobdeck.tui.deck import deck_of
from jobdeck.tui.screens.follower import Follower
from jobdeck.tui.widgets.jobs.cells import Moment, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from textual.screen import Screen

    from jobdeck.core.read.pages.jobs_and_runs import JobsAndRuns
    from jobdeck.tui.widgets.pane import Pane


@dataclass(frozen=True, slots=True)
class Subject:
    """What a line is about: the query of its jobs and runs, and what it is given.

    `order` says how its jobs are ordered. `without` are the columns of runs that all its runs have in common, and
    where they failed `alike` the error as well.
    """

    query: Callable[..., Any]
    given: tuple[str | UUID, ...]
    order: str = ""
    without: tuple[str, ...] = ()
    alike: bool = False


Wanted = tuple[Subject, float | None]
"""A subject, and when the data of the page was read."""


class Below:
    """Follows the cursor of a page. Where the list leaves no room, nothing is read."""

    def __init__(self, page: Screen[Any]) -> None:
        self._page = page
        self._pane: Pane | None = None
        self._wanted: Wanted | None = None
        self._found: JobsAndRuns | None = None
        self._reading: Follower[Wanted, JobsAndRuns] = Follower(page, self._read, self._answered)

    def follow(self, pane: Pane, subject: Subject | None, read_at: float | None) -> None:
        """Shows what belongs to the subject, and reads it if the subject or the data of the page, read then, is new."""
        wanted = (subject, read_at) if subject is not None and pane.spare else None
        before, self._wanted, self._pane = self._wanted, wanted, pane
        if before is None or wanted is None or before[0] != wanted[0]:
            self._found = None
        if wanted is None:
            self._reading.leave()
        elif wanted != before:
            self._reading.want(wanted)
        self._draw(pane)

    def _draw(self, pane: Pane) -> None:
        found = self._found
        if found is None or self._wanted is None:
            pane.say_below(())
            return
        from jobdeck.tui.text.runs import jobs_and_runs  # noqa: PLC0415 -- the first frame needs no driver

        view, (subject, _) = deck_of(self._page).view, self._wanted
        known = Moment(found.at) if view is None else moment_of(view)
        moment = replace(known, now=found.at, standings=found.jobs.standings)
        width, room, order = pane.size.width, pane.spare, subject.order
        pane.say_below(jobs_and_runs(found, moment, width, room, order, subject.without, alike=subject.alike))

    def _read(self, wanted: Wanted) -> JobsAndRuns:
        subject, _ = wanted
        found: JobsAndRuns = deck_of(self._page).reach().read(subject.query, *subject.given)
        return found

    def _answered(self, wanted: Wanted, answer: JobsAndRuns | Exception) -> None:
        """Takes the answer, unless the cursor is elsewhere by now. The page says that the connection is lost."""
        if self._wanted is None or self._pane is None or wanted[0] != self._wanted[0] or isinstance(answer, Exception):
            return
        self._found = answer
        if deck_of(self._page).shows(self._page):
            self._draw(self._pane)
