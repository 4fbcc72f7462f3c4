"""Commands that show jobs, runs and types (`jobs`, `job`, `runs`, `why`, `types`), and saved filters (`filter`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core import plugins
from jobdeck.core.cli import output
from jobdeck.core.cli.commands.look.facets import facet_section, facets_json
from jobdeck.core.cli.session import Group, Session, Words, after_option, command, limit_option, shared_options
from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.model import Job, Json, RunOutcome
from jobdeck.core.queue import operator
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.batch import one_moment
from jobdeck.core.read.filters import SORTS, STATUSES, by_status, narrowed, parse_filter
from jobdeck.core.read.job_lists import LOOKED_AT
from jobdeck.core.read.operators import reach
from jobdeck.core.read.operators.hold import blocker_words
from jobdeck.core.read.operators.preferences import SIGN
from jobdeck.core.read.operators.reach import check_type
from jobdeck.core.read.runs.ran_twice import ran_twice
from jobdeck.core.read.sentences import status_word
from jobdeck.core.read.stats.facets import commonest, of_jobs
from jobdeck.core.schedules import next_runs, rhythm
from jobdeck.core.times import parse_duration
from jobdeck.core.words import runs as run_words

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from enum import StrEnum

    from jobdeck.core.read.report_types import AuditEntry, Clause
    from jobdeck.core.registry import JobType


def words(values: type[StrEnum]) -> Words:
    return Words(value.value for value in values)


DRY_LAST: Final = "Its last run was a dry run: it changed nothing."


@command("jobs")
@click.option("--status", type=Words(STATUSES), help="One of the six, or why pending jobs wait.")
@click.option("--type", "task_type", metavar="TYPE")
@click.option("--search", metavar="TEXT", help="Text in the id, task type, error or payload.")
@click.option("--filter", "expression", metavar="FILTER", help='Filter as in the dashboard: "error:timeout older:2h".')
@click.option("--sort", type=Words(SORTS), default="natural", show_default=True)
@click.option("--ascending", is_flag=True, help="Sort in ascending order.")
@click.option("--facets", "faceted", is_flag=True, help="Say which values these jobs have more often than all runs.")
@limit_option(50, 10_000)
@after_option
def jobs(
    session: Session, expression: str | None, limit: int, after: str | None, *, faceted: bool, **given: Any
) -> None:
    """List jobs, newest first."""
    wanted = narrowed(
        session.filter(expression), "--filter and another option", **by_status(given["status"]),
        task_type=given["task_type"], search=given["search"],
    )  # fmt: skip
    with session.connection() as conn:
        wanted = reach.with_ids(conn, wanted)
        reach.check(conn, wanted)
        page = read_jobs.page(
            wanted, sort=given["sort"], descending=not given["ascending"], limit=limit, after=after
        ).run(conn)
        if wanted.task_type and not page.jobs:
            check_type(conn, wanted.task_type, session.registry.names)
        types = commonest(page.jobs) if faceted else {}
        found = {name: of_jobs(name, ids).run(conn) for name, ids in types.items()}
    lines = output.job_table(page.jobs) or ["No jobs."]
    for name, sample in found.items():
        lines += facet_section(sample, f"Facets of {output.line(name)}: {sample.read:,} jobs read")
    data = {"jobs": page.jobs} | (
        {"facets": {name: facets_json(one) for name, one in found.items()}} if faceted else {}
    )
    session.answer_page(data, lines, page.next)
    if page.searched and not session.json:
        output.note(f"Only {page.searched:,} jobs were looked through.")


@command("job")
@click.argument("wanted", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show personal data; the access is recorded in the audit log.")
def job(session: Session, wanted: str, reveal: bool) -> None:
    """Show one job: its state, payload, runs and audit log."""
    with session.connection() as conn:
        job_id = read_jobs.resolve_id(conn, wanted)
        if reveal:
            operator.reveal(conn, job_id, actor=session.actor)
        found = read_jobs.detail(job_id).run(conn)
    if found is None:
        raise JobNotFound(f"There is no job {wanted}. Search with `jobdeck jobs --search TEXT`.")
    data = {
        **output.plain(found.job, revealed=reveal),
        "in_trash": found.in_trash,
        "runs": output.plain(found.runs, revealed=reveal),
        "why": output.plain(found.why),
        "audit": output.plain(found.audit),
    }
    facts = _job_facts(found.job, in_trash=found.in_trash, revealed=reveal)
    if reveal:
        facts = [(name, output.Verbatim(fact) if isinstance(fact, str) else fact) for name, fact in facts]
    lines = [
        *output.facts(facts),
        *output.section("Why", clause_lines(found.why)),
        *output.section("Runs", output.run_table(found.runs, revealed=reveal)),
        *output.section("Audit", audit_table(found.audit)),
    ]
    session.answer(data, lines, revealed=reveal)


@command("runs")
@click.option("--job", "wanted", metavar="ID", help="Only runs of this job.")
@click.option("--type", "task_type", metavar="TYPE")
@click.option("--outcome", type=words(RunOutcome))
@click.option(
    "--twice", is_flag=True, help="Only runs of jobs that may have acted twice, and jobs with the same content."
)
@click.option("--since", metavar="DURATION", help="With --twice: how far back. Default: 24h.")
@limit_option(50, 10_000)
@after_option
def runs(
    session: Session, wanted: str | None, task_type: str | None, outcome: str | None, limit: int, after: str | None,
    *, twice: bool, since: str | None,
) -> None:  # fmt: skip
    """List runs, newest first. Runs are kept longer than their jobs."""
    if twice and (wanted or outcome or after):
        raise UsageError("--twice goes with --type and --since alone.")
    if since is not None and not twice:
        raise UsageError("--since needs --twice.")
    if twice:
        _show_twice(session, parse_duration(since or "24h", what="duration of --since"), task_type)
        return
    with session.connection() as conn:
        found, following = history.runs(
            job_id=read_jobs.resolve_id(conn, wanted) if wanted else None,
            task_type=task_type,
            outcome=RunOutcome(outcome) if outcome else None,
            limit=limit,
            after=after,
        ).run(conn)
        if task_type and not found:
            check_type(conn, task_type, session.registry.names, whole=True)
    session.answer_page({"runs": found}, output.run_table(found) or ["No runs."], following)
    if following and len(found) < limit and not session.json:
        output.note(f"Only {LOOKED_AT:,} runs were looked through.")


def _show_twice(session: Session, since: timedelta, task_type: str | None) -> None:
    with session.connection() as conn:
        found = ran_twice(since, task_type=task_type).run(conn)
        if task_type and not found.read:
            check_type(conn, task_type, session.registry.names, whole=True)
    header = [column.heading for column in run_words.RUNS]
    rows = ([column.whole(run) for column in run_words.RUNS] for run in found.lost.runs)
    session.answer(output.plain(found) | {"sentences": run_words.sentences(found)}, [
        *run_words.sentences(found),
        *output.section("Runs", output.table(header, rows, least=("WORKER", "TOOK"))),
        *output.section("Same content", [run_words.same_words(one) for one in found.same]),
        *([run_words.HIDDEN] if found.hidden else []),
    ])  # fmt: skip


@command("why")
@click.argument("wanted", metavar="ID")
def why(session: Session, wanted: str) -> None:
    """Explain why a job is or is not running."""
    with session.connection() as conn:
        job_id = read_jobs.resolve_id(conn, wanted)
        with one_moment(conn) as batch:
            explained, job = batch.add(read_jobs.why(job_id)), batch.add(read_jobs.job(job_id))
    clauses, found = explained(), job()
    if not clauses or found is None:
        raise JobNotFound(f"Job {job_id} is not in the queue. For its past runs: `jobdeck runs --job {job_id}`.")
    holds = all(clause.holds for clause in clauses if clause.is_of_claim)
    lines = [*clause_lines(clauses), *([DRY_LAST] if found.last_run_dry else [])]
    data = {"id": job_id, "claimable": holds, "clauses": clauses, "last_run_dry": found.last_run_dry}
    session.answer(data, lines)


@command("types")
def definitions(session: Session) -> None:
    """List the task types of the handlers, with their payloads and limits. Needs no database."""
    from jobdeck.core.registry import NO_TYPES  # noqa: PLC0415 -- imported on first use

    found = [session.registry.require(name) for name in session.registry.names]
    lines: list[str] = []
    for job_type in found:
        lines += [*output.facts(_type_facts(job_type)), ""]
    session.answer({"types": [_type_json(job_type) for job_type in found]}, lines[:-1] or [NO_TYPES])


def clause_lines(clauses: Iterable[Clause]) -> list[str]:
    """The conditions for running a job, one per line."""
    return output.table(
        ("", "CLAUSE", "EVIDENCE"),
        (("yes" if clause.holds else "NO", clause.name, clause.evidence) for clause in clauses),
    )


def audit_table(entries: Iterable[AuditEntry]) -> list[str]:
    """What operators did, one action a line."""
    return output.table(
        ("AT", "ACTOR", "ACTION", "JOB", "REASON"),
        (
            (
                output.when(entry.at),
                entry.actor,
                entry.action,
                entry.job_id,
                output.line(entry.reason),
            )
            for entry in entries
        ),
    )


def _job_facts(job: Job, *, in_trash: bool, revealed: bool) -> list[tuple[str, object]]:
    own = rhythm(job)
    return [
        ("job", job.id),
        ("task type", job.task_type),
        ("status", f"{status_word(job)}{', in the trash' if in_trash else ', removed' if job.removed else ''}"),
        ("attempts", f"{job.attempts}/{job.max_attempts or output.NONE}"),
        ("schedule", own.words if own else "one-time"),
        ("declared as", own.name if own else None),
        ("next run", output.next_run(job)),
        ("then", ", ".join(map(output.when, next_runs(job, 4)[1:])) or None if own and own.cron else None),
        ("expires", output.when(job.expires_at) if job.expires_at else None),
        ("priority", job.priority or None),
        ("timeout", f"{job.timeout_seconds:g}s, its own" if job.timeout_seconds else None),
        ("payload", output.payload(job.payload, revealed=revealed)),
        ("created", f"{output.when(job.created_at)}{f' by {job.created_by}' if job.created_by else ''}"),
        ("last run", output.last_run(job) or output.NONE),
        ("last success", output.when(job.last_success_at) if job.last_success_at else None),
        ("consecutive failures", job.consecutive_failures or None),
        ("dedupe key", job.dedupe_key),
        ("blocked by", "itself: the series is paused" if job.is_paused else blocker_words(job.blocked_by) or None),
        ("worker", job.locked_by),
        ("lease until", output.when(job.lease_expires_at) if job.lease_expires_at else None),
        ("cancel requested by", job.cancel_requested_by),
        ("trace", job.trace_id),
        ("progress", output.payload(job.progress, revealed=revealed) if job.progress else None),
        ("checkpoint", output.payload(job.checkpoint, revealed=revealed) if job.checkpoint else None),
        ("output", output.payload(job.output, revealed=revealed) if job.output else None),
        ("error", output.cut(job.last_error, 2000, revealed=revealed) if job.last_error else None),
        ("version", None if job.removed else job.version),
    ]


def _type_json(job_type: JobType) -> Json:
    return {
        "task_type": job_type.task_type,
        "label": job_type.label,
        "purpose": job_type.purpose,
        "payload_schema": job_type.payload.model_json_schema(by_alias=True),
        "max_attempts": job_type.max_attempts,
        "retry_base_seconds": job_type.retry_base,
        "retry_cap_seconds": job_type.retry_cap,
        "own_backoff": job_type.backoff is not None,
        "timeout_seconds": job_type.timeout,
        "recurring_every_minutes": job_type.recurring,
        "concurrency": job_type.concurrency,
        "filters": [name for name, key in plugins.filters().items() if job_type.field(key) is not None],
        "quick": job_type.quick,
    }


def _type_facts(job_type: JobType) -> list[tuple[str, object]]:
    fields = job_type.payload.model_json_schema(by_alias=True).get("properties", {})
    return [
        ("type", job_type.task_type),
        ("label", job_type.label),
        ("purpose", job_type.purpose or None),
        ("payload", ", ".join(fields) or "none"),
        ("retries", f"{job_type.max_attempts} attempts{', with delays of its own' if job_type.backoff else ''}"),
        ("timeout", f"{job_type.timeout:g}s"),
        ("recurring", f"every {job_type.recurring}m by default" if job_type.recurring else None),
        ("concurrency", f"one at a time per {job_type.concurrency}" if job_type.concurrency else None),
    ]


@command("list")
def listed(session: Session) -> None:
    """List the saved filters."""
    found = session.preferences.filters()
    troubles = {name: _trouble(text) for name, text in found.items()}
    rows = [(f"{SIGN}{name}", output.line(text), troubles[name]) for name, text in found.items()]
    session.answer(
        {"filters": [{"name": name, "filter": text, "trouble": troubles[name]} for name, text in found.items()]},
        output.table(("NAME", "FILTER", ""), rows) or ["No saved filters."],
    )


def _trouble(text: str) -> str | None:
    try:
        parse_filter(text)
    except UsageError as error:
        return str(error)
    return None


@command("save")
@click.argument("name")
@click.argument("words", metavar="FILTER")
def save(session: Session, name: str, words: str) -> None:
    """Save a filter under a name, in place of an earlier one of this name."""
    session.preferences.save_filter(name.removeprefix(SIGN), words)
    shown = f"{SIGN}{name.removeprefix(SIGN).lower()}"
    session.answer(
        {"name": shown.removeprefix(SIGN), "filter": words.strip()},
        [f"Saved as {shown}. Use it with --filter {shown}."],
    )


@command("delete")
@click.argument("name")
def delete(session: Session, name: str) -> None:
    """Delete a saved filter."""
    session.preferences.delete_filter(name)
    shown = name.removeprefix(SIGN).lower()
    session.answer({"name": shown, "deleted": True}, [f"{SIGN}{shown} is deleted."])


filter = Group(  # noqa: A001 -- the name of the command
    "filter",
    commands={"list": listed, "save": save, "delete": delete},
    params=shared_options(),
    help="Show and save filters of your own.",
)
