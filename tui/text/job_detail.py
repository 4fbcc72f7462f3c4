"""The text of a job's page. Pure; every foreign text is cleaned and masked here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from textual.content import Content

from jobdeck.core.model import Job, Json, Run, Status
from jobdeck.core.read.operators.hold import blocker_words
from jobdeck.core.read.pages import flow_tree
from jobdeck.core.read.report_types import Standing
from jobdeck.core.read.sentences import CLAIMED, outcome_words, status_word
from jobdeck.core.redact import clean, harmless_json, scrub
from jobdeck.core.schedules import has_run_out, next_runs, rhythm
from jobdeck.tui.actions import FINISHED, key_of
from jobdeck.tui.format import (
    DASH,
    DRY_MARK,
    JOINERS,
    STANDING_LOOK,
    STATUS_LOOK,
    ago,
    badge,
    bar,
    clock,
    due,
    duration,
    fit,
    fraction,
    one_line,
    outcome_look,
    plural,
    short_id,
    shown,
    stamp,
    status_look,
    wrapped,
)
from jobdeck.tui.text.why import why
from jobdeck.tui.widgets.jobs.cells import lease_left

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Recipients
    from jobdeck.core.read.pages.flows import FlowTree
    from jobdeck.core.read.report_types import AuditEntry, JobDetail
    from jobdeck.tui.widgets.ink import Span

COLOURS = {
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "run": "$primary",
    "muted": "$ink-muted",
    "text": "",
}

MEMBER_LOOK = {
    **{status.value: look for status, look in STATUS_LOOK.items()},
    CLAIMED: STANDING_LOOK[Standing.CLAIMED],
    "blocked": ("◌", "muted"),
    "skipped": ("–", "muted"),
    "deleted": ("✗", "bad"),
    "gone": ("·", "muted"),
}
"""The glyph and the ink of each state of a member of a flow."""
MOST_MEMBERS = 40

MOST_LINES = 1000
"""The lines shown of one JSON value. Laying out more would make every key press slow."""


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a job's page. `run` is the index in `detail.runs` of the run shown in full, None for the newest.

    `revealed` shows personal data unmasked; control characters stay harmless. `width` is a column's width in cells.
    `key` returns the name of an action's key. A pane `beside` the list has less room: it begins with
    what the list knows, so that nothing moves when the history comes.
    """

    job: Job
    detail: JobDetail | None
    now: datetime
    width: int = 80
    revealed: bool = False
    run: int | None = None
    recipients: Recipients | None = None
    flow: FlowTree | None = None
    advice: Sequence[str] = ()
    key: Callable[[str], str] = key_of
    beside: bool = False

    def line(self, text: str) -> str:
        """Foreign text as one line."""
        return " ".join(clean(text, multiline=True).split()) if self.revealed else one_line(text)

    def lines(self, text: str) -> str:
        """Foreign text with its line breaks."""
        return clean(text, multiline=True) if self.revealed else shown(text, multiline=True)

    def hanging(self, text: str, indent: int) -> str:
        """A text whose wrapped lines are indented by `indent` cells, all but the first."""
        return f"\n{' ' * indent}".join(wrapped(text, max(self.width - indent, 20)))

    def json(self, value: Json) -> Content:
        """A JSON value, indented. A very long one is cut, with the number of missing lines."""
        text = harmless_json(value if self.revealed else scrub(value), indent=2)
        lines = text.translate(JOINERS).split("\n")
        beginning = Content("\n".join(lines[:MOST_LINES]))
        if len(lines) <= MOST_LINES:
            return beginning
        more = f"… {len(lines) - MOST_LINES} more lines: jobdeck job {short_id(self.job.id)} --json"
        return beginning + "\n" + Content.styled(more, "$warning")


def title(job: Job, now: datetime) -> tuple[list[Span], list[Span]]:
    """The heading: task type, badge, status and attempts; on the right when a pending job runs."""
    cancelling = job.status is Status.RUNNING and job.cancel_requested_at is not None
    glyph, ink = status_look(job)
    status: Span = (f"{glyph} {status_word(job)}", ink)
    left: list[Span] = [
        (f" {one_line(job.task_type)}", "strong"),
        (f"  {badge(job)}" if job.is_recurring else "", "accent"),
        (f"  {DRY_MARK}" if job.is_dry else "", "warn"),
        ("  ", "text"),
        ("⊘ cancelling", "warn") if cancelling else status,
        (f"  {job.attempts}/{job.max_attempts or DASH}", "muted"),
    ]
    right: list[Span] = []
    if job.status is Status.PENDING:
        right = [due(job.next_run_at or job.run_at, now)]
    return left, [*right, (" ", "text")]


