"""The task types of these tests, as an application would register them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jobdeck


class Parcel(jobdeck.Payload):
    number: int = 0
    address: dict[str, Any] = {}  # noqa: RUF012 -- pydantic copies it
    dry_run: bool = False


class Bare(jobdeck.Payload):
    number: int = 0


behaviour: dict[str, Callable[[Any, Any], Any]] = {}
"""What the handler of `testing_parcel` does in this test; the fixture `behave` sets it."""


def nothing(params: Any, ctx: jobdeck.JobContext) -> None: ...


@jobdeck.job("testing_parcel", payload=Parcel, max_attempts=4, retry_base=10, retry_cap=30)
def parcel(params: Parcel, ctx: jobdeck.JobContext) -> Any:
    return behaviour["parcel"](params, ctx)


@jobdeck.job("testing_other", payload=Bare)
def other(params: Bare, ctx: jobdeck.JobContext) -> Any:
    work: Any = behaviour.get("other", nothing)
    return work(params, ctx)


@jobdeck.job("testing_async", payload=Bare, max_attempts=4, retry_base=10, retry_cap=30)
async def waiting(params: Bare, ctx: jobdeck.AsyncJobContext) -> Any:
    return await behaviour["async"](params, ctx)
