"""Errors of the mail and text message providers, classified by what the caller has to do.

No error message contains an address, a number, a name or the text of a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError

if TYPE_CHECKING:
    from jobdeck.core.programme.vendors.exchange import ExchangeError


class MessagingError(VendorError):
    """A provider refused, failed or could not be reached.

    `sent` is False if the message was certainly not sent, None if that is unknown. `error_class` is stored in the
    outbox; `code` is the provider's error code or the HTTP status.
    """

    kind = "messaging"
    error_class: ClassVar[str] = "error"
    outage: ClassVar[bool] = False
    sent: ClassVar[bool | None] = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class ProviderConfigError(MessagingError, PermanentError):
    """A setting is missing or the provider rejects it; nothing can be sent until it is corrected."""

    kind = "messaging_config"
    error_class = "config"


class SettingMissing(ProviderConfigError, ConfigurationError):
    """A required setting is missing or invalid."""


class RecipientRefused(MessagingError):
    """The provider will not send to this recipient.

    `indexes` are the refused positions in a request with several recipients, empty if the provider named none.
    `reason` is `address_refused`, `opted_out` or `number_unusable`.
    """

    kind = "messaging_recipient"
    error_class = "recipient_refused"

    def __init__(self, message: str, *, reason: str, code: str | None = None, indexes: tuple[int, ...] = ()) -> None:
        super().__init__(message, code=code)
        self.reason = reason
        self.indexes = indexes


class PayloadRefused(MessagingError, PermanentError):
    """The provider refuses this message for every recipient."""

    kind = "messaging_payload"
    error_class = "payload_refused"


class TooLarge(MessagingError):
    """The request is too large; a smaller batch may be accepted."""

    kind = "messaging_too_large"
    error_class = "too_large"


class RateLimited(RetryLater, MessagingError):
    """Too many requests; `seconds` is the pause that the provider asked for."""

    kind = "messaging_rate_limited"
    error_class = "rate_limited"
    outage = True

    def __init__(self, seconds: float, message: str, *, code: str | None = None) -> None:
        RetryLater.__init__(self, seconds, message)
        self.code = code


class ProviderDown(MessagingError):
    """The provider is unavailable and did not accept the message."""

    kind = "messaging_down"
    error_class = "provider_down"
    outage = True


class Unreachable(MessagingError):
    """No connection could be made, so nothing was sent."""

    kind = "messaging_unreachable"
    error_class = "unreachable"
    outage = True


class OutcomeUnknown(MessagingError):
    """The request was sent without a valid answer. The message may have been sent and must not be repeated."""

    kind = "messaging_outcome_unknown"
    error_class = "outcome_unknown"
    outage = True
    sent = None


def unanswered(error: ExchangeError, provider: str, address: str) -> MessagingError:
    """The error for a request without a usable answer; `address` is the setting of the provider's address."""
    if not error.sent:
        return Unreachable(
            f"{provider} could not be reached ({error}). Nothing was sent. If this lasts, check the network and "
            f"{address}."
        )
    return unfinished(str(error), provider)


def unfinished(cause: str, provider: str) -> OutcomeUnknown:
    """The error for an answer that does not say what became of the message."""
    return OutcomeUnknown(
        f"{provider} gave no full answer ({cause}). The message may have been sent and is not repeated."
    )
