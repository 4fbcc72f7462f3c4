"""Each check of the fault sweep is seen to find what was made up for it, and nothing in a sound record."""

from __future__ import annotations

from collections import Counter

from bench.faults import judge
from bench.faults.judge import Effect, Row, Run


def effect(token: int = 1, job: str = "a", what: str = "effect", begin: float = 0.0, end: float = 1.0) -> Effect:
    return Effect(what, job, token, cycle=0, pid=token, key="k", begin=begin, end=end)


def run(token: int = 1, job: str = "a", outcome: str = "succeeded", finished: float = 1.0, due: float = 0.0) -> Run:
    return Run(job, token, outcome == "abandoned", outcome, finished, due, removed=outcome == "succeeded")


def series(**changes: float) -> Row:
    return Row("s", "pending", **{"run_at": 60.0, "anchor": 0.0, "interval": 60.0, **changes})


def test_a_sound_record_has_no_findings() -> None:
    effects = [effect(what="begin"), effect(), effect(2, "b", begin=1, end=2)]
    runs = [run(), run(2, "b"), run(3, "s", due=60)]
    assert judge.judge(effects, runs, [series()], {"a", "b", "s"}, {"c"}, now=61, patience=5) == []


def test_each_check_finds_what_it_is_for() -> None:
    assert judge.lost([run()], [], {"a", "b"}, ())[0].job == "b"
    assert judge.stuck([Row("a", "running", 0)])[0].kind == "stuck"
    assert judge.finished_twice([run(1), run(2)], ())[0].kind == "finished twice"
    assert judge.earlier_claims([effect(2, what="begin")], [run(1)], ())
    assert judge.earlier_claims([effect(1, end=5), effect(2, what="begin", begin=3)], [run(1, outcome="retried")], ())
    assert judge.overlaps([effect(1, end=3), effect(2, "b", begin=2, end=4)], [run(1), run(2, "b")])
    assert judge.off_grid([run(1, "s", due=61.5)], {"s": series()})
    assert judge.starved([series()], now=90, patience=20)


def test_a_frozen_run_holds_its_key_until_its_lease_is_taken_back() -> None:
    effects = [effect(1, end=30), effect(2, begin=13, end=14)]
    assert judge.overlaps(effects, [run(1, outcome="lost", finished=12), run(2)]) == []
    assert judge.doubled(effects, [run(1, outcome="lost"), run(2)]) == Counter({"lost": 1})


def test_recovery_is_the_time_until_over_half_of_the_rate_is_back() -> None:
    before = [number / 10 for number in range(100)]
    assert judge.recovery([*before, *(13 + number / 10 for number in range(20))], 10, 12) == 1
    assert judge.recovery([*before, 13.0], 10, 12) == float("inf")
