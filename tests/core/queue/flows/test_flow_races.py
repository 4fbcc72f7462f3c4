"""Flows while several sessions work at once: no join is lost, and none runs before its blockers have ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob
from jobdeck.core.queue import operator
from tests.core.queue.flows.steps import enqueue, fail, member, states
from tests.support.queue import ACTOR, Connection, Parallel, report
from tests.support.waiting import rounds


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """A second session, whose statements are one transaction until it commits."""
    with Connection.connect(database_url) as session:
        yield session


def two_and_a_join(conn: Connection, needs: str = "success") -> tuple[dict[str, UUID], ClaimedJob, ClaimedJob]:
    """Two running jobs and the join that waits for both; it waits for the second one first."""
    ids = enqueue(conn, member("a"), member("b"), member("join", ["a", "b"], needs=needs))
    first, second = conn.claim()
    assert conn.value("SELECT blocked_by FROM job_queue WHERE id = %s", ids["join"]) == second.id
    return ids, first, second


class TestEndsAtTheSameTime:
    def test_an_end_that_does_not_see_the_join_point_to_it_is_found_by_upkeep(
        self, conn: Connection, other: Connection
    ) -> None:
        _, first, second = two_and_a_join(conn)
        other.finish(report(second))  # points the join to the first
        conn.finish(report(first))  # does not see that
        other.commit()
        assert states(conn)["join"] == "blocked"
        conn.reap()
        assert states(conn)["join"] == "pending"

    def test_upkeep_does_not_forget_a_blocker_that_is_ending_in_an_open_transaction(
        self, conn: Connection, other: Connection, database_url: str
    ) -> None:
        _, first, second = two_and_a_join(conn)
        with Connection.connect(database_url) as third:
            other.finish(report(second))
            third.finish(report(first))
            other.commit()
            conn.reap()
            third.commit()
        assert states(conn)["join"] == "blocked"
        conn.reap()
        assert states(conn)["join"] == "pending"

    @pytest.mark.parametrize("hidden", ["cancelled", "deleted", "not yet enqueued"])
    def test_upkeep_cancels_a_join_that_was_hidden_from_a_blocker_that_failed(
        self, conn: Connection, other: Connection, hidden: str
    ) -> None:
        parts = enqueue(conn, member("a"), member("b"), member("c"))
        runs = {run.id: run for run in conn.claim()}

        def join(session: Connection) -> UUID:
            return enqueue(session, member("join", after_jobs=[str(part) for part in parts.values()]))["join"]

        if hidden == "cancelled":
            join(conn)
            operator.cancel(conn, [parts["a"]], actor=ACTOR)
            conn.finish(report(runs[parts["a"]], "cancelled"))
            assert states(conn)["join"] == "lost"
            other.execute("SELECT")  # begins the transaction that `retry` would commit otherwise
            operator.retry(other, [parts["a"]], actor=ACTOR)
        elif hidden == "deleted":
            deleted = join(conn)
            operator.delete(conn, [deleted], actor=ACTOR)
            other.execute("SELECT")
            operator.restore(other, [deleted], actor=ACTOR)
        else:
            join(other)
        fail(conn, runs[parts["b"]])
        other.commit()
        assert states(conn)["join"] == "blocked"
        conn.reap()
        assert states(conn)["join"] == "lost"

    def test_nor_does_it_for_a_job_outside_a_flow_that_was_enqueued_meanwhile(
        self, conn: Connection, other: Connection, database_url: str
    ) -> None:
        conn.add()
        blocker = conn.claim_one()
        with Connection.connect(database_url) as third:
            other.execute("SELECT")  # begins the transaction that `add` would commit otherwise
            waiting = other.add(blocked_by=blocker.id)
            third.finish(report(blocker))
            other.commit()
            conn.reap()
            third.commit()
        assert conn.claim() == []
        conn.reap()
        assert conn.claim_one().id == waiting.id

    def test_a_locked_join_is_cancelled_by_upkeep_when_a_blocker_fails_meanwhile(
        self, conn: Connection, other: Connection
    ) -> None:
        ids, first, _ = two_and_a_join(conn)
        other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (ids["join"],))
        fail(conn, first)
        assert states(conn)["join"] == "blocked"
        other.commit()
        conn.reap()
        assert states(conn)["join"] == "lost"

    def test_a_failure_and_a_success_at_the_same_time_leave_the_join_cancelled(
        self, conn: Connection, other: Connection
    ) -> None:
        _, first, second = two_and_a_join(conn)
        fail(other, first)
        conn.finish(report(second))  # finds the join locked
        other.commit()
        conn.reap()
        assert states(conn) == {"a": "failed", "b": "succeeded", "join": "lost"}

    @pytest.mark.slow
    def test_a_retry_waits_for_a_release_that_has_not_ended_and_blocks_the_join_again(
        self, conn: Connection, other: Connection, database_url: str
    ) -> None:
        ids, first, second = two_and_a_join(conn, "end")
        fail(conn, first)
        other.finish(report(second))  # releases the join
        Parallel(database_url)(
            lambda session: _retry(session, ids["a"]), lambda _: _commit_when_waited_for(conn, other)
        )
        assert states(conn)["join"] == "blocked"
        assert {run.id for run in conn.claim()} == {ids["a"]}


class TestManyAtOnce:
    @pytest.mark.slow
    def test_joins_whose_blockers_end_in_four_sessions_are_each_released_once(
        self, conn: Connection, database_url: str
    ) -> None:
        joins = [
            enqueue(conn, *(member(f"{number}") for number in range(8)), member("join", map(str, range(8))))["join"]
            for _ in range(25)
        ]
        runs = conn.claim(limit=1_000)
        assert len(runs) == 200

        def end(share: list[ClaimedJob], session: Connection) -> None:
            for place in range(0, len(share), 3):
                session.finish(*map(report, share[place : place + 3]))

        Parallel(database_url)(*(lambda session, at=at: end(runs[at::4], session) for at in range(4)))
        ran: list[UUID] = []
        for _ in rounds("the runs of all joins"):
            conn.reap()
            found = conn.claim(limit=100)
            ran += [run.id for run in found]
            conn.finish(*map(report, found))
            if len(ran) >= len(joins):
                break
        assert sorted(ran) == sorted(joins)
        assert conn.value("SELECT count(*) FROM job_queue") == 0


def _retry(session: Connection, job_id: UUID) -> None:
    """Retries a job, again and again while the lock that it waits for is held for too long."""
    for _ in rounds("the retry"):
        with suppress(Refused):
            assert operator.retry(session, [job_id], actor=ACTOR)[0].ok
            return


def _commit_when_waited_for(conn: Connection, other: Connection) -> None:
    """Commits once another session waits for this one."""
    pid = other.info.backend_pid
    for _ in rounds("a session that waits"):
        if conn.value(
            "SELECT exists (SELECT FROM pg_locks l WHERE NOT granted AND %s = ANY (pg_blocking_pids(l.pid)))", pid
        ):
            other.commit()
            return
