"""Sentry: one event per job that failed for good, tagged `job_runner`, lost runs, alarms; off without `SENTRY_DSN`.

The SDK is imported only where a DSN is set, and its client is not made the process's own, so that handlers may
use Sentry in their way. Whatever goes wrong in here is logged and goes no further: an alert is never a reason
for a job to fail or to wait.
"""

from __future__ import annotations

import logging
from collections import deque
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.alerts import sentry_events
from jobdeck.core.errors import MissingExtra, require_extra
from jobdeck.core.logs import event
from jobdeck.core.model import RunOutcome
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.redact import safe_error, scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import psycopg
    from sentry_sdk import Client
    from sentry_sdk.types import Event, Hint

    from jobdeck.core.alerts.sentry_events import EndedRun
    from jobdeck.core.model import Finding, Finished, FinishedRun
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 2.0
LOST_TOLD: Final = 20
"""Lost runs of one pass that are told one by one; a whole fleet that went down is told in figures."""
CHECK_INS_KEPT: Final = 1000
CHECK_IN_MARGIN: Final = 5
"""Minutes by which a series may be late before its monitor says so."""

_SHAPE = {"event_id", "timestamp", "platform", "level", "sdk", "fingerprint", "check_in_id", "monitor_slug", "type"}
"""Parts of an event that are not free text."""
_CHECKED = {
    RunOutcome.SUCCEEDED: True,
    RunOutcome.PARTIAL: True,
    RunOutcome.FAILED: False,
}
"""Outcomes that end a cycle, and whether it went well."""


class Alerts:
    """Where failures are reported to; off where no DSN is set or it is unusable."""

    def __init__(self, settings: Settings) -> None:
        self._environment = settings.environment or "unset"
        self._release = settings.sentry_release or f"jobdeck@{_version()}"
        self._check_ins: deque[sentry_events.CheckIn] = deque(maxlen=CHECK_INS_KEPT)
        self._checks_in = settings.sentry_check_ins
        self._client: Client | None = None
        if settings.sentry_dsn is None:
            return
        try:
            self._client = _client(settings.sentry_dsn.get_secret_value(), self._environment, self._release)
        except MissingExtra as error:
            event(log, logging.WARNING, f"SENTRY_DSN is set and alerts are off: {error}")
        except Exception as error:  # noqa: BLE001 -- a worker without alerts is better than none
            event(log, logging.WARNING, "SENTRY_DSN cannot be used; alerts are off", error=safe_error(repr(error)))

    @property
    def on(self) -> bool:
        """Whether anything is sent at all."""
        return self._client is not None

    def failed(self, context: EndedRun, run: FinishedRun, *, worker: str) -> None:
        """Reports a run that was recorded as `failed`: for good, or the end of a recurring job's cycle."""
        self._send(lambda: [sentry_events.failure(context, run, worker, self._environment)])

    def lost(self, conn: psycopg.Connection[Any], jobs: Sequence[UUID], *, worker: str = "reaper") -> None:
        """Reports runs that were given up because their workers went silent."""
        self._send(lambda: self._lost(conn, jobs, worker))

    def alarm(self, finding: Finding, who: str) -> None:
        """Reports a signal of health that has become critical."""
        self._send(lambda: [sentry_events.alarm(finding, who, self._environment)])

    def recovered(self, signal: str, evidence: str, since: datetime, who: str) -> None:
        """Reports a signal of health that is critical no longer."""
        self._send(lambda: [sentry_events.recovered(signal, evidence, since, who, self._environment)])

    def unreachable(self, who: str, database: str, seconds: float, error: str) -> None:
        """Reports a process that has not reached its database for so many seconds."""
        self._send(lambda: [sentry_events.unreachable(who, database, seconds, error, self._environment)])

    def reachable(self, who: str, database: str, seconds: float) -> None:
        """Reports that it reaches it again."""
        self._send(lambda: [sentry_events.reachable(who, database, seconds, self._environment)])

    def note_check_in(self, context: EndedRun, answer: Finished) -> None:
        """Keeps the end of a recurring job's cycle for `send_check_ins`, where check-ins are asked for."""
        if self._client is not None and self._checks_in and answer.recorded in _CHECKED:
            self._check_ins.append(sentry_events.CheckIn(context, succeeded=_CHECKED[answer.recorded]))

    def send_check_ins(self, conn: psycopg.Connection[Any]) -> None:
        """Sends what `note_check_in` kept, each to the monitor of its series."""
        if self._check_ins:
            self._send(lambda: self._checked_in(conn))

    def close(self) -> None:
        """Waits up to 2 s for what is on its way, and ends the client."""
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=FLUSH_SECONDS)

    def _send(self, events: Callable[[], list[dict[str, Any]]]) -> None:
        if self._client is None:
            return
        try:
            for made in events():
                self._client.capture_event(made)  # type: ignore[arg-type]  # an event is a dict
        except Exception as error:  # noqa: BLE001 -- what happened has been recorded; only its alert is missing
            event(log, logging.WARNING, "an alert could not be sent", error=safe_error(repr(error)))

    def _lost(self, conn: psycopg.Connection[Any], jobs: Sequence[UUID], worker: str) -> list[dict[str, Any]]:
        told = []
        for job_id in jobs[:LOST_TOLD]:
            runs, _ = history.runs(job_id=job_id, outcome=RunOutcome.LOST, limit=1).run(conn)
            told += [
                sentry_events.lost(run, read_jobs.job(job_id).run(conn), worker, self._environment) for run in runs
            ]
        if len(jobs) > LOST_TOLD:
            told.append(sentry_events.more_lost(len(jobs) - LOST_TOLD, worker, self._environment))
        return told

    def _checked_in(self, conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
        told = []
        for _ in range(len(self._check_ins)):
            run = self._check_ins.popleft()
            job = read_jobs.job(UUID(run.job_id)).run(conn)
            if job is not None and job.recurrence_interval_minutes:
                told.append(
                    sentry_events.check_in(
                        run, job.recurrence_interval_minutes, CHECK_IN_MARGIN, self._environment, self._release
                    )
                )
        return told


def _version() -> str:
    try:
        return metadata.version("jobdeck")
    except metadata.PackageNotFoundError:
        return "unknown"


def _client(dsn: str, environment: str, release: str) -> Client:
    require_extra("Sentry's SDK", "sentry", "sentry_sdk")
    import sentry_sdk  # noqa: PLC0415 -- imported on first use

    return sentry_sdk.Client(
        dsn=dsn,
        environment=environment,
        release=release,
        # No integrations: they would report log lines and retried attempts, and the one for the end of the
        # process writes to the terminal and waits. What identifies persons is sent only where asked for, by
        # `send_default_pii`, or since 2.75 by `data_collection`: both stay unset.
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        include_source_context=False,
        max_breadcrumbs=0,
        before_send=_before_send,
        shutdown_timeout=0,
    )


def _before_send(sent: Event, hint: Hint) -> Event:
    del hint
    kept: dict[str, Any] = {key: value if key in _SHAPE else scrub(value) for key, value in sent.items()}
    scrubbed: Event = kept  # type: ignore[assignment]  # the same keys
    return scrubbed
