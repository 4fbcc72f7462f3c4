"""Judges due jobs that cannot start, for any reason that is not the queue's own order (`job_queue_cannot_run`).

One finding for each task type says how many jobs, why, since when, until when, and which command helps. The finding of
due jobs is about the others: what the one that has waited longest waits for, or how many wait for their key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.sentences import DUE, NO_BACKLOG, NO_OTHERS, amount, sentence
from jobdeck.core.read.verdict.scheduler_health import span
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SIGNAL: Final = "cannot run"
"""The signal of these findings. Each has the task type as its subject."""
COUNTED: Final = 10_001
NAMED: Final = 10
"""How many task types have a finding of their own."""
FIELDS: Final = 3
SOON: Final = timedelta(hours=1)
"""A deadline that is as near as this is critical."""
FORGOTTEN: Final = timedelta(days=1)
"""A pause without an end is forgotten after this time."""
IN_ORDER: Final = frozenset({"order", "line"})
UNTOLD: Final = IN_ORDER | {"set aside"}
"""The causes without a finding of their own."""
DEPLOY: Final = timedelta(minutes=1)
"""How long jobs of a type that no worker handles are due before it is critical: a deployment may be under way."""
_UNKNOWN: Final = re.compile(r"([^\s:;]+): is not a field")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why due jobs of one type cannot start.

    With a cause of `IN_ORDER` nothing is wrong: `order` has what the oldest job that can start waits for, and `line`
    are jobs whose key other runs have.
    """

    cause: str
    task_type: str
    jobs: int
    since: datetime
    deadline: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> str:
        return amount(self.jobs, at_least=self.jobs >= COUNTED)


def obstacles() -> Query[tuple[Obstacle, ...]]:
    """What keeps due jobs from starting."""
    return select(
        "SELECT cause, task_type, jobs, since, deadline, facts FROM job_queue_cannot_run(%(most)s)",
        {"most": COUNTED},
        read=lambda rows: tuple(Obstacle(**row) for row in rows),
    )


def judge(
    found: Sequence[Obstacle], at: datetime, *, enabled: bool, lateness: Callable[[timedelta], Verdict]
) -> list[Finding]:
    """A finding for each type of which due jobs cannot start, the worst first; further types share one.

    `lateness` judges how long a job has waited. While everything is paused, nothing is late.
    """
    by_type: dict[str, list[tuple[Verdict, Obstacle]]] = {}
    for one in found:
        if one.cause not in UNTOLD:
            verdict = _verdict(one, at, lateness) if enabled else Verdict.PAUSED
            by_type.setdefault(one.task_type, []).append((verdict, one))
    judged = [_finding(name, sorted(causes, key=_rank), at) for name, causes in by_type.items()]
    judged.sort(key=lambda finding: (_SEVERITY.index(finding.verdict), finding.since or at))
    if len(judged) > NAMED:
        rest = judged[NAMED - 1 :]
        words = f"{len(rest)} more types have due jobs that cannot start. `jobdeck status` lists them."
        judged[NAMED - 1 :] = [Finding(SIGNAL, rest[0].verdict, words, rest[0].since, subject="others")]
    return judged


_SEVERITY: Final = (Verdict.CRITICAL, Verdict.WARNING, Verdict.PAUSED, Verdict.OK)


def _rank(judged: tuple[Verdict, Obstacle]) -> tuple[int, datetime]:
    return _SEVERITY.index(judged[0]), judged[1].since


def _finding(task_type: str, causes: Sequence[tuple[Verdict, Obstacle]], at: datetime) -> Finding:
    verdict, first = causes[0]
    words = " ".join(_WORDS[one.cause](one, at) for _, one in causes)
    return Finding(SIGNAL, verdict, f"{task_type}: {words}", first.since, subject=task_type)


