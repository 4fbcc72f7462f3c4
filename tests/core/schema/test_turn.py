"""One installation at a time; who is in its way is named, and cannot be a role that only looks and takes a lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import drop_schema, install_schema, installed_version, schema_version
from jobdeck.core.schema.components import queue_component
from jobdeck.core.schema.turn import lock_tables, take_turn
from tests.core.cli.support import Jobdeck
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection, Parallel
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.installation

QUEUE = (queue_component(),)
LOCK_OF_BEFORE = 6_221_017_304


@pytest.fixture
def viewer(conn: Connection, postgres: PostgresServer, database_url: str) -> Iterator[Connection]:
    conn.execute("SELECT job_make_roles()")
    conn.execute("SELECT job_grant_roles()")
    people = People(postgres)
    with closing(people.sign_in(database_url, "job_viewer")) as connection:
        yield connection
    people.remove()


def test_a_role_that_only_looks_holds_no_lock_that_an_installation_waits_for(
    conn: Connection, viewer: Connection
) -> None:
    viewer.execute("SELECT pg_advisory_lock(%s)", [LOCK_OF_BEFORE])
    waited: list[str] = []
    install_schema(conn, waits=waited.append)
    drop_schema(conn)
    assert waited == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege), viewer.transaction():
        take_turn(viewer, "public")


def test_first_installations_at_once_go_one_after_the_other(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.schema.install.LOCK_SECONDS", PATIENCE)

    def install(conn: Connection) -> int:
        return install_schema(conn, schema="jobs", components=QUEUE)

    assert Parallel(empty_database_url)(install, install, install) == [schema_version()] * 3
    with Connection.connect(empty_database_url) as conn:
        conn.execute("SET search_path = jobs")
        assert installed_version(conn) == schema_version()
        assert conn.execute("SELECT to_regclass('jobs.jobdeck_installation')").fetchone() == (None,)


def test_another_installation_is_named_and_waited_for(empty_database_url: str) -> None:
    said: list[str] = []
    with (
        Connection.connect(empty_database_url, autocommit=True) as conn,
        Connection.connect(empty_database_url, application_name="jobdeck \x1b[31m elsewhere") as other,
    ):
        take_turn(other, "public")

        def waits(sentence: str) -> None:
            said.append(sentence)
            other.rollback()

        install_schema(conn, components=QUEUE, waits=waits)
        assert len(said) == 1
        assert f"pid {other.info.backend_pid}, role jobdeck, application jobdeck" in said[0]
        assert "\x1b" not in said[0]


def test_a_session_that_reads_is_named_and_when_it_ends_the_installation_goes_on(
    conn: Connection, viewer: Connection
) -> None:
    said: list[str] = []
    viewer.execute("SET application_name = 'a report'")
    viewer.execute("BEGIN")
    viewer.execute("SELECT FROM job_list")
    (since,) = viewer.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')").fetchone() or ("",)
    conn.execute("SET TimeZone = 'UTC'")

    def waits(sentence: str) -> None:
        said.append(sentence)
        conn.add()
        assert len(conn.claim()) == 1
        viewer.execute("ROLLBACK")

    install_schema(conn, waits=waits)
    assert len(said) == 1
    (role,) = viewer.execute("SELECT session_user::text").fetchone() or ("",)
    assert (
        f"pid {viewer.info.backend_pid}, role {role}, application a report, in a transaction since {since}" in said[0]
    )
    assert "idle in transaction" in said[0]
    assert "tries again" in said[0]


def test_the_command_names_the_session_and_gives_up_after_a_while(
    jobdeck: Jobdeck, conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.schema.install.LOCK_SECONDS", 6)
    # So that there are several attempts, however slow they are.
    monkeypatch.setattr("jobdeck.core.schema.turn.ATTEMPT_SECONDS", 0.001)
    with Connection.connect(database_url, application_name="a report") as other:
        other.execute("SELECT FROM job_list")
        ran = jobdeck("init")
        assert ran.code == 1
        first, *_, last = ran.err.splitlines()
        for line in (first, last):
            assert f"pid {other.info.backend_pid}, role jobdeck, application a report" in line
        assert first.endswith("The installation tries again.")
        assert last.endswith("Try again once its transaction has ended.")


def test_an_attempt_to_lock_all_tables_ends_soon_however_many_of_them_are_locked(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit of each single table would never end it.
    monkeypatch.setattr("jobdeck.core.schema.turn.TABLES_SECONDS", 3600)
    monkeypatch.setattr("jobdeck.core.schema.turn.ATTEMPT_SECONDS", 0)
    conn.execute("SET statement_timeout = '60s'")
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_workers")
        with pytest.raises(psycopg.errors.LockNotAvailable), conn.transaction():
            lock_tables(conn, "public", QUEUE)
    with conn.transaction():
        lock_tables(conn, "public", QUEUE)
        assert conn.execute("SELECT current_setting('statement_timeout')").fetchone() == ("1min",)


def test_what_is_removed_waits_for_an_installation(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url) as other:
        take_turn(other, "public")
        with pytest.raises(Refused, match="another session"):
            drop_schema(conn)
    drop_schema(conn)
