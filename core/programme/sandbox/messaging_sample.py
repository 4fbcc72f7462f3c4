"""Sample data: conversations, release forms, a campaign, and the outcomes of mail to the sample's people.

Addresses are at example.org and numbers are Twilio's test numbers, so that no message reaches a person.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from jobdeck.core.programme.messaging.templates import markdown
from jobdeck.core.programme.sandbox import seed

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from jobdeck.core.programme.sandbox.sendgrid import SendGrid
    from jobdeck.core.programme.sandbox.twilio import Twilio

Row = dict[str, Any]

_SPACE: Final = UUID("b6f8e0a4-52c1-4d0f-8f57-7f6f9a1f3c11")

ADMINS: Final = (("Nadia", "Oakley"), ("Otto", "Pine"))
CAMPAIGN: Final = uuid5(_SPACE, "campaign")
"""The id of the sample's campaign, which is ready to send."""

FORMS: Final = 12
OPTED_OUT_NUMBER: Final = "+15005550004"
UNDELIVERED_NUMBER: Final = "+15005551003"
"""The numbers of a coach whom Twilio refuses, and of one whose carrier filters our texts."""

BOUNCING: Final = ("competitor9@example.org", "parent-competitor2@example.org")
BLOCKED: Final = ("competitor17@example.org", "parent-competitor5@example.org")

_WORDS: Final = (
    "Is the practice round still on Thursday?",
    "Two of my students cannot sign in yet.",
    "The release forms are on their way.",
    "Thank you, that solved it.",
    "Can a team swap a member before the finals?",
    "The schedule for Saturday is out.",
)
_ANNOUNCEMENT: Final = """The finals begin on **Saturday at 10:00**.

| Round | Starts |
|-------|--------|
| Warm-up | 10:00 |
| Finals | 11:00 |

Sign in half an hour before, and bring your team.
"""


def admin(number: int) -> UUID:
    """The id of the admin at a position."""
    return uuid5(_SPACE, f"admin {number}")


def load(cursor: psycopg.Cursor[Any], coaches: list[UUID], competitors: list[UUID]) -> None:
    """Fills the messaging tables for these people. A second call adds nothing."""
    seed.put(cursor, "profiles", [_admin_row(number) for number in range(len(ADMINS))])
    numbers = [f"+1500555{1000 + number}" for number in range(len(coaches))]
    numbers[1:2] = [OPTED_OUT_NUMBER]
    people = enumerate(zip(coaches, numbers, strict=True))
    cursor.executemany(
        seed.NUMBERS, [{"id": coach, "number": number, "sms": place != 2} for place, (coach, number) in people]
    )
    cursor.executemany(seed.CONVERSATIONS, [_conversation_row(number, coach) for number, coach in enumerate(coaches)])
    now = cursor.execute("select now()").fetchall()[0][0]
    rows = [_message_row(number, nth, coach, now) for number, coach in enumerate(coaches) for nth in range(2 + number)]
    seed.put(cursor, "messages", rows)
    # Archived without a read receipt, as the original program did.
    archived = {"user_id": coaches[-1], "message_id": rows[-1]["id"], "archived_at": now - timedelta(hours=1)}
    seed.put(cursor, "message_user_state", [archived])
    seed.put(cursor, "agreements", [_form_row(number, competitors[number], now) for number in range(FORMS)])
    cursor.execute(
        seed.CAMPAIGN,
        {
            "id": CAMPAIGN,
            "subject": "The finals begin on Saturday",
            "body_markdown": _ANNOUNCEMENT,
            "body_html": markdown(_ANNOUNCEMENT),
            "created_by": admin(0),
        },
    )


def populate(mail: SendGrid, texts: Twilio) -> None:
    """Makes mail to some addresses bounce or get blocked, and texts to one number undelivered."""
    mail.fates.update(dict.fromkeys(BOUNCING, "bounce") | dict.fromkeys(BLOCKED, "blocked"))
    texts.fates[UNDELIVERED_NUMBER] = 30007


def _admin_row(number: int) -> Row:
    first, last = ADMINS[number]
    return {
        "id": admin(number),
        "email": f"admin{number + 1}@example.org",
        "role": "admin",
        "full_name": f"{first} {last}",
        "first_name": first,
        "last_name": last,
        "school_name": "Competition office",
        "is_approved": True,
    }


def _conversation_row(number: int, coach: UUID) -> Row:
    return {
        "id": uuid5(_SPACE, f"conversation {number}"),
        "title": f"Questions {number + 1}",
        "created_by": coach,
        "members": [coach, *(admin(place) for place in range(len(ADMINS)))],
    }


def _message_row(number: int, nth: int, coach: UUID, now: datetime) -> Row:
    from_coach = nth == 0
    return {
        "id": uuid5(_SPACE, f"message {number} {nth}"),
        "conversation_id": uuid5(_SPACE, f"conversation {number}"),
        "sender_id": coach if from_coach else admin(nth % len(ADMINS)),
        "body": _WORDS[(number + nth) % len(_WORDS)],
        "created_at": now - timedelta(minutes=60 * (number + 1) - 5 * nth),
    }


def _form_row(number: int, competitor: UUID, now: datetime) -> Row:
    """A minor's release form."""
    return {
        "id": uuid5(_SPACE, f"form {number}"),
        "competitor_id": competitor,
        "provider": "zoho",
        "template_kind": "minor",
        "request_id": f"sample-{number}",
        "status": "sent",
        "created_at": now - timedelta(hours=6 + number),
    }
