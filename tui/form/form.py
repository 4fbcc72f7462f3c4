"""The values of the Create Job form: the typed texts, the payload, the schedule, the problems and the request.

Pure: the clock is an argument, and there are no widgets. The payload is authoritative; the fields and the JSON are two
ways to write it, and each follows the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from jobdeck.core.errors import Unreadable, UsageError
from jobdeck.core.model import arguments
from jobdeck.core.queue.options import OPTIONS
from jobdeck.core.queue.requests import Wanted, edit_twin, enqueue_twin, own_timeout, parse_object
from jobdeck.core.redact import harmless_json
from jobdeck.core.schedules import CATCH_UPS, Cron, Every, rhythm
from jobdeck.core.times import parse_duration, parse_interval, parse_time, write_duration
from jobdeck.tui.form import fields as form_fields
from jobdeck.tui.format import age, one_line, short_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from jobdeck.core.model import Job, Json
    from jobdeck.core.registry import JobType
    from jobdeck.core.schedules import Schedule
    from jobdeck.tui.form.fields import Field

TYPE: Final = "type"
FOREVER: Final = "forever"
AT, EVERY, ZONE, LASTING, CATCH_UP = "at", "every", "tz", "lasting", "catch_up"
OFFERED: Final = {one.name: one for one in OPTIONS if one.label}
"""The options of a job that have a row."""
ALONE: Final = tuple(name for name in OFFERED if name not in {AT, EVERY, ZONE, LASTING, CATCH_UP})
"""Those that do not depend on another field."""
USUAL_MINUTES: Final = 60
SHOWN_RUNS: Final = 3


@dataclass(slots=True)
class Form:
    """One form. `job` is the job it was filled in from; with `editing`, the job it changes.

    `unread` are the fields whose text cannot be parsed; the payload keeps their last valid value.
    """

    job_type: JobType | None
    job: Job | None = None
    editing: bool = False
    payload: Json = field(default_factory=dict)
    recurring: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    json_text: str = "{}"
    json_problem: str = ""
    fields: tuple[Field, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    _began: tuple[object, ...] = ()

    @classmethod
    def begin(cls, job_type: JobType | None, *, job: Job | None = None, editing: bool = False) -> Form:
        """A form with a type's defaults, or filled in from a job."""
        form = cls(job_type, job, editing)
        form.fields = form_fields.fields_of(job_type) if job_type else ()
        form.payload = dict(arguments(job.payload)) if job else {}
        usual = (job_type and job_type.recurring) or USUAL_MINUTES
        form.texts = dict.fromkeys(OFFERED, "")
        form.texts[EVERY], form.texts[CATCH_UP] = write_duration(timedelta(minutes=usual)), CATCH_UPS[0]
        if job is not None:
            form._take(job)
        form._follow_payload()
        form.json_text = harmless_json(form.payload, indent=2)
        form._began = form._state()
        return form

    def _take(self, job: Job) -> None:
        self.recurring = job.is_recurring
        own = rhythm(job)
        if own is not None:
            self.texts[EVERY] = own.cron or write_duration(timedelta(seconds=own.interval))
            self.texts[ZONE], self.texts[CATCH_UP] = own.zone if own.cron else "", own.catch_up
        self.texts["priority"] = str(job.priority) if job.priority else ""
        usual = self.job_type.max_attempts if self.job_type else None
        self.texts["max_attempts"] = str(job.max_attempts or "") if self.editing or job.max_attempts != usual else ""
        timeout = own_timeout(job)
        self.texts["timeout"] = write_duration(timeout) if timeout else ""
        if self.editing:
            self.texts[AT] = f"{job.run_at:%Y-%m-%d %H:%M:%S}Z"

    @property
    def is_cron(self) -> bool:
        """Whether the interval is written as a cron expression: several fields that are no duration, or a macro."""
        text = self.texts[EVERY].strip()
        if not self.recurring or not (text.startswith("@") or "*" in text or len(text.split()) > 2):
            return False
        try:
            parse_duration(text)
        except UsageError:
            return True
        return False

    def turned_into(self, job_type: JobType) -> Form:
        """A form for another type, with the fields that both payloads have and the typed schedule."""
        made = Form.begin(job_type)
        names = {one.name for one in made.fields}
        made.set_json(harmless_json({name: value for name, value in self.payload.items() if name in names}, indent=2))
        usual = Form.begin(self.job_type).texts
        made.texts |= {name: self.texts[name] for name in OFFERED if self.texts[name] != usual[name]}
        made.recurring, made.job = self.recurring, self.job
        return made

    @property
    def changed(self) -> bool:
        """Whether any value differs from the initial one."""
        return self._state() != self._began

    @property
    def title(self) -> str:
        if self.job is None:
            return "Create job"
        return f"{'Edit' if self.editing else 'Duplicate'} job {short_id(self.job.id)}"

    def text(self, name: str) -> str | None:
        """The text of a payload or schedule field; None where only the JSON can express the value."""
        return self.texts.get(name) if name in OFFERED or name in self.texts else None

    def set_text(self, name: str, text: str, now: datetime) -> None:
        """Sets the text of a field; the JSON follows."""
        self.texts[name] = text
        wanted = next((one for one in self.fields if one.name == name), None)
        if wanted is not None:
            try:
                value = form_fields.read(wanted, text, now)
            except UsageError:
                pass  # `check` reports it; the payload keeps the last valid value
            else:
                original = arguments(self.job.payload) if self.job else {}
                self.payload = form_fields.with_value(wanted, self.payload, value, original)
                self.json_text, self.json_problem = harmless_json(self.payload, indent=2), ""

    def set_json(self, text: str) -> None:
        """Sets the JSON; the fields follow."""
        self.json_text = text
        try:
            self.payload = parse_object(text)
        except UsageError as error:
            self.json_problem = _first_sentence(str(error))
            return
        self.json_problem = ""
        self._follow_payload()

    def check(self, now: datetime) -> dict[str, str]:
        """The problems by field. The key `json` has those of the JSON and of names without a field."""
        found: dict[str, str] = {}
        if self.job_type is None and self.job is None:
            found[TYPE] = "choose one; enter lists them"
        if self.job_type is not None and not self.json_problem:
            found |= form_fields.problems(self.job_type, self.payload)
        unreadable = self._unreadable(now)
        self.unread = frozenset(
            one.name
            for one in self.fields
            if one.name in unreadable and self.texts[one.name] != form_fields.shown(one, self.payload)
        )
        found |= unreadable
        if self.json_problem:
            found["json"] = self.json_problem
        known = {one.name for one in self.fields} | {*OFFERED, TYPE, "json"}
        strange = {name: problem for name, problem in found.items() if name.split(".")[0] not in known}
        if strange:
            found["json"] = "; ".join(f"{name} {problem}" for name, problem in strange.items())
        kept = {name.split(".")[0]: problem for name, problem in found.items() if name not in strange}
        self.problems = {name: one_line(problem) for name, problem in kept.items()}
        return self.problems

    def wanted(self, now: datetime) -> Wanted | None:
        """The request; None while there are problems."""
        if self.check(now):
            return None
        lasting = self.texts[LASTING].strip().lower()
        return Wanted(
            self.job_type.task_type if self.job_type else self.job.task_type if self.job else "",
            self.payload,
            at=self.at(now),
            schedule=self.schedule(),
            lasting=parse_duration(lasting) if self.recurring and lasting not in {"", FOREVER} else None,
            endless=lasting == FOREVER,
            **{name: value for name in ALONE if (value := self._read(name, now)) is not None},
        )

    def at(self, now: datetime) -> datetime | None:
        """The time of the first run; None for now, and where a job's own time is unchanged.

        Raises:
            UsageError: the text cannot be parsed.
        """
        text = self.texts[AT].strip()
        if not text or (self.editing and self.job is not None and text == f"{self.job.run_at:%Y-%m-%d %H:%M:%S}Z"):
            return None
        return parse_time(text, now, what="time")

    def schedule(self) -> Schedule | None:
        """The interval, or the cron expression in its zone; None for a job that runs once.

        Raises:
            UsageError: a text cannot be parsed.
        """
        return self._schedule(self.texts[ZONE].strip() or "UTC")

    def _schedule(self, zone: str) -> Schedule | None:
        if not self.recurring:
            return None
        catch_up = next((one for one in CATCH_UPS if one == self.texts[CATCH_UP]), CATCH_UPS[0])
        if self.is_cron:
            return Cron(self.texts[EVERY], zone, catch_up)
        return Every(seconds=parse_interval(self.texts[EVERY], what="interval"), catch_up=catch_up)

    def twin(self, wanted: Wanted, changes: Json | None) -> str:
        """The equivalent command; `changes` are the changes of an edit."""
        if self.editing and self.job is not None:
            return edit_twin(self.job, wanted, changes or {})
        return enqueue_twin(wanted)

    def note(self, name: str, now: datetime) -> str:
        """The note beside a field of the schedule that has no problem."""
        if name == AT:
            return self._note_of_time(now)
        if name == LASTING:
            return self._note_of_end(now)
        if name == ZONE:
            return self._note_of_zone(now)
        return OFFERED[name].note.format(max_attempts=self.job_type.max_attempts if self.job_type else 5)

    def runs(self, now: datetime) -> list[datetime]:
        """The next runs, at most three; empty where the schedule cannot be parsed."""
        try:
            at, schedule = self.at(now), self.schedule()
            end = self.end(now)
        except UsageError:
            return []
        kept = self.job.run_at if self.editing and self.job else now
        first = max(at or kept, now)
        if schedule is None:
            return [first]
        if isinstance(schedule, Cron):
            slots = list(islice(schedule.after((at or now) - timedelta(microseconds=1)), SHOWN_RUNS))
        else:
            anchor = at or (self.job.anchor_at if self.editing and self.job and self.job.anchor_at else first)
            step = timedelta(seconds=schedule.seconds)
            slots = [first, *(anchor + ((first - anchor) // step + number) * step for number in range(1, SHOWN_RUNS))]
        return [slot for slot in slots if end is None or slot < end]

    def end(self, now: datetime) -> datetime | None:
        """When the series ends; None for a series that never expires and for a job that runs once.

        Raises:
            UsageError: a time or the duration cannot be parsed.
        """
        text = self.texts[LASTING].strip().lower()
        if not self.recurring or text == FOREVER:
            return None
        if not text:
            return self.job.expires_at if self.editing and self.job else None
        kept = max(self.job.run_at, now) if self.editing and self.job else now
        return (self.at(now) or kept) + parse_duration(text, what="duration")

    def _note_of_time(self, now: datetime) -> str:
        at = self.at(now)
        if at is None:
            kept = self.editing and self.job is not None and self.texts[AT].strip()
            return "unchanged; or in 2h, tomorrow 9:00, now" if kept else "now; or in 2h, tomorrow 9:00 (UTC)"
        shown = f"{at:%Y-%m-%d %H:%M}Z"
        return f"= {shown}, in {age(at - now)}" if at > now else f"past: runs at once ({shown})"

    def _note_of_zone(self, now: datetime) -> str:
        try:
            schedule = self.schedule()
        except UsageError:
            return "of the cron expression, like Europe/Paris"
        first = next(iter(self.runs(now)), None)
        if not isinstance(schedule, Cron) or first is None:
            return "of the cron expression, like Europe/Paris"
        return f"first there: {first.astimezone(ZoneInfo(schedule.tz)):%a %m-%d %H:%M}"

    def _note_of_end(self, now: datetime) -> str:
        text, end = self.texts[LASTING].strip().lower(), self.end(now)
        if end is None:
            return f"never expires; or 7d, 30d from the first run{', or forever' if self.editing else ''}"
        return f"{'unchanged: ' if not text else ''}ends {end:%Y-%m-%d %H:%M}Z, in {age(end - now)}"

    def _unreadable(self, now: datetime) -> dict[str, str]:
        readers: dict[str, Callable[[], object]] = {
            one.name: lambda one=one: form_fields.read(one, self.texts[one.name], now)  # type: ignore[misc]
            for one in self.fields
            if one.name in self.texts
        }
        readers |= {AT: lambda: self.at(now), EVERY: lambda: self._schedule("UTC"), LASTING: lambda: self.end(now)}
        readers |= {ZONE: lambda: Cron("* * * * *", self.texts[ZONE].strip() or "UTC")} if self.is_cron else {}
        readers |= {name: lambda name=name: self._read(name, now) for name in ALONE}  # type: ignore[misc]
        found: dict[str, str] = {}
        for name, reading in readers.items():
            try:
                reading()
            except UsageError as error:
                if name != LASTING or AT not in found:
                    found[name] = error.brief if isinstance(error, Unreadable) else _first_sentence(str(error))
        return found

    def _read(self, name: str, now: datetime) -> Any:
        """The value of an option; None for an empty text."""
        text = self.texts[name].strip()
        return OFFERED[name].typed(text, now) if text else None

    def _follow_payload(self) -> None:
        for one in self.fields:
            text = form_fields.shown(one, self.payload)
            if text is None:
                self.texts.pop(one.name, None)
            else:
                self.texts[one.name] = text

    def _state(self) -> tuple[object, ...]:
        return self.json_text, self.recurring, tuple(sorted(self.texts.items()))


def _first_sentence(text: str) -> str:
    """The problem without the examples, which the note beside the field has as well."""
    return text.split(". ", maxsplit=1)[0].removesuffix(".")
