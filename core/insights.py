"""The read side of the queue: pages, counts, detail, history, why, error groups. Changes nothing.

Reads through the views of `schema.sql`, so that a viewer sees payloads redacted. What a refresh costs does not
depend on how many jobs there are: lists follow an index and stop, counts stop at their limit.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import dict_row

from core.errors import JobNotFound, UsageError
from core.health import health
from core.model import (
    AuditEntry,
    Clause,
    Counts,
    ErrorGroup,
    Filter,
    Job,
    JobDetail,
    Page,
    Permissions,
    RunOutcome,
    Snapshot,
    Worker,
    WorkerRun,
)
from core.pages import STATEMENTS, WINDOW
from core.queue import processing
from core.rows import Row, job_from, run_from

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from core.model import Json, Run

Connection = psycopg.Connection[Any]

SORTS = ("natural", "task", "status", "attempts", "created", "last_run", "run_at", "error", "updated")
_SEEN = """
    SELECT now() AS at,
        CASE WHEN NOT pg_is_in_recovery() THEN pg_backend_pid() || ' ' || pg_current_snapshot()::text END AS sight
"""
"""`sight` decides alone which rows are seen: it names the transactions that have ended and those that have not.

A standby does not name them all, so it has none. After a crash of the server the number of a transaction that was lost
may be given again, but not to the same server process.
"""
_counted: WeakKeyDictionary[Connection, tuple[str, Counts]] = WeakKeyDictionary()
"""What was counted last on each connection: where each status has some 10 000 jobs, counting costs up to 1.5 ms."""
MIN_ID_PREFIX = 4
SHORT_ID = range(8, 13)
"""How many digits of its end may name a job: as many as the last group of an id has, or the part that lists show."""
NO_CURSOR = "This is no cursor of a list. Take the one that the list before it ended with."


def _rows(conn: Connection, statement: Any, params: Mapping[str, Any] | None = None) -> list[Row]:
    # Unprepared, so that each is planned for the filters it was really given.
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, params, prepare=False).fetchall()


def snapshot(
    conn: Connection,
    filter: Filter,  # noqa: A002 -- the word of this domain
    *,
    sort: str = "natural",
    descending: bool = True,
    limit: int = 200,
    after: str | None = None,
) -> Snapshot:
    """Everything the dashboard's first screen shows, at one moment of the database's clock."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        seen = _rows(conn, _SEEN)[0]
        return Snapshot(
            at=seen["at"],
            page=page(conn, filter, sort=sort, descending=descending, limit=limit, after=after),
            counts=_counts_as_of(conn, seen["sight"]),
            processing=processing(conn),
            health=health(conn),
            workers=tuple(workers(conn)),
        )


def _counts_as_of(conn: Connection, sight: str | None) -> Counts:
    """The counts, or those of the snapshot before on this connection where it saw the very same rows."""
    known = _counted.get(conn)
    if sight is not None and known is not None and known[0] == sight:
        return known[1]
    found = counts(conn)
    if sight is not None:
        _counted[conn] = sight, found
    return found


def page(
    conn: Connection,
    filter: Filter,  # noqa: A002 -- the word of this domain
    *,
    sort: str = "natural",
    descending: bool = True,
    limit: int = 200,
    after: str | None = None,
) -> Page:
    """Jobs in order, `limit` at most, and the cursor of those after them.

    The natural order is newest first for all jobs, due first for pending ones, and last ended first for those
    that ended; succeeded jobs include those that left the queue. Any other order, and the natural one turned
    round, is among the first 10 000 of the natural one.

    Raises:
        UsageError: `sort` is none of `SORTS`, or `after` is no cursor.
    """
    if sort not in SORTS:
        raise UsageError(f"There is no order by {sort}. Known are: {', '.join(SORTS)}.")
    natural = sort == "natural" and descending
    wanted = {
        "task_type": filter.task_type,
        "search": filter.search,
        "error": filter.error,
        "coach_id": filter.coach_id,
        "attempts": filter.attempts_at_least,
        "age": filter.older_than,
        "outcome": filter.outcome.value if filter.outcome else None,
        "sort": sort,
        "descending": descending,
        "window": limit + 1 if natural else WINDOW,
        "limit": limit + 1,
        **_cursor(after, natural=natural),
    }
    try:
        rows = _rows(conn, STATEMENTS[filter.status], wanted)
    except psycopg.DataError as error:
        if after is None:
            raise
        raise UsageError(NO_CURSOR) from error
    jobs = tuple(job_from(row) for row in rows[:limit])
    if len(rows) <= limit:
        return Page(jobs, None)
    last = rows[limit - 1]
    return Page(jobs, _encode({"key": last["place_key"], "id": str(last["id"]), "skip": _skip(after) + limit}))


