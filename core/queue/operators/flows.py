"""What operators do to a whole flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jobdeck.core.queue.calls import Connection, rows

if TYPE_CHECKING:
    from uuid import UUID


class FlowCancelled(NamedTuple):
    """How many members were cancelled, were asked to stop, and had ended before."""

    cancelled: int
    asked: int
    ended: int


def cancel(
    conn: Connection, flow_id: UUID, *, actor: str, reason: str | None = None, dry_run: bool = False
) -> FlowCancelled:
    """Cancels all members of a flow that wait, and asks those that run to stop; all or none.

    Raises:
        Refused: there is no such flow, or another session has locked members of it for seconds.
    """
    statement = "SELECT cancelled, asked, ended FROM job_flow_cancel(%s, %s, %s, %s)"
    return FlowCancelled(**rows(conn, statement, (flow_id, actor, reason, dry_run))[0])
