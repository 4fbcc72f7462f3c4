"""What health says about the queue's upkeep."""

from __future__ import annotations

from datetime import timedelta

import pytest
from psycopg import sql

from jobdeck.core.model import Verdict
from tests.support.health import finding, judged, verdict
from tests.support.queue import Connection


class TestUpkeep:
    """Upkeep that stops is a finding, and so are runs that it cannot take back."""

    @pytest.fixture(autouse=True)
    def worker(self, conn: Connection) -> None:
        conn.insert("job_workers")
        # The schema of a test's database may have been installed minutes ago.
        conn.execute("UPDATE job_upkeep SET succeeded_at = now()")

    def test_upkeep_that_succeeds_is_no_finding(self, conn: Connection) -> None:
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour' WHERE part <> 'bulk'")
        assert verdict(conn, "upkeep") is Verdict.CRITICAL
        conn.reap()
        assert verdict(conn, "upkeep") is None

    @pytest.mark.parametrize(
        ("part", "function"),
        [
            ("lost", "job_queue_reap_lost"),
            ("expired", "job_queue_end_expired"),
            ("recheck", "job_queue_check_again"),
            ("pauses", "job_queue_resume_due"),
        ],
    )
    def test_a_part_that_fails_has_not_succeeded_and_the_others_have(
        self, conn: Connection, part: str, function: str
    ) -> None:
        conn.advance(timedelta(hours=1))
        conn.execute(sql.SQL("ALTER FUNCTION {} RENAME TO not_there").format(sql.Identifier(function)))
        conn.execute("UPDATE job_workers SET heartbeat_at = now()")
        assert list(conn.reap().troubles) == [part]
        late = "SELECT part FROM job_upkeep WHERE succeeded_at < now() - interval '1 minute' AND part <> 'bulk'"
        assert conn.value(late) == part
        found = judged(conn, "upkeep", Verdict.CRITICAL, part)
        assert f"42883 function {function}" in found.evidence

    @pytest.mark.parametrize("part", ["lost", "expired", "recheck", "pauses", "prune", "retention", "bulk"])
    def test_a_part_that_has_not_succeeded_for_three_of_its_periods_is_critical(
        self, conn: Connection, part: str
    ) -> None:
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - 2 * every WHERE part = %s", (part,))
        assert verdict(conn, "upkeep") is None
        conn.execute(
            "UPDATE job_upkeep SET succeeded_at = now() - 3.1 * every, trouble = '53200 out of memory' WHERE part = %s",
            (part,),
        )
        judged(conn, "upkeep", Verdict.CRITICAL, part, "53200 out of memory")

    def test_where_a_scheduler_runs_the_jobs_its_interval_and_a_minute_are_the_period(self, conn: Connection) -> None:
        conn.execute("UPDATE job_workers SET mode = 'cycle'")
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '17 minutes' WHERE part = 'lost'")
        assert verdict(conn, "upkeep") is None
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '19 minutes' WHERE part = 'lost'")
        assert verdict(conn, "upkeep") is Verdict.CRITICAL

    def test_a_lost_run_that_was_set_aside_is_critical(self, conn: Connection) -> None:
        conn.execute("UPDATE job_upkeep SET set_aside = 2, trouble = '53200 out of memory' WHERE part = 'lost'")
        found = finding(conn, "upkeep")
        assert found.evidence == (
            "The database refuses to start or take back 2 jobs, which are set aside: 53200 out of memory"
        )
