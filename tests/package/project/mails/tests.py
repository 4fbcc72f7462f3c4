"""The tests of the mails, for Django's own runner."""

from datetime import datetime, timedelta

from django.core import mail
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.tasks import TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone

from jobdeck.django.testing import JobTestCase
from jobdeck.testing import assert_enqueued, drain, refute_enqueued
from mails.tasks import add, count_attempts, give_up, thank
from shop.models import Order


class Mails(JobTestCase):
    def test_a_task_is_a_job_of_a_type_of_its_own(self):
        order = Order.objects.create(customer=7)
        result = thank.enqueue(order.pk)
        self.assertEqual(result.status, TaskResultStatus.READY)
        assert_enqueued(self.queue, "mails.tasks.thank", payload={"args": [order.pk]}, count=1)
        drain(self.queue, raise_errors=True)
        self.assertEqual([one.body for one in mail.outbox], [f"For order {order.pk}"])
        found = thank.get_result(result.id)
        self.assertEqual((found.status, found.return_value), (TaskResultStatus.SUCCESSFUL, {"order": order.pk}))
        self.assertEqual((found.args, found.attempts, found.errors), ([order.pk], 1, []))
        self.assertLessEqual(found.started_at, found.finished_at)

    def test_a_rollback_takes_the_task_back(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            thank.enqueue(1)
            raise ZeroDivisionError
        refute_enqueued(self.queue, "mails.tasks.thank")

    def test_an_async_task_runs_and_its_result_is_refreshed(self):
        result = add.enqueue(1, 2, factor=3)
        drain(self.queue, raise_errors=True)
        result.refresh()
        self.assertEqual(result.return_value, 9)

    def test_a_task_that_fails_is_tried_again_with_its_context(self):
        result = count_attempts.enqueue()
        (job,) = assert_enqueued(self.queue, "mails.tasks.count_attempts", count=1)
        self.assertEqual((job.priority, job.max_attempts), (7, 2))
        drain(self.queue)
        self.assertEqual(count_attempts.get_result(result.id).status, TaskResultStatus.READY)
        drain(self.queue, scheduled=True)
        found = count_attempts.get_result(result.id)
        self.assertEqual((found.return_value, found.attempts), (2, 2))
        self.assertIs(found.errors[0].exception_class, LookupError)

    def test_a_task_that_fails_for_good_says_how(self):
        ended = []
        task_finished.connect(receiver := lambda task_result, **_: ended.append(task_result.status))
        self.addCleanup(task_finished.disconnect, receiver)
        result = give_up.enqueue()
        drain(self.queue, scheduled=True)
        found = give_up.get_result(result.id)
        self.assertEqual((found.status, len(found.errors)), (TaskResultStatus.FAILED, 2))
        self.assertIs(found.errors[0].exception_class, PermissionDenied)
        self.assertIn("no such order", found.errors[0].traceback)
        self.assertEqual(ended, [TaskResultStatus.FAILED])

    def test_a_task_for_later_is_due_then(self):
        later = timezone.now() + timedelta(hours=2)
        add.using(run_after=later, priority=-5).enqueue(1, 2)
        (job,) = assert_enqueued(self.queue, "mails.tasks.add", due_after=later, due_before=later)
        self.assertEqual(job.priority, -5)
        self.assertEqual(drain(self.queue), [])

    def test_signals_are_sent_around_a_task(self):
        seen = []
        for signal in (task_enqueued, task_started, task_finished):
            signal.connect(receiver := lambda task_result, **_: seen.append(task_result.status.value), weak=False)
            self.addCleanup(signal.disconnect, receiver)
        add.enqueue(1, 2)
        drain(self.queue, raise_errors=True)
        self.assertEqual(seen, ["READY", "RUNNING", "SUCCESSFUL"])

    def test_what_cannot_be_a_task_or_is_not_there_is_refused(self):
        with self.assertRaises(TypeError):
            add.enqueue(object(), 2)
        with self.assertRaises(InvalidTask):
            add.using(queue_name="nowhere")
        with self.assertRaisesMessage(InvalidTask, "run_after must be an aware datetime."):
            add.using(run_after=datetime(2100, 1, 1))  # noqa: DTZ001 -- it must be refused
        for unknown in ("none", "0190a5d1-0000-7000-8000-000000000000"):
            with self.assertRaises(TaskResultDoesNotExist):
                add.get_result(unknown)
        with self.assertRaises(TaskResultMismatch):
            add.get_result(give_up.enqueue().id)
        refute_enqueued(self.queue, "mails.tasks.add")
