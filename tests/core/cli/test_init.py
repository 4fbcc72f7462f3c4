"""`init`, `drop`, and what `doctor` says of the schema."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest

from jobdeck.core.postgres.binaries import server_account
from jobdeck.core.postgres.embedded import EmbeddedPostgres
from jobdeck.core.schema import components, schema_version
from tests.core.cli.support import Jobdeck, everything, ran_alone, started
from tests.support.catalog import catalog
from tests.support.postgres import PostgresServer, scratch_folder
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE
from tests.upgrade.versions import become_next_version

NEEDED = schema_version()
NO_ADDRESS = "DATABASE_URL is not set: this is the embedded database of this account.\n"
LOCKS = """
SELECT DISTINCT l.mode FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'public'::regnamespace
"""


def finding(jobdeck: Jobdeck, signal: str) -> tuple[str, str]:
    """The verdict and the evidence of one signal."""
    found = {entry["signal"]: entry for entry in jobdeck("doctor", "--json").data["findings"]}
    return found[signal]["verdict"], found[signal]["evidence"]


@pytest.mark.installation
def test_a_dry_run_says_what_an_upgrade_would_do_and_does_nothing(
    jobdeck: Jobdeck, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_next_version(tmp_path / "schema", monkeypatch)
    before = catalog(conn), everything(conn)
    said = jobdeck("init", "--dry-run").out
    assert f"would be upgraded from version {NEEDED} to {NEEDED + 1}" in said
    assert "Migrations to run: 901 column, 902 values, 903 function" in said
    assert (catalog(conn), everything(conn)) == before
    done = jobdeck("init").out
    assert f"was upgraded from version {NEEDED} to {NEEDED + 1}" in done
    assert "Migrations run: 901 column, 902 values, 903 function" in done


@pytest.mark.slow
def test_init_and_status_name_the_schema_that_they_work_in(jobdeck: Jobdeck) -> None:
    assert jobdeck("init").out.startswith("Schema public of ")
    assert jobdeck("init", "--schema", "elsewhere", "--dry-run").out.startswith("Schema elsewhere of ")
    assert "schema        public\n" in jobdeck("status").out
    assert jobdeck("status", "--json").data["schema"] == "public"


def test_init_says_what_to_set_where_other_programs_would_look_elsewhere(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = os.environ["DATABASE_URL"]
    assert "Set " not in jobdeck("init", "--dry-run").out
    monkeypatch.setenv("JOBDECK_SCHEMA", "shop")
    assert jobdeck("init", "--schema", "mail", "--dry-run").out.splitlines()[-1] == (
        "Set JOBDECK_SCHEMA=mail for all programs that use this queue. As this one is configured, they look in shop."
    )
    assert "DATABASE_URL" not in jobdeck("init", "--database-url", address, "--schema", "shop", "--dry-run").out
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/other")
    assert jobdeck("init", "--database-url", address, "--schema", "shop", "--dry-run").out.splitlines()[-1] == (
        "Set DATABASE_URL to the address of --database-url for all programs that use this queue."
    )


@pytest.mark.installation
def test_init_gives_the_jobs_that_are_there_their_keys(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'game_platform_sync' FROM generate_series(1, 3)")
    jobdeck("init", "--dry-run")
    assert conn.execute("SELECT count(*) FROM job_queue WHERE concurrency_key IS NULL").fetchone() == (3,)
    jobdeck("init")
    found = conn.execute("SELECT concurrency_key, in_line FROM job_queue ORDER BY in_line").fetchall()
    assert found == [("game_platform_sync", waits) for waits in (False, True, True)]


@pytest.mark.slow
def test_a_dry_run_waits_for_no_worker_and_holds_none_up(jobdeck: Jobdeck, conn: Connection, database_url: str) -> None:
    with conn.transaction():
        conn.add()
        assert jobdeck("init", "--dry-run").code == 0
    with Connection.connect(database_url) as own:
        from jobdeck.core.schema import known_components, plan_installation  # noqa: PLC0415 -- with its own connection

        plan_installation(own, known_components(), schema="public")
        assert own.execute(LOCKS).fetchall() in ([], [("AccessShareLock",)])


@pytest.mark.installation
def test_a_dry_run_refuses_what_init_refuses(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("ALTER FUNCTION job_queue_resume_due() COST 7")
    for arguments in ((), ("--dry-run",)):
        jobdeck("init", *arguments).refused(1, "function job_queue_resume_due()", "Nothing was changed", "--repair")
    said = jobdeck("init", "--dry-run", "--repair").out
    assert "Changed objects to overwrite: function job_queue_resume_due()" in said
    assert jobdeck("init", "--repair").code == 0
    assert finding(jobdeck, "objects")[0] == "ok"


@pytest.mark.slow
def test_doctor_names_the_objects_that_were_altered(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("DROP INDEX job_queue_held")
    conn.execute("CREATE INDEX job_queue_held ON job_queue (id)")
    assert jobdeck("doctor").code == 4
    verdict, evidence = finding(jobdeck, "objects")
    assert verdict == "critical"
    assert "index job_queue_held differs" in evidence


@pytest.mark.slow
def test_doctor_says_that_a_newer_schema_serves_this_program(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute(
        "INSERT INTO jobdeck_schema (version, serves_from) VALUES (%s, %s)",
        [NEEDED + 1, components.program_version()],
    )
    assert jobdeck("jobs").code == 0
    verdict, evidence = finding(jobdeck, "schema")
    assert verdict == "warning"
    assert f"newer than this program's {NEEDED}" in evidence
    jobdeck("init").refused(1, "newer", "Upgrade Jobdeck")


@pytest.mark.slow
def test_a_component_whose_plugin_is_not_named_is_noted_by_each_command_and_refused_by_init(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    conn.execute("INSERT INTO jobdeck_schema (component, version) VALUES ('raffle', 1)")
    words = "Add raffle to JOBDECK_PLUGINS. The database holds this plugin, and it is off in this program."
    ran = jobdeck("jobs")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == words
    verdict, evidence = finding(jobdeck, "schema")
    assert verdict == "warning"
    assert evidence == words
    jobdeck("init").refused(1, words, "Nothing was changed")


@pytest.mark.slow
def test_drop_lists_what_it_would_remove_and_removes_it_with_yes(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add()
    conn.execute("CREATE TABLE job_board (id int)")
    said = jobdeck("drop").out
    assert "table job_queue, 1 row\n" in said
    assert "table job_runs, 0 rows\n" in said
    assert "Nothing was removed" in said
    assert "job_board" not in said
    assert jobdeck("jobs").code == 0
    assert jobdeck("drop", "--yes", "--json").data["dropped"] is True
    jobdeck("jobs").refused(1, "jobdeck init")
    left = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()
    assert left == [("job_board",)]
    jobdeck("drop").refused(1, "nothing to remove")


@pytest.mark.slow
def test_it_prints_the_script_without_a_database_and_doctor_finds_the_same(
    jobdeck: Jobdeck, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = jobdeck("doctor", "--json").data["findings"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    said = jobdeck("init", "--print").out
    assert said.startswith(
        f"-- Schema version {NEEDED} of Jobdeck in the schema public, from a schema without the queue."
    )
    assert (
        said.count("-- ######## Script ") == said.count("-- ######## Script 1 of 1: the file (in one transaction)") == 1
    )
    (script,) = jobdeck("init", "--print", "--json").data["scripts"]
    assert (script["heading"], script["transaction"]) == ("the file", True)
    assert script["sql"].rstrip() in said
    with Connection.connect(empty_database_url) as conn:
        conn.execute(said)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert jobdeck("init", "--dry-run", "--json").data["version_before"] == NEEDED
    assert [entry["signal"] for entry in expected] == [
        entry["signal"] for entry in jobdeck("doctor", "--json").data["findings"]
    ]
    for signal in ("schema", "objects"):
        assert finding(jobdeck, signal) == next(
            (entry["verdict"], entry["evidence"]) for entry in expected if entry["signal"] == signal
        )
        assert finding(jobdeck, signal)[0] == "ok"


@pytest.mark.slow
def test_it_prints_one_script_for_each_transaction_of_an_upgrade(
    jobdeck: Jobdeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_next_version(tmp_path / "schema", monkeypatch)
    said = jobdeck("init", "--print", "--from", str(NEEDED)).out.splitlines()
    assert [
        line for line in said if line.startswith(("-- ########", "-- ==== before", "-- ==== on", "-- ==== after"))
    ] == [
        "-- ######## Script 1 of 5: before, while jobs run (in one transaction)",
        "-- ==== online: 902 values",
        "-- ######## Script 2 of 5: the file (in one transaction)",
        "-- ==== before: 901 column",
        "-- ######## Script 3 of 5: outside a transaction (each statement by itself)",
        "-- ######## Script 4 of 5: after, while jobs run (in one transaction)",
        "-- ==== online: 902 values",
        "-- ######## Script 5 of 5: after the last old worker has stopped (in one transaction)",
        "-- ==== after: 903 function",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--print", "--from", "5"), 1, "No script leads from schema version 5"),
        (("--print", "--from", "7"), 1, "No script leads from schema version 7"),
        (("--print", "--wait", "1m"), 2, "--wait makes no sense beside --print"),
        (("--dry-run", "--wait", "1m"), 2, "--wait makes no sense beside --dry-run"),
        (("--fresh", "--wait", "1m"), 2, "--wait makes no sense beside --fresh"),
        (("--wait", "soon"), 2, 'The duration of --wait "soon" is not a duration'),
        (("--wait", "0s"), 2, "is zero"),
        (("--wait", "-5m"), 2, "is not a duration"),
        (("--from", "6"), 2, "--from belongs to --print"),
        (("--print", "--repair"), 2, "--repair makes no sense beside --print"),
        (("--print", "--dry-run"), 2, "--dry-run makes no sense beside --print"),
        (("--print", "--fresh"), 2, "--fresh makes no sense beside --print"),
        (("--print", "--database-url", "postgresql:///x"), 2, "--database-url makes no sense beside --print"),
        (("--fresh", "--dry-run"), 2, "--dry-run makes no sense beside --fresh"),
        (("--fresh",), 2, "--fresh is for the embedded database, and DATABASE_URL names another one"),
    ],
)
def test_what_makes_no_sense_is_refused(jobdeck: Jobdeck, arguments: tuple[str, ...], code: int, words: str) -> None:
    jobdeck("init", *arguments).refused(code, words)


@pytest.mark.slow
def test_init_installs_nothing_while_a_job_runs_that_it_waits_for(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add()
    conn.claim_one()
    conn.execute("DROP FUNCTION job_actor CASCADE")
    ended = jobdeck("init", "--wait", "1s")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1] == (
        "jobdeck: 1 job runs after 1s, so nothing was installed. Pause the queue, so that no other job starts, and "
        "wait longer. Cancel a job whose runner has died."
    )
    assert conn.value("SELECT to_regproc('job_actor') IS NULL")


@pytest.mark.installation
def test_init_goes_on_when_the_last_job_that_it_waits_for_has_ended(conn: Connection, database_url: str) -> None:
    conn.add()
    claimed = conn.claim_one()
    with started("init", "--wait", "1h", DATABASE_URL=database_url) as waiting:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert "Waiting until no job runs: 1 job runs." in said
        assert waiting.poll() is None
        conn.finish_one(claimed)
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0
    assert "is up to date" in out


@pytest.mark.slow
def test_init_waits_for_no_job_where_there_is_no_queue(
    jobdeck: Jobdeck, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.create_database()
    monkeypatch.setenv("DATABASE_URL", postgres.url(name))
    assert "was installed" in jobdeck("init", "--wait", "1s").out
    postgres.drop_database(name)


@pytest.mark.slow
def test_a_script_with_a_plugin_that_is_not_there_is_refused() -> None:
    ran_alone("init", "--print", JOBDECK_PLUGINS="raffle").refused(1, "There is no plugin raffle")


@pytest.mark.slow
def test_the_embedded_database_of_an_older_program_is_set_aside_by_fresh(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scratch_folder(server_account())
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(folder / "state"))
    try:
        made = jobdeck("init")
        assert (made.code, made.err) == (0, NO_ADDRESS)
        with EmbeddedPostgres.open(folder / "state") as server, server.connect() as conn:
            conn.execute("UPDATE jobdeck_schema SET version = 5 WHERE component = 'queue'")
            for arguments in (("jobs",), ("init",)):
                jobdeck(*arguments).refused(
                    1, "schema version 5, from before 0.3.0", "`jobdeck init --fresh`", "data.old"
                )
            # The server is stopped under others, too.
            said = jobdeck("init", "--fresh")
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT")
        kept = folder / "state" / "data.old"
        assert f"its data is kept in {kept}" in said.err
        assert f"is up to date (version {NEEDED})" in said.out
        assert (kept / "PG_VERSION").exists()
        assert jobdeck("jobs").err == NO_ADDRESS
        jobdeck("init", "--fresh").refused(3, str(kept), "nothing was changed")
        assert jobdeck("jobs").code == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_begins_its_log_with_the_components_that_have_no_plugin_here(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    conn.execute("INSERT INTO jobdeck_schema (component, version) VALUES ('raffle', 1)")
    ran = jobdeck("worker", "--drain")
    assert ran.code == 0
    assert "Add raffle to JOBDECK_PLUGINS. The database holds this plugin" in ran.err.splitlines()[0]
