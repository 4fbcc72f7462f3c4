"""While the game platform is switched off, its jobs run dry, and no reader takes that for a success."""

from __future__ import annotations

from typing import Any

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.cli.support import Jobdeck
from tests.support.health import announce
from tests.support.queue import Connection

pytestmark = pytest.mark.competition

TYPES = ["game_platform_onboard_coaches", "game_platform_onboard_competitors", "game_platform_profile_refresh",
         "game_platform_sync", "game_platform_totals_sweep"]  # fmt: skip


def enqueue(conn: Connection, task_type: str, payload: dict[str, Any], every: int | None = None) -> None:
    producer.enqueue(conn, NewJob(task_type, payload, recurrence_interval_minutes=every), actor="test")


@pytest.mark.slow
def test_series_of_the_platform_are_dry_runs_and_health_warns_of_them(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBDECK_ENV", "production")
    for task_type in TYPES:
        enqueue(conn, task_type, {}, every=60)
    assert jobdeck("run-worker", "--json").data["succeeded"] == len(TYPES)
    runs = jobdeck("runs", "--json").data["runs"]
    assert sorted((run["task_type"], run["outcome"], run["dry_run"]) for run in runs) == [
        (task_type, "succeeded", True) for task_type in TYPES
    ]
    announce(conn, "w", types=TYPES)
    health = jobdeck("health", "--json").data
    (found,) = (one for one in health["findings"] if one["signal"] == "dry runs")
    assert health["verdict"] == found["verdict"] == "warning"
    assert found["evidence"].startswith(f"5 recurring jobs run dry in production and change nothing: {TYPES[0]}, ")


@pytest.mark.parametrize(
    "task_type",
    ["admin_alert_dispatch", "message_read_receipts_backfill", "release_parent_email_verification",
     "sms_digest_processor"],
)  # fmt: skip
def test_other_types_run_dry_only_if_their_payload_asks_for_it(
    jobdeck: Jobdeck, conn: Connection, task_type: str
) -> None:
    enqueue(conn, task_type, {"dryRun": True})
    assert jobdeck("run-worker", "--json").data["succeeded"] == 1
    (run,) = jobdeck("runs", "--json").data["runs"]
    assert (run["outcome"], run["dry_run"]) == ("succeeded", True)
    assert "succeeded, dry run" in jobdeck("jobs", "--status", "succeeded").out
