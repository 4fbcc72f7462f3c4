"""The commands that do what keys do, as a person can paste them. Foreign text in them is cleaned and quoted here."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from core.model import Status
from core.redact import clean, scrub
from core.timeparse import write_duration
from tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from core.model import Job, Json

NAMED = 12
"""So many ids a command names at most: dialogs fit on 24 lines. More jobs are frozen, to be named at once."""
RESUME = "jobdeck resume"
PURGE = "jobdeck purge --yes"


def twin(verb: str, jobs: Sequence[Job]) -> str:
    """The command that does the same: with the whole id of one job, the short ids of several."""
    needed = " --yes" if verb == "delete" or len(jobs) > 1 else ""
    ids = [str(jobs[0].id)] if len(jobs) == 1 else [short_id(job.id) for job in jobs]
    return f"jobdeck {verb} {' '.join(ids)}{needed}"


def cleanup_twin(ids: Sequence[UUID]) -> str:
    """The command that marks these stuck jobs failed; where they are too many to name, whatever is stuck."""
    return " ".join(["jobdeck cleanup", *map(short_id, ids if len(ids) <= NAMED else ()), "--yes"])


def twin_with_payload(job: Job, payload: Json) -> str:
    """The commands that retry a job with another payload; personal data in it is masked."""
    words = shlex.quote(json.dumps(scrub(payload), ensure_ascii=False))
    if job.removed or job.status is Status.SUCCEEDED:
        return f"jobdeck enqueue {shlex.quote(one_line(job.task_type))} --payload {words}"
    return f"jobdeck edit {job.id} --payload {words} && jobdeck retry {job.id}"


def pause_twin(reason: str | None, resume_after: timedelta | None) -> str:
    """The command that pauses for the same reason and for as long."""
    why = ["--reason", clean(reason)] if reason else []
    span = ["--for", write_duration(resume_after)] if resume_after else []
    return shlex.join(["jobdeck", "pause", *why, *span])
