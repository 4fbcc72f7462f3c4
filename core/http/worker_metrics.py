"""`/metrics` of one worker, on an address of its own.

Nothing here stops the worker: if the address cannot be opened, that is logged and tried again.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import Metric, ProcessCollector

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.http import metrics
from jobdeck.core.http.app import make_app
from jobdeck.core.http.clients.gate import Gate, Limits
from jobdeck.core.http.clients.proof import MAKE, Bearers, weakness
from jobdeck.core.http.counters import Counters, encoder, exposition
from jobdeck.core.http.endpoints import Answer, Call, Endpoint, Lane
from jobdeck.core.http.site import Site
from jobdeck.core.logs import event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.settings import Settings
    from jobdeck.core.worker.stats import WorkerFigures
    from jobdeck.core.worker.worker import Worker

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10.0
CONNECTIONS: Final = 20
CLOSING_SECONDS: Final = 1
STOP_SECONDS: Final = 3.0
FRESH_SECONDS: Final = 1.0
"""How long an answer is cached, so that a client that asks all the time costs the handlers little."""
ADVICE: Final = "Choose another with --metrics or JOBDECK_WORKER_METRICS_ADDRESS."


class WorkerMetrics:
    """Serves the metrics of one worker from `start` to `stop`."""

    def __init__(self, settings: Settings, address: str) -> None:
        """Does not open the address yet. `address` is a host and a port; port 0 picks a free one.

        Raises:
            ConfigurationError: the address is not loopback and no token is configured, or the token can be guessed.
        """
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._token = metrics.Token(settings)
        _refuse_strangers(self._token, settings, host, address)
        self._worker: Worker | None = None
        self._labels = metrics.TypeLabels((), most=0)
        self._process = ProcessCollector(registry=None)
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, Answer]] = {}
        self._lane = Lane("worker metrics", threads=1, waiting=CONNECTIONS)
        self._site = self._make_site(host, int(port))
        self._ending = threading.Event()
        self.opened = threading.Event()
        """Set when the address is open."""
        self._thread = threading.Thread(target=self._serve, name="worker metrics", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. A port that was 0 is known when the address is open."""
        return self._site.address

    def start(self, worker: Worker) -> None:
        """Starts a thread that opens the address, and returns at once. Call it before the worker is started.

        Only then the worker counts its runs by type.
        """
        worker.count_by_type()
        self._worker, self._labels = worker, metrics.TypeLabels(worker.task_types, most=0)
        self._thread.start()

    def stop(self) -> None:
        """Closes the address, and returns within a few seconds whatever clients and the network do."""
        self._ending.set()
        if self._thread.ident is not None:
            # A host name whose server does not answer can take longer. The thread does not keep the process alive.
            self._thread.join(STOP_SECONDS)
        self._lane.close()

    def handle(self, call: Call) -> Answer:
        accept = call.headers.get("accept", "")
        # By the format, not by the header: a client can send another header each time.
        media_type = encoder(accept)[1]
        with self._lock:
            now = time.monotonic()
            made, answer = self._answers.get(media_type, (-math.inf, None))
            if answer is None or now - made >= FRESH_SECONDS:
                answer = Answer(200, *exposition([self, self._process], accept))
                self._answers[media_type] = (now, answer)
            return answer

    def collect(self) -> Iterable[Metric]:
        """The metrics of the worker, as prometheus_client asks a collector for them."""
        figures = self._worker.figures() if self._worker is not None else None
        if figures is not None:
            yield from _present(figures)
            yield from _counted(figures, self._labels)

    def _make_site(self, host: str, port: int) -> Site:
        endpoint = Endpoint(
            metrics.METRICS_PATH,
            metrics.METHODS,
            0,
            self._token.admit_nearby,
            self.handle,
            self._lane,
            public=not self._token.is_set,
        )
        limits = Limits(connections=CONNECTIONS)
        app = make_app(
            [endpoint], refused=lambda _status, _path: None, counters=Counters(), checks=self._lane, limits=limits
        )
        gate = Gate(lambda _status: None, Bearers(self._token).shown, limits)
        return Site(host, port, app, gate, advice=ADVICE, closing_seconds=CLOSING_SECONDS, daemon=True)

    def _serve(self) -> None:
        refused = ""
        while not self._ending.is_set():
            try:
                self._site.start()
            except ConfigurationError as error:
                if str(error) != refused:
                    refused = str(error)
                    event(log, logging.WARNING, "no metrics of this worker until its address is open", error=refused)
                self._ending.wait(RETRY_SECONDS)
                continue
            host, port = self._site.address
            event(log, logging.INFO, "metrics of this worker", host=host, port=port)
            self.opened.set()
            self._ending.wait()
        self._site.stop()


def _refuse_strangers(token: metrics.Token, settings: Settings, host: str, address: str) -> None:
    if not token.is_set and not is_loopback(host):
        raise ConfigurationError(
            f"The worker does not offer its metrics at {address} without a secret. Set JOBDECK_METRICS_TOKEN, or "
            "choose an address that only this machine reaches, like 127.0.0.1:9465."
        )
    problem = weakness(settings.metrics_token.get_secret_value()) if settings.metrics_token and token.is_set else None
    if problem:
        raise ConfigurationError(
            f"The worker does not offer metrics with a secret that can be guessed: JOBDECK_METRICS_TOKEN {problem}. "
            f"Make a good secret with `{MAKE}`."
        )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _present(now: WorkerFigures) -> list[Metric]:
    jobs = {"running": now.running, "waiting": now.waiting, "reporting": now.reporting}
    return [
        metrics.gauge("jobdeck_worker_slots", "How many jobs the worker runs at a time.", float(now.slots)),
        metrics.gauge("jobdeck_worker_jobs", "Jobs that the worker holds: running, waiting for a slot, reporting.",
                      {state: float(number) for state, number in jobs.items()}, label="state"),
        metrics.gauge("jobdeck_worker_draining", "1 while the worker stops and takes no jobs.", float(now.draining)),
        metrics.gauge("jobdeck_worker_last_heartbeat_timestamp_seconds",
                      "When the worker last wrote its row in job_workers, or was started.", now.heartbeat_at),
        metrics.gauge("jobdeck_worker_last_upkeep_timestamp_seconds", "When the worker last did its upkeep.",
                      now.upkeep_at),
        metrics.gauge("jobdeck_worker_upkeep_failing", "Parts of upkeep that failed when the worker last tried them.",
                      float(now.failing_parts)),
    ]  # fmt: skip


def _counted(now: WorkerFigures, labels: metrics.TypeLabels) -> list[Metric]:
    totals = [(task_type, outcome.value, number) for (task_type, outcome), number in now.outcomes.items()]
    return [
        metrics.counter("jobdeck_worker_claims", "Claims that the database answered.", now.claims),
        metrics.counter("jobdeck_worker_claimed_jobs", "Jobs that the worker has claimed.", now.claimed),
        metrics.counter("jobdeck_worker_lost_leases", "Leases that the worker found lost.", now.lost_leases),
        metrics.runs("jobdeck_worker_runs", "Ended runs of the worker by type and outcome.", totals, labels),
        metrics.histogram("jobdeck_worker_run_wait_seconds",
                          "Time from the due time of a job to the start of its run, by type.",
                          {labels.value(one.task_type): one.waits for one in now.times}),
        metrics.histogram("jobdeck_worker_run_duration_seconds", "Time that runs of the worker took, by type.",
                          {labels.value(one.task_type): one.durations for one in now.times}),
    ]  # fmt: skip
