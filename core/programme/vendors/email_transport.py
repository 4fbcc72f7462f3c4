"""The HTTP client under SendGrid's SDK. Importing this module imports the SDK, so import it on first use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from python_http_client.client import Client
from sendgrid import SendGridAPIClient

if TYPE_CHECKING:
    import urllib.request

    import httpx

    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.vendors.exchange import Exchange, Reply


class HttpClient(Client):  # type: ignore[misc]  # the SDK is untyped
    """The SDK's client on our exchange. Its answers have any status; it raises none of the SDK's errors."""

    def __init__(self, exchange: Exchange, **parts: Any) -> None:
        super().__init__(**parts)
        self._exchange = exchange

    def _build_client(self, name: str | None = None) -> HttpClient:
        return HttpClient(
            self._exchange,
            host=self.host,
            version=self._version,
            request_headers=dict(self.request_headers),
            url_path=[*self._url_path, name] if name else self._url_path,
            append_slash=self.append_slash,
        )

    def _make_request(self, opener: Any, request: urllib.request.Request, timeout: float | None = None) -> Any:
        del opener, timeout
        # Each request has a connection of its own: on one that SendGrid is closing, its outcome would be unknown.
        headers = {**request.headers, "Accept-Encoding": "identity", "Connection": "close"}
        return _Answer(
            self._exchange.ask(request.get_method(), request.full_url, content=request.data, headers=headers)
        )


class _Answer:
    """An answer under the names of urllib, by which the SDK reads it."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def getcode(self) -> int:
        return self._reply.status

    def read(self) -> bytes:
        return self._reply.content

    def info(self) -> httpx.Headers:
        return self._reply.headers


def make_client(settings: CompetitionSettings, exchange: Exchange) -> Client:
    """SendGrid's API, reached through the exchange."""
    # At level DEBUG the SDK would log the key, addresses and texts.
    logging.getLogger("python_http_client.client").disabled = True
    assert settings.sendgrid_api_key is not None  # noqa: S101 -- email.check() made sure
    api = SendGridAPIClient(settings.sendgrid_api_key.get_secret_value().strip(), host=settings.sendgrid_api_base_url)
    return HttpClient(exchange, host=api.host, request_headers=api.client.request_headers, version=3)
