"""`enter` opens what a line is about, on every page, and `esc` walks back to where one was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobdeck.core.model import Filter, Finding, Health, Status, Verdict
from jobdeck.core.read.report_types import Clause, JobDetail
from jobdeck.core.read.stats.facets import Facets
from jobdeck.tui.format import short_id
from jobdeck.tui.screens.nouns import OPENS
from jobdeck.tui.screens.page import ListPage, SplitPage
from jobdeck.tui.widgets.pane import Pane
from tests.tui.fake import FakeBackend, job_id, make_job
from tests.tui.figures_sample import BROKEN, incident
from tests.tui.sample import facet, sample
from tests.tui.support import dashboard


@pytest.mark.slow
async def test_esc_walks_back_through_pages_and_lists_with_cursor_scroll_and_filter() -> None:
    backend = incident()
    backend.jobs = [
        make_job(at, Status.FAILED, task_type=BROKEN, last_error="boom", payload={"n": at}) for at in range(1, 61)
    ]
    async with dashboard(backend, "5", "slash", *"boom", "enter", *["j"] * 40, *["k"] * 3) as deck:
        table = deck.table
        here = (table.cursor, table.top, deck.app.poller.request, deck.line("filter-line"))
        await deck.press("i", "G")
        types = deck.app.screen
        await deck.press("enter")
        assert deck.app.poller.request.filter == Filter(task_type=BROKEN)
        assert "esc goes back" in deck.screen_text()
        await deck.press("j", "j", "enter", "escape")
        assert deck.table.cursor == 2
        await deck.press("t", "escape", "escape")
        assert deck.app.screen is types
        await deck.press("escape")
        assert (table.cursor, table.top, deck.app.poller.request, deck.line("filter-line")) == here
        assert not deck.app._installed_screens


async def test_enter_on_a_finding_a_worker_and_a_type_opens_it_and_esc_walks_back_to_the_line() -> None:
    backend = sample()
    worker = backend.workers[0].id
    words = "The workers are silent."
    backend.health = Health(Verdict.CRITICAL, (Finding("silent workers", Verdict.CRITICAL, words),))
    async with dashboard(backend, "h") as deck:
        health = deck.app.screen
        assert isinstance(health, ListPage)
        health.pane.seek(("finding", "silent workers", ""))
        await deck.press("enter")
        assert deck.screen_text().startswith(" Workers")
        await deck.press("escape")
        assert deck.here == "CronHealth"
        health.pane.seek(("worker", worker))
        await deck.press("enter")
        assert isinstance(deck.app.screen, ListPage)
        assert deck.app.screen.pane.current == ("worker", worker)
        await deck.press("enter")
        assert "shows all there is" in deck.toasts[-1]
        await deck.press("escape")
        assert deck.here == "CronHealth"
        assert health.pane.current == ("worker", worker)
        OPENS["worker"](deck.app, ("worker", "long-gone:1"))
        await deck.pilot.pause()
        assert "The worker long-gone:1 is no longer listed." in deck.toasts[-1]


async def test_enter_on_a_trigger_opens_its_worker() -> None:
    backend = sample()
    worker = backend.workers[0].id
    run = replace(backend.evidence.runs[0], worker_id=worker)
    backend.evidence.runs = (run,)
    async with dashboard(backend, "h") as deck:
        health = deck.app.screen
        assert isinstance(health, ListPage)
        health.pane.seek(("trigger", worker, run.id))
        await deck.press("enter")
        assert isinstance(deck.app.screen, ListPage)
        assert deck.app.screen.pane.current == ("worker", worker)
        await deck.press("escape")
        assert deck.here == "CronHealth"


async def test_a_page_names_its_command_whole_or_not_at_all() -> None:
    for width, named in ((80, False), (120, True)):
        async with dashboard(incident(), "e", size=(width, 35)) as deck:
            title = deck.screen_text().splitlines()[0]
            assert title.endswith("jobdeck errors") is named
            assert "…" not in title


async def test_enter_on_a_type_of_the_trends_lists_its_jobs_and_esc_goes_back() -> None:
    async with dashboard(incident(), "t", "j", "enter") as deck:
        assert deck.app.poller.request.filter.task_type
        await deck.press("escape")
        assert deck.screen_text().startswith(" Trends")


async def test_enter_on_a_job_offers_its_holder_worker_flow_and_type_and_esc_walks_back() -> None:
    holder, waiting = make_job(2, Status.RUNNING, locked_by="w:1"), make_job(1, locked_by=None)
    backend = FakeBackend([waiting, holder])
    clause = Clause("concurrency key", holds=False, evidence="Another job has it.", facts={"holder": str(holder.id)})
    backend.details[waiting.id] = JobDetail(waiting, (), (clause,), ())
    async with dashboard(backend) as deck:
        deck.app.open_job(waiting)
        await deck.pilot.pause()
        page = deck.app.screen
        await deck.press("enter")
        assert f"job {short_id(holder.id)}" in deck.screen_text()
        assert "concurrency key: Another job has it." in deck.screen_text()
        await deck.press("enter")
        assert str(holder.id) in deck.screen_text()
        await deck.press("enter")
        assert "worker w:1" in deck.screen_text()
        await deck.press("enter")
        assert deck.screen_text().startswith(" Workers")
        assert "The worker w:1 is no longer listed." in deck.toasts[-1]
        await deck.press("escape", "escape")
        assert deck.app.screen is page
        await deck.press("enter", *"type", "enter")
        assert deck.app.poller.request.filter == Filter(task_type=waiting.task_type)
        await deck.press("escape")
        assert deck.app.screen is page
        deck.app.open_job(job_id(99))
        await deck.pilot.pause()
        assert "no longer exists" in deck.screen_text()


async def test_enter_on_a_release_opens_its_workers_and_their_jobs_alone_and_esc_walks_back() -> None:
    backend = sample()
    one, here = backend.workers
    backend.evidence.releases = {one.id: "shop@2.0", here.id: "shop@1.9"}
    backend.jobs[0] = replace(backend.jobs[0], locked_by=one.id)
    async with dashboard(backend, "m") as deck:
        every = deck.app.screen
        assert isinstance(every, ListPage)
        every.pane.seek(("release", "shop@2.0", one.id))
        await deck.press("enter")
        text = deck.screen_text()
        assert "Workers of the release shop@2.0" in text
        assert "1 worker alive" in text
        assert short_id(backend.jobs[0].id) in text
        assert f"  {here.id} " not in text
        of_it = deck.app.screen
        assert isinstance(of_it, ListPage)
        of_it.pane.seek(("release", "shop@2.0", one.id))
        await deck.press("enter")
        assert "shows all there is" in deck.toasts[-1]
        await deck.press("escape")
        assert every.pane.current == ("release", "shop@2.0", one.id)
        assert deck.app.screen is every


@pytest.mark.parametrize(("kind", "value", "heading"), [
    ("release", "shop@2.0", " Workers of the release shop@2.0"), ("worker", "web-1:4242", " Workers  "),
])  # fmt: skip
async def test_enter_on_a_worker_or_a_release_among_the_facets_of_a_group_opens_it(
    kind: str, value: str, heading: str
) -> None:
    backend = sample()
    backend.evidence.releases = {"web-1:4242": "shop@2.0"}
    key = backend.evidence.trends[1].key
    backend.evidence.facets = {key: Facets(47, (facet(kind=kind, key=kind, value=value, these=45, sampled=47),))}
    async with dashboard(backend, "e") as deck:
        errors = deck.app.screen
        assert isinstance(errors, SplitPage)
        errors.list_pane.seek(backend.evidence.trends[1].key)
        await deck.press("tab")
        about = errors.pane
        assert isinstance(about, Pane)
        about.seek(("facet", "", kind))
        await deck.press("enter")
        assert deck.screen_text().startswith(heading)
        await deck.press("escape")
        assert deck.app.screen is errors
