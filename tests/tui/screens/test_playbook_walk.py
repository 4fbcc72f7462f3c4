"""Lines of the operators' playbook carried out from the keyboard, on a real queue with a real worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from textual.pilot import Pilot

from jobdeck.core import registry
from jobdeck.core.model import NewJob, Verdict
from jobdeck.core.queue import leases, producer
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.read import jobs
from jobdeck.core.registry import Done, JobContext, JobType, NoArguments, Registry
from jobdeck.core.settings import Settings
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.deck import Options
from jobdeck.tui.format import short_id
from tests.support.queue import Connection
from tests.support.waiting import rounds
from tests.tui.support import LARGE


class Vendor:
    """A vendor that is down until it is not."""

    def __init__(self) -> None:
        self.up = threading.Event()

    def call(self, _params: NoArguments, ctx: JobContext) -> Done:
        ctx.log.info("asking the vendor")
        if not self.up.is_set():
            raise RuntimeError("MetaCTF answered 503 Service Unavailable")
        return Done({"synced": 3})


class Desk:
    """An operator at the dashboard."""

    def __init__(self, app: JobdeckApp, pilot: Pilot[int]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips)

    @property
    def here(self) -> str:
        return type(self.app.screen).__name__

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)

    async def until(self, there: str | Callable[[], object], *keys: str) -> None:
        """Waits for a text on the screen, or for a condition; presses keys while waiting."""
        for _ in rounds(lambda: f"{there!r} on this screen:\n{self.text}\n"):
            if there in self.text if isinstance(there, str) else there():
                return
            await self.press(*keys)
            await asyncio.sleep(0.05)


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Vendor:
    vendor = Vendor()
    job_type = JobType("game_platform_sync", vendor.call, "Sync", "", NoArguments, max_attempts=1)
    monkeypatch.setattr(registry, "load", lambda _modules: Registry([job_type]))
    return vendor


@asynccontextmanager
async def desk(database_url: str, folder: Path, *, worker: bool = False) -> AsyncIterator[Desk]:
    settings = Settings(database_url=SecretStr(database_url), state_dir=folder, drain_seconds=20.0)
    backend = LiveBackend(settings, worker=worker)
    app = JobdeckApp(lambda: backend, Options(interval=0.2))
    try:
        async with app.run_test(size=LARGE) as pilot:
            desk = Desk(app, pilot)
            await desk.until(lambda: app.view is not None)
            yield desk
            app.poller.stop()
    finally:
        backend.close()


def enqueue(conn: Connection, number: int) -> list[UUID]:
    return [
        producer.enqueue(conn, NewJob("game_platform_sync", max_attempts=1), actor="a").job_id for _ in range(number)
    ]


def standing(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT status, count(*) FROM job_queue GROUP BY status").fetchall())


def let_an_hour_pass(conn: Connection) -> None:
    """For the statistics of runs and what they say of failures."""
    with conn.transaction():
        conn.execute("SELECT FROM job_upkeep WHERE part = 'stats' FOR UPDATE")
        conn.execute("SELECT job_stats_compact(100000)")
        conn.execute(
            """
            UPDATE job_stats SET bucket = bucket - interval '1 hour', first_at = first_at - interval '1 hour',
                last_at = last_at - interval '1 hour'
            """
        )
        conn.execute("UPDATE job_failing_types SET verdict = NULL")


@pytest.mark.slow
async def test_incident_response_from_alert_to_stable(
    database_url: str, conn: Connection, tmp_path: Path, vendor: Vendor
) -> None:
    ids = enqueue(conn, 4)
    async with desk(database_url, tmp_path, worker=True) as operator:
        # 1. Identify failing jobs.
        await operator.until(lambda: standing(conn) == {"failed": 4})
        await operator.press("e")
        await operator.until("4 jobs failed", "r")
        assert "MetaCTF answered 503" in operator.text
        # 2. Inspect Cron Health for recent errors.
        await operator.press("h")
        await operator.until("Evidence")
        assert "Triggers, newest first" in operator.text
        # 3. Pause Automatic Processing: the failure is caused by an external dependency.
        await operator.press("P")
        await operator.until("Pause Automatic Processing")
        await operator.press(*"vendor", "enter", "enter", "enter")
        await operator.until(lambda: not jobs.processing().run(conn).enabled)
        assert jobs.processing().run(conn).paused_reason == "vendor"
        # 4. Resolve the root cause, retry one job, re-enable processing, watch it.
        vendor.up.set()
        await operator.press("escape", "e")
        await operator.until("4 jobs failed")
        await operator.press("R")
        await operator.until("Retry 1 job as a canary")
        await operator.press("y")
        await operator.until("succeeded. F retries the rest")
        assert standing(conn) == {"failed": 3}
        assert not jobs.processing().run(conn).enabled
        await operator.press("P")
        await operator.until("Resume Automatic Processing")
        await operator.press("y")
        await operator.until(lambda: jobs.processing().run(conn).enabled)
        # Then the rest with one key.
        await operator.press("F")
        await operator.until("Retry 3 jobs of this group")
        assert "succeeded." in operator.text
        await operator.press("y")
        await operator.until(lambda: standing(conn) == {})
        # Monitor until stable. The verdict on the failures ends half an hour later.
        let_an_hour_pass(conn)
        await operator.press("h")
        await operator.until(
            lambda: (
                operator.here == "CronHealth"
                and (data := getattr(operator.app.screen, "data", None)) is not None
                and data.health.verdict is Verdict.OK
            ),
            "r",
        )
        await operator.until("✓ OK")
        # The next shift reads what happened.
        await operator.press("escape", "o")
        await operator.until("Operator actions, newest first")
        for words in ("4 failed permanently", "vendor", "pause processing", "resume processing", short_id(ids[0])):
            assert words in operator.text, words


@pytest.mark.slow
async def test_daily_monitoring(database_url: str, conn: Connection, tmp_path: Path, vendor: Vendor) -> None:
    vendor.up.set()
    producer.enqueue(conn, NewJob("game_platform_sync", recurrence_interval_minutes=60), actor="a")
    async with desk(database_url, tmp_path, worker=True) as operator:
        # Recurring jobs are cycling, nothing is failed, Automatic Processing is on.
        await operator.until("↻ 60m")
        await operator.until("in 59m")
        assert "Automatic Processing ● ON" in operator.text
        assert "5 Failed 0" in operator.text
        # Cron Health.
        await operator.press("h")
        await operator.until("✓ OK", "r")
        await operator.press("escape")
        # A failed job is inspected and cancelled.
        vendor.up.clear()
        (bad,) = enqueue(conn, 1)
        await operator.press("5")
        await operator.until("5 Failed 1")
        await operator.until(short_id(bad))
        await operator.press("enter")
        await operator.until("Log of run")
        assert "MetaCTF answered 503" in operator.text
        assert "asking the vendor" in operator.text
        await operator.press("C")
        await operator.until("Cancel 1 job")
        await operator.press("y")
        await operator.until("⊘ cancelled")
        assert standing(conn) == {"cancelled": 1, "pending": 1}


@pytest.mark.slow
async def test_cleanup(database_url: str, conn: Connection, tmp_path: Path, vendor: Vendor) -> None:
    stuck, old = enqueue(conn, 2)
    queue_operator.cancel(conn, [old], actor="a")
    leases.claim(conn, "dead worker", ["game_platform_sync"], 1, 60)
    conn.execute("UPDATE job_queue SET completed_at = now() - interval '15 days' WHERE id = %s", (old,))
    conn.execute(
        "UPDATE job_queue SET started_at = now() - %s, lease_expires_at = now() - %s WHERE id = %s",
        (timedelta(hours=1), timedelta(minutes=50), stuck),
    )
    async with desk(database_url, tmp_path) as operator:
        await operator.press("h")
        await operator.until("Stuck: running with an expired lease. K cleans up.")
        await operator.press("K")
        await operator.until("Mark 1 stuck job failed")
        assert short_id(stuck) in operator.text
        await operator.press("y")
        await operator.until(lambda: standing(conn) == {"cancelled": 1, "failed": 1})
        await operator.until(lambda: "Stuck: running" not in operator.text, "r")
        await operator.press("colon", *"purge", "enter")
        await operator.until("Remove 1 old job")
        await operator.press("y")
        await operator.until(lambda: standing(conn) == {"failed": 1})
        await operator.press("escape", "5")
        await operator.until(short_id(stuck))
        await operator.press("D")
        await operator.until("Delete 1 job")
        await operator.press("y")
        await operator.until(lambda: standing(conn) == {})
