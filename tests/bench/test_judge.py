"""The judge of the fault sweep finds each thing that must not be, and nothing in a sound record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.faults import judge
from bench.faults.judge import Effect, Record, Row, Run, Step

WITHOUT = 4
"""Runs from this token on are of a type that writes no effects."""


def effect(token: int = 1, job: str = "a", what: str = "effect", begin: float = 0.0, end: float = 1.0) -> Effect:
    return Effect(what, job, token, cycle=0, pid=token, key="k", begin=begin, end=end)


def run(
    token: int = 1, job: str = "a", outcome: str = "succeeded", finished: float = 1.0, due: float = 0.0,
    committed: float = 99.0,
) -> Run:  # fmt: skip
    removed = outcome == "succeeded"
    late = outcome == "abandoned"
    return Run(job, token, late, outcome, finished, due, removed, committed=committed, writes=token < WITHOUT)


def series(**changes: Any) -> Row:
    return replace(Row("s", "pending", run_at=60.0, anchor=0.0, interval=60.0), **changes)


OF_SERIES = effect(3, "s")._replace(key="")
SOUND = Record(
    effects=[effect(what="begin"), effect(), effect(2, "b", begin=1, end=2), OF_SERIES],
    runs=[run(), run(2, "b"), run(3, "s", due=0)],
    rows=[series()],
    accepted={"a", "b", "c", "s"},
    deleted={"c"},
    now=61,
    patience=5,
    messages=[("campaign 1", "x"), ("campaign 2", "x"), ("campaign 1", "y")],
)


def found(**changes: Any) -> set[str]:
    """The kinds of findings in the sound record with these changes."""
    return {finding.kind for finding in judge.judge(replace(SOUND, **changes))}


def test_a_sound_record_has_no_findings() -> None:
    assert found() == set()


def test_a_job_that_was_enqueued_and_is_in_no_table_is_lost() -> None:
    assert found(accepted={"a", "d"}) == {"lost"}


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_job_that_has_not_ended_is_stuck(status: str) -> None:
    assert found(rows=[series(), Row("d", status, run_at=70)]) == {"stuck"}


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_job_that_put_itself_off_is_not_stuck_until_it_had_time_to_run(status: str) -> None:
    assert found(rows=[series(), Row("d", status, run_at=70, waits=True)]) == set()
    assert found(rows=[series(), Row("d", status, run_at=57, waits=True)]) == set()
    assert found(rows=[series(), Row("d", status, run_at=50, waits=True)]) == {"stuck"}


def test_a_job_with_two_successes_has_finished_twice() -> None:
    assert "finished twice" in found(runs=[*SOUND.runs, run(4)])


def test_a_slot_of_a_series_with_two_successes_has_finished_twice() -> None:
    assert found(runs=[*SOUND.runs, run(4, "s", due=0)]) == {"finished twice"}
    assert found(runs=[*SOUND.runs, run(4, "s", due=60)]) == set()


def test_a_success_of_a_run_that_had_no_effect_is_without_effect() -> None:
    assert found(effects=SOUND.effects[1:]) == set()
    assert found(effects=[SOUND.effects[0], *SOUND.effects[2:]]) == {"without effect"}


def test_a_success_that_counted_after_a_later_claim_is_from_an_earlier_claim() -> None:
    assert found(effects=[*SOUND.effects, effect(4, what="begin", begin=5)]) == {"earlier claim"}


def test_a_report_that_counted_beside_a_later_run_is_from_an_earlier_claim() -> None:
    effects = [effect(1, end=5), effect(2, what="begin", begin=3)]
    assert found(effects=effects, runs=[run(outcome="retried"), *SOUND.runs[1:]]) >= {"earlier claim"}
    assert "earlier claim" not in found(effects=effects, runs=[run(outcome="lost"), *SOUND.runs[1:]])


def test_a_success_that_counted_before_its_effect_is_from_an_earlier_claim() -> None:
    early = [run(committed=0.5), *SOUND.runs[1:]]
    assert found(runs=early) == {"earlier claim"}
    assert found(runs=early, steps=[Step(0, 2, -1)]) == set()


def test_a_token_that_two_processes_had_is_from_an_earlier_claim() -> None:
    assert found(effects=[*SOUND.effects, effect(2, "b", begin=1, end=2)._replace(pid=9)]) >= {"earlier claim"}


def test_two_runs_of_one_key_at_once_overlap() -> None:
    assert found(effects=[effect(1, end=3), effect(2, "b", begin=2, end=4), OF_SERIES]) == {"key overlap"}


def test_more_runs_of_a_type_at_once_than_its_limit_overlap() -> None:
    at_once = [effect(token, begin=0, end=2)._replace(key=judge.LIMITED) for token in range(1, 5)]
    assert judge.overlaps(at_once[:3], [], []) == []
    assert len(judge.overlaps(at_once, [], [])) == 1
    assert judge.overlaps([*at_once[:3], at_once[3]._replace(begin=2, end=3)], [], []) == []


def test_more_begins_than_a_rate_allows_are_over_the_rate() -> None:
    begins = [effect(token, what="begin", begin=token / 100)._replace(key=judge.RATED) for token in range(100)]
    assert [finding.kind for finding in judge.over_the_rate(begins, [])] == ["over the rate"]
    assert judge.over_the_rate(begins[:30], []) == []
    assert judge.over_the_rate(begins, [Step(0, 1, 30)] * 4) == []


def test_a_success_whose_write_is_gone_is_without_write() -> None:
    effects = [SOUND.effects[0], SOUND.effects[1]._replace(writes=True), *SOUND.effects[2:]]
    assert found(effects=effects) == {"without write"}
    assert found(effects=effects, written={1}) == set()


def test_a_job_that_began_before_the_success_of_one_that_it_waits_for_joined_early() -> None:
    assert found(joined={"b": ["a"]}) == set()
    assert found(joined={"a": ["b"]}) == {"joined early"}
    assert found(joined={"b": ["a", "never ran"]}) == {"joined early"}


def test_a_frozen_run_holds_its_key_until_its_lease_is_taken_back() -> None:
    effects = [effect(1, end=30), effect(2, "b", begin=13, end=14), OF_SERIES]
    runs = [run(1, outcome="lost", finished=12), run(4), *SOUND.runs[1:]]
    assert found(effects=effects, runs=runs) == set()
    assert found(effects=effects, runs=[run(1, outcome="lost", finished=13.5), *runs[1:]]) == {"key overlap"}


def test_a_lease_that_was_taken_back_while_the_clock_was_wrong_ended_at_the_true_time() -> None:
    effects = [effect(1, end=30), effect(2, "b", begin=13, end=14), OF_SERIES]
    runs = [run(1, outcome="lost", finished=42), run(4), *SOUND.runs[1:]]
    assert found(effects=effects, runs=runs) == {"key overlap"}
    assert found(effects=effects, runs=runs, steps=[Step(10, 20, 30)]) == set()
    assert found(effects=effects, runs=runs, steps=[Step(20, 25, 30)]) == {"key overlap"}


def test_a_cycle_beside_its_slots_is_off_the_grid() -> None:
    assert found(runs=[*SOUND.runs, run(4, "s", due=61.5)]) == {"off grid"}


def test_a_cycle_that_is_tried_again_is_due_when_its_last_run_ended() -> None:
    runs = [*SOUND.runs, run(4, "s", "lost", due=120.0), run(5, "s", due=131.5)]
    assert "off grid" not in found(runs=runs)
    assert "off grid" in found(runs=[*runs, run(6, "s", due=191.5)])


def test_a_series_that_is_due_for_long_has_starved() -> None:
    assert found(now=90) == {"starved"}


def test_a_series_that_served_few_of_its_slots_has_starved() -> None:
    assert found(rows=[series(run_at=180.0)], now=181) == {"starved"}
    assert found(rows=[series(run_at=120.0)], now=121) == set()


def test_a_message_that_a_vendor_accepted_twice_was_sent_twice() -> None:
    assert found(messages=[*SOUND.messages, ("campaign 1", "x")]) == {"sent twice"}


def test_effects_that_a_later_run_repeated_are_doubled() -> None:
    effects = [effect(1), effect(2), effect(3, "b")]
    doubled = judge.doubled(effects, [run(1, outcome="lost"), run(2), run(3, "b")])
    assert doubled == [(effects[0], "lost")]


def test_recovery_is_the_time_until_over_half_of_the_rate_is_back() -> None:
    before = [number / 10 for number in range(100)]
    assert judge.recovery([*before, *(13 + number / 10 for number in range(20))], 10, 12) == 1
    assert judge.recovery([*before, 13.0], 10, 12) == float("inf")
    assert judge.recovery([13.0, 13.1], 10, 12) == float("inf")
