"""The text of Cron Health, as lines. Pure; every foreign text is cleaned and masked here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.cells import cell_len

from jobdeck.core.model import Finding, Job, Verdict, Worker, WorkerRun
from jobdeck.core.read.report_types import Backlog, Counts, CronReport, is_scheduled, left_lying, overdue_by
from jobdeck.core.read.sentences import amount, status_word
from jobdeck.core.words.wording import slots
from jobdeck.tui.format import (
    DASH,
    DRY_MARK,
    VERDICT_INK,
    age,
    ago,
    badge,
    clock,
    count,
    due,
    duration,
    fit,
    middle,
    one_line,
    plural,
    short_id,
    since,
    wrapped,
)
from jobdeck.tui.text.first.now import SOURCE_WORDS
from jobdeck.tui.widgets.jobs.cells import lease_left
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jobdeck.tui.widgets.ink import Span

GLYPHS = {Verdict.OK: "✓", Verdict.WARNING: "⚠", Verdict.CRITICAL: "✗", Verdict.PAUSED: "◦"}
NEAR_TIMEOUT = 0.8
STREAK = 3
CRASHED_AFTER = timedelta(minutes=15)
ROOMY = 100
SHORT = 24
"""On a page with fewer lines, evidence that is fine takes one line when something else is wrong; all but the switch."""
TYPES_LISTED = 4
JOBS_LISTED = 3
SERIES_LISTED = 5


def verdict(report: CronReport) -> list[Span]:
    """The verdict, and how many findings are the reason; the evidence below begins with them."""
    found = report.health
    word = found.verdict.value.upper()
    reasons = sum(finding.verdict is not Verdict.OK for finding in found.findings)
    alarm = found.verdict in {Verdict.CRITICAL, Verdict.WARNING}
    spans: list[Span] = [(f" {GLYPHS[found.verdict]} {word} ", "danger" if found.verdict is Verdict.CRITICAL else
                          "alert" if alarm else VERDICT_INK[found.verdict])]  # fmt: skip
    if found.findings:
        worst_first = ", worst first" if reasons > 1 else ""
        said = f"{plural(reasons, 'finding')}{worst_first}" if reasons else "No problems found."
        spans.append((f"  {said}", "text"))
    return spans


def lines(
    report: CronReport, timeouts: Mapping[str, float], width: int, *, height: int = 0, cleanup_key: str = "K"
) -> list[Entry]:
    """The whole page: evidence; stuck, slow, overdue and troubled jobs; workers; the history of triggers.

    Overdue and troubled jobs take so few lines that workers and triggers stay on a page of this height.
    """
    found = [_heading("Evidence"), *_evidence(report, width, short=0 < height < SHORT)]
    stuck = [job for job in report.running if job.lease_expires_at and job.lease_expires_at <= report.at]
    slow = [job for job in report.running if job not in stuck and _used(job, timeouts, report.at) > NEAR_TIMEOUT]
    troubled = [job for job in report.series if _is_troubled(job, report)]
    found += _section(
        f"Stuck: running with an expired lease. {cleanup_key} cleans up.", [_stuck(j, report.at, width) for j in stuck]
    )
    found += _section("Slow: more than 80 % of the timeout used", [_slow(j, timeouts, report.at) for j in slow])
    found += _section(f"Overdue: due for more than {age(report.tick)}", _overdue(report, width))
    among = f"{report.series_found:,}"
    if len(report.series) < report.series_found:
        among = f"the first {len(report.series)} of {among}"
    found += _section(
        f"Recurring jobs that are late or fail ({len(troubled)} of {among})",
        [*(_series(job, report, width) for job in troubled[:SERIES_LISTED]), *_more(len(troubled) - SERIES_LISTED)],
    )
    found += [BLANK, _heading("Workers"), *_workers(report.workers, report.at, width)]
    found += [BLANK, _heading("Triggers, newest first"), *_history(report, width)]
    return found


def _heading(text: str) -> Entry:
    return entry((f" {text}", "run"), key=("heading", text))


def _section(heading: str, found: Sequence[Entry]) -> list[Entry]:
    return [BLANK, _heading(heading), *found] if found else []


def _more(number: int, noun: str = "") -> list[Entry]:
    more = plural(number, f"more {noun}") if noun else f"{number:,} more"
    return [entry((f"   and {more}", "muted"))] if number > 0 else []


def _evidence(report: CronReport, width: int, *, short: bool) -> list[Entry]:
    findings = report.health.findings
    fine = [finding for finding in findings if finding.verdict is Verdict.OK and finding.signal != "processing"]
    folded = fine if short and 1 < len(fine) < len(findings) else []
    found = [line for finding in findings if finding not in folded for line in _finding(finding, report.at, width)]
    if folded:
        names = ", ".join(one_line(finding.signal) for finding in folded)
        text = f" {GLYPHS[Verdict.OK]} {fit(Verdict.OK.value, 9)}{names}"
        found.append(entry((fit(text, width).rstrip(), "muted"), key=("finding", "ok")))
    return found


def _finding(finding: Finding, at: datetime, width: int) -> list[Entry]:
    begun = f" ({since(finding.since, at)})" if finding.since else ""
    ok = finding.verdict is Verdict.OK
    evidence = one_line(finding.evidence)
    text = f"{evidence.removesuffix('.')}{begun}{'.' if evidence.endswith('.') else ''}"
    lines_of_text = wrapped(text, max(width - 29, 16))
    first = entry(
        (f" {GLYPHS[finding.verdict]} {fit(finding.verdict.value, 9)}", VERDICT_INK[finding.verdict]),
        (fit(one_line(finding.signal), 16), "muted" if ok else "strong"),
        (lines_of_text[0], "muted" if ok else "text"),
        key=("finding", finding.signal, finding.subject),
    )
    return [first, *(entry((f"{'':28}{line}", "muted" if ok else "text")) for line in lines_of_text[1:])]


def _job(job: Job, width: int) -> Span:
    mark = f" {badge(job)}" if job.is_recurring else ""
    return (fit(f"{middle(one_line(job.task_type), width - len(mark))}{mark}", width), "text")


def _line(job: Job, name_width: int, *facts: Span) -> Entry:
    return entry((f"   {short_id(job.id)}  ", "muted"), _job(job, name_width), *facts, key=("job", job.id))


def _name_width(width: int) -> int:
    return 40 if width >= ROOMY else 26


def _stuck(job: Job, at: datetime, width: int) -> Entry:
    over = f"  lease expired {age(at - (job.lease_expires_at or at))} ago"
    room = max(width - 13 - _name_width(width) - cell_len(over), 0)
    held = fit(f"  held by {one_line(job.locked_by or '?')}", room).rstrip()
    return _line(job, _name_width(width), (over, "bad"), (held, "muted"))


def _used(job: Job, timeouts: Mapping[str, float], at: datetime) -> float:
    allowed = job.timeout_seconds or timeouts.get(job.task_type)
    if not allowed or job.started_at is None:
        return 0.0
    return (at - job.started_at).total_seconds() / allowed


def _slow(job: Job, timeouts: Mapping[str, float], at: datetime) -> Entry:
    allowed = timedelta(seconds=job.timeout_seconds or timeouts[job.task_type])
    runs = f"  runs for {duration(at - (job.started_at or at))} of {duration(allowed)}"
    return _line(job, 30, (runs, "warn"), (f"  {lease_left(job, at)}", "muted"))


def _paused(task_type: str, report: CronReport) -> bool:
    return not report.processing.enabled or task_type in report.processing.held_types


def _overdue(report: CronReport, width: int) -> list[Entry]:
    """The overdue jobs by type, most first, and a few of them one by one."""
    types = sorted((line for line in report.backlog if line.overdue), key=lambda line: (-line.overdue, line.task_type))
    return [
        *(_overdue_type(line, report, width) for line in types[:TYPES_LISTED]),
        *_more(len(types) - TYPES_LISTED, "type"),
        *(_overdue_job(job, report, width) for job in report.overdue[:JOBS_LISTED]),
    ]


def _overdue_type(line: Backlog, report: CronReport, width: int) -> Entry:
    paused = _paused(line.task_type, report)
    longest = age(report.at - line.due_since) if line.due_since else DASH
    return entry(
        (f"   {fit(middle(one_line(line.task_type), _name_width(width)), _name_width(width))}", "strong"),
        (f"  {amount(line.overdue, at_least=line.overdue_at_least)} overdue", "text"),
        (", paused" if paused else "", "warn"),
        (f"  longest wait {longest}", "muted"),
        key=("type", line.task_type),
    )


def _overdue_job(job: Job, report: CronReport, width: int) -> Entry:
    paused = _paused(job.task_type, report)
    text, ink = due(job.next_run_at or job.run_at, report.at, paused=paused)
    return _line(job, _name_width(width), (f"  {text}", ink), ("  paused" if paused else "", "muted"))


def _is_troubled(job: Job, report: CronReport) -> bool:
    late = job.blocked_by is None and job.status.value == "pending" and overdue_by(job, report.at) >= report.tick
    return late or job.consecutive_failures > 0


def _series(job: Job, report: CronReport, width: int) -> Entry:
    failures = job.consecutive_failures
    streak = f"  {plural(failures, 'failed cycle')}" if failures else ""
    text, ink = due(job.next_run_at or job.run_at, report.at, paused=_paused(job.task_type, report))
    if job.status.value == "running":
        text, ink = status_word(job), "run"
    return _line(
        job,
        _name_width(width),
        (f"  {fit(text, 12)}", ink),
        (f"  {DRY_MARK}" if job.is_dry else "", "warn"),
        (streak, "bad" if failures >= STREAK else "warn"),
        (f"  last success {ago(job.last_success_at, report.at)}" if width >= ROOMY else "", "muted"),
    )


def _workers(workers: Iterable[Worker], at: datetime, width: int) -> list[Entry]:
    found = [
        entry(
            ("   ● " if worker.alive else "   ○ ", "good" if worker.alive else "bad"),
            (fit(one_line(worker.id), 34 if width >= ROOMY else 26), "text"),
            (fit(f" {one_line(worker.mode)}", 10), "muted"),
            (fit(f" {slots([worker], short=True)}", 36 if width >= ROOMY else 16), "text"),
            (f" heartbeat {ago(worker.heartbeat_at, at)}", "muted" if worker.alive else "bad"),
            ("" if worker.alive else ", gone", "bad"),
            key=("worker", worker.id),
        )
        for worker in workers
    ]
    return found or [entry(("   none. Start one: jobdeck worker", "bad"))]


def _history(report: CronReport, width: int) -> list[Entry]:
    if not report.runs:
        return [entry(("   No trigger has fired and no worker has run a job yet.", "muted"))]
    roomy = width >= ROOMY
    head = (
        f"   {'started':<22}{'source':<11}{'http':<5}{'took':>7}  {'claimed':>7} {'ok':>4} {'failed':>6} {'due':>5}"
        if roomy
        else f"   {'started':<15}{'source':<11}{'http':<4}{'took':>6} {'claim':>5} {'ok':>4} {'fail':>4} {'due':>4}"
    )
    found = [entry((head, "muted"))]
    newer: datetime | None = report.at
    by_clock = any(is_scheduled(run.source) for run in report.runs)
    for run in report.runs:
        if not by_clock or is_scheduled(run.source):
            ended = run.completed_at or run.started_at
            if newer is not None and newer - ended > 2 * report.tick:
                found.append(_gap(newer - ended, run, report, now=newer == report.at, by_clock=by_clock))
            newer = run.started_at
        found.append(_run(run, report.at, width))
    return found


def _gap(silence: timedelta, older: WorkerRun, report: CronReport, *, now: bool, by_clock: bool) -> Entry:
    serious = silence > 3 * report.tick
    gap = f"no trigger for {age(silence)}" if by_clock else f"nothing ran for {age(silence)}"
    until = ", until now" if now else ""
    ink = ("bad" if serious else "warn") if by_clock else "muted"
    return entry((f"   ┄┄┄┄ {gap}{until} ┄┄┄┄", ink), key=("gap", older.id))


def _run(run: WorkerRun, at: datetime, width: int) -> Entry:
    roomy = width >= ROOMY
    word, ink = _judged(run, at, roomy=roomy)
    took = duration(run.completed_at - run.started_at) if run.completed_at else DASH
    http = str(run.http_status) if run.http_status else DASH
    due_before = DASH if run.due_before is None else _brief(run.due_before)
    source = SOURCE_WORDS.get(run.source, one_line(run.source))
    when = f"{run.started_at:%m-%d} {clock(run.started_at)} {age(at - run.started_at):>4}"
    figures = (
        f"{fit(source, 11)}{http:<5}{took:>7}  {run.claimed:>7} {run.succeeded:>4} {run.failed:>6} {due_before:>5}"
        if roomy
        else f"{fit(source, 10)} {http:<4}{took:>6} {run.claimed:>5} {run.succeeded:>4} {run.failed:>4} {due_before:>4}"
    )
    bad = ink in {"bad", "danger"}
    return entry(
        (" ✗ " if bad else " ⚠ " if ink == "warn" else "   ", ink),
        (f"{when:<22}" if roomy else f"{clock(run.started_at)} {age(at - run.started_at):>4} ", "text"),
        (figures, ink if bad else "text"),
        (fit(f"  {word}", max(width - (75 if roomy else 60), 0)).rstrip(), ink),
        key=("trigger", run.worker_id, run.id) if run.worker_id else ("run", run.id),
    )


def _brief(number: int) -> str:
    return count(number, short=True) if number > Counts.LIMIT else str(number)


def _judged(run: WorkerRun, at: datetime, *, roomy: bool) -> tuple[str, str]:
    """The remark on one trigger, and the ink for its severity."""
    message = one_line(run.error_message or run.message or "")
    left = left_lying(run)
    if run.completed_at is None:
        crashed = run.source != "worker" and at - run.started_at > CRASHED_AFTER
        word = "died" if run.died else "crashed" if crashed else ""
        return (f"{word} before it ended", "bad") if word else ("running", "run")
    if run.status == "error" or (run.http_status or 200) >= 400:
        return message or "error", "bad"
    if left:
        at_least = (run.due_before or 0) > Counts.LIMIT
        lying = count(left, at_least=at_least, short=not roomy)
        return f"{lying} due jobs not claimed" if roomy else f"{lying} unclaimed", "bad"
    if run.status == "paused":
        return f"paused{f': {message}' if message else ''}", "warn"
    return ("", "text") if message in {"", "no jobs available"} else (message, "muted")
