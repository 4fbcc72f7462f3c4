"""The schema as scripts: what they make is what an installation makes, through psql and through a driver."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from jobdeck.core.errors import Refused
from jobdeck.core.plugins import load_plugins, use_plugins
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.schema import (
    Script,
    examine,
    install_schema,
    is_current,
    known_components,
    schema_version,
    scripts,
)
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection, Row
from tests.upgrade.versions import WORKER, become_next_version, fill

pytestmark = pytest.mark.installation

NEEDED = schema_version()
SHOWN = "SELECT current_setting(name) FROM unnest(ARRAY['search_path', 'TimeZone', 'lock_timeout']) AS name"

Run = Callable[[str, Sequence[Script]], None]


def by_psql(url: str, made: Sequence[Script]) -> None:
    """Runs each script with psql."""
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    for script in made:
        command = [
            psql,
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            *(["-1"] if script.together else []),
            "-d",
            url,
            "-f",
            "-",
        ]
        ran = subprocess.run(command, input=script.text, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{script.heading}: {ran.stderr}"


def by_driver(url: str, made: Sequence[Script]) -> None:
    """Runs each script within a transaction of the caller, whose settings it leaves as they were."""
    with Connection.connect(url, autocommit=True) as conn:
        for script in made:
            if not script.together:
                for statement in script.text.split(";\n"):
                    conn.execute(statement)
                continue
            with conn.transaction():
                before = conn.execute(SHOWN).fetchall()
                conn.execute(script.text)
                assert conn.execute(SHOWN).fetchall() == before


def by_sqlalchemy(url: str, made: Sequence[Script]) -> None:
    """Runs each script as a text of SQLAlchemy, which is what `op.execute` of Alembic does."""
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as conn:
        for script in made:
            with conn.begin():
                conn.execute(sqlalchemy.text(script.text))
    engine.dispose()


@pytest.fixture(params=[by_psql, by_driver])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture
def pair(postgres: PostgresServer) -> Iterator[tuple[str, str]]:
    """Two empty databases."""
    names = postgres.create_database(), postgres.create_database()
    yield names
    for name in names:
        postgres.drop_database(name)


def held(conn: Connection, schema: str) -> list[Row]:
    """What `jobdeck_schema` says, with the catalogs."""
    use_schema(conn, schema)
    return conn.execute("SELECT to_jsonb(s) - 'installed_at' FROM jobdeck_schema AS s ORDER BY 1").fetchall()


def assert_same(postgres: PostgresServer, pair: tuple[str, str], schema: str = "public") -> None:
    """Both databases have the same objects, records and findings."""
    expected, found = (postgres.dump(name).splitlines() for name in pair)
    assert list(difflib.unified_diff(expected, found, "init", "scripts", lineterm="", n=2)) == []
    with postgres.connect(pair[0]) as installed, postgres.connect(pair[1]) as printed:
        assert held(installed, schema) == held(printed, schema)
        assert is_current(printed)
        assert examine(printed) == examine(installed)
        assert (examine(printed).unrecorded, examine(printed).altered) == ((), ())


@pytest.mark.parametrize(
    ("schema", "competition", "roles", "prefix"),
    [
        pytest.param("public", False, False, None, id="fresh"),
        pytest.param("a_queue", False, False, None, id="in a schema of its own"),
        pytest.param("public", False, True, "printed_", id="with roles"),
        pytest.param("public", True, False, None, id="with the competition"),
    ],
)
def test_a_new_database_is_as_init_makes_it(
    postgres: PostgresServer,
    pair: tuple[str, str],
    run: Run,
    schema: str,
    competition: bool,
    roles: bool,
    prefix: str | None,
) -> None:
    with use_plugins(*(load_plugins() if competition else ())):
        made = scripts(known_components(), schema=schema, roles=roles, roles_prefix=prefix)
        assert [script.heading for script in made] == ["the file"]
        run(postgres.url(pair[1]), made)
        with postgres.connect(pair[0]) as conn:
            install_schema(conn, schema=schema, roles=roles, roles_prefix=prefix)
        # Other tests may have made roles of the usual names on this server.
        assert ("TO printed_viewer" in postgres.dump(pair[1])) == roles
        assert_same(postgres, pair, schema)


def test_a_migration_of_alembic_can_hold_the_script(postgres: PostgresServer, pair: tuple[str, str]) -> None:
    with postgres.connect(pair[0]) as conn:
        install_schema(conn)
    by_sqlalchemy(postgres.url(pair[1]), scripts(known_components(), schema="public"))
    assert_same(postgres, pair)


def test_a_database_of_before_is_upgraded_as_init_does_it(
    postgres: PostgresServer, pair: tuple[str, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in pair:
        with postgres.connect(name) as conn:
            install_schema(conn)
            conn.execute("CREATE FUNCTION job_of_before() RETURNS void LANGUAGE sql AS 'SELECT'")
            fill(conn)
    become_next_version(tmp_path / "schema", monkeypatch)
    with postgres.connect(pair[0]) as conn:
        install_schema(conn)
    made = scripts(known_components(), schema="public", version=NEEDED)
    assert [script.heading for script in made] == [
        "before, while jobs run",
        "the file",
        "outside a transaction",
        "after, while jobs run",
        "after the last old worker has stopped",
    ]
    run(postgres.url(pair[1]), made[:-1])
    with postgres.connect(pair[1]) as conn:
        assert examine(conn).waiting == (f"903 function waits for {WORKER}",)
        assert conn.execute("SELECT raised_by FROM job_alarms").fetchall() == [("nobody",)]
    assert_same(postgres, pair)
    for name in pair:
        with postgres.connect(name) as conn:
            conn.execute("DELETE FROM job_workers")
    with postgres.connect(pair[0]) as conn:
        install_schema(conn)
    run(postgres.url(pair[1]), made[-1:])
    assert_same(postgres, pair)


def test_tables_that_were_there_before_are_recorded_as_such(
    postgres: PostgresServer, pair: tuple[str, str], run: Run
) -> None:
    with use_plugins():
        for name in pair:
            with postgres.connect(name) as conn:
                conn.execute(
                    "CREATE TABLE job_queue_settings (id integer PRIMARY KEY, processing_enabled boolean DEFAULT true, "
                    "paused_reason text, updated_at timestamptz, own text, CONSTRAINT job_queue_settings_own_check "
                    "CHECK (own <> ''))"
                )
        with postgres.connect(pair[0]) as conn:
            install_schema(conn)
        run(postgres.url(pair[1]), scripts(known_components(), schema="public"))
        assert_same(postgres, pair)
        with postgres.connect(pair[1]) as conn:
            record = conn.value("SELECT catalog FROM jobdeck_schema")
        assert record["adopted"] == ["job_queue_settings"]
        assert "constraint job_queue_settings.job_queue_settings_own_check" not in record["objects"]


def test_a_script_is_plain_sql_and_names_what_it_holds() -> None:
    (script,) = scripts(known_components(), schema="public")
    assert [line for line in script.text.splitlines() if line.startswith("\\")] == []
    headings = [line.removeprefix("-- ==== ") for line in script.text.splitlines() if line.startswith("-- ==== ")]
    assert headings[1:4] == [
        "the plugin competition, before the file: adoption.sql",
        "the plugin competition, before the file: predecessor.sql",
        "the file: 01_namespace.sql",
    ]
    assert headings[-2:] == ["the schema again", "rights"]


def test_a_script_for_another_version_or_without_a_transaction_changes_nothing(conn: Connection) -> None:
    fresh = scripts(known_components(), schema="public")[0].text
    upgrade = scripts(known_components(), schema="public", version=NEEDED)[0].text
    with (
        pytest.raises(psycopg.Error, match=f"public has version {NEEDED} of the queue, .* for a schema without it"),
        conn.transaction(),
    ):
        conn.execute(fresh)
    beginning, _, rest = upgrade.partition("DO ")
    conn.execute(beginning)
    with pytest.raises(psycopg.Error, match="Run this script in one transaction"):
        conn.execute(f"DO {rest.partition('SELECT set_config')[0]}")
    with use_plugins():
        alone = scripts(known_components(), schema="public", version=NEEDED)[0].text
    with pytest.raises(psycopg.Error, match="has the component competition, whose plugin"), conn.transaction():
        conn.execute(alone)
    with pytest.raises(psycopg.Error, match="has no queue, and this script is for version"), conn.transaction():
        conn.execute(scripts(known_components(), schema="elsewhere", version=NEEDED)[0].text)
    assert conn.execute("SELECT to_regnamespace('elsewhere')").fetchone() == (None,)


@pytest.mark.parametrize("version", [0, 1, NEEDED - 1, NEEDED + 1])
def test_no_script_leads_from_a_version_that_this_program_does_not_know(version: int) -> None:
    with pytest.raises(Refused, match=f"No script leads from schema version {version} to {NEEDED}"):
        scripts(known_components(), schema="public", version=version)
