"""The job types of `jobdeck demo` without plugins.

One is recurring, an edit fixes the failure of one, one is slow, and one calls a shop that fails for a while.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

from pydantic import Field

from jobdeck.core.errors import PermanentError, VendorError
from jobdeck.core.registry import Done, JobContext, NoArguments, Payload, job

if TYPE_CHECKING:
    from collections.abc import Iterator

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
