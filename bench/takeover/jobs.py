"""The jobs of the scenario: those that the original had, and those that its pages and jobs enqueue at each stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.takeover.runner import IMAGES, IMAGES_OF_ALL
from tests.support.original_statements import ADA, ALAN, IDS, KIM, LEE, SPEAKERS, TEAM, acting

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    Connection = psycopg.Connection[Any]

SYNC, TOTALS = "game_platform_sync", "game_platform_totals_sweep"
CAMPAIGN = "competitor_announcement_dispatch"
IMAGE_TYPES = (IMAGES, IMAGES_OF_ALL)
PAYLOADS: dict[str, dict[str, Any]] = {
    SYNC: {"dryRun": False, "coachId": None},
    TOTALS: {"dryRun": False, "coachId": None, "batchSize": 100, "forceAll": False},
    "game_platform_profile_refresh": {"dryRun": False},
    "game_platform_onboard_competitors": {
        "competitorIds": [LEE], "coachId": ALAN, "onlyActive": True, "source": "bulk_import",
    },
    "game_platform_onboard_coaches": {"coachIds": [ALAN], "source": "manual"},
    "sms_digest_processor": {"windowMinutes": 1440, "force": False, "roles": ["coach"], "allowSms": True},
    "admin_alert_dispatch": {"roles": ["admin"], "allowSms": False, "force": True, "windowMinutes": 5},
    "release_parent_email_verification": {"limit": 50, "staleHours": 24},
    "message_read_receipts_backfill": {"batchSize": 500, "dryRun": False},
    CAMPAIGN: {},
    "game_platform_flash_ctf_sync": {"batchSize": 25},
    IMAGES_OF_ALL: {"requestedBy": ADA},
    IMAGES: {"teamId": TEAM, "requestedBy": ADA},
}  # fmt: skip
"""The 13 types, each with what the original's producers send."""
PRODUCTION = {
    SYNC: 15, TOTALS: 15, "game_platform_flash_ctf_sync": 1440, "admin_alert_dispatch": 5, "sms_digest_processor": 60,
    "release_parent_email_verification": 60,
}  # fmt: skip
"""The series in production and their minutes."""
NEVER = "'2036-01-01 00:00+00'"

_ADD = """
INSERT INTO job_queue (task_type, payload, status, run_at, attempts, last_error, completed_at, is_recurring,
    recurrence_interval_minutes, expires_at, last_run_at, updated_at)
VALUES (%s, %s, %s, {0}, %s, %s, {3}, %s, %s, {1}, {2}, least({0}, now())) RETURNING id
"""


class Book:
    """What has to become of each job: how often it ends, and the status that it has in the queue after it.

    `failed` is one that has used up its attempts, and that an admin retries.
    """

    def __init__(self) -> None:
        self.types: dict[UUID, str] = {}
        self.ends: dict[UUID, int] = {}
        self.stays: dict[UUID, str | None] = {}
        self.series: set[UUID] = set()
        self.failed: UUID | None = None

    def add(self, job: UUID, task_type: str, ends: int = 1, stays: str | None = None) -> UUID:
        self.types[job], self.ends[job], self.stays[job] = task_type, ends, stays
        return job


