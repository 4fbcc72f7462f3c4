"""Every action is asked about, frozen, carried out once and reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from textual.widgets import Button, Input

from jobdeck.core.model import Job, Processing, Status
from jobdeck.core.worker.oneshot import CycleResult
from jobdeck.tui import keymap
from jobdeck.tui.backend.operations import Operations
from jobdeck.tui.format import short_id
from jobdeck.tui.screens.dialogs.confirm import job_question
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Slow, dashboard, failed, said, shown


@pytest.mark.slow
async def test_the_dialog_names_verb_count_breakdown_and_ids_and_the_harmless_answer_has_the_focus() -> None:
    backend = FakeBackend([make_job(1), make_job(2, Status.FAILED)])
    async with dashboard(backend, "a", "D") as deck:
        text = deck.screen_text()
        for part in ("Delete 2 jobs", "1 pending, 1 failed", job_id(1).hex[-8:], job_id(2).hex[-8:], "7 days"):
            assert part in text
        assert isinstance(deck.app.focused, Button)
        assert deck.app.focused.id == "no"
        await deck.press("enter")
        assert deck.here == "Dashboard"
        assert not backend.calls


@pytest.mark.slow
@pytest.mark.parametrize(("key", "verb"), [("R", "retry"), ("C", "cancel"), ("D", "delete")])
async def test_an_action_is_carried_out_once_and_its_toast_names_the_command(key: str, verb: str) -> None:
    async with dashboard(failed(1), key, "tab", "enter") as deck:
        assert deck.backend.calls == [(verb, (job_id(1),))]
        assert f"jobdeck {verb} {job_id(1)}" in deck.toasts[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "number"), [("R", 1), ("C", 1), ("D", 5)])
async def test_a_reason_that_was_typed_goes_with_the_action(key: str, number: int) -> None:
    backend = FakeBackend([make_job(one) for one in range(1, number + 1)])
    async with dashboard(backend, "a", key, "up") as deck:
        assert isinstance(deck.app.focused, Input)
        await deck.press(*"yes ok", "enter", "tab", "enter")
        assert backend.reasons == ["yes ok"]
        if number == 1:
            assert "--reason 'yes ok'" in deck.toasts[-1]


@pytest.mark.slow
async def test_without_a_reason_none_is_given() -> None:
    async with dashboard(failed(1), "R", "y") as deck:
        assert deck.backend.reasons == [None]


@pytest.mark.slow
async def test_a_dialog_acts_on_the_ids_it_showed_whatever_the_list_has_become() -> None:
    async with dashboard(failed(2), "D") as deck:
        deck.backend.jobs.insert(0, make_job(0, Status.FAILED))
        deck.backend.jobs = [job for job in deck.backend.jobs if job.id != job_id(1)]
        await deck.refresh()
        await deck.press("y")
        assert deck.backend.calls == [("delete", (job_id(1),))]
        assert "refused: no such job" in deck.toasts[-1]
        assert {job.id for job in deck.backend.jobs} == {job_id(0), job_id(2)}


@pytest.mark.slow
async def test_a_job_that_changed_meanwhile_is_not_touched() -> None:
    async with dashboard(failed(1), "R") as deck:
        deck.backend.jobs[0] = replace(deck.backend.jobs[0], version=2)
        await deck.press("y")
        assert "changed meanwhile" in deck.toasts[-1]
        assert deck.backend.jobs[0].status is Status.FAILED


@pytest.mark.slow
async def test_up_to_25_jobs_need_no_word() -> None:
    async with dashboard(failed(25), "a", "R", "y") as deck:
        assert len(deck.backend.calls[0][1]) == 25


@pytest.mark.slow
@pytest.mark.parametrize(("number", "production"), [(26, False), (1, True)])
async def test_many_jobs_or_a_production_database_ask_for_the_word(number: int, production: bool) -> None:
    async with dashboard(failed(number), "a", "R", production=production) as deck:
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


@pytest.mark.slow
async def test_a_key_for_yes_that_is_no_letter_needs_the_word_too() -> None:
    async with dashboard(failed(26), "a", "C", keymap=keymap.read({"confirm.yes": "f8"})) as deck:
        await deck.press("f8")
        assert not deck.backend.calls
        await deck.press(*"cancel", "f8")
        assert not deck.backend.calls
        await deck.press("enter")
        assert len(deck.backend.calls) == 1


@pytest.mark.slow
async def test_the_two_answers_to_cancelling_cannot_be_mixed_up() -> None:
    async with dashboard(failed(2), "a", "C") as deck:
        labels = [str(button.label) for button in deck.app.screen.query(Button)]
        assert labels == ["Keep", "Cancel 2 jobs"]


@pytest.mark.slow
async def test_jobs_whose_status_does_not_allow_the_action_are_left_out_and_said_to_be() -> None:
    backend = FakeBackend([make_job(1, Status.RUNNING), make_job(2, Status.FAILED)])
    async with dashboard(backend, "a", "D") as deck:
        assert "Skipped, since their status does not allow it: 1 running." in deck.screen_text()
        await deck.press("y")
        assert backend.calls == [("delete", (job_id(2),))]


ALLOWED = {
    "R": {Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
    "C": {Status.PENDING, Status.RUNNING, Status.FAILED},
    "D": {Status.PENDING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
}


@pytest.mark.slow
@pytest.mark.parametrize("key", ALLOWED)
@pytest.mark.parametrize("status", Status)
async def test_each_status_allows_what_the_table_of_actions_says_and_refusals_say_why(key: str, status: Status) -> None:
    async with dashboard(FakeBackend([make_job(1, status)]), key) as deck:
        if status in ALLOWED[key]:
            assert deck.here == "Confirm"
        else:
            assert deck.here == "Dashboard"
            assert f"a {status.value} job does not allow it" in deck.toasts[-1]


@pytest.mark.slow
async def test_a_job_that_left_the_queue_can_only_run_again() -> None:
    removed = make_job(1, Status.SUCCEEDED, removed=True)
    async with dashboard(FakeBackend([removed]), "4", "D") as deck:
        assert "has left the queue" in deck.toasts[-1]
        assert "R again" in deck.line("keys")
        await deck.press("R")
        text = " ".join(deck.screen_text().split())
        assert "Run again: 1 job" in text
        assert "It has left the queue: a copy is enqueued." in text
        assert "due at once" not in text
        assert "etry" not in text
        await deck.press("y")
        assert deck.backend.calls == [("run-again", (job_id(1),))]
        assert f"jobdeck run-again {job_id(1)}" in deck.toasts[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 5])
async def test_a_series_that_ended_is_run_again_by_this_name_too(number: int) -> None:
    ended = [make_job(at, Status.SUCCEEDED) for at in range(1, number + 1)]
    async with dashboard(FakeBackend(ended), "4", "a", "R") as deck:
        text = " ".join(deck.screen_text().split())
        assert f"Run again: {number} job" in text
        assert "due at once." in text
        await deck.press("y")
        assert [call[0] for call in deck.backend.calls] == ["run-again"]


@pytest.mark.slow
async def test_a_pending_job_is_run_now_and_a_failed_one_beside_it_is_retried() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING), make_job(2, Status.FAILED)])
    async with dashboard(backend, "g", "R") as deck:
        assert "Run 1 job now" in deck.screen_text()
        await deck.press("escape", "a", "R")
        assert "Retry 2 jobs" in deck.screen_text()
        await deck.press("y")
        assert [call[0] for call in backend.calls] == ["retry"]


@pytest.mark.slow
async def test_a_job_that_succeeded_after_it_was_shown_is_retried_by_name_and_refused() -> None:
    async with dashboard(failed(1)) as deck:
        seen = deck.backend.jobs[0]
        deck.backend.jobs[0] = replace(seen, status=Status.SUCCEEDED, removed=True)
        await deck.press("R")
        assert "Retry 1 job" in deck.screen_text()
        await deck.press("y")
        assert deck.backend.calls == [("retry", (seen.id,))]
        assert "refused: It has succeeded and left the queue." in deck.toasts[-1]


@pytest.mark.slow
async def test_among_marked_jobs_those_that_have_succeeded_are_left_out_of_a_retry_and_the_dialog_says_so() -> None:
    backend = FakeBackend([make_job(1, Status.SUCCEEDED), make_job(2, Status.FAILED), make_job(3, Status.RUNNING)])
    async with dashboard(backend, "a", size=LARGE) as deck:
        assert "R retry 1" in deck.line("keys")
        await deck.press("R")
        text = " ".join(deck.screen_text().replace("│", " ").split())
        assert "Retry 1 job" in text
        assert "Skipped, since their status does not allow it: 1 running." in text
        assert "Skipped: 1 succeeded. Mark only those to run them again." in text
        await deck.press("y")
        assert backend.calls == [("retry", (job_id(2),))]


def test_only_of_jobs_that_are_in_the_queue_the_question_says_that_they_become_due() -> None:
    left = [make_job(number, Status.SUCCEEDED, removed=True) for number in (1, 2)]
    here = [make_job(number, Status.SUCCEEDED) for number in (3, 4)]
    assert consequence(*left) == "They have left the queue: copies are enqueued."
    assert consequence(*here) == "They become due at once."
    assert consequence(left[0], *here) == "2 jobs become due at once; of 1 that left the queue a copy is enqueued."
    assert consequence(*left, here[0]) == "1 job becomes due at once; of 2 that left the queue copies are enqueued."


@pytest.mark.parametrize(
    ("series", "waiting", "others", "ends"),
    [
        (0, 0, 2, ""),
        (1, 0, 0, ""),
        (0, 1, 0, " The series ends: it has no other job."),
        (1, 1, 1, " 1 series ends."),
        (0, 2, 1, " 2 series end."),
    ],
)
def test_the_question_before_a_delete_says_that_the_series_of_a_waiting_job_ends(
    series: int, waiting: int, others: int, ends: str
) -> None:
    statuses = [*[(Status.FAILED, True)] * series, *[(Status.PENDING, True)] * waiting]
    statuses += [(Status.PENDING, False)] * others
    jobs = [replace(make_job(at, status), is_recurring=recurs) for at, (status, recurs) in enumerate(statuses, 1)]
    last = job_question("delete", jobs, left_out="").body.plain.splitlines()[-1]
    assert last.partition("you can undo this.")[2] == ends


@pytest.mark.slow
async def test_the_payload_editor_opens_from_the_list_and_retries_the_job_under_the_cursor_alone() -> None:
    async with dashboard(failed(3), "5", "a", "T", size=LARGE) as deck:
        assert deck.here == "PayloadEditor"
        await deck.press("ctrl+s")
        acted = [call for call in deck.backend.calls if call[0] != "reveal"]
        assert [(call[0], call[1]) for call in acted] == [("retry with", deck.table.jobs[0].id)]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_payload_editor_asks_before_it_discards_what_was_typed_since_it_was_opened(
    size: tuple[int, int],
) -> None:
    asked = "Press esc again to discard what you typed."
    async with dashboard(failed(1), "T", "escape", size=size) as deck:
        assert deck.here == "Dashboard"
        await deck.press("T", "x", "escape")
        assert deck.here == "PayloadEditor"
        assert asked in deck.screen_text()
        await deck.press("y", "escape")
        assert deck.here == "PayloadEditor"
        assert asked in deck.screen_text()
        await deck.press("escape")
        assert deck.here == "Dashboard"


async def test_the_errors_page_says_where_the_payload_editor_is() -> None:
    said_there = "Each job of a group has its own payload. enter lists them, and T edits one there."
    async with dashboard(sample(), "e", "T") as deck:
        assert (deck.here, deck.toasts[-1]) == ("Errors", said_there)
        assert "edit+retry" not in deck.line("keys")


def consequence(*jobs: Job) -> str:
    """What the question before jobs run again says last."""
    return job_question("run-again", jobs, left_out="").body.plain.splitlines()[-1]


@pytest.mark.slow
async def test_undo_takes_the_last_delete_back() -> None:
    async with dashboard(failed(2), "D", "y") as deck:
        assert "u undoes it" in deck.toasts[-1]
        assert "u undo delete" in deck.line("keys")
        await deck.press("u", "enter")
        assert deck.backend.calls[-1] == ("restore", (job_id(1),))
        assert len(deck.table.jobs) == 2
        await deck.press("u")
        assert len(deck.backend.calls) == 2


@pytest.mark.slow
async def test_undo_goes_back_one_deletion_after_the_other_and_the_cursor_to_what_is_back() -> None:
    backend = failed(5)
    first, second = (job.id for job in backend.jobs[:2])
    async with dashboard(backend, "D", "y", "D", "y") as deck:
        assert len(backend.jobs) == 3
        await deck.press("u", "enter")
        assert deck.table.current is not None
        assert deck.table.current.id == second
        assert "u undo delete" in deck.line("keys")
        await deck.press("u", "enter")
        assert deck.table.current.id == first
        assert len(backend.jobs) == 5
        assert "left this list" not in deck.screen_text()
        await deck.press("u")
        assert "no delete to undo. o lists earlier deletions" in deck.toasts[-1]


@pytest.mark.slow
async def test_of_a_deletion_that_was_refused_for_some_jobs_undo_takes_back_the_others() -> None:
    backend = failed(2)
    kept, deleted = backend.jobs
    async with dashboard(backend, "a", "D") as deck:
        backend.jobs[0] = replace(kept, version=2)
        await deck.press("y")
        assert backend.trash == [deleted]
        assert "u undo delete" in deck.line("keys")
        await deck.press("u", "enter")
        assert backend.calls[-1] == ("restore", (deleted.id,))
        assert len(backend.jobs) == 2


@pytest.mark.slow
async def test_a_deletion_that_could_not_be_taken_back_can_be_tried_again() -> None:
    backend = failed(2)
    async with dashboard(backend, "D", "y") as deck:
        backend.failure = lost()
        await deck.press("u", "enter")
        backend.failure = None
        await deck.refresh()
        assert len(backend.jobs) == 1
        await deck.press("u", "enter")
        assert len(backend.jobs) == 2


async def test_a_deletion_that_was_taken_back_elsewhere_meanwhile_is_no_trouble() -> None:
    backend = failed(2)
    slow = Slow(backend)
    job = backend.jobs[0]
    operations = slow.app.operations
    async with slow.app.run_test():
        slow.waiting.clear()
        operations.act("delete", [job])
        slow.answer()
        slow.waiting.clear()
        undo(operations, lambda _job_id: None)
        operations.act("restore", [job])
        slow.waiting.reverse()
        slow.answer()
        slow.waiting.reverse()
        slow.answer()
        assert not operations.deletions
        assert len(backend.jobs) == 2


def undo(operations: Operations, back: Callable[[UUID], None]) -> None:
    """What the answer yes to the question of `u` does."""
    deletion = operations.undoable()
    assert deletion is not None
    operations.undo(deletion, back)


def answer_all(slow: Slow) -> None:
    while slow.waiting:
        slow.answer()


async def test_a_deletion_still_under_way_is_taken_back_when_it_is_done_and_no_earlier_one_in_its_stead() -> None:
    backend = failed(3)
    slow = Slow(backend)
    first, second = backend.jobs[:2]
    operations = slow.app.operations
    back: list[UUID] = []
    async with slow.app.run_test():
        operations.act("delete", [first])
        answer_all(slow)
        operations.act("delete", [second])
        assert operations.can_undo
        undo(operations, back.append)
        undo(operations, back.append)
        answer_all(slow)
        assert backend.calls == [("delete", (first.id,)), ("delete", (second.id,)), ("restore", (second.id,))]
        assert back == [second.id]
        assert backend.trash == [first]


async def test_two_undos_before_the_answer_are_one_restore() -> None:
    backend = failed(2)
    slow = Slow(backend)
    job = backend.jobs[0]
    operations = slow.app.operations
    back: list[UUID] = []
    async with slow.app.run_test():
        operations.act("delete", [job])
        answer_all(slow)
        undo(operations, back.append)
        undo(operations, back.append)
        answer_all(slow)
        assert backend.calls == [("delete", (job.id,)), ("restore", (job.id,))]
        assert back == [job.id]


async def test_of_a_deletion_that_failed_nothing_is_taken_back_and_no_earlier_one_in_its_stead() -> None:
    backend = failed(3)
    slow = Slow(backend)
    first, second = backend.jobs[:2]
    operations = slow.app.operations
    async with slow.app.run_test():
        operations.act("delete", [first])
        answer_all(slow)
        operations.act("delete", [second])
        undo(operations, lambda _job_id: None)
        backend.failure = lost()
        slow.answer()
        backend.failure = None
        answer_all(slow)
        assert backend.trash == [first]


@pytest.mark.slow
async def test_deletions_of_many_and_of_few_are_taken_back_in_their_order() -> None:
    backend = failed(9)
    async with dashboard(backend, "D", "y", *"    ", "D", "y", "D", "y") as deck:
        assert len(backend.jobs) == 3
        for left in (4, 8, 9):
            await deck.press("u", "enter")
            await deck.refresh()
            assert len(backend.jobs) == left


async def test_what_is_said_under_the_list_goes_by_itself_and_gives_the_error_its_line_back() -> None:
    backend = failed(3)
    async with dashboard(backend) as deck:
        gone = backend.jobs.pop(0)
        await deck.refresh()
        assert f"{short_id(gone.id)} left this list" in deck.line("peek")
        deck.clock.now += 9
        deck.app.dashboard.tick()
        assert "left this list" in deck.line("peek")
        deck.clock.now += 2
        deck.app.dashboard.tick()
        assert "left this list" not in deck.line("peek")
        backend.jobs.pop(0)
        await deck.refresh()
        assert "left this list" in deck.line("peek")
        backend.jobs.insert(0, gone)
        await deck.refresh()
        assert "left this list" in deck.line("peek")


async def test_a_job_that_comes_back_has_not_left_the_list() -> None:
    backend = failed(3)
    async with dashboard(backend) as deck:
        gone = backend.jobs.pop(0)
        await deck.refresh()
        assert "left this list" in deck.line("peek")
        backend.jobs.insert(0, gone)
        await deck.refresh()
        assert "left this list" not in deck.line("peek")


@pytest.mark.slow
async def test_two_toasts_at_most_are_shown_and_none_over_a_dialog() -> None:
    backend = failed(6)
    async with dashboard(backend) as deck:
        for _ in range(4):
            await deck.press("D", "y", "y")
        assert len(deck.toasts) == 2
        await deck.press("C")
        assert deck.toasts == []


@pytest.mark.slow
async def test_u_drops_marks_before_it_undoes_anything() -> None:
    async with dashboard(failed(3), "D", "y", "space", "u") as deck:
        assert not deck.table.marks
        assert [call[0] for call in deck.backend.calls] == ["delete"]


@pytest.mark.slow
async def test_marks_follow_their_jobs_and_are_counted() -> None:
    async with dashboard(failed(3), "space", "space") as deck:
        deck.backend.jobs.append(make_job(0, Status.FAILED))
        await deck.refresh()
        assert deck.table.marks == {job_id(1), job_id(2)}
        assert "2 marked" in deck.line("peek")
        assert "R retry 2" in deck.line("keys")
        await deck.press("R", "escape")
        assert len(deck.table.marks) == 2
        await deck.press("R", "y")
        assert not deck.table.marks


@pytest.mark.slow
async def test_run_worker_says_what_came_of_the_cycle() -> None:
    backend = failed(1)
    backend.cycle = CycleResult("ok", 3, 2, 1, "")
    toast = await said(backend, "w", "enter")
    assert backend.calls == [("due",), ("cycle",)]
    assert "processed 3: 2 succeeded, 1 failed" in toast
    assert "jobdeck run-worker" in toast


@pytest.mark.slow
async def test_run_worker_while_paused_says_why_it_ran_nothing() -> None:
    backend = failed(1)
    backend.cycle = CycleResult("paused", 0, 0, 0, "MetaCTF is down")
    toast = await said(backend, "w", "enter")
    assert "Run Worker: Nothing ran: processing is paused (MetaCTF is down). P resumes." in toast
    assert toast.endswith("\njobdeck resume")


@pytest.mark.slow
async def test_run_worker_that_was_stopped_by_a_pause_says_what_had_run_before_it() -> None:
    backend = failed(1)
    backend.cycle = CycleResult("paused", 2, 1, 1, "MetaCTF is down")
    words = "processed 2: 1 succeeded, 1 failed; then processing was paused (MetaCTF is down). P resumes."
    assert words in await said(backend, "w", "enter")


@pytest.mark.slow
async def test_the_embedded_worker_is_stopped_with_one_key_and_started_after_a_question() -> None:
    async with dashboard(sample(), "W", size=LARGE) as deck:
        assert deck.backend.calls == [("stop", None)]
        assert "here" not in deck.line("header")
        await deck.press("W", "enter")
        assert deck.backend.calls[-1] == ("start",)
        assert "1 here" in deck.line("header")


@pytest.mark.slow
async def test_pause_asks_for_a_reason_and_a_time_and_nothing_happens_until_it_is_pressed() -> None:
    async with dashboard(sample(), "P", *"down", "enter", *"30m", "enter") as deck:
        assert not deck.backend.calls
        await deck.press("enter")
        assert deck.backend.calls == [("pause", "down", timedelta(minutes=30))]
        assert "jobdeck pause --reason down --for 30m" in deck.toasts[-1]
        assert "PAUSED" in deck.line("banner")


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "moment"), [
    ("tomorrow 9:00", "2026-07-05 09:00"), ("at 13:30", "2026-07-04 13:30"),
    ("2026-07-09T08:00+02:00", "2026-07-09 06:00"),
])  # fmt: skip
async def test_a_pause_takes_a_time_as_well_and_shows_it_in_full_beside_the_field(typed: str, moment: str) -> None:
    async with dashboard(sample(), "P", "enter") as deck:
        deck.app.screen.query_one("#until", Input).value = typed
        await deck.pilot.pause()
        assert f"= {moment}Z, in " in deck.screen_text()
        await deck.press("enter", "enter")
        resumes = datetime.fromisoformat(f"{moment}+00:00")
        assert deck.backend.calls == [("pause", None, resumes)]
        assert f"jobdeck pause --until {resumes:%Y-%m-%dT%H:%M:%S}Z" in deck.toasts[-1]
        assert deck.backend.processing.resume_at == resumes


@pytest.mark.slow
async def test_a_length_of_a_pause_is_shown_as_the_time_it_comes_to() -> None:
    text = await shown(sample(), "P", "enter", *"in 2h")
    assert "= 2026-07-04 14:04Z, in 2h" in text
    assert "jobdeck pause --for 2h" in text


@pytest.mark.slow
async def test_a_pause_until_a_time_that_is_past_is_refused() -> None:
    async with dashboard(sample(), "P", "enter", *"today 9:00", "enter") as deck:
        assert "in the past" in deck.screen_text()
        await deck.press("enter")
        assert not deck.backend.calls


@pytest.mark.slow
async def test_a_time_that_cannot_be_read_is_said_beside_its_field() -> None:
    async with dashboard(sample(), "P", "enter", *"soon", "enter") as deck:
        text = " ".join(deck.screen_text().split())
        assert 'time to resume "soon" is not a time' in text
        assert "30m" in text.split("is not a time")[1]
        assert '"tomorrow 9:00"' in text.split("is not a time")[1]
        assert not deck.backend.calls
        await deck.press("escape")
        assert not deck.backend.calls


@pytest.mark.slow
async def test_resume_asks_first_and_says_what_will_start() -> None:
    backend = sample()
    backend.processing = Processing(enabled=False, paused_by="bob", paused_reason="MetaCTF", paused_at=NOW)
    async with dashboard(backend, "P") as deck:
        text = deck.screen_text()
        assert "1,204 jobs start, 13 catch-up runs of nightly_report, about 4 " in text
        assert "minutes at the limit of 60/m, at most 5 at once. " in text
        await deck.press("y")
        assert backend.calls == [("resume",)]
        assert not deck.line("banner")


@pytest.mark.slow
async def test_in_production_resume_asks_for_its_word() -> None:
    backend = sample()
    backend.processing = Processing(enabled=False, paused_by="bob", paused_reason="MetaCTF", paused_at=NOW)
    async with dashboard(backend, "P", "y", production=True, environment="prod") as deck:
        assert not backend.calls
        await deck.press("backspace", *"resume", "enter")
        assert backend.calls == [("resume",)]


@pytest.mark.slow
async def test_the_pause_dialog_stays_as_large_as_it_is_while_its_command_grows() -> None:
    async with dashboard(sample(), "P") as deck:
        size = deck.app.screen.query_one("#box").size
        await deck.press(*"it is down " * 12)
        assert deck.app.screen.query_one("#box").size == size
        assert "jobdeck pause --reason" in deck.screen_text()
        assert "…" in deck.screen_text().split("jobdeck pause")[1]


@pytest.mark.slow
async def test_a_dialog_about_many_that_left_the_queue_is_seen_whole_with_a_command_that_reads_their_ids() -> None:
    jobs = [make_job(at, Status.SUCCEEDED, removed=True) for at in range(1, 61)]
    async with dashboard(FakeBackend(jobs), "4", "a", "R", production=True) as deck:
        text = deck.screen_text()
        for words in ("jobdeck run-again - --yes", "The command reads", "Type run again to confirm:", "Cancel"):
            assert words in text, words
        assert deck.app.screen.query_one("#box").max_scroll_y == 0


@pytest.mark.slow
@pytest.mark.parametrize("key", ["a", "A"])
@pytest.mark.parametrize("number", [1, 12, 25, 60])
async def test_a_dialog_is_seen_whole_on_24_lines_even_where_it_wants_a_word(key: str, number: int) -> None:
    jobs = [
        make_job(at, Status.FAILED if at % 3 else Status.RUNNING, task_type=f"type_{at % 9}", is_recurring=at % 2 == 0,
                 recurrence_interval_minutes=60)
        for at in range(1, number + 1)
    ]  # fmt: skip
    async with dashboard(FakeBackend(jobs), key, "C", production=True) as deck:
        text = deck.screen_text()
        for words in ("failed", "Type cancel to confirm:", "Keep", "will be" if number > 2 else "retried"):
            assert words in text, words
        assert deck.app.screen.query_one("#box").max_scroll_y == 0
