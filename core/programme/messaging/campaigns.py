"""Campaigns: makes one, previews its audience, acquires it, claims batches, mails and settles them, releases it.

Each call of the database is one transaction. A batch that was certainly not sent is queued again. The recipients of a
batch that may have been sent become uncertain, and are not mailed again automatically.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row, dict_row

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.delivery import word_of
from jobdeck.core.programme.messaging.outbox import PROVIDERS, Result, refusals
from jobdeck.core.programme.vendors.email import Addressee, Email, EmailClient
from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    RateLimited,
    RecipientRefused,
    TooLarge,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import psycopg

    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Start:
    """The result of `start`.

    `verdict` is `started`, `resumed`, `not_found`, `draft`, `busy`, `lost`, `done` or `failed`.
    """

    verdict: str
    status: str | None
    subject: str | None = field(repr=False)
    body_markdown: str | None = field(repr=False)

    @property
    def taken(self) -> bool:
        return self.verdict in {"started", "resumed"}


@dataclass(frozen=True, slots=True)
class Mailed:
    """One message of a batch, in flight; `attempt` is the fencing number."""

    id: UUID
    attempt: int
    batch: UUID
    recipient_id: UUID
    competitor_id: UUID
    address: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stats:
    """A campaign's recipients by status; `skipped` counts by reason."""

    by_status: dict[str, int]
    skipped: dict[str, int]
    opened: int
    clicked: int

    @property
    def total(self) -> int:
        """All recipients, including skipped ones."""
        return sum(self.by_status.values()) + sum(self.skipped.values())

    @property
    def accepted(self) -> int:
        """Recipients whose mail the provider accepted, whether or not it was delivered."""
        taken = ("unconfirmed", "delivered", "blocked", "dropped", "bounced")
        return sum(self.by_status.get(status, 0) for status in taken)

    def of(self, status: str) -> int:
        """Number of recipients with this status (except `skipped`)."""
        return self.by_status.get(status, 0)


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign, without its text."""

    id: UUID
    subject: str = field(repr=False)
    status: str
    created_at: datetime
    created_by_actor: str | None
    audience: str | None
    coach_id: UUID | None
    started_at: datetime | None
    completed_at: datetime | None
    failed_reason: str | None
    dispatch_job_id: UUID | None
    send_attempt: int
    held: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that sends a campaign, or wants to: nobody else holds it for `lease_seconds` after each call."""

    conn: psycopg.Connection[Any]
    campaign: UUID
    job_id: UUID
    token: int
    lease_seconds: float

    def start(self) -> Start:
        """Acquires the campaign; messages that an earlier run left in flight become uncertain."""
        with self.conn.cursor(row_factory=class_row(Start)) as cursor:
            return cursor.execute(
                "select verdict, status, subject, body_markdown from outbox_campaign_start(%s, %s, %s, %s)",
                (self.campaign, self.job_id, self.token, self.lease_seconds),
            ).fetchall()[0]

    def hold(self) -> bool:
        """Renews the lease; False if this run has lost the campaign."""
        given = (self.campaign, self.job_id, self.token, self.lease_seconds)
        return bool(self.conn.execute("select outbox_campaign_hold(%s, %s, %s, %s)", given).fetchall()[0][0])

    def next_batch(self, size: int, coach: UUID | None) -> list[Mailed]:
        """Claims the next recipients; those who must not be mailed are skipped with the reason.

        Empty if nobody is left or this run has lost the campaign; `hold` tells the two apart.
        """
        with self.conn.cursor(row_factory=class_row(Mailed)) as cursor:
            return cursor.execute(
                "select * from outbox_campaign_batch(%s, %s, %s, %s, %s, %s)",
                (self.campaign, self.job_id, self.token, size, self.lease_seconds, coach),
            ).fetchall()

    def release(self, status: Literal["partially_failed", "failed"], reason: str) -> None:
        """Releases the campaign, if this run still has it; status and reason are stored if recipients are left."""
        given = (self.campaign, self.job_id, self.token, status, reason)
        self.conn.execute("select outbox_campaign_release(%s, %s, %s, %s, %s)", given)


