"""Fetches delivery results from the providers, for sites without a webhook receiver or after lost events.

Reads suppression lists since the last pull, the e-mail log of categories with open messages, the status of open
texts, and answers such as STOP. The results become the same events as webhooks make; known events are ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.messaging import erased, outbox
from jobdeck.core.programme.vendors.email_wire import address_key, reason_text
from jobdeck.core.programme.vendors.errors import MessagingError
from jobdeck.core.programme.vendors.sms_wire import NOT_REGISTERED, outcomes, wish
from jobdeck.core.read import jobs
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.vendors import Clients
    from jobdeck.core.programme.vendors.email import EmailClient
    from jobdeck.core.programme.vendors.sms import SmsClient


def cursor_of(conn: psycopg.Connection[Any], name: str) -> str | None:
    """The stored position in a source, or None."""
    row = conn.execute("select position from provider_cursors where name = %s", (name,)).fetchone()
    return None if row is None else str(row[0])


def open_mail(conn: psycopg.Connection[Any], younger_than: timedelta) -> list[tuple[str, datetime]]:
    """Categories with accepted or uncertain mails younger than this, and when the first of each was sent."""
    return conn.execute(
        """
        select case kind when 'announcement' then 'campaign-' || campaign_id else kind end,
            min(coalesce(accepted_at, updated_at))
        from outbox_messages
        where channel = 'email' and state in ('accepted', 'uncertain')
            and coalesce(accepted_at, updated_at) > now() - %s::interval
        group by 1 order by 1
        """,
        (younger_than,),
    ).fetchall()


def open_texts(conn: psycopg.Connection[Any], younger_than: timedelta, limit: int) -> list[tuple[UUID, str]]:
    """The id and the provider's id of accepted text messages younger than this, oldest first."""
    return conn.execute(
        """
        select id, provider_message_id from outbox_messages
        where channel = 'sms' and state = 'accepted' and provider_message_id is not null
            and accepted_at > now() - %s::interval
        order by accepted_at limit %s
        """,
        (younger_than, limit),
    ).fetchall()


Json = dict[str, Any]

OPEN_FOR: Final = timedelta(hours=72)
"""Messages older than this are not checked any more."""

OVERLAP: Final = timedelta(minutes=10)
"""Lists are read again from this long before the last pull, because providers add some entries late."""

FIRST_TIME: Final = timedelta(days=7)
PAGE: Final = 500
LOG_PAGE: Final = 1000
"""Limit of one search in the e-mail log, which has no second page (SendGrid, "Filter all messages")."""

TEXTS: Final = 200
MOST_PAGES: Final = 200
LATEST: Final = 253_402_300_800
"""The year 10000 in unix seconds; later times are invalid."""
APPLY: Final = 1000
PULL_SECONDS: Final = 3600.0
"""Without an HTTP server that applies events, a pull is expected at least this often."""

PARTS: Final = {"mail": "pulling mail events", "text": "pulling text events"}
"""The parts of a pull, one per provider, with their names in upkeep."""

_LISTS: Final = {
    "bounces": "bounced",
    "blocks": "blocked",
    "invalid_emails": "invalid",
    "spam_reports": "spamreport",
    "unsubscribes": "unsubscribe",
}
_LOGGED: Final = {"delivered", "bounced", "blocked", "dropped"}


@dataclass(slots=True)
class Pulled:
    """The result of a pull: events and unreadable entries by source, counts, and warnings for a person."""

    sources: dict[str, int] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    new: int = 0
    applied: int = 0
    unmatched: int = 0
    failed: int = 0
    warnings: list[str] = field(default_factory=list)
    events: list[Json] = field(default_factory=list, repr=False)
    cursors: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, source: str, provider: str, make: Callable[[Any], Json | None], entry: Any) -> None:
        """Adds the event that `make` reads from an entry; None is none. An entry that it cannot read is counted."""
        try:
            made = make(entry)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.aside[source] = self.aside.get(source, 0) + 1
            return
        if made is not None:
            self.sources[source] = self.sources.get(source, 0) + 1
            self.events.append(hand_on.cleaned({"provider": provider, **made}))


def asked(settings: CompetitionSettings) -> list[str]:
    """The parts of a pull for which a provider is set."""
    return ["mail"] * (settings.sendgrid_api_key is not None) + ["text"] * settings.sms_enabled


