"""`/metrics` for Prometheus and `/healthz` for load balancers. Both cache the answer of the database."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from jobdeck.core.http.counters import exposition
from jobdeck.core.http.endpoints import Answer, Declined
from jobdeck.core.logs import event
from jobdeck.core.model import Filter
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.read import jobs
from jobdeck.core.read.stats import run_times, shares
from jobdeck.core.read.verdict import health
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg
    from prometheus_client import Metric

    from jobdeck.core.http.counters import Counters
    from jobdeck.core.http.endpoints import Call
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.read.stats.run_times import Times
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

HEALTHZ_PATH: Final = "/healthz"
METRICS_PATH: Final = "/metrics"
METHODS: Final = ("GET", "HEAD")
FRESH_SECONDS: Final = 2.0
"""How long an answer of the database is cached."""
BEARER: Final = "Bearer "


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


class Metrics:
    """`GET /metrics`: metrics of the queue, from the database, and of this server."""

    def __init__(self, database: Database, settings: Settings, counters: Counters) -> None:
        self._token = settings.metrics_token.get_secret_value().strip() if settings.metrics_token else ""
        self._counters = counters
        self._answer = Cached(database, "answering /metrics", partial(_read, production=settings.is_production))

    def admit(self, call: Call) -> None:
        """Checks the token.

        Raises:
            Declined: 401 without the token; 404, as for an unknown path, when no token is configured.
        """
        if not self._token:
            raise Declined(404, "Unknown path.")
        self.admit_nearby(call)

    def admit_nearby(self, call: Call) -> None:
        """Checks the token on the separate address for metrics, where no token is required.

        Raises:
            Declined: 401 when a token is configured and the request does not have it.
        """
        given = call.headers.get("authorization", "").removeprefix(BEARER).strip()
        if self._token and not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            raise Declined(
                401,
                "This call needs the header Authorization: Bearer JOBDECK_METRICS_TOKEN.",
                WWW_Authenticate="Bearer",
            )

    def handle(self, call: Call) -> Answer:
        text, media_type = exposition([self, self._counters], call.headers.get("accept", ""))
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


def _read(conn: psycopg.Connection[Any], *, production: bool) -> list[Metric]:
    seen = jobs.snapshot(Filter(), limit=1, production=production).run(conn)
    waiting = jobs.backlog().run(conn)
    counts, judged, at = seen.counts, seen.health, seen.at
    workers, switch = seen.workers, seen.processing
    aside = {one.task_type for one in switch.set_aside}
    times = run_times.run_times().run(conn)
    trigger = judged.last_trigger
    due = judged.oldest_due
    statuses = ("pending", "running", "succeeded", "failed", "cancelled")
    return [
        _gauge("jobdeck_jobs", "Jobs in the queue by status; above 10000 an estimate.",
               {name: float(getattr(counts, name)) for name in statuses}, label="status"),
        _gauge("jobdeck_jobs_estimated", "1 where the number in jobdeck_jobs is an estimate.",
               {name: float(getattr(counts, name) > counts.LIMIT) for name in statuses}, label="status"),
        _gauge("jobdeck_jobs_pending", "Pending jobs by type; above 10000 an estimate.",
               {line.task_type: float(line.waiting) for line in waiting}, label="task_type"),
        _gauge("jobdeck_jobs_overdue", "Jobs by type that are due for longer than the interval of the scheduler.",
               {line.task_type: float(line.overdue) for line in waiting if line.task_type not in aside},
               label="task_type"),
        _gauge("jobdeck_oldest_due_seconds", "How long the oldest due job has waited; 0 without a backlog.",
               (at - due).total_seconds() if due else 0.0),
        _gauge("jobdeck_processing_enabled", "1 while processing is not paused.", float(switch.enabled)),
        _gauge("jobdeck_paused_types", "Number of paused task types.", float(len(switch.paused_types))),
        _gauge("jobdeck_workers", "Workers that are alive, and that are not.",
               {word: float(sum(worker.alive is alive for worker in workers))
                for word, alive in (("true", True), ("false", False))}, label="alive"),
        _gauge("jobdeck_health", "Verdict by signal: 0 ok, 1 paused, 2 warning, 3 critical.",
               {found.name: float(health.SEVERITY.index(found.verdict)) for found in judged.findings},
               label="signal"),
        _gauge("jobdeck_finished_per_minute", "Runs finished in the last full minute.",
               float(judged.finished_per_minute[-2]) if len(judged.finished_per_minute) > 1 else None),
        _gauge("jobdeck_runs_last_minute", "Runs that succeeded and that failed in the last full minute.",
               {word: float(runs)
                for word, runs in zip(("succeeded", "failed"), judged.last_minute or (), strict=False)},
               label="result"),
        _gauge("jobdeck_failed_last_hour", "Runs in the last hour after which the job failed permanently.",
               float(judged.failed_last_hour)),
        _gauge("jobdeck_last_trigger_seconds", "Time since the last cycle or worker window started.",
               (at - trigger.started_at).total_seconds() if trigger else None),
        _runs(shares.totals().run(conn)),
        _histogram("jobdeck_run_wait_seconds", "Time from the due time of a job to the start of its run, by type.",
                   {one.task_type: one.waits for one in times}),
        _histogram("jobdeck_run_duration_seconds", "Time that runs took, by type.",
                   {one.task_type: one.durations for one in times}),
        _gauge("jobdeck_failure_share", "Share of failed runs in the last 15 minutes, by type.",
               {share.task_type: share.share for share in shares.failure_shares().run(conn) if share.runs},
               label="task_type"),
    ]  # fmt: skip


def _runs(totals: Iterable[tuple[str, str, int]]) -> Metric:
    family = CounterMetricFamily("jobdeck_runs", "Ended runs by type and outcome.", labels=["task_type", "outcome"])
    for task_type, outcome, runs in totals:
        family.add_metric([task_type, outcome], runs)
    return family


def _histogram(name: str, text: str, types: Mapping[str, Times]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["task_type"])
    for task_type, times in types.items():
        buckets = [(str(round(bound, 3)), float(runs)) for bound, runs in times.bounds]
        family.add_metric([task_type], [*buckets, ("+Inf", float(times.runs))], sum_value=times.seconds)
    return family


def _gauge(name: str, text: str, values: Mapping[str, float] | float | None, *, label: str = "") -> Metric:
    """A metric with one value, with one for each value of a label, or with none."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    if isinstance(values, float):
        family.add_metric([], values)
    for word, value in values.items() if isinstance(values, Mapping) else []:
        family.add_metric([word], value)
    return family