def settle_batch(
    conn: psycopg.Connection[Any],
    batch: UUID,
    outcome: Literal["accepted", "returned", "failed", "uncertain"],
    *,
    provider_message_id: str | None = None,
    http_status: int | None = None,
    error_class: str | None = None,
    error: str | None = None,
) -> int:
    """Stores the outcome of a batch for its messages that are still in flight; returns their number."""
    row = conn.execute(
        "select outbox_settle_batch(%s, %s, %s, %s, %s, %s)",
        (batch, outcome, provider_message_id, http_status, error_class, error),
    ).fetchall()[0]
    return int(row[0])


def reopen(
    conn: psycopg.Connection[Any], campaign: UUID, *, retry_failed: bool, include_uncertain: bool, actor: str
) -> int:
    """Reopens a campaign as a person decided; returns the number of recipients to mail.

    Raises:
        Refused: the campaign does not exist, is being sent, or has nobody left to mail.
    """
    with refusals():
        row = conn.execute(
            "select outbox_campaign_reopen(%s, %s, %s, %s)", (campaign, retry_failed, include_uncertain, actor)
        ).fetchall()[0]
    return int(row[0])


def stats(conn: psycopg.Connection[Any], campaign: UUID) -> Stats:
    rows = conn.execute(
        "select status, skip_reason, people, opened, clicked from outbox_campaign_stats(%s)", (campaign,)
    ).fetchall()
    return Stats(
        {status: people for status, _, people, _, _ in rows if status != "skipped"},
        {reason or "unknown": people for status, reason, people, _, _ in rows if status == "skipped"},
        sum(opened for *_, opened, _ in rows),
        sum(clicked for *_, clicked in rows),
    )


def batches(conn: psycopg.Connection[Any], campaign: UUID) -> int:
    """Number of requests sent for a campaign so far."""
    return int(conn.execute("select count(*) from send_batches where campaign_id = %s", (campaign,)).fetchall()[0][0])


def find(conn: psycopg.Connection[Any], campaign: UUID) -> Campaign | None:
    with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        return cursor.execute(
            """
            select id, subject, status, created_at, created_by_actor, audience, coach_id, started_at, completed_at,
                failed_reason, dispatch_job_id, send_attempt, coalesce(lease_until > now(), false) as held
            from competitor_announcement_campaigns where id = %s
            """,
            (campaign,),
        ).fetchone()


def words(conn: psycopg.Connection[Any], campaign: UUID) -> tuple[str, str] | None:
    """Subject and Markdown of a campaign, or None."""
    row = conn.execute(
        "select subject, body_markdown from competitor_announcement_campaigns where id = %s", (campaign,)
    ).fetchone()
    return (row[0], row[1]) if row else None


def outlook(conn: psycopg.Connection[Any], campaign: UUID, coach: UUID | None) -> Json:
    """Previews a run: `wouldMail` counts, `first` ids with `masked` addresses, and `skipped` by reason."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "select reason, people, first, masked from outbox_campaign_outlook(%s, %s)", (campaign, coach)
        ).fetchall()
    due = next((row for row in found if not row["reason"]), None)
    return {
        "wouldMail": due["people"] if due else 0,
        "first": [str(one) for one in due["first"]] if due else [],
        "masked": due["masked"] if due else [],
        "skipped": {row["reason"]: row["people"] for row in found if row["reason"]},
    }


Audience = Literal["game_platform", "all"]

SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Outlook:
    """An audience in numbers. `minors` are recipients under 18; `sample` holds competitor ids and masked addresses."""

    recipients: int
    minors: int
    excluded: dict[str, int]
    sample: list[tuple[UUID, str]]


def audience_outlook(conn: psycopg.Connection[Any], audience: Audience, coach: UUID | None) -> Outlook:
    """Counts whom a campaign to this audience would reach, and whom it would exclude, by reason."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select reason, people, minors, ids, masked from outbox_audience_outlook(%s, %s, %s)",
            (audience, coach, SAMPLES),
        ).fetchall()
    reached = next((row for row in rows if not row["reason"]), None)
    return Outlook(
        recipients=reached["people"] if reached else 0,
        minors=reached["minors"] if reached else 0,
        excluded={row["reason"]: row["people"] for row in rows if row["reason"]},
        sample=list(zip(reached["ids"], reached["masked"], strict=True)) if reached else [],
    )


