"""`flow`: the newest flows, the members of one as a tree, and the cancellation of a whole flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.answers import confirm
from jobdeck.core.cli.session import Session, command, dry_run_option, limit_option, reason_option, yes_option
from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.queue.operators import flows as operators
from jobdeck.core.read.pages import flow_tree, flows
from jobdeck.core.words.wording import flow_cancel_words

if TYPE_CHECKING:
    from jobdeck.core.read.pages.flow_tree import TreeLine
    from jobdeck.core.read.pages.flows import FlowLine, FlowMember, FlowTree

CANCEL: Final = "cancel"


@command("flow")
@click.argument("first", required=False, metavar="[[cancel]")
@click.argument("second", required=False, metavar="ID]")
@limit_option(50, 10_000, "Maximum number of flows, or of lines of the tree.")
@reason_option
@dry_run_option
@yes_option
def flow(
    session: Session, first: str | None, second: str | None, limit: int, reason: str | None, dry_run: bool, yes: bool
) -> int | None:
    """List the newest flows, show one as a tree, or cancel one.

    ID is that of the flow or of one of its jobs.
    """
    if first == CANCEL:
        if second is None:
            raise UsageError("Name the flow: `jobdeck flow cancel ID`. `jobdeck flow` lists them.")
        return _cancel(session, second, reason, dry_run=dry_run, yes=yes)
    if second is not None:
        raise UsageError("Name one flow, or use `jobdeck flow cancel ID`.")
    if reason or dry_run or yes:
        raise UsageError("--reason, --dry-run and --yes are for `jobdeck flow cancel ID`.")
    if first is None:
        _list(session, limit)
    else:
        _show(session, first, limit)
    return None


def _list(session: Session, limit: int) -> None:

    found = session.read(flows.newest(limit))
    rows = [(one.id, one.name, one.state, one.counts, output.when(one.created_at), one.created_by) for one in found]
    text = output.table(("FLOW", "NAME", "STATE", "MEMBERS", "CREATED", "BY"), rows, least=("BY", "CREATED"))
    session.answer({"flows": [_line_json(one) for one in found]}, text or ["No flows."])


def _show(session: Session, wanted: str, limit: int) -> None:

    with session.connection() as conn:
        wanted_id = flows.resolve_flow(conn, wanted)
        found = flows.flow(wanted_id).run(conn)
    if found is None:
        raise _no_flow(wanted)
    line = found.line
    facts = [
        ("flow", line.id),
        ("name", line.name),
        ("state", f"{line.state}: {line.ended:,} of {len(found.members):,} members have ended"),
        ("members", line.counts),
        ("final", "no member is retried once the failure callback has begun" if line.final else None),
        ("created", f"{output.when(line.created_at)} by {line.created_by}"),
    ]
    drawn = flow_tree.lines(found, most=limit)
    rows = [_row(one) for one in drawn]
    tree = output.table(("MEMBER", "STATE", "TASK", "JOB", "WAITS", "ERROR"), rows, least=("ERROR", "TASK", "WAITS"))
    session.answer(_tree_json(found), [*output.facts(facts), *output.section("Members", tree)])


def _cancel(session: Session, wanted: str, reason: str | None, *, dry_run: bool, yes: bool) -> int | None:

    with session.connection() as conn:
        found = flows.flow(flows.resolve_flow(conn, wanted)).run(conn)
        if found is None:
            raise _no_flow(wanted)
        confirm("cancel", sum(member.is_open for member in found.members), needed=True, given=yes or dry_run)
        done = operators.cancel(conn, found.line.id, actor=session.actor, reason=reason, dry_run=dry_run)
    session.answer(
        {"flow": found.line.id, **done._asdict(), "dry_run": dry_run}, [flow_cancel_words(done, dry_run=dry_run)]
    )
    return None


def _no_flow(wanted: str) -> JobNotFound:
    return JobNotFound(f"Job {wanted} is in no flow, and no flow has this ID. `jobdeck flow` lists the flows.")


def _row(line: TreeLine) -> tuple[object, ...]:
    member = line.member
    if member is None:
        return f"{line.prefix}{line.text}", "", "", "", "", ""
    return (
        f"{line.prefix}{member.name}", _state(member), member.task_type, member.job_id, line.text,
        output.line(member.last_error) if member.last_error else "",
    )  # fmt: skip


def _state(member: FlowMember) -> str:
    return f"{member.state}, {member.last_outcome}" if member.last_outcome == "partial" else member.state


def _line_json(line: FlowLine) -> dict[str, Any]:
    return {
        "id": line.id, "name": line.name, "state": line.state, "members": line.states, "created_at": line.created_at,
        "created_by": line.created_by, "final": line.final,
    }  # fmt: skip


def _tree_json(tree: FlowTree) -> dict[str, Any]:
    return {
        **_line_json(tree.line),
        "jobs": [
            {"id": one.job_id, "name": one.name, "task_type": one.task_type, "state": one.state, "needs": one.needs,
             "after": [*one.blockers, *one.outside], "added_by": one.added_by, "last_outcome": one.last_outcome,
             "attempts": one.attempts, "last_error": one.last_error, "ended_at": one.ended_at}
            for one in tree.members
        ],
    }  # fmt: skip
