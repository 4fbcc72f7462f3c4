"""The banner of a pause, of everything or of task types: since when, by whom, why, and until when. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.read.sentences import sentence
from jobdeck.core.words.plain import pauses
from jobdeck.tui.format import age, count, fit, middle, one_line, plural, since

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from jobdeck.core.model import Processing, TypePause
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.widgets.ink import Span

THROUGH: Final = " (jobdeck)"
"""The suffix of actors who use Jobdeck, as nearly all do."""
LEAST_REASON: Final = 12
"""A shorter beginning of a reason tells nothing."""
MOST_CUT: Final = 6
"""A name loses this many cells at most, so that the beginning of a reason fits."""
LEAST_NAME: Final = 12
"""The cells of a task type that are always kept."""
LEAST_TYPE: Final = 50
"""Fewer cells do not tell who paused a type, why and until when."""


def is_paused(processing: Processing) -> bool:
    """Whether there is anything to resume."""
    return not processing.enabled or bool(pauses(processing))


def pause_banner(view: View, now: datetime, width: int, resumes: str, *, named: bool = False) -> list[Span]:
    """What is paused, since when, by whom, why and until when; empty where nothing is. `resumes` names the key.

    With `named`, the screen names paused types elsewhere, so there is only the banner of a pause of everything.
    """
    processing = view.snapshot.processing
    types = pauses(processing)
    if processing.enabled and processing.held_by is not None:
        also = f" · {_number(types)} paused" if types else ""
        return [(f" {sentence('queue-held', {'who': one_line(processing.held_by)})}{also}", "alert")]
    if processing.enabled:
        return [(_paused_types(types, now, width, resumes), "alert")] if types and not named else []
    also = f" · {_number(types)} paused too" if types else ""
    pending = view.snapshot.counts.pending
    kept = f" · {count(pending)} {'job' if pending == 1 else 'jobs'} kept"
    who, length, why, until = pause_words(
        processing.paused_by, processing.paused_at, processing.paused_reason, processing.resume_at, now
    )
    begin, end = f" PAUSED{length}{who}", f"{kept}{until}{also}"
    why = why or ", no reason given"
    if width and cell_len(begin + why + end + resumes) > width:
        end = f" · {count(pending)} kept{until}{also}"
        if cell_len(begin + end) + LEAST_REASON > width:
            begin = begin.partition("@")[0]
            cut = cell_len(begin + end) + LEAST_REASON - width
            begin = fit(begin, cell_len(begin) - cut) if 0 < cut <= MOST_CUT else begin
            begin = fit(begin, min(cell_len(begin), max(width - cell_len(end), LEAST_NAME)))
        room = width - cell_len(begin + end)
        why = fit(why, room).rstrip() if room >= LEAST_REASON else ""
        return [(f"{begin}{why}{end}", "alert")]
    return [(f"{begin}{why}{end}{resumes}", "alert")]


def pause_words(
    by: str | None, at: datetime | None, reason: str | None, until: datetime | None, now: datetime
) -> tuple[str, str, str, str]:
    """Who paused, since when, why, and when it ends; empty where that is not known."""
    return (
        f" by {one_line(by).removesuffix(THROUGH)}" if by else "",
        f" {since(at, now)}" if at else "",
        f": {one_line(reason)}" if reason else "",
        f" · resumes in {age(until - now)}" if until else "",
    )


def pause_line(pause: TypePause, now: datetime, *, room: int = 0, named: bool = True, verb: str = "") -> str:
    """One paused type: its name if `named`, since when, by whom, why, until when; in `room` cells, 0 for all needed.

    A `verb` is said behind the name.

    The reason is cut first, then the host of who paused is left out, then the name is cut in its middle.
    """
    who, length, why, until = pause_words(pause.paused_by, pause.paused_at, pause.reason, pause.resume_at, now)
    name = f"{one_line(pause.task_type)}{verb}" if named else ""
    if not room or cell_len(name + length + who + why + until) <= room:
        return f"{name}{length}{who}{why}{until}"
    least = min(LEAST_REASON, cell_len(why))
    if cell_len(name + length + who + until) + least > room:
        who = who.partition("@")[0]
    over = max(cell_len(name + length + who + until) + least - room, 0)
    name = middle(name, max(cell_len(name) - over, LEAST_NAME)) if over else name
    left = room - cell_len(name + length + who + until)
    return fit(f"{name}{length}{who}{fit(why, left).rstrip() if left >= least else ''}{until}", room).rstrip()


def _number(pauses: Sequence[TypePause]) -> str:
    """How many types and queues these are."""
    queues = sum(pause.queue is not None for pause in pauses)
    parts = [plural(queues, "queue")] if queues else []
    if queues < len(pauses):
        parts.append(plural(len(pauses) - queues, "type"))
    return " and ".join(parts)


def _paused_types(types: Sequence[TypePause], now: datetime, width: int, resumes: str) -> str:
    """Each paused type with who, since when, why and until when; in `width` as many as fit, and how many more."""
    opening = " PAUSED " if len(types) == 1 else f" PAUSED {_number(types)}: "
    whole = "; ".join(pause_line(pause, now) for pause in types)
    if not width or cell_len(opening + whole + resumes) <= width:
        return f"{opening}{whole}{resumes}"
    room = width - cell_len(opening) - 2 * (len(types) - 1)
    shown = min(len(types), max(room // LEAST_TYPE, 1))
    more = f"; +{len(types) - shown}" if shown < len(types) else ""
    share = (room - len(more)) // shown
    return opening + "; ".join(pause_line(pause, now, room=share) for pause in types[:shown]) + more
