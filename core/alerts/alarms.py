"""Alarms: a long-running process reports when the queue's health becomes critical and when it recovers.

Several processes may watch one database. The database records raised alarms, so each incident is reported once.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.alerts import sentry_events
from jobdeck.core.logs import event
from jobdeck.core.model import Finding, Health, Verdict
from jobdeck.core.postgres.reconnecting import LOST
from jobdeck.core.queue.presence import clear_alarm, raise_alarm
from jobdeck.core.read.verdict import cannot_run, failing_types
from jobdeck.core.read.verdict.health import health
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

    from jobdeck.core.alerts.sentry import Alerts
    from jobdeck.core.registry import Registry

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 30.0
OUTAGE_SECONDS: Final = 60.0
"""Seconds for which a database may be unreachable before an alert is sent."""

WATCHED: Final = ("trigger", "workers", "claims", "processing", "left lying", "upkeep")
"""Signals that raise an alarm when critical, beside those of task types. Single jobs and series have alerts of their
own."""
OF_TYPES: Final = (failing_types.SIGNAL, cannot_run.SIGNAL)
"""Signals with a task type as their subject, each of which raises an alarm of its own."""


def timeouts_of(registry: Registry) -> dict[str, float]:
    """The timeout of each task type, in seconds."""
    return {name: found.timeout for name in registry.names if (found := registry.get(name)) is not None}


class Sentinel:
    """The alarms of one process. `who` is the source that they name."""

    def __init__(self, alerts: Alerts, who: str, *, timeouts: Mapping[str, float] | None = None) -> None:
        self._alerts = alerts
        self._who = who
        self._timeouts = timeouts
        self._known: set[str] = set()

    def look(self, conn: psycopg.Connection[Any]) -> Health:
        """Evaluates all alarms once and reports those that changed since the last report.

        Raises:
            psycopg.Error: the database did not answer.
        """
        found = health(timeouts=self._timeouts).run(conn)
        signals = {finding.name: finding for finding in found.findings}
        for name in (*WATCHED, *self._of_types(conn, found)):
            finding = signals.get(name)
            stopped = _is_critical(signals.get("trigger"))
            if (name == "workers" and "trigger" in signals) or (name == "upkeep" and stopped):
                # One cause, one alarm: where a scheduler runs the jobs, only "trigger" raises it.
                finding = None
            if finding is not None and _is_critical(finding):
                self._raise(conn, finding)
            else:
                self._clear(conn, name, finding)
        return found

    def _of_types(self, conn: psycopg.Connection[Any], found: Health) -> set[str]:
        """The names of signals of task types: those that health finds now, and those with an alarm that is not over."""
        raised = failing_types.raised_alarms().run(conn) if self._alerts.on else ()
        now = {finding.name for finding in found.findings if finding.signal in OF_TYPES}
        begins = tuple(f"{signal} of " for signal in OF_TYPES)
        return now | {name for name in (*raised, *self._known) if name.startswith(begins)}

    def _raise(self, conn: psycopg.Connection[Any], finding: Finding) -> None:
        if finding.name not in self._known:
            self._known.add(finding.name)
            event(log, logging.ERROR, "alarm", signal=finding.name, evidence=finding.evidence)
        if self._alerts.on and raise_alarm(conn, finding.name):
            self._alerts.send(sentry_events.alarm, finding, self._who)

    def _clear(self, conn: psycopg.Connection[Any], name: str, finding: Finding | None) -> None:
        evidence = finding.evidence if finding is not None else "The signal is no longer critical."
        if name in self._known:
            self._known.discard(name)
            event(log, logging.INFO, "alarm over", signal=name, evidence=evidence)
        if self._alerts.on:
            since = clear_alarm(conn, name)
            if since is not None:
                self._alerts.send(sentry_events.recovered, name, evidence, since, self._who)


def _is_critical(finding: Finding | None) -> bool:
    return finding is not None and finding.verdict is Verdict.CRITICAL


class Outage:
    """Reports a database that one process cannot reach: once when the outage lasts, and once when it is over."""

    def __init__(self, alerts: Alerts, who: str, database: str) -> None:
        self._alerts = alerts
        self._who = who
        self._database = database
        self._since: float | None = None
        self._reported = False

    def note(self, error: BaseException) -> None:
        """Records a failure; only lost connections count."""
        if not isinstance(error, LOST):
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not self._reported and now - self._since >= OUTAGE_SECONDS:
            self._reported = True
            reason = safe_error(str(error))
            self._alerts.send(sentry_events.unreachable, self._who, self._database, now - self._since, reason)

    def over(self) -> None:
        """Records that the database has answered."""
        if self._reported and self._since is not None:
            lasted = time.monotonic() - self._since
            self._alerts.send(sentry_events.reachable, self._who, self._database, lasted)
        self._since, self._reported = None, False
