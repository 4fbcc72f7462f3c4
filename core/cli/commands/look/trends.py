"""`trends`: runs, waits, durations and the backlog over time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.times import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from jobdeck.core.read.stats.backlog import TrendReport, Waiting
    from jobdeck.core.read.stats.figures import RunStats

FIGURES: Final = ("RUNS", "OK", "FAILED", "FOREVER", "WAIT P50", "WAIT P95", "TOOK P50", "TOOK P95", "BACKLOG")


@command("trends")
@click.option("--since", metavar="DURATION", default="24h", show_default=True, help="The window, up to 30 days.")
@click.option("--type", "task_type", metavar="TYPE", help="Only this task type, in steps of time.")
def trends(session: Session, since: str, task_type: str | None) -> None:
    """Show runs by outcome, wait, duration and backlog over time."""
    from jobdeck.core.queue.service import known_type  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read.stats.backlog import trend_report  # noqa: PLC0415 -- imported on first use

    query = trend_report(parse_duration(since, what="duration of --since"), task_type=task_type)
    with session.connection() as conn:
        found = query.run(conn)
        if task_type is not None and task_type not in found.trends.types:
            known_type(conn, session.registry, task_type)
    session.answer(_data(found, task_type), [*_table(found, task_type), *_remarks(found)])


def _data(found: TrendReport, task_type: str | None) -> dict[str, Any]:
    window = found.trends
    names = sorted(window.types)
    return {
        "at": window.at,
        "since": window.since,
        "counted_since": window.counted_since,
        "step_seconds": window.step,
        "task_type": task_type,
        "total": _figures(window.total()),
        "types": [{"task_type": name, **_figures(window.total(name))} for name in names],
        "course": [
            {"at": at, **_figures(stats), "backlog": waiting.jobs if waiting else None,
             "backlog_estimated": waiting.estimated if waiting else False}
            for at, stats, waiting in _course(found, task_type)
        ],
        "marks": [output.plain(mark) for mark in found.marks],
    }  # fmt: skip


def _course(found: TrendReport, task_type: str | None) -> Iterator[tuple[datetime, RunStats, Waiting | None]]:
    """The statistics and the backlog of each bucket."""
    window = found.trends
    return zip(window.buckets, window.course(task_type), found.waiting(task_type), strict=True)


def _figures(stats: RunStats) -> dict[str, Any]:
    return {
        "outcomes": {outcome.value: runs for outcome, runs in stats.outcomes.items()},
        "succeeded": stats.succeeded,
        "failed": stats.failed,
        "failed_permanently": stats.permanent,
        "dry_runs": stats.dry_runs,
        "wait_p50": stats.wait(0.5),
        "wait_p95": stats.wait(0.95),
        "duration_p50": stats.duration(0.5),
        "duration_p95": stats.duration(0.95),
    }


def _table(found: TrendReport, task_type: str | None) -> list[str]:
    window = found.trends
    if task_type is not None:
        rows = [(output.when(at), *_cells(stats, [waiting])) for at, stats, waiting in _course(found, task_type)]
        return output.table(("FROM", *FIGURES), rows)
    rows = [(name, *_cells(window.total(name), found.waiting(name))) for name in sorted(window.types)]
    return output.table(("TYPE", *FIGURES), [("all types", *_cells(window.total(), found.waiting())), *rows])


def _cells(stats: RunStats, backlog: list[Waiting | None] | tuple[Waiting | None, ...]) -> tuple[object, ...]:
    most = max((waiting for waiting in backlog if waiting), key=lambda waiting: waiting.jobs, default=None)
    return (
        f"{stats.succeeded + stats.failed:,}", f"{stats.succeeded:,}", f"{stats.failed:,}", f"{stats.permanent:,}",
        *(_seconds(value) for value in (stats.wait(0.5), stats.wait(0.95), stats.duration(0.5), stats.duration(0.95))),
        f"{'~' if most.estimated else ''}{most.jobs:,}" if most else None,
    )  # fmt: skip


def _seconds(value: float | None) -> str | None:
    if value is None:
        return None
    return (
        f"{value * 1000:.0f}ms"
        if value < 1
        else f"{value:.1f}s"
        if value < 60
        else format_duration(timedelta(seconds=value))
    )


def _remarks(found: TrendReport) -> list[str]:
    window = found.trends
    lines = [f"Backlog is the most that waited at once. Times are within 20 %. From {output.when(window.since)}."]
    if window.counted_since > window.since:
        lines.append(
            f"Runs are counted since {output.when(window.counted_since)}: the window is longer than the history."
        )
    lines += [f"{output.when(mark.at)} {mark.kind} {mark.name or 'of everything'}" for mark in found.marks]
    return ["", *lines]
