"""The outbox, a ledger of messages from "decided to send" to "sent": calls of the outbox's SQL functions.

A handler records what is to be sent (`put`), claims what may go out now (`claim`), sends it without an open
transaction, and reports the outcome (`settle`). After a crash, the row shows how far the message got.
`jobdeck.core.programme.messaging.delivery` does these steps; handlers call `put`, `leave_out` and the reads.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.model import Json  # noqa: TC001 -- dataclasses keep it as a value's type
from jobdeck.core.postgres import refusals as database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from jobdeck.core.programme.settings import CompetitionSettings

Connection = psycopg.Connection[Any]
Kind = Literal["unread_alert", "admin_alert", "parent_probe", "announcement"]
Channel = Literal["email", "sms"]

PROVIDERS: Final[dict[str, str]] = {"email": "sendgrid", "sms": "twilio"}
"""The provider of each channel."""

RATE_BURST: Final = 5


@dataclass(frozen=True, slots=True)
class Policy:
    """When people may be sent messages. Caps are messages per person and day in `zone`; times are HH:MM."""

    zone: str = "UTC"
    quiet_from: str | None = None
    quiet_to: str | None = None
    cap_email: int | None = None
    cap_sms: int | None = None

    @classmethod
    def of(cls, settings: CompetitionSettings) -> Policy:
        start, _, end = settings.quiet_hours.partition("-")
        return cls(
            zone=settings.quiet_tz,
            quiet_from=start or None,
            quiet_to=end or None,
            cap_email=settings.alert_daily_cap_email,
            cap_sms=settings.alert_daily_cap_sms,
        )


@dataclass(frozen=True, slots=True)
class Intent:
    """One message to send.

    `recipient` is a profile id for alerts and a competitor id otherwise; `data` holds the values of the template.
    `window_minutes` is the minimum time since the last message of this kind and channel to this person, or None.
    """

    kind: Kind
    channel: Channel
    recipient: UUID
    address: str = field(repr=False)
    dedupe_key: str
    data: Json = field(default_factory=dict, repr=False)
    window_minutes: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outbox's answer to an intent.

    `verdict` is `queued` (send it now), `waiting` (its next attempt is later), `in_flight`, `sent`, `uncertain` or
    `failed` (the state of an earlier message with this dedupe key), or why it must not be sent: `suppressed`,
    `unsubscribed`, `opted_out`, `number_unusable`, `preference_off`, `window`, `daily_cap`, `quiet_hours`.
    """

    intent: Intent
    id: UUID | None
    verdict: str

    @property
    def sendable(self) -> bool:
        """Whether it may be claimed and sent now."""
        return self.verdict == "queued"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A person who gets no message, and the reason: a short word such as `no_channel`."""

    kind: Kind
    recipient: UUID | None
    reason: str
    channel: Channel | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that only this run may send, once; `attempt` is the fencing number."""

    id: UUID
    attempt: int
    kind: Kind
    channel: Channel
    recipient_ref: UUID
    address: str = field(repr=False)
    data: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one attempt. `wait` is seconds until a retry; after `most_attempts` the message has failed."""

    id: UUID
    attempt: int
    outcome: Literal["accepted", "retry", "failed", "uncertain"]
    provider_message_id: str | None = None
    segments: int | None = None
    error_class: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    wait: float = 0.0
    most_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep gave up: attempts whose sender died (`uncertain`), and alerts not sent within a day (`expired`)."""

    uncertain: int
    expired: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """One message, or one person left out (`left_out` is the reason); the address is masked."""

    job_id: UUID | None
    run_token: int | None
    outbox_id: UUID | None
    campaign_id: UUID | None
    kind: str
    channel: str | None
    recipient_ref: UUID | None
    address: str
    state: str
    attempts: int
    provider_message_id: str | None
    segments: int | None
    created_at: datetime
    accepted_at: datetime | None
    last_event: str | None
    last_event_at: datetime | None
    error_class: str | None
    error_code: str | None
    left_out: str | None


