"""The text of the workers page, as lines. Pure; every foreign text is cleaned and masked here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jobdeck.core.words.wording import slots
from jobdeck.tui.format import ago, bar, clock, duration, fit, fraction, middle, one_line, plural, short_id
from jobdeck.tui.widgets.jobs.cells import lease_left
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from jobdeck.core.model import Job, Worker
    from jobdeck.core.read.report_types import WorkerReport
    from jobdeck.tui.widgets.ink import Span

ROOMY = 110


def summary(report: WorkerReport) -> list[Span]:
    """The numbers of live workers, running jobs and slots."""
    alive = [worker for worker in report.workers if worker.alive]
    word = f"{plural(len(alive), 'worker')} alive, {slots(alive)} taken"
    return [(word, "text" if alive else "bad")]


def of_release(report: WorkerReport, release: str) -> WorkerReport:
    """The workers of one release of the application, with the jobs that they run, and no type that waits elsewhere."""
    found = tuple(worker for worker in report.workers if report.releases.get(worker.id) == release)
    held = {worker.id for worker in found}
    running = tuple(job for job in report.running if job.locked_by in held)
    return replace(report, workers=found, running=running, unhandled=())


def lines(report: WorkerReport, width: int, here: str | None = None) -> list[Entry]:
    """Task types without a worker, each worker with its jobs, and running jobs whose worker is gone.

    `here` is the id of the worker inside this dashboard.
    """
    found: list[Entry] = []
    if report.unhandled:
        names = ", ".join(one_line(name) for name in report.unhandled)
        text = f" ✗ No live worker handles these waiting jobs: {names}"
        found += [entry((fit(text, width), "bad"), key="unhandled"), BLANK]
    versions = {worker.version for worker in report.workers if worker.alive}
    if len(versions) > 1:
        text = f" ⚠ Live workers have different versions: {', '.join(sorted(one_line(one) for one in versions))}"
        found += [entry((fit(text, width), "warn"), key="versions"), BLANK]
    if not report.workers:
        found.append(entry((" No worker was seen in the last day. Start one: jobdeck worker", "bad")))
    for worker in report.workers:
        found += _worker(worker, report, width, here=worker.id == here)
    held = {worker.id for worker in report.workers}
    orphans = [job for job in report.running if job.locked_by not in held]
    if orphans:
        found += [entry((" Held by workers that are no longer listed", "warn"), key="orphans")]
        found += [_job(job, report.at, width) for job in orphans]
    return found


def _worker(worker: Worker, report: WorkerReport, width: int, *, here: bool) -> list[Entry]:
    at = report.at
    alive: Span = ("● alive", "good") if worker.alive else ("○ gone ", "bad")
    head = entry(
        (" ", "text"),
        alive,
        (f"  {fit(one_line(worker.id), 40 if width >= ROOMY else 30)}", "strong"),
        (f"  {one_line(worker.mode)}{', here' if here else ''}", "muted"),
        (f"  {slots([worker])}" if worker.alive else "", "text"),
        key=("worker", worker.id),
    )
    release = report.releases.get(worker.id)
    facts = (
        f"   {one_line(worker.host)} pid {worker.pid}, version {one_line(worker.version)}, since "
        f"{worker.started_at:%m-%d} {clock(worker.started_at)}, heartbeat {ago(worker.heartbeat_at, at)}"
    )
    program = [entry((fit(f"   release {one_line(release)}", width).rstrip(), "muted"),
                     key=("release", release, worker.id))] if release else []  # fmt: skip
    types = f"   handles {_types(worker.task_types, report.workers)}"
    running = [job for job in report.running if job.locked_by == worker.id]
    return [
        head,
        entry((fit(facts, width).rstrip(), "muted" if worker.alive else "bad")),
        *program,
        entry((fit(types, width).rstrip(), "muted")),
        *(_job(job, at, width) for job in running),
        BLANK,
    ]


def _types(task_types: Sequence[str], workers: Sequence[Worker]) -> str:
    most = max((len(worker.task_types) for worker in workers), default=0)
    names = ", ".join(one_line(name) for name in task_types)
    return (
        f"{plural(len(task_types), 'task type')}: {names}"
        if len(task_types) < most or most < 4
        else (f"all {len(task_types)} task types")
    )


def _job(job: Job, at: datetime, width: int) -> Entry:
    share = fraction(job.progress)
    progress = f"  {bar(share, 10)} {int(share * 100):>3}%" if share is not None else ""
    lease = lease_left(job, at)
    return entry(
        (f"   {short_id(job.id)}  ", "muted"),
        (fit(middle(one_line(job.task_type), 32), 32 if width >= ROOMY else 28), "text"),
        (f"  {duration(at - (job.started_at or at)):>8}", "run"),
        (progress, "run"),
        (f"  {lease}", "bad" if lease == "lease expired" else "muted"),
        key=("job", job.id),
    )
