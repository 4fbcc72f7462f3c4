"""Which schemas a program works on, and what an installation refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.errors import Refused, SchemaMismatch
from jobdeck.core.plugins import Plugin, use_plugins
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.schema import check_schema, checksums, components, examine, install_schema, is_current
from jobdeck.core.schema.catalog import declared
from jobdeck.core.schema.components import known_components, queue_component, release, schema_version
from tests.support.catalog import catalog
from tests.support.queue import Connection

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.installation

NEEDED = schema_version()
OTHER_VIEW = "SELECT id, at, actor, action, job_id, before, after, reason FROM job_audit WHERE false"


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    """A connection to a database that holds nothing."""
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def queue_alone() -> Iterator[None]:
    """Without plugins."""
    with use_plugins():
        yield


def newer(conn: Connection, serves_from: str | None) -> None:
    """Makes the schema one of a later program."""
    conn.execute("INSERT INTO jobdeck_schema (version, serves_from) VALUES (%s, %s)", [NEEDED + 1, serves_from])


def plugin(folder: Path, text: str = "create table if not exists extra_things (id int primary key);") -> Plugin:
    """A component of its own."""
    (folder / "extra.sql").write_text(text)
    return Plugin(name="extra", version=3, sql=(folder / "extra.sql",))


def refusal(conn: Connection, **options: Any) -> str:
    """What an installation is refused with; it has changed nothing."""
    before = catalog(conn), conn.execute("SELECT to_jsonb(s) FROM jobdeck_schema AS s").fetchall()
    with pytest.raises((Refused, SchemaMismatch)) as error:
        install_schema(conn, **options)
    assert (catalog(conn), conn.execute("SELECT to_jsonb(s) FROM jobdeck_schema AS s").fetchall()) == before
    said = str(error.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def test_a_newer_schema_that_serves_this_program_is_worked_on_and_examined_as_newer(conn: Connection) -> None:
    newer(conn, components.program_version())
    check_schema(conn)
    assert is_current(conn)
    assert examine(conn).newer == ("queue",)
    assert "Upgrade Jobdeck" in refusal(conn)


@pytest.mark.parametrize("serves_from", ["999.0", None])
def test_a_newer_schema_that_does_not_serve_this_program_asks_for_an_upgrade(
    conn: Connection, serves_from: str | None
) -> None:
    newer(conn, serves_from)
    with pytest.raises(SchemaMismatch, match=f"version {NEEDED + 1}, newer than this program's {NEEDED}. Upgrade"):
        check_schema(conn)


@pytest.mark.parametrize(
    ("older", "later"), [("0.2.0", "0.10.0"), ("0.2", "0.2.1"), ("0.2.0rc1", "0.2.1"), ("unknown", "0.1.0")]
)
def test_releases_are_compared_number_by_number(older: str, later: str) -> None:
    assert release(older) < release(later)


def test_a_table_of_versions_without_any_is_a_part_of_a_schema_that_init_completes(empty: Connection) -> None:
    empty.execute(
        "CREATE TABLE jobdeck_schema (component text DEFAULT 'queue', version integer, "
        "installed_at timestamptz NOT NULL DEFAULT now(), checksum text, catalog jsonb, serves_from text, "
        "migrations integer[], PRIMARY KEY (component, version))"
    )
    with pytest.raises(SchemaMismatch, match=r"holds a part of a Jobdeck schema.*Run `jobdeck init` to complete it"):
        check_schema(empty)
    install_schema(empty)
    check_schema(empty)


@pytest.mark.usefixtures("queue_alone")
def test_a_program_that_looks_in_the_wrong_schema_gets_the_name_of_the_right_one(empty: Connection) -> None:
    empty.execute("CREATE SCHEMA a_queue")
    use_schema(empty, "a_queue")
    install_schema(empty, schema="a_queue")
    use_schema(empty, "public")
    with pytest.raises(SchemaMismatch, match=r"but one in a_queue\. Set JOBDECK_SCHEMA to that name, or run") as caught:
        check_schema(empty)
    assert "holds no Jobdeck schema where this program looks" in str(caught.value)


def without_grants(found: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """An installation grants rights to the group roles that the cluster has by then; other tests make them."""
    return {key: text for key, text in found.items() if "grant" not in key[0]}


def test_what_is_missing_of_a_schema_is_made_again(conn: Connection) -> None:
    before = catalog(conn)
    conn.execute("DROP INDEX job_queue_claimable")
    conn.execute("DROP FUNCTION job_queue_next_due(text[])")
    conn.execute("DROP VIEW job_audit_list")
    assert len(examine(conn).altered) == 3
    install_schema(conn)
    assert examine(conn).altered == ()
    assert without_grants(catalog(conn)) == without_grants(before)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("DROP INDEX job_queue_held; CREATE INDEX job_queue_held ON job_queue (id)", "index job_queue_held"),
        ("ALTER FUNCTION job_queue_resume_due() COST 7", "function job_queue_resume_due()"),
        ("CREATE OR REPLACE VIEW job_audit_list AS " + OTHER_VIEW, "view job_audit_list"),
        ("ALTER TABLE job_queue DISABLE TRIGGER job_queue_inserted", "trigger job_queue.job_queue_inserted"),
    ],
)  # fmt: skip
def test_an_object_altered_by_hand_is_named_and_put_back_only_where_asked(
    conn: Connection, statement: str, named: str
) -> None:
    assert examine(conn).altered == ()
    before = catalog(conn)
    for part in statement.split("; "):
        conn.execute(part)
    assert examine(conn).altered == (f"{named} differs",)
    said = refusal(conn)
    assert f"the {named} differs" in said
    assert "`jobdeck init --repair`" in said
    install_schema(conn, repair=True)
    assert examine(conn).altered == ()
    assert without_grants(catalog(conn)) == without_grants(before)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE job_workers ALTER pid TYPE bigint", ("column job_workers.pid", "integer", "bigint")),
        ("ALTER TABLE job_bulk DROP CONSTRAINT job_bulk_state_check", ("job_bulk_state_check", "is gone")),
        ("ALTER TABLE job_bulk DROP COLUMN trouble", ("column job_bulk.trouble", "is gone", "text")),
    ],
)  # fmt: skip
def test_what_only_a_person_can_put_back_is_named_with_what_it_was(
    conn: Connection, statement: str, words: tuple[str, ...]
) -> None:
    conn.execute("DROP VIEW job_list, job_trash_list CASCADE")
    install_schema(conn)
    conn.execute("DROP VIEW job_list, job_trash_list CASCADE")
    conn.execute(statement)
    for options in ({}, {"repair": True}):
        said = refusal(conn, **options)
        for word in (*words, "ALTER TABLE"):
            assert word in said


def test_an_applications_own_objects_are_none_of_ours(conn: Connection) -> None:
    conn.execute("CREATE INDEX reports_of_mine ON job_queue (created_at)")
    conn.execute("CREATE FUNCTION job_actor(text, integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    conn.execute("CREATE TABLE job_board (id int)")
    install_schema(conn)
    conn.execute("DROP INDEX reports_of_mine")
    conn.execute("ALTER FUNCTION job_actor(text, integer) COST 7")
    assert examine(conn).altered == ()


def test_a_component_of_a_plugin_is_checked_and_its_lack_named(conn: Connection, tmp_path: Path) -> None:
    loaded = (*known_components(), plugin(tmp_path))
    with pytest.raises(SchemaMismatch, match=r"lacks the component extra. Run `jobdeck init`"):
        check_schema(conn, loaded)
    install_schema(conn, components=loaded)
    check_schema(conn, loaded)
    with pytest.raises(SchemaMismatch, match="has version 3 of the component extra, and this program needs 4"):
        check_schema(conn, (*known_components(), replace(plugin(tmp_path), version=4)))


def test_commands_go_on_without_a_components_plugin_and_an_installation_names_the_setting(
    conn: Connection, tmp_path: Path
) -> None:
    install_schema(conn, components=(*known_components(), plugin(tmp_path)))
    check_schema(conn)
    assert examine(conn).unloaded == ("extra",)
    assert "Add extra to JOBDECK_PLUGINS" in refusal(conn)


@pytest.mark.usefixtures("queue_alone")
def test_a_second_installation_replaces_functions_and_drops_none_because_a_call_may_be_running(
    empty: Connection,
) -> None:
    functions = "SELECT oid::regprocedure::text, oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    install_schema(empty)
    before = empty.execute(functions).fetchall()
    assert len(before) > 90
    install_schema(empty)
    assert sorted(empty.execute(functions).fetchall()) == sorted(before)


@pytest.mark.usefixtures("queue_alone")
def test_what_psql_installed_is_unrecorded_until_init_has_run(empty: Connection) -> None:
    with empty.transaction():
        empty.execute(components.schema_text())
    check_schema(empty)
    assert examine(empty).unrecorded == ("queue",)
    assert not is_current(empty)
    install_schema(empty)
    assert examine(empty).unrecorded == ()
    assert is_current(empty)


def test_sql_of_this_version_that_is_not_this_programs_is_noticed(conn: Connection) -> None:
    conn.execute("UPDATE jobdeck_schema SET checksum = 'of an earlier day'")
    check_schema(conn)
    assert examine(conn).edited == tuple(component.name for component in known_components())
    assert not is_current(conn)


def test_something_of_the_application_in_the_way_is_named_and_stays(empty: Connection) -> None:
    empty.execute("CREATE VIEW job_audit AS SELECT 1 AS one")
    with pytest.raises(Refused, match="job_audit") as error:
        install_schema(empty)
    assert "Nothing was installed" in str(error.value)
    assert empty.execute("SELECT one FROM job_audit").fetchall() == [(1,)]
    assert empty.execute("SELECT to_regclass('job_queue')").fetchone() == (None,)


def test_a_session_that_holds_the_tables_ends_the_installation_and_no_worker(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.schema.install.LOCK_SECONDS", 1)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue")
        assert "another session has held" in refusal(conn)
        other.execute("SELECT FROM job_runs")


def test_what_others_were_granted_and_built_on_it_is_kept(conn: Connection) -> None:
    role = f"stranger_{conn.info.backend_pid}"
    conn.execute(f"CREATE ROLE {role}".encode())
    try:
        for grant in ("SELECT ON job_list", "EXECUTE ON FUNCTION job_queue_enqueue", "SELECT ON job_queue"):
            conn.execute(f"GRANT {grant} TO {role}".encode())
        conn.execute("CREATE VIEW waiting AS SELECT id, task_type FROM job_list WHERE status = 'pending'")
        conn.execute(f"GRANT SELECT ON waiting TO {role}".encode())
        install_schema(conn)
        held = conn.execute(
            """
            SELECT has_table_privilege(%(role)s, 'job_list', 'select'),
                has_table_privilege(%(role)s, 'waiting', 'select'),
                has_table_privilege(%(role)s, 'job_queue', 'select'), (
                    SELECT bool_and(has_function_privilege(%(role)s, oid, 'execute')) FROM pg_proc
                    WHERE proname = 'job_queue_enqueue')
            """,
            {"role": role},
        ).fetchone()
        assert held == (True, True, True, True)
    finally:
        conn.execute(f"DROP OWNED BY {role}".encode())
        conn.execute(f"DROP ROLE {role}".encode())


class TestChecksums:
    def test_the_file_at_the_top_lists_the_parts_that_the_installer_runs_and_the_folder_holds_no_others(self) -> None:
        top = (ROOT / "schema.sql").read_text(encoding="utf-8")
        listed = re.findall(r"^\\ir core/schema/sql/(.*)$", top, re.MULTILINE)
        assert listed == [file.name for file in components.schema_files()]
        assert listed == sorted(file.name for file in (ROOT / "core/schema/sql").iterdir())
        assert top.splitlines()[:2] == components.schema_text().splitlines()[:2]

    @pytest.mark.parametrize("odd", ["missing", "unlisted"])
    def test_an_installation_with_a_part_too_few_or_too_many_is_refused(
        self, odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(ROOT / "core/schema", tmp_path / "schema")
        parts = tmp_path / "schema/sql"
        name = max(file.name for file in parts.iterdir()) if odd == "missing" else "99_more.sql"
        (parts / name).unlink() if odd == "missing" else (parts / name).touch()
        monkeypatch.setattr(components, "sql_folder", lambda: tmp_path / "schema")
        with pytest.raises(SchemaMismatch, match=f", {name}. Install Jobdeck again"):
            components.queue_component()

    def test_the_sql_of_each_component_is_the_one_recorded_for_its_version(self) -> None:
        """Where this fails: raise the version, then run `python -m jobdeck.core.schema.checksums`."""
        recorded = checksums.recorded()
        assert {component.name: recorded.get(component.name) for component in known_components()} == {
            component.name: (component.version, components.checksum(component)) for component in known_components()
        }

    def test_the_list_of_functions_has_those_of_all_parts(self) -> None:
        """Where this fails: run `python -m jobdeck.core.schema.checksums`."""
        folder = ROOT / "core/schema/sql"
        assert (folder / checksums.FUNCTIONS).read_text(encoding="utf-8") == checksums.list_of_functions(folder)

    def test_changed_sql_of_the_same_version_is_not_recorded(self, tmp_path: Path) -> None:
        first = checksums.refreshed({}, [plugin(tmp_path)])
        assert checksums.refreshed(first, [plugin(tmp_path)]) == first
        changed = plugin(tmp_path, "create table if not exists extra_things (id bigint primary key);")
        with pytest.raises(Refused, match="extra has changed and its version is still 3"):
            checksums.refreshed(first, [changed])
        assert checksums.refreshed(first, [replace(changed, version=4)])["extra"][0] == 4

    def test_the_first_line_of_the_schema_and_its_statement_name_one_version(self) -> None:
        text = components.schema_text()
        assert f"\ninsert into jobdeck_schema (version) values ({NEEDED}) on conflict" in text


def test_the_list_of_functions_names_every_function_of_the_queue_and_none_of_the_applications(
    empty: Connection,
) -> None:
    mine = "CREATE FUNCTION job_lock_slot(a integer, b integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'"
    empty.execute(f"{mine}; CREATE FUNCTION job_mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'".encode())
    install_schema(empty, components=(queue_component(),))
    owned = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    listed = {name for (name,) in empty.execute("SELECT function::text FROM job_own_functions()")}
    assert {name for (name,) in empty.execute(owned.encode())} - listed == {
        "job_lock_slot(integer,integer)",
        "job_mine()",
    }
    rights = (
        "SELECT proacl, proconfig FROM pg_proc WHERE proname = 'job_mine' OR proname = 'job_lock_slot' AND pronargs = 2"
    )
    assert set(empty.execute(rights.encode()).fetchall()) == {(None, None)}


def test_the_sql_of_a_component_is_searched_once_however_often_an_installation_asks_for_its_names() -> None:
    assert declared(queue_component()) is declared(queue_component())
