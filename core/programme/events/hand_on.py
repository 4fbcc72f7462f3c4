"""Delivery events on their way into the database, and the second receiver that gets those that are not ours.

Their texts are hostile. One event that cannot be stored costs no other. A second receiver is, for example, the
application from which Jobdeck takes over: it gets the request as SendGrid sent it, the same bytes with the headers of
the signature. The request is stored in the transaction that stores its events, and sent later by `hand_on_one`, in
another thread. So SendGrid's answer does not wait for the second receiver, and nothing is lost while that one is away.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psycopg

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.logs import event
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.sync.rules import as_id
from jobdeck.core.programme.vendors.email_wire import SIGNATURE, TIMESTAMP
from jobdeck.core.redact import clean, safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydantic import SecretStr

    from jobdeck.core.settings import Settings


SECONDS: Final = 15.0
"""Limit of one request, from the first byte to the last."""

HANDED_ON: Final = "X-Jobdeck-Handed-On"
"""The header of requests that were handed on. A receiver hands none of them on again, so that no request goes round."""

_PORTS: Final = {"https": 443, "http": 80}


def check(url: SecretStr, own: str) -> None:
    """Checks that the second receiver is not this one.

    Raises:
        ConfigurationError: `url` is the address `own`, or an address of this server's own endpoint.
    """
    if own and _place(url.get_secret_value()) == _place(own):
        raise ConfigurationError(
            "SENDGRID_EVENT_FORWARD_URL is the address of this server itself. Set it to the other receiver's address, "
            "or remove it."
        )


def hand_on(url: SecretStr, body: bytes, signature: str, signed_at: str) -> str | None:
    """Sends one request to the second receiver.

    Returns:
        None if it answered with 2xx, else why not, in a few words without the address, which may have a token in it.
    """
    import httpx  # noqa: PLC0415 -- imported on first use

    from jobdeck.core.programme.vendors.exchange import ending_within, open_client  # noqa: PLC0415 -- the same

    address = url.get_secret_value()
    headers = {"Content-Type": "application/json", SIGNATURE: signature, TIMESTAMP: signed_at, HANDED_ON: "1",
               "User-Agent": "jobdeck"}  # fmt: skip
    try:
        with (
            open_client(address, timeout=SECONDS) as client,
            ending_within(SECONDS),
            client.stream("POST", address, content=body, headers=headers) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the second receiver could not be reached ({type(error).__name__})"
    return None if 200 <= status < 300 else f"the second receiver answered {status}"


def _place(url: str) -> tuple[str, int | None, str]:
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/")


Json = dict[str, Any]

log = logging.getLogger(__name__)


def cleaned(made: Json) -> Json:
    """The event with texts that the database can store."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in made.items()} | {
        "payload": {name: clean(str(value)) for name, value in made.get("payload", {}).items()}
    }


def of_another_group(made: Json, group: int | None) -> bool:
    """Whether the event is about an unsubscribe group that is not `group`.

    It changes nothing here. Without a group of our own, or without one in the event, it counts as ours: a message too
    few is better than one to somebody who unsubscribed.
    """
    named = made.get("payload", {}).get("asm_group_id")
    return (
        group is not None
        and named is not None
        and made["event"] in {"group_unsubscribe", "group_resubscribe"}
        and named != str(group)
    )


def store(
    conn: psycopg.Connection[Any], events: Sequence[Json], record: Callable[[Sequence[Json]], int]
) -> tuple[int, int]:
    """Stores events with `record`, together or, if the database refuses one, one by one.

    Returns:
        The number of new events, and of those that cannot be stored.
    """
    try:
        with conn.transaction():
            return record(events), 0
    except psycopg.DataError:
        pass
    new = refused = 0
    for one in events:
        try:
            with conn.transaction():
                new += record([one])
        except psycopg.DataError as error:
            refused += 1
            # The message of the server alone: its detail and context quote the event.
            event(log, logging.WARNING, "an event cannot be kept", error=safe_error(error.diag.message_primary or ""))
    return new, refused


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
    trouble = hand_on(url, body, signature, signed_at)
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
