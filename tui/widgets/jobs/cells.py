"""The cells of a job in the table. Each begins with what tells its job from the others, so a cut takes the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import SUCCESSES, Status
from jobdeck.core.read.operators.hold import hold_number
from jobdeck.core.read.report_types import Standing
from jobdeck.core.read.sentences import DRY_RUN
from jobdeck.tui.format import (
    DASH,
    DRY_MARK,
    STANDING_LOOK,
    age,
    ago,
    badge,
    bar,
    due,
    fit,
    fraction,
    one_line,
    outcome_look,
    payload_summary,
    shared_fronts,
    short_id,
    short_name,
    standing_of,
)
from jobdeck.tui.widgets.ink import width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Job, TypePause
    from jobdeck.tui.backend.protocol import View
    from jobdeck.tui.widgets.ink import Span

LEASE_STEP = 10
LAST_WIDE: Final = 16
"""The width of the column of the last run from which on it names the outcome."""
GAUGE: Final = 8
NARROW_GAUGE: Final = 5
ROOM_FOR_GAUGE: Final = 36
"""From this width on, a gauge has all its cells."""
CANCELLING: Final = "cancelling"
Cell = tuple["Span", ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """What all cells of one refresh depend on: the time, how the jobs stand, and why.

    `pauses` are the paused task types, `full` the limits of those that are full, in words, and `fronts` the beginnings
    of names that several task types share. A job without a standing stands as its status says. `folds` are the jobs of
    each row of several, by the id of its first job; of the row in `unending`, more jobs may follow.
    """

    now: datetime
    standings: Mapping[UUID, Standing] = field(default_factory=dict)
    pauses: Mapping[str, TypePause] = field(default_factory=dict)
    full: Mapping[str, str] = field(default_factory=dict)
    fronts: tuple[str, ...] = ()
    folds: Mapping[UUID, tuple[Job, ...]] = field(default_factory=dict)
    unending: UUID | None = None

    def standing(self, job: Job) -> Standing:
        return self.standings.get(job.id) or standing_of(job)


def cell(name: str, job: Job, width: int, moment: Moment) -> Cell:
    """The cell of the column with this name, at most `width` cells wide."""
    return CELLS[name](job, width, moment)


def moment_of(view: View) -> Moment:
    """What the cells of the list depend on besides their jobs."""
    snapshot = view.snapshot
    names = {*view.session.task_types, *(job.task_type for job in snapshot.page.jobs)}
    return Moment(
        snapshot.at,
        standings=snapshot.page.standings,
        pauses={pause.task_type: pause for pause in snapshot.processing.paused_types},
        full={full.task_type: full.words for full in snapshot.full},
        fronts=shared_fronts(names),
    )


def _sign(job: Job, width: int, moment: Moment) -> Cell:
    sign, ink = STANDING_LOOK[moment.standing(job)]
    return ((fit(sign, width), "warn" if _is_dry_success(job) else ink),)


def _is_dry_success(job: Job) -> bool:
    return job.status is Status.SUCCEEDED and bool(job.last_run_dry)


def _is_cancelling(job: Job) -> bool:
    return job.status is Status.RUNNING and job.cancel_requested_at is not None


def _status(job: Job, width: int, moment: Moment) -> Cell:
    if _is_cancelling(job):
        return ((fit(CANCELLING, width), "warn"),)
    if _is_dry_success(job):
        return ((fit(DRY_RUN, width), "warn"),)
    standing = moment.standing(job)
    return ((fit(standing.value, width), STANDING_LOOK[standing][1]),)


def _id(job: Job, width: int, moment: Moment) -> Cell:
    if job.id in moment.folds:
        return ((" " * width, "text"),)
    return ((fit(short_id(job.id), width), "muted"),)


def _marks(job: Job, moment: Moment) -> list[Span]:
    marks: list[Span] = []
    if job.id in moment.folds:
        more = "+" if job.id == moment.unending else ""
        marks.append((f" ×{len(moment.folds[job.id]):,}{more}", "accent"))
    if job.is_recurring:
        marks.append((f" {badge(job)}", "accent"))
    if job.is_dry:
        marks.append((f" {DRY_MARK}", "warn"))
    return marks


def _task(job: Job, width: int, moment: Moment) -> Cell:
    """The name with its badges, which are never cut."""
    marks = _marks(job, moment)
    return (*short_name(job.task_type, width - width_of(marks), moment.fronts), *marks)


def _arguments(job: Job, width: int, moment: Moment) -> Cell:
    """What tells a job apart in a list of one type, with the badges that the name would have."""
    marks = _marks(job, moment)
    room = width - width_of(marks)
    spans = _what(job, room, moment)
    if not marks:
        return spans
    if job.status is Status.RUNNING:
        return (*spans, *marks)
    *before, (text, ink) = spans
    return (*before, (text.rstrip(), ink), *marks)


def _what(job: Job, width: int, moment: Moment) -> Cell:
    """The arguments, then the error or why the job does not run; of a running job, how far it is."""
    jobs = moment.folds.get(job.id, (job,))
    reason = one_line(cause(job, moment)) if job.status is not Status.RUNNING else ""
    subject = _subject(jobs, reason)
    if job.status is Status.RUNNING:
        return _running_what(job, subject, width)
    if not reason:
        return ((fit(subject or DASH, width), "text" if subject else "muted"),)
    if not subject:
        return ((fit(reason, width), "text"),)
    least = max(width - cell_len(reason) - 2, width // 2)
    if cell_len(subject) > least:
        subject = fit(subject, least)
    return ((fit(f"{subject}: {reason}", width), "text"),)


def _running_what(job: Job, subject: str, width: int) -> Cell:
    progress, share = job.progress or {}, fraction(job.progress)
    message = one_line(str(progress.get("message") or ""))
    if not message and share is not None:
        message = f"{_amount(progress['done'])} of {_amount(progress['total'])}"
    words = ", ".join(word for word in (subject, message) if word) or DASH
    if share is None:
        return ((fit(words, width), "muted" if words == DASH else "text"),)
    cells = GAUGE if width >= ROOM_FOR_GAUGE else NARROW_GAUGE
    gauge = f" {bar(share, cells)} {int(share * 100):>3} %"
    if width <= cell_len(gauge):
        return ((fit(f"{int(share * 100)} %", width), "run"),)
    return ((fit(words, width - cell_len(gauge)), "muted" if words == DASH else "text"), (gauge, "run"))


def _amount(value: float) -> str:
    return f"{value:,}"


def _subject(jobs: Sequence[Job], reason: str) -> str:
    """The arguments; of several jobs those of all, otherwise how many values there are, unless the reason is known."""
    said = {payload_summary(job.payload): job.payload for job in jobs}
    first, *others = said.values()
    if not others:
        return next(iter(said))
    if reason:
        return ""
    differing = [key for key in first if any(other.get(key) != first[key] for other in others)]
    if not differing:
        return f"{len(said):,} different payloads"
    values = {str(payload.get(differing[0])) for payload in said.values()}
    return f"{len(values):,} values of {one_line(differing[0])}"


def cause(job: Job, moment: Moment) -> str:
    """Why a job that does not run does not, or its error; empty where its status says enough."""
    standing = moment.standing(job)
    if standing is Standing.RETRYING:
        turn = f"try {job.attempts + 1} of {job.max_attempts}" if job.max_attempts else ""
        return " · ".join(word for word in (turn, job.last_error) if word)
    if standing is Standing.PAUSED:
        pause = moment.pauses.get(job.task_type)
        return "this series is paused" if job.is_paused else _pause(pause) if pause else ""
    if standing is Standing.WAITING:
        return f"after {short_id(job.blocked_by)}" if job.blocked_by else "another job with its key runs first"
    known = {
        Standing.AT_LIMIT: moment.full.get(job.task_type, ""),
        Standing.HELD: f"hold {hold_number(job.blocked_by)} keeps it" if job.blocked_by else "a hold keeps it",
        Standing.CANNOT_RUN: "no live worker handles this type",
    }
    return known.get(standing, job.last_error or "")


def _pause(pause: TypePause) -> str:
    who = f"by {pause.paused_by.partition('@')[0]}" if pause.paused_by else "paused"
    until = f" until {pause.resume_at:%H:%M}Z" if pause.resume_at else ""
    return f"{who}{until}{f': {pause.reason}' if pause.reason else ''}"


def _attempts(job: Job, width: int, _moment: Moment) -> Cell:
    spent = job.status is Status.FAILED and job.attempts >= (job.max_attempts or 0)
    ink = "bad" if spent else "text" if job.attempts else "muted"
    return ((fit(f"{job.attempts}/{job.max_attempts or DASH}", width), ink),)


def _created(job: Job, width: int, moment: Moment) -> Cell:
    return ((fit(ago(job.created_at, moment.now), width), "muted"),)


def _last(job: Job, width: int, moment: Moment) -> Cell:
    """The outcome of the last run, with its word where there is room, and its age."""
    at = job.last_run_at
    if at is None or job.last_outcome is None:
        return ((fit(DASH, width), "muted"),)
    glyph, ink = outcome_look(job.last_outcome, dry=job.last_run_dry)
    known = DRY_RUN if job.last_run_dry and job.last_outcome in SUCCESSES else job.last_outcome.value
    word = f"{glyph} {known}" if width >= LAST_WIDE else glyph
    return ((word, "muted" if ink == "good" else ink), (f" {age(moment.now - at)}", "muted"))


def lease_left(job: Job, now: datetime) -> str:
    """The rest of a running job's lease in steps of ten seconds, so that it does not change at every refresh."""
    if job.lease_expires_at is None:
        return ""
    left = (job.lease_expires_at - now).total_seconds()
    if left <= 0:
        return "lease expired"
    return f"lease {max(int(left) // LEASE_STEP * LEASE_STEP, 1)}s"


