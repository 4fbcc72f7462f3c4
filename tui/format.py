"""Values of the queue as short text. Pure: the time is an argument, and there are no widgets."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from string import ascii_uppercase
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells, set_cell_size

from jobdeck.core import times
from jobdeck.core.model import SUCCESSES, RunOutcome, Status, Verdict
from jobdeck.core.read.report_types import Counts, Standing
from jobdeck.core.read.sentences import PAST, amount, status_word
from jobdeck.core.redact import clean, harmless_json, redact, safe_text, scrub
from jobdeck.core.schedules import NO_SLOT, rhythm
from jobdeck.core.words.plain import plain
from jobdeck.core.words.tables import LATE_AFTER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.core.queue.bulk_model import Bulk

DASH = "-"
LONGEST_LINE = 600
OVERDUE_AFTER = timedelta(minutes=1)
SPARKS = "▁▂▃▄▅▆▇█"
age = times.age
ENDS = "_.-:/"
"""The characters that end a part of a task type's name."""
SEVERAL = 3
"""How many task types share a front that is said less loudly."""
UUID_SHAPE = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

STANDING_LOOK: Mapping[Standing, tuple[str, str]] = {
    Standing.FAILED: ("✗", "bad"),
    Standing.CANNOT_RUN: ("✗", "bad"),
    Standing.OVERDUE: ("!", "warn"),
    Standing.PAUSED: ("‖", "warn"),
    Standing.RETRYING: ("↻", "warn"),
    Standing.RUNNING: ("●", "run"),
    Standing.CLAIMED: ("◌", "text"),
    Standing.AT_LIMIT: ("◌", "warn"),
    Standing.WAITING: ("◌", "text"),
    Standing.HELD: ("‖", "warn"),
    Standing.PENDING: ("○", "muted"),
    Standing.SUCCEEDED: ("✓", "muted"),
    Standing.CANCELLED: ("⊘", "muted"),
}
"""The sign and the ink of how a job stands."""
STATUS_LOOK: Mapping[Status, tuple[str, str]] = {status: STANDING_LOOK[Standing(status.value)] for status in Status}
"""The sign and the ink of each status."""
OUTCOME_LOOK: Mapping[RunOutcome, tuple[str, str]] = {
    RunOutcome.SUCCEEDED: ("✓", "good"),
    RunOutcome.PARTIAL: ("⚠", "warn"),
    RunOutcome.CONTINUED: ("»", "run"),
    RunOutcome.RETRIED: ("✗", "warn"),
    RunOutcome.FAILED: ("✗", "bad"),
    RunOutcome.CANCELLED: ("⊘", "muted"),
    RunOutcome.RELEASED: ("↩", "muted"),
    RunOutcome.SNOOZED: ("↷", "muted"),
    RunOutcome.LOST: ("✗", "bad"),
    RunOutcome.ABANDONED: ("✗", "bad"),
}
"""The glyph and the ink of each outcome of a run."""
DRY_MARK = "DRY RUN"
"""The badge of a job whose payload asks for a dry run, or whose last run was one."""
VERDICT_INK: Mapping[Verdict, str] = {
    Verdict.OK: "good",
    Verdict.WARNING: "warn",
    Verdict.CRITICAL: "bad",
    Verdict.PAUSED: "warn",
}


ONGOING: Mapping[str, str] = {
    "retry": "retrying", "cancel": "cancelling", "delete": "deleting", "restore": "restoring", "edit": "editing",
    "revert": "reverting",
}  # fmt: skip

JOINERS: Mapping[int, str | None] = {
    **dict.fromkeys([0x200D, 0xFE0E, 0xFE0F, 0x20E3, *range(0x1F3FB, 0x1F400)]),
    **{0x1F1E6 + at: letter for at, letter in enumerate(ascii_uppercase)},
}
"""Replacements for characters that join several characters into one picture, whose width differs between terminals.

They are removed. Two regional indicators, which make a flag, become the two letters of its country.
"""


def standing_of(job: Job) -> Standing:
    """How a job stands by its own row alone: as its status says, or claimed while its run has not begun."""
    return Standing(status_word(job))


def status_look(job: Job) -> tuple[str, str]:
    """The sign and the ink of a job's status; those of a job that waits while a worker has only claimed it."""
    return STANDING_LOOK[standing_of(job)]


def shown(text: str, *, multiline: bool = False) -> str:
    """Foreign text for the screen: personal data masked, control characters harmless, every width known."""
    return clean(redact(text), multiline=multiline).translate(JOINERS)


@lru_cache(4096)
def one_line(text: str) -> str:
    """The first 600 characters of a text as one line: `shown`, with every run of white space as one blank."""
    return " ".join(safe_text(text, LONGEST_LINE).translate(JOINERS).split())


