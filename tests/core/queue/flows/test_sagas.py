"""What a retry says and refuses after the failure callback of a flow has begun."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.model import ActionResult
from jobdeck.core.queue import operator
from tests.core.queue.flows.steps import enqueue, extend, fail, member, states
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection

RAN = ' The failure callback "refund" of its flow has run already.'
FINAL = 'The failure callback "refund" has run; its flow is final after that. Enqueue a new flow.'


def order(conn: Connection, **callback: Any) -> dict[str, UUID]:
    """Two steps, of which the first fails permanently, and a callback that waits to run."""
    ids = enqueue(
        conn, member("charge"), member("ship", ["charge"]),
        member("refund", ["charge", "ship"], needs="failure", **callback),
    )  # fmt: skip
    fail(conn, conn.claim_one())
    assert states(conn) == {"charge": "failed", "ship": "lost", "refund": "pending"}
    return ids


def retry(conn: Connection, job_id: UUID, *, dry_run: bool = False) -> ActionResult:
    return operator.retry(conn, [job_id], actor=ACTOR, dry_run=dry_run)[0]


@pytest.mark.parametrize("end", ["succeeded", "failed", "running"])
def test_a_retry_and_its_dry_run_say_that_the_failure_callback_has_run(conn: Connection, end: str) -> None:
    ids = order(conn)
    run = conn.claim_one()
    if end != "running":
        conn.finish_one(run, end)
    dry = retry(conn, ids["charge"], dry_run=True)
    done = retry(conn, ids["charge"])
    assert (dry.ok, dry.message) == (True, f"It would be due now.{RAN}")
    assert (done.ok, done.message) == (True, f"Due now.{RAN}")


def test_before_the_callback_has_begun_a_retry_says_nothing_of_it_and_it_waits_again(conn: Connection) -> None:
    ids = order(conn, final=True)
    assert retry(conn, ids["charge"]).message == "Due now."
    assert states(conn) == {"charge": "pending", "ship": "blocked", "refund": "blocked"}


@pytest.mark.parametrize("name", ["charge", "ship"])
def test_a_flow_is_final_after_its_failure_callback_if_it_says_so(conn: Connection, name: str) -> None:
    ids = order(conn, final=True)
    conn.finish_one(conn.claim_one())
    with conn.changes_nothing():
        for dry_run in (True, False):
            answer = retry(conn, ids[name], dry_run=dry_run)
            assert not answer.ok
            # A step that waits for the failed one is refused for that already.
            assert answer.message == FINAL or (name == "ship" and answer.code == "hopeless-blocker")


def test_the_callback_of_a_final_flow_and_what_it_added_can_be_retried(conn: Connection) -> None:
    ids = order(conn, final=True)
    run = conn.claim_one()
    more = extend(conn, run, member("give back"))
    fail(conn, run)
    fail(conn, conn.claim_one())
    for job_id in (ids["refund"], more["give back"]):
        assert retry(conn, job_id).message == "Due now."


def test_a_deleted_step_of_a_final_flow_is_not_restored_after_the_callback(conn: Connection) -> None:
    ids = enqueue(conn, member("charge"), member("refund", ["charge"], needs="failure", final=True))
    operator.delete(conn, [ids["charge"]], actor=ACTOR)
    restored = operator.restore(conn, [ids["charge"]], actor=ACTOR, dry_run=True)[0]
    assert restored.ok
    conn.finish_one(conn.claim_one())
    for dry_run in (True, False):
        answer = operator.restore(conn, [ids["charge"]], actor=ACTOR, dry_run=dry_run)[0]
        assert (answer.ok, answer.message) == (False, FINAL)
    assert states(conn)["charge"] == "deleted"


def test_a_canary_is_refused_like_a_retry_and_not_taken_where_the_callback_was_faster(conn: Connection) -> None:
    announce(conn)
    ids = order(conn, final=True)
    assert operator.ask_canary(conn, ids["charge"], actor=ACTOR).result.ok
    # A canary that is asked for at this time is taken first, so this one is put back in time for a moment.
    conn.execute("UPDATE job_canaries SET asked_at = asked_at - interval '1 hour'")
    assert conn.claim_one().id == ids["refund"]
    conn.execute("UPDATE job_canaries SET asked_at = asked_at + interval '1 hour'")
    assert conn.claim() == []
    assert conn.job_row(ids["charge"])["status"] == "failed"
    conn.execute("DELETE FROM job_canaries")
    assert operator.ask_canary(conn, ids["charge"], actor=ACTOR).result.message == FINAL


def test_two_sessions_do_not_both_retry_a_step_and_begin_the_callback(conn: Connection, database_url: str) -> None:
    ids = order(conn, final=True)
    with Connection.connect(database_url) as operators:
        assert retry(operators, ids["charge"]).ok
        # The callback is locked by the retry, so the claim leaves it out.
        assert conn.claim() == []
        operators.commit()
    assert [job.id for job in conn.claim()] == [ids["charge"]]


@pytest.mark.parametrize(
    "wrong", [{"final": True}, {"final": "yes", "needs": "failure"}, {"final": True, "needs": "end"}]
)
def test_only_a_member_that_needs_a_failure_makes_a_flow_final(conn: Connection, wrong: dict[str, Any]) -> None:
    with conn.changes_nothing(), pytest.raises(psycopg.Error, match="The member last cannot make its flow final"):
        enqueue(conn, member("charge"), member("last", ["charge"], **wrong))
