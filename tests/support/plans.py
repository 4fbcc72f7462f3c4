"""What a statement costs the server, by its own counters, and queues large enough for that to matter.

The counters see inside functions, on every version of Postgres and without an extension, and they count for the
product's own calls; so nothing is explained here that is not what runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from psycopg import sql

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer
from tests.support.queue import Connection

WORKER: Final = "worker-1"
LEASE: Final = 3600.0
FIRST: Final = datetime(2020, 1, 1, tzinfo=UTC)
BIG_TABLES: Final = ("job_queue", "job_runs")

# All runs of these tests are in the first partition of the history.
_COUNTERS: Final = """
SELECT 'scans', CASE relname WHEN 'job_runs_0' THEN 'job_runs' ELSE relname END, seq_scan FROM pg_stat_user_tables
WHERE relname <> 'job_runs'
UNION ALL SELECT 'entries', indexrelname, idx_tup_read FROM pg_stat_user_indexes
UNION ALL SELECT 'blocks', relname, coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
    + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0) FROM pg_statio_user_tables
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What was touched: sequential scans by table, entries read by index, blocks by table."""

    scans: Counter[str]
    entries: Counter[str]
    blocks: Counter[str]

    @property
    def rows(self) -> int:
        """All index entries that were read."""
        return self.entries.total()

    @property
    def whole_tables(self) -> list[str]:
        """The tables that must never be read from end to end, and were."""
        return [table for table in BIG_TABLES if self.scans[table]]


def _counters(conn: Connection) -> dict[str, Counter[str]]:
    conn.execute("SELECT pg_stat_force_next_flush()")
    found: dict[str, Counter[str]] = {"scans": Counter(), "entries": Counter(), "blocks": Counter()}
    for kind, name, number in conn.execute(_COUNTERS):
        found[kind][name] = number or 0
    return found


def cost_of(conn: Connection, call: Callable[[Connection], object], *, undo: bool = True) -> Cost:
    """What a call costs the second time, with its plans made. `undo` takes its effects back, both times."""
    _run(conn, call, undo=undo)
    before = _counters(conn)
    _run(conn, call, undo=undo)
    after = _counters(conn)
    return Cost(**{kind: after[kind] - before[kind] for kind in before})


def _run(conn: Connection, call: Callable[[Connection], object], *, undo: bool) -> None:
    if undo:
        with conn.transaction(force_rollback=True):
            call(conn)
    else:
        call(conn)


@dataclass(frozen=True, slots=True)
class Size:
    """How many jobs of each kind a queue holds."""

    due: int = 0
    tomorrow: int = 0
    in_line: int = 0
    blocked: int = 0
    ended: int = 0
    runs: int = 0


FILL: Final[tuple[bytes, ...]] = (
    b"""
    INSERT INTO job_queue (id, task_type, run_at, payload)
    SELECT overlay('00000000-0000-7000-8001-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'crowd',
        now() - interval '2 hours' + n * interval '1 ms', '{"coachId": "none"}' FROM generate_series(1, %(due)s) AS n
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at, expires_at)
    SELECT overlay('00000000-0000-7000-8002-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'later',
        now() + interval '1 day' + n * interval '1 ms', now() + interval '2 days'
    FROM generate_series(1, %(tomorrow)s) AS n
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at, concurrency_key, in_line)
    SELECT overlay('00000000-0000-7000-8008-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'later',
        now() + interval '1 day' + n * interval '1 ms', 'idle', n > 1 FROM generate_series(1, %(in_line)s) AS n
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at, concurrency_key, in_line)
    SELECT overlay('00000000-0000-7000-8003-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'alpha',
        now() - interval '3 hours' + n * interval '1 ms', 'busy', true FROM generate_series(1, %(in_line)s) AS n
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at, blocked_by)
    SELECT overlay('00000000-0000-7000-8004-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'alpha',
        now() - interval '3 hours', '00000000-0000-7000-8005-000000000001' FROM generate_series(1, %(blocked)s) AS n
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at)
    SELECT '00000000-0000-7000-8005-000000000001', 'later', now() + interval '1 day' WHERE %(blocked)s > 0
    """,
    b"""
    INSERT INTO job_queue (id, task_type, run_at, status, completed_at, attempts, last_error)
    SELECT overlay('00000000-0000-7000-8006-000000000000' placing lpad(to_hex(n), 12, '0') from 25)::uuid, 'alpha',
        now() - interval '5 hours', (array['succeeded', 'failed', 'cancelled'])[1 + n %% 3],
        now() - n * interval '1 s', 5, 'gone' FROM generate_series(1, %(ended)s) AS n
    """,
    b"""
    INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome,
        removed, error, fingerprint)
    SELECT nextval('job_run_token_seq'), overlay('00000000-0000-7000-8007-000000000000' placing
            lpad(to_hex(n / 2), 12, '0') from 25)::uuid, 'alpha', '{}', 1, at, at, at,
        CASE WHEN n %% 2 = 0 THEN 'succeeded' ELSE 'retried' END, n %% 2 = 0, 'gone', 'f'
    FROM generate_series(1, %(runs)s) AS n,
        LATERAL (SELECT now() - interval '20 days' + n * interval '1 s') AS t (at)
    """,
)


def fill(conn: Connection, size: Size) -> None:
    """Fills an empty queue: rows first, then the indexes, which is several times faster."""
    with conn.transaction():
        kept = conn.execute(
            """
            SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
                AND (tablename = 'job_queue' OR tablename = 'job_runs') AND indexname NOT LIKE '%%_pkey'
            """
        ).fetchall()
        # What is written to a table emptied in the same transaction is not logged.
        conn.execute("TRUNCATE job_queue, job_runs")
        conn.execute("ALTER TABLE job_queue DISABLE TRIGGER USER")
        for name, _ in kept:
            conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        amounts = {name: getattr(size, name) for name in Size.__slots__}
        for statement in FILL:
            conn.execute(statement, amounts)
        conn.execute("SET LOCAL maintenance_work_mem = '256MB'")
        for _, definition in kept:
            # Of a partitioned table, the partitions get it as well.
            conn.execute(definition.replace(" ON ONLY ", " ON ").encode())
        conn.execute("ALTER TABLE job_queue ENABLE TRIGGER USER")


def set_to_work(conn: Connection) -> None:
    """Lets a worker hold 1 200 jobs, one of them at the head of the line behind `busy`, and lose 50 others."""
    jobs = [NewJob("beta") for _ in range(2500)] + [NewJob("gamma") for _ in range(50)]
    producer.enqueue_many(conn, jobs, actor="a producer")
    producer.enqueue(conn, NewJob("alpha", concurrency_key="busy", run_at=FIRST), actor="a producer")
    assert len(leases.claim(conn, WORKER, ["alpha"], 1, LEASE)) == 1
    assert len(leases.claim(conn, WORKER, ["beta"], 1199, LEASE)) == 1199
    assert len(leases.claim(conn, "a lost worker", ["gamma"], 50, LEASE)) == 50
    conn.execute("UPDATE job_queue SET lease_expires_at = now() WHERE locked_by = 'a lost worker'")