def _next(job: Job, width: int, moment: Moment) -> Cell:
    """When the job runs, or how long its run still takes."""
    if job.status is Status.RUNNING:
        return _rest(job, width, moment)
    if job.status is not Status.PENDING:
        return ((fit("left queue" if job.removed else "never", width), "muted"),)
    standing = moment.standing(job)
    if standing in {Standing.WAITING, Standing.HELD}:
        return ((fit(DASH, width), "muted"),)
    text, ink = due(job.next_run_at or job.run_at, moment.now)
    late = "bad" if standing is Standing.CANNOT_RUN else "warn"
    return ((fit(text.removesuffix(" ago").removesuffix(" yet"), width), ink if ink == "text" else late),)


def _rest(job: Job, width: int, moment: Moment) -> Cell:
    if job.lease_expires_at is not None and job.lease_expires_at <= moment.now:
        return ((fit("lease over", width), "bad"),)
    if _is_cancelling(job):
        return ((fit(CANCELLING, width), "warn"),)
    left = time_left(job)
    return ((fit(DASH, width), "muted"),) if left is None else ((fit(f"{age(left)} left", width), "text"),)


def time_left(job: Job) -> timedelta | None:
    """How long the run still takes at the rate that its handler reports; None where it reports none."""
    progress = job.progress or {}
    done, total, rate = (_number(progress.get(name)) for name in ("done", "total", "rate"))
    if rate <= 0 or not 0 < (total - done) / rate < 1e8:
        return None
    return timedelta(seconds=(total - done) / rate)


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _when(job: Job, width: int, moment: Moment) -> Cell:
    """The one time of a narrow list: since when it runs or has ended, or when it runs next."""
    if job.status is Status.RUNNING:
        return _next(job, width, moment) if _is_cancelling(job) else _for(job, width, moment)
    if job.status is Status.PENDING:
        return _next(job, width, moment)
    return ((fit(ago(job.completed_at or job.last_run_at, moment.now), width), "muted"),)


