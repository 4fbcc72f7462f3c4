"""`bulk`: actions on many jobs that outlive the command or the dashboard that began them, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jobdeck.core.commands import output
from jobdeck.core.commands.actions import confirm
from jobdeck.core.commands.session import Session, command, dry_run_option, shared_options, yes_option
from jobdeck.core.errors import Refused
from jobdeck.core.read.filters import parse_filter

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.model import Json
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, Choice

ANSWERS = 1000


def act_in_bulk(
    session: Session, conn: psycopg.Connection[Any], verb: str, *, expression: str | None, again: str | None,
    reason: str | None, dry_run: bool, yes: bool,
) -> int | None:  # fmt: skip
    """Freezes the jobs, asks for `--yes`, and acts on them batch by batch; what is left of it, workers finish."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    if again:
        choice = bulk.choose_again(conn, bulk.resolve(conn, again), "all", actor=session.actor)
    else:
        choice = bulk.choose(conn, parse_filter(expression or ""), actor=session.actor)
    if choice is None:
        session.answer({"bulk": None, "results": [], "dry_run": dry_run}, ["No job matches."])
        return None
    try:
        confirm(verb, choice.bulk.total, needed=True, given=yes or dry_run)
        if dry_run:
            _told(session, choice, verb)
            return None
        return _carried_out(session, conn, choice, verb, reason)
    finally:
        bulk.drop(conn, choice.bulk.id)


def _told(session: Session, choice: Choice, verb: str) -> None:
    shares = [{"task_type": share.task_type, "status": share.status, "jobs": share.jobs} for share in choice.shares]
    rows = [(share.task_type, share.status, share.jobs) for share in choice.shares]
    session.answer(
        {"bulk": None, "jobs": choice.bulk.total, "shares": shares, "dry_run": True},
        [f"This would {verb} {choice.bulk.total} jobs:", *output.table(("TASK", "STATUS", "JOBS"), rows)],
    )


def _carried_out(
    session: Session, conn: psycopg.Connection[Any], choice: Choice, verb: Any, reason: str | None
) -> int | None:
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    now = bulk.start(conn, choice.bulk.id, verb, actor=session.actor, reason=reason)
    output.note(f"Bulk action {now.id}: {verb} {now.total} jobs. If this command ends early, a worker goes on with it.")
    return _to_its_end(session, conn, now)


def _to_its_end(session: Session, conn: psycopg.Connection[Any], now: Bulk) -> int | None:
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    while now.state == "running":
        now = bulk.step(conn, now.id, driver=session.actor)
    return _answered(session, now, bulk.answers(conn, now.id, refused=True, limit=ANSWERS))


def _answered(session: Session, found: Bulk, refused: list[BulkAnswer]) -> int | None:
    lines = [_sentence(found), *output.section("Refused", answer_lines(refused) if refused else [])]
    session.answer({**_plain(found), "results": [answer_json(answer) for answer in refused], "dry_run": False}, lines)
    return 1 if found.refused or found.left else None


def answer_json(answer: BulkAnswer) -> Json:
    """One answer, with the keys that actions print."""
    return {
        "id": answer.job_id, "ok": answer.ok, "message": answer.message, "status": answer.status,
        "version": answer.version,
    }  # fmt: skip


def answer_lines(answers: list[BulkAnswer]) -> list[str]:
    """Answers, one a line."""
    words = {True: "done", False: "refused", None: "waiting"}
    rows = [(answer.job_id, answer.task_type, words[answer.ok], answer.message) for answer in answers]
    return output.table(("JOB", "TASK", "ANSWER", ""), rows)


def _plain(found: Bulk) -> Json:
    return {"bulk": found.id, **{name: value for name, value in output.plain(found).items() if name != "id"}}


def _sentence(found: Bulk) -> str:
    done = f"{found.done} of {found.total} jobs, {found.refused} of them refused"
    trouble = f" The last batch failed: {found.trouble}" if found.trouble else ""
    return f"{found.action} {found.state}: {done}.{trouble}"


