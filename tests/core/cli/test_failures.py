"""What a command says when the database fails: whether the connection was lost, or the server could not do it."""

from __future__ import annotations

import psycopg
import pytest

from jobdeck.core.cli.failures import FAILED, UNREACHABLE, explain
from tests.support.queue import Connection


def test_a_statement_that_the_server_gave_up_is_not_called_a_lost_connection(conn: Connection) -> None:
    conn.execute("SET statement_timeout = '1ms'")
    with pytest.raises(psycopg.OperationalError) as raised:
        conn.execute("SELECT pg_sleep(60)")
    code, said = explain(raised.value)
    assert code == FAILED
    assert said.startswith(
        "The database could not carry out the command (canceling statement due to statement timeout)."
    )


def test_a_full_disk_is_not_called_a_lost_connection() -> None:
    code, said = explain(psycopg.errors.DiskFull("no space left"))
    assert (code, said[:55]) == (FAILED, "The database could not carry out the command (no space ")


def test_a_session_that_the_server_ended_is_a_lost_connection(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as other:
        conn.execute("SELECT pg_terminate_backend(%s)", [other.info.backend_pid])
        with pytest.raises(psycopg.OperationalError) as raised:
            other.execute("SELECT 1")
    code, said = explain(raised.value)
    assert (code, said[:42]) == (UNREACHABLE, "The connection to the database was lost (t")
