"""Hands requests of SendGrid on to a second receiver, when not all of their events are ours.

A request is stored in the transaction that stores its events, and sent later by `hand_on_one`, in another thread. So
SendGrid's answer does not wait for the second receiver, and nothing is lost while that one is away.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.logs import event
from jobdeck.core.programme.events import second_receiver
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.sync.rules import as_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from jobdeck.core.settings import Settings

Json = dict[str, Any]

log = logging.getLogger(__name__)

HANDING_ON: Final = "handing events on"
EVERY_SECONDS: Final = 60.0
TAKEN_SECONDS: Final = 120.0
"""For this time no other server sends the same request."""

REST_SECONDS: Final = 10.0
"""After an attempt that failed, none is made for this time."""

FIRST_WAIT: Final = 30.0
LONGEST_WAIT: Final = 900.0
_IDS: Final = ("outbox_id", "campaign_id", "competitor_id", "agreement_id")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request for the second receiver; `about` has hashes of the addresses in it, and ids."""

    body: bytes = field(repr=False)
    signature: str
    signed_at: str
    about: list[str]


def wanted(body: bytes, signature: str, signed_at: str) -> SignedRequest | None:
    """The request for the second receiver; None if all of its events are about messages of our outbox.

    Only mail of our outbox has an `outbox_id` among its arguments.
    """
    content = json.loads(body)
    entries = [entry for entry in (content if isinstance(content, list) else [content]) if isinstance(entry, dict)]
    if all(as_id(str(_argument(entry, "outbox_id"))) for entry in entries):
        return None
    about = {text for entry in entries for text in _about(entry)}
    return SignedRequest(body, signature, signed_at, sorted(about))


def keep(conn: psycopg.Connection[Any], request: SignedRequest) -> None:
    """Stores a request in the caller's transaction, until it was handed on."""
    conn.execute(
        "select outbox_request_keep(%s, %s, %s, %s)",
        (request.body, request.signature, request.signed_at, request.about),
    )


def hand_on_one(conn: psycopg.Connection[Any], settings: Settings) -> bool:
    """Hands the request on that has waited longest; answers whether others may be next."""
    url = settings.of(CompetitionSettings).sendgrid_event_forward_url
    if url is None:
        outbox.note_upkeep(conn, HANDING_ON, every_seconds=EVERY_SECONDS, expected=False)
        return False
    if _rests(conn):
        return False
    row = conn.execute("select id, body, signature, signed_at, attempts from outbox_request_take(%s)", (TAKEN_SECONDS,))
    taken = row.fetchone()
    if taken is None:
        # Those that wait for their next attempt keep the alarm.
        if not conn.execute("select exists (select from provider_requests)").fetchall()[0][0]:
            outbox.note_upkeep(conn, HANDING_ON, every_seconds=EVERY_SECONDS, expected=True)
        return False
    number, body, signature, signed_at, attempts = taken
    trouble = second_receiver.hand_on(url, body, signature, signed_at)
    wait = None if trouble is None else min(FIRST_WAIT * 2 ** min(attempts - 1, 10), LONGEST_WAIT)
    conn.execute("select outbox_request_settle(%s, %s)", (number, wait))
    outbox.note_upkeep(conn, HANDING_ON, every_seconds=EVERY_SECONDS, expected=True, trouble=trouble)
    if trouble is not None:
        event(log, logging.WARNING, "a request with events was not handed on", reason=trouble, attempts=attempts)
    return trouble is None


def _rests(conn: psycopg.Connection[Any]) -> bool:
    """Whether an attempt has just failed. New requests wake this upkeep, and not each is to try during an outage."""
    return bool(
        conn.execute(
            "select exists (select from job_upkeep where part = %s and failed_at > now() - make_interval(secs => %s))",
            (HANDING_ON, REST_SECONDS),
        ).fetchall()[0][0]
    )


def _about(entry: Json) -> Iterator[str]:
    address = entry.get("email")
    if isinstance(address, str) and address.strip():
        yield hashlib.sha256(address.strip().lower().encode(errors="replace")).hexdigest()
    for name in _IDS:
        if found := as_id(str(_argument(entry, name))):
            yield str(found)


def _argument(entry: Json, name: str) -> Any:
    given = entry.get("custom_args")
    return entry.get(name, given.get(name) if isinstance(given, dict) else None)
