"""Flows: their members, whom each waits for, and how far they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.errors import JobNotFound
from jobdeck.core.read import jobs
from jobdeck.core.read.batch import Query, combine, select

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import psycopg

    from jobdeck.core.read.rows import Row

    Connection = psycopg.Connection[Any]

STATES: Final = (
    "running", "claimed", "pending", "blocked", "succeeded", "failed", "cancelled", "skipped", "deleted", "gone",
)  # fmt: skip
"""The states of members, in the order in which they are counted out. A skipped one was not needed; of one that is gone
nothing is stored any more."""
_OPEN: Final = frozenset({"running", "claimed", "pending", "blocked"})
_BAD: Final = frozenset({"failed", "cancelled", "deleted"})

_FLOW: Final = """
SELECT f.id, f.name, f.created_at, f.created_by, f.final FROM job_flow_list AS f
WHERE f.id = %(id)s OR f.id = (SELECT m.flow_id FROM job_flow_member_list AS m WHERE m.job_id = %(id)s)
"""
_MEMBERS: Final = """
SELECT m.job_id, m.name, m.task_type, m.needs, m.added_by, m.set_aside, m.state, m.last_outcome, m.last_error,
    m.attempts, m.ended_at
FROM job_flow_member_list AS m
WHERE m.flow_id = %(id)s OR m.flow_id = (SELECT o.flow_id FROM job_flow_member_list AS o WHERE o.job_id = %(id)s)
ORDER BY m.job_id
"""
_LINKS: Final = """
SELECT d.job_id, d.blocker_id FROM job_dependency_list AS d
WHERE d.job_id IN (
    SELECT m.job_id FROM job_flow_member_list AS m
    WHERE m.flow_id = %(id)s OR m.flow_id = (SELECT o.flow_id FROM job_flow_member_list AS o WHERE o.job_id = %(id)s))
ORDER BY d.job_id, d.blocker_id
"""
# The newest flows first; the members of each are one range of an index.
_NEWEST: Final = """
SELECT f.id, f.name, f.created_at, f.created_by, f.final, s.states
FROM (SELECT * FROM job_flow_list ORDER BY created_at DESC, id DESC LIMIT %(limit)s) AS f
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(c.state, c.members), '{}') AS states FROM (
        SELECT coalesce(nullif(m.set_aside, 'lost'), m.state) AS state, count(*) AS members
        FROM job_flow_member_list AS m WHERE m.flow_id = f.id GROUP BY 1) AS c
) AS s
ORDER BY f.created_at DESC, f.id DESC
"""


@dataclass(frozen=True, slots=True)
class FlowMember:
    """A member of a flow, with those of its blockers that are members, in their order, and the others (`outside`).

    `state` is one of `STATES`. `added_by` is the member whose run added it.
    """

    job_id: UUID
    name: str
    task_type: str
    needs: str
    state: str
    added_by: UUID | None = None
    last_outcome: str | None = None
    last_error: str | None = None
    attempts: int | None = None
    ended_at: datetime | None = None
    blockers: tuple[UUID, ...] = ()
    outside: tuple[UUID, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in _OPEN


@dataclass(frozen=True, slots=True)
class FlowLine:
    """A flow, and how many of its members are in each state.

    Of a `final` one, no member is retried once its failure callback has begun.
    """

    id: UUID
    name: str
    created_at: datetime
    created_by: str
    states: dict[str, int]
    final: bool = False

    @property
    def state(self) -> str:
        """`running` while a member waits or runs, then `failed` if one did not succeed, else `succeeded`."""
        if self.states.keys() & _OPEN:
            return "running"
        return "failed" if self.states.keys() & _BAD else "succeeded"

    @property
    def ended(self) -> int:
        return sum(number for state, number in self.states.items() if state not in _OPEN)

    @property
    def counts(self) -> str:
        """How many members are in each state: `2 running, 8 succeeded`."""
        return ", ".join(f"{self.states[state]:,} {state}" for state in STATES if state in self.states)


@dataclass(frozen=True, slots=True)
class FlowTree:
    """A flow with its members, in the order of their ids, in which each comes after those that it waits for."""

    line: FlowLine
    members: tuple[FlowMember, ...]

    def undone_by(self, job_id: UUID) -> FlowMember | None:
        """The member that has begun because this one, or another one that it waited for, did not succeed."""
        waiting = (one for one in self.members if one.needs == "failure" and job_id in one.blockers)
        return next((one for one in waiting if one.attempts), None)


def flow(wanted: UUID) -> Query[FlowTree | None]:
    """The flow with this id, or the one of which the job with this id is a member; None if there is none."""
    given = {"id": wanted}
    return combine(
        select(_FLOW, given, read=list),
        select(_MEMBERS, given, read=list),
        select(_LINKS, given, read=list),
        read=_tree,
    )


def newest(limit: int) -> Query[tuple[FlowLine, ...]]:
    """The newest flows, the last enqueued one first."""
    return select(_NEWEST, {"limit": limit}, read=lambda rows: tuple(FlowLine(**row) for row in rows))


def resolve_flow(conn: Connection, text: str) -> UUID:
    """The id of a flow, from its own id or the id of a member, or digits with which one of them begins or ends.

    Raises:
        UsageError: the text is not an id, is too short, or fits several.
        JobNotFound: no id fits.
    """
    digits = text.strip().lower().replace("-", "")
    found: list[Row] = []
    if digits and len(digits) <= 32 and not set(digits) - set("0123456789abcdef"):
        bounds = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f")), "end": digits}
        found = select(
            """
            SELECT id FROM job_flow_list
            WHERE id BETWEEN %(low)s AND %(high)s OR length(%(end)s) >= 8 AND right(id::text, 12) LIKE '%%' || %(end)s
            ORDER BY id LIMIT 2
            """,
            bounds,
            read=list,
        ).run(conn)
    if len(found) == 1:
        return UUID(str(found[0]["id"]))
    try:
        return jobs.resolve_id(conn, text)
    except JobNotFound:
        raise JobNotFound(f"No flow and no job has an ID that starts or ends with {text}.") from None


def _tree(flows: list[Row], members: list[Row], links: list[Row]) -> FlowTree | None:
    if not flows:
        return None
    blockers: dict[UUID, list[UUID]] = {}
    for link in links:
        blockers.setdefault(link["job_id"], []).append(link["blocker_id"])
    inside = {row["job_id"] for row in members}
    found = tuple(_member(row, blockers.get(row["job_id"], ()), inside) for row in members)
    return FlowTree(FlowLine(**flows[0], states=dict(Counter(member.state for member in found))), found)


def _member(row: Row, blockers: Iterable[UUID], inside: set[UUID]) -> FlowMember:
    skipped = row["set_aside"] == "skipped"
    kept = {name: value for name, value in row.items() if name != "set_aside"}
    return FlowMember(
        **kept | {"state": "skipped" if skipped else row["state"]},
        blockers=tuple(one for one in blockers if one in inside),
        outside=tuple(one for one in blockers if one not in inside),
    )
