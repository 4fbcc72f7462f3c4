"""How many jobs wait: exact up to 10,000, and then `10,000+`; and how many are ahead of a job."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from jobdeck.core.model import Status
from jobdeck.core.queue import operator, presence
from jobdeck.core.read import history, reports
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.report_types import Backlog, Clause, Counts
from jobdeck.core.read.sentences import amount
from tests.support.health import announce
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, WORKER, Connection
from tests.support.run_history import History

MORE: Final = Counts.LIMIT + 1
"""What is found where there are more jobs than are counted."""


def wait(conn: Connection, task_type: str, number: int, **columns: str) -> None:
    """Enqueues jobs that have been due since an hour ago, with ids that are the same in every run of the test."""
    given = {"run_at": "now() - interval '1 hour' + n * interval '1 ms'"} | columns
    statement = (
        "INSERT INTO job_queue (id, task_type, {}) SELECT md5(%s || n)::uuid, %s, {} FROM generate_series(1, %s) n"
    )
    filled = statement.format(", ".join(given), ", ".join(given.values()))
    conn.execute(filled.encode(), (task_type, task_type, number))


def stored(conn: Connection) -> dict[str, int]:
    found = conn.execute("SELECT task_type, count(*) FROM job_queue WHERE status = 'pending' GROUP BY 1").fetchall()
    return dict(found)


def backlog(conn: Connection) -> dict[str, Backlog]:
    return {line.task_type: line for line in read_jobs.backlog().run(conn)}


def turn(conn: Connection, job_id: UUID) -> Clause:
    last = read_jobs.why(job_id).run(conn)[-1]
    assert last.name == "turn"
    return last


def finish_in_the_last_full_minute(conn: Connection, number: int, task_type: str) -> None:
    at = conn.now()
    for minutes in range(-1, 4):
        History(conn, task_type).ran(at - timedelta(minutes=minutes), succeeded=number)


@pytest.fixture
def skewed(conn: Connection) -> Connection:
    """One type with most jobs, all of them overdue; others with few, with none due, and with all but one in line."""
    wait(conn, "push", 38_000)
    wait(conn, "push tomorrow", 22_000, run_at="now() + interval '1 day' + n * interval '1 ms'")
    wait(conn, "few", 7)
    wait(conn, "at the limit", 10_000, priority="n %% 3")
    wait(conn, "in line", 400, concurrency_key="'key'", in_line="n > 1")
    wait(conn, "ended", 30_000, status="'failed'")
    return conn


class TestByType:
    @pytest.mark.slow
    def test_types_up_to_ten_thousand_are_exact_and_others_say_that_there_are_more(self, skewed: Connection) -> None:
        found, exact = backlog(skewed), stored(skewed)
        assert {name: (line.waiting, line.at_least) for name, line in found.items()} == {
            name: (min(jobs, MORE), jobs > Counts.LIMIT) for name, jobs in exact.items()
        }

    @pytest.mark.slow
    def test_what_is_overdue_is_counted_apart_and_not_what_waits_for_another_job(self, skewed: Connection) -> None:
        found = backlog(skewed)
        assert (found["push"].overdue, found["push"].overdue_at_least) == (MORE, True)
        overdue = {name: line.overdue for name, line in found.items() if not line.overdue_at_least}
        assert overdue == {"push tomorrow": 0, "few": 7, "at the limit": 10_000, "in line": 1}
        since = skewed.value("SELECT min(created_at) FROM job_queue WHERE task_type = 'push'")
        assert found["push"].due_since == since

    def test_only_what_is_due_for_longer_than_asked_is_overdue(self, conn: Connection) -> None:
        for minutes in (4, 6, 8):
            conn.add(run_at=conn.now() - timedelta(minutes=minutes))
        (line,) = read_jobs.backlog(timedelta(minutes=7)).run(conn)
        assert (line.waiting, line.overdue) == (3, 1)
        (line,) = read_jobs.backlog().run(conn)
        assert (line.waiting, line.overdue) == (3, 2)

    def test_a_type_whose_jobs_all_wait_for_others_is_found_too(self, conn: Connection) -> None:
        first = conn.add("first")
        for _ in range(3):
            conn.add("second", blocked_by=first.id)
        line = backlog(conn)["second"]
        assert (line.waiting, line.at_least, line.overdue, line.due_since) == (3, False, 0, None)

    @pytest.mark.slow
    def test_behind_a_long_line_each_type_may_have_more_jobs_than_were_counted(self, conn: Connection) -> None:
        wait(conn, "line", 20_000, concurrency_key="'key'", in_line="n > 1")
        wait(conn, "free", 30)
        found = {name: (line.waiting, line.at_least, line.overdue) for name, line in backlog(conn).items()}
        assert found == {"line": (MORE + 1, True, 1), "free": (30, True, 30)}

    @pytest.mark.slow
    def test_behind_types_with_very_many_jobs_each_is_counted_up_to_a_thousand(self, conn: Connection) -> None:
        for number in range(10):
            wait(conn, f"a{number}", Counts.LIMIT + 5)
        wait(conn, "behind", 1200)
        wait(conn, "behind too", 999)
        found = {name: (line.waiting, line.at_least) for name, line in backlog(conn).items()}
        assert found == {f"a{number}": (MORE, True) for number in range(10)} | {
            "behind": (1000, True), "behind too": (999, False)
        }  # fmt: skip

    @pytest.mark.slow
    def test_in_a_vacuumed_queue_jobs_are_counted_in_the_index_of_the_claim_alone(self, skewed: Connection) -> None:
        skewed.execute("CHECKPOINT")  # VACUUM passes over rows whose commit is not on the disk
        skewed.execute("VACUUM job_queue")
        cost = cost_of(skewed, read_jobs.backlog().run)
        # Three types are counted up to 10,000, and their overdue jobs.
        assert cost.entries["job_queue_claimable"] < 55_000
        assert cost.blocks["job_queue"] < 1000

    def test_an_empty_queue_has_no_types(self, conn: Connection) -> None:
        assert backlog(conn) == {}


class TestCounts:
    @pytest.mark.slow
    def test_each_status_is_counted_up_to_ten_thousand_and_then_says_that_there_are_more(
        self, skewed: Connection
    ) -> None:
        counts = read_jobs.counts().run(skewed)
        assert counts == Counts(pending=MORE, failed=MORE)
        assert {status for status in Status if counts.at_least(status)} == {Status.PENDING, Status.FAILED}
        assert counts.at_least(None)

    def test_jobs_that_wait_for_others_and_jobs_that_do_not_are_counted_together(self, conn: Connection) -> None:
        wait(conn, "free", 6000)
        wait(conn, "in line", 4000, concurrency_key="'key'", in_line="n > 0")
        assert read_jobs.counts().run(conn) == Counts(pending=10_000)
        wait(conn, "too", 1, concurrency_key="'key'", in_line="n > 0")
        counts = read_jobs.counts().run(conn)
        assert (counts.pending, counts.at_least(Status.PENDING)) == (MORE, True)

    def test_a_sum_of_exact_numbers_is_exact(self) -> None:
        counts = Counts(pending=6000, failed=6000, succeeded=6000, removed=6000)
        assert (counts.of(None), counts.at_least(None), counts.at_least(Status.SUCCEEDED)) == (18_000, False, False)

    def test_successes_that_left_the_queue_are_counted_up_to_ten_thousand_too(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome, removed)
            SELECT n, gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now(), 'succeeded', true
            FROM generate_series(1, 12000) AS n
            """
        )
        counts = read_jobs.counts().run(conn)
        assert (counts.removed, counts.at_least(Status.SUCCEEDED)) == (MORE, True)

    @pytest.mark.slow
    def test_a_call_of_the_scheduler_records_how_many_jobs_were_due(self, skewed: Connection) -> None:
        presence.open_worker_run(skewed, source="cron_http", worker_id=WORKER)
        (run,) = history.worker_runs().run(skewed)
        assert run.due_before == MORE
        for name in ("push", "at the limit"):
            operator.pause(skewed, reason=None, actor=ACTOR, task_type=name)
        presence.open_worker_run(skewed, source="cron_http", worker_id=WORKER)
        assert history.worker_runs(limit=1).run(skewed)[0].due_before == 7 + 1


