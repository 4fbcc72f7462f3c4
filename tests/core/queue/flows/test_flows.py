"""Flows: enqueued all or none, a join runs after its blockers, and what becomes of it when one of them fails."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue import operator
from jobdeck.core.queue.operators import flows
from jobdeck.core.read import jobs as read_jobs
from tests.core.queue.flows.steps import enqueue, extend, fail, flow_of, member, outcomes, states
from tests.support.queue import ACTOR, Connection, report
from tests.support.waiting import PATIENCE


def names(conn: Connection, runs: list[ClaimedJob]) -> list[str]:
    """The members that these runs are of."""
    named = dict(conn.execute("SELECT job_id, name FROM job_flow_members").fetchall())
    return [named[run.id] for run in runs]


def one(conn: Connection, name: str) -> ClaimedJob:
    """Claims all that can be claimed, which is the member with this name."""
    runs = conn.claim()
    assert names(conn, runs) == [name]
    return runs[0]


def fan(conn: Connection, needs: str = "success", parts: int = 3) -> dict[str, UUID]:
    """Parts that run at once, and a join that waits for all of them."""
    loads = [f"load {number}" for number in range(parts)]
    return enqueue(conn, *map(member, loads), member("join", loads, needs=needs))


@pytest.mark.parametrize("needs", ["end", "success"])
def test_a_failure_calls_idle_workers_for_a_join_that_it_releases_and_for_no_other(
    conn: Connection, needs: str
) -> None:
    fan(conn, needs, parts=1)
    (part,) = conn.claim()
    conn.execute('LISTEN "public.job_queue"')
    fail(conn, part)
    conn.execute("NOTIFY \"public.job_queue\", 'last'")
    expected = ["", "last"] if needs == "end" else ["last"]
    assert [notice.payload for notice in conn.notifies(timeout=PATIENCE, stop_after=len(expected))] == expected


class TestJoins:
    @pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    def test_a_join_runs_after_the_last_of_its_blockers_whatever_their_order(
        self, conn: Connection, order: list[int]
    ) -> None:
        fan(conn)
        runs = conn.claim()
        assert names(conn, runs) == ["load 0", "load 1", "load 2"]
        for place in order:
            assert conn.claim() == []
            finish_one_gone(conn, runs[place])
        finish_one_gone(conn, one(conn, "join"))
        assert set(states(conn).values()) == {"succeeded"}
        assert conn.claim() == []

    def test_blockers_that_end_in_one_batch_release_the_join(self, conn: Connection) -> None:
        fan(conn)
        conn.finish(*map(report, conn.claim()))
        one(conn, "join")

    def test_a_diamond_runs_level_by_level(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("left", ["split"]), member("right", ["split"]),
                member("join", ["left", "right"]))  # fmt: skip
        finish_one_gone(conn, one(conn, "split"))
        runs = conn.claim()
        assert names(conn, runs) == ["left", "right"]
        conn.finish(*map(report, runs))
        one(conn, "join")

    def test_a_blocker_that_is_tried_again_is_waited_for(self, conn: Connection) -> None:
        fan(conn, parts=2)
        first, second = conn.claim()
        conn.finish_one(first, "failed", retry_after=0.0)
        finish_one_gone(conn, second)
        finish_one_gone(conn, one(conn, "load 0"))
        one(conn, "join")

    def test_a_blocker_whose_lease_was_lost_is_waited_for(self, conn: Connection) -> None:
        fan(conn, parts=2)
        first, second = conn.claim()
        finish_one_gone(conn, second)
        conn.lose()
        conn.advance(timedelta(hours=2))
        assert one(conn, "load 0").id == first.id

    def test_a_join_gets_the_outputs_of_its_blockers(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        first, second = conn.claim()
        finish_one_gone(conn, first, output={"rows": 3})
        finish_one_gone(conn, second, "partial", output={"rows": 4})
        found = outcomes(conn, ids["join"])
        assert {name: (row["outcome"], row["output"]) for name, row in found.items()} == {
            "load 0": ("succeeded", {"rows": 3}), "load 1": ("partial", {"rows": 4})}  # fmt: skip

    def test_a_member_waits_for_a_job_outside_the_flow_as_well(self, conn: Connection) -> None:
        outside, done = conn.add(), conn.add("beta")
        finish_one_gone(conn, conn.claim_one(["beta"]), output={"rows": 1})
        ids = enqueue(conn, member("join", after_jobs=[str(outside.id), str(done.id)]))
        finish_one_gone(conn, conn.claim_one())
        assert one(conn, "join").id == ids["join"]
        assert outcomes(conn, ids["join"])[str(done.id)]["output"] == {"rows": 1}

    def test_a_member_whose_blockers_have_all_ended_can_run_at_once(self, conn: Connection) -> None:
        done = conn.add()
        run_gone(conn)
        enqueue(conn, member("join", after_jobs=[str(done.id)]))
        one(conn, "join")

    def test_members_with_one_concurrency_key_run_one_at_a_time(self, conn: Connection) -> None:
        enqueue(conn, member("first"), member("second", ["first"], concurrency_key="k"),
                member("third", ["first"], concurrency_key="k"), member("last", ["second", "third"]))  # fmt: skip
        finish_one_gone(conn, one(conn, "first"))
        finish_one_gone(conn, one(conn, "second"))
        finish_one_gone(conn, one(conn, "third"))
        one(conn, "last")

    @pytest.mark.slow
    def test_ten_thousand_members_are_enqueued_and_their_join_runs_once(self, conn: Connection) -> None:
        loads = [f"load {number}" for number in range(9_999)]
        enqueue(conn, *map(member, loads), member("join", loads))
        while len(runs := conn.claim(limit=2_000)) > 1:
            conn.finish(*map(report, runs))
        assert names(conn, runs) == ["join"]


class TestFailures:
    def test_a_failure_cancels_the_join_at_once_and_what_waits_for_it(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("b"), member("join", ["a", "b"]), member("after", ["join"]))
        first, _second = conn.claim()
        fail(conn, first)
        assert states(conn) == {"a": "failed", "b": "running", "join": "lost", "after": "lost"}
        assert conn.job_row(ids["join"])["last_error"] == (
            f"Cancelled because its blocker, job {ids['a']}, failed permanently."
        )

    def test_a_join_that_needs_the_end_runs_after_failures_and_gets_their_errors(self, conn: Connection) -> None:
        ids = fan(conn, "end")
        first, second, third = conn.claim()
        fail(conn, second, "the vendor is down")
        operator.cancel(conn, [third.id], actor=ACTOR)
        conn.finish_one(third)
        assert conn.claim() == []
        finish_one_gone(conn, first)
        one(conn, "join")
        found = outcomes(conn, ids["join"])
        assert [row["outcome"] for row in found.values()] == ["succeeded", "failed", "cancelled"]
        assert found["load 1"]["error"] == "the vendor is down"

    def test_a_callback_for_failure_is_skipped_when_all_succeed(self, conn: Connection) -> None:
        ids = fan(conn, "failure")
        conn.finish(*map(report, conn.claim()))
        assert conn.claim() == []
        assert states(conn)["join"] == "skipped"
        assert conn.job_row(ids["join"])["last_error"] == "Not needed: all jobs that it waited for succeeded."

    def test_a_callback_for_failure_runs_once_all_have_ended(self, conn: Connection) -> None:
        fan(conn, "failure")
        first, *others = conn.claim()
        fail(conn, first)
        assert conn.claim() == []
        conn.finish(*map(report, others))
        one(conn, "join")

    def test_what_waits_for_a_skipped_callback_is_cancelled(self, conn: Connection) -> None:
        enqueue(conn, member("a"), member("alarm", ["a"], needs="failure"), member("after", ["alarm"]))
        finish_one_gone(conn, one(conn, "a"))
        assert states(conn) == {"a": "succeeded", "alarm": "skipped", "after": "lost"}

    def test_a_job_outside_that_waits_for_a_skipped_callback_says_why_it_was_cancelled(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("alarm", ["a"], needs="failure"))
        waiting = conn.add("beta", blocked_by=ids["alarm"])
        finish_one_gone(conn, one(conn, "a"))
        assert conn.job_row(waiting.id)["last_error"] == (
            f"Cancelled because its blocker, job {ids['alarm']}, was cancelled."
        )

    def test_an_end_releases_a_join_with_a_concurrency_key(self, conn: Connection) -> None:
        enqueue(conn, member("a"), member("join", ["a"], needs="end", concurrency_key="k"))
        fail(conn, one(conn, "a"))
        one(conn, "join")

    def test_a_job_outside_that_waits_for_a_member_is_cancelled_as_before(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"))
        waiting = conn.add("beta", blocked_by=ids["a"])
        fail(conn, one(conn, "a"))
        assert conn.job_row(waiting.id)["status"] == "cancelled"


class TestRetries:
    def test_a_retry_revives_all_that_was_cancelled_because_of_the_failure(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("b"), member("join", ["a", "b"]), member("after", ["join"]))
        first, second = conn.claim()
        fail(conn, first)
        finish_one_gone(conn, second)
        assert operator.retry(conn, [ids["a"]], actor=ACTOR)[0].ok
        assert states(conn) == {"a": "pending", "b": "succeeded", "join": "blocked", "after": "blocked"}
        assert conn.job_row(ids["join"])["last_error"] is None
        for name in ("a", "join", "after"):
            finish_one_gone(conn, one(conn, name))
        assert set(states(conn).values()) == {"succeeded"}

    def test_a_join_with_two_failed_blockers_is_revived_by_the_second_retry(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        for run in conn.claim():
            fail(conn, run)
        operator.retry(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn)["join"] == "lost"
        operator.retry(conn, [ids["load 1"]], actor=ACTOR)
        assert states(conn)["join"] == "blocked"
        conn.finish(*map(report, conn.claim()))
        one(conn, "join")

    def test_a_retry_does_not_revive_what_an_operator_cancelled(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        first, _second = conn.claim()
        operator.cancel(conn, [ids["join"]], actor=ACTOR)
        fail(conn, first)
        operator.retry(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn)["join"] == "cancelled"

    def test_a_retry_of_the_join_is_refused_while_a_blocker_has_failed(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        first, second = conn.claim()
        operator.cancel(conn, [ids["join"]], actor=ACTOR)
        fail(conn, first)
        finish_one_gone(conn, second)
        (answer,) = operator.retry(conn, [ids["join"]], actor=ACTOR)
        assert (answer.ok, answer.code) == (False, "hopeless-blocker")
        assert str(ids["load 0"]) in answer.message

    def test_a_retried_join_waits_for_those_that_have_not_ended(self, conn: Connection) -> None:
        ids = fan(conn, "end", parts=2)
        first, second = conn.claim()
        operator.cancel(conn, [ids["join"]], actor=ACTOR)
        fail(conn, second)
        (answer,) = operator.retry(conn, [ids["join"]], actor=ACTOR)
        assert (answer.ok, answer.code) == (True, "due-blocked")
        finish_one_gone(conn, first)
        one(conn, "join")

    def test_a_join_that_was_released_waits_again_when_a_blocker_is_retried(self, conn: Connection) -> None:
        ids = fan(conn, "end", parts=2)
        first, second = conn.claim()
        fail(conn, first)
        finish_one_gone(conn, second)
        assert states(conn)["join"] == "pending"
        operator.retry(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn)["join"] == "blocked"
        finish_one_gone(conn, one(conn, "load 0"))
        one(conn, "join")

    def test_a_join_that_has_begun_does_not_wait_again(self, conn: Connection) -> None:
        ids = fan(conn, "end", parts=1)
        fail(conn, one(conn, "load 0"))
        conn.finish_one(one(conn, "join"), "failed", retry_after=0.0)
        operator.retry(conn, [ids["load 0"]], actor=ACTOR)
        assert set(names(conn, conn.claim())) == {"load 0", "join"}

    def test_a_join_that_waits_again_lets_others_with_its_concurrency_key_pass(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("join", ["a"], needs="end", concurrency_key="k"))
        fail(conn, one(conn, "a"))
        behind = conn.add("beta", concurrency_key="k")
        assert conn.job_row(behind.id)["in_line"]
        operator.retry(conn, [ids["a"]], actor=ACTOR)
        assert conn.claim_one(["beta"]).id == behind.id

    def test_a_retry_of_a_callback_that_was_not_needed_is_refused(self, conn: Connection) -> None:
        ids = fan(conn, "failure", parts=2)
        conn.finish(*map(report, conn.claim()))
        with conn.changes_nothing():
            answer = operator.retry(conn, [ids["join"]], actor=ACTOR)[0]
        assert (answer.ok, answer.code) == (False, "not-needed")

    def test_a_failed_join_can_be_retried_by_itself(self, conn: Connection) -> None:
        ids = fan(conn, parts=1)
        finish_one_gone(conn, one(conn, "load 0"))
        fail(conn, one(conn, "join"))
        assert operator.retry(conn, [ids["join"]], actor=ACTOR)[0].ok
        one(conn, "join")


class TestDeletes:
    def test_a_delete_counts_as_a_failure_and_its_undo_restores_both(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        operator.delete(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn) == {"load 0": "deleted", "load 1": "pending", "join": "lost"}
        operator.restore(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn) == {"load 0": "pending", "load 1": "pending", "join": "blocked"}
        conn.finish(*map(report, conn.claim()))
        one(conn, "join")

    def test_the_undo_of_a_deleted_failure_leaves_the_join_cancelled(self, conn: Connection) -> None:
        ids = fan(conn, parts=1)
        fail(conn, one(conn, "load 0"))
        operator.delete(conn, [ids["load 0"]], actor=ACTOR)
        operator.restore(conn, [ids["load 0"]], actor=ACTOR)
        assert states(conn) == {"load 0": "failed", "join": "lost"}

    def test_a_deleted_join_that_is_restored_is_judged_by_what_happened_meanwhile(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        runs = conn.claim()
        operator.delete(conn, [ids["join"]], actor=ACTOR)
        conn.finish(*map(report, runs))
        operator.restore(conn, [ids["join"]], actor=ACTOR)
        one(conn, "join")

    def test_a_cancelled_join_that_is_restored_is_revived_if_its_blocker_was_retried_meanwhile(
        self, conn: Connection
    ) -> None:
        ids = fan(conn, parts=1)
        fail(conn, one(conn, "load 0"))
        operator.delete(conn, [ids["join"]], actor=ACTOR)
        operator.retry(conn, [ids["load 0"]], actor=ACTOR)
        finish_one_gone(conn, one(conn, "load 0"))
        operator.restore(conn, [ids["join"]], actor=ACTOR)
        one(conn, "join")

    def test_a_deleted_blocker_ends_for_a_join_that_needs_the_end(self, conn: Connection) -> None:
        ids = fan(conn, "end", parts=2)
        operator.delete(conn, [ids["load 0"], ids["load 1"]], actor=ACTOR)
        assert one(conn, "join").id == ids["join"]
        assert {row["outcome"] for row in outcomes(conn, ids["join"]).values()} == {"deleted"}


class TestCancel:
    def test_a_flow_is_cancelled_as_a_whole(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("b"), member("c"), member("join", ["a", "b", "c"], needs="end"))
        first, second, third = conn.claim()
        finish_one_gone(conn, first)
        fail(conn, second)
        done = flows.cancel(conn, flow_of(conn, ids["a"]), actor=ACTOR, reason="wrong day")
        assert done == (1, 1, 2)
        assert conn.job_row(ids["c"])["cancel_requested_at"] is not None
        assert states(conn) == {"a": "succeeded", "b": "failed", "c": "running", "join": "cancelled"}
        assert {(row["job_id"], row["reason"]) for row in conn.audit_rows("cancel")} == {
            (ids["c"], "wrong day"), (ids["join"], "wrong day")}  # fmt: skip
        conn.finish_one(third)
        assert conn.claim() == []

    def test_a_dry_run_and_a_second_cancel_change_nothing(self, conn: Connection) -> None:
        ids = fan(conn)
        with conn.changes_nothing():
            assert flows.cancel(conn, flow_of(conn, ids["join"]), actor=ACTOR, dry_run=True) == (4, 0, 0)
        flows.cancel(conn, flow_of(conn, ids["join"]), actor=ACTOR)
        with conn.changes_nothing():
            assert flows.cancel(conn, flow_of(conn, ids["join"]), actor=ACTOR) == (0, 0, 4)

    @pytest.mark.slow
    def test_a_flow_with_a_locked_member_is_refused_as_a_whole(self, conn: Connection, database_url: str) -> None:
        ids = fan(conn)
        with Connection.connect(database_url) as other:
            other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (ids["load 1"],))
            with pytest.raises(Refused, match="Another session has locked members"):
                flows.cancel(conn, flow_of(conn, ids["load 0"]), actor=ACTOR)
            other.rollback()
        assert set(states(conn).values()) == {"pending", "blocked"}

    def test_an_unknown_flow_is_refused(self, conn: Connection) -> None:
        with pytest.raises(Refused, match="There is no flow"):
            flows.cancel(conn, uuid4(), actor=ACTOR)

    def test_a_job_outside_that_waits_for_a_member_is_cancelled_too(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"))
        waiting = conn.add("beta", blocked_by=ids["a"])
        flows.cancel(conn, flow_of(conn, ids["a"]), actor=ACTOR)
        assert conn.job_row(waiting.id)["status"] == "cancelled"


class TestAddedByARun:
    def test_what_waits_for_the_run_also_waits_for_what_it_added(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        added = extend(conn, split, member("part 1"), member("part 2", ["part 1"]))
        finish_one_gone(conn, split)
        finish_one_gone(conn, one(conn, "part 1"), output={"rows": 1})
        finish_one_gone(conn, one(conn, "part 2"))
        join = one(conn, "join")
        assert set(outcomes(conn, join.id)) == {"split", "part 1", "part 2"}
        assert outcomes(conn, join.id)["part 1"]["job_id"] == added["part 1"]

    def test_the_failure_of_an_added_member_cancels_the_join(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        extend(conn, split, member("part"))
        finish_one_gone(conn, split)
        fail(conn, one(conn, "part"))
        assert states(conn)["join"] == "lost"

    def test_a_second_attempt_adds_only_what_the_first_did_not(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        first = one(conn, "split")
        added = extend(conn, first, member("part 1"))
        conn.finish_one(first, "failed", retry_after=0.0)
        runs = {run.id: run for run in conn.claim()}
        again = extend(conn, runs[first.id], member("part 1"), member("part 2", ["part 1"]))
        assert again["part 1"] == added["part 1"]
        assert sorted(states(conn)) == ["join", "part 1", "part 2", "split"]

    def test_a_join_that_has_begun_gets_the_same_outcomes_although_a_retried_run_adds_members(
        self, conn: Connection
    ) -> None:
        ids = enqueue(conn, member("a"), member("join", ["a"], needs="end"))
        fail(conn, one(conn, "a"))
        join = one(conn, "join")
        before = outcomes(conn, ids["join"])
        assert operator.retry(conn, [ids["a"]], actor=ACTOR)[0].ok
        extend(conn, one(conn, "a"), member("more"))
        assert outcomes(conn, join.id) == before
        assert before["a"]["outcome"] == "failed"

    def test_a_run_that_was_taken_back_adds_nothing(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        conn.lose()
        with conn.changes_nothing(), pytest.raises(Refused, match="was taken back, so its flow gets no members of it"):
            refused(conn, lambda: extend(conn, split, member("part")))

    def test_a_run_whose_flow_was_cancelled_adds_nothing(self, conn: Connection) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        flows.cancel(conn, flow_of(conn, split.id), actor=ACTOR)
        with conn.changes_nothing(), pytest.raises(Refused, match="was asked to cancel, so its flow gets no more"):
            refused(conn, lambda: extend(conn, split, member("part")))

    def test_a_run_keeps_its_lease_while_it_adds(self, conn: Connection, database_url: str) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'")
        with Connection.connect(database_url) as adding:
            extend(adding, split, member("part"))
            assert conn.reap().lost == 0
            adding.commit()
        assert conn.reap().lost == 1
        assert states(conn)["part"] == "pending"

    @pytest.mark.parametrize(
        ("added", "sentence"),
        [
            (member("join"), "The flow has another member named join already."),
            (member("part", ["join"]), "The member part waits for join, which is no member"),
            (member("part", after_jobs=[str(uuid4())]), "The member part waits for a job outside the list."),
        ],
    )
    def test_a_member_that_could_make_a_circle_is_refused(
        self, conn: Connection, added: dict[str, Any], sentence: str
    ) -> None:
        enqueue(conn, member("split"), member("join", ["split"]))
        split = one(conn, "split")
        with conn.changes_nothing(), pytest.raises(Refused, match=sentence):
            refused(conn, lambda: extend(conn, split, added))

    def test_a_job_in_no_flow_adds_nothing(self, conn: Connection) -> None:
        conn.add()
        run = conn.claim_one()
        with conn.changes_nothing(), pytest.raises(Refused, match="is in no flow"):
            refused(conn, lambda: extend(conn, run, member("part")))


class TestBadInput:
    @pytest.mark.parametrize(
        ("members", "sentence"),
        [
            ([], "A flow has 1 to 10,000 members; this one has 0."),
            ({}, "The members of a flow are a list"),
            ([member("a")] * 10_001, "this one has 10001"),
            ([member("a", ["b"])], "The member a waits for b, which is no member of this flow."),
            ([member("a", ["a"])], "The member a waits for itself."),
            ([member("a", ["b"]), member("b", ["a"])], "The member a waits for b, which comes after it.*circle"),
            ([member("a"), member("a")], "Two members are named a."),
            ([member("")], "The member at place 1 has no name."),
            ([member("a" * 201)], "longer than 200 bytes"),
            ([member("a", task_type=" ")], "The member a cannot be enqueued. A job needs a task type"),
            ([member("a", payload=[])], "The member a cannot be enqueued. A payload must be a JSON object."),
            (
                [member("a", priority=101)],
                "The member a cannot be enqueued. A job needs .* a priority between -100 and 100.",
            ),
            ([member("a", priority="high")], "cannot be read.*high"),
            ([member("a", run_at="10000-01-01")], "The member a cannot be enqueued. A due time"),
            ([member("a", dedupe_key="k" * 1001)], "The member a cannot be enqueued. A key may have 1,000 bytes"),
            ([member("a", colour="red")], 'A member of a flow has no "colour".'),
            ([member("a", needs="luck")], 'The member a needs "luck"'),
            ([member("a", needs="end")], "The member a waits for no other, so there is no end"),
            ([member("a", after_jobs=["7"])], "cannot be read"),
            (["a"], "cannot be read"),
            ([member("a", dedupe_key="k"), member("b", dedupe_key="k")], "Two members have the same dedupe key."),
            ([member("a", after_jobs=[str(uuid4())])], "The member a waits for job .*, which is not in the queue."),
        ],
    )
    def test_a_flow_that_cannot_run_is_refused_and_changes_nothing(
        self, conn: Connection, members: Any, sentence: str
    ) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match=f"{sentence}.*Nothing was enqueued") as told:
            refused(conn, lambda: conn.execute("SELECT job_flow_create('f', %s, 'm')", (json.dumps(members),)))
        assert "\n" not in str(told.value)

    def test_a_taken_dedupe_key_refuses_the_whole_flow(self, conn: Connection) -> None:
        conn.add(dedupe_key="k")
        with conn.changes_nothing(), pytest.raises(Refused, match="the dedupe key of the member b is already pending"):
            refused(conn, lambda: enqueue(conn, member("a"), member("b", dedupe_key="k")))

    def test_a_blocker_that_failed_is_refused_unless_its_end_is_enough(self, conn: Connection) -> None:
        failed = conn.add()
        fail(conn, conn.claim_one())
        with conn.changes_nothing(), pytest.raises(Refused, match=f"waits for job {failed.id}, which is failed"):
            refused(conn, lambda: enqueue(conn, member("a", after_jobs=[str(failed.id)])))
        enqueue(conn, member("a", after_jobs=[str(failed.id)], needs="end"))
        one(conn, "a")

    def test_a_member_is_not_made_a_series(self, conn: Connection) -> None:
        ids = fan(conn)
        with conn.changes_nothing():
            answer = operator.edit(conn, ids["join"], changes={"recurrence_interval_minutes": 5}, actor=ACTOR)
        assert (answer.ok, answer.code) == (False, "member-recurs")

    def test_a_series_as_blocker_is_refused(self, conn: Connection) -> None:
        series = conn.add("beta", recurrence_interval_minutes=5)
        with conn.changes_nothing(), pytest.raises(Refused, match="which is recurring, so that it has no end"):
            refused(conn, lambda: enqueue(conn, member("a", after_jobs=[str(series.id)])))

    @pytest.mark.parametrize("name", ["", "n" * 201, None])
    def test_a_flow_needs_a_name(self, conn: Connection, name: str | None) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match="A flow needs a name"):
            refused(
                conn, lambda: conn.execute("SELECT job_flow_create(%s, %s, 'm')", (name, json.dumps([member("a")])))
            )


class TestEvidence:
    def test_why_names_the_members_that_are_waited_for(self, conn: Connection) -> None:
        ids = fan(conn, parts=5)
        finish_one_gone(conn, conn.claim(limit=1)[0])
        (told,) = [clause for clause in read_jobs.why(ids["join"]).run(conn) if clause.name == "dependencies"]
        assert not told.holds
        assert told.evidence == ("Waits for 4 of 5 members of its flow to succeed: load 1, load 2, load 3 and 1 more.")

    def test_a_canary_does_not_run_a_join_before_its_blockers_have_ended(
        self, conn: Connection, database_url: str
    ) -> None:
        ids = fan(conn, "end", parts=2)
        conn.execute("SELECT job_worker_report('w', 'h', 1, 'worker', '1', 1, '{alpha}', 0)")
        runs = conn.claim()
        asked = operator.ask_canary(conn, ids["join"], actor=ACTOR)
        assert asked.result.ok
        with Connection.connect(database_url) as other:  # so that the join is not judged when its second blocker ends
            other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (ids["join"],))
            finish_one_gone(conn, runs[1])
        assert conn.claim(limit=0) == []

    def test_a_canary_of_a_failed_member_revives_what_was_cancelled_because_of_it(self, conn: Connection) -> None:
        ids = enqueue(conn, member("a"), member("join", ["a"]))
        fail(conn, one(conn, "a"))
        conn.execute("SELECT job_worker_report('w', 'h', 1, 'worker', '1', 1, '{alpha}', 0)")
        assert operator.ask_canary(conn, ids["a"], actor=ACTOR).result.ok
        finish_one_gone(conn, one(conn, "a"))
        one(conn, "join")

    def test_a_canary_of_a_cancelled_join_does_not_run_it_before_a_blocker_that_was_retried_since(
        self, conn: Connection
    ) -> None:
        ids = fan(conn, "end", parts=2)
        first, second = conn.claim()
        fail(conn, second)
        finish_one_gone(conn, first)
        operator.cancel(conn, [ids["join"]], actor=ACTOR)
        conn.execute("SELECT job_worker_report('w', 'h', 1, 'worker', '1', 1, '{alpha}', 0)")
        assert operator.ask_canary(conn, ids["join"], actor=ACTOR).result.ok
        assert operator.retry(conn, [second.id], actor=ACTOR)[0].ok
        one(conn, "load 1")

    def test_the_states_of_all_members_are_listed(self, conn: Connection) -> None:
        fan(conn, parts=2)
        conn.claim(limit=1)
        assert states(conn) == {"load 0": "running", "load 1": "pending", "join": "blocked"}


class TestRetention:
    def test_a_success_is_known_after_the_history_has_lost_it(self, conn: Connection) -> None:
        ids = fan(conn, parts=2)
        first, second = conn.claim()
        finish_one_gone(conn, first)
        conn.execute("UPDATE job_queue SET lease_expires_at = lease_expires_at + interval '90 days'")
        conn.advance(timedelta(days=31))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_runs") == 0
        finish_one_gone(conn, second)
        assert one(conn, "join").id == ids["join"]

    def test_a_blocker_that_a_join_has_to_be_judged_by_is_not_purged(self, conn: Connection) -> None:
        ids = fan(conn, "end", parts=2)
        operator.cancel(conn, [ids["load 0"]], actor=ACTOR)
        conn.advance(timedelta(days=100))
        conn.execute("SELECT job_queue_cleanup()")
        conn.reap()
        assert conn.is_queued(ids["load 0"])
        run_gone(conn)
        assert outcomes(conn, one(conn, "join").id)["load 0"]["outcome"] == "cancelled"

    def test_a_second_retry_knows_how_a_purged_blocker_ended(self, conn: Connection) -> None:
        ids = enqueue(conn, member("load"), member("undo", ["load"], needs="failure"))
        flows.cancel(conn, flow_of(conn, ids["load"]), actor=ACTOR)
        operator.retry(conn, [ids["undo"]], actor=ACTOR)
        conn.execute("SELECT job_queue_purge(interval '0', 1000, %s, NULL)", (ACTOR,))
        assert not conn.is_queued(ids["load"])
        operator.retry(conn, [ids["undo"]], actor=ACTOR)
        assert outcomes(conn, one(conn, "undo").id)["load"]["outcome"] == "cancelled"

    @pytest.mark.parametrize("by", ["purge", "retention"])
    def test_a_restored_member_knows_how_a_blocker_ended_that_has_left_the_queue(
        self, conn: Connection, by: str
    ) -> None:
        ids = enqueue(conn, member("load"), member("undo", ["load"], needs="failure"))
        operator.delete(conn, [ids["undo"]], actor=ACTOR)
        operator.cancel(conn, [ids["load"]], actor=ACTOR)
        if by == "purge":
            conn.execute("SELECT job_queue_purge(interval '0', 1000, %s, NULL)", (ACTOR,))
        else:
            conn.execute("SELECT job_retain_line('job_queue', now() + interval '1 s', 1000)")
        assert not conn.is_queued(ids["load"])
        operator.restore(conn, [ids["undo"]], actor=ACTOR)
        assert outcomes(conn, one(conn, "undo").id)["load"]["outcome"] == "cancelled"

    def test_a_flow_is_kept_until_all_its_members_have_gone_for_30_days(self, conn: Connection) -> None:
        fan(conn, parts=1)
        finish_one_gone(conn, one(conn, "load 0"))
        conn.advance(timedelta(days=31))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_flows") == 1
        finish_one_gone(conn, one(conn, "join"))
        conn.advance(timedelta(days=1))
        conn.reap()
        statement = """
        SELECT (SELECT count(*) FROM job_flows), (SELECT count(*) FROM job_flow_members),
            (SELECT count(*) FROM job_dependencies)
        """
        assert conn.execute(statement).fetchone() == (0, 0, 0)


def finish_one_gone(conn: Connection, run: ClaimedJob, outcome: str = "succeeded", **fields: Any) -> None:
    """Reports a success, with which the job leaves the queue; there is no answer for it."""
    conn.finish(report(run, outcome, **fields))
    assert not conn.is_queued(run.id)


def run_gone(conn: Connection) -> None:
    finish_one_gone(conn, conn.claim_one())


def refused(conn: Connection, step: Any) -> None:
    """A step in a transaction, whose refusal is raised as the product raises it."""
    with refusals("locked"), conn.transaction():
        step()