def fill(conn: Connection, book: Book) -> dict[str, UUID]:
    """The original's rows in every state. Returns those that no runner ever takes, by their state."""
    conn.execute("DELETE FROM job_queue")
    conn.execute("INSERT INTO job_queue_settings (id) VALUES (1) ON CONFLICT DO NOTHING")
    for task_type, minutes in PRODUCTION.items():
        book.series.add(book.add(_series(conn, task_type, minutes, 9000 if task_type == SYNC else 37), task_type, 0))
    # One that has never run, and one whose time is over, which ends.
    new = _add(conn, TOTALS, "pending", interval=60, payload={"forceAll": False})
    book.series.add(book.add(new, TOTALS, 0))
    over = _add(
        conn, TOTALS, "pending", interval=30, expires="now() - interval '8 days'", ran="now() - interval '9 days'"
    )
    book.add(over, TOTALS, 0, "succeeded")
    # The original accepted it. It becomes a job that failed, with a way out.
    dead = _add(conn, "message_read_receipts_backfill", "pending", recurring=True, ran="now() - interval '9 days'")
    book.add(dead, "message_read_receipts_backfill", 0, "failed")
    left = _add(conn, "game_platform_profile_refresh", "running", attempts=1, run_at="now() - interval '2 days'")
    book.add(left, "game_platform_profile_refresh")
    book.failed = _add(conn, "game_platform_onboard_coaches", "failed", attempts=5, error="Request timed out")
    book.add(book.failed, "game_platform_onboard_coaches", 0, "failed")
    old = _add(conn, SYNC, "cancelled", run_at="now() - interval '100 days'", done="now() - interval '99 days'")
    book.add(old, SYNC, 0, "gone")
    kept = {
        "pending": _add(conn, "message_read_receipts_backfill", "pending", run_at=NEVER),
        "failed": _add(conn, "game_platform_profile_refresh", "failed", attempts=5, error="Request timed out"),
        "cancelled": _add(conn, SYNC, "cancelled", attempts=7, error="It broke", done="now()"),
        "succeeded": _add(conn, TOTALS, "succeeded", attempts=1),
        "pending series": _add(conn, "game_platform_profile_refresh", "pending", run_at=NEVER, interval=60),
        "cancelled series": _add(
            conn, "sms_digest_processor", "cancelled", interval=120, ran="now() - interval '9 days'", done="now()"
        ),
    }
    for state, job in kept.items():
        book.add(job, state, 0, state.removesuffix(" series"))
    return kept


def _series(conn: Connection, task_type: str, minutes: int, attempts: int) -> UUID:
    """One that has run until now, every `minutes`."""
    ran = f"now() - interval '{minutes} minutes'"
    return _add(conn, task_type, "pending", interval=minutes, attempts=attempts, run_at=ran, ran=ran)


def _add(
    conn: Connection, task_type: str, status: str, *, payload: dict[str, Any] | None = None, attempts: int = 0,
    run_at: str = "now()", error: str | None = None, interval: int | None = None, recurring: bool = False,
    expires: str = "NULL", ran: str = "NULL", done: str = "NULL",
) -> UUID:  # fmt: skip
    row = conn.execute(
        _ADD.format(run_at, expires, ran, done).encode(),
        [task_type, json.dumps(payload or PAYLOADS[task_type]), status, attempts, error,
         recurring or interval is not None, interval],
    ).fetchone()  # fmt: skip
    assert row is not None
    job: UUID = row[0]
    return job


def enqueue_all(conn: Connection, book: Book, each: int, types: tuple[str, ...] = tuple(PAYLOADS)) -> list[UUID]:
    """Enqueues `each` jobs of each type: by the function as the service, and by INSERT as an admin or the service."""
    made = []
    for number in range(each):
        for task_type in types:
            payload = dict(PAYLOADS[task_type])
            if task_type == CAMPAIGN:
                payload["campaignId"] = str(_campaign(conn))
            made.append(book.add(_enqueue(conn, task_type, payload, number), task_type))
    return made


def _enqueue(conn: Connection, task_type: str, payload: dict[str, Any], number: int) -> UUID:
    if number % 2 == 0:
        speaker, text = "the service", "SELECT id FROM job_queue_enqueue(p_task_type => %s, p_payload => %s)"
    else:
        speaker = "an admin" if number % 4 == 1 else "the service"
        text = (
            "INSERT INTO job_queue (task_type, payload, status, run_at) VALUES (%s, %s, 'pending', now()) RETURNING id"
        )
    with acting(conn, SPEAKERS[speaker]):
        row = conn.execute(text.encode(), [task_type, json.dumps(payload)]).fetchone()
        assert row is not None
        job: UUID = row[0]
    return job


def _campaign(conn: Connection) -> UUID:
    """A campaign to one person, as the page of announcements writes it."""
    with acting(conn, SPEAKERS["the service"]):
        row = conn.execute(
            "INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html, created_by, status) "
            "VALUES ('Example', 'Hello', '<p>Hello</p>', %s, 'pending') RETURNING id", [ADA],
        ).fetchone()  # fmt: skip
        assert row is not None
        campaign: UUID = row[0]
        conn.execute(
            "INSERT INTO competitor_announcement_recipients (campaign_id, competitor_id, email) VALUES (%s, %s, %s)",
            [campaign, KIM, "kim@example.com"],
        )
    return campaign


def say(conn: Connection, who: str, text: str, **ids: object) -> int:
    """Runs a statement as somebody, for good; returns how many rows it changed."""
    with acting(conn, SPEAKERS[who]):
        return conn.execute(text.encode(), IDS | ids).rowcount
