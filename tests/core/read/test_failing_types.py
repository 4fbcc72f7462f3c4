"""What health says of task types of which too many runs fail."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.batch import as_viewer
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.verdict import failing_types
from jobdeck.core.read.verdict.health import health
from tests.support.failed_runs import of_coach, ran
from tests.support.health import findings
from tests.support.queue import Connection, moment
from tests.support.run_history import History

MINUTE = timedelta(minutes=1)


def judged(history: History) -> list[Finding]:
    """What health says after a judgement at this moment."""
    history.conn.execute("SELECT job_stats_judge(clock_timestamp())")
    return findings(history.conn, failing_types.SIGNAL)


@pytest.fixture
def history(conn: Connection) -> History:
    return History(conn)


def test_a_type_that_fails_has_its_own_finding_with_the_counts(history: History) -> None:
    at = history.conn.now()
    for hour in range(3, 100):
        history.ran(at - timedelta(hours=hour), succeeded=98, failed=2)
    history.ran(at, succeeded=108, retried=412)
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    words = f"push: 79 % of runs failed in the 15 minutes to {at:%H:%M}Z (412 of 520, usually 2.0 %); green by "
    assert finding.evidence.startswith(words)
    assert finding.since == history.conn.value("SELECT since FROM job_failing_types")
    assert health().run(history.conn).verdict is Verdict.CRITICAL


def test_a_verdict_that_rises_names_the_payload_key_of_which_one_value_fails(history: History) -> None:
    of_coach(history.conn)
    at = history.conn.now()
    history.ran(at, succeeded=279, retried=21)
    history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.02)")
    (finding,) = judged(history)
    assert finding.evidence.startswith("push: one coachId fails 70 %; 7.0 % of runs failed in the 15 minutes to ")
    assert "bad" not in str(history.conn.execute("SELECT f::text FROM job_failing_types AS f").fetchall())


def test_the_key_is_looked_for_once_while_a_verdict_lasts_and_again_when_it_rises(history: History) -> None:
    at = history.conn.now()
    history.conn.execute("INSERT INTO job_types (task_type, warning_share, critical_share) VALUES ('push', 0.1, 0.8)")
    history.ran(at, succeeded=60, retried=40)
    assert history.judged(at) == "warning"
    of_coach(history.conn)
    history.ran(at, succeeded=60, retried=40)
    assert history.judged(at) == "warning"
    assert history.conn.value("SELECT facet_key FROM job_failing_types") is None
    history.ran(at, retried=1000)
    assert history.judged(at) == "critical"
    assert history.conn.value("SELECT facet_key FROM job_failing_types") == "coachId"


def test_the_value_is_read_from_a_run_by_who_may_see_payloads(history: History) -> None:
    of_coach(history.conn)
    history.ran(history.conn.now(), succeeded=20, failed=20)
    judged(history)
    assert failing_types.facet_values().run(history.conn) == {"push": ("coachId", "bad")}
    with as_viewer(history.conn):
        assert failing_types.facet_values().run(history.conn) == {}
    history.conn.execute("DELETE FROM job_runs")
    assert failing_types.facet_values().run(history.conn) == {}


def test_the_most_common_error_of_the_newest_failures_is_read_as_the_page_of_errors_shows_it(conn: Connection) -> None:
    for number, error in enumerate(("refused by host 1", *("vendor answered 429", "vendor answered 503") * 2)):
        conn.add("push", payload={"n": number}, max_attempts=1)
        conn.run_once(("push",), "failed", error=error, error_kind="vendor")
    assert failing_types.common_errors().run(conn) == {}
    judged(History(conn))
    assert failing_types.common_errors().run(conn) == {"push": "vendor answered 503"}
    with as_viewer(conn):
        (shown,) = {one.sample for one in error_groups.groups().run(conn) if one.count == 4}
        assert failing_types.common_errors().run(conn) == {"push": shown}
    conn.execute("SELECT job_stats_compact(1000)")
    conn.execute("DELETE FROM job_runs")
    assert failing_types.common_errors().run(conn) == {"push": "vendor answered #"}


def test_a_long_key_is_cut(history: History) -> None:
    ran(history.conn, 100, {"k" * 200: 1})
    ran(history.conn, 20, {"k" * 200: 2}, "failed")
    history.ran(history.conn.now(), succeeded=20, failed=20)
    (finding,) = judged(history)
    assert f"one {'k' * 59}… fails 100 %" in finding.evidence


def test_a_type_without_a_history_has_no_usual_share(history: History) -> None:
    history.ran(history.conn.now(), failed=30)
    (finding,) = judged(history)
    assert "(30 of 30); green by" in finding.evidence


def test_each_type_has_a_finding_of_its_own_name(history: History) -> None:
    at = history.conn.now()
    for task_type in ("push", "pull"):
        History(history.conn, task_type).ran(at, failed=30)
    assert {finding.name for finding in judged(history)} == {"failures of push", "failures of pull"}


@pytest.mark.parametrize(("runs", "said"), [(19, "the last 19 runs failed"), (20, "100 % of runs failed")])
def test_it_says_by_which_rule_the_type_fails(history: History, runs: int, said: str) -> None:
    history.ran(history.conn.now(), failed=runs)
    (finding,) = judged(history)
    assert said in finding.evidence


def test_few_runs_that_failed_in_a_row_are_a_warning(history: History) -> None:
    history.ran(history.conn.now(), failed=3)
    (finding,) = judged(history)
    words = "push: the last 3 runs failed; green after 15 minutes of good runs."
    assert (finding.verdict, finding.evidence) == (Verdict.WARNING, words)


def test_few_runs_of_which_many_failed_end_with_good_ones(history: History) -> None:
    at = history.conn.now()
    for before in range(12):
        history.ran(at - before * 2 * MINUTE, succeeded=1, failed=1)
    history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.1)")
    (finding,) = judged(history)
    assert finding.verdict is Verdict.WARNING
    assert f"push: 50 % of the last 20 runs failed, up to {at:%H:%M}Z (10 of 20)" in finding.evidence
    assert "; green after the next 20 good runs." in finding.evidence


def test_an_incident_that_calms_down_says_since_when_and_until_when(history: History) -> None:
    at = history.conn.now()
    history.ran(at - 20 * MINUTE, failed=30)
    assert history.judged(at - 20 * MINUTE) == "critical"
    history.ran(at, succeeded=100, failed=1)
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    calm = history.conn.value("SELECT calm_since FROM job_failing_types")
    words = (
        f"push: recovering since {calm:%H:%M}Z: 1.0 % of runs failed in the 15 minutes to {calm:%H:%M}Z (1 of 101); "
    )
    assert finding.evidence.startswith(words)
    assert finding.evidence.endswith(f"green at {calm + 16 * MINUTE:%H:%M}Z if no run fails.")


def test_an_incident_that_is_less_bad_and_goes_on_is_not_called_a_recovery(history: History) -> None:
    at = history.conn.now()
    history.ran(at - 20 * MINUTE, failed=30)
    assert history.judged(at - 20 * MINUTE) == "critical"
    history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.1)")
    history.ran(at, succeeded=70, failed=30)
    (finding,) = judged(history)
    calm = history.conn.value("SELECT calm_since FROM job_failing_types")
    assert finding.verdict is Verdict.CRITICAL
    assert finding.evidence == (
        f"push: 30 % of runs failed in the 15 minutes to {calm:%H:%M}Z (30 of 100); less bad since {calm:%H:%M}Z, "
        f"a warning at {calm + 16 * MINUTE:%H:%M}Z if it gets no worse, "
        f"green by {at + 31 * MINUTE:%H:%M}Z if no run fails."
    )


@pytest.mark.parametrize("failed", [0, 1, 30])
def test_no_end_that_has_passed_is_named_as_one_to_come(history: History, failed: int) -> None:
    at = history.conn.now()
    history.ran(at - 20 * MINUTE, failed=30)
    assert history.judged(at - 20 * MINUTE) == "critical"
    history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.1)")
    history.ran(at, succeeded=70, failed=failed)
    judged(history)
    history.conn.execute(
        "UPDATE job_failing_types SET calm_since = %s, last_failed_at = %s", (at - 16 * MINUTE, at - 40 * MINUTE)
    )
    (finding,) = findings(history.conn, failing_types.SIGNAL)
    assert "until" not in finding.evidence
    assert not re.search(r"(?:green|warning) (?:at|by) \d", finding.evidence), finding.evidence
    assert "at the next judgement" in finding.evidence


def test_it_says_of_which_time_the_runs_are_where_nobody_judges_any_more(history: History) -> None:
    at = history.conn.now() - 6 * MINUTE
    history.ran(at, succeeded=20, failed=80)
    assert history.judged(at) == "critical"
    (finding,) = findings(history.conn, failing_types.SIGNAL)
    assert f"in the 15 minutes to {at:%H:%M}Z" in finding.evidence


def test_a_paused_type_keeps_what_was_found_and_says_since_when(history: History) -> None:
    at = history.conn.now() - 30 * MINUTE
    history.ran(at, succeeded=15, failed=85)
    assert history.judged(at) == "critical"
    history.conn.execute("INSERT INTO job_types (task_type, paused_at) VALUES ('push', %s)", (at + MINUTE,))
    (finding,) = judged(history)
    assert finding.verdict is Verdict.CRITICAL
    assert finding.evidence.endswith(f"(85 of 100); paused since {at + MINUTE:%H:%M}Z.")


def test_a_type_without_runs_keeps_what_was_found_and_ends_as_a_note(history: History) -> None:
    at = history.conn.now() - 30 * MINUTE
    history.ran(at, succeeded=60, failed=40)
    history.conn.execute("INSERT INTO job_types (task_type, warning_share) VALUES ('push', 0.1)")
    assert history.judged(at) == "warning"
    (finding,) = judged(history)
    assert finding.evidence.endswith(f"(40 of 100); no run since {at:%H:%M}Z.")
    history.conn.execute("UPDATE job_failing_types SET last_at = last_at - interval '30 minutes'")
    (finding,) = judged(history)
    ended = f"push: ended at 40 %, no run since {at - 30 * MINUTE:%H:%M}Z."
    assert (finding.verdict, finding.evidence, finding.since) == (Verdict.OK, ended, None)


def test_jobs_lost_and_a_new_error_are_one_finding_with_the_share(conn: Connection) -> None:
    at = conn.now() - MINUTE
    for number in range(30):
        conn.add("push", payload={"n": number}, run_at=at)
    held = conn.claim(("push",), limit=30)
    for number, job in enumerate(held):
        started, finished = moment(job)
        failure = {"error": f"vendor answered {number}", "error_kind": "VendorError", "permanent": True}
        conn.finish_one(job, "failed", started=started, finished=finished, **failure)
    assert len(held) == 30
    History(conn, "push").ran(conn.now(), succeeded=1000)
    conn.execute("SELECT job_stats_compact(1000)")
    (finding,) = judged(History(conn, "push"))
    assert finding.verdict is Verdict.WARNING
    said, _, end = finding.evidence.partition("; green by ")
    assert re.sub(r"\d\d:\d\dZ", "NOW", said) == (
        "push: 30 jobs failed permanently in the 15 minutes to NOW; 30 runs with a new error: vendor answered #; "
        "2.9 % of 1,030 runs failed"
    )
    assert end.endswith("Z if no run fails.")


def test_a_new_error_whose_runs_were_pruned_has_its_pattern_and_one_that_was_erased_has_no_words(
    history: History,
) -> None:
    at = history.conn.now()
    history.ran(at, succeeded=1000)
    history.erred(at, "new", 20)
    history.add_up()
    (finding,) = judged(history)
    assert "push: 20 runs with a new error; " in finding.evidence
    history.conn.execute("UPDATE job_error_groups SET pattern = repeat('vendor answered # ', 9)")
    (finding,) = judged(history)
    assert (
        "push: 20 runs with a new error: vendor answered # vendor answered # vendor answered # vendo…; "
        in finding.evidence
    )


def test_a_muted_type_is_named_and_is_no_alarm(history: History) -> None:
    history.ran(history.conn.now(), failed=30)
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
    history.ran(history.conn.now(), succeeded=1000)
    assert judged(history) == []
