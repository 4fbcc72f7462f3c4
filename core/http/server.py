"""Starts the HTTP server with its addresses and threads, and shuts it down in order."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

from jobdeck.core.alerts.alarms import timeouts_of
from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.http import cron, metrics
from jobdeck.core.http.app import make_app
from jobdeck.core.http.background import ELSEWHERE, Refusals, UpkeepThread, Watcher
from jobdeck.core.http.clients.gate import Gate, Limits
from jobdeck.core.http.clients.proof import Bearers, bad_secrets
from jobdeck.core.http.counters import Counters
from jobdeck.core.http.endpoints import Call, Declined, Endpoint, Host, Lane
from jobdeck.core.http.producers import enqueue
from jobdeck.core.http.producers.sharing import FairLane
from jobdeck.core.http.producers.wire import KnownTokens
from jobdeck.core.http.site import Site
from jobdeck.core.logs import event
from jobdeck.core.plugins import load_plugins
from jobdeck.core.queue.operator import expect_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

WEBHOOK_THREADS: Final = 6
ADVICE: Final = "Choose another with --host and --port, or JOBDECK_METRICS_ADDRESS."
CONNECTIONS: Final = WEBHOOK_THREADS + 2 * cron.CYCLES + enqueue.THREADS + 2
"""Maximum number of pooled connections. Cycles and background threads have additional connections of their own."""


class Door:
    """The HTTP server on one database. Use it as a context manager, or call `start` and `drain`."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        limits: Limits | None = None,
        plugins_off: bool = False,
    ) -> None:
        """Does not open the address yet. `port` 0 picks a free port.

        With `plugins_off`, an unknown path may be one of a plugin that is off here. It is answered with 503, so that a
        vendor sends its event again.

        Raises:
            ConfigurationError: a secret is a placeholder or can be guessed.
        """
        bad = bad_secrets(settings)
        if bad:
            raise ConfigurationError(f"The server does not start with a secret that can be guessed: {bad}")
        self._database = database
        self._settings = settings
        self._host, self._port = host, port
        self._limits = limits or Limits()
        self._unknown = Declined(503, "A plugin of this queue is off here.") if plugins_off else None
        self._counters = Counters()
        self._alerts = Alerts(settings)
        self._lanes: list[Lane] = []
        events = self._lane("webhooks", threads=WEBHOOK_THREADS, waiting=200)
        self._upkeep = {
            upkeep.name: UpkeepThread(database, upkeep, settings, lambda: events.full)
            for plugin in load_plugins()
            for upkeep in plugin.upkeep
        }
        self.cron = cron.Cron(database, registry, settings)
        self._tokens = KnownTokens(database)
        self._enqueue = enqueue.Enqueue(database, registry, settings, self._tokens)
        self._healthz = metrics.Healthz(database)
        self._metrics = metrics.Metrics(database, settings, self._counters, registry)
        self._sites: list[Site] = []
        outside = self._outside(events)
        name = f"{socket.gethostname()} door"
        self._refusals = Refusals(frozenset(one.path for one in outside), name=name)
        self._watcher = Watcher(database, self._alerts, self._refusals, name, timeouts_of(registry))
        self._parts: list[UpkeepThread | Watcher | KnownTokens] = [*self._upkeep.values(), self._watcher, self._tokens]
        self._sites = self._make_sites(outside)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each address after `start`: the server's own, then the one for metrics if configured."""
        return [site.address for site in self._sites]

    def start(self) -> None:
        """Starts all threads and returns when the addresses are open.

        Raises:
            ConfigurationError: an address cannot be opened.
        """
        if self._settings.cron_interval_minutes is not None:
            with self._database.connection() as conn:
                expect_trigger(conn, self._settings.cron_interval_minutes)
        try:
            for site in self._sites:
                site.start()
        except BaseException:
            for site in self._sites:
                site.stop()
            raise
        for part in self._parts:
            part.thread.start()
        for host, port in self.addresses:
            event(log, logging.INFO, "server started", host=host, port=port)
        if self._settings.cron_secret is None:
            event(log, logging.WARNING, "CRON_SECRET is not set: every request to /api/jobs/run is refused")

    def drain(self, seconds: float | None = None) -> bool:
        """Shuts down: takes no new jobs, gives running jobs `seconds`, then returns them to the queue.

        `seconds` defaults to `JOBDECK_DRAIN_SECONDS`. Returns whether all jobs finished.
        """
        finished = self.cron.drain(self._settings.drain_seconds if seconds is None else seconds)
        for site in self._sites:
            site.stop()
        for part in self._parts:
            part.stop()
        for part in self._parts:
            if part.thread.ident is not None:
                part.thread.join()
        for lane in self._lanes:
            lane.close()
        self._healthz.close()
        self._metrics.close()
        self._alerts.close()
        event(log, logging.INFO, "server stopped", finished=finished)
        return finished

    def _lane(self, name: str, *, threads: int, waiting: int) -> Lane:
        made = Lane(name, threads=threads, waiting=waiting)
        self._lanes.append(made)
        return made

    def _outside(self, events: Lane) -> list[Endpoint]:
        host = Host(self._database, self._settings, self._counters, events, lambda name: self._upkeep[name].wake())
        cycles = self._lane("calls", threads=2 * cron.CYCLES, waiting=50)
        enqueues = FairLane("producers", threads=enqueue.THREADS, waiting=100)
        self._lanes.append(enqueues)
        self._inside = self._lane("metrics", threads=2, waiting=50)
        self._open = self._lane("health", threads=1, waiting=50)
        self._checks = self._lane("signatures", threads=2, waiting=100)
        return [
            Endpoint(cron.PATH, cron.METHODS, cron.BODY_BYTES, self.cron.secret.admit, self.cron.handle, cycles),
            self._enqueue.endpoint(enqueues),
            *(one for plugin in load_plugins() if plugin.endpoints for one in plugin.endpoints(host)),
            self._health(),
            self._figures(self._metrics.token.admit),
        ]

    def _health(self) -> Endpoint:
        return Endpoint(
            metrics.HEALTHZ_PATH,
            metrics.METHODS,
            0,
            self._healthz.admit,
            self._healthz.handle,
            self._open,
            public=True,
        )

    def _figures(self, admit: Callable[[Call], None]) -> Endpoint:
        return Endpoint(metrics.METRICS_PATH, metrics.METHODS, 0, admit, self._metrics.handle, self._inside)

    def _make_sites(self, outside: Sequence[Endpoint]) -> list[Site]:
        apart = self._settings.metrics_address
        if not apart:
            return [self._site(self._host, self._port, outside)]
        host, _, port = apart.rpartition(":")
        inside = [self._figures(self._metrics.token.admit_nearby), self._health()]
        public = [one for one in outside if one.path != metrics.METRICS_PATH]
        return [self._site(self._host, self._port, public), self._site(host.strip("[]"), int(port), inside)]

    def _site(self, host: str, port: int, endpoints: Sequence[Endpoint]) -> Site:
        limits = self._limits
        app = make_app(
            endpoints,
            refused=self._refusals.note,
            counters=self._counters,
            checks=self._checks,
            limits=limits,
            unknown=self._unknown,
        )
        gate = Gate(
            lambda status: self._refusals.note(status, ELSEWHERE),
            Bearers(self.cron.secret, self._metrics.token, also=self._tokens.recognises).shown,
            limits,
        )
        return Site(host, port, app, gate, advice=ADVICE)
