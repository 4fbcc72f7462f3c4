"""How a sweep carries out its faults: one that does not begin is tried again, counted, and in the end a finding."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bench.faults import run
from bench.faults.faults import FAULTS, DidNotBegin, Fault, left_out
from bench.faults.judge import Effect, Record, Run, Step
from bench.faults.report import commits, recoveries, table
from bench.faults.run import Done, Sweep
from tests.support.waiting import PATIENCE

NOTHING = Record([], [], [], set(), set(), now=0, patience=0)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of a stage as a fault needs that touches nothing."""
    monkeypatch.setattr(run, "AGAIN_SECONDS", 0)
    return SimpleNamespace(notes=Counter(), troubles=[], workers=[])


def sweep_of(stage: Any, begin: Any) -> tuple[Sweep, Fault]:
    fault = Fault("made up", "nothing", begin)
    return Sweep(stage, random.Random(1), [fault], acts=False), fault


def raising(error: Exception) -> Any:
    """A kind of fault that fails to begin with this error."""

    def begin(_stage: Any) -> Iterator[float]:
        yield from ()
        raise error

    return begin


def test_a_fault_that_begins_late_is_done_and_its_tries_are_counted(stage: Any) -> None:
    tries = iter(range(3))

    def begin(_stage: Any) -> Iterator[float]:
        if next(tries) < 2:
            raise DidNotBegin("nothing to hit")
        yield 0.0

    sweep, fault = sweep_of(stage, begin)
    sweep.carry_out(fault)
    assert [done.name for done in sweep.done] == ["made up"]
    assert sweep.again == {"made up": 2}
    assert sweep.findings(NOTHING, least=1) == []


def test_a_fault_that_never_begins_is_a_finding_with_its_reason(stage: Any) -> None:
    sweep, fault = sweep_of(stage, raising(DidNotBegin("nothing to hit")))
    sweep.carry_out(fault)
    found = sweep.findings(NOTHING, least=1)
    assert [(one.kind, one.evidence) for one in found] == [
        ("trouble", "made up did not begin: nothing to hit"),
        ("too few faults", "made up came 0 times, not 1"),
    ]


def test_a_fault_that_does_not_end_or_breaks_off_is_a_finding(stage: Any) -> None:
    def begin(_stage: Any) -> Iterator[float]:
        yield 0.0
        raise OSError("it stays")

    sweep, fault = sweep_of(stage, begin)
    sweep.carry_out(fault)
    assert stage.troubles == ["made up did not end: it stays"]

    sweep, fault = sweep_of(stage, raising(KeyError("a mistake")))
    sweep.carry_out(fault)
    assert stage.troubles[1] == "made up broke off: KeyError('a mistake')"


def test_a_sweep_that_ends_early_begins_no_other_fault(stage: Any) -> None:
    sweep, fault = sweep_of(stage, lambda _stage: iter([0.0]))
    sweep.ending.set()
    sweep.carry_out(fault)
    assert (sweep.done, stage.troubles) == ([], [])


def test_when_time_and_jobs_are_reached_the_faults_that_wait_for_another_are_left_out(stage: Any) -> None:
    release = threading.Event()

    def begin(_stage: Any) -> Iterator[float]:
        release.wait(PATIENCE)
        yield 0.0

    sweep, fault = sweep_of(stage, begin)
    for until in (math.inf, -math.inf):
        sweep.mixed(iter([fault] * 3), 0.0, until=until, jobs=0)
    release.set()
    sweep.join()
    assert len(sweep.done) == 1
    assert stage.troubles == []


def test_kinds_that_need_root_or_a_package_are_left_out_by_name() -> None:
    bare: Any = SimpleNamespace(server=SimpleNamespace(has_clock=False), disk=None)
    assert left_out(bare).keys() == {"clock", "disk"}
    rich: Any = SimpleNamespace(server=SimpleNamespace(has_clock=True), disk=SimpleNamespace())
    assert left_out(rich) == {}


def test_each_kind_says_what_it_does() -> None:
    assert all((fault.begin.__doc__ or "").strip() for fault in FAULTS.values())


def test_recovery_is_measured_by_commits_in_true_time() -> None:
    before = [number / 10 for number in range(100)]
    after = [53 + number / 10 for number in range(20)]
    runs = [Run("a", token, False, "succeeded", 0.0, 0.0, True, at) for token, at in enumerate(before + after)]
    record = Record([], runs, [], set(), set(), now=0, patience=0, steps=[Step(10, 14, 40)])
    done = [Done("made up", began=10, ended=12)]
    assert recoveries(done, record)["made up"] == [1]
    assert list(table(done, {}, record, alone=True))[1].split() == ["made", "up", "1", "0", "0", "1.00", "1.00"]


def test_a_commit_whose_time_the_clock_told_twice_is_the_one_after_its_effect() -> None:
    effects = [
        Effect("effect", "a", token, 0, 1, "", end - 1, end) for token, end in ((1, 11), (2, 41), (3, 8), (4, 4.5))
    ]
    told = (42, 42, 9, -25)
    runs = [Run("a", token, False, "succeeded", 0, 0, True, at) for token, at in enumerate(told, start=1)]
    ahead = Record(effects[:2], runs[:2], [], set(), set(), now=0, patience=0, steps=[Step(10, 20, 30)])
    assert commits(ahead) == [12, 42]
    behind = Record(effects[2:], runs[2:], [], set(), set(), now=0, patience=0, steps=[Step(1.5, 8, -30)])
    assert commits(behind) == [5, 9]
