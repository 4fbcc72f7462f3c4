"""Commands that act on jobs and print a result per job: `retry`, `run-again`, `cancel`, `delete`, `restore`.

More than 500 jobs, and the jobs of an earlier bulk action, go through `jobdeck.core.queue.bulk`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import answers, output
from jobdeck.core.cli.answers import IDS, INPUT, act_in_bulk, answer_results, confirm, resolved
from jobdeck.core.cli.session import Session, command, detach_option, dry_run_option, reason_option, yes_option
from jobdeck.core.errors import UsageError
from jobdeck.core.queue import bulk, operator, service
from jobdeck.core.queue.requests import parse_object
from jobdeck.core.read import jobs
from jobdeck.core.read.operators import reach
from jobdeck.core.read.operators.reach import check_type

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    import psycopg

    from jobdeck.core.model import ActionResult

POLL_SECONDS: Final = 0.2
"""The time between two looks at a canary that is waited for."""


_again_option = click.option("--bulk", "again", metavar="BULK", help="Apply to the jobs of an earlier bulk action.")


def _action_options(function: Callable[..., int | None]) -> Callable[..., int | None]:
    for option in (
        yes_option,
        dry_run_option,
        detach_option,
        reason_option,
        click.option("--if-version", type=click.IntRange(0), help="Only if the job still has this version."),
        click.option(
            "--filter", "expression", metavar="FILTER", help='Apply to matching jobs: "status:failed type:X".'
        ),
        _again_option,
        click.argument("ids", nargs=-1, metavar=IDS),
    ):
        function = option(function)
    return function


@command("retry")
@click.option("--canary", is_flag=True, help="Run one job next and alone, also while it is paused.")
@click.option("--wait", is_flag=True, help="With --canary: wait for its result, which decides the exit code.")
@_action_options
def retry(session: Session, canary: bool, wait: bool, **given: Any) -> int | None:
    """Make jobs due now. A job that succeeded and left the queue is refused: see `run-again`."""
    if canary:
        return _canary(session, wait=wait, **given)
    if wait:
        raise UsageError("--wait needs --canary.")
    return _act(session, "retry", operator.retry, **given)


def _canary(session: Session, *, wait: bool, **given: Any) -> int | None:
    """Asks for a canary and, with `wait`, prints its result; the exit code is 1 unless it succeeded."""
    ids, dry_run = given["ids"], given["dry_run"]
    if len(ids) != 1 or ids[0] == INPUT or given["expression"] or given["again"]:
        raise UsageError("--canary needs exactly one job ID.")
    with session.connection() as conn:
        asked = operator.ask_canary(
            conn, resolved(conn, ids)[0], actor=session.actor, version=given["if_version"], reason=given["reason"],
            dry_run=dry_run,
        )  # fmt: skip
        if asked.canary is None or not wait:
            return answer_results(session, [asked.result], dry_run=dry_run)
        output.note("Waiting for the result. It continues if you interrupt this command; the audit has its result.")
        while not (answer := operator.canary_answer(conn, asked.canary)).settled:
            time.sleep(POLL_SECONDS)
    session.answer({**output.plain(answer), "dry_run": False}, [f"{answer.job_id}: {answer.message}"])
    return None if answer.state == "succeeded" else 1


@command("run-again")
@click.argument("ids", nargs=-1, required=True, metavar=IDS)
@click.option("--payload", metavar="JSON", help="Another complete payload, for one job.")
@reason_option
@dry_run_option
@yes_option
def run_again(
    session: Session, ids: tuple[str, ...], payload: str | None, reason: str | None, dry_run: bool, yes: bool
) -> int | None:
    """Run jobs again that have succeeded. A job that left the queue runs as a copy."""
    other = None if payload is None else parse_object(payload)
    with session.connection() as conn:
        found = resolved(conn, ids)
        if other is not None and len(found) != 1:
            raise UsageError("--payload needs exactly one job.")
        confirm("run again", len(found), needed=len(found) > 1, given=yes or dry_run)
        results = service.run_again(
            conn, session.registry, found, settings=session.settings, actor=session.actor, payload=other,
            reason=reason, dry_run=dry_run,
        )  # fmt: skip
    return answer_results(session, results, dry_run=dry_run)


@command("cancel")
@_action_options
def cancel(session: Session, **given: Any) -> int | None:
    """Cancel jobs. A running job is cancelled when its handler agrees to stop."""
    return _act(session, "cancel", operator.cancel, **given)


@command("delete")
@_action_options
def delete(session: Session, **given: Any) -> int | None:
    """Delete jobs; `restore` brings them back for 7 days. Needs --yes."""
    return _act(session, "delete", operator.delete, **given)


@command("restore")
@click.argument("ids", nargs=-1, metavar=IDS)
@_again_option
@reason_option
@detach_option
@dry_run_option
@yes_option
def restore(
    session: Session,
    *,
    ids: tuple[str, ...],
    again: str | None,
    reason: str | None,
    detach: bool,
    dry_run: bool,
    yes: bool,
) -> int | None:
    """Restore deleted jobs from the trash."""
    if bool(ids) == bool(again):
        raise UsageError("Name the jobs to restore, with ids or --bulk.")
    with session.connection() as conn:
        found = [] if again else resolved(conn, ids)
        if again or (not dry_run and (detach or len(found) > answers.AT_ONCE)):
            choice = answers.chosen(session, conn, ids=found, again=again)
            return act_in_bulk(session, conn, "restore", choice, reason=reason, dry_run=dry_run, yes=yes, detach=detach)
        confirm("restore", len(found), needed=len(found) > 1, given=yes or dry_run)
        action = partial(operator.restore, conn, actor=session.actor, reason=reason, dry_run=dry_run)
        results = answers.in_parts(action, found)
    return answer_results(session, results, dry_run=dry_run)


def _act(  # noqa: PLR0913 -- one keyword per option
    session: Session,
    verb: str,
    action: Callable[..., list[ActionResult]],
    *,
    ids: tuple[str, ...],
    expression: str | None,
    again: str | None,
    if_version: int | None,
    reason: str | None,
    detach: bool,
    dry_run: bool,
    yes: bool,
) -> int | None:
    if (bool(ids), bool(expression), bool(again)).count(True) != 1:
        raise UsageError(f"Name the jobs to {verb}, with ids, --filter or --bulk.")
    with session.connection() as conn:
        found = resolved(conn, ids) if ids else [] if again else _matching(session, conn, expression or "")
        if if_version is not None and (len(found) != 1 or detach):
            raise UsageError("--if-version needs exactly one job, and no --detach.")
        if again or (detach and found and not dry_run) or len(found) > (answers.MOST if dry_run else answers.AT_ONCE):
            choice = answers.chosen(session, conn, ids=found if ids else (), again=again, expression=expression)
            return act_in_bulk(session, conn, verb, choice, reason=reason, dry_run=dry_run, yes=yes, detach=detach)
        confirm(verb, len(found), needed=verb == "delete" or len(found) > 1, given=yes or dry_run)
        versions = {found[0]: if_version} if if_version is not None else None
        act = partial(action, conn, actor=session.actor, versions=versions, reason=reason, dry_run=dry_run)
        results, starts = answers.in_parts(act, found), None
        if dry_run and verb == "retry" and any(one.ok for one in results):
            choice = bulk.choose_ids(conn, dict.fromkeys(one.job_id for one in results if one.ok), actor=session.actor)
            starts = answers.starting(conn, choice)
            bulk.drop(conn, choice.bulk.id)
    return answer_results(session, results, dry_run=dry_run, starts=starts)


def _matching(session: Session, conn: psycopg.Connection[Any], expression: str) -> list[UUID]:

    wanted = reach.with_ids(conn, session.filter(expression))
    found = jobs.find_ids(conn, wanted, limit=answers.MOST + 1)
    if wanted.task_type and not found:
        check_type(conn, wanted.task_type, session.registry.names)
    return found
