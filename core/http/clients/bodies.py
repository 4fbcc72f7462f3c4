"""Reads request bodies within limits of size, time and total memory."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.endpoints import Declined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import Receive

    from jobdeck.core.http.clients.gate import Limits

LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused body is read and discarded. A client that is disconnected while it sends would not
read the response."""


class CutOff(Exception):
    """The client disconnected before its request was complete."""


class Intake:
    """Reads the bodies of all requests of one server."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.body_seconds
        self._most = limits.held_bytes
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """Counts the bytes of one body (in a list of one number) and releases them at the end."""
        account = [0]
        try:
            yield account
        finally:
            self._held -= account[0]

    async def read(self, request: Request, limit: int, account: list[int], *, proven: bool = False) -> bytes:
        """Reads the whole body. That of a proven request does not count against the bytes of all.

        Raises:
            Declined: the body is longer than `limit` bytes or too slow, or the server holds too many bytes.
            CutOff: the client disconnected.
        """
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdecimal() and int(stated[:20]) > limit:
            raise _too_long(limit)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(request.receive, limit, account, proven)
        except TimeoutError:
            raise Declined(408, f"The request was not complete after {self._seconds:g} seconds.") from None

    async def _collect(self, receive: Receive, limit: int, account: list[int], proven: bool) -> bytes:
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise CutOff
            part: bytes = message.get("body", b"")
            length += len(part)
            if not proven:
                account[0] += len(part)
                self._held += len(part)
            if length > limit:
                raise _too_long(limit)
            if not proven and self._held > self._most:
                raise Declined(503, "The server is busy. Try again later.", Retry_After="5")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _too_long(limit: int) -> Declined:
    return Declined(413, f"The request is too long. The limit is {limit} bytes.")


async def throw_away(receive: Receive) -> None:
    """Reads and discards the rest of a body, for at most `LINGER_SECONDS`."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
