"""An upgrade to a made-up next version of the schema, the rows that it finds, and a worker that runs through it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from jobdeck.core.schema import components, schema_version
from tests.support.queue import Connection, Row

T = TypeVar("T")

SCHEMA: Final = Path(__file__).parents[2] / "core" / "schema"
LEASE: Final = 3600.0
WORKER: Final = "worker of before"
VERSION: Final = schema_version()

_COLUMN: Final = "    since timestamptz not null default clock_timestamp()"
_MIGRATIONS: Final = {
    "901_before_column.sql": "alter table job_alarms add column if not exists raised_by text;",
    "902_online_values.sql": """
        do $$
        begin
            if exists (
                select from pg_attribute where attrelid = to_regclass('job_alarms') and attname = 'raised_by'
            ) then
                update job_alarms set raised_by = 'nobody' where raised_by is null;
            end if;
        end
        $$;
    """,
    "903_after_function.sql": "drop function if exists job_of_before();",
}
"""One of each phase: a table gets a column, its rows get values, and a function that older workers call is gone."""

_CREATE: Final = """
SELECT job_id FROM job_queue_create(
    %(type)s, %(payload)s, %(run_at)s, %(attempts)s, %(priority)s, %(dedupe)s, %(key)s, %(blocked_by)s, %(minutes)s,
    %(expires_at)s, 'mara@local')
"""
_CLAIM: Final = "SELECT id, run_token FROM job_queue_claim(%s, %s::text[], %s, %s)"
_FINISH: Final = """
SELECT job_id FROM job_queue_finish(%s, ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY[%s], ARRAY[clock_timestamp()],
    ARRAY[clock_timestamp()], ARRAY[%s::jsonb], 30, 3600)
"""


def become_next_version(folder: Path, monkeypatch: pytest.MonkeyPatch, *, serves: str = "0.3.0") -> None:
    """Gives this process the SQL of the version after this one, which still serves programs from `serves` on."""
    shutil.copytree(SCHEMA, folder)
    parts = {path: path.read_text(encoding="utf-8") for path in (folder / "sql").iterdir()}
    for old, new in (
        (f"-- jobdeck schema version {VERSION}", f"-- jobdeck schema version {VERSION + 1}"),
        ("-- serves programs from 0.3.0", f"-- serves programs from {serves}"),
        (f"jobdeck_schema (version) values ({VERSION})", f"jobdeck_schema (version) values ({VERSION + 1})"),
        (f"create table if not exists job_alarms (\n    name text primary key,\n{_COLUMN}\n",
         f"create table if not exists job_alarms (\n    name text primary key,\n{_COLUMN},\n    raised_by text\n"),
    ):  # fmt: skip
        (path,) = [path for path, text in parts.items() if old in text]
        parts[path] = parts[path].replace(old, new)
        path.write_text(parts[path], encoding="utf-8")
    (folder / "migrations").mkdir(exist_ok=True)
    for name, text in _MIGRATIONS.items():
        first = f"-- jobdeck schema version {VERSION + 1}\n"
        (folder / "migrations" / name).write_text(first + text, encoding="utf-8")
    monkeypatch.setattr(components, "sql_folder", lambda: folder)


def create(conn: Connection, task_type: str, **fields: Any) -> UUID:
    """Enqueues one job through the function that programs call."""
    given = {"payload": Jsonb({"n": 1}), "run_at": None, "attempts": 5, "priority": 0, "dedupe": None, "key": None,
             "blocked_by": None, "minutes": None, "expires_at": None}  # fmt: skip
    row = conn.execute(_CREATE, {"type": task_type, **given, **fields}).fetchone()
    assert row is not None
    made: UUID = row[0]
    return made


def claim(conn: Connection, task_type: str, limit: int = 1) -> list[tuple[UUID, int]]:
    """Claims with a prepared statement, as a worker does."""
    return conn.execute(_CLAIM, (WORKER, [task_type], limit, LEASE), prepare=True).fetchall()


def finish(conn: Connection, job: UUID, token: int, outcome: str = "succeeded") -> None:
    """Reports one run with a prepared statement."""
    details = Jsonb({"error": "it broke", "kind": "broken"}) if outcome == "failed" else None
    conn.execute(_FINISH, (WORKER, job, token, outcome, details), prepare=True)


def fill(conn: Connection) -> dict[str, UUID]:
    """Brings jobs into every state, and something into other tables."""
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
    conn.execute("SELECT job_worker_report(%s, 'host', 1, 'worker', '0.2.0', 4, '{running}', 1)", [WORKER])
    conn.execute("SELECT job_worker_run_open('timer', %s, 'POST')", [WORKER])
    conn.execute("INSERT INTO job_alarms (name) VALUES ('stalled')")
    conn.execute(
        "WITH b AS (INSERT INTO job_bulk (actor) VALUES ('mara@local') RETURNING id) "
        "INSERT INTO job_bulk_items (bulk_id, job_id) SELECT id, gen_random_uuid() FROM b"
    )
    return jobs


def all_rows(conn: Connection) -> dict[str, list[Row]]:
    """The rows of every table but that of the versions."""
    tables = conn.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'jobdeck_schema' ORDER BY 1"
    ).fetchall()
    return {
        table: [
            row for (row,) in conn.execute(sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(sql.Identifier(table)))
        ]
        for (table,) in tables
    }


class RunningWorker:
    """Claims and finishes jobs of one type in a thread, until it is stopped."""

    def __init__(self, url: str, task_type: str) -> None:
        self.finished: list[UUID] = []
        self.error: BaseException | None = None
        self._url = url
        self._task_type = task_type
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
            with Connection.connect(self._url, autocommit=True) as conn:
                while not self._stopping:
                    for job, token in self._sent(lambda: claim(conn, self._task_type, 3)):
                        self._sent(lambda: finish(conn, job, token))  # noqa: B023 -- called at once
                        self._note(job)
        except psycopg.Error as error:
            self.error = error
            self._note(None)

    @staticmethod
    def _sent(call: Callable[[], T]) -> T:
        """Sends a call, and again when it has waited for a lock for half a second: programs repeat it, too."""
        while True:
            try:
                return call()
            except psycopg.errors.LockNotAvailable:
                continue

    def _note(self, job: UUID | None) -> None:
        with self._changed:
            if job is not None:
                self.finished.append(job)
            self._changed.notify_all()


def lost_rows(before: dict[str, list[Row]], after: dict[str, list[Row]]) -> Iterator[str]:
    """Rows that are not there any more with all their values, each in words; new columns and rows are no loss."""
    for table, kept in before.items():
        for row in kept:
            if not any(all(other.get(name) == value for name, value in row.items()) for other in after[table]):
                yield f"{table}: {row}"
