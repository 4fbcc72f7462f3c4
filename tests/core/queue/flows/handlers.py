"""Handlers of flows, one pair for each kind of handler: a module that a process of a worker imports too."""

from __future__ import annotations

import os
import threading

import psycopg

import jobdeck

TWO = ("part 1", "part 2")


class Nothing(jobdeck.Payload):
    """No fields."""


def parts() -> jobdeck.Flow:
    """What each `split` adds."""
    flow = jobdeck.Flow()
    for number, name in enumerate(TWO, 1):
        flow.add(name, "f_part", {"number": number})
    return flow


def merged(results: tuple[jobdeck.BlockerResult, ...]) -> jobdeck.Done:
    """What each `merge` returns."""
    ended = {one.name: [one.outcome, one.output and one.output.get("number")] for one in results}
    return jobdeck.Done({"ended": ended, "pid": os.getpid(), "thread": threading.current_thread().name})


class Part(jobdeck.Payload):
    """The number of a part."""

    number: int


@jobdeck.job("f_part", payload=Part)
def part(params: Part, _ctx: jobdeck.JobContext) -> jobdeck.Done:
    return jobdeck.Done({"number": params.number})


@jobdeck.job("f_split_thread", payload=Nothing)
def split_thread(_: Nothing, ctx: jobdeck.JobContext) -> None:
    jobdeck.extend_flow(ctx, parts())


@jobdeck.job("f_merge_thread", payload=Nothing)
def merge_thread(_: Nothing, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return merged(jobdeck.flow_results(ctx))


@jobdeck.job("f_split_process", payload=Nothing, isolation="process")
def split_process(_: Nothing, ctx: jobdeck.JobContext) -> None:
    jobdeck.extend_flow(ctx, parts())


@jobdeck.job("f_merge_process", payload=Nothing, isolation="process")
def merge_process(_: Nothing, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return merged(jobdeck.flow_results(ctx))


@jobdeck.job("f_split_async", payload=Nothing)
async def split_async(_: Nothing, ctx: jobdeck.AsyncJobContext) -> None:
    await jobdeck.aextend_flow(ctx, parts())


@jobdeck.job("f_merge_async", payload=Nothing)
async def merge_async(_: Nothing, ctx: jobdeck.AsyncJobContext) -> jobdeck.Done:
    return merged(await jobdeck.aflow_results(ctx))


@jobdeck.job("f_split_twice_async", payload=Nothing)
async def split_twice_async(_: Nothing, ctx: jobdeck.AsyncJobContext) -> None:
    """Adds the parts in a transaction that is rolled back, then in one that is committed."""
    for keep in (False, True):
        async with ctx.adb() as conn, conn.transaction() as made:
            await conn.execute("SET LOCAL search_path = pg_catalog")
            await jobdeck.aextend_flow(ctx, parts(), conn)
            if not keep:
                raise psycopg.Rollback(made)
