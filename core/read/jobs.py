"""Reads the queue: lists of jobs, counts, one job, workers.

It reads through the views of `schema.sql`, so that a viewer sees payloads redacted. The cost of a refresh does not
depend on the number of jobs: lists follow an index up to a limit, and counts are estimates above theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

import psycopg

from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.model import Filter, Health, Job, Processing, Verdict, Worker
from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.filters import SORTS, parameters
from jobdeck.core.read.history import audit, runs
from jobdeck.core.read.job_lists import GROUP, LEAST_OF_LANE, NEEDY, WINDOW, page_of
from jobdeck.core.read.operators import reach
from jobdeck.core.read.operators.holds import holds
from jobdeck.core.read.report_types import (
    Backlog,
    Clause,
    Counts,
    JobDetail,
    Page,
    Permissions,
    Snapshot,
    Standing,
)
from jobdeck.core.read.rows import (
    NO_CURSOR,
    Row,
    cursor_parameters,
    encode_cursor,
    job_from,
    jobs_from,
    processing_from,
    skipped,
)
from jobdeck.core.read.sentences import EACH, sentence
from jobdeck.core.read.standings import full_types, next_due
from jobdeck.core.read.verdict.health import health

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from jobdeck.core.model import Run
    from jobdeck.core.read.report_types import AuditEntry

Connection = psycopg.Connection[Any]

MIN_ID_PREFIX = 4
SHORT_ID = range(8, 13)
"""How many last digits may identify a job: from the part that lists show to the whole last group of an id."""


def snapshot(
    filter: Filter,  # noqa: A002 -- the word of this domain
    *,
    sort: str = "natural",
    descending: bool = True,
    limit: int = 200,
    refusal: str | None = None,
    group: tuple[str, str] | None = None,
    production: bool = False,
    timeouts: Mapping[str, float] | None = None,
) -> Query[Snapshot]:
    """Everything that the dashboard's first screen shows, in one snapshot; with a `refusal` of the filter, no jobs.

    The natural order of all jobs is that of `needy` here. With a `group` of errors (task type and fingerprint) its jobs
    are listed, and the filter is not used. `production` and `timeouts` are for `health`.
    """
    if group is not None:
        listed = group_page(*group, sort=sort, descending=descending, limit=limit)
    elif filter == Filter() and sort == "natural" and descending:
        listed = needy(limit=limit)
    else:
        listed = page(filter, sort=sort, descending=descending, limit=limit)
    if refusal is not None:
        listed = Query((), lambda _: Page((), None, refusal))
    judged = health(timeouts=timeouts, production=production)
    parts = clock(), listed, counts(), processing(), judged, workers(), full_types(), next_due(), holds()
    return combine(*parts, read=Snapshot)


def glance() -> Query[Snapshot]:
    """A snapshot with the clock and the processing switch only, for a caller that keeps its other values."""

    def read(at: datetime, switch: Processing) -> Snapshot:
        return Snapshot(at, Page((), None), Counts(), switch, Health(Verdict.OK, ()), ())

    return combine(clock(), processing(), read=read)


def clock() -> Query[datetime]:
    """The database's time, at the start of the batch or of the caller's transaction."""
    return select("SELECT now() AS at", read=lambda rows: rows[0]["at"])


def page(
    filter: Filter,  # noqa: A002 -- the word of this domain
    *,
    sort: str = "natural",
    descending: bool = True,
    limit: int = 200,
    after: str | None = None,
) -> Query[Page]:
    """Up to `limit` jobs in order, and the cursor of the next page.

    The natural order is: all jobs, newest first; pending jobs, by due time; running jobs, longest run first; ended
    jobs, last ended first. Succeeded jobs include those that left the queue. Every other order, and the reverse of
    the natural one, covers the first 10,000 jobs of the natural order.

    A page of a filter with more than a status looks at the next jobs only: `JOBS_LOOKED_AT` in the queue, `LOOKED_AT`
    that left it. It may therefore have a cursor and fewer jobs than `limit`, and even none. Pages of running jobs,
    of pending jobs of a type, and of jobs that are tried again have no such limit.

    Raises:
        UsageError: `sort` is not in `SORTS`, or `after` is not a cursor; in the second case `run` may raise it.
    """
    statement, most = page_of(filter)
    wanted = parameters(filter)
    return _listed(statement, wanted, sort=sort, descending=descending, limit=limit, after=after, most=most)


def group_page(
    task_type: str,
    fingerprint: str,
    *,
    sort: str = "natural",
    descending: bool = True,
    limit: int = 200,
    after: str | None = None,
) -> Query[Page]:
    """Up to `limit` jobs of a group of errors in order, the number of all of them, and the cursor of the next page.

    They are the jobs in the queue whose newest failed run is in this group. The natural order is newest first; every
    other order covers the first 10,000 of it.

    Raises:
        UsageError: as `page`.
    """
    of_group = {"task_type": task_type, "fingerprint": fingerprint}
    found = _listed(GROUP, of_group, sort=sort, descending=descending, limit=limit, after=after)
    return combine(found, read=lambda listed: listed if listed.jobs else replace(listed, total=0))


def needy(*, limit: int = 200, after: str | None = None, task_type: str | None = None) -> Query[Page]:
    """Up to `limit` jobs, all or of a type, those first that need somebody, and the cursor of the next page.

    These are failed, then jobs that cannot run, overdue or paused past their due time, retrying, running, at a limit,
    waiting, due next, and ended ones; among the 1,000 of each status that ended last, or are due first.

    Raises:
        UsageError: `after` is not a cursor; `run` may raise it.
    """
    wanted = {"limit": limit + 1, "each": EACH, "of_lane": LEAST_OF_LANE, "task_type": task_type,
              **cursor_parameters(after, natural=True)}  # fmt: skip
    found = select(NEEDY, wanted, read=lambda rows: _page_of(rows, limit, after))
    return found if after is None else replace(found, misread=NO_CURSOR)


def _page_of(rows: list[Row], limit: int, after: str | None, total: int | None = None) -> Page:
    """The first `limit` of these rows, and the cursor behind them if there are more."""
    jobs = jobs_from(rows[:limit])
    standings = {row["id"]: Standing(row["standing"]) for row in rows[:limit]}
    if len(rows) <= limit:
        return Page(jobs, None, total=total, standings=standings)
    last = rows[limit - 1]
    cursor = {"key": last["place_key"], "id": str(last["id"]), "skip": skipped(after) + limit}
    return Page(jobs, encode_cursor(cursor), total=total, standings=standings)


def _listed(
    statement: LiteralString, params: Mapping[str, object], *, sort: str, descending: bool, limit: int,
    after: str | None, most: int = 0,
) -> Query[Page]:  # fmt: skip
    if sort not in SORTS:
        raise UsageError(f"Unknown order {sort}. Use one of: {', '.join(SORTS)}.")
    natural = sort == "natural" and descending
    wanted = {
        **params,
        "sort": sort,
        "descending": descending,
        "window": limit + 1 if natural else WINDOW,
        "limit": limit + 1,
        "most": most,
        **cursor_parameters(after, natural=natural),
    }

    def read(rows: list[Row]) -> Page:
        reached = rows[0] if rows and rows[0].get("reached") else None
        rows = [row for row in rows if row["id"] is not None]
        found = _page_of(rows, limit, after, rows[0].get("total") if rows else None)
        if found.next is not None or reached is None:
            return found
        behind = encode_cursor({"key": reached["reached"], "id": str(reached["reached_id"]), "skip": 0})
        return replace(found, next=behind if natural else None, searched=most)

    found = select(statement, wanted, read=read)
    return found if after is None else replace(found, misread=NO_CURSOR)


def counts() -> Query[Counts]:
    """The number of jobs by status, each counted up to 10,001."""
    return select(
        """
        SELECT pending, running, succeeded, failed, cancelled, removed, (SELECT count(*) FROM (
            SELECT FROM job_list WHERE status = 'running' AND started_at IS NULL LIMIT %(most)s) AS found) AS claimed
        FROM job_queue_counts(%(most)s::integer)
        """,
        {"most": Counts.LIMIT + 1},
        read=lambda rows: Counts(**rows[0]),
    )


def backlog(late: timedelta | None = None) -> Query[tuple[Backlog, ...]]:
    """The pending jobs of each type, up to 1,000 types: how many, and how many are overdue by more than `late`.

    Without `late` it is the interval at which a scheduler should call. Jobs are counted up to 10,001 of each type.
    """
    return select(
        """
        SELECT task_type, waiting, at_least, overdue, overdue_at_least, due_since
        FROM job_queue_backlog(coalesce(%(late)s::interval,
            (SELECT make_interval(mins => trigger_minutes) FROM job_queue_settings WHERE id = 1),
            interval '5 minutes'), %(most)s::integer)
        """,
        {"late": late, "most": Counts.LIMIT + 1},
        read=lambda rows: tuple(Backlog(**row) for row in rows),
    )


def processing() -> Query[Processing]:
    """The processing switch, the paused task types and queues, and the types set aside."""
    return combine(
        select("SELECT * FROM job_queue_settings WHERE id = 1", read=lambda rows: next(iter(rows), None)),
        select(
            "SELECT task_type, reason, paused_by, paused_at, resume_at, set_aside, queue FROM job_paused_types "
            "ORDER BY task_type",
            read=list,
        ),
        select("SELECT 'queue ' || queue AS task_type, * FROM job_paused_queues ORDER BY queue", read=list),
        read=processing_from,
    )


def workers() -> Query[tuple[Worker, ...]]:
    """The workers with a heartbeat in the last day, which are alive if it is recent, and the slots that are taken."""
    return select(
        """
        SELECT w.id, w.host, w.pid, w.mode, w.version, w.concurrency, w.task_types, w.started_at, w.heartbeat_at,
            w.running, job_worker_is_alive(w.heartbeat_at, now()) AS alive, s.slots
        FROM job_workers AS w LEFT JOIN (
            SELECT worker_id, jsonb_object_agg(kind, jsonb_build_object('taken', running, 'slots', slots)) AS slots
            FROM job_slots(NULL) GROUP BY worker_id
        ) AS s ON s.worker_id = w.id
        ORDER BY w.started_at, w.id
        """,
        read=lambda rows: tuple(Worker(**row | {"task_types": tuple(row["task_types"])}) for row in rows),
    )


def job(job_id: UUID) -> Query[Job | None]:
    """One job of the queue, or its last success if it has left the queue; None if there is neither."""
    return combine(
        select("SELECT * FROM job_list WHERE id = %(id)s", {"id": job_id}, read=_first_job),
        select("SELECT * FROM job_removed_job(%(id)s)", {"id": job_id}, read=_first_job),
        read=lambda here, left: here or left,
    )


def _first_job(rows: list[Row]) -> Job | None:
    return job_from(rows[0]) if rows else None


def detail(job_id: UUID) -> Query[JobDetail | None]:
    """One job, also from the trash, with its newest 50 runs, the clauses of its claim and its audit."""

    def made(
        found: Job | None, deleted: Job | None, runs: tuple[list[Run], str | None], why: tuple[Clause, ...],
        audit: list[AuditEntry],
    ) -> JobDetail | None:  # fmt: skip
        job = found or deleted
        return JobDetail(job, tuple(runs[0]), why, tuple(audit), in_trash=found is None) if job else None

    trash = select("SELECT * FROM job_trash_list WHERE id = %(id)s", {"id": job_id}, read=_first_job)
    return combine(job(job_id), trash, runs(job_id=job_id), why(job_id), audit(job_id=job_id), read=made)


def why(job_id: UUID) -> Query[tuple[Clause, ...]]:
    """The clauses of the claim for one job, with evidence; empty if the job is not in the queue.

    If all of them hold, the clauses `slot` and `turn` follow: whether a worker has a slot for it, and whether other due
    jobs are ahead, how many, and for how long.
    """

    def read(rows: list[Row], turn: list[Row]) -> tuple[Clause, ...]:
        clauses = tuple(map(_clause, rows))
        if not all(clause.holds for clause in clauses):
            return clauses
        return (*clauses, *(replace(_clause(row), facts=row["facts"]) for row in turn))

    return combine(
        select(
            "SELECT clause, holds, code, facts FROM job_queue_why(%(id)s) ORDER BY place", {"id": job_id}, read=list
        ),
        select("SELECT clause, holds, code, facts FROM job_queue_turn(%(id)s)", {"id": job_id}, read=list),
        read=read,
    )


def _clause(row: Row) -> Clause:
    facts = row["facts"]
    held = {"holder": facts["holder"]} if facts.get("holder") else {}
    return Clause(row["clause"], row["holds"], sentence(row["code"], facts), row["code"], held)


def permissions() -> Query[Permissions]:
    return select(
        """
        SELECT can_view AS view, can_operate AS operate, can_work AS work, current_user::text AS role
        FROM job_permissions()
        """,
        read=lambda rows: Permissions(**rows[0]),
    )


def find_ids(conn: Connection, filter: Filter, limit: int = 10_001) -> list[UUID]:  # noqa: A002 -- as above
    """The ids of the jobs in the queue that match the filter.

    Raises:
        UsageError: the filter would read too many jobs, see `jobdeck.core.read.reach`.
    """
    reach.check(conn, filter)
    found: list[Job] = []
    following = None
    while True:
        read = page(filter, limit=limit - len(found), after=following).run(conn)
        found += read.jobs
        following = read.next
        if following is None or len(found) >= limit:
            return [job.id for job in found if not job.removed]


def resolve_id(conn: Connection, text: str) -> UUID:
    """Finds a job by its whole id, its first digits, or its last 8 to 12 digits.

    Ids start with the time, so ids of the same minute start alike; lists show the last digits.

    Raises:
        UsageError: the text is not an id, is too short, or fits several jobs.
        JobNotFound: no id fits.
    """
    digits = text.strip().lower().replace("-", "")
    if len(digits) < MIN_ID_PREFIX or len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):
        raise UsageError(f'"{text}" is not a job ID: give the whole ID, or at least its first {MIN_ID_PREFIX} digits.')
    bounds = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f"))}
    found = select(
        """
        (SELECT id FROM job_list WHERE id BETWEEN %(low)s AND %(high)s ORDER BY id LIMIT 6)
        UNION
        (SELECT DISTINCT job_id FROM job_run_list WHERE job_id BETWEEN %(low)s AND %(high)s ORDER BY job_id LIMIT 6)
        """,
        bounds,
        read=_ids,
    ).run(conn)
    if not found and len(digits) == 32:  # It may be in the trash. The action then says so.
        return UUID(digits)
    if not found and len(digits) in SHORT_ID:
        found = select(
            """
            (SELECT id FROM job_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            UNION
            (SELECT id FROM job_removed_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            UNION
            (SELECT id FROM job_trash_list WHERE right(id::text, %(length)s) = %(digits)s LIMIT 6)
            """,
            {"length": len(digits), "digits": digits},
            read=_ids,
        ).run(conn)
    if not found:
        raise JobNotFound(f"No job ID starts or ends with {text}.")
    if len(found) > 1:
        listed = ", ".join(sorted(map(str, found[:5])))
        raise UsageError(f"Several job IDs fit {text}: {listed}. Give more digits.")
    return found[0]


def _ids(rows: list[Row]) -> list[UUID]:
    return [row["id"] for row in rows]
