"""Commands that run jobs: `worker`, which stands, and `run-worker`, which does one cycle."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option
from jobdeck.core.cli.signals import Stop, interrupting_signals, stop_signals
from jobdeck.core.cli.wording import cycle_words
from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import ClaimedJob, CycleResult
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.worker.worker import Worker

log = logging.getLogger(__name__)

CONNECTIONS_BESIDE_HANDLERS = 3


@command("worker")
@click.option("--concurrency", type=click.IntRange(1, 256), help="Jobs at a time; else JOBDECK_CONCURRENCY.")
@click.option("--types", metavar="TYPE,…", help="Only these task types.")
@click.option("--drain", is_flag=True, help="End when nothing is due.")
def worker(session: Session, concurrency: int | None, types: str | None, drain: bool) -> int | None:
    """Run jobs until stopped. SIGTERM lets running jobs finish, then hands them back; a second one does so at once."""
    from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- imported on first use

    slots = concurrency or session.settings.concurrency
    wanted = _task_types(session, types)
    logs.configure(console=True, file=session.settings.log_file, form=session.settings.log_format)
    with stop_signals() as stop, session.database(max_size=slots + CONNECTIONS_BESIDE_HANDLERS) as database:
        standing = Worker(database, session.registry, session.settings, concurrency=slots, task_types=wanted)
        _note_missing_plugins(database)
        stand(standing, stop, until_idle=drain)
        done = standing.status
    session.answer(
        {"claimed": done.claimed, "succeeded": done.succeeded, "failed": done.failed},
        [f"Claimed {done.claimed}: {done.succeeded} succeeded, {done.failed} failed."],
    )
    logs.shutdown()
    return 130 if stop.interrupted else None


@command("run-worker")
@click.option("--limit", type=click.IntRange(1, 10), default=5, show_default=True, help="Jobs at most.")
@click.option("--scheduled", is_flag=True, help="For timers and cron: Cron Health counts on the next one to come.")
@dry_run_option
def run_worker(session: Session, limit: int, scheduled: bool, dry_run: bool) -> int | None:
    """Run one cycle: up to --limit due jobs, one after another."""
    from jobdeck.core.queue import leases  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.queue.operator import expect_trigger  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- imported on first use

    if dry_run:
        with session.connection() as conn, conn.transaction(force_rollback=True):
            jobs = leases.claim(conn, "dry run", session.registry.names, limit, session.settings.lease_seconds)
        _answer_dry(session, jobs)
        return None
    logs.configure(console=True, file=session.settings.log_file, form=session.settings.log_format)
    with interrupting_signals(), session.database(max_size=1 + CONNECTIONS_BESIDE_HANDLERS) as database:
        source = "timer" if scheduled else "cli"
        if scheduled and session.settings.cron_interval_minutes is not None:
            with database.connection() as conn:
                expect_trigger(conn, session.settings.cron_interval_minutes)
        cycle = Worker(database, session.registry, session.settings, mode="cycle", source=source)
        result = cycle.run_cycle(limit)
    logs.shutdown()
    session.answer(output.plain(result), _cycle_lines(result))
    return 1 if result.status == "error" else None


def stand(worker: Worker, stop: Stop, *, until_idle: bool = False, seconds: float | None = None) -> None:
    """Runs a worker until a signal, until it has nothing to do, or for a time, and then lets it end in order."""
    if until_idle:
        idle = threading.Thread(target=_run_until_idle, args=(worker, stop), name="until idle")
        idle.start()
    else:
        worker.start()
    logs.event(log, logging.INFO, "worker started", worker=worker.worker_id)
    stop.wait(seconds)
    logs.event(log, logging.INFO, "worker draining", worker=worker.worker_id)
    stop.in_order(worker.drain, worker.stop)


def _note_missing_plugins(database: Database) -> None:
    """Logs which components of the database have no plugin here, because their jobs will wait."""
    from jobdeck.core.schema import holdings, not_loaded  # noqa: PLC0415 -- imported on first use

    with database.connection() as conn:
        missing = not_loaded(holdings(conn))
    if missing:
        logs.event(log, logging.WARNING, "plugins not loaded: their jobs wait", components=", ".join(missing))


def _run_until_idle(worker: Worker, stop: Stop) -> None:
    try:
        worker.run_until_idle()
    finally:
        stop.end()


def _task_types(session: Session, types: str | None) -> list[str] | None:
    if types is None:
        return None
    wanted = [name.strip() for name in types.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--types names no task type. Separate several with commas.")
    return [session.registry.require(name).task_type for name in wanted]


def _answer_dry(session: Session, jobs: Sequence[ClaimedJob]) -> None:
    message = f"Would run {len(jobs)}." if jobs else "Would run nothing."
    results = [{"id": job.id, "task_type": job.task_type, "attempt": job.attempt} for job in jobs]
    data = {"status": "ok", "processed": 0, "succeeded": 0, "failed": 0, "message": message, "results": results}
    rows = [(job.id, job.task_type, f"{job.attempt}/{job.max_attempts}") for job in jobs]
    session.answer(data, [message, *(output.table(("JOB", "TASK", "ATTEMPT"), rows) if rows else [])])


def _cycle_lines(result: CycleResult) -> list[str]:
    if result.status == "paused":
        lines = [output.cut(f"{cycle_words(result)} `jobdeck resume` lets it go on.", 400)]
    else:
        lines = [f"{result.status}: {cycle_words(result)}."]
        lines += [output.cut(result.message, 200)] if result.message else []
    return lines + [output.payload(dict(found)) for found in result.results]
