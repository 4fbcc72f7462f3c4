"""Queues are labels of task types: workers are started for them, and follow when a label changes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import jobdeck
from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.registry.code_values import CodeValues
from jobdeck.core.worker import maintenance
from tests.core.queue.test_code_values import line, start
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import a_state, drain, job_type, nothing, working


def put(conn: Connection, task_type: str, queue: str | None) -> None:
    operator.set_type(conn, task_type, changes={"queue": queue}, actor=ACTOR, reason=None)


def left(conn: Connection) -> list[str]:
    return [row["task_type"] for row in conn.rows("SELECT task_type FROM job_queue ORDER BY 1")]


def test_a_type_without_a_label_is_in_default_and_an_operators_label_comes_before_that_of_the_code(
    conn: Connection,
) -> None:
    start(conn, queue="mail")
    put(conn, "beta", "bulk")
    types = ["alpha", "beta", "gamma"]
    assert leases.types_of_queues(conn, types, ["mail", "default"]) == {"alpha": "mail", "gamma": "default"}
    put(conn, "alpha", "default")
    put(conn, "beta", None)
    assert set(leases.types_of_queues(conn, types, ["default"])) == set(types)
    put(conn, "alpha", "code")
    assert (line(conn).queue, line(conn).limits) == ("mail", ("in the queue mail",))


@pytest.mark.parametrize("name", ["", "two words", "a,b", "é", "x" * 101])
def test_a_name_that_is_no_name_of_a_queue_is_refused(conn: Connection, name: str) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match="letters, digits, dots, hyphens and underscores"):
        put(conn, "alpha", name)
    with pytest.raises(ConfigurationError, match="letters, digits, dots, hyphens and"):
        jobdeck.task("alpha", queue=name)


def test_a_worker_of_queues_runs_their_types_alone(conn: Connection, database_url: str) -> None:
    producer.enqueue_many(conn, [NewJob("mails"), NewJob("images"), NewJob("others")], actor=ACTOR)
    put(conn, "images", "bulk")
    kinds = [job_type("mails", nothing, values=CodeValues(queue="mail")), job_type("images", nothing),
             job_type("others", nothing)]  # fmt: skip
    drain(database_url, *kinds, queues=["mail", "default"])
    assert left(conn) == ["images"]


def test_a_worker_follows_a_label_that_changes_and_a_new_type_needs_no_other_worker(
    conn: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Database(database_url, application_name="test") as database, a_state(database) as state:
        state.handled = ("alpha", "beta")
        state.queues = ["mail", "maill"]
        with caplog.at_level(logging.WARNING):
            maintenance.choose_types(conn, state)
        assert (state.task_types, len(caplog.records)) == ([], 1)
        put(conn, "beta", "mail")
        maintenance.choose_types(conn, state)
        assert state.task_types == ["beta"]
        assert state.empty_queues == {"maill"}


@pytest.mark.slow
def test_a_worker_of_a_queue_that_no_type_has_goes_on_and_runs_the_type_that_joins_it(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "REPORT_SECONDS", 0.2)
    ran: list[Any] = []
    producer.enqueue_many(conn, [NewJob("mails")], actor=ACTOR)
    kind = job_type("mails", lambda _params, _ctx: ran.append(1))
    with working(database_url, kind, queues=["mail"]):
        until(lambda: conn.rows("SELECT FROM job_workers WHERE task_types = '{}'"), "the worker without a type")
        assert left(conn) == ["mails"]
        put(conn, "mails", "mail")
        until(lambda: not left(conn), "the job of the type that joined")
    assert ran == [1]
