"""Connections, the pool, LISTEN, the capability probe and the schema's version, against a real server."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobdeck.core.connect import open_database
from jobdeck.core.errors import ConfigurationError, DatabaseUnreachable, Refused, SchemaMismatch
from jobdeck.core.model import Filter, NewJob
from jobdeck.core.postgres import address
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import producer
from jobdeck.core.queue.calls import actor
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.batch import one_moment, select
from jobdeck.core.redact import redact
from jobdeck.core.schema import (
    check_schema,
    install_schema,
    installed_version,
    open_checked,
    schema_text,
    schema_version,
)
from jobdeck.core.settings import Settings
from tests.support.pooler import find_pgbouncer, lying_relay, pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.round_trips import CONNECTING, round_trips
from tests.support.waiting import PATIENCE, until
from tests.upgrade.versions import become_next_version


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    with Database(empty_database_url, application_name="jobdeck test", max_size=2) as database:
        yield database


def test_every_connection_commits_by_itself_and_says_who_it_is(database: Database) -> None:
    with database.connection() as pooled, database.connect() as dedicated:
        for connection in (pooled, dedicated):
            assert connection.autocommit
            assert connection.info.parameter_status("application_name") == "jobdeck test"
            assert connection.info.parameter_status("default_transaction_read_only") == "off"
            assert connection.info.get_parameters()["keepalives_idle"] == "20"
            assert connection.info.get_parameters()["connect_timeout"] == "5"


def test_the_servers_refusal_backs_read_only(empty_database_url: str) -> None:
    url = f"{empty_database_url}&options=-c%20work_mem%3D5MB"
    with Database(url, application_name="test", read_only=True) as database, database.connection() as connection:
        assert connection.info.parameter_status("default_transaction_read_only") == "on"
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE t ()")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), connection.transaction():
            connection.execute("CREATE TABLE t ()")


def connections(url: str, name: str) -> int:
    """How many connections to a database have this application name."""
    with Connection.connect(url) as conn:
        counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        (count,) = conn.execute(counted, [name]).fetchone() or (-1,)
    return int(count)


def test_a_connection_that_is_opened_ahead_is_the_next_new_one(database: Database) -> None:
    database.connect_ahead()
    until(lambda: connections(database.url, "jobdeck test") == 1, "the connection")
    assert database.first(lambda asked: asked.execute("SELECT 1")).fetchone() == (1,)
    assert connections(database.url, "jobdeck test") == 1
    with database.connection(), database.connection():
        assert connections(database.url, "jobdeck test") == 2


def test_the_error_of_a_connection_that_is_opened_ahead_is_that_of_its_first_use() -> None:
    with Database("postgresql://127.0.0.1:1/jobs", application_name="test") as database:
        database.connect_ahead()
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable, match="refused"):
                database.first(lambda asked: asked.execute("SELECT 1"))


def test_a_connection_that_is_opened_ahead_and_not_used_is_closed_with_the_others(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, close = threading.Event(), threading.Event()
    database = Database(empty_database_url, application_name="jobdeck test")
    connect = database._open

    def late() -> psycopg.Connection[Any]:
        connection = connect()
        opened.set()
        close.wait(PATIENCE)
        return connection

    monkeypatch.setattr(database, "_open", late)
    database.connect_ahead()
    assert opened.wait(PATIENCE)
    database.close()
    assert connections(empty_database_url, "jobdeck test") == 1
    close.set()
    until(lambda: connections(empty_database_url, "jobdeck test") == 0, "the end of the connection")


def test_a_connection_given_back_is_used_again(database: Database) -> None:
    with database.connection() as connection:
        first = connection.info.backend_pid
    with database.connection() as connection:
        assert connection.info.backend_pid == first


def test_a_connection_that_was_unused_for_long_is_tried_before_it_is_given_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.postgres.pool.TRUST_SECONDS", 0.0)
    with database.connection() as connection:
        first = connection.info.backend_pid
    with database.connection() as connection:
        assert connection.info.backend_pid == first
        connection.execute("SELECT 1")
        connection.close()
    with database.connection() as connection:
        assert connection.info.backend_pid != first


def test_a_transaction_left_open_is_rolled_back(database: Database) -> None:
    with database.connection() as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t ()")
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_whoever_wants_more_than_the_pool_holds_waits_for_his_turn(database: Database) -> None:
    arrived = threading.Event()

    def late() -> int:
        with database.connection() as connection:
            arrived.set()
            return connection.info.backend_pid

    with ThreadPoolExecutor(1) as threads:
        with database.connection() as first, database.connection() as second:
            pids = {first.info.backend_pid, second.info.backend_pid}
            waiting = threads.submit(late)
            assert not arrived.wait(0.05)
        assert waiting.result(PATIENCE) in pids


def test_an_error_in_the_callers_block_gives_the_connection_back(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero), database.connection() as connection:
            connection.execute("SELECT 1 / 0")
    with database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_an_open_pool_survives_a_restart_of_the_server(database: Database, postgres: PostgresServer) -> None:
    with database.connection(), database.connection():
        pass
    postgres.restart()
    with database.connection() as first, database.connection() as second:
        assert first.execute("SELECT 1").fetchone() == second.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_a_server_that_is_down_shows_at_once_and_serves_at_once_when_it_is_back(
    database: Database, postgres: PostgresServer
) -> None:
    with database.connection():
        pass
    postgres.stop()
    with pytest.raises(psycopg.OperationalError, match="does not answer"), database.connection():
        pass
    postgres.start()
    with database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_closed_database_closes_what_comes_back_and_gives_nothing_out(empty_database_url: str) -> None:
    database = Database(empty_database_url, application_name="test")
    with database.connection() as connection:
        database.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert connection.closed
    with pytest.raises(psycopg.OperationalError, match="closed"), database.connection():
        pass


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://kim:s3cret@127.0.0.1/jobs?sslmode=requirre", 'invalid sslmode value: "requirre"'),
        ("postgresql://kim:s3cret@127.0.0.1:99999/jobs", "invalid port number"),
        ("postgresql://kim:s3cret@127.0.0.1/jobs?target_session_attrs=any-one", "invalid target_session_attrs value"),
    ],
)
def test_a_value_that_libpq_refuses_is_a_mistake_of_the_settings_and_no_server_that_is_down(
    url: str, reason: str
) -> None:
    for attempt in (Database(url, application_name="test").probe, Database(url, application_name="test").connect):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            attempt()
        assert not isinstance(caught.value, psycopg.OperationalError)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "label", "reason"),
    [
        ("postgresql://kim:s3cret@127.0.0.1:1/jobs", "127.0.0.1:1/jobs", "Connection refused"),
        ("postgresql://kim:s3cret@nowhere.invalid/jobs", "nowhere.invalid/jobs", "nowhere.invalid"),
        ("postgresql://kim:s3cret@/jobs?host=/nowhere", "local/jobs", "No such file or directory"),
        ("host=127.0.0.1 port=1 password=s3cret user=kim", "127.0.0.1:1/kim", "Connection refused"),
    ],
)
def test_a_wrong_address_is_told_in_a_sentence_without_its_password(url: str, label: str, reason: str) -> None:
    database = Database(url, application_name="test")
    for attempt in (database.probe, database.connect):
        with pytest.raises(DatabaseUnreachable) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(f"The database at {label} does not answer (")
        assert reason in message
        assert "DATABASE_URL" in message
        assert "s3cret" not in message + repr(database) + repr(caught.value)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert caught.value.exit_code == 3


def test_a_wrong_database_and_a_wrong_password_are_told_apart(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseUnreachable, match=r'database "missing" does not exist\)'):
        Database(postgres.url("missing"), application_name="test").probe()
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    postgres.require_password("locked")
    wrong = postgres.url().replace("jobdeck@", "locked:wrong@")
    with pytest.raises(DatabaseUnreachable, match='password authentication failed for user "locked"') as caught:
        Database(wrong, application_name="test").probe()
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+driver://kim:s3cret@db.example.org/jobs",
        "postgresql://kim:s3%zzcret@db.example.org/jobs",
        "postgresql://kim:s3%zzcret@db.example.org/jobs?pgbouncer=true",
        "postgresql://kim:a@b?s3cret=c@db.example.org/jobs",
        "postgresql://kim:a/b?s3cret=c@db.example.org/jobs",
        "host=db.example.org s3cret=true",
        "s3cret",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not a valid address") as caught:
        Database(url, application_name="test")
    assert "s3" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "postgresql://<user>:<password>@host:5432/database" in redact(str(caught.value))


def test_the_probe_knows_the_server(database: Database, postgres: PostgresServer) -> None:
    found = database.probe()
    assert found.server_version // 10_000 == postgres.version
    assert found.listens
    assert found.prepared_statements
    assert found.role == "jobdeck"
    assert found.database.startswith("test_")


def test_an_old_server_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "OLDEST_SERVER", 99)
    with pytest.raises(ConfigurationError, match="Jobdeck needs 99 or newer"):
        database.probe()


def test_an_old_server_is_refused_also_where_it_lacks_what_is_read_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "OLDEST_SERVER", 99)
    with pytest.raises(ConfigurationError, match="Jobdeck needs 99 or newer"):
        database.first(lambda conn: conn.execute("SELECT no_such_function()"))


def test_what_is_read_first_only_reads_and_is_one_round_trip(
    postgres: PostgresServer, database: Database, conn: Connection
) -> None:
    with (
        round_trips(postgres, conn.info.dbname) as trips,
        Database(trips.url, application_name="test") as far,
    ):
        mode, one = far.first(lambda asked: (asked.execute("SHOW transaction_read_only"), asked.execute("SELECT 1")))
        assert (mode.fetchone(), one.fetchone()) == (("on",), (1,))
        assert len(trips.since(len(CONNECTING))) == 1, trips.taken
        assert far.probe().listens
        with far.connection() as again:
            again.execute("SELECT 1")
        assert len(trips.since(len(CONNECTING))) == 2, trips.taken
        far.first(lambda asked: asked.execute("SELECT 2"))
        assert len(trips.since(len(CONNECTING))) == 3, trips.taken


@pytest.mark.parametrize("takes_options", [True, False])
def test_what_is_read_first_is_read_through_a_pooler(
    postgres: PostgresServer, conn: Connection, socket_folder: Path, *, takes_options: bool
) -> None:
    url = f"postgresql://jobdeck@/{conn.info.dbname}?host={socket_folder}"
    with (
        lying_relay(postgres, socket_folder, takes_options=takes_options),
        Database(url, application_name="test") as database,
    ):
        assert open_checked(database, jobs.counts()).pending == 0
        assert not database.probe().listens
        with database.connection() as connection:
            assert connection.prepare_threshold is None


def test_nothing_is_read_where_a_pooler_leads_to_another_schema(
    postgres: PostgresServer, conn: Connection, socket_folder: Path
) -> None:
    url = f"postgresql://jobdeck@/{conn.info.dbname}?host={socket_folder}"
    asked: list[Any] = []
    with (
        lying_relay(postgres, socket_folder, takes_options=False),
        Database(url, application_name="test", schema="elsewhere") as database,
        pytest.raises(ConfigurationError, match="search_path = elsewhere"),
    ):
        database.first(asked.append)
    assert not asked


def test_a_limit_of_waits_for_locks_is_that_of_every_connection(database: Database) -> None:
    database.lock_seconds = 5.0
    with database.connection() as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("5s",)


def test_behind_a_pooler_nothing_is_prepared_and_nobody_listens(postgres: PostgresServer, socket_folder: Path) -> None:
    with (
        lying_relay(postgres, socket_folder),
        Database(f"postgresql://jobdeck@/postgres?host={socket_folder}", application_name="test") as database,
    ):
        found = database.probe()
        assert not found.listens
        assert not found.prepared_statements
        with database.connection() as connection, database.connect() as dedicated:
            for each in (connection, dedicated):
                assert each.prepare_threshold is None
        with database.listen("job_queue") as listener:
            assert not listener.connected
            assert listener.wait(0.01) == []


def test_the_port_of_supabases_pooler_is_taken_for_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "POOLER_PORT", 5432)
    assert not database.probe().listens


@pytest.mark.skipif(find_pgbouncer() is None, reason="PgBouncer is not installed")
def test_two_databases_share_one_pgbouncer_connection_in_transaction_mode(
    postgres: PostgresServer, socket_folder: Path
) -> None:
    program = find_pgbouncer()
    assert program is not None
    with pgbouncer(program, postgres, socket_folder):
        url = f"postgresql://jobdeck@/postgres?host={socket_folder}"
        with (
            Database(url, application_name="a", read_only=True) as one,
            Database(url, application_name="b") as other,
        ):
            assert not one.probe().listens
            for _ in range(10):
                with one.connection() as first, other.connection() as second:
                    assert first.execute("SELECT %s::int", [1]).fetchone() == (1,)
                    assert second.execute("SELECT %s::int", [2]).fetchone() == (2,)
            with other.connection() as writer, writer.transaction():
                writer.execute("CREATE TEMPORARY TABLE t ()")
            with one.connection() as reader, reader.transaction():
                assert reader.execute("SHOW transaction_read_only").fetchone() == ("on",)


@pytest.mark.slow
@pytest.mark.skipif(find_pgbouncer() is None, reason="PgBouncer is not installed")
def test_whole_readings_go_through_one_pgbouncer_connection_that_others_write_through(
    postgres: PostgresServer, socket_folder: Path, database_url: str
) -> None:
    program = find_pgbouncer()
    assert program is not None
    with pgbouncer(program, postgres, socket_folder):
        url = psycopg.conninfo.make_conninfo(database_url, host=str(socket_folder))
        with (
            Database(url, application_name="a", read_only=True) as one,
            Database(url, application_name="b") as other,
        ):
            assert open_checked(one, jobs.counts()).pending == open_checked(other, jobs.counts()).pending == 0
        with (
            Database(url, application_name="a", read_only=True) as one,
            Database(url, application_name="b") as other,
            one.connection() as reader,
            other.connection() as writer,
        ):
            for number in range(1, 11):
                producer.enqueue(writer, NewJob("alpha"), actor="a producer")
                seen = jobs.snapshot(Filter()).run(reader)
                assert seen.counts.pending == len(seen.page.jobs) == number
                assert len(reports.cron().run(reader).overdue) == 0
                with pytest.raises(psycopg.errors.UndefinedTable), one_moment(reader) as batch:
                    batch.add(select("SELECT FROM nowhere", read=list))


def test_a_batch_sends_nothing_after_its_end(database: Database, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with database.connection() as connection, trace.open("w") as file:
        connection.pgconn.trace(file.fileno())
        with pytest.raises(psycopg.errors.UndefinedTable), one_moment(connection) as batch:
            batch.add(select("SELECT FROM nowhere", read=list))
        with one_moment(connection) as batch:
            answer = batch.add(select("SELECT 1 AS one", read=list))
        connection.pgconn.untrace()
    sent = re.findall(r"\tF\t\d+\t(\w+)", trace.read_text())
    assert answer() == [{"one": 1}]
    assert sent.count("Sync") == 2
    assert "Flush" not in sent


def test_a_listener_hears_its_channel_and_no_other(database: Database) -> None:
    with database.listen("Job Queue") as listener, database.connection() as connection:
        assert listener.connected
        connection.execute("""NOTIFY "Job Queue", 'cancel'""")
        connection.execute("NOTIFY other, 'not for us'")
        assert listener.wait(PATIENCE) == ["cancel"]
        assert listener.wait(0) == []


def test_waking_and_closing_a_listener_end_its_wait_at_once(database: Database) -> None:
    with ThreadPoolExecutor(1) as threads:
        listener = database.listen("job_queue")
        for end in (listener.wake, listener.close):
            waiting = threads.submit(listener.wait, PATIENCE)
            end()
            assert waiting.result(PATIENCE / 2) == []
        listener.close()


def test_a_wake_before_the_wait_is_not_lost(database: Database) -> None:
    with database.listen("job_queue") as listener:
        listener.wake()
        assert listener.wait(PATIENCE) == []


def test_a_listener_survives_a_restart_and_says_that_it_may_have_missed_something(
    database: Database, postgres: PostgresServer
) -> None:
    with database.listen("job_queue") as listener:
        postgres.restart()
        assert listener.wait(PATIENCE) == [""]
        with database.connection() as connection:
            connection.execute("NOTIFY job_queue, 'again'")
        assert listener.wait(PATIENCE) == ["again"]


@pytest.mark.slow
def test_a_listener_that_finds_the_server_down_connects_when_it_is_up(
    database: Database, postgres: PostgresServer
) -> None:
    postgres.stop()
    with database.listen("job_queue") as listener:
        assert not listener.connected
        postgres.start()
        assert listener.wait(PATIENCE) == [""]
        assert listener.connected


@pytest.mark.installation
def test_the_schema_is_installed_once_and_again_without_change(database: Database) -> None:
    with database.connection() as connection:
        with pytest.raises(
            SchemaMismatch, match=rf"database at \S*/{connection.info.dbname} holds no .*`jobdeck init`"
        ):
            check_schema(connection)
        assert install_schema(connection) == schema_version()
        check_schema(connection)
        before = _objects(connection)
        install_schema(connection)
        assert _objects(connection) == before


@pytest.mark.installation
def test_processes_that_install_the_schema_at_once_do_not_collide(database: Database) -> None:
    def install(_: int) -> int:
        with database.connect() as connection:
            return install_schema(connection)

    # An installation waits ten seconds for another one, which on a busy machine is the time of one, and not of two.
    with ThreadPoolExecutor(2) as threads:
        assert set(threads.map(install, range(2))) == {schema_version()}


@pytest.mark.installation
def test_an_older_and_a_newer_schema_are_told_apart(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.connection() as connection:
        install_schema(connection)
        with monkeypatch.context() as patch:
            become_next_version(tmp_path / "schema", patch)
            with pytest.raises(SchemaMismatch, match=rf"database at \S*/{connection.info.dbname} .* to upgrade it"):
                check_schema(connection)
        check_schema(connection)
        connection.execute("DELETE FROM jobdeck_schema")
        connection.execute("INSERT INTO jobdeck_schema (version) VALUES (%s)", [schema_version() + 1])
        connection.execute("DROP TABLE job_audit CASCADE")
        for refused in (check_schema, install_schema):
            with pytest.raises(SchemaMismatch, match=rf"database at \S*/{connection.info.dbname} .* Upgrade Jobdeck"):
                refused(connection)
        assert connection.execute("SELECT to_regclass('job_audit')").fetchone() == (None,)


def test_a_role_that_may_not_install_is_told_so(database: Database, postgres: PostgresServer) -> None:
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE powerless LOGIN")
    with Connection.connect(database.url.replace("jobdeck@", "powerless@"), autocommit=True) as connection:
        with pytest.raises(Refused, match="role powerless may not"):
            install_schema(connection)
        assert installed_version(connection) is None


def test_the_schemas_text_begins_with_its_version() -> None:
    assert schema_text().startswith(f"-- jobdeck schema version {schema_version()}\n")


def test_open_database_uses_the_address_that_is_set(database_url: str) -> None:
    settings = Settings.model_validate({"database_url": database_url})
    with (
        open_database(settings, application_name="test", read_only=True) as database,
        database.connection() as connection,
    ):
        check_schema(connection)
        assert connection.info.parameter_status("default_transaction_read_only") == "on"


def test_open_database_finds_a_wrong_address_at_once_unless_told_not_to() -> None:
    settings = Settings.model_validate({"database_url": "postgresql://127.0.0.1:1/jobs"})
    with pytest.raises(DatabaseUnreachable), open_database(settings, application_name="test"):
        pass
    with (
        open_database(settings, application_name="test", connect=False) as database,
        pytest.raises(psycopg.OperationalError),
    ):
        database.probe()


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("192.0.2.7 50000 192.0.2.1 22", "192.0.2.7"),
        ("2001:db8::7 50000 2001:db8::1 22", "2001:db8::7"),
        ("\x1b[31mred 1 2 3", "local"),
        ("", "local"),
    ],
)
def test_the_actor_is_the_account_and_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, variable: str, place: str
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", variable)
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert getpass.getuser() == "somebody-else"
    assert actor() == f"{pwd.getpwuid(os.getuid()).pw_name}@{place}"


@pytest.mark.slow
def test_importing_the_module_loads_no_more_than_psycopg() -> None:
    script = "import sys, jobdeck.core.postgres.database; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for heavy in ("pydantic", "textual", "httpx", "sentry_sdk", "click", "psycopg_pool"):
        assert f"'{heavy}'" not in loaded


def _objects(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT oid::text, relname FROM pg_class WHERE relkind IN ('r', 'i', 'S') "
        "AND relnamespace = 'public'::regnamespace "
        "UNION ALL SELECT oid::regprocedure::text, md5(prosrc) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace ORDER BY 1, 2"
    ).fetchall()
