"""The pages Suppressions and Sent To of the dashboard: rows, search and actions."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import Refused
from jobdeck.core.plugins import Found
from jobdeck.core.programme import people
from jobdeck.core.programme.sync.rules import as_id
from jobdeck.core.queue.calls import actor
from jobdeck.core.redact import clean, safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.people import Person, Sent

    Connection = psycopg.Connection[Any]
    Row = Sequence[str]

MOST: Final = 500
"""Maximum number of rows of a page."""
CANDIDATES: Final = 20
KIND, CHANNEL, PERSON = "kind:", "channel:", "person:"
"""The beginnings of the ids of what the search of Suppressions finds."""
_WORDS: Final = {"email": "mail", "sms": "text", "all": "everything"}


def suppressions(conn: Connection, wanted: str) -> list[tuple[str, ...]]:
    """The blocks of a kind, a channel, a person, or all; after the columns, each has its id and its kind."""
    found, _ = people.blocks(
        conn,
        kind=_rest(wanted, KIND),
        channel=_rest(wanted, CHANNEL),
        person=_person(conn, wanted.removeprefix(PERSON)) if wanted.startswith(PERSON) else None,
        limit=MOST,
    )
    return [
        (
            f"{one.since.astimezone(UTC):%Y-%m-%d}",
            _WORDS.get(one.channel, one.channel),
            safe_text(one.address),
            people.KINDS.get(one.kind, one.kind),
            _WORDS.get(one.scope, one.scope),
            safe_text(one.source),
            str(one.id),
            one.kind,
            one.channel,
        )
        for one in found
    ]


def find_suppressions(conn: Connection, text: str) -> list[Found]:
    """What the list of blocks can be narrowed down to: kinds and channels with this text, and people."""
    words = text.lower().strip()
    kinds = [Found(KIND + kind, said, "kind of block") for kind, said in people.KINDS.items() if words in said]
    channels = [Found(CHANNEL + name, said, "channel") for name, said in (("email", "mail"), ("sms", "texts"))
                if words in said]  # fmt: skip
    found = find_people(conn, text) if words else []
    return [*(Found(PERSON + one.id, one.label, one.detail) for one in found), *channels, *kinds]


def find_people(conn: Connection, text: str) -> list[Found]:
    """The people whom an id, a name or an address can mean; the id of an address is the address itself."""
    text = text.strip()
    if as_id(text) is not None:
        try:
            who = people.person(conn, text)
        except Refused:
            return []
        return [Found(str(who.id), who.label, "")]
    return [
        Found(str(one.id or one.address), clean(one.label), clean(", ".join(filter(None, (one.kind, one.detail)))))
        for one in people.people(conn, text, limit=CANDIDATES)
    ]


def block_address(conn: Connection, row: Row, answers: Mapping[str, str]) -> str:
    """Blocks an address for all messages."""
    del row
    made = people.block(conn, answers["address"], scope="all", actor=actor(), reason=answers["reason"])
    return f"Blocked {made.address}: messages to it are left out."


def block_command(row: Row, answers: Mapping[str, str]) -> str:
    """The command that blocks an address."""
    del row
    return f"jobdeck suppressions add {shlex.quote(answers['address'])} {_reason(answers)} --yes"


def about_blocking(row: Row) -> str:
    """What blocking does."""
    del row
    return "Nothing more is sent to a blocked address, even when another person has it."


def lift_block(conn: Connection, row: Row, answers: Mapping[str, str]) -> str:
    """Lifts the block of a row."""
    [lifted] = people.lift(conn, row[6], actor=actor(), reason=answers["reason"])
    return f"Lifted the block of {lifted.address}. {people.remains(lifted.channel, lifted.kind)}"


def lift_command(row: Row, answers: Mapping[str, str]) -> str:
    """The command that lifts the block of a row."""
    return f"jobdeck suppressions lift {row[6]} {_reason(answers)} --yes"


def about_lifting(row: Row) -> str:
    """What is blocked and why, and what the provider still has."""
    return f"{row[2]}: {row[3]} since {row[0]}. {people.remains(row[8], row[7])}"


def sent_to(conn: Connection, wanted: str) -> list[tuple[str, ...]]:
    """The messages to a person, none without one; after the columns, each has its id and the person's."""
    if not wanted:
        return []
    found, _ = people.sent_to(conn, _person(conn, wanted), limit=MOST)
    return [
        (
            _when(one.at),
            one.kind.replace("_", " "),
            safe_text(one.address) or _WORDS.get(one.channel, one.channel),
            one.state,
            _event(one),
            str(one.job_id)[-8:] if one.job_id else one.sender,
            str(one.id),
            wanted,
        )
        for one in found
    ]


def reveal(conn: Connection, row: Row, answers: Mapping[str, str]) -> str:
    """The whole address of a message. Audited."""
    whole = people.reveal(conn, _person(conn, row[7]), actor=actor(), reason=answers["reason"])
    address = whole.get(_id(row[6]))
    return f"The message went to {address}." if address else "No address of this message is known."


def reveal_command(row: Row, answers: Mapping[str, str]) -> str:
    """The command that shows the addresses of the person's messages."""
    return f"jobdeck sent-to {shlex.quote(row[7])} --reveal {shlex.quote(answers['reason'])}"


def about_revealing(row: Row) -> str:
    """That it is recorded."""
    return f"The message of {row[0]}. Viewing its address is recorded in the audit log, with your reason."


def _person(conn: Connection, key: str) -> Person:
    return people.Person("person", as_id(key), "") if as_id(key) else people.person(conn, key)


def _id(text: str) -> UUID:
    found = as_id(text)
    assert found is not None  # noqa: S101 -- a row of this page has it
    return found


def _rest(wanted: str, beginning: str) -> str | None:
    return wanted.removeprefix(beginning) if wanted.startswith(beginning) else None


def _reason(answers: Mapping[str, str]) -> str:
    return f"--reason {shlex.quote(answers['reason'])}"


def _when(moment: datetime) -> str:
    """A time in UTC: without the year in this year, without the time in others, so that the columns fit."""
    at = moment.astimezone(UTC)
    return f"{at:%m-%d %H:%M}" if at.year == datetime.now(UTC).year else f"{at:%Y-%m-%d}"


def _event(one: Sent) -> str:
    """The day of the last event, with its name where the state does not say it."""
    name = "" if one.last_event == one.state else one.last_event or ""
    day = f"{one.last_event_at.astimezone(UTC):%m-%d}" if one.last_event_at else ""
    return safe_text(f"{name} {day}".strip())
