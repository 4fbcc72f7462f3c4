"""What the dashboard waits for at the end of a long line: one round trip for each thing that it reads or does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.errors import SchemaMismatch
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import producer
from jobdeck.core.read import reports
from jobdeck.core.read.pages import jobs_and_runs, overview, series
from jobdeck.core.read.stats import backlog
from jobdeck.core.settings import Settings
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.round_trips import CONNECTING, RoundTrips, round_trips

ALL = Request(Filter())
BY_KEY = Request(Filter(payload_is=("seq", "1")))
PAGES: dict[str, Callable[[LiveBackend], object]] = {
    "Cron Health": lambda backend: backend.read(reports.cron),
    "Errors": lambda backend: backend.errors(()),
    "Workers": lambda backend: backend.read(reports.worker_report),
    "Types": lambda backend: backend.read(overview.types),
    "Trends": lambda backend: backend.read(backlog.trend_report, timedelta(hours=8)),
    "Series": lambda backend: backend.read(series.series),
    "Audit": lambda backend: backend.read(reports.audit, timedelta(hours=8)),
    "the jobs of a type": lambda backend: backend.read(jobs_and_runs.of_type, "alpha"),
    "the jobs of a group of errors": lambda backend: backend.read(jobs_and_runs.of_group, "alpha", "f"),
    "the runs of a worker": lambda backend: backend.read(jobs_and_runs.of_worker, "w:1"),
    "the runs of a series": lambda backend: backend.read(jobs_and_runs.of_series, UUID(int=1)),
    "Bulk": lambda backend: backend.bulk.newest(),
}


@pytest.fixture
def trips(postgres: PostgresServer, database_url: str, conn: Connection) -> Iterator[RoundTrips]:
    """A line to a queue with some jobs."""
    producer.enqueue_many(conn, [NewJob("alpha", {"seq": seq}) for seq in range(3)], actor=ACTOR)
    with round_trips(postgres, conn.info.dbname) as counted:
        yield counted


@pytest.fixture
def backend(trips: RoundTrips) -> Iterator[LiveBackend]:
    made = LiveBackend(Settings.model_validate({"database_url": trips.url}))
    yield made
    made.close()


def test_a_dashboard_that_opens_reads_in_one_round_trip_after_the_connection(
    trips: RoundTrips, backend: LiveBackend
) -> None:
    view = backend.view(ALL)
    assert len(view.snapshot.page.jobs) == 3
    assert view.session.permissions.operate
    assert trips.taken[: len(CONNECTING)] == CONNECTING
    assert len(trips.since(len(CONNECTING))) == 1, trips.taken


@pytest.mark.slow
@pytest.mark.parametrize("status", [None, *Status])
def test_a_refresh_of_each_list_is_one_round_trip(
    trips: RoundTrips, backend: LiveBackend, status: Status | None
) -> None:
    backend.view(ALL)
    before = len(trips)
    backend.view(Request(Filter(status=status)))
    assert len(trips.since(before)) == 1, trips.since(before)


@pytest.mark.parametrize("page", PAGES)
def test_a_refresh_of_each_page_is_one_round_trip(trips: RoundTrips, backend: LiveBackend, page: str) -> None:
    backend.view(ALL)
    before = len(trips)
    PAGES[page](backend)
    assert len(trips.since(before)) == 1, trips.since(before)


@pytest.mark.slow
def test_a_filter_by_payload_is_judged_once_and_then_read_in_one_round_trip(
    trips: RoundTrips, backend: LiveBackend
) -> None:
    backend.view(ALL)
    before = len(trips)
    backend.view(BY_KEY)
    assert len(trips.since(before)) == 2, trips.since(before)
    before = len(trips)
    assert len(backend.view(BY_KEY).snapshot.page.jobs) == 1
    assert len(trips.since(before)) == 1, trips.since(before)


@pytest.mark.slow
def test_a_dashboard_may_open_with_a_filter_by_payload(backend: LiveBackend) -> None:
    assert len(backend.view(BY_KEY).snapshot.page.jobs) == 1


@pytest.mark.slow
def test_an_action_and_a_job_are_one_round_trip_each(trips: RoundTrips, backend: LiveBackend) -> None:
    job, *_ = backend.view(ALL).snapshot.page.jobs
    for act in (
        lambda: backend.detail(job.id),
        lambda: backend.flow(job.id),
        lambda: backend.act("cancel", [job]),
    ):
        before = len(trips)
        act()
        assert len(trips.since(before)) == 1, trips.since(before)


def test_a_schema_of_another_version_is_refused_with_the_way_out(backend: LiveBackend, conn: Connection) -> None:
    conn.execute("UPDATE jobdeck_schema SET version = 1 WHERE component = 'queue'")
    with pytest.raises(SchemaMismatch, match="jobdeck init"):
        backend.view(ALL)
