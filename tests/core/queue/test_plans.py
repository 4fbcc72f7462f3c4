"""What the queue's statements cost does not depend on how many jobs there are, nor on what the planner knows.

Each operation is measured on an empty queue, on one just emptied, on 10 000 and on a million jobs, never analyzed,
analyzed, and analyzed while it was empty, on each major version of Postgres that is here. Nothing is timed: counted
are sequential scans, index entries read and blocks touched. `python -m tests.plans` does it with as many jobs as the
disk holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobdeck.core.errors import EmbeddedPostgresError
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer
from tests.conftest import WANTED_MAJOR
from tests.plans.queues import BIG, OPERATIONS, SMALL, judge, make_queues
from tests.plans.writes import claim, finish, heartbeat, held
from tests.support.plans import LEASE, WORKER, Size, cost_of, fill, set_to_work
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection


def test_the_counters_see_a_table_read_from_end_to_end_and_inside_functions(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha")] * 50, actor="a producer")
    conn.execute("CREATE FUNCTION look() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM job_queue'")

    assert cost_of(conn, lambda conn: conn.execute("SELECT look()")).whole_tables == ["job_queue"]
    assert (
        cost_of(conn, lambda conn: leases.claim(conn, WORKER, ["alpha"], 10, LEASE)).entries["job_queue_claimable"] > 9
    )


# The queues


@pytest.fixture(
    scope="module", params=[None] if WANTED_MAJOR else [None, 15], ids=["default", "oldest"][: 1 if WANTED_MAJOR else 2]
)
def server(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of each major version that is here."""
    if request.param in {None, postgres.version}:
        yield postgres
        return
    try:
        other = PostgresServer.start_new(request.param)
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    try:
        yield other
    finally:
        other.destroy()


@pytest.fixture(scope="module")
def queues(server: PostgresServer) -> Iterator[dict[str, Connection]]:
    """Queues of all sizes, by what they are."""
    with opened(server, SMALL, BIG) as connections:
        yield connections


@contextmanager
def opened(server: PostgresServer, *numbers: int) -> Iterator[dict[str, Connection]]:
    names = make_queues(server, *numbers)
    connections = {what: server.connect(name) for what, name in names.items()}
    try:
        yield connections
    finally:
        for conn in connections.values():
            conn.close()
        for name in names.values():
            server.drop_database(name)


@pytest.mark.slow
def test_no_operation_reads_a_whole_table_of_none_or_ten_thousand_jobs(postgres: PostgresServer) -> None:
    with opened(postgres, SMALL) as connections:
        found = {name: judge(operation, connections) for name, operation in OPERATIONS.items()}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.slow
@pytest.mark.xdist_group("plans")  # the queues of a million jobs are made once
@pytest.mark.every_row
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_the_same_whatever_the_queue_holds(name: str, queues: dict[str, Connection]) -> None:
    problems = judge(OPERATIONS[name], queues, big=BIG)
    assert not problems, "\n".join(problems)


# Backlogs that the fill above does not hold


@pytest.mark.slow
def test_a_key_that_many_jobs_came_first_for_costs_claims_nothing_once_one_of_them_runs(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, concurrency_key, run_at)
        SELECT 'alpha', 'busy', now() - n * interval '1 s' FROM generate_series(1, 20000) AS n
        """
    )
    assert len(leases.claim(conn, WORKER, ["alpha"], 100, LEASE)) == 1

    assert cost_of(conn, claim(100, "alpha")).rows < 20


@pytest.mark.slow
def test_a_queue_of_jobs_that_wait_for_one_other_costs_those_that_finish_nothing(conn: Connection) -> None:
    fill(conn, Size(blocked=20_000))
    set_to_work(conn)
    conn.execute("ANALYZE job_queue")
    thousand = held(1000)(conn)

    assert cost_of(conn, lambda conn: finish("succeeded")(conn, *thousand)).rows < 10_000


@pytest.mark.slow
def test_a_heartbeat_of_a_hundred_reads_no_other_running_jobs_though_the_planner_believes_in_none(
    conn: Connection,
) -> None:
    producer.enqueue_many(conn, [NewJob("beta") for _ in range(3000)], actor="a producer")
    conn.execute("ANALYZE job_queue")
    assert len(leases.claim(conn, WORKER, ["beta"], 3000, LEASE)) == 3000
    hundred = held(100)(conn)

    assert cost_of(conn, lambda conn: heartbeat(conn, *hundred)).rows < 1000


@pytest.mark.slow
def test_jobs_that_ran_out_of_time_in_an_outage_are_out_of_the_way_within_a_minute_of_reaping(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, run_at, expires_at)
        SELECT 'alpha', now() - interval '1 hour', now() - interval '1 s' FROM generate_series(1, 50000) AS n
        """
    )
    expired = [leases.reap(conn, retry_base=30.0, retry_cap=3600.0).expired for _ in range(12)]

    assert sum(expired) == 50_000