def left(page: Page) -> Content:
    """The left column: last error, progress and log of the run, claim clauses, facts, flow, checkpoint, advice.

    Of a running job the facts come before the clauses, which are about its next claim. A pane has the clauses and the
    advice in its right column.
    """
    job = page.job
    parts = []
    if job.last_error:
        heading = "Last error, not tried again" if job.status is Status.FAILED else "Last error"
        parts.append(_section(heading, [Content.styled(page.lines(job.last_error), "$error")]))
    if job.progress:
        parts.append(_section("Progress", _progress(page)))
        parts += _live_log(page)
    reasons = [] if page.beside else _why(page)
    facts = _section("Facts", [_facts(page)]) if parts or reasons else _facts(page)
    parts += [facts, *reasons] if job.status is Status.RUNNING else [*reasons, facts]
    if page.flow is not None:
        parts.append(_section(*_flow(page, page.flow)))
    if job.checkpoint:
        parts.append(_section("Checkpoint", [page.json(job.checkpoint)]))
    if not page.beside:
        parts += _advice(page)
    return Content("\n\n").join(parts)


def right(page: Page) -> Content:
    """The right column: runs, one of them in full, payload, output, recipients, operators' actions."""
    job, detail = page.job, page.detail
    parts = _why(page) if page.beside and job.status not in FINISHED else []
    if detail is None:
        parts.append(Content.styled("Reading the history…", "$ink-muted"))
    else:
        keys = f"; {page.key('run.older')} {page.key('run.newer')} choose one" if len(detail.runs) > 1 else ""
        parts.append(_section(f"Runs, newest first ({len(detail.runs)}){keys}", _runs(page, detail.runs)))
        parts += _chosen(page, detail.runs)
    parts.append(_section("Payload", [page.json(job.payload)]))
    if job.output:
        parts.append(_section("Output", [page.json(job.output)]))
    if page.recipients is not None:
        parts.append(_section("Recipients", _recipients(page, page.recipients)))
    if detail is not None and detail.audit:
        parts.append(_section("Operators", [_entry(page, entry) for entry in detail.audit]))
    if page.beside:
        parts += _advice(page)
    return Content("\n\n").join(parts)


def _why(page: Page) -> list[Content]:
    clauses = page.detail.why if page.detail is not None else ()
    return [_section(*why(page.job, clauses, page.hanging, brief=page.beside))] if clauses else []


def _advice(page: Page) -> list[Content]:
    advice = [Content(f"• {page.hanging(text, 2)}") for text in page.advice]
    return [_section("The playbook says", advice)] if advice else []


def _flow(page: Page, tree: FlowTree) -> tuple[str, list[Content]]:
    """The heading, and the members as a tree, in which this job is marked."""
    heading = f"Flow {page.line(tree.line.name)}: {tree.line.ended:,} of {len(tree.members):,} ended"
    lines = [Content.styled(f"jobdeck flow {short_id(tree.line.id)}", "$ink-muted")]
    for line in flow_tree.lines(tree, most=MOST_MEMBERS, around=page.job.id):
        member = line.member
        if member is None:
            lines.append(Content.assemble((line.prefix, "$ink-muted"), (page.line(line.text), "$ink-muted")))
            continue
        glyph, ink = MEMBER_LOOK.get(member.state, ("?", "text"))
        lines.append(
            Content.assemble(
                (line.prefix, "$ink-muted"),
                (f"{glyph} ", COLOURS[ink]),
                (page.line(member.name), "bold" if member.job_id == page.job.id else ""),
                (f"  {member.state}", COLOURS[ink]),
                (f"  {page.line(line.text)}" if line.text else "", "$ink-muted"),
            )
        )
    if page.job.status in {Status.FAILED, Status.CANCELLED} and (ran := tree.undone_by(page.job.id)):
        after = "the flow is final after that" if tree.line.final else "a retry of this job does not take that back"
        words = f'The failure callback "{page.line(ran.name)}" has run; {after}.'
        lines.append(Content.styled(page.hanging(words, 2), "$warning"))
    if blockers := flow_tree.waits_below(tree, page.job.id):
        lines.append(Content.styled(page.hanging(f"This job runs {page.line(blockers)}", 2), "$ink-muted"))
    return heading, lines


