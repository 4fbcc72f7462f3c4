"""What a program that uses Jobdeck looks like to a type checker; scripts/package has mypy judge it."""

from uuid import UUID

import psycopg

import jobdeck


class Invoice(jobdeck.Payload):
    customer_id: int


@jobdeck.job("send_invoice", payload=Invoice, max_attempts=3)
def send_invoice(params: Invoice, ctx: jobdeck.JobContext) -> jobdeck.Done | jobdeck.Continue:
    ctx.raise_if_cancelled()
    if params.customer_id < 0:
        raise jobdeck.PermanentError("There is no such customer.")
    return jobdeck.Done({"sent": params.customer_id})


def enqueue(conn: "psycopg.Connection[tuple[object, ...]]") -> list[UUID]:
    try:
        ticket = jobdeck.enqueue(conn, "send_invoice", Invoice(customer_id=7), dedupe_key="7")
    except jobdeck.Refused as error:
        raise SystemExit(str(error)) from None
    return [ticket.job_id, *jobdeck.enqueue_many(conn, "send_invoice", [Invoice(customer_id=8)])]


async def enqueue_async(conn: "psycopg.AsyncConnection[tuple[object, ...]]") -> jobdeck.Result:
    ticket = await jobdeck.aenqueue(conn, "send_invoice", Invoice(customer_id=7))
    return await jobdeck.aresult(conn, ticket.job_id, timeout=5)


def work() -> None:
    settings = jobdeck.load_settings(handlers="consumer")
    with jobdeck.open_database(settings, application_name="consumer") as database:
        jobdeck.Worker(database, jobdeck.load_types(settings.handler_modules), settings).run_until_idle()


def mistyped() -> object:
    return jobdeck.enqeue  # type: ignore[attr-defined]
