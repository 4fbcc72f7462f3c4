"""Enqueues jobs: the statements that call the functions of `schema.sql`, and sending them through psycopg.

Every function works inside the caller's transaction if one is open. `schema` names the queue's schema for a connection
with another search path, such as an application's own. A refusal of the database is raised as `Refused`, and nothing
is changed then.

`create` and `create_many` make the calls for all drivers (`core/queue/producers/`). Every parameter is a text or None,
and the statement says its type, so that no driver adapts a value in its own way.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob, Ticket
from jobdeck.core.postgres.refusals import pipelined, refusals, unstorable
from jobdeck.core.queue.calls import Connection, array, fetched
from jobdeck.core.queue.prepared import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import LiteralString

    Rows = Sequence[Sequence[Any]]

T = TypeVar("T")
BULK = 2_000
LOCKED: Final = (
    "Another transaction enqueues a job with the same dedupe key, or has locked the queue's tables. Nothing was "
    "enqueued; try again once it has ended."
)
_CREATE: Final = """
SELECT job_id, created FROM {}(%s::text, %s::text::jsonb, %s::text::timestamptz, %s::text::integer,
    %s::text::integer, %s::text, %s::text, %s::text::uuid, %s::text::integer, %s::text::timestamptz, %s::text)
"""
_CREATE_WITH: Final = """
SELECT job_id, created, outcome FROM {}(%s::text::jsonb, %s::text, %s::text::jsonb, %s::text::timestamptz,
    %s::text::integer, %s::text::integer, %s::text, %s::text, %s::text::uuid, %s::text::integer, %s::text::timestamptz,
    %s::text)
"""
_CREATE_MANY: Final = """
SELECT job_id FROM {}(%s::text::text[], ARRAY(SELECT jsonb_array_elements(%s::text::jsonb)), %s::text::timestamptz[],
    %s::text::integer[], %s::text::integer[], %s::text::text[], %s::text::text[], %s::text,
    %s::text::double precision[]) AS job_id
