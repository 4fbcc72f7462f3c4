"""The calls that change the queue: of workers, producers, operators and upkeep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from jobdeck.core.model import FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, presence, producer
from jobdeck.core.queue.producers import series
from tests.plans.operations import CROWD, EVERY_TYPE, FAILED, REMOVED, Operation
from tests.support.plans import FIRST, LEASE, WORKER
from tests.support.queue import Connection

RETRIES: Final = {"retry_base": 30.0, "retry_cap": 3600.0}


def held(number: int, *, keyed: bool = False) -> Callable[[Connection], tuple[Any, ...]]:
    def given(conn: Connection) -> tuple[Any, ...]:
        return (
            conn.execute(
                """
                SELECT id, run_token FROM job_queue
                WHERE status = 'running' AND locked_by = %s AND (concurrency_key IS NOT NULL) = %s
                ORDER BY run_token LIMIT %s
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


def claim(limit: int, *types: str) -> Callable[[Connection], object]:
    return lambda conn: leases.claim(conn, WORKER, types, limit, LEASE)


def _claim_while_paused(conn: Connection) -> None:
    operator.pause(conn, reason=None, actor="mara", task_type="crowd")
    leases.claim(conn, WORKER, EVERY_TYPE, 10, LEASE)


def _claim_with(task_type: str, limit: int, **limits: int) -> Callable[[Connection], None]:
    def call(conn: Connection) -> None:
        operator.set_type(conn, task_type, changes=limits, actor="mara", reason=None)
        # Later than an hour after its first limit, the running jobs of a type are counted by their mark.
        conn.execute("UPDATE job_types SET limited_at = limited_at - interval '2 hours'")
        leases.claim(conn, WORKER, EVERY_TYPE, limit, LEASE)

    return call


def _claim_behind(conn: Connection, fronts: dict[leases.Lane, leases.Front]) -> None:
    leases.claim(conn, WORKER, ["crowd"], 100, LEASE, fronts)


def _thousandth_of_the_crowd(conn: Connection) -> tuple[Any, ...]:
    row = conn.execute("SELECT run_at, id FROM job_queue WHERE id = '00000000-0000-7000-8001-0000000003e8'").fetchone()
    return ({("crowd", 0): row} if row else {},)


def _upkeep(part: str) -> Callable[[Connection], None]:
    def call(conn: Connection) -> None:
        conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour'")
        found = conn.execute("SELECT trouble FROM job_queue_upkeep(%s, 30, 3600)", (part,)).fetchone()
        assert found == (None,), found

    return call


def finish(outcome: str) -> Callable[..., object]:
    def call(conn: Connection, held: list[tuple[UUID, int]]) -> object:
        began = FIRST.timestamp()
        runs = [FinishedRun(job_id, token, RunOutcome(outcome), began, began) for job_id, token in held]
        return leases.finish(conn, WORKER, runs, **RETRIES)

    return call


def heartbeat(conn: Connection, held: list[tuple[UUID, int]]) -> object:
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


WRITES: Final = {
    # An index page that splits costs some blocks.
    "claim one of one type": Operation(claim(1, "beta"), entries=20, blocks=80),
    "claim a hundred of one type": Operation(claim(100, "beta"), entries=600, blocks=2500),
    "claim a hundred of a crowd": Operation(claim(100, "crowd"), entries=600, blocks=2500),
    "claim a hundred of all types": Operation(claim(100, *EVERY_TYPE), entries=1200, blocks=3500),
    "claim what waits behind a busy key, or for another job": Operation(claim(100, "alpha"), entries=20, blocks=60),
    "claim what is due tomorrow": Operation(claim(100, "later"), entries=20, blocks=60),
    "claim beside a crowd of a paused type": Operation(_claim_while_paused, entries=120, blocks=500),
    "claim of types with limits": Operation(
        _claim_with("crowd", 100, max_running=50, rate_runs=1000, rate_seconds=1), entries=3000, blocks=4000
    ),
    "claim behind the last one": Operation(_claim_behind, 600, 2500, given=_thousandth_of_the_crowd),
    "next due": Operation(lambda conn: leases.next_due(conn, EVERY_TYPE), entries=60, blocks=150),
    "heartbeat of a hundred": Operation(heartbeat, given=held(100)),
    "checkpoint": Operation(_checkpoint, given=held(1), blocks=100),
    "finish a hundred successes": Operation(finish("succeeded"), given=held(100)),
    "finish a thousand successes": Operation(finish("succeeded"), given=held(1000), entries=8000, blocks=40_000),
    "finish a hundred failures": Operation(finish("failed"), given=held(100), blocks=8000),
    "finish one success": Operation(finish("succeeded"), given=held(1), blocks=300),
    "finish the head of a long line": Operation(finish("succeeded"), given=held(1, keyed=True), blocks=400),
    "give the head of a long line back": Operation(finish("released"), given=held(1, keyed=True), blocks=400),
    # The backlog is counted exactly up to 10,000 jobs, and 5,000 rows of statistics are added up. For a verdict that
    # rises, the newest 10,000 failed runs are looked through for the key that fails.
    "reap": Operation(_reap, entries=110_000, blocks=25_000, growth=4),
    **{
        f"upkeep of {part}": Operation(_upkeep(part), entries=35_000, blocks=15_000, growth=8) for part in leases.UPKEEP
    },
    "slots of series": Operation(series.refill, entries=20, blocks=60),
    "due jobs for a trigger": Operation(
        lambda conn: conn.execute("SELECT job_worker_run_open('cron_http', 'w', NULL)"), 12_000, 12_000, growth=6
    ),
    "enqueue once a day": Operation(_enqueue(NewJob("beta", dedupe_key="x", unique_seconds=86400.0)), 20, 120),
    "enqueue": Operation(_enqueue(NewJob("beta", dedupe_key="once", concurrency_key="busy")), entries=20, blocks=100),
    "enqueue a job that waits": Operation(_enqueue_behind, given=held(1), blocks=200),
    "enqueue behind an idle line": Operation(_enqueue(NewJob("later", concurrency_key="idle")), entries=20, blocks=100),
    "enqueue a hundred": Operation(
        _enqueue(*(NewJob("beta", dedupe_key=str(n), concurrency_key="idle") for n in range(100))), entries=600
    ),
    "retry": Operation(lambda conn: operator.retry(conn, [FAILED], actor="mara"), entries=20, blocks=200),
    "run now in a long line": Operation(
        lambda conn, ids: operator.retry(conn, ids, actor="mara"), given=_last_in_line, entries=60, blocks=320
    ),
    "run again what left the queue": Operation(lambda conn: operator.run_again(conn, REMOVED, actor="mara"), 20, 150),
    "cancel": Operation(lambda conn: operator.cancel(conn, [CROWD], actor="mara"), entries=20, blocks=200),
    "delete": Operation(lambda conn: operator.delete(conn, [CROWD], actor="mara"), entries=20, blocks=200),
    "edit": Operation(
        lambda conn: operator.edit(conn, CROWD, changes={"priority": 3}, actor="mara"), entries=20, blocks=150
    ),
    "open a worker run": Operation(
        lambda conn: presence.open_worker_run(conn, source="cli", worker_id=WORKER), entries=12_000, growth=5
    ),
    "skip a run that is none": Operation(lambda conn: operator.skip(conn, CROWD, actor="mara"), entries=20, blocks=150),
    "count of the backlog": Operation(
        lambda conn: conn.execute("SELECT job_backlog_sample()"), entries=70_000, blocks=70_000, growth=9
    ),
}
