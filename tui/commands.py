"""The commands that are equivalent to keys, ready to paste. Foreign text in them is cleaned and quoted here."""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from jobdeck.core.model import Status
from jobdeck.core.redact import clean, harmless_json
from jobdeck.core.times import write_duration, write_rate
from jobdeck.tui.format import one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import Job, Json
    from jobdeck.core.queue.bulk_model import Bulk
    from jobdeck.core.queue.operators.payload_change import PayloadChange
    from jobdeck.core.read.operators.notes import Note
    from jobdeck.core.read.report_types import ErrorGroup

NAMED = 12
"""Maximum number of ids spelled out in a command. Longer selections are frozen into a bulk action first, except jobs
that have left the queue."""
RESUME = "jobdeck resume"
RUN_WORKER = "jobdeck run-worker"
WORKER = "jobdeck worker"
PURGE = "jobdeck purge --yes"


def twin(verb: str, jobs: Sequence[Job], reason: str | None = None) -> str:
    """The equivalent command, with the full id of one job or the short ids of several.

    With more than `NAMED` jobs it reads ids from standard input, one per line, as the list copies them.
    """
    why = f" --reason {shlex.quote(clean(reason))}" if reason else ""
    if len(jobs) > NAMED:
        return f"jobdeck {verb} - --yes{why}"
    needed = " --yes" if verb == "delete" or len(jobs) > 1 else ""
    ids = [str(jobs[0].id)] if len(jobs) == 1 else [short_id(job.id) for job in jobs]
    return f"jobdeck {verb} {' '.join(ids)}{needed}{why}"


def bulk_twin(found: Bulk) -> str:
    """The command for the same action on the same jobs; of an edit, without what it changed."""
    if found.action == "edit":
        return edit_twin(found, "--set KEY=VALUE")
    if found.reverts is not None:
        return f"jobdeck bulk undo {found.reverts.hex[-8:]} --yes"
    return frozen_twin(found.action or "", found)


def frozen_twin(verb: str, chosen: Bulk) -> str:
    """The command for an action on the frozen jobs."""
    return f"jobdeck {verb} --bulk {chosen.id.hex[-8:]} --yes"


def edit_twin(chosen: Bulk, changes: str) -> str:
    """The command that edits the payloads of the frozen jobs; `changes` are its options."""
    return f"jobdeck edit --bulk {chosen.id.hex[-8:]} {changes} --yes"


def twin_on(verb: Literal["resume", "stop", "undo"], found: Bulk) -> str:
    """The command that resumes, stops or undoes a bulk action."""
    return f"jobdeck bulk {verb} {found.id.hex[-8:]}{' --yes' if verb == 'undo' else ''}"


def options(change: PayloadChange) -> str:
    """The options of `jobdeck edit` that make this change. Keys and values are not masked: the user typed them."""
    words = []
    for key, value in change.set.items():
        name = harmless_json(key) if "=" in key or key.startswith('"') else clean(key)
        words += ["--set", f"{name}={harmless_json(value)}"]
    for key in change.unset:
        words += ["--unset", clean(key)]
    return shlex.join(words)


def save_filter_twin(name: str, words: str) -> str:
    """The command that saves a filter under a name."""
    return shlex.join(["jobdeck", "filter", "save", clean(name), clean(words)])


def facets_twin(words: str, limit: int) -> str:
    """The command that shows the facets of the first jobs of a filter."""
    wanted = ["--filter", clean(words)] if words else []
    return shlex.join(["jobdeck", "jobs", *wanted, "--facets", "--limit", str(limit)])


def canary_twin(job: Job) -> str:
    """The command that runs one job as a canary; with --wait it would print the result."""
    return f"jobdeck retry --canary {job.id}"


def cancel_flow_twin(flow_id: UUID, reason: str | None = None) -> str:
    """The command that cancels all members of a flow."""
    why = f" --reason {shlex.quote(clean(reason))}" if reason else ""
    return f"jobdeck flow cancel {flow_id} --yes{why}"


def cleanup_twin(ids: Sequence[UUID]) -> str:
    """The command that marks these stuck jobs failed; with more than `NAMED` jobs, the one for all stuck jobs."""
    return " ".join(["jobdeck cleanup", *map(short_id, ids if len(ids) <= NAMED else ()), "--yes"])


def twin_with_payload(job: Job, payload: Json) -> str:
    """The commands that retry a job with another payload. The payload is not masked: its access is in the audit log."""
    words = shlex.quote(harmless_json(payload))
    if job.removed:
        return f"jobdeck run-again {job.id} --payload {words}"
    if job.status is Status.SUCCEEDED:
        return f"jobdeck enqueue {shlex.quote(one_line(job.task_type))} --payload {words}"
    return f"jobdeck edit {job.id} --payload {words} && jobdeck retry {job.id}"


