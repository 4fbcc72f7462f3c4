"""One HTTP exchange with a vendor over httpx: one deadline, one limit of size, no redirects, no content in errors.

The timeouts of httpx are for each piece that is read or written, also of the headers, so a request to a peer that
drips would never end.
"""

from __future__ import annotations

import math
import time
import zlib
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httpx

from jobdeck.core.programme.settings import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

CONNECT_SECONDS: Final = 5.0
PIECE: Final = 16 * 1024


class ExchangeError(Exception):
    """A request without a usable answer. The text is why, in a few words without content and addresses."""

    sent: ClassVar[bool] = True
    """Whether the vendor may have processed the request."""


class NotConnected(ExchangeError):
    """No connection was made, so nothing was sent."""

    sent = False


class NoAnswer(ExchangeError):
    """No complete answer arrived in time."""


class Unreadable(ExchangeError):
    """The answer is too large or cannot be decompressed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any status, decompressed."""

    status: int
    headers: httpx.Headers
    content: bytes


class Exchange:
    """Sends requests to one vendor. Thread-safe."""

    def __init__(
        self,
        url: str,
        seconds: float,
        *,
        largest: int,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """Sends nothing.

        Args:
            url: the vendor's address, to which paths are relative.
            seconds: the timeout of each piece of a request and of its answer.
            largest: maximum size of an answer in MiB.
            clock: measures the deadlines.
            options: further options of the client of httpx.
        """
        self._connect = min(CONNECT_SECONDS, seconds)
        self._seconds = seconds
        self._largest = largest
        self._clock = clock
        self._http = open_client(url, base_url=url, timeout=httpx.Timeout(seconds, connect=self._connect), **options)

    def ask(self, method: str, url: str, *, within: float | None = None, **request: Any) -> Reply:
        """Sends one request, once, and reads its whole answer.

        Args:
            method: of HTTP.
            url: an address, or a path of the vendor's.
            within: seconds until the answer's last byte; otherwise the timeouts of the connection and the answer.
            request: headers and content, as httpx names them.

        Raises:
            NotConnected: nothing was sent.
            NoAnswer: the request may have been processed.
            Unreadable: the answer is too large, or cannot be decompressed.
        """
        seconds = self._connect + self._seconds if within is None else within
        deadline = self._clock() + seconds
        try:
            with ending_within(seconds), self._http.stream(method, url, **request) as response:
                content = self._read(response, deadline)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise NotConnected(type(error).__name__) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise NoAnswer(type(error).__name__) from None
        try:
            found = opened(content, response.headers.get("Content-Encoding"), self._largest * 1024 * 1024)
        except ValueError:
            raise Unreadable("the answer cannot be decompressed") from None
        if found is None:
            raise Unreadable(f"the answer is larger than {self._largest} MiB")
        return Reply(response.status_code, response.headers, found)

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > self._largest * 1024 * 1024:
                break
            if self._clock() > deadline:
                raise httpx.ReadTimeout("the answer took too long")
        return bytes(content)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


def open_client(url: str, **options: Any) -> httpx.Client:
    """A client of httpx that follows no redirects, keeps `ending_within`, and uses no proxy for this machine.

    Args:
        url: the address that it is for.
        options: its other options.
    """
    outside = httpx.URL(url).host not in LOOPBACK
    client = httpx.Client(follow_redirects=False, trust_env=outside, verify=certificates(trust_env=outside), **options)
    # httpx has no parameter for the backend of its transports.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001
    return client


@cache
def certificates(*, trust_env: bool) -> ssl.SSLContext:
    """The certificates that the clients trust, read once in a process: that takes longer than a request.

    Args:
        trust_env: whether the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` may name others.
    """
    return httpx.create_ssl_context(trust_env=trust_env)


_until: ContextVar[float] = ContextVar("until", default=math.inf)
"""When the request of this thread must have ended, on the monotonic clock of the process."""


@contextmanager
def ending_within(seconds: float) -> Iterator[None]:
    """Ends the requests in the block after this many seconds, with a timeout of httpx."""
    before = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(before)


class _Stream:
    """A connection that waits for its next bytes until the deadline at most."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        found: bytes = self._stream.read(max_bytes, _left(timeout, httpx.ReadTimeout))
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            self._stream.write(buffer[start : start + PIECE], _left(timeout, httpx.WriteTimeout))

    def start_tls(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._stream.start_tls(*args, **kwargs))


class _Backend:
    """Makes the connections of a pool, each a `_Stream`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(*args, **kwargs))


def _left(timeout: float | None, error: type[httpx.TimeoutException]) -> float:
    left = _until.get() - time.monotonic()
    if left <= 0:
        raise error("the request took too long")
    return left if timeout is None else min(timeout, left)


def opened(content: bytes, encoding: str | None, most: int) -> bytes | None:
    """The body of an answer, decompressed; None if it is larger than `most` bytes.

    Raises:
        ValueError: it is compressed in another way than its encoding says, in several ways, or not to its end.
    """
    way = (encoding or "").strip().lower()
    if way in {"", "identity"}:
        return content if len(content) <= most else None
    if way not in {"gzip", "x-gzip", "deflate"}:
        raise ValueError("the answer is compressed in an unknown way")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        found = unpacker.decompress(content, most + 1)
    except zlib.error:
        raise ValueError("the answer cannot be decompressed") from None
    if len(found) > most:
        return None
    if not unpacker.eof:
        raise ValueError("the compressed answer is cut off")
    return found
