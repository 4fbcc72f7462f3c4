"""What the page of a job names and `enter` opens: holders, workers, members of its flow, its type. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from jobdeck.core.plugins import Found
from jobdeck.core.read.operators.hold import hold_number
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Hashable

    from jobdeck.tui.text.job_detail import Page


def named(page: Page) -> dict[Hashable, Found]:
    """What the page names, by the key of its line in a list: first what keeps the job from running."""
    job, detail = page.job, page.detail
    found: dict[Hashable, Found] = {}

    def add(kind: str, subject: UUID | str, detail: str) -> None:
        name = short_id(subject) if isinstance(subject, UUID) else one_line(subject)
        found.setdefault((kind, subject), Found(str(len(found)), f"{kind} {name}", one_line(detail)))

    for clause in detail.why if detail is not None else ():
        if (holder := clause.facts.get("holder")) is not None:
            add("job", UUID(str(holder)), f"{clause.name}: {clause.evidence}")
    if job.blocked_by not in {None, job.id} and hold_number(job.blocked_by) is None:
        add("job", job.blocked_by, "this job waits for it")
    if job.locked_by:
        add("worker", job.locked_by, "it has claimed this job")
    elif detail is not None and detail.runs and detail.runs[0].worker_id:
        add("worker", detail.runs[0].worker_id, "its newest run was there")
    for member in page.flow.members if page.flow is not None else ():
        if member.job_id != job.id:
            add("job", member.job_id, f"{member.state}, {member.name} in this flow")
    add("type", job.task_type, "all its jobs")
    return found
