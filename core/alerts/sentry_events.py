"""The events sent to Sentry: failures, lost runs, alarms, and check-ins of recurring jobs."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jobdeck.core.schedules import rhythm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob, Finding, FinishedRun, Job, Run

Event = dict[str, Any]

LOGGER: Final = "job_runner"
SLUG_LENGTH: Final = 50
"""The maximum length of a monitor's name (Sentry's documentation, "Cron Monitoring")."""

_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_NUMBERS: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*")
_LEVELS: Final = {"CRITICAL": "fatal", "ERROR": "error", "WARNING": "warning", "INFO": "info", "DEBUG": "debug"}


Frames = tuple[tuple[str, int, str], ...]
"""File, line and function of each frame of a traceback, outermost first."""


def fingerprint(kind: str | None, error: str | None) -> str:
    """The mark that groups similar errors; must equal `job_error_fingerprint` in schema.sql."""
    text = _NUMBERS.sub("#", _QUOTED.sub('"?"', (error or "")[:500]))
    return hashlib.md5(f"{kind or ''}:{text}".encode(), usedforsecurity=False).hexdigest()[:12]


def failure(
    job: ClaimedJob, run: FinishedRun, frames: Frames, lines: Callable[[], Sequence[str]], worker: str, environment: str
) -> Event:
    """A failed run without a retry: the job failed permanently, or a recurring job's cycle did.

    `lines` returns the last ones of its log.
    """
    began, ended = (datetime.fromtimestamp(at, UTC) for at in (run.started, run.finished))
    event = _of_run("error", "failed", job, run, began, ended, worker=worker, environment=environment)
    if frames:
        event["exception"]["values"][0]["stacktrace"] = {
            "frames": [{"filename": name, "lineno": line, "function": where} for name, line, where in frames]
        }
    event["tags"]["outcome"] = run.outcome.value
    event["contexts"]["job"] |= {"max_attempts": job.max_attempts, "recurring": job.is_recurring}
    event["breadcrumbs"] = {"values": _breadcrumbs(lines(), ended)}
    return event


def lost(run: Run, job: Job | None, worker: str, environment: str) -> Event:
    """A lost run: an error if it was the last attempt, otherwise a warning."""
    final = job is not None and (
        job.status.value == "failed" or (job.is_recurring and job.attempts == 0 and job.consecutive_failures > 0)
    )
    level, who = "error" if final else "warning", run.worker_id or worker
    event = _of_run(level, "lost", run, run, run.started_at, run.finished_at, worker=who, environment=environment)
    event["tags"]["outcome"] = "failed" if final else "lost"
    return event


def _of_run(
    level: str, otherwise: str, attempt: ClaimedJob | Run, run: FinishedRun | Run, began: datetime, ended: datetime, *,
    worker: str, environment: str,
) -> Event:  # fmt: skip
    """What the event of each run has; `otherwise` is the kind, and the words, of an error without any."""
    kind = run.error_kind or otherwise
    return {
        "level": level,
        "logger": LOGGER,
        "transaction": attempt.task_type,
        "fingerprint": [LOGGER, attempt.task_type, fingerprint(run.error_kind, run.error)],
        "exception": {"values": [{"type": kind, "value": run.error or kind}]},
        "tags": {
            LOGGER: "jobdeck",
            "task_type": attempt.task_type,
            "job_id": str(run.job_id),
            "attempt": str(attempt.attempt),
            "worker": worker,
            "environment": environment,
        },
        "contexts": {
            "job": {
                "run_token": attempt.run_token,
                "attempt": attempt.attempt,
                "due_at": attempt.due_at.isoformat(),
                "started_at": began.isoformat(),
                "finished_at": ended.isoformat(),
            }
        },
    }


def more_lost(runs: int, who: str, environment: str) -> Event:
    """The number of lost runs without their own event."""
    words = f"{runs} more runs were lost at the same time. `jobdeck runs --outcome lost` lists them."
    return _of_whole("error", "lost: many runs", words, who, environment)


def alarm(environment: str, finding: Finding, who: str) -> Event:
    """A health signal that became critical."""
    event = _of_whole("error", f"alarm: {finding.name}", finding.evidence, who, environment)
    event["tags"]["signal"] = finding.name
    if finding.since is not None:
        event["contexts"] = {"alarm": {"since": finding.since.isoformat()}}
    return event


def recovered(environment: str, signal: str, evidence: str, since: datetime, who: str) -> Event:
    """A health signal that is no longer critical."""
    words = f"Recovered: {signal}. {evidence} The alarm was raised at {since:%Y-%m-%d %H:%M:%S}Z."
    event = _of_whole("info", f"recovered: {signal}", words, who, environment)
    event["tags"]["signal"] = signal
    return event


def unreachable(environment: str, who: str, database: str, seconds: float, error: str) -> Event:
    """A process that cannot reach its database."""
    words = f"{who} has not reached the database at {database} for {seconds:.0f} s: {error}"
    return _of_whole("error", "alarm: database", words, who, environment)


def reachable(environment: str, who: str, database: str, seconds: float) -> Event:
    """A process that reaches its database again."""
    words = f"Recovered: {who} reaches the database at {database} again, after {seconds:.0f} s."
    return _of_whole("info", "recovered: database", words, who, environment)


def monitored(job: Job) -> Event | None:
    """The schedule of a job's monitor, which knows whole minutes and expressions of five fields; else None."""
    own = rhythm(job)
    if own is None:
        return None
    if own.minutes:
        return {"schedule": {"type": "interval", "value": own.minutes, "unit": "minute"}, "timezone": "UTC"}
    if own.cron is None or len(own.cron.split()) != 5:
        return None
    return {"schedule": {"type": "crontab", "value": own.cron}, "timezone": own.zone}


