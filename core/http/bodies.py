"""Bodies within limits: how long, how slowly, and how much of all of them at a time."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.endpoints import Declined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import Receive

BODY_SECONDS: Final = 10.0
HELD_BYTES: Final = 64 * 1024 * 1024
"""The most that bodies of all requests take up together."""
LINGER_SECONDS: Final = 2.0
"""How long what is left of a refused body is read and thrown away: a client that is cut off while it sends misses
the answer."""


class CutOff(Exception):
    """The client has left before its request was whole."""


class Intake:
    """Reads bodies for all requests of one server."""

    def __init__(self, *, seconds: float = BODY_SECONDS, held: int = HELD_BYTES) -> None:
        self._seconds = seconds
        self._most = held
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """The account of one body's bytes, given back at the end."""
        account = [0]
        try:
            yield account
        finally:
            self._held -= account[0]

    async def read(self, request: Request, limit: int, account: list[int]) -> bytes:
        """The whole body.

        Raises:
            Declined: it is longer than `limit` bytes, comes too slowly, or there is no room for it now.
            CutOff: it broke off.
        """
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdecimal() and int(stated[:20]) > limit:
            raise _too_long(limit)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(request.receive, limit, account)
        except TimeoutError:
            raise Declined(408, f"The request was not whole after {self._seconds:g} seconds.") from None

    async def _collect(self, receive: Receive, limit: int, account: list[int]) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise CutOff
            part: bytes = message.get("body", b"")
            account[0] += len(part)
            self._held += len(part)
            if account[0] > limit:
                raise _too_long(limit)
            if self._held > self._most:
                raise Declined(503, "Too much comes in at a time. Call again.", Retry_After="5")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _too_long(limit: int) -> Declined:
    return Declined(413, f"The request is too long: {limit} bytes are allowed here.")


async def throw_away(receive: Receive) -> None:
    """Reads what is left of a body, for a while, and keeps nothing of it."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
