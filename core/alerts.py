"""Sentry: one event per job that failed for good, tagged `job_runner`; nothing at all without `SENTRY_DSN`.

The SDK is imported only where a DSN is set, and its client is not made the process's own, so that handlers may
use Sentry in their way. Whatever goes wrong in here is logged and goes no further: an alert is never a reason
for a job to fail or to wait.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from core.logs import event
from core.redact import safe_error, scrub

if TYPE_CHECKING:
    from sentry_sdk import Client
    from sentry_sdk.types import Event, Hint

    from core.model import FinishedRun
    from core.run_context import RunContext
    from core.settings import Settings

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
_SHAPE = {"event_id", "timestamp", "platform", "level", "sdk", "fingerprint"}
"""Parts of an event that are not free text."""


class Alerts:
    """Where failures are reported to; off where no DSN is set or it is unusable."""

    def __init__(self, settings: Settings) -> None:
        self._environment = settings.environment or "unset"
        self._client: Client | None = None
        if settings.sentry_dsn is None:
            return
        try:
            self._client = _client(settings.sentry_dsn.get_secret_value(), self._environment)
        except Exception as error:  # noqa: BLE001 -- a worker without alerts is better than none
            event(log, logging.WARNING, "SENTRY_DSN cannot be used; alerts are off", error=safe_error(repr(error)))

    def failed(self, context: RunContext, run: FinishedRun, *, worker: str) -> None:
        """Reports a run that was recorded as `failed`: for good, or the end of a recurring job's cycle."""
        if self._client is None:
            return
        try:
            self._client.capture_event(_event(context, run, worker, self._environment))
        except Exception as error:  # noqa: BLE001 -- the run has been recorded; only its alert is missing
            event(log, logging.WARNING, "an alert could not be sent", error=safe_error(repr(error)))

    def close(self) -> None:
        """Waits up to 2 s for what is on its way, and ends the client."""
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=FLUSH_SECONDS)


def _client(dsn: str, environment: str) -> Client:
    import sentry_sdk  # noqa: PLC0415 -- imported on first use

    return sentry_sdk.Client(
        dsn=dsn,
        environment=environment,
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


def _event(context: RunContext, run: FinishedRun, worker: str, environment: str) -> Event:
    job = context.job
    kind = run.error_kind or "failed"
    failure: dict[str, Any] = {"type": kind, "value": run.error or kind}
    if context.stack:
        failure["stacktrace"] = {
            "frames": [{"filename": name, "lineno": line, "function": where} for name, line, where in context.stack]
        }
    return {
        "level": "error",
        "logger": "job_runner",
        "transaction": job.task_type,
        "fingerprint": ["job_runner", job.task_type, kind],
        "exception": {"values": [failure]},
        "tags": {
            "job_runner": "jobdeck",
            "task_type": job.task_type,
            "job_id": str(job.id),
            "attempt": str(job.attempt),
            "worker": worker,
            "outcome": run.outcome.value,
            "environment": environment,
        },
        "contexts": {
            "job": {
                "run_token": job.run_token,
                "attempt": job.attempt,
                "max_attempts": job.max_attempts,
                "recurring": job.is_recurring,
                "due_at": job.due_at.isoformat(),
                "started_at": run.started_at.isoformat(),
                "finished_at": run.finished_at.isoformat(),
            }
        },
        "extra": {"log": context.log_tail()},
    }
