"""Commands that run jobs: `worker` until it is stopped, and `run-worker` once."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import psycopg

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option, embedded_option, limit_option
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.errors import DatabaseUnreachable, Interrupted, Refused, UsageError, require_extra
from jobdeck.core.queue import leases
from jobdeck.core.queue.operator import expect_trigger
from jobdeck.core.read.jobs import backlog, permissions, processing
from jobdeck.core.redact import safe_error
from jobdeck.core.settings import Settings, host_and_port
from jobdeck.core.words.wording import cycle_words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from jobdeck.core.http.worker_metrics import WorkerMetrics
    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.worker.oneshot import CycleResult
    from jobdeck.core.worker.slots.forks import CutOff
    from jobdeck.core.worker.worker import Worker


log = logging.getLogger(__name__)

LEFT: Final = 5
"""The exit code of a worker that drained and left due jobs, such as those of a paused type."""
CONNECTIONS_BESIDE_HANDLERS = 4
WAIT_SECONDS = 1.0


@command("worker", logs=True)
@click.option("--concurrency", type=click.IntRange(1, 256), help="Slots of threads. Default: JOBDECK_CONCURRENCY.")
@click.option("--types", metavar="TYPE,…", help="Only these task types.")
@click.option(
    "--queues", metavar="QUEUE,…", help="Only the types of these queues. Types without a queue are in default."
)
@click.option("--drain", is_flag=True, help="Exit when no job is due, with 5 if some are that cannot be run.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve /metrics of this worker here. Default: none.")
@embedded_option
@dry_run_option
def worker(
    session: Session,
    *,
    concurrency: int | None,
    types: str | None,
    queues: str | None,
    drain: bool,
    metrics: str | None,
    embedded: bool,
    dry_run: bool,
) -> int | None:
    """Run jobs until stopped; --dry-run says which would start.

    While the database does not answer, the worker waits for it. After SIGTERM it takes no new jobs, gives running jobs
    JOBDECK_DRAIN_SECONDS, then returns them to the queue. A second SIGTERM returns them now.

    With --metrics, or JOBDECK_WORKER_METRICS_ADDRESS, Prometheus can read figures of this worker. An address other than
    a loopback one needs JOBDECK_METRICS_TOKEN. If the address is taken, the worker runs jobs and tries again.

    With --queues the worker follows a type that gets another queue (`jobdeck types set`) within 20 seconds.
    """
    from jobdeck.core.worker.oneshot import NO_TYPES  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.slots.forks import CutOff, end_left_behind  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- imported on first use

    slots = concurrency or session.settings.concurrency
    wanted, chosen = named_types(session, types), _listed(queues, "--queues names no queue")
    figures = _metrics(session.settings, metrics)
    if dry_run:
        _answer_ahead(session, slots, wanted or session.registry.names, chosen)
        return None
    session.configure_logs()
    if not session.registry.names:
        output.note(NO_TYPES)
    before = threading.enumerate()
    with CutOff() as cut_off:
        with stop_signals() as stop, ExitStack() as stack:
            database = _database(session, stack, stop, slots + CONNECTIONS_BESIDE_HANDLERS, embedded, wait=not drain)
            if database is None:
                return 130 if stop.interrupted else None
            running = Worker(
                database, session.registry, session.settings, concurrency=slots, task_types=wanted, queues=chosen
            )
            with _served(figures, running):
                run_until_stopped(running, stop, until_idle=drain, cut_off=cut_off)
            done = running.status
            left = _left(database, running.claims) if drain and not stop.asked else 0
        code = 130 if stop.interrupted else LEFT if left else 0
        end_left_behind(code, before)
        due = {"due": left} if drain else {}
        session.answer(
            {"claimed": done.claimed, "succeeded": done.succeeded, "failed": done.failed, **due},
            [f"Claimed {done.claimed}: {done.succeeded} succeeded, {done.failed} failed."],
        )
        _note_left(left)
        logs.shutdown()
    return code or None


@command("run-worker", logs=True)
@limit_option(5, 10, "Maximum number of jobs.")
@click.option("--scheduled", is_flag=True, help="Mark this as a scheduled run; Cron Health then expects the next one.")
@dry_run_option
@embedded_option
def run_worker(session: Session, limit: int, scheduled: bool, dry_run: bool, embedded: bool) -> int | None:
    """Run one cycle: up to --limit due jobs, one after another.

    The exit code is 0 also when jobs failed, as it is of `worker`; it is 1 when the cycle itself failed.
    """
    from jobdeck.core.worker.slots.forks import end_left_behind  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- imported on first use

    if dry_run:
        with session.connection() as conn, conn.transaction(force_rollback=True):
            jobs = leases.claim(conn, "dry run", session.registry.names, limit, session.settings.lease_seconds)
        _answer_dry(session, jobs)
        return None
    session.configure_logs()
    size = 1 + CONNECTIONS_BESIDE_HANDLERS
    before = threading.enumerate()
    with stop_signals() as stop, session.database(program="worker", max_size=size, embedded=embedded) as database:
        source = "timer" if scheduled else "cli"
        if scheduled and session.settings.cron_interval_minutes is not None:
            with database.connection() as conn:
                expect_trigger(conn, session.settings.cron_interval_minutes)
        worker = Worker(database, session.registry, session.settings, mode="cycle", source=source)
        result = _run_cycle(worker, limit, stop)
        ended_early = result.status == "ok" and result.processed < limit and not stop.asked
        left = _left(database, session.registry.names) if ended_early else 0
    end_left_behind(130 if stop.asked else 1 if result.status == "error" else 0, before)
    logs.shutdown()
    if stop.asked:
        raise Interrupted(f"Interrupted. Jobs of this cycle: {result.succeeded} succeeded, {result.failed} failed.")
    session.answer(output.plain(result), _cycle_lines(result))
    _note_left(left)
    return 1 if result.status == "error" else None


def _answer_ahead(session: Session, concurrency: int, types: Sequence[str], queues: Sequence[str] | None) -> None:
    """Answers what a worker of these types and queues with these slots would start, beside those that are alive."""
    from jobdeck.core.read.pages.outlook import outlook  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.runs.preview import slots_of  # noqa: PLC0415 -- imported on first use

    slots = slots_of(session.registry, session.settings, concurrency)
    with session.connection() as conn:
        paused = not processing().run(conn).enabled
        names = types if queues is None else list(leases.types_of_queues(conn, types, queues))
        ahead = outlook(names, slots=slots).run(conn)
    pause = ["Processing is paused, so they would wait until `jobdeck resume`."] if paused else []
    session.answer({"starts": output.plain(ahead), "dry_run": True}, [ahead.words, *pause])


def _run_cycle(worker: Worker, limit: int, stop: Stop) -> CycleResult:
    """Runs a cycle until it ends. After a signal, the cycle takes no more jobs and its running job is returned."""
    from jobdeck.core.worker.oneshot import Budget  # noqa: PLC0415 -- imported on first use

    budget = Budget()

    def interrupt() -> None:
        budget.stop()
        if worker.cycle is not None:
            worker.cycle.interrupt()

    return stop.in_order(lambda: worker.run_cycle(limit, budget=budget), interrupt)


def run_until_stopped(
    worker: Worker, stop: Stop, *, until_idle: bool = False, seconds: float | None = None, cut_off: CutOff | None = None
) -> None:
    """Runs a worker until a signal, for `seconds`, or until no job is due, then shuts it down in order.

    With `cut_off` the process ends although the shutdown does not.
    """
    if until_idle:
        idle = threading.Thread(target=_run_until_idle, args=(worker, stop), name="until idle")
        idle.start()
    else:
        worker.start()
    logs.event(log, logging.INFO, "worker started", worker=worker.worker_id)
    stop.wait(seconds)
    logs.event(log, logging.INFO, "worker draining", worker=worker.worker_id)
    if cut_off is not None:
        cut_off.within(worker.patience)
    stop.in_order(worker.drain, partial(_stop_now, worker, cut_off))


def _stop_now(worker: Worker, cut_off: CutOff | None) -> None:
    if cut_off is not None:
        cut_off.within(0.0)
    worker.stop()


def _left(database: Database, task_types: Collection[str]) -> int:
    """How many jobs of these types are due and wait for no other job, up to 10,001 of each type."""
    with database.connection() as conn:
        return sum(line.overdue for line in backlog(timedelta()).run(conn) if line.task_type in task_types)


def _note_left(left: int) -> None:
    if left:
        output.note(
            f"{left:,} due {'job' if left == 1 else 'jobs'} of these types cannot be run now. "
            "`jobdeck jobs --status pending` lists them, `jobdeck why ID` says what each waits for."
        )


def _database(
    session: Session, stack: ExitStack, stop: Stop, connections: int, embedded: bool, *, wait: bool
) -> Database | None:
    """The database; with `wait` as soon as it answers. None if a signal arrived first."""
    noted = False
    while not stop.asked:
        try:
            with ExitStack() as opened:
                database = opened.enter_context(
                    session.database(program="worker", max_size=connections, embedded=embedded, note=_log_note)
                )
                refuse_other_roles(database)
                stack.enter_context(opened.pop_all())
                return database
        except (DatabaseUnreachable, psycopg.OperationalError) as error:
            if not wait:
                raise
            if not noted:
                logs.event(log, logging.WARNING, "the worker waits for its database", error=safe_error(str(error)))
            noted = True
            stop.wait(WAIT_SECONDS)
    return None


def refuse_other_roles(database: Database) -> None:
    """Refuses a role that may not run jobs.

    A worker would try to claim without end, and a preview would see masked payloads.
    """
    with database.connection() as conn:
        rights = permissions().run(conn)
    if not rights.work:
        raise Refused(
            f"The database role {rights.role} may not run jobs. Connect as a member of job_worker to run them."
        )


def _log_note(sentence: str) -> None:
    logs.event(log, logging.WARNING, sentence)


def _metrics(settings: Settings, given: str | None) -> WorkerMetrics | None:
    """What serves the worker's metrics; None without an address. The option takes precedence over the setting."""
    try:
        address = settings.worker_metrics_address if given is None else host_and_port(given)
    except ValueError as error:
        raise UsageError(f"--metrics {error}.") from None
    if not address:
        return None
    require_extra("The server of a worker's metrics", "server", "starlette", "uvicorn", "h11", "prometheus_client")
    from jobdeck.core.http.worker_metrics import WorkerMetrics  # noqa: PLC0415 -- imported on first use

    return WorkerMetrics(settings, address)


