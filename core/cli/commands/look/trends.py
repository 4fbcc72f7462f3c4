"""`trends`: runs, waits, durations and the backlog over time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.queue.service import known_type
from jobdeck.core.read.stats.backlog import TrendReport, Waiting, trend_report
from jobdeck.core.times import parse_duration
from jobdeck.core.words.tables import TRENDS, TrendLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from jobdeck.core.read.stats.figures import RunStats


@command("trends")
@click.option("--since", metavar="DURATION", default="24h", show_default=True, help="The window, up to 30 days.")
@click.option("--type", "task_type", metavar="TYPE", help="Only this task type, in steps of time.")
def trends(session: Session, since: str, task_type: str | None) -> None:
    """Show runs by outcome, wait, duration and backlog over time."""
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
        course = [TrendLine(output.when(at), stats, [waiting]) for at, stats, waiting in _course(found, task_type)]
        return output.described([replace(TRENDS[0], name="from"), *TRENDS[1:]], course)
    names = [None, *sorted(window.types)]
    return output.described(TRENDS, [TrendLine(name, window.total(name), found.waiting(name)) for name in names])


def _remarks(found: TrendReport) -> list[str]:
    window = found.trends
    lines = [f"Backlog is the most that waited at once. Times are within 20 %. From {output.when(window.since)}."]
    if window.counted_since > window.since:
        lines.append(
            f"Runs are counted since {output.when(window.counted_since)}: the window is longer than the history."
        )
    lines += [f"{output.when(mark.at)} {mark.kind} {mark.name or 'of everything'}" for mark in found.marks]
    return ["", *lines]
