"""Keyed hashes of addresses that were erased, and the checks that keep such an address from a second message.

The database has only the hash. The key is the setting `JOBDECK_ERASURE_KEY`, and never leaves the process.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.http.clients.proof import MAKE, weakness
from jobdeck.core.programme.vendors.email_wire import address_key
from jobdeck.core.programme.vendors.errors import SettingMissing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.messaging.outbox import Intent
    from jobdeck.core.programme.settings import CompetitionSettings

    Connection = psycopg.Connection[Any]

SETTING: Final = "JOBDECK_ERASURE_KEY"
_CONSTANT: Final = "the check of the key"


class Marker:
    """Makes the hashes of one key.

    Raises:
        SettingMissing: the key is not set, or is a bad secret.
    """

    def __init__(self, settings: CompetitionSettings) -> None:
        key = settings.erasure_key.get_secret_value().strip() if settings.erasure_key is not None else ""
        if not key:
            raise SettingMissing(f"{SETTING} is not set. Erased addresses are hashed with it; make one with `{MAKE}`.")
        if (problem := weakness(key)) is not None:
            raise SettingMissing(f"{SETTING} {problem}. Make a good one with `{MAKE}`.")
        self._key = key.encode()
        self.check = self.mark(_CONSTANT)

    def mark(self, address: str) -> str:
        """What the database has in the place of an erased address, which is given as the outbox stores it."""
        return f"erased-{hmac.new(self._key, address.encode(), 'sha256').hexdigest()}"


def marker(conn: Connection, settings: CompetitionSettings) -> Marker | None:
    """The marker of the key with which people were erased; None if nobody was.

    Raises:
        SettingMissing: this process does not have that key.
    """
    known = conn.execute("select outbox_erasure_check()").fetchall()[0][0]
    if known is None:
        return None
    if settings.erasure_key is None:
        raise SettingMissing(
            f"People were erased from this database, and without {SETTING} a message could go to one of them. Set "
            "it to the key with which they were erased."
        )
    made = Marker(settings)
    if made.check != known:
        raise SettingMissing(f"{SETTING} is not the key with which people were erased from this database.")
    return made


def normal(channel: str, address: str) -> str:
    """An address as the outbox stores it (`outbox_normal`)."""
    return address.strip().lower() if channel == "email" else address.strip()


def verdicts(conn: Connection, settings: CompetitionSettings, intents: Sequence[Intent]) -> dict[int, str]:
    """Which of these must not be sent because of what was recorded before an erasure, by place, with the reason.

    Raises:
        SettingMissing: the key is missing.
    """
    made = marker(conn, settings) if intents else None
    if made is None:
        return {}
    found: dict[int, str] = {}
    for kind, channel in dict.fromkeys((one.kind, one.channel) for one in intents):
        places = {at: one for at, one in enumerate(intents) if (one.kind, one.channel) == (kind, channel)}
        marks = {at: made.mark(normal(channel, one.address)) for at, one in places.items()}
        barred = _barred(conn, kind, channel, None, marks.values())
        sent = _sent(conn, {at: _erased_key(one, marks[at]) for at, one in places.items()})
        found |= {
            at: "sent" if at in sent else barred[mark] for at, mark in marks.items() if at in sent or mark in barred
        }
    return found


def skip_recipients(conn: Connection, settings: CompetitionSettings, campaign: UUID) -> None:
    """Skips the queued recipients of a campaign who must not be mailed because of what was recorded before an erasure.

    Raises:
        SettingMissing: the key is missing.
    """
    made = marker(conn, settings)
    if made is None:
        return
    queued = conn.execute(
        "select id, email from competitor_announcement_recipients where campaign_id = %s and status = 'queued'",
        (campaign,),
    ).fetchall()
    marks = {recipient: made.mark(normal("email", address)) for recipient, address in queued}
    barred = _barred(conn, "announcement", "email", campaign, marks.values())
    skipped = {recipient: barred[mark] for recipient, mark in marks.items() if mark in barred}
    if skipped:
        conn.execute(
            "select outbox_campaign_skip(%s, %s::uuid[], %s::text[])",
            (campaign, list(skipped), list(skipped.values())),
        )


def hidden(conn: Connection, settings: CompetitionSettings, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, with the hash in the place of an address that was erased. Without the key they stay as they are."""
    try:
        made = marker(conn, settings)
    except SettingMissing:
        made = None
    if made is None:
        return list(events)
    marks = {
        at: made.mark(normal("sms" if one["provider"] == "twilio" else "email", one["address"]))
        for at, one in enumerate(events)
        if one.get("address")
    }
    rows = conn.execute("select outbox_erased_known(%s::text[])", (list(marks.values()),)).fetchall()
    known = {row[0] for row in rows}
    return [_hidden(one, marks[at]) if marks.get(at) in known else one for at, one in enumerate(events)]


def _hidden(event: dict[str, Any], mark: str) -> dict[str, Any]:
    key = str(event["event_key"]).replace(address_key(event["address"]), mark)
    return event | {"address": mark, "event_key": key}


def _barred(
    conn: Connection, kind: str, channel: str, campaign: UUID | None, marks: Iterable[str]
) -> Mapping[str, str]:
    return dict(
        conn.execute(
            "select mark, reason from outbox_erased(%s, %s, %s, %s::text[])", (kind, channel, campaign, list(marks))
        ).fetchall()
    )


def _erased_key(intent: Intent, mark: str) -> str:
    """The dedupe key that a message of this intent has after an erasure of its address."""
    return intent.dedupe_key.replace(normal(intent.channel, intent.address), mark)


def _sent(conn: Connection, keys: Mapping[int, str]) -> set[int]:
    """The places whose message was sent before the erasure."""
    rows = conn.execute(
        "select dedupe_key from outbox_messages where dedupe_key = any (%s::text[]) and address_norm like 'erased-%%' "
        "and state not in ('queued', 'suppressed')",
        (list(keys.values()),),
    ).fetchall()
    known = {row[0] for row in rows}
    return {at for at, key in keys.items() if key in known}
