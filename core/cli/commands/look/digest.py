"""`digest`: a summary of a shift, for the handover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.commands.act.notes import note_table
from jobdeck.core.cli.session import Session, command
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.read import reports
from jobdeck.core.times import parse_duration
from jobdeck.core.words.shift import action_words, deed_words, figures, markdown

if TYPE_CHECKING:
    from jobdeck.core.read.report_types import AuditEntry, Digest, ErrorGroup


@command("digest")
@click.option("--since", metavar="DURATION", default="8h", show_default=True, help="Length of the shift.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Write it as Markdown, for the hand-over.")
@click.option("--output", "target", metavar="FILE", help="With --markdown: write it to this file, which must be new.")
def digest(session: Session, since: str, as_markdown: bool, target: str | None) -> None:
    """Summarise a shift: runs, actions, errors and open notes."""
    if target is not None and not as_markdown:
        raise UsageError("--output needs --markdown.")
    if as_markdown and session.json:
        raise UsageError("Give --markdown or --json, not both.")
    shift = parse_duration(since, what="duration of --since")
    found = session.read(reports.digest(shift, production=session.settings.is_production))
    if as_markdown:
        _hand_over(markdown(found), target)
        return
    data = output.plain(found)
    for shown, trend in zip(data["errors"], found.errors, strict=True):
        shown["new"] = found.is_new(trend)
    session.answer(data, _lines(found))


def _hand_over(text: str, target: str | None) -> None:
    if target is None:
        output.write(map(output.Verbatim, text.splitlines()))
        return
    try:
        output.save(text, Path(target))
    except FileExistsError:
        raise Refused(f"The file {target} exists. Nothing was written; name another one.") from None
    except OSError as error:
        raise Refused(f"The file {target} cannot be written: {error.strerror}.") from None
    output.note(f"The hand-over is in {target}.")


def _lines(found: Digest) -> list[str]:
    shift = ("shift", f"{output.when(found.since)} to {output.when(found.at)}")
    errors = [
        (
            trend.count,
            trend.failed,
            _first_seen(found, trend),
            output.when(trend.last_seen),
            trend.task_type,
            output.line(trend.sample),
        )
        for trend in found.errors
    ]
    header = ("RUNS", "FAILED NOW", "FIRST SEEN", "LAST SEEN", "TASK", "ERROR")
    return [
        *output.facts([shift, *figures(found).items()]),
        *output.section("Notes", note_table(found.notes)),
        *output.section("Operators", output.table(("ACTOR", "ACTIONS"), action_words(found))),
        *output.section("Pauses", [_pause(entry) for entry in found.pauses]),
        *output.section("Errors", output.table(header, errors, least=("LAST SEEN", "FAILED NOW"))),
    ]


def _first_seen(found: Digest, trend: ErrorGroup) -> str:
    muted = found.mute_of(trend)
    if muted is not None:
        return f"muted until {output.when(muted.until)}"
    return "new" if found.is_new(trend) else output.when(trend.first_seen)


def _pause(entry: AuditEntry) -> str:
    return output.cut(f"{output.when(entry.at)}  {deed_words(entry)}", 160)
