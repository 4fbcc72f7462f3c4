"""The failure share of task types: when too many runs of one type fail, and when that is over.

The histories are simulated: their runs are statistics of chosen minutes, and the judgement is made for a chosen time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest

from jobdeck.core.model import FAILURES, SUCCESSES
from tests.support.queue import Connection, rows, value
from tests.support.run_history import NOW, History

MINUTE: Final = timedelta(minutes=1)


@pytest.fixture
def history(conn: Connection) -> History:
    return History(conn)


def test_a_type_that_fails_as_usual_has_no_verdict(history: History) -> None:
    history.usually(succeeded=95, failed=5)
    history.ran(NOW - MINUTE, succeeded=57, failed=3)
    assert history.judged() is None


def test_four_failures_of_five_are_critical_at_the_first_judgement_that_sees_twenty_runs(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW - MINUTE, succeeded=4, retried=15)
    assert history.judged() is None
    history.ran(NOW, retried=1)
    assert history.judged() == "critical"
    (found,) = rows(history.conn, "SELECT runs, failed, usual, threshold, since FROM job_failing_types")
    assert (found["runs"], found["failed"], found["since"]) == (20, 16, NOW)
    assert found["usual"] == pytest.approx(167 / 16602)
    assert found["threshold"] == 0.5


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("outcome", ["failed", "retried", "lost"])
def test_a_failed_a_retried_and_a_lost_run_count_whether_they_are_summed_yet_or_not(
    history: History, outcome: str, summed: bool
) -> None:
    history.ran(NOW - 14 * MINUTE, succeeded=2, **{outcome: 20})
    if summed:
        history.add_up()
    assert history.judged() == "critical"


@pytest.mark.parametrize(
    ("usual_failures", "failed", "verdict"),
    [
        (0, 9, None), (0, 11, "warning"),  # never below u + 10 points
        (20, 39, None), (20, 41, "warning"),  # 2 u
        (20, 49, "warning"), (20, 51, "critical"),  # u + 30 points, at least 50 %
        (40, 69, None), (40, 71, "critical"),  # u + 30 points; 2 u is above it
    ],
)  # fmt: skip
def test_the_thresholds_follow_the_usual_share(
    history: History, usual_failures: int, failed: int, verdict: str | None
) -> None:
    history.usually(succeeded=1000 - 10 * usual_failures, failed=10 * usual_failures)
    history.ran(NOW - MINUTE, succeeded=100 - failed, failed=failed)
    assert history.judged() == verdict


def test_thresholds_of_a_type_hold_instead(history: History) -> None:
    history.conn.execute("INSERT INTO job_types (task_type, warning_share, critical_share) VALUES ('push', 0.02, 0.04)")
    history.ran(NOW - MINUTE, succeeded=97, failed=3)
    assert history.judged() == "warning"
    history.ran(NOW - MINUTE, failed=2)
    assert history.judged() == "critical"


def test_dry_runs_and_runs_that_did_not_end_count_as_neither(history: History) -> None:
    history.ran_dry(NOW - MINUTE, failed=100)
    history.ran(NOW - MINUTE, cancelled=100, released=100, abandoned=100)
    history.ran(NOW - MINUTE, succeeded=30, failed=1)
    assert history.judged() is None
    assert value(history.conn, "SELECT runs FROM job_failure_shares(%s, true)", NOW) == 31


def test_runs_of_before_the_last_quarter_of_an_hour_do_not_count(history: History) -> None:
    history.ran(NOW - 16 * MINUTE, failed=100)
    history.ran(NOW - MINUTE, succeeded=30, failed=1)
    assert history.judged() is None


@pytest.mark.parametrize("minutes", range(0, 180, 30))
def test_each_run_before_the_last_hour_is_usual_once_at_any_time_of_the_day(history: History, minutes: int) -> None:
    at = NOW + minutes * MINUTE
    for before in range(0, 300, 10):
        history.ran(at - before * MINUTE, succeeded=1)
    history.add_up()
    usual = value(history.conn, "SELECT usual_runs FROM job_failure_shares(%s, false)", at)
    assert usual == len([before for before in range(0, 300, 10) if before > 60])


def test_three_failures_in_a_row_warn_where_few_runs_end(history: History) -> None:
    history.ran(NOW - timedelta(hours=5), succeeded=1)
    history.ran(NOW - timedelta(hours=3), failed=1)
    history.ran(NOW - timedelta(hours=1, minutes=2), lost=1)
    assert history.judged() is None
    history.ran(NOW - MINUTE, retried=1)
    assert history.judged() == "warning"
    history.ran(NOW, succeeded=1)
    assert history.judged(NOW + 16 * MINUTE) == "warning"
    assert history.judged(NOW + 31 * MINUTE) is None


@pytest.mark.parametrize("summed", [False, True])
def test_a_success_between_failures_of_one_minute_breaks_the_row(history: History, summed: bool) -> None:
    history.ran(NOW - timedelta(seconds=20), failed=2)
    history.ran(NOW - timedelta(seconds=10), succeeded=1)
    history.ran(NOW, failed=2)
    if summed:
        history.add_up()
    assert history.judged() is None


def test_failures_after_a_success_of_the_same_hour_are_in_a_row(history: History) -> None:
    history.ran(NOW - 4 * MINUTE, succeeded=1)
    history.ran(NOW - 3 * MINUTE, failed=2)
    history.ran(NOW, failed=1)
    history.add_up()
    assert history.judged() == "warning"
    assert value(history.conn, "SELECT failed_in_a_row FROM job_failing_types") == 3


def test_it_is_over_after_a_quarter_of_an_hour_below_half_of_the_threshold(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    for minute in range(16, 60):
        history.ran(NOW + minute * MINUTE, succeeded=10)
    assert history.judged(NOW + 16 * MINUTE) == "critical"
    assert history.judged(NOW + 30 * MINUTE) == "critical"
    assert history.judged(NOW + 31 * MINUTE) is None
    assert history.judged(NOW + 32 * MINUTE) is None


def test_a_relapse_begins_the_quarter_of_an_hour_again(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    assert history.judged(NOW + 16 * MINUTE) == "critical"
    history.ran(NOW + 25 * MINUTE, failed=10, succeeded=10)
    assert history.judged(NOW + 25 * MINUTE) == "critical"
    history.ran(NOW + 41 * MINUTE, succeeded=10)
    assert history.judged(NOW + 41 * MINUTE) == "critical"
    assert history.judged(NOW + 55 * MINUTE) == "critical"
    assert history.judged(NOW + 56 * MINUTE) is None
    assert value(history.conn, "SELECT count(*) FROM job_failing_types") == 0


def test_what_was_critical_becomes_a_warning_where_that_still_holds(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    for minute in range(16, 40):
        history.ran(NOW + minute * MINUTE, succeeded=8, failed=2)
    assert history.judged(NOW + 16 * MINUTE) == "critical"
    assert history.judged(NOW + 31 * MINUTE) == "warning"
    assert value(history.conn, "SELECT since FROM job_failing_types") == NOW


def test_an_incident_whose_type_is_paused_is_over_half_an_hour_later(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW - 5 * MINUTE, succeeded=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    assert history.judged(NOW + 16 * MINUTE) == "critical"
    # The last runs that ended all failed.
    assert history.judged(NOW + 31 * MINUTE) == "warning"
    assert history.judged(NOW + timedelta(days=1, hours=1)) == "warning"
    assert history.judged(NOW + timedelta(days=1, hours=1, minutes=16)) is None


def test_a_clock_that_is_set_back_neither_ends_nor_prolongs_it(history: History) -> None:
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    assert history.judged(NOW + 16 * MINUTE) == "critical"
    assert history.judged(NOW - timedelta(hours=2)) == "critical"
    assert history.judged(NOW - timedelta(hours=2) + 16 * MINUTE) in {"warning", None}


def test_each_type_is_judged_by_itself(history: History) -> None:
    other = History(history.conn, "mail")
    history.ran(NOW, failed=30)
    other.ran(NOW, succeeded=1000, failed=2)
    assert (history.judged(), other.judged()) == ("critical", None)


def test_the_outcomes_that_count_are_those_of_the_program(conn: Connection) -> None:
    failures, successes = (value(conn, "SELECT job_outcomes(%s)", kind) for kind in (True, False))
    assert set(failures) == {outcome.value for outcome in FAILURES}
    assert set(successes) == {outcome.value for outcome in SUCCESSES}
