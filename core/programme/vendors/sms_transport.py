"""The HTTP client under Twilio's SDK. Importing this module imports the SDK, so import it on first use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from jobdeck.core.programme.settings import LOOPBACK
from jobdeck.core.programme.vendors.http import TimedResponse, opened

if TYPE_CHECKING:
    from jobdeck.core.programme.settings import CompetitionSettings

CONNECT_SECONDS: Final = 5.0
LARGEST_ANSWER: Final = 4 * 1024 * 1024

# Twilio's own logger would log numbers and texts.
_SILENT: Final = logging.getLogger("jobdeck.core.programme.vendors.sms.wire")
_SILENT.disabled = True


class _Plain(urllib3.connection.HTTPConnection):
    response_class = TimedResponse


class _Secure(urllib3.connection.HTTPSConnection):
    response_class = TimedResponse


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS: Final = {"http": _PlainPool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    """Reads each answer at once, within its timeout and `LARGEST_ANSWER` bytes, counted decompressed."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(request, *args, **{**kwargs, "stream": True})
        try:
            content = response.raw.read(LARGEST_ANSWER + 1, decode_content=False)
            found = opened(content, response.headers.get("Content-Encoding"), LARGEST_ANSWER)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.exceptions.ReadTimeout(error) from None
        except urllib3.exceptions.HTTPError as error:
            raise requests.exceptions.ChunkedEncodingError(error) from None
        except ValueError as error:
            raise requests.exceptions.ContentDecodingError(error) from None
        finally:
            response.close()
        if found is None:
            raise requests.exceptions.ContentDecodingError("the answer is too large")
        response._content = found  # noqa: SLF001 -- what the property `content` returns
        response.encoding = response.encoding or "utf-8"  # else its text would be guessed, at length
        return response


class HttpClient(TwilioHttpClient):  # type: ignore[misc]  # the SDK is untyped
    """Twilio's HTTP client for one thread; `retry_after` is the header of the last answer."""

    retry_after: str | None = None

    def __init__(self, seconds: float, *, trust_environment: bool) -> None:
        super().__init__(timeout=seconds, logger=_SILENT)
        self.session.trust_env = trust_environment
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter())
        # The SDK validates only the timeouts that are given per request.
        self.timeout = (min(CONNECT_SECONDS, seconds), seconds)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Sends one request with separate timeouts for connecting and for the answer."""
        self.retry_after = None
        kwargs["timeout"] = None
        response = super().request(*args, **kwargs)
        self.retry_after = (response.headers or {}).get("Retry-After")
        return response


def make_client(settings: CompetitionSettings) -> Client:
    """A Twilio client for one thread."""
    base = settings.twilio_api_base_url
    assert settings.twilio_auth_token is not None  # noqa: S101 -- sms.check() made sure
    client = Client(
        (settings.twilio_account_sid or "").strip(),
        settings.twilio_auth_token.get_secret_value().strip(),
        http_client=HttpClient(
            settings.provider_timeout_seconds, trust_environment=urlsplit(base).hostname not in LOOPBACK
        ),
    )
    client.api.base_url = base
    return client


def never_connected(error: requests.RequestException) -> bool:
    """Whether the request failed before anything was sent."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return True
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.NameResolutionError)
