"""The task types of the incident. While a file exists, the vendor of `webhook_push` is down: four of five runs fail."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from jobdeck.core.errors import VendorError
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload

FOLDER: Final = Path(os.environ["INCIDENT_FOLDER"])
DOWN: Final = FOLDER / "vendor-is-down"
BUSY: Final = FOLDER / "images-are-large"
SICK: Final = FOLDER / "mail-of-one-customer-bounces"
CUSTOMER: Final = "c3"
HUNG: Final = FOLDER / "stock-sync-hangs"
LARGE_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 7200.0
"""So that no job is tried again before the operator says so."""
_pause: Final = threading.Event()


class Item(Payload):
    """The number of the job within its type, and whose it is. They decide whether the run fails."""

    number: int = 0
    customer: str = ""


@job("webhook_push", payload=Item, retry_base=RETRY_SECONDS, retry_cap=RETRY_SECONDS)
def push(params: Item, _ctx: JobContext) -> None:
    """Fails in two ways, so that there are two groups of errors."""
    if params.number % 5 == 0 or not DOWN.exists():
        return
    if params.number % 4 == 0:
        raise TimeoutError(f"the vendor did not answer webhook {params.number}")
    raise VendorError(f"the vendor answered 503 to webhook {params.number}")


@job("image_resize", payload=Item)
def resize(_params: Item, _ctx: JobContext) -> None:
    """Takes longer for a while, so that all slots are taken and other jobs are due while the operator works."""
    if BUSY.exists():
        _pause.wait(LARGE_SECONDS)


@job("order_mail", payload=Item)
def mail(params: Item, _ctx: JobContext) -> None:
    """Fails for five of seven mails of one customer while a file exists."""
    if params.customer == CUSTOMER and params.number % 7 < 5 and SICK.exists():
        raise VendorError("the mail server refused the address")


@job("report_row", payload=Item)
def report(_params: Item, _ctx: JobContext) -> None:
    """Succeeds."""


@job("stock_sync", payload=Item)
def sync(params: Item, ctx: JobContext) -> Done:
    """Hangs while a file exists, until an operator cancels it. Returns what it sent."""
    while HUNG.exists():
        ctx.raise_if_cancelled()
        _pause.wait(LARGE_SECONDS)
    return Done({"sid": f"S{params.number}"})