def _encode(cursor: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(after: str) -> Json:
    try:
        cursor = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        return {"key": str(cursor["key"]), "id": str(UUID(cursor["id"])), "skip": int(cursor["skip"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(NO_CURSOR) from error


def _skip(after: str | None) -> int:
    return int(_decode(after)["skip"]) if after else 0


def _cursor(after: str | None, *, natural: bool) -> Json:
    if after is None:
        return {"after_key": None, "after_id": None, "skip": 0}
    cursor = _decode(after)
    if natural:
        return {"after_key": cursor["key"], "after_id": cursor["id"], "skip": 0}
    return {"after_key": None, "after_id": None, "skip": cursor["skip"]}


def counts(conn: Connection) -> Counts:
    """Jobs by status, each exact up to 10 000."""
    row = _rows(
        conn,
        """
        SELECT pending, running, succeeded, failed, cancelled, removed FROM job_queue_counts(%(most)s::integer)
        """,
        {"most": Counts.LIMIT + 1},
    )[0]
    return Counts(**{name: min(count, Counts.LIMIT + 1) for name, count in row.items()})


def workers(conn: Connection) -> list[Worker]:
    """The workers that have been heard of in the last day; alive are those heard of in the last 2 minutes."""
    rows = _rows(
        conn,
        """
        SELECT id, host, pid, mode, version, concurrency, task_types, started_at, heartbeat_at, running,
            heartbeat_at > now() - interval '2 minutes' AS alive
        FROM job_workers ORDER BY started_at, id
        """,
    )
    return [Worker(**row | {"task_types": tuple(row["task_types"])}) for row in rows]


def job(conn: Connection, job_id: UUID) -> Job | None:
    """One job of the queue, or the success with which it left it; None for neither."""
    rows = _rows(conn, "SELECT * FROM job_list WHERE id = %(id)s", {"id": job_id})
    if rows:
        return job_from(rows[0])
    removed = _rows(
        conn, "SELECT * FROM job_removed_list WHERE id = %(id)s ORDER BY left_with DESC LIMIT 1", {"id": job_id}
    )
    return job_from(removed[0]) if removed else None


def detail(conn: Connection, job_id: UUID) -> JobDetail | None:
    """One job with its newest 50 runs, the clauses of its claim and what operators did to it; in the trash as well."""
    found = job(conn, job_id)
    deleted = _rows(conn, "SELECT * FROM job_trash_list WHERE id = %(id)s", {"id": job_id}) if found is None else []
    if deleted:
        found = job_from(deleted[0])
    if found is None:
        return None
    newest, _ = runs(conn, job_id=job_id)
    clauses, done = why(conn, job_id), audit(conn, job_id=job_id)
    return JobDetail(found, tuple(newest), tuple(clauses), tuple(done), in_trash=bool(deleted))


def why(conn: Connection, job_id: UUID) -> list[Clause]:
    """Each clause of the claim for one job, with its evidence; empty for a job that is not in the queue."""
    rows = _rows(
        conn,
        "SELECT clause AS name, holds, evidence FROM job_queue_why(%(id)s) ORDER BY place",
        {"id": job_id},
    )
    return [Clause(**row) for row in rows]


def runs(
    conn: Connection,
    *,
    job_id: UUID | None = None,
    task_type: str | None = None,
    outcome: RunOutcome | None = None,
    limit: int = 50,
    after: str | None = None,
) -> tuple[list[Run], str | None]:
    """Runs, newest first, and the cursor of those after them.

    Raises:
        UsageError: `after` is no cursor.
    """
    if after is not None and not (after.isdecimal() and len(after) <= 18):
        raise UsageError(NO_CURSOR)
    # A run that was lost and its worker's late return share a token, so the cursor tells which of the two it is.
    token, late = divmod(int(after), 2) if after else (None, 0)
    rows = _rows(
        conn,
        """
        SELECT * FROM job_run_list
        WHERE (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
            AND (%(task_type)s::text IS NULL OR task_type = %(task_type)s)
            AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
            AND (%(token)s::bigint IS NULL OR (run_token, late) < (%(token)s::bigint, %(late)s))
        ORDER BY run_token DESC, late DESC LIMIT %(limit)s
        """,
        {
            "job_id": job_id,
            "task_type": task_type,
            "outcome": outcome.value if outcome else None,
            "token": token,
            "late": bool(late),
            "limit": limit + 1,
        },
    )
    found = [run_from(row) for row in rows[:limit]]
    return found, str(rows[limit - 1]["run_token"] * 2 + rows[limit - 1]["late"]) if len(rows) > limit else None


def worker_runs(conn: Connection, *, limit: int = 50) -> list[WorkerRun]:
    """Cycles and windows, newest first."""
    rows = _rows(
        conn,
        """
        SELECT id, started_at, completed_at, source, http_method, http_status, status, processed,
            coalesce(succeeded, 0) AS succeeded, coalesce(failed, 0) AS failed, released, claimed, due_before,
            worker_id, message, error_message
        FROM job_worker_runs ORDER BY started_at DESC LIMIT %(limit)s
        """,
        {"limit": limit},
    )
    return [WorkerRun(**row) for row in rows]


def errors(conn: Connection, *, since: timedelta, limit: int = 100) -> list[ErrorGroup]:
    """Failed runs of the time given, grouped by type and fingerprint, most recent group first."""
    rows = _rows(
        conn,
        """
        SELECT task_type, fingerprint, (array_agg(error_kind ORDER BY run_token DESC))[1] AS error_kind,
            coalesce((array_agg(error ORDER BY run_token DESC))[1], 'no reason given') AS sample, count(*) AS count,
            min(finished_at) AS first_seen, max(finished_at) AS last_seen,
            (array_agg(DISTINCT job_id))[1:100] AS job_ids
        FROM (
            SELECT * FROM job_run_list
            WHERE outcome IN ('failed', 'retried', 'lost') AND finished_at > now() - %(since)s
            ORDER BY finished_at DESC LIMIT 20000
        ) AS troubled
        GROUP BY task_type, fingerprint ORDER BY max(finished_at) DESC LIMIT %(limit)s
        """,
        {"since": since, "limit": limit},
    )
    return [ErrorGroup(**row | {"job_ids": tuple(row["job_ids"])}) for row in rows]


def audit(
    conn: Connection, *, job_id: UUID | None = None, since: timedelta | None = None, limit: int = 200
) -> list[AuditEntry]:
    """What operators did, newest first."""
    rows = _rows(
        conn,
        """
        SELECT id, at, actor, action, job_id, before, after, reason FROM job_audit_list
        WHERE (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)
            AND (%(since)s::interval IS NULL OR at > now() - %(since)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"job_id": job_id, "since": since, "limit": limit},
    )
    return [AuditEntry(**row) for row in rows]


def permissions(conn: Connection) -> Permissions:
    """What the database lets this connection do, and as which role."""
    row = _rows(
        conn,
        """
        SELECT can_view AS view, can_operate AS operate, can_work AS work, current_user::text AS role
        FROM job_permissions()
        """,
    )[0]
    return Permissions(**row)


def find_ids(conn: Connection, filter: Filter, limit: int = 10_001) -> list[UUID]:  # noqa: A002 -- as above
    """The ids of the jobs in the queue that match, for an action on all of them."""
    return [found.id for found in page(conn, filter, limit=limit).jobs if not found.removed]


def resolve_id(conn: Connection, text: str) -> UUID:
    """The id of the job that a whole id, the beginning of one, or its last 8 to 12 digits name.

    Ids begin with the time, so those of one minute begin alike; their ends are what lists show.

    Raises:
        UsageError: the text is no id, too short, or names more than one.
        JobNotFound: it names none.
    """
    digits = text.strip().lower().replace("-", "")
    if len(digits) < MIN_ID_PREFIX or len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):
        raise UsageError(f'"{text}" is no job id: give the whole id, or its first {MIN_ID_PREFIX} or more digits.')
    bounds = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f"))}
    rows = _rows(
        conn,
        """
        (SELECT id FROM job_list WHERE id BETWEEN %(low)s AND %(high)s ORDER BY id LIMIT 6)
        UNION
        (SELECT DISTINCT job_id FROM job_run_list WHERE job_id BETWEEN %(low)s AND %(high)s ORDER BY job_id LIMIT 6)
        """,
        bounds,
    )
    if not rows and len(digits) == 32:  # it may be in the trash, and actions say so
        return UUID(digits)
    if not rows and len(digits) in SHORT_ID:
        rows = _rows(
            conn,
            """
            (SELECT id FROM job_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            UNION
            (SELECT id FROM job_removed_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            UNION
            (SELECT id FROM job_trash_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            """,
            {"length": len(digits), "digits": digits},
        )
    if not rows:
        raise JobNotFound(f"There is no job whose id begins with {text}, or ends with it.")
    if len(rows) > 1:
        listed = ", ".join(sorted(str(row["id"]) for row in rows[:5]))
        raise UsageError(f"More than one job's id fits {text}: {listed}. Give more digits.")
    found: UUID = rows[0]["id"]
    return found
