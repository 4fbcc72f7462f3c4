"""`types`: the task types of the handlers; those of the queue, with jobs, figures and settings. `trends`: over time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.commands.look.jobs import definitions
from jobdeck.core.cli.session import Group, Session, command, dry_run_option, reason_option, shared_options
from jobdeck.core.errors import UsageError
from jobdeck.core.queue import service
from jobdeck.core.queue.service import known_type
from jobdeck.core.read import jobs
from jobdeck.core.read.operators.hold import COUNTED
from jobdeck.core.read.pages import overview
from jobdeck.core.read.pages.overview import TypeFigures
from jobdeck.core.read.stats.backlog import TrendReport, Waiting, trend_report
from jobdeck.core.read.type_settings import without_worker
from jobdeck.core.times import parse_duration, parse_time
from jobdeck.core.words.tables import TRENDS, TYPE_JOBS, TYPE_SETTINGS, TYPES, Amount, TrendLine, TypeRow
from jobdeck.core.words.wording import (
    DEFAULT,
    NONE,
    keyless_words,
    parse_age,
    parse_limit,
    parse_rate_changes,
    parse_share,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jobdeck.core.read.operators.hold import Hold
    from jobdeck.core.read.stats.figures import RunStats
    from jobdeck.core.read.type_settings import TypeLine


@command("list")
def listed(session: Session) -> None:
    """List task types with their jobs, wait, rate, failures and settings."""
    found = session.read(overview.types())
    rows = [TypeRow(one, found.at) for one in found.types]
    data = {"at": found.at, "types": [_data(one, found.at) for one in found.types]}
    session.answer(data, output.described(TYPES, rows) or ["No task types."])


@command("set")
@click.argument("task_type", metavar="TYPE", required=False)
@click.option("--in-queue", metavar="NAME", help="In place of TYPE: each type that is in this queue now.")
@click.option("--warn", metavar="SHARE", help="Warn from this share of failed runs on: 20%, or default.")
@click.option("--critical", metavar="SHARE", help="Critical from this share of failed runs on: 60%, or default.")
@click.option("--lost", metavar="N", help="Warn from N jobs on that failed permanently in 15 minutes, or default.")
@click.option("--mute-for", metavar="DURATION", help="Report no failure share of the type for this time.")
@click.option("--mute-until", metavar="TIME", help="Report no failure share of the type until this time (UTC).")
@click.option("--unmute", is_flag=True, help="Report it again.")
@click.option("--max-running", metavar="N", help="At most N jobs of the type run at once, over all workers; or none.")
@click.option("--max-per-key", metavar="N", help="At most N jobs with the same concurrency key, or none for one.")
@click.option("--rate", metavar="N/TIME", help="At most N jobs of the type start in a time: 100/m, 5/10s, or none.")
@click.option("--key-rate", metavar="N/TIME", help="The same for the jobs with each concurrency key.")
@click.option("--burst", metavar="N", help="At most N jobs of the rate start at once, or none for those of one second.")
@click.option("--max-age", metavar="DURATION", help="New one-time jobs expire so long after they are due: 2d, or none.")
@click.option(
    "--priority", metavar="N", help="Of jobs that are enqueued without a priority, -100 to 100; or none for 0."
)
@click.option(
    "--queue", metavar="NAME", help="The queue that the type is in, for worker --queues; or none for default."
)
@click.option("--set-aside", is_flag=True, help="Leave the type to another runner. Needs a reason.")
@click.option("--take-over", is_flag=True, help="Let workers run the type, after it was set aside.")
@reason_option
@dry_run_option
def change(
    session: Session,
    task_type: str | None,
    in_queue: str | None,
    reason: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Change settings of a task type, or with --in-queue of each type of a queue.

    A limit or priority that is set here comes before the one in the code of the type. The word none takes it away,
    and the word code makes the value of the code hold again. The types of a queue share no limit: each has its own.
    """
    if bool(task_type) == bool(in_queue):
        raise UsageError("Give a TYPE or --in-queue, and not both.")
    if sum(bool(given[name]) for name in ("mute_for", "mute_until", "unmute")) > 1:
        raise UsageError("Give one of --mute-for, --mute-until and --unmute.")
    if given["set_aside"] and given["take_over"]:
        raise UsageError("Give --set-aside or --take-over, not both.")
    with session.connection() as conn, conn.transaction():
        now = jobs.clock().run(conn)
        changes = _changes(given, now)
        if task_type:
            set_one = partial(service.set_type, conn, session.registry, task_type)
            lines = [set_one(changes, actor=session.actor, reason=reason, dry_run=dry_run)]
        else:
            set_each = partial(service.set_queue, conn, in_queue or "")
            lines = set_each(changes, actor=session.actor, reason=reason, dry_run=dry_run)
    changed = [output.plain(line) for line in lines]
    data = {"queue": in_queue, "types": changed} if in_queue else changed[0]
    text = output.described([*TYPE_JOBS, *TYPE_SETTINGS], [TypeRow(TypeFigures(line), now) for line in lines])
    session.answer({**data, "dry_run": dry_run}, ["The settings would be:", *text] if dry_run else text)
    for line in lines:
        _warn(session, line, changes)


