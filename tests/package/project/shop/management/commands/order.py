"""`manage.py order CUSTOMER`: an order with its jobs, in one transaction."""

from django.core.management.base import BaseCommand
from django.db import connection, transaction

from shop.jobs import Booking, book_order, draw_label
from shop.models import Order


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("customer", type=int)

    def handle(self, *, customer, **_options):
        with transaction.atomic():
            order = Order.objects.create(customer=customer)
            for handle in (book_order, draw_label):
                handle.enqueue(connection, Booking(order=order.pk))
        self.stdout.write(f"{order.pk}")
