"""The fixtures, in test runs of applications."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from jobdeck.core.postgres.throwaway import address_of
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[3]

CONFTEST = """
import psycopg
import pytest

pytest_plugins = ["jobdeck.testing.fixtures"]
left_open = []


@pytest.fixture(scope="session")
def jobdeck_prepare():
    def prepare(address):
        conn = psycopg.connect(address, autocommit=True)
        conn.execute("create table public.orders (number integer)")
        left_open.append(conn)

    return prepare
"""
SHOP = """
import jobdeck


@jobdeck.job("ship")
def ship(params, ctx):
    if ctx.db.execute("select 1 from public.orders").fetchone() is None:
        raise LookupError("there is nothing to ship")
"""
TESTS = """
import jobdeck
import psycopg
import pytest
from jobdeck.testing import assert_enqueued, drain, refute_enqueued

import shop

left_open = []


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_its_own_database(jobdeck_connection, jobdeck_database, turn):
    left_open.append(psycopg.connect(jobdeck_database))
    left_open[-1].execute("select 1")
    refute_enqueued(jobdeck_connection, "ship")
    jobdeck_connection.execute("insert into public.orders select 1 where not exists (select from public.orders)")
    jobdeck.enqueue(jobdeck_connection, "ship")
    assert_enqueued(jobdeck_database, "ship", count=1)
    assert [run.outcome for run in drain(jobdeck_database)] == ["succeeded"]
    jobdeck.enqueue(jobdeck_connection, "ship")
    assert jobdeck_connection.execute("select nspname || ' ' || current_user from pg_class as c "
        "join pg_namespace as n on n.oid = relnamespace where relname = 'job_queue'").fetchone()[0].startswith("jobs ")


def test_a_failing_handler_is_shown(jobdeck_connection):
    jobdeck.enqueue(jobdeck_connection, "ship")
    drain(jobdeck_connection, raise_errors=True)


def test_a_missing_job_is_shown(jobdeck_connection):
    assert_enqueued(jobdeck_connection, "ship")
"""


def pytest_of(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests of an application in a process of their own."""
    return subprocess.run(
        command(*words), cwd=folder, env=environ(folder, environment), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=PATIENCE * 2,
    )  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *words]


def environ(folder: Path, changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder), "JOBDECK_PLUGINS": "", **changes}


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def made_databases(postgres: PostgresServer) -> int:
    with postgres.connect() as admin:
        return int(admin.value("SELECT count(*) FROM pg_database WHERE starts_with(datname, 'jobdeck_test_')"))


def examples(page: str) -> dict[str, str]:
    """The files that a page shows, each with its name in the first line."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", text, re.DOTALL))


@pytest.mark.slow
def test_the_example_of_the_page_works_as_it_is_printed(tmp_path: Path, postgres: PostgresServer) -> None:
    files = examples("testing.md")
    assert sorted(files) == ["billing", "conftest", "test_billing"]
    ran = pytest_of(written(tmp_path, **files), JOBDECK_TEST_DATABASE_URL=postgres.url())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 passed" in ran.stdout
    assert made_databases(postgres) == 0


@pytest.mark.slow
def test_an_application_tests_its_jobs_in_databases_of_their_own(
    tmp_path: Path, postgres: PostgresServer, empty_database_url: str
) -> None:
    application = written(tmp_path, conftest=CONFTEST, shop=SHOP, test_shop=TESTS)
    ran = pytest_of(application, "-W", "default", JOBDECK_TEST_DATABASE_URL=empty_database_url, JOBDECK_SCHEMA="jobs")
    assert "2 failed, 2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert 'raise LookupError("there is nothing to ship")' in ran.stdout
    assert "shop.py:8: LookupError" in ran.stdout
    assert "E       AssertionError: Expected at least 1 of ship, and found 0." in ran.stdout
    assert "assertions.py" not in ran.stdout
    assert made_databases(postgres) == 0
    with Connection.connect(empty_database_url) as conn:
        assert conn.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named_in_a_sentence(tmp_path: Path) -> None:
    application = written(tmp_path, conftest=CONFTEST, shop=SHOP, test_shop=TESTS)
    ran = pytest_of(application, JOBDECK_TEST_DATABASE_URL="postgresql://ada:hidden@127.0.0.1:1/x")
    assert "4 errors" in ran.stdout
    assert "The Postgres for the tests at 127.0.0.1:1/x does not answer (" in ran.stdout
    assert "Check JOBDECK_TEST_DATABASE_URL." in ran.stdout
    assert "throwaway.py" not in ran.stdout
    assert "hidden" not in ran.stdout


@pytest.mark.slow
def test_a_role_that_may_not_create_databases_is_named(tmp_path: Path, postgres: PostgresServer) -> None:
    application = written(tmp_path, conftest=CONFTEST, shop=SHOP, test_shop=TESTS)
    role = f"tester_{os.getpid()}"
    with postgres.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            ran = pytest_of(application, JOBDECK_TEST_DATABASE_URL=postgres.url(role=role))
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert f"The role {role} may not create a database for the tests at local/postgres. Give it CREATEDB" in ran.stdout


OWN_SERVER = """
import pathlib