"""
_CREATE_FLOW: Final = "SELECT flow_id, name, job_id FROM {}(%s::text, %s::text::jsonb, %s::text)"
_EXTEND_FLOW: Final = (
    "SELECT flow_id, name, job_id FROM {}(%s::text::uuid, %s::text::bigint, %s::text::jsonb, %s::text)"
)
_FLOW_OUTCOMES: Final = "SELECT name, job_id, task_type, outcome, output, error FROM {}(%s::text::uuid)"
_DEFAULTS = tuple(NewJob._field_defaults[name] for name in NewJob._fields[2:])
_ALONE = slice(7, -1)
"""The fields of a job that no bulk takes."""


class Call(NamedTuple):
    """A statement with `%s` for each parameter, and the parameters."""

    statement: bytes
    params: tuple[str | None, ...]


def carry_trace(conn: Connection, trace: str) -> None:
    """Has the jobs that are enqueued in the open transaction from now on carry this span, a W3C `traceparent`.

    The database leaves out what is none.
    """
    conn.execute("SELECT set_config('jobdeck.traceparent', %s, true)", (trace,))


def enqueue(
    conn: Connection, new: NewJob, *, actor: str, schema: str | None = None, trace: str | None = None
) -> Ticket:
    """Enqueues one job, or returns the job that already has its dedupe key.

    The caller has validated type and payload with the registry. `trace` is the span that enqueues, as a `traceparent`.

    Raises:
        Refused: the database rejects the schedule, priority or blocker; the job is a series without a dedupe key, and
            one with the same payload and schedule is active; a job that is unique for a time has no dedupe key or is
            recurring; or a transaction that has not ended for 1.5 s enqueues a job with the same dedupe key, or holds
            the queue's tables.
    """
    return ticket(carried_out(conn, create(new, actor=actor, schema=schema, trace=trace)))


def enqueue_many(
    conn: Connection, jobs: Iterable[NewJob], *, actor: str, schema: str | None = None, trace: str | None = None
) -> list[UUID]:
    """Enqueues one-time jobs in one transaction, 2,000 per statement; returns the ids of the created jobs.

    Jobs whose dedupe key is taken are skipped. `jobs` is read while the database works on the statement before, so a
    slow iterator costs little extra time.

    Raises:
        Refused: a job is recurring, has a blocker or an expiry, the database rejects its type or priority, or another
            transaction has enqueued one of the dedupe keys and has not ended for 1.5 s.
    """
    ids: list[UUID] = []
    deduped = False
    with refusals(LOCKED), conn.transaction(), pipelined(conn):
        sent = []
        for part in parts(jobs, BULK):
            deduped = deduped or any(job.dedupe_key is not None for job in part)
            made = create_many(part, actor=actor, schema=schema, trace=trace)
            # Not `conn.execute`, because the connection of an application may have rows or cursors of another kind.
            sent.append(psycopg.Cursor(conn, row_factory=tuple_row).execute(*made, binary=True))
        for created in sent:
            ids += [plain_id(job_id) for (job_id,) in created]
    # Jobs with dedupe keys are created in the order of the keys. The ids rise in the order of `jobs`.
    return sorted(ids) if deduped else ids


def enqueue_each(
    conn: Connection, jobs: Sequence[NewJob], *, actor: str, schema: str | None = None, trace: str | None = None
) -> list[Ticket]:
    """Enqueues jobs of any types, each with its own options, in one transaction; returns a ticket for each.

    Raises:
        Refused: as `enqueue`, for one of the jobs; none was enqueued.
    """
    calls = each(jobs, actor=actor, schema=schema, trace=trace)
    with conn.transaction():
        return drive(calls, lambda call: carried_out(conn, call, plain=True))


def carried_out(conn: Connection, call: Call, *, plain: bool = False) -> Rows:
    """The rows of a call. With `plain`, its cursor is psycopg's own, if it needs one.

    Raises:
        Refused: the database refuses it, or a lock was held for 1.5 s.
    """
    found = None
    with refusals(LOCKED), suppress(psycopg.errors.DeadlockDetected):
        found = answer(conn, *call)
    return fetched(conn, *call, tuple_row, locked=LOCKED, plain=plain) if found is None else found


def drive(calls: Generator[Call, Rows, T], fetch: Callable[[Call], Rows]) -> T:
    """Sends the calls one after the other, and returns what the generator does."""
    rows: Any = None
    while True:
        try:
            rows = fetch(calls.send(rows))
        except StopIteration as ended:
            result: T = ended.value
            return result


def create(new: NewJob, *, actor: str, schema: str | None, trace: str | None = None) -> Call:
    """The call that enqueues one job. It returns one row: the job's id, and whether it was created.

    Raises:
        Refused: a recurring job is unique for a time, or a text cannot be stored.
    """
    if new.unique_seconds is not None and (new.schedule or new.recurrence_interval_minutes) is not None:
        raise Refused(
            "A recurring job cannot be unique for a time, because it keeps its dedupe key until it ends. Omit the "
            "time. Nothing was enqueued."
        )
    times = (new.run_at, new.max_attempts, new.priority)
    keys = (new.dedupe_key, new.concurrency_key)
    rest = (new.blocked_by, new.recurrence_interval_minutes, new.expires_at, actor)
    given = (new.task_type, json.dumps(new.payload), *times, *keys, *rest)
    if (new.unique_seconds, new.longest_wait, new.timeout, new.schedule) != (None, None, None, None):
        return _traced(_CREATE_WITH, schema, "job_queue_create_with", (_seldom(new), *given), trace)
    return _traced(_CREATE, schema, "job_queue_create", given, trace)


def _seldom(new: NewJob) -> str:
    """The options of which most jobs have none."""
    slots = None if new.slots is None else [slot.isoformat() for slot in new.slots]
    numbers = {"timeout": new.timeout, "unique_for": new.unique_seconds, "longest_wait": new.longest_wait}
    # JSON has no NaN, which the database refuses in a sentence.
    found = {name: str(value) for name, value in numbers.items() if value is not None}
    series = {} if new.schedule is None else {"schedule": new.schedule, "slots": slots}
    return json.dumps(found | series)


def _traced(template: str, schema: str | None, function: str, given: Sequence[object], trace: str | None) -> Call:
    """The call of a function whose first argument is not null. Its jobs carry the span `trace`, if any."""
    if trace is None:
        return call(template, schema, function, given)
    # The span is set before the function is called: the call needs it for its first argument, which it does not change.
    begins, _, rest = template.partition("{}(%s::text")
    setting = "set_config('jobdeck.traceparent', %s::text, true) AS trace CROSS JOIN LATERAL "
    return call(f"{begins}{setting}{{}}(coalesce(%s::text, trace){rest}", schema, function, (trace, *given))


def create_many(part: Sequence[NewJob], *, actor: str, schema: str | None, trace: str | None = None) -> Call:
    """The call that enqueues one-time jobs. It returns one row per created job: its id.

    Raises:
        Refused: a job is recurring, has a blocker or an expiry, or is unique for a time.
    """
    task_types, payloads, *options, timeouts = zip(*part, strict=True)
    given = list(zip(options, _DEFAULTS[:-1], strict=True))
    if any(values.count(default) < len(values) for values, default in given[5:]):
        raise Refused(
            "Jobs enqueued in bulk cannot recur, have a blocker, expire, be unique for a time or replace others. "
            "Enqueue those one at a time."
        )
    arrays = [_array_unless_all(values, default) for values, default in given[:5]]
    all_given = (_array(task_types), json.dumps(payloads), *arrays, actor, _array_unless_all(timeouts, None))
    return _traced(_CREATE_MANY, schema, "job_queue_create_many", all_given, trace)


def each(
    jobs: Sequence[NewJob], *, actor: str, schema: str | None = None, trace: str | None = None
) -> Generator[Call, Rows, list[Ticket]]:
    """The calls that enqueue these jobs of any types, each of which gets its rows; returns a ticket for each job.

    2,000 jobs are one call, without those whose dedupe key is taken and those that no bulk takes: they are one call
    each, in the order of their keys, because two callers with the same keys wait for each other's rows.
    """
    made: dict[int, Ticket] = {}
    places = iter([place for place, new in enumerate(jobs) if is_for_bulk(new)])
    while part := list(islice(places, BULK)):
        rows = yield create_many([jobs[place] for place in part], actor=actor, schema=schema, trace=trace)
        for (given,) in rows:
            job_id = plain_id(given)
            # The id of a job has its place in its batch, from 1 on: see job_batch_id.
            made[part[int(job_id.hex[16:23], 16) - 0x8000001]] = Ticket(job_id, created=True)
    for place in sorted(set(range(len(jobs))) - made.keys(), key=lambda place: (jobs[place].dedupe_key or "", place)):
        rows = yield create(jobs[place], actor=actor, schema=schema, trace=trace)
        made[place] = ticket(rows)
    return [made[place] for place in range(len(jobs))]


def is_for_bulk(new: NewJob) -> bool:
    """Whether `create_many` takes this job."""
    return new[_ALONE] == _DEFAULTS[5:-1]


def ticket(rows: Rows) -> Ticket:
    """What `create` returned."""
    job_id, created, *outcome = rows[0]
    return Ticket(plain_id(job_id), created, outcome == ["replaced"])


def create_flow(name: str, members: str, *, actor: str, schema: str | None, trace: str | None = None) -> Call:
    """The call that enqueues a flow. `members` is a JSON list. It returns one row per member: flow, name, job."""
    return _traced(_CREATE_FLOW, schema, "job_flow_create", (name, members, actor), trace)


def extend_flow(
    job_id: UUID, run_token: int, members: str, *, actor: str, schema: str | None, trace: str | None = None
) -> Call:
    """The call that adds members to the flow of a running job. It returns the rows of `create_flow`."""
    return _traced(_EXTEND_FLOW, schema, "job_flow_add", (job_id, run_token, members, actor), trace)


def flow_outcomes(job_id: UUID, *, schema: str | None) -> Call:
    """The call that returns a row for each job that this one waited for."""
    return call(_FLOW_OUTCOMES, schema, "job_flow_outcomes", (job_id,))


def parts(jobs: Iterable[NewJob], size: int | None) -> Iterator[list[NewJob]]:
    """The jobs in parts of this size, or all of them in one part if it is None."""
    rest = iter(jobs)
    while part := list(islice(rest, size)):
        yield part


def plain_id(value: Any) -> UUID:
    """The id as Python's own type, whatever the connection makes of a uuid."""
    return value if type(value) is UUID else UUID(str(value))


