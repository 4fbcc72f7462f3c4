"""The page of facets over a real queue: what the jobs of the list have more often than all runs of their type."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from jobdeck.core.model import Filter, Status
from jobdeck.core.settings import Settings
from tests.core.cli.support import environment
from tests.support.failed_runs import of_coach
from tests.support.people import People
from tests.support.queue import Connection
from tests.tui.fake import FakeBackend
from tests.tui.live import Desk, live
from tests.tui.support import SMALL, dashboard


@pytest.fixture
def settings(conn: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Twelve jobs of one coach wait, who has a tenth of all runs of their type."""
    environment(monkeypatch, tmp_path, database_url)
    of_coach(conn)
    for number in range(12):
        conn.add("push", payload={"coachId": "c3", "n": number})
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path)


def lines(desk: Desk) -> list[str]:
    return [" ".join(line.split()) for line in desk.screen_text().splitlines()]


async def typed(desk: Desk, words: str) -> None:
    await desk.press("slash", *("space" if one == " " else one for one in words), "enter")


@pytest.mark.slow
async def test_the_page_says_what_the_jobs_of_a_filter_have_in_common_and_how_many_it_read(settings: Settings) -> None:
    async with live(settings, "2", size=SMALL) as desk:
        await typed(desk, "type:push")
        await desk.press("f")
        shown = lines(desk)
    assert [line for line in shown if line.startswith("Facets status:pending type:push 12 jobs read")]
    assert [line for line in shown if line.startswith("coachId these 100 % ███") and line.endswith("c3")]
    assert [line for line in shown if line.startswith("all 10 % █")]
    assert "no pattern in n; 12 jobs read" in shown
    assert "P holds the jobs with coachId c3; all others go on" in shown


async def test_enter_on_a_value_narrows_the_list_and_esc_goes_back_to_what_was_listed_before(
    settings: Settings,
) -> None:
    async with live(settings, "2") as desk:
        await typed(desk, "type:push")
        before = desk.app.poller.request.filter
        await desk.press("f", "j", "enter")
        wanted = Filter(status=Status.PENDING, task_type="push", payload_is=("coachId", "c3"))
        assert (desk.here, desk.app.poller.request.filter) == ("Dashboard", wanted)
        assert len(desk.app.dashboard.table.jobs) == 12
        await desk.press("escape")
        assert desk.here == "FacetsOfJobs"
        await desk.press("escape")
        assert desk.app.poller.request.filter == before
        assert desk.app.dashboard.filter_text == "type:push"


@pytest.mark.slow
async def test_p_holds_the_jobs_with_the_value_under_the_cursor(settings: Settings) -> None:
    async with live(settings, "f", "P") as desk:
        assert 'Hold push coachId="c3"' in desk.screen_text()


@pytest.mark.slow
async def test_who_may_not_see_payloads_reads_no_value(settings: Settings, people: People, database_url: str) -> None:
    theirs = settings.model_copy(update={"database_url": SecretStr(people.address(database_url, "job_viewer"))})
    async with live(theirs, "f") as desk:
        assert "one value" in desk.screen_text()
        assert "c3" not in desk.screen_text()
        await desk.press("j", "enter")
        assert "No filter finds the jobs with this value." in desk.toasts[-1]


async def test_a_filter_that_matches_nothing_says_so(settings: Settings) -> None:
    async with live(settings) as desk:
        await typed(desk, "type:nobody")
        await desk.press("f")
        assert "No job matches type:nobody." in desk.screen_text()
        await desk.press("enter")
        assert desk.here == "FacetsOfJobs"


async def test_jobs_too_few_to_compare_are_said_to_be(conn: Connection, settings: Settings) -> None:
    conn.add("single", payload={"coachId": "c3"})
    async with live(settings) as desk:
        await typed(desk, "type:single")
        await desk.press("f")
        assert "Too few to compare: a value counts from 10 jobs on. 1 job read." in desk.screen_text()
        assert "no pattern" not in desk.screen_text()


async def test_an_empty_queue_has_no_facets() -> None:
    async with dashboard(FakeBackend(), "f") as deck:
        assert "The queue is empty." in deck.screen_text()
        await deck.press("enter")
        assert deck.here == "FacetsOfJobs"


async def test_jobs_without_a_key_to_compare_are_counted_as_read(conn: Connection, settings: Settings) -> None:
    for _ in range(12):
        conn.add("bare")
    async with live(settings) as desk:
        await typed(desk, "type:bare")
        await desk.press("f")
        shown = lines(desk)
    assert "facets No payload key has at most 200 values among these jobs. 12 jobs read." in shown
