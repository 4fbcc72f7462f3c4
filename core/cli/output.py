"""Output of the commands: JSON for scripts, aligned text for people, both masked, and harmless for a terminal.

`_put` writes every line of a command, so that no sentence can forget to clean a value. `plain` masks every value of an
answer in JSON, `table`, `facts` and `_put` mask those in text. What the dashboard needs too is in `core.words.plain`.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from jobdeck.core.cli.fitting import fitted, width_of
from jobdeck.core.read.sentences import DRY_RUN, outcome_words, status_word
from jobdeck.core.redact import clean, scrub
from jobdeck.core.schedules import has_run_out, rhythm
from jobdeck.core.times import format_duration
from jobdeck.core.words.plain import NONE, Verbatim, cut, line, masked, payload, plain, seconds, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from jobdeck.core.model import Job, Json, Run
    from jobdeck.core.settings import Settings
    from jobdeck.core.words.tables import Column


T = TypeVar("T")

__all__ = [
    "LINE", "NONE", "Line", "Verbatim", "as_json", "cut", "described", "facts", "job_table", "last_run", "line",
    "masked", "next_run", "note", "payload", "plain", "run_table", "save", "seconds", "section", "table", "when",
    "write", "write_json", "write_json_line",
]  # fmt: skip
INDENT: Final = 2
"""Columns by which a section indents its lines."""
WIDEST: Final = 200
"""Columns to which a piped table is aligned; a longer cell moves the rest of its row."""


class Line:
    """The last line of a terminal, which gives way to whatever is printed. It is shown on a terminal's stderr only."""

    def __init__(self) -> None:
        self.is_counted = False
        """Whether the command counts its work, so that the time it has taken need not be shown."""
        self._shown = False
        self._lock = threading.Lock()

    def show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            sys.stderr.write(f"\r{clean(text)[:width]}\x1b[K")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Takes the line off the terminal, before something else is written."""
        with self._lock:
            if self._shown:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._shown = False


LINE: Final = Line()
"""The line of this process."""


def write(lines: Iterable[str]) -> None:
    """Writes the lines of an answer to stdout."""
    for text in lines:
        _put(sys.stdout, text)


def save(text: str, path: Path) -> None:
    """Writes a text into a new file.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def note(text: str) -> None:
    """Writes a remark to stderr, because stdout is for data."""
    _put(sys.stderr, text)


def note_embedded(settings: Settings) -> None:
    """Says that a command works on the embedded database, because a forgotten address shows itself in nothing else."""
    if settings.database_url is None and not settings.databases:
        note("DATABASE_URL is not set: this is the embedded database of this account.")


def _put(stream: TextIO, line: str) -> None:
    LINE.clear()
    stream.write(f"{clean(masked(line))}\n")


def write_json(data: Json, *, revealed: bool = False) -> None:
    """Writes one JSON object to stdout, as `as_json` makes it."""
    write(map(Verbatim, as_json(data, revealed=revealed).split("\n")))


def write_json_line(data: Json) -> None:
    """Writes one JSON object to stdout on one line."""
    write([Verbatim(as_json(data, indent=None))])


