"""The task types with their figures of now."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.queue import operator
from jobdeck.core.read.pages import overview
from jobdeck.core.read.pages.overview import TypeFigures
from tests.support.queue import ACTOR, Connection, moment

MINUTE = timedelta(minutes=1)


def figures(conn: Connection, name: str) -> TypeFigures:
    return next(one for one in overview.types().run(conn).types if one.line.task_type == name)


def test_the_wait_is_that_of_the_oldest_due_job_of_the_type_also_while_it_is_paused(conn: Connection) -> None:
    at = conn.now()
    conn.add_waiting(at - 5 * MINUTE, "alpha")
    conn.add_waiting(at - 9 * MINUTE, "alpha", priority=-5)
    conn.add("beta", run_at=at + MINUTE)
    operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="alpha")
    assert figures(conn, "alpha").oldest_due == at - 9 * MINUTE
    assert figures(conn, "alpha").line.paused_reason == "vendor is down"
    assert figures(conn, "beta").oldest_due is None


def test_the_rate_is_that_of_the_last_full_minute_with_failures_apart(conn: Connection) -> None:
    # In one transaction, since `now()` stands still there.
    with conn.transaction():
        for outcome in ("succeeded", "failed", "failed"):
            conn.add("alpha", max_attempts=1)
            conn.finish_one(conn.claim_one(), outcome, error="boom", started=ended(conn), finished=ended(conn))
        conn.add("alpha", payload={"dryRun": True})
        conn.finish_one(conn.claim_one(), "succeeded", started=ended(conn), finished=ended(conn), dry_run=True)
        conn.add("alpha")
        conn.run_once()
        found = figures(conn, "alpha")
    assert (found.succeeded, found.failed) == (1, 2)


def ended(conn: Connection) -> float:
    """A time in the last full minute."""
    return float(conn.value("SELECT extract(epoch FROM date_trunc('minute', now()) - interval '30 s')"))


def test_the_failure_share_stands_beside_the_usual_one(conn: Connection) -> None:
    for _ in range(4):
        conn.add("alpha")
        conn.run_once()
    conn.advance(timedelta(hours=3))
    for _ in range(3):
        conn.add("alpha", max_attempts=1)
        claimed = conn.claim_one()
        # A run that ends in the next minute is not counted yet.
        started, finished = moment(claimed)
        conn.finish_one(claimed, "failed", error="boom", started=started, finished=finished)
    share = figures(conn, "alpha").share
    assert share is not None
    assert (share.runs, share.failed, share.usual_runs, share.usual_failed) == (3, 3, 4, 0)
    assert share.usual == pytest.approx(1 / 6)


def test_a_type_that_ran_today_is_listed_by_name_without_jobs_workers_or_settings(conn: Connection) -> None:
    for name in ("beta", "alpha"):
        conn.add(name)
        claimed = conn.claim_one([name])
        conn.finish_one(claimed)
    conn.ended_now()
    found = overview.types().run(conn).types
    assert [(one.line.task_type, one.line.pending, one.line.workers) for one in found] == [
        ("alpha", 0, 0), ("beta", 0, 0),
    ]  # fmt: skip


def test_an_empty_queue_has_no_types(conn: Connection) -> None:
    assert overview.types().run(conn).types == ()
