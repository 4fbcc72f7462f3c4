"""Blocked addresses, what was sent to a person, and what the look-ups find, by functions of `people.sql`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from psycopg.rows import class_row

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.plugins import Found
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.programme.sync.rules import as_id
from jobdeck.core.read.rows import NO_CURSOR, decode_cursor, encode_cursor
from jobdeck.core.redact import clean, redact
from jobdeck.core.times import age

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    Connection = psycopg.Connection[Any]


KINDS: Final = {
    "hard_bounce": "bounced",
    "spam": "spam report",
    "global_unsub": "unsubscribed",
    "group_unsub": "left the group",
    "invalid": "invalid",
    "stop": "texted STOP",
    "error_21610": "STOP before",
    "unusable": "gets no texts",
    "manual": "by an operator",
}
"""The kinds of blocks, each in words."""
SCOPES: Final = ("all", "announcements")
NAMESAKES: Final = 5
"""Maximum number of people that a refusal of an ambiguous name lists."""

_LISTS: Final = {"hard_bounce": "Bounces", "spam": "Spam Reports", "invalid": "Invalid Emails",
                 "global_unsub": "Global Unsubscribes", "group_unsub": "Unsubscribe Groups"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """An address that gets no mail, no announcements, or no texts; the address is masked."""

    id: UUID
    channel: str
    address: str
    kind: str
    scope: str
    source: str
    since: datetime
    ends: datetime | None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can get messages: a coach, an admin, a competitor, a former one, or an address.

    `label` is a name, or words instead of it. `address` is set only where the kind is `address`: as it was typed.
    """

    kind: str
    id: UUID | None
    label: str
    detail: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """One message to a person, with its state as the provider confirmed it; the address is masked."""

    at: datetime
    id: UUID
    channel: str
    kind: str
    address: str
    state: str
    detail: str | None
    last_event: str | None
    last_event_at: datetime | None
    job_id: UUID | None
    campaign_id: UUID | None
    provider_message_id: str | None
    sender: str


def blocks(
    conn: Connection,
    *,
    channel: str | None = None,
    kind: str | None = None,
    person: Person | None = None,
    address: str | None = None,
    after: str | None = None,
    limit: int = 200,
) -> tuple[list[Block], str | None]:
    """The blocks in force, newest first, and the cursor of the next page; all, or those of a person or an address.

    Raises:
        UsageError: the cursor is not valid.
    """
    ids = None
    if person is not None or address is not None:
        wanted = (person.id, person.address) if person is not None else (None, address)
        ids = [row[0] for row in conn.execute("select outbox_blocks_of(%s, %s)", wanted).fetchall()]
    with conn.cursor(row_factory=class_row(Block)) as cursor:
        found = cursor.execute(
            "select * from outbox_block_list(%s, %s, %s::uuid[], %s, %s, %s)",
            (channel, kind, ids, *_place(after), limit + 1),
        ).fetchall()
    return found[:limit], _next([(one.since, one.id) for one in found], limit)


def block(conn: Connection, address: str, *, scope: str, actor: str, reason: str) -> Block:
    """Blocks an address. Audited without it.

    Raises:
        Refused: it is no address, it is blocked already, or the reason is empty.
    """
    with refusals():
        made = conn.execute(
            "select id from outbox_suppress(%s, %s, %s, %s)", (address, scope, actor, redact(reason))
        ).fetchall()[0][0]
    with conn.cursor(row_factory=class_row(Block)) as cursor:
        return cursor.execute(
            "select * from outbox_block_list(null, null, array[%s::uuid], null, null, 1)", (made,)
        ).fetchall()[0]


def lift(conn: Connection, which: str, *, kind: str | None = None, actor: str, reason: str) -> list[Block]:
    """Lifts a block by its id, or all blocks of an address (of one `kind`). Audited without the address.

    Raises:
        Refused: there is no such block, its person was erased, or the reason is empty.
    """
    one = as_id(which)
    with refusals(), conn.cursor(row_factory=class_row(Block)) as cursor:
        return cursor.execute(
            "select * from outbox_lift(%s, %s, %s, %s, %s)",
            (one, None if one else which, kind, actor, redact(reason)),
        ).fetchall()


def remains(channel: str, kind: str) -> str:
    """What the provider's own list still does after such a block was lifted here, and what to do there."""
    if channel == "email" and kind in _LISTS:
        again = " Ask them first: they unsubscribed themselves." if kind.endswith("unsub") else ""
        return (
            f"SendGrid keeps a list of its own: remove the address there too (Suppressions, {_LISTS[kind]}), or "
            f"SendGrid drops the next mail and the block comes back.{again}"
        )
    if kind in {"stop", "error_21610"}:
        return (
            "Twilio blocks this number itself until its owner texts START; nobody else can lift that. Text alerts may "
            "also be off in their profile."
        )
    if kind == "unusable":
        return "Twilio keeps no list of such numbers. The next text shows whether this one can receive any."
    return "The block was made here, so the provider has none of it."


