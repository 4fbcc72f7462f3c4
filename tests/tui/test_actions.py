"""The one table of actions, and that bindings, footer and help come from it."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Status
from jobdeck.tui.actions import ACTIONS, ALL, BY_ID, NO_KEY, Situation, bindings, breakdown, key_name, unavailable
from jobdeck.tui.commands import twin
from jobdeck.tui.screens.dashboard import Dashboard
from jobdeck.tui.screens.job_detail import JobDetailScreen
from tests.tui.fake import make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, dashboard

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
        assert handled == {action.id for action in ACTIONS if "list" in action.scopes}
        await deck.press("enter")
        assert isinstance(deck.app.screen, JobDetailScreen)
        assert set(deck.app.screen.handlers()) == {action.id for action in ACTIONS if "detail" in action.scopes}


async def test_help_lists_every_key_of_the_page() -> None:
    async with dashboard(sample(), size=(200, 60)) as deck:
        await deck.press("question_mark")
        text = deck.screen_text()
        for action in ACTIONS:
            if "list" in action.scopes and not action.id.startswith("tab."):
                assert action.help.split(";")[0][:30] in text, action.id
                assert " ".join(key_name(key) for key in action.keys) in text


async def test_help_says_why_a_key_is_greyed() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        await deck.press("question_mark")
        assert "Cannot retry: a running job does not allow it." in deck.screen_text()


async def test_the_footer_fits_its_line_and_has_help_at_80_columns() -> None:
    async with dashboard(sample()) as deck:
        keys = deck.line("keys")
        assert len(keys) <= 80
        assert "? help" in keys


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
