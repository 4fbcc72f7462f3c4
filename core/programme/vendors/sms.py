"""Text messages through Twilio's official SDK, with one SDK client per thread over one exchange."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.programme.vendors.email_wire import Sent
from jobdeck.core.programme.vendors.errors import (
    OutcomeUnknown,
    ProviderConfigError,
    SettingMissing,
    unanswered,
    unfinished,
)
from jobdeck.core.programme.vendors.http import Time
from jobdeck.core.programme.vendors.sms_wire import refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.vendors.exchange import Exchange

NAME: Final = "Twilio"
READ_PAGE: Final = 200
LARGEST_ANSWER: Final = 4
"""In MiB."""

_GSM: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_DOUBLE: Final = frozenset("^{}\\[~]|€\f")


@dataclass(frozen=True, slots=True)
class Sms:
    """One text message to a number in E.164."""

    to: str = field(repr=False)
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SmsStatus:
    """The status of a message at Twilio: `delivered`, `undelivered`, `failed`, or one that is not final."""

    sid: str
    status: str
    error_code: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message sent to our number."""

    sid: str
    sender: str = field(repr=False)
    body: str = field(repr=False)
    at: datetime | None


def is_gsm(text: str) -> bool:
    """Whether every character is in the GSM alphabet, in which 160 characters fit into one segment."""
    return all(letter in _GSM or letter in _GSM_DOUBLE for letter in text)


