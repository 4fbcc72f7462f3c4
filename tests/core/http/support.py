"""A door on a test's database, clients that behave and clients that do not, and a Sentry that listens."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from jobdeck.core.http.clients.gate import Limits
from jobdeck.core.http.server import CONNECTIONS, Door
from jobdeck.core.postgres.database import Database
from jobdeck.core.programme.sandbox.sendgrid import SendGrid
from jobdeck.core.programme.sandbox.twilio import TOKEN
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.registry import Done, JobType, Registry
from tests.support.queue import OUT_OF_THE_WAY, Connection
from tests.support.serving import Got, ask
from tests.support.waiting import PATIENCE, until
from tests.support.working import job_type, quick_settings

Json = dict[str, Any]

SECRET = "a-secret-for-the-tests"
METRICS = "a-token-for-the-tests"
BEARER = {"Authorization": f"Bearer {SECRET}"}
PUBLIC = "https://jobs.example.org"
FINE = job_type("fine", lambda _params, _context: Done())


@dataclass
class Open:
    """A door that is open. `vendor` signs delivery events that it takes for SendGrid's."""

    door: Door
    database: Database
    vendor: SendGrid

    @property
    def address(self) -> tuple[str, int]:
        return self.door.addresses[0]

    def call(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Got:
        """One request over a connection of its own."""
        return ask(self.address, method, path, body, headers)

    def run(self, method: str = "GET", body: Json | None = None, query: str = "") -> Got:
        """What a scheduler asks for."""
        text = json.dumps(body) if body is not None else None
        return self.call(method, f"/api/jobs/run{query}", text, BEARER)

    def report(self, events: list[Json], **changed: str) -> Got:
        """What SendGrid sends."""
        body, headers = self.vendor.signed(events)
        return self.call("POST", "/api/sendgrid/events", body, headers | changed)

    def connect(self) -> socket.socket:
        """A connection on which nothing has been said yet."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def settled(self) -> None:
        """Returns when all that was kept has been applied."""
        with self.database.connection() as conn:
            until(lambda: not waiting(conn), "applying the events")


@contextmanager
def opened(
    url: str, *types: JobType, limits: Limits | None = None, plugins_off: bool = False, **settings: Any
) -> Iterator[Open]:
    """A door with everything configured, on a port that is free."""
    vendor = SendGrid()
    given = {
        "cron_secret": SECRET,
        "metrics_token": METRICS,
        "drain_seconds": 10.0,
        "door_url": PUBLIC,
        "sendgrid_event_webhook_public_key": vendor.public_key,
        "twilio_auth_token": TOKEN,
        **settings,
    }
    own = {name: given.pop(name) for name in list(given) if name in CompetitionSettings.model_fields}
    configured = quick_settings(**given).having(CompetitionSettings(**own))
    with Database(url, application_name="test door", max_size=CONNECTIONS) as database:
        door = Door(
            database, Registry(types or [FINE]), configured, host="127.0.0.1", port=0, limits=limits,
            plugins_off=plugins_off,
        )  # fmt: skip
        door.start()
        try:
            yield Open(door, database, vendor)
        finally:
            door.drain()


def waiting(conn: psycopg.Connection[Any]) -> int:
    """Events that have been kept and not applied."""
    row = conn.execute("SELECT count(*) FROM provider_events WHERE applied_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def history(conn: Connection) -> list[tuple[Any, ...]]:
    """Source, status, HTTP status, method and claimed jobs of every record, oldest first."""
    return conn.execute(
        "SELECT source, status, http_status, http_method, claimed FROM job_worker_runs ORDER BY started_at"
    ).fetchall()


def pass_time(conn: Connection, delta: timedelta) -> None:
    """Lets time pass for the queue and for what was told of it."""
    conn.advance(delta)
    for shift in (-OUT_OF_THE_WAY, OUT_OF_THE_WAY - delta):
        conn.execute("UPDATE job_alarms SET since = since + %s", (shift,))


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up; nothing where it hung up without a word."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)
