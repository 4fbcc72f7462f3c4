"""An upgrade to the next version of the schema keeps rows and running workers. No version was released before 0.3.0."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from jobdeck.core.errors import SchemaMismatch
from jobdeck.core.queue import operator
from jobdeck.core.schema import check_schema, examine, install_schema, schema_text
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE
from tests.upgrade.versions import (
    VERSION,
    WORKER,
    RunningWorker,
    all_rows,
    become_next_version,
    claim,
    create,
    fill,
    finish,
    lost_rows,
)

pytestmark = pytest.mark.installation

JOBS = 200


@pytest.fixture
def upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Connection], int]:
    """Installs the next version over what is there."""

    def install(conn: Connection) -> int:
        become_next_version(tmp_path / "schema", monkeypatch)
        return install_schema(conn)

    return install


@pytest.fixture
def earlier(conn: Connection) -> Connection:
    """A database of this version, with a function that the next one drops once no older worker is left."""
    conn.execute("CREATE FUNCTION job_of_before() RETURNS void LANGUAGE sql AS 'SELECT'")
    return conn


def test_an_upgraded_database_is_dumped_as_a_fresh_one_and_has_kept_its_rows(
    earlier: Connection, upgrade: Callable[[Connection], int], postgres: PostgresServer
) -> None:
    made = fill(earlier)
    before = all_rows(earlier)
    assert upgrade(earlier) == VERSION + 1
    check_schema(earlier)
    assert list(lost_rows(before, all_rows(earlier))) == []
    assert len({str(job) for job in made.values()}) == 15
    assert earlier.value("SELECT raised_by FROM job_alarms") == "nobody"
    # What workers of before call goes with the next installation after they have ended.
    assert examine(earlier).waiting == (f"903 function waits for {WORKER}",)
    earlier.execute("DELETE FROM job_workers")
    install_schema(earlier)
    name = postgres.create_database()
    with postgres.connect(name) as fresh:
        install_schema(fresh)
    expected, found = (postgres.dump(database).splitlines() for database in (name, earlier.info.dbname))
    postgres.drop_database(name)
    assert list(difflib.unified_diff(expected, found, "fresh", "upgraded", lineterm="", n=2)) == []


def test_jobs_of_before_go_on_in_every_state(earlier: Connection, upgrade: Callable[[Connection], int]) -> None:
    made = fill(earlier)
    token = earlier.value("SELECT run_token FROM job_queue WHERE id = %s", made["running"])
    upgrade(earlier)
    assert examine(earlier).altered == ()
    finish(earlier, made["running"], token)
    assert [str(claimed.id) for claimed in earlier.claim(["blocked"])] == [str(made["blocked"])]
    assert len(earlier.claim(["keyed"], limit=5)) == 1
    assert [str(claimed.id) for claimed in earlier.claim(["pending"])] == [str(made["pending"])]
    assert all(answer.ok for answer in operator.retry(earlier, [made["failed"]], actor="mara@local"))
    assert all(answer.ok for answer in operator.restore(earlier, [made["deleted"]], actor="mara@local"))


def test_a_worker_of_before_goes_on_through_the_upgrade_and_loses_no_job(
    earlier: Connection, upgrade: Callable[[Connection], int], database_url: str
) -> None:
    wanted = {create(earlier, "flow") for _ in range(JOBS)}
    with RunningWorker(database_url, "flow") as worker:
        worker.wait_for(10)
        upgrade(earlier)
        worker.wait_for(JOBS)
    assert sorted(worker.finished) == sorted(wanted)
    runs = "SELECT count(*), count(DISTINCT job_id) FROM job_runs WHERE task_type = 'flow' AND outcome = 'succeeded'"
    assert earlier.execute(runs).fetchone() == (JOBS, JOBS)


def test_the_queue_goes_on_while_an_online_migration_waits_for_a_row(
    earlier: Connection, upgrade: Callable[[Connection], int], database_url: str
) -> None:
    earlier.execute("INSERT INTO job_alarms (name) VALUES ('stalled')")
    earlier.execute("ALTER TABLE job_alarms ADD COLUMN raised_by text")
    free = create(earlier, "free")
    with (
        Connection.connect(database_url) as editor,
        Connection.connect(database_url, autocommit=True) as installer,
    ):
        editor.execute("SELECT FROM job_alarms FOR UPDATE")
        installation = threading.Thread(target=upgrade, args=(installer,))
        installation.start()
        earlier.until_blocked(installer.info.backend_pid)
        earlier.execute("SET lock_timeout = '5s'")
        assert [job for job, _ in claim(earlier, "free")] == [free]
        editor.rollback()
        installation.join(PATIENCE)
    assert examine(earlier).altered == ()


def test_a_program_that_the_next_version_does_not_serve_asks_to_be_upgraded(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        become_next_version(tmp_path / "schema", patch, serves="99.0")
        install_schema(conn)
    before = all_rows(conn)
    for refused in (check_schema, install_schema):
        with pytest.raises(
            SchemaMismatch, match=f"has schema version {VERSION + 1}, newer than this program's {VERSION}"
        ):
            refused(conn)
    assert all_rows(conn) == before


@pytest.fixture(params=range(1, VERSION))
def unreleased(request: pytest.FixtureRequest, conn: Connection) -> Connection:
    """A database that says that it has a version from before the first release."""
    if request.param == 1:
        # The earliest tables of versions had no components.
        conn.execute("DROP TABLE jobdeck_schema")
        conn.execute("CREATE TABLE jobdeck_schema (version integer PRIMARY KEY, installed_at timestamptz)")
        conn.execute("INSERT INTO jobdeck_schema VALUES (1, now())")
    else:
        conn.execute("UPDATE jobdeck_schema SET version = %s WHERE component = 'queue'", (request.param,))
    return conn


def test_a_schema_from_before_the_first_release_is_refused_by_programs_and_by_init_and_stays(
    unreleased: Connection,
) -> None:
    before = all_rows(unreleased)
    for refused in (check_schema, install_schema):
        with pytest.raises(
            SchemaMismatch, match=r"from before 0\.3\.0, the first release, and nothing upgrades that\."
        ):
            refused(unreleased)
    with pytest.raises(psycopg.Error, match=r"from before 0\.3\.0, the first release"), unreleased.transaction():
        unreleased.execute(schema_text())
    assert all_rows(unreleased) == before
