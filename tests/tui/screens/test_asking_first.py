"""The keys w, W and u change nothing by themselves: a dialog says what they would do, and enter does it."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Processing, Status, TypePause
from tests.tui.fake import NOW, FakeBackend, job_id, make_job, minutes
from tests.tui.support import dashboard, failed, said, shown


def due(*types: str) -> FakeBackend:
    """Pending jobs of these types, all due."""
    return FakeBackend([make_job(at + 1, task_type=name) for at, name in enumerate(types)])


@pytest.mark.slow
async def test_w_names_the_database_the_environment_and_what_is_due_and_enter_runs() -> None:
    backend = due("game_platform_sync", "game_platform_sync", "sms_digest_processor", "of_nobody")
    backend.jobs.append(make_job(9, run_at=NOW + minutes(5)))
    backend.jobs.append(make_job(10, blocked_by=job_id(1)))
    async with dashboard(backend, "w", environment="staging") as deck:
        text = " ".join(deck.screen_text().split())
        for said in ("database db.example.org/queue", "environment staging", "due now 3 jobs of 2 types",
                     "2 game_platform_sync", "1 sms_digest_processor", "jobdeck run-worker"):  # fmt: skip
            assert said in text, said
        assert "of_nobody" not in text.split("due now")[1]
        assert backend.calls == [("due",)]
        await deck.press("enter")
        assert backend.calls == [("due",), ("cycle",)]


@pytest.mark.slow
async def test_w_and_esc_run_nothing() -> None:
    backend = due("game_platform_sync")
    async with dashboard(backend, "w", "escape") as deck:
        assert backend.calls == [("due",)]
        assert deck.here == "Dashboard"


@pytest.mark.slow
async def test_w_says_that_nothing_is_due_or_that_processing_is_paused() -> None:
    backend = failed(1)
    backend.processing = Processing(enabled=False, paused_by="bob", paused_at=NOW)
    text = " ".join((await shown(backend, "w")).split())
    assert "no job that may run here" in text
    assert "Processing is paused, so no job would run. P resumes it." in text


@pytest.mark.slow
async def test_w_in_production_asks_for_its_word() -> None:
    backend = due("game_platform_sync")
    async with dashboard(backend, "w", "enter", environment="prod", production=True) as deck:
        assert ("cycle",) not in backend.calls
        await deck.press("w", *"run", "enter")
        assert ("cycle",) in backend.calls


@pytest.mark.slow
async def test_a_dialog_that_asks_for_a_word_says_how_to_go_on_without_it() -> None:
    backend = due("game_platform_sync")
    toast = await said(backend, "w", "x", "enter", environment="prod", production=True)
    assert toast == "Nothing was changed. Type run to confirm, or press esc to close the dialog."


@pytest.mark.slow
async def test_an_environment_without_a_name_names_the_setting_that_gives_it_one() -> None:
    assert "not named (JOBDECK_ENV)" in await shown(due("game_platform_sync"), "w")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["", "m", "h"])
async def test_a_worker_inside_is_started_only_after_a_question_that_names_what_is_due(page: str) -> None:
    backend = due("game_platform_sync", "sms_digest_processor")
    async with dashboard(backend, *page, "W", environment="staging") as deck:
        text = " ".join(deck.screen_text().split())
        for said in ("database db.example.org/queue", "environment staging", "settings of this terminal",
                     "due now 2 jobs of 2 types", "jobdeck worker"):  # fmt: skip
            assert said in text, said
        await deck.press("escape", "W")
        assert ("start",) not in backend.calls
        await deck.press("enter", "W")
        assert backend.calls[-2:] == [("start",), ("stop", None)]


@pytest.mark.slow
async def test_a_worker_inside_in_production_asks_for_its_word() -> None:
    backend = due("game_platform_sync")
    async with dashboard(backend, "W", "enter", environment="prod", production=True) as deck:
        assert ("start",) not in backend.calls
        await deck.press("W", *"start", "enter")
        assert backend.calls[-1] == ("start",)


async def test_jobs_of_a_paused_type_are_not_due() -> None:
    backend = due("game_platform_sync", "sms_digest_processor")
    backend.processing = Processing(
        enabled=True, paused_types=(TypePause("sms_digest_processor", None, "bob", NOW, None),)
    )
    assert backend.due().types == (("game_platform_sync", 1),)


@pytest.mark.slow
async def test_u_names_what_it_would_restore_and_enter_restores_it() -> None:
    backend = failed(2)
    async with dashboard(backend, "D", "y", "u") as deck:
        text = " ".join(deck.screen_text().split())
        assert "Undo the delete" in text
        assert "game_platform_sync" in text
        assert f"jobdeck restore {job_id(1)}" in text
        assert len(backend.calls) == 1
        await deck.press("enter")
        assert backend.calls[-1] == ("restore", (job_id(1),))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["escape", "left"])
async def test_u_can_be_cancelled(key: str) -> None:
    backend = failed(2)
    async with dashboard(backend, "D", "y", "u", key, *(["enter"] if key == "left" else [])) as deck:
        assert len(backend.calls) == 1
        assert backend.jobs[0].status is Status.FAILED
        assert "u undo delete" in deck.line("keys")
