"""`/metrics` for Prometheus and `/healthz` for load balancers. Both cache the answer of the database."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from jobdeck.core.alerts.alarms import OF_TYPES, timeouts_of
from jobdeck.core.http.clients.proof import Secret
from jobdeck.core.http.counters import Counters, exposition
from jobdeck.core.http.endpoints import Answer, Call, Declined
from jobdeck.core.logs import event
from jobdeck.core.model import Filter, Finding
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.read import jobs
from jobdeck.core.read.sentences import CLAIMED
from jobdeck.core.read.stats import figures, run_times
from jobdeck.core.read.verdict import health, upkeep_health
from jobdeck.core.read.workers.slots import lanes
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.read.stats.run_times import Histogram
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

HEALTHZ_PATH: Final = "/healthz"
METRICS_PATH: Final = "/metrics"
METHODS: Final = ("GET", "HEAD")
FRESH_SECONDS: Final = 2.0
"""How long an answer of the database is cached."""
MOST_TYPES: Final = 200
"""How many task types that neither this program nor a worker knows have series of their own."""
LONGEST_LABEL: Final = 200
OTHER: Final = "other"
"""The value of the label `task_type` for all further types."""


class Cached:
    """The result of a query, cached for `FRESH_SECONDS`."""

    def __init__(self, database: Database, purpose: str, ask: Callable[[psycopg.Connection[Any]], Any]) -> None:
        self._link = Link(database, purpose)
        self._ask = ask
        self._lock = threading.Lock()
        self._at = -FRESH_SECONDS
        self._known: Any = None

    def value(self) -> Any:
        """The result, or None while the database does not answer."""
        with self._lock:
            if time.monotonic() - self._at >= FRESH_SECONDS:
                try:
                    self._known = self._link.run(self._ask)
                except FAILURES as error:
                    self._known = None
                    event(log, logging.DEBUG, "the database did not answer", error=safe_error(str(error)))
                self._at = time.monotonic()
            return self._known

    def close(self) -> None:
        with self._lock:
            self._link.close()


class Healthz:
    """`GET /healthz`: 200 while the database answers, else 503. It shows nothing else, because it needs no secret."""

    def __init__(self, database: Database) -> None:
        self._answer = Cached(database, "answering /healthz", _is_there)

    def admit(self, call: Call) -> None:
        """Allows every request."""

    def handle(self, call: Call) -> Answer:
        del call
        if self._answer.value():
            return Answer(200, {"status": "ok"})
        return Answer(503, {"status": "unavailable"})

    def close(self) -> None:
        self._answer.close()


class Token(Secret):
    """The token that readers of metrics have to show."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("JOBDECK_METRICS_TOKEN", settings.metrics_token)

    def admit(self, call: Call) -> None:
        """Checks the token.

        Raises:
            Declined: 401 without the token; 404, as for an unknown path, when no token is configured.
        """
        if not self.is_set:
            raise Declined(404, "Unknown path.")
        super().admit(call)

    def admit_nearby(self, call: Call) -> None:
        """Checks the token on an address for metrics alone, where no token is required.

        Raises:
            Declined: 401 when a token is configured and the request does not have it.
        """
        if self.is_set:
            super().admit(call)


class TypeLabels:
    """The values of the label `task_type` in one process: all types that it or a worker knows, and the first others.

    An application can insert a job of any type, and a monitor keeps each value of a label in its memory. So the types
    beyond `most` unknown ones share the value `other`, and so do unknown ones with an address or a number of somebody
    in them, or with more than `LONGEST_LABEL` characters.
    """

    def __init__(self, known: Iterable[str], most: int = MOST_TYPES) -> None:
        self._known = frozenset(known)
        self._others: set[str] = set()
        self._most = most

    def know(self, types: Iterable[str]) -> None:
        """Gives types a value of their own from now on."""
        self._known |= frozenset(types)

    def value(self, task_type: str) -> str:
        if task_type in self._known or task_type in self._others:
            return task_type
        if len(self._others) < self._most and safe_error(task_type, LONGEST_LABEL) == task_type:
            self._others.add(task_type)
            return task_type
        return OTHER

    def merged(self, values: Iterable[tuple[str, T]], merge: Callable[[T, T], T]) -> dict[str, T]:
        """The values by label; those that share a label are merged."""
        found: dict[str, T] = {}
        for task_type, one in values:
            label = self.value(task_type)
            found[label] = merge(found[label], one) if label in found else one
        return found


