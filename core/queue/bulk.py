"""Bulk actions: one choice of jobs, carried out in batches, resumed by any worker, with an answer per job.

Thin, typed calls into the functions of `schema.sql`. A choice freezes the ids and the version of each job; the action
changes only those. Every batch is one transaction that acts and stores the answers, so a lost connection never causes
a job to be changed twice.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, LiteralString

from psycopg.rows import class_row, dict_row

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.model import Filter
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue.bulk_model import UNDONE_BY, Bulk, BulkAnswer, Choice, Share
from jobdeck.core.queue.calls import dumped
from jobdeck.core.read.filters import format_filter, parameters
from jobdeck.core.read.job_lists import MATCHES
from jobdeck.core.read.operators import reach
from jobdeck.core.read.rows import job_from
from jobdeck.core.read.sentences import sentence
from jobdeck.core.read.standings import CIRCUMSTANCES, STANDS_SO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.queue.bulk_model import BulkVerb
    from jobdeck.core.queue.calls import Connection

BATCH: Final = 500
"""Jobs per batch. Small, so that a worker does not wait long for a row that the batch has locked."""
FIRST: Final = 6
# How a job stands is no column of it.
_CHOOSE_STANDING: Final = """
SELECT job_bulk_choose('ids', %(actor)s, %(words)s, p_ids => found.ids, p_versions => found.versions)
FROM (
    SELECT array_agg(j.id) AS ids, array_agg(j.version) AS versions FROM job_list AS j {circumstances}
    WHERE j.status = 'pending' AND {matches} {stands_so}
) AS found
"""
_FIELDS: Final = tuple(field.name for field in fields(Bulk))


def choose(conn: Connection, wanted: Filter, *, actor: str) -> Choice | None:
    """Freezes the jobs in the queue that match the filter, or returns None if none matches.

    Jobs that have left the queue are not included.

    Raises:
        UsageError: the filter would read too many jobs, see `jobdeck.core.read.reach`.
    """
    reach.check(conn, wanted)
    given = {"actor": actor, "words": format_filter(wanted), **parameters(wanted)}
    if wanted.standing is not None:
        return _chosen(
            conn, _CHOOSE_STANDING.format(circumstances=CIRCUMSTANCES, matches=MATCHES, stands_so=STANDS_SO), given
        )
    return _chosen(
        conn,
        """
        SELECT job_bulk_choose('filter', %(actor)s, %(words)s, p_status => %(status)s, p_type => %(task_type)s,
            p_text => %(search)s, p_error => %(error)s, p_key => %(payload_key)s, p_value => %(payload_value)s,
            p_attempts => %(attempts)s::integer, p_age => %(age)s::interval, p_outcome => %(outcome)s,
            p_fingerprint => %(fingerprint)s, p_payload => %(payload_is)s::text[]::jsonb[])
        """,
        given,
    )


def choose_alike(conn: Connection, task_type: str, fingerprint: str, *, actor: str) -> Choice | None:
    """Freezes all jobs of a group of errors, however many: those that failed with it and those that await a retry.

    Returns None if there is none.
    """
    words = format_filter(Filter(task_type=task_type, fingerprint=fingerprint))
    return _chosen(
        conn,
        "SELECT job_bulk_choose('group', %s, %s, p_type => %s, p_fingerprint => %s)",
        (actor, words, task_type, fingerprint),
    )


def choose_ids(conn: Connection, versions: Mapping[UUID, int | None], *, actor: str) -> Choice:
    """Freezes these jobs, at least one, each at the version given; a version of None matches any version."""
    chosen = _chosen(
        conn,
        "SELECT job_bulk_choose('ids', %s, p_ids => %s::uuid[], p_versions => %s::bigint[])",
        (actor, list(versions), list(versions.values())),
    )
    if chosen is None:
        raise Refused("The database did not save the choice. Try again.")
    return chosen


def choose_again(conn: Connection, bulk_id: UUID, which: str, *, actor: str) -> Choice | None:
    """Freezes jobs of an earlier bulk action, or returns None if there are none.

    `which` is `all`, `done` (the action changed the job), `refused` (it did not), or `edited` for the undo of an edit:
    its jobs are frozen at the version that the edit made, so those changed or claimed since are refused.

    Raises:
        Refused: there is no such bulk action, or no such edit that has ended.
    """
    return _chosen(conn, "SELECT job_bulk_choose(%s, %s, p_bulk => %s)", (which, actor, bulk_id))


def choose_undo(conn: Connection, found: Bulk, *, actor: str) -> Choice | None:
    """Freezes the jobs that a bulk action changed, for the action of `UNDONE_BY`, or returns None if there are none.

    Raises:
        Refused: the bulk action cannot be undone, is still running, or no longer exists.
    """
    if found.action not in UNDONE_BY:
        raise Refused(f"Only a deletion and an edit can be undone. This bulk action is: {found.action}.")
    return choose_again(conn, found.id, "edited" if found.action == "edit" else "done", actor=actor)


def start(
    conn: Connection, bulk_id: UUID, verb: BulkVerb, *, actor: str, reason: str | None = None,
    changes: Json | None = None,
) -> Bulk:  # fmt: skip
    """Starts the action. From now on `step` or any worker carries it out. An edit has `changes`: see `bulk_edit.start`.

    Raises:
        Refused: the choice was already used, or is deleted.
    """
    given = (bulk_id, verb, dumped(changes), actor, reason)
    with refusals():
        conn.execute("SELECT job_bulk_start(%s, %s, %s::jsonb, %s, %s)", given)
    return required(find(conn, bulk_id))


def step(conn: Connection, bulk_id: UUID, *, driver: str, limit: int = BATCH) -> Bulk:
    """Acts on the next jobs in one transaction and returns the new progress. Does nothing if the action has ended."""
    with refusals(), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM job_bulk_step(%s, %s, %s)", (bulk_id, limit, driver)).fetchone()
    return required(_bulk(row) if row else None)


def resume_stalled(conn: Connection, worker_id: str, *, limit: int = BATCH) -> bool:
    """Carries out one batch of a stalled bulk action, for workers. Returns whether more work is waiting."""
    row = conn.execute("SELECT job_bulk_continue(%s, %s)", (worker_id, limit)).fetchone()
    return bool(row and row[0])


def stop(conn: Connection, bulk_id: UUID, *, actor: str) -> bool:
    """Stops a bulk action after its last complete batch. Returns False if it had already ended."""
    row = conn.execute("SELECT job_bulk_stop(%s, %s)", (bulk_id, actor)).fetchone()
    return bool(row and row[0])


def drop(conn: Connection, bulk_id: UUID) -> None:
    """Deletes a choice on which no action was started."""
    conn.execute("SELECT job_bulk_drop(%s)", (bulk_id,))


def find(conn: Connection, bulk_id: UUID) -> Bulk | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM job_bulk WHERE id = %s", (bulk_id,)).fetchone()
    return _bulk(row) if row else None


def newest(conn: Connection, *, limit: int = 50) -> list[Bulk]:
    """The bulk actions that were started, newest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM job_bulk WHERE state <> 'chosen' ORDER BY chosen_at DESC, id LIMIT %s", (limit,)
        ).fetchall()
    return [_bulk(row) for row in rows]


