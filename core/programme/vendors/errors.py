"""How the providers of mail and text messages can refuse or fail, sorted by what is to be done about it.

No message holds an address, a number, a name or the text that was to be sent.
"""

from __future__ import annotations

from typing import ClassVar

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError


class MessagingError(VendorError):
    """A provider refused, failed or could not be reached.

    `sent` is False where the message has certainly not been sent, None where that is not known. `error_class` is the
    word the outbox keeps, `code` the provider's own or its HTTP status.
    """

    kind = "messaging"
    error_class: ClassVar[str] = "error"
    outage: ClassVar[bool] = False
    sent: ClassVar[bool | None] = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class ProviderConfigError(MessagingError, PermanentError):
    """A setting is missing or the provider does not accept it: nothing can be sent until it is corrected."""

    kind = "messaging_config"
    error_class = "config"


class SettingMissing(ProviderConfigError, ConfigurationError):
    """A setting without which nothing can be sent is not set, or unusable as it is."""


class RecipientRefused(MessagingError):
    """The provider will not send to this recipient.

    `indexes` are the places in a request of many; empty where the provider did not say which. `reason` is
    `address_refused`, `opted_out` or `number_unusable`.
    """

    kind = "messaging_recipient"
    error_class = "recipient_refused"

    def __init__(self, message: str, *, reason: str, code: str | None = None, indexes: tuple[int, ...] = ()) -> None:
        super().__init__(message, code=code)
        self.reason = reason
        self.indexes = indexes


class PayloadRefused(MessagingError, PermanentError):
    """The provider will not send such a message to anyone."""

    kind = "messaging_payload"
    error_class = "payload_refused"


class TooLarge(MessagingError):
    """The request is too large; a part of it may pass."""

    kind = "messaging_too_large"
    error_class = "too_large"


class RateLimited(RetryLater, MessagingError):
    """Too many requests; `seconds` is how long the provider asked to wait."""

    kind = "messaging_rate_limited"
    error_class = "rate_limited"
    outage = True

    def __init__(self, seconds: float, message: str, *, code: str | None = None) -> None:
        RetryLater.__init__(self, seconds, message)
        self.code = code


class ProviderDown(MessagingError):
    """The provider answered that it cannot answer now; the message has not been taken."""

    kind = "messaging_down"
    error_class = "provider_down"
    outage = True


class Unreachable(MessagingError):
    """No connection could be made: nothing was sent."""

    kind = "messaging_unreachable"
    error_class = "unreachable"
    outage = True


class OutcomeUnknown(MessagingError):
    """The request went out and no proper answer came: the message may have been sent. It must not be repeated."""

    kind = "messaging_outcome_unknown"
    error_class = "outcome_unknown"
    outage = True
    sent = None
