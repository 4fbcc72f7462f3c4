"""The commands that do what keys do, as a person can paste them. Foreign text in them is cleaned and quoted here."""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jobdeck.core.model import Status
from jobdeck.core.redact import clean, harmless_json
from jobdeck.core.times import write_duration
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Job, Json

NAMED = 12
"""So many ids a command names at most: dialogs fit on 24 lines. More jobs are frozen, to be named at once.

Not those that have left the queue, which only their ids name.
"""
RESUME = "jobdeck resume"
PURGE = "jobdeck purge --yes"


def twin(verb: str, jobs: Sequence[Job]) -> str:
    """The command that does the same: with the whole id of one job, the short ids of several.

    More than can be named it takes from its input, one a line, which is how the list copies them.
    """
    if len(jobs) > NAMED:
        return f"jobdeck {verb} - --yes"
    needed = " --yes" if verb == "delete" or len(jobs) > 1 else ""
    ids = [str(jobs[0].id)] if len(jobs) == 1 else [short_id(job.id) for job in jobs]
    return f"jobdeck {verb} {' '.join(ids)}{needed}"


def cleanup_twin(ids: Sequence[UUID]) -> str:
    """The command that marks these stuck jobs failed; where they are too many to name, whatever is stuck."""
    return " ".join(["jobdeck cleanup", *map(short_id, ids if len(ids) <= NAMED else ()), "--yes"])


def twin_with_payload(job: Job, payload: Json) -> str:
    """The commands that retry a job with another payload, which whoever asks has been shown, on record."""
    words = shlex.quote(harmless_json(payload))
    if job.removed or job.status is Status.SUCCEEDED:
        return f"jobdeck enqueue {shlex.quote(one_line(job.task_type))} --payload {words}"
    return f"jobdeck edit {job.id} --payload {words} && jobdeck retry {job.id}"


def pause_twin(reason: str | None, until: timedelta | datetime | None) -> str:
    """The command that pauses for the same reason, for as long or until the same time."""
    why = ["--reason", clean(reason)] if reason else []
    if isinstance(until, datetime):
        end = ["--until", until.isoformat().replace("+00:00", "Z")]
    else:
        end = ["--for", write_duration(until)] if until else []
    return shlex.join(["jobdeck", "pause", *why, *end])
