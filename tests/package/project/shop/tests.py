"""The tests of the shop, for Django's own runner."""

from django.db import connection, transaction

import jobdeck
from jobdeck.django.testing import JobTestCase
from jobdeck.testing import assert_enqueued, drain, refute_enqueued
from shop.jobs import Booking, book_order
from shop.models import Order


class Orders(JobTestCase):
    def test_an_order_is_booked(self):
        order = Order.objects.create(customer=7)
        book_order.enqueue(connection, Booking(order=order.pk))
        assert_enqueued(self.queue, "book_order", payload={"order": order.pk}, count=1)
        (run,) = drain(self.queue, raise_errors=True)
        self.assertEqual(run.output, {"booked": order.pk})
        self.assertTrue(Order.objects.get().booked)

    def test_a_rollback_takes_the_job_back(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            book_order.enqueue(connection, Booking(order=1))
            raise ZeroDivisionError
        refute_enqueued(self.queue, "book_order")

    def test_a_refused_job_leaves_the_savepoint_of_the_caller(self):
        with self.assertRaises(jobdeck.InvalidPayload):
            jobdeck.enqueue(connection, "book_order", {"order": "none"})
        refute_enqueued(self.queue, "book_order")
