"""Commands that put jobs in the queue: `enqueue`, `enqueue-many`, `quick-sync`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core import plugins
from jobdeck.core.cli import output
from jobdeck.core.cli.output import Progress
from jobdeck.core.cli.session import Session, Words, command, dry_run_option, limited_waits
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.errors import Interrupted, JobFailure, UsageError
from jobdeck.core.queue import producer, service
from jobdeck.core.queue.options import OPTIONS, Option
from jobdeck.core.queue.requests import Wanted, parse_object, read_wanted
from jobdeck.core.read import jobs
from jobdeck.core.read.type_settings import lacks_worker, without_worker
from jobdeck.core.redact import scrub
from jobdeck.core.schedules import next_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    import psycopg

    from jobdeck.core.model import Enqueued, Json, NewJob
    from jobdeck.core.postgres.database import Database

MOST = 1_000_000
BETWEEN: Final = 500
"""Number of jobs between two looks at the clock and at signals."""
SHOWN_RUNS: Final = 5
"""The number of next runs that a dry run shows."""


def job_options(command: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a job that `enqueue`, `enqueue-many` or `edit` offers."""
    offered = {
        "enqueue": list(OPTIONS),
        "enqueue-many": [one for one in OPTIONS if one.many],
        "edit": [one for one in OPTIONS if one.edit is not None],
    }[command]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(offered):
            words = one.edit or one.words if command == "edit" else one.words
            function = click.option(one.flag, one.name, type=_kind(one), metavar=one.metavar, help=words)(function)
        return function

    return decorate


def _kind(option: Option) -> click.ParamType[Any]:
    if option.kind == "number":
        return click.IntRange(option.least, option.most)
    return Words(option.choices) if option.choices else click.STRING


def _wanted(task_type: str, payload: Json, now: datetime, given: Mapping[str, Any]) -> Wanted:
    """The job that the options describe. Prints a remark when its first run is in the past."""
    wanted = read_wanted(task_type, payload, given, now)
    if wanted.at and wanted.at < now and given["at"] != "now":
        output.note(f"{output.when(wanted.at)} is in the past, so the job is due now.")
    return wanted


payload_option = click.option("--payload", metavar="JSON", default="{}", help="Arguments, as a JSON object.")