class Metrics:
    """`GET /metrics`: metrics of the queue, from the database, and of this server."""

    def __init__(self, database: Database, settings: Settings, counters: Counters, registry: Registry) -> None:
        self.token = Token(settings)
        self._counters = counters
        self._process = ProcessCollector(registry=None)
        judge = {"production": settings.is_production, "timeouts": timeouts_of(registry)}
        read = partial(_read, labels=TypeLabels(registry.names), judge=judge)
        self._answer = Cached(database, "answering /metrics", read)

    def handle(self, call: Call) -> Answer:
        text, media_type = exposition([self, self._counters, self._process], call.headers.get("accept", ""))
        return Answer(200, text, media_type)

    def collect(self) -> Iterable[Metric]:
        """The metrics from the database, as prometheus_client asks a collector for them."""
        known = self._answer.value()
        yield GaugeMetricFamily("jobdeck_up", "Whether the database answers.", value=float(known is not None))
        yield from known or []

    def close(self) -> None:
        self._answer.close()


def _is_there(conn: psycopg.Connection[Any]) -> bool:
    return bool(jobs.permissions().run(conn).role)


def _read(conn: psycopg.Connection[Any], *, labels: TypeLabels, judge: Mapping[str, Any]) -> list[Metric]:
    return [
        *_jobs(conn, labels, judge),
        *_runs(conn, labels),
        *_upkeep(conn),
    ]


def _jobs(conn: psycopg.Connection[Any], labels: TypeLabels, judge: Mapping[str, Any]) -> list[Metric]:
    seen = jobs.snapshot(Filter(), limit=1, **judge).run(conn)
    waiting = jobs.backlog().run(conn)
    labels.know(name for worker in seen.workers for name in worker.task_types)
    counts, judged, at = seen.counts, seen.health, seen.at
    workers, switch = seen.workers, seen.processing
    aside = {one.task_type for one in switch.set_aside}
    trigger = judged.last_trigger
    due = judged.oldest_due
    statuses = ("pending", "running", "succeeded", "failed", "cancelled")
    return [
        gauge("jobdeck_jobs", "Jobs in the queue by status, counted up to 10001.",
              {**{name: float(getattr(counts, name)) for name in statuses}, "running": float(counts.begun),
               CLAIMED: float(counts.claimed)}, label="status"),
        gauge("jobdeck_jobs_at_least", "1 where there may be more than jobdeck_jobs says.",
              {name: float(getattr(counts, name) > counts.LIMIT) for name in statuses}, label="status"),
        gauge("jobdeck_jobs_pending", "Pending jobs by type, counted up to 10001.",
              labels.merged(((line.task_type, float(line.waiting)) for line in waiting), add), label="task_type"),
        gauge("jobdeck_jobs_overdue", "Jobs by type that are due for longer than the interval of the scheduler.",
              labels.merged(((line.task_type, float(line.overdue)) for line in waiting if line.task_type not in aside),
                            add), label="task_type"),
        gauge("jobdeck_oldest_due_seconds", "How long the oldest due job has waited; 0 without a backlog.",
              (at - due).total_seconds() if due else 0.0),
        gauge("jobdeck_processing_enabled", "1 while processing is not paused.", float(switch.enabled)),
        gauge("jobdeck_paused_types", "Number of paused task types.", float(len(switch.paused_types))),
        gauge("jobdeck_workers", "Workers that are alive, and that are not.",
              {word: float(sum(worker.alive is alive for worker in workers))
               for word, alive in (("true", True), ("false", False))}, label="alive"),
        gauge("jobdeck_slots", "Slots of live workers by kind of handler.",
              {kind: float(lane.slots) for kind, lane in lanes(workers).items()}, label="kind"),
        gauge("jobdeck_slots_taken", "Slots of live workers that have a job, by kind of handler.",
              {kind: float(lane.taken) for kind, lane in lanes(workers).items()}, label="kind"),
        gauge("jobdeck_health", "Verdict by signal: 0 ok, 1 paused, 2 warning, 3 critical.",
              _verdicts(judged.findings, labels), label="signal"),
        gauge("jobdeck_finished_per_minute", "Runs finished in the last full minute.",
              float(judged.finished_per_minute[-2]) if len(judged.finished_per_minute) > 1 else None),
        gauge("jobdeck_runs_last_minute", "Runs that succeeded and that failed in the last full minute.",
              {word: float(runs)
               for word, runs in zip(("succeeded", "failed"), judged.last_minute or (), strict=False)},
              label="result"),
        gauge("jobdeck_failed_last_hour", "Runs in the last hour after which the job failed permanently.",
              float(judged.failed_last_hour)),
        gauge("jobdeck_last_trigger_seconds", "Time since the last cycle or worker window started.",
              (at - trigger.started_at).total_seconds() if trigger else None),
    ]  # fmt: skip


