"""What all pages have in common: opening, leaving, reading only while on top, reporting trouble."""

from __future__ import annotations

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import Processing
from jobdeck.tui.actions import ACTIONS, NO_KEY, PAGES, bindings, offered
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.dashboard import Dashboard
from tests.tui.fake import NOW, FakeBackend, lost, make_job, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, Held, dashboard, failed, shown

KEYS = {"health": "h", "errors": "e", "workers": "m", "audit": "o", "playbook": "p", "log": "l",
        "bulk": "b"}  # fmt: skip
READS = {"health": "cron", "errors": "errors", "workers": "worker_report", "audit": "audit"}
NAMES = {"health": "CronHealth", "errors": "Errors", "workers": "Workers", "audit": "Audit", "playbook": "Playbook",
         "log": "Log", "bulk": "BulkPage"}  # fmt: skip
FULL = tuple(name for name in KEYS if name != "health")


def test_every_page_has_a_key() -> None:
    assert set(KEYS) <= set(PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", KEYS)
async def test_a_key_opens_the_page_and_esc_and_q_leave_it(page: str) -> None:
    async with dashboard(sample()) as deck:
        for leave in ("escape", "q"):
            await deck.press(KEYS[page])
            assert deck.here == NAMES[page]
            await deck.press(leave)
            assert deck.here == "Dashboard"
        assert deck.app.is_running


@pytest.mark.slow
@pytest.mark.parametrize("page", KEYS)
async def test_every_key_of_a_page_has_a_handler_and_no_other(page: str) -> None:
    async with dashboard(sample(), KEYS[page]) as deck:
        screen = deck.app.screen
        assert isinstance(screen, Acting)
        assert set(screen.handlers()) == {action.id for action in offered(screen.SCOPE)}
        bound = {key for one in bindings(screen.SCOPE) if not one.key.startswith(NO_KEY) for key in one.key.split(",")}
        assert bound == {key for action in ACTIONS if page in action.scopes for key in action.keys}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["health", "errors", "workers", "audit"])
async def test_a_page_is_painted_before_its_data_arrive(page: str) -> None:
    backend, held = sample(), Held()
    async with dashboard(backend, background=held) as deck:
        held.holding = True
        await deck.press(KEYS[page])
        assert "Reading…" in deck.screen_text()
        held.let_all_go()
        await deck.pilot.pause()
        assert "Reading…" not in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["workers", "errors"])
async def test_pages_take_each_others_place(page: str) -> None:
    async with dashboard(sample(), "o", KEYS[page]) as deck:
        assert deck.here == NAMES[page]
        await deck.press("escape")
        assert deck.here == "Dashboard"


@pytest.mark.slow
async def test_a_page_opened_from_a_job_goes_back_to_it() -> None:
    async with dashboard(sample(), "enter", "m") as deck:
        assert deck.here == "Workers"
        await deck.press("escape")
        assert deck.here == "JobDetailScreen"


@pytest.mark.slow
@pytest.mark.parametrize("page", FULL)
async def test_while_a_page_covers_the_list_the_list_is_not_read(page: str) -> None:
    async with dashboard(sample(), KEYS[page]) as deck:
        deck.backend.requests.clear()
        await deck.refresh()
        assert [request.glance for request in deck.backend.requests] == [True]
        listed = len(deck.table.jobs)
        assert listed > 0
        await deck.press("escape")
        assert [request.glance for request in deck.backend.requests] == [True, False]
        assert len(deck.table.jobs) == listed


