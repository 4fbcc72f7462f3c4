"""Read-only, disconnected, frozen, leaving."""

from __future__ import annotations

import pytest

from jobdeck.tui.backend.protocol import EmbeddedWorker
from tests.tui.fake import FakeBackend, lost, make_job
from tests.tui.sample import sample
from tests.tui.support import dashboard, failed, said


@pytest.mark.slow
@pytest.mark.parametrize("key", ["R", "C", "D", "w", "W", "P"])
async def test_read_only_keys_change_nothing_and_say_why(key: str) -> None:
    backend = failed(1)
    backend.read_only = True
    async with dashboard(backend) as deck:
        assert "read-only" in deck.line("header")
        await deck.press(key)
        assert deck.here == "Dashboard"
        assert "--read-only" in deck.toasts[-1]
        assert not backend.calls


@pytest.mark.slow
async def test_a_role_that_may_only_look_is_told_so() -> None:
    backend = FakeBackend([make_job(1)], operate=False)
    assert "role job_viewer has read-only access" in await said(backend, "D")


@pytest.mark.parametrize(("operate", "work", "key", "sentence"), [
    (False, True, "R", "has read-only access"), (False, True, "w", ""), (True, False, "w", "may not run jobs"),
    (True, False, "W", "may not run jobs"), (True, False, "R", ""),
])  # fmt: skip
async def test_operating_and_running_jobs_are_two_permissions(
    operate: bool, work: bool, key: str, sentence: str
) -> None:
    backend = FakeBackend([make_job(1)], operate=operate, work=work)
    async with dashboard(backend, key) as deck:
        refused = [toast for toast in deck.toasts if toast.startswith("The database role")]
        assert bool(refused) == bool(sentence)
        assert all(sentence in toast for toast in refused)


@pytest.mark.slow
async def test_esc_leaves_the_filter_as_it_was() -> None:
    async with dashboard(sample()) as deck:
        before = len(deck.backend.requests)
        await deck.press("slash", *"qR", "escape")
        assert len(deck.backend.requests) == before
        assert deck.app.focused is deck.table
        assert not deck.app.dashboard.query_one("#filter").display


@pytest.mark.slow
async def test_a_database_that_is_down_at_the_start_is_explained_with_all_words_where_the_list_will_be() -> None:
    backend = failed(2)
    backend.failure = lost()
    async with dashboard(backend, size=(60, 24)) as deck:
        shown = " ".join(deck.screen_text().split())
        assert str(backend.failure) in shown
        backend.failure = None
        await deck.press("r")
        assert str(lost()) not in " ".join(deck.screen_text().split())
        assert len(deck.table.jobs) == 2


@pytest.mark.slow
async def test_when_the_connection_is_lost_the_last_data_stay_dimmed_and_the_banner_counts() -> None:
    async with dashboard(failed(2)) as deck:
        deck.backend.failure = lost()
        await deck.refresh()
        assert len(deck.table.jobs) == 2
        assert [row.stale for row in deck.table._painted[:2]] == [True, True]
        deck.clock.now += 0.5
        deck.app.dashboard.tick()
        assert "disconnected 0s, retry in 0s" in deck.line("banner")
        assert "data of 12:04:31Z" in deck.line("banner")
        await deck.press("D")
        assert "database does not answer" in deck.toasts[-1]
        deck.backend.failure = None
        await deck.press("r")
        assert not deck.app.dashboard.line("banner").display
        assert not any(row.stale for row in deck.table._painted)


@pytest.mark.slow
async def test_an_action_whose_connection_is_lost_is_not_repeated_and_said_to_be_unknown() -> None:
    async with dashboard(failed(1), "R") as deck:
        deck.backend.failure = lost()
        await deck.press("y")
        deck.backend.failure = None
        await deck.refresh()
        assert len(deck.backend.calls) == 1
        assert "is unknown" in deck.toasts[-1]
        assert "does not try again" in deck.toasts[-1]


@pytest.mark.slow
async def test_a_frozen_screen_reads_nothing_by_itself_and_says_that_it_is_frozen() -> None:
    async with dashboard(failed(1), "z") as deck:
        deck.clock.now += 34
        deck.app.dashboard.tick()
        assert "FROZEN 12:04:31Z" in deck.line("header")
        await deck.press("z")
        deck.clock.now += 34
        await deck.press("z")
        deck.clock.now += 34
        deck.app.dashboard.tick()
        assert deck.app.view is not None
        assert f"FROZEN {deck.app.view.snapshot.at:%H:%M:%S}Z" in deck.line("header")
        await deck.press("z")
        assert "FROZEN" not in deck.line("header")


@pytest.mark.slow
async def test_the_interval_can_be_stepped() -> None:
    async with dashboard(failed(1), "plus", interval=2.0) as deck:
        assert deck.app.poller.interval == 5
        await deck.press("minus", "minus", "minus")
        assert deck.app.poller.interval == 1


@pytest.mark.slow
async def test_q_leaves_at_once_when_nothing_runs_here() -> None:
    async with dashboard(failed(1), "q") as deck:
        assert deck.app.return_code == 0
        assert not deck.app.is_running


@pytest.mark.parametrize(("keys", "calls", "left"), [
    (("enter",), [], False),
    (("escape",), [], False),
    (("right", "enter"), [("stop", None)], True),
    (("right", "right", "enter"), [("stop", 0.0)], True),
])  # fmt: skip
@pytest.mark.slow
async def test_q_with_running_jobs_asks_and_staying_has_the_focus(
    keys: tuple[str, ...], calls: list[object], left: bool
) -> None:
    backend = failed(1)
    backend.embedded = EmbeddedWorker("running", 2)
    async with dashboard(backend, "q") as deck:
        assert "2 jobs still running" in deck.screen_text()
        for key in keys:
            await deck.pilot.press(key)
        await deck.pilot.pause()
        assert backend.calls == calls
        assert deck.app.is_running is not left
