"""The page of errors in groups: texts, the canary, then the rest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from rich.cells import cell_len

from jobdeck.core.errors import DatabaseUnreachable
from jobdeck.core.model import Filter, Status, TypePause
from jobdeck.core.read.canaries import CanaryAnswer, State
from jobdeck.core.read.stats.facets import Facets
from jobdeck.tui.backend.protocol import Canary
from jobdeck.tui.format import short_id, sparkline
from jobdeck.tui.text import errors
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job, minutes
from tests.tui.sample import facet, sample, trend
from tests.tui.support import LARGE, Deck, Held, dashboard, said, shown


def broken(number: int = 3, *, trends: int = 1) -> FakeBackend:
    """Failed jobs of one group, above further groups."""
    jobs = [make_job(at + 1, Status.FAILED, last_error="boom", last_run_at=NOW - minutes(9)) for at in range(number)]
    backend = FakeBackend(jobs)
    backend.evidence.trends = tuple(
        trend(jobs[0], f"f{at}", "vendor", failed=number if at == 0 else 0, jobs=number if at == 0 else 0, last=5 + at)
        for at in range(trends)
    )
    backend.evidence.groups = {backend.evidence.trends[0].key: tuple(job.id for job in jobs)}
    return backend


def becomes(backend: FakeBackend, job_id: UUID, **facts: object) -> None:
    backend.jobs = [replace(job, **facts) if job.id == job_id else job for job in backend.jobs]  # type: ignore[arg-type]


async def next_look(deck: Deck) -> None:
    deck.clock.now += 60
    await deck.refresh()


def answers(backend: FakeBackend, state: State, message: str) -> None:
    """What the database answers from now on about the first canary."""
    backend.evidence.canaries[1] = replace(backend.evidence.canaries[1], state=state, message=message)


async def try_one(deck: Deck) -> None:
    await deck.press("e", "R", "y")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE])
async def test_each_group_has_counts_times_course_and_error(size: tuple[int, int]) -> None:
    text = await shown(sample(), "e", size=size)
    assert "4 groups in 7 days, 12 jobs failed" in text
    assert ("MetaCTF answered 429" if size[0] > 80 else "MetaCTF answere…") in text
    assert "▁▁▁" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("47 "))
    assert line.split()[:2] == ["47", "11"]
    assert line.split()[2:4] == ["3h", "11m"]


@pytest.mark.slow
async def test_s_sorts_by_the_next_order_under_the_group_of_the_cursor() -> None:
    backend = broken(3, trends=3)
    few, most, more = backend.evidence.trends
    backend.evidence.trends = (replace(few, count=2), replace(most, count=6782), replace(more, count=30))
    async with dashboard(backend, "e", size=LARGE) as deck:

        def runs() -> list[str]:
            cells = [line.split() for line in deck.screen_text().splitlines()]
            return [found[0] for found in cells if found and found[0] in {"2", "30", "6,782", "6.8k", "6782"}]

        assert "sorted by first seen" in deck.screen_text()
        usual, here = runs(), deck.app.screen.trend  # type: ignore[attr-defined]
        await deck.press("s")
        assert "sorted by runs" in deck.screen_text()
        assert runs() == [usual[1], usual[2], usual[0]]
        assert deck.app.screen.trend == here  # type: ignore[attr-defined]
        await deck.press("s", "s", "s")
        assert runs() == usual


@pytest.mark.slow
async def test_what_is_known_of_the_group_and_the_playbooks_advice_stand_below() -> None:
    text = await shown(sample(), "e", "j", size=LARGE)
    assert "47 runs; first 2026-07-04 08:54:31Z" in text
    assert "11 failed permanently, 0 awaiting retry" in text
    assert "game_platform_rate_limited" in text
    assert "• Too many requests. It goes on by itself." in text
    assert "• Refreshes names and states of accounts" in text


async def test_details_that_do_not_fit_are_counted_on_their_rule_and_shown_in_the_other_part_of_the_page() -> None:
    async with dashboard(sample(), "e", "j", size=(80, 24)) as deck:
        assert "Refreshes names and states" not in deck.screen_text()
        assert re.search(r"─ \d+ more lines below: tab *$", deck.screen_text(), re.MULTILINE)
        await deck.press("tab", "G")
        assert "Refreshes names and states" in deck.screen_text()
    async with dashboard(sample(), "e", "j", size=LARGE) as deck:
        assert "more line" not in deck.screen_text()


@pytest.mark.slow
async def test_no_errors_is_good_news() -> None:
    async with dashboard(FakeBackend(), "e") as deck:
        assert "No run has failed in the last 7 days." in deck.screen_text()
        await deck.press("R")
        assert "No group under the cursor." in deck.toasts[-1]


@pytest.mark.slow
async def test_enter_lists_all_jobs_of_the_group_and_no_others() -> None:
    backend = broken(3)
    backend.jobs.append(make_job(9, Status.FAILED, last_error="another error"))
    async with dashboard(backend, "e", "enter") as deck:
        assert deck.here == "Dashboard"
        assert {job.id for job in deck.table.jobs} == {job_id(at) for at in (1, 2, 3)}
        assert "3 jobs of this error  game_platform_sync  boom" in deck.screen_text()
        assert "esc goes back to Errors" in deck.screen_text()
        assert deck.backend.requests[-1].group == ("game_platform_sync", "f0")
        await deck.press("enter")
        assert deck.here == "JobDetailScreen"


@pytest.mark.slow
async def test_esc_goes_back_to_the_group_and_to_what_was_listed_before() -> None:
    backend = broken(2, trends=3)
    backend.evidence.groups[backend.evidence.trends[2].key] = (job_id(1),)
    backend.evidence.trends = (*backend.evidence.trends[:2], replace(backend.evidence.trends[2], jobs=1, failed=1))
    async with dashboard(backend, "5", "s", "e", "j", "j", "enter") as deck:
        assert deck.app.poller.request.sort == "natural"
        await deck.press("escape")
        assert deck.here == "Errors"
        assert deck.app.screen.trend.fingerprint == "f2"  # type: ignore[attr-defined]
        await deck.press("escape")
        request = deck.app.poller.request
        assert (request.group, request.filter.status, request.sort) == (None, Status.FAILED, "task")
        assert len(deck.table.jobs) == 2


class Counting(dict[tuple[str, str], Facets]):
    """Counts how often the facets of a group are read."""

    times = 0

    def get(self, *given: Any) -> Any:
        self.times += 1
        return super().get(*given)


def of_coach(number: int = 3, **fields: Any) -> FakeBackend:
    backend = broken(number)
    usual = facet(kind="worker", key="worker", value="w1", odd=False)
    (group,) = backend.evidence.trends
    backend.evidence.facets[group.key] = Facets(500, (facet(**fields), usual))
    return backend


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE])
async def test_the_odd_value_of_a_group_has_bars_and_other_keys_are_named(size: tuple[int, int]) -> None:
    async with dashboard(of_coach(), "e", size=size) as deck:
        lines = [" ".join(line.split()) for line in deck.text_in("#about").splitlines()]
    assert [line for line in lines if line.startswith("coachId these 100 % ████") and line.endswith("█ c3")]
    assert [line for line in lines if line.startswith("all 10 % █")]
    assert "no pattern in worker; 500 of 500 runs read" in lines


@pytest.mark.slow
async def test_a_session_that_may_not_see_payloads_reads_one_value() -> None:
    async with dashboard(of_coach(value=None, hidden=True), "e") as deck:
        assert "█ one value" in deck.screen_text()


@pytest.mark.slow
async def test_enter_on_a_facet_filters_the_list_and_esc_goes_back_to_the_group() -> None:
    async with dashboard(of_coach(), "e", "tab", "enter") as deck:
        assert deck.here == "Dashboard"
        wanted = Filter(task_type="game_platform_sync", fingerprint="f0", payload_is=("coachId", "c3"))
        assert deck.app.poller.request.filter == wanted
        await deck.press("escape")
        assert deck.here == "Errors"
        assert deck.app.poller.request.filter == Filter()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"value": {"deep": 1}}, {"value": "x" * 300}, {"value": "a\nb"}, {"hidden": True}])
async def test_enter_on_a_facet_that_no_filter_can_have_lists_the_group(fields: dict[str, Any]) -> None:
    async with dashboard(of_coach(**fields), "e", "tab", "enter") as deck:
        assert deck.app.poller.request.group == ("game_platform_sync", "f0")


@pytest.mark.slow
@pytest.mark.parametrize("keys", [(), ("tab",)])
async def test_p_proposes_to_hold_the_jobs_with_the_odd_value(keys: tuple[str, ...]) -> None:
    async with dashboard(of_coach(), "e", *keys, "P") as deck:
        assert 'Hold game_platform_sync coachId="c3"' in deck.screen_text()


@pytest.mark.slow
async def test_p_pauses_the_type_where_the_value_may_not_be_seen() -> None:
    async with dashboard(of_coach(value=None, hidden=True), "e", "P") as deck:
        assert "Pause game_platform_sync" in deck.screen_text()


@pytest.mark.slow
async def test_a_group_whose_runs_were_pruned_says_so() -> None:
    assert "None of these runs is among the newest failed runs." in await shown(broken(), "e")


@pytest.mark.slow
async def test_the_facets_of_a_group_are_read_once() -> None:
    backend = of_coach()
    asked = backend.evidence.facets = Counting(backend.evidence.facets)
    async with dashboard(backend, "e") as deck:
        for _ in range(3):
            await next_look(deck)
    assert asked.times == 1


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("2",), ("1",), ("slash", *"age>1m", "enter")])
async def test_a_tab_or_a_filter_leaves_the_group(keys: tuple[str, ...]) -> None:
    async with dashboard(broken(), "e", "enter", *keys) as deck:
        assert deck.app.poller.request.group is None
        assert "of this error" not in deck.screen_text()


@pytest.mark.slow
async def test_all_jobs_of_the_group_are_selected_and_acted_on() -> None:
    backend = broken(5)
    async with dashboard(backend, "e", "enter", "A") as deck:
        assert "5 matching jobs selected" in deck.screen_text()
        await deck.press("C", "y")
        assert backend.calls[-1][0] == "cancel"
        assert len(backend.calls[-1][1]) == 5


@pytest.mark.slow
async def test_jobs_that_leave_the_group_while_it_is_listed_are_said() -> None:
    backend = broken(1)
    async with dashboard(backend, "e", "enter") as deck:
        backend.evidence.groups = {}
        await next_look(deck)
        assert "No job of this group is left in the queue" in deck.screen_text()


@pytest.mark.slow
async def test_a_new_group_above_does_not_move_the_cursor() -> None:
    backend = broken(trends=2)
    async with dashboard(backend, "e", "j") as deck:
        before = deck.app.screen.trend.key  # type: ignore[attr-defined]
        fresh = trend(make_job(9), "f9", "vendor", last=0)
        backend.evidence.trends = (fresh, *backend.evidence.trends)
        await next_look(deck)
        assert deck.app.screen.trend.key == before  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE, (280, 50)])
async def test_in_its_first_hour_a_group_has_bars_of_five_minutes(size: tuple[int, int]) -> None:
    backend = broken(1)
    bars = (0,) * 8 + (3, 40, 400, 1200)
    old = trend(make_job(2), "f1", "vendor", first=300, bars=bars)
    fresh = trend(make_job(1), "f0", "vendor", first=18, last=1, count=1643, bars=bars)
    backend.evidence.trends = (fresh, old)
    async with dashboard(backend, "e", size=size) as deck:
        text = deck.screen_text()
        course = f"{sparkline(bars)} 5 min each" if size[0] > 200 else f" {sparkline(bars[1:])} 5m "
        assert text.count(course) == 1
        assert f"last hour     {sparkline(bars)}  bars of 5 minutes, up to 1,200 runs" in text
        await deck.press("j")
        assert "bars of 5 minutes" not in deck.screen_text()


@pytest.mark.slow
async def test_one_job_is_retried_and_the_others_wait() -> None:
    async with dashboard(broken(), "e", "R") as deck:
        assert "Retry 1 job as a canary" in deck.screen_text()
        assert "Only this job is retried. The other 2 stay as they are" in deck.screen_text()
        await deck.press("y")
        assert deck.backend.calls == [("canary", job_id(1))]
        assert f"canary        {short_id(job_id(1))} is waiting for a worker" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "words"), [
    (1, "This is the only job of this group."), (2, "Only this job is retried. The other one stays as it is until"),
    (3, "Only this job is retried. The other 2 stay as they are until"),
])  # fmt: skip
async def test_the_question_before_a_canary_says_of_which_error_it_is_and_how_many_wait(
    number: int, words: str
) -> None:
    text = " ".join((await shown(broken(number), "e", "R")).replace("│", " ").split())
    assert words in text
    assert "boom" in text.partition("Retry 1 job as a canary")[2].partition(words)[0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
async def test_a_canary_that_could_not_be_retried_does_not_keep_its_group_waiting(lost: bool) -> None:
    backend = broken()
    async with dashboard(backend, "e", "R") as deck:
        becomes(backend, job_id(1), version=9)
        backend.failure = DatabaseUnreachable("No answer.") if lost else None
        await deck.press("y")
        assert ("is unknown" if lost else "refused") in deck.toasts[-1]
        backend.failure = None
        await next_look(deck)
        await deck.press("R")
        assert "Retry 1 job as a canary" in deck.screen_text()


@pytest.mark.slow
async def test_a_group_that_is_gone_from_under_the_cursor_is_said_to_be_gone() -> None:
    backend = broken(trends=2)
    async with dashboard(backend, "e") as deck:
        backend.evidence.trends = backend.evidence.trends[1:]
        await next_look(deck)
        assert "The group under the cursor has no failed run in the last 7 days any more" in deck.toasts[-1]
        assert len(deck.toasts) == 1
        await next_look(deck)
        assert len(deck.toasts) == 1


@pytest.mark.slow
async def test_the_canary_is_watched_to_its_success_and_then_the_rest_is_one_key() -> None:
    backend = broken()
    async with dashboard(backend) as deck:
        await try_one(deck)
        answers(backend, "running", "Running.")
        await next_look(deck)
        assert "is running" in deck.screen_text()
        await deck.press("F")
        assert "has not finished" in deck.toasts[-1]
        answers(backend, "succeeded", "It succeeded after 1.2 s.")
        await next_look(deck)
        assert f"Canary {short_id(job_id(1))} succeeded" in deck.toasts[-1]
        assert "It succeeded after 1.2 s." in deck.toasts[-1]
        assert "It succeeded after 1.2 s." in deck.screen_text()
        backend.evidence.groups = {key: ids[1:] for key, ids in backend.evidence.groups.items()}
        await deck.press("F")
        assert "Retry 2 jobs of this group" in deck.screen_text()
        assert f"The canary {short_id(job_id(1))} succeeded." in deck.screen_text()
        await deck.press("y")
        assert backend.calls[-1] == ("retry", (job_id(2), job_id(3)))


@pytest.mark.slow
async def test_the_rest_is_all_jobs_of_the_group_with_progress_and_a_reason() -> None:
    backend = broken(1_500)
    backend.bulk.batch = 700
    held = Held()
    async with dashboard(backend, "e", "F", background=held) as deck:
        text = " ".join(deck.screen_text().replace("│", " ").split())
        assert "Retry 1,500 jobs of this group" in text
        assert "1,500 failed filter: type:game_platform_sync fingerprint:f0" in text
        assert "jobdeck retry --bulk" in text
        held.holding = True
        await deck.press(*"retry", "tab", "tab", "enter")
        held.let_these_go()
        held.let_these_go()
        await deck.pilot.pause()
        assert "retrying 700 of 1,500; b shows it" in deck.screen_text()
        held.holding = False
        held.let_all_go()
        await deck.pilot.pause()
        assert "1,500 of 1,500 jobs retried" in deck.toasts[-1]
        assert {job.status for job in backend.jobs} == {Status.PENDING}


@pytest.mark.slow
@pytest.mark.parametrize("paused", ["game_platform_sync", "sms_digest_processor"], ids=["its type", "another type"])
async def test_before_the_rest_is_retried_it_says_whether_the_type_is_paused(paused: str) -> None:
    backend = broken(3)
    backend.processing = replace(backend.processing, paused_types=(TypePause(paused, None, "alice@laptop", NOW, None),))
    said = "game_platform_sync is paused: the jobs wait until" in await shown(backend, "e", "F")
    assert said is (paused == "game_platform_sync")


@pytest.mark.slow
async def test_the_frozen_jobs_of_a_group_are_dropped_when_the_answer_is_no() -> None:
    backend = broken(3)
    async with dashboard(backend, "e", "F") as deck:
        assert len(backend.bulk.held) == 1
        await deck.press("escape")
        assert not backend.bulk.held
        assert backend.calls == []


@pytest.mark.slow
async def test_a_canary_of_a_large_group_says_exactly_how_many_stay() -> None:
    text = await shown(broken(1_843), "e", "R")
    assert "The other 1,842 stay as they are" in " ".join(text.replace("│", " ").split())


@pytest.mark.slow
async def test_a_canary_that_fails_again_is_said_and_the_rest_warns() -> None:
    backend = broken()
    async with dashboard(backend) as deck:
        await try_one(deck)
        answers(backend, "failed", "It failed permanently after 0.3 s: boom to kim@example.org")
        await next_look(deck)
        assert "failed again. Fix the cause first" in deck.toasts[-1]
        assert "It failed permanently after 0.3 s: boom" in deck.toasts[-1]
        assert "kim@" not in deck.toasts[-1] + deck.screen_text()
        await deck.press("F")
        assert f"Warning: the canary {short_id(job_id(1))} failed again" in deck.screen_text()


@pytest.mark.slow
async def test_the_rest_without_a_canary_warns() -> None:
    async with dashboard(broken(), "e", "F") as deck:
        text = " ".join(deck.screen_text().replace("│", " ").split())
        assert "Warning: no job of this group has been tested. Press R to retry" in text
        assert "one first." in text
        assert "With what is due of this type: 1,204 jobs start, 13 catch-up" in text
        await deck.press("escape")
        assert deck.backend.calls == []


@pytest.mark.slow
async def test_a_canary_is_watched_on_after_the_page_was_left() -> None:
    backend = broken()
    async with dashboard(backend) as deck:
        await try_one(deck)
        await deck.press("escape", "e")
        assert "is waiting for a worker" in deck.screen_text()
        assert "◆" in deck.screen_text()


@pytest.mark.slow
async def test_a_group_that_nothing_stands_in_any_more_cannot_be_retried() -> None:
    async with dashboard(broken(trends=2), "e", "j", "R") as deck:
        assert "No job is still in the state this error left it in" in deck.toasts[-1]
        assert deck.backend.calls == []


@pytest.mark.slow
async def test_what_changed_between_question_and_answer_is_not_acted_on() -> None:
    backend = broken()
    async with dashboard(backend, "e", "R") as deck:
        becomes(backend, job_id(1), version=2)
        await deck.press("y")
        assert "changed meanwhile" in deck.toasts[-1]


async def test_jobs_that_cannot_be_read_are_said_and_nothing_is_asked() -> None:
    async with dashboard(broken(), "e") as deck:
        deck.backend.failure = lost()
        await deck.press("R")
        assert deck.here == "Errors"
        assert "does not answer" in deck.toasts[-1]


@pytest.mark.slow
async def test_the_part_below_can_be_scrolled() -> None:
    async with dashboard(sample(), "e", "j", "tab", "G", size=(80, 16)) as deck:
        assert deck.app.screen.focused is not None
        assert deck.app.screen.focused.id == "about"
        assert "Retry when the vendor" in deck.screen_text()
        await deck.press("tab", "k")
        assert deck.app.screen.query_one("#pane").cursor == 0  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["R", "F"])
async def test_a_role_that_may_only_look_is_told_so(key: str) -> None:
    backend = broken()
    backend.operate = False
    assert "has read-only access" in await said(backend, "e", key)


@pytest.mark.slow
async def test_a_canary_that_no_worker_took_is_said_and_another_can_be_asked_for() -> None:
    backend = broken()
    async with dashboard(backend) as deck:
        await try_one(deck)
        answers(backend, "taken back", "No worker took it within a minute.")
        await next_look(deck)
        assert f"Canary {short_id(job_id(1))} was not run" in deck.toasts[-1]
        assert "No worker took it within a minute." in deck.toasts[-1]
        await deck.press("R")
        assert "Retry 1 job as a canary" in deck.screen_text()


@pytest.mark.slow
async def test_the_command_of_a_canary_is_shown_before_and_after() -> None:
    async with dashboard(broken(), "e", "R", size=LARGE) as deck:
        assert f"jobdeck retry --canary {job_id(1)}" in deck.screen_text()
        await deck.press("y")
        assert f"jobdeck retry --canary {job_id(1)}" in deck.toasts[-1]


def test_a_canary_follows_the_answer_to_its_own_request() -> None:
    waits = Canary(job_id(1), 7)
    other = CanaryAnswer(8, job_id(1), "failed", "It failed.", NOW)
    own = CanaryAnswer(7, job_id(1), "running", "Running.", NOW)
    assert (waits.state, waits.settled) == ("waiting", False)
    assert waits.follow([other]) == waits
    assert waits.follow([other, own]).state == "running"
    assert waits.follow([replace(own, state="taken back")]).settled


@pytest.mark.parametrize("width", [80, 96, 120, 140, 159, 160, 200])
def test_the_error_itself_is_in_its_line_at_every_width_below_its_heading(width: int) -> None:
    trends = sample().evidence.trends
    shown = errors.layout(trends, width)
    line = errors.line(trends[0], NOW, shown, None)
    said, heading = "".join(text for text, _ in line.spans), errors.heading(shown, width).spans[0][0]
    assert "Twilio answered" in said
    assert cell_len(said) <= width
    assert heading.split()[:4] == ["runs", "lost", *(["waiting"] if shown.waiting else []), "since", "last"][:4]
    assert heading.index("error") == said.index("NEW Twilio")


@pytest.mark.parametrize("columns", [150, 160, 200, 266])
async def test_beside_its_details_a_group_has_the_columns_that_matter(columns: int) -> None:
    async with dashboard(sample(), "e", size=(columns, 50)) as deck:
        heading = deck.text_in("#columns").split()
        assert {"runs", "lost", "since", "last", "task", "error"} <= {*heading}
        line = next(line for line in deck.text_in("#pane").splitlines() if line.split()[:2] == ["47", "11"])
        assert {"3h", "11m"} <= {*line.split()}
        assert "file_refresh" in line
        assert "NEW MetaCTF answered 429" in line


def test_a_further_column_comes_only_where_groups_differ_in_it() -> None:
    one, *others = sample().evidence.trends
    alike = [replace(other, waiting=one.waiting, error_kind=one.error_kind) for other in (one, *others)]
    differing = errors.layout([one, replace(alike[0], waiting=one.waiting + 1, error_kind="another")], 300)
    assert (differing.waiting, differing.kind, differing.course) == (8, 22, errors.COURSE)
    same = errors.layout(alike, 300)
    assert (same.waiting, same.kind, same.course) == (0, 0, errors.COURSE)


async def test_when_a_dialog_over_the_page_closes_the_page_reads_again_at_once() -> None:
    backend = broken()
    async with dashboard(backend, "e", "M") as deck:
        assert deck.here == "MuteErrors"
        backend.evidence.trends = tuple(replace(one, sample="a newer error") for one in backend.evidence.trends)
        await deck.press("escape")
        assert deck.here == "Errors"
        assert "a newer error" in deck.screen_text()
