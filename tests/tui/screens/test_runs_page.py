"""The page of runs: which jobs may have acted twice, and what each run sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.model import Run, RunOutcome
from jobdeck.core.read.runs.ran_twice import LostRuns, SameContent
from jobdeck.tui.widgets.pane import Pane
from tests.tui.fake import NOW, FakeBackend, minutes
from tests.tui.screens.test_errors import broken
from tests.tui.support import LARGE, SMALL, dashboard

JOB = UUID("00000000-0000-7000-8000-00000000abcd")
LOST = Run(7, JOB, "send_mail", {}, 1, "vm-1", NOW - minutes(9), NOW - minutes(9), NOW - minutes(8), RunOutcome.LOST,
           "lease_expired", "The lease of vm-1 expired")  # fmt: skip
SENT = replace(
    LOST, run_token=8, outcome=RunOutcome.SUCCEEDED, error=None, output={"sid": "SM1", "to": "jane@example.org"}
)


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend()
    backend.evidence.lost = LostRuns(twice=1, runs=(LOST, SENT))
    backend.evidence.same = (SameContent("send_mail", 2, NOW - minutes(30), NOW, (JOB, UUID(int=5))),)
    backend.evidence.newest = (SENT, LOST)
    return backend


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_verdict_is_first_then_the_runs_with_what_they_sent(
    backend: FakeBackend, size: tuple[int, int]
) -> None:
    async with dashboard(backend, "x", size=size) as deck:
        text = " ".join(deck.screen_text().split())
        assert "1 job may have acted twice: a run was lost or late after it began, and another one began." in text
        assert text.index("Runs of jobs that may") < text.index("Same content") < text.index("Newest runs")
        assert '{"sid": "SM1' in text
        assert "jane@" not in text
        assert "2 jobs within 30m" in text
        assert backend.evidence.asked_runs == {"since": timedelta(days=1)}


async def test_every_id_of_the_same_content_is_shown_at_80_columns(backend: FakeBackend) -> None:
    ids = tuple(UUID(int=0x10000000 + at) for at in range(8))
    backend.evidence.same = (SameContent("send_mail", 9, NOW - minutes(30), NOW, ids),)
    async with dashboard(backend, "x", size=SMALL) as deck:
        text = " ".join(deck.screen_text().split())
        assert ", ".join(one.hex[-8:] for one in ids) + " and 1 more" in text


@pytest.mark.slow
async def test_enter_opens_the_job_at_this_run_and_esc_goes_back(backend: FakeBackend) -> None:
    async with dashboard(backend, "x", size=LARGE) as deck:
        pane = deck.app.screen.query_one("#pane", Pane)
        first = next(at for at, line in enumerate(pane.entries) if line.key is not None)
        await deck.press(*["j"] * first, "enter")
        assert deck.here == "JobDetailScreen"
        assert deck.app.screen.run_shown == LOST.run_token  # type: ignore[attr-defined]
        await deck.press("escape")
        assert deck.here == "Runs"


@pytest.mark.slow
async def test_enter_on_a_group_whose_jobs_have_all_run_again_opens_its_runs() -> None:
    backend = broken(trends=2)
    backend.evidence.newest = (LOST,)
    async with dashboard(backend, "e", "j", "enter") as deck:
        assert deck.here == "Runs"
        assert backend.evidence.asked_runs == {"since": timedelta(days=7), "group": backend.evidence.trends[1].key}
        assert "Runs with this error: boom" in deck.screen_text()
        await deck.press("escape")
        assert deck.here == "Errors"


async def test_a_queue_without_runs_says_so() -> None:
    async with dashboard(FakeBackend(), "x") as deck:
        assert "No job may have acted twice: no run was lost." in deck.screen_text()
        assert "No run has ended yet." in deck.screen_text()


@pytest.mark.slow
async def test_the_hand_over_of_a_shift_names_the_jobs_that_may_have_acted_twice(backend: FakeBackend) -> None:
    async with dashboard(backend, "o", size=LARGE) as deck:
        assert "1 job may have acted twice" in deck.screen_text()