def _live_log(page: Page) -> list[Content]:
    log = (page.job.progress or {}).get("log")
    if page.job.status is not Status.RUNNING or not isinstance(log, list) or not log:
        return []
    lines = [Content(page.line(str(line))) for line in log]
    return [_section(f"Log of run {page.job.run_token}, still running", lines)]


def chosen_run(page: Page, runs: Sequence[Run]) -> Run | None:
    """The run to show in full: the chosen one, otherwise the newest that has a log or a traceback."""
    if page.run is not None and page.run < len(runs):
        return runs[page.run]
    return next((run for run in runs if run.log or run.traceback), None)


def _chosen(page: Page, runs: Sequence[Run]) -> list[Content]:
    run = chosen_run(page, runs)
    if run is None:
        return []
    parts = []
    if page.run is not None and run.error:
        parts.append(_section(f"Error of run {run.run_token}", [Content.styled(page.lines(run.error), "$error")]))
    if run.log:
        parts.append(_section(f"Log of run {run.run_token}", [Content(page.lines(run.log.rstrip()))]))
    if run.traceback:
        text = Content.styled(page.lines(run.traceback.rstrip()), "$ink-muted")
        parts.append(_section(f"Traceback of run {run.run_token}", [text]))
    if page.run is not None and run.output:
        parts.append(_section(f"Output of run {run.run_token}", [page.json(run.output)]))
    if page.run is not None and run.payload != page.job.payload:
        parts.append(_section(f"Payload of run {run.run_token}", [page.json(run.payload)]))
    return parts


def _recipients(page: Page, found: Recipients) -> list[Content]:
    counts = ", ".join(f"{count} {page.line(state)}" for state, count in found.counts)
    lines = [
        Content.assemble(
            f"{fit(ago(person.at, page.now), 9)}",
            (fit(page.line(person.channel or ""), 6), "$ink-muted"),
            (fit(page.line(person.state), 10), "$error" if person.state in {"failed", "uncertain"} else ""),
            f" {page.line(person.address)}",
            (f"  {page.line(person.detail)}" if person.detail else "", "$ink-muted"),
        )
        for person in found.listed
    ]
    return [Content.styled(counts, "bold"), *lines]


def _entry(page: Page, entry: AuditEntry) -> Content:
    return Content.assemble(
        f"{fit(ago(entry.at, page.now), 9)}{one_line(entry.action)}  ",
        (one_line(entry.actor), "$ink-muted"),
        f"  {page.line(entry.reason)}" if entry.reason else "",
    )


def _facts(page: Page) -> Content:
    job, now = page.job, page.now
    facts: list[tuple[str, str]] = [
        ("id", str(job.id)),
        ("attempts", f"{job.attempts} of {job.max_attempts or DASH}"),
        (
            "created",
            f"{stamp(job.created_at, now, past=True)}{f' by {one_line(job.created_by)}' if job.created_by else ''}",
        ),
    ]
    if has_run_out(job):
        facts.append(("next run", "no slot yet: a worker writes it"))
    elif job.status is Status.PENDING:
        facts.append(("next run", stamp(job.next_run_at or job.run_at, now)))
    if job.last_run_at:
        facts.append(("last run", f"{stamp(job.last_run_at, now, past=True)}  {_last_outcome(page)}".rstrip()))
    if job.last_success_at:
        facts.append(("last success", stamp(job.last_success_at, now, past=True)))
    own = rhythm(job)
    if own is not None:
        until = f" until {stamp(job.expires_at, now)}" if job.expires_at else ", never expires"
        facts.append(("recurring", f"{one_line(own.words)}{until}"))
        then = [f"{run:%Y-%m-%d %H:%M:%S}Z" for run in next_runs(job, 3)[1:]] if own.cron else []
        facts += [("then", ", ".join(then))] if then else []
        facts += [("declared as", one_line(own.name))] if own.name else []
    if job.consecutive_failures:
        failures = plural(job.consecutive_failures, "cycle") if job.is_recurring else str(job.consecutive_failures)
        facts.append(("failed in a row", failures))
    if job.locked_by:
        facts.append(("held by", f"{one_line(job.locked_by)}, run {job.run_token}, {lease_left(job, now)}"))
    if job.cancel_requested_at:
        facts.append(
            ("cancel asked", f"{stamp(job.cancel_requested_at, now)} by {one_line(job.cancel_requested_by or '?')}")
        )
    extra = (("priority", str(job.priority) if job.priority else ""),
             ("timeout", f"{job.timeout_seconds:g}s, its own" if job.timeout_seconds else ""),
             ("dedupe key", job.dedupe_key or ""),
             ("concurrency", job.concurrency_key or ""), ("trace", job.trace_id or ""),
             ("waits for", "its own pause" if job.is_paused else blocker_words(job.blocked_by)))  # fmt: skip
    facts += [(name, one_line(value)) for name, value in extra if value]
    if job.removed:
        facts.append(("removed", f"succeeded and left the queue; {page.key('job.retry')} enqueues a copy"))
    width = max(14, *(len(name) + 2 for name, _ in facts))
    return Content("\n").join(Content.assemble((f"{name:<{width}}", "$ink-muted"), value) for name, value in facts)


