"""The bytes that the bodies of all requests take together."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.requests import Request
from starlette.types import Message

from jobdeck.core.http.clients.gate import Limits
from jobdeck.core.http.clients.intake import Intake
from jobdeck.core.http.endpoints import Declined
from tests.support.waiting import PATIENCE

HELD = 10


def request_with(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return Request({"type": "http", "headers": []}, receive)


class Endless:
    """A request whose body begins and never ends."""

    def __init__(self, body: bytes) -> None:
        self._parts = [body]
        self.is_read = asyncio.Event()
        self.request = Request({"type": "http", "headers": []}, self._receive)

    async def _receive(self) -> Message:
        if self._parts:
            return {"type": "http.request", "body": self._parts.pop(), "more_body": True}
        self.is_read.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")


async def refused(intake: Intake, request: Request) -> int:
    """The status with which the body is refused."""
    with intake.held() as account, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            try:
                await intake.read(request, HELD, account, counted=True)
            except Declined as declined:
                return declined.status
    return 0


async def test_bodies_together_take_no_more_than_their_bytes_and_give_them_back() -> None:
    intake, body = Intake(Limits(held_bytes=HELD)), b"x" * HELD
    with intake.held() as first:
        assert await intake.read(request_with(body), HELD, first, counted=True) == body
        with intake.held() as second:
            with pytest.raises(Declined) as declined:
                await intake.read(request_with(b"x"), HELD, second, counted=True)
            assert declined.value.status == 503
    with intake.held() as third:
        assert await intake.read(request_with(body), HELD, third, counted=True) == body


async def test_a_body_that_does_not_count_takes_none_of_the_bytes_of_all() -> None:
    intake, body = Intake(Limits(held_bytes=HELD)), b"x" * HELD
    with intake.held() as first, intake.held() as second:
        assert await intake.read(request_with(body), HELD, first, counted=False) == body
        assert await intake.read(request_with(body), HELD, second, counted=True) == body


async def test_the_body_that_is_read_for_the_longest_time_gives_way_to_a_new_one() -> None:
    intake = Intake(Limits(held_bytes=HELD, body_seconds=PATIENCE))
    slow = [Endless(b"x" * (HELD // 2)) for _ in range(2)]
    reading = []
    for one in slow:
        reading.append(asyncio.ensure_future(refused(intake, one.request)))
        await one.is_read.wait()
    with intake.held() as account:
        body = b"x" * (HELD // 2)
        assert await intake.read(request_with(body), HELD, account, counted=True) == body
    assert await reading[0] == 503
    with intake.held() as account:
        assert await intake.read(request_with(body), HELD, account, counted=True) == body
    assert not reading[1].done()
    reading[1].cancel()


async def test_as_shipped_all_bodies_without_a_secret_take_64_mib_together() -> None:
    intake, half = Intake(Limits()), b"x" * (32 * 1024 * 1024)
    with intake.held() as first, intake.held() as second, intake.held() as third:
        for account in (first, second):
            assert await intake.read(request_with(half), len(half), account, counted=True) == half
        with pytest.raises(Declined) as declined:
            await intake.read(request_with(b"x"), HELD, third, counted=True)
        assert declined.value.status == 503
