"""Limits that are set, changed, and explained to those who wait for a place, canaries among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs
from jobdeck.core.read.type_settings import type_lines
from tests.core.queue.test_limits import limit, limit_clause, many
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection


class TestCanaries:
    def test_a_canary_waits_for_a_place_of_its_type_and_is_told_so(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 2)
        (running,) = conn.claim()
        (waiting,) = conn.rows("SELECT id FROM job_queue WHERE status = 'pending'")
        announce(conn)
        conn.execute("SELECT job_queue_ask_canary(%s, 1, 'kim', NULL, false)", (waiting["id"],))
        assert conn.claim() == []
        (told,) = conn.rows("SELECT code FROM job_canaries c CROSS JOIN job_queue_canary(c.id)")
        assert told["code"] == "type-full"
        conn.finish_one(running)
        (canary,) = conn.claim()
        assert (canary.id, canary.is_canary) == (waiting["id"], True)
        many(conn, 1)
        assert conn.claim() == []


class TestWhy:
    def test_says_that_it_waits_for_a_place_or_for_the_rate_or_how_many_run(self, conn: Connection) -> None:
        limit(conn, max_running=1)
        many(conn, 3)
        (held,) = conn.claim()
        (waiting, *_) = [row["id"] for row in conn.rows("SELECT id FROM job_queue WHERE status = 'pending'")]
        told = limit_clause(conn, waiting)
        assert told is not None
        assert (told[0], told[1].partition(", since ")[0]) == (
            False, f"Waits for a place: 1 of 1 of this type are taken; job {held.id}"
        )  # fmt: skip
        limit(conn, max_running=2)
        assert limit_clause(conn, waiting) == (True, "1 of 2 places of this type are taken.")
        limit(conn, max_running=None, rate_runs=1, rate_seconds=3600)
        assert limit_clause(conn, waiting) == (True, "The rate of this type lets a job start.")
        conn.claim()
        waiting = conn.rows("SELECT id FROM job_queue WHERE status = 'pending'")[0]["id"]
        assert limit_clause(conn, waiting) == (False, "Waits for the rate: next in 3600 s.")

    def test_is_silent_about_types_without_limits_and_jobs_that_run(self, conn: Connection) -> None:
        job = conn.add()
        assert limit_clause(conn, job.id) is None
        limit(conn, max_running=1)
        conn.claim()
        assert limit_clause(conn, job.id) is None

    def test_says_how_many_of_the_key_run(self, conn: Connection) -> None:
        limit(conn, max_per_key=2)
        many(conn, 3, concurrency_key="k")
        conn.claim()
        (waiting,) = conn.rows("SELECT id FROM job_queue WHERE status = 'pending'")
        found = next(one for one in jobs.why(waiting["id"]).run(conn) if one.name == "concurrency")
        assert (found.holds, found.evidence) == (False, "2 of 2 places of the same concurrency key are taken.")


class TestSetting:
    def test_limits_are_kept_listed_and_in_the_audit(self, conn: Connection) -> None:
        limit(conn, max_running=5, max_per_key=2, rate_runs=100, rate_seconds=60, rate_burst=10)
        many(conn, 3)
        conn.claim(limit=2)
        (line,) = type_lines().run(conn)
        assert line.limits == ("2 of 5 run", "100/m start, 10 at once", "2 per key run")
        limit(conn, rate_runs=None, rate_seconds=None, rate_burst=None)
        (line,) = type_lines().run(conn)
        assert line.limits == ("2 of 5 run", "2 per key run")
        changes = [row["after"] for row in conn.audit_rows("set type")]
        assert (changes[0]["max_running"], changes[1]["rate_runs"]) == (5, None)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"max_running": 0}, "pause the type"),
            ({"max_running": -1}, "between 1 and 1,000,000, and -1"),
            ({"max_running": 1_000_001}, "1000001 is not"),
            ({"max_running": 2.5}, "2.5 is not one for max_running"),
            ({"max_running": "many"}, "many is not one"),
            ({"max_running": True}, "true is not one"),
            ({"max_running": 10**30}, "not one for max_running"),
            ({"max_per_key": 0}, "for each key"),
            ({"max_per_key": 1001}, "for each key"),
            ({"rate_runs": 5}, "a period in seconds"),
            ({"rate_seconds": 5}, "a number of runs"),
            ({"rate_runs": 0, "rate_seconds": 5}, "pause the type"),
            ({"rate_runs": 5, "rate_seconds": 0}, "between a second and 31 days"),
            ({"rate_runs": 5, "rate_seconds": 2_678_401}, "31 days"),
            ({"rate_burst": 5}, "no rate"),
            ({"rate_runs": 100, "rate_seconds": 10, "rate_burst": 9}, "between 10"),
            ({"max_runing": 5}, "no setting max_runing"),
        ],
    )
    def test_what_is_no_limit_is_refused_in_a_sentence_and_changes_nothing(
        self, conn: Connection, changes: dict[str, Any], words: str
    ) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match=words):
            conn_set(conn, changes)

    def test_a_rate_without_a_burst_of_its_own_forgets_that_of_the_rate_before(self, conn: Connection) -> None:
        limit(conn, rate_runs=10, rate_seconds=10, rate_burst=5)
        limit(conn, rate_runs=None, rate_seconds=None)
        assert conn.value("SELECT rate_burst FROM job_types") is None


def conn_set(conn: Connection, changes: dict[str, Any]) -> None:
    """Sends settings as any client could."""
    operator.set_type(conn, "alpha", changes=json.loads(json.dumps(changes)), actor=ACTOR, reason=None)
