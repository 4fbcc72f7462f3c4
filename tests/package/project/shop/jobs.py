"""The task types of the shop."""

from django.db import connection, transaction

import jobdeck
from shop.models import Order


class Booking(jobdeck.Payload):
    order: int


@jobdeck.job("book_order", max_attempts=1)
def book_order(booking: Booking, ctx: jobdeck.JobContext) -> None:
    with transaction.atomic():
        Order.objects.filter(pk=booking.order).update(booked=True)
        ctx.finish_in(connection, jobdeck.Done({"booked": booking.order}))


@jobdeck.job("draw_label", max_attempts=1, isolation="process")
def draw_label(booking: Booking, ctx: jobdeck.JobContext) -> None:
    """Runs in a process of its own, which has the models as well."""
    Order.objects.filter(pk=booking.order).update(label=f"Order {booking.order}")
