"""What Sentry is told, over real HTTP, and what it is not."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jobdeck.core.alerts import sentry_events
from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.errors import PermanentError
from jobdeck.core.model import NewJob
from jobdeck.core.queue import requests, service
from jobdeck.core.registry import Done
from jobdeck.core.schedules import Cron, Every, Schedule
from tests.support.queue import Connection
from tests.support.serving import Quiet, serving
from tests.support.waiting import PATIENCE
from tests.support.working import drain, job_type, quick_settings

PRIVATE = re.compile(r"jane|hunter2|(?<![\w.-])0123(?!\w)|\\u001b")
"""What no alert may hold; the digits by themselves, since random ids and times may have them too."""


class Receiver(ThreadingHTTPServer):
    """Takes envelopes as Sentry does and keeps the events in them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Intake)
        self.events: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.answer = 200

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self.server_port}/1"


class Intake(Quiet, BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.raw.append(body.decode())
        lines = body.decode().splitlines()
        for header, item in zip(lines[1::2], lines[2::2], strict=False):
            if json.loads(header).get("type") == "event":
                self.server.events.append(json.loads(item))
        self.send_response(self.server.answer)
        self.end_headers()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that gets every event: on a busy machine, sending may take longer than a process waits at its end."""
    with serving(Receiver()) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobdeck.core.alerts.sentry.FLUSH_SECONDS", PATIENCE)
        yield server


def fail(params: Any, ctx: Any) -> None:
    secret = "hunter2hunter2"
    ctx.log.info("calling jane@example.org")
    if params.number == 1:
        raise PermanentError("mail to jane@example.org refused, token=" + secret)
    raise ValueError("no luck with +1 555 010 0123 \x1b[2J")


def run(url: str, dsn: str | None) -> None:
    settings = quick_settings(sentry_dsn=dsn, environment="staging")
    types = job_type("fail", fail), job_type("fine", lambda _p, _c: Done())
    drain(url, *types, settings=settings, worker_id="w1")


@pytest.mark.slow
def test_one_alert_per_job_that_failed_for_good_and_none_for_an_attempt_that_is_retried(
    database_url: str, conn: Connection
) -> None:
    exhausted = conn.add("fail", max_attempts=3)
    permanent = conn.add("fail", payload={"number": 1})
    conn.add("fine")
    with receiving() as server:
        run(database_url, server.dsn)
    assert sorted(conn.outcomes()) == ["failed", "failed", "retried", "retried", "succeeded"]
    tags = sorted((event["tags"] for event in server.events), key=lambda tags: tags["attempt"])
    assert tags == [
        {
            "job_runner": "jobdeck",
            "task_type": "fail",
            "job_id": str(job.id),
            "attempt": attempt,
            "worker": "w1",
            "outcome": "failed",
            "environment": "staging",
        }
        for job, attempt in ((permanent, "1"), (exhausted, "3"))
    ]


def test_a_cycle_of_a_series_that_failed_for_good_alerts_too(database_url: str, conn: Connection) -> None:
    conn.add("fail", payload={"number": 1}, recurrence_interval_minutes=60)
    with receiving() as server:
        run(database_url, server.dsn)
    assert len(server.events) == 1


def test_a_monitor_knows_minutes_and_expressions_of_five_fields(conn: Connection) -> None:
    def monitored(schedule: Schedule) -> Any:
        new = requests.scheduled(NewJob("fail", dedupe_key=str(schedule)), schedule, datetime.now(UTC))
        return sentry_events.monitored(service.enqueue(conn, new, actor="test").job)

    assert monitored(Every(hours=1)) == {
        "schedule": {"type": "interval", "value": 60, "unit": "minute"}, "timezone": "UTC",
    }  # fmt: skip
    assert monitored(Cron("0 9 * * 1-5", "America/New_York")) == {
        "schedule": {"type": "crontab", "value": "0 9 * * 1-5"}, "timezone": "America/New_York",
    }  # fmt: skip
    assert [monitored(schedule) for schedule in (Every(seconds=30), Cron("*/5 * * * * *"))] == [None, None]


def test_an_alert_holds_the_failure_and_nothing_private(database_url: str, conn: Connection) -> None:
    conn.add("fail", payload={"number": 1})
    conn.add("fail", max_attempts=1)
    with receiving() as server:
        run(database_url, server.dsn)
    sent = "\n".join(server.raw)
    assert PRIVATE.findall(sent) == []
    event = next(event for event in server.events if event["tags"]["attempt"] == "1")
    (failure,) = event["exception"]["values"]
    assert failure["type"] in {"permanent", "ValueError"}
    frame = failure["stacktrace"]["frames"][-1]
    assert frame["function"] == "fail"
    assert "vars" not in frame
    assert event["fingerprint"][:2] == ["job_runner", "fail"]
    assert event["contexts"]["job"]["max_attempts"] in {1, 5}
    (crumb,) = event["breadcrumbs"]["values"]
    assert (crumb["category"], crumb["level"], crumb["message"]) == ("job", "info", "calling <email>")
    assert event["environment"] == "staging"
    assert event["release"].startswith("jobdeck@")


def test_whatever_an_event_holds_is_scrubbed_before_it_is_sent() -> None:
    with receiving() as server:
        alerts = Alerts(quick_settings(sentry_dsn=server.dsn, environment="jane@example.org"))
        assert alerts._client is not None
        alerts._client.capture_event(
            {
                "level": "error",
                "message": "+1 555 010 0123 \x1b[2J",
                "user": {"email": "jane@example.org"},
                "extra": {"password": "hunter2hunter2", "list": ["jane@example.org"]},
            }
        )
        alerts.close()
    assert len(server.events) == 1
    assert PRIVATE.findall(server.raw[0]) == []


@pytest.mark.parametrize("dsn", ["http://public@127.0.0.1:1/1", "not a dsn", None], ids=["away", "unusable", "unset"])
def test_a_job_fails_in_the_same_way_whatever_becomes_of_its_alert(
    database_url: str, conn: Connection, dsn: str | None
) -> None:
    conn.add("fail", max_attempts=1)
    conn.add("fine")
    run(database_url, dsn)
    assert sorted(conn.outcomes()) == ["failed", "succeeded"]


def test_a_receiver_in_trouble_is_no_trouble(database_url: str, conn: Connection) -> None:
    conn.add("fail", max_attempts=1)
    with receiving() as server:
        server.answer = 500
        run(database_url, server.dsn)
    assert conn.outcomes() == ["failed"]


@pytest.mark.slow
def test_the_sdk_is_imported_only_where_a_dsn_is_set() -> None:
    code = (
        "import sys; from jobdeck.core.alerts.sentry import Alerts; from jobdeck.core.settings import Settings; "
        "Alerts(Settings()).close(); assert 'sentry_sdk' not in sys.modules; import jobdeck.core.worker.worker; "
        "assert 'sentry_sdk' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
