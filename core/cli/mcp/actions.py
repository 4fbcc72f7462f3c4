"""The tools that rehearse an action, and those that carry one out, which a person must have allowed."""

from __future__ import annotations

import json
import shlex
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, create_model

from jobdeck.core.cli.mcp.reads import JobId, Text, When
from jobdeck.core.cli.mcp.tools import Access, Arguments, Tool
from jobdeck.core.errors import UsageError
from jobdeck.core.queue import operator, service
from jobdeck.core.queue.options import OPTIONS, Option
from jobdeck.core.queue.requests import parse_object, read_wanted
from jobdeck.core.read import jobs
from jobdeck.core.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import ActionResult
    from jobdeck.core.read.batch import Connection

MOST: Final = 20
"""Maximum number of jobs of one call."""

Verb = Literal["retry", "cancel", "run_again", "postpone", "skip_run", "pause_series", "resume_series"]
DEEDS: Final[dict[Verb, str]] = {
    "retry": "Makes jobs due now: retries a failed one, runs a pending one at once.",
    "cancel": "Cancels jobs; asks a running one to stop.",
    "run_again": "Runs jobs again that have succeeded.",
    "postpone": "Changes when jobs are due, to the time `at`.",
    "skip_run": "Skips the next run of recurring jobs.",
    "pause_series": "Pauses recurring jobs until somebody resumes them.",
    "resume_series": "Resumes paused recurring jobs at their next slot.",
}
_COMMANDS: Final[dict[Verb, tuple[str, ...]]] = {
    "retry": ("retry",), "cancel": ("cancel",), "run_again": ("run-again",), "postpone": ("edit",),
    "skip_run": ("series", "skip"), "pause_series": ("series", "pause"), "resume_series": ("series", "resume"),
}  # fmt: skip
_TOGETHER: Final = ("retry", "cancel", "run_again")
"""What one command does to several jobs; the others take one job each."""


class Deed(Arguments):
    """An action on jobs. `at` is for postpone alone."""

    ids: list[JobId] = Field(min_length=1, max_length=MOST)
    at: (
        Annotated[When, Field(description='For postpone: "in 2h", "tomorrow 9:00" (UTC), 2026-08-01T09:00Z.')] | None
    ) = None
    version: int | None = Field(default=None, ge=0, description="Only if the one job still has this version.")


class Rehearsed(Deed):
    action: Verb


class Done(Deed):
    reason: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(
        min_length=3, max_length=500, description="Why, for the audit log."
    )


def _argument(option: Option) -> Any:
    """The type and the default of an argument. Times and durations are texts, as a person writes them."""
    if option.kind != "number":
        kind = When if option.kind == "time" else Text
        return Annotated[kind, Field(description=option.words)] | None, None
    number = Annotated[int, Field(ge=option.least, le=option.most, description=option.words)]
    return number | None, None


class _NewJob(Arguments):
    type: Text
    payload: dict[str, Any] = Field(default_factory=dict, description="Arguments, as a JSON object.")


_ARGUMENTS: Final[dict[str, Any]] = {one.name: _argument(one) for one in OPTIONS if one.mcp}
NewJob = create_model("NewJob", __base__=_NewJob, **_ARGUMENTS)
"""The arguments of a new job: its type, its payload, and the options of `OPTIONS`."""


def rehearse(access: Access, given: Rehearsed) -> Any:
    return _carry_out(access, given.action, given, reason=None, dry_run=True)


def _carry_out(access: Access, verb: Verb, given: Deed, *, reason: str | None, dry_run: bool) -> Any:
    if (verb == "postpone") != (given.at is not None):
        raise UsageError("The argument at is a time, which postpone needs and no other action has. Nothing was done.")
    if given.version is not None and len(given.ids) != 1:
        raise UsageError("The argument version needs exactly one job. Nothing was done.")
    with access.session.connection() as conn:
        found = list(dict.fromkeys(jobs.resolve_id(conn, text) for text in given.ids))
        results = _results(access, conn, verb, found, given, reason=reason, dry_run=dry_run)
    shown = ("job_id", "ok", "code", "message", "status", "version")
    answers = [{name: getattr(result, name) for name in shown} for result in results]
    return {"dry_run": dry_run, "results": answers, **({"commands": _commands(verb, found, given)} if dry_run else {})}


def _results(
    access: Access, conn: Connection, verb: Verb, ids: Sequence[UUID], given: Deed, *, reason: str | None, dry_run: bool
) -> list[ActionResult]:
    how: dict[str, Any] = {"actor": access.actor, "reason": reason, "dry_run": dry_run}
    versions = {ids[0]: given.version} if given.version is not None else None
    session = access.session
    if verb == "retry":
        return operator.retry(conn, ids, versions=versions, **how)
    if verb == "cancel":
        return operator.cancel(conn, ids, versions=versions, **how)
    if verb == "run_again":
        return service.run_again(conn, session.registry, ids, settings=session.settings, versions=versions, **how)
    if verb == "postpone":
        due = parse_time(given.at or "", jobs.clock().run(conn), what="time of at")
        act = partial(operator.edit, changes={"run_at": due.isoformat()})
    else:
        one_by_one = {"skip_run": operator.skip, "pause_series": operator.pause_series}
        act = one_by_one.get(verb, operator.resume_series)
    return [act(conn, job_id, version=given.version, **how) for job_id in ids]


def _commands(verb: Verb, ids: Sequence[UUID], given: Deed) -> list[str]:
    """The commands with which a person does it."""
    at = ("--at", given.at) if given.at else ()
    groups = [ids] if verb in _TOGETHER else [[job_id] for job_id in ids]
    return [
        shlex.join(["jobdeck", *_COMMANDS[verb], *map(str, group), *at, *(["--yes"] if len(group) > 1 else [])])
        for group in groups
    ]


def rehearse_enqueue(access: Access, given: _NewJob) -> Any:
    session = access.session
    options = given.model_dump(include=set(_ARGUMENTS))
    if options["lasting"] and not options["every"]:
        raise UsageError("The argument lasting is for recurring jobs. Add every, or omit lasting.")
    payload = parse_object(json.dumps(given.payload))
    with access.session.connection() as conn:
        wanted = read_wanted(given.type, payload, options, jobs.clock().run(conn), flags=False)
        made = service.create(
            conn, session.registry, wanted, settings=session.settings, actor=access.actor, dry_run=True
        )
    there = None if made.created or made.replaced else {"id": made.job.id, "status": made.job.status}
    return {
        "dry_run": True, "task_type": made.job.task_type, "would_be_enqueued": made.created,
        "would_replace": made.job.id if made.replaced else None, "already_there": there,
        "run_at": made.job.run_at if made.created or made.replaced else None, "max_attempts": made.job.max_attempts,
    }  # fmt: skip


DRY_RUNS: Final = (
    Tool("dry_run", "What an action would do to each job, and the commands for a person. Changes nothing.", Rehearsed,
         rehearse),
    Tool("dry_run_enqueue", "Whether a new job would be accepted. Enqueues nothing.", NewJob, rehearse_enqueue),
)  # fmt: skip


def _deed(verb: Verb) -> Tool:
    def run(access: Access, given: Done) -> Any:
        return _carry_out(access, verb, given, reason=given.reason, dry_run=False)

    return Tool(verb, f"{DEEDS[verb]} It is in the audit log.", Done, run, changes=True, destroys=verb == "cancel")


ACTIONS: Final = tuple(map(_deed, DEEDS))
