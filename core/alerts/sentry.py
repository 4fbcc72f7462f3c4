"""Sentry events for permanently failed jobs, lost runs and alarms, tagged `job_runner`; off without `SENTRY_DSN`.

The SDK is imported only if a DSN is set. Its client is not installed as the process's own, so that handlers can use
Sentry in their own way. Errors in here are logged only: an alert must never make a job fail or wait.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from jobdeck.core.alerts import sentry_events
from jobdeck.core.alerts.hooks import lost_runs
from jobdeck.core.errors import MissingExtra, require_extra
from jobdeck.core.logs import event
from jobdeck.core.model import ClaimedJob, FinishedRun, RunOutcome
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.redact import safe_error, scrub
from jobdeck.core.schema.components import release_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    import psycopg
    from sentry_sdk import Client
    from sentry_sdk.types import Event, Hint

    from jobdeck.core.queue.leases import Finished
    from jobdeck.core.settings import Settings

P = ParamSpec("P")

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 2.0
LOST_LISTED: Final = 20
"""Lost runs per reaper pass that get their own event; one more event has the number of the others."""
REAPER: Final = "reaper"
"""The worker that events name which are about runs of workers that are gone."""
CHECK_INS_KEPT: Final = 1000
CHECK_IN_MARGIN: Final = 5
"""Minutes by which a series may be late before its monitor reports it."""

_SHAPE = {"event_id", "timestamp", "platform", "level", "sdk", "fingerprint", "check_in_id", "monitor_slug", "type"}
"""Parts of an event that are not free text."""
_CHECKED = {
    RunOutcome.SUCCEEDED: True,
    RunOutcome.PARTIAL: True,
    RunOutcome.FAILED: False,
}
"""Outcomes that end a cycle, and whether it succeeded."""


class Alerts:
    """Sends alerts to Sentry; off if no DSN is set or the DSN is invalid."""

    def __init__(self, settings: Settings) -> None:
        self._environment = settings.environment or "unset"
        self._release = release_name(settings)
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
        return self._client is not None

    def failed(
        self,
        job: ClaimedJob,
        run: FinishedRun,
        frames: sentry_events.Frames,
        lines: Callable[[], Sequence[str]],
        *,
        worker: str,
    ) -> None:
        """Reports a run recorded as `failed`: the job failed permanently, or a recurring job's cycle did."""
        self._send(lambda: [sentry_events.failure(job, run, frames, lines, worker, self._environment)])

    def lost(self, conn: psycopg.Connection[Any], jobs: Sequence[UUID]) -> None:
        """Reports runs recorded as lost because their workers stopped sending heartbeats."""
        self._send(lambda: self._lost(conn, jobs))

    def send(self, make: Callable[Concatenate[str, P], dict[str, Any]], *facts: P.args, **more: P.kwargs) -> None:
        """Sends the event that a function of `sentry_events` makes of the environment and these facts."""
        self._send(lambda: [make(self._environment, *facts, **more)])

    def note_check_in(self, job: ClaimedJob, seconds: float, answer: Finished) -> None:
        """Queues the end of a recurring job's cycle for `send_check_ins`, if check-ins are enabled."""
        if self._client is not None and self._checks_in and answer.recorded in _CHECKED:
            succeeded = _CHECKED[answer.recorded]
            self._check_ins.append(sentry_events.CheckIn(job.id, job.run_token, job.task_type, seconds, succeeded))

    def send_check_ins(self, conn: psycopg.Connection[Any]) -> None:
        """Sends the check-ins of `note_check_in`, each to the monitor of its series."""
        if self._check_ins:
            self._send(lambda: self._checked_in(conn))

    def close(self) -> None:
        """Waits up to 2 s for unsent events and closes the client."""
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=FLUSH_SECONDS)

    def _send(self, events: Callable[[], list[dict[str, Any]]]) -> None:
        if self._client is None:
            return
        try:
            for made in events():
                self._client.capture_event(made)  # type: ignore[arg-type]  # an event is a dict
        except Exception as error:  # noqa: BLE001 -- the database has the failure; only its alert is missing
            event(log, logging.WARNING, "an alert could not be sent", error=safe_error(repr(error)))

    def _lost(self, conn: psycopg.Connection[Any], jobs: Sequence[UUID]) -> list[dict[str, Any]]:
        listed = lost_runs(conn, jobs[:LOST_LISTED])
        events = [sentry_events.lost(run, job, REAPER, self._environment) for run, job in listed]
        if len(jobs) > LOST_LISTED:
            events.append(sentry_events.more_lost(len(jobs) - LOST_LISTED, REAPER, self._environment))
        return events

    def _checked_in(self, conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
        events = []
        for _ in range(len(self._check_ins)):
            run = self._check_ins.popleft()
            job = read_jobs.job(run.job_id).run(conn)
            schedule = sentry_events.monitored(job) if job is not None else None
            if schedule is not None:
                events.append(sentry_events.check_in(run, schedule, CHECK_IN_MARGIN, self._environment, self._release))
        return events


def _client(dsn: str, environment: str, release: str) -> Client:
    require_extra("Sentry's SDK", "sentry", "sentry_sdk")
    import sentry_sdk  # noqa: PLC0415 -- imported on first use

    return sentry_sdk.Client(
        dsn=dsn,
        environment=environment,
        release=release,
        # No integrations: they would report log lines and retried attempts, and the atexit integration writes to the
        # terminal and waits. Personal data is sent only with `send_default_pii`, or since 2.75 `data_collection`:
        # both stay unset.
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
