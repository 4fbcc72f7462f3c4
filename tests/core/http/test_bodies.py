"""The bytes that the bodies of all requests take together."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.types import Message

from jobdeck.core.http.app import Intake
from jobdeck.core.http.clients.gate import Limits
from jobdeck.core.http.endpoints import Declined

HELD = 10


def request_with(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return Request({"type": "http", "headers": []}, receive)


async def test_bodies_together_take_no_more_than_their_bytes_and_give_them_back() -> None:
    intake, body = Intake(Limits(held_bytes=HELD)), b"x" * HELD
    with intake.held() as first:
        assert await intake.read(request_with(body), HELD, first) == body
        with intake.held() as second:
            with pytest.raises(Declined) as declined:
                await intake.read(request_with(b"x"), HELD, second)
            assert declined.value.status == 503
    with intake.held() as third:
        assert await intake.read(request_with(body), HELD, third) == body


async def test_the_body_of_a_proven_request_takes_none_of_the_bytes_of_all() -> None:
    intake, body = Intake(Limits(held_bytes=HELD)), b"x" * HELD
    with intake.held() as first, intake.held() as second:
        assert await intake.read(request_with(body), HELD, first, proven=True) == body
        assert await intake.read(request_with(body), HELD, second) == body
