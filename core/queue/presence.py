"""Records that workers write: their heartbeat, the result of each cycle or window, and the alarms they raised."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused
from jobdeck.core.registry.code_values import columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.queue.calls import Connection
    from jobdeck.core.registry import JobType

FILLED_TOGETHER: Final = 10_000


def report_worker(  # noqa: PLR0913 -- one keyword per column
    conn: Connection,
    *,
    worker_id: str,
    host: str,
    pid: int,
    mode: str,
    version: str,
    concurrency: int,
    task_types: Sequence[str],
    running: int,
    slots: Json | None = None,
) -> int:
    """Writes a worker's heartbeat into `job_workers`. `mode` is `headless`, `embedded` or `cycle`.

    `slots` are those of each kind of handler, with the task types that have them: `{"thread": {"slots": 8, "types":
    ["a"]}}`. Without it, all `concurrency` slots are those of threads.

    Returns how many workers run some of these task types now, this one among them.
    """
    row = conn.execute(
        """
        SELECT job_worker_report(%s, %s, %s, %s, %s, %s, %s::text[], %s, %s::jsonb), (
            SELECT count(*) FROM job_workers AS w
            WHERE w.task_types && %s::text[] AND w.id <> %s AND job_worker_is_alive(w.heartbeat_at, clock_timestamp())
        )
        """,
        (worker_id, host, pid, mode, version, concurrency, list(task_types), running,
         None if slots is None else json.dumps(slots), list(task_types), worker_id),
    ).fetchone()  # fmt: skip
    return row[1] + 1 if row else 1


def declare_types(conn: Connection, types: Iterable[JobType]) -> None:
    """Writes the concurrency rules of task types, so that each job gets its key, also one that another program inserts.

    Jobs in the queue that have no key yet get theirs, 10,000 rows in a transaction where the connection commits by
    itself.
    """
    known = list(types)
    names, rules = [one.task_type for one in known], [one.concurrency for one in known]
    (keyless,) = conn.execute("SELECT job_types_declare(%s::text[], %s::text[])", (names, rules)).fetchall()[0]
    after, filled = None, not keyless
    while not filled:
        statement = "SELECT job_types_fill_keys(%s::text[], %s::uuid, %s)"
        (after,) = conn.execute(statement, (keyless, after, FILLED_TOGETHER)).fetchall()[0]
        filled = after is None


def declare_values(conn: Connection, types: Iterable[JobType], *, release: str, worker_id: str) -> None:
    """Writes what the code of this release says of its task types, unless a release that came later has said it.

    Values of operators hold on. The first worker of a release dates it.
    """
    code = {one.task_type: columns(one.task_type, one.values) for one in types}
    conn.execute("SELECT job_types_code(%s, %s, %s::jsonb)", (worker_id, release, json.dumps(code)))


def remove_worker(conn: Connection, worker_id: str) -> None:
    conn.execute("SELECT job_worker_remove(%s)", (worker_id,))


def open_worker_run(conn: Connection, *, source: str, worker_id: str, http_method: str | None = None) -> UUID:
    """Opens the record of a cycle or window, with the number of due jobs.

    `source` is `cron_http`, `worker`, `embedded`, `manual` or `cli`.
    """
    row = conn.execute("SELECT job_worker_run_open(%s, %s, %s)", (source, worker_id, http_method)).fetchone()
    if row is None:
        raise Refused("The database did not open a worker run.")
    opened: UUID = row[0]
    return opened


def note_worker_run(  # noqa: PLR0913 -- one keyword per column
    conn: Connection,
    run_id: UUID,
    *,
    claimed: int = 0,
    succeeded: int = 0,
    failed: int = 0,
    released: int = 0,
    status: str | None = None,
    message: str | None = None,
    http_status: int | None = None,
) -> None:
    """Updates an open record that this role opened; one that is closed or another's does not change."""
    conn.execute(
        "SELECT job_worker_run_note(%s, %s, %s, %s, %s, %s, %s, %s)",
        (run_id, claimed, succeeded, failed, released, status, message, http_status),
    )


def close_worker_run(  # noqa: PLR0913 -- one keyword per column
    conn: Connection,
    run_id: UUID,
    *,
    status: str,
    claimed: int = 0,
    succeeded: int = 0,
    failed: int = 0,
    released: int = 0,
    message: str | None = None,
    error: str | None = None,
    results: Sequence[Json] = (),
    http_status: int | None = None,
) -> None:
    """Closes the record of a cycle or window, which this role has opened. `status` is `ok`, `paused` or `error`.

    A closed record does not change.
    """
    conn.execute(
        "SELECT job_worker_run_note(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, true)",
        (
            run_id, claimed, succeeded, failed, released, status, message, http_status, error,
            json.dumps(list(results)),
        ),
    )  # fmt: skip


def raise_alarm(conn: Connection, name: str) -> bool:
    """Raises an alarm. Returns False if an alarm of this name is already raised, by any worker."""
    row = conn.execute("SELECT job_alarm_raise(%s)", (name,)).fetchone()
    return bool(row and row[0])


def clear_alarm(conn: Connection, name: str) -> datetime | None:
    """Clears an alarm. Returns when it was raised, to one caller only; None to all others."""
    row = conn.execute("SELECT job_alarm_clear(%s)", (name,)).fetchone()
    return row[0] if row else None
