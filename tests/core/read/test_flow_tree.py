"""A flow as a tree of lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.read.pages.flow_tree import lines, waits_below
from jobdeck.core.read.pages.flows import FlowLine, FlowMember, FlowTree


def made(number: int, *blockers: int, **fields: Any) -> FlowMember:
    given = {"task_type": "load", "needs": "success", "state": "pending"} | fields
    return FlowMember(UUID(int=number), f"m{number}", blockers=tuple(UUID(int=one) for one in blockers), **given)


def tree(*members: FlowMember) -> FlowTree:
    return FlowTree(FlowLine(UUID(int=999), "f", datetime(2026, 1, 1, tzinfo=UTC), "mara", {}), members)


def drawn(*members: FlowMember, most: int = 100, around: int | None = None) -> list[str]:
    found = lines(tree(*members), most=most, around=None if around is None else UUID(int=around))
    return [f"{line.prefix}{line.member.name if line.member else line.text}" for line in found]


def test_a_member_hangs_below_the_one_it_waits_for_and_a_join_beside_those() -> None:
    assert drawn(made(1), made(2, 1), made(3, 1), made(4, 2, 3), made(5, 4)) == [
        "m1", "├─ m2", "├─ m3", "└─ m4", "   └─ m5"]  # fmt: skip


def test_a_member_that_a_run_added_hangs_below_it() -> None:
    assert drawn(made(1), made(2, added_by=UUID(int=1)), made(3, 1, 2)) == ["m1", "└─ m2", "m3"]


def test_a_join_says_whom_it_waits_for() -> None:
    texts = [line.text for line in lines(tree(made(1), made(2), made(3, 1, 2), made(4, 1, 2, needs="end"), made(
        5, 1, needs="failure"), made(6, 1)), most=10)]  # fmt: skip
    assert sorted(texts) == ["", "", "", "after 2: m1, m2", "after a failure among m1", "after the end of 2: m1, m2"]


def test_a_join_of_many_says_how_many_more_there_are_and_names_all_where_there_is_room() -> None:
    loads = [made(number) for number in range(1, 7)]
    flow = tree(*loads, made(7, *range(1, 7), needs="end"), made(8, *range(1, 4)))
    assert [line.text for line in lines(flow, most=10)][-2:] == [
        "after the end of 6: m1, m2, m3 and 3 more", "after 3: m1, m2, m3"]  # fmt: skip
    assert waits_below(flow, UUID(int=7)) == "after the end of 6: m1, m2, m3, m4, m5, m6"
    assert waits_below(flow, UUID(int=8)) == ""
    many = [made(number) for number in range(1, 202)]
    assert waits_below(tree(*many, made(202, *range(1, 202))), UUID(int=202)).endswith("m99, m100 and 101 more")


def test_many_alike_are_counted_and_the_others_shown() -> None:
    loads = [made(number) for number in range(1, 21)] + [made(21, state="failed")]
    assert drawn(*loads, made(22, *range(1, 22))) == [
        "m1", "m2", "m3", "m4", "m5", "… 15 more load, pending", "m21", "m22"]  # fmt: skip
    assert "m19" in drawn(*loads, around=19)
    assert "… 14 more load, pending" in drawn(*loads, around=19)


@pytest.mark.slow
def test_a_chain_of_ten_thousand_is_drawn_up_to_the_lines_that_fit() -> None:
    chain = [made(1), *(made(number, number - 1) for number in range(2, 10_001))]
    found = drawn(*chain, most=40, around=9_000)
    assert len(found) == 40
    assert found[-1] == "… 9,961 more lines"
    assert any(line.endswith("m9000") for line in found)


@given(
    st.lists(st.tuples(st.sets(st.integers(1, 20)), st.sampled_from(["pending", "failed"])), min_size=1, max_size=20),
    st.integers(2, 30),
)
def test_each_member_is_drawn_once_or_counted(given: list[tuple[set[int], str]], most: int) -> None:
    members = [
        made(number, *sorted(one for one in blockers if one < number), state=state)
        for number, (blockers, state) in enumerate(given, 1)
    ]
    whole = lines(tree(*members), most=1_000)
    shown = [line.member.job_id for line in whole if line.member]
    hidden = sum(int(line.text.split()[1]) for line in whole if line.member is None)
    assert len(shown) == len(set(shown))
    assert len(shown) + hidden == len(members)
    assert len(lines(tree(*members), most=most)) <= most