def as_json(data: Json, *, revealed: bool = False, indent: int | None = 2) -> str:
    """One JSON object. All but printable ASCII is escaped, so that no control sequence reaches a terminal."""
    written = json.dumps(plain(data, revealed=revealed), ensure_ascii=True, indent=indent)
    return written.replace("\x7f", "\\u007f")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, least: Sequence[str] = ()) -> list[str]:
    """Columns aligned by their width on a terminal. Cells are masked, cleaned and put on one line.

    On a terminal they are fitted into its width, if need be without the columns in `least`; whole when piped. No line
    without rows.
    """
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    if len(cells) == 1:
        return []
    if sys.stdout.isatty():
        cells = fitted(cells, shutil.get_terminal_size().columns - INDENT, least)
    widths = [min(WIDEST, max(width_of(row[column]) for row in cells)) for column in range(len(cells[0]))]
    lines = ("  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return [Verbatim(line) for line in lines]


def described(columns: Sequence[Column[T]], rows: Iterable[T]) -> list[str]:
    """A table of described columns."""
    return table([one.heading for one in columns], ([one.whole(row) for one in columns] for row in rows))


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, one pair per line, without those whose value is None. Further lines of a value are indented."""
    known = [(clean(masked(name)), _text(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    lines: list[str] = []
    for name, value in known:
        first, *more = clean(value, multiline=True).split("\n")
        lines.append(Verbatim(f"{name.ljust(width)}  {first}".rstrip()))
        lines += [Verbatim(f"{'':{width}}  {line}".rstrip()) for line in more]
    return lines


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A titled part of a longer answer, or nothing where it has no lines."""
    return ["", title, *(Verbatim(f"  {masked(line)}") for line in lines)] if lines else []


def next_run(job: Job) -> str:
    """The time of a job's next run, or how long it is overdue."""
    if has_run_out(job):
        return "no slot yet"
    if job.overdue_seconds is not None and job.overdue_seconds > 0:
        return f"due {format_duration(timedelta(seconds=job.overdue_seconds))} ago"
    return when(job.next_run_at)


def last_run(job: Job) -> str:
    """The time of a job's last run and its outcome; empty before the first."""
    if job.last_run_at is None:
        return ""
    return f"{when(job.last_run_at)} {outcome_words(job.last_outcome, dry=job.last_run_dry)}".rstrip()


def job_table(jobs: Iterable[Job]) -> list[str]:
    header = ("JOB", "TASK", "STATUS", "ATTEMPTS", "CREATED", "LAST RUN", "NEXT", "PAYLOAD", "ERROR")
    return table(
        header,
        (_job_row(job) for job in jobs),
        least=("CREATED", "ATTEMPTS", "LAST RUN", "PAYLOAD", "NEXT"),
    )


def run_table(runs: Iterable[Run], *, revealed: bool = False) -> list[str]:
    header = ("RUN", "JOB", "TASK", "ATTEMPT", "OUTCOME", "STARTED", "TOOK", "ERROR")
    return table(header, (_run_row(run, revealed=revealed) for run in runs), least=("RUN", "ATTEMPT", "TOOK", "JOB"))


def _job_row(job: Job) -> tuple[object, ...]:
    own = rhythm(job)
    badge = f" ↻ {own.short}" if own else ""
    status = "cancelling" if job.cancel_requested_at and job.status == "running" else status_word(job)
    if job.last_run_dry and job.status == "succeeded":
        status += f", {DRY_RUN}"
    return (
        job.id,
        f"{job.task_type}{badge}",
        f"{status}, removed" if job.removed else status,
        f"{job.attempts}/{job.max_attempts or NONE}",
        when(job.created_at),
        last_run(job) or NONE,
        next_run(job),
        payload(job.payload),
        line(job.last_error),
    )


def _run_row(run: Run, *, revealed: bool) -> tuple[object, ...]:
    return (
        run.run_token,
        run.job_id,
        run.task_type,
        run.attempt,
        outcome_words(run.outcome, dry=run.dry_run),
        when(run.started_at),
        seconds(run.duration),
        line(run.error, revealed=revealed),
    )


def _cell(value: object) -> str:
    return NONE if value is None or value == "" else clean(_text(value))


def _text(value: object) -> str:
    if isinstance(value, str):
        return masked(value)
    return str(scrub(value) if isinstance(value, dict | list | tuple) else value)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


SILENT_SECONDS: Final = 1.0
"""A command that ends before shows nothing."""
BETWEEN_SECONDS: Final = 0.2


class Progress:
    """Counts work whose amount is known. `done` is what was done before this command began."""

    def __init__(self, what: str, total: int, *, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._before = done
        self._clock = clock
        self._began = clock()
        self._shown = self._began + SILENT_SECONDS - BETWEEN_SECONDS
        LINE.is_counted = True

    def at(self, done: int) -> None:
        """Shows how much is done, if it is time to."""
        now = self._clock()
        if now - self._shown >= BETWEEN_SECONDS:
            self._shown = now
            LINE.show(self.text(done))

    def text(self, done: int) -> str:
        """The line: `delete: 12,500 of 100,000 jobs, 1,240/s, about 1m 10s left`."""
        counted = f"{self._what}: {done:,} of {self._total:,} jobs"
        spent = self._clock() - self._began
        if done <= self._before or spent <= 0:
            return counted
        rate = (done - self._before) / spent
        left = format_duration(timedelta(seconds=int((self._total - done) / rate) + 1))
        return f"{counted}, {rate:,.0f}/s" + (f", about {left} left" if done < self._total else "")


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Shows on a terminal how long the command has been working, until it ends or counts its work itself."""
    LINE.is_counted = False
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show_time, args=(name, ended), name="elapsed time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        LINE.clear()


def _show_time(name: str, ended: threading.Event) -> None:
    began = time.monotonic()
    while not ended.wait(SILENT_SECONDS):
        if not LINE.is_counted:
            LINE.show(f"{name}: working for {format_duration(timedelta(seconds=int(time.monotonic() - began)))}")
