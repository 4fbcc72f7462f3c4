"""The page of task types."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from jobdeck.core.model import Filter
from jobdeck.core.read.pages.overview import TypeFigures
from jobdeck.core.schedules import NO_SLOT
from jobdeck.tui.text.figures import types
from tests.support.waiting import becomes
from tests.tui.fake import NOW, FakeBackend, lost, minutes
from tests.tui.figures_sample import BROKEN, CALM, incident, share, type_line
from tests.tui.screens.test_shift import dialog_text
from tests.tui.screens.test_snapshots import SnapCompare, walk
from tests.tui.support import LARGE, SMALL, Deck, dashboard, make_app, shown

WIDE = (120, 35)


def line_of(deck: Deck, name: str) -> str:
    return next(line for line in deck.screen_text().splitlines()[2:] if name[-10:] in line and "─" not in line)


@pytest.mark.slow
async def test_each_type_has_one_line_with_its_state_and_figures() -> None:
    async with dashboard(incident(), "i", size=WIDE) as deck:
        broken = line_of(deck, BROKEN).split()[1:]
        assert broken[:10] == [BROKEN, "10,000+", "1", "7,000+", "41m", "31", "122", "82%", "2%", "2"]
        assert "muted" in broken
        assert "no worker" in line_of(deck, "unheard_of")
        assert line_of(deck, "totals_sweep").split()[2:10] == ["0", "0", "0", "-", "0", "0", "-", "-"]
        assert "4 types" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE, LARGE])
async def test_the_details_of_the_type_under_the_cursor_are_below(size: tuple[int, int]) -> None:
    async with dashboard(incident(), "i", size=size) as deck:
        assert " unheard_of ─" in deck.screen_text()
        await deck.press("j")
        text = deck.screen_text()
        assert f" {CALM} ─" in text
        for part in ("1%: 2 of 210 runs in 15 minutes; usually 2% of 40,000", "2 live workers handle it"):
            assert part in text, part
        await deck.press("G")
        for part in (
            "12 in a row",
            "warns at 20 %, critical at default",
            "for 90m by bob@10.0.0.9: known",
            "There are more",
        ):
            assert part in deck.screen_text(), part


@pytest.mark.slow
async def test_what_is_wrong_is_listed_first_then_what_is_kept_then_the_others_by_name() -> None:
    backend = incident()
    calm, *others = backend.figures.found
    failing = replace(calm, line=type_line("a_zoo"), share=share("a_zoo", runs=100, failed=50))
    paused = replace(calm, line=type_line("b_paused", paused_at=NOW))
    backend.figures.found = (calm, *others, paused, failing)
    async with dashboard(backend, "i", size=WIDE) as deck:
        found = [line.split()[:2] for line in deck.screen_text().splitlines()[2:6]]
        assert found == [["✗", "a_zoo"], ["!", "unheard_of"], ["‖", "b_paused"], ["●", CALM]]


@pytest.mark.slow
async def test_new_figures_do_not_move_the_cursor_or_the_order() -> None:
    backend = incident()
    async with dashboard(backend, "i", "G") as deck:
        before = [line.split()[1] for line in deck.screen_text().splitlines()[2:6]]
        backend.figures.found = (
            replace(backend.figures.found[0], line=type_line(CALM, failed=99_999), failed=500),
            *backend.figures.found[1:],
        )
        deck.clock.now += 6
        await deck.refresh()
        assert [line.split()[1] for line in deck.screen_text().splitlines()[2:6]] == before
        assert f" {BROKEN} ─" in deck.screen_text()


@pytest.mark.slow
async def test_enter_lists_the_jobs_of_the_type_and_esc_goes_back_to_it() -> None:
    async with dashboard(incident(), "i", "G", "enter") as deck:
        assert deck.here == "Dashboard"
        assert deck.app.poller.request.filter == Filter(task_type=BROKEN)
        await deck.press("escape")
        assert deck.here == "Types"
        assert f" {BROKEN} ─" in deck.screen_text()
        await deck.press("t")
        assert deck.here == "Trends"


@pytest.mark.slow
async def test_p_pauses_the_type_under_the_cursor_and_resumes_it() -> None:
    backend = incident()
    async with dashboard(backend, "i", "G", "P") as deck:
        assert f"Pause {BROKEN}" in deck.screen_text()
        await deck.press(*"down", "enter", "enter", "enter")
        assert backend.calls[-1][0] == "pause"
        assert backend.calls[-1][-1] == BROKEN
        deck.clock.now += 6
        await deck.refresh()
        assert "PAUSED since 12:04Z by alice@10.0.0.7: down" in deck.screen_text()
        assert "paused" in line_of(deck, "processor")
        await deck.press("P", "enter", "y")
        assert backend.calls[-1] == ("resume", BROKEN)


@pytest.mark.slow
async def test_e_changes_thresholds_and_mutes_with_the_command_of_it() -> None:
    backend = incident()
    async with dashboard(backend, "i", "G", "E") as deck:
        assert "now muted until" in deck.screen_text()
        await deck.press(
            "ctrl+u",
            "ctrl+k",
            *"30%",
            "enter",
            "ctrl+u",
            *"60%",
            "enter",
            *"2h",
            "enter",
            *("enter",) * 7,
            *"known",
            "enter",
        )
        for part in ("--warn 30% --critical 60%", "--mute-until 2026-07-04T14:04:31Z --reason known"):
            assert part in deck.screen_text()
        await deck.press("enter")
        changes = {"warning_share": 0.3, "critical_share": 0.6, "muted_until": NOW + minutes(120)}
        assert backend.calls[-1] == ("set type", BROKEN, changes, "known")
        assert f"Settings of {BROKEN} changed." in deck.toasts[-1]
        assert f"jobdeck types set {BROKEN} --warn 30%" in deck.toasts[-1]


@pytest.mark.slow
async def test_on_a_small_terminal_the_settings_begin_at_their_top_and_are_saved_from_any_field() -> None:
    backend = incident()
    async with dashboard(backend, "i", "G", "E", size=(80, 24)) as deck:
        assert "Health warns from these shares of failed runs on." in deck.screen_text()
        assert "ctrl+s saves" in deck.screen_text()
        await deck.press("ctrl+s")
        assert "Nothing is changed yet." in deck.screen_text()
        await deck.press("ctrl+u", "ctrl+k", *"30%", "ctrl+s")
        assert backend.calls[-1] == ("set type", BROKEN, {"warning_share": 0.3}, None)


@pytest.mark.slow
async def test_e_sets_a_type_aside_for_another_runner_and_takes_it_over() -> None:
    backend = incident()
    async with dashboard(backend) as deck:
        await deck.press("i", "G", "E", *("enter",) * 9, "ctrl+u", *"yes", "enter", *"old", "enter")
        assert "--set-aside --reason old" in deck.screen_text()
        await deck.press("enter")
        assert backend.calls[-1] == ("set type", BROKEN, {"set_aside": True}, "old")
        backend.figures.found = tuple(
            replace(one, line=replace(one.line, set_aside=True, paused_at=NOW, paused_reason="old", paused_by="mia"))
            if one.line.task_type == BROKEN
            else one
            for one in backend.figures.found
        )
        deck.clock.now += 6
        await deck.refresh()
        assert "set aside:" in line_of(deck, "processor")
        assert ", 1 set aside" in deck.screen_text()
        await deck.press("E", *("enter",) * 9, "ctrl+u", *"no", "enter", "enter", "enter")
        assert list(backend.calls[-1])[2:] == [{"set_aside": False}, None]


@pytest.mark.slow
async def test_e_sets_limits_with_the_command_of_it_and_the_page_shows_them_and_how_many_run() -> None:
    backend = incident()
    async with dashboard(backend) as deck:
        await deck.press(
            "i", "G", "E", *("enter",) * 3, "ctrl+u", *"1", "enter", "ctrl+u", *"2", "enter", "ctrl+u", *"100/m",
            "enter", "ctrl+u", *"5/10s", "enter", "ctrl+u", *"2d", *("enter",) * 3,
        )  # fmt: skip
        assert "--max-per-key 2 --max-age 2d --rate 100/m --key-rate 5/10s" in deck.screen_text()
        await deck.press("enter", "enter")
        changes = {
            "max_running": 1, "max_per_key": 2, "rate_runs": 100, "rate_seconds": 60, "key_rate_runs": 5,
            "key_rate_seconds": 10, "max_age_seconds": 172_800,
        }  # fmt: skip
        assert list(backend.calls[-1])[2:] == [changes, None]
        assert "--max-age 2d --rate 100/m --key-rate 5/10s" in deck.toasts[-1]
        deck.clock.now += 6
        await deck.refresh()
        assert "1 of 1 run" in line_of(deck, "processor")
        said = " ".join(deck.screen_text().split())
        assert "limits 1 of 1 run (an operator); 100/m start (an operator); 2 per key run (an operator);" in said
        await deck.press("E", *("enter",) * 3, "ctrl+u", *"none", *("enter",) * 9)
        assert list(backend.calls[-1])[2:] == [{"max_running": None}, None]


async def test_the_details_say_whose_each_limit_is_and_enter_on_the_code_opens_its_release() -> None:
    backend = incident()
    first, *others = backend.figures.found
    limited = replace(
        first.line, max_running=5, max_per_key=2, rate_runs=60, rate_seconds=60, own={"max_running": 5},
        code={"max_running": 9, "max_per_key": 2, "rate_runs": 60, "rate_seconds": 60}, release="shop@2.0",
    )  # fmt: skip
    backend.figures.found = (replace(first, line=limited), *others)
    async with dashboard(backend, "i", "j", size=LARGE) as deck:
        said = " ".join(deck.text_in("#about").split())
        assert f"limits {limited.running} of 5 run (an operator); 60/m start (the code); 2 per key run (the" in said
        assert "code 9 run; 60/m start; 2 per key run (shop@2.0); operators set max-running" in said
        assert " no " not in f"{said.partition('longest wait')[2]} ".replace("no other", "")
        await deck.press("tab", "enter")
        assert deck.screen_text().startswith(" Workers of the release shop@2.0")
    unlimited = replace(first, line=replace(first.line, code={"priority": 0}, release="shop@2.0"))
    backend.figures.found = (unlimited, *others)
    async with dashboard(backend, "i", "j", size=LARGE) as deck:
        said = " ".join(deck.screen_text().split())
        assert "limits none: as many run at once as the workers have slots" in said
        assert "code as declared by shop@2.0" in said


@pytest.mark.parametrize(
    ("pending", "due_since", "words"),
    [
        (0, None, "no backlog"),
        (1, NOW + minutes(4), "no backlog; next in 4m"),
        (1, NO_SLOT, "no job waits for a worker"),
        (1, None, "no job waits for a worker"),
    ],
)
def test_without_a_due_job_the_details_say_when_the_next_one_is_due(
    pending: int, due_since: datetime | None, words: str
) -> None:
    one = TypeFigures(replace(type_line("push", pending=pending), due_since=due_since))
    said = next(line for line in types.about(one, NOW, 100) if line.spans[0][0].strip() == "longest wait")
    assert said.spans[1][0] == words


async def test_a_column_that_is_equal_in_all_rows_gives_its_place_to_one_that_is_not() -> None:
    backend = incident()
    calm = backend.figures.found[0]
    alike = [
        replace(calm, line=type_line(name, workers=workers), succeeded=0, failed=0, share=None)
        for name, workers in (("one", 1), ("two", 2))
    ]
    backend.figures.found = tuple(alike)
    async with dashboard(backend, "i", size=(80, 24)) as deck:
        head, *rows = (line.split() for line in deck.screen_text().splitlines()[1:4])
        assert "workers" in head
        assert "share" not in head
        assert [row[head.index("workers") + 1] for row in rows] == ["1", "2"]
    backend.figures.found = (alike[0], replace(alike[0], line=type_line("two", workers=1)))
    async with dashboard(backend, "i", size=(80, 24)) as deck:
        assert "workers" not in deck.screen_text().splitlines()[1]
        assert "share" in deck.screen_text().splitlines()[1]


@pytest.mark.parametrize(("key", "page"), [("i", "Types"), ("c", "Series")])
async def test_the_details_are_at_the_right_of_a_wide_terminal(key: str, page: str) -> None:
    async with dashboard(incident(), key, size=(200, 50)) as deck:
        assert deck.here == page
        assert deck.app.screen.query_one("#about").region.x > deck.app.screen.query_one("#pane").region.x
        assert deck.app.screen.query_one("#rule").region.x == deck.app.screen.query_one("#about").region.x


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "is_warned"), [(None, True), ("payload:customerId", False)])
async def test_a_limit_for_each_key_of_a_type_without_one_is_set_with_a_warning(
    rule: str | None, is_warned: bool
) -> None:
    backend = incident()
    first, *others = backend.figures.found
    backend.figures.found = (replace(first, line=replace(first.line, concurrency=rule)), *others)
    async with dashboard(backend, "i", "j", "E", size=LARGE) as deck:
        assert "have no concurrency key" not in deck.screen_text()
        await deck.press(*("enter",) * 4, "ctrl+u", "2")
        assert ("have no concurrency key" in deck.screen_text()) is is_warned


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("enter",) * 11, "Nothing is changed yet."),
        (("ctrl+u", *"0.2", *("enter",) * 11), "needs a share such as 20%"),
        (("enter", "enter", *"yesterday", *("enter",) * 9), "not a time"),
        (("enter", "enter", *"2020-01-01", *("enter",) * 9), "in the past"),
        ((*("enter",) * 3, "ctrl+u", *"many", *("enter",) * 8), "needs a whole number such as 5"),
        ((*("enter",) * 5, "ctrl+u", *"fast", *("enter",) * 6), "is not a rate"),
        ((*("enter",) * 7, "ctrl+u", *"soon", *("enter",) * 4), "is not a duration"),
        ((*("enter",) * 9, "ctrl+u", *"perhaps", "enter", "enter"), "answer yes or no"),
        ((*("enter",) * 9, "ctrl+u", *"yes", "enter", "enter"), "Say in the reason which runner has the type."),
    ],
)
@pytest.mark.slow
async def test_what_cannot_be_set_is_said_in_the_dialog_and_changes_nothing(typed: tuple[str, ...], words: str) -> None:
    backend = incident()
    assert words in await shown(backend, "i", "E", *typed)
    assert backend.calls == []


@pytest.mark.slow
async def test_a_refusal_of_the_database_is_said_in_the_dialog_which_stays_open() -> None:
    backend = incident()
    async with dashboard(backend, "i", "E", "ctrl+u", *"101%", *("enter",) * 12) as deck:
        await becomes(lambda: "at most 100 %" in dialog_text(deck), "the refusal")
        assert "Could not change" in dialog_text(deck)
        assert deck.here == "TypeSettings"


async def test_who_may_only_read_is_told_so_and_sees_the_page() -> None:
    backend = incident()
    backend.operate = False
    async with dashboard(backend, "i", "E") as deck:
        assert "read-only access" in deck.toasts[-1]
        assert deck.here == "Types"


async def test_an_empty_queue_and_a_lost_connection_are_said() -> None:
    backend = FakeBackend()
    async with dashboard(backend, "i") as deck:
        assert "No task types yet" in deck.screen_text()
        await deck.press("E")
        assert deck.toasts[-1] == "No task type under the cursor."
        backend.failure = lost()
        await deck.refresh()
        assert "disconnected" in deck.screen_text()


async def test_numbers_beyond_their_column_are_shortened_and_a_share_is_never_rounded_to_none_or_all() -> None:
    backend = incident()
    backend.figures.found = (
        replace(backend.figures.found[0], line=type_line(CALM, pending=123_456_789, at_least=True),
                share=share(CALM, 10_000, 9_999)),
        replace(backend.figures.found[1], share=share("x", 10_000, 1)),
    )  # fmt: skip
    async with dashboard(backend, "i") as deck:
        assert line_of(deck, CALM).split()[2] == "123M+"
        assert "99%" in line_of(deck, CALM)
        assert "1%" in line_of(deck, "totals_sweep")


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["80x24", "120x35"])
def test_types_page_looks_like(size: tuple[int, int], snap_compare: SnapCompare) -> None:
    assert snap_compare(make_app(incident()), terminal_size=size, run_before=walk("i", "G"))


@pytest.mark.parametrize("size", [SMALL, WIDE])
async def test_the_limits_of_the_code_are_shown_with_their_release_and_releases_that_differ(
    size: tuple[int, int],
) -> None:
    backend = incident()
    said = {"code": {"max_running": 4}, "own": {"max_running": 9}, "max_running": 9, "release": "shop@7"}
    backend.figures.found = (
        replace(backend.figures.found[0], line=type_line(CALM, **said, differing=("shop@6",))),
        *backend.figures.found[1:],
    )
    async with dashboard(backend, "i", "j", size=size) as deck:
        shown_text = " ".join(deck.screen_text().split())
        assert "4 run (shop@7); operators set max-running; live workers of shop@6 say otherwise" in shown_text


@pytest.mark.slow
async def test_the_word_code_in_the_settings_makes_the_value_of_the_code_hold_again() -> None:
    backend = incident()
    said = {"code": {"max_running": 4}, "own": {"max_running": 9}, "max_running": 9, "release": "shop@7"}
    backend.figures.found = (
        replace(backend.figures.found[0], line=type_line(CALM, **said)),
        *backend.figures.found[1:],
    )
    async with dashboard(backend, "i", "j", "E", size=LARGE) as deck:
        assert "over all workers: a number, or none, or code" in dialog_text(deck)
        assert "same concurrency key: a number, or none" in dialog_text(deck)
        await deck.press(*("enter",) * 3, "ctrl+u", *"code", *("enter",) * 9)
        assert list(backend.calls[-1])[2:] == [{"max_running": "code"}, None]
        assert "--max-running code" in deck.toasts[-1]
