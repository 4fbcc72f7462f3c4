"""Requests and responses as plain values, so that an endpoint is a plain function, and the counters of both."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.registry import Collector

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings


BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the duration histogram, in seconds."""

# When a counter began is one more line for each of its lines, and nobody reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # without types in prometheus_client


class Counters:
    """The counters of one server, which any thread may add to. A `Collector` of prometheus_client."""

    def __init__(self) -> None:
        self._parts = CollectorRegistry()
        self._calls = Counter(
            "jobdeck_door_calls_total", "Answered requests by path and status.", ["path", "status"],
            registry=self._parts,
        )  # fmt: skip
        self._events = Counter(
            "jobdeck_door_events_total", "Delivery events by provider: new, duplicate, ignored.", ["provider", "fate"],
            registry=self._parts,
        )  # fmt: skip
        self._seconds = Histogram(
            "jobdeck_door_seconds", "Duration of requests.", ["path"], buckets=BUCKETS, registry=self._parts
        )

    @staticmethod
    def now() -> float:
        """The clock for durations, in seconds."""
        return time.monotonic()

    def answered(self, path: str, status: int, began: float) -> None:
        """Counts one answered request. `began` comes from `now`."""
        self._calls.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(self.now() - began)

    def received(self, provider: str, **counts: int) -> None:
        """Counts delivery events by outcome."""
        for what, count in counts.items():
            self._events.labels(provider, what).inc(count)

    def collect(self) -> Iterable[Metric]:
        """The metrics, as prometheus_client asks a collector for them."""
        return self._parts.collect()


def encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """What writes the format that the header Accept asks for, and its media type; Prometheus's text for any other."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client compares a version that is none
        return choose_encoder("")


def exposition(parts: Iterable[Collector], accept: str) -> tuple[str, str]:
    """The metrics of these collectors as text, and its media type."""
    registry = CollectorRegistry()
    for part in parts:
        registry.register(part)
    encode, media_type = encoder(accept)
    return encode(registry).decode(), media_type


RETRY_SECONDS = "5"


class Lane:
    """A pool of threads for one kind of endpoints, so that slow requests of one kind do not delay the others."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._count = threads
        self._room = threads + waiting
        self._busy = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"door {name}")

    @property
    def full(self) -> bool:
        """Whether requests wait for a thread. Can be read in any thread."""
        return self._busy > self._count

    async def run(self, work: Callable[..., Any], *given: Any) -> Any:
        """Runs `work` in a thread of the pool. Call it in the thread of the event loop.

        Raises:
            Declined: too many requests wait already.
        """
        if self._busy >= self._room:
            raise Declined(503, "The server is busy. Try again later.", Retry_After=RETRY_SECONDS)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Waits for the running functions, then ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are in lower case; `target` is the path and query as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: a JSON object, or text with its media type."""

    status: int
    content: dict[str, Any] | str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Declined(Exception):
    """A request is refused and nothing was changed. The caller receives the sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def answer(self) -> Answer:
        return Answer(self.status, {"status": "refused", "error": self.sentence}, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the HTTP server.

    Args:
        path: the path of the URL.
        methods: the allowed methods.
        limit: the maximum size of a body, in bytes.
        admit: checks the request without its body, and raises `Declined` when it is not authorised.
        handle: does the work, in a thread of `lane`.
        lane: the threads for `handle`.
        prove: checks the signature of the whole request, in a thread, and raises `Declined` when it is wrong. None
            when `admit` is the whole proof.
        public: whether `admit` lets requests pass without a secret.
        counted: whether bodies count against the bytes of all requests also with a proof, because the clients are not
            trusted with the server's memory.
    """

    path: str
    methods: tuple[str, ...]
    limit: int
    admit: Callable[[Call], None]
    handle: Callable[[Call], Answer]
    lane: Lane
    prove: Callable[[Call], None] | None = None
    public: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What a plugin needs to make its endpoints. `lane` runs them; `wake` runs the `Upkeep` of this name now."""

    database: Database
    settings: Settings
    counters: Counters
    lane: Lane
    wake: Callable[[str], None]
