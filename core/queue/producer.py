"""Enqueues jobs: thin, typed calls into the functions of `schema.sql`.

Every function works inside the caller's transaction if one is open. `schema` names the queue's schema for a connection
with another search path, such as an application's own. A refusal of the database is raised as `Refused`, and nothing
is changed then.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob, Ticket
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue.calls import Connection, array, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import LiteralString
    from uuid import UUID

    import psycopg

BULK = 2_000
_LOCKED: Final = (
    "Another transaction enqueues a job with the same dedupe key. Nothing was enqueued; try again once it has ended."
)
_CREATE: Final = "SELECT job_id, created FROM {}(%s, %s::jsonb, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_CREATE_MANY: Final = """
SELECT {}(%s::text[], ARRAY(SELECT jsonb_array_elements(%s::jsonb)),
    %s::timestamptz[], %s::integer[], %s::integer[], %s::text[], %s::text[], %s)
"""
_DEFAULTS = tuple(NewJob._field_defaults[name] for name in NewJob._fields[2:])


def enqueue(conn: Connection, new: NewJob, *, actor: str, schema: str | None = None) -> Ticket:
    """Enqueues one job, or returns the job that already has its dedupe key.

    The caller has validated type and payload with the registry.

    Raises:
        Refused: the database rejects the interval, priority or blocker; the job is a series without a dedupe key, and
            one with the same payload and interval is active; or a transaction that has not ended for 1.5 s enqueues a
            job with the same dedupe key.
    """
    row = rows(
        conn,
        _named(_CREATE, schema, "job_queue_create"),
        (
            new.task_type, json.dumps(new.payload), new.run_at, new.max_attempts, new.priority, new.dedupe_key,
            new.concurrency_key, new.blocked_by, new.recurrence_interval_minutes, new.expires_at, actor,
        ),
        locked=_LOCKED,
    )[0]  # fmt: skip
    return Ticket(**row)


def enqueue_many(conn: Connection, jobs: Iterable[NewJob], *, actor: str, schema: str | None = None) -> list[UUID]:
    """Enqueues one-time jobs in one transaction, 2,000 per statement; returns the ids of the created jobs.

    Jobs whose dedupe key is taken are skipped. `jobs` is read while the database works on the statement before, so a
    slow iterator costs little extra time.

    Raises:
        Refused: a job is recurring, has a blocker or an expiry, the database rejects its type or priority, or another
            transaction has enqueued one of the dedupe keys and has not ended for 1.5 s.
    """
    ids: list[UUID] = []
    rest = iter(jobs)
    with refusals(_LOCKED), conn.transaction(), conn.pipeline():
        sent = []
        deduped = False
        while part := list(islice(rest, BULK)):
            deduped = deduped or any(job.dedupe_key is not None for job in part)
            sent.append(_send_part(conn, part, actor, schema))
        for created in sent:
            ids += [job_id for (job_id,) in created]
    # Jobs with dedupe keys are created in the order of the keys. The ids rise in the order of `jobs`.
    return sorted(ids) if deduped else ids


def _send_part(conn: Connection, part: list[NewJob], actor: str, schema: str | None) -> psycopg.Cursor[Any]:
    task_types, payloads, *options = zip(*part, strict=True)
    given = [_unless_all(values, default) for values, default in zip(options, _DEFAULTS, strict=True)]
    run_at, max_attempts, priorities, dedupe_keys, concurrency_keys, *excluded = given
    if any(excluded):
        raise Refused("Jobs enqueued in bulk cannot recur, have a blocker or expire. Enqueue those one at a time.")
    statement = _named(_CREATE_MANY, schema, "job_queue_create_many")
    return conn.execute(
        statement,
        (
            _words(task_types), json.dumps(payloads), run_at, max_attempts, priorities, dedupe_keys, concurrency_keys,
            actor,
        ),
        binary=True,
    )  # fmt: skip


@cache
def _named(statement: LiteralString, schema: str | None, function: str) -> bytes:
    """The statement with the function's name in it; cached, since psycopg would compose it again for every job."""
    name = sql.Identifier(function) if schema is None else sql.Identifier(schema, function)
    return sql.SQL(statement).format(name).as_bytes()


def _words(values: Sequence[str]) -> str | list[str]:
    """An array of task types; a literal if none of them needs quotes."""
    plain = all(word.isidentifier() and word.upper() != "NULL" for word in set(values))
    return array(values) if plain else list(values)


def _unless_all(values: Sequence[Any], default: object) -> list[Any] | None:
    """The values, or None if all are the default, which the database then uses."""
    return None if values.count(default) == len(values) else list(values)