def _verdicts(findings: Iterable[Finding], labels: TypeLabels) -> dict[str, float]:
    """The verdicts as numbers by the name of the signal. Those of task types with one label are one, the worst."""
    found: dict[str, float] = {}
    for one in findings:
        by_type = one.signal in OF_TYPES and one.subject
        name = f"{one.signal} of {labels.value(one.subject)}" if by_type else one.name
        found[name] = max(found.get(name, 0.0), float(health.SEVERITY.index(one.verdict)))
    return found


def _runs(conn: psycopg.Connection[Any], labels: TypeLabels) -> list[Metric]:
    times = run_times.run_times().run(conn)
    failing = [(share.task_type, share.share) for share in figures.failure_shares().run(conn) if share.runs]
    return [
        runs("jobdeck_runs", "Ended runs by type and outcome.", figures.totals().run(conn), labels),
        histogram("jobdeck_run_wait_seconds", "Time from the due time of a job to the start of its run, by type.",
                  labels.merged(((one.task_type, one.waits) for one in times), add)),
        histogram("jobdeck_run_duration_seconds", "Time that runs took, by type.",
                  labels.merged(((one.task_type, one.durations) for one in times), add)),
        gauge("jobdeck_failure_share", "Share of failed runs in the last 15 minutes, by type.",
              labels.merged(failing, max), label="task_type"),
    ]  # fmt: skip


def _upkeep(conn: psycopg.Connection[Any]) -> list[Metric]:
    parts = upkeep_health.upkeep_parts().run(conn)
    return [
        gauge("jobdeck_upkeep_age_seconds", "Time since a part of upkeep last succeeded.",
              {one.part: max(one.age.total_seconds(), 0.0) for one in parts}, label="part"),
        gauge("jobdeck_upkeep_limit_seconds", "The age from which a part of upkeep is late.",
              {one.part: one.limit.total_seconds() for one in parts}, label="part"),
    ]  # fmt: skip


def runs(name: str, text: str, totals: Iterable[tuple[str, str, int]], labels: TypeLabels) -> Metric:
    """A counter of runs, of task type, outcome and number."""
    family = CounterMetricFamily(name, text, labels=["task_type", "outcome"])
    by_outcome: dict[str, list[tuple[str, int]]] = {}
    for task_type, outcome, number in totals:
        by_outcome.setdefault(outcome, []).append((task_type, number))
    for outcome, numbers in by_outcome.items():
        for label, number in labels.merged(numbers, add).items():
            family.add_metric([label, outcome], number)
    return family


def histogram(name: str, text: str, types: Mapping[str, Histogram]) -> Metric:
    """A histogram with the label `task_type`."""
    family = HistogramMetricFamily(name, text, labels=["task_type"])
    for task_type, times in types.items():
        buckets = [(str(round(bound, 3)), float(number)) for bound, number in times.bounds]
        family.add_metric([task_type], [*buckets, ("+Inf", float(times.runs))], sum_value=times.seconds)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels."""
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, values: Mapping[str, float] | float | None, *, label: str = "") -> Metric:
    """A metric with one value, with one for each value of a label, or with none."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    if isinstance(values, float):
        family.add_metric([], values)
    for word, value in values.items() if isinstance(values, Mapping) else []:
        family.add_metric([word], value)
    return family
