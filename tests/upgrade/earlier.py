"""Databases as earlier versions left them, and a worker that knows only their functions."""

from __future__ import annotations

import lzma
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.support.queue import Connection, Row

T = TypeVar("T")

FOLDER: Final = Path(__file__).parent
VERSION_1: Final = ("5ab34aa", "824810d", "884b6db", "0.1.0")
"""Three commits before 0.1.0, and 0.1.0. Each calls its schema version 1."""
VERSIONS: Final = (*VERSION_1, "3", "4")
"""These, and versions 3 and 4 of the queue with version 2 of the competition's tables, as pg_dump wrote them."""

LEASE: Final = 3600.0
OLD_WORKER: Final = "worker of before"

_CREATE: Final = """
SELECT (to_jsonb(c) ->> 'job_id')::uuid, (to_jsonb(c) #>> '{job,id}')::uuid FROM job_queue_create(
    %(type)s, %(payload)s, %(run_at)s, %(attempts)s, %(priority)s, %(dedupe)s, %(key)s, %(blocked_by)s, %(minutes)s,
    %(expires_at)s, 'mara@local') AS c
"""
_CLAIM: Final = "SELECT id, run_token FROM job_queue_claim(%s, %s::text[], %s, %s)"
_FINISH: Final = """
SELECT job_id FROM job_queue_finish(%s, ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY[%s], ARRAY[clock_timestamp()],
    ARRAY[clock_timestamp()], ARRAY[%s::jsonb], 30, 3600)
"""


def schema(version: str) -> str:
    """The SQL that installed a version."""
    return lzma.decompress((FOLDER / f"schema-{version}.sql.xz").read_bytes()).decode()


def create(conn: Connection, task_type: str, **fields: Any) -> UUID:
    """Enqueues one job as any of these versions does."""
    given = {"payload": Jsonb({"n": 1}), "run_at": None, "attempts": 5, "priority": 0, "dedupe": None, "key": None,
             "blocked_by": None, "minutes": None, "expires_at": None}  # fmt: skip
    row = conn.execute(_CREATE, {"type": task_type, **given, **fields}).fetchone()
    assert row is not None
    made: UUID = row[0] or row[1]
    return made


def claim(conn: Connection, task_type: str, limit: int = 1) -> list[tuple[UUID, int]]:
    """Claims as these versions do, with a prepared statement."""
    return conn.execute(_CLAIM, (OLD_WORKER, [task_type], limit, LEASE), prepare=True).fetchall()


def finish(conn: Connection, job: UUID, token: int, outcome: str = "succeeded") -> None:
    """Reports one run as these versions do."""
    details = Jsonb({"error": "it broke", "kind": "broken"}) if outcome == "failed" else None
    conn.execute(_FINISH, (OLD_WORKER, job, token, outcome, details), prepare=True)