def segments(text: str) -> int:
    """Number of segments: 160 characters of the GSM alphabet (153 each if several), otherwise 70 (67)."""
    if is_gsm(text):
        length = sum(2 if letter in _GSM_DOUBLE else 1 for letter in text)
        return 1 if length <= 160 else -(-length // 153)
    length = len(text.encode("utf-16-le")) // 2
    return 1 if length <= 70 else -(-length // 67)


class SmsClient:
    """Twilio's API. Thread-safe: each thread gets its own Twilio client."""

    def __init__(self, settings: CompetitionSettings, *, time: Time | None = None) -> None:
        """Reads account and sender from the settings; sends nothing.

        Raises:
            SettingMissing: names the missing or invalid setting.
        """
        from jobdeck.core.programme.vendors.exchange import Exchange  # noqa: PLC0415 -- imported on first use

        check(settings)
        self._settings = settings
        self._time = time or Time()
        self._local = threading.local()
        self._exchange = Exchange(
            settings.twilio_api_base_url, settings.provider_timeout_seconds, largest=LARGEST_ANSWER
        )

    def check(self) -> None:
        """Checks the settings again.

        Raises:
            SettingMissing: names the missing or invalid setting.
        """
        check(self._settings)

    def verify(self) -> None:
        """Checks with Twilio that it accepts the account and the token; sends no message.

        Raises:
            ProviderConfigError: Twilio does not accept them.
            MessagingError: Twilio could not be asked.
        """
        client = self._client
        found = self._call(lambda: client.api.accounts(self._settings.twilio_account_sid).fetch())
        if found.status not in {None, "active"}:
            raise ProviderConfigError("The account at Twilio (TWILIO_ACCOUNT_SID) is suspended or closed.")

    def send(self, sms: Sms) -> Sent:
        """Sends one text message.

        Raises:
            MessagingError: one of its subclasses.
        """
        service = self._settings.twilio_messaging_service_sid
        sender = {"messaging_service_sid": service} if service else {"from_": self._settings.twilio_from_number}
        client = self._client
        made = self._call(lambda: client.messages.create(to=sms.to, body=sms.body, **sender))
        if not made.sid:
            raise OutcomeUnknown(
                f"{NAME}'s answer has no message id. The message may have been sent and is not repeated."
            )
        count = str(made.num_segments or "")
        return Sent(str(made.sid), 201, int(count) if count.isdecimal() else None)

    def status(self, sid: str) -> SmsStatus:
        """Fetches the status of a message.

        Raises:
            MessagingError: one of its subclasses.
        """
        client = self._client
        found = self._call(lambda: client.messages(sid).fetch())
        code = str(found.error_code) if found.error_code is not None else None
        return SmsStatus(sid, str(found.status), code, found.date_updated or found.date_sent)

    def inbound(self, since: datetime) -> list[Inbound]:
        """Messages sent to our number since a time, newest first, at most one page of 200.

        Raises:
            MessagingError: one of its subclasses.
        """
        number = self._settings.twilio_from_number
        if not number:
            return []
        client = self._client
        found = self._call(
            lambda: client.messages.list(to=number, date_sent_after=since, limit=READ_PAGE, page_size=READ_PAGE)
        )
        return [
            Inbound(str(one.sid), str(one.from_), str(one.body or ""), one.date_sent)
            for one in found
            if one.direction == "inbound"
        ]

    def close(self) -> None:
        """Closes the connections."""
        self._exchange.close()

    @property
    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            self._local.client = _twilio(self._settings, self._exchange)
        return self._local.client

    def _call(self, request: Callable[[], Any]) -> Any:
        from twilio.base.exceptions import TwilioException  # noqa: PLC0415 -- imported on first use

        from jobdeck.core.programme.vendors.exchange import ExchangeError  # noqa: PLC0415 -- imported on first use

        http = self._client.http_client
        try:
            return request()
        except TwilioException as error:
            raise refusal(error, http.retry_after, self._time.wall()) from None
        except ExchangeError as error:
            raise unanswered(error, NAME, "TWILIO_API_BASE_URL") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The SDK does not validate the answer.
            raise unfinished(type(error).__name__, NAME) from None


class _Http:
    """Sends the requests of Twilio's SDK for one thread; `retry_after` is the header of the last answer.

    The SDK's own client would log numbers and texts.
    """

    is_async = False
    retry_after: str | None = None

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def request(
        self, method: str, url: str, params: Any = None, data: Any = None, headers: Any = None, auth: Any = None,
        **_: Any,
    ) -> Any:  # fmt: skip
        """Sends one request, once. The SDK's own timeout and redirects are not used."""
        from twilio.http.response import Response  # noqa: PLC0415 -- imported on first use

        self.retry_after = None
        reply = self._exchange.ask(method, url, params=params or None, data=data, headers=headers, auth=auth)
        self.retry_after = reply.headers.get("Retry-After")
        return Response(reply.status, reply.content.decode("utf-8", "replace"), reply.headers)


def _twilio(settings: CompetitionSettings, exchange: Exchange) -> Any:
    """The SDK's client for one thread."""
    from twilio.rest import Client  # noqa: PLC0415 -- imported on first use

    assert settings.twilio_auth_token is not None  # noqa: S101 -- check() made sure
    account, token = (settings.twilio_account_sid or "").strip(), settings.twilio_auth_token.get_secret_value().strip()
    client = Client(account, token, http_client=_Http(exchange))
    client.api.base_url = settings.twilio_api_base_url
    return client


def check(settings: CompetitionSettings) -> None:
    """Checks that text messages can be sent with these settings.

    Raises:
        SettingMissing: names the missing or invalid setting.
    """
    if not settings.sms_wanted:
        raise SettingMissing("Text messages are switched off. Set SMS_PROVIDER to twilio to send them.")
    if not settings.sms_enabled:
        raise SettingMissing(
            "SMS_PROVIDER names a provider that Jobdeck does not have. Set it to twilio, or to disabled to send no "
            "text messages."
        )
    if not (settings.twilio_account_sid or "").strip():
        raise SettingMissing("No Twilio account is set. Set TWILIO_ACCOUNT_SID.")
    token = settings.twilio_auth_token
    if token is None or not token.get_secret_value().strip():
        raise SettingMissing("No Twilio token is set. Set TWILIO_AUTH_TOKEN.")
    if not (settings.twilio_messaging_service_sid or settings.twilio_from_number):
        raise SettingMissing(
            "No sender of text messages is set. Set TWILIO_MESSAGING_SERVICE_SID or TWILIO_FROM_NUMBER."
        )
