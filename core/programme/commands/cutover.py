"""`cutover`: who takes the jobs, the runner of the original application or the workers; the switch and its two ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.commands.run.workers import named_types, refuse_other_roles
from jobdeck.core.cli.session import Group, Session, command, dry_run_option, reason_option, shared_options
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.postgres.reconnecting import LOST
from jobdeck.core.redact import safe_error, scrub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import Processing
    from jobdeck.core.programme.cutover.shadow import Foreseen, Watch
    from jobdeck.core.read.type_settings import TypeLine

LOOK_SECONDS: Final = 1.0
SHORT_ID: Final = 8
"""Number of last digits of an id that are shown; commands find the job by them."""


@command("watch", logs=True)
@click.option("--types", metavar="TYPE,…", help="Only these task types.")
def watch(session: Session, types: str | None) -> None:
    """Show for each run of the earlier runner what a run here would do. Nothing is run or changed.

    It needs the earlier runner to have the queue, and ends at SIGTERM or Ctrl-C with the number of runs by type. With
    --json it prints one object per line.
    """
    from jobdeck.core.programme.cutover.shadow import Watch  # noqa: PLC0415 -- imported on first use

    task_types = named_types(session, types)
    with stop_signals() as stop, session.database() as database:
        refuse_other_roles(database)
        watch = Watch(database, session.registry, session.settings, task_types=task_types)
        watch.begin()
        logs.configure(console=True, form=session.settings.log_format, level=session.settings.log_level)
        output.note("Watching the earlier runner. No job is taken and nothing is changed. Ctrl-C ends it.")
        try:
            _show_until_stopped(session, watch, stop)
        finally:
            watch.end()
    _show(session, watch.answers())
    _answer(session, watch)
    logs.shutdown()


def _show_until_stopped(session: Session, watch: Watch, stop: Stop) -> None:
    elsewhere, answers, left_out = True, True, 0
    while (elsewhere or watch.is_busy) and not stop.asked:
        stop.wait(LOOK_SECONDS)
        try:
            elsewhere = watch.look()
        except LOST as error:
            if answers:
                reason = safe_error(str(error), 300)
                output.note(f"The database does not answer ({reason}). The watch continues when it answers again.")
            answers = False
            continue
        answers = True
        _show(session, watch.answers())
        if watch.left_out > left_out:
            output.note(f"{_runs(watch.left_out - left_out)} left out, because previews take longer than the runner.")
        left_out = watch.left_out
    if not elsewhere:
        output.note("The workers of Jobdeck have the queue now, so the watch ends.")


def _show(session: Session, answers: Sequence[Foreseen]) -> None:
    for found in answers:
        run = found.run
        if session.json:
            facts = {
                "started_at": run.started_at,
                "job_id": run.job_id,
                "run_token": run.run_token,
                "task_type": run.task_type,
                "answer": found.answer,
                "sentence": found.sentence,
                "effects": found.effects,
            }
            output.write_json_line(facts)
        else:
            head = f"{output.when(run.started_at)}  {str(run.job_id)[-SHORT_ID:]}  {output.line(run.task_type)}"
            said = output.facts(scrub(found.effects or {}).items()) or [found.sentence or "nothing"]
            output.write(output.section(output.Verbatim(head), said))
    sys.stdout.flush()


def _answer(session: Session, watch: Watch) -> None:
    """The last line: how many runs there were, by type."""
    if session.json:
        output.write_json_line({"runs": watch.counts.total(), "left_out": watch.left_out, "types": watch.counts})
        return
    total = watch.counts.total()
    by_type = ", ".join(f"{count} {task_type}" for task_type, count in watch.counts.most_common())
    began = f"The earlier runner began {total} run{'' if total == 1 else 's'}: {by_type}."
    left_out = f" {_runs(watch.left_out)} left out." if watch.left_out else ""
    output.write(["", f"{began}{left_out}" if total else "The earlier runner began no run."])


def _runs(number: int) -> str:
    return "1 run was" if number == 1 else f"{number} runs were"


JOBDECK: Final = "jobdeck"
EARLIER: Final = "earlier"
HAS: Final = {JOBDECK: "The workers of Jobdeck have", EARLIER: "The earlier runner has"}
NO_WORKER: Final = (
    "No worker is alive, so no job would run. Nothing was changed. Start `jobdeck worker`, which waits for the switch, "
    "or add --without-workers if a scheduler starts workers."
)
WOULD_HAVE: Final = {JOBDECK: "The workers of Jobdeck would have", EARLIER: "The earlier runner would have"}


@command("status")
def status(session: Session) -> None:
    """Show who takes the jobs, and the task types that wait for the switch or are set aside."""
    from jobdeck.core.programme.cutover.ends import brief  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read import jobs  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read.type_settings import type_lines  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn, brief(conn):
        switch, lines = jobs.processing().run(conn), type_lines().run(conn)
    runner = JOBDECK if switch.held_by is None else EARLIER
    data = {
        "runner": runner,
        "set_aside": [one.task_type for one in lines if one.set_aside],
        "without_worker": [one.task_type for one in _without_worker(lines)],
        "types": lines,
    }
    session.answer(data, [f"{HAS[runner]} the queue.", *_table(switch, lines)])


@command("switch")
@click.option("--back", is_flag=True, help="Give the queue back to the earlier runner.")
@click.option("--without-workers", is_flag=True, help="Switch although no worker is alive.")
@reason_option
@dry_run_option
def switch(session: Session, *, back: bool, without_workers: bool, reason: str | None, dry_run: bool) -> None:
    """Give the queue to the workers of Jobdeck. Jobs that run end where they began.

    The earlier runner keeps the task types that are set aside for it (jobdeck types set TYPE --set-aside).
    """
    from jobdeck.core.programme.cutover import ends  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read.type_settings import type_lines  # noqa: PLC0415 -- imported on first use

    wanted = EARLIER if back else JOBDECK
    with session.connection() as conn, ends.brief(conn, dry_run=dry_run):
        running = ends.switch(conn, back=back, actor=session.actor, reason=reason)
        lines = type_lines().run(conn)
        if not (back or without_workers or any(one.workers for one in lines)):
            raise Refused(NO_WORKER)
    waiting = [] if back else _without_worker(lines)
    for one in waiting:
        output.note(
            f"No live worker handles {one.task_type}, so its jobs wait. Start a worker that does, or leave the type to "
            f'the earlier runner: jobdeck types set {one.task_type} --set-aside --reason "…".'
        )
    data = {
        "runner": wanted,
        "running": running,
        "without_worker": [one.task_type for one in waiting],
        "dry_run": dry_run,
    }
    jobs = "1 job runs and ends where it began" if running == 1 else f"{running} jobs run and end where they began"
    session.answer(data, [f"{(WOULD_HAVE if dry_run else HAS)[wanted]} the queue. {jobs}."])


def _without_worker(lines: Sequence[TypeLine]) -> list[TypeLine]:
    """The types with jobs that no live worker handles and that are not set aside."""
    return [one for one in lines if (one.pending or one.running) and not one.workers and not one.set_aside]


def _table(switch: Processing, lines: Sequence[TypeLine]) -> list[str]:
    rows = [
        (one.task_type, f"{one.pending:,}", f"{one.running:,}", one.workers, _runs_where(switch, one))
        for one in lines
        if one.pending or one.running or one.set_aside
    ]
    return ["", *output.table(("TYPE", "PENDING", "RUNNING", "WORKERS", "RUNS"), rows)] if rows else []


def _runs_where(switch: Processing, one: TypeLine) -> str:
    if one.set_aside or switch.held_by is not None:
        return "with the earlier runner"
    return "with the workers" if one.workers else "nowhere: no live worker handles it"


@command("stay")
@click.option("--yes", is_flag=True, help="Confirm that the earlier runner cannot come back.")
@reason_option
@dry_run_option
def stay(session: Session, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Drop what only the original needs. After it the earlier runner cannot come back.

    Where types are set aside, the functions of the earlier runner stay.
    """
    from jobdeck.core.programme.cutover import ends  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read import jobs  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        if not (dry_run or yes) and any(
            one.kind == "function" for one in ends.stay(conn, actor=session.actor, reason=reason, dry_run=True)
        ):
            raise UsageError(
                "After this the earlier runner cannot come back. `jobdeck doctor --cutover` says whether all is well, "
                "and --dry-run lists what would be dropped. Add --yes to confirm."
            )
        dropped = ends.stay(conn, actor=session.actor, reason=reason, dry_run=dry_run)
        aside = jobs.processing().run(conn).set_aside
    data = {"dropped": dropped, "dry_run": dry_run}
    head = f"{len(dropped)} objects of the original {'would be' if dry_run else 'were'} dropped."
    if not dropped:
        head = f"There is nothing {'else ' if aside else ''}to drop: the original's parts are gone."
    if aside:
        head += (
            f" {aside[0].task_type} is set aside, so the functions of the earlier runner stay, and it can come back."
        )
    session.answer(data, [head, *(f"  {one.kind} {one.name}: {one.why}." for one in dropped)])


@command("undo")
@reason_option
@dry_run_option
def undo(session: Session, reason: str | None, dry_run: bool) -> None:
    """Bring the original's functions back, as they were before `jobdeck init`. Stop the workers first.

    Jobdeck's own tables, functions and rights stay, unused; `jobdeck init` takes over again.
    """
    from jobdeck.core.programme.cutover import ends  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        notes = ends.undo(conn, actor=session.actor, reason=reason, dry_run=dry_run)
    verb = "would have" if dry_run else "has"
    head = (
        f"The original {verb} its own functions, triggers and constraints again. Jobdeck's own tables, functions and "
        f"rights stay, unused. `jobdeck init` takes over again."
    )
    session.answer({"notes": notes, "dry_run": dry_run}, [head, *notes])


cutover = Group(
    "cutover",
    commands={"status": status, "watch": watch, "switch": switch, "stay": stay, "undo": undo},
    params=shared_options(),
    help="Take over from the original application, or give back.",
)