def fill(conn: Connection) -> dict[str, UUID]:
    """Brings jobs into every state, and something into every table that all these versions have."""
    jobs = {
        "pending": create(conn, "pending", priority=7),
        "scheduled": create(conn, "scheduled", run_at="2999-01-01"),
        "expiring": create(conn, "expiring", run_at="2999-01-01", expires_at="2999-01-02"),
        "series": create(conn, "series", minutes=60, run_at="2999-01-01"),
        "deduped": create(conn, "deduped", dedupe="once"),
        "keyed": create(conn, "keyed", key="k"),
        "in line": create(conn, "keyed", key="k"),
        "running": create(conn, "running"),
        "running series": create(conn, "running_series", minutes=60),
        "failed": create(conn, "failed", attempts=1),
        "retried": create(conn, "retried", attempts=3),
        "succeeded": create(conn, "succeeded"),
        "cancelled": create(conn, "cancelled", run_at="2999-01-01"),
        "deleted": create(conn, "deleted", run_at="2999-01-01"),
    }
    jobs["blocked"] = create(conn, "blocked", blocked_by=jobs["running"])
    for name in ("running", "running_series"):
        claim(conn, name)
    conn.execute("SELECT job_queue_checkpoint(id, run_token, '{\"at\": 3}') FROM job_queue WHERE task_type = 'running'")
    for name, outcome in (("failed", "failed"), ("retried", "failed"), ("succeeded", "succeeded")):
        ((job, token),) = claim(conn, name)
        finish(conn, job, token, outcome)
    for action, name in (("cancel", "cancelled"), ("delete", "deleted")):
        conn.execute(
            "SELECT * FROM job_queue_act(%s, %s::uuid[], NULL, 'mara@local', 'a reason', false)", [action, [jobs[name]]]
        )
    conn.execute("SELECT job_queue_pause('paused_type', 'a reason', NULL, 'mara@local')")
    conn.execute("SELECT job_worker_report(%s, 'host', 1, 'worker', '0.1.0', 4, '{running}', 1)", [OLD_WORKER])
    conn.execute("SELECT job_worker_run_open('timer', %s, 'POST')", [OLD_WORKER])
    conn.execute("INSERT INTO activity_logs (action, metadata) VALUES ('signed in', '{\"from\": \"here\"}')")
    if conn.execute("SELECT to_regclass('job_bulk') IS NOT NULL").fetchone() == (True,):
        conn.execute(
            "WITH b AS (INSERT INTO job_bulk (actor) VALUES ('mara@local') RETURNING id) "
            "INSERT INTO job_bulk_items (bulk_id, job_id) SELECT id, gen_random_uuid() FROM b"
        )
    return jobs


def all_rows(conn: Connection) -> dict[str, list[Row]]:
    """The rows of every table but that of the versions, and of the view that took the place of one."""
    tables = conn.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'jobdeck_schema' "
        "UNION SELECT viewname FROM pg_views WHERE schemaname = 'public' AND viewname = 'job_paused_types' ORDER BY 1"
    ).fetchall()
    return {
        table: [
            row for (row,) in conn.execute(sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(sql.Identifier(table)))
        ]
        for (table,) in tables
    }


class RunningWorker:
    """Claims and finishes jobs of one type through the functions that these versions call, until it is stopped."""

    def __init__(self, url: str, task_type: str, *, again: bool) -> None:
        self.finished: list[UUID] = []
        self.error: BaseException | None = None
        self._url = url
        self._task_type = task_type
        self._again = again
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    def wait_for(self, count: int) -> None:
        """Waits until so many jobs are finished.

        Raises:
            BaseException: what ended the worker before.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self.error or len(self.finished) >= count, 180)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as conn:
                while not self._stopping:
                    for job, token in self._sent(lambda: claim(conn, self._task_type, 3)):
                        self._sent(lambda: finish(conn, job, token))  # noqa: B023 -- called at once
                        self._note(job)
        except psycopg.Error as error:
            self.error = error
            self._note(None)

    def _sent(self, call: Callable[[], T]) -> T:
        """Sends a call; again, where nothing was changed: a program repeats what waited for a lock for half a second.

        The functions of 0.1.0 keep their signatures, those of the versions before did not.
        """
        while True:
            try:
                return call()
            except psycopg.errors.LockNotAvailable:
                continue
            except psycopg.errors.UndefinedFunction:
                # The upgrade replaced what the call had begun with.
                if not self._again:
                    raise
                return call()

    def _note(self, job: UUID | None) -> None:
        with self._changed:
            if job is not None:
                self.finished.append(job)
            self._changed.notify_all()


REPLACED = {("job_queue_settings", "pruned_at")}
"""Columns whose facts are in another table now: `job_upkeep`."""


def lost_rows(before: dict[str, list[Row]], after: dict[str, list[Row]]) -> Iterator[str]:
    """Rows that are not there any more with all their values, each in words; new columns and rows are no loss."""
    for table, kept in before.items():
        for row in kept:
            values = {name: value for name, value in row.items() if (table, name) not in REPLACED}
            if not any(all(other.get(name) == value for name, value in values.items()) for other in after[table]):
                yield f"{table}: {row}"