@contextmanager
def _callers_trace(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Has the jobs of this block carry the span that the program which called the command is in.

    It is in the environment, where OpenTelemetry says that one program leaves it for another: `TRACEPARENT`.
    """
    caller = os.environ.get("TRACEPARENT")
    if caller is None:
        yield
        return
    with conn.transaction():
        producer.carry_trace(conn, caller)
        yield


@command("enqueue")
@click.argument("task_type", metavar="TYPE")
@payload_option
@job_options("enqueue")
@dry_run_option
def enqueue(session: Session, task_type: str, payload: str, dry_run: bool, **given: Any) -> None:
    """Enqueue one job of TYPE and print it."""
    parsed = parse_object(payload)
    session.registry.validate(task_type, parsed)  # before an embedded database is started in vain
    with session.database() as database:
        with database.connection() as conn, limited_waits(database, conn), _callers_trace(conn):
            wanted = _wanted(task_type, parsed, jobs.clock().run(conn), given)
            enqueued = service.create(
                conn, session.registry, wanted, settings=session.settings, actor=session.actor, dry_run=dry_run
            )
            lacking = lacks_worker(task_type).run(conn)
        effects = _effects(session, database, wanted) if dry_run else None
    data = _enqueued_json(enqueued) | ({"effects": effects} if dry_run else {})
    lines = [_sentence(enqueued, dry_run=dry_run), "", *output.job_table([enqueued.job])]
    if dry_run and wanted.schedule:
        runs = next_runs(enqueued.job, SHOWN_RUNS)
        data |= {"next_runs": runs}
        lines += output.section("Next runs", [output.when(run) for run in runs])
    session.answer(data, lines + output.section("A run would", output.facts(scrub(effects or {}).items())))
    if lacking:
        output.note(without_worker(task_type))


@command("enqueue-many")
@click.argument("task_type", metavar="TYPE")
@payload_option
@job_options("enqueue-many")
@click.option("--count", type=click.IntRange(1, MOST), help="Number of jobs with the same payload.")
@click.option("--file", "source", metavar="JSONL", help="File with one payload per line; - is standard input.")
@click.option("--yes", is_flag=True, expose_value=False, help="Accepted for consistency; has no effect.")
@dry_run_option
def enqueue_many(
    session: Session,
    task_type: str,
    payload: str,
    source: str | None,
    count: int | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Enqueue many jobs of TYPE in one transaction. Needs --count or --file."""
    if (count is None) == (source is None):
        raise UsageError("Give either --count N or --file JSONL.")
    payloads = [parse_object(payload)] if source is None else _payloads(source)
    session.registry.require(task_type)
    with session.connection() as conn, stop_signals() as stop, _callers_trace(conn):
        ids = service.create_many(
            conn,
            session.registry,
            _wanted(task_type, {}, jobs.clock().run(conn), given),
            payloads,
            copies=count or 1,
            settings=session.settings,
            actor=session.actor,
            dry_run=dry_run,
            watched=partial(_watched, stop),
        )
    verb = "Would enqueue" if dry_run else "Enqueued"
    skipped = len(payloads) * (count or 1) - len(ids)
    session.answer(
        {"enqueued": len(ids), "skipped": skipped, "ids": ids, "dry_run": dry_run},
        [f"{verb} {len(ids)} jobs of {task_type}."],
    )


def _watched(stop: Stop, jobs: list[NewJob]) -> Iterator[NewJob]:
    """The jobs, with progress, until a signal arrives."""
    progress = Progress("enqueue", len(jobs))
    for done, job in enumerate(jobs):
        if done % BETWEEN == 0:
            progress.at(done)
            if stop.asked:
                raise Interrupted("Interrupted. No job was enqueued, because all are enqueued in one transaction.")
        yield job


class PresetArgument(click.Argument):
    """The name of a preset. Plugins define the presets, so they are not known when this module is imported."""

    def make_metavar(self, ctx: click.Context) -> str:
        del ctx
        return f"{{{'|'.join(plugins.presets())}}}"


def _preset(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return Words(plugins.presets()).convert(value, param, ctx)


@command("quick-sync")
@click.argument("name", cls=PresetArgument, callback=_preset)
@dry_run_option
def quick_sync(session: Session, name: str, dry_run: bool) -> None:
    """Enqueue the jobs of a preset, to run one after another. Each waits until the one before it succeeds."""
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        done = service.enqueue_preset(conn, session.registry, plugins.presets()[name], actor=session.actor)
    lines = [_sentence(enqueued, dry_run=dry_run) for enqueued in done]
    session.answer(
        {"jobs": [_enqueued_json(enqueued) for enqueued in done], "next": None},
        [*lines, "", *output.job_table(enqueued.job for enqueued in done)],
    )


def _effects(session: Session, database: Database, wanted: Wanted) -> Json | None:
    """What a run would do; None when the job type has no preview, or the preview fails or is not allowed."""
    import psycopg  # noqa: PLC0415 -- imported on first use

    from jobdeck.core.worker.runs.preview import DENIED, effects  # noqa: PLC0415 -- imported on first use

    job_type = session.registry.require(wanted.task_type)
    try:
        return effects(job_type, wanted.payload, settings=session.settings, database=database)
    except psycopg.errors.InsufficientPrivilege:
        output.note(DENIED)
    except JobFailure as failure:
        output.note(f"A run would fail: {failure}")
    return None


def _payloads(source: str) -> list[Json]:
    payloads = [parse_object(line, f"payload in line {number}") for number, line in _lines(source) if line.strip()]
    if not payloads:
        raise UsageError("The file holds no payload. Write one JSON object per line.")
    if len(payloads) > MOST:
        raise UsageError(f"The file holds more than {MOST} payloads. Split it.")
    return payloads


def _lines(source: str) -> Iterator[tuple[int, str]]:
    try:
        if source == "-":
            yield from enumerate(sys.stdin, start=1)
            return
        with Path(source).open(encoding="utf-8") as lines:
            yield from enumerate(lines, start=1)
    except OSError as error:
        raise UsageError(f"The file {source} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UsageError(f"The file {source} is not UTF-8 text.") from None


def _enqueued_json(enqueued: Enqueued) -> Json:
    return {**output.plain(enqueued.job), "created": enqueued.created, "replaced": enqueued.replaced}


def _sentence(enqueued: Enqueued, *, dry_run: bool) -> str:
    if enqueued.replaced:
        return f"{'Would replace' if dry_run else 'Replaced'} {enqueued.job.id} ({enqueued.job.task_type})."
    if not enqueued.created:
        return f"Already there: {enqueued.job.id} ({enqueued.job.task_type}, {enqueued.job.status.value})."
    verb = "Would enqueue" if dry_run else "Enqueued"
    return f"{verb} {enqueued.job.task_type} as {enqueued.job.id}."