def _verdict(one: Obstacle, at: datetime, lateness: Callable[[timedelta], Verdict]) -> Verdict:
    if one.deadline is not None and one.deadline - at <= SOON:
        return Verdict.CRITICAL
    if one.cause == "newer payload":
        return Verdict.CRITICAL
    if one.cause == "no worker":
        return Verdict.CRITICAL if at - one.since >= DEPLOY else Verdict.WARNING
    if one.cause in {"type paused", "series paused"}:
        forgotten = one.facts.get("resume_at") is None and at - _paused_at(one) >= FORGOTTEN
        return Verdict.WARNING if forgotten else Verdict.OK
    if one.cause == "held":
        return Verdict.OK
    return max(Verdict.WARNING, lateness(at - one.since), key=_LEAST.index)


_LEAST: Final = tuple(reversed(_SEVERITY))


def _paused_at(one: Obstacle) -> datetime:
    at = one.facts.get("paused_at")
    return datetime.fromisoformat(at) if at else one.since


def _jobs(one: Obstacle, verb: str, verbs: str) -> str:
    return f"1 job {verb}" if one.jobs == 1 else f"{one.number} jobs {verbs}"


def clock(moment: datetime | str, at: datetime) -> str:
    """A time of day, with the date if it is of another day."""
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    found = found.astimezone(UTC)
    return f"{found:%H:%MZ}" if found.date() == at.astimezone(UTC).date() else f"{found:%Y-%m-%d %H:%MZ}"


def _expiry(one: Obstacle, at: datetime) -> str:
    if one.deadline is None or one.deadline - at > SOON:
        return ""
    return f" The first expires at {clock(one.deadline, at)}."


def _newer(one: Obstacle, at: datetime) -> str:
    fields = list(dict.fromkeys(_UNKNOWN.findall(one.facts.get("error") or "")))
    named = [safe_error(name, 60) for name in fields[:FIELDS]]
    listed = ", ".join(f"`{name}`" for name in named) or "a field"
    listed += f" and {len(fields) - FIELDS} more" if len(fields) > FIELDS else ""
    handling = one.facts.get("handling") or 0
    knows = "which the one worker does not know" if handling == 1 else f"which none of {handling} workers knows"
    if not handling:
        knows = "which no worker knew"
    fails = f"{'it fails at' if one.jobs == 1 else 'they fail from'} {clock(one.deadline or at, at)}"
    words = f"{_jobs(one, 'has', 'have')} {listed}, {knows}; {fails}{'' if one.jobs == 1 else ' on'}."
    if len(fields) != 1 or "." in fields[0] or named != fields:
        return f"{words} Deploy the workers, or edit the payloads."
    filter_ = f"type:{one.task_type} status:pending"
    return f"{words} Deploy the workers, or `jobdeck edit --filter '{filter_}' --unset {fields[0]}`."


def _no_worker(one: Obstacle, at: datetime) -> str:
    workers = one.facts.get("workers") or 0
    none = "the one live worker does not handle" if workers == 1 else f"none of {workers} live workers handles"
    words = f"{_jobs(one, 'is', 'are')} due, and {none} this type.{_expiry(one, at)}"
    return f"{words} Start one that does, or `jobdeck pause --type {one.task_type}`."


def holder(facts: Mapping[str, Any], at: datetime) -> str:
    """The job that holds a place or a key, since when, and how long runs of its type usually take."""
    since = datetime.fromisoformat(facts["since"])
    usual = facts.get("usual")
    usually = f", usually at most {span(timedelta(seconds=max(usual, 1)))}" if usual else ""
    return f"job {str(facts['holder'])[-8:]} for {span(at - since)} (since {clock(since, at)}{usually})"


def _full(one: Obstacle, at: datetime) -> str:
    places = one.facts.get("max_running") or 1
    held = "the only place is held by" if places == 1 else f"all {places} places are held, the longest by"
    return _held(one, f"{_jobs(one, 'waits', 'wait')}, and {held}", at)


def _key(one: Obstacle, at: datetime) -> str:
    keys = one.facts.get("keys") or 1
    held = "a key that is held by" if keys == 1 else f"{keys:,} keys that are held, the longest by"
    return _held(one, f"{_jobs(one, 'waits', 'wait')} for {held}", at)


