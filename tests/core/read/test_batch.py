"""Readings ask all they want at once: one wait for the line, one moment of the clock, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from select import select as wait_for_input
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import Trace, TransactionStatus

from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import producer
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.batch import Query, combine, one_moment, select
from jobdeck.core.read.verdict.health import health
from tests.support.queue import Connection

COUNT = "SELECT count(*) AS n FROM job_queue"
INSERT = "INSERT INTO job_queue (task_type) VALUES ('alpha')"
READINGS: dict[str, Query[Any]] = {
    "first screen": jobs.snapshot(Filter()),
    "pending": jobs.snapshot(Filter(status=Status.PENDING), sort="created"),
    "glance": jobs.glance(),
    "job": jobs.detail(UUID(int=7)),
    "health": health(),
    "cron health": reports.cron(timeouts={"alpha": 60.0}),
    "errors": reports.errors(),
    "workers": reports.worker_report(),
    "audit": reports.audit(timedelta(hours=8)),
}


def number(found: list[dict[str, Any]]) -> int:
    return int(found[0]["n"])


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    with Connection.connect(database_url, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_waits_for_the_line_once(name: str, conn: Connection, tmp_path: Path) -> None:
    told = tmp_path / "messages"
    with told.open("wb") as file:
        conn.pgconn.trace(file.fileno())
        conn.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        READINGS[name].run(conn)
        conn.pgconn.untrace()
    sent = [line.split("\t")[2] for line in told.read_text(encoding="utf-8").splitlines() if line.startswith("F\t")]
    assert sent.count("Sync") == 1
    assert "Query" not in sent


def test_all_answers_are_of_one_moment(conn: Connection, other: Connection) -> None:
    with one_moment(conn) as batch:
        asked = []
        for _ in range(5):
            asked.append(batch.add(select(COUNT, read=number)))
            other.execute(INSERT)
    assert len({answer() for answer in asked}) == 1


def test_a_combined_query_gives_each_part_its_own_rows(conn: Connection) -> None:
    pair = combine(*(select("SELECT %(n)s::integer AS n", {"n": n}, read=number) for n in (1, 2)), read=lambda *n: n)
    assert combine(pair, select(COUNT, read=number), pair, read=lambda *found: found).run(conn) == ((1, 2), 0, (1, 2))


@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_went_wrong_is_raised_and_the_connection_goes_on(place: int, conn: Connection) -> None:
    def reading() -> None:
        with one_moment(conn) as batch:
            for at in range(5):
                batch.add(select("SELECT 1 / %(by)s::integer AS n", {"by": int(at != place)}, read=number))

    with pytest.raises(psycopg.errors.DivisionByZero):
        reading()
    assert conn.info.transaction_status is TransactionStatus.IDLE
    assert select(COUNT, read=number).run(conn) == 0


def test_an_error_of_the_caller_leaves_no_transaction_behind(conn: Connection) -> None:
    def reading() -> None:
        with one_moment(conn) as batch:
            batch.add(select(COUNT, read=number))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reading()
    assert conn.info.transaction_status is TransactionStatus.IDLE


def test_questions_change_nothing(conn: Connection) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), one_moment(conn) as batch:
        batch.add(select(INSERT, read=list))
    assert select(COUNT, read=number).run(conn) == 0


def test_inside_a_transaction_it_is_neither_ended_nor_made_read_only(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(INSERT)
        with one_moment(conn) as batch:
            counted = batch.add(select(COUNT, read=number))
        assert counted() == 1
        conn.execute(INSERT)
        assert conn.info.transaction_status is TransactionStatus.INTRANS
    assert select(COUNT, read=number).run(conn) == 0


def test_a_lost_connection_is_said_to_be_lost(conn: Connection, other: Connection) -> None:
    def reading() -> None:
        with one_moment(conn) as batch:
            batch.add(select(COUNT, read=number))
            other.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
            batch.add(select(COUNT, read=number))

    with pytest.raises(psycopg.OperationalError):
        reading()
    assert conn.closed


@pytest.mark.parametrize("answered_early", [False, True])
def test_a_question_that_fails_raises_its_own_error_and_logs_nothing(
    conn: Connection, caplog: pytest.LogCaptureFixture, answered_early: bool
) -> None:
    def reading() -> None:
        with one_moment(conn) as batch:
            batch.add(select("SELECT 1 FROM no_table", read=list))
            if answered_early:
                wait_for_input([conn.pgconn.socket], [], [])
            batch.add(select(COUNT, read=number))

    with pytest.raises(psycopg.errors.UndefinedTable):
        reading()
    assert not caplog.records
    assert select(COUNT, read=number).run(conn) == 0


@pytest.mark.slow
def test_jobs_and_their_counts_agree_while_others_come_and_go(conn: Connection, other: Connection) -> None:
    for number_ in range(20):
        if number_ % 3 == 2:
            other.execute("DELETE FROM job_queue")
        else:
            producer.enqueue(other, NewJob("alpha"), actor="a producer")
        seen = jobs.snapshot(Filter()).run(conn)
        assert seen.counts.pending == len(seen.page.jobs)
