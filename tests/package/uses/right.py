"""Uses of the public API that a type checker must accept."""

from uuid import UUID

import psycopg

import jobdeck


class Invoice(jobdeck.Payload):
    customer: int


class Order(jobdeck.Payload):
    number: int


class Sync(jobdeck.Payload):
    dry_run: bool = False


declared = jobdeck.task("declared", Invoice, max_attempts=3)
bare = jobdeck.task("bare")
sync = jobdeck.task("sync", Sync)


@declared.handler
def handle(invoice: Invoice, ctx: jobdeck.JobContext) -> jobdeck.Done:
    ctx.log.info("%s", invoice.customer)
    return jobdeck.Done()


@bare.handler(timeout=60, playbook="Ask billing.")
async def handle_bare(_payload: jobdeck.Payload, ctx: jobdeck.AsyncJobContext) -> None:
    async with ctx.adb() as conn:
        await conn.execute("SELECT 1")


@jobdeck.job("send_invoice", timeout=60)
def send_invoice(invoice: Invoice, ctx: jobdeck.JobContext) -> jobdeck.Done:
    ctx.raise_if_cancelled()
    return jobdeck.Done({"customer": invoice.customer})


@jobdeck.schedule(jobdeck.Every(minutes=5), Order(number=1))
@jobdeck.job("check_stock", payload=Order)
async def check_stock(order: Order, ctx: jobdeck.AsyncJobContext) -> jobdeck.Done | jobdeck.Continue:
    return jobdeck.Continue({"number": order.number}) if ctx.cancelled() else jobdeck.Done()


@jobdeck.job("report")
def report(_payload: jobdeck.Payload, ctx: jobdeck.JobContext) -> None:
    ctx.db.execute("SELECT 1")


def enqueue(conn: "psycopg.Connection[tuple[object, ...]]") -> None:
    ticket = send_invoice.enqueue(conn, Invoice(customer=1), priority=5, dedupe_key="1")
    declared.enqueue(conn, Invoice(customer=1), blocked_by=ticket.job_id)
    bare.enqueue(conn)
    sync.enqueue(conn)
    jobdeck.enqueue(conn, send_invoice, Invoice(customer=1))
    jobdeck.enqueue(conn, "send_invoice", {"customer": 1})
    check_stock.enqueue_many(conn, [Order(number=n) for n in range(3)], priority=1)
    whole = [send_invoice.new(Invoice(customer=1), timeout=9.5), check_stock.new(Order(number=1), dedupe_key="1")]
    bare.enqueue(conn, blocked_by=jobdeck.enqueue_many(conn, [*whole, jobdeck.new_job("report")])[0].job_id)
    flow = jobdeck.Flow("order")
    first = flow.add("first", send_invoice, Invoice(customer=1))
    flow.add("second", check_stock, Order(number=1), after=first)
    flow.add("third", "report", after=["first", "second"])
    flow.on_failure(report)
    jobdeck.enqueue_flow(conn, flow)


async def enqueue_async(conn: "psycopg.AsyncConnection[tuple[object, ...]]", ctx: jobdeck.AsyncJobContext) -> None:
    await send_invoice.aenqueue(conn, Invoice(customer=1))
    await jobdeck.aenqueue_many(conn, check_stock, [Order(number=1)])
    (await check_stock(Order(number=1), ctx)).output.clear()


def call(ctx: jobdeck.JobContext) -> int:
    return send_invoice(Invoice(customer=1), ctx).failed


def enqueue_by_name(conn: "psycopg.Connection[tuple[object, ...]]") -> list[UUID]:
    try:
        ticket = jobdeck.enqueue(conn, "send_invoice", Invoice(customer=7), dedupe_key="7")
    except jobdeck.Refused as error:
        raise SystemExit(str(error)) from None
    return [ticket.job_id, *jobdeck.enqueue_many(conn, "send_invoice", [Invoice(customer=8)])]


async def wait(conn: "psycopg.AsyncConnection[tuple[object, ...]]") -> jobdeck.Result:
    ticket = await jobdeck.aenqueue(conn, "send_invoice", Invoice(customer=7))
    return await jobdeck.aresult(conn, ticket.job_id, timeout=5)


def work() -> None:
    settings = jobdeck.load_settings(handlers="right")
    with jobdeck.open_database(settings, application_name="right") as database:
        jobdeck.Worker(database, jobdeck.load_types(settings.handler_modules), settings).run_until_idle()
