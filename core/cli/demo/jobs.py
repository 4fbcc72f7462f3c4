"""The job types of `jobdeck demo` without plugins.

One is recurring, an edit fixes the failure of one, one is slow, and one calls a shop that fails for a while.
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
    first = (ctx.checkpoint or {}).get("done", 0)
    for done in range(first + 1, params.photos + 1):
        ctx.raise_if_cancelled()
        _pause.wait(SECONDS_PER_PHOTO)
        ctx.progress(done, params.photos, f"photo {done}")
        if done % 10 == 0:
            ctx.save_checkpoint({"done": done})
    return Done({"resized": params.photos})


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