class TestTurn:
    def test_jobs_of_the_same_workers_are_ahead_by_priority_then_due_time(self, conn: Connection) -> None:
        announce(conn, types=["alpha", "beta"])
        at = conn.now() - timedelta(hours=1)
        wanted = conn.add(run_at=at).id
        assert turn(conn, wanted) == Clause(
            "turn", True, "No due job is ahead.", "none-ahead", {"ahead": 0, "at_least": False, "per_second": None}
        )
        conn.add(run_at=at - timedelta(minutes=1))
        conn.add(run_at=at + timedelta(minutes=1))
        conn.add("beta", run_at=at + timedelta(minutes=1), priority=5)
        conn.add("beta", run_at=conn.now() + timedelta(minutes=1), priority=5)
        conn.add("beta", run_at=at - timedelta(minutes=1), priority=-5)
        found = turn(conn, wanted)
        assert (found.holds, found.facts["ahead"]) == (False, 2)
        assert [job.task_type for job in conn.claim(["alpha", "beta"], limit=3)][:2] == ["beta", "alpha"]

    def test_jobs_of_paused_types_of_other_workers_and_behind_others_are_not_ahead(self, conn: Connection) -> None:
        announce(conn, types=["alpha", "paused"])
        announce(conn, "worker-2", types=["foreign"])
        at = conn.now() - timedelta(hours=1)
        wanted = conn.add(run_at=at).id
        for name in ("paused", "foreign"):
            conn.add(name, run_at=at - timedelta(minutes=1))
        conn.add(run_at=at - timedelta(minutes=1), blocked_by=wanted)
        operator.pause(conn, reason=None, actor=ACTOR, task_type="paused")
        assert turn(conn, wanted).facts["ahead"] == 0

    @pytest.mark.slow
    def test_a_job_behind_a_backlog_says_that_more_than_ten_thousand_are_ahead_and_how_fast_they_run(
        self, conn: Connection
    ) -> None:
        announce(conn, types=["push", "last"])
        announce(conn, "worker-2", types=["foreign"])
        wait(conn, "push", 38_000)
        finish_in_the_last_full_minute(conn, 3000, "push")
        finish_in_the_last_full_minute(conn, 90_000, "of other workers")
        found = turn(conn, conn.add("last").id)
        assert found.facts == {"ahead": MORE, "at_least": True, "per_second": 50.0}
        assert found.evidence == "10,000+ due jobs are ahead; the workers of this type finish 50/s."

    def test_ten_thousand_are_exact(self, conn: Connection) -> None:
        announce(conn, types=["push", "last"])
        wait(conn, "push", 10_000)
        found = turn(conn, conn.add("last").id)
        words = "10,000 due jobs are ahead; the workers of this type finished no run in the last full minute."
        assert (found.facts["ahead"], found.facts["at_least"], found.evidence) == (10_000, False, words)

    @pytest.mark.parametrize("fields", [{"run_at": "tomorrow"}, {"blocked": True}, {"worker": False}])
    def test_a_job_that_cannot_be_claimed_has_no_turn(self, fields: dict[str, Any], conn: Connection) -> None:
        if fields.get("worker", True):
            announce(conn, types=["alpha"])
        blocker = conn.add("beta").id if fields.get("blocked") else None
        run_at = conn.now() + timedelta(days=1 if "run_at" in fields else -1)
        job_id = conn.add(run_at=run_at, blocked_by=blocker).id
        assert [clause.name for clause in read_jobs.why(job_id).run(conn)][-1] == "concurrency"


class TestCronHealth:
    def test_the_report_has_the_backlog_and_the_number_of_series(self, conn: Connection) -> None:
        for number in range(3):
            conn.add(run_at=conn.now() - timedelta(minutes=10))
            conn.add("series", recurrence_interval_minutes=5, payload={"n": number})
        report = reports.cron().run(conn)
        assert [(line.task_type, line.overdue) for line in report.backlog] == [("alpha", 3), ("series", 0)]
        assert (report.series_found, len(report.series)) == (3, 3)


@pytest.mark.parametrize(("number", "at_least", "text"), [
    (0, False, "0"), (9412, False, "9,412"), (18_000, False, "18,000"), (10_001, True, "10,000+"),
    (1000, True, "1,000+"), (16_412, True, "16,000+"), (64, True, "64+"),
])  # fmt: skip
def test_a_number_that_was_not_counted_to_its_end_is_written_in_thousands_with_a_plus(
    number: int, at_least: bool, text: str
) -> None:
    assert amount(number, at_least=at_least) == text
