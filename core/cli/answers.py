"""For commands that act on jobs: find the jobs, ask for confirmation, run bulk actions, print the results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.cli import output
from jobdeck.core.cli.output import Progress
from jobdeck.core.cli.signals import stop_signals
from jobdeck.core.errors import Interrupted, Refused, UsageError
from jobdeck.core.queue import bulk
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.read import jobs
from jobdeck.core.read.operators import reach
from jobdeck.core.read.pages.outlook import outlook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from jobdeck.core.cli.session import Session
    from jobdeck.core.model import ActionResult, Json
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, Choice
    from jobdeck.core.read.pages.outlook import Outlook

MOST: Final = 10_000
"""Maximum number of ids in standard input, and of jobs that a dry run answers one by one."""
AT_ONCE: Final = 500
"""Maximum number of jobs that one transaction locks. More jobs become a bulk action, which survives the command."""
INPUT: Final = "-"
IDS: Final = "[ID]…|-"
ANSWERS: Final = 1000
"""Maximum number of results of a bulk action that a command prints."""


def answer_results(
    session: Session, results: Sequence[ActionResult], *, dry_run: bool, nothing: str = "No job matches.",
    starts: Outlook | None = None,
) -> int | None:  # fmt: skip
    """Prints the result for each job and returns the exit code: 1 when a job was refused."""
    data = {"results": [answer_json(result) for result in results], "dry_run": dry_run, **_started(starts)}
    done = "would" if dry_run else "done"
    rows = [(result.job_id, done if result.ok else "refused", result.message) for result in results]
    session.answer(data, output.table(("JOB", "ANSWER", ""), rows) or [nothing])
    return None if all(result.ok for result in results) else 1


def resolved(conn: psycopg.Connection[Any], texts: Sequence[str]) -> list[UUID]:
    """Resolves ids and parts of ids, without duplicates and in order; `-` reads them from standard input.

    Raises:
        UsageError: a text is not an id or matches several jobs, or standard input is not a list of ids.
        JobNotFound: a text matches no job.
    """
    if INPUT in texts:
        texts = _ids_from_input(texts)
    return list(dict.fromkeys(_whole_id(text) or jobs.resolve_id(conn, text) for text in texts))


def _ids_from_input(given: Sequence[str]) -> list[str]:
    if len(given) > 1:
        raise UsageError(f"{INPUT} reads ids from standard input. Do not combine it with other ids.")
    try:
        found = sys.stdin.read().split()
    except UnicodeDecodeError as error:
        raise UsageError("Standard input is not text. Write one id per line.") from error
    if not found:
        raise UsageError("Standard input holds no id. Write one id per line.")
    if len(found) > MOST:
        raise UsageError(f"Standard input holds {len(found)} ids; the maximum is {MOST}. Use --filter for more jobs.")
    return found


def _whole_id(text: str) -> UUID | None:
    """A complete id. It is not looked up, because the action itself reports an unknown job."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def confirm(verb: str, count: int, *, needed: bool, given: bool) -> None:
    """Checks that `--yes` was given where it is needed.

    Raises:
        Refused: it was not. The message says how many jobs would change.
    """
    if needed and count:
        require_yes(f"{verb} {count} {'job' if count == 1 else 'jobs'}", given=given)


def require_yes(what: str, *, given: bool) -> None:
    """Checks that `--yes` was given for `what` the command would do.

    Raises:
        Refused: it was not.
    """
    if not given:
        raise Refused(f"This would {what}; nothing was changed. Check with --dry-run, then run it again with --yes.")


def in_parts(action: Callable[[Sequence[UUID]], list[ActionResult]], ids: Sequence[UUID]) -> list[ActionResult]:
    """The results of an action that is called with at most `AT_ONCE` ids at a time."""
    return [result for part in range(0, len(ids), AT_ONCE) for result in action(ids[part : part + AT_ONCE])]


def chosen(
    session: Session, conn: psycopg.Connection[Any], *, ids: Sequence[UUID] = (), again: str | None = None,
    expression: str | None = None,
) -> Choice | None:  # fmt: skip
    """Freezes the list of jobs: these ids, those of the bulk action `again`, or those that match `expression`."""
    if ids:
        return bulk.choose_ids(conn, dict.fromkeys(ids), actor=session.actor)
    if again:
        return bulk.choose_again(conn, bulk.resolve(conn, again), "all", actor=session.actor)
    return bulk.choose(conn, reach.with_ids(conn, session.filter(expression)), actor=session.actor)


def act_in_bulk(
    session: Session, conn: psycopg.Connection[Any], verb: str, choice: Choice | None, *, reason: str | None,
    dry_run: bool, yes: bool, detach: bool,
) -> int | None:  # fmt: skip
    """Requires `--yes`, and changes the jobs of the choice in batches. Workers finish an interrupted action.

    With `detach` workers carry it out from the beginning.
    """
    if choice is None:
        session.answer({"bulk": None, "results": [], "dry_run": dry_run}, ["No job matches."])
        return None
    try:
        confirm(verb, choice.bulk.total, needed=True, given=yes or dry_run)
        if dry_run:
            preview(session, choice, verb, starting(conn, choice) if verb == "retry" else None)
            return None
        return start(session, conn, choice, verb, reason, detach=detach)
    finally:
        bulk.drop(conn, choice.bulk.id)


