"""`events`: delivery results from the providers."""

from __future__ import annotations

from contextlib import closing

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Group, Session, command, dry_run_option, shared_options
from jobdeck.core.programme.settings import CompetitionSettings


@command("pull")
@dry_run_option
def pull(session: Session, dry_run: bool) -> None:
    """Fetch delivery results from SendGrid and Twilio and apply them. Safe to repeat, every half hour for example."""
    from jobdeck.core.programme.events import pull as events_pull  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.programme.vendors import Clients  # noqa: PLC0415 -- imported on first use

    settings = session.settings.of(CompetitionSettings)
    with closing(Clients(settings)) as clients, session.connection() as conn:
        found = events_pull.pull(conn, clients, settings, actor=session.actor, dry_run=dry_run)
    for warning in found.warnings:
        output.note(warning)
    data = {
        "dry_run": dry_run,
        "sources": found.sources,
        "new": found.new,
        "applied": found.applied,
        "unmatched": found.unmatched,
        "failed": found.failed,
        "left_out": found.aside,
        "warnings": found.warnings,
    }
    listed = ", ".join(f"{count} {source}" for source, count in sorted(found.sources.items())) or "nothing"
    session.answer(
        data,
        [
            f"{'Would store' if dry_run else 'Stored'} {found.new} new events of {listed}.",
            f"{found.applied} applied, {found.unmatched} without a message of ours, {found.failed} failed.",
        ],
    )


events = Group("events", commands={"pull": pull}, params=shared_options(), help="Delivery results from the providers.")
