"""Sends messages from the outbox to a provider, one at a time.

For each message: wait for the provider's rate limit, claim it, send it without an open transaction, and store the
outcome together with its consequences in one transaction. After a crash, the row shows how far the message got.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import PROVIDERS, Claimed, Decision, Result
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    RateLimited,
    RecipientRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.vendors.sms import Sms

    Render = Callable[[Claimed], Email | Sms]
    After = Callable[[psycopg.Connection[Any], Claimed, str], None]

LONGEST_WAIT: Final = 30.0
"""Seconds a run waits for a provider's rate limit; if the wait is longer, the job is retried later."""

OUTAGES_IN_A_ROW: Final = 3
OUTAGE_PAUSE_SECONDS: Final = 60.0
MOST_ATTEMPTS: Final = 5
"""A message fails permanently after this many attempts that certainly failed."""

EMAIL_TYPES: Final = {"parent_probe": "release_parent_email_verification"}
"""The custom argument `email_type` of the kinds that the original's receiver knows by another name."""

RETRY_SECONDS: Final = 60.0
TICK: Final = 0.25


@dataclass(slots=True)
class Delivery:
    """The outcomes of a run's messages. `by_class` counts refusals and failures by error class."""

    accepted: int = 0
    retried: int = 0
    failed: int = 0
    uncertain: int = 0
    by_class: Counter[str] = field(default_factory=Counter)

    @property
    def attempted(self) -> int:
        return self.accepted + self.retried + self.failed + self.uncertain

    def count(self, state: str, error: MessagingError | None) -> None:
        """Adds one message by its state in the outbox."""
        if state == "queued":
            self.retried += 1
        elif state == "failed":
            self.failed += 1
        elif state == "uncertain":
            self.uncertain += 1
        else:
            self.accepted += 1
        if error is not None:
            self.by_class[word_of(error)] += 1

    def raise_if_all_failed(self, what: str) -> None:
        """Fails the run if messages were tried and none was accepted.

        Raises:
            RetryLater: names the number of messages and the reasons.
        """
        if self.attempted and not self.accepted:
            why = ", ".join(f"{count} {word}" for word, count in sorted(self.by_class.items()))
            raise RetryLater(
                OUTAGE_PAUSE_SECONDS * 5,
                f"None of {self.attempted} {what} was accepted ({why or 'no reason given'}). "
                f"The job is retried in {OUTAGE_PAUSE_SECONDS * 5 / 60:.0f} minutes.",
            )


def word_of(error: MessagingError) -> str:
    """The error class that the outbox stores for a failure."""
    return error.reason if isinstance(error, RecipientRefused) else error.error_class


def lease_seconds(settings: CompetitionSettings) -> float:
    """Seconds a message may be in flight before its sender counts as dead."""
    return settings.provider_timeout_seconds * 2 + 10.0


def wait_for_place(ctx: CompetitionContext, provider: str, rate: float) -> None:
    """Waits for the provider's rate limit, which all workers share.

    Raises:
        RateLimited: the wait would be longer than `LONGEST_WAIT`.
        Cancelled: the run was asked to stop.
    """
    wait = outbox.reserve(ctx.db, provider, rate, longest=LONGEST_WAIT)
    if wait is None:
        closed = max(outbox.closed_for(ctx.db, provider), LONGEST_WAIT)
        raise RateLimited(closed, f"{provider.capitalize()} asked for a pause; sending resumes in {closed:.0f} s.")
    pause(ctx, wait)


