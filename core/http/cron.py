"""`/api/jobs/run`: runs one cycle for a cron service that sends the secret.

The response is sent when the cycle has ended or its time is up. A job that takes longer continues after the response,
and the record of the cycle is closed when the job has ended.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.http.clients.proof import Secret
from jobdeck.core.http.endpoints import Answer, Call, Declined
from jobdeck.core.logs import event
from jobdeck.core.postgres.reconnecting import FAILURES
from jobdeck.core.read.verdict.health import typical_seconds
from jobdeck.core.redact import safe_error
from jobdeck.core.worker.oneshot import CycleResult
from jobdeck.core.worker.worker import Budget, Worker

if TYPE_CHECKING:
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

PATH: Final = "/api/jobs/run"
METHODS: Final = ("GET", "POST")
BODY_BYTES: Final = 16 * 1024
DEFAULT_LIMIT: Final = 5
HIGHEST_LIMIT: Final = 10
CYCLES: Final = 4
"""Maximum number of cycles at a time. They share the due jobs, so more of them would only wait for each other."""


class Cron:
    """Runs cycles for requests, each cycle in its own thread."""

    def __init__(self, database: Database, registry: Registry, settings: Settings) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._running: set[_Cycle] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.secret = Secret("CRON_SECRET", settings.cron_secret)

    def handle(self, call: Call) -> Answer:
        """Runs one cycle of up to `limit` jobs and returns its result."""
        cycle = self._start(call.method, _limit(call))
        cycle.done.wait(max(0.0, cycle.budget.left))
        result = cycle.so_far()
        if result is None:
            raise Declined(503, "The database does not answer. No jobs were run.", Retry_After="60")
        return Answer(500 if result.status == "error" else 200, asdict(result))

    def drain(self, seconds: float) -> bool:
        """Stops taking jobs, gives running jobs `seconds`, then returns them to the queue. True if all finished."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for cycle in running:
            cycle.budget.stop()
        deadline = time.monotonic() + seconds
        finished = all(cycle.done.wait(max(0.0, deadline - time.monotonic())) for cycle in running)
        for cycle in running:
            cycle.hand_back()
        for cycle in running:
            cycle.thread.join()
        return finished

    def _start(self, method: str, limit: int) -> _Cycle:
        with self._lock:
            if self._closed:
                raise Declined(503, "The server is shutting down. No jobs were run.", Retry_After="60")
            if len(self._running) >= CYCLES:
                raise Declined(429, f"{CYCLES} cycles are running already. No jobs were run.", Retry_After="30")
            worker = Worker(self._database, self._registry, self._settings, mode="cycle", source="cron_http")
            cycle = _Cycle(worker, self._settings.cron_budget_seconds, method, limit)
            self._running.add(cycle)
        cycle.thread = threading.Thread(target=self._run, args=(cycle,), name="door cycle")
        cycle.thread.start()
        return cycle

    def _run(self, cycle: _Cycle) -> None:
        try:
            with self._database.connection() as conn:
                cycle.budget.expect(typical_seconds().run(conn))
            cycle.run()
        except FAILURES as error:
            event(log, logging.ERROR, "a cycle could not start", error=safe_error(str(error)))
        except Exception:
            log.exception("a cycle failed")
        finally:
            with self._lock:
                self._running.discard(cycle)
            cycle.done.set()


class _Cycle:
    """The cycle of one request, shared by the thread that runs it and the thread that answers."""

    thread: threading.Thread

    def __init__(self, worker: Worker, seconds: float, method: str, limit: int) -> None:
        self.budget = Budget(seconds)
        self.done = threading.Event()
        self._worker = worker
        self._method = method
        self._limit = limit
        self._result: CycleResult | None = None

    def run(self) -> None:
        self._result = self._worker.run_cycle(self._limit, http_method=self._method, budget=self.budget)

    def so_far(self) -> CycleResult | None:
        """The result, or the intermediate result of a running cycle; None when the cycle did not start."""
        if self._result is None and not self.done.is_set():
            running = self._worker.cycle
            if running is None:
                return CycleResult("ok", 0, 0, 0, "The cycle has not started yet. It continues in the background.")
            return running.so_far()
        return self._result

    def hand_back(self) -> None:
        """Returns running jobs to the queue."""
        if not self.done.is_set() and self._worker.cycle is not None:
            self._worker.cycle.hand_back()


def _limit(call: Call) -> int:
    """The requested number of jobs, from the body of a POST or the query; 5 when it is missing or below 1."""
    asked: Any = call.query.get("limit")
    if call.method == "POST" and call.body.strip():
        asked = _content(call.body).get("limit", asked)
    if asked is None:
        return DEFAULT_LIMIT
    if isinstance(asked, str) and asked.isascii() and asked.lstrip("-").isdecimal() and len(asked) < 10:
        asked = int(asked)
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise Declined(400, "The limit must be an integer from 1 to 10. No jobs were run.")
    return min(asked, HIGHEST_LIMIT) if asked > 0 else DEFAULT_LIMIT


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Declined(400, "The body is not JSON. No jobs were run.") from None
    if not isinstance(content, dict):
        raise Declined(400, "The body must be a JSON object. No jobs were run.")
    return content
