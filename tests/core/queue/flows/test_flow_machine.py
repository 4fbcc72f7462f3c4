"""Random flows, and random transactions that overlap on one join: `machine.py` has the steps, `truth.py` the judge."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from tests.core.queue.flows import truth
from tests.core.queue.flows.machine import SESSIONS, FlowMachine, Scene, scenes
from tests.support.examples import machine_settings
from tests.support.queue import Connection

pytestmark = [pytest.mark.thorough, pytest.mark.slow]

A_JOIN_THAT_WAITS_AGAIN: Final = Scene(
    needs="success", ended=["cancel"], running=2, late=False, acts=["lose", "retry", "cancel"], places=[2, 0, 1],
    order=[0, 1, 2], then=["nothing", "nothing", "nothing"],
)  # fmt: skip
"""A blocker is cancelled while another transaction has the join wait again for it."""


@pytest.fixture
def machine(conn: Connection, database_url: str) -> Iterator[type[FlowMachine]]:
    """The machine on the database of a test."""
    conn.execute(truth.SET_UP)
    opened = [Connection.connect(database_url, autocommit=True) for _ in range(SESSIONS)]
    with ThreadPoolExecutor(SESSIONS) as threads:
        yield type("BoundFlowMachine", (FlowMachine,), {"conn": conn, "sessions": opened, "threads": threads})
    for session in opened:
        session.close()


def tried(number: int) -> settings:
    return machine_settings(
        number, steps=20, derandomize=False, print_blob=True, phases=(Phase.explicit, Phase.generate)
    )


def test_no_member_runs_too_early_or_waits_for_ever(machine: type[FlowMachine]) -> None:
    run_state_machine_as_test(machine, settings=tried(50))


def test_transactions_that_overlap_leave_a_join_as_the_ends_of_its_blockers_say(machine: type[FlowMachine]) -> None:
    @tried(200)
    @given(st.lists(scenes, min_size=1, max_size=4))
    @example([A_JOIN_THAT_WAITS_AGAIN])
    def play(some: list[Scene]) -> None:
        world = machine()
        for scene in some:
            world.overlapping(scene)
        world.teardown()

    play()