def _for(job: Job, width: int, moment: Moment) -> Cell:
    return ((fit(f"for {age(moment.now - job.started_at)}" if job.started_at else DASH, width), "text"),)


def _started(job: Job, width: int, moment: Moment) -> Cell:
    return ((fit(age(moment.now - job.started_at) if job.started_at else DASH, width), "text"),)


def _progress(job: Job, width: int, moment: Moment) -> Cell:
    """The progress and the lease, for who chooses this column."""
    if job.status is not Status.RUNNING:
        return ((fit(DASH, width), "muted"),)
    share, lease = fraction(job.progress), lease_left(job, moment.now)
    ink = "bad" if lease == "lease expired" else "muted"
    if _is_cancelling(job):
        return ((CANCELLING, "warn"), (fit(f"  {lease}", width - len(CANCELLING)), ink))
    if share is None:
        return ((fit(lease or "running", width), ink),)
    gauge = f"{bar(share, GAUGE)} {int(share * 100):>3} %"
    return ((gauge, "run"), (fit(f"  {lease}", width - cell_len(gauge)), ink))


def _error(job: Job, width: int, _moment: Moment) -> Cell:
    if not job.last_error:
        return ((fit(DASH, width), "muted"),)
    return ((fit(one_line(job.last_error), width), "text"),)


CELLS: Mapping[str, Callable[[Job, int, Moment], Cell]] = {
    "sign": _sign,
    "task": _task,
    "arguments": _arguments,
    "what": _what,
    "status": _status,
    "attempts": _attempts,
    "created": _created,
    "started": _started,
    "last": _last,
    "next": _next,
    "when": _when,
    "progress": _progress,
    "error": _error,
    "id": _id,
}
