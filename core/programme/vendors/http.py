"""HTTP helpers of all vendor clients: rate limit, backoff, `Retry-After`, and limits of an answer's time and size."""

from __future__ import annotations

import http.client
import io
import math
import random
import re
import threading
import time
import zlib
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

RETRY_AFTER_CAP: Final = 3600.0
"""Longest pause, in seconds, that is honoured when a vendor asks for one."""

RETRYABLE_STATUSES: Final = frozenset({408, 425, 429})
"""Like every 5xx, these statuses mean that the request may be retried."""

_SECONDS: Final = re.compile(r"\d{1,12}(?:\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Time:
    """The clocks and the sleep of a client, which tests replace to avoid waiting.

    `monotonic` measures waits, `wall` (unix seconds) is compared with a vendor's dates, `random` returns 0 up to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


@cache
def certificates(*, trust_env: bool) -> ssl.SSLContext:
    """The certificates that clients of httpx trust, read once in a process: that takes longer than a request.

    Args:
        trust_env: whether the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` may name others.
    """
    import httpx  # noqa: PLC0415 -- imported on first use

    return httpx.create_ssl_context(trust_env=trust_env)


def parse_retry_after(value: str | None, now: float, cap: float = RETRY_AFTER_CAP) -> float | None:
    """Reads a `Retry-After` header: whole or fractional seconds, or an HTTP date; at most `cap`.

    Args:
        value: the header, or None if there was none.
        now: unix seconds, from which a date is measured; a date in the past gives 0.
        cap: maximum in seconds.

    Returns:
        Seconds to wait, or None if the header is missing or invalid.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), cap)
    try:
        date = parsedate_to_datetime(text)
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(moment - now, 0.0), cap)


def full_jitter(attempt: int, draw: float, base: float = 0.5, cap: float = 8.0) -> float:
    """Seconds before the next attempt: between 0 and `base * 2^(attempt-1)`, at most `cap`.

    `attempt` counts from 1; `draw` is from 0 up to 1.
    """
    return draw * min(cap, base * math.ldexp(1.0, min(attempt - 1, 30)))


class Pacer:
    """A token bucket that all threads of a client share. A vendor's `Retry-After` closes it for that time."""

    def __init__(self, rate: float, time_: Time, burst: int = 5) -> None:
        self._interval = 1.0 / rate
        self._slack = self._interval * (burst - 1)
        self._time = time_
        self._lock = threading.Lock()
        self._due = -math.inf
        self._closed_until = -math.inf

    def reserve(self, longest: float) -> float | None:
        """Takes a token and returns the seconds to wait for it; returns None and takes none beyond `longest`."""
        with self._lock:
            now = self._time.monotonic()
            start = max(now, self._due - self._slack, self._closed_until)
            if start - now > longest:
                return None
            self._due = max(self._due, start) + self._interval
            return start - now

    def close_for(self, seconds: float) -> None:
        """Blocks all requests for this time."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._time.monotonic() + seconds)

    @property
    def closed_for(self) -> float:
        """Seconds left of the pause that the vendor asked for; 0 if there is none."""
        with self._lock:
            return max(0.0, self._closed_until - self._time.monotonic())


class TimedResponse(http.client.HTTPResponse):
    """An answer that ends within its socket's timeout, from the status to the last byte, or raises `TimeoutError`.

    The timeout of a socket alone is for each piece that it receives, so an answer that drips would never end.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock))


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        seconds = sock.gettimeout()
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(left if math.isfinite(left) else None)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


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
