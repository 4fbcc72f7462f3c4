"""The stand-in of the original's runner: it claims and reports by the original's functions, and keeps its own log."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from tests.support.original_statements import ADA, SERVICE, TEAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

IMAGES = "team_image_generate"
IMAGES_OF_ALL = "team_image_bulk_generate"
CLAIM = 5
BREAK_SECONDS = 0.1
"""Between two calls of a cron that calls every five minutes in production."""
DELAY_MS = 400
REPORTS = ("succeeded", "failed", "failed for now")


class Ran(NamedTuple):
    """One run of the stand-in: when, what it reported, and the status that it was answered."""

    job: UUID
    task_type: str
    series: bool
    token: int | None
    claimed: float
    ended: float
    reported: str
    answer: str | None


class Runners:
    """Some runners at once, as calls of a cron that overlap. `hold` keeps each in the middle of its job."""

    def __init__(self, url: str, count: int, clock: Callable[[], float]) -> None:
        self.log: list[Ran] = []
        self.troubles: list[str] = []
        self.enqueued: list[UUID] = []
        self._url, self._clock = url, clock
        self._ending, self._open = threading.Event(), threading.Event()
        self._open.set()
        self._held, self._lock = 0, threading.Lock()
        self._calls = list[int]()
        self._threads = list[threading.Thread]()
        for _ in range(count):
            self.start(BREAK_SECONDS)

    def start(self, break_seconds: float) -> None:
        """Starts one more, which calls at these intervals."""
        number = len(self._threads)
        self._calls.append(0)
        thread = threading.Thread(target=self._work, args=(number, break_seconds), name=f"runner {number}")
        self._threads.append(thread)
        thread.start()

    def hold(self) -> None:
        self._open.clear()

    @property
    def calls(self) -> tuple[int, ...]:
        """How many calls of each have ended."""
        return tuple(self._calls)

    @property
    def held(self) -> int:
        """How many runners are in the middle of a job and wait."""
        with self._lock:
            return self._held

    def release(self) -> None:
        self._open.set()

    def stop(self) -> None:
        self._ending.set()
        self._open.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int, break_seconds: float) -> None:
        chance = random.Random(number)
        try:
            # A pooler, through which the original connects, prepares no statements.
            with psycopg.connect(self._url, autocommit=True, row_factory=dict_row, prepare_threshold=None) as conn:
                conn.execute(f"SET ROLE {SERVICE}".encode())
                while not self._ending.wait(break_seconds):
                    self._call(conn, chance)
                    self._calls[number] += 1
        except psycopg.Error as error:
            self.troubles.append(f"{type(error).__name__}: {error}")

    def _call(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        """One call of the cron, with its record."""
        (record,) = _rows(
            conn, "INSERT INTO job_worker_runs (source, http_method, user_agent) "
            "VALUES ('vercel_cron_secret', 'GET', 'vercel-cron/1.0') RETURNING id",
        )  # fmt: skip
        switch = _rows(conn, "SELECT processing_enabled FROM job_queue_settings WHERE id = 1")
        paused = bool(switch) and not switch[0]["processing_enabled"]
        claimed = [] if paused else _rows(conn, "SELECT * FROM job_queue_claim(%s)", CLAIM)
        at = self._clock()
        for row in claimed:
            self._run(conn, row, at, chance)
        conn.execute(
            "UPDATE job_worker_runs SET completed_at = now(), status = %s, processed = %s WHERE id = %s",
            ["paused" if paused else "ok", len(claimed), record["id"]],
        )  # fmt: skip

    def _run(self, conn: psycopg.Connection[Any], row: dict[str, Any], at: float, chance: random.Random) -> None:
        time.sleep(chance.uniform(0.001, 0.3))
        self._count(1)
        self._open.wait()
        self._count(-1)
        if row["task_type"] == IMAGES_OF_ALL:
            self.enqueued += _fan_out(conn)
        # The original could not report a series whose first run failed.
        could_fail = row["last_run_at"] is not None or not row["is_recurring"]
        reported = chance.choices(REPORTS, (12, could_fail, could_fail))[0]
        answer = _report(conn, row["id"], reported)
        if answer == "succeeded":
            conn.execute("DELETE FROM job_queue WHERE id = %s", [row["id"]])
        self.log.append(
            Ran(
                row["id"],
                row["task_type"],
                row["is_recurring"],
                row.get("run_token"),
                at,
                self._clock(),
                reported,
                answer,
            )
        )

    def _count(self, more: int) -> None:
        with self._lock:
            self._held += more


def _report(conn: psycopg.Connection[Any], job: UUID, reported: str) -> str | None:
    if reported == "succeeded":
        answers = _rows(
            conn, "SELECT * FROM job_queue_mark_succeeded(p_job_id => %s, p_output => %s)", job, '{"done": 1}'
        )
    else:
        answers = _rows(
            conn, "SELECT * FROM job_queue_mark_failed(p_job_id => %s, p_error => 'no answer', p_retry_in_ms => %s)",
            job, DELAY_MS if reported == "failed for now" else None,
        )  # fmt: skip
    status: str | None = answers[0]["status"]
    return status


def _fan_out(conn: psycopg.Connection[Any]) -> Iterator[UUID]:
    """What the handler of the original does: one job for each team."""
    for _ in range(2):
        (made,) = _rows(
            conn, "SELECT * FROM job_queue_enqueue(p_task_type => %s, p_payload => %s)",
            IMAGES, f'{{"teamId": "{TEAM}", "requestedBy": "{ADA}"}}',
        )  # fmt: skip
        yield made["id"]


def _rows(conn: psycopg.Connection[Any], statement: str, *given: object) -> list[dict[str, Any]]:
    return conn.execute(statement.encode(), given or None).fetchall()
