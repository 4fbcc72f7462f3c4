"""Cron Health: verdict, evidence, stuck and late jobs, the history of triggers, and cleanup."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.model import Filter, Finding, Health, Job, Status, TypePause, Verdict, Worker
from jobdeck.core.read.report_types import Backlog
from jobdeck.tui.format import short_id
from jobdeck.tui.screens.dialogs.confirm import choice_question
from jobdeck.tui.text import cron_health
from tests.tui.fake import NOW, FakeBackend, job_id, make_job, minutes
from tests.tui.sample import sample, worker_run
from tests.tui.support import LARGE, dashboard, shown

WIDTH = 140


def waiting(number: int, since: int, **facts: Any) -> Job:
    """A job that was enqueued an hour ago and has been due for this number of minutes."""
    return make_job(number, next_run_at=NOW - minutes(since), created_at=NOW - minutes(60), **facts)


def told(backend: FakeBackend, *, width: int = WIDTH) -> str:
    report = backend.evidence.cron()
    lines = cron_health.lines(report, backend.timeouts(), width)
    return "\n".join("".join(text for text, _ in one.spans) for one in lines)


def inks(backend: FakeBackend, word: str, *, width: int = WIDTH) -> set[str]:
    """The inks of the spans that hold a word."""
    lines = cron_health.lines(backend.evidence.cron(), backend.timeouts(), width)
    return {ink for one in lines for text, ink in one.spans if word in text}


def history(*runs: Any) -> FakeBackend:
    backend = FakeBackend()
    backend.evidence.runs = runs
    return backend


@pytest.mark.slow
async def test_the_verdict_comes_first_as_a_word_and_its_reason_is_said_once_below() -> None:
    text = await shown(sample(), "h")
    lines = text.splitlines()
    assert "⚠ WARNING   1 finding" in lines[1]
    assert "Evidence" in lines[3]
    assert text.count("sms_digest_processor failed 2 cycles in a row") == 1


@pytest.mark.slow
async def test_several_reasons_are_counted_beside_the_verdict_without_what_is_fine() -> None:
    backend = FakeBackend()
    named = ((Verdict.CRITICAL, "trigger"), (Verdict.WARNING, "cycles"), (Verdict.OK, "workers"))
    backend.health = Health(Verdict.CRITICAL, tuple(Finding(name, verdict, f"{name}.") for verdict, name in named))
    assert "✗ CRITICAL   2 findings, worst first" in (await shown(backend, "h")).splitlines()[1]


@pytest.mark.slow
async def test_a_healthy_queue_is_said_to_be_ok() -> None:
    backend = FakeBackend()
    backend.health = Health(Verdict.OK, (Finding("workers", Verdict.OK, "2 workers alive."),))
    text = await shown(backend, "h")
    assert "✓ OK" in text
    assert "No problems found." in text


def test_long_evidence_is_wrapped_and_never_cut() -> None:
    backend = FakeBackend()
    words = " ".join(f"word{number}" for number in range(40))
    backend.health = Health(Verdict.CRITICAL, (Finding("trigger", Verdict.CRITICAL, words, NOW - minutes(64)),))
    text = " ".join(told(backend, width=76).split())
    assert words in text
    assert "(since 11:00Z)" in text


def test_the_history_has_status_duration_counts_and_what_was_due() -> None:
    text = told(history(worker_run(1, 4, claimed=5, failed=1, due_before=7)))
    assert "07-04 12:00:31Z   4m  cron       200     1.4s        5    4      1     7" in text


@pytest.mark.parametrize(("facts", "words", "ink"), [
    ({"claimed": 0, "due_before": 14}, "14 due jobs not claimed", "bad"),
    ({"claimed": 5, "due_before": 14}, "9 due jobs not claimed", "bad"),
    ({"http_status": 500, "status": "error", "error_message": "pool timed out"}, "pool timed out", "bad"),
    ({"http_status": 503, "status": "ok"}, "error", "bad"),
    ({"status": "paused", "claimed": 0, "due_before": 14, "message": "MetaCTF is down"}, "paused: MetaCTF is", "warn"),
])  # fmt: skip
def test_what_went_wrong_with_a_trigger_is_said_in_its_line(facts: dict[str, Any], words: str, ink: str) -> None:
    backend = history(worker_run(1, 4, **facts))
    assert words in told(backend)
    assert ink in inks(backend, words)


def test_a_200_that_left_due_jobs_lying_is_red_and_one_by_hand_is_not() -> None:
    assert "bad" in inks(history(worker_run(1, 4, claimed=0, due_before=3)), "200")
    by_hand = history(worker_run(1, 4, claimed=0, due_before=3, source="manual", http_status=None))
    assert "not claimed" not in told(by_hand)


@pytest.mark.slow
async def test_a_cycle_that_a_pause_kept_from_running_does_not_look_like_a_good_one_in_now() -> None:
    backend = FakeBackend()
    for status, words in (
        ("paused", "‖ last trigger: Run Worker, 4m ago, paused"),
        ("ok", "● last trigger: Run Worker, 4m ago"),
    ):
        last = worker_run(1, 4, source="manual", http_status=None, status=status)
        backend.health = Health(Verdict.OK, (), last_trigger=last)
        async with dashboard(backend) as deck:
            assert words in deck.line("now")


@pytest.mark.parametrize(("ago", "source", "words"), [(4, "cron_http", "running"), (16, "cron_http", "crashed"),
                                                      (16, "worker", "running")])  # fmt: skip
def test_an_open_record_goes_on_or_has_crashed(ago: float, source: str, words: str) -> None:
    run = replace(worker_run(1, ago, source=source), completed_at=None, status=None)
    assert words in told(history(run))


def test_the_open_record_of_a_worker_that_is_gone_has_died() -> None:
    run = replace(worker_run(1, 4, source="worker"), completed_at=None, status=None, died=True)
    assert "died before it ended" in told(history(run))


@pytest.mark.parametrize(("silence", "gap", "ink"), [(9, None, None), (12, "12m", "warn"), (46, "46m", "bad")])
def test_a_gap_between_two_triggers_is_drawn_as_a_gap(silence: float, gap: str | None, ink: str | None) -> None:
    backend = history(worker_run(1, 1), worker_run(2, 1 + silence))
    text = told(backend)
    if gap is None:
        assert "┄" not in text
        return
    at = [line.strip() for line in text.splitlines()].index(f"┄┄┄┄ no trigger for {int(silence) - 1}m ┄┄┄┄")
    assert "12:03:31Z" in text.splitlines()[at - 1]
    assert inks(backend, "┄") == {ink}


def test_a_trigger_that_has_stopped_is_a_gap_until_now() -> None:
    assert "no trigger for 21m, until now" in told(history(worker_run(1, 22)))


def test_runs_by_hand_neither_fill_a_gap_nor_make_one() -> None:
    by_hand = worker_run(2, 20, source="manual", http_status=None)
    assert "no trigger for 39m" in told(history(worker_run(1, 1), by_hand, worker_run(3, 41)))
    assert "no trigger" not in told(history(worker_run(1, 4), worker_run(2, 200, source="manual")))


def test_without_a_scheduler_a_silence_is_no_reproach() -> None:
    backend = history(worker_run(1, 4, source="worker"), worker_run(2, 90, source="worker"))
    assert "nothing ran for 85m" in told(backend)
    assert inks(backend, "┄") == {"muted"}


def test_jobs_whose_lease_is_over_are_stuck_and_those_near_their_limit_slow() -> None:
    stuck = make_job(1, Status.RUNNING, started_at=NOW - minutes(40), locked_by="web-9",
                     lease_expires_at=NOW - minutes(12))  # fmt: skip
    slow = make_job(2, Status.RUNNING, started_at=NOW - minutes(14), lease_expires_at=NOW + timedelta(seconds=45))
    fine = make_job(3, Status.RUNNING, started_at=NOW - minutes(2), lease_expires_at=NOW + timedelta(seconds=45))
    text = told(FakeBackend([stuck, slow, fine]))
    assert "Stuck: running with an expired lease." in text
    assert "lease expired 12m ago  held by web-9" in text
    assert "runs for 14m 00s of 15m 00s" in text
    assert short_id(fine.id) not in text


def test_overdue_jobs_are_listed_and_no_blame_while_they_are_paused() -> None:
    late = waiting(1, 22)
    backend = FakeBackend([late, make_job(2, next_run_at=NOW - minutes(4))])
    assert "Overdue: due for more than 5m" in told(backend)
    assert inks(backend, "due 22m ago") == {"bad"}
    pause = TypePause("game_platform_sync", None, None, NOW, None)
    backend.processing = replace(backend.processing, paused_types=(pause,))
    assert inks(backend, "due 22m ago") == {"muted"}
    assert "paused" in told(backend)


def test_series_that_are_late_or_fail_are_listed_and_the_others_counted() -> None:
    series: dict[str, Any] = {"is_recurring": True, "recurrence_interval_minutes": 15}
    fine = make_job(1, next_run_at=NOW + minutes(4), **series)
    late = waiting(2, 7, task_type="game_platform_totals_sweep", **series)
    failing = make_job(
        3, next_run_at=NOW + minutes(4), consecutive_failures=3, task_type="admin_alert_dispatch", **series
    )
    text = told(FakeBackend([fine, late, failing]))
    assert "Recurring jobs that are late or fail (2 of 3)" in text
    assert "game_platform_totals_sweep ↻ 15m" in text
    assert "3 failed cycles" in text


def test_overdue_jobs_are_grouped_by_type_most_first_and_a_few_follow_one_by_one() -> None:
    backend = FakeBackend([waiting(number, 22) for number in range(1, 51)])
    backend.evidence.backlog = (
        Backlog("few", 9, False, 3, False, NOW - minutes(6)),
        Backlog("fine", 12_000, True, 0, False, NOW + minutes(6)),
        Backlog("webhook_push", 10_001, True, 10_001, True, NOW - minutes(31)),
        *(Backlog(f"other {number}", 1, False, 1, False, NOW - minutes(9)) for number in range(4)),
    )
    backend.processing = replace(backend.processing, paused_types=(TypePause("webhook_push", None, None, NOW, None),))
    found = told(backend, width=76).splitlines()
    at = found.index(" Overdue: due for more than 5m")
    assert [" ".join(line.split()) for line in found[at + 1 : at + 6]] == [
        "webhook_push 10,000+ overdue, paused longest wait 31m",
        "few 3 overdue longest wait 6m",
        "other 0 1 overdue longest wait 9m",
        "other 1 1 overdue longest wait 9m",
        "and 2 more types",
    ]
    assert sum("game_platform_sync" in line for line in found[at + 6 :]) == 3
    assert not any("fine" in line for line in found)
    backend.evidence.backlog = backend.evidence.backlog[:-1]
    assert "   and 1 more type" in told(backend, width=76).splitlines()


def test_one_type_that_a_question_does_not_list_is_named_in_the_singular() -> None:
    backend = FakeBackend(make_job(number, Status.FAILED, task_type=f"type {number}") for number in range(5))
    choice = backend.bulk.choose(Filter())
    assert choice is not None
    assert choice_question("retry", choice).body.plain.count("and 1 more type\n") == 1


def incident() -> FakeBackend:
    """One type is paused with a long backlog, and fifty single jobs are overdue."""
    backend = FakeBackend([waiting(number, 22) for number in range(1, 51)])
    worker = Worker("web-1", "web-1", 1, "headless", "0.2.0", 4, ("a",), NOW, NOW, 2, alive=True)
    backend.workers = tuple(replace(worker, id=f"web-{number}") for number in range(5))
    backend.evidence.runs = tuple(worker_run(number, number * 5 - 1, due_before=10_001) for number in range(1, 5))
    backend.evidence.backlog = (Backlog("webhook_push", 10_001, True, 10_001, True, NOW - minutes(31)),)
    signals = ("processing", "workers", "running jobs", "recurring jobs", "cycles", "trigger", "upkeep")
    backend.health = Health(
        Verdict.CRITICAL,
        (
            Finding("due jobs", Verdict.CRITICAL, "Oldest job waiting 31m.", NOW - minutes(31)),
            *(Finding(name, Verdict.OK, f"{name} is fine.") for name in signals),
        ),
    )
    return backend


@pytest.mark.slow
async def test_in_an_incident_workers_and_triggers_stay_on_the_page_at_80_columns() -> None:
    text = await shown(incident(), "h")
    assert "webhook_push                10,000+ overdue" in text
    assert "✓ ok       workers, running jobs" in text
    assert text.count("● web-") == 5
    assert "Triggers, newest first" in text


def test_a_number_of_due_jobs_beyond_ten_thousand_says_in_the_history_that_there_are_more() -> None:
    backend = history(worker_run(1, 4, claimed=0, due_before=10_001), worker_run(2, 9, claimed=0, due_before=9_412))
    assert "10,000+ due jobs not claimed" in told(backend)
    assert "9,412 due jobs not claimed" in told(backend)
    assert " 10k+ " in told(backend)
    assert "10k+ unclaimed" in told(backend, width=76)


def test_many_series_in_trouble_are_counted_and_a_few_listed() -> None:
    late = [waiting(number, 7, is_recurring=True, recurrence_interval_minutes=15)
            for number in range(1, 9)]  # fmt: skip
    backend = FakeBackend(late)
    text = told(backend)
    assert "Recurring jobs that are late or fail (8 of 8)" in text
    assert "and 3 more" in text
    report = replace(backend.evidence.cron(), series_found=1234)
    shown = "".join(text for one in cron_health.lines(report, {}, WIDTH) for text, _ in one.spans)
    assert "(8 of the first 8 of 1,234)" in shown


@pytest.mark.slow
async def test_enter_opens_the_job_of_a_line_and_esc_comes_back() -> None:
    backend = FakeBackend([waiting(1, 22)])
    async with dashboard(backend, "h", "enter") as deck:
        assert "Nothing to open on this line." in deck.toasts[-1]
        await deck.press(*"jjjj", "enter")
        assert deck.here == "JobDetailScreen"
        assert str(job_id(1)) in deck.screen_text()
        await deck.press("escape")
        assert deck.here == "CronHealth"


@pytest.mark.slow
async def test_stuck_jobs_are_shown_and_exactly_those_are_cleaned_up() -> None:
    backend = sample()
    backend.evidence.stuck = (job_id(2), job_id(3))
    async with dashboard(backend, "h", "K") as deck:
        assert "Mark 2 stuck jobs failed" in deck.screen_text()
        assert f"{short_id(job_id(3))}  competitor_announcement_dispatch" in deck.screen_text()
        backend.evidence.stuck = (job_id(3), job_id(9))
        await deck.press("y")
        assert backend.calls == [("cleanup", None), ("cleanup", (job_id(2), job_id(3)))]
        assert "1 stuck job cleaned up." in deck.toasts[-1]
        assert "1 recovered without help." in deck.toasts[-1]
        assert f"jobdeck cleanup {short_id(job_id(2))} {short_id(job_id(3))} --yes" in deck.toasts[-1]


async def test_with_nothing_stuck_there_is_nothing_to_ask() -> None:
    async with dashboard(sample(), "K") as deck:
        assert deck.here == "Dashboard"
        assert "No stuck jobs" in deck.toasts[-1]


@pytest.mark.slow
async def test_in_production_a_cleanup_asks_for_its_word() -> None:
    backend = sample()
    backend.evidence.stuck = (job_id(2),)
    async with dashboard(backend, "K", "y", production=True, environment="prod") as deck:
        assert backend.calls == [("cleanup", None)]
        await deck.press("backspace", *"cleanup", "enter")
        assert backend.calls[-1] == ("cleanup", (job_id(2),))


@pytest.mark.slow
async def test_old_jobs_are_counted_before_they_are_removed() -> None:
    backend = sample()
    backend.evidence.old = 7
    async with dashboard(backend, "h", "colon", *"purge", "enter", size=LARGE) as deck:
        assert "Remove 7 old jobs" in deck.screen_text()
        await deck.press("y")
        assert backend.calls == [("purge", True), ("purge", False)]
        assert "jobdeck purge --yes" in deck.toasts[-1]


@pytest.mark.slow
async def test_with_nothing_old_there_is_nothing_to_remove() -> None:
    async with dashboard(sample(), "colon", *"purge", "enter") as deck:
        assert deck.here == "Dashboard"
        assert "Nothing to purge" in deck.toasts[-1]


@pytest.mark.parametrize("width", [76, WIDTH])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    backend = sample()
    backend.jobs += [
        make_job(1, Status.RUNNING, task_type="game_platform_onboard_competitors", started_at=NOW - minutes(4000),
                 locked_by="a-worker-with-a-long-name.example.org:4242", lease_expires_at=NOW - minutes(3990)),
        make_job(4, task_type="game_platform_onboard_competitors", next_run_at=NOW - minutes(9000),
                 is_recurring=True, recurrence_interval_minutes=1440),
    ]  # fmt: skip
    for line in told(backend, width=width).split("\n"):
        assert len(line) <= width, line


@pytest.mark.slow
async def test_nothing_of_the_list_that_stands_still_meanwhile_shows_beside_it() -> None:
    text = await shown(sample(), "h", size=LARGE)
    assert "Automatic Processing" not in text
    assert "All 8" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("ago", "begun"), [(64, "since 11:00Z"), (3 * 1440 + 64, "since 07-01 11:00Z")])
async def test_since_when_stands_inside_the_sentence_of_the_evidence_with_its_day_where_needed(
    ago: int, begun: str
) -> None:
    backend = FakeBackend()
    backend.health = Health(
        Verdict.CRITICAL, (Finding("due jobs", Verdict.CRITICAL, "The oldest waits.", NOW - minutes(ago)),)
    )
    assert f"The oldest waits ({begun})." in told(backend)
    async with dashboard(backend) as deck:
        assert f"✗ The oldest waits ({begun})" in deck.screen_text()