def call(statement: LiteralString, schema: str | None, function: str, values: Iterable[object]) -> Call:
    """The call of a function of the queue, whose name is put in place of `{}`.

    Raises:
        Refused: a text cannot be stored.
    """
    params = tuple(None if value is None else str(value) for value in values)
    for text in params:
        if text is not None and "\0" in text:
            raise unstorable("it contains a NUL character")
        if text is not None and not text.isascii():
            with refusals():
                text.encode()
    return Call(_named(statement, schema, function), params)


@cache
def _named(statement: LiteralString, schema: str | None, function: str) -> bytes:
    """The statement with the function's name in it; cached, since psycopg would compose it again for every job."""
    name = sql.Identifier(function) if schema is None else sql.Identifier(schema, function)
    return sql.SQL(statement).format(name).as_bytes()


def _array_unless_all(values: Sequence[Any], default: object) -> str | None:
    """An array literal of the values, or None if all are the default, which the database then uses."""
    return None if values.count(default) == len(values) else _array(values)


def _array(values: Sequence[Any]) -> str:
    """An array literal; its elements have no quotes if they are all plain words or numbers."""
    plain = all(isinstance(value, int) or _is_word(value) for value in set(values))
    return array(values if plain else map(_quoted, values))


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and value.upper() != "NULL"


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return "NULL" if value is None else f'"{text}"'
