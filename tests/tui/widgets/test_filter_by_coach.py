"""A filter by a coach's name, which is replaced by the id."""

from __future__ import annotations

import pytest

from jobdeck.tui.widgets.name_finder import NameFinder, Naming, naming
from tests.tui.fake import FakeBackend, lost, make_job
from tests.tui.fake_creating import COACH, FOUND
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Deck, Held, dashboard, make_app

BO = FOUND["coachId"][1].id


def with_jobs_of_coaches() -> FakeBackend:
    backend = sample()
    backend.jobs = [make_job(at + 1, payload={"coachId": one.id}) for at, one in enumerate(FOUND["coachId"])]
    return backend


def asked(deck: Deck) -> str | None:
    asked = deck.backend.requests[-1].filter.payload
    assert asked is None or asked[0] == "coachId"
    return asked[1] if asked else None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("coach:kim", ("", "kim", "")),
        ("status:failed coach:", ("status:failed ", "", "")),
        ('Coach:"amara k', ("", "amara k", "")),
        ('red coach:"amara kim" age>2h', ("red ", "amara kim", " age>2h")),
        ("coach:kim status:failed", ("", "kim", " status:failed")),
        ("error:coach:kim", None),
        ('error:"no coach:kim was found"', None),
        ('error:"no coach:x" coach:kim', ('error:"no coach:x" ', "kim", "")),
        ("coaches", None),
    ],
)
def test_what_is_typed_behind_coach_is_found_wherever_it_stands(text: str, parts: tuple[str, str, str] | None) -> None:
    named = naming(text)
    assert (tuple(named[1:]) if named else None) == parts


@pytest.mark.slow
async def test_a_coach_is_found_by_a_part_of_the_name_and_tab_takes_one_after_the_other() -> None:
    async with dashboard(with_jobs_of_coaches(), "slash", *"status:pending coach:") as deck:
        assert "a part of a coach's name" in deck.line("peek")
        await deck.press(*"kim")
        assert "tab Amara Kim, North High, 12 competitors  Chidi Kimani" in deck.line("peek")
        await deck.press("tab")
        assert deck.app.dashboard.bar.field.value == f"status:pending coach:{COACH}"
        assert "Amara Kim, North High" in deck.line("peek")
        await deck.press("tab")
        assert deck.app.dashboard.bar.field.value == f"status:pending coach:{FOUND['coachId'][2].id}"
        await deck.press("tab", "enter")
        assert asked(deck) == COACH


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_whose_jobs_are_listed_stays_said_by_name(size: tuple[int, int]) -> None:
    async with dashboard(with_jobs_of_coaches(), "slash", *"coach:bo", "enter", size=size) as deck:
        assert asked(deck) == BO
        assert f"coach:{BO}  Bo Lindqvist" in deck.line("filter-line")
        await deck.press("slash", "home", *"age>2h ", "enter")
        assert "Bo Lindqvist" in deck.line("filter-line")


@pytest.mark.slow
@pytest.mark.parametrize("text", ['coach:"bo lindqvist"', "coach:eastside", "coach:lind status:pending"])
async def test_enter_takes_the_only_coach_that_has_the_words(text: str) -> None:
    async with dashboard(with_jobs_of_coaches(), "slash", *text, "enter") as deck:
        assert asked(deck) == BO


@pytest.mark.slow
async def test_enter_takes_none_of_several_coaches_and_changes_nothing() -> None:
    async with dashboard(with_jobs_of_coaches()) as deck:
        before = len(deck.backend.requests)
        await deck.press("slash", *"coach:kim", "enter")
        assert "Several coaches match kim. Press tab after the name to choose one." in deck.toasts[-1]
        assert len(deck.backend.requests) == before
        assert deck.app.dashboard.bar.editing


@pytest.mark.slow
async def test_a_name_that_no_coach_has_is_said_and_lists_nothing_as_if_it_were_an_answer() -> None:
    async with dashboard(with_jobs_of_coaches(), "slash", *"coach:zebra") as deck:
        assert "No coach matches zebra. Type a part of a coach's name" in deck.line("peek")
        before = len(deck.backend.requests)
        await deck.press("enter")
        assert "No coach matches zebra" in deck.toasts[-1]
        assert len(deck.backend.requests) == before


@pytest.mark.slow
@pytest.mark.parametrize("words", ["5d0c7f6a", "c-1"])
async def test_an_id_or_its_beginning_is_taken_as_it_is(words: str) -> None:
    async with dashboard(with_jobs_of_coaches(), "slash", *f"coach:{words}", "enter") as deck:
        assert asked(deck) == words


@pytest.mark.slow
async def test_while_coaches_cannot_be_looked_for_that_is_said_and_later_they_can() -> None:
    async with dashboard(with_jobs_of_coaches()) as deck:
        deck.backend.failure = lost()
        await deck.press("slash", *"coach:bo")
        assert "Cannot look up coaches" in deck.line("peek")
        await deck.press("enter")
        assert "Cannot look up coaches" in deck.toasts[-1]
        deck.backend.failure = None
        await deck.press("escape", "slash", *"coach:bo", "enter")
        assert asked(deck) == BO


@pytest.mark.slow
async def test_enter_before_the_answer_filters_when_it_has_come() -> None:
    held = Held(holding=True)
    async with dashboard(with_jobs_of_coaches()) as deck:
        deck.app.background = held
        await deck.press("slash", *"coach:bo", "enter")
        assert "looking for coaches…" in deck.line("peek")
        held.let_one_go()  # of what was typed first
        assert asked(deck) is None
        held.let_one_go()
        await deck.pilot.pause()
        held.let_one_go()  # of the list
        assert asked(deck) == BO


@pytest.mark.slow
async def test_an_enter_counts_no_more_once_something_else_is_typed() -> None:
    held = Held(holding=True)
    async with dashboard(with_jobs_of_coaches()) as deck:
        deck.app.background = held
        await deck.press("slash", *"coach:bo", "enter", "space")
        while held.kept:
            held.let_one_go()
            await deck.pilot.pause()
        assert asked(deck) is None
        assert deck.app.dashboard.filter_text == ""


@pytest.mark.slow
async def test_an_answer_that_comes_when_the_line_was_left_filters_nothing() -> None:
    held = Held(holding=True)
    async with dashboard(with_jobs_of_coaches()) as deck:
        deck.app.background = held
        await deck.press("slash", *"coach:bo", "enter", "escape")
        while held.kept:
            held.let_one_go()
            await deck.pilot.pause()
        assert asked(deck) is None
        assert deck.app.dashboard.filter_text == ""


def test_one_thing_is_asked_at_a_time_and_then_what_is_wanted_by_then() -> None:
    held, backend = Held(holding=True), with_jobs_of_coaches()
    app = make_app(backend)
    app.background = held
    finder = NameFinder(app, lambda: None)
    for words in ("a", "am", "ama"):
        finder.look(coach(words))
    held.let_all_go()
    assert backend.creating.searched == [("coachId", "a"), ("coachId", "ama")]
    assert [one.label for one in finder.known(coach("ama")) or ()] == ["Amara Kim"]
    assert finder.known(coach("am")) is None


def coach(words: str) -> Naming:
    named = naming(f"coach:{words}")
    assert named is not None
    return named
