"""The handlers. A job may run twice, when a worker dies in it: each handler says why that is harmless."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

import jobdeck
from shop import tasks
from shop.settings import Settings


@asynccontextmanager
async def vendors(_settings: Any, _database: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """One HTTP client for all runs of a worker: `ctx.resources` of the types that name it."""
    async with httpx2.AsyncClient(timeout=20) as client:
        yield client


async def post(ctx: jobdeck.AsyncJobContext, url: str, body: dict[str, int]) -> None:
    """Asks a vendor, with the same key in each attempt, by which the vendor knows a request that comes twice."""
    client: httpx2.AsyncClient = ctx.resources
    answer = await client.post(url, json=body, headers={"Idempotency-Key": ctx.idempotency_key})
    if answer.status_code == 402:
        raise jobdeck.PermanentError("The payment was declined.")
    answer.raise_for_status()


@tasks.take_from_stock.handler
def take_from_stock(ref: tasks.OrderRef, ctx: jobdeck.JobContext) -> None:
    """Takes one piece. The change and the end of the run are one transaction, so it happens once."""
    with ctx.db.transaction():
        taken = ctx.db.execute(
            """
            UPDATE public.products AS p SET stock = p.stock - 1
            FROM public.orders AS o WHERE o.id = %s AND p.id = o.product AND p.stock > 0
            """,
            [ref.order],
        )
        if not taken.rowcount:
            raise jobdeck.PermanentError("The product is sold out.")
        ctx.finish_in(ctx.db)


@tasks.put_back.handler
def put_back(ref: tasks.OrderRef, ctx: jobdeck.JobContext) -> None:
    """Puts the piece back, once, as it was taken."""
    with ctx.db.transaction():
        ctx.db.execute(
            """
            UPDATE public.products AS p SET stock = p.stock + 1
            FROM public.orders AS o WHERE o.id = %s AND p.id = o.product
            """,
            [ref.order],
        )
        ctx.finish_in(ctx.db)


@tasks.charge.handler(timeout=60, resources=vendors)
async def charge(payment: tasks.Charge, ctx: jobdeck.AsyncJobContext) -> None:
    await post(ctx, Settings().payments_url, payment.model_dump())


@tasks.refund.handler(timeout=60, resources=vendors)
async def refund(payment: tasks.Charge, ctx: jobdeck.AsyncJobContext) -> None:
    await post(ctx, f"{Settings().payments_url}/refunds", payment.model_dump())


@tasks.draw_label.handler(timeout=30, isolation="process")
def draw_label(ref: tasks.OrderRef, ctx: jobdeck.JobContext) -> None:
    """Computes in a process of its own. A second run writes the same label."""
    label = hashlib.scrypt(str(ref.order).encode(), salt=b"label", n=2**14, r=8, p=1, dklen=8).hex()
    ctx.db.execute("UPDATE public.orders SET label = %s, state = 'ready' WHERE id = %s", [label, ref.order])


@tasks.confirm.handler(timeout=60, resources=vendors)
async def confirm(ref: tasks.OrderRef, ctx: jobdeck.AsyncJobContext) -> None:
    await post(ctx, Settings().mails_url, ref.model_dump())


@tasks.undo_order.handler
def undo_order(payment: tasks.Charge, ctx: jobdeck.JobContext) -> None:
    """Undoes the steps in reverse order, each by a job. A second run adds none twice."""
    ended = {step.name: step for step in jobdeck.flow_results(ctx)}
    undo = jobdeck.Flow()
    # A charge that failed may have been made, and its answer lost. The provider refunds only what was paid.
    refunded = () if ended["charge"].outcome == "cancelled" else (undo.add("refund", tasks.refund, payment),)
    if ended["take"].ok:
        undo.add("put back", tasks.put_back, tasks.OrderRef(order=payment.order), after=refunded)
    if undo.members:
        jobdeck.extend_flow(ctx, undo)
    ctx.db.execute("UPDATE public.orders SET state = 'cancelled' WHERE id = %s", [payment.order])


@tasks.index_product.handler
def index_product(ref: tasks.ProductRef, ctx: jobdeck.JobContext) -> None:
    """Writes the words by which the search finds a product, from its newest name."""
    ctx.db.execute("UPDATE public.products SET words = to_tsvector('simple', name)::text WHERE id = %s", [ref.product])


@jobdeck.schedule(jobdeck.Cron("0 6 * * 1-5", tz="Europe/Paris"))
@jobdeck.job("morning_report")
def morning_report(_: jobdeck.Payload, ctx: jobdeck.JobContext) -> jobdeck.Done:
    """Counts the orders. The output is kept with the run."""
    found = ctx.db.execute("SELECT state, count(*) FROM public.orders GROUP BY state")
    return jobdeck.Done({"orders": dict(found.fetchall())})
