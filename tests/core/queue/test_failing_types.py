"""The verdict on task types: when too many of their runs fail, when it rises, falls, and becomes a note.

The histories are simulated: their runs are statistics of chosen minutes, and the judgement is made for a chosen time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.model import FAILURES, SUCCESSES
from tests.support.examples import examples
from tests.support.queue import Connection
from tests.support.run_history import NOW, History

MINUTE: Final = timedelta(minutes=1)


@pytest.fixture
def history(conn: Connection) -> History:
    return History(conn)


def test_a_type_that_fails_as_usual_has_no_verdict(history: History) -> None:
    history.usually(succeeded=95, failed=5)
    history.ran(NOW - MINUTE, succeeded=57, failed=3)
    assert history.judged() is None


def test_four_failures_of_five_are_critical(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW - 2 * MINUTE, succeeded=4)
    assert history.judged() is None
    history.ran(NOW - MINUTE, retried=16)
    assert history.judged() == "critical"
    (found,) = history.conn.rows("SELECT runs, failed, usual, critical_share, since FROM job_failing_types")
    assert (found["runs"], found["failed"], found["since"]) == (20, 16, NOW)
    assert found["usual"] == pytest.approx(167 / 16602)
    assert found["critical_share"] == 0.5


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("outcome", ["failed", "retried", "lost"])
def test_a_failed_a_retried_and_a_lost_run_count_whether_they_are_summed_yet_or_not(
    history: History, outcome: str, summed: bool
) -> None:
    history.ran(NOW - 14 * MINUTE, succeeded=2, **{outcome: 20})
    if summed:
        history.add_up()
    assert history.judged() == "critical"


@pytest.mark.slow
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
    assert history.conn.value("SELECT runs FROM job_failure_shares(%s)", NOW) == 31


def test_runs_of_before_the_last_quarter_of_an_hour_do_not_count_where_twenty_ended_since(history: History) -> None:
    history.ran(NOW - 16 * MINUTE, failed=100)
    history.ran(NOW - MINUTE, succeeded=30, failed=1)
    assert history.judged() is None


@pytest.mark.parametrize("minutes", range(0, 180, 30))
def test_each_run_before_the_last_hour_is_usual_once_at_any_time_of_the_day(history: History, minutes: int) -> None:
    at = NOW + minutes * MINUTE
    for before in range(0, 300, 10):
        history.ran(at - before * MINUTE, succeeded=1)
    history.add_up()
    usual = history.conn.value("SELECT usual_runs FROM job_failure_shares(%s)", at)
    assert usual == len([before for before in range(0, 300, 10) if before > 60])


def test_three_failures_in_a_row_warn_where_few_runs_end(history: History) -> None:
    history.ran(NOW - timedelta(hours=5), succeeded=1)
    history.ran(NOW - timedelta(hours=3), failed=1)
    history.ran(NOW - timedelta(hours=1, minutes=2), lost=1)
    assert history.judged() is None
    history.ran(NOW - MINUTE, retried=1)
    assert history.judged() == "warning"
    history.ran(NOW + MINUTE, succeeded=1)
    assert history.judged(NOW + MINUTE) == "warning"
    history.ran(NOW + 16 * MINUTE, succeeded=1)
    assert history.judged(NOW + 16 * MINUTE) is None


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
    assert history.conn.value("SELECT failed_in_a_row FROM job_failing_types") == 3


@pytest.mark.slow
def test_it_falls_after_a_quarter_of_an_hour_of_runs_below_the_threshold(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    shown = {minute: history.judged_good_runs(NOW + minute * MINUTE) for minute in range(1, 60)}
    # Half of the runs of the last 15 minutes fail until the 4th minute, and the failures leave them in the 16th.
    assert {minute for minute, verdict in shown.items() if verdict == "critical"} == set(range(1, 19))
    assert {minute for minute, verdict in shown.items() if verdict} == set(range(1, 19))


@pytest.mark.slow
def test_a_relapse_begins_the_quarter_of_an_hour_again(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    assert history.judged_good_runs(NOW + 16 * MINUTE, runs=30) == "critical"
    history.ran(NOW + 25 * MINUTE, failed=40)
    assert history.judged(NOW + 25 * MINUTE) == "critical"
    assert history.judged_good_runs(NOW + 41 * MINUTE, runs=30) == "critical"
    assert history.judged_good_runs(NOW + 55 * MINUTE, runs=30) == "critical"
    assert history.judged_good_runs(NOW + 56 * MINUTE, runs=30) is None


@pytest.mark.slow
def test_what_was_critical_becomes_a_warning_where_that_still_holds(history: History) -> None:
    history.usually(succeeded=99, failed=1)
    history.ran(NOW, failed=30)
    assert history.judged() == "critical"
    shown = []
    for minute in range(16, 33):
        history.ran(NOW + minute * MINUTE, succeeded=16, failed=4)
        shown.append(history.judged(NOW + minute * MINUTE))
    assert shown == ["critical"] * 15 + ["warning"] * 2
    assert history.conn.value("SELECT since FROM job_failing_types") == NOW


class TestRising:
    @pytest.mark.slow
    def test_a_verdict_does_not_rise_because_successes_leave_the_window_first(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW - MINUTE, succeeded=16_000, retried=700)
        history.ran(NOW, succeeded=80, retried=155)
        assert history.judged() is None
        assert history.judged(NOW + 15 * MINUTE) is None
        assert history.judged_good_runs(NOW + 15 * MINUTE, runs=1) is None

    def test_a_verdict_does_not_rise_in_a_pause(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW - 2 * MINUTE, succeeded=60)
        history.ran(NOW - MINUTE, failed=38, succeeded=2)
        assert history.judged() == "warning"
        assert {history.judged(NOW + minute * MINUTE) for minute in range(59)} == {"warning"}

    def test_a_failed_canary_after_a_pause_is_judged_with_the_runs_before_it(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW, failed=40, succeeded=60)
        assert history.judged() == "warning"
        history.ran(NOW + 40 * MINUTE, failed=1)
        assert history.judged(NOW + 40 * MINUTE) == "warning"
        (found,) = history.conn.rows("SELECT runs, failed, few FROM job_failing_types")
        assert found == {"runs": 20, "failed": 9, "few": True}

    @pytest.mark.slow
    def test_it_rises_with_the_next_failed_run(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW - 14 * MINUTE, succeeded=500)
        history.ran(NOW, failed=40)
        assert history.judged() is None
        assert history.judged_good_runs(NOW + 3 * MINUTE) is None
        history.ran(NOW + 4 * MINUTE, failed=1)
        assert history.judged(NOW + 4 * MINUTE) == "critical"

    def test_failures_that_a_judgement_saw_raise_nothing_when_the_clock_comes_back_to_them(
        self, history: History
    ) -> None:
        history.ran(NOW + timedelta(hours=2), failed=30)
        assert history.judged(NOW) is None
        history.ran(NOW + MINUTE, succeeded=1)
        assert history.judged(NOW + MINUTE) is None
        assert history.judged_good_runs(NOW + timedelta(hours=2, minutes=1), runs=1) is None

    def test_statistics_that_were_removed_by_hand_raise_nothing_and_hide_nothing(self, history: History) -> None:
        history.ran(NOW, succeeded=1, failed=30)
        history.add_up()
        assert history.judged() == "critical"
        history.conn.execute("TRUNCATE job_stats")
        history.ran(NOW + MINUTE, failed=21)
        assert history.judged(NOW + MINUTE) == "critical"
        assert history.conn.value("SELECT seen_failed FROM job_failing_types") == 21


class TestFewRuns:
    def test_the_last_twenty_runs_of_a_day_are_judged_where_few_end(self, history: History) -> None:
        history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.15)")
        for before in range(30):
            history.ran(NOW - before * 7 * MINUTE, **{"failed" if before in {0, 5, 19, 25} else "succeeded": 1})
        history.add_up()
        assert history.judged() == "warning"
        (found,) = history.conn.rows("SELECT runs, failed, few FROM job_failing_types")
        assert found == {"runs": 20, "failed": 3, "few": True}

    @pytest.mark.slow
    def test_it_falls_after_twenty_good_runs(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        for before in range(10):
            history.ran(NOW - before * 2 * MINUTE, succeeded=1, failed=1)
        assert history.judged() == "critical"
        shown = [history.judged_good_runs(NOW + (1 + run) * MINUTE, runs=1) for run in range(30)]
        assert shown.index(None) <= 20
        assert set(shown[shown.index(None) :]) == {None}

    def test_runs_that_are_older_than_a_day_are_not_judged(self, history: History) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW - timedelta(days=1, hours=1), failed=30)
        history.ran(NOW - MINUTE, succeeded=1)
        history.ran(NOW, failed=1)
        assert history.judged() is None

    def test_three_attempts_of_a_nightly_job_that_always_fails_are_a_warning(self, history: History) -> None:
        history.ran(NOW - timedelta(days=1), failed=3)
        history.ran(NOW, retried=2, failed=1)
        assert history.judged() == "warning"


class TestNotes:
    def test_an_hour_without_a_run_and_without_a_due_job_makes_it_a_note(self, history: History) -> None:
        history.ran(NOW, failed=30)
        assert history.judged() == "critical"
        assert history.judged(NOW + 59 * MINUTE) == "critical"
        assert history.judged(NOW + 60 * MINUTE) == "note"
        assert history.judged(NOW + timedelta(hours=23)) == "note"
        assert history.judged(NOW + timedelta(days=1)) is None

    @pytest.mark.parametrize("state", ["due", "running"])
    def test_it_stays_while_a_job_is_due_or_runs(self, history: History, state: str) -> None:
        job = history.conn.add_waiting(NOW, "push")
        if state == "running":
            history.conn.claim(("push",))
        history.ran(NOW, failed=30)
        assert history.judged() == "critical"
        assert history.judged(NOW + timedelta(hours=3)) == "critical"
        history.conn.execute("DELETE FROM job_queue WHERE id = %s", (job.id,))
        assert history.judged(NOW + timedelta(hours=3)) == "note"

    def test_a_job_that_is_due_later_keeps_no_verdict(self, history: History) -> None:
        history.conn.add("push", run_at=NOW + timedelta(hours=5))
        history.ran(NOW, failed=30)
        assert history.judged() == "critical"
        assert history.judged(NOW + timedelta(hours=3)) == "note"

    def test_a_good_run_does_not_raise_a_note_and_a_failed_one_does(self, history: History) -> None:
        history.ran(NOW, failed=30)
        assert history.judged() == "critical"
        later = NOW + timedelta(hours=2)
        assert history.judged(later) == "note"
        assert history.judged_good_runs(later, runs=1) == "note"
        history.ran(later + MINUTE, failed=1)
        assert history.judged(later + MINUTE) == "critical"
        assert history.conn.value("SELECT since FROM job_failing_types") == later + MINUTE

    def test_good_runs_end_a_note(self, history: History) -> None:
        history.ran(NOW, failed=30)
        assert history.judged() == "critical"
        assert history.judged(NOW + timedelta(hours=2)) == "note"
        assert history.judged_good_runs(NOW + timedelta(hours=2), runs=20) is None


class TestJobsLost:
    @pytest.mark.parametrize(("lost", "verdict"), [(19, None), (20, "warning"), (199, "warning"), (200, "critical")])
    def test_jobs_that_failed_permanently_count_whatever_their_share(
        self, history: History, lost: int, verdict: str | None
    ) -> None:
        history.usually(succeeded=99, failed=1)
        history.ran(NOW - MINUTE, succeeded=16_000)
        history.lost(NOW, lost)
        assert history.judged() == verdict

    def test_the_number_of_a_type_holds_instead(self, history: History) -> None:
        history.conn.execute("INSERT INTO job_types (task_type, lost_jobs) VALUES ('push', 2)")
        history.ran(NOW - MINUTE, succeeded=1000)
        history.lost(NOW, 1)
        assert history.judged() is None
        history.lost(NOW, 1)
        assert history.judged() == "warning"

    def test_it_falls_as_every_verdict(self, history: History) -> None:
        history.ran(NOW - MINUTE, succeeded=1000)
        history.lost(NOW, 30)
        assert history.judged() == "warning"
        shown = [history.judged_good_runs(NOW + minute * MINUTE, runs=30) for minute in (15, 16, 30, 31)]
        assert shown == ["warning", "warning", "warning", None]


class TestNewErrors:
    @pytest.mark.slow
    def test_twenty_runs_of_a_group_that_was_not_there_an_hour_ago_are_a_warning(self, history: History) -> None:
        history.usually(succeeded=990, failed=10)
        history.ran(NOW - MINUTE, succeeded=1000)
        history.erred(NOW - MINUTE, "new", 19)
        assert history.judged() is None
        history.erred(NOW, "new", 1)
        assert history.judged() == "warning"
        (found,) = history.conn.rows("SELECT new_runs, new_since FROM job_failing_types")
        assert found == {"new_runs": 20, "new_since": NOW - MINUTE}

    def test_an_error_that_was_seen_before_is_not_new(self, history: History) -> None:
        history.usually(succeeded=990, failed=10)
        history.erred(NOW - timedelta(hours=2), "old", 1)
        history.ran(NOW - MINUTE, succeeded=1000)
        history.erred(NOW, "old", 20)
        assert history.judged() is None

    def test_a_muted_one_is_no_reason(self, history: History) -> None:
        history.conn.execute(
            "INSERT INTO job_error_mutes (task_type, fingerprint, until, actor) VALUES ('push', 'new', %s, 'kim')",
            (NOW + timedelta(hours=2),),
        )
        history.ran(NOW - MINUTE, succeeded=1000)
        history.erred(NOW, "new", 20)
        assert history.judged() is None

    @pytest.mark.slow
    def test_it_ends_a_quarter_of_an_hour_after_it_is_new_no_more(self, history: History) -> None:
        history.usually(succeeded=990, failed=10)
        history.ran(NOW - MINUTE, succeeded=1000)
        history.erred(NOW, "new", 20)
        assert history.judged() == "warning"
        shown = [history.judged_good_runs(NOW + minute * MINUTE, runs=30) for minute in (59, 60, 74, 75)]
        assert shown == ["warning", "warning", "warning", None]


LEVELS: Final = (None, "note", "warning", "critical")
SECONDS: Final = (0, 10, 300, 1000, 4200, 172_800)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ran"), st.sampled_from((0, 1, 7, 40, 900)), st.sampled_from((0, 0, 1, 3, 40))),
        st.tuples(st.sampled_from(("lost", "erred")), st.just(0), st.sampled_from((1, 30, 300))),
        st.tuples(st.just("time"), st.sampled_from(SECONDS), st.just(0)),
        st.tuples(st.just("clock"), st.sampled_from((60, 1200, 10_800, -60, -1200, -10_800)), st.just(0)),
        st.tuples(st.sampled_from(("pause", "due", "add up")), st.just(0), st.just(0)),
    ),
    min_size=10,
    max_size=60,
)


def happened(history: History, at: datetime, step: str, good: int, failed: int) -> None:
    """What happens at this time beside that time passes."""
    if step == "ran":
        history.ran(at, succeeded=good, retried=failed)
    elif step == "lost":
        history.lost(at, failed)
    elif step == "erred":
        history.erred(at, "error", failed)
    elif step == "pause":
        pause = "INSERT INTO job_types (task_type, paused_at) VALUES ('push', now()) ON CONFLICT DO NOTHING"
        history.conn.execute(pause)
    elif step == "due":
        history.conn.add("push", run_at=at)
    elif step == "add up":
        history.add_up()


def tried(history: History, steps: list[tuple[str, int, int]]) -> None:
    """Judges after each step but one of the clock, which is seen with what comes after it."""
    at, before = NOW, history.judged(NOW)
    for step, amount, failed in steps:
        if step in {"time", "clock"}:
            at += timedelta(seconds=amount)
        happened(history, at, step, amount, failed)
        if step == "clock":
            continue
        verdict = history.judged(at)
        if LEVELS.index(verdict) > max(LEVELS.index(before), LEVELS.index("note")):
            assert failed, f"{before} became {verdict} at {at} without a failed run"
        if not (failed or (amount and step == "ran")) and verdict != before:
            assert (before, verdict) in {("warning", "note"), ("critical", "note"), ("note", None)}
        before = verdict


@pytest.mark.slow
@pytest.mark.limit(300)
def test_in_no_history_does_a_verdict_rise_at_a_judgement_that_sees_no_new_failed_run(history: History) -> None:
    @settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
    @given(STEPS, st.booleans())
    def of_any(steps: list[tuple[str, int, int]], has_history: bool) -> None:
        with history.conn.transaction(force_rollback=True):
            if has_history:
                history.ran(NOW - timedelta(hours=5), succeeded=4000, failed=40)
            tried(history, steps)

    of_any()


def test_each_type_is_judged_by_itself(history: History) -> None:
    other = History(history.conn, "mail")
    history.ran(NOW, failed=30)
    other.ran(NOW, succeeded=1000, failed=2)
    assert (history.judged(), other.judged()) == ("critical", None)


def test_the_outcomes_that_count_are_those_of_the_program(conn: Connection) -> None:
    failures, successes = (conn.value("SELECT job_outcomes(%s)", kind) for kind in (True, False))
    assert set(failures) == {outcome.value for outcome in FAILURES}
    assert set(successes) == {outcome.value for outcome in SUCCESSES}