def fit(text: str, width: int) -> str:
    """The text in exactly `width` cells: cut with an ellipsis, or padded."""
    if width <= 0:
        return ""
    cut = f"{set_cell_size(text, width - 1).rstrip()}…" if cell_len(text) > width else text
    return set_cell_size(cut, width)


def wrapped(text: str, width: int) -> list[str]:
    """The text in one or more lines of at most `width` cells, broken between words, or inside a longer word."""
    if text.isascii():
        return wrap(text, width, break_on_hyphens=False) or [""]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
            continue
        if not lines[-1]:
            lines.pop()
        # A word of combining marks alone takes no cell, so `chop_cells` would drop it.
        lines += chop_cells(word, width) or [word]
    return lines


def middle(text: str, width: int) -> str:
    """The text in at most `width` cells, cut in the middle: the end of a task type says more than its beginning."""
    if cell_len(text) <= width:
        return text
    if width < 4:
        return fit(text, width)
    head = set_cell_size(text, (width - 1) // 3).rstrip()
    room = width - 1 - cell_len(head)
    start = len(text)
    while (room := room - cell_len(text[start - 1])) >= 0:
        start -= 1
    return f"{head}…{text[start:]}"


def shared_fronts(task_types: Collection[str]) -> tuple[str, ...]:
    """The beginnings of names that at least three task types share, the longest first, each a whole part or more."""
    counts: dict[str, int] = {}
    for name in set(task_types):
        for at in range(1, len(name) - 1):
            if name[at] in ENDS:
                counts[name[: at + 1]] = counts.get(name[: at + 1], 0) + 1
    return tuple(sorted((front for front, number in counts.items() if number >= SEVERAL), key=len, reverse=True))


def short_name(task_type: str, room: int, fronts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """A task type in at most `room` cells, as spans: a front of `fronts` is muted and gives way first, then the end."""
    name = one_line(task_type)
    front = next((one for one in fronts if name.startswith(one)), "")
    rest = name[len(front) :]
    if cell_len(front) + cell_len(rest) > room and front:
        front = "…"
    left = max(room - cell_len(front), 0)
    rest = fit(rest, left) if cell_len(rest) > left else rest
    return (*(((front, "muted"),) if front else ()), (rest, "text"))


def within(lines: Sequence[str], cells: int) -> list[str]:
    """The lines in `cells` cells together; the longest are cut in the middle, as few as possible."""
    room, widest = cells, 0
    for left, line in zip(range(len(lines), 0, -1), sorted(lines, key=cell_len), strict=True):
        widest = max(room // left, widest)
        room -= min(cell_len(line), widest)
    return [middle(line, widest) for line in lines]


def short_id(job_id: UUID) -> str:
    """The last eight digits of an id. The first ones are a time and equal for all jobs of a minute."""
    return job_id.hex[-8:]


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago a moment was; a dash for None."""
    return DASH if moment is None else f"{age(now - moment)} ago"


def seconds(value: float) -> str:
    """A running time in seconds as text: `4s`, then `2m`, `3h`."""
    return f"{int(value)}s" if value < 120 else age(timedelta(seconds=value))


def duration(span: timedelta) -> str:
    """The duration of a run: `0.4s`, `12s`, `3m 05s`, `2h 10m`."""
    total = max(span.total_seconds(), 0.0)
    if total < 10:
        return f"{total:.1f}s"
    if total < 60:
        return f"{int(total)}s"
    if total < 3600:
        return f"{int(total // 60)}m {int(total % 60):02d}s"
    return f"{int(total // 3600)}h {int(total % 3600 // 60):02d}m"


def stamp(moment: datetime | None, now: datetime, *, past: bool = False) -> str:
    """A time in UTC, followed by its distance from now.

    With `past` it is never said to come: a page that was read in parts may know of an event after its own time.
    """
    if moment is None:
        return DASH
    relative = f"in {age(moment - now)}" if moment > now and not past else ago(moment, now)
    return f"{moment:%Y-%m-%d %H:%M:%S}Z  {relative}"


def clock(moment: datetime) -> str:
    """The time of day in UTC."""
    return f"{moment:%H:%M:%S}Z"


def since(moment: datetime, now: datetime) -> str:
    """`since` and a time in UTC, with its date if it is more than a day ago."""
    return f"since {moment:%H:%M}Z" if now - moment < timedelta(days=1) else f"since {moment:%m-%d %H:%M}Z"


def due(moment: datetime, now: datetime, *, paused: bool = False) -> tuple[str, str]:
    """When a pending job runs, in words, and the ink for its severity.

    Less than a minute late is normal, 15 minutes are serious. While processing is paused, a delay is not highlighted.
    """
    late = now - moment
    if moment >= NO_SLOT:
        return "no slot yet", "warn"
    if late < timedelta(0):
        return f"in {age(late)}", "text"
    if late < OVERDUE_AFTER:
        return "due now", "text"
    ink = "muted" if paused else "bad" if late >= LATE_AFTER else "warn"
    return f"due {age(late)} ago", ink


def count(value: int, *, at_least: bool | None = None, short: bool = False) -> str:
    """A number of jobs, `9,412`, or `10,000+` where there may be more, in short `10k+`.

    Unless `at_least` says so, there may be more if the number is above `Counts.LIMIT`.
    """
    at_least = value > Counts.LIMIT if at_least is None else at_least
    if at_least and short and value >= 1000:
        return f"{value // 1000}k+"
    return amount(value, at_least=at_least)


def plural(number: int, noun: str) -> str:
    """`1 job`, `41,842 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def words(verb: str) -> str:
    """A verb of commands in words: `run again`."""
    return verb.replace("-", " ")


def past(verb: str) -> str:
    """The past tense of a verb of commands: `cancelled`, `run again`."""
    return PAST.get(verb) or words(verb)


def progress(found: Bulk) -> str:
    """How far a bulk action is: `cancelling 3,400 of 12,000`, and how it ended."""
    verb = found.action or ""
    refused = f", {found.refused:,} refused" if found.refused else ""
    if found.state == "running":
        return f"{ONGOING.get(verb, verb)} {found.done:,} of {found.total:,}{refused}"
    stopped = f", stopped before {found.left:,} others" if found.state == "stopped" else ""
    return f"{found.done - found.refused:,} of {plural(found.total, 'job')} {past(verb)}{refused}{stopped}"


def short_count(value: int) -> str:
    """A number in at most six cells: `41,842`, `418k`, `4,184k`, `41M`."""
    if value < 100_000:
        return f"{value:,}"
    return f"{value // 1000:,}k" if value < 10_000_000 else f"{value // 1_000_000:,}M"


def outcome_look(outcome: RunOutcome, *, dry: bool | None) -> tuple[str, str]:
    """The glyph and the ink of a run. A dry run did not do its work, so its success is not green."""
    glyph, ink = OUTCOME_LOOK[outcome]
    return glyph, "warn" if dry and outcome in SUCCESSES else ink


def badge(job: Job) -> str:
    """The mark of a recurring job, `↻ 60m` or `↻ cron`; empty for a job that runs once."""
    own = rhythm(job)
    return f"↻ {own.short}" if own else ""


def payload_summary(payload: Mapping[str, Any]) -> str:
    """The arguments of a payload as `key=value` words; a true flag is its key. Skips empty values and `dryRun`."""
    words = []
    shown = scrub(payload)
    if not isinstance(shown, dict):
        return one_line(harmless_json(shown))
    for key, value in shown.items():
        if value is None or value is False or value in ("", [], {}) or key == "dryRun":
            continue
        words.append(key if value is True else f"{key}={_brief(value)}")
    return one_line(" ".join(words))


def _brief(value: object) -> str:
    if isinstance(value, list):
        return f"{value[0]}" if len(value) == 1 else f"[{len(value)}]"
    if isinstance(value, dict):
        return "{…}"
    text = str(value)
    return f"{text[:8]}…" if UUID_SHAPE.fullmatch(text) else text


def fraction(progress: Mapping[str, Any] | None) -> float | None:
    """The progress of a run from 0 to 1; None where the handler reports none."""
    done, total = (progress or {}).get("done"), (progress or {}).get("total")
    if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 0:
        return None
    return min(max(done / total, 0.0), 1.0)


def bar(share: float, width: int) -> str:
    """A gauge of `width` cells: a heavy line for what is done, a light one for the rest."""
    full = round(share * width)
    return "━" * full + "─" * (width - full)


def sparkline(values: Sequence[int]) -> str:
    """A small column for each value; the greatest has full height."""
    top = max(values, default=0)
    if top <= 0:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[min(value * (len(SPARKS) - 1) // top, len(SPARKS) - 1)] for value in values)


def job_json(job: Job) -> dict[str, Any]:
    """A job as the object that `jobdeck job --json` prints, with personal data masked."""
    return dict(plain(job))


def breakdown(jobs: Iterable[Job]) -> str:
    """The number of jobs by status, in the order of the tabs: `3 failed, 1 pending`."""
    counts: dict[Status, int] = dict.fromkeys(Status, 0)
    for job in jobs:
        counts[job.status] += 1
    return ", ".join(f"{number} {status.value}" for status, number in counts.items() if number)


def jobs_phrase(jobs: Sequence[Job]) -> str:
    """`job 1a2b3c4d` for one, `3 jobs` for several."""
    return f"job {short_id(jobs[0].id)}" if len(jobs) == 1 else plural(len(jobs), "job")
