"""Several databases, each read on its own: what is wrong with one is said of that one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from jobdeck.core import fleet
from jobdeck.core.errors import ConfigurationError, UsageError
from jobdeck.core.fleet import Member, Trouble, exit_code, members, rank, read_each, word
from jobdeck.core.read.pages.overview import DatabaseFigures
from jobdeck.core.settings import Settings
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import until

AWAY = "postgresql://bob:hunter2@127.0.0.1:1/gone"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"postgresql://bob:hunter2@127.0.0.1:{listening.getsockname()[1]}/silent"


def only(url: str) -> Member:
    (member,) = members(Settings(), [url])
    return member


def trouble(url: str) -> Trouble:
    member = only(url)
    try:
        found = member.read()
    finally:
        member.close()
    assert isinstance(found, Trouble)
    return found


def test_the_figures_are_those_of_the_database(database_url: str, conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type, run_at, created_at) SELECT 'a', t, t"
                 " FROM (SELECT now() - interval '50 minutes' FROM generate_series(1, 3)) AS waiting (t)")  # fmt: skip
    member = only(database_url)
    found = member.read()
    member.close()
    assert isinstance(found, DatabaseFigures)
    assert (found.counts.pending, found.counts.failed, found.workers) == (3, 0, 0)
    assert found.longest_wait is not None
    assert found.longest_wait.total_seconds() // 60 == 50
    assert (word(found), exit_code(found)) == ("critical", 4)


def test_it_reads_only(database_url: str) -> None:
    member = only(database_url)
    member.read()
    assert member._database is not None
    with member._database.connection() as conn, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("DELETE FROM job_queue")
    member.close()


def test_a_database_that_is_away_says_why_and_what_to_do_without_its_user() -> None:
    found = trouble(AWAY)
    assert (found.word, found.exit_code) == ("away", 3)
    assert found.brief == "Connection refused; check Postgres there"
    assert "127.0.0.1:1/gone" in found.message
    assert "Check its address" in found.message
    assert "bob" not in found.message + found.brief
    assert "hunter2" not in found.message


def test_a_database_that_does_not_exist_is_about_the_address(postgres: PostgresServer) -> None:
    assert trouble(postgres.url("nobody_made_it")).brief.endswith("check its address")


def test_a_database_without_the_schema_names_the_command(empty_database_url: str) -> None:
    found = trouble(empty_database_url)
    assert (found.word, found.brief) == ("unusable", "no schema; run `jobdeck init` there")
    assert "holds no Jobdeck schema. Run `jobdeck init` to install it." in found.message


@pytest.mark.parametrize(
    ("change", "brief"),
    [
        (
            "UPDATE jobdeck_schema SET version = 5 WHERE component = 'queue'",
            "version 5 is from before the first release",
        ),
        ("UPDATE jobdeck_schema SET version = version - 1 WHERE component <> 'queue'", "; run `jobdeck init` there"),
        (
            "UPDATE jobdeck_schema SET version = 999, serves_from = 999 WHERE component = 'queue'",
            "version 999 is newer; upgrade Jobdeck here",
        ),
    ],
)
def test_a_database_of_another_version_names_the_remedy(
    database_url: str, conn: Connection, change: LiteralString, brief: str
) -> None:
    conn.execute(change)
    found = trouble(database_url)
    assert (found.word, found.exit_code) == ("unusable", 1)
    assert found.brief.endswith(brief)


def test_a_role_without_rights_is_told_what_it_lacks(database_url: str, people: People) -> None:
    found = trouble(people.address(database_url, None))
    assert (found.word, found.brief) == ("unusable", "this role may not read it; grant it job_viewer")
    assert "job_viewer" in found.message


def test_a_statement_that_waits_for_a_lock_ends_and_the_database_is_slow(
    database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "STATEMENT_SECONDS", 0.2)
    with conn.transaction():
        conn.execute("LOCK job_queue")
        found = trouble(database_url)
    assert (found.word, found.exit_code) == ("slow", 3)
    assert "check its load and locks" in found.brief


def test_a_database_that_comes_back_is_read_again(database_url: str, postgres: PostgresServer) -> None:
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    member = only(database_url)
    with postgres.connect() as admin:
        name = sql.Identifier(str(conninfo_to_dict(database_url)["dbname"]))
        assert word(member.read()) != "away"
        admin.execute(allow.format(name, sql.SQL("false")))
        # It waits until the session has ended.
        admin.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'jobdeck fleet'"
        )
        assert word(member.read()) == "away"
        admin.execute(allow.format(name, sql.SQL("true")))
        assert word(member.read()) != "away"
    member.close()


def test_a_schema_that_is_installed_meanwhile_is_seen(database_url: str, conn: Connection) -> None:
    conn.execute("ALTER TABLE jobdeck_schema RENAME TO hidden")
    member = only(database_url)
    assert word(member.read()) == "unusable"
    conn.execute("ALTER TABLE hidden RENAME TO jobdeck_schema")
    assert word(member.read()) != "unusable"
    member.close()


def test_a_silent_server_and_one_that_is_away_hold_no_other_up(database_url: str, silent_server: str) -> None:
    done = threading.Event()
    fleet_of_three = members(Settings(), [silent_server, AWAY, database_url])
    fleet_of_three[2].read()  # so that its first statement does not race with the patience below

    def read(member: Member) -> None:
        member.read()
        done.set()

    waiting = threading.Thread(target=read, args=(fleet_of_three[0],), daemon=True)
    waiting.start()
    until(lambda: word(fleet_of_three[1].read()) == "away" and word(fleet_of_three[2].read()) != "away")
    assert not done.is_set(), "the silent server had answered, so that nothing was shown"
    fleet_of_three[2].close()


@pytest.mark.slow
def test_all_are_read_at_once_and_one_without_an_answer_is_left_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, good = members(Settings(), [AWAY, database_url])
    go_on = threading.Event()
    known = good.read()
    good.close()
    monkeypatch.setattr(stuck, "read", lambda: go_on.wait() and Trouble("away", "", ""))
    monkeypatch.setattr(good, "read", lambda: known)
    try:
        readings = read_each([stuck, good], patience=5.0)
    finally:
        go_on.set()
    assert [word(reading) for reading in readings] == ["slow", word(known)]


def test_the_worst_is_first() -> None:
    made = [Trouble(kind, "", "") for kind in ("unusable", "slow", "away")]
    assert [reading.word for reading in sorted(made, key=rank)] == ["away", "slow", "unusable"]


def test_databases_are_named_by_address_or_by_their_name_in_the_settings() -> None:
    urls = ["postgresql://bob:hunter2@db1.example.org/jobs", "postgresql://bob@db2.example.org:6000/jobs"]
    assert [one.name for one in members(Settings(), urls)] == ["db1.example.org/jobs", "db2.example.org:6000/jobs"]
    listed = Settings.model_validate({"databases": {"orders": urls[0], "billing": urls[1]}})
    assert [(one.name, one.label) for one in members(listed)] == [
        ("orders", "db1.example.org/jobs"), ("billing", "db2.example.org:6000/jobs"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (["postgresql://a@h/db", "postgresql://a@h/db"], "The same database is given twice: h/db."),
        (["postgresql://a@h/db", "postgresql://b@h/db"], "would both be shown as h/db. Give them names"),
        (["postgresql://a@h/db", "postgresql://bob:hunter2@h:x y/db"], "Address 2 of --database-url is not a valid"),
        (["postgresql://a@h/db", "  "], "Address 2 of --database-url is empty."),
    ],
)
def test_addresses_that_cannot_make_a_list_are_refused(urls: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        members(Settings(), urls)
    assert words in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_a_name_with_a_bad_address_or_a_twin_is_refused() -> None:
    twins = Settings.model_validate({"databases": {"a": "postgresql://x@h/db", "b": "postgresql://x@h/db"}})
    with pytest.raises(ConfigurationError, match=r"given twice: a and b\."):
        members(twins)
    bad = Settings.model_validate({"databases": {"a": "no address"}})
    with pytest.raises(ConfigurationError, match=r"JOBDECK_DATABASES: the address of a is not a valid"):
        members(bad)


def test_without_any_database_it_says_how_to_name_them() -> None:
    with pytest.raises(UsageError, match="Give --database-url for each of them, or list them in JOBDECK_DATABASES"):
        members(Settings())
