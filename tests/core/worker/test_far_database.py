"""A database at the end of a long line: larger batches, so that fewer round trips are waited for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from jobdeck.core.model import ClaimedJob, FinishedRun, NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, producer
from jobdeck.core.worker.slots.pace import Line
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import job_type, nothing, working

JOBS = 9000


class TestTheLine:
    def test_is_near_while_nothing_is_known(self) -> None:
        line = Line()
        line.took(math.inf)
        assert (line.round_trip, line.scale) == (0.0, 1.0)

    def test_is_as_long_as_the_shortest_statement_took(self) -> None:
        line = Line()
        for seconds in (0.3, 0.04, 2.0):
            line.took(seconds)
        assert (line.round_trip, line.scale) == (0.04, 5.0)

    def test_of_a_near_database_leaves_batches_as_they_are(self) -> None:
        line = Line()
        line.took(0.004)
        line.took(0.5)
        assert (line.round_trip, line.scale) == (0.0, 1.0)

    def test_of_any_length_makes_batches_six_times_as_large_at_most(self) -> None:
        line = Line()
        line.took(2.0)
        assert line.scale == 6.0

    def test_is_measured_again_after_a_lost_connection(self) -> None:
        line = Line()
        line.took(0.001)
        line.lost()
        line.took(0.04)
        assert line.scale == 5.0


@pytest.mark.slow
@pytest.mark.parametrize("far", [False, True])
def test_a_worker_claims_and_reports_more_at_a_time_over_a_far_line(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, *, far: bool
) -> None:
    claims, reports = [], []
    claim, finish = leases.claim, leases.finish

    def counted_claim(*given: Any, **more: Any) -> list[ClaimedJob]:
        jobs = claim(*given, **more)
        claims.append(len(jobs))
        return jobs

    def counted_finish(given: Connection, worker: str, runs: Sequence[FinishedRun], **more: Any) -> Any:
        reports.append(len(runs))
        return finish(given, worker, runs, **more)

    monkeypatch.setattr(leases, "claim", counted_claim)
    monkeypatch.setattr(leases, "finish", counted_finish)
    monkeypatch.setattr(Line, "scale", 4.0 if far else 1.0)
    producer.enqueue_many(conn, [NewJob("alpha")] * JOBS, actor=ACTOR)
    with working(database_url, job_type("alpha", nothing)):
        until(lambda: len(conn.outcomes()) == JOBS)
    assert (max(claims) > 1000) is far
    assert far or max(reports) <= 1000


def test_the_time_of_listen_says_how_far_the_database_is(database_url: str) -> None:
    with Database(database_url, application_name="test") as database, database.listen("test") as listener:
        assert 0.0 < listener.round_trip < math.inf
