"""Reads the bodies of requests within limits of size, time and total memory."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.endpoints import RETRY_SECONDS, Declined

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


class Account:
    """The bytes of one body that count, and the time that is left to read it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.given_up = False
        self.time: asyncio.Timeout | None = None


class Intake:
    """Reads the bodies of all requests of one server.

    The bodies that count have a number of bytes together. When they have more, the body that is being read for the
    longest time is given up, so that clients that never end theirs keep no other client out. The others are those of
    requests whose head shows a secret: the number of its connections limits them.
    """

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.body_seconds
        self._most = limits.held_bytes
        self._held = 0
        self._reading: dict[Account, None] = {}

    @contextmanager
    def held(self) -> Iterator[Account]:
        """An account for one body, whose bytes are released at the end."""
        account = Account()
        try:
            yield account
        finally:
            self._held -= account.bytes

    async def read(self, request: Request, limit: int, account: Account, *, counted: bool) -> bytes:
        """Reads the whole body. `counted` is whether it counts against the bytes of all.

        Raises:
            Declined: the body is longer than `limit` bytes or too slow, or the server holds too many bytes.
            CutOff: the client disconnected.
        """
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdecimal() and int(stated[:20]) > limit:
            raise _too_long(limit)
        try:
            async with asyncio.timeout(self._seconds) as account.time:
                if counted:
                    self._reading[account] = None
                return await self._collect(request.receive, limit, account, counted)
        except TimeoutError:
            if account.given_up:
                raise _busy() from None
            raise Declined(408, f"The request was not complete after {self._seconds:g} seconds.") from None
        finally:
            self._reading.pop(account, None)

    async def _collect(self, receive: Receive, limit: int, account: Account, counted: bool) -> bytes:
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise CutOff
            part: bytes = message.get("body", b"")
            length += len(part)
            if length > limit:
                raise _too_long(limit)
            if counted:
                self._count(account, len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _count(self, account: Account, more: int) -> None:
        account.bytes += more
        self._held += more
        while self._held > self._most and not account.given_up:
            self._give_up(next(iter(self._reading)))
        if account.given_up:
            raise _busy()

    def _give_up(self, slowest: Account) -> None:
        del self._reading[slowest]
        self._held -= slowest.bytes
        slowest.bytes, slowest.given_up = 0, True
        if slowest.time is not None:
            slowest.time.reschedule(asyncio.get_running_loop().time())


def _too_long(limit: int) -> Declined:
    return Declined(413, f"The request is too long. The limit is {limit} bytes.")


def _busy() -> Declined:
    return Declined(503, "The server is busy. Try again later.", Retry_After=RETRY_SECONDS)


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