def pull(
    conn: psycopg.Connection[Any],
    clients: Clients,
    settings: CompetitionSettings,
    *,
    actor: str,
    dry_run: bool = False,
    parts: Collection[str] = tuple(PARTS),
) -> Pulled:
    """Fetches results and applies them. Audited. With `dry_run` nothing is stored and the counts are a preview.

    Raises:
        MessagingError: a provider refused, failed or could not be reached; nothing of this pull was stored.
    """
    now = jobs.clock().run(conn)
    found = Pulled()
    wanted = [part for part in asked(settings) if part in parts]
    if "mail" in wanted:
        _Mail(conn, clients.email, settings, now, found).fetch()
    if "text" in wanted:
        _Texts(conn, clients.sms, now, found).fetch()
    if not wanted:
        found.warnings.append("Neither SENDGRID_API_KEY nor SMS_PROVIDER is set, so there is no provider to ask.")
    with conn.transaction(force_rollback=dry_run):
        _keep(conn, settings, found, actor)
        every = max(PULL_SECONDS, settings.events_pull_minutes * 60)
        for part in wanted:
            outbox.note_upkeep(conn, PARTS[part], every_seconds=every, expected=True)
    return found


def _keep(conn: psycopg.Connection[Any], settings: CompetitionSettings, found: Pulled, actor: str) -> None:
    left = dict(found.cursors)

    def record(events: Sequence[Json]) -> int:
        new = outbox.record_pulled(conn, events, left, actor=actor)
        left.clear()
        return new

    for start in range(0, len(found.events), APPLY):
        new, refused = hand_on.store(conn, erased.hidden(conn, settings, found.events[start : start + APPLY]), record)
        found.new += new
        if refused:
            found.aside["events"] = found.aside.get("events", 0) + refused
    record([])
    found.warnings += [
        f"{count} entries of {source} cannot be read or stored and were left out."
        for source, count in sorted(found.aside.items())
    ]
    while True:
        counts = outbox.apply_events(conn, limit=APPLY)
        found.applied += counts["applied"]
        found.unmatched += counts["unmatched"]
        found.failed += counts["failed"]
        if counts["seen"] < APPLY:
            break
    outbox.note_applied(conn, settings, every_seconds=PULL_SECONDS)