def person(conn: Connection, text: str) -> Person:
    """The one person whom an id, an address or a name means.

    Raises:
        Refused: nobody or several people are meant; the message lists the candidates.
    """
    text = text.strip()
    wanted = as_id(text)
    if wanted is not None:
        kind = conn.execute("select programme_person_kind(%s)", (wanted,)).fetchall()[0][0]
        if kind is None:
            raise Refused(f"There is no coach, admin or competitor {wanted}.")
        return Person(kind, wanted, kind)
    found = people(conn, text, limit=NAMESAKES + 1)
    whole = [one for one in found if one.label.lower() == " ".join(text.lower().split())]
    if len(found) == 1 or len(whole) == 1:
        return whole[0] if len(whole) == 1 else found[0]
    if not found:
        raise Refused(
            "Nobody was found. Give an id, an address, or a name: a part is enough for coaches and admins, competitors "
            "and parents need the whole name."
        )
    listed = "; ".join(f"{one.id} ({named(one)})" for one in found[:NAMESAKES])
    more = "; and more" if len(found) > NAMESAKES else ""
    raise Refused(f"Several people are meant: {listed}{more}. Use one of these ids, or an address.")


def people(conn: Connection, text: str, *, limit: int) -> list[Person]:
    """The people whom a name or an address can mean, best first."""
    with refusals():
        rows = conn.execute(
            "select kind, id, label, detail from programme_find_people(%s, %s)", (text, limit)
        ).fetchall()
    return [Person(kind, who, label, detail, text if who is None else None) for kind, who, label, detail in rows]


def named(one: Person) -> str:
    """A person in words, without an address."""
    words = one.label if one.kind in {"competitor", "address", "former"} or one.label == one.kind else (
        f"{one.kind} {one.label}"
    )  # fmt: skip
    return clean(f"{words}, {one.detail}" if one.detail else words)


def sent_to(
    conn: Connection, who: Person, *, channel: str | None = None, after: str | None = None, limit: int = 200
) -> tuple[list[Sent], str | None]:
    """The messages to a person over all their addresses, newest first, and the cursor of the next page.

    Raises:
        UsageError: the cursor is not valid.
    """
    values = (channel, *_place(after), limit + 1)
    with conn.cursor(row_factory=class_row(Sent)) as cursor:
        if who.id is not None:
            cursor.execute("select * from programme_sent_to(%s, %s, %s, %s, %s)", (who.id, *values))
        else:
            cursor.execute("select * from programme_sent_to_address(%s, %s, %s, %s, %s)", (who.address, *values))
        found = cursor.fetchall()
    return found[:limit], _next([(one.at, one.id) for one in found], limit)


def reveal(conn: Connection, who: Person, *, actor: str, reason: str) -> dict[UUID, str]:
    """The whole addresses of the messages to a person, by message. Audited.

    Raises:
        Refused: the reason is empty.
    """
    with refusals():
        rows = conn.execute(
            "select id, address from programme_reveal_sent(%s, %s, %s, %s)",
            (who.id, who.address, actor, redact(reason)),
        ).fetchall()
    return dict(rows)


def _next(places: Sequence[tuple[datetime, UUID]], limit: int) -> str | None:
    if len(places) <= limit:
        return None
    at, last = places[limit - 1]
    return encode_cursor({"key": at.isoformat(), "id": str(last), "skip": 0})


def _place(after: str | None) -> tuple[datetime | None, UUID | None]:
    if after is None:
        return None, None
    cursor = decode_cursor(after)
    try:
        return datetime.fromisoformat(cursor["key"]), UUID(cursor["id"])
    except ValueError as error:
        raise UsageError(NO_CURSOR) from error


MOST: Final = 30


def find_coaches(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Coaches whose name, school or id contains the text, by name.

    School, number of competitors and a missing account tell apart namesakes. Addresses are not searched or returned.
    """
    rows = conn.execute(
        "select id, name, school, competitors, on_platform from programme_find_coaches(%s, %s)", (text.strip(), MOST)
    )
    return [
        Found(
            str(coach_id),
            name,
            f"{school}, {count} {'competitor' if count == 1 else 'competitors'}"
            f"{'' if on_platform else ', not on the platform'}",
        )
        for coach_id, name, school, count, on_platform in rows
    ]


def find_campaigns(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Campaigns whose subject, status or id contains the text, newest first, with how much of each is left to mail."""
    rows = conn.execute(
        """
        select c.id, c.subject, c.status, now() - c.created_at, count(r.id),
            count(r.id) filter (where r.status = 'queued')
        from public.competitor_announcement_campaigns c
        left join public.competitor_announcement_recipients r on r.campaign_id = c.id
        where %(text)s = '' or position(lower(%(text)s) in lower(concat_ws(' ', c.subject, c.status, c.id))) > 0
        group by c.id order by c.created_at desc, c.id limit %(limit)s
        """,
        {"text": text.strip(), "limit": MOST},
    )
    return [
        Found(str(campaign_id), subject, f"{status}, {age(old)} ago, {left} of {recipients} left to mail")
        for campaign_id, subject, status, old, recipients, left in rows
    ]
