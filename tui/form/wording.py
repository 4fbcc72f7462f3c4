"""The texts of a form: next runs, preview, result. Pure; foreign text is cleaned here."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from textual.content import Content

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Enqueued, Status
from jobdeck.core.schedules import Cron, rhythm
from jobdeck.core.times import format_duration, parse_time
from jobdeck.tui.form.form import OFFERED, SHOWN_RUNS, TYPE
from jobdeck.tui.format import age, one_line, short_id, stamp

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.model import ActionResult, Json
    from jobdeck.tui.backend.protocol import Rehearsal
    from jobdeck.tui.form.form import Form
    from jobdeck.tui.widgets.ink import Span

RECURRING: Final = "recurring"
LISTED: Final = 2
"""The items shown of a list in a preview: mostly ids, of which the first are enough to look one up."""


def runs(form: Form, now: datetime) -> str:
    """The next runs and the end of a series, in words; empty where the schedule cannot be parsed."""
    slots = form.runs(now)
    if not slots:
        return ""
    if form.editing and form.job is not None and form.job.status in {Status.FAILED, Status.CANCELLED}:
        return f"stays {form.job.status.value} until it is retried"
    if not form.recurring:
        return f"runs once: {_slot(slots[0], now, now)}"
    before = [now, *slots]
    listed = ", ".join(_slot(slot, earlier, now) for slot, earlier in zip(slots, before, strict=False))
    end = form.end(now)
    more = ", …" if len(slots) == SHOWN_RUNS else ""
    last = f", until {_slot(end, now, now)}Z" if end else ""
    return f"next runs: {listed}{more} {_rhythm(form)}{last}"


def _rhythm(form: Form) -> str:
    schedule = form.schedule()
    if isinstance(schedule, Cron):
        return "by cron"
    return f"every {format_duration(timedelta(seconds=schedule.seconds if schedule else 0)).replace(' ', '')}"


def problems(form: Form, key: str) -> str:
    """The fields with problems, and the key that goes to the first; empty where there are none."""
    if not form.problems:
        return ""
    labels = {TYPE: "task type"} | {one.name: one.label for one in OFFERED.values()}
    labels |= {one.name: one.label for one in form.fields}
    listed = ", ".join(labels.get(name, "the JSON") for name in form.problems)
    return f"✗ fix first: {listed}; {key} goes to the first"


def json_title(form: Form) -> Span:
    """The title of the JSON: its problem, the fields it does not follow, or a description."""
    trouble = form.problems.get("json", "")
    if trouble:
        return f"✗ {trouble}", "bad"
    kept = [one.label for one in form.fields if one.name in form.unread]
    if kept:
        return f"JSON keeps the last valid {', '.join(kept)}", "warn"
    return "Payload (JSON, kept in sync with the fields)", "strong"


def note(form: Form, name: str, now: datetime) -> str:
    """The note beside a row that has no problem."""
    if name == TYPE:
        unknown = "this process has no handler for this type" if form.job else ""
        return form.job_type.purpose if form.job_type else unknown
    if name == RECURRING:
        return "runs again at its next slot"
    if name in OFFERED:
        return "" if name in form.problems else form.note(name, now)
    found = next((one for one in form.fields if one.name == name), None)
    if found is not None and found.kind == "time" and form.text(name):
        return _absolute(form.payload.get(name), now) or found.note
    if found is None or form.text(name) is not None:
        return found.note if found else ""
    return "edit this value in the JSON"


def _absolute(value: object, now: datetime) -> str:
    """The time of a field in full, from the payload."""
    try:
        at = parse_time(str(value), now)
    except UsageError:
        return ""
    away = f"in {age(at - now)}" if at > now else f"{age(now - at)} ago"
    return f"= {at:%Y-%m-%d %H:%M}Z, {away}"


def rehearsed(found: Rehearsal | None) -> Content:
    """The answer of a dry run: what the queue would answer, and the preview of a run; empty before the first."""
    if found is None:
        return Content("")
    lines = [Content.styled(one_line(found.answer), "bold" if found.ok else "$error")]
    if found.remark:
        lines.append(Content.styled(one_line(found.remark), "$warning"))
    if found.effects is not None:
        lines.append(Content.styled("A run would currently:", "bold $primary"))
        lines += [Content(line) for line in effects(found.effects, indent="  ")]
    return Content("\n").join(lines)


def effects(found: Json | list[Any], *, indent: str = "") -> list[str]:
    """A preview with one fact per line; nested facts are indented."""
    lines: list[str] = []
    for name, value in found.items() if isinstance(found, dict) else enumerate(found, start=1):
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict | list) and value:
            lines += [f"{indent}{one_line(str(name))}", *effects(value, indent=f"{indent}  ")]
        else:
            shown = _listed(value) if isinstance(value, list) else value
            text = "none" if shown in ("", None, {}) else one_line(str(shown))
            lines.append(f"{indent}{one_line(str(name))}: {text}")
    return lines


def _listed(values: list[Any]) -> str:
    more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
    return ", ".join(map(str, values[:LISTED])) + more


def outcome(answer: Enqueued | ActionResult) -> tuple[str, bool]:
    """The result of a form in words, and whether it succeeded."""
    if not isinstance(answer, Enqueued):
        refused = "" if answer.ok else " refused"
        return f"{short_id(answer.job_id)}{refused}: {one_line(answer.message)}", answer.ok
    job = answer.job
    if not answer.created:
        return f"Not enqueued: job {job.id} has the same dedupe key and is {job.status.value}.", False
    own = rhythm(job)
    again = f", then {one_line(own.words)}" if own else ""
    enqueued = job.created_at or job.updated_at
    due = stamp(job.run_at, enqueued) if job.run_at > enqueued else "now"
    return f"Enqueued {one_line(job.task_type)} as {short_id(job.id)}, due {due}{again}.", True


def _slot(moment: datetime, before: datetime, now: datetime) -> str:
    """A time; with its date if that differs from `before`, and with its year if that differs from `now`."""
    if abs(moment - now) < timedelta(seconds=1):
        return "now"
    if moment.date() == before.date():
        return f"{moment:%H:%M}"
    return f"{moment:%m-%d %H:%M}" if moment.year == now.year else f"{moment:%Y-%m-%d %H:%M}"