def starting(conn: psycopg.Connection[Any], choice: Choice) -> Outlook:
    """What starts if these frozen jobs are retried, with what is due of their types; says so on standard error."""
    found = outlook(choice.types, retried=choice.bulk.id).run(conn)
    output.note(f"With what is due of these types: {found.words}")
    return found


def preview(session: Session, choice: Choice, verb: str, starts: Outlook | None = None) -> None:
    """Prints how many jobs a bulk action would change, by type and status; `starts` is a part of the JSON alone."""
    shares = [{"task_type": share.task_type, "status": share.status, "jobs": share.jobs} for share in choice.shares]
    rows = [(share.task_type, share.status, share.jobs) for share in choice.shares]
    session.answer(
        {"bulk": None, "jobs": choice.bulk.total, "shares": shares, "dry_run": True, **_started(starts)},
        [f"This would {verb} {choice.bulk.total} jobs:", *output.table(("TASK", "STATUS", "JOBS"), rows)],
    )


def _started(starts: Outlook | None) -> Json:
    return {} if starts is None else {"starts": output.plain(starts)}


def start(
    session: Session, conn: psycopg.Connection[Any], choice: Choice, verb: Any, reason: str | None, *, detach: bool
) -> int | None:
    """Starts a bulk action on the frozen jobs and runs it to its end, or with `detach` leaves it to the workers."""
    now = bulk.start(conn, choice.bulk.id, verb, actor=session.actor, reason=reason)
    if detach:
        _answer_detached(session, conn, now)
        return None
    output.note(f"Bulk action {now.id}: {verb} {now.total} jobs. If this command is interrupted, a worker finishes it.")
    return finish(session, conn, now)


def finish(session: Session, conn: psycopg.Connection[Any], now: Bulk) -> int | None:
    """Runs a bulk action to its end and prints the result."""
    progress = Progress(str(now.action), now.total, done=now.done)
    with stop_signals() as stop:
        while now.state == "running":
            if stop.asked:
                raise Interrupted(
                    f"Interrupted after {now.done:,} of {now.total:,} jobs; a worker continues. "
                    f"`jobdeck bulk show {now.id}` shows its progress, `jobdeck bulk stop {now.id}` stops it."
                )
            if now.action == "edit":
                now = bulk_edit.step(conn, session.registry, now.id, settings=session.settings, driver=session.actor)
            else:
                now = bulk.step(conn, now.id, driver=session.actor)
            progress.at(now.done)
    return answer_bulk(session, now, bulk.answers(conn, now.id, refused=True, limit=ANSWERS))


def _answer_detached(session: Session, conn: psycopg.Connection[Any], now: Bulk) -> None:

    if not any(worker.alive for worker in jobs.workers().run(conn)):
        output.note(f"No worker is running. The next one does it, or `jobdeck bulk resume {now.id}`.")
    session.answer(
        {**bulk_json(now), "results": [], "dry_run": False},
        [f"Workers will {now.action} {now.total:,} jobs. `jobdeck bulk show {now.id}` shows the progress."],
    )


def answer_bulk(session: Session, found: Bulk, refused: list[BulkAnswer]) -> int | None:
    """Prints the state of a bulk action and its refused jobs. The exit code is 1 when jobs were refused or left."""
    lines = [bulk_sentence(found), *output.section("Refused", answer_lines(refused))]
    session.answer(
        {**bulk_json(found), "results": [answer_json(answer) for answer in refused], "dry_run": False}, lines
    )
    return 1 if found.refused or found.left else None


def answer_json(answer: ActionResult | BulkAnswer) -> Json:
    """The result for one job, of an action or of a bulk action."""
    return {
        "id": answer.job_id, "ok": answer.ok, "code": answer.code, "message": answer.message,
        "status": answer.status, "version": answer.version,
    }  # fmt: skip


def answer_lines(answers: list[BulkAnswer]) -> list[str]:
    words = {True: "done", False: "refused", None: "waiting"}
    rows = [(answer.job_id, answer.task_type, words[answer.ok], answer.message) for answer in answers]
    return output.table(("JOB", "TASK", "ANSWER", ""), rows)


def bulk_json(found: Bulk) -> Json:
    """The JSON of a bulk action. Its id is under `bulk`."""
    return {"bulk": found.id, **{name: value for name, value in output.plain(found).items() if name != "id"}}


def bulk_sentence(found: Bulk) -> str:
    done = f"{found.done} of {found.total} jobs, {found.refused} of them refused"
    trouble = f" The last batch failed: {found.trouble}" if found.trouble else ""
    return f"{found.action} {found.state}: {done}.{trouble}"
