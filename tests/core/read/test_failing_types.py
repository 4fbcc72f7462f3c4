"""What health says of task types of which too many runs fail."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.verdict import failing_types
from jobdeck.core.read.verdict.health import health
from tests.support.queue import Connection, now, value
from tests.support.run_history import History

MINUTE = timedelta(minutes=1)


def judged(history: History) -> list[Finding]:
    """What health says after a judgement at this moment."""
    history.conn.execute("SELECT job_stats_judge(clock_timestamp())")
    findings = health().run(history.conn).findings
    return [finding for finding in findings if finding.signal == failing_types.SIGNAL]


@pytest.fixture
def history(conn: Connection) -> History:
    return History(conn)


def test_a_type_that_fails_has_its_own_finding_with_the_counts(history: History) -> None:
    at = now(history.conn)
    for hour in range(3, 100):
        history.ran(at - timedelta(hours=hour), succeeded=98, failed=2)
    history.ran(at, succeeded=108, retried=412)
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    assert finding.evidence == "push: 79 % of runs failed in the last 15 minutes (412 of 520, usually 2.0 %)."
    assert finding.since == value(history.conn, "SELECT since FROM job_failing_types")
    assert health().run(history.conn).verdict is Verdict.CRITICAL


def test_each_type_has_a_finding_of_its_own_name(history: History) -> None:
    at = now(history.conn)
    for task_type in ("push", "pull"):
        History(history.conn, task_type).ran(at, failed=30)
    assert {finding.name for finding in judged(history)} == {"failures of push", "failures of pull"}


@pytest.mark.parametrize(
    ("runs", "said"), [(19, "the last 19 runs failed"), (20, "100 % of runs failed in the last 15 minutes (20 of 20")]
)
def test_it_says_by_which_rule_the_type_fails(history: History, runs: int, said: str) -> None:
    history.ran(now(history.conn), failed=runs)
    (finding,) = judged(history)
    assert said in finding.evidence


def test_few_runs_that_failed_in_a_row_are_a_warning(history: History) -> None:
    history.ran(now(history.conn), failed=3)
    (finding,) = judged(history)
    assert (finding.verdict, finding.evidence) == (Verdict.WARNING, "push: the last 3 runs failed.")


def test_an_incident_that_calms_down_says_since_when(history: History) -> None:
    at = now(history.conn)
    history.ran(at - 20 * MINUTE, failed=30)
    assert history.judged(at - 20 * MINUTE) == "critical"
    history.ran(at, succeeded=100, failed=1)
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    assert "push: 1.0 % of runs failed in the last 15 minutes (1 of 101" in finding.evidence
    assert "; below half of 80 % since " in finding.evidence


def test_a_muted_type_is_named_and_is_no_alarm(history: History) -> None:
    history.ran(now(history.conn), failed=30)
    history.conn.execute(
        "INSERT INTO job_types (task_type, muted_until, muted_by) VALUES ('push', now() + interval '1 hour', 'kim')"
    )
    (finding,) = judged(history)
    assert finding.verdict is Verdict.OK
    assert "; muted by kim until " in finding.evidence
    history.conn.execute("UPDATE job_types SET muted_until = now() - interval '1 second'")
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    assert "muted" not in finding.evidence


def test_a_type_that_does_not_fail_has_no_finding(history: History) -> None:
    history.ran(now(history.conn), succeeded=1000)
    assert judged(history) == []
