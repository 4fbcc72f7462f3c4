"""The options of a job, in one table. Commands, `POST /api/jobs`, the tool of assistants and the form are made of it.

A new option is an entry of `OPTIONS`, a field of `Wanted` (`core/queue/requests.py`), and what carries it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.model import LEAST_PRIORITY, MOST_PRIORITY
from jobdeck.core.schedules import CATCH_UPS
from jobdeck.core.times import parse_duration, parse_time, write_duration

if TYPE_CHECKING:
    from datetime import datetime

NOTHING: Final = "Nothing was enqueued."


DEDUPE: Final = ("keep", "replace")


def longest_wait(dedupe: object, dedupe_key: str | None, wait: object) -> float | None:
    """For how many seconds a job may be replaced from its enqueue on; None for one that is kept.

    Raises:
        Refused: the options do not fit together.
    """
    if dedupe not in {None, *DEDUPE}:
        raise Refused(f"dedupe is {' or '.join(DEDUPE)}, and not {str(dedupe)[:50]}. {NOTHING}")
    if dedupe != "replace":
        if wait is not None:
            raise Refused(f"A longest wait is for jobs that replace others. Add dedupe=replace, or omit it. {NOTHING}")
        return None
    if not dedupe_key:
        raise Refused(f"A job that replaces another one needs a dedupe key. {NOTHING}")
    if not isinstance(wait, timedelta):
        raise Refused(
            "A job that may be replaced needs a longest wait (longest_wait, a duration): without one, a stream of "
            f"newer jobs would put it off for ever. {NOTHING}"
        )
    return wait.total_seconds()


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a job. `name` is its field in `Wanted`; those of a schedule are the field `schedule` together.

    `words` explain it in the help of commands and to an assistant, `edit` in the help of `jobdeck edit`; that command
    lacks an option whose `edit` is None, and says `words` where it is empty. `least` and `most` are the bounds of a
    number; over HTTP, `most` is also the greatest length of a text.

    `many`, `mcp` and a key in `http` say where else it is offered: by `enqueue-many`, to an assistant, and over HTTP.
    `label`, `example` and `note` are those of the form, which lacks the option where there is no label.
    """

    name: str
    kind: Literal["time", "duration", "number", "choice", "text"]
    words: str
    metavar: str | None = None
    edit: str | None = None
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()
    many: bool = False
    mcp: bool = False
    http: str = ""
    http_words: str = ""
    label: str = ""
    example: str = ""
    note: str = ""

    @property
    def flag(self) -> str:
        """The option of a command."""
        return "--for" if self.name == "lasting" else f"--{self.name.replace('_', '-')}"

    def read(self, given: Any, now: datetime, called: str) -> Any:
        """The value of what was given: times and durations are texts. `called` is its name in a sentence.

        Raises:
            UsageError: a text cannot be parsed.
        """
        if self.kind == "time":
            return parse_time(given, now, what=f"time of {called}")
        return parse_duration(given, what=f"duration of {called}") if self.kind == "duration" else given

    def typed(self, text: str, now: datetime) -> Any:
        """The value of a text in a form.

        Raises:
            UsageError: the text is not valid; for a number, a few words say what would be.
        """
        if self.kind != "number":
            return self.read(text, now, self.label)
        if not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise UsageError("must be a whole number")
        if not self.least <= int(text) <= self.most:
            raise UsageError(f"must be {self.least} to {self.most}")
        return int(text)

    def written(self, value: Any) -> str:
        """The value as the text of a command."""
        if self.kind == "time":
            return str(value.isoformat()).replace("+00:00", "Z")
        return write_duration(value) if self.kind == "duration" else str(value)


OPTIONS: Final = (
    Option(
        "at", "time", 'First run: ISO 8601 (UTC), "in 2h", 30m. Default: now.', "TIME",
        edit='Next run: ISO 8601 (UTC), "in 2h", 30m, now.', many=True, mcp=True,
        http="runAt", http_words="When it is due; now if it is missing.", label="run at", example="now",
    ),
    Option(
        "every", "text", "Make it recurring: 30s, 60m, 6h, 1d.", "DURATION",
        edit="Interval of a recurring job; off makes it run once.", mcp=True,
        label="every", example="60m", note="30s, 6h, 1d, or cron: 0 9 * * 1-5",
    ),
    Option("cron", "text", 'Make it recurring by a cron expression: "0 9 * * 1-5".', "EXPRESSION", edit=""),
    Option(
        "tz", "text", "Time zone of --cron, like America/New_York. Default: UTC.", "ZONE", edit="",
        label="time zone", example="UTC",
    ),
    Option(
        "catch_up", "choice", "What a missed slot is worth: one run, all, or none.", edit="", choices=CATCH_UPS,
        label="catch up", note="runs for slots that were missed",
    ),
    Option(
        "lasting", "duration", "How long to repeat, from the first run.", "DURATION",
        edit="How long to repeat, from the next run; or forever.", mcp=True, label="for", example="forever",
    ),
    Option(
        "priority", "number", "Due jobs with a higher priority run first. Default: the type's, else 0.",
        edit="Due jobs with a higher priority run first.", least=LEAST_PRIORITY,
        most=MOST_PRIORITY,
        many=True, mcp=True, http="priority", label="priority", example="type default",
        note=f"{LEAST_PRIORITY} to {MOST_PRIORITY}; higher runs first",
    ),
    Option(
        "max_attempts", "number", "Attempts before it fails permanently.", edit="", least=1, most=1000,
        many=True, mcp=True, http="maxAttempts", label="max attempts", example="type default",
        note="default {max_attempts}; then it fails permanently",
    ),
    Option(
        "timeout", "duration", "How long one run may take, in place of the type's timeout.", "DURATION",
        edit="How long one run may take; or default, the type's timeout.", many=True, mcp=True,
        http="timeoutSeconds", http_words="How long one run may take, in place of the type's timeout.", most=31_622_400,
        label="timeout", example="type default", note="90s, 30m: limit of one run",
    ),
    Option(
        "dedupe_key", "text", "If an active job has this key, return it instead of creating one.", "KEY", mcp=True,
        most=200, http="dedupeKey",
        http_words="If a pending or running job of this producer has the key, that job is returned.",
        label="dedupe key", example="none", note="at most one active job with this key",
    ),
    Option(
        "dedupe", "choice", "With --dedupe-key: keep the job that has the key, or replace it while it waits.",
        choices=DEDUPE, mcp=True, http="dedupe",
        http_words="What becomes of a job that has the dedupe key and waits; it is kept if this is missing.",
    ),
    Option(
        "longest_wait", "duration", "With --dedupe replace: when it is due at the latest, from the first enqueue.",
        "DURATION", mcp=True, http="longestWaitSeconds", most=31_622_400,
        http_words="With replace: when the job is due at the latest, counted from the first enqueue.",
    ),
    Option(
        "unique_for", "duration", "With --dedupe-key: also while this time lasts, if that job ended.", "DURATION"
    ),
)  # fmt: skip
"""The order is that of a command."""
