"""What the queue's statements cost does not depend on how many jobs there are, nor on what the planner knows.

Each operation is measured on an empty queue, on one just emptied, on 10 000 and on two million jobs, analyzed and
never analyzed, on each major version of Postgres that is here. Nothing is timed: counted are sequential scans,
index entries read and blocks touched.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import EmbeddedPostgresError, JobNotFound, UsageError
from jobdeck.core.model import Filter, FinishedRun, NewJob, RunOutcome, Status
from jobdeck.core.queue import leases, operator, presence, producer
from jobdeck.core.read import history, reports
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.pages import overview, series
from jobdeck.core.read.stats import backlog, error_groups
from jobdeck.core.read.verdict.health import health
from tests.conftest import WANTED_MAJOR
from tests.support.plans import FIRST, LEASE, WORKER, Cost, Size, cost_of, fill, set_to_work
from tests.support.postgres import PostgresServer
from tests.support.schema import install_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Connection = psycopg.Connection[Any]

MAJORS: Final = (None,) if WANTED_MAJOR else (None, 15)
SMALL: Final = Size(due=8000, tomorrow=8000, in_line=1000, blocked=1000, ended=3000, runs=3000)
BIG: Final = Size(due=1_000_000, tomorrow=1_000_000, in_line=100_000, blocked=100_000, ended=90_000, runs=300_000)
CROWD: Final = UUID("00000000-0000-7000-8001-000000000007")
FAILED: Final = UUID("00000000-0000-7000-8006-000000000001")
REMOVED: Final = UUID("00000000-0000-7000-8007-000000000007")
RETRIES: Final = {"retry_base": 30.0, "retry_cap": 3600.0}
EVERY_TYPE: Final = ("alpha", "beta", "crowd", "gamma", "later", "nothing of this type")


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
    names = _make_queues(server)
    connections = {what: server.connect(name) for what, name in names.items()}
    try:
        yield connections
    finally:
        for conn in connections.values():
            conn.close()
        for name in names.values():
            server.drop_database(name)


def _make_queues(server: PostgresServer) -> dict[str, str]:
    names = {"empty": server.create_database()}
    with server.connect(names["empty"]) as conn:
        install_everything(conn)
    for what, size in (("small", SMALL), ("big", BIG)):
        names[what] = server.create_database(template=names["empty"])
        with server.connect(names[what]) as conn:
            fill(conn, size)
            set_to_work(conn)
        names[f"{what}, analyzed"] = server.create_database(template=names[what])
        with server.connect(names[f"{what}, analyzed"]) as conn:
            conn.execute("ANALYZE")
    names["emptied"] = server.create_database(template=names["small, analyzed"])
    with server.connect(names["emptied"]) as conn:
        conn.execute("DELETE FROM job_queue")
        conn.execute("DELETE FROM job_runs")
        conn.execute("VACUUM job_queue, job_runs")
    return names


# The operations


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the product, and the most index entries and blocks it may touch, whatever the queue holds.

    `given` finds what it is called with. `reads` marks what changes nothing and is planned anew for each call, and
    so may read a table from end to end that has no pages. `growth` is how many times more blocks it may touch when
    the queue is big than when it is small.
    """

    call: Callable[..., object]
    entries: int = 5000
    blocks: int = 5000
    given: Callable[[Connection], tuple[Any, ...]] = lambda conn: ()  # noqa: ARG005 -- nothing is needed
    reads: bool = False
    growth: int = 3


def _held(number: int, *, keyed: bool = False) -> Callable[[Connection], tuple[Any, ...]]:
    def given(conn: Connection) -> tuple[Any, ...]:
        return (
            conn.execute(
                """
                SELECT id, run_token FROM job_queue
                WHERE status = 'running' AND locked_by = %s AND (concurrency_key IS NOT NULL) = %s ORDER BY id LIMIT %s
                """,
                (WORKER, keyed, number),
            ).fetchall(),
        )

    return given


