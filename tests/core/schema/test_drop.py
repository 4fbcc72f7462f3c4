"""Removing Jobdeck: all that it installed, and nothing that is another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import components, drop_schema, install_schema, installed_version, owned_objects
from tests.support.catalog import catalog
from tests.support.queue import Connection

pytestmark = pytest.mark.installation


@pytest.fixture
def shared(empty_database_url: str) -> Iterator[Connection]:
    """A database whose application has names like ours."""
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE job_board (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO job_board VALUES (1, 'mine')")
        connection.execute("CREATE FUNCTION job_board_search(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        connection.execute("CREATE FUNCTION job_actor(text, integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        connection.execute("CREATE VIEW job_board_list AS SELECT id FROM job_board")
        yield connection


def test_only_what_jobdeck_installed_is_removed(shared: Connection) -> None:
    shared.execute("REVOKE ALL ON FUNCTION job_actor(text, integer) FROM public")
    before = catalog(shared)
    install_schema(shared)
    shared.add()
    drop_schema(shared)
    assert catalog(shared) == before
    assert shared.execute("SELECT note FROM job_board").fetchall() == [("mine",)]
    install_schema(shared)


def test_what_would_be_removed_is_told_with_its_rows_and_stays(conn: Connection) -> None:
    for _ in range(3):
        conn.add()
    before = catalog(conn)
    owned = owned_objects(conn)
    assert dict(owned.rows)["job_queue"] == 3
    assert dict(owned.rows)["job_runs"] == 0
    assert {"job_list", "job_audit_list"} <= set(owned.named("view"))
    assert "job_run_token_seq" in owned.named("sequence")
    assert catalog(conn) == before


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE VIEW mine.late AS SELECT id FROM public.job_queue", "view mine.late depends on"),
        ("CREATE TABLE mine.notes (job uuid REFERENCES public.job_queue)", "mine.notes"),
        ("CREATE TABLE mine.notes (at text DEFAULT public.job_actor('x'))", "mine.notes"),
    ],
)
def test_another_schemas_object_that_depends_on_one_is_named_and_nothing_removed(
    conn: Connection, statement: str, named: str
) -> None:
    conn.execute("CREATE SCHEMA mine")
    conn.execute(statement)
    before = catalog(conn)
    with pytest.raises(Refused, match=named) as error:
        drop_schema(conn)
    assert str(error.value).startswith("Nothing was removed: ")
    assert catalog(conn) == before


def test_tables_that_were_there_before_stay_with_their_rows(empty_database_url: str) -> None:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE job_queue_settings (id integer PRIMARY KEY, paused_reason text, "
            "processing_enabled boolean NOT NULL DEFAULT true, updated_at timestamptz NOT NULL DEFAULT now())"
        )
        conn.execute("INSERT INTO job_queue_settings (id) VALUES (1)")
        install_schema(conn)
        install_schema(conn)
        owned = drop_schema(conn)
        assert owned.left == ("job_queue_settings",)
        assert conn.execute("SELECT id FROM job_queue_settings").fetchall() == [(1,)]
        assert conn.execute("SELECT to_regclass('job_queue')").fetchone() == (None,)


def test_without_a_schema_or_a_record_of_it_nothing_is_removed(empty_database_url: str) -> None:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        with pytest.raises(Refused, match=r"no Jobdeck schema. There is nothing to remove"):
            drop_schema(conn)
        with conn.transaction():
            conn.execute(components.schema_text())
        with pytest.raises(Refused, match=r"no record of what was installed.*Run `jobdeck init`"):
            drop_schema(conn)
        assert installed_version(conn) is not None


def test_a_session_that_uses_the_tables_ends_it(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.schema.drop.LOCK_SECONDS", 1)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue")
        with pytest.raises(Refused, match="Nothing was removed: another session"):
            drop_schema(conn)
    assert installed_version(conn) is not None
