"""`bulk`: show and control bulk actions, which survive the command or the dashboard that started them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.answers import (
    ANSWERS,
    act_in_bulk,
    answer_json,
    answer_lines,
    bulk_json,
    bulk_sentence,
    finish,
)
from jobdeck.core.cli.session import Group, Session, command, detach_option, dry_run_option, shared_options, yes_option
from jobdeck.core.errors import Refused
from jobdeck.core.queue import bulk as actions
from jobdeck.core.queue.bulk_model import UNDONE_BY, Bulk

if TYPE_CHECKING:
    import psycopg


@command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number listed.")
def listed(session: Session, limit: int) -> None:
    """List bulk actions, newest first."""
    with session.connection() as conn:
        found = actions.newest(conn, limit=limit)
    rows = [
        (one.id, one.action, one.state, f"{one.done}/{one.total}", one.refused, output.when(one.started_at), one.actor,
         one.words)
        for one in found
    ]  # fmt: skip
    header = ("BULK", "ACTION", "STATE", "DONE", "REFUSED", "STARTED", "BY", "FILTER")
    session.answer(
        {"bulks": [bulk_json(one) for one in found]},
        output.table(header, rows, least=("BY", "STARTED")) or ["No bulk actions."],
    )


@command("show")
@click.argument("wanted", metavar="ID")
@click.option("--refused", is_flag=True, help="Only jobs that were refused.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=ANSWERS,
    show_default=True,
    help="Maximum number of jobs listed.",
)
def show(session: Session, wanted: str, refused: bool, limit: int) -> None:
    """Show the progress of a bulk action and its result per job."""
    with session.connection() as conn:
        found = _found(conn, wanted)
        answers = actions.answers(conn, found.id, refused=refused, limit=limit)
    pairs = [
        ("id", found.id), ("filter", found.words), ("by", found.actor), ("reason", found.reason),
        ("started", output.when(found.started_at)), ("ended", output.when(found.finished_at)),
        ("last batch by", found.driver), ("stopped by", found.stopped_by),
    ]  # fmt: skip
    session.answer(
        {**bulk_json(found), "results": [answer_json(answer) for answer in answers]},
        [bulk_sentence(found), "", *output.facts(pairs), *output.section("Answers", answer_lines(answers))],
    )


@command("resume")
@click.argument("wanted", metavar="ID")
@dry_run_option
def resume(session: Session, wanted: str, dry_run: bool) -> int | None:
    """Resume a stalled bulk action."""
    with session.connection() as conn:
        found = _found(conn, wanted)
        if found.state != "running":
            raise Refused(f"This bulk action has already {found.state}.")
        if dry_run:
            session.answer({**bulk_json(found), "dry_run": True}, [f"This would resume: {bulk_sentence(found)}"])
            return None
        return finish(session, conn, found)


@command("stop")
@click.argument("wanted", metavar="ID")
@dry_run_option
def stop(session: Session, wanted: str, dry_run: bool) -> None:
    """Stop a bulk action. Jobs already changed stay changed."""
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        found = _found(conn, wanted)
        if not actions.stop(conn, found.id, actor=session.actor):
            raise Refused(f"This bulk action has already {found.state}.")
        left = _found(conn, str(found.id))
    session.answer({**bulk_json(left), "dry_run": dry_run}, [bulk_sentence(left)])


@command("undo")
@click.argument("wanted", metavar="ID")
@detach_option
@dry_run_option
@yes_option
def undo(session: Session, wanted: str, detach: bool, dry_run: bool, yes: bool) -> int | None:
    """Undo a deletion or an edit of many jobs.

    Deleted jobs are restored. Edited ones get their former payload back, unless they were changed or claimed since.
    """
    with session.connection() as conn:
        found = _found(conn, wanted)
        choice = actions.choose_undo(conn, found, actor=session.actor)
        if choice is None:
            raise Refused("This bulk action changed no jobs, so there is nothing to undo.")
        verb = UNDONE_BY[found.action]
        return act_in_bulk(session, conn, verb, choice, reason=None, dry_run=dry_run, yes=yes, detach=detach)


def _found(conn: psycopg.Connection[Any], wanted: str) -> Bulk:

    found = actions.find(conn, actions.resolve(conn, wanted))
    if found is None:
        raise Refused(f"There is no bulk action {wanted}.")
    return found


bulk = Group(
    "bulk",
    commands={"list": listed, "show": show, "resume": resume, "stop": stop, "undo": undo},
    params=shared_options(),
    help="Show and control bulk actions.",
)
