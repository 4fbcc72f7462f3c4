"""What vendor clients do between requests: rate limit, backoff and `Retry-After`."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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
