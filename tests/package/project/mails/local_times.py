"""Tests of the mails where all times of the project are naive, for Django's own runner."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.utils import timezone

from jobdeck.django.testing import JobTestCase
from jobdeck.testing import assert_enqueued, drain
from mails.tasks import add


class LocalTimes(JobTestCase):
    def test_a_naive_time_is_of_the_zone_of_the_project(self):
        with timezone.override(ZoneInfo("Asia/Tokyo")):
            add.using(run_after=datetime(2100, 1, 1, 9)).enqueue(1, 2)  # noqa: DTZ001 -- as a project without zones has it
        add.using(run_after=datetime(2100, 7, 1, 9)).enqueue(3, 4)  # noqa: DTZ001 -- as a project without zones has it
        for month, hour, given in ((1, 14, [1, 2]), (7, 13, [3, 4])):
            due = datetime(2100, month, 1, hour, tzinfo=UTC)
            assert_enqueued(
                self.queue, "mails.tasks.add", payload={"args": given}, due_after=due, due_before=due, count=1
            )

    def test_a_time_with_a_zone_is_that_time(self):
        later = datetime.now(UTC) + timedelta(hours=2)
        add.using(run_after=later).enqueue(1, 2)
        assert_enqueued(self.queue, "mails.tasks.add", due_after=later, due_before=later, count=1)

    def test_the_times_of_a_result_are_naive_and_of_that_zone(self):
        before = timezone.now()
        result = add.enqueue(1, 2)
        drain(self.queue, raise_errors=True)
        found = add.get_result(result.id)
        hour = timedelta(hours=1)
        for moment in (result.enqueued_at, found.enqueued_at, found.started_at, found.finished_at):
            self.assertLess(abs(moment - before), hour)
