"""The tools that read: health, jobs, why, runs, errors, types, series, workers, audit."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from jobdeck.core.alerts.alarms import timeouts_of
from jobdeck.core.cli.mcp.tools import LONG, Access, Arguments, Tool
from jobdeck.core.errors import JobNotFound, Refused
from jobdeck.core.model import Job, Run, RunOutcome, Status
from jobdeck.core.read import history, jobs
from jobdeck.core.read.filters import narrowed, parse_filter
from jobdeck.core.read.operators import notes, reach
from jobdeck.core.read.operators.reach import check_type
from jobdeck.core.read.pages import overview
from jobdeck.core.read.pages import series as series_page
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.verdict import failing_types
from jobdeck.core.read.verdict.health import health as judge
from jobdeck.core.times import parse_duration

JobId = Annotated[str, Field(max_length=36, description="A whole job ID, or its first or last digits.")]
Text = Annotated[str, Field(min_length=1, max_length=500)]


def _zoned(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    if moment.utcoffset() is None:
        raise PydanticCustomError("zone", "the time has no time zone; write it like 2026-08-01T09:00Z")
    return text


When = Annotated[Text, AfterValidator(_zoned)]
"""A time as a person types it, but an ISO 8601 time says its zone."""
Limit = Annotated[int, Field(ge=1, le=100, description="Maximum number listed.")]
After = Annotated[str, Field(max_length=2000, description="Continue after a page, with its `next`.")]
Sort = Literal["natural", "task", "status", "attempts", "created", "last_run", "run_at", "error", "updated"]

_NOT_LISTED: Final = frozenset(
    {"output", "checkpoint", "progress", "lease_expires_at", "anchor_at", "updated_at", "version", "run_token"}
)
"""Fields of a job that `job` shows and a list does not."""
_AUDITED: Final = 20
_RUNS: Final = 10


class Nothing(Arguments):
    """No arguments."""


class OneJob(Arguments):
    id: JobId


class JobList(Arguments):
    status: Status | None = None
    type: Annotated[Text, Field(description="Part of the task type.")] | None = None
    search: Annotated[Text, Field(description="Text in the id, task type or error.")] | None = None
    filter: Annotated[Text, Field(description='As in the dashboard: "error:timeout age>2h attempts>=3".')] | None = None
    sort: Sort = "natural"
    ascending: bool = False
    limit: Limit = 20
    after: After | None = None


class RunList(Arguments):
    job: JobId | None = None
    type: Text | None = None
    outcome: RunOutcome | None = None
    limit: Limit = 20
    after: After | None = None


class OneRun(Arguments):
    run_token: int = Field(ge=0, lt=2**63, description="The `run_token` of a run, as `runs` lists it.")


class Period(Arguments):
    since: Text = Field(default="1d", description="Period up to now, such as 30m, 6h or 7d.")
    limit: Limit = 20


class AuditList(Arguments):
    job: JobId | None = None
    since: Annotated[Text, Field(description="Period up to now, such as 7d.")] | None = None
    limit: Limit = 20


def health(access: Access, _: Nothing) -> Any:
    session = access.session
    judged = judge(timeouts=timeouts_of(session.registry), production=session.settings.is_production)
    with access.reading() as conn:
        found = judged.run(conn)
        return {
            "at": jobs.clock().run(conn),
            "verdict": found.verdict,
            "findings": found.findings,
            "alarms": failing_types.raised_alarms().run(conn),
            "oldest_due": found.oldest_due,
            "failed_last_hour": found.failed_last_hour,
            "counts": jobs.counts().run(conn),
            "waiting": jobs.backlog().run(conn),
            "processing": jobs.processing().run(conn),
            "notes": len(notes.open_notes().run(conn)),
        }


def job_list(access: Access, given: JobList) -> Any:
    wanted = narrowed(
        parse_filter(given.filter or ""), "The filter and another argument", status=given.status,
        task_type=given.type, search=given.search,
    )  # fmt: skip
    with access.reading() as conn:
        reach.check(conn, wanted)
        page = jobs.page(
            wanted, sort=given.sort, descending=not given.ascending, limit=given.limit, after=given.after
        ).run(conn)
        if wanted.task_type and not page.jobs:
            check_type(conn, wanted.task_type, access.session.registry.names)
    return {"jobs": [_short(job) for job in page.jobs], "next": page.next}


def _short(job: Job) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in fields(job) if field.name not in _NOT_LISTED}


def job(access: Access, given: OneJob) -> Any:
    with access.reading() as conn:
        job_id = jobs.resolve_id(conn, given.id)
        found = jobs.detail(job_id).run(conn)
    if found is None:
        raise JobNotFound(f"There is no job {given.id}. The tool `jobs` searches.")
    return {
        "job": found.job,
        "in_trash": found.in_trash,
        "why": found.why,
        "runs": [_outcome(run) for run in found.runs[:_RUNS]],
        "audit": found.audit[:_AUDITED],
    }


def why(access: Access, given: OneJob) -> Any:
    with access.reading() as conn:
        job_id = jobs.resolve_id(conn, given.id)
        clauses, found = jobs.why(job_id).run(conn), jobs.job(job_id).run(conn)
    if not clauses or found is None:
        raise JobNotFound(f"Job {job_id} is not in the queue. The tool `runs` shows its past runs.")
    holds = all(clause.holds for clause in clauses if clause.is_of_claim)
    return {"id": job_id, "status": found.status, "claimable": holds, "clauses": clauses}


def runs(access: Access, given: RunList) -> Any:
    with access.reading() as conn:
        found, following = history.runs(
            job_id=jobs.resolve_id(conn, given.job) if given.job else None,
            task_type=given.type, outcome=given.outcome, limit=given.limit, after=given.after,
        ).run(conn)  # fmt: skip
        if given.type and not found:
            check_type(conn, given.type, access.session.registry.names, whole=True)
    return {"runs": [_outcome(run) for run in found], "next": following}


def _outcome(run: Run) -> dict[str, Any]:
    names = ("run_token", "job_id", "task_type", "attempt", "outcome", "started_at", "error_kind", "error", "dry_run")
    return {**{name: getattr(run, name) for name in names}, "seconds": run.duration}


def run(access: Access, given: OneRun) -> Any:
    with access.reading() as conn:
        found = history.run(given.run_token).run(conn)
    if found is None:
        raise Refused(f"There is no run {given.run_token}, or it has not ended. The tool `runs` lists those that have.")
    return {"run": found, "log": "Hidden. A person with the role operator reads it in the dashboard."}


def errors(access: Access, given: Period) -> Any:
    period = parse_duration(given.since, what="duration of since")
    with access.reading() as conn:
        found = error_groups.groups(since=period, limit=given.limit).run(conn)
        muted = {mute.key: mute.until for mute in notes.mutes().run(conn)}
    shown = ("task_type", "fingerprint", "error_kind", "sample", "count", "jobs", "failed", "waiting", "first_seen",
             "last_seen", "new_in_release")  # fmt: skip
    return {
        "groups": [
            {
                **{name: getattr(group, name) for name in shown},
                "muted_until": muted.get(group.key),
                "a_job": group.job_ids[0] if group.job_ids else None,
            }
            for group in found
        ]
    }


def types(access: Access, _: Nothing) -> Any:
    with access.reading() as conn:
        found = overview.types().run(conn)
    known = access.session.registry
    return {
        "at": found.at,
        "types": [{"figures": one, "purpose": _purpose(access, one.line.task_type)} for one in found.types],
        "without_jobs": sorted(set(known.names) - {one.line.task_type for one in found.types}),
    }


def _purpose(access: Access, task_type: str) -> str | None:
    known = access.session.registry.get(task_type)
    return known.purpose or None if known else None


def series(access: Access, _: Nothing) -> Any:
    with access.reading() as conn:
        found = series_page.series().run(conn)
    lines = [
        {
            "id": one.job.id, "task_type": one.job.task_type, "status": one.job.status,
            "every_minutes": one.job.recurrence_interval_minutes, "next_run_at": one.job.run_at,
            "late_seconds": one.late, "last_run_at": one.job.last_run_at, "last_outcome": one.job.last_outcome,
            "expires_at": one.job.expires_at, "streak": one.streak, "pause": one.pause,
        }
        for one in found.series
    ]  # fmt: skip
    return {"at": found.at, "series": lines, "more": found.more}


def workers(access: Access, _: Nothing) -> Any:
    with access.reading() as conn:
        return {"at": jobs.clock().run(conn), "workers": jobs.workers().run(conn)}


def audit(access: Access, given: AuditList) -> Any:
    age = parse_duration(given.since, what="duration of since") if given.since else None
    with access.reading() as conn:
        job_id = jobs.resolve_id(conn, given.job) if given.job else None
        return {"audit": history.audit(job_id=job_id, since=age, limit=given.limit).run(conn)}


READS: Final = (
    Tool("health", "The verdict on the queue with its evidence and alarms, counts of jobs, backlog, pauses.", Nothing,
         health),
    Tool("jobs", "Lists jobs, newest first, by status, task type, text or filter.", JobList, job_list),
    Tool("job", "One job: its state, why it does or does not run, its last runs and its audit log.", OneJob, job, LONG),
    Tool("why", "Explains why a job is or is not running, condition by condition.", OneJob, why, LONG),
    Tool("runs", "Lists ended runs, newest first; runs are kept longer than their jobs.", RunList, runs),
    Tool("run", "One run with its error and traceback. Its log is hidden.", OneRun, run, 4 * LONG),
    Tool("errors", "Failed runs of a period, grouped by task type and similar error.", Period, errors),
    Tool("types", "Task types with their jobs, wait, failures and settings.", Nothing, types),
    Tool("series", "Recurring jobs with their next run and how their last runs ended.", Nothing, series),
    Tool("workers", "Workers with a heartbeat in the last day.", Nothing, workers),
    Tool("audit", "What operators did, newest first.", AuditList, audit),
)  # fmt: skip
