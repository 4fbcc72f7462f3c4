"""What comes in the next hour, a lane for each series and for each type of jobs that run once. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Status
from jobdeck.core.schedules import next_runs
from jobdeck.tui.format import plural, shared_fronts
from jobdeck.tui.text.first.frames import merged
from jobdeck.tui.text.lines import named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.text.first.frames import Row

MINUTES: Final = 60
AROUND: Final = 4
"""The lines above and below the lanes: a blank one, the heading and the two of the axis."""
NAME: Final = 36
LEAST: Final = NAME + MINUTES + 4
"""The columns that a lane needs."""
EVERY: Final = 10
"""The minutes between two times on the axis."""


def coming(view: View | None, width: int, room: int) -> list[Row]:
    """The lanes below their heading, soonest first, and the axis, in `room` lines; nothing without room for them."""
    if view is None or not room or width < LEAST:
        return []
    jobs, now = view.snapshot.page.jobs, view.snapshot.at
    lanes = _lanes(jobs, now)
    if not lanes:
        return []
    fronts = shared_fronts([*view.session.task_types, *(job.task_type for job in jobs)])
    shown = lanes[: room - AROUND]
    left = len(lanes) - len(shown)
    more = f", and {plural(left, 'other')}" if left else ""
    drawn = [_drawn(name, minutes, fronts) for name, minutes in shown]
    return [(), ((" Coming", "strong"), (f"  the next hour{more}", "muted")), *drawn, *_axis(now)]


def _lanes(jobs: Sequence[Job], now: datetime) -> list[tuple[str, list[int]]]:
    """The name of each lane and how many runs it has in each minute."""
    found: dict[str | UUID, tuple[str, list[int]]] = {}
    for job in jobs:
        if job.status is not Status.PENDING or job.is_paused:
            continue
        lane = found.setdefault(job.id if job.is_recurring else job.task_type, (job.task_type, [0] * MINUTES))
        for run in next_runs(job, MINUTES) if job.is_recurring else [job.run_at]:
            minute = (run - now) // timedelta(minutes=1)
            if 0 <= minute < MINUTES:
                lane[1][minute] += 1
    known = [lane for lane in found.values() if any(lane[1])]
    return sorted(known, key=lambda lane: next(at for at, number in enumerate(lane[1]) if number))


def _drawn(name: str, minutes: Sequence[int], fronts: Sequence[str]) -> Row:
    marks = [("·", "line") if not number else ("│" if number == 1 else "█", "run") for number in minutes]
    return merged([(" ", "text"), *named(name, NAME, fronts), ("  ", "text"), *marks])


def _axis(now: datetime) -> list[Row]:
    line, words = ["─"] * MINUTES, [" "] * MINUTES
    for at in range(MINUTES):
        moment = now + timedelta(minutes=at)
        if moment.minute % EVERY == 0:
            line[at] = "┴"
            begin = min(max(at - 2, 0), MINUTES - 5)
            words[begin : begin + 5] = f"{moment:%H:%M}"
    before = " " * (NAME + 3)
    return [((f"{before}{''.join(line)}", "line"),), ((f"{before}{''.join(words)}".rstrip(), "muted"),)]
