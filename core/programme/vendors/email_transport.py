"""The HTTP client under SendGrid's SDK. Importing this module imports the SDK, so import it on first use."""

from __future__ import annotations

import http.client
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from python_http_client.client import Client

from jobdeck.core.programme.settings import LOOPBACK
from jobdeck.core.programme.vendors.http import TimedResponse

CONNECT_SECONDS: Final = 5.0
LARGEST_ANSWER: Final = 4 * 1024 * 1024


class NotConnectedError(Exception):
    """No connection was made, so nothing was sent. Not an `OSError`, because urllib would wrap it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Response(TimedResponse):
    def read(self, amt: int | None = None) -> bytes:
        if amt is not None:
            return super().read(amt)
        content = super().read(LARGEST_ANSWER + 1)
        if len(content) > LARGEST_ANSWER:
            raise http.client.HTTPException("the answer is too large")
        return content


class _Plain(http.client.HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        _connect(self, super().connect)


class _Secure(http.client.HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        _connect(self, super().connect)


def _connect(connection: http.client.HTTPConnection, connect: Any) -> None:
    timeout = connection.timeout
    connection.timeout = min(CONNECT_SECONDS, timeout or CONNECT_SECONDS)
    try:
        connect()
    except OSError as error:
        raise NotConnectedError(type(error).__name__) from None
    if connection.sock is not None:
        connection.sock.settimeout(timeout)


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, req)


class HttpClient(Client):  # type: ignore[misc]  # the SDK is untyped
    """The SDK's client, without redirects, and without proxies for localhost."""

    def _build_client(self, name: str | None = None) -> HttpClient:
        return HttpClient(
            host=self.host,
            version=self._version,
            request_headers=dict(self.request_headers),
            url_path=[*self._url_path, name] if name else self._url_path,
            append_slash=self.append_slash,
            timeout=self.timeout,
        )

    def _make_request(self, opener: Any, request: urllib.request.Request, timeout: float | None = None) -> Any:
        del opener
        return super()._make_request(_opener(self.host), request, timeout)


def _opener(host: str) -> urllib.request.OpenerDirector:
    own = urllib.request.OpenerDirector()
    proxies: dict[str, str] | None = {} if urlsplit(host).hostname in LOOPBACK else None
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _PlainHandler(),
        _SecureHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        own.add_handler(handler)
    return own