def _warn(session: Session, line: TypeLine, changes: Mapping[str, float | datetime | str | None]) -> None:
    """Says on stderr what may not be meant, or is not to be seen at once."""
    warn_without_worker(line)
    task_type = line.task_type
    if line.set_aside and not (line.workers or line.pending or line.running or line.failed):
        output.note(f"The queue has no job of {task_type} at the moment. Check that its name is right.")
    known = session.registry.get(task_type)
    rule = known.concurrency if known is not None else line.concurrency
    if warning := keyless_words(task_type, changes, concurrency=rule):
        output.note(warning)
    if changes.get("max_running") is not None and line.max_running is not None and line.running > line.max_running:
        output.note(
            f"{line.running:,} jobs of {task_type} run and end as they would. None starts until fewer than "
            f"{line.max_running:,} run."
        )


@command("queues")
def queues(session: Session) -> None:
    """List the queues with the figures of their types together."""
    found = session.read(overview.types())
    grouped: dict[str, list[TypeLine]] = {}
    for one in found.types:
        grouped.setdefault(one.line.queue or DEFAULT, []).append(one.line)
    data = [_queue(name, lines) for name, lines in sorted(grouped.items())]
    rows = [
        (
            one["queue"],
            len(one["types"]),
            Amount(one["pending"], one["at_least"]),
            Amount(one["running"]),
            Amount(one["failed"], one["failed_at_least"]),
            len(one["paused"]),
        )
        for one in data
    ]
    header = ("QUEUE", "TYPES", "PENDING", "RUNNING", "FAILED", "PAUSED")
    session.answer({"at": found.at, "queues": data}, output.table(header, rows) if rows else ["No task types."])


def _queue(name: str, lines: Sequence[TypeLine]) -> dict[str, Any]:
    return {
        "queue": name,
        "types": [line.task_type for line in lines],
        "pending": sum(line.pending for line in lines),
        "running": sum(line.running for line in lines),
        "failed": sum(line.failed for line in lines),
        "at_least": any(line.at_least for line in lines),
        "failed_at_least": any(line.failed_at_least for line in lines),
        "paused": [line.task_type for line in lines if line.paused_at is not None],
    }


def warn_without_worker(line: TypeLine) -> None:
    """Says on stderr that no live worker handles a type, since its name may be a mistake."""
    if not line.workers and not line.set_aside:
        output.note(without_worker(line.task_type))


def hold_json(one: Hold) -> dict[str, Any]:
    """A hold as JSON. `payload` has the key and the value; it is null where the session may not see payloads."""
    payload = None if one.value is None else {one.key: json.loads(one.value)}
    given = {name: value for name, value in output.plain(one).items() if name not in {"value", "number"}}
    return {"hold": one.number, **given, "at_least": one.jobs >= COUNTED, "payload": payload}


def hold_table(found: Sequence[Hold]) -> list[str]:
    """The holds, or nothing where there are none."""
    rows = [
        (
            one.number, one.task_type, one.condition, one.number_of_jobs, one.held_by, output.when(one.held_at),
            output.when(one.until), output.line(one.reason),
        )
        for one in found
    ]  # fmt: skip
    return output.table(("HOLD", "TYPE", "PAYLOAD", "JOBS", "BY", "SINCE", "UNTIL", "REASON"), rows)


def _data(one: TypeFigures, at: datetime) -> dict[str, Any]:
    share = one.share
    known = share is not None and share.runs > 0
    return {
        **output.plain(one.line),
        "oldest_due": one.oldest_due,
        "longest_wait_seconds": (at - one.oldest_due).total_seconds() if one.oldest_due else 0.0,
        "succeeded_last_minute": one.succeeded,
        "failed_last_minute": one.failed,
        "runs_15_minutes": share.runs if share else 0,
        "failed_15_minutes": share.failed if share else 0,
        "failure_share": round(share.share, 4) if share and known else None,
        "usual_failure_share": round(share.usual, 4) if share and share.usual_runs else None,
        "failed_in_a_row": share.failed_in_a_row if share else 0,
    }


def _changes(given: dict[str, Any], now: datetime) -> dict[str, float | datetime | str | None]:
    found: dict[str, float | datetime | str | None] = {}
    if given["set_aside"] or given["take_over"]:
        found["set_aside"] = given["set_aside"]
    for option, column in (("warn", "warning_share"), ("critical", "critical_share")):
        if given[option] is not None:
            found[column] = parse_share(given[option], f"--{option}")
    if given["lost"] is not None:
        found["lost_jobs"] = parse_limit(given["lost"], "--lost", none=DEFAULT)
    found.update(_limits(given))
    if given["unmute"]:
        found["muted_until"] = None
    elif given["mute_for"]:
        found["muted_until"] = now + parse_duration(given["mute_for"], what="duration of --mute-for")
    elif given["mute_until"]:
        found["muted_until"] = parse_time(given["mute_until"], now, what="time of --mute-until").astimezone(UTC)
    if not found:
        raise UsageError(
            "Nothing to change. Give --warn, --critical, --lost, --mute-for, --mute-until, --unmute, --max-running, "
            "--max-per-key, --rate, --burst, --key-rate, --max-age, --priority, --queue, --set-aside or --take-over."
        )
    return found


