"""Members of flows are jobs like others: limits, maximum ages, snoozes, edits and pauses hold for them too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.queue import operator
from tests.core.queue.flows.steps import enqueue, extend, fail, member, outcomes, states
from tests.support.queue import ACTOR, Connection, report

MINUTE = timedelta(minutes=1)
AGED = "SELECT array_agg(id ORDER BY id) FROM job_queue WHERE expires_at - run_at = interval '60 s'"
"""The jobs that expire a minute after they are due."""


def settle(conn: Connection, **limits: int) -> None:
    """Sets limits of the type `alpha`."""
    operator.set_type(conn, "alpha", changes=limits, actor=ACTOR, reason=None)


def work_off(conn: Connection) -> int:
    """Runs everything that can run, until nothing can. Returns the largest number of runs at a time."""
    most = 0
    while runs := conn.claim():
        most = max(most, len(runs))
        conn.finish(*map(report, runs))
    return most


def loads(number: int, **fields: Any) -> list[dict[str, Any]]:
    return [member(f"load {place}", **fields) for place in range(number)]


class TestLimits:
    def test_members_of_a_limited_type_run_a_few_at_a_time_and_their_join_runs_last(self, conn: Connection) -> None:
        settle(conn, max_running=2)
        ids = enqueue(conn, *loads(5), member("join", [f"load {place}" for place in range(5)]))
        assert work_off(conn) == 2
        newest: UUID = conn.value("SELECT job_id FROM job_runs ORDER BY run_token DESC LIMIT 1")
        assert newest == ids["join"]
        assert conn.value("SELECT count(*) FROM job_runs") == 6

    def test_as_many_members_with_a_key_can_run_at_once_as_their_type_lets_run(self, conn: Connection) -> None:
        settle(conn, max_per_key=2)
        enqueue(conn, *loads(3, concurrency_key="k"))
        first = conn.claim()
        assert len(first) == 2
        conn.finish(*map(report, first))
        conn.claim_one()

    def test_members_with_a_key_that_are_released_together_run_as_many_at_once_as_their_type_lets_run(
        self, conn: Connection
    ) -> None:
        settle(conn, max_per_key=2)
        enqueue(conn, member("first"), *loads(3, concurrency_key="k", after=["first"]))
        conn.finish_one(conn.claim_one())
        assert len(conn.claim()) == 2

    def test_a_join_waits_for_the_rate_of_its_type(self, conn: Connection) -> None:
        settle(conn, rate_runs=1, rate_seconds=60)
        enqueue(conn, member("a"), member("join", ["a"]))
        conn.finish_one(conn.claim_one())
        assert conn.claim() == []
        conn.advance(MINUTE)
        assert [run.task_type for run in conn.claim()] == ["alpha"]


class TestTimeouts:
    def test_members_have_the_timeouts_of_their_own_also_those_that_a_run_adds(self, conn: Connection) -> None:
        ids = enqueue(conn, member("split", timeout=5), member("join", ["split"]))
        run = conn.claim_one()
        for _ in range(2):
            ids |= extend(conn, run, member("load a", timeout=7.5), member("load b"))
        given = conn.rows("SELECT job_id, seconds FROM job_timeouts ORDER BY seconds")
        assert given == [{"job_id": ids["split"], "seconds": 5.0}, {"job_id": ids["load a"], "seconds": 7.5}]
        assert run.timeout == 5.0

    @pytest.mark.parametrize("given", [0, -1, "NaN", 31_622_401, "soon"])
    def test_what_is_no_timeout_is_refused_with_a_sentence_and_nothing_is_enqueued(
        self, conn: Connection, given: object
    ) -> None:
        with conn.changes_nothing(), pytest.raises(psycopg.Error, match="Nothing was enqueued") as raised:
            enqueue(conn, member("load"), member("slow", timeout=given))
        assert raised.value.sqlstate == "JD001"


class TestMaximumAge:
    def test_members_get_the_maximum_age_of_their_type(self, conn: Connection) -> None:
        settle(conn, max_age_seconds=60)
        ids = enqueue(conn, member("a"), member("b", ["a"]), {**member("other"), "task_type": "beta"})
        assert conn.value(AGED) == [ids["a"], ids["b"]]
        assert conn.job_row(ids["other"])["expires_at"] is None

    def test_members_that_a_run_adds_get_it_too(self, conn: Connection) -> None:
        enqueue(conn, member("a"), member("join", ["a"]))
        run = conn.claim_one()
        settle(conn, max_age_seconds=60)
        ids = extend(conn, run, member("more"))
        assert conn.value(AGED) == [ids["more"]]

    def test_a_member_that_expires_fails_its_join(self, conn: Connection) -> None:
        settle(conn, max_age_seconds=60)
        wait = {**member("join", ["a", "b"]), "task_type": "beta"}
        told = {**member("told", ["a", "b"], needs="end"), "task_type": "beta"}
        ids = enqueue(conn, member("a"), {**member("b"), "task_type": "beta"}, wait, told)
        conn.advance(MINUTE)
        conn.reap()
        assert states(conn) == {"a": "cancelled", "b": "pending", "join": "lost", "told": "blocked"}
        conn.finish_one(conn.claim_one(["beta"]))
        assert conn.claim_one(["beta"]).id == ids["told"]
        ended = {name: (one["outcome"], one["error"]) for name, one in outcomes(conn, ids["told"]).items()}
        assert ended == {"a": ("cancelled", "The job expired before a worker could run it."), "b": ("succeeded", None)}

    @pytest.mark.slow
    def test_a_retry_of_an_expired_member_revives_its_join_without_the_expiry_that_has_passed(
        self, conn: Connection
    ) -> None:
        settle(conn, max_age_seconds=60)
        ids = enqueue(conn, member("a"), member("join", ["a"]), member("last", ["join"]))
        fail(conn, conn.claim_one())
        assert states(conn) == {"a": "failed", "join": "lost", "last": "lost"}
        conn.advance(MINUTE)
        assert operator.retry(conn, [ids["a"]], actor=ACTOR)[0].ok
        conn.reap()
        assert states(conn) == {"a": "pending", "join": "blocked", "last": "blocked"}
        work_off(conn)
        assert states(conn) == {"a": "succeeded", "join": "succeeded", "last": "succeeded"}

    def test_a_join_that_expires_while_it_waits_is_cancelled_and_a_retry_of_its_blocker_does_not_revive_it(
        self, conn: Connection
    ) -> None:
        settle(conn, max_age_seconds=60)
        ids = enqueue(conn, {**member("a"), "task_type": "beta"}, member("join", ["a"]))
        conn.advance(MINUTE)
        conn.reap()
        assert states(conn) == {"a": "pending", "join": "cancelled"}
        fail(conn, conn.claim_one(["beta"]))
        assert operator.retry(conn, [ids["a"]], actor=ACTOR)[0].ok
        assert states(conn) == {"a": "pending", "join": "cancelled"}


class TestRunsThatAreNotTheLast:
    @pytest.mark.parametrize("outcome", ["snoozed", "continued", "released", "failed"])
    def test_a_blocker_that_runs_again_is_waited_for(self, conn: Connection, outcome: str) -> None:
        ids = enqueue(conn, member("a"), member("join", ["a"]))
        fields = {"checkpoint": {"n": 1}} if outcome == "continued" else {}
        conn.finish_one(conn.claim_one(), outcome, **fields)
        assert states(conn) == {"a": "pending", "join": "blocked"}
        conn.advance(timedelta(hours=2))
        conn.finish_one(conn.claim_one())
        assert conn.claim_one().id == ids["join"]

    def test_a_join_that_snoozes_gets_the_same_outcomes_in_its_next_run(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("join", ["a"], needs="end"))
        fail(conn, conn.claim_one())
        before = outcomes(conn, ids["join"])
        conn.finish_one(conn.claim_one(), "snoozed", delay=5.0)
        conn.advance(MINUTE)
        assert conn.claim_one().id == ids["join"]
        assert outcomes(conn, ids["join"]) == before


class TestSeries:
    @pytest.mark.parametrize(
        "changes",
        [
            {"recurrence_interval_minutes": 5},
            {"schedule": {"seconds": 30}},
            {"schedule": {"cron": "0 9 * * *", "zone": "UTC"}, "slots": ["2050-01-01T09:00:00Z"]},
        ],
    )
    def test_neither_a_member_nor_what_a_member_waits_for_is_made_a_series(
        self, conn: Connection, changes: dict[str, object]
    ) -> None:
        outside = conn.add("beta")
        ids = enqueue(conn, member("a", after_jobs=[str(outside.id)]))
        for job_id, code in ((ids["a"], "member-recurs"), (outside.id, "blocker-recurs")):
            with conn.changes_nothing():
                answer = operator.edit(conn, job_id, changes=dict(changes), actor=ACTOR)
            assert (answer.ok, answer.code) == (False, code)

    def test_a_job_that_no_member_waits_for_any_more_can_be_made_a_series(self, conn: Connection) -> None:
        outside = conn.add("beta")
        ids = enqueue(conn, member("a", after_jobs=[str(outside.id)]))
        operator.cancel(conn, [ids["a"]], actor=ACTOR)
        assert operator.edit(conn, outside.id, changes={"recurrence_interval_minutes": 5}, actor=ACTOR).ok


class TestPauses:
    def test_a_join_of_a_paused_type_waits_for_the_pause_as_well(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), {**member("join", ["a"]), "task_type": "beta"})
        operator.pause(conn, task_type="beta", reason="r", actor=ACTOR)
        conn.finish_one(conn.claim_one())
        assert conn.claim(["alpha", "beta"]) == []
        operator.resume(conn, task_type="beta", actor=ACTOR)
        assert conn.claim_one(["alpha", "beta"]).id == ids["join"]