def _held(one: Obstacle, words: str, at: datetime) -> str:
    ends = f"`jobdeck cancel {str(one.facts['holder'])[-8:]}` ends it."
    return f"{words} {holder(one.facts, at)}.{_expiry(one, at)} {ends}"


def _paused(one: Obstacle, at: datetime) -> str:
    facts = one.facts
    who = f" by {facts['paused_by']}" if facts.get("paused_by") else ""
    why = f": {facts['reason']}" if facts.get("reason") else ""
    until = f" until {clock(facts['resume_at'], at)}" if facts.get("resume_at") else ""
    queue = facts.get("queue")
    what, option = (f"its queue {queue}", f"--queue {queue}") if queue else ("the type", f"--type {one.task_type}")
    words = f"{_jobs(one, 'is', 'are')} due, and {what} was paused{who} at {clock(_paused_at(one), at)}{until}{why}."
    return f"{words}{_expiry(one, at)} `jobdeck resume {option}` resumes it."


def _kept(one: Obstacle, at: datetime) -> str:
    facts, number = one.facts, one.facts.get("holds") or 1
    if number > 1:
        words = f"{_jobs(one, 'is', 'are')} due, and {number} holds keep them, since {clock(_paused_at(one), at)}."
        return f"{words}{_expiry(one, at)} `jobdeck hold` lists them."
    hold, why = facts["hold"], f": {facts['reason']}" if facts.get("reason") else ""
    until = f" until {clock(facts['resume_at'], at)}" if facts.get("resume_at") else ""
    who = f"since {clock(_paused_at(one), at)} by {facts.get('paused_by')}"
    words = f"{_jobs(one, 'is', 'are')} due, and hold {hold} by {safe_error(facts['key'], 60)} keeps"
    ends = f"`jobdeck release {hold}` ends it."
    return f"{words} {'it' if one.jobs == 1 else 'them'} {who}{until}{why}.{_expiry(one, at)} {ends}"


def _series(one: Obstacle, at: datetime) -> str:
    words = "1 paused series is overdue" if one.jobs == 1 else f"{one.number} paused series are overdue"
    resume = f"`jobdeck series resume {str(one.facts['job'])[-8:]}` resumes {'it' if one.jobs == 1 else 'the first'}."
    return f"{words}, paused since {clock(_paused_at(one), at)}.{_expiry(one, at)} {resume}"


_WORDS: Final[Mapping[str, Callable[[Obstacle, datetime], str]]] = {
    "newer payload": _newer,
    "no worker": _no_worker,
    "type full": _full,
    "key held": _key,
    "type paused": _paused,
    "series paused": _series,
    "held": _kept,
}


def turn(order: Obstacle) -> str:
    """What the job that has waited longest in the queue's own order waits for."""
    code, facts = order.facts.get("code"), order.facts
    if code in {"slots-busy", "type-full", "type-rate"}:
        return f"{order.task_type}. {sentence(code, facts)}"
    return f"{order.task_type}."


def in_line(found: Sequence[Obstacle], at: datetime) -> Finding:
    """What due jobs wait for while none waits for a worker: their key, what other findings name, or nothing is due."""
    waiting = [one for one in found if one.cause == "line"]
    if not waiting:
        others = any(one.cause not in UNTOLD for one in found)
        return Finding(DUE, Verdict.OK, NO_OTHERS if others else NO_BACKLOG)
    number, since = sum(one.jobs for one in waiting), min(one.since for one in waiting)
    more = any(one.facts.get("at_least") for one in waiting)
    wait, free = ("job waits", "its") if number == 1 else ("jobs wait", "their")
    longest = f"{'' if number == 1 else 'the oldest '}for {span(at - since)}{' or longer' if more else ''}"
    words = f"{amount(number, at_least=more)} {wait} until {free} concurrency key is free, {longest}."
    return Finding(DUE, Verdict.OK, words, since)
