"""Sends the requests of a campaign and stores their outcomes.

A batch that was certainly not sent is queued again. The recipients of a batch that may have been sent become
uncertain, and are not mailed again automatically.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.messaging import campaigns, outbox
from jobdeck.core.programme.messaging.delivery import word_of
from jobdeck.core.programme.messaging.outbox import PROVIDERS, Result
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
    from uuid import UUID

    from jobdeck.core.programme.messaging.campaigns import Mailed
    from jobdeck.core.programme.resources import CompetitionContext

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
        campaigns.settle_batch(
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
            campaigns.settle_batch(
                self._ctx.db, batch[0].batch, "uncertain", error_class=word_of(error), error=str(error)
            )
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
        campaigns.settle_batch(self._ctx.db, batch[0].batch, "returned", http_status=status, error_class=word_of(error))
