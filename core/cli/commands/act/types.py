"""`type`: the task types in the queue, with their jobs and settings."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option, reason_option, shared_options
from jobdeck.core.errors import UsageError
from jobdeck.core.times import parse_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.read.type_settings import TypeLine

DEFAULT: Final = "default"
HEADER: Final = ("TYPE", "PENDING", "RUNNING", "FAILED", "WORKERS", "PAUSED", "MUTED", "WARNING", "CRITICAL")
_PERCENT: Final = re.compile(r"(-?\d{1,9}(?:\.\d{1,4})?) ?%")


@command("list")
def listed(session: Session) -> None:
    """List task types with jobs, workers or settings."""
    from jobdeck.core.read.type_settings import type_lines  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        found = type_lines().run(conn)
    session.answer({"types": [output.plain(line) for line in found]}, table(found) if found else ["No task types."])


@command("set")
@click.argument("task_type", metavar="TYPE")
@click.option("--warn", metavar="SHARE", help="Warn from this share of failed runs on: 20%, or default.")
@click.option("--critical", metavar="SHARE", help="Critical from this share of failed runs on: 60%, or default.")
@click.option("--mute-for", metavar="DURATION", help="Report no failure share of the type for this time.")
@click.option("--mute-until", metavar="TIME", help="Report no failure share of the type until this time (UTC).")
@click.option("--unmute", is_flag=True, help="Report it again.")
@reason_option
@dry_run_option
def change(session: Session, task_type: str, reason: str | None, dry_run: bool, **given: Any) -> None:
    """Change settings of a task type."""
    from jobdeck.core.queue import service  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read import jobs  # noqa: PLC0415 -- imported on first use

    if sum(bool(given[name]) for name in ("mute_for", "mute_until", "unmute")) > 1:
        raise UsageError("Give one of --mute-for, --mute-until and --unmute.")
    with session.connection() as conn, conn.transaction():
        changes = _changes(given, jobs.clock().run(conn))
        line = service.set_type(
            conn, session.registry, task_type, changes, actor=session.actor, reason=reason, dry_run=dry_run
        )
    warn_without_worker(line)
    data = {**output.plain(line), "dry_run": dry_run}
    session.answer(data, ["The settings would be:", *table([line])] if dry_run else table([line]))


def warn_without_worker(line: TypeLine) -> None:
    """Says on stderr that no live worker handles a type, since its name may be a mistake."""
    if not line.workers:
        output.note(f"No live worker handles {line.task_type}.")


def table(lines: Iterable[TypeLine]) -> list[str]:
    """One line for each type."""
    return output.table(HEADER, map(_row, lines))


def _row(line: TypeLine) -> tuple[object, ...]:
    mark = "~" if line.estimated else ""
    paused = f"until {output.when(line.resume_at)}" if line.resume_at else "yes"
    return (
        line.task_type, f"{mark}{line.pending:,}", f"{line.running:,}", f"{mark}{line.failed:,}", line.workers,
        paused if line.paused_at else None,
        f"until {output.when(line.muted_until)}" if line.muted_until else None,
        percent(line.warning_share), percent(line.critical_share),
    )  # fmt: skip


def percent(share: float | None) -> str:
    """A share as text; None is the default."""
    return DEFAULT if share is None else f"{round(share * 100, 2):g} %"


def _changes(given: dict[str, Any], now: datetime) -> dict[str, float | datetime | None]:
    found: dict[str, float | datetime | None] = {}
    for option, column in (("warn", "warning_share"), ("critical", "critical_share")):
        if given[option] is not None:
            found[column] = _share(given[option], f"--{option}")
    if given["unmute"]:
        found["muted_until"] = None
    elif given["mute_for"]:
        found["muted_until"] = now + parse_duration(given["mute_for"], what="duration of --mute-for")
    elif given["mute_until"]:
        found["muted_until"] = parse_time(given["mute_until"], now, what="time of --mute-until").astimezone(UTC)
    if not found:
        raise UsageError("Nothing to change. Give --warn, --critical, --mute-for, --mute-until or --unmute.")
    return found


def _share(text: str, option: str) -> float | None:
    if text.strip().lower() == DEFAULT:
        return None
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} needs a share such as 20%, or {DEFAULT}; {text[:60]!r} is neither.")
    return round(float(match[1]) / 100, 6)


type = click.Group(  # noqa: A001 -- the name of the command
    "type",
    commands={"list": listed, "set": change},
    params=shared_options(),
    help="Show and change settings of task types.",
)