def _last_in_line(conn: Connection) -> tuple[Any, ...]:
    rows = conn.execute(
        "SELECT id FROM job_queue WHERE concurrency_key = 'idle' AND status = 'pending' AND in_line"
        " ORDER BY run_at DESC LIMIT 1"
    ).fetchall()
    return ([job_id for (job_id,) in rows],)


def _claim(limit: int, *types: str) -> Callable[[Connection], object]:
    return lambda conn: leases.claim(conn, WORKER, types, limit, LEASE)


def _claim_while_paused(conn: Connection) -> None:
    operator.pause(conn, reason=None, actor="mara", task_type="crowd")
    leases.claim(conn, WORKER, EVERY_TYPE, 10, LEASE)


def _finish(outcome: str) -> Callable[..., object]:
    def call(conn: Connection, held: list[tuple[UUID, int]]) -> object:
        began = FIRST.timestamp()
        runs = [FinishedRun(job_id, token, RunOutcome(outcome), began, began) for job_id, token in held]
        return leases.finish(conn, WORKER, runs, **RETRIES)

    return call


def _heartbeat(conn: Connection, held: list[tuple[UUID, int]]) -> object:
    return leases.heartbeat(conn, WORKER, [(job_id, token, {"done": 1}) for job_id, token in held], LEASE)


def _checkpoint(conn: Connection, held: list[tuple[UUID, int]]) -> None:
    for job_id, token in held:
        leases.save_checkpoint(conn, job_id, token, {"page": 2})


def _reap(conn: Connection) -> object:
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour'")
    return leases.reap(conn, retry_base=30.0, retry_cap=3600.0)


def _enqueue(*jobs: NewJob) -> Callable[[Connection], object]:
    if len(jobs) == 1:
        return lambda conn: producer.enqueue(conn, jobs[0], actor="a producer")
    return lambda conn: producer.enqueue_many(conn, jobs, actor="a producer")


def _enqueue_behind(conn: Connection, held: list[tuple[UUID, int]]) -> None:
    for job_id, _ in held:
        producer.enqueue(conn, NewJob("beta", blocked_by=job_id), actor="a producer")


def _last_of_the_crowd(conn: Connection) -> tuple[Any, ...]:
    rows = conn.execute(
        """
        SELECT id FROM job_queue WHERE task_type = 'crowd' AND priority = 0 AND status = 'pending'
            AND blocked_by IS NULL AND NOT in_line
        ORDER BY run_at DESC, id DESC LIMIT 1
        """
    ).fetchall()
    return (rows[0][0] if rows else CROWD,)


def _why_behind_all(conn: Connection, job_id: UUID) -> None:
    with conn.transaction(force_rollback=True):
        presence.report_worker(
            conn, worker_id=WORKER, host="h", pid=1, mode="headless", version="1", concurrency=1,
            task_types=EVERY_TYPE, running=0,
        )  # fmt: skip
        read_jobs.why(job_id).run(conn)


def _find_by_prefix(conn: Connection) -> None:
    with suppress(JobNotFound, UsageError):
        read_jobs.resolve_id(conn, str(CROWD)[:30])


def _page(status: Status | None, *, second: bool = False) -> Operation:
    def call(conn: Connection) -> object:
        found = read_jobs.page(Filter(status=status), limit=50).run(conn)
        return read_jobs.page(Filter(status=status), limit=50, after=found.next).run(conn) if second else found

    return Operation(call, reads=True)


