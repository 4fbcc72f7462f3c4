"""`suppressions` lists, adds and lifts blocks of addresses; `sent-to` lists the messages to a person."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.answers import require_yes
from jobdeck.core.cli.session import (
    Group,
    Session,
    Words,
    after_option,
    command,
    dry_run_option,
    limit_option,
    shared_options,
    yes_option,
)
from jobdeck.core.errors import UsageError
from jobdeck.core.programme import people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.programme.people import Block, Sent

_reason_option = click.option("--reason", metavar="TEXT", required=True, help="Reason, for the audit log.")
_kind_option = click.option("--kind", type=Words(people.KINDS), help="Only blocks of this kind.")


@command("list")
@click.option("--channel", type=Words(["email", "sms"]), help="Only mail, or only texts.")
@_kind_option
@click.option("--person", metavar="ID|NAME|ADDRESS", help="Only addresses of this person.")
@click.option("--address", metavar="ADDRESS", help="Only this address or number.")
@limit_option(50, 10_000)
@after_option
def list_blocks(
    session: Session, channel: str | None, kind: str | None, person: str | None, address: str | None, limit: int,
    after: str | None,
) -> None:  # fmt: skip
    """List blocked e-mail addresses and phone numbers, newest first. Addresses are masked.

    SendGrid's and Twilio's reports block addresses, and `suppressions add` does.
    """
    if person is not None and address is not None:
        raise UsageError("Use --person or --address, not both.")
    with session.connection() as conn:
        who = people.person(conn, person) if person is not None else None
        found, following = people.blocks(
            conn, channel=channel, kind=kind, person=who, address=address, after=after, limit=limit
        )
    lines = table(found) or ["No blocked addresses."]
    session.answer_page({"suppressions": _masked(found)}, lines, following)


@command("add")
@click.argument("address", metavar="ADDRESS")
@click.option(
    "--scope",
    type=Words(people.SCOPES),
    default="all",
    show_default=True,
    help="Block all messages, or only announcements.",
)
@_reason_option
@dry_run_option
@yes_option
def add(session: Session, address: str, scope: str, reason: str, dry_run: bool, yes: bool) -> None:
    """Block an e-mail address or a phone number, so that nothing is sent to it."""
    with session.connection() as conn:
        with conn.transaction(force_rollback=dry_run or not yes):
            made = people.block(conn, address, scope=scope, actor=session.actor, reason=reason)
        require_yes(f"block {made.address}", given=yes or dry_run)
    verb = "Would block" if dry_run else "Blocked"
    what = "announcements to it" if scope == "announcements" else "messages to it"
    session.answer(
        {"suppressions": _masked([made]), "dry_run": dry_run},
        [output.Verbatim(f"{verb} {made.address} ({made.id}): {what} are left out.")],
    )


@command("lift")
@click.argument("which", metavar="ID|ADDRESS")
@_kind_option
@_reason_option
@dry_run_option
@yes_option
def lift(session: Session, which: str, kind: str | None, reason: str, dry_run: bool, yes: bool) -> None:
    """Lift the blocks of an address, or one block by its id.

    The provider can have a list of its own: the answer says so, and what to do there.
    """
    with session.connection() as conn:
        with conn.transaction(force_rollback=dry_run or not yes):
            lifted = people.lift(conn, which, kind=kind, actor=session.actor, reason=reason)
        plural = "block" if len(lifted) == 1 else "blocks"
        require_yes(f"lift {len(lifted)} {plural} of {lifted[0].address}", given=yes or dry_run)
    verb = "Would lift" if dry_run else "Lifted"
    lines = [
        line
        for one in lifted
        for line in (
            f"{verb} the block of {one.address} ({people.KINDS[one.kind]}).",
            people.remains(one.channel, one.kind),
        )
    ]
    data = [{**output.plain(one), "remains": people.remains(one.channel, one.kind)} for one in _masked(lifted)]
    session.answer({"lifted": data, "dry_run": dry_run}, [output.Verbatim(line) for line in lines])


suppressions = Group(
    "suppressions",
    commands={"list": list_blocks, "add": add, "lift": lift},
    params=shared_options(),
    help="List, add and lift blocked e-mail addresses and phone numbers.",
)


def _masked(found: Sequence[Block]) -> list[Block]:
    """Blocks for an answer in JSON: their addresses are masked already."""
    return [replace(one, address=output.Verbatim(one.address)) for one in found]


def table(found: Sequence[Block]) -> list[str]:
    """Blocks as aligned columns."""
    return output.table(
        ("BLOCK", "CHANNEL", "ADDRESS", "KIND", "SCOPE", "SOURCE", "SINCE", "ENDS"),
        [
            (one.id, one.channel, one.address, one.kind, one.scope, one.source, output.when(one.since),
             output.when(one.ends))
            for one in found
        ],
        least=("ENDS", "SCOPE", "SOURCE"),
    )  # fmt: skip


@command("sent-to")
@click.argument("wanted", metavar="ID|NAME|ADDRESS")
@click.option("--channel", type=Words(["email", "sms"]), help="Only mail, or only texts.")
@limit_option(50, 10_000)
@after_option
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
    lines = sent_table(found) or [f"Nothing was sent to {people.named(who)}."]
    session.answer_page({"person": {"kind": who.kind, "id": who.id}, "messages": found}, lines, following)


def sent_table(found: Sequence[Sent]) -> list[str]:
    """Messages as aligned columns."""
    return output.table(
        ("SENT", "CHANNEL", "KIND", "ADDRESS", "STATE", "WHY", "LAST EVENT", "JOB", "CAMPAIGN"),
        [
            (output.when(one.at), one.channel, one.kind, one.address, one.state, one.detail, _event(one), one.job_id,
             one.campaign_id)
            for one in found
        ],
        least=("CAMPAIGN", "JOB", "WHY"),
    )  # fmt: skip


def _event(one: Sent) -> str | None:
    """The last event that the provider reported about a message, with its time."""
    return f"{one.last_event} {output.when(one.last_event_at)}" if one.last_event else None