pytest_plugins = ["jobdeck.testing.fixtures"]


def test_it_has_a_server_of_its_own(jobdeck_server, jobdeck_connection):
    pathlib.Path("address").write_text(jobdeck_server)
    assert jobdeck_connection.execute("select count(*) from job_queue").fetchone() == (0,)
    assert jobdeck_connection.execute("show fsync").fetchone() == ("off",)
    if pathlib.Path("wait").exists():
        input()
"""


def server_folder(application: Path) -> Path:
    """The temporary folder of the server that a test run started."""
    socket = Path(str(conninfo_to_dict((application / "address").read_text())["host"]))
    return next(folder for folder in socket.parents if folder.name.startswith("jobdeck-test-"))


@pytest.mark.slow
def test_without_an_address_the_test_run_has_a_server_that_ends_with_it(tmp_path: Path) -> None:
    ran = pytest_of(written(tmp_path, test_own=OWN_SERVER))
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert not server_folder(tmp_path).exists()


ELSEWHERE = {
    "PGHOSTADDR": "127.0.0.1", "PGSERVICE": "production", "PGOPTIONS": "-c search_path=elsewhere",
    "PGREQUIREAUTH": "scram-sha-256", "PGTARGETSESSIONATTRS": "standby", "PGCHANNELBINDING": "require",
    "PGSSLNEGOTIATION": "direct", "PGGSSENCMODE": "require", "PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "ada",
    "PGDATABASE": "production", "PGSSLMODE": "verify-full", "PGPASSWORD": "hidden",
}  # fmt: skip
"""The environment of a developer whose shell leads to another server."""
ASKED = """
import os


def test_the_session_is_as_on_any_machine(jobdeck_connection):
    assert jobdeck_connection.execute("show search_path").fetchone() == ('"$user", public',)
    assert os.environ.get("PGHOSTADDR") is None
    assert os.environ["PGPASSWORD"] == "hidden"
"""
GIVEN_SERVER = """
pytest_plugins = ["jobdeck.testing.fixtures"]


def test_it_is_reached(jobdeck_connection):
    assert jobdeck_connection.execute("select count(*) from job_queue").fetchone() == (0,)
"""


@pytest.mark.slow
def test_the_environment_of_a_developer_sends_a_test_run_to_no_other_server(tmp_path: Path) -> None:
    ran = pytest_of(written(tmp_path, test_own=OWN_SERVER + ASKED), **ELSEWHERE)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert not server_folder(tmp_path).exists()


@pytest.mark.slow
def test_the_host_of_a_given_address_is_the_one_that_is_meant(tmp_path: Path, postgres: PostgresServer) -> None:
    given = {"JOBDECK_TEST_DATABASE_URL": postgres.url(), "PGHOSTADDR": "192.0.2.1"}
    ran = pytest_of(written(tmp_path, test_given=GIVEN_SERVER), **given)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_killed_test_run_leaves_no_server(tmp_path: Path) -> None:
    application = written(tmp_path, test_own=OWN_SERVER)
    (application / "wait").touch()
    with subprocess.Popen(
        command("-s"), cwd=application, env=environ(application, {}), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as run:
        until(lambda: (application / "address").exists() and (application / "address").read_text(), "the test run")
        folder = server_folder(application)
        server = int((folder / "state" / "data" / "postmaster.pid").read_text().splitlines()[0])
        run.kill()
    until(lambda: not folder.exists(), "the end of the server's folder")
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


@pytest.mark.slow
def test_only_the_fixtures_need_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import jobdeck.testing\n"
        "assert jobdeck.testing.run_job and '_pytest' not in sys.modules\n"
        "import jobdeck.testing.fixtures"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1] == (
        "jobdeck.core.errors.ConfigurationError: The fixtures of jobdeck.testing need pytest, which is not installed. "
        "Install it: pip install pytest."
    )


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("postgresql://ada:p%40ss@db.example.org:5433/app?sslmode=require",
         "postgresql://ada:p%40ss@db.example.org:5433/new?sslmode=require"),
        ("postgres://db.example.org", "postgres://db.example.org/new"),
        ("postgresql://ada@/app?host=%2Ftmp%2Fx&port=5432", "postgresql://ada@/new?host=%2Ftmp%2Fx&port=5432"),
        ("postgresql:///app?host=%2Ftmp", "postgresql:///new?host=%2Ftmp"),
        ("postgresql://db.example.org/?dbname=app", "host=db.example.org dbname=new"),
        ("postgresql://db.example.org/app?pgbouncer=true", "host=db.example.org dbname=new"),
        ("host=/tmp dbname=app password='a b'", "host=/tmp dbname=new password='a b'"),
    ],
)  # fmt: skip
def test_the_address_of_a_new_database_differs_in_its_name_alone(server: str, address: str) -> None:
    made = address_of(server, "new")
    assert conninfo_to_dict(made) == conninfo_to_dict(address)
    assert made.startswith("postgres") == address.startswith("postgres")
