"""Mail through SendGrid's official SDK. Requests are plain dicts, so that the positions of recipients are known.

Adds to the SDK the exchange that all vendors share, and the errors of `jobdeck.core.programme.vendors.errors`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, TypeVar

from jobdeck.core.programme.vendors.email_wire import Sent, refusal, sent_from
from jobdeck.core.programme.vendors.errors import (
    ProviderConfigError,
    ProviderDown,
    SettingMissing,
    unanswered,
)
from jobdeck.core.programme.vendors.http import Time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobdeck.core.programme.settings import CompetitionSettings

Json = dict[str, Any]
A = TypeVar("A")

LARGEST_BATCH: Final = 1000
"""Recipients in one request (SendGrid, "v3 Mail Send", limitations)."""

LARGEST_ANSWER: Final = 4
"""In MiB."""

NAME: Final = "SendGrid"


@dataclass(frozen=True, slots=True)
class Addressee:
    """One recipient: an address, and ids (no personal data) that SendGrid returns with its delivery events."""

    address: str = field(repr=False)
    custom_args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Email:
    """One message. With `template_data`, the template `SENDGRID_TEMPLATE_ID` is sent instead, if that is set.

    `unsubscribe` adds the links of the unsubscribe group. Opens and clicks are not tracked, because many recipients
    are minors.
    """

    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    custom_args: Mapping[str, str] = field(default_factory=dict)
    categories: Sequence[str] = ()
    template_data: Json | None = field(default=None, repr=False)
    unsubscribe: bool = False

    def marked(self, category: str, args: Mapping[str, str]) -> Email:
        """A copy with another category, by which its results are found, and more arguments."""
        categories = tuple(dict.fromkeys((*self.categories, category)))
        return replace(self, categories=categories, custom_args={**self.custom_args, **args})


class EmailClient:
    """SendGrid's API. Thread-safe."""

    def __init__(self, settings: CompetitionSettings, *, time: Time | None = None) -> None:
        """Reads key, sender and address from the settings; sends nothing.

        Raises:
            SettingMissing: names the missing or invalid setting.
        """
        from jobdeck.core.programme.vendors.email_transport import make_client  # noqa: PLC0415 -- imported on first use
        from jobdeck.core.programme.vendors.exchange import Exchange  # noqa: PLC0415 -- the same

        check(settings)
        self._settings = settings
        self._time = time or Time()
        self._exchange = Exchange(
            settings.sendgrid_api_base_url,
            settings.provider_timeout_seconds,
            largest=LARGEST_ANSWER,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # keeps none
        )
        self._client = make_client(settings, self._exchange)

    def check(self) -> None:
        """Checks the settings again.

        Raises:
            SettingMissing: names the missing or invalid setting.
        """
        check(self._settings)

    def verify(self) -> None:
        """Checks with SendGrid that the key is valid and may send mail; sends no mail.

        Raises:
            ProviderConfigError: SendGrid does not accept the key.
            MessagingError: SendGrid could not be asked.
        """
        try:
            found = json.loads(self.get(("scopes",), {}))
        except (ValueError, RecursionError):
            found = None
        scopes = found.get("scopes") if isinstance(found, dict) else None
        if not isinstance(scopes, list):
            raise ProviderDown("SendGrid's answer about the key is not readable.")
        if "mail.send" not in scopes:
            raise ProviderConfigError("SENDGRID_API_KEY may not send mail. Give it that right, or set another key.")

    def send(self, mail: Email) -> Sent:
        """Sends one message to one address.

        Raises:
            MessagingError: one of its subclasses.
        """
        return self.send_many(mail, [Addressee(mail.to, mail.custom_args)])

    def send_many(self, mail: Email, addressees: Sequence[Addressee]) -> Sent:
        """Sends the same message separately to up to 1000 addresses, in one request.

        Raises:
            MessagingError: one of its subclasses; indexes of a `RecipientRefused` refer to `addressees`.
        """
        if not 0 < len(addressees) <= LARGEST_BATCH:
            raise ValueError(f"one request takes 1 to {LARGEST_BATCH} recipients")
        body = self.request_for(mail, addressees)
        return self._call(
            lambda: self._client.mail.send.post(request_body=body),
            lambda response: sent_from(response, sandbox=self._settings.sendgrid_sandbox_mode),
        )

    def request_for(self, mail: Email, addressees: Sequence[Addressee]) -> Json:
        """The body of the request, as in SendGrid's API reference."""
        settings = self._settings
        templated = mail.template_data is not None and settings.sendgrid_template_id is not None
        body: Json = {
            "personalizations": [_personalization(one, mail if templated else None) for one in addressees],
            "from": {"email": settings.sendgrid_from_email, "name": settings.sendgrid_from_name},
            "tracking_settings": {
                "click_tracking": {"enable": False, "enable_text": False},
                "open_tracking": {"enable": False},
            },
        }
        if templated:
            body["template_id"] = settings.sendgrid_template_id
        else:
            body["subject"] = mail.subject
            body["content"] = [{"type": "text/plain", "value": mail.text}]
            if mail.html is not None:
                body["content"].append({"type": "text/html", "value": mail.html})
        if mail.categories:
            body["categories"] = list(mail.categories)
        if mail.unsubscribe and settings.sendgrid_unsubscribe_group_id is not None:
            body["asm"] = {"group_id": settings.sendgrid_unsubscribe_group_id}
        if settings.sendgrid_sandbox_mode:
            body["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return body

    def get(self, path: Sequence[str], query: Mapping[str, str | int]) -> bytes:
        """Fetches one page of a list, such as `("suppression", "bounces")`.

        Raises:
            MessagingError: one of its subclasses.
        """
        resource = self._resource(path)
        return self._call(lambda: resource.get(query_params=dict(query)), _body)

    def post(self, path: Sequence[str], body: Json) -> bytes:
        """Sends a query that SendGrid expects as POST, such as a search in its logs.

        Raises:
            MessagingError: one of its subclasses.
        """
        resource = self._resource(path)
        return self._call(lambda: resource.post(request_body=body), _body)

    def close(self) -> None:
        """Closes the connections."""
        self._exchange.close()

    def _resource(self, path: Sequence[str]) -> Any:
        resource = self._client
        for part in path:
            resource = resource._(part)
        return resource

    def _call(self, request: Callable[[], Any], read: Callable[[Any], A]) -> A:
        from jobdeck.core.programme.vendors.exchange import ExchangeError  # noqa: PLC0415 -- imported on first use

        try:
            response = request()
        except ExchangeError as error:
            raise unanswered(error, NAME, "SENDGRID_API_BASE_URL") from None
        if not 200 <= response.status_code < 300:
            raise refusal(response.status_code, response.body, response.headers, self._time.wall())
        return read(response)


def check(settings: CompetitionSettings) -> None:
    """Checks that mail can be sent with these settings.

    Raises:
        SettingMissing: names the missing or invalid setting.
    """
    key = settings.sendgrid_api_key
    if key is None or not key.get_secret_value().strip():
        raise SettingMissing("No key for SendGrid is set. Set SENDGRID_API_KEY to a key that may send mail.")
    if not key.get_secret_value().strip().isascii() or not key.get_secret_value().strip().isprintable():
        raise SettingMissing("SENDGRID_API_KEY contains invalid characters. Copy it again.")
    sender = (settings.sendgrid_from_email or "").strip()
    if not sender:
        raise SettingMissing("No sender is set. Set SENDGRID_FROM_EMAIL to an address that is verified with SendGrid.")
    if "@" not in sender or not sender.isascii() or not sender.isprintable():
        raise SettingMissing("SENDGRID_FROM_EMAIL is not an e-mail address. Correct it.")
    if not settings.sendgrid_from_name.isascii() or not settings.sendgrid_from_name.isprintable():
        raise SettingMissing(
            "SENDGRID_FROM_NAME contains characters outside ASCII, which SendGrid refuses. Spell it out."
        )


def _personalization(addressee: Addressee, templated: Email | None) -> Json:
    entry: Json = {"to": [{"email": addressee.address}]}
    if addressee.custom_args:
        entry["custom_args"] = {name: str(value) for name, value in addressee.custom_args.items()}
    if templated is not None:
        entry["dynamic_template_data"] = templated.template_data
    return entry


def _body(response: Any) -> bytes:
    content: bytes = response.body
    return content
