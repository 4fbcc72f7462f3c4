"""Statements that are sent past the cursors of psycopg: the same answers, and the way back to a cursor."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, producer
from jobdeck.core.queue.prepared import _sent, answer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable


STATEMENT = b"SELECT %s::text, %s::integer + 1"
PARAMS = ("two wörds", "41")
ROWS = [("two wörds", 42)]
JOB = NewJob("alpha", {"name": "Zoë"})


def warm(conn: Connection, statement: bytes = STATEMENT, params: tuple[str | None, ...] = PARAMS) -> None:
    """Sends a statement until it is prepared."""
    for _ in range(10):
        if answer(conn, statement, params) is not None:
            return
    raise AssertionError("the statement was not prepared")


def prepared(conn: Connection) -> list[str]:
    """The names of the connection's prepared statements."""
    return [name for (name,) in conn.execute("SELECT name FROM pg_prepared_statements ORDER BY 1", prepare=False)]


def test_a_statement_is_carried_out_where_psycopg_would_prepare_it(conn: Connection) -> None:
    assert conn.prepare_threshold is not None
    for _ in range(conn.prepare_threshold):
        assert answer(conn, STATEMENT, PARAMS) is None
    assert prepared(conn) == []
    assert answer(conn, STATEMENT, PARAMS) == ROWS
    assert answer(conn, STATEMENT, ("two", None)) == [("two", None)]
    [name] = prepared(conn)
    assert name.startswith("jobdeck_")


def test_two_statements_of_a_connection_are_two(conn: Connection) -> None:
    warm(conn)
    warm(conn, b"SELECT %s::text", ("other",))
    assert (answer(conn, STATEMENT, PARAMS), len(prepared(conn))) == (ROWS, 2)


def test_a_statement_that_another_client_of_a_pooler_has_prepared_is_the_same_statement(conn: Connection) -> None:
    warm(conn)
    _sent.clear()
    warm(conn)
    assert (answer(conn, STATEMENT, PARAMS), len(prepared(conn))) == (ROWS, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda conn: setattr(conn, "autocommit", False),
        lambda conn: setattr(conn, "prepare_threshold", None),
        lambda conn: setattr(conn, "cursor_factory", psycopg.ClientCursor),
        lambda conn: conn.execute("SET client_encoding = 'LATIN1'"),
    ],
)
def test_a_connection_that_asks_more_of_its_cursors_gets_one(
    conn: Connection, change: Callable[[Connection], object]
) -> None:
    warm(conn)
    change(conn)
    assert answer(conn, STATEMENT, PARAMS) is None


def test_a_connection_whose_class_has_cursors_of_its_own_gets_one(database_url: str) -> None:
    class Own(Connection):
        def cursor(self, *given: Any, **options: Any) -> Any:
            return super().cursor(*given, **options)

    with Own.connect(database_url, autocommit=True) as conn, pytest.raises(AssertionError):
        warm(conn)


def test_a_transaction_and_a_pipeline_get_a_cursor(conn: Connection) -> None:
    warm(conn)
    with conn.transaction():
        assert answer(conn, STATEMENT, PARAMS) is None
    with conn.pipeline():
        assert answer(conn, STATEMENT, PARAMS) is None
    assert answer(conn, STATEMENT, PARAMS) == ROWS


def test_a_statement_that_is_gone_is_prepared_again_later(conn: Connection) -> None:
    warm(conn)
    conn.execute("DEALLOCATE ALL")
    assert answer(conn, STATEMENT, PARAMS) is None
    warm(conn)
    with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
        conn.execute("SELECT 1 / 0")
    answer(conn, STATEMENT, PARAMS)
    warm(conn)


def test_a_statement_whose_columns_have_changed_is_prepared_again_later(conn: Connection) -> None:
    conn.execute("CREATE TABLE changing AS SELECT 1 AS one")
    warm(conn, b"SELECT * FROM changing", ())
    conn.execute("ALTER TABLE changing ADD two integer DEFAULT 2")
    assert answer(conn, b"SELECT * FROM changing", ()) is None
    warm(conn, b"SELECT * FROM changing", ())
    assert answer(conn, b"SELECT * FROM changing", ()) == [(1, 2)]


def test_an_error_is_that_of_a_cursor(conn: Connection) -> None:
    warm(conn)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as found:
        answer(conn, STATEMENT, ("two", "words"))
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as of_cursor:
        conn.execute(STATEMENT, ("two", "words"))
    assert str(found.value).splitlines()[0] == str(of_cursor.value).splitlines()[0]
    assert answer(conn, STATEMENT, PARAMS) == ROWS


def test_a_connection_that_the_server_ended_raises_as_of_a_cursor(conn: Connection, database_url: str) -> None:
    warm(conn)
    with Connection.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
        mine = "SELECT FROM pg_stat_activity WHERE pid = %s"
        until(lambda: not other.execute(mine, [conn.info.backend_pid]).fetchall())
    with pytest.raises(psycopg.OperationalError):
        answer(conn, STATEMENT, PARAMS)
    assert conn.closed


def test_a_statement_can_be_cancelled_while_it_waits(conn: Connection) -> None:
    statement = b"SELECT pg_sleep(%s::float8)"
    warm(conn, statement, ("0",))
    cancelling = threading.Timer(0.2, conn.cancel)
    with closing(conn):
        cancelling.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            answer(conn, statement, (str(PATIENCE),))
        cancelling.join()


def test_jobs_are_enqueued_and_refused_in_the_same_way_once_the_call_is_prepared(conn: Connection) -> None:
    tickets = [producer.enqueue(conn, JOB, actor="bench") for _ in range(10)]
    assert any(name.startswith("jobdeck_") for name in prepared(conn))
    assert all(ticket.created for ticket in tickets)
    stored = conn.execute("SELECT id, payload FROM job_queue ORDER BY id").fetchall()
    assert stored == [(ticket.job_id, JOB.payload) for ticket in tickets]
    with pytest.raises(Refused, match="A job needs a task type and a priority between -100 and 100"):
        producer.enqueue(conn, JOB._replace(priority=101), actor="bench")
    kept = producer.enqueue(conn, JOB._replace(dedupe_key="one"), actor="bench")
    again = producer.enqueue(conn, JOB._replace(dedupe_key="one"), actor="bench")
    assert (kept.created, again.created, again.job_id) == (True, False, kept.job_id)


def test_a_claim_without_fronts_returns_the_same_once_it_is_prepared(conn: Connection) -> None:
    def claimed() -> list[tuple[Any, ...]]:
        producer.enqueue(conn, JOB._replace(priority=3, timeout=2.5), actor="bench")
        return [job[2:6] + job[8:] for job in leases.claim(conn, "one", ["alpha"], 5, 60.0, free=5)]

    by_cursor = claimed()
    assert by_cursor == [("alpha", {"name": "Zoë"}, 1, 5, False, None, 0, 3, 2.5)]
    assert [claimed() for _ in range(10)] == [by_cursor] * 10
    statements = (
        "SELECT FROM pg_prepared_statements WHERE statement LIKE '%job_queue_claim(%' AND name LIKE 'jobdeck_%'"
    )
    assert conn.execute(statements).fetchall()
