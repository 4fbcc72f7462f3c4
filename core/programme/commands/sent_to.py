"""`sent-to`: the messages to a person, over all their addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, Words, command, limit_option
from jobdeck.core.programme import people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.programme.people import Sent


@command("sent-to")
@click.argument("wanted", metavar="ID|NAME|ADDRESS")
@click.option("--channel", type=Words(["email", "sms"]), help="Only mail, or only texts.")
@limit_option(50, 10_000)
@click.option("--after", metavar="CURSOR", help="Continue after a page, with its `next`.")
@click.option("--reveal", metavar="REASON", help="Show full addresses; access and reason are logged.")
def sent_to(
    session: Session, wanted: str, channel: str | None, limit: int, after: str | None, reveal: str | None
) -> None:
    """List the messages to a person, newest first.

    Each has the last state that the provider confirmed. A person is a coach, an admin or a competitor. Competitors and
    parents are found only by their whole name, an id or an address. Addresses are masked.
    """
    with session.connection() as conn:
        who = people.person(conn, wanted)
        found, following = people.sent_to(conn, who, channel=channel, after=after, limit=limit)
        if reveal is not None:
            whole = people.reveal(conn, who, actor=session.actor, reason=reveal)
            found = [replace(one, address=output.Verbatim(whole[one.id])) if one.id in whole else one for one in found]
    data = {
        "person": {"kind": who.kind, "id": who.id},
        "messages": found,
        "next": output.Verbatim(following) if following else None,
    }
    session.answer(data, table(found) if found else [f"Nothing was sent to {people.named(who)}."])
    if following and not session.json:
        output.note(output.Verbatim(f"next page: --after {following}"))


def table(found: Sequence[Sent]) -> list[str]:
    """Messages as aligned columns."""
    return output.table(
        ("SENT", "CHANNEL", "KIND", "ADDRESS", "STATE", "WHY", "LAST EVENT", "JOB", "CAMPAIGN"),
        [
            (output.when(one.at), one.channel, one.kind, one.address, one.state, one.detail, event(one), one.job_id,
             one.campaign_id)
            for one in found
        ],
        least=("CAMPAIGN", "JOB", "WHY"),
    )  # fmt: skip


def event(one: Sent) -> str | None:
    """The last event that the provider reported about a message, with its time."""
    return f"{one.last_event} {output.when(one.last_event_at)}" if one.last_event else None
