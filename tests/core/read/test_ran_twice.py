"""Which jobs may have acted twice: no more is said than the history knows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.model import RunOutcome
from jobdeck.core.queue import leases
from jobdeck.core.read.batch import as_viewer
from jobdeck.core.read.runs import ran_twice as module
from jobdeck.core.read.runs.ran_twice import LostRuns, RanTwice, lost_runs, ran_twice
from jobdeck.core.words import runs as words
from tests.support.failed_runs import ran
from tests.support.plans import Size, cost_of, fill
from tests.support.queue import LEASE, Connection, report

DAY = timedelta(days=1)


def found(conn: Connection, since: timedelta = DAY, **given: Any) -> RanTwice:
    return ran_twice(since, **given).run(conn)


def lost_after_it_began(conn: Connection) -> Any:
    """Claims the only job; its worker reports that the run began and dies."""
    claimed = conn.claim_one(worker="worker-a")
    leases.heartbeat(conn, "worker-a", [(claimed.id, claimed.run_token, {"done": 4})], LEASE)
    assert conn.lose().lost == 1
    conn.advance(timedelta(hours=1))
    return claimed


def numbers(lost: LostRuns) -> tuple[int, int, int]:
    return lost.twice, lost.unclear, lost.alone


@pytest.mark.slow
def test_a_job_whose_first_run_was_lost_after_it_began_may_have_acted_twice(conn: Connection) -> None:
    conn.add()
    first = lost_after_it_began(conn)
    second = conn.claim_one()
    conn.finish_one(second, output={"vendorId": "m2"})
    conn.add()
    conn.run_once()
    seen = found(conn)
    assert numbers(seen.lost) == (1, 0, 0)
    assert [(run.run_token, run.outcome) for run in seen.lost.runs] == [
        (first.run_token, RunOutcome.LOST), (second.run_token, RunOutcome.SUCCEEDED),
    ]  # fmt: skip
    assert words.sentences(seen) == [
        "1 job may have acted twice: a run was lost or late after it began, and another one began.",
        "1 job has one run that began.",
    ]


def test_what_a_late_run_returned_is_evidence_although_its_result_is_discarded(conn: Connection) -> None:
    conn.add()
    first = conn.claim_one(worker="worker-a")
    assert conn.lose().lost == 1
    conn.advance(timedelta(hours=1))
    conn.run_once(output={"vendorId": "m2"})
    conn.finish(report(first, output={"vendorId": "m1"}), worker="worker-a")
    seen = found(conn).lost
    assert numbers(seen) == (1, 0, 0)
    assert [words.sent(run) for run in seen.runs if run.output] == ['{"vendorId": "m1"}', '{"vendorId": "m2"}']


def test_of_a_run_that_was_lost_before_its_worker_said_that_it_began_no_more_is_claimed(conn: Connection) -> None:
    conn.add()
    conn.claim(worker="worker-a", free=0)
    assert conn.lose().lost == 1
    conn.advance(timedelta(hours=1))
    conn.run_once()
    assert numbers(found(conn).lost) == (0, 1, 0)
    # An erasure empties the text.
    conn.execute("UPDATE job_runs SET error = 'erased' WHERE outcome = 'lost'")
    assert numbers(found(conn).lost) == (0, 1, 0)


def test_a_lost_run_without_another_one_has_not_acted_twice(conn: Connection) -> None:
    conn.add()
    lost_after_it_began(conn)
    seen = found(conn)
    assert (numbers(seen.lost), seen.lost.runs) == ((0, 0, 1), ())
    assert words.sentences(seen) == ["1 job lost a run and has no other."]


@pytest.mark.slow
def test_a_second_run_that_goes_on_counts_once_it_began(conn: Connection) -> None:
    conn.add()
    lost_after_it_began(conn)
    (second,) = conn.claim(free=0)
    assert numbers(found(conn).lost) == (0, 1, 0)
    leases.heartbeat(
        conn, "worker-1", [(second.id, second.run_token, {})], LEASE, {second.run_token: conn.now().timestamp()}
    )
    assert numbers(found(conn).lost) == (1, 0, 0)


def test_a_job_that_was_tried_again_after_an_error_is_counted_apart(conn: Connection) -> None:
    conn.add()
    conn.run_once(outcome="failed", error="no", error_kind="OSError")
    conn.advance(timedelta(hours=1))
    conn.run_once()
    seen = found(conn)
    assert (numbers(seen.lost), seen.once, seen.again) == ((0, 0, 0), 0, 1)
    assert words.sentences(seen) == [
        words.NOTHING_LOST, "1 job ran more than once, and each run reported how it ended.",
    ]  # fmt: skip


def test_only_the_time_and_the_type_that_are_asked_for_count(conn: Connection) -> None:
    conn.add()
    lost_after_it_began(conn)
    conn.run_once()
    assert numbers(found(conn, task_type="beta").lost) == (0, 0, 0)
    assert found(conn, task_type="beta").once == 0
    conn.advance(DAY)
    assert numbers(found(conn).lost) == (0, 0, 0)
    assert numbers(found(conn, 2 * DAY).lost) == (1, 0, 0)


def test_one_time_jobs_with_the_same_content_within_an_hour_are_listed(conn: Connection) -> None:
    for number in (1, 1, 2):
        conn.add(payload={"order": number})
        conn.run_once()
    for _ in range(2):
        conn.add(payload={})
        conn.run_once()
    (same,) = found(conn).same
    assert (same.task_type, same.jobs, len(same.job_ids)) == ("alpha", 2, 2)
    conn.advance(timedelta(minutes=61))
    conn.add(payload={"order": 2})
    conn.run_once()
    assert len(found(conn).same) == 1


@pytest.mark.slow
def test_a_viewer_compares_no_payloads_and_sees_nothing_that_a_run_returned(conn: Connection) -> None:
    for _ in range(2):
        conn.add(payload={"order": 1})
        conn.run_once()
    conn.add()
    lost_after_it_began(conn)
    conn.run_once(output={"vendorId": "m2"})
    with as_viewer(conn):
        seen = found(conn)
    assert (seen.same, seen.hidden, numbers(seen.lost)) == ((), True, (1, 0, 0))
    assert {run.output for run in seen.lost.runs} == {None}


def test_where_more_runs_are_there_than_are_counted_the_time_is_named(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(conn, 30, {"n": 1})
    monkeypatch.setattr(module, "SAMPLED", 20)
    seen = found(conn)
    assert seen.read == 20
    assert seen.counted_since is not None
    assert words.sentences(seen)[-1].startswith("Other jobs are counted among the newest")


@pytest.mark.parametrize("payload", [[], "text", 3, None, {"k\x01\x1b[31m": "\u202e"}])
def test_any_payload_is_compared(conn: Connection, payload: Any) -> None:
    ran(conn, 3, payload)
    assert found(conn).once == 3


def test_dry_runs_do_not_count(conn: Connection) -> None:
    conn.add(payload={"dryRun": True})
    lost_after_it_began(conn)
    assert numbers(found(conn).lost) == (0, 0, 0)


@pytest.mark.slow
def test_a_long_history_is_not_read(conn: Connection) -> None:
    fill(conn, Size(runs=60_000))
    cost = cost_of(conn, lost_runs(DAY).run)
    assert cost.whole_tables == []
    assert cost.rows < 30_000, cost.entries
