"""The judge of the scripted incident by itself: what it compares with, and that a difference fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bench.outage.history import PARTS, ROUND, TYPE, _job
from bench.outage.truth import Share, without_runs
from bench.scripted.checks import Checks

AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_a_comparison_that_does_not_hold_is_remembered_with_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    checks = Checks()
    assert checks.equal("jobs", 200_000, 200_000)
    assert not checks.equal("jobs", 199_999, 200_000)
    assert not checks.holds("share", False, "30.0%", "below 25%")
    assert not checks.becomes("never", lambda: "", 0)
    assert checks.made == 4
    assert checks.failed == [
        "jobs: found 199,999, expected 200,000",
        "share: found 30.0%, expected below 25%",
        "never: found , expected within 0 s",
    ]
    assert capsys.readouterr().out.count("FAIL") == 3


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (Share(19, 19, 1000, 20), None),
        (Share(100, 11, 1000, 20), None),
        (Share(100, 13, 1000, 20), "warning"),
        (Share(100, 49, 1000, 20), "warning"),
        (Share(100, 50, 1000, 20), "critical"),
        (Share(100, 60, 1000, 400), None),
        (Share(100, 79, 0, 0), None),
        (Share(100, 80, 0, 0), "critical"),
    ],
)
def test_a_share_is_judged_by_the_rule_of_the_documents(share: Share, verdict: str | None) -> None:
    assert share.verdict == verdict


def test_a_verdict_without_runs_is_a_note_after_an_hour() -> None:
    found = [without_runs("critical", AT, AT + minute * MINUTE) for minute in (0, 59, 60, 61)]
    assert found == ["critical", "critical", "note", "note"]


def test_the_jobs_of_a_type_are_numbered_without_gaps() -> None:
    jobs = [_job(number) for number in range(3 * ROUND)]
    for task_type, part in PARTS.items():
        numbers = [(job.payload or {})["number"] for job in jobs if job.task_type == task_type]
        assert numbers == list(range(3 * part))
    assert {job.max_attempts for job in jobs if job.task_type == TYPE} == {1, 5}
