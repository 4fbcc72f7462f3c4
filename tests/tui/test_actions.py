"""The one table of actions, and that bindings, footer and help come from it."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Status
from jobdeck.tui.actions import (
    ACTIONS,
    ALL,
    BY_ID,
    NO_KEY,
    Scope,
    Situation,
    bindings,
    key_name,
    offered,
    unavailable,
)
from jobdeck.tui.commands import twin
from jobdeck.tui.format import breakdown
from jobdeck.tui.screens.dashboard import Dashboard
from jobdeck.tui.screens.job_detail import JobDetailScreen
from jobdeck.tui.widgets.key_line import FIRST, keys
from tests.tui.fake import make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, dashboard, shown

HARMLESS_UPPERCASE = {"S", "G", "Y"}
CHANGING_LOWERCASE = {"w", "u", "n"}


@pytest.mark.parametrize("scope", sorted(ALL))
def test_no_key_has_two_meanings_on_one_page(scope: str) -> None:
    keys = [key for action in ACTIONS if scope in action.scopes for key in action.keys]
    assert len(keys) == len(set(keys))


def test_every_binding_has_the_id_of_its_action() -> None:
    assert {binding.id for binding in bindings("list")} <= set(BY_ID)
    assert all(binding.id for binding in (*bindings("list"), *bindings("detail")))


def test_uppercase_changes_data_and_lowercase_does_not_but_for_the_exceptions_of_the_design() -> None:
    for action in ACTIONS:
        for key in action.keys:
            if len(key) == 1 and key.isupper() and key not in HARMLESS_UPPERCASE:
                assert action.changes, action.id
            if len(key) == 1 and key.islower() and key not in CHANGING_LOWERCASE:
                assert not action.changes, action.id


def test_nothing_needs_alt_a_function_key_or_the_mouse() -> None:
    for action in ACTIONS:
        assert not any(key.startswith(("alt+", "f1", "f2")) for key in action.keys)


async def test_every_action_of_a_page_has_a_handler_there() -> None:
    async with dashboard(sample()) as deck:
        handled = set(deck.app.dashboard.handlers())
        assert handled == {action.id for action in offered("list")}
        await deck.press("enter")
        assert isinstance(deck.app.screen, JobDetailScreen)
        assert set(deck.app.screen.handlers()) == {action.id for action in offered("detail")}


@pytest.mark.slow
async def test_help_lists_every_key_of_the_page() -> None:
    text = await shown(sample(), "question_mark", size=(200, 60))
    for action in ACTIONS:
        if "list" in action.scopes and not action.id.startswith("tab."):
            assert action.help.split(";")[0][:30] in text, action.id
            assert " ".join(key_name(key) for key in action.keys) in text


@pytest.mark.slow
async def test_help_says_why_a_key_is_greyed() -> None:
    assert "Cannot retry: a running job does not allow it." in await shown(sample(), "question_mark", size=LARGE)


async def test_the_footer_fits_its_line_and_has_help_at_80_columns() -> None:
    async with dashboard(sample()) as deck:
        keys = deck.line("keys")
        assert len(keys) <= 80
        assert "? help" in keys


async def test_at_80_columns_the_footer_of_the_list_begins_with_what_a_newcomer_needs() -> None:
    async with dashboard(sample()) as deck:
        keys = deck.line("keys").strip()
        assert keys.startswith("⏎ detail  / filter  1-6 tabs  e errors  ? help  q quit")


def test_what_does_not_fit_is_left_out_from_the_end_of_one_order() -> None:
    order = [name for name in FIRST if name not in {"mark.undo", "help", "quit"}]
    names = {BY_ID[name].label if name in BY_ID else "tabs": name for name in order}
    for width in range(60, 200):
        line = "".join(text for text, _ in keys("list", Situation(), width))
        words = [part.partition(" ")[2] for part in line.strip().split("  ")]
        shown = [names[word] for word in words if word in names]
        assert shown == order[: len(shown)]
        assert "? help  q quit" in line


def test_while_several_jobs_are_selected_their_actions_come_first() -> None:
    situation = Situation(jobs=(make_job(1, Status.FAILED), make_job(2, Status.FAILED)))
    line = "".join(text for text, _ in keys("list", situation, 80))
    assert line.strip().startswith("R retry 2  C cancel 2  D delete 2  ⏎ detail")


def test_the_page_of_a_job_has_the_key_that_edits_it_and_says_what_t_does() -> None:
    waits = Situation(jobs=(make_job(1, Status.FAILED),))
    line = "".join(text for text, _ in keys("detail", waits, 80))
    assert "E edit  T edit+retry" in line
    runs = Situation(jobs=(make_job(1, Status.RUNNING),))
    assert dict(keys("detail", runs, 80))[" edit"] == "muted"


@pytest.mark.parametrize("scope", sorted(ALL))
def test_every_page_of_80_columns_keeps_help_and_the_way_back(scope: Scope) -> None:
    line = "".join(text for text, _ in keys(scope, Situation(), 80))
    assert "? help" in line
    assert ("q quit" if scope == "list" else "q back") in line


@pytest.mark.parametrize("key", ["A", "V", "X", "F", "H"])
def test_a_key_means_one_thing_on_all_pages(key: str) -> None:
    assert len({action.id for action in ACTIONS if key in action.keys}) == 1


def test_an_action_on_no_job_says_so() -> None:
    assert unavailable(BY_ID["job.retry"], Situation()) == "No job under the cursor."


def test_a_second_cycle_waits_for_the_first() -> None:
    assert "already" in (unavailable(BY_ID["worker.cycle"], Situation(cycle_running=True)) or "")


def test_the_command_twin_of_one_job_can_be_pasted() -> None:
    job = make_job(1)
    assert twin("retry", [job]) == f"jobdeck retry {job.id}"
    assert twin("delete", [job]) == f"jobdeck delete {job.id} --yes"
    assert twin("retry", [job, make_job(2)]) == f"jobdeck retry {job.id.hex[-8:]} {make_job(2).id.hex[-8:]} --yes"


def test_the_breakdown_is_in_the_order_of_the_tabs() -> None:
    jobs = [make_job(1, Status.FAILED), make_job(2), make_job(3, Status.FAILED)]
    assert breakdown(jobs) == "1 pending, 2 failed"


def test_the_dashboard_binds_exactly_the_keys_of_the_table() -> None:
    bound = {key for one in bindings("list") if not one.key.startswith(NO_KEY) for key in one.key.split(",")}
    assert bound == {key for action in ACTIONS if "list" in action.scopes for key in action.keys}
    assert bindings("list") == Dashboard.BINDINGS