@pytest.mark.slow
@pytest.mark.parametrize("key", ["h", "P", "question_mark", "colon"])
async def test_behind_a_dialog_the_list_stands_still_and_is_right_when_it_is_seen_again(key: str) -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        listed = len(deck.table.jobs)
        await deck.press(key)
        deck.backend.jobs = [make_job(999)]
        await deck.refresh()
        assert len(deck.table.jobs) == listed
        await deck.press("escape")
        assert len(deck.table.jobs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("key", ["question_mark", "colon", "h", "P", "n", "slash", "C", "e"])
async def test_ctrl_c_leaves_from_every_page_and_dialog(key: str) -> None:
    async with dashboard(failed(1), key, "ctrl+c") as deck:
        assert deck.app.return_code == 0


def read_by(page: str) -> list[str]:
    """What a reading of the page reads: the list of workers leaves room for the runs of the first one."""
    return [READS[page], *(["jobs and runs of web-1:4242"] if page == "workers" else [])]


@pytest.mark.slow
@pytest.mark.parametrize("page", READS)
async def test_a_page_that_is_not_on_top_is_not_read_until_it_is_on_top_again(page: str) -> None:
    async with dashboard(sample(), KEYS[page], "question_mark") as deck:
        reads = deck.backend.evidence.reads
        reads.clear()
        deck.clock.now += 60
        await deck.refresh()
        assert reads == []
        await deck.press("escape")
        assert reads == read_by(page)
        await deck.press("escape")
        deck.clock.now += 60
        await deck.refresh()
        assert reads == read_by(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", READS)
async def test_a_page_is_read_again_when_its_time_has_come_and_at_once_with_r(page: str) -> None:
    async with dashboard(sample(), KEYS[page]) as deck:
        reads = deck.backend.evidence.reads
        reads.clear()
        deck.clock.now += 60
        await deck.refresh()
        assert reads == read_by(page)
        await deck.press("r")
        assert reads == [*read_by(page), READS[page]]


@pytest.mark.parametrize("page", KEYS)
async def test_a_page_that_has_not_changed_is_not_painted_again(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(sample(), KEYS[page]) as deck:
        painted: list[object] = []
        for widget in deck.app.screen.query("*"):
            monkeypatch.setattr(widget, "refresh", lambda *regions, **_: painted.append(regions))
        await deck.press("r")
        assert painted == []


@pytest.mark.slow
@pytest.mark.parametrize("page", READS)
async def test_a_page_says_when_the_connection_is_lost_and_keeps_what_it_knew(page: str) -> None:
    async with dashboard(sample(), KEYS[page]) as deck:
        before = deck.screen_text().splitlines()[6]
        deck.backend.failure = lost()
        await deck.refresh()
        assert "disconnected" in deck.screen_text()
        assert before.strip() in deck.screen_text()
        deck.clock.now += 0.5
        deck.app.tick()
        deck.backend.failure = None
        await deck.press("r")
        assert "disconnected" not in deck.screen_text()


async def test_a_reading_that_is_refused_is_said_on_the_page() -> None:
    async with dashboard(sample()) as deck:
        deck.backend.evidence.worker_report = lambda: (_ for _ in ()).throw(Refused("The role may not."))  # type: ignore[method-assign]
        await deck.press("m")
        assert "The role may not." in deck.screen_text()


@pytest.mark.slow
async def test_a_pause_is_said_on_every_page() -> None:
    backend = sample()
    backend.processing = Processing(enabled=False, paused_reason="MetaCTF is down", paused_at=NOW - minutes(3))
    async with dashboard(backend) as deck:
        for key in KEYS.values():
            await deck.press(key)
            assert "PAUSED since 12:01Z: MetaCTF is down" in deck.screen_text()
            await deck.press("escape")


@pytest.mark.parametrize("page", FULL)
async def test_production_is_marked_on_every_page(page: str) -> None:
    text = await shown(sample(), KEYS[page], environment="production", production=True)
    assert text.splitlines()[0].endswith("  production")


@pytest.mark.slow
async def test_processing_can_be_paused_from_a_page() -> None:
    async with dashboard(sample(), "e", "P", *"down", "enter", "enter", "enter") as deck:
        assert deck.backend.calls == [("pause", "down", None, "sms_digest_processor")]


async def test_the_database_is_asked_less_often_while_nobody_looks() -> None:
    async with dashboard(sample(), interval=2.0) as deck:
        assert deck.app.poller.pace == 2
        deck.app.on_app_blur()
        assert deck.app.poller.pace == 10
        asked = len(deck.backend.requests)
        deck.app.on_app_focus()
        assert deck.app.poller.pace == 2
        assert len(deck.backend.requests) == asked + 1
        deck.app.on_app_focus()
        assert len(deck.backend.requests) == asked + 1


async def test_a_frozen_screen_stays_frozen_when_somebody_looks_again() -> None:
    async with dashboard(sample(), "z") as deck:
        asked = len(deck.backend.requests)
        deck.app.on_app_blur()
        deck.app.on_app_focus()
        assert len(deck.backend.requests) == asked


async def test_a_page_opened_before_the_first_answer_reads_when_it_has_come() -> None:
    backend = FakeBackend([make_job(1)])
    backend.failure = lost()
    async with dashboard(backend, "m") as deck:
        assert deck.here == "Workers"
        backend.failure = None
        await deck.press("r")
        assert "No worker was seen in the last day" in deck.screen_text()
        await deck.press("escape")
        assert isinstance(deck.app.screen, Dashboard)
        assert len(deck.table.jobs) == 1


@pytest.mark.slow
async def test_the_theme_can_be_changed_from_the_palette() -> None:
    async with dashboard(sample()) as deck:
        seen = {deck.app.theme}
        for _ in range(5):
            await deck.press("colon", *"theme", "enter")
            seen.add(deck.app.theme)
        assert seen == {"jobdeck-dark", "jobdeck-light", "jobdeck-contrast", "ansi-dark", "ansi-light"}
        assert "JOBDECK_THEME=dark" in deck.toasts[-1]
