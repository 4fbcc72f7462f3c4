"""Three job types for `jobdeck demo` without plugins: a recurring one, one that an edit repairs, and a slow one."""

from __future__ import annotations

import threading
from decimal import Decimal, InvalidOperation
from typing import Final

from pydantic import Field

from jobdeck.core.errors import PermanentError
from jobdeck.core.registry import Done, JobContext, NoArguments, Payload, job

PAGES: Final = ("start", "prices", "about", "contact", "imprint")
SECONDS_PER_PHOTO: Final = 0.3

_pause: Final = threading.Event()
"""Never set: waiting for it is a pause."""


@job("demo_check_links", label="Check links", purpose="Look for broken links on an invented site", recurring=1)
def check_links(_params: NoArguments, ctx: JobContext) -> Done:
    """Recurring: it succeeds every minute."""
    for done, page in enumerate(PAGES, start=1):
        ctx.raise_if_cancelled()
        ctx.log.info("the page %s has no broken link", page)
        ctx.progress(done, len(PAGES), page)
    return Done({"pages": len(PAGES), "broken": 0})


class Invoice(Payload):
    """One invoice."""

    customer: str = Field(description="Who is to pay")
    amount: str = Field(description="The amount, like 12.50")


@job("demo_send_invoice", label="Send invoice", purpose="Send an invented invoice", payload=Invoice)
def send_invoice(params: Invoice, ctx: JobContext) -> Done:
    """Fails for good on an amount that is no number; edit the payload and retry."""
    try:
        amount = Decimal(params.amount)
    except InvalidOperation:
        raise PermanentError(
            f"The amount {params.amount!r} is no number. Edit the payload: write a point for the comma. Then retry."
        ) from None
    ctx.log.info("an invoice over %s was sent", amount)
    return Done({"amount": str(amount)})


class Photos(Payload):
    """How many photos there are."""

    photos: int = Field(60, ge=1, le=1000, description="How many photos")


@job(
    "demo_resize_photos", label="Resize photos", purpose="Take a while, and say how far it is", payload=Photos,
    concurrency="type",
)  # fmt: skip
def resize_photos(params: Photos, ctx: JobContext) -> Done:
    """Slow: it reports progress, can be cancelled, and goes on from its checkpoint."""
    first = (ctx.checkpoint or {}).get("done", 0)
    for done in range(first + 1, params.photos + 1):
        ctx.raise_if_cancelled()
        _pause.wait(SECONDS_PER_PHOTO)
        ctx.progress(done, params.photos, f"photo {done}")
        if done % 10 == 0:
            ctx.save_checkpoint({"done": done})
    return Done({"resized": params.photos})