def pause(ctx: CompetitionContext, seconds: float) -> None:
    """Waits in short steps, so that a cancellation is noticed.

    Raises:
        Cancelled: the run was asked to stop.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        ctx.raise_if_cancelled()
        time.sleep(min(left, TICK))


def deliver(
    ctx: CompetitionContext, decisions: Sequence[Decision], render: Render, after: After | None = None
) -> Delivery:
    """Sends the messages that `put` allowed, in order.

    `render` makes the message. `after` runs in the transaction that settles it, with the new state: `accepted`,
    `queued` for a retry, `failed` or `uncertain`.

    Raises:
        ProviderConfigError: a setting is missing or not accepted; unsent messages stay queued.
        RetryLater: the provider asked for a pause, or could not answer several times in a row.
        Cancelled: the run was asked to stop.
    """
    sender = _Sender(ctx, render, after)
    wanted = [decision.id for decision in decisions if decision.sendable and decision.id is not None]
    channels = {decision.id: decision.intent.channel for decision in decisions}
    for number, message_id in enumerate(wanted, start=1):
        ctx.raise_if_cancelled()
        channel = channels[message_id]
        rate = (
            ctx.resources.settings.email_rate_per_sec if channel == "email" else ctx.resources.settings.sms_rate_per_sec
        )
        wait_for_place(ctx, PROVIDERS[channel], rate)
        claimed = outbox.claim(
            ctx.db,
            [message_id],
            lease_seconds=lease_seconds(ctx.resources.settings),
            job_id=ctx.job.id,
            run_token=ctx.job.run_token,
        )
        for message in claimed:
            sender.send(message)
        ctx.progress(number, len(wanted), "messages")
    return sender.delivery


class _Sender:
    """Sends the messages of one run."""

    def __init__(self, ctx: CompetitionContext, render: Render, after: After | None) -> None:
        self.delivery = Delivery()
        self._ctx = ctx
        self._render = render
        self._after = after
        self._outages = 0

    def send(self, message: Claimed) -> None:
        try:
            made = self._render(message)
            client: Any = (
                self._ctx.resources.clients.email if isinstance(made, Email) else self._ctx.resources.clients.sms
            )
        except Exception:
            # The template or a setting is wrong, so the message was certainly not sent.
            self._settle(message, Result(message.id, message.attempt, "retry", error_class="not_made"), None)
            raise
        try:
            sent = client.send(self._marked(message, made))
        except MessagingError as error:
            self._settle(message, failure(message, error), error)
            self._stop_if_it_is_no_use(PROVIDERS[message.channel], error)
            return
        self._outages = 0
        result = Result(
            message.id,
            message.attempt,
            "accepted",
            provider_message_id=sent.provider_message_id,
            segments=sent.segments,
        )
        self._settle(message, result, None)

    @staticmethod
    def _marked(message: Claimed, made: Email | Sms) -> Any:
        if isinstance(made, Email):
            args = {"email_type": EMAIL_TYPES.get(message.kind, message.kind), "outbox_id": str(message.id)}
            return made.marked(message.kind, args)
        return made

    def _settle(self, message: Claimed, result: Result, error: MessagingError | None) -> None:
        with self._ctx.db.transaction():
            states = outbox.settle(self._ctx.db, [result])
            state = states.get(message.id)
            if state is not None and self._after is not None:
                self._after(self._ctx.db, message, state)
        if state is not None:
            self.delivery.count(state, error)
        else:
            self._ctx.log.warning("The report on message %s came too late to count.", message.id)

    def _stop_if_it_is_no_use(self, provider: str, error: MessagingError) -> None:
        if isinstance(error, RateLimited):
            outbox.close_provider(self._ctx.db, provider, error.seconds)
            raise error
        if isinstance(error, ProviderConfigError):
            raise error
        self._outages = self._outages + 1 if error.outage else 0
        if self._outages >= OUTAGES_IN_A_ROW:
            raise RetryLater(
                OUTAGE_PAUSE_SECONDS,
                f"{provider.capitalize()} could not answer {self._outages} times in a row; a retry waits "
                f"{OUTAGE_PAUSE_SECONDS:.0f} s. Last error: {error}",
            )


def failure(message: Claimed, error: MessagingError) -> Result:
    """The result of a failed attempt for the outbox.

    `retry` if the message was certainly not sent and may succeed later; `uncertain` if it may have been sent.
    """
    if isinstance(error, OutcomeUnknown):
        outcome, wait = "uncertain", 0.0
    elif isinstance(error, RecipientRefused | PayloadRefused):
        outcome, wait = "failed", 0.0
    elif isinstance(error, ProviderConfigError):
        outcome, wait = "retry", 0.0
    else:
        outcome = "retry"
        wait = error.seconds if isinstance(error, RateLimited) else RETRY_SECONDS
    return Result(
        message.id,
        message.attempt,
        outcome,  # type: ignore[arg-type]  # one of the literals above
        error_class=word_of(error),
        error_code=error.code,
        error_text=str(error),
        wait=wait,
        most_attempts=None if isinstance(error, ProviderConfigError | RateLimited) else MOST_ATTEMPTS,
    )