def check_in(run: CheckIn, schedule: Event, margin: int, environment: str, release: str) -> Event:
    """One cycle of a recurring job, for its monitor; the first check-in creates the monitor."""
    name = f"{re.sub(r'[^a-z0-9-]+', '-', run.task_type.lower())[: SLUG_LENGTH - 9]}-{str(run.job_id)[-8:]}"
    return {
        "type": "check_in",
        "check_in_id": hashlib.sha256(f"{run.job_id}:{run.run_token}".encode()).hexdigest()[:32],
        "monitor_slug": name,
        "status": "ok" if run.succeeded else "error",
        "duration": round(run.seconds, 3),
        "environment": environment,
        "release": release,
        "monitor_config": {**schedule, "checkin_margin": margin},
    }


class CheckIn(NamedTuple):
    """A finished cycle of a job. The interval of the job is read later."""

    job_id: UUID
    run_token: int
    task_type: str
    seconds: float
    succeeded: bool


def _of_whole(level: str, what: str, words: str, who: str, environment: str) -> Event:
    return {
        "level": level,
        "logger": LOGGER,
        "message": words,
        "fingerprint": [LOGGER, what],
        "tags": {
            LOGGER: "jobdeck",
            "worker": who,
            "outcome": what.partition(":")[0],
            "environment": environment,
        },
    }


def _breadcrumbs(lines: Sequence[str], ended: datetime) -> list[Event]:
    """The last lines of a run's log, already redacted, as Sentry's breadcrumbs."""
    crumbs = []
    for line in lines:
        at, _, rest = line.partition(" ")
        level, _, message = rest.strip().partition(" ")
        try:
            moment = datetime.combine(ended.date(), datetime.strptime(at, "%H:%M:%S.%f").time(), ended.tzinfo)  # noqa: DTZ007 -- the zone is the run's
        except ValueError:
            moment, message = ended, line
        if moment > ended + timedelta(hours=1):
            moment -= timedelta(days=1)
        crumbs.append(
            {
                "timestamp": moment.isoformat(),
                "category": "job",
                "level": _LEVELS.get(level, "info"),
                "message": message.strip(),
            }
        )
    return crumbs