def _last_outcome(page: Page) -> str:
    """The outcome of the last run. A job that was cancelled while it waited keeps it."""
    runs = page.detail.runs if page.detail is not None else ()
    if runs:
        return outcome_words(runs[0].outcome, dry=runs[0].dry_run)
    return outcome_words(page.job.last_outcome, dry=page.job.last_run_dry)


def _progress(page: Page) -> list[Content]:
    progress = {name: value for name, value in (page.job.progress or {}).items() if name != "log"}
    share = fraction(progress)
    lines = []
    if share is not None:
        done, total = progress["done"], progress["total"]
        lines.append(Content.assemble((bar(share, 24), "$primary"), f"  {int(share * 100)}%  {done} of {total}"))
    elif isinstance(progress.get("done"), int):
        lines.append(Content(f"{progress['done']} done"))
    if (pace := _pace(progress, page.now)) is not None:
        lines.append(Content.styled(pace, "$ink-muted"))
    if progress.get("message"):
        lines.append(Content(page.line(str(progress["message"]))))
    return lines or ([page.json(progress)] if progress else [])


def _pace(progress: Json, now: datetime) -> str | None:
    """The speed of the run, and its estimated end; None where the handler reports no rate."""
    done, total, rate = progress.get("done"), progress.get("total"), progress.get("rate")
    if not isinstance(rate, int | float) or rate <= 0:
        return None
    speed = f"{rate:.1f}/s" if rate >= 0.2 else f"{rate * 60:.1f}/min"
    if not isinstance(total, int | float) or not isinstance(done, int | float) or not 0 < (total - done) / rate < 1e8:
        return speed
    left = timedelta(seconds=(total - done) / rate)
    return f"{speed}, about {duration(left)} left, ends about {clock(now + left)}"


def _runs(page: Page, runs: Sequence[Run]) -> list[Content]:
    if not runs:
        first = "Its first run has not ended." if page.job.status is Status.RUNNING else "It has not run yet."
        return [Content.styled(first, "$ink-muted")]
    lines = []
    now, chosen = page.now, chosen_run(page, runs) if page.run is not None else None
    width = 22 if any(run.dry_run for run in runs) else 12
    for run in runs:
        glyph, ink = outcome_look(run.outcome, dry=run.dry_run)
        lines.append(
            Content.assemble(
                ("▸ " if run is chosen else "", "$accent"),
                (fit(f"{glyph} {outcome_words(run.outcome, dry=run.dry_run)}", width), COLOURS[ink]),
                fit(ago(run.finished_at, now), 9),
                fit(duration(run.duration), 9),
                (f"attempt {run.attempt}  {one_line(run.worker_id or '')}", "$ink-muted"),
            )
        )
        if run.error and (run is not runs[0] or run.error != page.job.last_error):
            known = run.error_kind is None or run.error.startswith(run.error_kind)
            kind = "" if known else f"{one_line(run.error_kind or '')}: "
            lines.append(Content.styled(f"  {page.hanging(kind + page.line(run.error), 2)}", "$ink-muted"))
    return lines


def _section(heading: str, lines: Sequence[Content]) -> Content:
    return Content("\n").join([Content.styled(heading, "bold $primary"), *lines])