@contextmanager
def _served(metrics: WorkerMetrics | None, worker: Worker) -> Iterator[None]:
    if metrics is None:
        yield
        return
    metrics.start(worker)
    try:
        yield
    finally:
        metrics.stop()


def _run_until_idle(worker: Worker, stop: Stop) -> None:
    try:
        worker.run_until_idle()
    finally:
        stop.end()


def named_types(session: Session, types: str | None) -> list[str] | None:
    """The task types that `--types` names, which the registry has to know; None without the option."""
    wanted = _listed(types, "--types names no task type")
    return None if wanted is None else [session.registry.require(name).task_type for name in wanted]


def _listed(text: str | None, wrong: str) -> list[str] | None:
    """The names in an option, None without it. `wrong` begins the refusal of one that has none."""
    found = None if text is None else [name.strip() for name in text.split(",") if name.strip()]
    if found == []:
        raise UsageError(f"{wrong}. Separate several with commas.")
    return found


def _answer_dry(session: Session, jobs: Sequence[ClaimedJob]) -> None:
    message = f"{len(jobs) or 'No'} {'job' if len(jobs) == 1 else 'jobs'} would run."
    results = [{"id": job.id, "task_type": job.task_type, "attempt": job.attempt} for job in jobs]
    data = {"status": "ok", "processed": 0, "succeeded": 0, "failed": 0, "message": message, "results": results}
    rows = [(job.id, job.task_type, f"{job.attempt}/{job.max_attempts}") for job in jobs]
    session.answer(data, [message, *output.table(("JOB", "TASK", "ATTEMPT"), rows)])


def _cycle_lines(result: CycleResult) -> list[str]:
    if result.status == "paused":
        lines = [output.cut(f"{cycle_words(result)} `jobdeck resume` resumes it.", 400)]
    else:
        # That the cycle was carried out says nothing about its jobs, so nothing here says "ok".
        outcome = "The cycle failed: " if result.status == "error" else "Cycle ended: "
        lines = [f"{outcome}{cycle_words(result)}."]
        lines += [output.cut(result.message, 200)] if result.message else []
    return lines + [output.payload(dict(found)) for found in result.results]


LOOK_SECONDS: Final = 1.0
SHORT_ID: Final = 8
"""Number of last digits of an id that are shown; commands find the job by them."""
