"""Steps that the tests of flows share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from jobdeck.core.model import ClaimedJob
from tests.support.queue import ACTOR, Connection, Row

TYPES = ("alpha", "beta", "gamma")


def member(name: str, after: Iterable[str] = (), **fields: Any) -> dict[str, Any]:
    """A member as the SQL function reads it, of the type `alpha` unless another one is given."""
    return {"name": name, "task_type": "alpha", "after": list(after), **fields}


def enqueue(conn: Connection, *members: dict[str, Any]) -> dict[str, UUID]:
    """Enqueues a flow, and returns the ids of its jobs by name."""
    statement = "SELECT name, job_id FROM job_flow_create('nightly', %s, %s)"
    return dict(conn.execute(statement, (json.dumps(members), ACTOR)).fetchall())


def extend(conn: Connection, run: ClaimedJob, *members: dict[str, Any]) -> dict[str, UUID]:
    """Adds members to the flow of a run."""
    statement = "SELECT name, job_id FROM job_flow_add(%s, %s, %s, %s)"
    return dict(conn.execute(statement, (run.id, run.run_token, json.dumps(members), ACTOR)).fetchall())


def flow_of(conn: Connection, job_id: UUID) -> UUID:
    """The flow of a member."""
    found: UUID = conn.value("SELECT flow_id FROM job_flow_members WHERE job_id = %s", job_id)
    return found


def states(conn: Connection) -> dict[str, str]:
    """The state of each member by name: of one that the queue itself cancelled, `skipped` or `lost`."""
    found = conn.rows("SELECT name, coalesce(set_aside, state) AS state FROM job_flow_member_list")
    return {row["name"]: row["state"] for row in found}


def outcomes(conn: Connection, job_id: UUID) -> dict[str, Row]:
    """What the handler of a job gets of those that it waited for, by name."""
    return {row["name"]: row for row in conn.rows("SELECT * FROM job_flow_outcomes(%s)", job_id)}


def fail(conn: Connection, run: ClaimedJob, error: str = "boom") -> None:
    """Lets a run fail for good."""
    conn.finish_one(run, "failed", permanent=True, error=error)