def create(
    conn: psycopg.Connection[Any],
    *,
    subject: str,
    body_markdown: str,
    body_html: str,
    audience: Audience,
    coach: UUID | None,
    actor: str,
) -> UUID:
    """Creates a campaign with its recipients and excluded people, in the caller's transaction. Audited."""
    row = conn.execute(
        "select outbox_campaign_create(%s, %s, %s, %s, %s, %s)",
        (subject, body_markdown, body_html, audience, coach, actor),
    ).fetchall()[0]
    campaign: UUID = row[0]
    return campaign


PROVIDER: Final = PROVIDERS["email"]
GROWTH: Final = 4
UNCERTAIN_PAUSE_SECONDS: Final = 60.0


class Batches:
    """The requests of one run. `size` is the limit of recipients for the next request, `taken` counts those mailed."""

    def __init__(
        self, ctx: CompetitionContext, client: EmailClient, campaign: UUID, mail: Email, *, size: int, largest: int
    ) -> None:
        self.size = size
        self.taken = 0
        self._ctx = ctx
        self._client = client
        self._campaign = campaign
        self._mail = mail
        self._largest = largest

    def send(self, batch: Sequence[Mailed]) -> None:
        """Sends one batch. A recipient whom SendGrid refuses fails; the others are queued again.

        Raises:
            RetryLater: the batch may have been sent.
            MessagingError: the batch was not sent.
        """
        addressees = [Addressee(one.address, self._args(one)) for one in batch]
        try:
            sent = self._client.send_many(self._mail, addressees)
        except (RecipientRefused, TooLarge) as error:
            self._without(batch, error)
            return
        except MessagingError as error:
            self._unsent(batch, error)
        self.taken += len(batch)
        self.size = min(self._largest, self.size * GROWTH)
        settle_batch(
            self._ctx.db,
            batch[0].batch,
            "accepted",
            provider_message_id=sent.provider_message_id,
            http_status=sent.http_status,
        )

    def _args(self, one: Mailed) -> dict[str, str]:
        return {
            "email_type": "competitor_announcement",
            "campaign_id": str(self._campaign),
            "competitor_id": str(one.competitor_id),
            "recipient_id": str(one.recipient_id),
            "outbox_id": str(one.id),
        }

    def _without(self, batch: Sequence[Mailed], error: RecipientRefused | TooLarge) -> None:
        """Fails the recipients that the provider refused; halves the batch if it named none."""
        places = error.indexes if isinstance(error, RecipientRefused) else ()
        named = [batch[place] for place in places if place < len(batch)]
        refused = named or (list(batch) if len(batch) == 1 else [])
        if isinstance(error, TooLarge) and refused:
            self._return(batch, error)
            raise PayloadRefused(
                "SendGrid refuses the campaign's mail as too large even for one recipient (413). Shorten it.",
                code="413",
            )
        with self._ctx.db.transaction():
            word = word_of(error)
            outbox.settle(
                self._ctx.db,
                [
                    Result(
                        one.id, one.attempt, "failed",
                        error_class=word, error_code=error.code, error_text="SendGrid refused this recipient.",
                    )
                    for one in refused
                ],
            )  # fmt: skip
            self._return(batch, error)
        if not refused:
            self.size = max(1, len(batch) // 2)

    def _unsent(self, batch: Sequence[Mailed], error: MessagingError) -> NoReturn:
        """Stores the outcome of a failed request, and ends the run."""
        if isinstance(error, OutcomeUnknown):
            settle_batch(self._ctx.db, batch[0].batch, "uncertain", error_class=word_of(error), error=str(error))
            raise RetryLater(
                UNCERTAIN_PAUSE_SECONDS,
                f"{error} {len(batch)} recipients are uncertain; the others follow in {UNCERTAIN_PAUSE_SECONDS:.0f} s.",
            )
        self._return(batch, error)
        if isinstance(error, RateLimited):
            outbox.close_provider(self._ctx.db, PROVIDER, error.seconds)
        raise error

    def _return(self, batch: Sequence[Mailed], error: MessagingError) -> None:
        status = int(error.code) if error.code and error.code.isdecimal() else None
        settle_batch(self._ctx.db, batch[0].batch, "returned", http_status=status, error_class=word_of(error))
