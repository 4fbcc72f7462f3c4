"""Actions on many jobs: chosen once, carried out in batches, resumed by any worker, answered per job.

Thin, typed calls into the functions of `schema.sql`. A choice freezes the ids, with the version of each; an action
then acts on those and on no other. Every batch is one transaction that acts and keeps the answers, so that a lost
connection loses at most the news of a batch and nothing is done twice.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import class_row, dict_row

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, Choice, Share
from jobdeck.core.read.filters import format_filter
from jobdeck.core.read.rows import job_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import Filter
    from jobdeck.core.queue.bulk_model import BulkVerb

Connection = psycopg.Connection[Any]

BATCH: Final = 500
"""Jobs in one batch: short enough that a worker never waits long for one of its rows."""
FIRST: Final = 6
_FIELDS: Final = tuple(field.name for field in fields(Bulk))


def choose(conn: Connection, wanted: Filter, *, actor: str) -> Choice | None:
    """Freezes the jobs in the queue that match; None where none does. What left the queue is not among them."""
    values = {
        "words": format_filter(wanted),
        "status": wanted.status.value if wanted.status else None,
        "task_type": wanted.task_type,
        "search": wanted.search,
        "error": wanted.error,
        "payload_key": wanted.payload[0] if wanted.payload else None,
        "payload_value": wanted.payload[1] if wanted.payload else None,
        "attempts": wanted.attempts_at_least,
        "age": wanted.older_than,
        "outcome": wanted.outcome.value if wanted.outcome else None,
        "actor": actor,
    }
    with conn.transaction():
        row = conn.execute(
            """
            SELECT job_bulk_choose(%(words)s, %(status)s, %(task_type)s, %(search)s, %(error)s, %(payload_key)s,
                %(payload_value)s, %(attempts)s::integer, %(age)s::interval, %(outcome)s, %(actor)s)
            """,
            values,
        ).fetchone()
        return _choice(conn, row[0]) if row and row[0] else None


def choose_ids(conn: Connection, versions: Mapping[UUID, int | None], *, actor: str) -> Choice:
    """Freezes these jobs, each in the version that was seen; None for one that was not looked at."""
    with conn.transaction():
        row = conn.execute(
            "SELECT job_bulk_choose_ids(%s::uuid[], %s::bigint[], NULL, %s)",
            (list(versions), list(versions.values()), actor),
        ).fetchone()
        if row is None:
            raise Refused("The database did not keep the choice.")
        return _choice(conn, row[0])


def choose_again(conn: Connection, bulk_id: UUID, which: str, *, actor: str) -> Choice | None:
    """Freezes jobs of an earlier bulk action: `all`, those it was `done` to, or those `refused`; None where none is.

    Raises:
        Refused: there is no such bulk action.
    """
    with refusals(), conn.transaction():
        row = conn.execute("SELECT job_bulk_choose_again(%s, %s, %s)", (bulk_id, which, actor)).fetchone()
        return _choice(conn, row[0]) if row and row[0] else None


def start(conn: Connection, bulk_id: UUID, verb: BulkVerb, *, actor: str, reason: str | None = None) -> Bulk:
    """Has the action begin; from now on it is carried out, here by `step` or by any worker.

    Raises:
        Refused: the choice was used already, or is gone.
    """
    with refusals():
        conn.execute("SELECT job_bulk_start(%s, %s, %s, %s)", (bulk_id, verb, actor, reason))
    return _required(find(conn, bulk_id))


def step(conn: Connection, bulk_id: UUID, *, driver: str, limit: int = BATCH) -> Bulk:
    """Acts on the next jobs, in one transaction, and says how far it is then. Does nothing to what has ended."""
    with refusals(), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM job_bulk_step(%s, %s, %s)", (bulk_id, limit, driver)).fetchone()
    return _required(_bulk(row) if row else None)


def go_on(conn: Connection, worker_id: str, *, limit: int = BATCH) -> bool:
    """For workers: one batch of a bulk action that nobody carries on; whether there is more to do at once."""
    row = conn.execute("SELECT job_bulk_continue(%s, %s)", (worker_id, limit)).fetchone()
    return bool(row and row[0])


def stop(conn: Connection, bulk_id: UUID, *, actor: str) -> bool:
    """Ends a bulk action with what is done; False where it had ended already."""
    row = conn.execute("SELECT job_bulk_stop(%s, %s)", (bulk_id, actor)).fetchone()
    return bool(row and row[0])


def drop(conn: Connection, bulk_id: UUID) -> None:
    """Forgets a choice that no action was begun on."""
    conn.execute("SELECT job_bulk_drop(%s)", (bulk_id,))


def find(conn: Connection, bulk_id: UUID) -> Bulk | None:
    """One bulk action, or None."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM job_bulk WHERE id = %s", (bulk_id,)).fetchone()
    return _bulk(row) if row else None


def newest(conn: Connection, *, limit: int = 50) -> list[Bulk]:
    """The bulk actions that were begun, newest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM job_bulk WHERE state <> 'chosen' ORDER BY chosen_at DESC, id LIMIT %s", (limit,)
        ).fetchall()
    return [_bulk(row) for row in rows]


def resolve(conn: Connection, text: str) -> UUID:
    """The id of the bulk action that a whole id, or the last digits of one, name.

    Raises:
        UsageError: the text is no id, or fits more than one.
        Refused: it fits none.
    """
    digits = text.strip().lower()
    if not 4 <= len(digits) <= 36 or any(digit not in "0123456789abcdef-" for digit in digits):
        raise UsageError(f'"{text}" is no id of a bulk action. `jobdeck bulk list` shows them.')
    rows = conn.execute("SELECT id FROM job_bulk WHERE right(id::text, %s) = %s", (len(digits), digits)).fetchall()
    if not rows:
        raise Refused(f"There is no bulk action {text}. They are kept for 30 days; `jobdeck bulk list` shows them.")
    if len(rows) > 1:
        raise UsageError(f"More than one bulk action's id ends with {text}. Give more digits.")
    found: UUID = rows[0][0]
    return found


def answers(
    conn: Connection, bulk_id: UUID, *, refused: bool = False, after: UUID | None = None, limit: int = 200
) -> list[BulkAnswer]:
    """The answers in the order of the ids, behind `after`; with `refused` only those that were refused."""
    with conn.cursor(row_factory=class_row(BulkAnswer)) as cursor:
        return cursor.execute(
            "SELECT * FROM job_bulk_result(%s, %s, %s, %s)", (bulk_id, refused, after, limit)
        ).fetchall()


def _bulk(row: Mapping[str, Any]) -> Bulk:
    return Bulk(**{name: row[name] for name in _FIELDS})


def _required(found: Bulk | None) -> Bulk:
    if found is None:
        raise Refused("This bulk action is gone: they are kept for 30 days.")
    return found


def _choice(conn: Connection, bulk_id: UUID) -> Choice:
    bulk = _required(find(conn, bulk_id))
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
