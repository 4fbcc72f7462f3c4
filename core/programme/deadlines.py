"""Deadlines for whole requests of httpx.

Its timeouts are for each piece that is read or written, also of the headers, so a request to a peer that drips would
never end.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE: Final = 16 * 1024

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


def hold_to_deadlines(client: httpx.Client) -> None:
    """Makes all connections of the client keep `ending_within`.

    httpx has no parameter for the backend of its transports.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001


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