def pause_twin(
    reason: str | None, until: timedelta | datetime | None, task_type: str | None = None, queue: str | None = None
) -> str:
    """The command that pauses everything, one task type or a queue, with the same reason and the same end."""
    why = ["--reason", clean(reason)] if reason else []
    if isinstance(until, datetime):
        end = ["--until", until.isoformat().replace("+00:00", "Z")]
    else:
        end = ["--for", write_duration(until)] if until else []
    return shlex.join(["jobdeck", "pause", *_of_type(task_type), *_of_queue(queue), *why, *end])


def hold_twin(task_type: str, condition: str, reason: str | None, until: timedelta | datetime | None) -> str:
    """The command that holds the jobs of a type with this `KEY=VALUE` in their payload."""
    words = shlex.split(pause_twin(reason, until))[2:]
    return shlex.join(["jobdeck", "hold", clean(task_type), condition, *words])


def type_twin(task_type: str, changes: Mapping[str, float | datetime | str | None], reason: str | None) -> str:
    """The command that changes these settings of a task type."""
    words = ["jobdeck", "types", "set", clean(task_type)]
    for name, option in (("warning_share", "--warn"), ("critical_share", "--critical")):
        if name in changes:
            share = changes[name]
            words += [option, "default" if not isinstance(share, float) else f"{round(share * 100, 4):g}%"]
    words += _limits(changes)
    if "muted_until" in changes:
        until = changes["muted_until"]
        at = until.isoformat(timespec="seconds").replace("+00:00", "Z") if isinstance(until, datetime) else ""
        words += ["--mute-until", at] if at else ["--unmute"]
    if "set_aside" in changes:
        words += ["--set-aside" if changes["set_aside"] else "--take-over"]
    return shlex.join([*words, *(["--reason", clean(reason)] if reason else [])])


def _limits(changes: Mapping[str, float | datetime | str | None]) -> list[str]:
    """The options for the limits among these changes."""

    def said(name: str, write: Callable[[int], str] = str) -> str:
        value = changes[name]
        return value if isinstance(value, str) else write(int(value)) if isinstance(value, float | int) else "none"

    words = []
    for name, option in (("max_running", "--max-running"), ("max_per_key", "--max-per-key")):
        if name in changes:
            words += [option, said(name)]
    if "max_age_seconds" in changes:
        words += ["--max-age", said("max_age_seconds", lambda age: write_duration(timedelta(seconds=age)))]
    for prefix, option in (("", "--rate"), ("key_", "--key-rate")):
        if f"{prefix}rate_runs" in changes:
            seconds = changes[f"{prefix}rate_seconds"]
            per = int(seconds) if isinstance(seconds, float | int) else 0
            words += [option, said(f"{prefix}rate_runs", partial(write_rate, seconds=per))]
    if "priority" in changes:
        words += ["--priority", said("priority")]
    return words


def pause_series_twin(job: Job) -> str:
    """The command that pauses a series alone, or resumes it if it is paused."""
    return f"jobdeck series {'resume' if job.is_paused else 'pause'} {job.id}"


def skip_twin(job: Job) -> str:
    """The command that skips the next run of a recurring job."""
    return f"jobdeck series skip {job.id}"


def note_twin(text: str, days: int) -> str:
    """The command that leaves a note."""
    from jobdeck.core.read.operators.notes import SHOWN_DAYS  # noqa: PLC0415 -- not needed for the first paint

    return shlex.join(["jobdeck", "note", clean(text), *(["--days", str(days)] if days != SHOWN_DAYS else [])])


def acknowledge_twin(note: Note) -> str:
    """The command that closes a note."""
    return f"jobdeck note --acknowledge {note.id}"


def mute_twin(group: ErrorGroup, until: timedelta | datetime, reason: str | None) -> str:
    """The command that mutes a group of errors until the same end."""
    if isinstance(until, datetime):
        end = ["--until", until.isoformat(timespec="seconds").replace("+00:00", "Z")]
    else:
        end = ["--for", write_duration(until)]
    return shlex.join(["jobdeck", "mute", *_group(group), *end, *(["--reason", clean(reason)] if reason else [])])


def unmute_twin(group: ErrorGroup, reason: str | None) -> str:
    """The command that ends the mute of a group of errors."""
    return shlex.join(["jobdeck", "unmute", *_group(group), *(["--reason", clean(reason)] if reason else [])])


def _group(group: ErrorGroup) -> tuple[str, str]:
    return clean(group.task_type), clean(group.fingerprint)


def resume_twin(task_type: str | None = None, queue: str | None = None) -> str:
    """The command that resumes everything, one task type, or the types of a queue."""
    return shlex.join([*RESUME.split(), *_of_type(task_type), *_of_queue(queue)])


def _of_queue(queue: str | None) -> list[str]:
    return ["--queue", clean(queue)] if queue else []


def _of_type(task_type: str | None) -> list[str]:
    return ["--type", clean(task_type)] if task_type else []
