"""Converts database rows, fetched by column name, into the values of `jobdeck.core.model`, and places into cursors."""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.errors import UsageError
from jobdeck.core.model import ActionResult, Job, Processing, Run, RunOutcome, Status, TypePause
from jobdeck.core.read.sentences import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobdeck.core.model import Json

Row = dict[str, Any]

NO_CURSOR: Final = "This is not a cursor. Use the cursor from the end of the page before."

_JOB_FIELDS = tuple(field.name for field in fields(Job))
_RUN_FIELDS = tuple(field.name for field in fields(Run))


def job_from(row: Mapping[str, Any]) -> Job:
    """Converts a row of `job_list`, or one with a subset of its columns."""
    values = {name: row[name] for name in _JOB_FIELDS if name in row}
    values["status"] = Status(values["status"])
    if values.get("last_outcome"):
        values["last_outcome"] = RunOutcome(values["last_outcome"])
    return Job(**values)


def jobs_from(rows: Iterable[Mapping[str, Any]]) -> tuple[Job, ...]:
    return tuple(map(job_from, rows))


def run_from(row: Mapping[str, Any]) -> Run:
    values = {name: row[name] for name in _RUN_FIELDS}
    values["outcome"] = RunOutcome(values["outcome"])
    return Run(**values)


def result_from(row: Mapping[str, Any]) -> ActionResult:
    status = row["status"]
    message = sentence(row["code"], {"status": status} | (row["facts"] or {}))
    return ActionResult(
        row["job_id"], row["ok"], message, Status(status) if status else None, row["version"], row["code"]
    )


def processing_from(settings: Mapping[str, Any] | None, pauses: list[Row], queues: list[Row]) -> Processing:
    """The processing switch; a missing settings row means off, as it does in the claim."""
    held = [TypePause(**pause) for pause in pauses]
    paused_types = tuple(one for one in held if not one.set_aside)
    set_aside = tuple(one for one in held if one.set_aside)
    if settings is None:
        words = "The settings row is missing; resume to restore it."
        return Processing(False, words, paused_types=paused_types, set_aside=set_aside)
    return Processing(
        enabled=settings["processing_enabled"],
        paused_reason=settings["paused_reason"],
        paused_by=settings["paused_by"],
        paused_at=settings["paused_at"],
        resume_at=settings["resume_at"],
        paused_types=paused_types,
        set_aside=set_aside,
        paused_queues=tuple(TypePause(**queue) for queue in queues),
        held_by=settings["held_by"],
    )


def encode_cursor(cursor: Json) -> str:
    """The cursor as people pass it on."""
    return base64.urlsafe_b64encode(json.dumps(cursor, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(after: str) -> Json:
    """What `encode_cursor` was given.

    Raises:
        UsageError: it is not a cursor.
    """
    try:
        cursor = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        return {"key": str(cursor["key"]), "id": str(UUID(cursor["id"])), "skip": int(cursor["skip"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(NO_CURSOR) from error


def skipped(after: str | None) -> int:
    """How many rows the pages before have."""
    return int(decode_cursor(after)["skip"]) if after else 0


def cursor_parameters(after: str | None, *, natural: bool) -> Json:
    """The parameters of a page behind a cursor; orders that no index has are paged by the number of rows."""
    if after is None:
        return {"after_key": None, "after_id": None, "skip": 0}
    cursor = decode_cursor(after)
    if natural:
        return {"after_key": cursor["key"], "after_id": cursor["id"], "skip": 0}
    return {"after_key": None, "after_id": None, "skip": cursor["skip"]}
