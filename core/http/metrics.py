"""`/metrics` in Prometheus's text format, and `/healthz` for load balancers. Neither asks the database every time."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.http.counters import BUCKETS
from jobdeck.core.http.endpoints import Answer, Declined
from jobdeck.core.logs import event
from jobdeck.core.model import Filter
from jobdeck.core.postgres.reconnecting import FAILURES, Link
from jobdeck.core.read import health, jobs
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import psycopg

    from jobdeck.core.http.counters import Counters
    from jobdeck.core.http.endpoints import Call
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

HEALTHZ_PATH: Final = "/healthz"
METRICS_PATH: Final = "/metrics"
METHODS: Final = ("GET", "HEAD")
FRESH_SECONDS: Final = 2.0
"""How long an answer of the database serves everybody who asks."""
MEDIA_TYPE: Final = "text/plain; version=0.0.4"
BEARER: Final = "Bearer "

Labels = dict[str, str]
Sample = tuple[Labels, float]


class Cached:
    """What a question to the database came to, asked anew at most every two seconds; None while it does not answer."""

    def __init__(self, database: Database, purpose: str, ask: Callable[[psycopg.Connection[Any]], Any]) -> None:
        self._link = Link(database, purpose)
        self._ask = ask
        self._lock = threading.Lock()
        self._at = -FRESH_SECONDS
        self._known: Any = None

    def value(self) -> Any:
        """The answer."""
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
        """Closes the connection."""
        with self._lock:
            self._link.close()


class Healthz:
    """`GET /healthz`: 200 while this process and its database answer, else 503. Says nothing more: anybody may ask."""

    def __init__(self, database: Database) -> None:
        self._answer = Cached(database, "answering /healthz", _is_there)

    def admit(self, call: Call) -> None:
        """Lets everybody in."""

    def handle(self, call: Call) -> Answer:
        """Answers."""
        del call
        if self._answer.value():
            return Answer(200, {"status": "ok"})
        return Answer(503, {"status": "unavailable"})

    def close(self) -> None:
        """Closes the connection."""
        self._answer.close()


class Metrics:
    """`GET /metrics`: what the database knows of the queue, and what the door has counted of itself."""

    def __init__(self, database: Database, settings: Settings, counters: Counters) -> None:
        self._token = settings.metrics_token.get_secret_value().strip() if settings.metrics_token else ""
        self._counters = counters
        self._answer = Cached(database, "answering /metrics", _read)

    def admit(self, call: Call) -> None:
        """Lets in whoever brings the token.

        Raises:
            Declined: 401 without it; 404 where none is set, as for any path that is not there.
        """
        if not self._token:
            raise Declined(404, "There is nothing at this path.")
        self.admit_nearby(call)

    def admit_nearby(self, call: Call) -> None:
        """Lets everybody in where no token is set: for an address of its own.

        Raises:
            Declined: 401 where a token is set and not brought.
        """
        given = call.headers.get("authorization", "").removeprefix(BEARER).strip()
        if self._token and not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            raise Declined(
                401,
                "This call needs the header Authorization: Bearer JOBDECK_METRICS_TOKEN.",
                WWW_Authenticate="Bearer",
            )

    def handle(self, call: Call) -> Answer:
        """Answers with all samples."""
        del call
        known = self._answer.value()
        lines = [*_family("jobdeck_up", "gauge", "Whether the database answers.", [({}, float(known is not None))])]
        for name, kind, told, samples in known or []:
            lines += _family(name, kind, told, samples)
        return Answer(200, "\n".join([*lines, *self._own(), ""]), MEDIA_TYPE)

    def _own(self) -> Iterable[str]:
        counts = self._counters.counts()
        yield from _family(
            "jobdeck_door_calls_total", "counter", "Calls that were answered, by path and status.",
            [({"path": path, "status": str(status)}, count) for (path, status), count in counts.calls.items()],
        )  # fmt: skip
        yield from _family(
            "jobdeck_door_events_total", "counter", "Delivery events: new, known before, ignored.",
            [({"provider": who, "fate": fate}, count) for (who, fate), count in counts.events.items()],
        )  # fmt: skip
        name = "jobdeck_door_seconds"
        yield f"# HELP {name} How long answers took."
        yield f"# TYPE {name} histogram"
        for path, seconds in sorted(counts.seconds.items()):
            total = sum(count for (of, _), count in counts.calls.items() if of == path)
            for bound in BUCKETS:
                yield _sample(
                    f"{name}_bucket", {"path": path, "le": f"{bound:g}"}, counts.buckets.get((path, bound), 0)
                )
            yield _sample(f"{name}_bucket", {"path": path, "le": "+Inf"}, total)
            yield _sample(f"{name}_sum", {"path": path}, seconds)
            yield _sample(f"{name}_count", {"path": path}, total)

    def close(self) -> None:
        """Closes the connection."""
        self._answer.close()


def _is_there(conn: psycopg.Connection[Any]) -> bool:
    return bool(jobs.permissions().run(conn).role)


def _read(conn: psycopg.Connection[Any]) -> list[tuple[str, str, str, list[Sample]]]:
    """All that the database knows, as families of samples."""
    seen = jobs.snapshot(Filter(), limit=1).run(conn)
    counts, judged, at = seen.counts, seen.health, seen.at
    workers, switch = seen.workers, seen.processing
    trigger = judged.last_trigger
    due = judged.oldest_due
    statuses = ("pending", "running", "succeeded", "failed", "cancelled")
    return [
        ("jobdeck_jobs", "gauge", "Jobs in the queue by status, counted up to 10001.",
         [({"status": name}, float(getattr(counts, name))) for name in statuses]),
        ("jobdeck_oldest_due_seconds", "gauge", "For how long the oldest due job has waited; 0 when nothing is due.",
         [({}, (at - due).total_seconds() if due else 0.0)]),
        ("jobdeck_processing_enabled", "gauge", "Whether processing is on.", [({}, float(switch.enabled))]),
        ("jobdeck_paused_types", "gauge", "Task types that are paused.", [({}, float(len(switch.paused_types)))]),
        ("jobdeck_workers", "gauge", "Standing workers by whether they are alive.",
         [({"alive": word}, float(sum(worker.alive is alive for worker in workers)))
          for word, alive in (("true", True), ("false", False))]),
        ("jobdeck_health", "gauge", "The verdict by signal: 0 ok, 1 paused, 2 warning, 3 critical.",
         [({"signal": found.signal}, float(health.SEVERITY.index(found.verdict))) for found in judged.findings]),
        ("jobdeck_finished_per_minute", "gauge", "Runs finished in the last whole minute.",
         [({}, float(judged.finished_per_minute[-2]))] if len(judged.finished_per_minute) > 1 else []),
        ("jobdeck_failed_last_hour", "gauge", "Runs after which jobs failed for good, in the last hour.",
         [({}, float(judged.failed_last_hour))]),
        ("jobdeck_last_trigger_seconds", "gauge", "For how long no cycle or window has begun.",
         [({}, (at - trigger.started_at).total_seconds())] if trigger else []),
    ]  # fmt: skip


def _family(name: str, kind: str, told: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterable[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _sample(name, labels, value)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value:.15g}" if told else f"{name} {value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
