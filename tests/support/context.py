"""A small job context over the test database, and a clock on which waiting takes no time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from jobdeck.core.errors import Cancelled
from jobdeck.core.model import ClaimedJob
from jobdeck.core.programme.resources import Resources
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import Clients
from jobdeck.core.programme.vendors.http import Time
from jobdeck.core.programme.vendors.metactf import MetaCtfClient
from jobdeck.core.registry import Continue, Done, Payload
from jobdeck.core.settings import Settings
from tests.support.queue import Connection

Json = dict[str, Any]
START = 1_760_000_000


class FakeClock:
    """Seconds that pass only by sleeping; what was slept is kept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return START + self.seconds

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.seconds += seconds

    def time(self, draw: float = 0.5) -> Time:
        """The clocks a client is given."""
        return Time(monotonic=self.monotonic, wall=self.wall, sleep=self.sleep, random=lambda: draw)


def sandbox_settings(sandbox: Sandbox, **more: Any) -> CompetitionSettings:
    """Settings that point at a sandbox, with a rate that is no hindrance."""
    fast = {"GAME_PLATFORM_RATE_PER_SECOND": 10_000, "GAME_PLATFORM_TIMEOUT_SECONDS": 60}
    return CompetitionSettings(**(sandbox.settings_env() | fast | more))


class FakeContext:
    """What the runner gives a handler, without a worker around it."""

    def __init__(
        self,
        conn: Connection,
        settings: CompetitionSettings,
        *,
        checkpoint: Json | None = None,
        job_id: UUID | None = None,
        dry_run: bool = False,
    ) -> None:
        self.db = conn
        self.settings = Settings()
        self.resources = Resources(settings, Clients(settings))
        self.dry_run = dry_run
        self.log = logging.getLogger("jobdeck.test")
        self.clock = FakeClock()
        self.steps: list[tuple[int, int | None, str]] = []
        self.cancel_when: Callable[[], bool] = lambda: False
        self._checkpoint = checkpoint
        at = datetime.fromtimestamp(START, UTC)
        self.job = ClaimedJob(job_id or uuid4(), 1, "game_platform_sync", {}, 1, 5, at, at, False, checkpoint, 0)
        self.job_id, self.attempt = self.job.id, self.job.attempt
        self.idempotency_key = f"{self.job.id}:cycle"
        token = settings.game_platform_api_token
        if token is not None and token.get_secret_value():
            self.resources.clients.metactf = MetaCtfClient(settings, time=self.clock.time())

    @property
    def checkpoint(self) -> Json | None:
        return self._checkpoint

    def save_checkpoint(self, checkpoint: Json) -> None:
        self._checkpoint = checkpoint

    def finish_in(self, *_given: Any, **_named: Any) -> None:
        raise AssertionError("No handler of the competition ends its run in its own transaction.")

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        self.steps.append((done, total, message))

    def cancelled(self) -> bool:
        return self.cancel_when()

    def raise_if_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled("An operator asked for this job to be cancelled.")

    def close(self) -> None:
        self.resources.clients.close()


def run_once(run: Callable[[Any, Any], Done | Continue | None], params: Payload, ctx: FakeContext) -> Done | Continue:
    """One run; a `Continue` leaves its checkpoint as the queue would."""
    try:
        outcome = run(params, ctx)
    finally:
        ctx.close()
    assert outcome is not None
    if isinstance(outcome, Continue):
        ctx.save_checkpoint(outcome.checkpoint)
    return outcome


def ended(outcome: Done | Continue) -> Done:
    """The outcome of a run that was the last of its job."""
    assert isinstance(outcome, Done)
    return outcome
