"""The page of one job: what runs now, older runs, the trash, personal data, another payload, recipients."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.errors import DatabaseUnreachable
from jobdeck.core.model import Run, RunOutcome, Status
from jobdeck.core.plugins import Recipient, Recipients
from jobdeck.core.read.pages.flows import FlowLine, FlowMember, FlowTree
from jobdeck.core.read.report_types import AuditEntry, Clause, JobDetail
from jobdeck.tui.format import short_id
from jobdeck.tui.screens.dialogs.questions import cancel_flow_question
from jobdeck.tui.text import job_detail
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard, said, shown

PERSON = {"to": "kim@example.org", "phone": "+15005550006"}


def running(**progress: Any) -> FakeBackend:
    job = make_job(1, Status.RUNNING, run_token=7, started_at=NOW - minutes(1), locked_by="web-1", progress=progress,
                   lease_expires_at=NOW + timedelta(seconds=50))  # fmt: skip
    return FakeBackend([job])


def three_runs() -> FakeBackend:
    job = make_job(1, Status.FAILED, payload={"n": 3}, last_error="third way")
    runs = tuple(
        Run(token, job.id, job.task_type, {"n": token}, token, "web-1", NOW, NOW, NOW, RunOutcome.RETRIED,
            error_kind="vendor", error=f"way {token}", log=f"log of {token}", output={"done": token})
        for token in (3, 2, 1)
    )  # fmt: skip
    backend = FakeBackend([job])
    backend.details[job.id] = JobDetail(job, runs, ())
    return backend


def deleted() -> FakeBackend:
    job = make_job(1, Status.FAILED, last_error="boom")
    backend = FakeBackend()
    backend.trash = [job]
    backend.evidence.entries = (AuditEntry(1, NOW - minutes(9), "bob", "delete", job.id, {}, None, "obsolete"),)
    backend.details[job.id] = JobDetail(job, (), (), backend.evidence.entries, in_trash=True)
    return backend


async def open_deleted(deck: Deck) -> None:
    await deck.press("o", "G", "enter")
    assert deck.here == "JobDetailScreen"


# What runs now


@pytest.mark.slow
@pytest.mark.parametrize(("progress", "words"), [
    ({"done": 412, "total": 655, "rate": 6.867}, "6.9/s, about 35s left, ends about 12:05:06Z"),
    ({"done": 10, "total": 1000, "rate": 0.05}, "3.0/min, about 5h 30m left, ends about 17:34:31Z"),
    ({"done": 5, "rate": 2.0}, "2.0/s"),
    ({"done": 655, "total": 655, "rate": 2.0}, "2.0/s"),
])  # fmt: skip
async def test_progress_is_told_with_its_rate_and_its_estimated_end(progress: dict[str, Any], words: str) -> None:
    text = await shown(running(**progress), "enter")
    assert words in [line.strip().rstrip("│ ▐▕█") for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("progress", [
    {"done": "much", "total": None, "rate": "fast"}, {"rate": -1}, {"rate": 1e-300, "done": 0, "total": 1e300},
    {"log": "no list"}, {"log": [1, None]}, {},
])  # fmt: skip
async def test_whatever_a_handler_says_of_its_progress_can_be_shown(progress: dict[str, Any]) -> None:
    assert "● running" in await shown(running(**progress), "enter")


@pytest.mark.slow
async def test_the_log_of_a_running_job_follows_it() -> None:
    backend = running(log=["12:04:01.000 INFO    first"])
    async with dashboard(backend, "enter") as deck:
        assert "Log of run 7, still running" in deck.screen_text()
        assert "first" in deck.screen_text()
        backend.jobs[0] = replace(backend.jobs[0], progress={"log": ["12:04:01.000 INFO    first", "second"]})
        await deck.refresh()
        assert "second" in deck.screen_text()
        backend.jobs[0] = replace(backend.jobs[0], status=Status.PENDING, progress=None)
        await deck.refresh()
        assert "still running" not in deck.screen_text()


# Runs


@pytest.mark.slow
async def test_each_run_can_be_looked_at_with_its_error_log_output_and_payload() -> None:
    async with dashboard(three_runs(), "enter", size=LARGE) as deck:
        assert "Log of run 3" in deck.screen_text()
        await deck.press("left_square_bracket")
        text = deck.screen_text()
        for part in ("▸ ✗ retried", "Error of run 2", "way 2", "log of 2", '"done": 2', "Payload of run 2"):
            assert part in text, part
        await deck.press("left_square_bracket", "left_square_bracket")
        assert "log of 1" in deck.screen_text()
        await deck.press(*("right_square_bracket",) * 5)
        assert "log of 3" in deck.screen_text()
        assert "Payload of run 3" not in deck.screen_text()


@pytest.mark.slow
async def test_a_new_run_does_not_change_which_one_is_looked_at() -> None:
    backend = three_runs()
    async with dashboard(backend, "enter", "left_square_bracket", size=LARGE) as deck:
        before = backend.details[job_id(1)]
        newest = replace(before.runs[0], run_token=4, log="log of 4")
        backend.details[job_id(1)] = replace(before, runs=(newest, *before.runs))
        await deck.refresh()
        assert "Log of run 2" in deck.screen_text()


@pytest.mark.slow
async def test_with_one_run_there_is_none_to_choose() -> None:
    assert "There is no other run." in await said(FakeBackend([make_job(1)]), "enter", "left_square_bracket")


# The trash


@pytest.mark.slow
async def test_a_deleted_job_is_opened_from_the_audit_and_restored() -> None:
    backend = deleted()
    async with dashboard(backend, size=LARGE) as deck:
        await open_deleted(deck)
        text = deck.screen_text()
        assert "It stays in the trash for 7 days; u restores it." in text
        assert "obsolete" in text
        assert "boom" in text
        await deck.press("u")
        assert backend.calls == []
        await deck.press("enter")
        assert backend.calls == [("restore", (job_id(1),))]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["R", "C", "D", "T"])
async def test_what_is_in_the_trash_cannot_be_acted_on_and_says_why(key: str) -> None:
    async with dashboard(deleted()) as deck:
        await open_deleted(deck)
        await deck.press(key)
        assert deck.here == "JobDetailScreen"
        assert "This job is in the trash. u restores it." in deck.toasts[-1]


@pytest.mark.slow
async def test_a_job_that_is_not_in_the_trash_cannot_be_restored() -> None:
    assert "This job is not in the trash." in await said(FakeBackend([make_job(1)]), "enter", "u")


# Personal data


@pytest.mark.slow
async def test_personal_data_is_masked_until_it_is_revealed_which_is_on_record() -> None:
    job = make_job(1, Status.FAILED, payload=PERSON, last_error="no mailbox kim@example.org\x1b[31m")
    backend = FakeBackend([job])
    async with dashboard(backend, "enter", size=LARGE) as deck:
        assert "kim@" not in deck.screen_text()
        await deck.press("X")
        assert backend.calls == [("reveal", job_id(1))]
        assert deck.toasts[-1].endswith(f"jobdeck job {job_id(1)} --reveal")
        text = deck.screen_text()
        assert "PERSONAL DATA SHOWN, X hides it" in text
        assert '"to": "kim@example.org"' in text
        assert "no mailbox kim@example.org\\x1b[31m" in text
        await deck.press("X")
        assert "kim@" not in deck.screen_text()
        assert len(backend.calls) == 1


@pytest.mark.slow
async def test_what_was_revealed_is_masked_again_when_the_page_is_left() -> None:
    async with dashboard(FakeBackend([make_job(1, payload=PERSON)]), "enter", "X", "escape", size=LARGE) as deck:
        assert "kim@" not in deck.screen_text()
        await deck.press("enter")
        assert "kim@" not in deck.screen_text()


@pytest.mark.slow
async def test_what_is_not_on_record_is_not_shown() -> None:
    backend = FakeBackend([make_job(1, payload=PERSON)])
    async with dashboard(backend, "enter", size=LARGE) as deck:
        backend.failure = DatabaseUnreachable("The connection was lost.")
        await deck.press("X")
        assert "kim@" not in deck.screen_text()
        assert "is unknown" in deck.toasts[-1]


async def test_one_who_may_only_look_cannot_reveal() -> None:
    backend = FakeBackend([make_job(1, payload=PERSON)], operate=False)
    assert "has read-only access" in await said(backend, "enter", "X")
    assert backend.calls == []


# Another payload


async def edit(deck: Deck, text: str) -> None:
    await deck.press("enter", "T")
    area = deck.app.screen.query_one("#json")
    area.text = text  # type: ignore[attr-defined]
    await deck.pilot.pause()


@pytest.mark.slow
async def test_a_job_is_retried_with_another_payload_and_the_look_at_it_is_on_record() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload=PERSON)])
    async with dashboard(backend, "enter", "T", size=LARGE) as deck:
        assert '"to": "kim@example.org"' in deck.screen_text()
        deck.app.screen.query_one("#json").text = '{"to": null, "n": 1}'  # type: ignore[attr-defined]
        await deck.pilot.pause()
        assert "~ to: " in deck.screen_text()
        assert "+ n: 1" in deck.screen_text()
        deck.app.screen.query_one("#json").text = '{"to": null}'  # type: ignore[attr-defined]
        await deck.press("ctrl+s")
        assert backend.calls == [("reveal", job_id(1)), ("retry with", job_id(1), {"to": None})]
        assert f"jobdeck edit {job_id(1)} --payload '{{\"to\": null}}' && jobdeck retry {job_id(1)}" in deck.toasts[-1]


@pytest.mark.slow
async def test_the_command_of_another_payload_does_the_same_with_personal_data_in_it_too() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload=PERSON)])
    words = shlex.split((await said(backend, "enter", "T", "ctrl+s", size=LARGE)).splitlines()[-1])
    assert json.loads(words[words.index("--payload") + 1]) == PERSON


@pytest.mark.slow
async def test_a_payload_with_control_characters_is_shown_harmless_and_goes_back_as_it_was() -> None:
    payload = {"note": "a\x9b31mb\x7f\u202ec"}
    backend = FakeBackend([make_job(1, Status.FAILED, payload=payload)])
    async with dashboard(backend, "enter", "T", size=LARGE) as deck:
        assert not set("\x9b\x7f\u202e") & set(deck.screen_text())
        await deck.press("ctrl+s")
        assert backend.calls[-1] == ("retry with", job_id(1), payload)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "words"), [
    ('{"to": ', "Line 1, column 8"),
    ("[1, 2]", "A payload must be a JSON object"),
    ('{"wrong": 1}', "wrong: is not a field of this task type"),
])  # fmt: skip
async def test_a_payload_that_does_not_fit_is_said_in_place_and_changes_nothing(text: str, words: str) -> None:
    backend = FakeBackend([make_job(1, Status.FAILED)])
    async with dashboard(backend) as deck:
        await edit(deck, text)
        await deck.press("ctrl+s")
        assert deck.here == "PayloadEditor"
        assert words in " ".join(deck.screen_text().replace("│", " ").split())
        assert backend.calls == [("reveal", job_id(1))]
        await deck.press("escape", "escape")  # the second discards what was typed
        assert deck.here == "JobDetailScreen"


@pytest.mark.slow
async def test_a_job_that_succeeded_is_enqueued_anew_with_the_other_payload() -> None:
    backend = FakeBackend([make_job(1, Status.SUCCEEDED, removed=True)])
    async with dashboard(backend, "4") as deck:
        await edit(deck, '{"n": 2}')
        assert "enqueues a copy with this payload" in deck.screen_text()
        await deck.press("ctrl+s")
        assert backend.calls[-1] == ("retry with", job_id(1), {"n": 2})
        assert f"jobdeck run-again {job_id(1)} --payload '{{\"n\": 2}}'" in deck.toasts[-1]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["g", "X"])
async def test_of_a_very_long_payload_the_beginning_is_shown_and_how_much_more_there_is(key: str) -> None:
    job = make_job(1, payload={"competitorIds": [f"id-{at:05}" for at in range(5000)]})
    text = await shown(FakeBackend([job]), "enter", key, "G")
    assert "id-00997" in text
    assert f"… 4004 more lines: jobdeck job {short_id(job.id)} --json" in text


@pytest.mark.slow
async def test_a_long_text_is_not_cut_in_silence() -> None:
    job = make_job(1, payload={"note": "word " * 20_000 + "end"})
    text = await shown(FakeBackend([job]), "enter", "G", size=LARGE)
    assert "characters were left out here" in " ".join(text.split())


@pytest.mark.slow
async def test_of_a_job_that_runs_it_is_not_asked_why_it_does_not() -> None:
    backend = running()
    job = backend.jobs[0]
    clause = Clause("status", holds=False, evidence="The job is running.")
    backend.details[job.id] = JobDetail(job, (), (clause,), ())
    text = await shown(backend, "enter", size=LARGE)
    assert "It is running. Conditions of its next claim" in text
    assert "Why it is not running" not in text


@pytest.mark.slow
async def test_a_running_job_cannot_be_given_another_payload() -> None:
    async with dashboard(running(), "enter", "T") as deck:
        assert deck.here == "JobDetailScreen"
        assert "a running job does not allow it" in deck.toasts[-1]


# Recipients and advice


@pytest.mark.slow
async def test_whom_a_job_wrote_to_is_told_with_counts_and_troubled_ones_first() -> None:
    backend = FakeBackend([make_job(1)])
    backend.evidence.recipients[job_id(1)] = Recipients(
        (("accepted", 640), ("failed", 1), ("left out: unsubscribed", 3)),
        (Recipient("email", "k…@example.org", "failed", "address_refused", NOW - minutes(3)),),
    )
    text = await shown(backend, "enter", size=LARGE)
    assert "640 accepted, 1 failed, 3 left out: unsubscribed" in text
    assert "failed     k…@example.org  address_refused" in text


@pytest.mark.slow
async def test_the_playbooks_entry_for_the_type_stands_on_the_page() -> None:
    text = await shown(sample(), *"jjjjj", "enter", size=LARGE)
    assert "The playbook says" in text
    assert "• Refreshes names and states of accounts" in text


def test_every_text_of_the_page_goes_through_its_own_mask() -> None:
    page = job_detail.Page(make_job(1), None, NOW)
    assert "kim@" not in page.line("kim@example.org")
    assert "kim@" not in page.lines("kim@example.org")
    assert "kim@" not in page.json(PERSON).plain
    assert page.json({"a": "x\u202ey"}).plain.isprintable() or "\u202e" not in page.json({"a": "x\u202ey"}).plain


def test_evidence_and_advice_that_need_more_lines_go_on_under_their_beginning() -> None:
    evidence = "No worker was seen in the last minute. Start one here or there."
    clauses = (Clause("status", holds=True, evidence="It is."), Clause("worker", holds=False, evidence=evidence))
    detail = JobDetail(make_job(1), (), clauses, ())
    text = job_detail.left(
        job_detail.Page(make_job(1), detail, NOW, width=40, advice=["Set the token, restart the workers, then retry."])
    ).plain
    assert "\n✗ worker  No worker was seen in the last\n          minute. Start one here or\n          there.\n" in text
    assert "• Set the token, restart the workers,\n  then retry." in text


def test_a_pane_names_the_conditions_that_hold_in_one_line_after_those_that_do_not() -> None:
    clauses = (
        Clause("processing", holds=True, evidence="On."), Clause("due", holds=False, evidence="Due in 2m."),
        Clause("worker", holds=True, evidence="One."),
    )  # fmt: skip
    page = job_detail.Page(make_job(1), JobDetail(make_job(1), (), clauses, ()), NOW, beside=True)
    begun = "Why it is not running\n✗ due  Due in 2m.\n✓ 2 other conditions hold: processing, worker\n\nRuns"
    assert job_detail.right(page).plain.startswith(begun)
    assert "Why" not in job_detail.left(page).plain


def test_what_would_keep_a_failed_job_after_a_retry_is_no_second_reason_why_it_does_not_run() -> None:
    clauses = (
        Clause("status", holds=False, evidence="The job is failed."),
        Clause("concurrency", holds=False, evidence="Job 1 holds the key."),
    )  # fmt: skip
    failed = make_job(1, Status.FAILED, last_error="refused")
    text = job_detail.left(job_detail.Page(failed, JobDetail(failed, (), clauses, ()), NOW)).plain
    assert "✗ status       The job is failed." in text
    assert "◌ concurrency  After a retry: Job 1 holds the key." in text
    assert text.count("✗") == 1


def test_the_newest_run_does_not_repeat_the_last_error_that_is_beside_it() -> None:
    failed = make_job(1, Status.FAILED, last_error="refused")
    runs = tuple(
        Run(at, failed.id, failed.task_type, {}, at, "web-1", NOW, NOW, NOW, RunOutcome.FAILED, error=error)
        for at, error in ((2, "refused"), (1, "timed out"))
    )
    text = job_detail.right(job_detail.Page(failed, JobDetail(failed, runs, (), ()), NOW)).plain
    assert ("refused" in text, "timed out" in text) == (False, True)


def test_a_job_in_its_first_run_is_not_said_to_have_never_run() -> None:
    job = make_job(1, Status.RUNNING)
    text = job_detail.right(job_detail.Page(job, JobDetail(job, (), (), ()), NOW)).plain
    assert "Its first run has not ended." in text


def test_facts_without_a_value_are_left_out() -> None:
    text = job_detail.left(job_detail.Page(make_job(1, Status.FAILED), None, NOW)).plain
    assert not {"next run", "last success"} & {line[:12].strip() for line in text.splitlines()}


def test_the_last_run_keeps_its_outcome_when_the_job_is_cancelled_while_it_waits() -> None:
    job = make_job(1, Status.CANCELLED, last_outcome=RunOutcome.CANCELLED, last_run_at=NOW - timedelta(minutes=4))
    lost = Run(1, job.id, job.task_type, {}, 1, "web-1", NOW, NOW, NOW, RunOutcome.LOST)
    text = job_detail.left(job_detail.Page(job, JobDetail(job, (lost,), (), ()), NOW)).plain
    assert "4m ago  lost" in text


@pytest.mark.parametrize(
    ("recurring", "word"), [(True, "failed in a row  2 cycles\n"), (False, "failed in a row  2\n")]
)
def test_failures_in_a_row_are_cycles_of_a_series_and_runs_of_one_job(recurring: bool, word: str) -> None:
    job = make_job(1, consecutive_failures=2, is_recurring=recurring, recurrence_interval_minutes=60)
    assert word in f"{job_detail.left(job_detail.Page(job, None, NOW)).plain}\n"


# The flow


@pytest.mark.slow
async def test_the_flow_of_a_job_is_shown_as_a_tree_in_which_it_is_marked() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    first, second = job_id(1), job_id(2)
    members = (
        FlowMember(first, "split", "game_platform_sync", "success", "failed"),
        FlowMember(second, "merge", "game_platform_sync", "end", "blocked", blockers=(first,)),
    )
    line = FlowLine(job_id(9), "nightly", NOW, "bob", {"failed": 1, "blocked": 1})
    backend.evidence.flows[first] = FlowTree(line, members)
    text = await shown(backend, "enter")
    assert "Flow nightly: 1 of 2 ended" in text
    assert f"jobdeck flow {short_id(line.id)}" in text
    assert "✗ split  failed" in text
    assert "└─ ◌ merge  blocked  after the end of split" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("final", "after"), [(True, "the flow is final after that"), (False, "a retry of this job does not take that back")]
)
async def test_the_page_of_a_failed_step_says_that_the_failure_callback_has_run(*, final: bool, after: str) -> None:
    backend = FakeBackend([make_job(1, Status.FAILED)])
    step, callback = job_id(1), job_id(2)
    members = (
        FlowMember(step, "ship", "game_platform_sync", "success", "failed", attempts=5),
        FlowMember(callback, "refund", "game_platform_sync", "failure", "running", attempts=1, blockers=(step,)),
    )
    line = FlowLine(job_id(9), "order", NOW, "bob", {"failed": 1, "running": 1}, final=final)
    backend.evidence.flows[step] = FlowTree(line, members)
    text = " ".join((await shown(backend, "enter", size=LARGE)).split())
    assert f'The failure callback "refund" has run; {after}.' in text


@pytest.mark.slow
async def test_the_page_of_a_join_names_all_whom_it_waits_for() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    loads = tuple(FlowMember(job_id(n), f"load{n}", "game_platform_sync", "success", "failed") for n in range(2, 9))
    join = FlowMember(job_id(1), "sum", "game_platform_sync", "end", "blocked", blockers=tuple(m.job_id for m in loads))
    line = FlowLine(job_id(9), "nightly", NOW, "bob", {"failed": 7, "blocked": 1})
    backend.evidence.flows[job_id(1)] = FlowTree(line, (*loads, join))
    text = " ".join((await shown(backend, "enter", size=LARGE)).split())
    assert "after the end of 7: load2, load3, load4 and 4 more" in text
    assert "This job runs after the end of 7: load2, load3, load4, load5, load6, load7, load8" in text


@pytest.mark.slow
async def test_a_job_in_no_flow_has_no_such_part() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    async with dashboard(backend, "enter") as deck:
        assert "Flow " not in deck.screen_text()
        assert "cancel flow" not in deck.screen_text()
        await deck.press("V")
        assert "This job is in no flow." in deck.toasts[-1]
    assert backend.calls == []


@pytest.mark.slow
async def test_a_flow_is_cancelled_as_a_whole_after_a_question() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    tree = backend.evidence.flows[job_id(1)] = small_flow({"pending": 1, "blocked": 2, "running": 1, "succeeded": 4})
    async with dashboard(backend, "enter") as deck:
        assert "V cancel flow" in deck.screen_text()
        await deck.press("V")
        text = deck.screen_text()
        assert "Cancel this flow: 4 members" in text
        assert "1 running, 1 pending, 2 blocked" in text
        asked = cancel_flow_question(tree)
        assert "1 running member will be asked to stop." in asked.body.plain
        assert (asked.twin, asked.word) == (f"jobdeck flow cancel {tree.line.id} --yes", "cancel")
        await deck.press("enter")
        assert backend.calls == []
        await deck.press("V", "up", *"too late", "enter", "tab", "enter")
        told, command = deck.toasts[-1].split("\n")
        assert told == "Members of the flow: 3 cancelled, 1 running asked to stop, 4 had ended before."
        assert command == f"jobdeck flow cancel {tree.line.id} --yes --reason 'too late'"
    assert backend.calls == [("cancel flow", tree.line.id)]
    assert backend.reasons == ["too late"]


@pytest.mark.slow
async def test_in_production_the_end_of_a_flow_asks_for_its_word() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    flow = backend.evidence.flows[job_id(1)] = small_flow({"pending": 8})
    async with dashboard(backend, "enter", "V", production=True, environment="prod") as deck:
        assert "Type cancel to confirm" in deck.screen_text()
        await deck.press("tab", "enter")
        assert backend.calls == []
        await deck.press(*"cancel", "enter")
    assert backend.calls == [("cancel flow", flow.line.id)]


@pytest.mark.slow
async def test_the_flow_is_read_again_after_it_was_cancelled() -> None:
    backend = FakeBackend([make_job(1, Status.PENDING)])
    backend.evidence.flows[job_id(1)] = small_flow({"pending": 8})
    async with dashboard(backend, "enter") as deck:
        assert "0 of 8 ended" in deck.screen_text()
        await deck.press("V", "y")
        assert "8 of 8 ended" in deck.screen_text()
        assert "cancel flow" not in deck.screen_text()


@pytest.mark.slow
async def test_a_flow_that_has_ended_is_not_cancelled() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED)])
    backend.evidence.flows[job_id(1)] = small_flow({"failed": 8})
    assert "All members of this flow have ended." in await said(backend, "enter", "V")
    assert backend.calls == []


def small_flow(states: dict[str, int]) -> FlowTree:
    """A flow with members in these states; the first is the job whose page is shown."""
    each = [state for state, number in states.items() for _ in range(number)]
    members = tuple(
        FlowMember(job_id(place), f"m{place}", "game_platform_sync", "success", state)
        for place, state in enumerate(each, 1)
    )
    return FlowTree(FlowLine(job_id(99), "nightly", NOW, "bob", states), members)


@pytest.mark.slow
async def test_an_edited_payload_stays_while_the_database_is_away_and_where_the_retry_is_refused() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED)])
    async with dashboard(backend) as deck:
        await edit(deck, '{"n": 2}')
        backend.failure = lost()
        await deck.press("ctrl+s")
        assert deck.here == "PayloadEditor"
        assert '"n": 2' in deck.screen_text()
        backend.failure = None
        await deck.press("ctrl+s")
        assert deck.here == "JobDetailScreen"
        assert backend.calls[-1] == ("retry with", job_id(1), {"n": 2})
