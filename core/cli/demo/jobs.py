"""The job types of `jobdeck demo` without plugins.

Some are series, some run for minutes and report progress, one is at its limit, one is paused, and some are the steps of
a flow. An edit fixes the failure of one, and one calls a shop that fails for a while.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from jobdeck.core.errors import PermanentError, VendorError
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import operator
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.registry import Done, JobContext, NoArguments, Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg


PAGES: Final = ("start", "prices", "about", "contact", "imprint")
SECONDS_PER_PHOTO: Final = 0.3
SECONDS_PER_PRODUCT: Final = 0.4
DAYS, SECONDS_PER_DAY = 30, 0.2
PAGES_OF_A_REPORT, SECONDS_PER_PAGE = 120, 1.0
WAREHOUSES, TABLES = 8, 120

_pause: Final = threading.Event()
"""Never set. Used to sleep."""


@job("demo_check_links", label="Check links", purpose="Look for broken links on an invented site", recurring=1)
def check_links(_params: NoArguments, ctx: JobContext) -> Done:
    """Recurs every minute and succeeds."""
    for done, page in enumerate(PAGES, start=1):
        ctx.raise_if_cancelled()
        ctx.log.info("page %s has no broken links", page)
        ctx.progress(done, len(PAGES), page)
    return Done({"pages": len(PAGES), "broken": 0})


class Invoice(Payload):
    customer: str = Field(description="Customer who pays")
    amount: str = Field(description="Amount, such as 12.50")


@job("demo_send_invoice", label="Send invoice", purpose="Send an invented invoice", payload=Invoice)
def send_invoice(params: Invoice, ctx: JobContext) -> Done:
    """Fails permanently when the amount is not a number, until an operator edits the payload and retries."""
    try:
        amount = Decimal(params.amount)
    except InvalidOperation:
        raise PermanentError(
            f"The amount {params.amount!r} is not a number. Edit the payload (12.50 instead of 12,50), then retry."
        ) from None
    ctx.log.info("sent an invoice for %s", amount)
    return Done({"amount": str(amount)})


class Photos(Payload):
    photos: int = Field(60, ge=1, le=1000, description="Number of photos")


@job(
    "demo_resize_photos", label="Resize photos", purpose="Run for a while and report progress", payload=Photos,
    concurrency="type",
)  # fmt: skip
def resize_photos(params: Photos, ctx: JobContext) -> Done:
    """Reports progress, can be cancelled, and resumes from its checkpoint."""
    _work_through(ctx, params.photos, "photo", SECONDS_PER_PHOTO)
    return Done({"resized": params.photos})


def _work_through(ctx: JobContext, number: int, what: str, each: float) -> None:
    """Takes `each` seconds for one of a `number` of things, and reports progress."""
    first = (ctx.checkpoint or {}).get("done", 0)
    for done in range(first + 1, number + 1):
        ctx.raise_if_cancelled()
        _pause.wait(each)
        ctx.progress(done, number, f"{what} {done}")
        if done % 10 == 0:
            ctx.save_checkpoint({"done": done})


class Catalogue(Payload):
    supplier: str = Field(description="Supplier whose products are imported")
    products: int = Field(600, ge=1, le=10_000, description="Number of products")


@job(
    "demo_import_catalogue", label="Import catalogue", purpose="Import the products of an invented supplier",
    payload=Catalogue,
)  # fmt: skip
def import_catalogue(params: Catalogue, ctx: JobContext) -> Done:
    """Runs for minutes and reports progress."""
    _work_through(ctx, params.products, "product", SECONDS_PER_PRODUCT)
    return Done({"supplier": params.supplier, "products": params.products})


class Month(Payload):
    month: str = Field(description="Month, such as 2026-03")


@job("demo_collect_sales", label="Collect sales", purpose="Collect the invented sales of a month", payload=Month)
def collect_sales(params: Month, ctx: JobContext) -> Done:
    """The first step of closing a month. Takes a few seconds."""
    _work_through(ctx, DAYS, "day", SECONDS_PER_DAY)
    return Done({"month": params.month, "orders": 18_204})


@job("demo_render_report", label="Render report", purpose="Render the pages of an invented report", payload=Month)
def render_report(params: Month, ctx: JobContext) -> Done:
    """The second step of closing a month. Takes minutes."""
    _work_through(ctx, PAGES_OF_A_REPORT, "page", SECONDS_PER_PAGE)
    return Done({"month": params.month, "pages": PAGES_OF_A_REPORT})


@job("demo_publish_report", label="Publish report", purpose="Publish an invented report", payload=Month)
def publish_report(params: Month, ctx: JobContext) -> None:
    """The last step of closing a month."""
    ctx.log.info("published the report of %s", params.month)


class Newsletter(Payload):
    readers: str = Field(description="Group of readers who get it")


@job("demo_send_newsletter", label="Send newsletter", purpose="Send an invented newsletter", payload=Newsletter)
def send_newsletter(params: Newsletter, ctx: JobContext) -> None:
    """Waits in the demo, because its type is paused."""
    ctx.log.info("sent the newsletter to %s", params.readers)


@job("demo_sync_stock", label="Sync stock", purpose="Compare the stock with an invented warehouse", recurring=5)
def sync_stock(_params: NoArguments, ctx: JobContext) -> Done:
    """Recurs every 5 minutes and succeeds."""
    _work_through(ctx, WAREHOUSES, "warehouse", SECONDS_PER_DAY)
    return Done({"warehouses": WAREHOUSES, "different": 0})


@job("demo_back_up", label="Back up", purpose="Back up an invented database", recurring=60)
def back_up(_params: NoArguments, ctx: JobContext) -> Done:
    """Recurs every hour and reports progress."""
    _work_through(ctx, TABLES, "table", SECONDS_PER_PHOTO)
    return Done({"tables": TABLES})


class Shop:
    """The stand-in for a shop that takes webhooks. It answers, except while it is `failing`."""

    def __init__(self) -> None:
        self._down = threading.Event()

    @contextmanager
    def failing(self) -> Iterator[None]:
        self._down.set()
        try:
            yield
        finally:
            self._down.clear()

    def take(self, order: int) -> None:
        """Takes a webhook.

        Raises:
            VendorError: the shop is down.
        """
        if self._down.is_set():
            raise VendorError(f"The shop answered 503 Service Unavailable to the webhook of order {order}.")


shop: Final = Shop()
"""The jobs of this process call it."""


class Order(Payload):
    order: int = Field(ge=1, description="Number of the order")


@job(
    "demo_push_webhook", label="Push webhook", purpose="Tell an invented shop about an order", payload=Order,
    max_attempts=2, retry_base=5.0,
)  # fmt: skip
def push_webhook(params: Order, ctx: JobContext) -> None:
    """Fails while the shop is down."""
    shop.take(params.order)
    ctx.log.info("the shop knows order %s", params.order)


AFTER: Final = timedelta(minutes=1)
LASTING: Final = timedelta(minutes=4)
MARK: Final = "demo:incident "
"""The dedupe keys of the jobs that meet the incident begin with it."""
MOST: Final = 500
THRESHOLDS: Final = {"warning_share": 0.2, "critical_share": 0.6}
"""The thresholds of the type that fails. A new type has no history, so the usual rule would wait for 80 %."""


@contextmanager
def incident(
    failing: Callable[[], AbstractContextManager[object]], *, after: timedelta = AFTER, lasting: timedelta = LASTING
) -> Iterator[None]:
    """Enters `failing()` a while after the start and leaves it a while later, or at the end of the demo."""
    ending = threading.Event()

    def happen() -> None:
        if not ending.wait(after.total_seconds()):
            with failing():
                ending.wait(lasting.total_seconds())

    thread = threading.Thread(target=happen, name="demo incident", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def set_thresholds(conn: psycopg.Connection[Any], task_type: str, *, actor: str) -> None:
    """Gives a task type the thresholds of the demo, unless it has some."""
    known = {line.task_type: line for line in type_lines().run(conn)}.get(task_type)
    if known is None or known.warning_share is known.critical_share is None:
        operator.set_type(conn, task_type, changes=THRESHOLDS, actor=actor, reason="the incident of the demo")


def to_enqueue(conn: psycopg.Connection[Any], jobs: Sequence[NewJob], *, actor: str) -> list[NewJob]:
    """The jobs of one type that meet the incident: none if enough of an earlier start are still to come.

    Otherwise those that are left of it are deleted: overdue ones would all succeed before the incident begins.
    """
    now = read_jobs.clock().run(conn)
    wanted = Filter(status=Status.PENDING, task_type=jobs[0].task_type)
    waiting = read_jobs.page(wanted, limit=MOST).run(conn).jobs
    left = [job for job in waiting if (job.dedupe_key or "").startswith(MARK)]
    if any(job.run_at > now + AFTER + LASTING / 2 for job in left):
        return []
    if left:
        operator.delete(conn, [job.id for job in left], actor=actor, reason="left from an earlier demo")
    # A failed job of an earlier start can be retried beside the new one, because each start has keys of its own.
    return [job._replace(dedupe_key=f"{MARK}{now.isoformat()} {place}") for place, job in enumerate(jobs)]
