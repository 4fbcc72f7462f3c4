"""Commands about the whole queue: `status`, `health`, `errors`, `audit`, and about several: `fleet`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.alerts.alarms import timeouts_of
from jobdeck.core.cli import output
from jobdeck.core.cli.commands.act.notes import note_table
from jobdeck.core.cli.commands.look.facets import facet_section, facets_json
from jobdeck.core.cli.commands.look.jobs import audit_table
from jobdeck.core.cli.commands.look.types import hold_json, hold_table
from jobdeck.core.cli.session import Session, command, limit_option
from jobdeck.core.errors import UNHEALTHY, Refused
from jobdeck.core.model import Filter, Json, Status, Verdict
from jobdeck.core.read import history, jobs, reports
from jobdeck.core.read.batch import one_moment
from jobdeck.core.read.operators import notes
from jobdeck.core.read.report_types import Backlog, Counts, ErrorGroup, Snapshot
from jobdeck.core.read.sentences import CLAIMED, amount, outcome_words
from jobdeck.core.read.stats import facets
from jobdeck.core.read.verdict.health import health as judge
from jobdeck.core.times import format_duration, parse_duration
from jobdeck.core.words.plain import pauses
from jobdeck.core.words.tables import DATABASES
from jobdeck.core.words.wording import backlog_words, slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import psycopg

    from jobdeck.core.fleet import Member, Reading
    from jobdeck.core.model import Finding, Health, Processing, Run, RunOutcome, TypePause, Worker, WorkerRun
    from jobdeck.core.read.operators.notes import Mute


RECENT_RUNS: Final = 500


@command("status")
def status(session: Session) -> None:
    """Show job counts, workers, pauses and recent runs."""
    with session.connection() as conn:
        answer_status(session, conn)


@command("health")
def health(session: Session) -> int | None:
    """Show the Cron Health verdict and its evidence. The exit code is 4 when it is critical."""
    judged = judge(timeouts=timeouts_of(session.registry), production=session.settings.is_production)
    found = session.read(judged)
    lines = [
        f"Verdict: {found.verdict.value}",
        *output.section("Evidence", finding_table(found.findings)),
        *output.section("Last trigger", _trigger_lines(found.last_trigger)),
    ]
    session.answer(output.plain(found), lines)
    return UNHEALTHY if found.verdict is Verdict.CRITICAL else None


@command("errors")
@click.argument("group", required=False)
@click.option("--since", metavar="DURATION", default="7d", show_default=True, help="Period to show.")
@click.option("--new", "only_new", is_flag=True, help="Only groups that the newest release of the workers brought.")
@limit_option(100, 1000)
def errors(session: Session, group: str | None, since: str, only_new: bool, limit: int) -> None:
    """List failed runs, grouped by task type and similar error. A group is new for 24 hours.

    With a GROUP, its fingerprint or how that begins, shows which values of payload keys, workers and attempts its runs
    have more often than all runs of the type.
    """
    period = parse_duration(since, what="duration of --since")
    found = session.read(reports.errors(since=period, limit=1000 if group else limit, new_in_release=only_new))
    if group is not None:
        found = replace(found, trends=tuple(one for one in found.trends if one.fingerprint.startswith(group.lower())))
        if not found.trends:
            raise Refused(f"No group of errors of the last {since} begins with {group}. `jobdeck errors` lists them.")
    release, now = found.release, found.at
    if only_new and release is None:
        raise Refused(
            "Workers of one release only have been here, so no group is new in it. "
            "Workers report the release that SENTRY_RELEASE names."
        )
    header = ("COUNT", "TASK", "GROUP", "", "KIND", "FIRST SEEN", "LAST SEEN", "A JOB", "ERROR")
    rows = [
        (
            group.count,
            group.task_type,
            group.fingerprint,
            _mark(group, found.mute_of(group), now),
            group.error_kind,
            output.when(group.first_seen),
            output.when(group.last_seen),
            group.job_ids[0] if group.job_ids else None,
            output.line(group.sample),
        )
        for group in found.trends
    ]
    least = ("FIRST SEEN", "KIND", "A JOB", "GROUP")
    marks = [{"new": group.is_new(now), "muted": found.mute_of(group)} for group in found.trends]
    data = [{**output.plain(group), **output.plain(mark)} for group, mark in zip(found.trends, marks, strict=True)]
    nothing = "No failed runs."
    if only_new and release is not None:
        nothing = f"No group of errors is new in {output.line(release.name)}."
    lines = output.table(header, rows, least=least) or [nothing]
    if group is not None:
        for one, line in zip(found.trends, data, strict=True):
            sampled = session.read(facets.of_group(*one.key))
            line["facets"] = facets_json(sampled)
            lines += facet_section(sampled, f"Facets: {sampled.read:,} of {one.count:,} runs read")
    session.answer({"errors": data, "release": output.plain(release)}, lines)


def _mark(group: ErrorGroup, muted: Mute | None, now: datetime) -> str:
    if muted is not None:
        return f"muted until {output.when(muted.until)}"
    if group.new_in_release:
        return "new in release"
    return "new" if group.is_new(now) else ""


@command("audit")
@click.option("--job", "wanted", metavar="ID", help="Only actions on this job.")
@click.option("--since", metavar="DURATION", help="Period to show. Default: the whole log.")
@limit_option(200, 10_000)
def audit(session: Session, wanted: str | None, since: str | None, limit: int) -> None:
    """List operator actions, newest first."""
    age = parse_duration(since, what="duration of --since") if since else None
    with session.connection() as conn:
        job_id = jobs.resolve_id(conn, wanted) if wanted else None
        entries = history.audit(job_id=job_id, since=age, limit=limit).run(conn)
    session.answer({"audit": entries}, audit_table(entries) or ["No entries."])


def answer_status(session: Session, conn: psycopg.Connection[Any]) -> None:

    with one_moment(conn) as batch:
        seeing = batch.add(jobs.snapshot(Filter(), limit=1, production=session.settings.is_production))
        waiting_jobs, runs = batch.add(jobs.backlog()), batch.add(history.runs(limit=RECENT_RUNS))
        left = batch.add(notes.open_notes())
    seen, waiting, (recent, _), told = seeing(), waiting_jobs(), runs(), left()
    schema = session.settings.database_schema
    data = {"schema": schema, "holds": list(map(hold_json, seen.holds)), "notes": [output.plain(one) for one in told]}
    last = [*output.section("Holds", hold_table(seen.holds)), *output.section("Notes", note_table(told))]
    session.answer(_status_json(seen, waiting, recent) | data, [*_status_lines(seen, waiting, recent, schema), *last])


def _status_json(seen: Snapshot, waiting: Sequence[Backlog], recent: Sequence[Run]) -> Json:
    counts = seen.counts
    return {
        "at": seen.at,
        "verdict": seen.health.verdict,
        "counts": {
            **output.plain(counts),
            "total": counts.of(None),
            "at_least": {
                **{name: number > counts.LIMIT for name, number in output.plain(counts).items()},
                "total": counts.at_least(None),
            },
        },
        "waiting": waiting,
        "processing": seen.processing,
        "workers": seen.workers,
        "oldest_due": seen.health.oldest_due,
        "last_trigger": seen.health.last_trigger,
        "recent_runs": [
            {"task_type": task_type, "outcome": outcome, "dry_run": dry, "count": count}
            for (task_type, outcome, dry), count in _tally(recent)
        ],
    }


def _status_lines(seen: Snapshot, waiting: Sequence[Backlog], recent: Sequence[Run], schema: str) -> list[str]:
    known = {**output.plain(seen.counts), Status.RUNNING.value: seen.counts.begun}
    counts = ", ".join(f"{_jobs(known[name])} {name}" for name in (*Status, CLAIMED) if known[name])
    total = amount(seen.counts.of(None), at_least=seen.counts.at_least(None))
    oldest = seen.health.oldest_due
    lines = output.facts(
        [
            ("schema", schema),
            ("verdict", _verdict(seen.health)),
            ("jobs", f"{total} in the queue{counts and ': '}{counts}"),
            ("removed", f"{_jobs(seen.counts.removed)} more succeeded and were removed from the queue"),
            ("processing", _switch(seen.processing)),
            ("slots taken", slots(seen.workers)),
            ("longest wait", format_duration(seen.at - oldest) if oldest else backlog_words(seen.health)),
        ]
    )
    rows = [(task_type, outcome_words(outcome, dry=dry), count) for (task_type, outcome, dry), count in _tally(recent)]
    return [
        *lines,
        *output.section("Waiting", _waiting_lines(waiting, seen.at)),
        *output.section("Paused types", _paused_lines(pauses(seen.processing))),
        *output.section("Set aside", _paused_lines(seen.processing.set_aside)),
        *output.section("Workers", worker_table(seen.workers, seen.at) or ["none"]),
        *output.section("Last trigger", _trigger_lines(seen.health.last_trigger)),
        *output.section(f"Recent runs (the newest {len(recent)})", output.table(("TASK", "OUTCOME", "RUNS"), rows)),
    ]


def _jobs(number: int) -> str:
    return amount(number, at_least=number > Counts.LIMIT)


def _waiting_lines(waiting: Sequence[Backlog], now: datetime) -> list[str]:
    """The pending jobs by type, most first; none without jobs."""
    rows = [
        (
            line.task_type,
            amount(line.waiting, at_least=line.at_least),
            amount(line.overdue, at_least=line.overdue_at_least),
            format_duration(now - line.due_since) if line.due_since and line.due_since <= now else output.NONE,
        )
        for line in sorted(waiting, key=lambda line: (-line.waiting, line.task_type))
    ]
    return output.table(("TYPE", "PENDING", "OVERDUE", "LONGEST WAIT"), rows)


def _verdict(found: Health) -> str:
    """The verdict, with the worst finding when it is not ok."""
    if found.verdict is Verdict.OK:
        return found.verdict.value
    return f"{found.verdict.value}: {found.findings[0].evidence}"


def worker_table(workers: Iterable[Worker], now: datetime) -> list[str]:
    return output.table(
        ("WORKER", "HOST", "PID", "MODE", "SLOTS TAKEN", "HEARTBEAT"),
        (
            (
                worker.id,
                worker.host,
                worker.pid,
                worker.mode,
                slots([worker]) if worker.alive else output.NONE,
                f"{_age(worker.heartbeat_at, now)}{'' if worker.alive else ', gone'}",
            )
            for worker in workers
        ),
    )


def finding_table(findings: Iterable[Finding]) -> list[str]:
    return output.table(
        ("VERDICT", "SIGNAL", "EVIDENCE"),
        ((finding.verdict.value, finding.signal, finding.evidence) for finding in findings),
    )


def _tally(recent: Iterable[Run]) -> list[tuple[tuple[str, RunOutcome, bool], int]]:
    return sorted(Counter((run.task_type, run.outcome, bool(run.dry_run)) for run in recent).items())


def _switch(processing: Processing) -> str:
    if processing.enabled:
        return "on" if processing.held_by is None else f"on, but no worker takes jobs: held by {processing.held_by}"
    by = f" by {processing.paused_by}" if processing.paused_by else ""
    until = f", until {output.when(processing.resume_at)}" if processing.resume_at else ""
    reason = processing.paused_reason or "no reason given"
    return f"PAUSED{by} since {output.when(processing.paused_at)}{until}: {reason}"


def _paused_lines(pauses: Sequence[TypePause]) -> list[str]:
    rows = [
        (
            pause.task_type,
            pause.paused_by,
            output.when(pause.paused_at),
            output.when(pause.resume_at),
            output.line(pause.reason),
        )
        for pause in pauses
    ]
    return output.table(("TYPE", "BY", "SINCE", "UNTIL", "REASON"), rows)


def _trigger_lines(run: WorkerRun | None) -> list[str]:
    if run is None:
        return ["none"]
    return output.facts(
        [
            ("started", output.when(run.started_at)),
            ("source", run.source),
            ("status", run.status or ("died" if run.died else "open")),
            ("http status", run.http_status),
            (
                "jobs",
                f"claimed {run.claimed}, succeeded {run.succeeded}, failed {run.failed}, released {run.released}",
            ),
            ("message", run.message),
            ("error", output.cut(run.error_message, 200) if run.error_message else None),
        ]
    )


def _age(moment: datetime | None, now: datetime) -> str:
    return output.NONE if moment is None else f"{format_duration(now - moment)} ago"


@command("fleet", several=True)
def fleet(session: Session) -> int | None:
    """Show the health of several databases, worst first.

    Give --database-url for each of them; without it, those of JOBDECK_DATABASES are shown. The exit code is the highest
    that `jobdeck health` has on one of them.
    """
    from jobdeck.core import fleet as databases  # noqa: PLC0415 -- imported on first use

    members = databases.members(session.settings_of_fleet, session.database_urls)
    readings = databases.read_each(members)
    lines = sorted(zip(members, readings, strict=True), key=lambda line: databases.rank(line[1]))
    session.answer({"databases": [_json(*line) for line in lines]}, _text(lines))
    return max(map(databases.exit_code, readings)) or None


def _json(member: Member, reading: Reading) -> Json:
    from jobdeck.core.fleet import Trouble, word  # noqa: PLC0415 -- imported on first use

    found = None if isinstance(reading, Trouble) else reading
    counts = found.counts if found else None
    wrong = [one for one in found.health.findings if one.verdict is not Verdict.OK] if found else []
    return {
        "name": member.name,
        "address": member.label,
        "state": word(reading),
        "problem": reading.message if isinstance(reading, Trouble) else None,
        "at": found and found.at,
        "evidence": wrong,
        "pending": counts and counts.pending,
        "failed": counts and counts.failed,
        "at_least": {name: bool(counts and counts.at_least(Status(name))) for name in ("pending", "failed")},
        "workers": found and found.workers,
        "oldest_due": found and found.health.oldest_due,
    }


def _text(lines: Sequence[tuple[Member, Reading]]) -> list[str]:
    from jobdeck.core.fleet import Trouble, word  # noqa: PLC0415 -- imported on first use

    rows = [(member.name, word(reading), *_row(reading)) for member, reading in lines]
    troubles = [(member.name, reading.message) for member, reading in lines if isinstance(reading, Trouble)]
    header = ("DATABASE", "STATE", *(one.heading for one in DATABASES), "EVIDENCE")
    return [
        *output.table(header, rows, least=("WORKERS", "WAIT")),
        *output.section("No figures", output.facts(troubles)),
    ]


def _row(reading: Reading) -> list[str | None]:
    from jobdeck.core.fleet import Trouble  # noqa: PLC0415 -- imported on first use

    if isinstance(reading, Trouble):
        return [*(None for _ in DATABASES), reading.brief]
    worst = reading.health.findings[0]
    evidence = None if worst.verdict is Verdict.OK else worst.evidence
    return [*(one.whole(reading) for one in DATABASES), evidence]