OPERATIONS: Final = {
    # An index page that splits costs some blocks.
    "claim one of one type": Operation(_claim(1, "beta"), entries=20, blocks=80),
    "claim a hundred of one type": Operation(_claim(100, "beta"), entries=600, blocks=2500),
    "claim a hundred of a crowd": Operation(_claim(100, "crowd"), entries=600, blocks=2500),
    "claim a hundred of all types": Operation(_claim(100, *EVERY_TYPE), entries=1200, blocks=3500),
    "claim what waits behind a busy key, or for another job": Operation(_claim(100, "alpha"), entries=20, blocks=60),
    "claim what is due tomorrow": Operation(_claim(100, "later"), entries=20, blocks=60),
    "claim beside a crowd of a paused type": Operation(_claim_while_paused, entries=120, blocks=500),
    "next due": Operation(lambda conn: leases.next_due(conn, EVERY_TYPE), entries=60, blocks=150),
    "heartbeat of a hundred": Operation(_heartbeat, given=_held(100)),
    "checkpoint": Operation(_checkpoint, given=_held(1), blocks=100),
    "finish a hundred successes": Operation(_finish("succeeded"), given=_held(100)),
    "finish a thousand successes": Operation(_finish("succeeded"), given=_held(1000), entries=8000, blocks=40_000),
    "finish a hundred failures": Operation(_finish("failed"), given=_held(100), blocks=8000),
    "finish one success": Operation(_finish("succeeded"), given=_held(1), blocks=300),
    "finish the head of a long line": Operation(_finish("succeeded"), given=_held(1, keyed=True), blocks=400),
    "give the head of a long line back": Operation(_finish("released"), given=_held(1, keyed=True), blocks=400),
    # The backlog is counted exactly up to 10,000 jobs, and 5,000 rows of statistics are added up.
    "reap": Operation(_reap, entries=30_000, blocks=15_000),
    "enqueue": Operation(_enqueue(NewJob("beta", dedupe_key="once", concurrency_key="busy")), entries=20, blocks=100),
    "enqueue a job that waits": Operation(_enqueue_behind, given=_held(1), blocks=200),
    "enqueue behind an idle line": Operation(_enqueue(NewJob("later", concurrency_key="idle")), entries=20, blocks=100),
    "enqueue a hundred": Operation(
        _enqueue(*(NewJob("beta", dedupe_key=str(n), concurrency_key="idle") for n in range(100))), entries=600
    ),
    "retry": Operation(lambda conn: operator.retry(conn, [FAILED], actor="mara"), entries=20, blocks=150),
    "run now in a long line": Operation(
        lambda conn, ids: operator.retry(conn, ids, actor="mara"), given=_last_in_line, entries=60, blocks=240
    ),
    "run again what left the queue": Operation(lambda conn: operator.run_again(conn, REMOVED, actor="mara"), 20, 150),
    "cancel": Operation(lambda conn: operator.cancel(conn, [CROWD], actor="mara"), entries=20, blocks=150),
    "delete": Operation(lambda conn: operator.delete(conn, [CROWD], actor="mara"), entries=20, blocks=150),
    "edit": Operation(
        lambda conn: operator.edit(conn, CROWD, changes={"priority": 3}, actor="mara"), entries=20, blocks=150
    ),
    "open a worker run": Operation(
        lambda conn: presence.open_worker_run(conn, source="cli", worker_id=WORKER), growth=5
    ),
    "counts": Operation(read_jobs.counts().run, reads=True, entries=9000, blocks=9000, growth=6),
    "backlog by type": Operation(read_jobs.backlog().run, reads=True, entries=40_000, blocks=30_000, growth=6),
    "health": Operation(health().run, reads=True),
    "why": Operation(read_jobs.why(CROWD).run, reads=True),
    "why of a job behind all others": Operation(_why_behind_all, given=_last_of_the_crowd, reads=True, growth=20),
    "detail": Operation(read_jobs.detail(CROWD).run, reads=True),
    "detail of what left the queue": Operation(read_jobs.detail(REMOVED).run, reads=True),
    "newest runs": Operation(history.runs().run, entries=60, blocks=40, reads=True),
    "cron health": Operation(reports.cron().run, reads=True, entries=50_000, blocks=40_000, growth=6),
    "errors over time": Operation(reports.errors().run, reads=True, entries=70_000, blocks=150_000),
    "jobs that failed alike": Operation(
        error_groups.alike("crowd", "0123456789ab").run, entries=70_000, blocks=150_000, reads=True
    ),
    "workers and what nobody runs": Operation(reports.worker_report().run, reads=True),
    "audit and digest of a shift": Operation(
        reports.audit(timedelta(hours=8)).run, entries=170_000, blocks=170_000, reads=True, growth=6
    ),
    "task types with their figures": Operation(
        overview.types().run, entries=120_000, blocks=120_000, reads=True, growth=15
    ),
    "trends of 30 days": Operation(backlog.trend_report(timedelta(days=30)).run, reads=True),
    "series with their streaks": Operation(series.series().run, reads=True),
    "count of the backlog": Operation(
        lambda conn: conn.execute("SELECT job_backlog_sample()"), entries=70_000, blocks=70_000, growth=6
    ),
    "skip a run that is none": Operation(lambda conn: operator.skip(conn, CROWD, actor="mara"), entries=20, blocks=150),
    "detail of what is in the trash": Operation(
        read_jobs.detail(UUID("00000000-0000-7000-8009-000000000001")).run, reads=True
    ),
    "find a job by the beginning of its id": Operation(_find_by_prefix, reads=True),
    **{f"page of {status or 'all'} jobs": _page(status) for status in (None, *Status)},
    **{f"second page of {status or 'all'} jobs": _page(status, second=True) for status in (None, *Status)},
}