@command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20)
def listed(session: Session, limit: int) -> None:
    """List bulk actions, newest first."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        found = bulk.newest(conn, limit=limit)
    rows = [
        (one.id, one.action, one.state, f"{one.done}/{one.total}", one.refused, output.when(one.started_at), one.actor,
         one.words)
        for one in found
    ]  # fmt: skip
    header = ("BULK", "ACTION", "STATE", "DONE", "REFUSED", "STARTED", "BY", "FILTER")
    session.answer({"bulks": [_plain(one) for one in found]}, output.table(header, rows) if rows else ["None."])


@command("show")
@click.argument("wanted", metavar="ID")
@click.option("--refused", is_flag=True, help="Only the jobs that were refused.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=ANSWERS)
def show(session: Session, wanted: str, refused: bool, limit: int) -> None:
    """Show how far a bulk action is, and the answer for each job."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        found = _found(conn, wanted)
        answers = bulk.answers(conn, found.id, refused=refused, limit=limit)
    pairs = [
        ("id", found.id), ("filter", found.words), ("by", found.actor), ("reason", found.reason),
        ("started", output.when(found.started_at)), ("ended", output.when(found.finished_at)),
        ("last batch by", found.driver), ("stopped by", found.stopped_by),
    ]  # fmt: skip
    session.answer(
        {**_plain(found), "results": [answer_json(answer) for answer in answers]},
        [_sentence(found), "", *output.facts(pairs), *output.section("Answers", answer_lines(answers))],
    )


@command("go-on")
@click.argument("wanted", metavar="ID")
@dry_run_option
def go_on(session: Session, wanted: str, dry_run: bool) -> int | None:
    """Carry a bulk action that nobody carries further to its end."""
    with session.connection() as conn:
        found = _found(conn, wanted)
        if found.state != "running":
            raise Refused(f"This bulk action has {found.state} already; there is nothing left to do.")
        if dry_run:
            session.answer({**_plain(found), "dry_run": True}, [f"This would go on: {_sentence(found)}"])
            return None
        return _to_its_end(session, conn, found)


@command("stop")
@click.argument("wanted", metavar="ID")
@dry_run_option
def stop(session: Session, wanted: str, dry_run: bool) -> None:
    """End a bulk action with what is done so far."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        found = _found(conn, wanted)
        if not bulk.stop(conn, found.id, actor=session.actor):
            raise Refused(f"This bulk action has {found.state} already; there is nothing to stop.")
        left = _found(conn, str(found.id))
    session.answer({**_plain(left), "dry_run": dry_run}, [_sentence(left)])


@command("undo")
@click.argument("wanted", metavar="ID")
@dry_run_option
@yes_option
def undo(session: Session, wanted: str, dry_run: bool, yes: bool) -> int | None:
    """Bring back what a bulk deletion deleted."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    with session.connection() as conn:
        found = _found(conn, wanted)
        if found.action != "delete":
            raise Refused(f"Only a deletion can be taken back; this was to {found.action}.")
        choice = bulk.choose_again(conn, found.id, "done", actor=session.actor)
        if choice is None:
            raise Refused("Nothing was deleted by it, so there is nothing to bring back.")
        try:
            confirm("restore", choice.bulk.total, needed=True, given=yes or dry_run)
            if dry_run:
                _told(session, choice, "restore")
                return None
            return _carried_out(session, conn, choice, "restore", None)
        finally:
            bulk.drop(conn, choice.bulk.id)


def _found(conn: psycopg.Connection[Any], wanted: str) -> Bulk:
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    found = bulk.find(conn, bulk.resolve(conn, wanted))
    if found is None:
        raise Refused(f"There is no bulk action {wanted}.")
    return found


bulk = click.Group(
    "bulk",
    commands={"list": listed, "show": show, "go-on": go_on, "stop": stop, "undo": undo},
    params=shared_options(),
    help="Actions on many jobs: how far they are, and the answer for each job.",
)
