"""Which jobs a command names, whether it may act on them, and how it prints the answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.cli import output
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.read.filters import parse_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from jobdeck.core.cli.session import Session
    from jobdeck.core.model import ActionResult, Json
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, Choice

MOST: Final = 10_000
"""The most jobs that one statement acts on; more are a bulk action, which outlives its command."""
INPUT: Final = "-"
IDS: Final = "[ID]…|-"
ANSWERS: Final = 1000
"""The most answers of a bulk action that a command prints."""


def answer_results(
    session: Session, results: Sequence[ActionResult], *, dry_run: bool, nothing: str = "No job matches."
) -> int | None:
    """Prints the answer for each id; the exit code is 1 when one was refused."""
    data = {
        "results": [
            {"id": result.job_id, "ok": result.ok, "message": result.message, "status": result.status,
             "version": result.version}
            for result in results
        ],
        "dry_run": dry_run,
    }  # fmt: skip
    done = "would" if dry_run else "done"
    rows = [(result.job_id, done if result.ok else "refused", result.message) for result in results]
    session.answer(data, output.table(("JOB", "ANSWER", ""), rows) if rows else [nothing])
    return None if all(result.ok for result in results) else 1


def resolved(conn: psycopg.Connection[Any], texts: Sequence[str]) -> list[UUID]:
    """The ids that these name, each once, in their order; `-` stands for those on the standard input.

    Raises:
        UsageError: one is no id or names several jobs, or the standard input cannot be read as ids.
        JobNotFound: one names none.
    """
    from jobdeck.core.read import jobs  # noqa: PLC0415 -- imported on first use

    if INPUT in texts:
        texts = _ids_from_input(texts)
    return list(dict.fromkeys(_whole_id(text) or jobs.resolve_id(conn, text) for text in texts))


def _ids_from_input(given: Sequence[str]) -> list[str]:
    if len(given) > 1:
        raise UsageError(f"{INPUT} stands for the ids on the standard input. Give no others beside it.")
    try:
        found = sys.stdin.read().split()
    except UnicodeDecodeError as error:
        raise UsageError("The standard input is not text. Give ids there, one a line.") from error
    if not found:
        raise UsageError("The standard input names no job. Give ids there, one a line.")
    if len(found) > MOST:
        raise UsageError(f"The standard input names {len(found)} jobs, and {MOST} at most can be given by their ids.")
    return found


def _whole_id(text: str) -> UUID | None:
    """A complete id, which need not be in the queue for the queue to answer for it."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def confirm(verb: str, count: int, *, needed: bool, given: bool) -> None:
    """Refuses what needs `--yes` and has none.

    Raises:
        Refused: with how many jobs it would be.
    """
    if needed and count and not given:
        noun = "job" if count == 1 else "jobs"
        raise Refused(
            f"This would {verb} {count} {noun}; nothing was changed. "
            "Look with --dry-run, then repeat with --yes to do it."
        )


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
            foresee(session, choice, verb)
            return None
        return start(session, conn, choice, verb, reason)
    finally:
        bulk.drop(conn, choice.bulk.id)


def foresee(session: Session, choice: Choice, verb: str) -> None:
    """Prints which jobs a bulk action would take, by type and status. Nothing is changed."""
    shares = [{"task_type": share.task_type, "status": share.status, "jobs": share.jobs} for share in choice.shares]
    rows = [(share.task_type, share.status, share.jobs) for share in choice.shares]
    session.answer(
        {"bulk": None, "jobs": choice.bulk.total, "shares": shares, "dry_run": True},
        [f"This would {verb} {choice.bulk.total} jobs:", *output.table(("TASK", "STATUS", "JOBS"), rows)],
    )


def start(session: Session, conn: psycopg.Connection[Any], choice: Choice, verb: Any, reason: str | None) -> int | None:
    """Starts a bulk action over the frozen jobs and carries it out."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    now = bulk.start(conn, choice.bulk.id, verb, actor=session.actor, reason=reason)
    output.note(f"Bulk action {now.id}: {verb} {now.total} jobs. If this command ends early, a worker goes on with it.")
    return finish(session, conn, now)


def finish(session: Session, conn: psycopg.Connection[Any], now: Bulk) -> int | None:
    """Carries a bulk action out, step by step, and prints how it ended."""
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- imported on first use

    while now.state == "running":
        now = bulk.step(conn, now.id, driver=session.actor)
    return answer_bulk(session, now, bulk.answers(conn, now.id, refused=True, limit=ANSWERS))


def answer_bulk(session: Session, found: Bulk, refused: list[BulkAnswer]) -> int | None:
    """Prints how a bulk action ended and which jobs refused it; the exit code is 1 when one did."""
    lines = [bulk_sentence(found), *output.section("Refused", answer_lines(refused) if refused else [])]
    session.answer(
        {**bulk_json(found), "results": [answer_json(answer) for answer in refused], "dry_run": False}, lines
    )
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


def bulk_json(found: Bulk) -> Json:
    """A bulk action as the commands print it in JSON."""
    return {"bulk": found.id, **{name: value for name, value in output.plain(found).items() if name != "id"}}


def bulk_sentence(found: Bulk) -> str:
    """How far a bulk action is, as one sentence."""
    done = f"{found.done} of {found.total} jobs, {found.refused} of them refused"
    trouble = f" The last batch failed: {found.trouble}" if found.trouble else ""
    return f"{found.action} {found.state}: {done}.{trouble}"
