"""`jobdeck retry --canary`: one job next and alone, and with --wait its result."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from jobdeck.core.queue import operator
from jobdeck.core.registry import load
from tests.core.cli.support import HANDLERS, Jobdeck, enqueued, everything
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import working


@pytest.fixture
def worker(conn: Connection, database_url: str) -> Iterator[None]:
    """A worker that handles the types of these tests, while everything is paused."""
    operator.pause(conn, reason="vendor is down", actor="test")
    with working(database_url, *load([HANDLERS]), concurrency=1):
        until(lambda: conn.execute("SELECT count(*) FROM job_workers").fetchone() == (1,))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_the_result_that_is_waited_for_decides_the_exit_code(jobdeck: Jobdeck, conn: Connection) -> None:
    good = enqueued(conn)
    bad = enqueued(conn, "cli_refuse", reason="still down")
    left = enqueued(conn)
    ran = jobdeck("retry", "--canary", str(good), "--wait", "--reason", "vendor says fixed", "--json")
    assert (ran.code, ran.data["state"], ran.data["outcome"]) == (0, "succeeded", "succeeded")
    ran = jobdeck("retry", "--canary", str(bad), "--wait")
    assert ran.code == 1
    assert ran.out.startswith(f"{bad}: It failed after ")
    assert "still down" in ran.out
    assert conn.execute("SELECT id FROM job_queue WHERE status = 'pending'").fetchall() == [(left,)]
    told = {(row["action"], row["reason"]) for row in jobdeck("audit", "--json").data["audit"]}
    assert told >= {("canary", "vendor says fixed"), ("canary ended", None)}


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_without_wait_it_answers_that_it_was_asked_for(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    before = everything(conn)
    [tried] = jobdeck("retry", "--canary", str(job), "--dry-run", "--json").data["results"]
    assert (tried["ok"], tried["code"]) == (True, "would-be-canary")
    assert everything(conn).keys() == before.keys()
    [answer] = jobdeck("retry", "--canary", str(job), "--json").data["results"]
    assert (answer["ok"], answer["code"]) == (True, "canary-asked")


def test_without_a_worker_it_is_refused_and_nothing_changes(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn)
    with conn.changes_nothing():
        ran = jobdeck("retry", "--canary", str(job), "--wait")
        assert ran.code == 1
        assert "No live worker handles cli_echo. Nothing was changed." in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--canary"], 2, ["--canary", "one"]),
        (["--canary", str(uuid4()), str(uuid4())], 2, ["--canary", "one"]),
        (["--canary", "-"], 2, ["--canary", "one"]),
        (["--canary", "--filter", "status:failed"], 2, ["--canary", "one"]),
        (["--wait", str(uuid4())], 2, ["--wait", "--canary"]),
    ],
)
def test_it_is_for_one_job(jobdeck: Jobdeck, arguments: list[str], code: int, words: list[str]) -> None:
    jobdeck("retry", *arguments).refused(code, *words)


def test_a_job_that_there_is_not_is_refused(jobdeck: Jobdeck) -> None:
    ran = jobdeck("retry", "--canary", str(uuid4()), "--json")
    assert ran.code == 1
    assert [one["code"] for one in ran.data["results"]] == ["not-in-queue"]
