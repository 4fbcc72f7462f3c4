"""Every action is asked about, frozen, carried out once and reported."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from textual.widgets import Button, Input

from core.model import (
    CycleResult,
    Processing,
    Status,
)
from tests.tui.fake import NOW, FakeBackend, job_id, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, dashboard, failed


async def test_the_dialog_names_verb_count_breakdown_and_ids_and_the_harmless_answer_has_the_focus() -> None:
    backend = FakeBackend([make_job(1), make_job(2, Status.FAILED)])
    async with dashboard(backend) as deck:
        await deck.press("a", "D")
        text = deck.screen_text()
        for part in ("Delete 2 jobs", "1 pending, 1 failed", job_id(1).hex[-8:], job_id(2).hex[-8:], "7 days"):
            assert part in text
        assert isinstance(deck.app.focused, Button)
        assert deck.app.focused.id == "no"
        await deck.press("enter")
        assert deck.here == "Dashboard"
        assert not backend.calls


@pytest.mark.parametrize(("key", "verb"), [("R", "retry"), ("C", "cancel"), ("D", "delete")])
async def test_an_action_is_carried_out_once_and_its_toast_names_the_command(key: str, verb: str) -> None:
    async with dashboard(failed(1)) as deck:
        await deck.press(key, "tab", "enter")
        assert deck.backend.calls == [(verb, (job_id(1),))]
        assert f"jobdeck {verb} {job_id(1)}" in deck.toasts[-1]


async def test_a_dialog_acts_on_the_ids_it_showed_whatever_the_list_has_become() -> None:
    async with dashboard(failed(2)) as deck:
        await deck.press("D")
        deck.backend.jobs.insert(0, make_job(0, Status.FAILED))
        deck.backend.jobs = [job for job in deck.backend.jobs if job.id != job_id(1)]
        await deck.refresh()
        await deck.press("y")
        assert deck.backend.calls == [("delete", (job_id(1),))]
        assert "refused: no such job" in deck.toasts[-1]
        assert {job.id for job in deck.backend.jobs} == {job_id(0), job_id(2)}


async def test_a_job_that_changed_meanwhile_is_not_touched() -> None:
    async with dashboard(failed(1)) as deck:
        await deck.press("R")
        deck.backend.jobs[0] = replace(deck.backend.jobs[0], version=2)
        await deck.press("y")
        assert "changed meanwhile" in deck.toasts[-1]
        assert deck.backend.jobs[0].status is Status.FAILED


async def test_up_to_25_jobs_need_no_word() -> None:
    async with dashboard(failed(25)) as deck:
        await deck.press("a", "R", "y")
        assert len(deck.backend.calls[0][1]) == 25


@pytest.mark.parametrize(("number", "production"), [(26, False), (1, True)])
async def test_many_jobs_or_a_production_database_ask_for_the_word(number: int, production: bool) -> None:
    async with dashboard(failed(number), production=production) as deck:
        await deck.press("a", "R")
        assert deck.app.screen.query("#yes:disabled")
        assert deck.app.focused is deck.app.screen.query_one("#no")
        await deck.press("y")
        assert not deck.backend.calls
        await deck.press("backspace", *"retry")
        assert deck.app.screen.query_one("#word", Input).value == "retry"
        assert not deck.app.screen.query("#yes:disabled")
        await deck.press("enter")
        assert len(deck.backend.calls) == 1
        assert len(deck.backend.calls[0][1]) == number


async def test_the_two_answers_to_cancelling_cannot_be_mixed_up() -> None:
    async with dashboard(failed(2)) as deck:
        await deck.press("a", "C")
        labels = [str(button.label) for button in deck.app.screen.query(Button)]
        assert labels == ["Keep", "Cancel 2 jobs"]


async def test_jobs_whose_status_does_not_allow_the_action_are_left_out_and_said_to_be() -> None:
    backend = FakeBackend([make_job(1, Status.RUNNING), make_job(2, Status.FAILED)])
    async with dashboard(backend) as deck:
        await deck.press("a", "D")
        assert "Left out, their status does not allow it: 1 running." in deck.screen_text()
        await deck.press("y")
        assert backend.calls == [("delete", (job_id(2),))]


ALLOWED = {
    "R": {Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
    "C": {Status.PENDING, Status.RUNNING, Status.FAILED},
    "D": {Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
}


@pytest.mark.parametrize("key", ALLOWED)
@pytest.mark.parametrize("status", Status)
async def test_each_status_allows_what_the_table_of_actions_says_and_refusals_say_why(key: str, status: Status) -> None:
    async with dashboard(FakeBackend([make_job(1, status)])) as deck:
        await deck.press(key)
        if status in ALLOWED[key]:
            assert deck.here == "Confirm"
        else:
            assert deck.here == "Dashboard"
            assert f"a {status.value} job does not allow it" in deck.toasts[-1]


async def test_a_job_that_left_the_queue_can_only_run_again() -> None:
    removed = make_job(1, Status.SUCCEEDED, removed=True)
    async with dashboard(FakeBackend([removed])) as deck:
        await deck.press("4", "D")
        assert "has left the queue" in deck.toasts[-1]
        await deck.press("R")
        assert "a copy is enqueued" in deck.screen_text()


async def test_undo_takes_the_last_delete_back() -> None:
    async with dashboard(failed(2)) as deck:
        await deck.press("D", "y")
        assert "u takes it back" in deck.toasts[-1]
        assert "u undo delete" in deck.line("keys")
        await deck.press("u")
        assert deck.backend.calls[-1] == ("restore", (job_id(1),))
        assert len(deck.table.jobs) == 2
        await deck.press("u")
        assert len(deck.backend.calls) == 2


async def test_u_drops_marks_before_it_undoes_anything() -> None:
    async with dashboard(failed(3)) as deck:
        await deck.press("D", "y", "space", "u")
        assert not deck.table.marks
        assert [call[0] for call in deck.backend.calls] == ["delete"]


async def test_marks_follow_their_jobs_and_are_counted() -> None:
    async with dashboard(failed(3)) as deck:
        await deck.press("space", "space")
        deck.backend.jobs.append(make_job(0, Status.FAILED))
        await deck.refresh()
        assert deck.table.marks == {job_id(1), job_id(2)}
        assert "2 marked" in deck.line("peek")
        assert "R retry 2" in deck.line("keys")
        await deck.press("R", "escape")
        assert len(deck.table.marks) == 2
        await deck.press("R", "y")
        assert not deck.table.marks


async def test_run_worker_says_what_came_of_the_cycle() -> None:
    backend = failed(1)
    backend.cycle = CycleResult("ok", 3, 2, 1, "")
    async with dashboard(backend) as deck:
        await deck.press("w")
        assert backend.calls == [("cycle",)]
        assert "processed 3: 2 succeeded, 1 failed" in deck.toasts[-1]
        assert "jobdeck run-worker" in deck.toasts[-1]


async def test_run_worker_while_paused_says_why_it_ran_nothing() -> None:
    backend = failed(1)
    backend.cycle = CycleResult("paused", 0, 0, 0, "Processing is paused: MetaCTF is down")
    async with dashboard(backend) as deck:
        await deck.press("w")
        assert "Processing is paused: MetaCTF is down" in deck.toasts[-1]


async def test_the_embedded_worker_is_started_and_stopped_with_one_key() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        await deck.press("W")
        assert deck.backend.calls == [("stop", None)]
        assert "here" not in deck.line("header")
        await deck.press("W")
        assert deck.backend.calls[-1] == ("start",)
        assert "1 here" in deck.line("header")


async def test_pause_asks_for_a_reason_and_a_time_and_nothing_happens_until_it_is_pressed() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("P", *"down", "enter", *"30m", "enter")
        assert not deck.backend.calls
        await deck.press("enter")
        assert deck.backend.calls == [("pause", "down", timedelta(minutes=30))]
        assert "jobdeck pause --reason down --for 30m" in deck.toasts[-1]
        assert "PAUSED" in deck.line("banner")


async def test_a_time_that_cannot_be_read_is_said_beside_its_field() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("P", "enter", *"soon", "enter")
        assert 'time to resume after "soon" cannot be read' in " ".join(deck.screen_text().split())
        assert not deck.backend.calls
        await deck.press("escape")
        assert not deck.backend.calls


async def test_resume_asks_first_and_says_how_many_jobs_wait() -> None:
    backend = sample()
    backend.processing = Processing(enabled=False, paused_by="bob", paused_reason="MetaCTF", paused_at=NOW)
    async with dashboard(backend) as deck:
        await deck.press("P")
        assert "790 pending jobs wait" in deck.screen_text()
        await deck.press("y")
        assert backend.calls == [("resume",)]
        assert not deck.line("banner")


async def test_the_pause_dialog_stays_as_large_as_it_is_while_its_command_grows() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("P")
        size = deck.app.screen.query_one("#box").size
        await deck.press(*"it is down " * 12)
        assert deck.app.screen.query_one("#box").size == size
        assert "jobdeck pause --reason" in deck.screen_text()
        assert "…" in deck.screen_text().split("jobdeck pause")[1]


@pytest.mark.parametrize("key", ["a", "A"])
@pytest.mark.parametrize("number", [1, 12, 25, 60])
async def test_a_dialog_is_seen_whole_on_24_lines_even_where_it_wants_a_word(key: str, number: int) -> None:
    jobs = [
        make_job(at, Status.FAILED if at % 3 else Status.RUNNING, task_type=f"type_{at % 9}", is_recurring=at % 2 == 0,
                 recurrence_interval_minutes=60)
        for at in range(1, number + 1)
    ]  # fmt: skip
    async with dashboard(FakeBackend(jobs), production=True) as deck:
        await deck.press(key, "C")
        text = deck.screen_text()
        for words in ("failed", "Type cancel to go on:", "Keep", "will be" if number > 2 else "retried"):
            assert words in text, words
        assert deck.app.screen.query_one("#box").max_scroll_y == 0