@contextmanager
def refusals() -> Iterator[None]:
    """Converts refusals of the SQL functions into errors of Jobdeck.

    Raises:
        Refused: the function refused, with its message.
        ConfigurationError: the database does not know the time zone `QUIET_TZ`.
    """
    with database.refusals():
        try:
            yield
        except psycopg.errors.InvalidParameterValue as error:
            if "time zone" in (error.diag.message_primary or ""):
                raise ConfigurationError(
                    "The database does not know the time zone in QUIET_TZ. Write it like America/New_York."
                ) from None
            raise


def put(
    conn: Connection,
    intents: Sequence[Intent],
    policy: Policy,
    *,
    job_id: UUID | None,
    run_token: int | None,
    dry_run: bool = False,
) -> list[Decision]:
    """Records intents in the caller's transaction; returns one decision for each, in order.

    People who must not be sent a message are recorded with the reason. With `dry_run` nothing is written.

    Raises:
        ConfigurationError: the database does not know the time zone `QUIET_TZ`.
    """
    given = (_rows(intents), json.dumps(asdict(policy)))
    with refusals():
        if dry_run:
            found = conn.execute(
                "select place, id, decision from outbox_preview(%s::jsonb, %s::jsonb) order by place", given
            )
        else:
            found = conn.execute(
                "select place, id, decision from outbox_put(%s::jsonb, %s::jsonb, %s, %s) order by place",
                (*given, job_id, run_token),
            )
        rows = found.fetchall()
    return [Decision(intents[place - 1], found, verdict) for place, found, verdict in rows]


def leave_out(conn: Connection, people: Sequence[LeftOut], *, job_id: UUID | None, run_token: int | None) -> None:
    """Records people whom the handler itself leaves out."""
    if people:
        conn.execute("select outbox_leave_out(%s::jsonb, %s, %s)", (_rows(people), job_id, run_token))


def claim(
    conn: Connection, ids: Sequence[UUID], *, lease_seconds: float, job_id: UUID | None, run_token: int | None
) -> list[Claimed]:
    """Claims the messages that may be sent now. Messages that are not returned must not be sent."""
    with conn.cursor(row_factory=class_row(Claimed)) as cursor:
        return cursor.execute(
            "select * from outbox_claim(%s, %s, %s, %s)", (list(ids), lease_seconds, job_id, run_token)
        ).fetchall()


def settle(conn: Connection, results: Sequence[Result]) -> dict[UUID, str]:
    """Reports attempts; returns the new state of each message whose report was accepted."""
    return dict(conn.execute("select id, state from outbox_settle(%s::jsonb)", (_rows(results),)).fetchall())


def sweep(conn: Connection) -> Swept:
    """Marks messages of dead senders as `uncertain`. Every messaging job calls this first."""
    with conn.cursor(row_factory=class_row(Swept)) as cursor:
        return cursor.execute("select uncertain, expired from outbox_sweep()").fetchall()[0]


def decide(conn: Connection, ids: Sequence[UUID], *, send_again: bool, actor: str) -> int:
    """Queues uncertain messages again or gives them up, as a person decided; returns their number. Audited."""
    row = conn.execute("select outbox_decide(%s, %s, %s)", (list(ids), send_again, actor)).fetchall()[0]
    return int(row[0])


def reserve(conn: Connection, provider: str, rate: float, *, longest: float) -> float | None:
    """Reserves the next request within a provider's rate limit, which all workers share.

    Args:
        conn: the database.
        provider: `sendgrid` or `twilio`.
        rate: requests per second.
        longest: longest acceptable wait in seconds.

    Returns:
        Seconds to wait before the request; None, and nothing is reserved, if that is more than `longest`.
    """
    row = conn.execute("select outbox_reserve(%s, %s, %s, %s)", (provider, rate, RATE_BURST, longest)).fetchall()[0]
    return None if row[0] is None else float(row[0])


