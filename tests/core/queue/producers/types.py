"""Job types for the tests of producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jobdeck
from tests.support.queue import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session, scoped_session


class Greeting(jobdeck.Payload):
    to_whom: str
    times: int = 1


@jobdeck.job("made_greet", payload=Greeting, max_attempts=3, concurrency="payload:toWhom")
def greet(params: Greeting, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return jobdeck.Done({"said": params.to_whom * params.times})


def judge(params: Any, admission: Any) -> Mapping[str, str]:
    return {"toWhom": "is nobody"} if params.to_whom == "nobody" else {}


@jobdeck.job("made_judged", payload=Greeting, admit=judge)
def judged(params: Greeting, ctx: jobdeck.JobContext) -> None: ...


@jobdeck.job("made_plain")
def plain(params: jobdeck.Payload, ctx: jobdeck.JobContext) -> None: ...


async def judged_by_mypy(
    session: Session,
    scoped: scoped_session[Session],
    connection: sqlalchemy.Connection,
    async_session: AsyncSession,
    async_connection: AsyncConnection,
    plain: Connection,
    not_sync: psycopg.AsyncConnection[Any],
) -> None:
    """What a type checker accepts and what it refuses. It is never called."""
    for sync in (session, scoped, connection, plain):
        jobdeck.enqueue(sync, "made_greet", {})
    await jobdeck.aenqueue(async_session, "made_greet", {})
    await jobdeck.aenqueue(async_connection, "made_greet", {})
    await jobdeck.aenqueue_many(not_sync, "made_greet", [{}])
    jobdeck.enqueue("postgresql://", "made_greet", {})  # type: ignore[call-overload]
    jobdeck.enqueue(not_sync, "made_greet", {})  # type: ignore[call-overload]
    await jobdeck.aenqueue(session, "made_greet", {})  # type: ignore[call-overload]
    await jobdeck.aenqueue(plain, "made_greet", {})  # type: ignore[call-overload]
