"""`cutover watch`: shows what a run here would do with each job that the earlier runner takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.commands.run.workers import named_types, refuse_other_roles
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.postgres.reconnecting import LOST
from jobdeck.core.redact import safe_error, scrub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.programme.cutover.shadow import Foreseen, Watch

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
