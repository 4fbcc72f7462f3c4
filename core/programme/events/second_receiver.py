"""A second receiver of SendGrid's events, such as the one of the application from which Jobdeck takes over.

It gets the request as SendGrid sent it: the same bytes, with the headers of the signature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.programme.vendors.email_wire import SIGNATURE, TIMESTAMP

if TYPE_CHECKING:
    from pydantic import SecretStr

SECONDS: Final = 15.0
"""Limit of one request, from the first byte to the last."""

HANDED_ON: Final = "X-Jobdeck-Handed-On"
"""The header of requests that were handed on. A receiver hands none of them on again, so that no request goes round."""

_PORTS: Final = {"https": 443, "http": 80}


def check(url: SecretStr, own: str) -> None:
    """Checks that the second receiver is not this one.

    Raises:
        ConfigurationError: `url` is the address `own`, or an address of this server's own endpoint.
    """
    if own and _place(url.get_secret_value()) == _place(own):
        raise ConfigurationError(
            "SENDGRID_EVENT_FORWARD_URL is the address of this server itself. Set it to the other receiver's address, "
            "or remove it."
        )


def hand_on(url: SecretStr, body: bytes, signature: str, signed_at: str) -> str | None:
    """Sends one request to the second receiver.

    Returns:
        None if it answered with 2xx, else why not, in a few words without the address, which may have a token in it.
    """
    import httpx  # noqa: PLC0415 -- imported on first use

    from jobdeck.core.programme.vendors.exchange import ending_within, open_client  # noqa: PLC0415 -- the same

    address = url.get_secret_value()
    headers = {"Content-Type": "application/json", SIGNATURE: signature, TIMESTAMP: signed_at, HANDED_ON: "1",
               "User-Agent": "jobdeck"}  # fmt: skip
    try:
        with (
            open_client(address, timeout=SECONDS) as client,
            ending_within(SECONDS),
            client.stream("POST", address, content=body, headers=headers) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the second receiver could not be reached ({type(error).__name__})"
    return None if 200 <= status < 300 else f"the second receiver answered {status}"


def _place(url: str) -> tuple[str, int | None, str]:
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/")
