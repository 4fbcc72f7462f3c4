"""Actions on many jobs: all that match, frozen; step by step; an answer for each; after a lost connection too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from textual.widgets import Input

from jobdeck.core.errors import Refused
from jobdeck.core.model import Status
from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, Choice
from jobdeck.core.queue.operators.payload_change import PayloadChange
from jobdeck.tui.commands import bulk_twin
from jobdeck.tui.format import progress
from jobdeck.tui.screens.dialogs.confirm import Confirm
from jobdeck.tui.screens.pages.bulk import answer_lines, reasons
from tests.tui.fake import NOW, FakeBackend, at_once, job_id, lost, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Deck, Held, Slow, dashboard, failed, shown

pytestmark = pytest.mark.slow


def mixed() -> FakeBackend:
    jobs = [make_job(at, Status.FAILED, last_error="boom") for at in range(1, 31)]
    jobs += [make_job(at, Status.RUNNING) for at in range(31, 34)]
    return FakeBackend([*jobs, *(make_job(at, task_type="sms_digest_processor") for at in range(34, 40))])


async def confirm(deck: Deck, word: str) -> None:
    """Types the word that a dialog about many jobs asks for."""
    field = deck.app.screen.query_one("#word", Input)
    field.focus()
    await deck.press(*word, "enter")


def by_id(backend: FakeBackend, number: int) -> Any:
    return next(job for job in backend.jobs if job.id == job_id(number))


async def test_a_chooses_all_that_match_and_the_keys_say_how_many_each_would_take() -> None:
    async with dashboard(mixed(), "slash", *"boom", "enter", "A", size=LARGE) as deck:
        assert "30 matching jobs selected" in deck.line("peek")
        assert "R retry 30" in deck.line("keys")
        await deck.press("A")
        assert "chosen" not in deck.line("peek")
        assert deck.backend.bulk.held == {}


@pytest.mark.parametrize("key", ["u", "escape", "2"])
async def test_what_was_chosen_can_be_dropped_and_another_list_drops_it(key: str) -> None:
    async with dashboard(mixed(), "A", key) as deck:
        assert deck.app.operations.bulk.choice is None
        assert deck.backend.bulk.held == {}
        assert not deck.backend.calls


async def test_nothing_that_matches_is_said_and_nothing_is_chosen() -> None:
    async with dashboard(mixed(), "slash", *"zebra", "enter", "A") as deck:
        assert "No job in the queue matches" in deck.toasts[-1]
        assert deck.app.operations.bulk.choice is None


async def test_the_dialog_names_verb_count_types_and_first_ids_and_asks_for_the_word() -> None:
    async with dashboard(mixed(), "A", "D", size=LARGE) as deck:
        dialog = deck.app.screen
        assert isinstance(dialog, Confirm)
        text = f"{dialog.question.title}\n{dialog.question.body.plain}"
        for part in ("Delete 36 jobs", "30 failed, 6 pending", "game_platform_sync", "sms_digest_processor",
                     job_id(1).hex[-8:], "Will be refused: 3 running.", "continues if you disconnect",
                     "filter: everything in the queue"):  # fmt: skip
            assert part in text, part
        assert "Delete 36 jobs" in deck.screen_text()
        await deck.press("y")
        assert deck.here == "Confirm"
        await deck.press("escape")
        assert not deck.backend.calls
        assert deck.app.operations.bulk.choice is not None


async def test_an_action_takes_the_frozen_ids_whatever_the_list_has_become() -> None:
    async with dashboard(failed(30), "A") as deck:
        deck.backend.jobs.append(make_job(99, Status.FAILED))
        deck.backend.jobs[4] = replace(deck.backend.jobs[4], version=7)
        await deck.refresh()
        await deck.press("R")
        assert "Retry 30 jobs" in deck.screen_text()
        await confirm(deck, "retry")
        assert deck.backend.calls == [("retry", tuple(job_id(at + 1) for at in range(30)))]
        assert by_id(deck.backend, 99).status is Status.FAILED
        assert by_id(deck.backend, 5).status is Status.FAILED
        assert "29 of 30 jobs retried, 1 refused." in deck.toasts[-1]
        assert "b shows which were refused" in deck.toasts[-1]
        assert "jobdeck retry --bulk 00000001 --yes" in deck.toasts[-1]


async def test_many_marked_jobs_go_the_same_way_and_few_at_once() -> None:
    async with dashboard(failed(8), "space", "space", "space", "R", "y") as deck:
        assert not deck.backend.bulk.held
        await deck.press("5", "a", "R", "y")
        (held,) = deck.backend.bulk.held.values()
        assert held.bulk.done == held.bulk.total == 5


async def test_each_job_has_its_answer_and_the_refused_can_be_looked_at_alone() -> None:
    async with dashboard(mixed(), "A", "D", size=LARGE) as deck:
        await confirm(deck, "delete")
        await deck.press("b")
        text = deck.screen_text()
        assert "36 of 39 jobs deleted, 3 refused" in text
        assert "started by alice@10.0.0.7" in text
        assert text.count("✓ done") == 36
        await deck.press("f")
        text = deck.screen_text()
        assert text.count("✗ refused") == 3
        assert "✓ done" not in text
        assert text.count("It is running.") == 3
        await deck.press("f")
        assert "✓ done" in deck.screen_text()


async def test_the_page_opens_a_job_copies_the_command_and_goes_to_older_actions() -> None:
    async with dashboard(failed(10), "A", "C", "y", "1", "A", "R", "y", "b", size=LARGE) as deck:
        assert "10 of 10 jobs retried" in deck.screen_text()
        await deck.press("left_square_bracket")
        assert "10 of 10 jobs cancelled" in deck.screen_text()
        await deck.press("y")
        assert deck.app.clipboard == "jobdeck cancel --bulk 00000001 --yes"
        await deck.press("left_square_bracket")
        assert "oldest" in deck.toasts[-1]
        await deck.press("right_square_bracket")
        assert "10 of 10 jobs retried" in deck.screen_text()
        await deck.press("j", "j", "j", "j", "j", "enter")
        assert deck.here == "JobDetailScreen"


async def test_a_bulk_delete_is_taken_back_by_u_from_the_list_and_from_its_page() -> None:
    async with dashboard(failed(10), "A", "D", "y") as deck:
        assert "u undoes it" in deck.toasts[-1]
        assert "u undo delete" in deck.line("keys")
        assert not deck.table.jobs
        await deck.press("u", "enter")
        assert len(deck.table.jobs) == 10
        assert "10 of 10 jobs restored." in deck.toasts[-1]
        await deck.press("A", "D", "y", "b", "u")
        assert "10 jobs will be restored from the trash" in " ".join(deck.screen_text().split())
        await deck.press("y", "escape")
        assert len(deck.table.jobs) == 10


async def test_u_while_many_are_being_deleted_takes_no_earlier_deletion_back() -> None:
    held, backend = Held(), failed(25)
    async with dashboard(backend, "D", "y", "A", "D", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("y", "u")
        assert "One bulk action at a time: starting to delete" in deck.toasts[-1]
        held.let_one_go()
        await deck.press("u")
        assert "One bulk action at a time: deleting 0 of 24" in deck.toasts[-1]
        held.holding = False
        held.let_all_go()
        assert len(backend.trash) == 25


async def test_no_second_action_is_begun_while_the_first_is_just_being_begun() -> None:
    held, backend = Held(), failed(25)
    async with dashboard(backend, "a", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("R", "y", "a", "C", "y")
        held.holding = False
        held.let_all_go()
        await deck.pilot.pause()
        assert [call[0] for call in backend.calls] == ["retry"]


async def test_a_bulk_delete_that_could_not_be_taken_back_can_be_tried_again() -> None:
    backend = failed(10)
    async with dashboard(backend, "A", "D", "y") as deck:
        choose, backend.bulk.choose_undo = backend.bulk.choose_undo, refuse  # type: ignore[assignment, method-assign]
        await deck.press("u", "enter")
        assert "is unknown" in deck.toasts[-1]
        backend.bulk.choose_undo = choose  # type: ignore[method-assign]
        await deck.press("u", "enter")
        assert len(backend.jobs) == 10


def refuse(_bulk_id: UUID) -> Choice | None:
    raise lost()


class HeldBulk(Held):
    """Holds the steps of bulk actions, and lets the list be read."""

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if "BulkDriver" in work.__qualname__:
            super().__call__(work, done)
        else:
            at_once(work, done)


async def test_progress_is_told_step_by_step_and_the_keys_go_on_meanwhile() -> None:
    held, backend = HeldBulk(), failed(25)
    async with dashboard(backend, "A", "C", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("y")
        held.let_one_go()
        for done in (0, 10, 20):
            await deck.pilot.pause()
            assert f"cancelling {done} of 25" in deck.line("peek")
            await deck.press("j")
            held.let_one_go()
        held.holding = False
        await deck.pilot.pause()
        assert "25 of 25 jobs cancelled." in deck.toasts[-1]
        assert deck.table.cursor == 3


async def test_a_second_action_waits_for_the_first() -> None:
    held, backend = Held(), failed(25)
    async with dashboard(backend, "A", "C", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("y")
        held.let_one_go()
        held.holding = False
        await deck.press("a", "R", "y")
        assert "One bulk action at a time: cancelling 0 of 25" in deck.toasts[-1]


async def test_a_lost_connection_interrupts_and_the_next_reading_goes_on_with_nothing_done_twice() -> None:
    async with dashboard(failed(25), "z", "A", "C") as deck:
        deck.backend.failure = lost()
        deck.backend.bulk.failures = [lost()]
        await deck.press("y")
        assert "the connection was lost. It continues when the database answers" in deck.toasts[-1]
        assert "jobdeck bulk show" in deck.toasts[-1]
        assert "waiting for the connection" in deck.line("peek")
        assert all(job.status is Status.FAILED for job in deck.backend.jobs)
        deck.backend.failure = None
        await deck.refresh()
        assert "25 of 25 jobs cancelled." in deck.toasts[-1]
        assert deck.backend.bulk.steps == 4


async def test_what_the_database_refuses_is_said_and_ends_the_driving() -> None:
    async with dashboard(failed(25), "A", "C") as deck:
        deck.backend.bulk.failures = [Refused("This bulk action is gone.")]
        await deck.press("y")
        assert "Could not continue the action: This bulk action is gone." in deck.toasts[-1]
        assert deck.app.operations.bulk.running is None


def unfinished(backend: FakeBackend, done: int = 10, *, stepped: timedelta = timedelta(minutes=12)) -> Bulk:
    """An action that another session began and did not end."""
    choice = backend.bulk.choose_jobs(backend.jobs)
    backend.bulk.start(choice.bulk.id, "cancel")
    for _ in range(done // backend.bulk.batch):
        backend.bulk.step(choice.bulk.id)
    held = backend.bulk.held[choice.bulk.id]
    held.bulk = replace(held.bulk, started_at=NOW - stepped, stepped_at=NOW - stepped, actor="bob@10.0.0.9")
    backend.calls.clear()
    return held.bulk


async def test_on_return_it_is_said_what_was_not_finished_and_its_page_goes_on_with_it() -> None:
    backend = failed(25)
    found = unfinished(backend)
    async with dashboard(backend, size=LARGE) as deck:
        assert "Not finished yet: cancelling 10 of 25, started by bob@10.0.0.9. b shows it." in deck.toasts[-1]
        await deck.press("b")
        text = deck.screen_text()
        assert text.count("✓ done") == 10
        assert text.count("○ waiting") == 15
        await deck.press("O")
        text = " ".join(deck.screen_text().replace("│", " ").split())
        assert "Cancelling 10 of 25. Started by bob@10.0.0.9 12m ago." in text
        assert deck.backend.bulk.held[found.id].bulk.done == 10
        await deck.press("y")
        assert "25 of 25 jobs cancelled." in deck.toasts[-1]
        assert deck.screen_text().count("✓ done") == 25


@pytest.mark.parametrize(("number", "production"), [(40, False), (25, True)])
async def test_to_go_on_with_many_or_in_production_the_verb_has_to_be_typed(number: int, production: bool) -> None:
    backend = failed(number)
    found = unfinished(backend)
    async with dashboard(backend, "b", "O", "y", size=LARGE, production=production, environment="prod") as deck:
        assert deck.backend.bulk.held[found.id].bulk.done == 10
        await deck.press("backspace", *"cancel", "enter")
        assert deck.backend.bulk.held[found.id].bulk.done == number


async def test_an_action_can_be_stopped_and_the_rest_stays_as_it_was() -> None:
    backend = failed(25)
    unfinished(backend)
    async with dashboard(backend, "b", "H", size=LARGE) as deck:
        assert "Finished jobs keep their result" in deck.screen_text()
        await deck.press("y")
        assert "10 of 25 jobs cancelled, stopped before 15 others." in deck.toasts[-1]
        assert sum(job.status is Status.FAILED for job in backend.jobs) == 15
        await deck.press("r")
        assert "stopped by alice@10.0.0.7" in deck.screen_text()
        await deck.press("H")
        assert "It is stopped already." in deck.toasts[-1]


async def test_who_carries_it_out_is_said_and_that_it_need_not_be_gone_on_with() -> None:
    backend = failed(25)
    bulk = unfinished(backend, stepped=timedelta(seconds=2))
    backend.bulk.held[bulk.id].bulk = replace(bulk, driver="web-1:4242")
    async with dashboard(backend, "b", size=LARGE) as deck:
        assert "running on web-1:4242" in deck.screen_text()
        await deck.press("O")
        assert "web-1:4242 is running it." in deck.toasts[-1]
        assert deck.backend.bulk.held[bulk.id].bulk.done == 10


async def test_an_empty_page_says_so_and_offers_nothing() -> None:
    async with dashboard(failed(1), "b") as deck:
        assert "No bulk actions in the last 30 days. On the list, A selects all jobs" in deck.screen_text()
        for key in ("O", "H", "u", "f", "y"):
            await deck.press(key)
            assert "No bulk action to show." in deck.toasts[-1]


async def test_more_answers_are_read_as_the_cursor_comes_near_their_end() -> None:
    backend = failed(450)
    backend.bulk.batch = 450
    async with dashboard(backend, "A", "C", size=LARGE) as deck:
        await confirm(deck, "cancel")
        await deck.press("b", "G")
        await deck.press("G")
        pane = deck.app.screen.query_one("#pane")
        assert len(pane.entries) > 400  # type: ignore[attr-defined]


async def test_a_production_database_asks_for_the_word_even_for_one_job() -> None:
    async with dashboard(failed(1), "A", "R", production=True) as deck:
        assert deck.app.screen.query("#yes:disabled")


def test_progress_in_words() -> None:
    bulk = unfinished(failed(25))
    assert progress(bulk) == "cancelling 10 of 25"
    ended = replace(bulk, state="finished", total=12_000, done=12_000, refused=10)
    assert progress(ended) == "11,990 of 12,000 jobs cancelled, 10 refused"
    assert bulk_twin(ended) == "jobdeck cancel --bulk 00000001 --yes"
    assert (
        bulk_twin(replace(ended, action="revert", reverts=job_id(9))) == f"jobdeck bulk undo {job_id(9).hex[-8:]} --yes"
    )
    assert reasons(ended, NOW, mine=None)["bulk.undo"] == "Only a deletion and an edit can be undone."


@pytest.mark.parametrize("width", [80, 200])
def test_a_refusal_is_never_cut_and_what_was_done_takes_one_line(width: int) -> None:
    facts = (job_id(1), "game_platform_onboard_competitors")
    refused = answer_lines(
        BulkAnswer(*facts, False, "It has changed meanwhile and is now " * 9 + "over.", "x", 3), width
    )
    lines = ["".join(words for words, _ in line.spans) for line in refused]
    assert max(map(len, lines)) <= width
    assert lines[-1].endswith("over.")
    assert {line.key for line in refused} == {("job", job_id(1))}
    (done,) = answer_lines(BulkAnswer(*facts, True, "done " * 90, "cancelled", 3), width)
    assert done.spans[-1][0].endswith("…")


async def test_the_cursor_begins_on_the_first_answer() -> None:
    backend = failed(25)
    unfinished(backend)
    async with dashboard(backend, "b", "enter") as deck:
        assert deck.here == "JobDetailScreen"


@pytest.mark.parametrize("number", [13, 60])
async def test_the_dialog_over_many_marked_jobs_names_the_command_and_what_it_froze_is_what_is_done(
    number: int,
) -> None:
    async with dashboard(failed(number), "a", "R") as deck:
        assert "jobdeck retry --bulk 00000001 --yes" in deck.screen_text()
        assert deck.app.screen.query_one("#box").max_scroll_y == 0
        assert not deck.backend.calls
        await deck.press("escape")
        assert not deck.backend.calls
        await deck.press("R")
        assert "jobdeck retry --bulk 00000002 --yes" in deck.screen_text()
        await deck.press(*("retry" if number > 25 else ""), *(["enter"] if number > 25 else ["y"]))
        assert [len(ids) for _, ids in deck.backend.calls] == [number]
        assert "jobdeck retry --bulk 00000002 --yes" in deck.toasts[-1]
        assert len(deck.backend.bulk.held) == 2


async def test_yes_is_heard_before_the_command_could_be_named() -> None:
    backend = failed(13)
    slow = Slow(backend)
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        slow.answer()
        await pilot.pause()
        slow.waiting.clear()
        await pilot.press("a", "R")
        await pilot.pause()
        assert "jobdeck retry --bulk … --yes" in slow.screen_text()
        await pilot.press("y")
        await pilot.pause()
        while not backend.calls:
            slow.answer()
        assert [len(ids) for _, ids in backend.calls] == [13]


async def test_the_rest_of_a_group_of_errors_has_its_command_too() -> None:
    backend = sample()
    jobs = failed(14).jobs
    backend.jobs = jobs
    key = backend.evidence.trends[0].key
    backend.evidence.groups[key] = tuple(job.id for job in jobs)
    assert "jobdeck retry --bulk 00000001 --yes" in await shown(backend, "e", "F", size=LARGE)


async def test_payloads_of_all_that_match_are_edited_after_a_dry_run_of_this_very_change() -> None:
    backend = FakeBackend([make_job(one, payload={"url": "old", "tries": one}) for one in range(1, 5)])
    async with dashboard(backend, "A", "E", *"url=new", "ctrl+s", size=LARGE) as deck:
        assert "dry run of these changes first" in deck.screen_text()
        await deck.press("ctrl+t")
        text = deck.screen_text()
        for part in (
            "Edit the payloads of 4 jobs",
            "This would edit 4 of 4 jobs",
            '~ url: "old" → "new"',
            job_id(1).hex[-8:],
        ):
            assert part in text, part
        await deck.press("enter", *"-tries", "ctrl+s")
        assert not backend.bulk.edits
        await deck.press("ctrl+t", "tab", *"moved", "ctrl+s")
        assert backend.bulk.edits == [PayloadChange({"url": "new"}, ("tries",))]
        assert backend.reasons == ["moved"]
        assert "jobdeck edit --bulk 00000001 --set 'url=\"new\"' --unset tries --yes" in deck.toasts[-1]


async def test_an_edit_of_many_is_undone_on_the_page_of_bulk_actions() -> None:
    backend = FakeBackend([make_job(one, payload={"url": "old"}) for one in range(1, 5)])
    async with dashboard(backend, "A", "E", *"url=new", "ctrl+t", "ctrl+s", size=LARGE) as deck:
        assert "b and then u undoes it." in deck.toasts[-1]
        await deck.press("b", "u")
        text = deck.screen_text()
        assert "Undo this edit" in text
        assert "jobdeck bulk undo 00000001 --yes" in text
        await deck.press("enter")
        assert [call[0] for call in backend.calls] == ["edit", "revert"]
        assert "4 of 4 jobs reverted" in deck.toasts[-1]


async def test_a_change_that_cannot_be_read_is_said_and_nothing_is_edited() -> None:
    backend = FakeBackend([make_job(1)])
    async with dashboard(backend, "A", "E", "ctrl+t", size=LARGE) as deck:
        assert "Nothing to change" in deck.screen_text()
        await deck.press(*"url", "ctrl+t")
        assert "KEY=VALUE" in deck.screen_text()
        await deck.press("escape")
        assert not backend.calls
        assert deck.app.operations.bulk.choice is not None
