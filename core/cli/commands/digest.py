"""`digest`: what a shift was like, for whoever takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.wording import action_words, finished_words, trigger_words
from jobdeck.core.times import parse_duration

if TYPE_CHECKING:
    from jobdeck.core.model import AuditEntry
    from jobdeck.core.read.report_types import Digest


@command("digest")
@click.option("--since", metavar="DURATION", default="8h", help="How far back to look.")
def digest(session: Session, since: str) -> None:
    """What finished and failed, who did what, pauses, triggers and errors of a shift."""
    from jobdeck.core.read import reports  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        told = reports.digest(parse_duration(since, what="duration of --since")).run(conn)
    data = output.plain(told)
    for shown, trend in zip(data["errors"], told.errors, strict=True):
        shown["new"] = told.is_new(trend)
    session.answer(data, _lines(told))


def _lines(told: Digest) -> list[str]:
    verdict = told.health.verdict
    worst = told.health.findings[0].evidence if told.health.findings else ""
    facts = output.facts(
        [
            ("shift", f"{output.when(told.since)} to {output.when(told.at)}"),
            ("now", f"{verdict.value}: {worst}"),
            ("processing", "on" if told.processing.enabled else "PAUSED"),
            ("waiting", f"{told.counts.pending} pending, {told.counts.failed} failed"),
            ("finished", finished_words(told)),
            ("triggers", trigger_words(told)),
        ]
    )
    errors = [
        (
            trend.count,
            trend.failed,
            "new" if told.is_new(trend) else output.when(trend.first_seen),
            output.when(trend.last_seen),
            trend.task_type,
            output.cut(trend.sample, 80),
        )
        for trend in told.errors
    ]
    return [
        *facts,
        *output.section("Operators", output.table(("ACTOR", "DID"), action_words(told)) if told.actions else []),
        *output.section("Pauses", [_pause(entry) for entry in told.pauses]),
        *output.section(
            "Errors",
            output.table(("RUNS", "FAILED NOW", "FIRST SEEN", "LAST SEEN", "TASK", "ERROR"), errors) if errors else [],
        ),
    ]


def _pause(entry: AuditEntry) -> str:
    what = (entry.after or {}).get("task_type") or "processing"
    told = f"{output.when(entry.at)}  {entry.action} {what} by {entry.actor}"
    return output.cut(f"{told}: {entry.reason}" if entry.reason else told, 160)
