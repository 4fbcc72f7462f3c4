"""Sentences about a shift, one cycle and a cancelled flow, and shares as text, for the commands and the dashboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Verdict
from jobdeck.core.read.sentences import DUE, NO_BACKLOG, NO_OTHERS
from jobdeck.core.read.workers.slots import lanes
from jobdeck.core.times import parse_duration, parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobdeck.core.model import Health, Worker
    from jobdeck.core.queue.operators.flows import FlowCancelled
    from jobdeck.core.worker.oneshot import CycleResult

DEFAULT: Final = "default"
NONE: Final = "none"
CODE: Final = "code"
"""Makes the value of a type's code hold again."""
NO_WAIT: Final = "no backlog"
NONE_FOR_WORKER: Final = "no job waits for a worker"
"""What is said where jobs wait, but none for its turn."""
_WHOLE: Final = re.compile(r"-?\d{1,3}(?:,\d{3})+|-?\d{1,9}", re.ASCII)
_PERCENT: Final = re.compile(r"(-?\d{1,9}(?:\.\d{1,4})?) ?%")


def flow_cancel_words(done: FlowCancelled, *, dry_run: bool = False) -> str:
    """What the cancellation of a flow did."""
    if not done.cancelled and not done.asked:
        return "No member of the flow waits, and none runs that was not asked to cancel before. Nothing was changed."
    verbs = ("would be cancelled", "would be asked to stop") if dry_run else ("cancelled", "asked to stop")
    parts = [f"{done.cancelled:,} {verbs[0]}", f"{done.asked:,} running {verbs[1]}", f"{done.ended:,} had ended before"]
    return f"Members of the flow: {', '.join(parts)}."


def cycle_words(result: CycleResult) -> str:
    """The number of jobs that a cycle ran, by outcome, and the reason when processing is paused."""
    counted = f"processed {result.processed}: {result.succeeded} succeeded, {result.failed} failed"
    if result.status != "paused":
        return counted
    reason = "no reason given" if result.message in {"", result.PAUSED} else result.message
    began = f"{counted}; then processing was" if result.processed else "Nothing ran: processing is"
    return f"{began} paused ({reason})."


def keyless_words(task_type: str, changes: Mapping[str, object], *, concurrency: str | None) -> str:
    """A warning if the changed settings of a type limit its keys, but its jobs get none; else empty."""
    if concurrency is not None or not (changes.get("max_per_key") or changes.get("key_rate_runs")):
        return ""
    return (
        f"The jobs of {task_type} have no concurrency key, so a limit for each key holds only for those that are "
        "enqueued with one. Give the type a key: @job(…, concurrency=…)."
    )


def percent(share: float | None) -> str:
    """A share as text; None is the default."""
    return DEFAULT if share is None else f"{round(share * 100, 2):g} %"


def parse_share(text: str, what: str) -> float | None:
    """Parses a share such as `20%`, from 0 to 1; None for `default`. `what` begins the sentence of a refusal.

    Raises:
        UsageError: the text is neither. Whether the share is in range is for the database to say.
    """
    if text.strip().lower() == DEFAULT:
        return None
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{what} needs a share such as 20%, or {DEFAULT}; {text[:60]!r} is neither.")
    return round(float(match[1]) / 100, 6)


def parse_limit(text: str, what: str, *, none: str = NONE) -> int | str | None:
    """Parses a limit such as `5`; None for the word `none`, and `code` as it is. `what` begins a refusal.

    Raises:
        UsageError: the text is neither. Whether the number is in range is for the database to say.
    """
    word = text.strip().lower()
    if word == none or (word == CODE and none == NONE):
        return CODE if word == CODE else None
    if _WHOLE.fullmatch(text.strip()) is None:
        raise UsageError(f"{what} needs a whole number such as 5, or {none}; {text[:60]!r} is neither.")
    return int(text.replace(",", ""))


def parse_age(text: str, what: str) -> int | str | None:
    """Parses a maximum age such as `2d`, in seconds; None for `none`, and `code` as it is.

    Raises:
        UsageError: the text is neither, or not a whole number of seconds.
    """
    word = text.strip().lower()
    if word in {NONE, CODE}:
        return CODE if word == CODE else None
    age = parse_duration(text, what=what)
    if age.microseconds:
        raise UsageError(f"The {what} must be a whole number of seconds.")
    return int(age.total_seconds())


def parse_rate_changes(text: str, what: str, *, of_key: bool = False) -> dict[str, int | str | None]:
    """The settings of a type that a rate such as `100/m` stands for, or one for each key; `none` takes the rate away.

    `code` makes the rate of the code hold again.

    Raises:
        UsageError: the text is neither.
    """
    word = text.strip().lower()
    given = None if word in {NONE, CODE} else parse_rate(text, what=what)
    runs, seconds = given or ((CODE, CODE) if word == CODE else (None, None))
    if of_key:
        return {"key_rate_runs": runs, "key_rate_seconds": seconds}
    return {"rate_runs": runs, "rate_seconds": seconds, **({} if given else {"rate_burst": None})}


def streak_words(streak: int, *, least: bool) -> str | None:
    """`3 failed` for -3, `20+ ok` for 20 or more; None before the first run."""
    if not streak:
        return None
    return f"{abs(streak)}{'+' if least else ''} {'ok' if streak > 0 else 'failed'}"


def backlog_words(health: Health) -> str:
    """What is said of due jobs while none could start: that there are none, or how many wait for their key."""
    fine = (one.evidence for one in health.findings if one.signal == DUE and one.verdict is Verdict.OK)
    found = next(fine, NO_BACKLOG)
    return {NO_BACKLOG: NO_WAIT, NO_OTHERS: NONE_FOR_WORKER}.get(found, found.rstrip("."))


def slots(workers: Iterable[Worker], *, short: bool = False) -> str:
    """The slots of live workers that are taken: `8 of 8 thread slots, 0 of 100 async`; or `8/8 thread, 0/100 async`."""
    found = lanes(workers).items()
    if short:
        return ", ".join(f"{lane.taken:,}/{lane.slots:,} {kind}" for kind, lane in found)
    words = [
        f"{lane.taken:,} of {lane.slots:,} {kind}{'' if place else ' slots'}"
        for place, (kind, lane) in enumerate(found)
    ]
    return ", ".join(words) or "no slots"