def _limits(given: dict[str, Any]) -> dict[str, int | str | None]:
    found: dict[str, int | str | None] = {}
    for option in ("rate", "key_rate"):
        if given[option] is not None:
            of_key = option == "key_rate"
            found.update(parse_rate_changes(given[option], f"--{option.replace('_', '-')}", of_key=of_key))
    for option in ("max_running", "max_per_key", "burst", "priority"):
        if given[option] is not None:
            column = "rate_burst" if option == "burst" else option
            found[column] = parse_limit(given[option], f"--{option.replace('_', '-')}")
    if given["queue"] is not None:
        word = given["queue"].strip()
        found["queue"] = None if word.lower() == NONE else word
    if given["max_age"] is not None:
        found["max_age_seconds"] = parse_age(given["max_age"], "duration of --max-age")
    return found


@click.pass_context
def _without_word(context: click.Context) -> None:
    """`jobdeck types` alone."""
    if context.invoked_subcommand is None:
        context.invoke(definitions)


types = Group(
    "types",
    commands={"list": listed, "set": change, "queues": queues},
    params=shared_options(),
    callback=_without_word,
    invoke_without_command=True,
    help="List task types with payloads and limits; with a word, show their figures or change their settings.",
    short_help="List task types; show their figures, change settings.",
)


@command("trends")
@click.option("--since", metavar="DURATION", default="24h", show_default=True, help="The window, up to 30 days.")
@click.option("--type", "task_type", metavar="TYPE", help="Only this task type, in steps of time.")
def trends(session: Session, since: str, task_type: str | None) -> None:
    """Show runs by outcome, wait, duration and backlog over time."""
    query = trend_report(parse_duration(since, what="duration of --since"), task_type=task_type)
    with session.connection() as conn:
        found = query.run(conn)
        if task_type is not None and task_type not in found.trends.types:
            known_type(conn, session.registry, task_type)
    session.answer(_trend_data(found, task_type), [*_table(found, task_type), *_remarks(found)])


def _trend_data(found: TrendReport, task_type: str | None) -> dict[str, Any]:
    window = found.trends
    names = sorted(window.types)
    return {
        "at": window.at,
        "since": window.since,
        "counted_since": window.counted_since,
        "step_seconds": window.step,
        "task_type": task_type,
        "total": _figures(window.total()),
        "types": [{"task_type": name, **_figures(window.total(name))} for name in names],
        "course": [
            {"at": at, **_figures(stats), "backlog": waiting.jobs if waiting else None,
             "backlog_at_least": waiting.at_least if waiting else False}
            for at, stats, waiting in _course(found, task_type)
        ],
        "marks": [output.plain(mark) for mark in found.marks],
    }  # fmt: skip


def _course(found: TrendReport, task_type: str | None) -> Iterator[tuple[datetime, RunStats, Waiting | None]]:
    """The statistics and the backlog of each bucket."""
    window = found.trends
    return zip(window.buckets, window.course(task_type), found.waiting(task_type), strict=True)


def _figures(stats: RunStats) -> dict[str, Any]:
    return {
        "outcomes": {outcome.value: runs for outcome, runs in stats.outcomes.items()},
        "succeeded": stats.succeeded,
        "failed": stats.failed,
        "failed_permanently": stats.permanent,
        "dry_runs": stats.dry_runs,
        "wait_p50": stats.wait(0.5),
        "wait_p95": stats.wait(0.95),
        "duration_p50": stats.duration(0.5),
        "duration_p95": stats.duration(0.95),
    }


def _table(found: TrendReport, task_type: str | None) -> list[str]:
    window = found.trends
    if task_type is not None:
        course = [TrendLine(output.when(at), stats, [waiting]) for at, stats, waiting in _course(found, task_type)]
        return output.described([replace(TRENDS[0], name="from"), *TRENDS[1:]], course)
    names = [None, *sorted(window.types)]
    return output.described(TRENDS, [TrendLine(name, window.total(name), found.waiting(name)) for name in names])


def _remarks(found: TrendReport) -> list[str]:
    window = found.trends
    lines = [f"Backlog is the most that waited at once. Times are within 20 %. From {output.when(window.since)}."]
    if window.counted_since > window.since:
        lines.append(
            f"Runs are counted since {output.when(window.counted_since)}: the window is longer than the history."
        )
    lines += [f"{output.when(mark.at)} {mark.kind} {mark.name or 'of everything'}" for mark in found.marks]
    return ["", *lines]