class _Mail:
    """Fetches results from SendGrid."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        client: EmailClient,
        settings: CompetitionSettings,
        now: datetime,
        found: Pulled,
    ) -> None:
        self._conn = conn
        self._client = client
        self._settings = settings
        self._now = now
        self._found = found

    def fetch(self) -> None:
        for name, event in _LISTS.items():
            self._list(name, event)
        group = self._settings.sendgrid_unsubscribe_group_id
        if group is not None:
            self._group(group)
        try:
            for category, since in open_mail(self._conn, OPEN_FOR):
                self._log(category, since)
        except MessagingError as error:
            # Not every account has the log; the suppression lists still report the failures.
            self._found.warnings.append(f"The e-mail log could not be read, so deliveries stay unconfirmed. {error}")

    def _list(self, name: str, event: str) -> None:
        last = cursor_of(self._conn, f"sendgrid:{name}")
        start = int(last) - int(OVERLAP.total_seconds()) if last else int((self._now - FIRST_TIME).timestamp())
        end = int(self._now.timestamp()) + 1
        for page in range(MOST_PAGES):
            query = {"start_time": start, "end_time": end, "limit": PAGE, "offset": page * PAGE}
            entries = _entries(self._client.get(("suppression", name), query))
            for entry in entries:
                self._found.add(name, "sendgrid", lambda one: _listed(name, event, one), entry)
            if len(entries) < PAGE:
                self._found.cursors[f"sendgrid:{name}"] = str(end)
                return
        self._found.warnings.append(f"SendGrid's list {name} has more than {MOST_PAGES * PAGE} entries; pull again.")

    def _group(self, group: int) -> None:
        for entry in _entries(self._client.get(("asm", "suppressions"), {})):
            if not isinstance(entry, dict) or entry.get("group_id") == group:
                self._found.add("group_unsubscribes", "sendgrid", lambda one: _left_group(group, one), entry)

    def _log(self, category: str, since: datetime) -> None:
        start = since - timedelta(minutes=1)
        for entry in self._search(category, start, self._now + timedelta(minutes=1)):
            self._found.add("log", "sendgrid", lambda one: _logged(one, self._now), entry)

    def _search(self, category: str, start: datetime, end: datetime) -> Iterator[Any]:
        """All entries of a time span. A span with too many entries is halved, down to one second."""
        query = (
            f"categories IN ('{category}') AND sg_message_id_created_at >= TIMESTAMP \"{_stamp(start)}\" "
            f'AND sg_message_id_created_at < TIMESTAMP "{_stamp(end)}"'
        )
        content = _parsed(self._client.post(("logs",), {"query": query, "limit": LOG_PAGE}))
        listed = content.get("messages") if isinstance(content, dict) else None
        entries = listed if isinstance(listed, list) else []
        half = start + (end - start) / 2
        half = half.replace(microsecond=0)
        if len(entries) < LOG_PAGE or half <= start.replace(microsecond=0):
            if len(entries) >= LOG_PAGE:
                self._found.warnings.append(
                    f"The e-mail log of {category} returns at most {LOG_PAGE} entries; some stay unconfirmed."
                )
            yield from entries
            return
        yield from self._search(category, start, half)
        yield from self._search(category, half, end)


class _Texts:
    """Fetches results from Twilio."""

    def __init__(self, conn: psycopg.Connection[Any], client: SmsClient, now: datetime, found: Pulled) -> None:
        self._conn = conn
        self._client = client
        self._now = now
        self._found = found

    def fetch(self) -> None:
        for outbox_id, sid in open_texts(self._conn, OPEN_FOR, TEXTS):
            self._status(outbox_id, sid)
        self._answers()

    def _status(self, outbox_id: UUID, sid: str) -> None:
        known = self._client.status(sid)
        shared = {"occurred_at": (known.at or self._now).timestamp(), "outbox_id": str(outbox_id), "message_key": sid}
        found = outcomes(known.status, known.error_code)
        for event, end, facts in found:
            self._add("texts", {"event_key": f"{sid}:{end}", "event": event, **facts, **shared})
        if found and known.error_code == NOT_REGISTERED:
            self._found.warnings.append(
                "Carriers refuse our text messages (30034): register the sender with Twilio (A2P 10DLC)."
            )

    def _answers(self) -> None:
        last = cursor_of(self._conn, "twilio:inbound")
        since = datetime.fromisoformat(last) - OVERLAP if last else self._now - FIRST_TIME
        for answer in self._client.inbound(since):
            event = wish(answer.body)
            if event is not None:
                at = (answer.at or self._now).timestamp()
                self._add(
                    "answers",
                    {"event_key": answer.sid, "event": event, "occurred_at": at, "address": answer.sender},
                )
        self._found.cursors["twilio:inbound"] = self._now.astimezone(UTC).isoformat()

    def _add(self, source: str, event: Json) -> None:
        self._found.add(source, "twilio", dict, event)


def _listed(name: str, event: str, entry: Json) -> Json:
    address, at = _address(entry["email"]), _created(entry.get("created"))
    return {
        "event_key": f"{name}:{address_key(address)}:{at:.0f}",
        "event": event,
        "occurred_at": at,
        "address": address,
        "reason": reason_text(entry.get("reason"), entry.get("status")),
    }


def _left_group(group: int, entry: Json) -> Json:
    address, at = _address(entry["email"]), _created(entry.get("created_at"))
    return {
        # With the time, so that somebody who leaves, comes back and leaves again is not taken for known.
        "event_key": f"group:{group}:{address_key(address)}:{at:.0f}",
        "event": "group_unsubscribe",
        "occurred_at": at,
        "address": address,
        "payload": {"asm_group_id": group},
    }


def _logged(entry: Json, now: datetime) -> Json | None:
    # SendGrid has no address for some drops, and without one nothing shows which message of a request was dropped.
    if entry.get("status") not in _LOGGED or not entry.get("sg_message_id") or not entry.get("to_email"):
        return None
    try:
        at = datetime.fromisoformat(str(entry.get("sg_message_id_created_at")))
    except ValueError:
        at = now
    address, sent = _address(entry["to_email"]), clean(str(entry["sg_message_id"]))
    return {
        "event_key": f"log:{sent[:150]}:{address_key(address)}:{entry['status']}",
        "event": entry["status"],
        "occurred_at": (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(),
        "message_key": sent[:300],
        "address": address,
        "reason": reason_text(entry.get("reason")),
    }


def _address(given: Any) -> str:
    """An address as the webhooks keep it.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(given, str) or not given.strip():
        raise ValueError("no address")
    return clean(given)[:254]


def _created(given: Any) -> float:
    return float(given) if isinstance(given, int | float) and 0 <= given < LATEST else 0.0


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise MessagingError("SendGrid's answer is not JSON. Nothing was stored; pull again later.") from None


def _entries(content: bytes) -> list[Any]:
    found = _parsed(content)
    return found if isinstance(found, list) else []


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
