"""The mail and text vendors of a sweep: the competition's sandbox, its people, and its log of accepted messages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from jobdeck.core.model import NewJob
from jobdeck.core.programme.messaging import campaigns
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.queue import producer

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

CAMPAIGN_TYPE = "competitor_announcement_dispatch"
TEXT_TYPE = "sweep_text"
WAITING_TYPES = (CAMPAIGN_TYPE, TEXT_TYPE)
"""Job types that may put a job off for a minute, after a request of which nobody knows whether it was carried out."""
PEOPLE = 50
_SPACE = UUID("3f1a5f6e-6c1b-4f0d-9b53-0b8f6f1f5a10")
RULES = ("cut-after:*:/9", "503:*:/11")
"""Each ninth request is carried out and never answered, each eleventh is refused: no kind of fault, but always so."""

PERSON = """
INSERT INTO profiles (id, email, role, full_name, first_name, last_name, school_name, is_approved, mobile_number,
    sms_notifications_enabled)
VALUES (%s, %s, 'coach', 'Sam Sweep', 'Sam', 'Sweep', 'Sweep School', true, %s, true)
ON CONFLICT DO NOTHING
"""


def person(number: int) -> UUID:
    """The id of a person who gets text messages."""
    return uuid5(_SPACE, f"person {number % PEOPLE}")


def mobile(number: int) -> str:
    """The number of that person: one of Twilio's test numbers."""
    return f"+1500555{2000 + number % PEOPLE}"


def begin_vendors() -> Sandbox:
    """The sandbox, serving, and failing some requests."""
    sandbox = Sandbox(people=False, rules=RULES)
    sandbox.start()
    return sandbox


def settings_env(sandbox: Sandbox) -> dict[str, str]:
    """The settings of messages: the sandbox, no quiet hours, and limits that a sweep does not reach."""
    return {
        **sandbox.settings_env(),
        "QUIET_HOURS": "off",
        "EMAIL_RATE_PER_SEC": "500",
        "SMS_RATE_PER_SEC": "500",
        "CAMPAIGN_BATCH_SIZE": "4",
        "CAMPAIGN_BATCH_PAUSE_SECONDS": "0",
        "PROVIDER_TIMEOUT_SECONDS": "3",
    }


def add_people(conn: Connection) -> None:
    """The sample's competitors, who get campaigns, and the people who get text messages."""
    sample.load(conn)
    for number in range(PEOPLE):
        conn.execute(PERSON, [person(number), f"sweep{number}@example.org", mobile(number)])


def campaign(conn: Connection, actor: str) -> str:
    """Creates a campaign and the job that sends it; returns the job's id."""
    with conn.transaction():
        made = campaigns.create(
            conn, subject="A sweep", body_markdown="A sweep", body_html="<p>A sweep</p>", audience="game_platform",
            coach=None, actor=actor,
        )  # fmt: skip
        new = NewJob(CAMPAIGN_TYPE, {"campaignId": str(made)}, max_attempts=50)
        return str(producer.enqueue(conn, new, actor=actor).job_id)


def accepted_messages(sandbox: Sandbox) -> list[tuple[str, str]]:
    """Each message that a vendor accepted: what it was (a campaign, or the words of a text), and to whom."""
    mails = [
        (one.categories[-1] if one.categories else one.subject, one.address.lower())
        for one in sandbox.sendgrid.accepted.all
    ]
    texts = [(one.text, hashlib.sha256(one.address.encode()).hexdigest()[:8]) for one in sandbox.twilio.accepted.all]
    return mails + texts