def resolve(conn: Connection, text: str) -> UUID:
    """Finds a bulk action by its whole id or by the last digits of it.

    Raises:
        UsageError: the text is not an id, or several ids end with it.
        Refused: no id ends with it.
    """
    digits = text.strip().lower()
    if not 4 <= len(digits) <= 36 or any(digit not in "0123456789abcdef-" for digit in digits):
        raise UsageError(f'"{text}" is not an ID of a bulk action. `jobdeck bulk list` shows them.')
    rows = conn.execute("SELECT id FROM job_bulk WHERE right(id::text, %s) = %s", (len(digits), digits)).fetchall()
    if not rows:
        raise Refused(f"There is no bulk action {text}. They are kept for 30 days; `jobdeck bulk list` shows them.")
    if len(rows) > 1:
        raise UsageError(f"The IDs of several bulk actions end with {text}. Give more digits.")
    found: UUID = rows[0][0]
    return found


def answers(
    conn: Connection, bulk_id: UUID, *, refused: bool = False, after: UUID | None = None, limit: int = 200
) -> list[BulkAnswer]:
    """The answers in the order of the ids, starting behind the id `after`; with `refused` only the refusals."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            SELECT job_id, task_type, ok, code, facts, status, version FROM job_bulk_items
            WHERE bulk_id = %s AND (NOT %s OR NOT ok) AND (%s::uuid IS NULL OR job_id > %s) ORDER BY job_id LIMIT %s
            """,
            (bulk_id, refused, after, after, limit),
        )
        return [_answer(row) for row in rows]


def _answer(row: Mapping[str, Any]) -> BulkAnswer:
    code = row["code"]
    message = None if code is None else sentence(code, row["facts"])
    return BulkAnswer(row["job_id"], row["task_type"], row["ok"], message, row["status"], row["version"], code)


def _bulk(row: Mapping[str, Any]) -> Bulk:
    return Bulk(**{name: row[name] for name in _FIELDS})


def required(found: Bulk | None) -> Bulk:
    """The bulk action.

    Raises:
        Refused: it no longer exists.
    """
    if found is None:
        raise Refused("This bulk action no longer exists: bulk actions are kept for 30 days.")
    return found


def _chosen(conn: Connection, statement: LiteralString, given: Any) -> Choice | None:
    """The choice that a call of `job_bulk_choose` makes; None if it finds no jobs."""
    with refusals(), conn.transaction():
        row = conn.execute(statement, given).fetchone()
        return _choice(conn, row[0]) if row and row[0] else None


def _choice(conn: Connection, bulk_id: UUID) -> Choice:
    bulk = required(find(conn, bulk_id))
    shares = _shares(conn, bulk_id)
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            SELECT j.* FROM job_bulk_items i JOIN job_list j ON j.id = i.job_id
            WHERE i.bulk_id = %s ORDER BY i.job_id LIMIT %s
            """,
            (bulk_id, FIRST),
        ).fetchall()
    return Choice(bulk, tuple(shares), tuple(job_from(row) for row in rows))


def _shares(conn: Connection, bulk_id: UUID) -> Sequence[Share]:
    with conn.cursor(row_factory=class_row(Share)) as cursor:
        return cursor.execute(
            """
            SELECT i.task_type, q.status, count(*) AS jobs FROM job_bulk_items i
            LEFT JOIN job_queue q ON q.id = i.job_id AND (i.seen IS NULL OR q.version = i.seen)
            WHERE i.bulk_id = %s GROUP BY i.task_type, q.status ORDER BY count(*) DESC, i.task_type, q.status
            """,
            (bulk_id,),
        ).fetchall()
