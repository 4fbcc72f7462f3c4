"""Edits the payloads of many jobs: the dry run, and the batches of the bulk action.

Each payload is validated against its task type, so a program that knows the types carries out the batches. A batch is
one transaction like those of other bulk actions, so each job is changed once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused
from jobdeck.core.model import Status
from jobdeck.core.queue import bulk
from jobdeck.core.queue.calls import rows
from jobdeck.core.queue.operators.payload_change import EditRehearsal, PayloadChange, difference
from jobdeck.core.queue.requests import admit_change, new_payload
from jobdeck.core.read import job_lists
from jobdeck.core.read.rows import result_from
from jobdeck.core.read.sentences import result
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import ActionResult, Job, Json
    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.queue.bulk_model import Bulk
    from jobdeck.core.queue.operators.payload_change import Difference
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

CHECKED: Final = 10_000
"""Maximum number of jobs that a dry run validates."""
_BATCH: Final = 200
_REFUSED: Final[Json] = {"payload": {}}
"""The changes for a job that `job_queue_edit` refuses, because it has gone, or has changed since the choice."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """What becomes of one job: the changes (None: nothing to change), or the sentence that refuses them."""

    job_id: UUID
    version: int
    changes: Json | None = None
    refusal: str | None = None


def start(conn: Connection, bulk_id: UUID, change: PayloadChange, *, actor: str, reason: str | None = None) -> Bulk:
    """Starts the edit of the chosen jobs; `step` carries it out.

    Raises:
        Refused: the choice was already used, or is deleted.
    """
    changes = {"set": change.set, "unset": list(change.unset)}
    return bulk.start(conn, bulk_id, "edit", changes=changes, actor=actor, reason=reason)


def step(
    conn: Connection, registry: Registry, bulk_id: UUID, *, settings: Settings, driver: str, limit: int = _BATCH
) -> Bulk:
    """Edits the next jobs in one transaction and returns the new progress. Does nothing if the action has ended."""
    with conn.transaction():
        _carry_out(conn, registry, bulk_id, limit, settings=settings, driver=driver)
    return bulk.required(bulk.find(conn, bulk_id))


def resume_stalled(
    conn: Connection, registry: Registry, task_types: Sequence[str], worker_id: str, *, settings: Settings,
    limit: int = _BATCH,
) -> bool:  # fmt: skip
    """Carries out one batch of a stalled edit, for a worker of these types. Returns whether more work may be waiting.

    An edit is left alone while its next jobs are of other types. An error is stored with the action.
    """
    bulk_id: UUID | None = None
    try:
        with conn.transaction():
            statement = "SELECT job_bulk_take(%s, %s, %s) AS id"
            bulk_id = rows(conn, statement, (worker_id, list(task_types), limit))[0]["id"]
            if bulk_id is None:
                return False
            _carry_out(conn, registry, bulk_id, limit, settings=settings, driver=worker_id)
    except Exception as error:
        if bulk_id is None or conn.broken:
            raise
        # What a task type raises may be anything, and must not end the maintenance of the worker.
        conn.execute("SELECT job_bulk_failed(%s, %s)", (bulk_id, safe_error(str(error))))
        return False
    return True


def _carry_out(
    conn: Connection, registry: Registry, bulk_id: UUID, limit: int, *, settings: Settings, driver: str
) -> None:
    """Validates and edits the next jobs. Those that another program edits meanwhile have their answer from it."""
    found = rows(
        conn,
        "SELECT reached, changes FROM job_bulk WHERE id = %s AND state = 'running' AND action = 'edit'",
        (bulk_id,),
    )
    if not found:
        return
    change = PayloadChange(found[0]["changes"]["set"], tuple(found[0]["changes"]["unset"]))
    asked = _items(conn, bulk_id, found[0]["reached"], limit)
    edits = _edits(conn, registry, asked, change, settings)
    rows(conn, "SELECT id FROM job_bulk_edit_step(%s, %s::text[]::jsonb[], %s)", (bulk_id, _written(edits), driver))


def rehearse(
    conn: Connection, registry: Registry, bulk_id: UUID, change: PayloadChange, *, settings: Settings, actor: str
) -> EditRehearsal:
    """What the edit would do to the chosen jobs; validates the first `CHECKED` of them and changes nothing."""
    results: list[ActionResult] = []
    first: list[tuple[Job, Difference]] = []
    after: UUID | None = None
    while len(results) < CHECKED:
        asked = _items(conn, bulk_id, after, min(_BATCH, CHECKED - len(results)))
        if not asked:
            break
        after = max(asked)
        with conn.transaction(force_rollback=True):
            edits = list(_edits(conn, registry, asked, change, settings))
            answers = _rehearsed(conn, edits, actor)
        results += [answers[edit.job_id] for edit in edits]
        first += _first(
            conn, [edit for edit in edits if edit.changes and answers[edit.job_id].ok], bulk.FIRST - len(first)
        )
    return EditRehearsal(
        total=bulk.required(bulk.find(conn, bulk_id)).total,
        changed=sum(one.ok and one.code != "nothing-to-change" for one in results),
        same=sum(one.ok and one.code == "nothing-to-change" for one in results),
        refused=tuple(one for one in results if not one.ok),
        first=tuple(first),
    )


def _edits(
    conn: Connection, registry: Registry, asked: Mapping[UUID, int | None], change: PayloadChange, settings: Settings
) -> Iterator[_Edit]:
    found = {job.id: job for job in job_lists.queued(list(asked)).run(conn)}
    for job_id, seen in asked.items():
        job = found.get(job_id)
        fixed = {Status.RUNNING, Status.SUCCEEDED}
        if job is None or job.status in fixed or (seen is not None and job.version != seen):
            yield _Edit(job_id, -1 if seen is None else seen, _REFUSED)
            continue
        try:
            made = payload_changes(conn, registry, job, change.apply(job.payload), settings=settings)
        except Refused as refusal:
            yield _Edit(job_id, job.version, refusal=str(refusal))
        else:
            yield _Edit(job_id, job.version, made or None)


def payload_changes(conn: Connection, registry: Registry, job: Job, payload: Json, *, settings: Settings) -> Json:
    """The changes of an edit that gives the job this payload; empty if it has it already.

    Raises:
        UnknownTaskType: the type has no handler here.
        InvalidPayload: the payload does not fit, or the type refuses it.
    """
    if payload == job.payload:
        return {}
    made = new_payload(registry, job.task_type, payload)
    if made["payload"] == job.payload:
        return {}
    admit_change(conn, registry, job, made, settings=settings)
    return made


def _items(conn: Connection, bulk_id: UUID, after: UUID | None, limit: int) -> dict[UUID, int | None]:
    """The next jobs without an answer, behind the id `after`, and the versions at which they were frozen."""
    found = rows(
        conn,
        """
        SELECT job_id, seen FROM job_bulk_items
        WHERE bulk_id = %s AND ok IS NULL AND (%s::uuid IS NULL OR job_id > %s) ORDER BY job_id LIMIT %s
        """,
        (bulk_id, after, after, limit),
    )
    return {row["job_id"]: row["seen"] for row in found}


def _rehearsed(conn: Connection, edits: Sequence[_Edit], actor: str) -> dict[UUID, ActionResult]:
    wanted = [edit for edit in edits if edit.changes]
    found = rows(
        conn,
        """
        SELECT e.* FROM unnest(%s::text[]::jsonb[]) AS d
        CROSS JOIN job_queue_edit((d ->> 'id')::uuid, (d ->> 'version')::bigint, d -> 'changes', %s, NULL, true) AS e
        """,
        (_written(wanted), actor),
    )
    answers = {row["job_id"]: result_from(row) for row in found}
    for edit in edits:
        if edit.refusal is not None:
            answers[edit.job_id] = result(edit.job_id, "not-admitted", ok=False, sentence=edit.refusal)
        elif edit.changes is None:
            answers[edit.job_id] = result(edit.job_id, "nothing-to-change", ok=True)
    return answers


def _first(conn: Connection, edits: Sequence[_Edit], most: int) -> list[tuple[Job, Difference]]:
    """The first edits with the jobs as they are, and what differs."""
    wanted = {edit.job_id: edit.changes for edit in edits[: max(most, 0)] if edit.changes}
    found = {job.id: job for job in job_lists.queued(list(wanted)).run(conn)} if wanted else {}
    return [
        (found[job_id], difference(found[job_id].payload, changes["payload"]))
        for job_id, changes in wanted.items()
        if job_id in found
    ]


def _written(edits: Iterable[_Edit]) -> list[str]:
    """The edits as `job_bulk_edit` of the database reads them."""
    return [
        json.dumps({"id": str(edit.job_id), "version": edit.version, "changes": edit.changes, "refusal": edit.refusal})
        for edit in edits
    ]