def close_provider(conn: Connection, provider: str, seconds: float) -> None:
    """Makes all workers pause their requests to a provider for `seconds`."""
    conn.execute("select outbox_close_provider(%s, %s)", (provider, seconds))


def closed_for(conn: Connection, provider: str) -> float:
    """Seconds left of a provider's pause; 0 if there is none."""
    return float(conn.execute("select outbox_closed_for(%s)", (provider,)).fetchall()[0][0])


def record_events(conn: Connection, events: Sequence[Json]) -> int:
    """Stores delivery events, each once by provider and `event_key`; returns the number of new ones.

    `email_wire` and `sms_wire` make these events. Answer the provider after the commit; `apply_events` does the rest.
    """
    return int(conn.execute("select outbox_record_events(%s::jsonb)", (json.dumps(list(events)),)).fetchall()[0][0])


def record_pulled(conn: Connection, events: Sequence[Json], cursors: Mapping[str, str], *, actor: str) -> int:
    """Stores fetched events like `record_events`, and the position in each source. Audited."""
    kept = (json.dumps(list(events)), json.dumps(dict(cursors)), actor)
    return int(conn.execute("select outbox_record_pulled(%s::jsonb, %s::jsonb, %s)", kept).fetchall()[0][0])


def apply_events(conn: Connection, *, limit: int = 1000) -> Json:
    """Applies up to `limit` waiting events, oldest first; returns counts: seen, applied, unmatched, failed.

    The result depends on the precedence of outcomes, not on the order or number of the events.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select seen, applied, unmatched, failed from outbox_apply_events(%s)", (limit,)
        ).fetchall()[0]


def note_applied(conn: Connection, settings: CompetitionSettings, *, every_seconds: float) -> None:
    """Records that events were applied, and how often they are, unless no messages are sent at all."""
    sending = settings.sendgrid_api_key is not None or settings.sms_enabled
    note_upkeep(conn, "events", every_seconds=every_seconds, expected=sending)


def note_upkeep(
    conn: Connection, part: str, *, every_seconds: float, expected: bool, trouble: str | None = None
) -> None:
    """Records that a part of upkeep has succeeded, or its `trouble`, and how often it is expected to.

    Health raises an alarm when it has not succeeded for three times that long. What is not `expected` raises none.
    """
    conn.execute("select outbox_note_upkeep(%s, %s, %s, %s)", (part, every_seconds, expected, trouble))


def receipts(
    conn: Connection,
    *,
    job_id: UUID | None = None,
    run_token: int | None = None,
    campaign_id: UUID | None = None,
    limit: int = 200,
) -> list[Receipt]:
    """Messages and left-out people of a job, of one of its runs, or of a campaign; masked, oldest first."""
    with conn.cursor(row_factory=class_row(Receipt)) as cursor:
        return cursor.execute(
            """
            select * from outbox_receipts
            where (%(job)s::uuid is null or job_id = %(job)s)
                and (%(run)s::bigint is null or run_token = %(run)s)
                and (%(campaign)s::uuid is null or campaign_id = %(campaign)s)
            order by created_at, outbox_id, recipient_ref limit %(limit)s
            """,
            {"job": job_id, "run": run_token, "campaign": campaign_id, "limit": limit},
        ).fetchall()


def reveal(
    conn: Connection, *, job_id: UUID | None = None, campaign_id: UUID | None = None, actor: str, reason: str
) -> dict[UUID, str]:
    """Full addresses by message id; the access and its reason are audited.

    Raises:
        Refused: the reason is empty.
    """
    with refusals():
        rows = conn.execute(
            "select outbox_id, address from outbox_reveal(%s, %s, %s, %s)", (job_id, campaign_id, actor, reason)
        ).fetchall()
    return dict(rows)


def _rows(values: Sequence[Intent | LeftOut | Result]) -> str:
    """The values as a JSON array for the SQL functions, whose keys are the field names."""
    return json.dumps([asdict(value) for value in values], default=_id_text)


def _id_text(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
