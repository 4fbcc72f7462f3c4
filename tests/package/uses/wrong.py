"""Uses of the public API that a type checker must refuse: every line that ends with `# wrong`, and no other."""

import psycopg

import jobdeck


class Invoice(jobdeck.Payload):
    customer: int


class Order(jobdeck.Payload):
    number: int


declared = jobdeck.task("declared", Invoice)


@jobdeck.job("send_invoice")
def send_invoice(invoice: Invoice, ctx: jobdeck.JobContext) -> None:
    ctx.log.info("%s", invoice.customer)


@jobdeck.job("async_with_the_context_of_a_thread")  # wrong
async def mixed(invoice: Invoice, ctx: jobdeck.JobContext) -> None:
    ctx.db.execute("SELECT %s", [invoice.customer])


@declared.handler  # wrong
def other_payload(order: Order, ctx: jobdeck.JobContext) -> None:
    ctx.log.info("%s", order.number)


@jobdeck.job("two_models", payload=Invoice)  # wrong
def two_models(order: Order, ctx: jobdeck.JobContext) -> None:
    ctx.log.info("%s", order.number)


@jobdeck.job("no_outcome")  # wrong
def no_outcome(_payload: Invoice, ctx: jobdeck.JobContext) -> str:
    return ctx.idempotency_key


@jobdeck.job("no_such_option", timeot=60)  # wrong
def no_such_option(_payload: Invoice, ctx: jobdeck.JobContext) -> None:
    ctx.log.info("")


def enqueue(conn: "psycopg.Connection[tuple[object, ...]]", flow: jobdeck.Flow) -> None:
    send_invoce.enqueue(conn, Invoice(customer=1))  # wrong
    send_invoice.enqueue(conn, Order(number=1))  # wrong
    send_invoice.enqueue(conn, {"customer": 1})  # wrong
    send_invoice.enqueue(conn, Invoice(customer=1), prority=5)  # wrong
    send_invoice.enqueue("postgresql://", Invoice(customer=1))  # wrong
    declared.enqueue(conn, Order(number=1))  # wrong
    send_invoice.enqueue_many(conn, [Order(number=1)])  # wrong
    jobdeck.enqueue(conn, send_invoice, Order(number=1))  # wrong
    send_invoice.new(Order(number=1))  # wrong
    send_invoice.new(Invoice(customer=1), timeout="90s")  # wrong
    jobdeck.enqueue_many(conn, [Invoice(customer=1)])  # wrong
    jobdeck.enqueue_many(conn, send_invoice, [Order(number=1)])  # wrong
    jobdeck.enqueue(conn, other_payload, Order(number=1))  # wrong
    flow.add("first", send_invoice, Order(number=1))  # wrong
    flow.on_failure(send_invoice, Order(number=1))  # wrong
    send_invoice(Order(number=1), None)  # wrong


async def enqueue_async(conn: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
    await send_invoice.aenqueue(conn, Order(number=1))  # wrong
    send_invoice.enqueue(conn, Invoice(customer=1))  # wrong


def mistyped() -> object:
    return jobdeck.enqeue  # wrong
