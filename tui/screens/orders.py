"""The orders of the list of jobs, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Filter, Status

if TYPE_CHECKING:
    from jobdeck.tui.backend.protocol import Request

SORT_WORDS: Final = {
    "natural": "the tab's usual order",
    "run_at": "due time",
    "last_run": "last run",
    "updated": "last change",
}


def order(request: Request) -> tuple[str, bool]:
    """The column that the list is sorted by, and whether it descends; the natural order depends on the tab.

    That of all jobs is by what they need, and its reverse by when they were created.
    """
    if request.sort != "natural":
        return request.sort, request.descending
    if request.filter.status is Status.PENDING and request.group is None:
        return "run_at", not request.descending
    by_age = (request.filter.status is None and not by_need(request)) or request.group is not None
    return ("created" if by_age else ""), request.descending


def by_need(request: Request) -> bool:
    """Whether all jobs are listed, what needs somebody first."""
    return request.filter == Filter() and is_usual(request) and request.group is None


def is_usual(request: Request) -> bool:
    """Whether the list has the initial order of its tab."""
    return request.sort == "natural" and request.descending


def ordered(request: Request) -> str:
    """The order in words, for a list without the heading of its column."""
    sort, descending = order(request)
    return f"by {SORT_WORDS.get(sort, sort)} {'↓' if descending else '↑'}"