@pytest.mark.slow
@pytest.mark.xdist_group("plans")  # the queues of two million jobs are made once
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_the_same_whatever_the_queue_holds(name: str, queues: dict[str, Connection]) -> None:
    operation = OPERATIONS[name]
    costs = {what: _cost(conn, operation) for what, conn in queues.items()}

    problems = [problem for what, cost in costs.items() for problem in _problems(what, cost, operation)]
    for kind in ("small", "small, analyzed"):
        big = costs[kind.replace("small", "big")]
        if big.blocks.total() > operation.growth * costs[kind].blocks.total() + 200:
            problems.append(f"{big.blocks.total()} blocks when big, {costs[kind].blocks.total()} when {kind}")
    assert not problems, "\n".join(problems)


def _cost(conn: Connection, operation: Operation) -> Cost:
    given = operation.given(conn)
    return cost_of(conn, lambda conn: operation.call(conn, *given), undo=not operation.reads)


def _problems(what: str, cost: Cost, operation: Operation) -> Iterator[str]:
    if cost.whole_tables and not (operation.reads and what in {"empty", "emptied"}):
        yield f"{what}: reads the whole of {cost.whole_tables}"
    if cost.rows > operation.entries and what.startswith("big"):
        yield f"{what}: reads {cost.rows} index entries, {dict(cost.entries)}"
    if cost.blocks.total() > operation.blocks:
        yield f"{what}: touches {cost.blocks.total()} blocks, {dict(cost.blocks)}"


# Backlogs that the fill above does not hold


def test_a_key_that_many_jobs_came_first_for_costs_claims_nothing_once_one_of_them_runs(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, concurrency_key, run_at)
        SELECT 'alpha', 'busy', now() - n * interval '1 s' FROM generate_series(1, 20000) AS n
        """
    )
    assert len(leases.claim(conn, WORKER, ["alpha"], 100, LEASE)) == 1

    assert cost_of(conn, _claim(100, "alpha")).rows < 20


def test_a_queue_of_jobs_that_wait_for_one_other_costs_those_that_finish_nothing(conn: Connection) -> None:
    fill(conn, Size(blocked=20_000))
    set_to_work(conn)
    conn.execute("ANALYZE job_queue")
    held = _held(1000)(conn)

    assert cost_of(conn, lambda conn: _finish("succeeded")(conn, *held)).rows < 10_000


def test_jobs_that_ran_out_of_time_in_an_outage_are_out_of_the_way_within_a_minute_of_reaping(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, run_at, expires_at)
        SELECT 'alpha', now() - interval '1 hour', now() - interval '1 s' FROM generate_series(1, 50000) AS n
        """
    )
    expired = [leases.reap(conn, retry_base=30.0, retry_cap=3600.0).expired for _ in range(12)]

    assert sum(expired) == 50_000
