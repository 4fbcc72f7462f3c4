"""`receipts`: the messages of a job with their state, and the people it left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.programme.messaging.outbox import Receipt


@command("receipts")
@click.argument("job", metavar="ID")
@click.option("--run", "run_token", type=click.IntRange(1), metavar="TOKEN", help="Only this run of the job.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Maximum number of rows."
)
@click.option("--reveal", metavar="REASON", help="Show full addresses; access and reason are logged.")
def receipts(session: Session, job: str, run_token: int | None, limit: int, reveal: str | None) -> None:
    """List the messages of a job, with masked addresses, and the people it left out. They outlive the job."""
    from jobdeck.core.programme.messaging import outbox  # noqa: PLC0415 -- imported on first use

    try:
        job_id = UUID(job)
    except ValueError:
        raise UsageError(f"The id {job!r} is not a UUID.") from None
    with session.connection() as conn:
        rows = outbox.receipts(conn, job_id=job_id, run_token=run_token, limit=limit)
        if reveal is not None:
            rows = revealed(conn, rows, actor=session.actor, reason=reveal, job_id=job_id)
    lines = table(rows) if rows else ["This job has sent no messages and left nobody out."]
    session.answer({"job": job_id, "receipts": rows}, lines)


def revealed(
    conn: psycopg.Connection[Any],
    rows: list[Receipt],
    *,
    actor: str,
    reason: str,
    job_id: UUID | None = None,
    campaign_id: UUID | None = None,
) -> list[Receipt]:
    """The rows with full addresses. Audited.

    Raises:
        Refused: the reason is empty.
    """
    from jobdeck.core.programme.messaging import outbox  # noqa: PLC0415 -- imported on first use

    whole = outbox.reveal(conn, job_id=job_id, campaign_id=campaign_id, actor=actor, reason=reason)
    return [replace(one, address=whole.get(one.outbox_id, one.address)) if one.outbox_id else one for one in rows]


def table(rows: list[Receipt]) -> list[str]:
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
            for one in rows
        ],
    )
