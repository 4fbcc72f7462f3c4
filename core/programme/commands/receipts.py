"""`receipts`: the messages of a job with their state, and the people it left out. `events`: delivery results."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Group, Session, command, dry_run_option, limit_option, shared_options
from jobdeck.core.errors import UsageError
from jobdeck.core.plugins import Recipient, Recipients
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.read.batch import select

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.programme.messaging.outbox import Receipt


@command("receipts")
@click.argument("job", metavar="ID")
@click.option("--run", "run_token", type=click.IntRange(1), metavar="TOKEN", help="Only this run of the job.")
@limit_option(200, 100_000, "Maximum number of rows.")
@click.option("--reveal", metavar="REASON", help="Show full addresses; access and reason are logged.")
def receipts(session: Session, job: str, run_token: int | None, limit: int, reveal: str | None) -> None:
    """List the messages of a job, with masked addresses. Also lists the people that the job left out.

    Messages are kept longer than their job.
    """
    from jobdeck.core.programme.messaging import outbox  # noqa: PLC0415 -- imported on first use

    job_id = parse_id(job, "id")
    with session.connection() as conn:
        found = outbox.receipts(conn, job_id=job_id, run_token=run_token, limit=limit)
        if reveal is not None:
            found = revealed(conn, found, actor=session.actor, reason=reveal, job_id=job_id)
    lines = table(found) or ["This job has sent no messages and left nobody out."]
    session.answer({"job": job_id, "receipts": found}, lines)


def parse_id(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"The {what} {text!r} is not a UUID.") from None


def recipients(conn: psycopg.Connection[Any], job_id: UUID, *, limit: int = 100) -> Recipients | None:
    """The people a job wrote to or left out, addresses masked; None where there are none or this role may not look."""
    allowed = "SELECT coalesce(has_table_privilege(to_regclass('outbox_receipts'), 'select'), false) AS may"
    if not select(allowed, read=lambda rows: rows[0]["may"]).run(conn):
        return None
    numbers = select(
        """
        SELECT CASE WHEN state = 'left out' THEN 'left out: ' || coalesce(left_out, '?') ELSE state END AS state,
            count(*) AS count
        FROM outbox_receipts WHERE job_id = %(job)s GROUP BY 1 ORDER BY 2 DESC, 1
        """,
        {"job": job_id},
        read=lambda rows: tuple((row["state"], row["count"]) for row in rows),
    ).run(conn)
    if not numbers:
        return None
    listed = select(
        """
        SELECT channel, address, state, coalesce(left_out, error_class, last_event) AS detail,
            coalesce(last_event_at, accepted_at, created_at) AS at
        FROM outbox_receipts WHERE job_id = %(job)s
        ORDER BY state NOT IN ('failed', 'uncertain'), created_at LIMIT %(limit)s
        """,
        {"job": job_id, "limit": limit},
        read=lambda rows: tuple(Recipient(**row) for row in rows),
    ).run(conn)
    return Recipients(numbers, listed)


def revealed(
    conn: psycopg.Connection[Any],
    found: list[Receipt],
    *,
    actor: str,
    reason: str,
    job_id: UUID | None = None,
    campaign_id: UUID | None = None,
) -> list[Receipt]:
    """The receipts with full addresses. Audited.

    Raises:
        Refused: the reason is empty.
    """
    from jobdeck.core.programme.messaging import outbox  # noqa: PLC0415 -- imported on first use

    whole = outbox.reveal(conn, job_id=job_id, campaign_id=campaign_id, actor=actor, reason=reason)
    return [
        replace(one, address=output.Verbatim(whole[one.outbox_id])) if one.outbox_id in whole else one for one in found
    ]


def table(found: list[Receipt]) -> list[str]:
    """Receipts as aligned columns."""
    return output.table(
        ("recipient", "channel", "address", "state", "why", "sent", "last event", "provider id"),
        [
            (
                one.recipient_ref,
                one.channel,
                one.address,
                one.state,
                one.left_out or one.error_class,
                output.when(one.accepted_at),
                one.last_event,
                one.provider_message_id,
            )
            for one in found
        ],
    )


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
