"""Holding the jobs of a filtered list, and releasing them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.read.report_types import Standing
from jobdeck.tui.widgets.jobs.cells import Moment, cause
from tests.tui.fake import NOW, FakeBackend, make_job
from tests.tui.support import LARGE, dashboard

pytestmark = pytest.mark.slow


def of_customers() -> FakeBackend:
    backend = FakeBackend()
    backend.jobs = [make_job(place, task_type="webhook_push", payload={"customerId": 5}) for place in range(1, 3)]
    return backend


async def test_p_on_a_list_of_one_payload_value_holds_its_jobs_and_later_releases_them() -> None:
    backend = of_customers()
    async with dashboard(backend, "/", *"customerId=5", "enter", "P", size=LARGE) as deck:
        text = " ".join(deck.screen_text().split())
        assert "Hold webhook_push customerId=5" in text
        assert "Running jobs finish; others go on." in text
        assert "lost: those" in " ".join(text.replace("│", "").split())
        await deck.press(*"vendor down", "enter", *"30m", "enter", "enter")
        assert backend.calls == [("hold", "webhook_push", "customerId", 5, "vendor down", timedelta(minutes=30))]
        twin = "jobdeck hold webhook_push customerId=5 --reason 'vendor down' --for 30m"
        assert deck.toasts[-1] == f"Hold 7 keeps webhook_push customerId=5: 1 job waiting.\n{twin}"
        assert "webhook_push customerId=5 (hold 7) held (1 job) since 12:04Z by alice" in deck.line("now")
        await deck.press("P", "down")
        assert "Release webhook_push customerId=5 (hold 7)" in deck.screen_text()
        await deck.press("enter")
        assert "1 job waits for webhook_push customerId=5 (hold 7)." in " ".join(deck.screen_text().split())
        await deck.press("y")
        assert backend.calls[-1] == ("release", 7)
        assert deck.toasts[-1] == "1 job released.\njobdeck release 7"


async def test_a_text_and_a_number_are_different_values_in_the_command() -> None:
    backend = of_customers()
    backend.jobs = [make_job(1, task_type="webhook_push", payload={"customerId": "5"})]
    async with dashboard(backend, "/", *"customerId=5", "enter", "P", "enter", "enter", "enter", size=LARGE) as deck:
        assert backend.calls == [("hold", "webhook_push", "customerId", "5", None, None)]
        assert deck.toasts[-1].endswith("jobdeck hold webhook_push 'customerId=\"5\"'")


def test_a_held_job_names_its_hold_in_the_list() -> None:
    job = make_job(1, blocked_by=UUID("00000000-0000-8000-8000-000000000007"))
    assert cause(job, Moment(NOW, standings={job.id: Standing.HELD})) == "hold 7 keeps it"
