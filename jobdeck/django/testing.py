"""For the tests of a Django project: the queue inside the transaction of a `TestCase`.

    from jobdeck.testing import assert_enqueued, drain

    class Orders(JobTestCase):
        def test_an_order_is_booked(self):
            place_order()
            assert_enqueued(self.queue, "book_order", count=1)
            (run,) = drain(self.queue, raise_errors=True)

The test database has the queue by the migration of the app. There is no worker and no other process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.test import TestCase

import jobdeck.django.worker  # noqa: F401 -- registers the task types of the project
from jobdeck.django import database

if TYPE_CHECKING:
    import psycopg


class JobTestCase(TestCase):
    """A `TestCase` whose `queue` is what the functions of `jobdeck.testing` take.

    Where `JOBDECK_DATABASE` names another database than "default", `databases` must have it, as for models.
    """

    @property
    def queue(self) -> psycopg.Connection[Any]:
        """The connection below Django's own, in the transaction of the test."""
        of_django = database.connection()
        of_django.ensure_connection()
        conn: psycopg.Connection[Any] = of_django.connection
        return conn
