"""Output of the commands: JSON for scripts, aligned text for people, both safe for a terminal."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from jobdeck.core.redact import clean, redact, scrub
from jobdeck.core.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.core.model import Job, Json, Run

NONE = "-"
_FOREIGN = frozenset({"payload", "output", "checkpoint", "progress"})
"""Fields of jobs and runs that producers and handlers write."""


def write(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def note(text: str) -> None:
    """Writes a remark, cleaned, to stderr, because stdout is for data."""
    sys.stderr.write(f"{clean(text)}\n")


def as_json(data: Json) -> str:
    """One JSON object. All but printable ASCII is escaped, so that no control sequence reaches a terminal."""
    return json.dumps(plain(data), ensure_ascii=True, indent=2).replace("\x7f", "\\u007f")


def plain(value: Any, *, revealed: bool = False) -> Any:
    """Converts a value of `jobdeck.core.model` to JSON types: times to ISO 8601 UTC, durations to seconds.

    Masks personal data in fields that producers and handlers write, unless `revealed`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        masked = {} if revealed else {name: scrub(named[name]) for name in _FOREIGN & named.keys()}
        return {name: plain(inner, revealed=revealed) for name, inner in (named | masked).items()}
    if isinstance(value, dict):
        return {str(key): plain(inner, revealed=revealed) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, revealed=revealed) for inner in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case UUID() | PurePath():
            return str(value)
        case _:
            return value


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Columns aligned by their width on a terminal. Cells are cleaned and put on one line."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, one pair per line, without those whose value is None. Further lines of a value are indented."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    lines: list[str] = []
    for name, value in known:
        first, *more = clean(str(value), multiline=True).split("\n")
        lines.append(f"{name.ljust(width)}  {first}".rstrip())
        lines += [f"{'':{width}}  {line}".rstrip() for line in more]
    return lines


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A titled part of a longer answer, or nothing where it has no lines."""
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def when(moment: datetime | None) -> str:
    """A time in UTC to the second, or a dash."""
    return NONE if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def seconds(duration: timedelta) -> str:
    """A short duration with the precision a run's length needs."""
    length = duration.total_seconds()
    return f"{length:.2f}s" if length < 60 else format_duration(duration)


def cut(text: str | None, length: int) -> str:
    """A text on one line, redacted, cut to `length` characters."""
    if not text:
        return NONE
    line = clean(redact(text)).strip()
    return line if len(line) <= length else f"{line[: length - 1]}…"


def payload(value: Json | None, length: int = 10_000, *, revealed: bool = False) -> str:
    """A payload or an output on one line, with personal data masked unless `revealed`."""
    if not value:
        return NONE
    text = json.dumps(value if revealed else scrub(value), ensure_ascii=False)
    return clean(text)[:length] if revealed else cut(text, length)


def next_run(job: Job) -> str:
    """The time of a job's next run, or how long it is overdue."""
    if job.overdue_seconds is not None and job.overdue_seconds > 0:
        return f"due {format_duration(timedelta(seconds=job.overdue_seconds))} ago"
    return when(job.next_run_at)


def job_table(jobs: Iterable[Job]) -> list[str]:
    header = ("JOB", "TASK", "STATUS", "ATTEMPTS", "CREATED", "LAST RUN", "NEXT", "PAYLOAD", "ERROR")
    return table(header, (_job_row(job) for job in jobs))


def run_table(runs: Iterable[Run]) -> list[str]:
    header = ("RUN", "JOB", "TASK", "ATTEMPT", "OUTCOME", "STARTED", "TOOK", "ERROR")
    return table(header, (_run_row(run) for run in runs))


def _job_row(job: Job) -> tuple[object, ...]:
    badge = f" ↻ {job.recurrence_interval_minutes}m" if job.is_recurring else ""
    status = "cancelling" if job.cancel_requested_at and job.status == "running" else job.status.value
    last = f"{when(job.last_run_at)} {job.last_outcome or ''}".rstrip() if job.last_run_at else NONE
    return (
        job.id,
        f"{job.task_type}{badge}",
        f"{status}, removed" if job.removed else status,
        f"{job.attempts}/{job.max_attempts or NONE}",
        when(job.created_at),
        last,
        next_run(job),
        payload(job.payload, 40),
        cut(job.last_error, 60),
    )


def _run_row(run: Run) -> tuple[object, ...]:
    return (
        run.run_token,
        run.job_id,
        run.task_type,
        run.attempt,
        run.outcome.value,
        when(run.started_at),
        seconds(run.duration),
        cut(run.error, 60),
    )


def _cell(value: object) -> str:
    return NONE if value is None or value == "" else clean(str(value))


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
