"""A day on nothing but the door and a scheduler that calls it; then the scheduler stops, and comes back.

It calls every 5 minutes of that day; `CRON_DAY_MINUTES=1` has it call every minute, and takes longer.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.alerts.alarms import Sentinel
from jobdeck.core.model import Verdict
from jobdeck.core.read.verdict.health import health
from jobdeck.core.registry import Done
from tests.core.alerts.test_sentry import receiving
from tests.core.cli.support import environment, runner
from tests.core.http.support import opened, pass_time
from tests.support.queue import Connection
from tests.support.working import job_type

EVERY = int(os.environ.get("CRON_DAY_MINUTES", "5"))
MINUTE = timedelta(minutes=1)
SERIES = {"sync": 15, "totals": 30, "digest": 60, "nightly": 1440}
"""Intervals in minutes."""


def ran(conn: Connection, task_type: str) -> list[dict[str, Any]]:
    return conn.rows(
        "SELECT outcome, due_at, started_at FROM job_runs WHERE task_type = %s ORDER BY run_token", task_type
    )


def after_next(calls: list[datetime], slot: datetime) -> datetime:
    """When the second call after a slot began. After the last calls nothing is later."""
    at = bisect.bisect_left(calls, slot) + 1
    return calls[at] if at < len(calls) else datetime.max.replace(tzinfo=UTC)


@pytest.mark.slow
def test_series_keep_their_slots_for_a_day_of_calls_and_everybody_says_when_the_calls_stop(
    database_url: str,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment(monkeypatch, tmp_path, database_url)
    jobdeck = runner(capsys)
    types = [job_type(name, lambda _p, _c: Done()) for name in SERIES]
    for name, minutes in SERIES.items():
        conn.add(name, recurrence_interval_minutes=minutes)
    with (
        receiving() as sentry,
        opened(database_url, *types, sentry_dsn=sentry.dsn, cron_interval_minutes=EVERY) as door,
    ):
        sentinel = Sentinel(door.door._alerts, "watching")

        def verdict() -> tuple[Verdict, str]:
            sentinel.look(conn)
            found = {one.signal: one for one in health().run(conn).findings}
            return found["trigger"].verdict, found["trigger"].evidence

        for count in range(24 * 60 // EVERY):
            assert door.run().status == 200
            pass_time(conn, EVERY * MINUTE)
            if count % 20 == 0:
                conn.execute("VACUUM")
        pass_time(conn, -EVERY * MINUTE)
        assert verdict()[0] is Verdict.OK
        calls = [row["started_at"] for row in conn.rows("SELECT started_at FROM job_worker_runs ORDER BY 1")]
        assert len(calls) == 24 * 60 // EVERY
        for name, minutes in SERIES.items():
            found = ran(conn, name)
            # The day took the minutes that the test took as well.
            assert len(found) - 24 * 60 // minutes in {0, 1}
            assert {run["outcome"] for run in found} == {"succeeded"}
            for earlier, later in itertools.pairwise(found):
                assert later["due_at"] - earlier["due_at"] == minutes * MINUTE
            # Each runs in the first call after its slot. On a busy machine a call may take its time.
            assert all(run["started_at"] < after_next(calls, run["due_at"]) for run in found)

        # The scheduler stops: within three intervals everybody says so.
        pass_time(conn, 3 * EVERY * MINUTE + timedelta(seconds=1))
        judged, words = verdict()
        assert judged is Verdict.CRITICAL
        assert words.startswith(f"The scheduler has stopped: last good call {3 * EVERY}m ago, expected every {EVERY}m")
        told = jobdeck("health", "--json")
        assert told.code == 4
        assert words in [one["evidence"] for one in json.loads(told.out)["findings"]]
        pass_time(conn, 40 * MINUTE)
        verdict()

        # It is started again.
        assert door.run().data["processed"] >= 1
        judged, words = verdict()
        assert judged is Verdict.OK
        assert re.search(rf"It recovered \d+s ago, after {3 * EVERY + 40}m without a call\.", words)
        while door.run().data["processed"]:
            continue
        assert health().run(conn).verdict is Verdict.OK
        assert jobdeck("health").code == 0
    messages = [(event["level"], event["message"]) for event in sentry.events if "message" in event]
    of_trigger = [(level, text) for level, text in messages if "scheduler" in text or "trigger" in text]
    assert [level for level, _ in of_trigger] == ["error", "info"]
    assert of_trigger[0][1].startswith("The scheduler has stopped")
    assert of_trigger[1][1].startswith(f"Recovered: trigger. The scheduler calls every {EVERY}m")
